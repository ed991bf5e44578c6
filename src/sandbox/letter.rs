//! A message as Zendesk writes it: header fields, a plain and an HTML part, and its own DKIM signature.
//!
//! In: who writes to whom, and what. Out: octets for the wire, ASCII alone. Pure, but for the clock and the system's randomness.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::dkim::DkimSigner;
use mail_auth::headers::HeaderWriter;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::dkim::SigningKey;
use crate::mail::{Address, Domain};

/// The fields that must reach the end user as they were sent.
pub(super) const PRESERVED: [&str; 5] =
    ["Auto-Submitted", "X-Auto-Response-Suppress", "X-Mailer", "X-Zendesk-From-Account-Id", "X-Zendesk-Email-Id"];
/// The fields that nobody may rewrite.
pub(super) const GUARDED: [&str; 7] = ["To", "From", "Cc", "Reply-To", "Message-ID", "In-Reply-To", "References"];
/// The selector of Zendesk's own signature.
pub(super) const SELECTOR: &str = "zendesk2";
/// What Zendesk's own signature covers, each once: none of the preserved fields.
const SIGNED: [&str; 11] = [
    "Date",
    "From",
    "Reply-To",
    "To",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Subject",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];
/// Characters of a subject at most; the rest is cut.
const SUBJECT_MAX: usize = 200;
/// Octets of text in one encoded word: 75 in all with its frame, in base64 (RFC 2047 section 2).
const ENCODED_WORD_TEXT: usize = 45;
/// Characters in a line of quoted-printable at most (RFC 2045 section 6.7).
const QUOTED_PRINTABLE_LINE: usize = 76;
/// Crockford's alphabet, in which ULIDs are written.
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// What is written.
#[derive(Debug)]
pub(super) struct Letter<'a> {
    pub(super) from: &'a Address,
    pub(super) from_name: &'a str,
    pub(super) to: &'a Address,
    pub(super) cc: &'a [Address],
    /// The local part's extension that leads an answer back to its ticket, for example `id4711`.
    pub(super) extension: Option<String>,
    pub(super) subject: &'a str,
    /// Message-IDs without brackets, as of all ids here.
    pub(super) in_reply_to: &'a [String],
    pub(super) references: &'a [String],
    /// Lines of text; `\n` ends a line.
    pub(super) text: &'a str,
}

/// What tells messages of this account apart.
#[derive(Debug)]
pub(super) struct Marks {
    /// Without brackets.
    pub(super) message_id: String,
    email_id: String,
    boundary: String,
    date: String,
}

impl Marks {
    /// New ones.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(super) fn new() -> Result<Self, String> {
        let now = OffsetDateTime::now_utc();
        let email_id = ulid(now)?;
        Ok(Self {
            message_id: format!("{}_{}_sprut@zendesk.com", letters(6)?, hex(8)?),
            boundary: format!("--==_mimepart_{}", hex(12)?),
            email_id,
            date: now.format(&Rfc2822).map_err(|error| error.to_string())?,
        })
    }
}

impl Letter<'_> {
    /// The message, CRLF line endings.
    pub(super) fn write(&self, marks: &Marks) -> Vec<u8> {
        let mut head = String::new();
        let mut field = |name: &str, value: &str| {
            // Writing to a String does not fail.
            let _ = write!(head, "{name}: {value}\r\n");
        };
        let from_name = phrase(self.from_name);
        field("Date", &marks.date);
        field("From", &format!("{from_name} <{}>", self.from));
        if let Some(extension) = &self.extension {
            let address = format!("{}+{extension}@{}", self.from.local(), self.from.domain());
            field("Reply-To", &format!("{from_name} <{address}>"));
        }
        field("To", &self.to.to_string());
        if !self.cc.is_empty() {
            let all: Vec<String> = self.cc.iter().map(ToString::to_string).collect();
            field("Cc", &all.join(",\r\n "));
        }
        field("Message-ID", &format!("<{}>", marks.message_id));
        for (name, ids) in [("In-Reply-To", self.in_reply_to), ("References", self.references)] {
            if !ids.is_empty() {
                let ids: Vec<String> = ids.iter().map(|id| format!("<{id}>")).collect();
                field(name, &ids.join("\r\n "));
            }
        }
        field("Subject", &unstructured(self.subject));
        field("MIME-Version", "1.0");
        field(
            "Content-Type",
            &format!("multipart/alternative;\r\n boundary=\"{}\";\r\n charset=utf-8", marks.boundary),
        );
        field("Content-Transfer-Encoding", "7bit");
        field("X-Delivery-Context", &format!("event-id-{}", marks.email_id));
        field("Auto-Submitted", "auto-generated");
        field("X-Auto-Response-Suppress", "All");
        field("X-Mailer", "Zendesk Mailer");
        field("X-Zendesk-From-Account-Id", &account_id(self.from.domain()));
        field("X-Zendesk-Email-Id", &marks.email_id);
        head.push_str("\r\n");
        for (kind, text) in [("plain", self.text.to_owned()), ("html", html(self.text))] {
            let boundary = &marks.boundary;
            let _ = write!(
                head,
                "--{boundary}\r\nContent-Type: text/{kind};\r\n charset=utf-8\r\n\
                 Content-Transfer-Encoding: quoted-printable\r\n\r\n{}\r\n",
                quoted_printable(&text)
            );
        }
        let _ = write!(head, "--{}--\r\n", marks.boundary);
        head.into_bytes()
    }
}

