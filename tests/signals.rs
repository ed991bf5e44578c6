//! The daemon and the signals that it is sent.

#![cfg(test)]

use support::{Message, Site};

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
