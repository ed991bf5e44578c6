//! The daemon and the signals that it is sent.

#![cfg(test)]

use std::time::{Duration, Instant};

use support::{Message, Site, SmtpSession};

#[test]
fn a_hangup_ends_nothing_and_a_term_ends_it_cleanly_with_its_sockets_removed() {
    let mut site = Site::start();
    site.daemon.reload();
    site.daemon.wait_for_log("configuration reloaded");
    let message = Message::new("a@plain.example", "support@acme.example", "still there").octets();
    assert_eq!(site.postfix.submit("a@plain.example", &["support@acme.example"], &message).code, 250);
    site.desk.wait_for_tickets(1);
    assert!(site.daemon.stop().success());
    let sockets = site.postfix.queue_directory().join("deskmilter");
    assert!(!sockets.join("milter.sock").exists() && !sockets.join("transport/acme.sock").exists());
}

#[test]
fn the_process_cannot_be_dumped_and_may_have_all_descriptors_that_the_system_grants() {
    let mut site = Site::start();
    let pid = site.daemon.pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let row = |name: &str| -> Vec<String> {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line.split("  ").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(row("Max core file size")[1..3], ["0", "0"]);
    let files = row("Max open files");
    assert_eq!(files[1], files[2], "{limits}");
}

const SUPPORT: &str = "support@acme.example";

/// A message that is with an endpoint which takes its time to answer.
fn relaying(slow: &str) -> Site {
    let mut site = Site::start();
    site.desk.restart_with(&["--fault", slow]);
    let message = Message::new("a@plain.example", SUPPORT, "under way").octets();
    assert_eq!(site.postfix.submit("a@plain.example", &[SUPPORT], &message).code, 250);
    site.daemon.wait_for_log("judged");
    let active = |postfix: &support::PrivatePostfix| postfix.queue().iter().any(|queued| queued.queue == "active");
    site.postfix.wait_for("a message under way", active);
    std::thread::sleep(Duration::from_millis(500));
    site
}

#[test]
fn a_message_on_its_way_to_the_endpoint_is_finished_before_the_end() {
    let mut site = relaying("slow:2");
    assert!(site.daemon.stop().success());
    let log = site.daemon.log();
    assert!(log.contains("decision=relayed") && log.contains("stopped") && !log.contains("given up"), "{log}");
    site.postfix.wait_for("its end", |postfix| postfix.log().contains("status=sent"));
    assert_eq!(site.desk.count_tickets(), 1);
}

#[test]
fn a_message_that_is_being_received_is_judged_before_the_end() {
    let mut site = Site::start();
    let mut session = SmtpSession::connect(site.postfix.address());
    session.expect(250, "EHLO localhost");
    session.expect(250, "MAIL FROM:<a@plain.example>");
    session.expect(250, &format!("RCPT TO:<{SUPPORT}>"));
    session.expect(354, "DATA");
    site.daemon.terminate();
    site.daemon.wait_for_log("stopping");
    let reply = session.data(&Message::new("a@plain.example", SUPPORT, "last").octets());
    assert_eq!(reply.code, 250, "{reply}");
    assert!(site.daemon.wait().success());
    assert!(site.daemon.log().contains("judged decision=tagged"), "{}", site.daemon.log());
}

#[test]
fn told_twice_it_ends_at_once_and_the_message_stays_with_the_mta() {
    let mut site = relaying("slow:20");
    site.daemon.terminate();
    site.daemon.wait_for_log("stopping");
    let begun = Instant::now();
    assert!(site.daemon.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(site.daemon.log().contains("told again"), "{}", site.daemon.log());
    site.desk.restart_with(&[]);
    site.daemon.resume();
    site.postfix.flush();
    site.desk.wait_for_tickets(1);
    site.postfix.wait_for_empty_queue();
    assert!(!site.postfix.log().contains("status=bounced"));
}
