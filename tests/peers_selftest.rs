//! The world that other tests run in is itself true: Postfix queues, retries and delivers, the name server answers,
//! signatures verify with an independent verifier, Sendmail takes mail.

use independent::{ask, dkimpy_accepts};
use support::{
    Client, ContentFilter, DISCLAIMER, LmtpSink, Message, NameServer, OutboundSite, PrivateKey, PrivatePostfix,
    PrivateSendmail, Signer, SmtpSession, SmtpSink, Submission, Verdicts, Zone, fields, free_address, notification,
    received_as_sent,
};

fn letter() -> Message {
    Message::new("Ann <ann@customer.example>", "support@acme.example", "Order 4711")
}

#[test]
fn postfix_delivers_a_message_unchanged_into_its_mailbox_and_refuses_unknown_addresses() {
    let postfix = PrivatePostfix::start(&["sales@acme.example"], "");
    let message = letter().octets();
    let reply = postfix.submit("ann@customer.example", &["sales@acme.example"], &message);
    assert_eq!(reply.code, 250, "{reply}");
    let mail = postfix.wait_for_mail("sales@acme.example", 1);
    assert!(received_as_sent(&mail[0], &message), "{}", String::from_utf8_lossy(&mail[0]));
    let reply = postfix.submit("ann@customer.example", &["nobody@acme.example"], &message);
    assert_eq!(reply.code, 550, "{reply}");
}

#[test]
fn several_postfixes_run_side_by_side() {
    let all: Vec<PrivatePostfix> = (0..3).map(|_| PrivatePostfix::start(&["sales@acme.example"], "")).collect();
    for postfix in &all {
        postfix.submit_by_sendmail("ann@customer.example", &["sales@acme.example"], &letter().octets());
    }
    for postfix in &all {
        assert_eq!(postfix.wait_for_mail("sales@acme.example", 1).len(), 1);
    }
}

#[test]
fn a_client_elsewhere_is_seen_with_its_own_address_and_name() {
    let postfix = PrivatePostfix::start(&["sales@acme.example"], "");
    let client = Client::new("192.0.2.25", "mail.customer.example");
    let reply = postfix.submit_as(&client, "ann@customer.example", &["sales@acme.example"], &letter().octets());
    assert_eq!(reply.code, 250, "{reply}");
    let mail = postfix.wait_for_mail("sales@acme.example", 1);
    assert!(
        String::from_utf8_lossy(&mail[0]).contains("from mail.customer.example (mail.customer.example [192.0.2.25])")
    );
    let reply = postfix.submit_as(&client, "ann@customer.example", &["bob@elsewhere.example"], &letter().octets());
    assert_eq!(reply.code, 454, "a stranger must not relay: {reply}");
}

#[test]
fn mail_waits_in_the_queue_while_lmtp_says_451_and_arrives_after() {
    for chrooted in [false, true] {
        let transport = "transport_maps = inline:{ support@acme.example=lmtp:unix:deskmilter/acme.sock }";
        let start = if chrooted { PrivatePostfix::start_chrooted } else { PrivatePostfix::start };
        let postfix = start(&["support@acme.example"], transport);
        let sink = LmtpSink::start(&postfix.queue_directory().join("deskmilter/acme.sock"));
        sink.answer("451 4.3.0 the endpoint is down");
        let message = letter().octets();
        postfix.submit("ann@customer.example", &["support@acme.example"], &message);
        postfix.wait_for("a deferred message", |postfix| {
            postfix.queue().iter().any(|m| m.queue == "deferred" && m.recipients[0].1.contains("the endpoint is down"))
        });
        sink.answer("250 2.0.0 taken");
        postfix.wait_for_empty_queue();
        let last = sink.transactions().pop().unwrap();
        assert_eq!(last.recipients, ["support@acme.example"]);
        assert!(received_as_sent(&last.message, &message));
    }
}

