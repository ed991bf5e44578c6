use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::mail::{Address, Body, Client, Connection, HeadersBuilder};

const CONFIG: &str = r#"
[daemon]
hostname = "mx.acme.example"
[authentication]
name_servers = ["127.0.0.1:9"]
dns_timeout = "1s"
[limits]
hops = 20
[[connector]]
name = "acme"
domain = "acme.example"
mode = "outbound-only"
addresses = ["support@acme.example"]
"#;

fn pipeline() -> (Pipeline, Arc<Connector>) {
    pipeline_with(CONFIG)
}

fn pipeline_with(text: &str) -> (Pipeline, Arc<Connector>) {
    let config = Config::parse(text, Path::new("/etc/deskmilter/deskmilter.toml")).unwrap();
    let key = SiteKey::parse(&SiteKey::generate().unwrap()).unwrap();
    let pipeline = Pipeline::new(&config, key, &Budget::new(1 << 20)).unwrap();
    (pipeline, Arc::clone(&config.connectors[0]))
}

fn mail(message: &str, to: &[&str]) -> Mail {
    let mut builder = HeadersBuilder::new(1 << 20);
    let block = builder.push(message.as_bytes()).unwrap().unwrap_or_else(|| builder.finish());
    let path = |text: &str| crate::mail::Path::parse(text.as_bytes()).unwrap();
    Mail {
        connection: Arc::new(Connection {
            client: Client::Local,
            helo: Some("mx.acme.example".to_owned()),
            ..Connection::default()
        }),
        envelope: Envelope {
            sender: path("a@b.example"),
            recipients: to.iter().map(|to| path(to)).collect(),
            ..Envelope::default()
        },
        headers: block.headers,
        body: Body::from_octets(block.body),
        shortfall: None,
        queue_id: Some("4XYZ".to_owned()),
    }
}

fn text(mail: &Mail) -> String {
    let mut wire = Vec::new();
    mail.headers.write_to(&mut wire);
    String::from_utf8(wire).unwrap()
}

#[test]
fn mail_for_a_connectors_domain_concerns_us_in_any_spelling_and_no_other_does() {
    let (pipeline, _) = pipeline();
    for (to, expected) in [
        ("support@acme.example", true),
        ("Someone.Else@ACME.Example.", true),
        ("support@other.example", false),
        ("support@sub.acme.example", false),
        ("postmaster", false),
    ] {
        let mail = mail("", &[to]);
        assert_eq!(pipeline.concerns(&mail.connection, &mail.envelope), expected, "{to}");
    }
    assert_eq!(Address::parse("a@b.example").unwrap().to_string(), "a@b.example");
}

const FORGED: &str = "Received: from x by mx.acme.example\r\nX-DESKMILTER-sender-auth: pass; mac=AAAA\r\nAuthentication-Results: mx.acme.example;\r\n dmarc=pass\r\n\
    Authentication-Results: mx.other.example; dmarc=pass\r\nFrom: a@b.example\r\nauthentication-results:\r\n MX.acme.example. 1; spf=pass\r\nx-deskmilter-tags: vip\r\n\
    Message-ID: <1@b.example>\r\n\r\nbody\r\n";

#[tokio::test]
async fn forged_fields_go_and_foreign_results_stay_before_and_after_the_queue() {
    let (pipeline, connector) = pipeline();
    let mut message = mail(FORGED, &["support@acme.example"]);
    let verdict = pipeline.judge(&message).await;
    message.headers.apply(&verdict.edits);
    let judged = text(&message);
    assert_eq!(judged.matches("mx.acme.example;").count(), 1, "{judged}");
    assert!(judged.starts_with("Authentication-Results: mx.acme.example;\r\n\tspf="), "{judged}");
    assert!(
        judged.contains("mx.other.example; dmarc=pass") && !judged.contains("vip") && !judged.contains("AAAA"),
        "{judged}"
    );

    let status = pipeline.hand_over(&connector, &mut message).await.unwrap();
    let handed = text(&message);
    assert!(status.starts_with("none; reason=dns-temporary; "), "{status}");
    assert!(handed.starts_with("Received: from mx.acme.example by mx.acme.example (deskmilter connector=acme)\r\n\twith LMTP id 4XYZ;\r\n\t"), "{handed}");
    assert!(handed.contains(&format!("X-Deskmilter-Sender-Auth: {status}\r\n")), "{handed}");
    assert!(
        !handed.contains("mac=") && handed.contains("Authentication-Results: mx.acme.example;\r\n\tspf="),
        "{handed}"
    );
}

