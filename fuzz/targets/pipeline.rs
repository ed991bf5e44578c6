//! What is read from a message and from DNS to judge it, and what is written into it. Part of `pipeline`.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mail_auth::dkim::{DomainKey, Signature};
use mail_auth::dns::{DnsCache, ResolverCache, TxtRecord, TxtRecordParser};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, SpfResult};
use time::OffsetDateTime;

use super::authentication_results::{self, Builder, Outcome};
use super::author::{self, Author};
use super::dns::{Cache, resolvers};
use super::{
    References, SiteKey, acceptable, dmarc_record, forged, hops, preserve, seal as seals, sign, site_key, spf_record,
};
use crate::config::{Config, Secret};
use crate::fuzzing::configuration;
use crate::fuzzing::input::{at_once, block, parts, repaired, sure, text};
use crate::mail::{Body, Connection, Domain, Envelope, Header, HeaderEdit, Headers, Mail, Path};

const NOW: u64 = 1_000_000;
const HOUR: Duration = Duration::from_secs(3_600);
const OURS: &str = "mx.acme.example";

fn key() -> &'static SiteKey {
    static KEY: OnceLock<SiteKey> = OnceLock::new();
    KEY.get_or_init(|| sure(SiteKey::parse(&Secret::new([b'A'; 43].to_vec()))))
}

fn hostname() -> Domain {
    sure(Domain::parse(OURS))
}

/// A header section as the milter has it.
fn headers(octets: &[u8]) -> Headers {
    let found = block(&repaired(octets)).headers;
    Headers::new(found.iter().map(|field| Header::new(field.name(), field.value())).collect())
}

fn with(headers: &Headers, edit: HeaderEdit) -> Headers {
    let mut headers = headers.clone();
    headers.apply(&[edit]);
    headers
}

fn wire(headers: &Headers) -> Vec<u8> {
    let mut wire = Vec::new();
    headers.write_to(&mut wire);
    wire
}

/// The section after a queue that folded it in another way.
fn refolded(headers: &Headers) -> Headers {
    let refold = |field: &Header| {
        let mut folded = vec![b' '];
        for (n, word) in field.unfolded().split(|&b| b == b' ').enumerate() {
            folded.extend_from_slice(if n == 0 { b"" } else { b"\r\n\t" });
            folded.extend_from_slice(word);
        }
        Header::new(field.name(), &folded)
    };
    Headers::new(headers.iter().map(refold).collect())
}

pub(crate) fn references(octets: &[u8]) {
    let headers = headers(octets);
    let found = References::of(&headers, Some("Ticket#"));
    let again = References::of(&refolded(&headers), Some("Ticket#"));
    // Folding takes octets, of which only so many are read.
    if !found.too_many && !again.too_many {
        assert_eq!(found, again);
    }
    assert!(found.cited.len() <= 2_000 && found.own.len() <= 10 && found.tickets.len() <= 1_000);
    // A reference more is found, wherever it is put.
    let more = Header::written("references", "<one@more.test>");
    for edit in [HeaderEdit::Prepend(more.clone()), HeaderEdit::Append(more)] {
        let found = References::of(&with(&headers, edit), None);
        assert!(found.too_many || found.cited.contains(&"one@more.test".to_owned()));
    }
}

pub(crate) fn author(octets: &[u8]) {
    let headers = headers(octets);
    let octets = wire(&headers);
    let Some(message) = AuthenticatedMessage::parse(&octets) else { return };
    let author = Author::of(&headers, &message);
    let sole = author::sole_address(&headers);
    if let Some(sole) = &sole {
        assert!(author::candidates(&headers).contains(sole));
        assert!(matches!(&author, Author::Domain(domain) if domain == sole.domain()), "{author:?} but {sole}");
    }
    let froms = headers.named("From").count();
    assert_eq!(froms == 0, author::candidates(&headers).is_empty() && froms == 0);
    if let Author::Domain(domain) = &author {
        assert_eq!(froms, 1);
        assert!(author.domain() == Some(domain));
        // Another author beside this one is never passed over.
        let other = Header::written("from", "eve@other.test");
        for edit in [HeaderEdit::Prepend(other.clone()), HeaderEdit::Append(other)] {
            let two = with(&headers, edit);
            let octets = wire(&two);
            let message = AuthenticatedMessage::parse(&octets).unwrap_or_default();
            assert_eq!(Author::of(&two, &message), Author::Ambiguous);
            assert_eq!(author::sole_address(&two), None);
        }
    }
}

