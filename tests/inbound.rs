//! The main job, on a real Postfix and a real Exim: mail for a support address becomes a ticket over TLS with AUTH, all other mail flows as ever.

#![cfg(test)]

use support::{Company, Message, Mta, Site, SmtpSession, Ticket, received_as_sent};

const SUPPORT: &str = "support@acme.example";

support::for_each_mta! {
    an_authentic_message_becomes_an_authenticated_ticket_byte_for_byte,
    other_recipients_get_theirs_the_ordinary_way_and_two_support_addresses_make_one_ticket,
    an_alias_that_ends_at_a_support_address_is_judged_and_relayed,
    an_extension_of_a_support_address_is_relayed_with_the_extension,
    a_bounce_to_a_support_address_passes,
    a_spoofed_message_becomes_a_ticket_that_says_so,
    forged_fields_do_not_survive_in_any_spelling,
    a_verdict_that_was_injected_past_us_is_tagged_none,
    a_verdict_of_another_message_does_not_count,
    a_message_written_on_the_host_itself_is_judged_too,
    a_sender_whose_dns_does_not_answer_is_tagged_none_and_never_pass,
    mail_waits_in_the_queue_while_the_endpoint_is_down_and_then_arrives,
    ordinary_mail_flows_while_the_daemon_is_down_and_support_mail_waits,
    a_verdict_survives_a_restart_of_the_daemon_while_the_message_is_queued,
    no_password_is_ever_logged_or_shown_in_the_process_list,
    a_sender_beyond_ascii_that_did_not_say_so_is_relayed_as_the_mta_took_it,
    thousands_of_forged_fields_do_not_keep_the_mail_server_busy,
    thousands_of_injected_verdicts_do_not_keep_the_daemon_busy,
    a_result_below_a_verdict_of_ours_is_not_ours,
    a_verdict_does_not_pass_to_another_text_under_the_same_fields,
}

fn customer_mail(site: &Company, to: &str) -> Vec<u8> {
    site.signer().sign(&Message::new("Jane <jane@customer.example>", to, "Order 4711").octets())
}

/// The message of a ticket as text.
fn text(ticket: &Ticket) -> String {
    String::from_utf8_lossy(&ticket.messages()[0]).into_owned()
}

fn fact<'t>(ticket: &'t Ticket, name: &str) -> &'t str {
    ticket.facts[name].as_str().unwrap_or_else(|| panic!("{name} in {}", ticket.facts))
}

fn an_authentic_message_becomes_an_authenticated_ticket_byte_for_byte(mta: Mta) {
    let site = Company::inbound(mta);
    let message = customer_mail(&site, SUPPORT);
    let reply = site.receive(&Site::customer(), "jane@customer.example", &[SUPPORT], &message);
    assert_eq!(reply.code, 250, "{reply}");
    let tickets = site.desk().wait_for_tickets(1);
    let ticket = &tickets[0];
    assert_eq!(ticket.tags(), ["system_authenticated_email_ticket"]);
    assert_eq!(fact(ticket, "auth_status"), "authenticated");
    assert_eq!(fact(ticket, "sender_auth"), "pass");
    assert_eq!(fact(ticket, "credential"), "acme.example");
    assert!(fact(ticket, "tls").starts_with("TLS"), "{}", ticket.facts);
    let received = text(ticket);
    assert!(received_as_sent(received.as_bytes(), &message), "{received}");

    // What is added stands above, in this order; nothing else does.
    let added = received.strip_suffix(std::str::from_utf8(&message).unwrap()).unwrap();
    let names: Vec<&str> = added
        .lines()
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["Received", "X-Deskmilter-Sender-Auth", "Authentication-Results", "Received"], "{added}");
    for result in [
        "spf=pass",
        "dkim=pass",
        "dmarc=pass (p=reject)",
        "header.from=customer.example",
        "smtp.mailfrom=jane@customer.example",
    ] {
        assert!(added.contains(result), "{result}: {added}");
    }
    assert!(!added.contains("mac="), "{added}");

    site.wait_for_empty_queue();
    let log = site.daemon().log();
    let id = site.first_queue_id();
    let told: Vec<&str> = log.lines().filter(|line| line.contains(&format!(" {id}: "))).collect();
    assert_eq!(told.len(), 2, "one line where it was judged, one where it was relayed: {log}");
    assert!(
        told[0].contains("judged decision=tagged connector=acme") && told[0].contains("pass; reason=dmarc"),
        "{log}"
    );
    assert!(told[1].contains("decision=relayed") && told[1].contains("credential=acme.example"), "{log}");
}

