//! A real Postfix in front: it keeps what is deferred, bounces what is refused, and what it hands over arrives as it came.

use support::{DeliverySite, HttpAnswer, Message, PrivatePostfix, TicketHttp};

fn postfix(site: &DeliverySite) -> PrivatePostfix {
    let transport =
        format!("transport_maps = inline:{{ {{ support@acme.example = lmtp:unix:{} }} }}\n", site.socket().display());
    PrivatePostfix::start(&["support@acme.example", "jane@end.example"], &transport)
}

#[test]
fn a_message_waits_in_the_queue_until_the_system_takes_it_and_arrives_exact() {
    let ticket = TicketHttp::plain(HttpAnswer::Say(503, "", "down for maintenance"));
    let lines = format!("preset = \"osticket\"\nurl = \"{}\"\nkey_file = \"key\"", ticket.url());
    let site = DeliverySite::start(&lines, None);
    let postfix = postfix(&site);
    let message = Message::new("jane@end.example", "support@acme.example", "printer on fire").octets();
    assert_eq!(postfix.submit("jane@end.example", &["support@acme.example"], &message).code, 250);
    postfix.wait_for("the message in the queue with the system's words", |postfix| {
        let queue = postfix.queue();
        let reasons = queue.iter().flat_map(|queued| &queued.recipients);
        reasons.map(|(_, reason)| reason).any(|reason| reason.contains("osticket: HTTP 503: down for maintenance"))
    });
    ticket.answer(HttpAnswer::OsTicket);
    postfix.flush();
    postfix.wait_for_empty_queue();
    let taken = ticket.requests().pop().unwrap();
    assert!(taken.content.ends_with(&message), "{}", String::from_utf8_lossy(&taken.content));
    assert!(postfix.log().contains("osticket: HTTP 201: 471100"), "{}", postfix.log());
    assert!(postfix.mailbox("jane@end.example").messages().is_empty());
}

#[test]
fn what_the_system_refuses_for_good_comes_back_to_its_sender() {
    let ticket = TicketHttp::plain(HttpAnswer::Say(415, "", "Unsupported data format"));
    let lines = format!("preset = \"osticket\"\nurl = \"{}\"\nkey_file = \"key\"", ticket.url());
    let site = DeliverySite::start(&lines, None);
    let postfix = postfix(&site);
    let message = Message::new("jane@end.example", "support@acme.example", "odd").octets();
    assert_eq!(postfix.submit("jane@end.example", &["support@acme.example"], &message).code, 250);
    let [bounce] = postfix.wait_for_mail("jane@end.example", 1).try_into().unwrap();
    let bounce = String::from_utf8_lossy(&bounce);
    assert!(
        bounce.contains("osticket: HTTP 415: Unsupported data format") && bounce.contains("Status: 5.6.0"),
        "{bounce}"
    );
    assert_eq!(ticket.requests().len(), 1);
}

#[test]
fn through_a_program_a_message_of_a_real_queue_arrives_with_lf() {
    let site = DeliverySite::start("command = [\"/bin/sh\", \"-c\", \"cat > FOLDER/out/message\"]", None);
    let postfix = postfix(&site);
    let message = Message::new("jane@end.example", "support@acme.example", "hello").octets();
    assert_eq!(postfix.submit("jane@end.example", &["support@acme.example"], &message).code, 250);
    postfix.wait_for_empty_queue();
    let lf: Vec<u8> = message.into_iter().filter(|&octet| octet != b'\r').collect();
    assert!(site.written("message").ends_with(&lf), "{}", String::from_utf8_lossy(&site.written("message")));
}