pub(crate) fn authentication_results(octets: &[u8]) {
    let [reason, value, section] = parts(octets);
    let (reason, value) = (text(reason), text(value));
    let mut results = Builder::new(OURS);
    results.method("spf", Outcome::Pass, Some(&reason), &[("smtp.mailfrom", &value), ("smtp.helo", &reason)]);
    results.method("dkim", Outcome::Fail, None, &[("header.d", &value)]);
    let field = results.finish();
    assert!(authentication_results::claims(&field, OURS));
    let octets = [field.raw(), b"\r\n\r\n"].concat();
    let read = block(&octets);
    assert_eq!((read.headers.len(), read.body.len()), (1, 0));
    assert_eq!(read.headers.iter().next(), Some(&field));
    assert!(field.raw().split(|&b| b == b'\n').all(|line| line.len() < 998));
    // Nothing that a stranger wrote ends a result: outside quotes and comments there are the semicolons that are ours.
    let plain = outside_quotes(&field.text());
    assert_eq!(plain.matches(';').count(), 2, "{plain}");

    // What claims to be ours is taken away, and nothing else; once is enough.
    let section = headers(section);
    let found = forged::fields(&section, OURS);
    let mut left = section.clone();
    left.apply(&found.iter().map(|&index| HeaderEdit::Remove { index }).collect::<Vec<_>>());
    assert_eq!(left.len(), section.len() - found.len());
    assert!(forged::fields(&left, OURS).is_empty());
    assert!(
        left.iter().all(|field| !field.text().to_lowercase().starts_with("mx.acme.example;")
            || !field.is(authentication_results::NAME))
    );
    let again = forged::fields(&refolded(&section), OURS);
    assert_eq!(again, found, "refolded");
}

/// The text without quoted strings and comments, as RFC 5322 section 3.2 reads them.
fn outside_quotes(text: &str) -> String {
    let (mut plain, mut quoted, mut comment, mut escaped) = (String::new(), false, 0_u32, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted || comment > 0 => escaped = true,
            '"' if comment == 0 => quoted = !quoted,
            '(' if !quoted => comment += 1,
            ')' if !quoted && comment > 0 => comment -= 1,
            c if !quoted && comment == 0 => plain.push(c),
            _ => {}
        }
    }
    assert!(!quoted && comment == 0, "{text}");
    plain
}

/// The names that a Zendesk connector seals.
fn sealed_names() -> impl Iterator<Item = &'static str> {
    ["X-Mailer", "Auto-Submitted", "X-Zendesk-Email-Id"].into_iter().chain(preserve::GUARDED)
}

