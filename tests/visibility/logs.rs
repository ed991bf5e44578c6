//! The forms of the log, on a real Postfix.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Message, Numbers, Site, SmtpSession, deskmilter};

use crate::endpoint::Watched;

/// What a stranger says to put words into our mouth.
const HELO: &str = "x\u{2028}y";

fn with_format(format: &str) -> Watched {
    let mut watched = Watched::start();
    let text = std::fs::read_to_string(watched.site.configuration()).unwrap();
    std::fs::write(watched.site.configuration(), format!("{text}\n[log]\nformat = \"{format}\"\n")).unwrap();
    watched.site.daemon.stop();
    std::fs::write(watched.site.daemon.log_file(), "").unwrap();
    watched.site.daemon.resume();
    support::wait_until(
        "metrics",
        || watched.site.daemon.log(),
        || std::net::TcpStream::connect(watched.address).is_ok(),
    );
    watched
}

/// A hostile message and an honest one; the honest one's Message-ID.
fn send_both(site: &Site) -> String {
    let octets = b"From: jane@customer.example\r\nTo: support@acme.example\r\n\
        Message-ID: <evil\x0b\x1b[2J\r\n 2026-11-22T08:00:00Z INFO 4FAKE1: relay decision=relayed\xe2\x80\xa8\xff\"=\\@x>\r\n\r\nx\r\n";
    let mut session = SmtpSession::connect(site.postfix.address());
    session.write(format!("EHLO {HELO}\r\n").as_bytes());
    session.reply();
    session.send("jane@customer.example", &["support@acme.example"], octets);
    let message = Message::new("jane@customer.example", "support@acme.example", "honest");
    site.postfix.submit_as(&Site::customer(), "jane@customer.example", &["support@acme.example"], &message.octets());
    site.desk.wait_for_tickets(2);
    site.postfix.wait_for_empty_queue();
    message.id().to_owned()
}

#[test]
fn no_header_or_greeting_of_a_stranger_breaks_a_line_in_any_form() {
    for format in ["text", "logfmt", "json"] {
        let watched = with_format(format);
        let id = send_both(&watched.site);
        let log = watched.site.daemon.log();
        assert!(!log.chars().any(|c| c.is_control() && c != '\n' || c == '\u{2028}'), "{log:?}");
        for line in log.lines() {
            let begins = match format {
                "text" => line.get(19..21) == Some("Z ") && line.starts_with("20"),
                "logfmt" => line.starts_with("time=20"),
                _ => serde_json::from_str::<Value>(line).is_ok_and(|object| object["msg"].is_string()),
            };
            assert!(begins, "{format}: {line}");
        }
        // Lines and numbers are the same, whatever the form.
        let count = watched.numbers().sum("deskmilter_log_lines_total", &[]);
        assert_eq!(count, log.lines().count() as f64, "{log}");
        let mut command = Command::new(deskmilter());
        command.args(["explain", "--log"]).arg(watched.site.postfix.log_file());
        let output = command.arg("--log").arg(watched.site.daemon.log_file()).arg(&id).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains("sender authenticated") && text.contains("support@acme.example: relayed"),
            "{format}: {text}"
        );
        let mut command = Command::new(deskmilter());
        command.args(["audit", "--since", "1h", "--address", "support@acme.example", "--postfix-log"]);
        command.arg(watched.site.postfix.log_file()).arg("--log").arg(watched.site.daemon.log_file());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("2  relayed to the ticket system"), "{format}: {text}");
    }
}

#[test]
fn a_host_without_a_journal_is_told_so() {
    let socket = Path::new("/run/systemd/journal/socket");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deskmilter.toml");
    let text = format!(
        "[daemon]\nhostname = \"mx.acme.example\"\nstate_directory = \"state\"\n[log]\ntarget = \"journald\"\n[milter]\nlisten = [\"unix:{}/m.sock\"]\n",
        folder.path().display()
    );
    std::fs::write(&file, &text).unwrap();
    let there = UnixDatagram::unbound().unwrap().connect(socket).is_ok();
    if !there {
        let output = Command::new(deskmilter()).arg("serve").arg("-c").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(said.contains("/run/systemd/journal/socket") && said.contains("log.target = \"syslog\""), "{said}");
    }
    std::fs::write(&file, text.replace("target = \"journald\"", "target = \"journald\"\nformat = \"json\"")).unwrap();
    let output = Command::new(deskmilter()).arg("check").arg("-c").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(78) && said.contains("log.format"), "{said}");
}

#[test]
fn counting_goes_on_when_the_log_says_errors_alone() {
    let mut watched = Watched::start();
    let text = std::fs::read_to_string(watched.site.configuration()).unwrap();
    std::fs::write(watched.site.configuration(), format!("{text}\n[log]\nlevel = \"error\"\n")).unwrap();
    watched.site.daemon.stop();
    watched.site.daemon.resume();
    support::wait_until(
        "metrics",
        || watched.site.daemon.log(),
        || std::net::TcpStream::connect(watched.address).is_ok(),
    );
    let before = watched.site.daemon.log().lines().count();
    let message = Message::new("jane@customer.example", "support@acme.example", "quiet").octets();
    watched.site.postfix.submit("jane@customer.example", &["support@acme.example"], &message);
    watched.site.desk.wait_for_tickets(1);
    watched.site.postfix.wait_for_empty_queue();
    let numbers: Numbers = watched.numbers();
    assert_eq!(numbers.sum("deskmilter_relayed_total", &[("decision", "relayed")]), 1.0);
    assert_eq!(watched.site.daemon.log().lines().count(), before);
}
