//! Each rule for a submitted notification: what breaks it is refused with its code and a word why, its honest twin passes.

use support::{
    BILLING_LOGIN, Client, Company, Message, Mta, OutboundSite, Reply, SUPPORT_LOGIN, SmtpSession, Terms, notification,
};

use super::{JANE, SUPPORT};

support::for_each_mta! {
    a_login_of_another_support_address_is_refused,
    a_domain_that_is_not_the_connectors_is_refused_in_the_envelope_and_in_from,
    a_native_address_through_the_connector_is_refused_by_name,
    an_address_that_is_not_registered_is_refused,
    the_null_sender_passes_with_a_registered_author_and_with_no_other,
    a_message_needs_one_author_and_one_date,
    a_login_from_another_network_is_refused,
    a_login_that_sends_too_much_waits_and_no_other_login_does,
    a_login_that_writes_to_too_many_waits,
    refusals_are_told_in_the_log_with_login_and_client,
}

/// The code, the enhanced code, and each of the words.
fn assert_refused(reply: &Reply, code: u16, enhanced: &str, words: &[&str]) {
    let text = reply.text.to_lowercase();
    assert!(reply.code == code && text.starts_with(enhanced), "{code} {enhanced} expected: {reply}");
    for word in words {
        assert!(text.contains(word), "{word:?} expected: {reply}");
    }
}

fn from(author: &str) -> Vec<u8> {
    Message::zendesk_notification(author, JANE, "Re: Order 4711").octets()
}

#[track_caller]
fn assert_passes(site: &Company, login: &str, sender: &str, message: &[u8]) {
    let reply = site.submit_as(login, sender, &[JANE], message);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
}

#[test]
fn a_login_without_tls_is_refused() {
    let site = OutboundSite::start(&Terms {
        service: &["smtpd_tls_security_level=may", "smtpd_tls_auth_only=no"],
        ..Terms::default()
    });
    let mut plain = SmtpSession::connect_as(site.submission.address(), &OutboundSite::zendesk_host());
    assert_eq!(plain.login(SUPPORT_LOGIN, site.submission.password(SUPPORT_LOGIN)).code, 235);
    assert_refused(&plain.send(SUPPORT, &[JANE], &from(SUPPORT)), 530, "5.7.0", &["tls"]);
    assert_eq!(site.submit(&[JANE], &from(SUPPORT)).code, 250);
}

fn a_login_of_another_support_address_is_refused(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let reply = site.submit_as(BILLING_LOGIN, SUPPORT, &[JANE], &from(SUPPORT));
    assert_refused(&reply, 550, "5.7.1", &[BILLING_LOGIN, SUPPORT]);
    let reply = site.submit_as(BILLING_LOGIN, "billing@acme.example", &[JANE], &from(SUPPORT));
    assert_refused(&reply, 550, "5.7.1", &[SUPPORT]);
    assert_passes(&site, BILLING_LOGIN, "billing@acme.example", &from("billing@acme.example"));
    assert_passes(&site, SUPPORT_LOGIN, SUPPORT, &from("\"Acme, Support\" <Support@ACME.example>"));
}

fn a_domain_that_is_not_the_connectors_is_refused_in_the_envelope_and_in_from(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let reply = site.submit_as(SUPPORT_LOGIN, "support@other.example", &[JANE], &from(SUPPORT));
    assert_refused(&reply, 550, "5.7.1", &["other.example"]);
    let reply = site.submit_as(SUPPORT_LOGIN, SUPPORT, &[JANE], &from("support@other.example"));
    assert_refused(&reply, 550, "5.7.1", &["other.example"]);
    let reply = site.submit_as(SUPPORT_LOGIN, SUPPORT, &[JANE], &from("support@sub.acme.example"));
    assert_refused(&reply, 550, "5.7.1", &["sub.acme.example"]);
    assert_passes(&site, SUPPORT_LOGIN, SUPPORT, &from(SUPPORT));
}

fn a_native_address_through_the_connector_is_refused_by_name(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let native = "support@acme.zendesk.com";
    let reply = site.submit_as(SUPPORT_LOGIN, SUPPORT, &[JANE], &from(native));
    assert_refused(&reply, 550, "5.7.1", &[native, "native"]);
    let reply = site.submit_as(SUPPORT_LOGIN, native, &[JANE], &from(SUPPORT));
    assert_refused(&reply, 550, "5.7.1", &[native, "native"]);
    assert_passes(&site, SUPPORT_LOGIN, SUPPORT, &from(SUPPORT));
}