pub(crate) fn seal(octets: &[u8]) {
    let [before, after, sender] = parts(octets);
    let sender = Path::parse(sender).unwrap_or_default();
    let before = headers(before);
    let submitter = seals::Submitter { connector: Some("acme".to_owned()), login: Some("zendesk".to_owned()) };
    let field = seals::seal(key(), submitter.clone(), &sender, None, &before, sealed_names(), NOW);
    assert!(field.raw().split(|&b| b == b'\n').all(|line| line.len() <= 80));
    let sealed = with(&before, HeaderEdit::Prepend(field.clone()));

    // On the message itself, however folded, it opens, where there is something to know the message by: without a Date that is
    // the Message-ID alone.
    let has = |name: &str| before.first(name).is_some();
    let known = has("Message-ID") || has("From") && has("Date");
    for section in [&sealed, &refolded(&sealed)] {
        match seals::open(key(), section, seals::Bound::Sender(&sender), NOW + 60, HOUR) {
            Some(Ok(opened)) => {
                assert!(known && opened.submitter == submitter);
                let repair = opened.restore(section);
                assert!(repair.restored.is_empty() && repair.lost.is_empty(), "{repair:?}");
            }
            refused => assert!(!known && matches!(refused, Some(Err(seals::Refused::OtherMessage))), "{refused:?}"),
        }
    }
    assert!(matches!(seals::open(key(), &sealed, seals::Bound::Sender(&sender), NOW + 3_601, HOUR), Some(Err(_))));

    // On what a filter made of it, it opens and everything is put back, or it does not open.
    let changed = with(&headers(after), HeaderEdit::Append(field));
    if let Some(Ok(opened)) = seals::open(key(), &changed, seals::Bound::Sender(&sender), NOW, HOUR) {
        let repair = opened.restore(&changed);
        let mut restored = changed.clone();
        restored.apply(&repair.edits);
        for name in sealed_names().filter(|name| !repair.lost.iter().any(|lost| lost == name)) {
            assert!(restored.named(name).eq(before.named(name)), "{name} in {restored:?}");
        }
        let others = |headers: &Headers| headers.iter().filter(|f| !sealed_names().any(|n| f.is(n))).count();
        assert_eq!(others(&restored), others(&changed));
    }
}

pub(crate) fn seal_content(octets: &[u8]) {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let [content, section] = parts(octets);
    let payload = URL_SAFE_NO_PAD.encode(content);
    let mac = URL_SAFE_NO_PAD.encode(key().mac("seal 1", payload.as_bytes()));
    let field = Header::written(seals::FIELD, &format!("v=1; p={payload}; mac={mac}"));
    let section = with(&headers(section), HeaderEdit::Prepend(field));
    for sender in [Path::null(), sure(Path::parse(b"support@acme.example"))] {
        let opened = seals::open(key(), &section, seals::Bound::Sender(&sender), NOW, HOUR);
        assert!(!matches!(opened, None | Some(Err(seals::Refused::Mac))));
        if let Some(Ok(opened)) = opened {
            let repair = opened.restore(&section);
            let mut restored = section.clone();
            restored.apply(&repair.edits);
            // What comes of it is fields, and no more of them than the seal holds.
            assert!(restored.len() <= section.len() + content.len());
            assert!(wire(&restored).split(|&b| b == b'\n').all(|line| line.ends_with(b"\r") || line.is_empty()));
        }
    }
    // Without the MAC it is nothing.
    let field = Header::written(seals::FIELD, &format!("v=1; p={payload}; mac={}", URL_SAFE_NO_PAD.encode(content)));
    let forged = seals::open(key(), &Headers::new(vec![field]), seals::Bound::Sender(&Path::null()), NOW, HOUR);
    assert!(matches!(forged, Some(Err(_))));
}

pub(crate) fn verdict(octets: &[u8]) {
    let [words, body, section, other] = parts(octets);
    // A verdict is one line of plain words.
    let words = text(words).split_whitespace().collect::<Vec<_>>().join(" ");
    let body = text(body);
    let body = Some(body.as_str())
        .filter(|body| !body.is_empty() && *body != "-" && body.bytes().all(|b| b.is_ascii_graphic() && b != b';'));
    let section = headers(section);
    let field = key().seal(&words, &section, body, NOW);
    let expected = site_key::Opened { verdict: words.clone(), body: body.map(str::to_owned) };
    let opens = |field: &Header, section: &Headers, now| key().open(field, section, now, HOUR);

    let sealed = refolded(&with(&section, HeaderEdit::Prepend(field.clone())));
    let Some(refolded) = sealed.first(site_key::FIELD) else { unreachable!("the field is there") };
    if !words.chars().any(char::is_control) {
        for (field, section) in [(&field, &section), (refolded, &sealed)] {
            assert_eq!(opens(field, section, NOW + 10).as_ref(), Some(&expected), "{field:?}");
        }
    }
    assert_eq!(opens(&field, &section, NOW + 3_601), None);
    assert_eq!(opens(&field, &section, NOW - 301), None);

    // On another message it is worth nothing, and so is what a stranger writes.
    let strange = headers(other);
    let bound = |headers: &Headers| {
        ["From", "To", "Date", "Message-ID"].map(|name| headers.named(name).map(Header::unfolded).collect::<Vec<_>>())
    };
    if bound(&strange) != bound(&section) {
        assert_eq!(opens(&field, &strange, NOW), None);
    }
    assert_eq!(opens(&Header::new(site_key::FIELD.as_bytes(), other), &section, NOW), None);
}

