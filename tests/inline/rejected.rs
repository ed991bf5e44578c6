//! What the endpoint refuses of senders who are not proven goes to a mailbox of the company, out of the queue.

use support::endpoint::{Action, Script};
use support::{Site, fields, received_as_sent};

use super::{SUPPORT, delivered, message, on, scripted, submit, taken};

const BOSS: &str = "boss@acme.example";

fn refusing() -> Script {
    on("DOT", Action::Say("550 5.7.1 \"spam\" is not wanted\r\n"))
}

/// The company's own smtpd, for `rejected_via`.
fn by_transport(script: Script) -> (Site, tokio::runtime::Runtime, support::endpoint::Endpoint) {
    let mut site = Site::start();
    let via = format!("rejected_to = \"{BOSS}\"\nrejected_via = \"{}\"", site.postfix.address());
    let text = std::fs::read_to_string(site.configuration()).unwrap();
    std::fs::write(site.configuration(), format!("{text}\n{via}\n")).unwrap();
    site.set_password(super::PASSWORD);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let desk = runtime.block_on(support::endpoint::Endpoint::start(script));
    site.point_at(desk.port, &desk.ca);
    (site, runtime, desk)
}

#[test]
fn after_the_queue_it_is_handed_to_the_companys_mta_instead_of_a_bounce() {
    let (site, _runtime, desk) = by_transport(refusing());
    let sent = message("refused");
    assert_eq!(submit(&site, &[SUPPORT], &sent).code, 250);
    let got = &site.postfix.wait_for_mail(BOSS, 1)[0];
    assert!(received_as_sent(got, &sent), "{}", String::from_utf8_lossy(got));
    let reason = String::from_utf8(fields(got, "X-Refused-By-Ticket-System").concat()).unwrap();
    assert!(reason.contains("is not wanted"), "{reason}");
    assert!(String::from_utf8_lossy(got).contains("Return-Path: <>"), "{}", String::from_utf8_lossy(got));
    site.postfix.wait_for_empty_queue();
    assert_eq!(taken(&desk), 0);
    let log = site.postfix.log();
    assert!(log.contains("status=sent (250 2.0.0 handed to <boss@acme.example> instead"), "{log}");
    assert!(!log.contains("status=bounced"), "{log}");
}

#[test]
fn while_the_companys_mta_does_not_take_it_it_waits() {
    let (site, _runtime, _desk) = by_transport(refusing());
    // The mailbox refuses: the company's MTA says 4xx to our hand-over.
    site.postfix.configure("smtpd_recipient_restrictions = check_recipient_access inline:{ { boss@acme.example = 450 4.2.1 busy } }, permit_mynetworks, reject");
    site.postfix.reload();
    assert_eq!(submit(&site, &[SUPPORT], &message("refused")).code, 250);
    site.postfix.wait_for("a deferral", |postfix| {
        postfix.queue().iter().any(|queued| queued.recipients.iter().any(|(_, why)| why.contains("not handed to")))
    });
    assert!(site.daemon.log().contains("ERROR"), "{}", site.daemon.log());
    assert_eq!(delivered(&site, BOSS), 0);
    assert!(!site.postfix.log().contains("status=bounced"));
}

#[test]
fn what_comes_back_from_the_mailbox_to_a_support_address_waits_for_somebody_to_look() {
    let (site, _runtime, desk) = by_transport(refusing());
    site.postfix.configure("virtual_alias_maps = inline:{ { boss@acme.example = support@acme.example } }");
    site.postfix.reload();
    assert_eq!(submit(&site, &[SUPPORT], &message("round and round")).code, 250);
    let line = site.daemon.wait_for_log("came back to a support address");
    assert!(line.contains("ERROR"), "{line}");
    site.postfix.wait_for("a deferral", |postfix| {
        postfix.queue().iter().any(|queued| queued.recipients.iter().any(|(_, why)| why.contains("come back")))
    });
    assert_eq!(taken(&desk), 0);
    assert!(!site.postfix.log().contains("status=bounced"));
}

#[test]
fn where_nothing_is_ever_handed_back_a_forged_field_makes_no_loop_wait() {
    let (site, _runtime, desk) = scripted("", "", Script::default());
    let mut forged = b"X-Refused-By-Ticket-System: connector=acme\r\n\
        Received: from x by mx.acme.example (deskmilter connector=acme); Sun, 22 Nov 2026 12:00:00 +0000\r\n"
        .to_vec();
    forged.extend(message("forged"));
    let reply = submit(&site, &[SUPPORT], &forged);
    assert!(reply.code == 554 && reply.text.contains("mail loop"), "{reply}\n{}", site.daemon.log());
    assert_eq!(taken(&desk), 0);
}