fn other_recipients_get_theirs_the_ordinary_way_and_two_support_addresses_make_one_ticket(mta: Mta) {
    let site = Company::inbound(mta);
    let message = customer_mail(&site, "support@acme.example, Billing@Acme.example");
    let to = ["support@acme.example", "Billing@Acme.example", "sales@acme.example"];
    assert_eq!(site.receive(&Site::customer(), "jane@customer.example", &to, &message).code, 250);
    let delivered = site.wait_for_mail("sales@acme.example", 1);
    site.wait_for_empty_queue();
    assert!(received_as_sent(&delivered[0], &message));
    let tickets = site.desk().tickets();
    assert_eq!(tickets.len(), 1);
    assert_eq!(tickets[0].facts["recipients"].as_array().unwrap().len(), 2, "{}", tickets[0].facts);
    assert!(site.mailbox(SUPPORT).is_empty());
}

fn an_alias_that_ends_at_a_support_address_is_judged_and_relayed(mta: Mta) {
    let site = Company::inbound(mta);
    let message = customer_mail(&site, "info@acme.example");
    assert_eq!(site.receive(&Site::customer(), "jane@customer.example", &["info@acme.example"], &message).code, 250);
    let tickets = site.desk().wait_for_tickets(1);
    assert_eq!(fact(&tickets[0], "sender_auth"), "pass");
}

fn an_extension_of_a_support_address_is_relayed_with_the_extension(mta: Mta) {
    let site = Company::inbound(mta);
    let message = customer_mail(&site, "support+vip@acme.example");
    assert_eq!(
        site.receive(&Site::customer(), "jane@customer.example", &["support+vip@acme.example"], &message).code,
        250
    );
    let tickets = site.desk().wait_for_tickets(1);
    assert_eq!(tickets[0].facts["recipients"][0], "support+vip@acme.example");
}

fn a_bounce_to_a_support_address_passes(mta: Mta) {
    let site = Company::inbound(mta);
    let message = Message::new("MAILER-DAEMON@customer.example", SUPPORT, "Undelivered").octets();
    assert_eq!(site.receive(&Site::customer(), "", &[SUPPORT], &message).code, 250);
    let tickets = site.desk().wait_for_tickets(1);
    assert_eq!(fact(&tickets[0], "sender"), "");
    assert_eq!(tickets[0].tags(), ["system_authenticated_email_ticket"]);
}

fn a_spoofed_message_becomes_a_ticket_that_says_so(mta: Mta) {
    let site = Company::inbound(mta);
    let message = Message::new("jane@customer.example", SUPPORT, "Send money").octets();
    assert_eq!(site.receive(&Site::stranger(), "jane@customer.example", &[SUPPORT], &message).code, 250);
    let tickets = site.desk().wait_for_tickets(1);
    assert_eq!(fact(&tickets[0], "sender_auth"), "fail");
    assert!(text(&tickets[0]).contains("dmarc=fail (p=reject)"), "{}", text(&tickets[0]));
}

fn forged_fields_do_not_survive_in_any_spelling(mta: Mta) {
    let site = Company::inbound(mta);
    let message = Message::new("jane@customer.example", SUPPORT, "Trust me")
        .field("X-Deskmilter-Sender-Auth", "pass; reason=dmarc; t=1; mac=AAAA")
        .field("Authentication-Results", "mx.acme.example; dmarc=pass")
        .field("x-DESKMILTER-tags", "vip")
        .field("AUTHENTICATION-results", "mx.other.example; dmarc=pass header.from=kept.example")
        .field(
            "authentication-results",
            "\r\n\t(comment) \"MX.ACME.example.\" 1;\r\n dkim=pass header.d=forged.example",
        )
        .field("Authentication-Results", "mx.acme.example; spf=pass smtp.mailfrom=forged.example")
        .field("X-Deskmilter-Sender-Auth", "pass")
        .octets();
    assert_eq!(
        site.receive(&Site::stranger(), "x@stranger.example", &[SUPPORT, "sales@acme.example"], &message).code,
        250
    );
    let relayed = text(&site.desk().wait_for_tickets(1)[0]);
    let delivered = String::from_utf8_lossy(&site.wait_for_mail("sales@acme.example", 1)[0]).into_owned();
    for received in [&relayed, &delivered] {
        assert!(
            !received.contains("forged.example") && !received.contains("vip") && !received.contains("AAAA"),
            "{received}"
        );
        assert!(received.contains("header.from=kept.example"), "{received}");
        let ours = received.lines().filter(|line| {
            line.to_lowercase().starts_with("authentication-results:")
                && line.to_lowercase().contains("mx.acme.example")
        });
        assert_eq!(ours.count(), 1, "{received}");
        let verdicts: Vec<&str> =
            received.lines().filter(|line| line.to_lowercase().starts_with("x-deskmilter-")).collect();
        assert_eq!(verdicts.len(), 1, "{received}");
        assert!(verdicts[0].starts_with("X-Deskmilter-Sender-Auth: fail; "), "{received}");
    }
}

