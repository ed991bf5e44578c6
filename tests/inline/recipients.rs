//! One transaction takes one route; each recipient has one fate.

use support::Message;
use support::endpoint::{Action, Rule, Script};

use super::{BILLING, SALES, STRANGER, SUPPORT, connect, delivered, message, on, scripted, site, submit, taken};

#[test]
fn a_recipient_of_another_route_is_put_off_to_the_next_transaction_whichever_comes_first() {
    let site = site("", "");
    for (first, other) in [(SUPPORT, SALES), (SALES, SUPPORT)] {
        let message = message("for both");
        let mut session = connect(site.postfix.address());
        for to in [first, other] {
            session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
            session.expect(250, &format!("RCPT TO:<{to}>"));
            if to == first {
                let reply = session.expect(452, &format!("RCPT TO:<{other}>"));
                assert!(reply.text.starts_with("4.5.3 "), "{reply}");
            }
            session.expect(354, "DATA");
            let reply = session.data(&message);
            assert_eq!(reply.code, 250, "{reply}");
        }
    }
    site.postfix.wait_for_empty_queue();
    assert_eq!((site.desk.tickets().len(), delivered(&site, SALES), delivered(&site, SUPPORT)), (2, 2, 0));
}

#[test]
fn a_mail_program_that_has_logged_in_reaches_a_desk_and_a_colleague_with_one_message() {
    let site = site("", "");
    let mut session = connect(site.postfix.address());
    session.expect(220, "XCLIENT NAME=laptop.acme.example ADDR=192.0.2.77 LOGIN=ann");
    session.expect(250, "EHLO laptop.acme.example");
    session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
    for to in [SALES, SUPPORT] {
        session.expect(250, &format!("RCPT TO:<{to}>"));
    }
    session.expect(354, "DATA");
    let reply = session.data(&message("for both at once"));
    assert_eq!(reply.code, 250, "{reply}\n{}", site.daemon.log());
    site.postfix.wait_for_empty_queue();
    assert_eq!((site.desk.tickets().len(), delivered(&site, SALES), delivered(&site, SUPPORT)), (1, 1, 0));
}

#[test]
fn of_two_support_addresses_who_is_taken_is_not_asked_again_and_who_must_wait_is() {
    let script = Script {
        rules: vec![Rule { on: "RCPT TO:<billing", connection: Some(1), action: Action::Say("450 4.2.1 busy\r\n") }],
        ..Script::default()
    };
    let (mut site, _runtime, desk) = scripted("", "", script);
    let message = message("for two desks");
    let reply = submit(&site, &[SUPPORT, BILLING], &message);
    assert!(reply.code == 450 && reply.text.contains("busy"), "{reply}");
    assert_eq!(taken(&desk), 1);
    // Only the endpoint's first connection says so.
    site.daemon.stop();
    site.daemon.resume();
    assert_eq!(submit(&site, &[SUPPORT, BILLING], &message).code, 250);
    let envelopes =
        desk.see(|record| record.taken.iter().map(|message| message.envelope[1..].concat()).collect::<Vec<_>>());
    assert_eq!(envelopes.len(), 2, "{envelopes:?}");
    assert!(envelopes[1].contains("billing") && !envelopes[1].contains("support"), "{envelopes:?}");
    let line = site.daemon.wait_for_log("taken before");
    assert!(line.contains("decision=relayed"), "{line}");
    site.postfix.wait_for_empty_queue();
}

#[test]
fn a_refusal_of_one_of_two_names_who_has_the_message() {
    let (site, _runtime, desk) = scripted("", "", on("RCPT TO:<billing", Action::Say("550 5.1.1 no such queue\r\n")));
    let reply = submit(&site, &[SUPPORT, BILLING], &message("for two desks"));
    assert_eq!(reply.code, 550, "{reply}");
    assert!(reply.text.contains("no such queue"), "{reply}");
    assert!(reply.text.contains("concerns <billing@acme.example>; the message has reached <support@acme.example>"));
    assert_eq!(taken(&desk), 1);
    assert!(site.postfix.queue().is_empty());
}

#[test]
fn mail_by_sendmail_for_both_kinds_arrives_at_both_also_after_the_endpoint_was_down() {
    let mut site = site("", "");
    site.postfix.submit_by_sendmail(STRANGER, &[SUPPORT, SALES], &message("local"));
    site.desk.wait_for_tickets(1);
    site.postfix.wait_for_mail(SALES, 1);
    site.postfix.wait_for_empty_queue();

    site.desk.stop();
    let waiting = Message::new(STRANGER, SUPPORT, "local, while it is down").octets();
    site.postfix.submit_by_sendmail(STRANGER, &[SUPPORT, SALES], &waiting);
    site.daemon.wait_for_log("relay decision=deferred");
    assert_eq!(delivered(&site, SALES), 1, "one fate for all");
    site.desk.resume();
    // pickup looks into maildrop again after a minute.
    support::wait_within(
        std::time::Duration::from_secs(100),
        "the second ticket",
        || site.postfix.log(),
        || site.desk.tickets().len() == 2,
    );
    site.postfix.wait_for_mail(SALES, 2);
    site.postfix.wait_for_empty_queue();
    assert_eq!((site.desk.tickets().len(), delivered(&site, SUPPORT)), (2, 0));
    assert!(!site.postfix.log().contains("status=bounced"));
}
