//! The site key: lets the LMTP side trust the verdict header that the milter side wrote before the queue.

use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::{Secret, SecretFile};
use crate::mail::{Header, Headers};

/// The field that carries the verdict.
pub(super) const FIELD: &str = "X-Deskmilter-Sender-Auth";
/// Every field of ours begins so.
pub(super) const FIELD_PREFIX: &str = "X-Deskmilter-";
/// The fields that the MAC binds besides the verdict itself: who wrote what to whom. Queues and content filters leave them
/// alone; a Subject, which spam filters mark, is not among them.
const BOUND_FIELDS: [&str; 4] = ["From", "To", "Date", "Message-ID"];
/// Stands where no body was judged.
const NO_DIGEST: &str = "-";
/// Octets of a key at least.
const KEY_MIN: usize = 32;
/// How far clocks of two hosts may differ.
pub(super) const CLOCK_SKEW: u64 = 300;

/// The key of a site, or two during a key change: the first one signs, both verify.
#[derive(Clone)]
pub struct SiteKey {
    keys: Vec<hmac::Key>,
}

impl std::fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SiteKey([secret])")
    }
}

impl SiteKey {
    /// Reads keys: one a line, base64 (URL alphabet, no padding) of at least 32 octets; the first line signs.
    ///
    /// # Errors
    /// What is wrong, without a word of the key.
    pub fn parse(secret: &Secret) -> Result<Self, String> {
        let lines = secret.expose().split(|&b| b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        let mut keys = Vec::new();
        for line in lines {
            match URL_SAFE_NO_PAD.decode(line) {
                Ok(key) if key.len() >= KEY_MIN => keys.push(hmac::Key::new(hmac::HMAC_SHA256, &key)),
                _ => return Err("a site key is a line of base64url that stands for at least 32 octets".to_owned()),
            }
        }
        if keys.is_empty() || keys.len() > 2 {
            return Err(format!("{} site keys; write one, or two during a key change", keys.len()));
        }
        Ok(Self { keys })
    }

    /// Reads the key file.
    ///
    /// # Errors
    /// As [`SecretFile::read`] and [`Self::parse`], with the path.
    pub fn load(file: &SecretFile) -> Result<Self, String> {
        let secret = file.read().map_err(|error| error.to_string())?;
        Self::parse(&secret).map_err(|error| format!("{}: {error}", file.path().display()))
    }

    /// The text of a new key file.
    ///
    /// # Errors
    /// The system gave no randomness.
    pub fn generate() -> Result<Secret, String> {
        let mut key = [0; KEY_MIN];
        SystemRandom::new().fill(&mut key).map_err(|_| "the system gave no random numbers".to_owned())?;
        Ok(Secret::new((URL_SAFE_NO_PAD.encode(key) + "\n").into_bytes()))
    }

    /// The MAC of `octets` for `purpose`; a MAC for one purpose is none for another.
    pub(super) fn mac(&self, purpose: &str, octets: &[u8]) -> Vec<u8> {
        let octets = separated(purpose, octets);
        self.keys.first().map(|key| hmac::sign(key, &octets).as_ref().to_vec()).unwrap_or_default()
    }

    /// The MACs of `octets` for `purpose` by each key that counts, that of [`Self::mac`] first.
    pub(super) fn macs(&self, purpose: &str, octets: &[u8]) -> Vec<Vec<u8>> {
        let octets = separated(purpose, octets);
        self.keys.iter().map(|key| hmac::sign(key, &octets).as_ref().to_vec()).collect()
    }

    /// Whether `mac` is one of ours, by any key that counts.
    pub(super) fn verify(&self, purpose: &str, octets: &[u8], mac: &[u8]) -> bool {
        let octets = separated(purpose, octets);
        self.keys.iter().any(|key| hmac::verify(key, &octets, mac).is_ok())
    }

    /// The verdict field for a message, good from `now` (seconds since 1970), and for the body with this digest alone if one is
    /// given.
    pub(super) fn seal(&self, verdict: &str, headers: &Headers, body: Option<&str>, now: u64) -> Header {
        let text = format!("{verdict}; bh={}; t={now}", body.unwrap_or(NO_DIGEST));
        let mac = self
            .keys
            .first()
            .map(|key| URL_SAFE_NO_PAD.encode(hmac::sign(key, &bound(&text, headers))))
            .unwrap_or_default();
        Header::written(FIELD, &format!("{text};\r\n\tmac={mac}"))
    }

    /// The verdict that a field of ours carries, if it is ours, of this header section, and not too old.
    pub(super) fn open(&self, field: &Header, headers: &Headers, now: u64, lifetime: Duration) -> Option<Opened> {
        let text = field.text();
        let (text, mac) = text.rsplit_once("; mac=")?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        let bound = bound(text, headers);
        self.keys.iter().find(|key| hmac::verify(key, &bound, &mac).is_ok())?;
        let (verdict, time) = text.rsplit_once("; t=")?;
        let time: u64 = time.parse().ok()?;
        let fresh = time <= now.saturating_add(CLOCK_SKEW) && now.saturating_sub(time) <= lifetime.as_secs();
        let (verdict, body) = verdict.rsplit_once("; bh=")?;
        let body = (body != NO_DIGEST).then(|| body.to_owned());
        fresh.then(|| Opened { verdict: verdict.to_owned(), body })
    }
}

/// `purpose` is one line of its own; the verdict's is `deskmilter verdict 1`.
fn separated(purpose: &str, octets: &[u8]) -> Vec<u8> {
    [b"deskmilter ", purpose.as_bytes(), b"\n", octets].concat()
}

/// What a verdict field carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    /// The verdict.
    pub(super) verdict: String,
    /// The digest of the body that was judged.
    pub(super) body: Option<String>,
}

