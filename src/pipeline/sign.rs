//! DKIM signatures of the company (RFC 6376, RFC 8463, RFC 8301): which keys sign a message, over which fields, and what is
//! refused because its signature would not survive.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use mail_auth::crypto::{Algorithm, Sha256};
use mail_auth::dkim::DkimSigner;
use mail_auth::headers::{HeaderWriter, Writable};
use memchr::memchr;
use tokio::sync::Semaphore;

use super::authenticate::Findings;
use super::authentication_results::Outcome;
use super::preserve::Preserved;
use crate::config::{Connector, Cover, SenderPattern, SignWhen, SignWith, Signing};
use crate::dkim::SigningKey;
use crate::mail::{Address, Body, Header, Headers, Reply};

/// The fields that every signature covers, each once more than it is there, so that none can be added (RFC 6376 sections
/// 5.4.1 and 8.15): what readers see, and how the body is read. Date and Message-ID are exceptions where they are missing, see
/// [`covered`].
pub(super) const CORE: [&str; 13] = [
    "From",
    "Sender",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "To",
    "Cc",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];
/// Covered where they are there, so that a mailing list may still add its own. One-click unsubscription wants the last two
/// signed (RFC 8058 section 4).
const WHERE_PRESENT: [&str; 4] = ["Content-Disposition", "List-Id", "List-Unsubscribe", "List-Unsubscribe-Post"];
/// Octets in a line at most, without CRLF (RFC 5322 section 2.1.1). Postfix cuts longer ones on delivery.
const LINE_MAX: usize = 998;
/// FF: what printers took for the end of a page.
const FORM_FEED: u8 = 0x0c;

/// All keys. One for all sessions.
pub(super) struct Keys {
    by_connector: HashMap<String, Vec<Arc<Key>>>,
    rules: Vec<Rule>,
    /// Rules by a domain that they are for alone.
    by_domain: HashMap<String, Vec<usize>>,
    /// Rules that look at every address.
    wild: Vec<usize>,
    sign_with: SignWith,
    /// Large messages that are hashed at a time: as many as there are processors.
    large: Arc<Semaphore>,
}

/// A key with what it signs as.
pub(super) struct Key {
    key: Arc<SigningKey>,
    domain: String,
    selector: String,
    sign: SignWhen,
    /// The names beyond [`CORE`], for a second signature.
    preserved: Option<Vec<String>>,
}

/// A `[[signing]]` entry.
struct Rule {
    patterns: Vec<SenderPattern>,
    key: Arc<Key>,
}

/// Why there is no signature.
#[derive(Debug)]
pub(super) enum Failure {
    /// A line that a server further on would cut.
    LongLine,
    /// The body could not be read back.
    Spool(std::io::Error),
    /// The cryptography library would not.
    Key(String),
}

impl Keys {
    pub(super) fn new(connectors: &[Arc<Connector>], signing: &[Signing], sign_with: SignWith) -> Self {
        let mut by_connector = HashMap::new();
        for connector in connectors.iter().filter(|connector| connector.submission.is_some()) {
            let preserved = super::preserve::of(connector);
            let keys: Vec<_> = connector.dkim.iter().map(|key| Arc::new(Key::of(connector, key, &preserved))).collect();
            if !keys.is_empty() {
                by_connector.insert(connector.name.clone(), keys);
            }
        }
        let (mut rules, mut by_domain, mut wild) = (Vec::new(), HashMap::<String, Vec<usize>>::new(), Vec::new());
        for (n, signing) in signing.iter().enumerate() {
            if signing.sign_for.iter().any(|pattern| pattern.domain().is_none()) {
                wild.push(n);
            } else {
                for domain in signing.sign_for.iter().filter_map(SenderPattern::domain) {
                    let rules = by_domain.entry(domain.to_owned()).or_default();
                    if rules.last() != Some(&n) {
                        rules.push(n);
                    }
                }
            }
            let key = Key {
                key: Arc::clone(&signing.key),
                domain: signing.domain.to_string(),
                selector: signing.selector.to_string(),
                sign: signing.sign,
                preserved: None,
            };
            rules.push(Rule { patterns: signing.sign_for.clone(), key: Arc::new(key) });
        }
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { by_connector, rules, by_domain, wild, sign_with, large: Arc::new(Semaphore::new(processors)) }
    }

