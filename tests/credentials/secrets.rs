//! Passwords are nowhere but where they are shown.

use std::path::Path;

use support::SaslReply;

use crate::both::Place;
use crate::desk::{Desk, issued};

const CLIENT: &str = "198.51.100.7";

/// The command lines of all processes and what they have in their environments, as far as we may look.
fn processes() -> String {
    let read = |path: &Path| std::fs::read(path).map(|octets| String::from_utf8_lossy(&octets).into_owned());
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(|entry| entry.path());
    processes.flat_map(|process| [read(&process.join("cmdline")), read(&process.join("environ"))]).flatten().collect()
}

fn no_trace_of_a_password_is_left(place: Place) {
    let mut desk = Desk::start(&place.url());
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
    let status = std::fs::read_to_string(format!("/proc/{}/status", desk.daemon.pid())).unwrap();
    assert!(status.contains("Name:"));
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

#[test]
fn the_memory_of_the_daemon_is_not_for_others() {
    let place = Place::sqlite();
    let mut desk = Desk::start(&place.url());
    let pid = desk.daemon.pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // An undumpable process's files in /proc belong to root, whoever it runs as, and nobody of its own user may open its memory.
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "head", "-c1"])
        .arg(format!("/proc/{pid}/mem"))
        .output()
        .unwrap();
    assert!(!output.status.success());
}
