//! Passwords are nowhere but where they are shown.

use std::path::Path;

use support::{Message, SaslReply};

use crate::both::Place;
use crate::desk::{Desk, issued};
use crate::sides::{Company, DeskSide};

const CLIENT: &str = "198.51.100.7";

/// The command lines of all processes and what they have in their environments, as far as we may look.
fn processes() -> String {
    let read = |path: &Path| std::fs::read(path).map(|octets| String::from_utf8_lossy(&octets).into_owned());
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(|entry| entry.path());
    processes.flat_map(|process| [read(&process.join("cmdline")), read(&process.join("environ"))]).flatten().collect()
}

fn no_trace_of_a_password_is_left(place: Place) {
    let desk = Desk::start(&place.url());
    let set = desk.issue("--domain acme.example --address support@acme.example --user support");
    let second = issued(&desk.json("rotate --domain acme.example --address support@acme.example"));
    let guess = "planted-guess-4711";
    let mut client = desk.client();
    for password in [&set.password, &second.password] {
        assert_eq!(client.plain("support", password, CLIENT), SaslReply::Ok("support".to_owned()));
        assert_eq!(client.login("support", password, CLIENT), SaslReply::Ok("support".to_owned()));
        // Typed where the name belongs, sent in the clear, and in a line that is none.
        assert!(matches!(client.plain(password, password, "192.0.2.9"), SaslReply::Fail(_)));
        client.auth(&format!("PLAIN\trip={CLIENT}\tresp={password}"));
        let mut other = desk.client();
        other.write(&format!("{password}\n"));
        while other.line().is_some() {}
        let mut other = desk.client();
        other.write(&format!("AUTH\t{password}\tPLAIN\tsecured\n"));
        while other.line().is_some() {}
    }
    assert!(matches!(client.plain("support", guess, "192.0.2.10"), SaslReply::Fail(_)));
    let running = processes();
    let told: String = [
        "list",
        "list --all",
        "log",
        "rotate --domain acme.example --address support@acme.example",
        "revoke --user support",
    ]
    .into_iter()
    .map(|words| desk.run(words))
    .map(|output| format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    .collect();
    let store = String::from_utf8_lossy(&place.content()).into_owned();
    let state = desk.configuration().with_file_name("state");
    let state: String = std::fs::read_dir(state)
        .unwrap()
        .filter_map(|file| std::fs::read(file.unwrap().path()).ok())
        .map(|octets| String::from_utf8_lossy(&octets).into_owned())
        .collect();
    for secret in [&set.password, &second.password, guess] {
        for (what, text) in [
            ("log", desk.daemon.log()),
            ("processes", running.clone()),
            ("output", told.clone()),
            ("store", store.clone()),
            ("state directory", state.clone()),
        ] {
            assert!(!text.contains(secret), "{secret} in {what}");
        }
    }
    assert!(store.contains("$argon2id$"));
}

#[test]
fn no_trace_of_a_password_is_left_with_a_file_of_sqlite() {
    no_trace_of_a_password_is_left(Place::sqlite());
}

#[test]
fn no_trace_of_a_password_is_left_with_a_postgresql() {
    no_trace_of_a_password_is_left(Place::postgres());
}

/// Every octet of the files in a folder and below, but for those that hold a secret by design.
fn content(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let secret = |path: &Path| path.extension().is_some_and(|end| end == "secret" || end == "password" || end == "key");
    let texts = entries.filter(|path| !secret(path)).map(|path| match path.symlink_metadata() {
        Ok(facts) if facts.is_dir() => content(&path),
        Ok(facts) if facts.is_file() => String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned(),
        _ => String::new(),
    });
    texts.collect::<Vec<_>>().join("\n")
}

fn no_secret_is_left_by_mail_that_goes_round(place: Place) {
    let mut company = Company::prepare();
    let host = company.host();
    let desk = DeskSide::start(&place.url(), &host, "");
    let (set, guess) = (desk.issue("--domain acme.example"), "planted-guess-0815");
    company.start(&desk, &set);
    let from_jane = |subject| Message::new("Jane <jane@customer.example>", "support@acme.example", subject);
    let first = from_jane("Order");
    company.write_as_jane(&first.octets());
    desk.postfix.wait_for_mail("support@acme.example", 1);
    let note = Message::new("Acme Support <support@acme.example>", "Jane <jane@customer.example>", "Re: Order");
    desk.notify(&note.field("In-Reply-To", first.id()).octets());
    company.customer.wait_for(1, || company.logs());
    // Wrong ones, by hand, and in the company's file; and one for another domain.
    assert_eq!(desk.connect_over_tls("192.0.2.1").login(&set.user, guess).code, 535);
    assert_eq!(desk.connect_over_tls("192.0.2.2").login(guess, &set.password).code, 535);
    desk.connect("192.0.2.3").login(&set.user, guess);
    let reply = desk.login(&set).send("jane@customer.example", &["help@other.example"], &first.octets());
    assert_eq!(reply.code, 550);
    company.set_password(guess);
    company.write_as_jane(&from_jane("Waits").octets());
    company.postfix.wait_for("the refused login", |postfix| postfix.log().contains("status=deferred"));
    let running = processes();
    let kept = String::from_utf8_lossy(&place.content()).into_owned();
    let queue = format!("{:?}", company.postfix.queue());
    let places = [
        ("the desk's logs", desk.logs()),
        ("the company's logs", company.logs()),
        ("the processes", running),
        ("the store", kept),
        ("the queue", queue),
        ("the desk's files", content(desk.configuration().parent().unwrap())),
        ("the desk's mail", content(&desk.postfix.queue_directory().with_file_name("mail"))),
        ("the company's files", content(company.folder())),
        ("the company's spool", content(&company.postfix.queue_directory())),
    ];
    for secret in [set.password.as_str(), guess, host.password.as_str()] {
        for (what, text) in &places {
            assert!(!text.contains(secret), "{secret} in {what}");
        }
    }
    assert!(places.iter().all(|(_, text)| !text.is_empty()), "each was really looked at");
}

#[test]
fn no_secret_is_left_by_mail_that_goes_round_with_a_file_of_sqlite() {
    no_secret_is_left_by_mail_that_goes_round(Place::sqlite());
}

#[test]
fn no_secret_is_left_by_mail_that_goes_round_with_a_postgresql() {
    no_secret_is_left_by_mail_that_goes_round(Place::postgres());
}

#[test]
fn root_issues_into_files_of_the_daemons_user_and_nobody_else_looks_into_its_memory() {
    use std::os::unix::fs::MetadataExt;
    let mut desk = Desk::start_as("nobody");
    let set = desk.issue("--domain acme.example");
    assert_eq!(desk.client().plain(&set.user, &set.password, CLIENT), SaslReply::Ok(set.user.clone()));
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    for entry in std::fs::read_dir(desk.configuration().with_file_name("state")).unwrap() {
        let entry = entry.unwrap();
        let facts = entry.metadata().unwrap();
        assert_eq!((facts.uid(), facts.mode() & 0o077), (nobody, 0), "{:?}", entry.path());
    }
    let pid = desk.daemon.pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("Uid:\t{nobody}\t{nobody}")), "{status}");
    // What an undumpable process has in /proc belongs to root, whoever it runs as.
    assert_eq!(std::fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid(), 0);
    // Not even a process of the same user gets at it.
    let mut other = std::process::Command::new("setpriv");
    other.args(["--reuid=nobody", "--clear-groups", "cat"]).arg(format!("/proc/{pid}/environ"));
    let looked = other.output().unwrap();
    let said = String::from_utf8_lossy(&looked.stderr).into_owned();
    assert!(!looked.status.success() && said.contains("Permission denied"), "{said}");
    // A copy that root put back is not ours to read: that is told with what helps.
    let file = desk.configuration().with_file_name("state").join("deskmilter.db");
    std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    desk.daemon
        .wait_for_log(&format!("it belongs to uid 0, and deskmilter runs as uid {nobody}; chown it to {nobody}"));
    assert!(desk.daemon.stop().success());
}
