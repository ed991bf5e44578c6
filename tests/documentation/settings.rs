//! Settings of Postfix, of Exim and of our own that the documents show are known to the programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use deskmilter::config::Config;
use support::{PrivatePostfix, exim_program};

use super::{blocks, root};

/// What a document's block is, by its first remark or by what only one program has.
fn is_for(text: &str, file: &str) -> bool {
    text.lines().next().is_some_and(|line| line.starts_with('#') && line.contains(file))
}

/// What Postfix itself says against settings in main.cf and services in master.cf.
fn postfix_objects(main: &str, master: &str) -> String {
    let postfix = PrivatePostfix::new(&["support@acme.example"], main, false);
    postfix.add_service(master);
    let ask = |option: &str| {
        let output = postfix.command("postconf").arg(option).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // All settings, those of services, and the services: unknown names are warned of.
    ["-n", "-P", "-M"].map(ask).concat()
}

#[test]
fn every_setting_of_postfix_in_the_documents_is_one_that_postfix_knows() {
    let mut found = 0;
    let examples = ["main.cf.example", "desk.main.cf.example", "master.cf.desk"].map(|name| {
        let path = root().join("postfix").join(name);
        (path.display().to_string(), name.contains("master"), fs::read_to_string(&path).unwrap())
    });
    let shown = blocks().into_iter().filter(|block| block.language.is_empty()).filter_map(|block| {
        let (main, master) = (is_for(&block.text, "main.cf"), is_for(&block.text, "master.cf"));
        (main || master).then_some((block.document, master, block.text))
    });
    for (place, is_master, text) in shown.chain(examples) {
        found += 1;
        // A block of two files shows the second one, a table, after an empty line and its name.
        let text = text.split("\n\n# /etc/postfix/").next().unwrap_or_default();
        let objections = if is_master { postfix_objects("", text) } else { postfix_objects(text, "") };
        assert_eq!(objections, "", "{place}:\n{text}");
    }
    assert!(found >= 8, "{found} blocks found");
    assert!(postfix_objects("smtpd_miltres = x", "").contains("smtpd_miltres"));
    assert!(!postfix_objects("", "587 inet n - y - - smtpd\n  -o smtpd_milter=x").is_empty());
}

/// What Exim says against a configuration.
fn exim_objects(folder: &Path, text: &str) -> String {
    let file = folder.join("exim.conf");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let output = Command::new(exim_program()).arg("-C").arg(&file).arg("-bV").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { String::new() } else { String::from_utf8_lossy(&said).into_owned() }
}

#[test]
fn every_authenticator_for_exim_in_the_documents_is_one_that_exim_takes() {
    let folder = support::folder("documentation");
    let mut found = 0;
    for block in blocks().iter().filter(|block| block.text.contains("driver = dovecot")) {
        found += 1;
        let objections = exim_objects(folder.path(), &format!("begin authenticators\n{}", block.text));
        assert_eq!(objections, "", "{}", block.document);
    }
    assert!(found > 0);
    assert!(!exim_objects(folder.path(), "begin authenticators\nx:\n  driver = dovecott\n").is_empty());
}

#[test]
fn every_fragment_of_our_own_configuration_in_the_documents_has_keys_that_are_known() {
    let wrong = |text: &str| {
        // What belongs to a connector needs one before it.
        let head = text.split("[[connector]]").next().unwrap_or_default();
        let bare = head.contains("[connector.") || head.contains("[[connector.");
        let connector =
            "[[connector]]\nname = \"acme\"\ndomain = \"acme.example\"\naddresses = [\"support@acme.example\"]\n";
        let whole = if bare { format!("{connector}{text}") } else { text.to_owned() };
        let problems =
            Config::parse(&whole, Path::new("/nonexistent/deskmilter.toml")).err().map(|all| all.to_string());
        let of_words = |line: &&str| line.contains("unknown key") || line.contains("TOML") || line.contains("expected");
        problems
            .into_iter()
            .flat_map(|all| all.lines().filter(of_words).map(str::to_owned).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    let mut found = 0;
    for block in blocks().iter().filter(|block| block.language == "toml") {
        found += 1;
        let problems = wrong(&block.text);
        assert!(problems.is_empty(), "{}: {problems:#?}\n{}", block.document, block.text);
    }
    assert!(found > 15, "{found} fragments found");
    assert!(!wrong("[connector.submission]\nlogin = []\nlogins = []\n").is_empty());
    assert!(!wrong("[milter]\nlisten = unix\n").is_empty());
}
