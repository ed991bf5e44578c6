//! The outbound side from outside: a message with its client goes in, the message as the MTA would have it comes out.

mod hostile;
mod own_people;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mail_auth::dkim::DomainKey;
use mail_auth::dns::{DnsCache, ResolverCache, TxtRecord, TxtRecordParser};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters};
use proptest::prelude::*;

use super::super::dns::{Cache, resolvers};
use crate::config::Config;
use crate::dkim::{NewKey, SigningKey};
use crate::mail::{Body, Budget, Client, Connection, Disposition, Envelope, Header, HeadersBuilder, Mail, TlsFacts};
use crate::pipeline::{Judge, Pipeline, SiteKey};

const CONFIG: &str = r#"
[daemon]
hostname = "mx.acme.example"
[authentication]
name_servers = ["127.0.0.1:9"]
dns_timeout = "1s"
[[connector]]
name = "acme"
system = "zendesk"
account = "acme"
domain = "acme.example"
mode = "outbound-only"
addresses = ["support@acme.example", "billing@acme.example"]
[connector.submission]
logins = [{ name = "zendesk-support", addresses = ["support@acme.example"] }]
networks = ["192.0.2.0/24"]
[[connector.dkim]]
selector = "rsa"
key_file = "rsa.pem"
[[connector.dkim]]
selector = "ed"
key_file = "ed.pem"
cover = "core"
[[signing]]
domain = "acme.example"
selector = "mail"
key_file = "ed.pem"
sign_for = ["acme.example", "*@news.acme.example"]
[outbound]
signing_networks = ["198.51.100.0/24"]
"#;

const NOTIFICATION: &str = "From: Desk <support@acme.example>\r\nTo: ann@b.example\r\nSubject: Re: a\r\n\
    Date: Sun, 22 Nov 2026 09:00:00 +0000\r\nMessage-ID: <1_sprut@zendesk.com>\r\nIn-Reply-To: <0@b.example>\r\n\
    MIME-Version: 1.0\r\nContent-Type: text/plain\r\nAuto-Submitted: auto-generated\r\n\
    X-Auto-Response-Suppress: All\r\nX-Mailer: Zendesk Mailer\r\nX-Zendesk-From-Account-Id: 1a2b3c4\r\n\
    X-Zendesk-Email-Id: 01HZXAMPLE\r\n\r\nHello,\r\n\r\nyours\r\n";

/// A configuration directory with keys, the same for all tests of a process.
struct Site {
    folder: tempfile::TempDir,
    records: Vec<(String, String)>,
}

fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        use std::os::unix::fs::OpenOptionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mut records = Vec::new();
        for (file, kind, selectors) in
            [("rsa.pem", NewKey::Rsa2048, vec!["rsa"]), ("ed.pem", NewKey::Ed25519, vec!["ed", "mail"])]
        {
            let pem = SigningKey::generate(kind).unwrap();
            let mut options = std::fs::OpenOptions::new();
            let mut out = options.write(true).create_new(true).mode(0o600).open(folder.path().join(file)).unwrap();
            std::io::Write::write_all(&mut out, pem.expose()).unwrap();
            let record = SigningKey::parse(&pem).unwrap().public().record();
            records.extend(selectors.into_iter().map(|s| (format!("{s}._domainkey.acme.example."), record.clone())));
        }
        Site { folder, records }
    })
}

impl Site {
    fn file(&self) -> PathBuf {
        self.folder.path().join("deskmilter.toml")
    }

    fn pipeline(&self, text: &str) -> Pipeline {
        let config = Config::parse(text, &self.file()).unwrap_or_else(|problems| panic!("{problems}"));
        Pipeline::new(&config, site_key(), &Budget::new(1 << 24)).unwrap()
    }
}