fn an_address_that_is_not_registered_is_refused(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    let reply = site.submit_as(SUPPORT_LOGIN, SUPPORT, &[JANE], &from("boss@acme.example"));
    assert_refused(&reply, 550, "5.7.1", &["boss@acme.example"]);
    let reply = site.submit_as(SUPPORT_LOGIN, "boss@acme.example", &[JANE], &from(SUPPORT));
    assert_refused(&reply, 550, "5.7.1", &["boss@acme.example"]);
    assert_passes(&site, SUPPORT_LOGIN, SUPPORT, &from(SUPPORT));
}

fn the_null_sender_passes_with_a_registered_author_and_with_no_other(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    assert_passes(&site, SUPPORT_LOGIN, "", &from(SUPPORT));
    assert!(site.delivered(1).mail.starts_with("FROM:<>"));
    let reply = site.submit_as(SUPPORT_LOGIN, "", &[JANE], &from("boss@acme.example"));
    assert_refused(&reply, 550, "5.7.1", &["boss@acme.example"]);
}

fn a_message_needs_one_author_and_one_date(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    for (what, message) in [
        ("no From", notification().without("From").octets()),
        ("two From", notification().field("From", "boss@acme.example").octets()),
        ("two authors", from("support@acme.example, boss@acme.example")),
        ("unreadable", from("support")),
        ("no Date", notification().without("Date").octets()),
    ] {
        let reply = site.submit(&[JANE], &message);
        assert_refused(&reply, 550, "5.6.0", &[]);
        assert!(!reply.text.is_empty(), "{what}");
    }
    assert_passes(&site, SUPPORT_LOGIN, SUPPORT, &from(SUPPORT));
}

fn a_login_from_another_network_is_refused(mta: Mta) {
    let site = Company::outbound(mta, &Terms { submission: "networks = [\"216.198.0.0/18\"]", ..Terms::default() });
    let thief = Client::new("198.51.100.66", "thief.example");
    let reply = site.login_as(&thief, SUPPORT_LOGIN).send(SUPPORT, &[JANE], &from(SUPPORT));
    assert_refused(&reply, 550, "5.7.1", &["198.51.100.66"]);
    assert_passes(&site, SUPPORT_LOGIN, SUPPORT, &from(SUPPORT));
}

fn a_login_that_sends_too_much_waits_and_no_other_login_does(mta: Mta) {
    let site = Company::outbound(mta, &Terms { submission: "rate = \"2/h\"", ..Terms::default() });
    assert_passes(&site, SUPPORT_LOGIN, SUPPORT, &from(SUPPORT));
    assert_passes(&site, SUPPORT_LOGIN, SUPPORT, &from(SUPPORT));
    assert_refused(&site.submit(&[JANE], &from(SUPPORT)), 451, "4.7.1", &["2"]);
    assert_passes(&site, BILLING_LOGIN, "billing@acme.example", &from("billing@acme.example"));
}

fn a_login_that_writes_to_too_many_waits(mta: Mta) {
    let site = Company::outbound(mta, &Terms { submission: "recipient_rate = \"3/h\"", ..Terms::default() });
    let three = [JANE, "a@customer.example", "b@customer.example"];
    assert_eq!(site.submit(&three, &from(SUPPORT)).code, 250);
    assert_refused(&site.submit(&[JANE], &from(SUPPORT)), 451, "4.7.1", &["3"]);
    assert_passes(&site, BILLING_LOGIN, "billing@acme.example", &from("billing@acme.example"));
}

#[test]
fn a_sender_in_a_spelling_that_no_rfc_knows_is_not_taken_for_the_null_sender() {
    let site = OutboundSite::start(&Terms::default());
    let long = format!("<{}@stranger.example>", "x".repeat(400));
    let spellings =
        ["<eve@stranger.example", "eve@stranger.example>", "<eve boss@stranger.example>", "<e<v>e@stranger.example>"];
    let mut taken = 0;
    for sender in spellings.into_iter().chain([long.as_str()]) {
        let mut session = site.submission.login(&OutboundSite::zendesk_host(), SUPPORT_LOGIN);
        if session.command(&format!("MAIL FROM:{sender}")).code != 250 {
            continue;
        }
        taken += 1;
        session.expect(250, &format!("RCPT TO:<{JANE}>"));
        session.expect(354, "DATA");
        let reply = session.data(&from(SUPPORT));
        assert_refused(&reply, 550, "5.7.1", &["sender", "is not in acme.example"]);
    }
    assert!(taken > 0, "Postfix takes some of them");
}

fn refusals_are_told_in_the_log_with_login_and_client(mta: Mta) {
    let site = Company::outbound(mta, &Terms::default());
    site.submit_as(BILLING_LOGIN, SUPPORT, &[JANE], &from(SUPPORT));
    let log = site.daemon().log();
    let line = log.lines().find(|line| line.contains("login=zendesk-billing")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("216.198.3.4") && line.contains("refused"), "{line}");
}
