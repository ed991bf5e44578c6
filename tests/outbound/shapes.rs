//! Messages of every shape: what leaves signed verifies where it arrives, or it does not leave.

use std::fmt::Write;
use std::process::Command;

use support::{Company, Message, Mta, OutboundSite, Reply, SUPPORT_LOGIN, Terms, deskmilter, fields, notification};

use super::{JANE, SUPPORT, assert_preserved, assert_signed, verdicts};

support::for_each_mta! {
    bodies_of_every_ending_arrive_with_valid_signatures,
    a_nul_in_the_body_is_signed_as_it_is,
    a_message_that_ends_within_a_line_is_signed_as_it_is_delivered,
    a_large_multipart_message_arrives_with_valid_signatures,
    oddly_written_fields_arrive_as_they_were_and_verify,
    eight_bit_text_and_headers_verify_where_the_next_server_takes_them,
    a_line_that_a_mail_server_would_cut_is_refused,
    a_thousand_recipients_get_one_message_with_a_valid_signature,
}

/// Submits with parameters of MAIL and expects it at customer.example.
fn deliver_with(site: &Company, parameters: &str, message: &[u8]) -> Vec<u8> {
    let before = site.customer().transactions().len();
    let mut session = site.login(SUPPORT_LOGIN);
    let reply = session.send_with(SUPPORT, parameters, &[JANE], message);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.daemon().log());
    site.delivered(before + 1).message
}

/// Submits by BDAT (RFC 3030), which unlike DATA can end a message in the middle of a line.
fn submit_by_bdat(site: &Company, message: &[u8]) -> Reply {
    let mut session = site.login(SUPPORT_LOGIN);
    session.expect(250, &format!("MAIL FROM:<{SUPPORT}>"));
    session.expect(250, &format!("RCPT TO:<{JANE}>"));
    session.write(format!("BDAT {} LAST\r\n", message.len()).as_bytes());
    session.write(message);
    session.reply()
}

fn with_body(body: &str) -> Vec<u8> {
    notification().body(body).octets()
}

fn bodies_of_every_ending_arrive_with_valid_signatures(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let bodies = [
        ("empty", ""),
        ("one empty line", "\r\n"),
        ("empty lines at the end", "text\r\n\r\n\r\n\r\n"),
        ("blanks at the end of lines", "text  \t \r\nmore \r\n \r\n\t\r\n"),
        ("nothing but blanks", "  \r\n\t\r\n"),
        ("dots", ".\r\n..\r\n.text\r\n"),
        ("runs of white space", "a  b\t\tc   d\r\n"),
        ("a line of 998 octets", &format!("{}\r\n", "x".repeat(998))),
    ];
    for (what, body) in bodies {
        let sent = site.zendesk().sign(&with_body(body));
        let received = site.deliver(&sent);
        assert_preserved(&sent, &received);
        let verdicts = assert_signed(&site, &received);
        assert!(verdicts.all_valid("acme.example", "zendesk2"), "{what}: {verdicts:?}");
    }
}

fn a_nul_in_the_body_is_signed_as_it_is(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let received = site.deliver(&with_body("a\0b\r\n"));
    // OpenDKIM reads a message from a file by lines of C: it would see the message end here.
    let verdicts = verdicts(&site, &received);
    for found in [&verdicts.dkimpy, &verdicts.mail_auth] {
        assert!(!found.is_empty() && found.iter().all(|signature| signature.valid), "{verdicts:?}");
    }
}

fn a_message_that_ends_within_a_line_is_signed_as_it_is_delivered(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    for (n, body) in ["no line ending", "text\r\nno line ending", "blanks   "].into_iter().enumerate() {
        let sent = with_body(body);
        let reply = submit_by_bdat(&site, &sent);
        assert_eq!(reply.code, 250, "{body:?}: {reply}");
        assert_signed(&site, &site.delivered(n + 1).message);
    }
}

fn a_large_multipart_message_arrives_with_valid_signatures(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let mut body = String::from("--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nsee below\r\n\r\n--b\r\n");
    body.push_str("Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n");
    for line in 0..30_000 {
        write!(body, "{line:076}\r\n").unwrap();
    }
    body.push_str("--b--\r\n");
    let message = notification().set("Content-Type", "multipart/mixed; boundary=b").body(&body).octets();
    let sent = site.zendesk().sign(&message);
    let received = site.deliver(&sent);
    assert_preserved(&sent, &received);
    assert!(assert_signed(&site, &received).all_valid("acme.example", "zendesk2"));
}

