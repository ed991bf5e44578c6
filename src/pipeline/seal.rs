//! The seal: what a message was before it went through a content filter.
//!
//! The pass before the filter writes the field, the pass after it checks it, puts back what was changed and takes the field
//! away. It holds the original fields themselves, so that any host of the site can do the second pass. It is a statement of
//! ours about one message: bound to the login, the sender, Date, From or Message-ID, and a time.

use std::iter;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::preserve::Repair;
use super::site_key::{CLOCK_SKEW, SiteKey};
use crate::mail::{Header, HeaderEdit, Headers, Path};

/// The field.
pub const FIELD: &str = "X-Deskmilter-Seal";
/// What the MAC is for.
const PURPOSE: &str = "seal 1";
/// Octets of original fields, written as JSON, that a seal carries, at most (40 KiB): Postfix cuts a header field at 102,400 octets
/// (`header_size_limit`), and base64 takes its third. Of what does not fit it carries a digest, which tells of a change but
/// cannot undo it.
const CARRIED_MAX: usize = 40 * 1024;
/// Seals of one message that are looked at, at most.
const SEALS_MAX: usize = 4;
/// Letters in a line of the field: below the 78 of RFC 5322 section 2.1.1.
const LINE: usize = 72;

/// Who handed the message in, before the filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Submitter {
    /// The connector whose notification it is; `None` for other mail that is to be signed.
    pub(super) connector: Option<String>,
    /// The SASL login.
    pub(super) login: Option<String>,
}

/// What a seal says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Opened {
    pub(super) submitter: Submitter,
    sender: String,
    /// Digest of the Date fields.
    date: String,
    /// The MTA's id of the message, where the second pass will know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue_id: Option<String>,
    time: u64,
    fields: Vec<Original>,
}

/// The fields of one name as they were.
#[derive(Debug, Serialize, Deserialize)]
struct Original {
    name: String,
    value: Value,
}

#[derive(Debug, Serialize, Deserialize)]
enum Value {
    /// Whole fields, name and colon included, each octet a character.
    Fields(Vec<String>),
    /// SHA-256 over the unfolded values.
    Digest(String),
}

/// What a seal is bound to, as the second pass knows it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound<'b> {
    /// Another server has handed the message back: the sender, Date, and From or Message-ID are what they were.
    Sender(&'b Path),
    /// The same server has kept it all the time: its id says that it is the same message, whatever has become of it.
    QueueId(Option<&'b str>),
}

/// Why a seal is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("it cannot be read")]
    Damaged,
    #[error("its MAC is not of a key of this site")]
    Mac,
    #[error("it is older than outbound.seal_lifetime")]
    Expired,
    #[error("it is from the future; compare the hosts' clocks")]
    Future,
    #[error("it belongs to another message")]
    OtherMessage,
}

/// The seal over the fields `names` of a message as it leaves the first pass. With `queue_id` the same server
/// does the second pass. `now` is in seconds since 1970.
pub(super) fn seal<'n>(
    key: &SiteKey,
    submitter: Submitter,
    sender: &Path,
    queue_id: Option<&str>,
    headers: &Headers,
    names: impl IntoIterator<Item = &'n str>,
    now: u64,
) -> Header {
    let mut room = CARRIED_MAX;
    let fields = names
        .into_iter()
        .map(|name| {
            let octets: usize = headers.named(name).map(|field| json_len(field.raw())).sum();
            let value = match room.checked_sub(octets) {
                Some(rest) => {
                    room = rest;
                    Value::Fields(headers.named(name).map(|field| characters(field.raw())).collect())
                }
                None => Value::Digest(digest_of(headers.named(name))),
            };
            Original { name: name.to_owned(), value }
        })
        .collect();
    let date = digest_of(headers.named("Date"));
    let (sender, queue_id) = (sender.as_str().to_owned(), queue_id.map(str::to_owned));
    let content = Opened { submitter, sender, date, queue_id, time: now, fields };
    // Strings, numbers and lists: nothing in it that JSON could not hold.
    let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&content).unwrap_or_default());
    let mac = URL_SAFE_NO_PAD.encode(key.mac(PURPOSE, payload.as_bytes()));
    let mut text = String::with_capacity(payload.len() + payload.len() / LINE * 3 + 80);
    text.push_str(" v=1; p=");
    for line in payload.as_bytes().chunks(LINE) {
        text.push_str("\r\n\t");
        text.push_str(&String::from_utf8_lossy(line));
    }
    text.push_str(";\r\n\tmac=");
    text.push_str(&mac);
    Header::new(FIELD.as_bytes(), text.as_bytes())
}

