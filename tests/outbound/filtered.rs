//! A content filter between two passes of the milter.

use support::{Client, DISCLAIMER, Filter, Message, OutboundSite, SmtpSession, Terms, fields, notification};

use super::{JANE, PRESERVED, SUPPORT, assert_preserved, assert_signed, replaced, verdicts};

const HERE: &str = "reinjection_networks = [\"127.0.0.1/32\"]";

/// The field that carries the values past the filter.
const SEAL: &str = "X-Deskmilter-Seal";

fn sealed(filter: Filter) -> OutboundSite {
    OutboundSite::start(&Terms { filter, outbound: HERE, ..Terms::default() })
}

/// A notification as it comes out of the first pass.
fn between(site: &OutboundSite, message: &[u8]) -> Vec<u8> {
    let before = site.between.transactions().len();
    let reply = site.submit(&[JANE], message);
    assert_eq!(reply.code, 250, "{reply}");
    let sealed = site.between.wait_for(before + 1, || site.logs()).pop().unwrap().message;
    assert_eq!(fields(&sealed, SEAL).len(), 1, "{}", String::from_utf8_lossy(&sealed));
    sealed
}

/// What a thorough filter does to the preserved fields.
fn mangled(message: &[u8]) -> Vec<u8> {
    let message = replaced(message, "X-Mailer: Zendesk Mailer\r\n", "");
    let message = replaced(&message, "X-Zendesk-Email-Id: 01HRZJ3V4K8M2QWXY6T9ABCDEF\r\n", "");
    replaced(&message, "Auto-Submitted: auto-generated", "Auto-Submitted: no")
}

#[test]
fn what_a_content_filter_did_to_preserved_fields_is_undone_and_the_signature_is_made_after_it() {
    let site = sealed(Filter::Real);
    let sent = site.notification();
    let received = site.deliver(&sent);
    assert_preserved(&sent, &received);
    assert_signed(&site, &received);
    // The filter's own work stays.
    assert_eq!(fields(&received, "X-Scanned-By").len(), 1);
    assert!(received.ends_with(DISCLAIMER.as_bytes()), "{}", String::from_utf8_lossy(&received));
    assert!(fields(&received, SEAL).is_empty());
    let log = site.daemon.log();
    assert!(log.contains("X-Mailer") && log.contains("Auto-Submitted"), "repairs are told: {log}");
}