fn a_verdict_that_was_injected_past_us_is_tagged_none(mta: Mta) {
    let site = Company::inbound(mta);
    let message = Message::new("jane@customer.example", SUPPORT, "Trust me")
        .field(
            "X-Deskmilter-Sender-Auth",
            "pass; reason=dmarc; dmarc=pass; t=1900000000;\r\n\tmac=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        )
        .field("Authentication-Results", "mx.acme.example; dmarc=pass")
        .octets();
    assert_eq!(site.receive_unjudged("x@stranger.example", &[SUPPORT], &message).code, 250);
    let tickets = site.desk().wait_for_tickets(1);
    assert_eq!(fact(&tickets[0], "sender_auth"), "none");
    let received = text(&tickets[0]);
    assert!(received.contains("X-Deskmilter-Sender-Auth: none; reason=not-judged\r\n"), "{received}");
    assert!(!received.contains("dmarc=pass"), "{received}");
}

fn a_verdict_of_another_message_does_not_count(mta: Mta) {
    let site = Company::inbound(mta);
    let honest = customer_mail(&site, "sales@acme.example");
    site.receive(&Site::customer(), "jane@customer.example", &["sales@acme.example"], &honest);
    let seen = String::from_utf8_lossy(&site.wait_for_mail("sales@acme.example", 1)[0]).replace('\n', "\r\n");
    let verdict = seen
        .split("X-Deskmilter-Sender-Auth:")
        .nth(1)
        .and_then(|rest| rest.split("\r\nAuth").next())
        .map(|value| value.split("\r\nReceived").next().unwrap_or(value).to_owned())
        .unwrap();
    assert!(verdict.contains("mac="), "{seen}");
    let replay = format!(
        "X-Deskmilter-Sender-Auth:{verdict}\r\nFrom: jane@customer.example\r\nTo: {SUPPORT}\r\nMessage-ID: <other@customer.example>\r\n\r\nSend money\r\n"
    );
    assert_eq!(site.receive_unjudged("x@stranger.example", &[SUPPORT], replay.as_bytes()).code, 250);
    assert_eq!(fact(&site.desk().wait_for_tickets(1)[0], "sender_auth"), "none");
}

fn a_message_written_on_the_host_itself_is_judged_too(mta: Mta) {
    let site = Company::inbound(mta);
    let message = Message::new("cron@host.example", SUPPORT, "Disk full").octets();
    site.submit_by_sendmail("cron@host.example", &[SUPPORT], &message);
    let tickets = site.desk().wait_for_tickets(1);
    assert!(text(&tickets[0]).contains("Authentication-Results: mx.acme.example;"), "{}", text(&tickets[0]));
    assert_eq!(fact(&tickets[0], "sender_auth"), "none");
}

fn a_sender_whose_dns_does_not_answer_is_tagged_none_and_never_pass(mta: Mta) {
    let site = Company::inbound(mta);
    let message = Message::new("a@silent.example", SUPPORT, "Hello").octets();
    assert_eq!(site.receive(&Site::stranger(), "a@silent.example", &[SUPPORT], &message).code, 250);
    let tickets = site.desk().wait_for_tickets(1);
    assert_eq!(fact(&tickets[0], "sender_auth"), "none");
    assert!(text(&tickets[0]).contains("spf=temperror"), "{}", text(&tickets[0]));
}

fn mail_waits_in_the_queue_while_the_endpoint_is_down_and_then_arrives(mta: Mta) {
    let mut site = Company::inbound(mta);
    site.desk_mut().stop();
    let message = customer_mail(&site, SUPPORT);
    assert_eq!(
        site.receive(&Site::customer(), "jane@customer.example", &[SUPPORT, "sales@acme.example"], &message).code,
        250
    );
    site.wait_for_mail("sales@acme.example", 1);
    site.wait_for_deferral(SUPPORT, "451");
    site.desk_mut().resume();
    site.flush();
    let tickets = site.desk().wait_for_tickets(1);
    assert_eq!(fact(&tickets[0], "sender_auth"), "pass");
    site.wait_for_empty_queue();
}

fn ordinary_mail_flows_while_the_daemon_is_down_and_support_mail_waits(mta: Mta) {
    let mut site = Company::inbound(mta);
    site.daemon_mut().stop();
    let message = customer_mail(&site, SUPPORT);
    assert_eq!(
        site.receive(&Site::customer(), "jane@customer.example", &[SUPPORT, "sales@acme.example"], &message).code,
        250
    );
    site.wait_for_mail("sales@acme.example", 1);
    site.wait_for_deferral(SUPPORT, "");
    site.daemon_mut().resume();
    site.flush();
    let tickets = site.desk().wait_for_tickets(1);
    // It came past a dead daemon, so nobody judged it.
    assert_eq!(fact(&tickets[0], "sender_auth"), "none");
    site.wait_for_empty_queue();
}

fn a_verdict_survives_a_restart_of_the_daemon_while_the_message_is_queued(mta: Mta) {
    let mut site = Company::inbound(mta);
    site.desk_mut().stop();
    let message = customer_mail(&site, SUPPORT);
    site.receive(&Site::customer(), "jane@customer.example", &[SUPPORT], &message);
    site.wait_for_deferral(SUPPORT, "");
    site.daemon_mut().kill();
    site.daemon_mut().resume();
    site.desk_mut().resume();
    site.flush();
    assert_eq!(fact(&site.desk().wait_for_tickets(1)[0], "sender_auth"), "pass");
}

fn no_password_is_ever_logged_or_shown_in_the_process_list(mta: Mta) {
    let mut site = Company::inbound(mta);
    let password = std::fs::read_to_string(site.desk().password_file()).unwrap();
    let message = customer_mail(&site, SUPPORT);
    site.receive(&Site::customer(), "jane@customer.example", &[SUPPORT], &message);
    site.desk().wait_for_tickets(1);
    site.set_password("wrong-but-secret\n");
    site.receive(&Site::customer(), "jane@customer.example", &[SUPPORT], &message);
    site.daemon().wait_for_log("refused");
    let pid = site.daemon_mut().pid();
    let listed = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let written = format!("{}{listed}{}", site.daemon().log(), site.mta_log());
    for secret in [password.trim(), "wrong-but-secret"] {
        assert!(!written.contains(secret));
    }
}

fn a_sender_beyond_ascii_that_did_not_say_so_is_relayed_as_the_mta_took_it(mta: Mta) {
    let site = Company::inbound(mta);
    let message = Message::new("J\u{fc}rgen <a@plain.example>", SUPPORT, "Gr\u{fc}\u{df}e").octets();
    let reply = site.receive(&Site::stranger(), "j\u{fc}rgen@plain.example", &[SUPPORT], &message);
    assert_eq!(reply.code, 250, "{reply}");
    assert_eq!(fact(&site.desk().wait_for_tickets(1)[0], "sender"), "j\u{fc}rgen@plain.example");
}

fn thousands_of_forged_fields_do_not_keep_the_mail_server_busy(mta: Mta) {
    let site = Company::inbound(mta);
    let submit = |count: usize| {
        let forged = "X-Deskmilter-Sender-Auth: pass\r\n".repeat(count);
        let message = [forged.as_bytes(), &Message::new("a@plain.example", SUPPORT, "hello").octets()].concat();
        site.receive(&Site::stranger(), "a@plain.example", &[SUPPORT], &message)
    };
    // Postfix reads the whole header section again for each field that is to be deleted.
    let begun = std::time::Instant::now();
    let reply = submit(12_000);
    assert!(reply.code == 554 && begun.elapsed() < std::time::Duration::from_secs(4), "{reply} {:?}", begun.elapsed());
    assert_eq!(submit(100).code, 250);
    let text = text(&site.desk().wait_for_tickets(1)[0]);
    assert_eq!(text.matches("X-Deskmilter-").count(), 1, "{text}");
}

fn thousands_of_injected_verdicts_do_not_keep_the_daemon_busy(mta: Mta) {
    let site = Company::inbound(mta);
    let verdicts = format!("X-Deskmilter-Sender-Auth: pass; t=1; mac={}\r\n", "A".repeat(43)).repeat(5_000);
    let to = format!("To: {SUPPORT}{}\r\n", format!(",\r\n {SUPPORT}").repeat(3_000)).repeat(10);
    let message = format!("{verdicts}From: a@plain.example\r\n{to}\r\nhello\r\n");
    let begun = std::time::Instant::now();
    let reply = site.receive_unjudged("a@plain.example", &[SUPPORT], message.as_bytes());
    assert_eq!(reply.code, 250, "{reply}");
    let ticket = &site.desk().wait_for_tickets(1)[0];
    assert!(begun.elapsed() < std::time::Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(fact(ticket, "sender_auth"), "none");
}

fn a_result_below_a_verdict_of_ours_is_not_ours(mta: Mta) {
    let site = Company::inbound(mta);
    let message = customer_mail(&site, "boss@acme.example");
    site.receive(&Site::customer(), "jane@customer.example", &["boss@acme.example"], &message);
    // As a mail server between the milter and the transport would hand it on, and a field put in on the way.
    let judged = String::from_utf8_lossy(&site.wait_for_mail("boss@acme.example", 1)[0]).replace("\r\n", "\n");
    let judged = &judged[judged.find("Authentication-Results").unwrap()..];
    let forged = "Authentication-Results: mx.acme.example; dmarc=pass header.from=bank.example\nFrom: ";
    let message = judged.replacen("From: ", forged, 1).replace('\n', "\r\n");
    site.receive_unjudged("jane@customer.example", &[SUPPORT], message.as_bytes());
    let text = text(&site.desk().wait_for_tickets(1)[0]);
    assert!(text.contains("header.from=customer.example") && text.contains("Sender-Auth: pass;"), "{text}");
    assert!(!text.contains("bank.example"), "{text}");
}

fn a_verdict_does_not_pass_to_another_text_under_the_same_fields(mta: Mta) {
    let site = Company::inbound(mta);
    let honest = Message::new("jane@customer.example", SUPPORT, "Order 4711").field("Cc", "sales@acme.example");
    let signed = site.signer().sign(&honest.octets());
    let to = ["sales@acme.example"];
    assert_eq!(site.receive(&Site::customer(), "jane@customer.example", &to, &signed).code, 250);
    let delivered = site.wait_for_mail("sales@acme.example", 1);
    let seen = String::from_utf8_lossy(&delivered[0]).replace('\n', "\r\n");
    let fields = seen.split("X-Deskmilter-Sender-Auth:").nth(1).unwrap().split("\r\n\r\n").next().unwrap();
    let again = |body: &str| format!("X-Deskmilter-Sender-Auth:{fields}\r\n\r\n{body}");
    let original = String::from_utf8(signed.clone()).unwrap();
    let same = again(original.split("\r\n\r\n").skip(1).collect::<Vec<_>>().join("\r\n\r\n").as_str());
    for (message, expected) in [(again("Send money.\r\n"), "none"), (same, "pass")] {
        let before = site.desk().count_tickets();
        assert_eq!(site.receive_unjudged("x@stranger.example", &[SUPPORT], message.as_bytes()).code, 250);
        let tickets = site.desk().wait_for_tickets(before + 1);
        assert_eq!(fact(&tickets[before], "sender_auth"), expected);
    }
}

#[test]
fn postfix_may_speak_any_version_of_the_milter_protocol() {
    for version in [2, 3, 4] {
        let site = Site::with("", "", &format!("milter_protocol = {version}\n"));
        let forged = ["pass; reason=forged", "pass; reason=forged too"];
        let message = Message::new("Jane <jane@customer.example>", SUPPORT, &format!("protocol {version}"))
            .field("X-Deskmilter-Sender-Auth", forged[0])
            .field("Authentication-Results", "mx.acme.example; dkim=fail")
            .field("X-Kept", "  as it is ")
            .field("X-Deskmilter-Sender-Auth", forged[1]);
        let message = site.signer.sign(&message.octets());
        let mut session = SmtpSession::connect_as(site.postfix.address(), &Site::customer());
        let reply = session.send("jane@customer.example", &[SUPPORT], &message);
        assert_eq!(reply.code, 250, "{version}: {reply}\n{}", site.postfix.log());
        let reply = session.send("jane@customer.example", &["sales@acme.example"], &message);
        assert_eq!(reply.code, 250, "{version}: {reply}\n{}", site.postfix.log());
        let received = text(&site.desk.wait_for_tickets(1)[0]);
        assert!(!received.contains("forged") && !received.contains("dkim=fail"), "{version}: {received}");
        assert!(received.contains("X-Deskmilter-Sender-Auth: pass; reason=dmarc"), "{version}: {received}");
        assert!(received.contains("\r\nX-Kept:   as it is "), "{version}: {received}");
        site.postfix.wait_for_mail("sales@acme.example", 1);
    }
}
