//! The rest of a domain's mail: signed where that was asked for, otherwise left alone.

use support::{Client, Company, EMPLOYEE_LOGIN, Message, Mta, OutboundSite, Terms, fields, received_as_sent};

use super::{JANE, SUPPORT, signatures, under, verdicts};

support::for_each_mta! {
    a_stranger_who_writes_zendesk_fields_is_not_taken_for_the_ticket_system,
    an_employees_mail_is_signed_for_the_domain_and_otherwise_left_alone,
    an_employees_mail_without_a_date_is_signed_so_that_a_server_further_on_may_add_it,
    mail_of_other_authors_and_other_networks_is_not_signed,
    a_notification_is_signed_by_the_connectors_keys_and_not_by_the_domains_again,
    mail_from_a_native_address_to_the_companys_people_flows,
}

const SIGNING: &str = "[[signing]]\ndomain = \"acme.example\"\nselector = \"mail2026\"\nkey_file = \"mail2026.pem\"\n";

fn a_stranger_who_writes_zendesk_fields_is_not_taken_for_the_ticket_system(mta: Mta) {
    let site = Company::outbound(mta, &Terms { tables: SIGNING, ..Terms::default() });
    let stranger = Client::new("198.51.100.66", "stranger.example");
    let sent = Message::zendesk_notification(SUPPORT, "sales@acme.example", "Trust me")
        .without("X-Mailer")
        .set("Auto-Submitted", "no")
        .octets();
    let reply = site.receive(&stranger, SUPPORT, &["sales@acme.example"], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.wait_for_mail("sales@acme.example", 1).remove(0);
    assert!(received_as_sent(&received, &sent), "{}", String::from_utf8_lossy(&received));
    assert!(fields(&received, "DKIM-Signature").is_empty(), "{}", String::from_utf8_lossy(&received));
}

fn an_employees_mail_is_signed_for_the_domain_and_otherwise_left_alone(mta: Mta) {
    let site = Company::outbound(mta, &Terms { tables: SIGNING, ..Terms::default() });
    let sent = Message::new("Boss <boss@acme.example>", JANE, "Lunch").octets();
    let reply = site.submit_as(EMPLOYEE_LOGIN, "boss@acme.example", &[JANE], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.delivered(1).message;
    assert!(received_as_sent(&received, &sent));
    let verdicts = verdicts(&site, &received);
    assert!(verdicts.all_valid("acme.example", "mail2026") && verdicts.dmarc_passes(), "{verdicts:?}");
}

fn an_employees_mail_without_a_date_is_signed_so_that_a_server_further_on_may_add_it(mta: Mta) {
    let site = Company::outbound(mta, &Terms { tables: SIGNING, ..Terms::default() });
    let sent = Message::new("Boss <boss@acme.example>", JANE, "Lunch").without("Date").octets();
    let reply = site.submit_as(EMPLOYEE_LOGIN, "boss@acme.example", &[JANE], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.delivered(1).message;
    assert!(fields(&received, "Date").is_empty(), "{}", String::from_utf8_lossy(&received));
    let dated = under("Date: Sun, 22 Nov 2026 09:00:00 +0000\r\n", &received);
    for message in [&received, &dated] {
        let verdicts = verdicts(&site, message);
        for found in [&verdicts.dkimpy, &verdicts.mail_auth] {
            assert!(!found.is_empty() && found.iter().all(|signature| signature.valid), "{verdicts:?}");
        }
    }
    // A second author or Date has no excuse.
    for name in ["From", "Date"] {
        let twice = Message::new("Boss <boss@acme.example>", JANE, "Lunch").field(name, "x@acme.example").octets();
        let reply = site.submit_as(EMPLOYEE_LOGIN, "boss@acme.example", &[JANE], &twice);
        assert!(reply.code == 550 && reply.text.starts_with("5.6.0 2 "), "{name}: {reply}");
    }
}

fn mail_of_other_authors_and_other_networks_is_not_signed(mta: Mta) {
    let site = Company::outbound(mta, &Terms { tables: SIGNING, ..Terms::default() });
    let sent = Message::new("Friend <friend@other.example>", JANE, "Hello").octets();
    let reply = site.submit_as(EMPLOYEE_LOGIN, "friend@other.example", &[JANE], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    assert!(fields(&site.delivered(1).message, "DKIM-Signature").is_empty());
    let sent = Message::new("Boss <boss@acme.example>", "sales@acme.example", "Send money").octets();
    let elsewhere = Client::new("192.0.2.77", "relay.other.example");
    site.receive(&elsewhere, "boss@acme.example", &["sales@acme.example"], &sent);
    assert!(fields(&site.wait_for_mail("sales@acme.example", 1)[0], "DKIM-Signature").is_empty());
}

#[test]
fn mail_from_a_signing_network_and_from_this_host_is_signed() {
    let terms = Terms { tables: SIGNING, outbound: "signing_networks = [\"192.0.2.0/24\"]", ..Terms::default() };
    let site = OutboundSite::start(&terms);
    let sent = Message::new("Boss <boss@acme.example>", "sales@acme.example", "From the printer").octets();
    let printer = Client::new("192.0.2.77", "printer.acme.example");
    site.postfix.submit_as(&printer, "boss@acme.example", &["sales@acme.example"], &sent);
    assert_eq!(signatures(&site.postfix.wait_for_mail("sales@acme.example", 1)[0], "mail2026"), 1);
    let cron = Message::new("boss@acme.example", JANE, "Disk full").octets();
    site.postfix.submit_by_sendmail("boss@acme.example", &[JANE], &cron);
    let verdicts = verdicts(&site, &site.delivered(1).message);
    assert!(verdicts.all_valid("acme.example", "mail2026"), "{verdicts:?}");
}

fn a_notification_is_signed_by_the_connectors_keys_and_not_by_the_domains_again(mta: Mta) {
    let site = Company::outbound(mta, &Terms { tables: SIGNING, ..Terms::default() });
    let received = site.deliver(&site.notification());
    super::assert_signed(&site, &received);
    assert_eq!(signatures(&received, "mail2026"), 0, "{}", String::from_utf8_lossy(&received));
}

fn mail_from_a_native_address_to_the_companys_people_flows(mta: Mta) {
    let site = Company::outbound(mta, &Terms { tables: SIGNING, ..Terms::default() });
    let native = "noreply@acme.zendesk.com";
    let sent = Message::zendesk_notification(native, "boss@acme.example", "New sign-in").octets();
    let reply = site.receive(&OutboundSite::zendesk_host(), native, &["boss@acme.example"], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.wait_for_mail("boss@acme.example", 1).remove(0);
    assert!(received_as_sent(&received, &sent), "{}", String::from_utf8_lossy(&received));
}

#[test]
fn addresses_that_postfix_masquerades_are_rewritten_before_the_signature_is_made() {
    let main_cf = "masquerade_domains = acme.example\nlocal_header_rewrite_clients = permit_inet_interfaces";
    let site = OutboundSite::start(&Terms { tables: SIGNING, main_cf, ..Terms::default() });
    let sent = Message::new("Boss <boss@host1.acme.example>", JANE, "Lunch").octets();
    let reply = site.submit_as(EMPLOYEE_LOGIN, "boss@acme.example", &[JANE], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.delivered(1).message;
    assert_eq!(fields(&received, "From"), [b"From: Boss <boss@acme.example>\r\n"]);
    assert!(verdicts(&site, &received).all_valid("acme.example", "mail2026"), "{}", site.logs());
}
