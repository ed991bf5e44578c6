//! Notifications on their way out of Exim: signed on the last hop, whatever its configuration does to their fields. The rest is in
//! `tests/outbound`, for all mail servers.

use support::{
    Client, EMPLOYEE_LOGIN, EximSite, EximTerms, Message, SUPPORT_LOGIN, Verdicts, fields, notification,
    received_as_sent,
};

const SUPPORT: &str = "support@acme.example";
const JANE: &str = "jane@customer.example";
/// The fields that must reach the end user as they were sent.
const KEPT: [&str; 12] = [
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
    "X-Mailer",
    "X-Zendesk-From-Account-Id",
    "X-Zendesk-Email-Id",
    "To",
    "From",
    "Cc",
    "Reply-To",
    "Message-ID",
    "In-Reply-To",
    "References",
];

pub fn assert_signed(site: &EximSite, message: &[u8]) -> Verdicts {
    let forwarder = Client::new("198.51.100.66", "forwarder.example");
    let verdicts = Verdicts::of(message, &forwarder, SUPPORT, &site.names);
    let shown = String::from_utf8_lossy(message);
    assert!(verdicts.all_valid("acme.example", "desk2026"), "{verdicts:?}\n{shown}\n{}", site.logs());
    assert!(verdicts.dmarc_passes(), "{verdicts:?}\n{shown}");
    let internal = shown.to_lowercase().contains("x-deskmilter");
    assert!(!internal || shown.contains("(deskmilter connector=acme)"), "nothing internal leaves: {shown}");
    verdicts
}

fn assert_kept(sent: &[u8], received: &[u8]) {
    for name in KEPT {
        assert_eq!(fields(received, name), fields(sent, name), "{name}:\n{}", String::from_utf8_lossy(received));
    }
}

#[test]
fn what_routers_transports_and_rewriting_do_to_preserved_fields_is_undone_before_signing() {
    let site = EximSite::start(EximTerms {
        router: "  headers_remove = X-Mailer : Auto-Submitted : Reply-To\n  headers_add = X-Mailer: Exim\n",
        transport: "  headers_remove = X-Zendesk-Email-Id : Message-ID : References\n  headers_add = Message-ID: <other@acme.example>\n  \
                    headers_rewrite = *@acme.example mangled@acme.example fsrtc : *@customer.example x@elsewhere.example tc\n  \
                    return_path_add\n",
        ..EximTerms::default()
    });
    let sent = notification().octets();
    let received = site.deliver(&sent);
    assert_kept(&sent, &received);
    assert_signed(&site, &received);
    let told = site.daemon.wait_for_log("preserved fields were changed or missing: put back");
    // What Exim had really done, each by its means.
    for name in
        ["From", "To", "Cc", "Reply-To", "X-Mailer", "Auto-Submitted", "X-Zendesk-Email-Id", "Message-ID", "References"]
    {
        assert!(told.contains(name), "{name}: {told}");
    }
}

#[test]
fn a_line_that_only_exim_takes_for_a_field_keeps_a_notification_in_the_queue_and_cuts_nothing_off() {
    let router = "  headers_add = N\u{e4}me: x\\nX-Below: y\n";
    let site = EximSite::start(EximTerms { router, ..EximTerms::default() });
    let reply = site.login(SUPPORT_LOGIN).send(SUPPORT, &[JANE], &notification().octets());
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
    site.exim.wait_for("a deferral", || site.exim.log().contains(" == jane@customer.example"));
    assert!(site.customer.transactions().is_empty(), "nothing leaves in part");
    assert_eq!(site.exim.queue().len(), 1);
    assert!(site.daemon.log().contains("look at headers_add"), "{}", site.daemon.log());
}

#[test]
fn exims_own_dkim_stands_beside_ours() {
    let site = EximSite::start(EximTerms {
        transport: "  dkim_domain = acme.example\n  dkim_selector = own\n  dkim_private_key = OWNKEY\n",
        ..EximTerms::default()
    });
    let received = site.deliver(&notification().octets());
    assert!(assert_signed(&site, &received).all_valid("acme.example", "own"));
}