#[tokio::test]
async fn an_arc_chain_that_is_not_whole_fails_and_one_too_long_is_not_looked_at() {
    let (pipeline, _) = pipeline();
    let results = |i: usize| format!("ARC-Authentication-Results: i={i}; relay.example; dkim=pass\r\n");
    let signature = |i: usize| {
        format!("ARC-Message-Signature: i={i}; a=rsa-sha256; d=relay.example; s=x; h=From; bh=AAAA; b=AAAA\r\n")
    };
    let seal = |i: usize| {
        let cv = if i == 1 { "none" } else { "pass" };
        format!("ARC-Seal: i={i}; a=rsa-sha256; cv={cv}; d=relay.example; s=x; b=AAAA\r\n")
    };
    let set = |i: usize| [seal(i), signature(i), results(i)].concat();
    let sets = |count: usize| (1..=count).rev().map(set).collect::<String>();
    for (what, fields, expected) in [
        ("no set", String::new(), "none"),
        ("a seal alone", seal(1), "fail"),
        ("results alone", results(1), "fail"),
        ("a signature alone", signature(1), "fail"),
        ("no results", [seal(1), signature(1)].concat(), "fail"),
        ("two seals of one set", [seal(1), set(1)].concat(), "fail"),
        ("a gap", [set(3), set(1)].concat(), "fail"),
        ("no first set", set(2), "fail"),
        ("instance 0", set(0), "fail"),
        ("instance 51", set(51), "fail"),
        (
            "a field that cannot be read",
            ["ARC-Seal: nonsense\r\n".to_owned(), signature(1), results(1)].concat(),
            "fail",
        ),
        ("another body", sets(2), "fail"),
        ("more than are looked at", sets(11), "policy"),
        ("more than there may be", sets(51), "policy"),
    ] {
        let message = mail(&format!("{fields}To: a@b.example\r\n\r\nbody\r\n"), &["support@acme.example"]);
        let mut headers = message.headers.clone();
        headers.apply(&pipeline.judge(&message).await.edits);
        let field = headers.first("Authentication-Results").unwrap().text();
        assert!(field.ends_with(&format!("; arc={expected}")), "{what}: {field}");
    }
}

#[tokio::test]
async fn what_came_past_the_milter_is_tagged_none_and_loses_our_results() {
    let (pipeline, connector) = pipeline();
    let mut message = mail(FORGED, &["support@acme.example"]);
    assert_eq!(pipeline.hand_over(&connector, &mut message).await.unwrap(), "none; reason=not-judged");
    let handed = text(&message);
    assert!(!handed.contains("mx.acme.example;\r\n dmarc=pass") && !handed.contains("MX.acme.example. 1"), "{handed}");
    assert!(handed.contains("mx.other.example; dmarc=pass"), "{handed}");
}

#[tokio::test]
async fn a_message_that_this_connector_has_relayed_before_is_a_loop_and_so_are_too_many_hops() {
    let (pipeline, connector) = pipeline();
    let mut message = mail("From: a@b.example\r\n\r\n", &["support@acme.example"]);
    pipeline.hand_over(&connector, &mut message).await.unwrap();
    let reply = pipeline.hand_over(&connector, &mut message).await.unwrap_err();
    assert!(reply.to_string().starts_with("554 5.4.6 mail loop: connector acme"), "{reply}");
    let mut message = mail(&"Received: by x\r\n".repeat(21), &["support@acme.example"]);
    assert_eq!(pipeline.hand_over(&connector, &mut message).await.unwrap_err().code(), 554);
}