#[test]
fn lines_over_998_octets_reach_lmtp_uncut_only_with_lmtp_line_length_limit_0() {
    for (limit, whole) in [("", false), ("lmtp_line_length_limit = 0\n", true)] {
        let transport = "transport_maps = inline:{ support@acme.example=lmtp:unix:deskmilter/acme.sock }\n";
        let postfix = PrivatePostfix::start(&["support@acme.example"], &format!("{transport}{limit}"));
        let sink = LmtpSink::start(&postfix.queue_directory().join("deskmilter/acme.sock"));
        let message = letter().body(&format!("{}\r\n", "x".repeat(2000))).octets();
        postfix.submit("ann@customer.example", &["support@acme.example"], &message);
        postfix.wait_for("a hand-over", |_| sink.transactions().len() == 1);
        assert_eq!(received_as_sent(&sink.transactions()[0].message, &message), whole, "{limit:?}");
    }
}

#[test]
fn two_support_addresses_of_one_message_share_a_transaction() {
    let map = "transport_maps = inline:{ {support@acme.example=lmtp:unix:deskmilter/acme.sock} {billing@acme.example=lmtp:unix:deskmilter/acme.sock} }";
    let postfix = PrivatePostfix::start(&["support@acme.example", "billing@acme.example", "sales@acme.example"], map);
    let sink = LmtpSink::start(&postfix.queue_directory().join("deskmilter/acme.sock"));
    let all = ["support@acme.example", "sales@acme.example", "billing@acme.example"];
    postfix.submit("ann@customer.example", &all, &letter().octets());
    postfix.wait_for_empty_queue();
    let transactions = sink.transactions();
    assert_eq!(transactions.len(), 1);
    assert_eq!(transactions[0].recipients.len(), 2);
    assert_eq!(postfix.mailbox("sales@acme.example").messages().len(), 1);
}

#[test]
fn a_restarted_postfix_still_has_its_queue() {
    let transport = "transport_maps = inline:{ support@acme.example=lmtp:unix:deskmilter/nobody.sock }";
    let mut postfix = PrivatePostfix::start(&["support@acme.example"], transport);
    postfix.submit("ann@customer.example", &["support@acme.example"], &letter().octets());
    postfix.wait_for("a deferred message", |postfix| postfix.queue().iter().any(|m| m.queue == "deferred"));
    postfix.stop();
    postfix.resume();
    assert_eq!(postfix.queue().len(), 1);
    postfix.configure("transport_maps =");
    postfix.reload();
    postfix.flush();
    assert_eq!(postfix.wait_for_mail("support@acme.example", 1).len(), 1);
}

#[test]
fn the_name_server_gives_out_long_keys_fails_and_stays_silent() {
    let signer = Signer::new("customer.example", "s1");
    let zone = signer
        .publish(Zone::new())
        .txt("customer.example", "v=spf1 ip4:192.0.2.0/24 -all")
        .mx("customer.example", "mail.customer.example")
        .host("mail.customer.example", "192.0.2.25")
        .failing("failing.example")
        .silent("silent.example");
    let server = NameServer::start(&zone);
    let answers = ask(
        &server,
        &[
            "s1._domainkey.customer.example TXT",
            "customer.example TXT",
            "customer.example MX",
            "25.2.0.192.in-addr.arpa PTR",
            "unknown.example TXT",
            "a.failing.example TXT",
            "a.silent.example TXT",
        ],
    );
    assert_eq!(answers[0], signer.record());
    assert_eq!(answers[1], "v=spf1 ip4:192.0.2.0/24 -all");
    assert_eq!(answers[2], "10 mail.customer.example.");
    assert_eq!(answers[3], "mail.customer.example.");
    assert_eq!(&answers[4..], ["NXDOMAIN", "SERVFAIL", "Timeout"]);
}

#[test]
fn signatures_satisfy_an_independent_verifier_until_the_body_is_touched() {
    let signer = Signer::new("customer.example", "s1");
    let server = NameServer::start(&signer.publish(Zone::new()));
    let signed = signer.sign(&letter().octets());
    assert!(dkimpy_accepts(&server, &signed));
    let mut touched = signed;
    touched.extend_from_slice(b"P.S. pay me\r\n");
    assert!(!dkimpy_accepts(&server, &touched));
}