/// What the verdict's MAC is over. Each value is unfolded, so that refolding on the way does no harm; no value holds a line feed, so
/// that none can pass for another.
fn bound(text: &str, headers: &Headers) -> Vec<u8> {
    let mut octets = format!("deskmilter verdict 1\n{text}\n").into_bytes();
    for name in BOUND_FIELDS {
        for field in headers.named(name) {
            octets.extend_from_slice(name.as_bytes());
            octets.push(b':');
            octets.extend_from_slice(&field.unfolded());
            octets.push(b'\n');
        }
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn key() -> SiteKey {
        SiteKey::parse(&SiteKey::generate().unwrap()).unwrap()
    }

    fn message(from: &str, id: &str) -> Headers {
        Headers::new(vec![
            Header::written("From", from),
            Header::written("Message-ID", id),
            Header::written("Subject", "a"),
        ])
    }

    #[test]
    fn a_verdict_opens_for_its_own_message_only_while_it_is_fresh_and_with_its_own_key() {
        let (site, other) = (key(), key());
        let headers = message("a@b.example", "<1@b.example>");
        let field = site.seal("pass; reason=dmarc", &headers, Some("digest"), 1_000_000);
        let opened = Opened { verdict: "pass; reason=dmarc".to_owned(), body: Some("digest".to_owned()) };
        assert_eq!(site.open(&field, &headers, 1_000_100, DAY), Some(opened));
        for (what, opened) in [
            ("another key", other.open(&field, &headers, 1_000_100, DAY)),
            ("another author", site.open(&field, &message("c@b.example", "<1@b.example>"), 1_000_100, DAY)),
            ("another id", site.open(&field, &message("a@b.example", "<2@b.example>"), 1_000_100, DAY)),
            ("too late", site.open(&field, &headers, 1_000_000 + 86_401, DAY)),
            ("from the future", site.open(&field, &headers, 999_000, DAY)),
        ] {
            assert_eq!(opened, None, "{what}");
        }
    }

    #[test]
    fn refolding_and_a_marked_subject_do_no_harm_but_any_other_change_does() {
        let site = key();
        let headers = message("a  b <a@b.example>", "<1@b.example>");
        let field = site.seal("pass; reason=dmarc", &headers, Some("digest"), 1_000_000);
        let refolded = Header::new(b"x-deskmilter-SENDER-auth", field.text().replace("; ", ";\r\n ").as_bytes());
        let mut marked = message("a\r\n b <a@b.example>", "<1@b.example>").iter().cloned().collect::<Vec<_>>();
        marked[2] = Header::written("Subject", "***SPAM*** a");
        assert!(site.open(&refolded, &Headers::new(marked), 1_000_000, DAY).is_some());
        let text = field.text();
        for n in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[n] ^= 1;
            let field = Header::new(FIELD.as_bytes(), &[b" ".as_slice(), &changed].concat());
            assert_eq!(site.open(&field, &headers, 1_000_000, DAY), None, "octet {n}");
        }
    }

    #[test]
    fn during_a_key_change_what_the_old_key_sealed_still_opens() {
        let (old, new) = (SiteKey::generate().unwrap(), SiteKey::generate().unwrap());
        let both = SiteKey::parse(&Secret::new([new.expose(), old.expose()].concat())).unwrap();
        let headers = message("a@b.example", "<1@b.example>");
        let field = SiteKey::parse(&old).unwrap().seal("pass", &headers, Some("digest"), 5_000);
        assert!(both.open(&field, &headers, 5_000, DAY).is_some());
        assert!(
            SiteKey::parse(&new)
                .unwrap()
                .open(&both.seal("pass", &headers, Some("digest"), 5_000), &headers, 5_000, DAY)
                .is_some()
        );
    }

    #[test]
    fn a_key_that_is_too_short_or_no_key_is_refused() {
        for text in ["", "\n", "c2hvcnQ\n", "not base64 at all!\n"] {
            assert!(SiteKey::parse(&Secret::new(text.into())).is_err(), "{text:?}");
        }
    }
}
