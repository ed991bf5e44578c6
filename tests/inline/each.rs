//! What holds for every mail server: a company that relays inline, with a Postfix and with an Exim.

use std::time::{Duration, Instant};

use support::endpoint::{Action, Endpoint, Rule, Script};
use support::{Company, Message, Mta, Reply, Site, fields, received_as_sent, wait_until};

use super::{BILLING, PASSWORD, SALES, STRANGER, SUPPORT, message, on, taken};

const BOSS: &str = "boss@acme.example";

support::for_each_mta! {
    a_message_becomes_a_ticket_before_its_client_has_the_answer_and_nothing_stays,
    two_support_addresses_make_one_ticket_and_one_given_twice_too,
    with_keep_copy_the_mailbox_has_it_too,
    twenty_five_mebibytes_arrive_as_they_were_sent,
    ordinary_mail_is_left_alone_and_no_more_than_the_limit_are_relayed_at_a_time,
    while_an_endpoint_is_down_its_mail_is_put_off_at_rcpt_and_ordinary_mail_flows,
    a_recipient_of_another_route_is_put_off_to_the_next_transaction_whichever_comes_first,
    of_two_support_addresses_who_is_taken_is_not_asked_again_and_who_must_wait_is,
    a_refusal_of_one_of_two_names_who_has_the_message,
    inline_the_mailbox_is_put_in_the_place_of_the_support_address,
    a_message_without_an_id_is_never_taken_for_a_repeat,
}

/// A company that relays inline to an endpoint that does as it is told.
fn scripted(mta: Mta, endpoint: &str, main_cf: &str, script: Script) -> (Company, tokio::runtime::Runtime, Endpoint) {
    let mut site = Company::inline(mta, endpoint, main_cf);
    site.set_password(PASSWORD);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let desk = runtime.block_on(Endpoint::start(script));
    site.point_at(desk.port, &desk.ca);
    (site, runtime, desk)
}

fn submit(site: &Company, to: &[&str], message: &[u8]) -> Reply {
    site.receive(&Site::stranger(), STRANGER, to, message)
}

fn delivered(site: &Company, mailbox: &str) -> usize {
    site.mailbox(mailbox).len()
}

fn a_message_becomes_a_ticket_before_its_client_has_the_answer_and_nothing_stays(mta: Mta) {
    let site = Company::inline(mta, "", "always_bcc = someone@other.example\n");
    let message = site.signer().sign(&Message::new("ann@customer.example", SUPPORT, "Order 4711").octets());
    let reply = site.receive(&Site::customer(), "ann@customer.example", &[SUPPORT], &message);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.daemon().log());
    let tickets = site.desk().tickets();
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

    // The archive (Postfix's always_bcc) has its copy, the support mailbox none.
    if mta == Mta::Postfix {
        site.wait_for_mail("someone@other.example", 1);
    }
    site.wait_for_empty_queue();
    assert_eq!(delivered(&site, SUPPORT), 0);
    let line = site.daemon().wait_for_log("relay decision=relayed");
    for part in ["connector=acme", "note=inline", "credential=acme.example", "remote=localhost", "reply=\"250"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

fn two_support_addresses_make_one_ticket_and_one_given_twice_too(mta: Mta) {
    let site = Company::inline(mta, "", "recipient_delimiter = +\n");
    for to in [&[SUPPORT, BILLING][..], &[SUPPORT, SUPPORT], &["Support+4711@ACME.example"]] {
        let before = site.desk().tickets().len();
        assert_eq!(submit(&site, to, &message("one")).code, 250, "{}", site.daemon().log());
        assert_eq!(site.desk().tickets().len(), before + 1, "{to:?}");
    }
    site.wait_for_empty_queue();
    assert_eq!((delivered(&site, SUPPORT), delivered(&site, BILLING)), (0, 0));
}

fn with_keep_copy_the_mailbox_has_it_too(mta: Mta) {
    let site = Company::inline(mta, "keep_copy = true", "");
    let message = message("kept");
    assert_eq!(submit(&site, &[SUPPORT], &message).code, 250);
    assert_eq!(site.desk().tickets().len(), 1);
    let kept = site.wait_for_mail(SUPPORT, 1);
    assert!(received_as_sent(&kept[0], &message));
    site.wait_for_empty_queue();
    assert_eq!(site.desk().tickets().len(), 1);
}

fn twenty_five_mebibytes_arrive_as_they_were_sent(mta: Mta) {
    let (site, _runtime, desk) = scripted(mta, "", "message_size_limit = 60000000\n", on("NOTHING", Action::Hang));
    let line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n";
    let message = Message::new(STRANGER, SUPPORT, "large").body(&line.repeat((25 << 20) / line.len())).octets();
    let reply = submit(&site, &[SUPPORT], &message);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.daemon().log());
    assert!(desk.see(|record| received_as_sent(&record.taken[0].content, &message)));
}

