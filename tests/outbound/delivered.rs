//! What the end user's server gets.

use std::process::Command;

use support::{
    BILLING_LOGIN, Client, Company, EMPLOYEE_LOGIN, Message, Mta, NameServer, OutboundSite, SUPPORT_LOGIN, Terms,
    Verdicts, Zone, deskmilter, fields, notification, received_as_sent,
};

use super::{JANE, PRESERVED, SUPPORT, assert_preserved, assert_signed, replaced, signatures, under, verdicts};

support::for_each_mta! {
    a_notification_arrives_as_it_was_sent_with_a_signature_that_every_verifier_finds_valid,
    a_signature_that_was_there_stands_below_ours_octet_by_octet,
    a_change_to_a_preserved_field_or_a_second_one_breaks_a_signature_and_leaves_the_core_one,
    a_second_author_or_another_subject_breaks_every_signature,
    keys_of_both_kinds_sign_side_by_side,
    unless_signed_signs_only_what_has_no_valid_signature_of_the_domain,
    the_log_says_that_spf_is_not_held_against_the_trusted_hop,
    verification_mail_from_and_to_the_support_address_is_signed_and_becomes_a_ticket,
    a_notification_to_an_end_user_and_a_support_address_reaches_both_signed,
    each_login_sends_for_its_address_and_the_log_names_it,
    an_employees_own_mail_is_not_taken_for_a_notification,
    one_session_carries_many_messages_refused_ones_among_them,
}

fn a_notification_arrives_as_it_was_sent_with_a_signature_that_every_verifier_finds_valid(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let sent = site.notification();
    let received = site.deliver(&sent);
    assert!(received_as_sent(&received, &sent), "{}", String::from_utf8_lossy(&received));
    assert_preserved(&sent, &received);
    let verdicts = assert_signed(&site, &received);
    assert!(verdicts.all_valid("acme.example", "zendesk2"), "{verdicts:?}");
    assert!(!String::from_utf8_lossy(&received).to_lowercase().contains("x-deskmilter"), "nothing internal leaves");
}

fn a_signature_that_was_there_stands_below_ours_octet_by_octet(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let sent = site.notification();
    let received = site.deliver(&sent);
    let theirs = fields(&sent, "DKIM-Signature");
    let all = fields(&received, "DKIM-Signature");
    assert_eq!(all.last(), theirs.last());
    assert!(all.len() > theirs.len());
}

fn a_change_to_a_preserved_field_or_a_second_one_breaks_a_signature_and_leaves_the_core_one(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let received = site.deliver(&notification().octets());
    assert_signed(&site, &received);
    for name in PRESERVED {
        let field = String::from_utf8(fields(&received, name).remove(0)).unwrap();
        let gone = replaced(&received, &field, "");
        let changed = replaced(&received, &field, &field.replacen(": ", ": x", 1));
        let twice = under(&format!("{name}: something else\r\n"), &received);
        for touched in [gone, changed, twice] {
            let verdicts = verdicts(&site, &touched);
            for found in [&verdicts.opendkim, &verdicts.dkimpy, &verdicts.mail_auth] {
                assert!(found.iter().any(|signature| !signature.valid), "{name}: {verdicts:?}");
                assert!(found.iter().any(|signature| signature.valid), "{name}, core signature: {verdicts:?}");
            }
            assert!(verdicts.dmarc_passes(), "{name}: {verdicts:?}");
        }
    }
}

fn a_second_author_or_another_subject_breaks_every_signature(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let received = site.deliver(&notification().octets());
    for touched in [
        under("From: Boss <boss@acme.example>\r\n", &received),
        under("Subject: Send money\r\n", &received),
        under("Reply-To: x@stranger.example\r\n", &received),
        replaced(&received, "Order 4711", "Order 4712"),
        [received.as_slice(), b"P.S. pay me\r\n"].concat(),
    ] {
        let verdicts = verdicts(&site, &touched);
        assert!(verdicts.none_valid("acme.example", "desk2026"), "{verdicts:?}");
    }
}

fn keys_of_both_kinds_sign_side_by_side(mta: Mta) {
    let site = Company::outbound(
        mta,
        &Terms {
            keys: Some(
                "[[connector.dkim]]\nselector = \"desk2026\"\nkey_file = \"desk2026.pem\"\ncover = \"core\"\n\
             [[connector.dkim]]\nselector = \"ed2026\"\nkey_file = \"ed2026.pem\"\ncover = \"core\"\n",
            ),
            ..Terms::default()
        },
    );
    let received = site.deliver(&site.notification());
    let verdicts = assert_signed(&site, &received);
    assert!(verdicts.all_valid("acme.example", "ed2026"), "{verdicts:?}");
    assert_eq!((signatures(&received, "desk2026"), signatures(&received, "ed2026")), (1, 1));
}

fn unless_signed_signs_only_what_has_no_valid_signature_of_the_domain(mta: Mta) {
    let site = Company::outbound(
        mta,
        &Terms {
            keys: Some(
                "[[connector.dkim]]\nselector = \"desk2026\"\nkey_file = \"desk2026.pem\"\nsign = \"unless-signed\"\n",
            ),
            ..Terms::default()
        },
    );
    let signed = site.notification();
    assert_eq!(signatures(&site.deliver(&signed), "desk2026"), 0);
    let broken = [signed.as_slice(), b"Added on the way.\r\n"].concat();
    assert_signed(&site, &site.deliver(&broken));
    assert_signed(&site, &site.deliver(&notification().octets()));
}

