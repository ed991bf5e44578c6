//! The DNS record that publishes a key (RFC 6376 section 3.6): its name, its text in a zone file, and what one found in DNS
//! says.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::mail::{AddressError, Domain};

/// Octets in one character-string of a TXT record (RFC 1035 section 3.3).
const CHARACTER_STRING_MAX: usize = 255;
/// Letters of a foreign text that are shown.
const SHOWN: usize = 40;

/// A selector: labels as in a domain name (RFC 6376 section 3.1), in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(Domain);

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// It is not one or more labels of letters, digits and hyphens.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Domain::parse(text).map(Self)
    }

    /// The selector in lower case.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the key is published: `SELECTOR._domainkey.DOMAIN`, without the last dot.
pub fn record_name(selector: &Selector, domain: &Domain) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// The line, or the lines, that a zone file needs (RFC 1035 section 5.1): the text in strings of at most 255 octets.
pub fn zone_entry(name: &str, record: &str) -> String {
    let quoted = |chunk: &[u8]| {
        let text = String::from_utf8_lossy(chunk);
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    };
    let strings: Vec<String> = record.as_bytes().chunks(CHARACTER_STRING_MAX).map(quoted).collect();
    match strings.as_slice() {
        [string] => format!("{name}. IN TXT {string}\n"),
        strings => format!("{name}. IN TXT ( {} )\n", strings.join("\n\t")),
    }
}

/// A key record as found in DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// `k=`; `rsa` where it is absent.
    pub key_type: String,
    /// `p=`; empty when the key has been revoked.
    pub key: Vec<u8>,
    /// `h=`: the hashes that signatures may use; `None` allows all.
    pub hashes: Option<Vec<String>>,
    /// `s=`: the services that the key is for; `None` allows all.
    pub services: Option<Vec<String>>,
    /// `t=`
    pub flags: Vec<String>,
}

/// Why a record is none that verifiers can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Quotation marks or backslashes within the text: a zone file's syntax was pasted into a form.
    #[error(
        "the text itself holds a quotation mark or backslash; enter the bare text, as deskmilter key record --format text prints it"
    )]
    Quotation,
    /// Not `tag=value`.
    #[error("{0:?} is not of the form tag=value")]
    Tag(String),
    /// One tag twice.
    #[error("the tag {0}= is there twice")]
    Twice(String),
    /// Not `v=DKIM1`, or not first.
    #[error("v=DKIM1 must be the first tag, spelled so")]
    Version,
    /// No `p=`.
    #[error("there is no p= tag, so no key")]
    NoKey,
    /// `p=` cannot be decoded.
    #[error("what p= carries is not base64")]
    Base64,
}

impl KeyRecord {
    /// Reads a record: all character-strings of one TXT record, joined.
    ///
    /// # Errors
    /// As [`RecordError`] says. Unknown tags are no error (RFC 6376 section 3.6.1).
    pub fn parse(text: &[u8]) -> Result<Self, RecordError> {
        let text = String::from_utf8_lossy(text);
        if text.contains(['"', '\\']) {
            return Err(RecordError::Quotation);
        }
        let tags = tags(&text)?;
        match tags.iter().position(|(name, _)| *name == "v") {
            None => {}
            Some(0) if tags.first().is_some_and(|(_, value)| *value == "DKIM1") => {}
            Some(_) => return Err(RecordError::Version),
        }
        let value = |name: &str| tags.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
        let key: String = value("p").ok_or(RecordError::NoKey)?.split_ascii_whitespace().collect();
        Ok(Self {
            key_type: value("k").unwrap_or("rsa").to_owned(),
            key: STANDARD.decode(key).map_err(|_| RecordError::Base64)?,
            hashes: value("h").map(list),
            services: value("s").map(list),
            flags: value("t").map(list).unwrap_or_default(),
        })
    }

    /// Whether `t=` has this flag.
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|found| found.eq_ignore_ascii_case(flag))
    }
}

