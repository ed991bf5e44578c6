//! What makes a DKIM signature unacceptable whatever it proves: rules of RFC 6376 and RFC 8301 that the library leaves out.

use mail_auth::crypto::Algorithm;
use mail_auth::dkim::Signature;

use super::authentication_results::Outcome;
use super::sign::CORE;
use crate::mail::{Header, Headers};

/// Names in `h=` at most. The library compares each with each and with all fields of the message: ten signatures with 20,000
/// each (120 KB) took a debug build 70 s on one thread. An honest signature lists some dozens.
const NAMES_MAX: usize = 300;
/// Names in `h=` times fields of the message at most: each name is looked for among all fields. A header section of 2 MiB has room for
/// half a million fields; 300 names that are none of them, in each of ten signatures, would keep a thread for seconds. Honest
/// mail stays below ten thousand.
const COMPARISONS_MAX: usize = 3_000_000;

/// The fields of which a message has one at most, and how many it has, where it has more (RFC 5322 section 3.6, RFC 2045 section 3).
pub(super) fn repeated(headers: &Headers) -> Vec<(&'static str, usize)> {
    let counted = CORE.into_iter().map(|name| (name, headers.named(name).count()));
    counted.filter(|(_, count)| *count > 1).collect()
}

/// Why a signature does not count, or `None` where nothing speaks against it. `field` is the value of the DKIM-Signature
/// field as received, `signature` what the library made of it, `repeated` what is in the message more often than it may be.
pub(super) fn objection(
    field: &[u8],
    signature: &Signature,
    repeated: &[(&str, usize)],
) -> Option<(Outcome, &'static str)> {
    let tags = tags(field);
    let value = |name: &[u8]| tags.iter().find(|(tag, _)| *tag == name).map(|(_, value)| *value);
    let twice = tags.iter().enumerate().any(|(n, (tag, _))| tags.iter().skip(n + 1).any(|(other, _)| tag == other));
    if twice {
        // Readers disagree on which one counts (RFC 6376 section 3.2).
        return Some((Outcome::PermError, "a tag stands twice"));
    }
    if value(b"v").is_none() {
        // RFC 6376 section 6.1.1.
        return Some((Outcome::PermError, "no v="));
    }
    if !signature.h.iter().any(|name| name.trim().eq_ignore_ascii_case("From")) {
        // Otherwise anybody could put another author on a signed message (RFC 6376 section 6.1.1).
        return Some((Outcome::PermError, "From is not signed"));
    }
    if signature.a == Algorithm::RsaSha1 {
        // RFC 8301 section 3.1.
        return Some((Outcome::PermError, "SHA-1 proves nothing"));
    }
    if value(b"q").is_some_and(|methods| !methods.split(|&b| b == b':').any(is_dns_txt)) {
        // RFC 6376 section 3.5.
        return Some((Outcome::PermError, "q= names no known way to the key"));
    }
    // Readers show the first one, the signature covers the last: who has a signed message could put another Subject, or another way
    // to read the body, on it (RFC 6376 sections 3.8 and 8.15).
    let added = |&(name, count): &(&str, usize)| {
        let signed = signature.h.iter().filter(|signed| signed.trim().eq_ignore_ascii_case(name)).count();
        (1..count).contains(&signed)
    };
    if repeated.iter().any(added) {
        return Some((Outcome::Policy, "a field that is signed stands there once more"));
    }
    // RFC 6376 section 8.2. The library takes `l=0` for no l= at all.
    value(b"l").map(|_| (Outcome::Policy, "l= leaves the body open"))
}