fn site_key() -> SiteKey {
    SiteKey::parse(&crate::config::Secret::new(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n".to_vec())).unwrap()
}

fn with_filter() -> String {
    CONFIG.replace("[outbound]", "[outbound]\nreinjection_networks = [\"127.0.0.1/32\"]")
}

fn connection(client: &str, login: Option<&str>, tls: bool) -> Connection {
    let client = match client {
        "local" => Client::Local,
        ip => Client::Network(ip.parse::<IpAddr>().unwrap()),
    };
    let tls = tls.then(|| TlsFacts { version: "TLSv1.3".to_owned(), cipher: "x".to_owned() });
    Connection { client, tls, login: login.map(str::to_owned), ..Connection::default() }
}

fn desk() -> Connection {
    connection("192.0.2.7", Some("zendesk-support"), true)
}

fn mail(connection: Connection, sender: &str, to: &str, message: &[u8]) -> Mail {
    let mut builder = HeadersBuilder::new(1 << 20);
    let block = builder.push(message).unwrap().unwrap_or_else(|| builder.finish());
    let path = |text: &str| crate::mail::Path::parse(text.as_bytes()).unwrap();
    Mail {
        connection: connection.into(),
        envelope: Envelope { sender: path(sender), recipients: vec![path(to)], ..Envelope::default() },
        headers: block.headers,
        body: Body::from_octets(block.body),
        shortfall: None,
        queue_id: None,
    }
}

/// The message as it leaves, or the reply.
async fn pass(pipeline: &Pipeline, mail: &Mail) -> Result<Vec<u8>, String> {
    let verdict = pipeline.judge(mail).await;
    match verdict.disposition {
        Disposition::Refuse(reply) => Err(reply.to_string()),
        Disposition::Continue => {
            let mut headers = mail.headers.clone();
            headers.apply(&verdict.edits);
            Ok(mail.with_headers(headers).assemble().await.unwrap())
        }
    }
}

fn text(wire: &[u8]) -> String {
    String::from_utf8_lossy(wire).into_owned()
}

/// Verifies signatures with the records of the site, without any DNS.
struct Verifier {
    library: MessageAuthenticator,
    cache: Cache,
}

impl Verifier {
    fn new() -> Self {
        let cache = Cache::default();
        for (name, record) in &site().records {
            let key = TxtRecord::from(DomainKey::parse(record.as_bytes()));
            let until = Instant::now() + Duration::from_secs(3_600);
            cache.txt().unwrap().insert(name.as_str().into(), key, until);
        }
        Self { library: resolvers(&["127.0.0.1:9".parse().unwrap()]).unwrap().0, cache }
    }

    /// `selector: whether it passes` of each signature, in the order of the fields.
    async fn verify(&self, wire: &[u8]) -> Vec<(String, bool)> {
        let message = AuthenticatedMessage::parse(wire).unwrap();
        let outputs = self.library.verify_dkim(Parameters::new(&message).with_cache(&self.cache)).await;
        let selector = |output: &mail_auth::DkimOutput<'_>| output.signature().map(|s| s.s.clone()).unwrap_or_default();
        outputs.iter().map(|output| (selector(output), *output.result() == DkimResult::Pass)).collect()
    }
}

fn passes(selectors: &[&str]) -> Vec<(String, bool)> {
    selectors.iter().map(|selector| ((*selector).to_owned(), true)).collect()
}

#[tokio::test]
async fn a_notification_leaves_with_a_signature_of_each_key_and_otherwise_as_it_came() {
    let pipeline = site().pipeline(CONFIG);
    let mail = mail(desk(), "support@acme.example", "ann@b.example", NOTIFICATION.as_bytes());
    assert!(pipeline.concerns(&mail.connection, &mail.envelope));
    let wire = pass(&pipeline, &mail).await.unwrap();
    assert!(text(&wire).ends_with(NOTIFICATION), "{}", text(&wire));
    assert_eq!(Verifier::new().verify(&wire).await, passes(&["rsa", "rsa", "ed"]));
    let signatures = text(&wire).replace("\r\n\t", "");
    assert_eq!(
        signatures.matches("X-Zendesk-Email-Id:").count() + signatures.matches(":X-Zendesk-Email-Id;").count(),
        3,
        "{signatures}"
    );
    assert_eq!(signatures.matches("c=relaxed/relaxed").count(), 3, "{signatures}");
    assert!(!signatures.contains("l=") && !signatures.contains("x="), "{signatures}");
}

#[tokio::test]
async fn each_rule_for_notifications_is_kept_and_its_honest_twin_passes() {
    let pipeline = site().pipeline(CONFIG);
    let from = |from: &str| NOTIFICATION.replace("Desk <support@acme.example>", from);
    let same = NOTIFICATION.to_owned();
    let ours = "support@acme.example";
    for (connection, sender, message, expected) in [
        (
            connection("192.0.2.7", Some("zendesk-support"), false),
            ours,
            same.clone(),
            "530 5.7.0 login zendesk-support",
        ),
        (connection("203.0.113.1", Some("zendesk-support"), true), ours, same.clone(), "550 5.7.1 client 203.0.113.1"),
        (
            desk(),
            "billing@acme.example",
            same.clone(),
            "550 5.7.1 login zendesk-support of connector acme may not use the sender billing@",
        ),
        (
            desk(),
            ours,
            from("billing@acme.example"),
            "550 5.7.1 login zendesk-support of connector acme may not use the From address billing@",
        ),
        (
            desk(),
            "support@other.example",
            same.clone(),
            "550 5.7.1 sender support@other.example is not in acme.example",
        ),
        (desk(), "postmaster", same.clone(), "550 5.7.1 sender <postmaster> is not in acme.example"),
        (
            desk(),
            ours,
            from("support@other.example"),
            "550 5.7.1 From address support@other.example is not in acme.example",
        ),
        (
            desk(),
            ours,
            from("support@acme.zendesk.com"),
            "550 5.7.1 From address support@acme.zendesk.com is a native address",
        ),
        (
            desk(),
            "support@acme.zendesk.com",
            same.clone(),
            "550 5.7.1 sender support@acme.zendesk.com is a native address",
        ),
        (
            desk(),
            ours,
            from("sales@acme.example"),
            "550 5.7.1 From address sales@acme.example is not a support address",
        ),
        (desk(), "", from("sales@acme.example"), "550 5.7.1 From address sales@acme.example is not a support address"),
        (desk(), ours, from("support@acme.example, billing@acme.example"), "550 5.6.0"),
        (desk(), ours, format!("From: support@acme.example\r\n{NOTIFICATION}"), "550 5.6.0"),
        (desk(), ours, from("").replace("From: \r\n", ""), "550 5.6.0"),
        (desk(), ours, NOTIFICATION.replace("Date:", "X-Date:"), "550 5.6.0 0 Date fields"),
        (desk(), ours, format!("Date: Sun, 22 Nov 2026 09:00:00 +0000\r\n{NOTIFICATION}"), "550 5.6.0 2 Date fields"),
        (desk(), ours, format!("X: {}\r\n{NOTIFICATION}", "x".repeat(996)), "550 5.6.0 a line is longer than 998"),
        (desk(), ours, format!("{NOTIFICATION}{}\r\n", "x".repeat(999)), "550 5.6.0 a line is longer than 998"),
    ] {
        let reply = pass(&pipeline, &mail(connection, sender, "ann@b.example", message.as_bytes())).await;
        assert!(reply.clone().is_err_and(|reply| reply.starts_with(expected)), "{expected}: {reply:?}");
    }
    for (connection, sender, message) in [
        (desk(), ours, same.clone()),
        (desk(), "", same.clone()),
        (desk(), "support+bounce-1@acme.example", from("SUPPORT@Acme.Example")),
        (connection("192.0.2.7", Some("somebody"), false), "x@other.example", from("y@other.example")),
        (desk(), ours, format!("X: {}\r\n{NOTIFICATION}{}\r\n", "x".repeat(995), "x".repeat(998))),
    ] {
        let reply = pass(&pipeline, &mail(connection, sender, "ann@b.example", message.as_bytes())).await;
        assert!(reply.is_ok(), "{sender} {message}: {reply:?}");
    }
}

#[tokio::test]
async fn rates_hold_for_a_login_and_count_only_what_was_taken() {
    let text = CONFIG.replace("networks = [\"192.0.2.0/24\"]", "rate = \"2/d\"\nrecipient_rate = \"100/d\"");
    let pipeline = site().pipeline(&text);
    let good = mail(desk(), "support@acme.example", "ann@b.example", NOTIFICATION.as_bytes());
    let bad = mail(desk(), "support@other.example", "ann@b.example", NOTIFICATION.as_bytes());
    for _ in 0..3 {
        assert!(pass(&pipeline, &bad).await.unwrap_err().starts_with("550"));
    }
    assert!(pass(&pipeline, &good).await.is_ok() && pass(&pipeline, &good).await.is_ok());
    let reply = pass(&pipeline, &good).await.unwrap_err();
    assert!(reply.starts_with("451 4.7.1 login zendesk-support has reached its limit of 2/d messages"), "{reply}");

    let pipeline = site().pipeline(&CONFIG.replace("networks = [\"192.0.2.0/24\"]", "recipient_rate = \"2/d\""));
    let mut many = mail(desk(), "support@acme.example", "ann@b.example", NOTIFICATION.as_bytes());
    many.envelope.recipients = vec![many.envelope.recipients[0].clone(); 1_000];
    assert!(pass(&pipeline, &many).await.is_ok(), "a message with more recipients than the rate passes once");
    assert!(pass(&pipeline, &good).await.unwrap_err().contains("2/d recipients"));
}

#[tokio::test]
async fn a_stranger_with_the_ticket_systems_fields_is_nobody_and_is_not_signed() {
    let pipeline = site().pipeline(CONFIG);
    for connection in [connection("192.0.2.7", None, true), connection("203.0.113.1", None, true)] {
        let mail = mail(connection, "support@acme.example", "ann@b.example", NOTIFICATION.as_bytes());
        assert!(!pipeline.concerns(&mail.connection, &mail.envelope));
        assert_eq!(pass(&pipeline, &mail).await.unwrap(), NOTIFICATION.as_bytes());
    }
}

#[tokio::test]
async fn a_domains_other_mail_is_signed_for_its_own_people_only() {
    let pipeline = site().pipeline(CONFIG);
    let message = |from: &str| format!("From: {from}\r\nDate: Sun, 22 Nov 2026 09:00:00 +0000\r\n\r\na");
    for (client, login, from, signed) in [
        ("203.0.113.1", Some("ann"), "ann@acme.example", true),
        ("203.0.113.1", Some("ann"), "Ann <ANN@News.Acme.Example>", true),
        ("203.0.113.1", Some("ann"), "ann@x.news.acme.example", false),
        ("203.0.113.1", Some("ann"), "ann@b.example", false),
        ("203.0.113.1", None, "ann@acme.example", false),
        ("local", None, "ann@acme.example", true),
        ("127.0.0.1", None, "ann@acme.example", true),
        ("::1", None, "ann@acme.example", true),
        ("198.51.100.9", None, "ann@acme.example", true),
    ] {
        let mail = mail(connection(client, login, false), "", "x@b.example", message(from).as_bytes());
        let wire = pass(&pipeline, &mail).await.unwrap();
        let expected = if signed { passes(&["mail"]) } else { Vec::new() };
        assert_eq!(Verifier::new().verify(&wire).await, expected, "{client} {login:?} {from}");
    }
    let twice = format!("From: ann@acme.example\r\n{}", message("eve@b.example"));
    let reply = pass(&pipeline, &mail(connection("local", None, false), "", "x@b.example", twice.as_bytes())).await;
    assert!(reply.unwrap_err().starts_with("550 5.6.0 2 From fields"));
}

#[tokio::test]
async fn a_verification_mail_to_the_support_address_is_signed_and_judged() {
    let pipeline = site().pipeline(CONFIG);
    let message = NOTIFICATION.replace("ann@b.example", "support@acme.example");
    let wire = pass(&pipeline, &mail(desk(), "support@acme.example", "support@acme.example", message.as_bytes())).await;
    let wire = wire.unwrap();
    assert_eq!(Verifier::new().verify(&wire).await, passes(&["rsa", "rsa", "ed"]));
    let text = text(&wire);
    assert!(text.contains("X-Deskmilter-Sender-Auth: pass; reason=smtp-auth"), "{text}");
    assert!(text.contains("spf=none (hop is trusted by its login)"), "{text}");
}

#[tokio::test]
async fn preserved_fields_are_put_back_before_signing_and_lost_ones_refused_where_asked() {
    let pipeline = site().pipeline(CONFIG);
    let message = NOTIFICATION.replace("X-Mailer: Zendesk Mailer\r\n", "").replace("auto-generated", "no");
    let wire = pass(&pipeline, &mail(desk(), "", "ann@b.example", message.as_bytes())).await.unwrap();
    assert!(text(&wire).contains("\r\nX-Mailer: Zendesk Mailer\r\n"), "{}", text(&wire));
    assert!(text(&wire).contains("\r\nAuto-Submitted: auto-generated\r\n"), "{}", text(&wire));
    assert_eq!(Verifier::new().verify(&wire).await, passes(&["rsa", "rsa", "ed"]));

    let lost = NOTIFICATION.replace("X-Zendesk-Email-Id: 01HZXAMPLE\r\n", "");
    let lost = mail(desk(), "", "ann@b.example", lost.as_bytes());
    assert!(pass(&pipeline, &lost).await.is_ok());
    let text = CONFIG.replace(
        "[[connector.dkim]]\nselector = \"rsa\"",
        "[connector.preserve]\npolicy = \"reject\"\n[[connector.dkim]]\nselector = \"rsa\"",
    );
    let reply = pass(&site().pipeline(&text), &lost).await.unwrap_err();
    assert!(reply.starts_with("550 5.7.1 header field X-Zendesk-Email-Id is missing or changed"), "{reply}");
}

#[tokio::test]
async fn through_a_content_filter_the_first_pass_seals_and_the_second_restores_and_signs() {
    let pipeline = site().pipeline(&with_filter());
    let sealed = pass(&pipeline, &mail(desk(), "support@acme.example", "ann@b.example", NOTIFICATION.as_bytes())).await;
    let sealed = text(&sealed.unwrap());
    assert!(sealed.starts_with("X-Deskmilter-Seal: v=1; p=") && !sealed.contains("DKIM-Signature"), "{sealed}");
    let filtered = sealed
        .replace("X-Mailer: Zendesk Mailer\r\n", "")
        .replace("auto-generated", "auto-replied")
        .replace("Subject: Re: a", "Subject: [checked] Re: a")
        .replace("X-Zendesk-Email-Id: 01HZXAMPLE\r\n", "X-Filter: clean\r\n");
    let filtered = format!("{filtered}-- \r\nA disclaimer.\r\n");
    let back = |client: &str, message: &str| {
        mail(connection(client, None, false), "support@acme.example", "ann@b.example", message.as_bytes())
    };
    let wire = pass(&pipeline, &back("127.0.0.1", &filtered)).await.unwrap();
    assert_eq!(Verifier::new().verify(&wire).await, passes(&["rsa", "rsa", "ed"]));
    let left = text(&wire);
    assert!(!left.contains("X-Deskmilter-"), "{left}");
    for line in NOTIFICATION.split("\r\n").filter(|line| line.starts_with("X-") || line.starts_with("Auto-")) {
        assert_eq!(left.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {left}");
    }
    assert!(left.contains("[checked]") && left.contains("A disclaimer."), "{left}");

    let (start, end) = (filtered.find("X-Deskmilter-Seal").unwrap(), filtered.find("From:").unwrap());
    let unsealed = format!("{}{}", &filtered[..start], &filtered[end..]);
    for (what, client, message) in [
        ("no seal", "127.0.0.1", unsealed),
        ("another way", "203.0.113.1", filtered.clone()),
        ("changed seal", "127.0.0.1", filtered.replacen("p=\r\n\tey", "p=\r\n\teY", 1)),
        ("no MAC", "127.0.0.1", filtered.replacen("mac=", "mac=A", 1)),
        ("another message", "127.0.0.1", filtered.replace("09:00:00", "09:00:01")),
    ] {
        let wire = pass(&pipeline, &back(client, &message)).await.unwrap();
        let left = text(&wire);
        assert!(!left.contains("X-Deskmilter-") && !left.contains("Zendesk Mailer"), "{what}: {left}");
        assert!(!left.contains("DKIM-Signature"), "{what}: {left}");
    }
}

#[tokio::test]
async fn mail_of_strangers_that_the_filter_hands_back_is_not_taken_for_this_hosts_own() {
    let pipeline = site().pipeline(&with_filter());
    let message = "From: ceo@acme.example\r\nDate: Sun, 22 Nov 2026 09:00:00 +0000\r\nMessage-ID: <1@x>\r\n\r\na\r\n";
    let back = mail(connection("127.0.0.1", None, false), "", "x@b.example", message.as_bytes());
    assert_eq!(pass(&pipeline, &back).await.unwrap(), message.as_bytes());
    // Our own people's mail is sealed on its way in, and so it is signed on its way out.
    let own = mail(connection("local", None, false), "", "x@b.example", message.as_bytes());
    let sealed = pass(&pipeline, &own).await.unwrap();
    let back = mail(connection("127.0.0.1", None, false), "", "x@b.example", &sealed);
    assert_eq!(Verifier::new().verify(&pass(&pipeline, &back).await.unwrap()).await, passes(&["mail"]));
    // A seal that a stranger brings is gone before the filter could hand it back.
    let stolen = mail(connection("203.0.113.1", None, false), "", "x@b.example", &sealed);
    assert!(pipeline.concerns(&stolen.connection, &stolen.envelope));
    assert_eq!(pass(&pipeline, &stolen).await.unwrap(), message.as_bytes());
}

#[tokio::test]
async fn the_verdict_of_the_first_pass_survives_the_filter_and_a_forged_one_does_not() {
    let pipeline = site().pipeline(&with_filter());
    let message = "From: ann@b.example\r\nTo: support@acme.example\r\nSubject: a\r\n\
        Date: Sun, 22 Nov 2026 09:00:00 +0000\r\nMessage-ID: <1@b.example>\r\n\r\na\r\n";
    let inbound = |client: &str, message: &[u8]| {
        mail(connection(client, None, false), "ann@b.example", "support@acme.example", message)
    };
    let judged = text(&pass(&pipeline, &inbound("203.0.113.1", message.as_bytes())).await.unwrap());
    assert!(judged.contains("X-Deskmilter-Sender-Auth: none; reason=dns-temporary"), "{judged}");
    let filtered = judged.replace("Subject: a", "Subject: [checked] a") + "footer\r\n";
    let back = text(&pass(&pipeline, &inbound("127.0.0.1", filtered.as_bytes())).await.unwrap());
    assert!(back.contains("X-Deskmilter-Sender-Auth: none; reason=dns-temporary"), "{back}");
    let without_verdict = |text: &str| {
        text.split("\r\n")
            .filter(|l| !l.contains("mac=") && !l.starts_with("X-Desk"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(without_verdict(&back), without_verdict(&filtered));
    let forged = filtered.replace("none; reason=dns-temporary", "pass; reason=dmarc");
    let back = text(&pass(&pipeline, &inbound("127.0.0.1", forged.as_bytes())).await.unwrap());
    assert!(!back.contains("pass; reason=dmarc"), "{back}");
}

#[tokio::test]
async fn large_and_odd_bodies_are_signed_and_what_is_not_whole_is_not() {
    let pipeline = site().pipeline(CONFIG);
    let head = &NOTIFICATION[..NOTIFICATION.find("\r\n\r\n").unwrap() + 4];
    let folder = tempfile::tempdir().unwrap();
    let spool = crate::mail::Spool::new(folder.path());
    for body in [
        String::new(),
        "no line ending".to_owned(),
        "blanks at the end  \t \r\n\r\n \r\n\r\n".to_owned(),
        "\r\n\r\n".to_owned(),
        "gr\u{fc}n\r\n".to_owned(),
        "0123456789abcdef \r\n".repeat(20_000),
    ] {
        let mut mail = mail(desk(), "", "ann@b.example", head.as_bytes());
        let mut writer = crate::mail::BodyWriter::new(&spool);
        for chunk in body.as_bytes().chunks(10_007) {
            writer.write(chunk).await.unwrap();
        }
        mail.body = writer.finish().await.unwrap();
        let wire = pass(&pipeline, &mail).await.unwrap();
        assert_eq!(Verifier::new().verify(&wire).await, passes(&["rsa", "rsa", "ed"]), "{} octets", body.len());
    }
    for (shortfall, code) in [(crate::mail::Shortfall::TooLarge, "552"), (crate::mail::Shortfall::Spool, "451")] {
        let mail = mail(desk(), "", "ann@b.example", NOTIFICATION.as_bytes());
        let reply = pass(&pipeline, &Mail { shortfall: Some(shortfall), ..mail }).await.unwrap_err();
        assert!(reply.starts_with(code), "{reply}");
    }
}

/// Header names of which a message has any number, in any order.
const NAMES: [&str; 9] =
    ["Subject", "To", "Cc", "References", "X-Mailer", "X-Other", "Reply-To", "List-Unsubscribe", "Content-Type"];

fn fields() -> impl Strategy<Value = Vec<(usize, String)>> {
    let value = "( |\t|\r\n )?[a-z\u{fc}<>@=;: ]{0,20}((\r\n)[ \t][a-z]{1,8})?( |\t)?";
    proptest::collection::vec((0..NAMES.len(), value), 0..10)
}

fn message(fields: &[(usize, String)], body: &str) -> Vec<u8> {
    let mut text = String::from("From: Desk <support@acme.example>\r\nDate: Sun, 22 Nov 2026 09:00:00 +0000\r\n");
    for (name, value) in fields {
        text.push_str(&format!("{}:{value}\r\n", NAMES[*name]));
    }
    format!("{text}\r\n{body}").into_bytes()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_is_signed_verifies(fields in fields(), body in "([ -~\t\u{fc}]{0,20}(\r\n){0,3}){0,5}") {
        let mail = mail(desk(), "", "ann@b.example", &message(&fields, &body));
        run(async {
            let wire = pass(&site().pipeline(CONFIG), &mail).await.unwrap();
            assert_eq!(Verifier::new().verify(&wire).await, passes(&["rsa", "rsa", "ed"]), "{}", text(&wire));
        });
    }

    #[test]
    fn any_change_to_what_is_signed_breaks_it(
        fields in fields(),
        name in 0usize..16,
        word in "[A-Z]{1,5}",
        how in 0usize..4,
    ) {
        // Each of these names is covered by every signature, there or not; a Message-ID that is missing may be added.
        let covered = ["From", "Sender", "Reply-To", "Subject", "Date", "Message-ID", "To", "Cc", "In-Reply-To",
            "References", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"];
        let mail = mail(desk(), "", "ann@b.example", &message(&fields, "body\r\n"));
        run(async {
            let wire = text(&pass(&site().pipeline(CONFIG), &mail).await.unwrap());
            let (head, body) = wire.split_once("\r\n\r\n").unwrap();
            let may_be_added = |name: &&str| *name == "Message-ID" && mail.headers.first(name).is_none();
            let name = Some(covered[name % covered.len()]).filter(|name| !may_be_added(name)).unwrap_or("From");
            let changed = match how {
                0 => format!("{name}: {word}\r\n{wire}"),
                1 => format!("{head}\r\n{name}: {word}\r\n\r\n{body}"),
                2 => format!("{head}\r\n\r\n{body}{word}"),
                _ => wire.replacen("Desk <", &format!("{word} <"), 1),
            };
            let verified = Verifier::new().verify(changed.as_bytes()).await;
            assert!(verified.len() == 3 && verified.iter().all(|(_, passed)| !passed), "{verified:?} {changed}");
        });
    }

    #[test]
    fn signatures_that_are_there_stay_byte_for_byte_and_valid(
        fields in fields(),
        at in 0usize..8,
        simple in any::<bool>(),
        drop in any::<bool>(),
    ) {
        use mail_auth::dkim::{Canonicalization, DkimSigner};
        use mail_auth::headers::HeaderWriter;
        run(async {
            let mut original = message(&fields, "body  with blanks \r\n");
            if drop {
                // Something to repair, beside what the ticket system has signed.
                original = text(&original).replacen("Date:", "Auto-Submitted: no\r\nDate:", 1).into_bytes();
            }
            let how = if simple { Canonicalization::Simple } else { Canonicalization::Relaxed };
            let pem = std::fs::read(site().folder.path().join("rsa.pem")).unwrap();
            let key = SigningKey::parse(&crate::config::Secret::new(pem)).unwrap();
            let signer = DkimSigner::from_key(&key).domain("acme.example").selector("rsa")
                .headers(["From", "To", "Subject", "Cc", "Cc"])
                .header_canonicalization(how).body_canonicalization(how);
            let field = signer.sign(&original).unwrap().to_header();
            let mut mail = mail(desk(), "", "ann@b.example", &original);
            // Anywhere in the header section.
            let mut all: Vec<Header> = mail.headers.iter().cloned().collect();
            let value = field.strip_prefix("DKIM-Signature:").unwrap().trim_end();
            all.insert(at.min(all.len()), Header::new(b"DKIM-Signature", value.as_bytes()));
            mail.headers = crate::mail::Headers::new(all);
            let wire = pass(&site().pipeline(CONFIG), &mail).await.unwrap();
            assert!(text(&wire).contains(field.trim_end()), "{}", text(&wire));
            let verified = Verifier::new().verify(&wire).await;
            assert!(verified.len() == 4 && verified.iter().all(|(_, passed)| *passed), "{verified:?} {}", text(&wire));
        });
    }
}