    /// Whether there is any `[[signing]]`.
    pub(super) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// The keys of a connector's notifications: its own, or else those for its addresses.
    pub(super) fn of_connector(&self, connector: &str, from: &[Address]) -> Vec<Arc<Key>> {
        self.by_connector.get(connector).cloned().unwrap_or_else(|| self.of_author(from))
    }

    /// The keys of the `[[signing]]` entries that are for one of these From addresses: of every one, or of the first one.
    pub(super) fn of_author(&self, from: &[Address]) -> Vec<Arc<Key>> {
        let mut found: Vec<usize> = Vec::new();
        for address in from {
            let by_domain = self.by_domain.get(address.domain().as_str());
            for &n in by_domain.into_iter().flatten().chain(&self.wild) {
                let matches = |rule: &Rule| rule.patterns.iter().any(|pattern| pattern.matches(address));
                if !found.contains(&n) && self.rules.get(n).is_some_and(matches) {
                    found.push(n);
                }
            }
        }
        found.sort_unstable();
        if self.sign_with == SignWith::First {
            found.truncate(1);
        }
        let mut keys: Vec<Arc<Key>> = Vec::new();
        for rule in found.into_iter().filter_map(|n| self.rules.get(n)) {
            // One key may stand in several entries.
            if !keys.iter().any(|key| key.domain == rule.key.domain && key.selector == rule.key.selector) {
                keys.push(Arc::clone(&rule.key));
            }
        }
        keys
    }

    /// The DKIM-Signature fields by `keys` of a message with these header fields, topmost last. The body is read in pieces;
    /// a spooled one off the async threads.
    ///
    /// # Errors
    /// As [`Failure`] says; then nothing may leave.
    pub(super) async fn sign(&self, keys: Vec<Arc<Key>>, headers: Headers, body: Body) -> Result<Vec<Header>, Failure> {
        if !body.is_spooled() {
            return signatures(&keys, &headers, &body);
        }
        let interrupted = |error: &dyn fmt::Display| Failure::Spool(std::io::Error::other(error.to_string()));
        let turn = Arc::clone(&self.large).acquire_owned().await.map_err(|error| interrupted(&error))?;
        let work = move || {
            let signed = signatures(&keys, &headers, &body);
            drop(turn);
            signed
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| interrupted(&error))?
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} connectors, {} rules)", self.by_connector.len(), self.rules.len())
    }
}

impl Key {
    fn of(connector: &Connector, key: &crate::config::DkimKey, preserved: &[Preserved]) -> Self {
        let names = || preserved.iter().map(|field| field.name.clone()).collect();
        Self {
            key: Arc::clone(&key.key),
            domain: connector.domain.to_string(),
            selector: key.selector.to_string(),
            sign: key.sign,
            preserved: (key.cover == Cover::Preserved).then(names),
        }
    }

    /// Whether it has to know which signatures are valid, given which are there.
    pub(super) fn asks(&self, headers: &Headers) -> bool {
        self.sign == SignWhen::UnlessSigned && headers.first("DKIM-Signature").is_some()
    }

    /// Whether it signs a message of which this is known; nothing known is nothing valid.
    pub(super) fn signs(&self, findings: Option<&Findings>) -> bool {
        let signed = || {
            findings.is_some_and(|findings| {
                findings.dkim.iter().any(|signature| {
                    signature.outcome == Outcome::Pass && signature.domain.eq_ignore_ascii_case(&self.domain)
                })
            })
        };
        self.sign == SignWhen::Always || !signed()
    }
}

