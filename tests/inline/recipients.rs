//! Mail of Postfix's own ways for recipients of two routes.

use support::Message;

use super::{SALES, STRANGER, SUPPORT, connect, delivered, message, site, submit};

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

#[test]
fn a_postfix_that_speaks_the_oldest_protocol_is_told_of_each_recipient_too() {
    let site = site("", "milter_protocol = 2\n");
    let mut session = connect(site.postfix.address());
    session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
    session.expect(250, &format!("RCPT TO:<{SUPPORT}>"));
    session.expect(452, &format!("RCPT TO:<{SALES}>"));
    session.expect(354, "DATA");
    let reply = session.data(&message("by protocol 2"));
    assert_eq!(reply.code, 250, "{reply}\n{}", site.daemon.log());
    site.postfix.wait_for_empty_queue();
    assert_eq!((site.desk.tickets().len(), delivered(&site, SUPPORT), delivered(&site, SALES)), (1, 0, 0));
}

#[test]
fn a_support_address_is_removed_in_every_spelling_that_postfix_takes_and_before_its_alias_is_looked_up() {
    let alias = "virtual_alias_maps = inline:{ { support@acme.example = boss@acme.example } }\n";
    let site = site("", &format!("{alias}enable_original_recipient = no\n"));
    let spellings = [
        "<support@acme.example.>",
        "<\"support\"@acme.example>",
        "<@relay.example:support@acme.example>",
        "support@acme.example",
        "<SUPPORT@ACME.EXAMPLE>",
    ];
    for (n, to) in (1..).zip(spellings) {
        let mut session = connect(site.postfix.address());
        session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
        session.expect(250, &format!("RCPT TO:{to}"));
        session.expect(354, "DATA");
        let reply = session.data(&message(to));
        assert_eq!(reply.code, 250, "{to}: {reply}");
        assert_eq!(site.desk.tickets().len(), n, "{to}");
    }
    site.postfix.wait_for_empty_queue();
    assert_eq!((delivered(&site, "boss@acme.example"), delivered(&site, SUPPORT)), (0, 0));
}

#[test]
fn hundreds_of_recipients_of_a_message_with_a_large_header_section_do_not_keep_the_daemon_busy() {
    let nothing = super::on("NOTHING", support::endpoint::Action::Hang);
    let (site, _runtime, desk) = super::scripted("", "recipient_delimiter = +\n", nothing);
    let to: Vec<String> = (0..900).map(|n| format!("support+{n}@acme.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let mut message = Message::new(STRANGER, SUPPORT, "to all of us");
    for _ in 0..15 {
        message = message.field("References", &"<0123456789@plain.example>\r\n ".repeat(3_000));
    }
    let since = std::time::Instant::now();
    let reply = submit(&site, &to, &message.octets());
    assert_eq!(reply.code, 250, "{reply}\n{}", site.daemon.log());
    assert_eq!(super::taken(&desk), 1);
    assert!(since.elapsed() < std::time::Duration::from_secs(10), "{:?}", since.elapsed());
}
