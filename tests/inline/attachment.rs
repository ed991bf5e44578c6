//! What `deskmilter postfix` writes and says where the milter relays.

use std::fs;
use std::process::{Command, Output};

use support::Site;

use super::{SUPPORT, message, site, submit};

/// A company whose configuration has no `[transport]`: the milter line must be enough.
fn milter_alone() -> Site {
    let site = site("", "");
    let text = fs::read_to_string(site.configuration()).unwrap();
    let (begin, rest) = text.split_once("[transport]").unwrap();
    let (_, end) = rest.split_once("[authentication]").unwrap();
    fs::write(site.configuration(), format!("{begin}[authentication]{end}")).unwrap();
    site
}

fn postfix(site: &Site, action: &str) -> (Output, String) {
    let mut command = Command::new(support::deskmilter());
    command.args(["postfix", action, "-c"]).arg(site.configuration());
    let output = command.arg("--config-directory").arg(site.postfix.configuration()).output().unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    (output, String::from_utf8(said).unwrap())
}

#[test]
fn what_apply_writes_is_the_milter_line_alone_and_it_works() {
    let mut site = milter_alone();
    site.postfix.configure("smtpd_milters =\nnon_smtpd_milters =\n");
    let (output, said) = postfix(&site, "--apply");
    assert!(output.status.success(), "{said}");
    assert!(said.contains("default_action=tempfail") && said.contains("content_timeout=150s"), "{said}");
    assert!(!said.contains("+transport_maps") && !said.contains("deskmilter_transport"), "{said}");
    site.postfix.stop();
    site.postfix.resume();
    let (output, said) = postfix(&site, "--check");
    assert!(output.status.success() && !said.contains("fail "), "{said}");
    assert!(said.contains("not needed: the milter relays 2 addresses"), "{said}");
    assert_eq!(submit(&site, &[SUPPORT], &message("by the milter line")).code, 250);
    assert_eq!(site.desk.tickets().len(), 1);
}

#[test]
fn each_thing_that_is_in_the_way_of_inline_relay_is_named() {
    let entry = |action: &str| format!("{{ unix:deskmilter/milter.sock, default_action={action} }}");
    let ours = entry("tempfail");
    for (main_cf, check, words) in [
        (format!("smtpd_milters = {}\n", entry("accept")), "default_action", "default_action=tempfail"),
        (format!("smtpd_milters = {ours}, inet:127.0.0.1:1\n"), "last in order", "move deskmilter's entry to the end"),
        ("content_filter = smtp:[127.0.0.1]:10024\n".to_owned(), "no filter after inline relay", "relayed already"),
    ] {
        let site = milter_alone();
        site.postfix.configure(&main_cf);
        let (output, said) = postfix(&site, "--check");
        assert_eq!(output.status.code(), Some(1), "{said}");
        let line =
            said.lines().find(|line| line.starts_with(&format!("fail  {check}:"))).unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn a_copy_that_stays_must_not_lead_to_the_transport() {
    let site = site("keep_copy = true", "");
    site.postfix
        .configure("transport_maps = inline:{ { support@acme.example = lmtp:unix:deskmilter/transport/acme.sock } }");
    let (output, said) = postfix(&site, "--check");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("each message would make two tickets"), "{said}");
}
