//! `deskmilter explain` on the logs of a real Postfix.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::{Message, Site, deskmilter};

fn explain(words: &[&str], logs: &[&Path]) -> (Option<i32>, String) {
    let mut command = Command::new(deskmilter());
    command.arg("explain").args(words);
    logs.iter().for_each(|log| {
        command.arg("--log").arg(log);
    });
    said(command.output().unwrap())
}

fn said(output: Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_message_is_followed_while_its_endpoint_is_down_and_after_by_id_and_message_id_and_from_packed_logs() {
    let mut site = Site::start();
    site.desk.stop();
    let message = Message::new("jane@customer.example", "support@acme.example", "where is it?");
    let reply = site.postfix.submit_as(
        &Site::customer(),
        "jane@customer.example",
        &["support@acme.example"],
        &message.octets(),
    );
    assert_eq!(reply.code, 250, "{reply}");
    site.postfix.wait_for("a deferral", |postfix| postfix.log().contains("status=deferred"));
    let (postfix, own) = (site.postfix.log_file(), site.daemon.log_file().to_owned());
    let logs = [postfix.as_path(), own.as_path()];
    let id = message.id().to_owned();
    let (code, text) = explain(&[&id], &logs);
    assert_eq!(code, Some(0), "{text}");
    for told in [
        "it came to Postfix from mail.customer.example[192.0.2.10]",
        "it is for support addresses of connector acme",
        "sender authenticated",
        "Postfix has queued it",
        "it was put off: 451 4.4.1",
        "support@acme.example: in the queue",
        "to do: the remote server does not answer",
    ] {
        assert!(text.contains(told), "{told} is not in\n{text}");
    }

    site.desk.resume();
    site.postfix.flush();
    site.desk.wait_for_tickets(1);
    site.postfix.wait_for_empty_queue();
    let queue_id = text.split("queue id ").nth(1).and_then(|rest| rest.lines().next()).unwrap().to_owned();
    let (code, text) = explain(&[&queue_id], &logs);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("with the credential acme.example") && text.contains("it was taken: 250 "), "{text}");
    assert!(text.contains("support@acme.example: relayed") && !text.contains("to do:"), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let both = folder.path().join("mail.log");
    std::fs::write(&both, format!("{}{}", site.postfix.log(), site.daemon.log())).unwrap();
    let told = explain(&[&queue_id], &[&both]).1;
    assert!(Command::new("gzip").arg(&both).status().unwrap().success());
    let packed = folder.path().join("mail.log.gz");
    assert_eq!(explain(&[&queue_id], &[&packed]), (Some(0), told));
    let mut piped = Command::new(deskmilter());
    let mut child =
        piped.args(["explain", &queue_id, "--log", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{}{}", site.postfix.log(), site.daemon.log()).as_bytes()).unwrap();
    let (code, text) = said(child.wait_with_output().unwrap());
    assert!(code == Some(0) && text.contains("support@acme.example: relayed"), "{text}");
}

#[test]
fn who_asks_for_what_is_not_there_hears_what_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("mail.log");
    std::fs::write(&log, "2026-11-22T08:00:00+00:00 mx postfix/qmgr[1]: 4XYZ12: removed\n").unwrap();
    let (code, text) = explain(&["4NONE1"], &[&log]);
    assert_eq!(code, Some(1));
    for told in ["4NONE1", "mail.log", "2026-11-22T08:00:00Z", "give deskmilter's log by --log"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let (code, text) = explain(&["4NONE1"], &[Path::new("/nowhere/mail.log")]);
    assert!(code == Some(65) && text.contains("/nowhere/mail.log"), "{code:?} {text}");
    assert_eq!(explain(&[], &[]).0, Some(64));
}