fn oddly_written_fields_arrive_as_they_were_and_verify(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let long = (0..60).map(|n| format!("<{n}.{}@customer.example>", "x".repeat(40))).collect::<Vec<_>>();
    let notifications = [
        ("tab after the colon", notification().set("X-Mailer", "\tZendesk Mailer")),
        ("two blanks after the colon", notification().set("Reply-To", " support@acme.example")),
        ("blanks at the end", notification().set("X-Auto-Response-Suppress", "All  ")),
        ("value on the second line", notification().set("X-Zendesk-Email-Id", "\r\n 01HRZJ3V4K8M2QWXY6T9ABCDEF")),
        ("folded by tabs", notification().set("Subject", "Re:\r\n\t[Acme]\r\n\t\tOrder\r\n   4711")),
        ("many ids", notification().set("References", &long.join("\r\n "))),
        ("lower case names", notification().without("Cc").field("cc", "colleague@customer.example")),
        ("an empty value", notification().set("X-Delivery-Context", "")),
        ("several of one name", notification().field("X-Zendesk-Note", "one").field("X-Zendesk-Note", "two")),
        ("no Subject", notification().without("Subject")),
        ("no Cc, Reply-To or References", notification().without("Cc").without("Reply-To").without("References")),
    ];
    for (what, message) in notifications {
        let sent = message.octets();
        let received = site.deliver(&sent);
        assert_preserved(&sent, &received);
        assert_eq!(fields(&received, "Subject"), fields(&sent, "Subject"), "{what}");
        assert_signed(&site, &received);
    }
}

fn eight_bit_text_and_headers_verify_where_the_next_server_takes_them(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let text = notification().set("Content-Transfer-Encoding", "8bit").body("Größe: 12 €\r\n");
    let sent = site.zendesk().sign(&text.octets());
    let received = deliver_with(&site, "BODY=8BITMIME", &sent);
    assert_preserved(&sent, &received);
    assert!(assert_signed(&site, &received).all_valid("acme.example", "zendesk2"));

    let header = text.set("Subject", "Größe").set("From", "Jürgen <support@acme.example>");
    for parameters in ["BODY=8BITMIME SMTPUTF8", "BODY=8BITMIME"] {
        let sent = header.octets();
        let received = deliver_with(&site, parameters, &sent);
        assert_preserved(&sent, &received);
        assert_signed(&site, &received);
    }
}

#[test]
fn an_eight_bit_body_for_a_server_without_8bitmime_arrives_with_a_valid_signature() {
    // Postfix would convert it after the signature was made, if --apply did not keep it from that.
    let site = OutboundSite::prepare(&Terms::default()).apply().start();
    let message = Message::zendesk_notification(SUPPORT, "joe@old.example", "Re: Order 4711")
        .set("Content-Transfer-Encoding", "8bit")
        .body("Größe: 12 €\r\n");
    let mut session = site.submission.login(&OutboundSite::zendesk_host(), SUPPORT_LOGIN);
    let reply = session.send_with(SUPPORT, "BODY=8BITMIME", &["joe@old.example"], &message.octets());
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.old.wait_for(1, || site.logs()).remove(0).message;
    assert_signed(&site, &received);
    assert!(received.ends_with("Größe: 12 €\r\n".as_bytes()), "{}", String::from_utf8_lossy(&received));

    let check = postfix_check(&site);
    assert!(check.contains("ok    8-bit text: ") && check.contains("ok    unchanged after signing: "), "{check}");
}

#[test]
fn without_the_setting_the_same_message_arrives_broken_and_the_check_says_so() {
    let site = OutboundSite::start(&Terms::default());
    let message = Message::zendesk_notification(SUPPORT, "joe@old.example", "Re: Order 4711")
        .set("Content-Transfer-Encoding", "8bit")
        .body("Größe: 12 €\r\n");
    let mut session = site.submission.login(&OutboundSite::zendesk_host(), SUPPORT_LOGIN);
    session.send_with(SUPPORT, "BODY=8BITMIME", &["joe@old.example"], &message.octets());
    let received = site.old.wait_for(1, || site.logs()).remove(0).message;
    assert!(verdicts(&site, &received).none_valid("acme.example", "desk2026"));
    let check = postfix_check(&site);
    assert!(check.contains("fail  8-bit text: ") && check.contains("deskmilter postfix --apply"), "{check}");
}

fn postfix_check(site: &OutboundSite) -> String {
    let mut command = Command::new(deskmilter());
    command.args(["postfix", "--check", "--config-directory"]).arg(site.postfix.configuration());
    let output = command.arg("-c").arg(site.keys().join("deskmilter.toml")).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn a_line_that_a_mail_server_would_cut_is_refused(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let ids = (0..50).map(|n| format!("<{n}.{}@customer.example>", "x".repeat(40))).collect::<Vec<_>>();
    for (what, message) in [
        ("in the body", with_body(&format!("{}\r\n", "x".repeat(999)))),
        ("at the body's end", with_body(&format!("text\r\n{}", "x".repeat(999)))),
        ("in the header section", notification().set("References", &ids.join(" ")).octets()),
    ] {
        let reply = site.submit(&[JANE], &message);
        assert!(reply.code == 550 && reply.text.starts_with("5.6"), "{what}: {reply}");
        assert!(reply.text.contains("998"), "{what}: {reply}");
    }
}

fn a_thousand_recipients_get_one_message_with_a_valid_signature(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let recipients: Vec<String> = (0..1_000).map(|n| format!("user{n}@customer.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let sent = site.notification();
    let reply = site.submit(&recipients, &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let count = || site.customer().transactions().iter().map(|transaction| transaction.recipients.len()).sum::<usize>();
    support::wait_until("1,000 recipients", || site.logs(), || count() >= 1_000);
    let transactions = site.customer().transactions();
    assert_eq!(count(), 1_000);
    assert_signed(&site, &transactions[0].message);
    assert_preserved(&sent, &transactions[transactions.len() - 1].message);
}