#[test]
fn sendmail_takes_mail_into_its_queue_and_defers_while_its_milter_is_away() {
    let sendmail = PrivateSendmail::start(Some("local:/nonexistent/milter.sock"));
    let reply = sendmail.submit("ann@customer.example", &["support@acme.example"], &letter().octets());
    assert_eq!(reply.code, 451, "{reply}\n{}", sendmail.log());
    assert!(sendmail.queued().is_empty());
    let mut session = SmtpSession::connect(sendmail.address());
    assert!(session.expect(250, "EHLO client.customer.example").text.contains("8BITMIME"));
}

#[test]
fn what_sendmail_took_can_be_read_from_its_queue() {
    let sendmail = PrivateSendmail::start(None);
    let message = letter().field("X-Folded", "one\r\n two").octets();
    let reply = sendmail.submit("ann@customer.example", &["support@acme.example"], &message);
    assert_eq!(reply.code, 250, "{reply}\n{}", sendmail.log());
    let queued = sendmail.queued();
    assert_eq!(queued.len(), 1, "{}", sendmail.log());
    assert!(queued[0].contains("X-Folded: one\n two\n") && queued[0].contains("\n\nHello,\n"), "{}", queued[0]);
    assert!(received_as_sent(queued[0].as_bytes(), &message), "{}", queued[0]);
}

/// A Postfix that relays what its users submit to customer.example.
fn submission(options: &[String], more: &str) -> (PrivatePostfix, Submission, SmtpSink) {
    let sink = SmtpSink::modern();
    let (ip, port) = (sink.address().ip(), sink.address().port());
    let map = format!("transport_maps = inline:{{ {{ customer.example = smtp:[{ip}]:{port} }} }}");
    let mut postfix = PrivatePostfix::new(&["sales@acme.example"], &map, false);
    let mut all = vec!["smtpd_milters=".to_owned()];
    all.extend_from_slice(options);
    let submission = Submission::add(&postfix, &["zendesk-support"], &all);
    postfix.add_service(more);
    postfix.resume();
    (postfix, submission, sink)
}

#[test]
fn a_submission_service_wants_tls_and_the_right_password_and_then_relays() {
    let (postfix, submission, sink) = submission(&[], "");
    let host = OutboundSite::zendesk_host();
    let mut plain = SmtpSession::connect_as(submission.address(), &host);
    let reply = plain.command("MAIL FROM:<support@acme.example>");
    assert!(reply.code == 530 && reply.text.starts_with("5.7.0"), "{reply}");
    let reply = submission.connect(&host).login("zendesk-support", "guess");
    assert_eq!(reply.code, 535, "{reply}");
    let message = Signer::zendesk("acme.example").sign(&notification().octets());
    let reply = submission.connect(&host).send("support@acme.example", &["jane@customer.example"], &message);
    assert_eq!(reply.code, 554, "nobody relays without a login: {reply}");
    let reply =
        submission.submit(&host, "zendesk-support", "support@acme.example", &["jane@customer.example"], &message);
    assert_eq!(reply.code, 250, "{reply}\n{}", submission.sasl_log());
    let arrived = sink.wait_for(1, || postfix.log());
    assert!(arrived[0].mail.starts_with("FROM:<support@acme.example>"), "{}", arrived[0].mail);
    assert!(received_as_sent(&arrived[0].message, &message), "{}", String::from_utf8_lossy(&arrived[0].message));
}

#[test]
fn a_content_filter_changes_what_filters_change_and_hands_back() {
    let second_pass = free_address();
    let filter = ContentFilter::start(second_pass);
    let (ip, port) = (filter.address().ip(), filter.address().port());
    let through = format!("content_filter=smtp:[{ip}]:{port}");
    let (postfix, submission, sink) =
        submission(&[through], &format!("{second_pass} inet n - n - - smtpd\n  -o content_filter=\n"));
    let message = notification().octets();
    let host = OutboundSite::zendesk_host();
    let reply =
        submission.submit(&host, "zendesk-support", "support@acme.example", &["jane@customer.example"], &message);
    assert_eq!(reply.code, 250, "{reply}");
    let arrived = sink.wait_for(1, || postfix.log()).remove(0).message;
    assert!(fields(&arrived, "X-Mailer").is_empty());
    assert_eq!(fields(&arrived, "Auto-Submitted"), [b"Auto-Submitted: auto-replied\r\n"]);
    assert_eq!(fields(&arrived, "X-Scanned-By").len(), 1);
    assert_eq!(fields(&arrived, "References"), fields(&message, "References"));
    assert!(arrived.ends_with(DISCLAIMER.as_bytes()));
}

