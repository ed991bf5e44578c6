//! Whether a signing key, the record that publishes it and a signature made with it agree.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use mail_auth::dkim::DkimSigner;
use mail_auth::headers::HeaderWriter;
use mail_auth::hickory_resolver::proto::rr::{RData, RecordType};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};
use tokio::time::timeout;

use crate::dkim::{Algorithm, KeyRecord, PublicKey, RecordError, Selector, SigningKey, record_name};
use crate::mail::Domain;
use crate::pipeline::dns;

/// How long one look-up may take, with all its retries.
const LOOK_UP_TIME: Duration = Duration::from_secs(20);
/// Bits below which verifiers need not accept an RSA key (RFC 8301 section 3.2).
const RSA_BITS_ACCEPTED: usize = 1024;
/// Bits that a published RSA key should have (RFC 8301 section 3.2).
const RSA_BITS_MIN: usize = 2048;
/// Letters of a foreign text that are shown.
const SHOWN: usize = 60;

/// What DNS has at the record's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// TXT records, each with its strings joined.
    Records(Vec<Vec<u8>>),
    /// The name is there, but no TXT record.
    NoRecord,
    /// The name does not exist (NXDOMAIN).
    NoName,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Good,
    /// Signatures verify, but something deserves attention.
    Warning,
    /// Signatures do not verify, or not everywhere.
    Problem,
}

/// One thing found. Its text says what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// NXDOMAIN.
    NoName,
    /// No TXT record.
    NoRecord,
    /// Several records: verifiers may take any (RFC 6376 section 3.6.2.2).
    Several(usize),
    /// No verifier can read it.
    Syntax(RecordError),
    /// `p=` is empty.
    Revoked,
    /// `k=` names another algorithm.
    KeyType {
        /// In the record.
        published: String,
        /// Of the private key.
        own: Algorithm,
    },
    /// `p=` holds no key of the algorithm.
    NoKey,
    /// Another public key than the private key's.
    OtherKey,
    /// The published RSA key is too short.
    TooShort(usize),
    /// `h=` does not allow SHA-256.
    Hash(Vec<String>),
    /// `s=` does not allow mail.
    Service(Vec<String>),
    /// `t=y`
    Testing,
    /// `t=s`
    Strict,
    /// Record and key belong together.
    Matches(Algorithm, usize),
    /// A test signature verified by the published record.
    Verified,
    /// A test signature did not.
    NotVerified(String),
    /// An Ed25519 key alone does not suffice.
    NeedsRsa,
}

/// Why nothing can be said now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// DNS gave no answer, or a failure.
    #[error(
        "DNS cannot say whether {name} is there: {reason}; try again later, or name another server by --name-server"
    )]
    Dns {
        /// The record's name.
        name: String,
        /// What happened.
        reason: String,
    },
    /// No resolver.
    #[error("{0}")]
    Resolver(String),
}

/// Looks the record up, compares it with the key, and lets a verifier check a signature by it.
///
/// # Errors
/// DNS gave no answer that can be judged.
pub async fn check(
    key: &SigningKey,
    domain: &Domain,
    selector: &Selector,
    name_servers: &[SocketAddr],
) -> Result<Vec<Finding>, Trouble> {
    let (resolver, _) = dns::resolvers(name_servers).map_err(Trouble::Resolver)?;
    let name = record_name(selector, domain);
    let published = look_up(&resolver, &name).await?;
    let mut findings = judge(key.public(), &published);
    // What is wrong with the record is said already, and by name.
    if findings.iter().all(|finding| finding.severity() < Severity::Problem) {
        findings.push(test_signature(&resolver, key, domain, selector).await?);
    }
    Ok(findings)
}

/// Asks for the TXT records of `name`.
///
/// # Errors
/// No answer, or one that says neither yes nor no.
pub async fn look_up(resolver: &MessageAuthenticator, name: &str) -> Result<Published, Trouble> {
    let trouble = |reason: String| Trouble::Dns { name: name.to_owned(), reason };
    // The last dot: no search domain is tried.
    let query = resolver.resolver().lookup(format!("{name}."), RecordType::TXT);
    let answer = timeout(LOOK_UP_TIME, query).await.map_err(|_| trouble("no answer in time".to_owned()))?;
    let records: Vec<Vec<u8>> = match answer {
        Ok(lookup) => lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::TXT(text) => Some(text.txt_data.concat()),
                _ => None,
            })
            .collect(),
        Err(error) if error.is_nx_domain() => return Ok(Published::NoName),
        Err(error) if error.is_no_records_found() => Vec::new(),
        Err(error) => return Err(trouble(error.to_string())),
    };
    Ok(if records.is_empty() { Published::NoRecord } else { Published::Records(records) })
}