/// Whether an address can be written as it stands into a header field and an SMTP command: ASCII, and nothing that needs quotes.
pub(super) fn is_writable(address: &Address) -> bool {
    let text = address.to_string();
    text.is_ascii() && Address::parse(&text).as_ref() == Ok(address)
}

/// The message with Zendesk's own signature on top, for a company that has published Zendesk's key: `d=` the company's domain,
/// `s=zendesk2`, relaxed/relaxed.
///
/// # Errors
/// The cryptography library would not.
pub(super) fn sign(message: &[u8], domain: &Domain, key: &SigningKey) -> Result<Vec<u8>, String> {
    let head = message.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(message.len());
    let head = String::from_utf8_lossy(message.get(..head).unwrap_or_default()).to_ascii_lowercase();
    let is_there = |name: &&str| {
        let start = format!("{}:", name.to_ascii_lowercase());
        head.lines().any(|line| line.starts_with(&start))
    };
    let signature = DkimSigner::from_key(key)
        .domain(domain.as_str())
        .selector(SELECTOR)
        .headers(SIGNED.into_iter().filter(is_there))
        .sign(message)
        .map_err(|error| format!("cannot sign: {error}"))?;
    Ok([signature.to_header().as_bytes(), message].concat())
}

/// An account's id, seven hexadecimal digits: always the same for a domain.
fn account_id(domain: &Domain) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, domain.as_str().as_bytes());
    digest.as_ref().iter().take(4).fold(String::new(), |id, octet| format!("{id}{octet:02x}")).chars().take(7).collect()
}

/// 26 characters: 48 bits of milliseconds and 80 of randomness, as ULIDs are.
fn ulid(now: OffsetDateTime) -> Result<String, String> {
    let milliseconds = u128::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    let random = random::<10>()?.iter().fold(0_u128, |bits, octet| bits << 8 | u128::from(*octet));
    let bits = (milliseconds & ((1 << 48) - 1)) << 80 | random;
    Ok((0..26).rev().map(|place| crockford(bits >> (5 * place))).collect())
}

/// `count` random characters of Crockford's alphabet, at most 16.
fn letters(count: usize) -> Result<String, String> {
    Ok(random::<16>()?.iter().take(count).map(|octet| crockford(u128::from(*octet))).collect())
}

/// `octets` random octets in hexadecimal, at most 16.
pub(super) fn hex(octets: usize) -> Result<String, String> {
    Ok(random::<16>()?.iter().take(octets).fold(String::new(), |text, octet| format!("{text}{octet:02x}")))
}

fn crockford(bits: u128) -> char {
    let index = usize::try_from(bits & 31).unwrap_or_default();
    CROCKFORD.get(index).map_or('0', |letter| char::from(*letter))
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut octets = [0; N];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| "no randomness from the system".to_owned())?;
    Ok(octets)
}

/// A display name: as it is where it is plain, in encoded words otherwise (RFC 2047 section 5).
fn phrase(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " !#$%&'*+-/^_`{|}~".contains(c);
    if name.chars().all(plain) && !name.contains("=?") { name.to_owned() } else { encoded_words(name) }
}

/// Text of an unstructured field, cut to 200 characters.
fn unstructured(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SUBJECT_MAX).collect();
    if text.is_ascii() && !text.contains("=?") { text } else { encoded_words(&text) }
}