#[test]
fn three_verifiers_agree_on_a_notification_until_its_body_is_touched() {
    let signer = Signer::zendesk("acme.example");
    let names = NameServer::start(&signer.publish(Zone::new()).txt("_dmarc.acme.example", "v=DMARC1; p=reject"));
    let client = Client::new("198.51.100.66", "forwarder.example");
    let mut message = signer.sign(&notification().octets());
    let verdicts = Verdicts::of(&message, &client, "support@acme.example", &names);
    assert!(verdicts.all_valid("acme.example", "zendesk2") && verdicts.dmarc_passes(), "{verdicts:?}");
    assert!(!verdicts.all_valid("acme.example", "desk2026"), "{verdicts:?}");
    message.extend_from_slice(b"P.S. pay me\r\n");
    let verdicts = Verdicts::of(&message, &client, "support@acme.example", &names);
    assert!(verdicts.none_valid("acme.example", "zendesk2") && !verdicts.dmarc_passes(), "{verdicts:?}");
}

#[test]
fn keys_of_both_kinds_are_published_as_verifiers_read_them() {
    for (key, bits) in [(PrivateKey::rsa(), 392), (PrivateKey::ed25519(), 44)] {
        let published = key.record().rsplit("p=").next().unwrap().len();
        assert_eq!(published, bits, "{}", key.record());
    }
}

#[cfg(test)]
mod independent {
    use std::process::Command;

    use support::NameServer;

    /// Asks the name server by dnspython: one line an answer, or the name of the error.
    pub fn ask(server: &NameServer, questions: &[&str]) -> Vec<String> {
        const PROGRAM: &str = "
import sys, dns.resolver, dns.exception, dns.rcode
r = dns.resolver.Resolver(configure=False)
r.nameservers, r.port, r.lifetime, r.timeout = [sys.argv[1]], int(sys.argv[2]), 1.0, 1.0
for question in sys.argv[3:]:
    name, kind = question.split()
    query = dns.message.make_query(name, kind)
    try:
        reply, _ = dns.query.udp_with_fallback(query, sys.argv[1], port=int(sys.argv[2]), timeout=1.0)
        if reply.rcode() or not reply.answer:
            print(dns.rcode.to_text(reply.rcode()))
        else:
            data = reply.answer[0][0]
            print(b''.join(data.strings).decode() if kind == 'TXT' else data.to_text())
    except dns.exception.Timeout:
        print('Timeout')
";
        let address = server.address();
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", PROGRAM]).arg(address.ip().to_string()).arg(address.port().to_string()).args(questions);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), server.log());
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// Whether dkimpy finds the signature valid.
    pub fn dkimpy_accepts(server: &NameServer, message: &[u8]) -> bool {
        const PROGRAM: &str = "
import sys, dkim, dns.resolver
r = dns.resolver.Resolver(configure=False)
r.nameservers, r.port = [sys.argv[1]], int(sys.argv[2])
txt = lambda name, timeout=5: b''.join(r.resolve(name.decode() if isinstance(name, bytes) else name, 'TXT')[0].strings)
sys.exit(0 if dkim.verify(open(sys.argv[3], 'rb').read(), dnsfunc=txt) else 1)
";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("message");
        std::fs::write(&path, message).unwrap();
        let address = server.address();
        let output = Command::new("/usr/bin/python3")
            .args(["-c", PROGRAM])
            .args([address.ip().to_string(), address.port().to_string()])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        output.status.success()
    }
}