/// The first seal of a message that is worth something. `None` where there is no seal at all.
pub(super) fn open(
    key: &SiteKey,
    headers: &Headers,
    bound: Bound<'_>,
    now: u64,
    lifetime: Duration,
) -> Option<Result<Opened, Refused>> {
    let mut refused = None;
    for field in headers.named(FIELD).take(SEALS_MAX) {
        match open_field(key, field, headers, bound, now, lifetime) {
            Ok(opened) => return Some(Ok(opened)),
            Err(reason) => refused = refused.or(Some(reason)),
        }
    }
    refused.map(Err)
}

fn open_field(
    key: &SiteKey,
    field: &Header,
    headers: &Headers,
    bound: Bound<'_>,
    now: u64,
    lifetime: Duration,
) -> Result<Opened, Refused> {
    let text: Vec<u8> = field.value().iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
    let text = std::str::from_utf8(&text).map_err(|_| Refused::Damaged)?;
    let (payload, mac) =
        text.strip_prefix("v=1;p=").and_then(|rest| rest.split_once(";mac=")).ok_or(Refused::Damaged)?;
    let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| Refused::Damaged)?;
    if !key.verify(PURPOSE, payload.as_bytes(), &mac) {
        return Err(Refused::Mac);
    }
    let content = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Refused::Damaged)?;
    let opened: Opened = serde_json::from_slice(&content).map_err(|_| Refused::Damaged)?;
    if opened.time > now.saturating_add(CLOCK_SKEW) {
        return Err(Refused::Future);
    }
    if now.saturating_sub(opened.time) > lifetime.as_secs() {
        return Err(Refused::Expired);
    }
    let same = match bound {
        Bound::Sender(sender) => opened.sender == sender.as_str() && opened.is_same_message(headers),
        Bound::QueueId(id) => id.is_some() && opened.queue_id.as_deref() == id,
    };
    if !same {
        return Err(Refused::OtherMessage);
    }
    Ok(opened)
}

impl Opened {
    fn is_same_message(&self, headers: &Headers) -> bool {
        let dates = headers.named("Date").count();
        let same_id = self.is_unchanged("Message-ID", headers);
        // From and Message-ID may have been changed and are then put back, but not both: that is another message. A From that
        // cannot be put back must not have been changed.
        let known =
            self.is_unchanged("From", headers) || same_id && self.original("From").is_some_and(Original::is_carried);
        // A Date that was missing may have been added since (RFC 6409 section 8.2): then the Message-ID alone tells messages apart.
        let was_dateless = self.date == digest_of(iter::empty());
        let same_date =
            if was_dateless { dates <= 1 && same_id } else { self.date == digest_of(headers.named("Date")) };
        same_date && known
    }

    fn is_unchanged(&self, name: &str, headers: &Headers) -> bool {
        let is_there = headers.first(name).is_some();
        is_there && self.original(name).is_some_and(|original| original.says_the_same(headers))
    }

    fn original(&self, name: &str) -> Option<&Original> {
        self.fields.iter().find(|original| original.name.eq_ignore_ascii_case(name))
    }

    /// What makes the sealed fields of a message what they were. A name has no other fields afterwards than it had.
    pub(super) fn restore(&self, headers: &Headers) -> Repair {
        let mut repair = Repair::default();
        for original in &self.fields {
            let unchanged = original.says_the_same(headers);
            let Value::Fields(fields) = &original.value else {
                if !unchanged {
                    repair.lost.push(original.name.clone());
                }
                continue;
            };
            let fields: Vec<Header> = fields.iter().filter_map(|field| header(field)).collect();
            let present: Vec<(usize, &Header)> =
                headers.iter().enumerate().filter(|(_, field)| field.is(&original.name)).collect();
            // Other folding is undone, but nothing to speak of.
            if !unchanged {
                repair.restored.push(original.name.clone());
            }
            if present.len() == fields.len() {
                for ((index, present), field) in present.into_iter().zip(fields) {
                    if *present != field {
                        repair.edits.push(HeaderEdit::Replace { index, field });
                    }
                }
            } else {
                repair.edits.extend(present.into_iter().map(|(index, _)| HeaderEdit::Remove { index }));
                repair.edits.extend(fields.into_iter().map(HeaderEdit::Append));
            }
        }
        repair
    }
}

