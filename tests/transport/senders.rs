//! Who may send through a connector, and as whom.

use support::endpoint::Script;
use support::{CREDENTIALS, DeskSite};
use tokio::runtime::Runtime;

/// Header fields that the company side's inbound half would take away, and some that are easily lost.
const MESSAGE: &[u8] = b"Received: by desk.example (Zammad) id 1; Sun, 22 Nov 2026 08:00:00 +0000\r\n\
    X-Deskmilter-Verdict: whatever\r\nAuthentication-Results: mx.acme.example; spf=pass\r\nX-Zammad-Ticket: 4711\r\n\
    Auto-Submitted: auto-generated\r\nX-Auto-Response-Suppress: All\r\nfrom:  Sales  <sales@acme.example>\r\n\
    Reply-To: other@acme.example\r\nSubject: =?utf-8?q?=C3=BC?=\r\n folded\r\n\r\nGr\xc3\xbc\xc3\x9fe  \r\n\r\n\r\n";

fn both() -> Script {
    Script { passwords: vec!["s3cret-one", "s3cret-two"], ..Script::default() }
}

#[test]
fn a_message_goes_with_its_own_senders_login_and_not_one_octet_changes() {
    let runtime = Runtime::new().unwrap();
    let (site, host) = DeskSite::with_script(&runtime, both(), CREDENTIALS, "");
    for (sender, login) in [
        ("support@acme.example", "desk-support/s3cret-one"),
        ("Billing+4711@ACME.example", "desk-billing/s3cret-two"),
        ("support+x@acme.example", "desk-support/s3cret-one"),
    ] {
        assert_eq!(site.send(sender, &["jane@end.example"], MESSAGE)[0].code, 250);
        let message = host.see(|record| record.taken.last().cloned()).unwrap();
        assert_eq!((message.login.as_str(), message.content.as_slice()), (login, MESSAGE));
        assert!(message.envelope[0].starts_with(&format!("MAIL FROM:<{sender}>")), "{:?}", message.envelope);
    }
    let bounce = b"From: Acme <billing@acme.example>\r\nAuto-Submitted: auto-replied\r\n\r\nx\r\n";
    assert_eq!(site.send("", &["jane@end.example"], bounce)[0].code, 250);
    let message = host.see(|record| record.taken.last().cloned()).unwrap();
    assert_eq!(message.login, "desk-billing/s3cret-two");
    assert!(message.envelope[0].starts_with("MAIL FROM:<>"), "{:?}", message.envelope);
}

#[test]
fn who_may_not_send_is_told_why_and_nobody_is_contacted() {
    let runtime = Runtime::new().unwrap();
    let (site, host) = DeskSite::with_script(&runtime, both(), CREDENTIALS, "");
    for (sender, code, words) in [
        ("support@desk.example", 550, "5.7.1 sender support@desk.example is a native address"),
        ("support@other.example", 550, "5.7.1 sender support@other.example is not in acme.example"),
        ("sales@acme.example", 451, "4.7.1 sender sales@acme.example has no credential in connector acme; add one"),
    ] {
        let reply = site.send(sender, &["jane@end.example"], MESSAGE).remove(0);
        assert!(reply.code == code && reply.text.contains(words), "{sender}: {reply}");
    }
    assert_eq!(host.see(|record| record.connections), 0);
}

#[test]
fn the_default_address_takes_over_in_the_envelope_and_the_message_stays_as_it_is() {
    let runtime = Runtime::new().unwrap();
    let native = "unverified = \"native\"\ndefault_address = \"support@acme.example\"";
    let (site, host) = DeskSite::with_script(&runtime, both(), CREDENTIALS, native);
    assert_eq!(site.send("sales@acme.example", &["jane@end.example"], MESSAGE)[0].code, 250);
    let message = host.see(|record| record.taken.last().cloned()).unwrap();
    assert_eq!((message.login.as_str(), message.content.as_slice()), ("desk-support/s3cret-one", MESSAGE));
    assert!(message.envelope[0].starts_with("MAIL FROM:<support@acme.example>"), "{:?}", message.envelope);
    let log = site.daemon.wait_for_log("the default address takes over");
    assert!(log.contains("sender=sales@acme.example") && log.contains("default=support@acme.example"), "{log}");
    assert_eq!(site.send("x@desk.example", &["jane@end.example"], MESSAGE)[0].code, 550);
}

#[test]
fn a_rate_is_kept_per_credential_before_anybody_is_contacted() {
    let runtime = Runtime::new().unwrap();
    let (site, host) = DeskSite::with_script(&runtime, both(), CREDENTIALS, "rate = \"2/d\"");
    let send = |sender| site.send(sender, &["jane@end.example"], MESSAGE).remove(0);
    assert_eq!((send("support@acme.example").code, send("support@acme.example").code), (250, 250));
    let connections = host.see(|record| record.connections);
    let over = send("support@acme.example");
    assert!(over.code == 451 && over.text.contains("4.7.1 the credential of support@acme.example"), "{over}");
    assert_eq!(host.see(|record| record.connections), connections);
    assert_eq!(send("billing@acme.example").code, 250);
}