/// Compares what is published with the private key's public half.
pub fn judge(own: &PublicKey, published: &Published) -> Vec<Finding> {
    let mut findings = match published {
        Published::NoName => vec![Finding::NoName],
        Published::NoRecord => vec![Finding::NoRecord],
        Published::Records(records) => match records.as_slice() {
            [record] => match KeyRecord::parse(record) {
                Ok(record) => judge_record(own, &record),
                Err(error) => vec![Finding::Syntax(error)],
            },
            several => vec![Finding::Several(several.len())],
        },
    };
    if own.algorithm() == Algorithm::Ed25519 {
        findings.push(Finding::NeedsRsa);
    }
    findings
}

fn judge_record(own: &PublicKey, record: &KeyRecord) -> Vec<Finding> {
    let mut findings = Vec::new();
    if record.key.is_empty() {
        findings.push(Finding::Revoked);
    } else if !record.key_type.eq_ignore_ascii_case(own.algorithm().key_type()) {
        findings.push(Finding::KeyType { published: record.key_type.clone(), own: own.algorithm() });
    } else {
        match PublicKey::read(own.algorithm(), &record.key) {
            None => findings.push(Finding::NoKey),
            Some(public) if public == *own => findings.push(Finding::Matches(own.algorithm(), own.bits())),
            Some(public) => {
                findings.push(Finding::OtherKey);
                if public.algorithm() == Algorithm::Rsa && public.bits() < RSA_BITS_MIN {
                    findings.push(Finding::TooShort(public.bits()));
                }
            }
        }
    }
    let allows = |list: &Option<Vec<String>>, wanted: &[&str]| {
        list.as_ref()
            .is_none_or(|list| list.iter().any(|item| wanted.iter().any(|want| item.eq_ignore_ascii_case(want))))
    };
    if !allows(&record.hashes, &["sha256"]) {
        findings.push(Finding::Hash(record.hashes.clone().unwrap_or_default()));
    }
    if !allows(&record.services, &["*", "email"]) {
        findings.push(Finding::Service(record.services.clone().unwrap_or_default()));
    }
    if record.has_flag("y") {
        findings.push(Finding::Testing);
    }
    if record.has_flag("s") {
        findings.push(Finding::Strict);
    }
    findings
}

/// Signs a small message and lets mail-auth verify it by the record in DNS.
async fn test_signature(
    resolver: &MessageAuthenticator,
    key: &SigningKey,
    domain: &Domain,
    selector: &Selector,
) -> Result<Finding, Trouble> {
    let message = format!(
        "From: postmaster@{domain}\r\nTo: postmaster@{domain}\r\nSubject: key check\r\n\
         Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <key-check@{domain}>\r\n\r\nA test signature.\r\n"
    );
    let signer = DkimSigner::from_key(key).domain(domain.as_str()).selector(selector.as_str());
    let signature = match signer.headers(["From", "To", "Subject", "Date", "Message-ID"]).sign(message.as_bytes()) {
        Ok(signature) => signature,
        Err(error) => return Ok(Finding::NotVerified(format!("the key cannot sign: {error}"))),
    };
    let signed = signature.to_header() + &message;
    let Some(parsed) = AuthenticatedMessage::parse(signed.as_bytes()) else {
        return Ok(Finding::NotVerified("the signed message cannot be read".to_owned()));
    };
    let trouble = |reason: String| Trouble::Dns { name: record_name(selector, domain), reason };
    let outputs = timeout(LOOK_UP_TIME, resolver.verify_dkim(&parsed))
        .await
        .map_err(|_| trouble("no answer in time".to_owned()))?;
    match outputs.first().map(|output| output.result()) {
        Some(DkimResult::Pass) => Ok(Finding::Verified),
        Some(DkimResult::TempError(error)) => Err(trouble(error.to_string())),
        Some(DkimResult::Neutral(error) | DkimResult::Fail(error) | DkimResult::PermError(error)) => {
            Ok(Finding::NotVerified(error.to_string()))
        }
        Some(DkimResult::None) | None => Ok(Finding::NotVerified("the verifier saw no signature".to_owned())),
    }
}