#[test]
fn while_the_daemon_is_down_notifications_are_deferred_and_what_was_taken_waits_unsigned_for_nobody() {
    let mut site = EximSite::start(EximTerms { main: "queue_only = true", ..EximTerms::default() });
    let sent = notification().octets();
    let taken = site.login(SUPPORT_LOGIN).send(SUPPORT, &[JANE], &sent);
    assert_eq!(taken.code, 250, "{taken}");
    site.daemon.kill();
    let reply = site.login(SUPPORT_LOGIN).send(SUPPORT, &[JANE], &sent);
    assert!(reply.code == 451 && reply.text.starts_with("4.3.0"), "{reply}\n{}", site.logs());
    let ordinary = Message::new("boss@acme.example", JANE, "lunch").octets();
    assert_eq!(site.login(EMPLOYEE_LOGIN).send("boss@acme.example", &[JANE], &ordinary).code, 250);
    site.customer.wait_for(1, || site.logs());
    site.exim.wait_for("a deferred notification", || site.exim.log().contains(" == jane@customer.example"));
    assert_eq!(site.customer.transactions().len(), 1, "the ordinary message alone");
    site.daemon.resume();
    let received = site.customer.wait_for(2, || site.logs()).remove(1).message;
    assert_kept(&sent, &received);
    assert_signed(&site, &received);
    site.exim.wait_for_empty_queue();
}

#[test]
fn a_seal_of_one_message_is_worth_nothing_on_another() {
    let site = EximSite::start(EximTerms { main: "queue_only = true", ..EximTerms::default() });
    let sent = notification().octets();
    // Delivered on this host, where no filter takes the seal away.
    assert_eq!(site.login(SUPPORT_LOGIN).send(SUPPORT, &["boss@acme.example"], &sent).code, 250);
    let mut with_seal = site.exim.wait_for_mail("boss@acme.example", 1).remove(0);
    assert!(String::from_utf8_lossy(&with_seal).contains("X-Deskmilter-Seal"), "what this test is about");
    with_seal = String::from_utf8(with_seal).unwrap().replace('\n', "\r\n").into_bytes();
    let reply = site.login(EMPLOYEE_LOGIN).send(SUPPORT, &[JANE], &with_seal);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.customer.wait_for(1, || site.logs()).remove(0).message;
    assert!(fields(&received, "DKIM-Signature").is_empty(), "{}", String::from_utf8_lossy(&received));
}

#[test]
fn an_eight_bit_body_for_a_server_without_8bitmime_is_sent_as_it_is_and_verifies() {
    let site = EximSite::start(EximTerms::default());
    let message = Message::zendesk_notification(SUPPORT, "joe@old.example", "Re: Order 4711")
        .set("Content-Transfer-Encoding", "8bit")
        .body("Größe: 12 €\r\n");
    let mut session = site.login(SUPPORT_LOGIN);
    let reply = session.send_with(SUPPORT, "BODY=8BITMIME", &["joe@old.example"], &message.octets());
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.old.wait_for(1, || site.logs()).remove(0).message;
    assert_signed(&site, &received);
    assert!(received_as_sent(&received, &message.octets()), "{}", String::from_utf8_lossy(&received));
}

#[test]
fn what_leaves_for_a_support_address_is_put_right_and_signed_there_whatever_a_router_did_to_it() {
    let site = EximSite::start(EximTerms {
        router: "mangled:\n  driver = redirect\n  domains = acme.example\n  local_parts = everybody\n  \
                 headers_remove = X-Mailer : Reply-To\n  headers_add = X-Mailer: Exim\n  data = support@acme.example\n",
        ..EximTerms::default()
    });
    let sent = Message::zendesk_notification(SUPPORT, SUPPORT, "Verify your address").octets();
    let reply = site.login(SUPPORT_LOGIN).send(SUPPORT, &["everybody@acme.example"], &sent);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
    let received = site.desk.wait_for_tickets(1).remove(0).messages().remove(0);
    assert_kept(&sent, &received);
    assert_signed(&site, &received);
    assert!(site.daemon.log().contains("preserved fields were changed or missing: put back"), "{}", site.daemon.log());
}

#[test]
fn a_seal_that_comes_past_the_acl_goes_and_the_message_is_relayed_unsigned_as_anybodys() {
    let site = EximSite::start(EximTerms::default());
    let sent = Message::zendesk_notification(SUPPORT, "boss@acme.example", "Seen by the boss").octets();
    assert_eq!(site.login(SUPPORT_LOGIN).send(SUPPORT, &["boss@acme.example"], &sent).code, 250);
    let seen = String::from_utf8(site.exim.wait_for_mail("boss@acme.example", 1).remove(0)).unwrap();
    assert!(seen.contains("X-Deskmilter-Seal"), "what this test is about");
    let replay = seen.replace('\n', "\r\n").into_bytes();
    let stranger = Client::new("198.51.100.66", "stranger.example");
    assert_eq!(site.exim.submit_past_the_acl(&stranger, SUPPORT, &[SUPPORT], &replay).code, 250);
    let ticket = site.desk.wait_for_tickets(1).remove(0);
    let received = ticket.messages().remove(0);
    let shown = String::from_utf8_lossy(&received);
    assert!(!shown.contains("X-Deskmilter-Seal") && fields(&received, "DKIM-Signature").is_empty(), "{shown}");
    assert!(site.daemon.log().contains("it belongs to another message"), "{}", site.daemon.log());
}
