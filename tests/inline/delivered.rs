//! What arrives where when all is well.

use std::time::Duration;

use support::endpoint::{Action, Endpoint};
use support::{Message, Site, fields, received_as_sent};

use super::{BILLING, SALES, STRANGER, SUPPORT, delivered, message, on, scripted, site, submit, taken};

#[test]
fn a_message_becomes_a_ticket_before_its_client_has_the_answer_and_nothing_stays() {
    let site = site("", "always_bcc = someone@other.example\n");
    let message = site.signer.sign(&Message::new("ann@customer.example", SUPPORT, "Order 4711").octets());
    let reply = site.postfix.submit_as(&Site::customer(), "ann@customer.example", &[SUPPORT], &message);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.daemon.log());
    let tickets = site.desk.tickets();
    assert_eq!(tickets.len(), 1, "the answer comes after the ticket");
    let received = &tickets[0].messages()[0];
    assert!(received_as_sent(received, &message), "{}", String::from_utf8_lossy(received));
    let verdict = String::from_utf8(fields(received, "X-Deskmilter-Sender-Auth").concat()).unwrap();
    assert!(verdict.starts_with("X-Deskmilter-Sender-Auth: pass; reason=dmarc; dmarc=pass"), "{verdict}");
    assert!(!verdict.contains("mac="), "{verdict}");
    let trace = String::from_utf8(fields(received, "Received").concat()).unwrap();
    assert!(trace.starts_with("Received: from mail.customer.example ([192.0.2.10])"), "{trace}");
    assert!(trace.contains("by mx.acme.example (deskmilter connector=acme)") && trace.contains("with ESMTP id "));
    assert_eq!(fields(received, "Authentication-Results").len(), 1);

    // The archive has its copy, the support mailbox none.
    site.postfix.wait_for_mail("someone@other.example", 1);
    site.postfix.wait_for_empty_queue();
    assert_eq!(delivered(&site, SUPPORT), 0);
    let line = site.daemon.wait_for_log("relay decision=relayed");
    for part in ["connector=acme", "note=inline", "credential=acme.example", "remote=localhost", "reply=\"250"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn two_support_addresses_make_one_ticket_and_one_given_twice_too() {
    let site = site("", "recipient_delimiter = +\n");
    for to in [&[SUPPORT, BILLING][..], &[SUPPORT, SUPPORT], &["Support+4711@ACME.example"]] {
        let before = site.desk.tickets().len();
        assert_eq!(submit(&site, to, &message("one")).code, 250, "{}", site.daemon.log());
        assert_eq!(site.desk.tickets().len(), before + 1, "{to:?}");
    }
    site.postfix.wait_for_empty_queue();
    assert_eq!((delivered(&site, SUPPORT), delivered(&site, BILLING)), (0, 0));
}

#[test]
fn with_keep_copy_the_mailbox_has_it_too() {
    let site = site("keep_copy = true", "");
    let message = message("kept");
    assert_eq!(submit(&site, &[SUPPORT], &message).code, 250);
    assert_eq!(site.desk.tickets().len(), 1);
    let kept = site.postfix.wait_for_mail(SUPPORT, 1);
    assert!(received_as_sent(&kept[0], &message));
    site.postfix.wait_for_empty_queue();
    assert_eq!(site.desk.tickets().len(), 1);
}

#[test]
fn twenty_five_mebibytes_arrive_as_they_were_sent() {
    let (site, _runtime, desk) = scripted("", "message_size_limit = 60000000\n", on("NOTHING", Action::Hang));
    let line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n";
    let message = Message::new(STRANGER, SUPPORT, "large").body(&line.repeat((25 << 20) / line.len())).octets();
    let reply = submit(&site, &[SUPPORT], &message);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.daemon.log());
    assert!(desk.see(|record| received_as_sent(&record.taken[0].content, &message)));
}

#[test]
fn a_slow_endpoint_is_waited_for_longer_than_the_mta_would_wait_without_a_word() {
    let slow = on("DOT", Action::Late(Duration::from_secs(16)));
    let milter = "smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail, content_timeout=12s }\n";
    let (site, _runtime, desk) = scripted("", milter, slow);
    let reply = submit(&site, &[SUPPORT], &message("patience"));
    assert_eq!(reply.code, 250, "{reply}\n{}", site.postfix.log());
    assert_eq!(taken(&desk), 1);
}

#[test]
fn ordinary_mail_is_left_alone_and_no_more_than_the_limit_are_relayed_at_a_time() {
    let mut site = site("", "");
    let configuration = std::fs::read_to_string(site.configuration()).unwrap();
    std::fs::write(site.configuration(), format!("[limits]\ninline_relays = 1\n{configuration}")).unwrap();
    site.set_password(super::PASSWORD);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let desk = runtime.block_on(Endpoint::start(on("DOT 1", Action::Late(Duration::from_secs(6)))));
    site.point_at(desk.port, &desk.ca);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| submit(&site, &[SUPPORT], &message("first")));
        site.postfix.wait_for("the first message at the endpoint", |_| desk.see(|record| record.read) == 1);
        assert_eq!(submit(&site, &[SALES], &message("for people")).code, 250);
        let second = message("second");
        let reply = submit(&site, &[SUPPORT], &second);
        assert!(reply.code == 451 && reply.text.contains("4.3.2"), "{reply}");
        assert_eq!(first.join().unwrap().code, 250);
        assert_eq!(submit(&site, &[SUPPORT], &second).code, 250);
    });
    assert_eq!(taken(&desk), 2);
    site.postfix.wait_for_mail(SALES, 1);
}