impl Original {
    fn is_carried(&self) -> bool {
        matches!(self.value, Value::Fields(_))
    }

    /// Whether the fields of this name say what they said, folded in whatever way.
    fn says_the_same(&self, headers: &Headers) -> bool {
        match &self.value {
            Value::Digest(digest) => *digest == digest_of(headers.named(&self.name)),
            Value::Fields(fields) => {
                let originals = fields.iter().filter_map(|field| header(field)).map(|field| field.unfolded());
                originals.eq(headers.named(&self.name).map(Header::unfolded))
            }
        }
    }
}

fn digest_of<'h>(fields: impl Iterator<Item = &'h Header>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for field in fields {
        context.update(&field.unfolded());
        context.update(b"\n");
    }
    URL_SAFE_NO_PAD.encode(context.finish())
}

/// Each octet as the character of its number, for JSON.
fn characters(octets: &[u8]) -> String {
    octets.iter().copied().map(char::from).collect()
}

/// Octets of the JSON string, and of the comma after it, in which [`characters`] ends up (RFC 8259 section 7).
fn json_len(octets: &[u8]) -> usize {
    let len = |octet: &u8| match octet {
        b'"' | b'\\' | 0x08..=0x0a | 0x0c..=0x0d | 0x80..=0xff => 2,
        0x00..=0x1f => 6,
        _ => 1,
    };
    octets.iter().map(len).sum::<usize>().saturating_add(3)
}