/// `selector/domain`, for the log.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.selector, self.domain)
    }
}

impl Failure {
    /// The reply: only the long line is the sender's to mend.
    pub(super) fn reply(&self) -> Reply {
        match self {
            Self::LongLine => Reply::new(
                550,
                6,
                0,
                "a line is longer than 998 octets (RFC 5322 section 2.1.1): it would be cut on the way, which breaks the signature; encode it",
            ),
            Self::Spool(_) => {
                Reply::new(451, 3, 0, "local trouble, this message cannot be signed now; try again later")
            }
            Self::Key(_) => Reply::new(451, 7, 5, "this message cannot be signed now; try again later"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongLine => write!(f, "a line is longer than {LINE_MAX} octets"),
            Self::Spool(error) => write!(f, "spool: {error}"),
            Self::Key(error) => write!(f, "key: {error}"),
        }
    }
}

/// Whether a message that is to be signed must have a Date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dated {
    /// One.
    Must,
    /// One or none: programs of the company leave it to their mail server, and a server further on may add it.
    May,
}

/// Refuses a message that RFC 5322 section 3.6 does not know, because its signature would say nothing certain: two From fields
/// are shown in two ways (RFC 6376 section 8.15), and so are two Date fields. A form feed in a field that `keys` cover is white
/// space to our library and none to others, RFC 6376 among them (section 2.8).
///
/// # Errors
/// The reply for it.
pub(super) fn refuse_malformed(headers: &Headers, dated: Dated, keys: &[Arc<Key>]) -> Result<(), Reply> {
    for name in ["From", "Date"] {
        let count = headers.named(name).count();
        let may_be_missing = name == "Date" && dated == Dated::May;
        if count > 1 || (count == 0 && !may_be_missing) {
            let text =
                format!("{count} {name} fields; a message that is to be signed has exactly one (RFC 5322 section 3.6)");
            return Err(Reply::new(550, 6, 0, text));
        }
    }
    for field in headers.iter().filter(|field| field.value().contains(&FORM_FEED)) {
        if keys.iter().any(|key| key.covers(field)) {
            let name = String::from_utf8_lossy(field.name());
            let text = format!(
                "form feed in the header field {name} (RFC 5322 section 2.2): no signature would hold; remove it"
            );
            return Err(Reply::new(550, 6, 0, text));
        }
    }
    Ok(())
}