#[test]
fn verification_mail_through_a_content_filter_is_signed_and_becomes_an_authenticated_ticket() {
    // The filter appends to the body.
    let authentication = "verdict_covers_body = false";
    let site = OutboundSite::start(&Terms { filter: Filter::Real, outbound: HERE, authentication, ..Terms::default() });
    let sent = Message::zendesk_notification(SUPPORT, SUPPORT, "Verify your address").without("Cc").octets();
    let reply = site.submit(&[SUPPORT], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let ticket = site.desk.wait_for_tickets(1).remove(0);
    let received = ticket.messages().remove(0);
    assert_preserved(&sent, &received);
    assert_signed(&site, &received);
    assert_eq!(ticket.tags(), ["system_authenticated_email_ticket"]);
    assert_eq!(ticket.facts["sender_auth"], "pass", "{}", ticket.facts);
    assert!(fields(&received, SEAL).is_empty());
}

#[test]
fn a_notification_with_the_null_sender_passes_a_content_filter_too() {
    let site = sealed(Filter::Real);
    let sent = site.notification();
    let reply = site.submit_as(support::SUPPORT_LOGIN, "", &[JANE], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.delivered(1).message;
    assert_preserved(&sent, &received);
    assert_signed(&site, &received);
}

#[test]
fn odd_notifications_pass_a_content_filter() {
    let site = sealed(Filter::Real);
    let ids = (0..200).map(|n| format!("<{n}.{}@customer.example>", "x".repeat(40))).collect::<Vec<_>>();
    let to = (0..1_000).map(|n| format!("User {n} <user{n}@customer.example>")).collect::<Vec<_>>();
    for (what, message) in [
        ("many ids", notification().set("References", &ids.join("\r\n "))),
        ("many recipients", notification().set("To", &to.join(",\r\n "))),
        ("folded", notification().set("X-Zendesk-Email-Id", "\r\n\t01HRZJ3V4K8M2QWXY6T9ABCDEF")),
        ("8-bit name", notification().set("From", "Jürgen <support@acme.example>").set("Subject", "Größe")),
        ("no body", notification().body("")),
        ("no Cc, Reply-To or References", notification().without("Cc").without("Reply-To").without("References")),
    ] {
        let sent = message.octets();
        let received = site.deliver(&sent);
        assert_preserved(&sent, &received);
        assert_signed(&site, &received);
        assert!(fields(&received, SEAL).is_empty(), "{what}");
    }
}

#[test]
fn an_employees_mail_is_signed_after_the_content_filter_and_a_strangers_is_not() {
    let tables = "[[signing]]\ndomain = \"acme.example\"\nselector = \"mail2026\"\nkey_file = \"mail2026.pem\"\n";
    let site = OutboundSite::start(&Terms { filter: Filter::Test, outbound: HERE, tables, ..Terms::default() });
    let sent = Message::new("Boss <boss@acme.example>", JANE, "Lunch").octets();
    let reply = site.submit_as(support::EMPLOYEE_LOGIN, "boss@acme.example", &[JANE], &sent);
    assert_eq!(reply.code, 250, "{reply}");
    let between = site.between.wait_for(1, || site.logs()).remove(0).message;
    let filtered = [between.as_slice(), DISCLAIMER.as_bytes()].concat();
    assert_eq!(site.hand_back("boss@acme.example", &[JANE], &filtered).code, 250);
    let received = site.delivered(1).message;
    assert!(verdicts(&site, &received).all_valid("acme.example", "mail2026"), "{}", site.logs());
    // A stranger's mail comes back the same way.
    assert_eq!(site.hand_back("boss@acme.example", &[JANE], &sent).code, 250);
    assert!(fields(&site.delivered(2).message, "DKIM-Signature").is_empty());
}

#[test]
fn a_date_that_is_added_behind_the_filter_does_no_harm_to_an_employees_mail() {
    let tables = "[[signing]]\ndomain = \"acme.example\"\nselector = \"mail2026\"\nkey_file = \"mail2026.pem\"\n";
    let site = OutboundSite::start(&Terms { filter: Filter::Test, outbound: HERE, tables, ..Terms::default() });
    let dateless = Message::new("Boss <boss@acme.example>", JANE, "Lunch").without("Date");
    let reply = site.submit_as(support::EMPLOYEE_LOGIN, "boss@acme.example", &[JANE], &dateless.clone().octets());
    assert_eq!(reply.code, 250, "{reply}");
    let between = site.between.wait_for(1, || site.logs()).remove(0).message;
    let dated = super::under("Date: Sun, 22 Nov 2026 09:00:00 +0000\r\n", &between);
    assert_eq!(site.hand_back("boss@acme.example", &[JANE], &dated).code, 250);
    let received = site.delivered(1).message;
    assert!(verdicts(&site, &received).all_valid("acme.example", "mail2026"), "{}", site.logs());
    // With neither Date nor Message-ID nothing binds the seal to the message.
    let unbound = dateless.without("Message-ID").octets();
    let reply = site.submit_as(support::EMPLOYEE_LOGIN, "boss@acme.example", &[JANE], &unbound);
    assert!(reply.code == 550 && reply.text.starts_with("5.6.0 0 Date"), "{reply}");
}

#[test]
fn a_filter_that_drops_the_seal_leaves_a_breach_that_is_reported_and_a_message_that_is_not_signed() {
    let site = sealed(Filter::Test);
    let sealed = between(&site, &site.notification());
    let seal = String::from_utf8(fields(&sealed, SEAL).remove(0)).unwrap();
    assert_eq!(site.hand_back(SUPPORT, &[JANE], &mangled(&replaced(&sealed, &seal, ""))).code, 250);
    let received = site.delivered(1).message;
    assert!(fields(&received, "X-Mailer").is_empty());
    assert!(verdicts(&site, &received).none_valid("acme.example", "desk2026"));
    let log = site.daemon.log();
    let told = log.lines().find(|line| line.contains("WARN") && line.contains("seal"));
    let told = told.unwrap_or_else(|| panic!("{log}"));
    for name in ["acme", "X-Mailer", "X-Zendesk-Email-Id", "Auto-Submitted"] {
        assert!(told.contains(name), "{name}: {told}");
    }
}

#[test]
fn a_breach_by_a_filter_that_nobody_told_us_of_is_reported() {
    let site = OutboundSite::start(&Terms { filter: Filter::Real, ..Terms::default() });
    let received = site.deliver(&site.notification());
    assert!(fields(&received, "X-Mailer").is_empty());
    let log = site.daemon.log();
    let told = log.lines().find(|line| line.contains("WARN") && line.contains("X-Mailer"));
    let told = told.unwrap_or_else(|| panic!("{log}"));
    assert!(told.contains("Auto-Submitted") && told.contains("reinjection_networks"), "{told}");
}

#[test]
fn an_honest_filter_changes_nothing_and_nothing_is_repaired() {
    let site = sealed(Filter::Test);
    let sent = site.notification();
    let sealed = between(&site, &sent);
    assert_eq!(site.hand_back(SUPPORT, &[JANE], &sealed).code, 250);
    let received = site.delivered(1).message;
    assert_preserved(&sent, &received);
    let verdicts = assert_signed(&site, &received);
    assert!(verdicts.all_valid("acme.example", "zendesk2"), "{verdicts:?}");
    assert!(fields(&received, SEAL).is_empty());
}

#[test]
fn guarded_fields_that_a_filter_rewrote_come_back_too() {
    let site = sealed(Filter::Test);
    let sent = site.notification();
    let sealed = between(&site, &sent);
    let touched = replaced(&sealed, "\r\n\t<second@customer.example>", "");
    let touched = replaced(&touched, "Cc: Colleague <colleague@customer.example>\r\n", "");
    let touched = replaced(&mangled(&touched), "Reply-To: Acme", "Reply-To: Somebody");
    assert_eq!(site.hand_back(SUPPORT, &[JANE], &touched).code, 250);
    let received = site.delivered(1).message;
    assert_preserved(&sent, &received);
    assert_signed(&site, &received);
}

#[test]
fn fields_that_a_filter_puts_beside_preserved_and_guarded_ones_go() {
    let site = sealed(Filter::Test);
    let sent = notification().without("Cc").octets();
    let sealed = between(&site, &sent);
    let added =
        "X-Mailer: Filter\r\nFrom: Boss <boss@acme.example>\r\nCc: x@stranger.example\r\nauto-submitted: no\r\n";
    assert_eq!(site.hand_back(SUPPORT, &[JANE], &super::under(added, &sealed)).code, 250);
    let received = site.delivered(1).message;
    assert_preserved(&sent, &received);
    assert_signed(&site, &received);
}

#[test]
fn a_seal_that_was_touched_is_worth_nothing() {
    let site = sealed(Filter::Test);
    let sealed = between(&site, &site.notification());
    let seal = String::from_utf8(fields(&sealed, SEAL).remove(0)).unwrap();
    let forged = ["mac=", "h="].iter().find_map(|tag| seal.split_once(tag).map(|(a, b)| format!("{a}{tag}AAAA{b}")));
    let short = format!("{}\r\n", seal.trim_end().split_at(seal.trim_end().len() / 2).0);
    for (n, touched) in [forged.unwrap_or_else(|| seal.replacen('a', "b", 1)), short].iter().enumerate() {
        let message = mangled(&replaced(&sealed, &seal, touched));
        let reply = site.hand_back(SUPPORT, &[JANE], &message);
        assert_eq!(reply.code, 250, "{reply}");
        let received = site.delivered(n + 1).message;
        assert!(fields(&received, "X-Mailer").is_empty(), "{}", String::from_utf8_lossy(&received));
        assert!(fields(&received, SEAL).is_empty());
        assert!(verdicts(&site, &received).none_valid("acme.example", "desk2026"));
    }
    assert!(site.daemon.log().contains("seal"), "{}", site.daemon.log());
}

/// Hands a sealed message back that the filter has mangled: nothing is put back, nothing signed, the seal is gone, and the log
/// says why.
#[track_caller]
fn assert_seal_refused(site: &OutboundSite, message: &[u8], reason: &str) {
    let before = site.customer.transactions().len();
    let reply = site.hand_back(SUPPORT, &[JANE], message);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.delivered(before + 1).message;
    assert!(fields(&received, "X-Mailer").is_empty(), "{}", String::from_utf8_lossy(&received));
    assert!(fields(&received, SEAL).is_empty(), "{}", String::from_utf8_lossy(&received));
    assert!(verdicts(site, &received).none_valid("acme.example", "desk2026"));
    let log = site.daemon.log();
    let told = log.lines().rev().find(|line| line.contains("seal refused; not signed"));
    assert!(told.is_some_and(|line| line.contains("WARN") && line.contains(reason)), "{reason}: {told:?}");
}

#[test]
fn a_truncated_a_replayed_and_a_foreign_seal_are_each_refused_with_their_reason() {
    let mut site = sealed(Filter::Test);
    let sealed = between(&site, &site.notification());
    let seal = String::from_utf8(fields(&sealed, SEAL).remove(0)).unwrap();
    let cut = format!("{}\r\n", seal.trim_end().split_at(seal.len() / 2).0);
    assert_seal_refused(&site, &mangled(&replaced(&sealed, &seal, &cut)), "it cannot be read");
    let cut = format!("{}\r\n", seal.trim_end().split_at(seal.trim_end().len() - 3).0);
    assert_seal_refused(&site, &mangled(&replaced(&sealed, &seal, &cut)), "its MAC is not of a key of this site");

    let other = Message::zendesk_notification(SUPPORT, JANE, "Another").set("Date", "Mon, 23 Nov 2026 09:00:00 +0000");
    let other = other.octets();
    assert_seal_refused(&site, &super::under(&seal, &mangled(&other)), "it belongs to another message");

    let path = site.keys().join("state/site.key");
    restart_with_site_key(&mut site, &path, "BgkOEhcbICUpLjM3PEFFSk9TWF1haGxxdnp_hIiNkpc\n");
    assert_seal_refused(&site, &mangled(&sealed), "its MAC is not of a key of this site");
    // Its honest twin.
    let sent = site.notification();
    let honest = mangled(&between(&site, &sent));
    assert_eq!(site.hand_back(SUPPORT, &[JANE], &honest).code, 250);
    let received = site.delivered(5).message;
    assert_preserved(&sent, &received);
    assert_signed(&site, &received);
}

#[test]
fn an_expired_seal_is_refused_with_its_reason() {
    let outbound = "reinjection_networks = [\"127.0.0.1/32\"]\nseal_lifetime = \"60s\"";
    let site = OutboundSite::start(&Terms { filter: Filter::Test, outbound, ..Terms::default() });
    let sealed = mangled(&between(&site, &site.notification()));
    std::thread::sleep(std::time::Duration::from_secs(62));
    assert_seal_refused(&site, &sealed, "it is older than outbound.seal_lifetime");
}

#[test]
fn a_seal_of_another_message_is_worth_nothing() {
    let site = sealed(Filter::Test);
    let sealed = between(&site, &site.notification());
    let seal = String::from_utf8(fields(&sealed, SEAL).remove(0)).unwrap();
    let other = Message::zendesk_notification(SUPPORT, JANE, "Another").octets();
    let replay = super::under(&seal, &mangled(&other));
    assert_eq!(site.hand_back(SUPPORT, &[JANE], &replay).code, 250);
    let received = site.delivered(1).message;
    assert!(fields(&received, "X-Mailer").is_empty() && fields(&received, SEAL).is_empty());
    assert!(verdicts(&site, &received).none_valid("acme.example", "desk2026"));
}

#[test]
fn a_good_seal_counts_from_nowhere_but_the_reinjection_networks() {
    let site = sealed(Filter::Test);
    let sealed = between(&site, &site.notification());
    let stranger = Client::new("198.51.100.66", "stranger.example");
    // Over the public service, to a mailbox of the company.
    let reply = site.postfix.submit_as(&stranger, SUPPORT, &["sales@acme.example"], &sealed);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.postfix.wait_for_mail("sales@acme.example", 1).remove(0);
    assert!(fields(&received, SEAL).is_empty(), "{}", String::from_utf8_lossy(&received));
    assert!(fields(&received, "DKIM-Signature").iter().all(|f| !String::from_utf8_lossy(f).contains("desk2026")));
    // At the second pass itself, from another address.
    let mut session = SmtpSession::connect_as(site.second_pass, &stranger);
    let reply = session.send(SUPPORT, &["sales@acme.example"], &sealed);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.postfix.wait_for_mail("sales@acme.example", 2).remove(1);
    assert!(fields(&received, SEAL).is_empty(), "{}", String::from_utf8_lossy(&received));
    assert!(fields(&received, "DKIM-Signature").iter().all(|f| !String::from_utf8_lossy(f).contains("desk2026")));
}

#[test]
fn a_seal_that_the_ticket_system_or_an_employee_writes_is_removed() {
    let site = sealed(Filter::Test);
    let first = between(&site, &site.notification());
    let seal = String::from_utf8(fields(&first, SEAL).remove(0)).unwrap();
    let second = between(&site, &super::under(&seal, &notification().octets()));
    assert_ne!(fields(&second, SEAL), fields(&first, SEAL));
}

#[test]
fn a_seal_outlives_a_change_of_the_site_key_but_not_the_end_of_the_old_one() {
    let mut site = sealed(Filter::Test);
    let sent = site.notification();
    let out = mangled(&between(&site, &sent));
    let path = site.keys().join("state/site.key");
    let old = std::fs::read_to_string(&path).unwrap();
    let new = "BgkOEhcbICUpLjM3PEFFSk9TWF1haGxxdnp_hIiNkpc\n";
    restart_with_site_key(&mut site, &path, &format!("{new}{old}"));
    assert_eq!(site.hand_back(SUPPORT, &[JANE], &out).code, 250);
    let received = site.delivered(1).message;
    assert_preserved(&sent, &received);
    assert_signed(&site, &received);
    restart_with_site_key(&mut site, &path, new);
    assert_eq!(site.hand_back(SUPPORT, &[JANE], &out).code, 250);
    let received = site.delivered(2).message;
    assert!(fields(&received, "X-Mailer").is_empty() && fields(&received, SEAL).is_empty());
}

fn restart_with_site_key(site: &mut OutboundSite, path: &std::path::Path, keys: &str) {
    std::fs::write(path, keys).unwrap();
    site.daemon.stop();
    site.daemon.resume();
}

#[test]
fn policy_reject_refuses_what_lost_a_preserved_field_that_nobody_knows() {
    let strict = Terms { preserve: "policy = \"reject\"", ..Terms::default() };
    let site = OutboundSite::start(&strict);
    let reply = site.submit(&[JANE], &notification().without("X-Zendesk-Email-Id").octets());
    assert!(reply.code >= 500 && reply.text.contains("X-Zendesk-Email-Id"), "{reply}");
    let sent = notification().octets();
    assert_preserved(&sent, &site.deliver(&sent));
}

#[test]
fn a_constant_that_was_dropped_before_us_is_put_back_and_an_unknown_value_is_reported() {
    let site = OutboundSite::start(&Terms::default());
    let whole = notification().octets();
    let sent = notification().without("X-Mailer").without("X-Zendesk-Email-Id").set("Auto-Submitted", "no").octets();
    let received = site.deliver(&sent);
    for name in &PRESERVED[..3] {
        let value = |field: Vec<Vec<u8>>| field.iter().map(|f| f.trim_ascii().to_vec()).collect::<Vec<_>>();
        assert_eq!(value(fields(&received, name)), value(fields(&whole, name)), "{name}");
    }
    assert!(fields(&received, "X-Zendesk-Email-Id").is_empty());
    assert_signed(&site, &received);
    let log = site.daemon.log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("X-Zendesk-Email-Id")), "{log}");
}