fn encoded_words(text: &str) -> String {
    let mut words = vec![String::new()];
    for c in text.chars() {
        match words.last_mut() {
            Some(word) if word.len().saturating_add(c.len_utf8()) <= ENCODED_WORD_TEXT => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    let words: Vec<String> = words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect();
    words.join("\r\n ")
}

fn html(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let lines: String = escaped.lines().map(|line| format!("<p>{line}</p>\n")).collect();
    format!("<!DOCTYPE html>\n<html lang=\"en\"><body>\n{lines}</body></html>\n")
}

/// RFC 2045 section 6.7; `\n` ends a line.
fn quoted_printable(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut column = 0;
        let mut octets = line.bytes().peekable();
        while let Some(octet) = octets.next() {
            // A dot that begins a line is doubled on the way, which not every server undoes well; a blank at the end is lost.
            let literal = match octet {
                b'.' => column != 0,
                b' ' => octets.peek().is_some(),
                _ => octet.is_ascii_graphic() && octet != b'=',
            };
            // Room for the soft line break, whichever way the octet is written.
            if column + 3 >= QUOTED_PRINTABLE_LINE {
                out.push_str("=\r\n");
                column = 0;
            }
            if literal && !(column == 0 && octet == b'.') {
                out.push(char::from(octet));
                column += 1;
            } else {
                let _ = write!(out, "={octet:02X}");
                column += 3;
            }
        }
        out.push_str("\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_parser::MessageParser;

    fn letter(subject: &str, text: &str) -> Vec<u8> {
        let (from, to) =
            (Address::parse("support@acme.example").unwrap(), Address::parse("jane@customer.example").unwrap());
        let ids = ["first@customer.example".to_owned(), "KLJ2P7_4711@zendesk.com".to_owned()];
        let letter = Letter {
            from: &from,
            from_name: "Acme (Grüße)",
            to: &to,
            cc: std::slice::from_ref(&to),
            extension: Some("id4711".to_owned()),
            subject,
            in_reply_to: &ids,
            references: &ids,
            text,
        };
        letter.write(&Marks::new().unwrap())
    }

    #[test]
    fn what_is_written_reads_back_the_same_whatever_is_in_it() {
        for (subject, text) in [
            ("Order 4711", "Hello,\n\nall is well.\n"),
            ("Größe: ✓ ".repeat(20).trim_end(), "Grüße\n.\n..dots = signs\nends in a blank \n"),
            ("=?utf-8?Q?no?=", &"ä".repeat(500)),
        ] {
            let message = letter(subject, text);
            assert!(message.is_ascii());
            assert!(message.split(|&octet| octet == b'\n').all(|line| line.len() <= 200 && !line.starts_with(b".")));
            let parsed = MessageParser::default().parse(&message).unwrap();
            assert_eq!(parsed.subject().unwrap(), subject.chars().take(SUBJECT_MAX).collect::<String>());
            assert_eq!(parsed.body_text(0).unwrap().replace("\r\n", "\n").trim_end(), text.trim_end(), "{subject}");
            assert_eq!(parsed.from().unwrap().first().unwrap().name(), Some("Acme (Grüße)"));
            assert!(parsed.body_html(0).unwrap().contains("<html"));
        }
    }

    #[test]
    fn addresses_that_need_quotes_or_utf8_are_not_written() {
        for (address, writable) in [
            ("jane+tag@customer.example", true),
            ("\"jane\"@customer.example", true),
            ("\"x>, <victim\"@customer.example", false),
            ("\"a b\"@customer.example", false),
            ("jürgen@customer.example", false),
        ] {
            assert_eq!(is_writable(&Address::parse(address).unwrap()), writable, "{address}");
        }
    }

    #[test]
    fn a_subject_cannot_begin_another_field() {
        let message = String::from_utf8(letter("a\r\nBcc: x@y.example", "")).unwrap();
        assert!(!message.contains("\nBcc"), "{message}");
    }

    #[test]
    fn the_shape_is_zendesks() {
        let message = String::from_utf8(letter("Order", "")).unwrap();
        let value = |name: &str| {
            let start = format!("{name}: ");
            message.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{name}\n{message}"))
        };
        assert!(value("Message-ID").ends_with("_sprut@zendesk.com>"));
        let id = value("X-Zendesk-Email-Id");
        assert!(id.len() == 26 && id.starts_with("01"), "{id}");
        let account = value("X-Zendesk-From-Account-Id");
        assert!(account.len() == 7 && account.bytes().all(|b| b.is_ascii_hexdigit()), "{account}");
        assert!(message.contains("Reply-To: =?utf-8?B?") && message.contains("<support+id4711@acme.example>"));
        assert!(message.contains("In-Reply-To: <first@customer.example>\r\n <KLJ2P7_4711@zendesk.com>\r\n"));
        assert_eq!((value("X-Mailer"), value("Auto-Submitted")), ("Zendesk Mailer", "auto-generated"));
    }
}