pub(crate) fn hops(octets: &[u8]) {
    let [helo, queue_id, section] = parts(octets);
    let section = headers(section);
    let hostname = hostname();
    let limit = 5;
    let found = section.named("Received").count();
    let before = hops::refuse_loop(&section, &hostname, "acme", limit);
    assert!(found <= limit || before.is_err());
    let mail = Mail {
        connection: Arc::new(Connection { helo: Some(text(helo)), ..Connection::default() }),
        envelope: Envelope::default(),
        headers: section.clone(),
        body: Body::from_octets(Vec::new()),
        shortfall: None,
        queue_id: Some(text(queue_id)),
    };
    let field = hops::received(&mail, &hostname, "acme", OffsetDateTime::UNIX_EPOCH);
    assert_eq!(block(&[field.raw(), b"\r\n\r\n"].concat()).headers.len(), 1);
    let after = with(&section, HeaderEdit::Prepend(field));
    for section in [&after, &refolded(&after)] {
        assert!(hops::refuse_loop(section, &hostname, "acme", 1_000).is_err());
        if before.is_ok() {
            assert!(hops::refuse_loop(section, &hostname, "beta", 1_000).is_ok() || text(octets).contains("beta"));
        }
    }
}

fn texts(octets: &[u8]) -> Vec<Vec<u8>> {
    octets.split(|&octet| octet == 0xff).map(<[u8]>::to_vec).collect()
}

pub(crate) fn spf_record(octets: &[u8]) {
    let mut records = texts(octets);
    let found = spf_record::select(&records);
    if let Ok(record) = &found {
        assert!(record.directives.len() <= octets.len());
    }
    // Other records beside it change nothing, their order neither; a second one is an error.
    records.insert(0, b"verification=1".to_vec());
    records.reverse();
    let again = spf_record::select(&records);
    match (&found, &again) {
        (Ok(found), Ok(again)) => assert_eq!(found, again),
        (found, again) => assert_eq!(found.as_ref().err(), again.as_ref().err()),
    }
    records.push(b"v=spf1 -all".to_vec());
    let two = spf_record::select(&records);
    assert_eq!(matches!(found, Err(SpfResult::None)), two.is_ok());
}

pub(crate) fn dmarc_record(octets: &[u8]) {
    let mut records = texts(octets);
    let found = dmarc_record::select(&records);
    records.insert(0, b"verification=1".to_vec());
    assert_eq!(dmarc_record::select(&records).is_some(), found.is_some());
    records.push(b"v=DMARC1; p=none".to_vec());
    assert!(found.is_none() || dmarc_record::select(&records).is_none());
    if let Ok(domain) = Domain::parse(&text(octets)) {
        let names = dmarc_record::names(domain.as_str());
        assert!((1..=8).contains(&names.len()));
        assert!(names.iter().all(|name| name.starts_with("_dmarc.") && name.ends_with('.')));
        assert!(
            names
                .iter()
                .all(|name| domain.as_str().ends_with(name.trim_start_matches("_dmarc.").trim_end_matches('.')))
        );
    }
}