/// The tags of a tag-list (RFC 6376 section 3.2), in order; a last semicolon is allowed.
fn tags(text: &str) -> Result<Vec<(&str, &str)>, RecordError> {
    let mut tags: Vec<(&str, &str)> = Vec::new();
    let text = text.trim();
    for part in text.strip_suffix(';').unwrap_or(text).split(';') {
        let shown = || part.trim().chars().take(SHOWN).collect::<String>();
        let (name, value) = part.split_once('=').ok_or_else(|| RecordError::Tag(shown()))?;
        let (name, value) = (name.trim(), value.trim());
        let valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && value.chars().all(|c| c.is_ascii_graphic() || c.is_ascii_whitespace());
        if !valid {
            return Err(RecordError::Tag(shown()));
        }
        if tags.iter().any(|(found, _)| *found == name) {
            return Err(RecordError::Twice(name.to_owned()));
        }
        tags.push((name, value));
    }
    Ok(tags)
}

fn list(value: &str) -> Vec<String> {
    value.split(':').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_says_what_its_tags_say_whatever_the_spaces() {
        let record =
            KeyRecord::parse(b" v=DKIM1 ; k = rsa;h=sha1: sha256 ; s=email;t=y:s; n=a note; p= AQ ID ; ").unwrap();
        assert_eq!((record.key_type.as_str(), record.key.as_slice()), ("rsa", &[1, 2, 3][..]));
        assert_eq!(record.hashes.as_deref(), Some(&["sha1".to_owned(), "sha256".to_owned()][..]));
        assert!(record.has_flag("y") && record.has_flag("s") && !record.has_flag("x"));
        let least = KeyRecord::parse(b"p=").unwrap();
        assert!(least.key.is_empty() && least.key_type == "rsa" && least.services.is_none());
    }

    #[test]
    fn a_record_that_verifiers_cannot_read_is_refused_with_the_reason() {
        for (text, expected) in [
            ("", RecordError::Tag(String::new())),
            ("v=spf1 -all", RecordError::Version),
            ("v=DKIM1", RecordError::NoKey),
            ("k=rsa; v=DKIM1; p=AQID", RecordError::Version),
            ("v=dkim1; p=AQID", RecordError::Version),
            ("v=DKIM1; p=AQID; p=AQID", RecordError::Twice("p".to_owned())),
            ("v=DKIM1; p=AQ!D", RecordError::Base64),
            ("v=DKIM1 k=rsa p=AQID", RecordError::Version),
            ("v=DKIM1; rsa; p=AQID", RecordError::Tag("rsa".to_owned())),
            ("v=DKIM1;; p=AQID", RecordError::Tag(String::new())),
            ("\"v=DKIM1; p=AQID\"", RecordError::Quotation),
            ("v=DKIM1\\; p=AQID", RecordError::Quotation),
        ] {
            assert_eq!(KeyRecord::parse(text.as_bytes()), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_long_record_is_split_into_strings_and_a_short_one_is_not() {
        let name = record_name(&Selector::parse("Desk2026").unwrap(), &Domain::parse("acme.example").unwrap());
        assert_eq!(zone_entry(&name, "p=AQID"), "desk2026._domainkey.acme.example. IN TXT \"p=AQID\"\n");
        let long = zone_entry(&name, &"x".repeat(600));
        let strings: Vec<&str> = long.split('"').skip(1).step_by(2).collect();
        assert_eq!(strings.iter().map(|string| string.len()).collect::<Vec<_>>(), [255, 255, 90]);
        assert!(long.contains("IN TXT ( \"") && long.ends_with("\" )\n"), "{long}");
    }

    #[test]
    fn a_selector_is_made_of_labels() {
        assert_eq!(Selector::parse("A.b-2").unwrap().as_str(), "a.b-2");
        for text in ["", "a b", "a..b", "-a", "a/b"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([vkptshn]|=|;|:| |DKIM1|[ -~\\x80-\\xff]{0,5}){0,30}") {
            let _ = KeyRecord::parse(text.as_bytes());
        }
    }
}