/// Why a key is not for us: its record says that it is for other services than mail, or for other hashes than SHA-256
/// (RFC 6376 section 3.6.1). Of several records at one name, each may object.
pub(super) fn key_objection(records: &[Vec<u8>]) -> Option<&'static str> {
    records.iter().find_map(|record| {
        let tags = tags(record);
        let lists = |name: &[u8], accepted: &[&[u8]]| {
            tags.iter().find(|(tag, _)| *tag == name).is_none_or(|(_, values)| {
                values
                    .split(|&b| b == b':')
                    .any(|value| accepted.iter().any(|ok| value.trim_ascii().eq_ignore_ascii_case(ok)))
            })
        };
        if !lists(b"s", &[b"*", b"email"]) {
            Some("key is not for mail")
        } else if !lists(b"h", &[b"sha256"]) {
            Some("key is not for SHA-256")
        } else {
            None
        }
    })
}

/// Whether the library takes the field for a DKIM signature: it passes over white space within the name.
pub(super) fn is_dkim_signature(field: &Header) -> bool {
    is_named(field, b"DKIM-Signature")
}

/// Whether the library takes the field for a signature over header fields, of DKIM or of ARC (RFC 8617 section 4.1.2).
pub(super) fn is_signature(field: &Header) -> bool {
    is_dkim_signature(field) || is_named(field, b"ARC-Message-Signature")
}

/// Whether a signature of a message with so many fields lists no more than [`NAMES_MAX`] names, and takes no more than
/// [`COMPARISONS_MAX`].
pub(super) fn is_bounded(field: &Header, fields: usize) -> bool {
    let unfolded = field.unfolded();
    let names = |(_, value): &(&[u8], &[u8])| value.iter().filter(|&&octet| octet == b':').count();
    // `z=` is full of colons too, and costs nothing.
    let listed = tags(&unfolded).iter().filter(|(tag, _)| *tag != b"z").map(names).sum::<usize>();
    listed < NAMES_MAX && listed.saturating_add(1).saturating_mul(fields) <= COMPARISONS_MAX
}

fn is_named(field: &Header, name: &[u8]) -> bool {
    let said = field.name().iter().filter(|octet| !octet.is_ascii_whitespace());
    said.map(u8::to_ascii_lowercase).eq(name.iter().map(u8::to_ascii_lowercase))
}

fn is_dns_txt(method: &[u8]) -> bool {
    method.trim_ascii().eq_ignore_ascii_case(b"dns/txt")
}