fn signatures(keys: &[Arc<Key>], headers: &Headers, body: &Body) -> Result<Vec<Header>, Failure> {
    let mut head = Vec::with_capacity(headers.wire_len() + 2);
    for field in headers.iter() {
        if field
            .raw()
            .split(|&octet| octet == b'\n')
            .any(|line| line.strip_suffix(b"\r").unwrap_or(line).len() > LINE_MAX)
        {
            return Err(Failure::LongLine);
        }
        // The name without a blank before the colon: relaxed canonicalization takes it off (RFC 6376 section 3.4.2), while the library
        // would look for a field of another name.
        head.extend_from_slice(field.name());
        head.push(b':');
        head.extend_from_slice(field.value());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");

    // OpenDKIM looks at the three topmost signatures only (MaximumSignaturesToVerify), and large providers fail mail whose only
    // good signature is Ed25519: RSA goes on top.
    let (rsa, others): (Vec<&Arc<Key>>, Vec<&Arc<Key>>) = keys.iter().partition(|key| key.is_rsa());
    let signers: Vec<_> = others.into_iter().chain(rsa).flat_map(|key| key.signers(headers)).collect();
    let mut streams: Vec<_> = signers.iter().map(DkimSigner::sign_streaming).collect();
    streams.iter_mut().for_each(|stream| stream.write(&head));
    let mut lines = Lines::default();
    body.for_each_chunk(|chunk| {
        lines.take(chunk);
        streams.iter_mut().for_each(|stream| stream.write(chunk));
    })
    .map_err(Failure::Spool)?;
    lines.end();
    if lines.too_long {
        return Err(Failure::LongLine);
    }
    streams
        .into_iter()
        .map(|stream| {
            let field = stream.finish().map_err(|error| Failure::Key(error.to_string()))?.to_header();
            let value = field.split_once(':').map_or("", |(_, value)| value).trim_end();
            Ok(Header::new(b"DKIM-Signature", value.as_bytes()))
        })
        .collect()
}

type Signer = DkimSigner<Shared, mail_auth::signer::Ready>;

impl Key {
    /// Whether a signature of it covers such a field.
    fn covers(&self, field: &Header) -> bool {
        let preserved = self.preserved.iter().flatten().map(String::as_str);
        CORE.into_iter().chain(WHERE_PRESENT).chain(preserved).any(|name| field.is(name))
    }

    fn is_rsa(&self) -> bool {
        self.key.algorithm() == crate::dkim::Algorithm::Rsa
    }

    /// One signature over the core fields, topmost, and one over the preserved fields too: behind a server that strips some of
    /// those the first one still holds.
    fn signers(&self, headers: &Headers) -> Vec<Signer> {
        let signer = |names: Vec<&str>| {
            DkimSigner::from_key(Shared(Arc::clone(&self.key)))
                .domain(self.domain.as_str())
                .selector(self.selector.as_str())
                .headers(names)
        };
        let core = covered(headers, &[]);
        match &self.preserved {
            None => vec![signer(core)],
            Some(preserved) => vec![signer(covered(headers, preserved)), signer(core)],
        }
    }
}

/// The names for the signer, which takes every field of a name that it is given, and one more for a name given twice.
fn covered<'n>(headers: &Headers, preserved: &'n [String]) -> Vec<&'n str> {
    let mut names: Vec<&str> = Vec::new();
    // A Date or Message-ID that is missing is not listed at all: a server that adds it does no wrong (RFC 6409 sections 8.2
    // and 8.3).
    let stands = |name: &&str| !["Date", "Message-ID"].contains(name) || headers.first(name).is_some();
    let oversigned = CORE.into_iter().filter(stands).chain(preserved.iter().map(String::as_str));
    for name in oversigned {
        if names.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            continue;
        }
        names.push(name);
        if headers.first(name).is_some() {
            names.push(name);
        }
    }
    let once = |name: &&str| headers.first(name).is_some() && !preserved.iter().any(|p| p.eq_ignore_ascii_case(name));
    names.extend(WHERE_PRESENT.into_iter().filter(once));
    names
}

/// A key that several signers share.
struct Shared(Arc<SigningKey>);

impl mail_auth::crypto::SigningKey for Shared {
    type Hasher = Sha256;

    fn sign(&self, input: impl Writable) -> mail_auth::Result<Vec<u8>> {
        (&*self.0).sign(input)
    }

    fn algorithm(&self) -> Algorithm {
        mail_auth::crypto::SigningKey::algorithm(&&*self.0)
    }
}

/// Watches the lengths of lines over a stream.
#[derive(Default)]
struct Lines {
    length: usize,
    /// The line at hand ends in CR so far.
    cr: bool,
    too_long: bool,
}

impl Lines {
    fn take(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while let Some((line, after)) = memchr(b'\n', rest).and_then(|end| rest.split_at_checked(end)) {
            self.add(line);
            self.end();
            rest = after.get(1..).unwrap_or_default();
        }
        self.add(rest);
    }

    fn add(&mut self, piece: &[u8]) {
        self.length = self.length.saturating_add(piece.len());
        self.cr = piece.last().map_or(self.cr, |&octet| octet == b'\r');
    }

    /// The line at hand has ended.
    fn end(&mut self) {
        let length = self.length.saturating_sub(usize::from(self.cr));
        self.too_long |= length > LINE_MAX;
        (self.length, self.cr) = (0, false);
    }
}