fn the_log_says_that_spf_is_not_held_against_the_trusted_hop(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    site.deliver(&site.notification());
    let log = site.daemon().log();
    let line = log.lines().find(|line| line.contains("zendesk-support")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("spf=") && line.contains("trusted") && line.contains("acme"), "{line}");
    // Exim's notifications are signed on the last hop.
    assert!(log.lines().any(|line| line.contains("decision=signed") && line.contains("desk2026")), "{log}");
}

fn verification_mail_from_and_to_the_support_address_is_signed_and_becomes_a_ticket(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let message = Message::zendesk_notification(SUPPORT, SUPPORT, "Verify your address").without("Cc").octets();
    let sent = site.zendesk().sign(&message);
    let reply = site.submit(&[SUPPORT], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let ticket = site.desk().wait_for_tickets(1).remove(0);
    let received = ticket.messages().remove(0);
    assert_preserved(&sent, &received);
    assert!(received_as_sent(&received, &sent), "{}", String::from_utf8_lossy(&received));
    let verdicts = assert_signed(&site, &received);
    assert!(verdicts.all_valid("acme.example", "zendesk2"), "{verdicts:?}");
    assert_eq!(ticket.tags(), ["system_authenticated_email_ticket"]);
}

fn a_notification_to_an_end_user_and_a_support_address_reaches_both_signed(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let sent = site.notification();
    let reply = site.submit(&[JANE, "billing@acme.example"], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let ticket = site.desk().wait_for_tickets(1).remove(0);
    assert_signed(&site, &ticket.messages()[0]);
    assert_signed(&site, &site.delivered(1).message);
}

fn each_login_sends_for_its_address_and_the_log_names_it(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let billing = Message::zendesk_notification("billing@acme.example", JANE, "Invoice").octets();
    let reply = site.submit_as(BILLING_LOGIN, "billing@acme.example", &[JANE], &billing);
    assert_eq!(reply.code, 250, "{reply}");
    assert_signed(&site, &site.delivered(1).message);
    assert!(site.daemon().log().lines().any(|line| line.contains("login=zendesk-billing") && line.contains("acme")));
}

fn an_employees_own_mail_is_not_taken_for_a_notification(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let sent = Message::zendesk_notification("boss@acme.example", JANE, "Lunch").octets();
    let reply = site.submit_as(EMPLOYEE_LOGIN, "boss@acme.example", &[JANE], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.delivered(1).message;
    assert_eq!(fields(&received, "DKIM-Signature").len(), 0);
    assert!(received_as_sent(&received, &sent));
}

fn one_session_carries_many_messages_refused_ones_among_them(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let mut session = site.login(SUPPORT_LOGIN);
    for n in 0..20 {
        let author = if n % 4 == 3 { "boss@acme.example" } else { SUPPORT };
        let message = Message::zendesk_notification(author, JANE, &format!("message {n}")).octets();
        let reply = session.send(SUPPORT, &[JANE], &message);
        assert_eq!(reply.code, if n % 4 == 3 { 550 } else { 250 }, "{n}: {reply}");
    }
    let arrived = site.customer().wait_for(15, || site.logs());
    assert_eq!(arrived.len(), 15);
    for transaction in arrived.iter().step_by(5) {
        assert_signed(&site, &transaction.message);
    }
}

#[test]
fn keys_that_key_new_makes_verify_with_the_records_that_key_record_prints() {
    let key = |arguments: &[&str]| {
        let output = Command::new(deskmilter()).arg("key").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut zone = Zone::new();
    let site = OutboundSite::prepare(&Terms {
        keys: Some(
            "[[connector.dkim]]\nselector = \"new-rsa\"\nkey_file = \"new-rsa.pem\"\n\
             [[connector.dkim]]\nselector = \"new-ed\"\nkey_file = \"new-ed.pem\"\n",
        ),
        ..Terms::default()
    });
    for (selector, kind) in [("new-rsa", "rsa"), ("new-ed", "ed25519")] {
        let file = site.keys().join(selector).with_extension("pem");
        let of = ["--domain", "acme.example", "--selector", selector, "--file", file.to_str().unwrap()];
        key(&[&["new", "--type", kind], of.as_slice()].concat());
        let record = key(&[&["record", "--format", "text"], of.as_slice()].concat());
        zone = zone.txt(&format!("{selector}._domainkey.acme.example"), record.trim());
    }
    let site = site.start();
    let received = site.deliver(&notification().octets());
    let names = NameServer::start(&zone);
    let client = Client::new("198.51.100.66", "forwarder.example");
    let verdicts = Verdicts::of(&received, &client, SUPPORT, &names);
    assert!(verdicts.all_valid("acme.example", "new-rsa"), "{verdicts:?}");
    assert!(verdicts.all_valid("acme.example", "new-ed"), "{verdicts:?}");
}