impl Finding {
    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Matches(..) | Self::Verified | Self::Strict => Severity::Good,
            Self::Testing | Self::NeedsRsa => Severity::Warning,
            _ => Severity::Problem,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// `problem: what is wrong; what to do`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.severity())?;
        match self {
            Self::NoName => f.write_str("the name does not exist in DNS (NXDOMAIN); publish the record, or wait until it has spread"),
            Self::NoRecord => f.write_str("the name exists, but has no TXT record; publish the record there"),
            Self::Several(count) => {
                write!(f, "{count} TXT records; verifiers may take any of them: keep one, a second key needs its own selector")
            }
            Self::Syntax(error) => write!(f, "the record cannot be read: {error}"),
            Self::Revoked => f.write_str(
                "revoked: p= is empty, so every signature of this selector fails; make a new key under a new selector",
            ),
            Self::KeyType { published, own } => write!(
                f,
                "the record says k={}, but the private key is for {} and needs k={}; publish this key's own record",
                shown(published),
                own.name(),
                own.key_type()
            ),
            Self::NoKey => f.write_str("what p= carries is no public key of its kind; was it cut off? publish the record again"),
            Self::OtherKey => f.write_str(
                "mismatch: the record holds another public key than this private key's; publish this key's record, or use \
                 the private key that belongs to the record",
            ),
            Self::TooShort(bits) if *bits < RSA_BITS_ACCEPTED => {
                write!(f, "the published RSA key has {bits} bits; verifiers refuse less than {RSA_BITS_ACCEPTED} (RFC 8301)")
            }
            Self::TooShort(bits) => {
                write!(f, "the published RSA key has {bits} bits; at least {RSA_BITS_MIN} are due (RFC 8301)")
            }
            Self::Hash(list) => write!(
                f,
                "h={} does not allow sha256, with which every signature is made; remove h= from the record",
                shown(&list.join(":"))
            ),
            Self::Service(list) => write!(
                f,
                "s={} does not allow email; remove s= from the record, or make it s=email",
                shown(&list.join(":"))
            ),
            Self::Testing => f.write_str(
                "t=y: the domain is testing, and verifiers treat a failed signature like none; remove t=y when all is well",
            ),
            Self::Strict => f.write_str("t=s: signatures count for this very domain only, as deskmilter signs"),
            Self::Matches(algorithm, bits) => write!(f, "record and private key belong together ({algorithm}, {bits} bits)"),
            Self::Verified => f.write_str("a test signature verifies by the published record"),
            Self::NotVerified(reason) => write!(f, "a test signature does not verify: {}", shown(reason)),
            Self::NeedsRsa => f.write_str(
                "large providers do not verify Ed25519 yet, and a message signed by it alone fails DMARC there; sign with an \
                 RSA key of another selector as well",
            ),
        }
    }
}

/// Foreign text as it may stand in a terminal.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dkim::NewKey;

    fn key(kind: NewKey) -> SigningKey {
        SigningKey::parse(&SigningKey::generate(kind).unwrap()).unwrap()
    }

    fn record(text: &str) -> Published {
        Published::Records(vec![text.as_bytes().to_vec()])
    }

    #[test]
    fn each_thing_that_can_be_wrong_with_a_record_has_its_own_finding() {
        let (own, other, short) = (key(NewKey::Rsa2048), key(NewKey::Rsa2048), key(NewKey::Ed25519));
        let good = own.public().record();
        let p = good.split("p=").nth(1).unwrap();
        let cases = [
            (Published::NoName, Finding::NoName),
            (Published::NoRecord, Finding::NoRecord),
            (Published::Records(vec![good.clone().into(), other.public().record().into()]), Finding::Several(2)),
            (record("v=DKIM1; k=rsa"), Finding::Syntax(RecordError::NoKey)),
            (record("v=DKIM1; k=rsa; p="), Finding::Revoked),
            (
                record(&short.public().record()),
                Finding::KeyType { published: "ed25519".to_owned(), own: Algorithm::Rsa },
            ),
            (record(&good[..good.len() - 80]), Finding::NoKey),
            (record(&other.public().record()), Finding::OtherKey),
            (record(&format!("v=DKIM1; h=sha1; p={p}")), Finding::Hash(vec!["sha1".to_owned()])),
            (record(&format!("v=DKIM1; s=tlsrpt; p={p}")), Finding::Service(vec!["tlsrpt".to_owned()])),
            (record(&format!("v=DKIM1; t=y; p={p}")), Finding::Testing),
            (record(&format!("v=DKIM1; t=s; p={p}")), Finding::Strict),
        ];
        for (published, expected) in cases {
            let findings = judge(own.public(), &published);
            assert!(findings.contains(&expected), "{published:?}: {findings:?}");
            assert!(!expected.to_string().is_empty());
        }
        assert_eq!(judge(own.public(), &record(&good)), [Finding::Matches(Algorithm::Rsa, 2048)]);
    }

    #[test]
    fn an_ed25519_key_matches_but_asks_for_an_rsa_key_beside_it() {
        let own = key(NewKey::Ed25519);
        let findings = judge(own.public(), &record(&own.public().record()));
        assert_eq!(findings, [Finding::Matches(Algorithm::Ed25519, 256), Finding::NeedsRsa]);
    }

    #[test]
    fn what_a_stranger_wrote_into_dns_does_not_reach_the_terminal() {
        let text = Finding::KeyType { published: "\u{1b}[2J".repeat(100), own: Algorithm::Rsa }.to_string();
        assert!(!text.contains('\u{1b}') && text.len() < 1_000, "{text}");
    }
}