/// The tags of a tag-list (RFC 6376 section 3.2), white space around names and values taken off.
pub(super) fn tags(list: &[u8]) -> Vec<(&[u8], &[u8])> {
    list.split(|&b| b == b';')
        .filter_map(|tag| {
            let equals = tag.iter().position(|&b| b == b'=')?;
            let (name, value) = tag.split_at_checked(equals)?;
            Some((name.trim_ascii(), value.get(1..).unwrap_or_default().trim_ascii()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objection_to(field: &str) -> Option<(Outcome, &'static str)> {
        objection(field.as_bytes(), &Signature::parse(field.as_bytes()).unwrap(), &[])
    }

    const GOOD: &str = " v=1; a=rsa-sha256; d=a.example; s=x; h=To : FROM; bh=AAAA; b=AA\r\n AA";

    #[test]
    fn an_ordinary_signature_is_acceptable_with_or_without_optional_tags() {
        assert_eq!(objection_to(GOOD), None);
        assert_eq!(objection_to(&format!("{GOOD}; t=1; x=2; i=@a.example; q=dns/txt; z=From:a; zz=top;")), None);
        assert_eq!(objection_to(&format!("{GOOD}; q=pigeon : dns/txt")), None);
    }

    #[test]
    fn a_field_beside_the_one_that_is_signed_makes_a_signature_unacceptable_and_one_that_is_signed_twice_does_not() {
        let message = |names: &[&str]| Headers::new(names.iter().map(|name| Header::written(name, "x")).collect());
        let policy = Some((Outcome::Policy, "a field that is signed stands there once more"));
        for (signed, fields, expected) in [
            ("From:Subject", &["Subject", "From", "Subject"][..], policy),
            ("From:Subject:subject", &["Subject", "From", "SUBJECT "], None),
            ("From:Subject:subject", &["Subject", "Subject", "From", "Subject"], policy),
            ("From:Content-Type", &["Content-Type", "From", "Content-Type"], policy),
            ("From:Subject", &["Subject", "From", "Reply-To"], None),
            ("From", &["Subject", "From", "Subject"], None),
            ("From:Received:X-Mailer", &["Received", "Received", "X-Mailer", "X-Mailer", "From"], None),
        ] {
            let field = GOOD.replace("To : FROM", signed);
            let signature = Signature::parse(field.as_bytes()).unwrap();
            let found = objection(field.as_bytes(), &signature, &repeated(&message(fields)));
            assert_eq!(found, expected, "{signed}: {fields:?}");
        }
    }

    #[test]
    fn a_signature_that_would_keep_a_thread_busy_is_not_verified() {
        let field = |name: &str, names: usize, rest: &str| {
            Header::written(name, &format!("v=1; h={}From; {rest}", "x: ".repeat(names)))
        };
        for name in ["DKIM-Signature", "dkim-signature ", "DKIM- Signature", "ARC-Message-Signature"] {
            assert!(is_signature(&field(name, 1, "")), "{name}");
            assert!(is_bounded(&field(name, NAMES_MAX - 1, &format!("z={}", "a:b|".repeat(1_000))), 100));
            assert!(!is_bounded(&field(name, NAMES_MAX, ""), 100));
            assert!(!is_bounded(&field(name, 0, &format!("h={}", "x:".repeat(NAMES_MAX))), 100));
            assert!(is_bounded(&field(name, 29, ""), COMPARISONS_MAX / 30));
            assert!(!is_bounded(&field(name, 29, ""), COMPARISONS_MAX / 30 + 1));
        }
        assert!(!is_signature(&field("X-DKIM-Signature", 1, "")) && !is_signature(&field("ARC-Seal", 1, "")));
        assert!(is_dkim_signature(&field("DKIM-Signature", 1, "")));
        assert!(!is_dkim_signature(&field("ARC-Message-Signature", 1, "")));
    }

    #[test]
    fn a_key_is_used_only_for_what_its_record_says() {
        for (record, expected) in [
            ("v=DKIM1; p=AAAA", None),
            ("v=DKIM1; s=*; h=sha1:sha256; p=AAAA", None),
            ("s = tlsrpt : Email ; h= SHA256; p=AAAA", None),
            ("v=DKIM1; s=tlsrpt; p=AAAA", Some("key is not for mail")),
            ("v=DKIM1; s=; p=AAAA", Some("key is not for mail")),
            ("v=DKIM1; h=sha1; p=AAAA", Some("key is not for SHA-256")),
        ] {
            assert_eq!(key_objection(&[b"other".to_vec(), record.as_bytes().to_vec()]), expected, "{record}");
        }
    }

    #[test]
    fn a_signature_that_leaves_room_for_forgery_is_not_acceptable() {
        let permanent = |reason| Some((Outcome::PermError, reason));
        for (field, expected) in [
            (GOOD.replace("To : FROM", "To:Subject"), permanent("From is not signed")),
            (GOOD.replace("To : FROM", "To:From-Me"), permanent("From is not signed")),
            (GOOD.replace("v=1;", ""), permanent("no v=")),
            (GOOD.replace("rsa-sha256", "rsa-sha1"), permanent("SHA-1 proves nothing")),
            (format!("{GOOD}; d=b.example"), permanent("a tag stands twice")),
            (format!("{GOOD};\r\n\th =From"), permanent("a tag stands twice")),
            (format!("{GOOD}; q=carrier/pigeon"), permanent("q= names no known way to the key")),
            (format!("{GOOD}; l=10"), Some((Outcome::Policy, "l= leaves the body open"))),
            (format!("{GOOD}; l=0"), Some((Outcome::Policy, "l= leaves the body open"))),
        ] {
            assert_eq!(objection_to(&field), expected, "{field}");
        }
    }
}