fn header(characters: &str) -> Option<Header> {
    let octets: Vec<u8> = characters.chars().map(u8::try_from).collect::<Result<_, _>>().ok()?;
    let colon = octets.iter().position(|&octet| octet == b':')?;
    let (name, value) = octets.split_at_checked(colon)?;
    Some(Header::new(name, value.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::mail::HeadersBuilder;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const NOW: u64 = 1_000_000;
    const NAMES: [&str; 6] = ["X-Mailer", "Auto-Submitted", "From", "Message-ID", "Cc", "To"];
    const MESSAGE: &str = "From: Desk <support@acme.example>\r\nTo: ann@b.example,\r\n bob@b.example\r\n\
        Date: Sun, 22 Nov 2026 09:00:00 +0000\r\nMessage-ID: <1@acme.example>\r\nSubject: a\r\nX-Mailer: J\u{fc}rgen's\r\n";

    fn headers(text: &str) -> Headers {
        let mut builder = HeadersBuilder::new(1 << 20);
        builder.push(format!("{text}\r\n").as_bytes()).unwrap().unwrap().headers
    }

    fn key() -> SiteKey {
        SiteKey::parse(&SiteKey::generate().unwrap()).unwrap()
    }

    fn sender() -> Path {
        Path::parse(b"support@acme.example").unwrap()
    }

    fn submitter() -> Submitter {
        Submitter { connector: Some("acme".to_owned()), login: Some("zendesk-support".to_owned()) }
    }

    fn sealed(key: &SiteKey, text: &str) -> Header {
        seal(key, submitter(), &sender(), Some("Q1"), &headers(text), NAMES, NOW)
    }

    fn with(text: &str, seal: &Header) -> Headers {
        let mut section = headers(text);
        section.apply(&[HeaderEdit::Prepend(seal.clone())]);
        section
    }

    fn opened(key: &SiteKey, section: &Headers, now: u64) -> Result<Opened, Refused> {
        open(key, section, Bound::Sender(&sender()), now, HOUR).expect("there is a seal")
    }

    #[test]
    fn what_a_filter_changed_dropped_or_added_is_what_it_was() {
        let key = key();
        let field = sealed(&key, MESSAGE);
        for (changed, names) in [
            (MESSAGE.to_owned(), vec![]),
            (MESSAGE.replace("X-Mailer: J\u{fc}rgen's\r\n", ""), vec!["X-Mailer"]),
            (MESSAGE.replace("X-Mailer: J\u{fc}rgen's", "x-mailer: filter"), vec!["X-Mailer"]),
            (format!("{MESSAGE}Auto-Submitted: no\r\nCc: eve@c.example\r\n"), vec!["Auto-Submitted", "Cc"]),
            (MESSAGE.replace("Desk <", "[EXTERNAL] <"), vec!["From"]),
            (MESSAGE.replace("<1@", "<filter-1@"), vec!["Message-ID"]),
            (MESSAGE.replace("To: ann@b.example,\r\n bob", "To: eve@c.example, bob"), vec!["To"]),
            (format!("To: eve@c.example\r\n{MESSAGE}"), vec!["To"]),
            (MESSAGE.replace(",\r\n bob", ", bob"), vec![]),
            (MESSAGE.replace("Subject: a", "Subject: [SPAM] a"), vec![]),
        ] {
            let mut section = with(&changed, &field);
            let opened = opened(&key, &section, NOW + 60).unwrap();
            assert_eq!(opened.submitter, submitter());
            let repair = opened.restore(&section);
            assert_eq!((&repair.restored, repair.lost.len()), (&names.iter().map(|n| n.to_string()).collect(), 0));
            section.apply(&repair.edits);
            for name in NAMES {
                let raw = |section: &Headers| section.named(name).map(|field| field.raw().to_vec()).collect::<Vec<_>>();
                assert_eq!(raw(&section), raw(&headers(MESSAGE)), "{name} in {changed}");
            }
        }
    }

    #[test]
    fn on_the_server_that_kept_the_message_its_id_alone_counts_and_another_id_not_at_all() {
        let key = key();
        let field = sealed(&key, MESSAGE);
        let rewritten = MESSAGE.replace("support@", "x@").replace("<1@", "<2@").replace("Date: Sun", "Date: Mon");
        let section = with(&rewritten, &field);
        let bound = |id| open(&key, &section, Bound::QueueId(id), NOW, HOUR).unwrap().err();
        assert_eq!(bound(Some("Q1")), None);
        assert_eq!(bound(Some("Q2")), Some(Refused::OtherMessage));
        assert_eq!(bound(None), Some(Refused::OtherMessage));
        let unbound = seal(&key, submitter(), &sender(), None, &headers(MESSAGE), NAMES, NOW);
        let opened = open(&key, &with(MESSAGE, &unbound), Bound::QueueId(None), NOW, HOUR).unwrap();
        assert_eq!(opened.err(), Some(Refused::OtherMessage));
    }

    #[test]
    fn a_seal_is_worth_nothing_in_other_hands_at_another_time_or_on_another_message() {
        let (key, other) = (key(), key());
        let field = sealed(&key, MESSAGE);
        let refused = |key: &SiteKey, section: &Headers, now| opened(key, section, now).err();
        let text = field.text();
        let cut = Header::written(FIELD, &text[..text.len() / 2]);
        let no_mac = Header::written(FIELD, text.split(";mac=").next().unwrap().split("; mac=").next().unwrap());
        assert_eq!(refused(&key, &with(MESSAGE, &field), NOW), None);
        for (what, found, expected) in [
            ("foreign key", refused(&other, &with(MESSAGE, &field), NOW), Refused::Mac),
            ("truncated", refused(&key, &with(MESSAGE, &cut), NOW), Refused::Damaged),
            ("no MAC", refused(&key, &with(MESSAGE, &no_mac), NOW), Refused::Damaged),
            (
                "invented",
                refused(&key, &with(MESSAGE, &Header::written(FIELD, "v=1; p=e30; mac=AAAA")), NOW),
                Refused::Mac,
            ),
            ("empty", refused(&key, &with(MESSAGE, &Header::written(FIELD, "")), NOW), Refused::Damaged),
            (
                "not text",
                refused(&key, &with(MESSAGE, &Header::new(FIELD.as_bytes(), b" \xff")), NOW),
                Refused::Damaged,
            ),
            ("expired", refused(&key, &with(MESSAGE, &field), NOW + 3_601), Refused::Expired),
            ("future", refused(&key, &with(MESSAGE, &field), NOW - 301), Refused::Future),
            (
                "other date",
                refused(&key, &with(&MESSAGE.replace("09:00", "09:01"), &field), NOW),
                Refused::OtherMessage,
            ),
            (
                "other message",
                refused(&key, &with(&MESSAGE.replace("<1@", "<2@").replace("support@", "billing@"), &field), NOW),
                Refused::OtherMessage,
            ),
            (
                "neither From nor Message-ID",
                refused(&key, &with("Date: Sun, 22 Nov 2026 09:00:00 +0000\r\nSubject: a\r\n", &field), NOW),
                Refused::OtherMessage,
            ),
        ] {
            assert_eq!(found, Some(expected), "{what}");
        }
        let elsewhere = open(&key, &with(MESSAGE, &field), Bound::Sender(&Path::null()), NOW, HOUR).unwrap();
        assert_eq!(elsewhere.err(), Some(Refused::OtherMessage), "another sender");
        assert!(open(&key, &headers(MESSAGE), Bound::Sender(&sender()), NOW, HOUR).is_none());
        // A verdict's MAC is none for a seal.
        assert!(!key.verify(PURPOSE, b"x", &key.mac("verdict 1", b"x")));
    }

    #[test]
    fn where_there_was_no_date_one_may_be_added_to_the_message_with_the_same_id() {
        let key = key();
        let date = "Date: Sun, 22 Nov 2026 09:00:00 +0000\r\n";
        let dateless = MESSAGE.replace(date, "");
        let field = sealed(&key, &dateless);
        for (text, opens) in [
            (dateless.clone(), true),
            (MESSAGE.to_owned(), true),
            (MESSAGE.replace("support@", "billing@"), true),
            (dateless.replace("<1@", "<2@"), false),
            (MESSAGE.replace("<1@", "<2@"), false),
            (format!("{date}{MESSAGE}"), false),
        ] {
            let refused = opened(&key, &with(&text, &field), NOW).err();
            assert_eq!(refused, (!opens).then_some(Refused::OtherMessage), "{text}");
        }
    }

    #[test]
    fn during_a_key_change_both_keys_open_and_a_forged_seal_hides_no_genuine_one() {
        let (old, new) = (SiteKey::generate().unwrap(), SiteKey::generate().unwrap());
        let both = SiteKey::parse(&Secret::new([new.expose(), old.expose()].concat())).unwrap();
        let by_old = sealed(&SiteKey::parse(&old).unwrap(), MESSAGE);
        let mut section = with(MESSAGE, &by_old);
        assert!(opened(&both, &section, NOW).is_ok());
        section.apply(&[HeaderEdit::Prepend(Header::written(FIELD, "v=1; p=e30; mac=AAAA"))]);
        assert!(opened(&both, &section, NOW).is_ok());
    }

    #[test]
    fn what_is_too_large_to_carry_is_told_when_it_changes() {
        let key = key();
        let to = vec!["somebody@with-a-rather-long-domain-name.example"; 1_000].join(",\r\n ");
        let message = MESSAGE.replace("ann@b.example", &to);
        let field = sealed(&key, &message);
        assert!(field.raw().len() < 64 * 1024, "{}", field.raw().len());
        assert!(field.raw().split(|&b| b == b'\n').all(|line| line.len() <= 80));
        let section = with(&message, &field);
        assert_eq!(opened(&key, &section, NOW).unwrap().restore(&section), Repair::default());
        let section = with(&message.replace("bob@", "eve@"), &field);
        assert_eq!(opened(&key, &section, NOW).unwrap().restore(&section).lost, ["To"]);
    }

    proptest! {
        #[test]
        fn no_change_to_a_seal_opens(at in 0usize..400, bit in 0u8..7) {
            let key = SiteKey::parse(&Secret::new(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n".to_vec())).unwrap();
            let field = sealed(&key, MESSAGE);
            let mut value = field.value().to_vec();
            let at = at % value.len();
            value[at] ^= 1 << bit;
            let changed = Header::new(FIELD.as_bytes(), &value);
            let plain = |field: &Header| field.value().iter().copied().filter(|b| !b.is_ascii_whitespace()).collect::<Vec<_>>();
            prop_assume!(plain(&changed) != plain(&field));
            // The last character of base64 has bits that say nothing.
            prop_assume!(at + 1 < value.len());
            prop_assert!(opened(&key, &with(MESSAGE, &changed), NOW).is_err());
        }
    }
}