#[tokio::test]
async fn dns_trouble_is_a_temporary_verdict_and_defers_only_where_asked_and_only_support_mail() {
    let message = "From: a@b.example\r\nMessage-ID: <1@b.example>\r\n\r\nbody\r\n";
    let (tagging, _) = pipeline();
    let verdict = tagging.judge(&mail(message, &["support@acme.example"])).await;
    let fields = format!("{:?}", verdict.edits);
    assert_eq!(verdict.disposition, crate::mail::Disposition::Continue);
    assert!(fields.contains("dmarc=temperror") && fields.contains("none; reason=dns-temporary"), "{fields}");
    let (deferring, _) = pipeline_with(&CONFIG.replace("dns_timeout", "on_temperror = \"defer\"\ndns_timeout"));
    let verdict = deferring.judge(&mail(message, &["support@acme.example"])).await;
    assert!(matches!(&verdict.disposition, crate::mail::Disposition::Refuse(reply) if reply.code() == 451));
    let verdict = deferring.judge(&mail(message, &["someone@acme.example"])).await;
    assert_eq!(verdict.disposition, crate::mail::Disposition::Continue);
}

#[tokio::test]
async fn an_author_that_readers_may_disagree_on_never_passes() {
    let (pipeline, _) = pipeline();
    for fields in [
        "From: a@b.example\r\nFrom: c@d.example\r\n",
        "From: a@b.example\r\nFrom : c@d.example\r\n",
        "From: a@b.example, c@d.example\r\n",
        "FROM: a@b.example\r\nfrom: a@b.example\r\n",
    ] {
        let verdict = pipeline.judge(&mail(&format!("{fields}\r\n"), &["support@acme.example"])).await;
        let edits = format!("{:?}", verdict.edits);
        assert!(edits.contains("fail; reason=from-ambiguous"), "{fields}: {edits}");
    }
}

#[tokio::test]
async fn messages_with_no_or_absurd_headers_are_judged_without_harm() {
    let (pipeline, connector) = pipeline();
    for message in [
        String::new(),
        "body only\r\n".to_owned(),
        "\r\n\r\n".to_owned(),
        "X: \0\u{ff}\r\n\r\n".to_owned(),
        "A: b\r\n".repeat(10_000),
        format!("A: {}\r\n\r\n", "x".repeat(1 << 19)),
        "DKIM-Signature: v=1; a=rsa-sha256\r\n".repeat(500),
    ] {
        let mut message = mail(&message, &["support@acme.example"]);
        let verdict = pipeline.judge(&message).await;
        assert!(format!("{:?}", verdict.edits).contains("none; reason=from-missing"), "{verdict:?}");
        message.headers.apply(&verdict.edits);
        assert!(pipeline.hand_over(&connector, &mut message).await.is_ok());
    }
}

#[tokio::test]
async fn a_message_without_its_body_is_deferred_for_our_own_trouble_only_and_only_for_support_addresses() {
    let (pipeline, _) = pipeline();
    for (shortfall, to, expected) in [
        (Shortfall::Spool, "support@acme.example", Some(451)),
        (Shortfall::Spool, "someone@acme.example", None),
        (Shortfall::TooLarge, "support@acme.example", None),
        (Shortfall::TooLarge, "someone@acme.example", None),
    ] {
        let message = Mail { shortfall: Some(shortfall), ..mail(FORGED, &[to]) };
        let verdict = pipeline.judge(&message).await;
        match (&verdict.disposition, expected) {
            (crate::mail::Disposition::Refuse(reply), Some(code)) => assert_eq!(reply.code(), code),
            (crate::mail::Disposition::Continue, None) => {
                let removed = verdict.edits.iter().filter(|edit| matches!(edit, HeaderEdit::Remove { .. })).count();
                assert_eq!(removed, 4, "{verdict:?}");
            }
            other => panic!("{shortfall:?} {to}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_verdict_counts_for_the_body_that_was_judged_unless_that_is_switched_off() {
    let loose = CONFIG.replace("dns_timeout", "verdict_covers_body = false\ndns_timeout");
    for (config, body, expected) in [
        (CONFIG, "body\r\n", "none; reason=dns-temporary"),
        (CONFIG, " body", "none; reason=dns-temporary"),
        (CONFIG, "another text\r\n", "none; reason=body-changed"),
        (loose.as_str(), "another text\r\n", "none; reason=dns-temporary"),
    ] {
        let (pipeline, connector) = pipeline_with(config);
        let mut message = mail(FORGED, &["support@acme.example"]);
        let verdict = pipeline.judge(&message).await;
        message.headers.apply(&verdict.edits);
        message.body = Body::from_octets(body.as_bytes().to_vec());
        let status = pipeline.hand_over(&connector, &mut message).await.unwrap();
        assert!(status.starts_with(expected), "{body:?}: {status}");
    }
}