pub(crate) fn dkim_signature(octets: &[u8]) {
    let [field, records] = parts(octets);
    let records = texts(records);
    let _ = acceptable::key_objection(&records);
    if let Ok(signature) = Signature::parse(field) {
        let objection = acceptable::objection(field, &signature, &[("Subject", 2)]);
        let signs_from = signature.h.iter().any(|name| name.trim().eq_ignore_ascii_case("From"));
        assert!(signs_from || objection.is_some());
    }
    // A message with it is read whatever the field is.
    let message = [b"DKIM-Signature: ", field, b"\r\nFrom: ann@a.example\r\n\r\n"].concat();
    let _ = AuthenticatedMessage::parse(&message);
    for record in &records {
        let _ = DomainKey::parse(record);
    }
}

const SIGNING: &str = r#"
[daemon]
hostname = "mx.acme.example"
[authentication]
name_servers = ["127.0.0.1:9"]
[[connector]]
name = "acme"
system = "zendesk"
account = "acme"
domain = "acme.example"
mode = "outbound-only"
addresses = ["support@acme.example"]
[connector.submission]
logins = [{ name = "zendesk-support", addresses = ["support@acme.example"] }]
[[connector.dkim]]
selector = "ed"
key_file = "acme.pem"
"#;

/// Our keys, and a verifier that knows their records without DNS.
struct Bench {
    keys: sign::Keys,
    verifier: MessageAuthenticator,
    cache: Cache,
}

impl Bench {
    fn new() -> Self {
        let config = sure(Config::parse(SIGNING, &configuration::file()));
        let cache = Cache::default();
        for connector in &config.connectors {
            for key in &connector.dkim {
                let name = format!("{}._domainkey.{}.", key.selector, connector.domain);
                let record = TxtRecord::from(DomainKey::parse(key.key.public().record().as_bytes()));
                let until = Instant::now() + Duration::from_secs(86_400);
                if let Some(records) = cache.txt() {
                    records.insert(name.as_str().into(), record, until);
                }
            }
        }
        let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        Self {
            keys: sign::Keys::new(&config.connectors, &config.signing, config.outbound.sign_with),
            verifier: sure(resolvers(&[nowhere])).0,
            cache,
        }
    }
}

pub(crate) fn signing(octets: &[u8]) {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    let bench = BENCH.get_or_init(Bench::new);

    let message = block(&repaired(octets));
    let mut section = Headers::new(message.headers.iter().map(|f| Header::new(f.name(), f.value())).collect());
    for (name, value) in [("From", "support@acme.example"), ("Date", "Sun, 22 Nov 2026 09:00:00 +0000")] {
        if section.first(name).is_none() {
            section.apply(&[HeaderEdit::Append(Header::written(name, value))]);
        }
    }
    let keys = bench.keys.of_connector("acme", &[]);
    if sign::refuse_malformed(&section, sign::Dated::May, &keys).is_err() {
        return;
    }
    let body = Body::from_octets(message.body);
    let signed = match at_once(bench.keys.sign(keys, section.clone(), body.clone())) {
        Ok(signatures) => signatures,
        Err(sign::Failure::LongLine) => {
            let octets = [wire(&section), sure(assembled(&body))].concat();
            assert!(octets.split(|&b| b == b'\n').any(|line| line.len() > 998));
            return;
        }
        Err(failure) => unreachable!("{failure}"),
    };
    assert_eq!(signed.len(), 2);
    let theirs = section.named("DKIM-Signature").count();
    section.apply(&signed.into_iter().map(HeaderEdit::Prepend).collect::<Vec<_>>());
    let octets = [wire(&section), sure(assembled(&body))].concat();
    let Some(read) = AuthenticatedMessage::parse(&octets) else { unreachable!("a message") };
    let outputs = at_once(bench.verifier.verify_dkim(Parameters::new(&read).with_cache(&bench.cache)));
    assert!(outputs.len() <= 2 + theirs);
    let passed = outputs.iter().filter(|output| *output.result() == DkimResult::Pass).count();
    assert!(passed >= 2, "{outputs:?} of {}", text(&octets));
}

fn assembled(body: &Body) -> std::io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    at_once(body.append_to(&mut octets))?;
    Ok(octets)
}