fn ordinary_mail_is_left_alone_and_no_more_than_the_limit_are_relayed_at_a_time(mta: Mta) {
    let mut site = Company::inline(mta, "", "");
    let configuration = std::fs::read_to_string(site.configuration()).unwrap();
    std::fs::write(site.configuration(), format!("[limits]\ninline_relays = 1\n{configuration}")).unwrap();
    site.set_password(super::PASSWORD);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let desk = runtime.block_on(Endpoint::start(on("DOT 1", Action::Late(Duration::from_secs(6)))));
    site.point_at(desk.port, &desk.ca);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| submit(&site, &[SUPPORT], &message("first")));
        let read = || desk.see(|record| record.read) == 1;
        wait_until("the first message at the endpoint", || site.logs(), read);
        assert_eq!(submit(&site, &[SALES], &message("for people")).code, 250);
        let second = message("second");
        let reply = submit(&site, &[SUPPORT], &second);
        assert!(reply.code == 451 && reply.text.contains("4.3.2"), "{reply}");
        assert_eq!(first.join().unwrap().code, 250);
        assert_eq!(submit(&site, &[SUPPORT], &second).code, 250);
    });
    assert_eq!(taken(&desk), 2);
    site.wait_for_mail(SALES, 1);
}

fn while_an_endpoint_is_down_its_mail_is_put_off_at_rcpt_and_ordinary_mail_flows(mta: Mta) {
    let mut site = Company::inline(mta, "", "");
    site.desk_mut().stop();
    let message = message("while it is down");
    for _ in 0..3 {
        let reply = submit(&site, &[SUPPORT], &message);
        assert!(reply.code == 451 && reply.text.contains("4.4.1"), "{reply}");
    }
    let mut session = site.connect(&Site::stranger());
    session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
    let reply = session.expect(451, &format!("RCPT TO:<{SUPPORT}>"));
    assert!(reply.text.starts_with("4.4.1 "), "{reply}");
    session.expect(250, &format!("RCPT TO:<{}>", super::SALES));
    session.expect(354, "DATA");
    assert_eq!(session.data(&message).code, 250);

    site.desk_mut().resume();
    let since = Instant::now();
    loop {
        if submit(&site, &[SUPPORT], &message).code == 250 {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{}", site.daemon().log());
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(site.desk().tickets().len(), 1);
    let log = site.daemon().log();
    assert_eq!((log.matches("endpoint is down").count(), log.matches("endpoint is up again").count()), (1, 1), "{log}");
}

fn a_recipient_of_another_route_is_put_off_to_the_next_transaction_whichever_comes_first(mta: Mta) {
    let site = Company::inline(mta, "", "");
    for (first, other) in [(SUPPORT, SALES), (SALES, SUPPORT)] {
        let message = message("for both");
        let mut session = site.connect(&Site::stranger());
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
    site.wait_for_empty_queue();
    assert_eq!((site.desk().tickets().len(), delivered(&site, SALES), delivered(&site, SUPPORT)), (2, 2, 0));
}

fn of_two_support_addresses_who_is_taken_is_not_asked_again_and_who_must_wait_is(mta: Mta) {
    let script = Script {
        rules: vec![Rule { on: "RCPT TO:<billing", connection: Some(1), action: Action::Say("450 4.2.1 busy\r\n") }],
        ..Script::default()
    };
    let (mut site, _runtime, desk) = scripted(mta, "", "", script);
    let message = message("for two desks");
    let reply = submit(&site, &[SUPPORT, BILLING], &message);
    assert!(reply.code == 450 && reply.text.contains("busy"), "{reply}");
    assert_eq!(taken(&desk), 1);
    // Only the endpoint's first connection says so.
    site.daemon_mut().stop();
    site.daemon_mut().resume();
    assert_eq!(submit(&site, &[SUPPORT, BILLING], &message).code, 250);
    let envelopes =
        desk.see(|record| record.taken.iter().map(|message| message.envelope[1..].concat()).collect::<Vec<_>>());
    assert_eq!(envelopes.len(), 2, "{envelopes:?}");
    assert!(envelopes[1].contains("billing") && !envelopes[1].contains("support"), "{envelopes:?}");
    let line = site.daemon().wait_for_log("taken before");
    assert!(line.contains("decision=relayed"), "{line}");
    site.wait_for_empty_queue();
}

fn a_refusal_of_one_of_two_names_who_has_the_message(mta: Mta) {
    let (site, _runtime, desk) =
        scripted(mta, "", "", on("RCPT TO:<billing", Action::Say("550 5.1.1 no such queue\r\n")));
    let reply = submit(&site, &[SUPPORT, BILLING], &message("for two desks"));
    assert_eq!(reply.code, 550, "{reply}");
    assert!(reply.text.contains("no such queue"), "{reply}");
    // Exim folds long replies, the enhanced code before each line.
    let text = reply.text.replace("\n5.1.1 <", " <");
    assert!(
        text.contains("concerns <billing@acme.example>; the message has reached <support@acme.example>"),
        "{reply}"
    );
    assert_eq!(taken(&desk), 1);
    assert!(site.mailbox(SUPPORT).is_empty());
}

fn inline_the_mailbox_is_put_in_the_place_of_the_support_address(mta: Mta) {
    let (site, _runtime, desk) = scripted(
        mta,
        &format!("rejected_to = \"{BOSS}\""),
        "",
        on("DOT", Action::Say("550 5.7.1 \"spam\" is not wanted\r\n")),
    );
    let sent = message("refused");
    let reply = submit(&site, &[SUPPORT], &sent);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.daemon().log());
    let got = &site.wait_for_mail(BOSS, 1)[0];
    assert!(received_as_sent(got, &sent));
    let reason = String::from_utf8(fields(got, "X-Refused-By-Ticket-System").concat()).unwrap();
    assert!(reason.contains("connector=acme") && reason.contains("to=<support@acme.example>"), "{reason}");
    assert!(reason.contains("550 5.7.1 ") && reason.contains("'spam' is not wanted"), "{reason}");
    site.wait_for_empty_queue();
    assert_eq!((taken(&desk), delivered(&site, SUPPORT)), (0, 0));
    let line = site.daemon().wait_for_log("relay decision=refused");
    assert!(line.contains("rejected_to=boss@acme.example"), "{line}");

    // Who is proven hears it.
    let message = site.signer().sign(&Message::new("ann@customer.example", SUPPORT, "proven").octets());
    let reply = site.receive(&Site::customer(), "ann@customer.example", &[SUPPORT], &message);
    assert!(reply.code == 550 && reply.text.contains("is not wanted"), "{reply}");
}

fn a_message_without_an_id_is_never_taken_for_a_repeat(mta: Mta) {
    let site = Company::inline(mta, "", "");
    let message = b"From: a@plain.example\r\nTo: support@acme.example\r\nSubject: ping\r\n\r\nping\r\n";
    for n in 1..=2 {
        assert_eq!(submit(&site, &[SUPPORT], message).code, 250);
        assert_eq!(site.desk().tickets().len(), n);
    }
}
