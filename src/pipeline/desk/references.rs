//! What a message says of the conversation that it belongs to.

use mail_parser::MessageParser;

use crate::mail::{Header, Headers};

/// Message-IDs looked up for one message at most: of a long References field the first and the last ones, which mail programs
/// keep when they shorten it (RFC 5322 section 3.6.4 has the parent last).
const CITED_MAX: usize = 200;
/// Fields of one name that are read.
const FIELDS_MAX: usize = 5;
/// Octets read of one field, half of them from its end.
const FIELD_MAX: usize = 64 * 1024;
/// Octets of a Message-ID that count (a line has 998 at most).
const ID_MAX: usize = 998;
/// Octets of a subject that are read, numbers looked up of it, and digits of a number.
const SUBJECT_MAX: usize = 8 * 1024;
const TICKETS_MAX: usize = 10;
const DIGITS_MAX: usize = 32;
/// Blanks between token and number that a ticket system passes over.
const BLANKS_MAX: usize = 3;

/// Names of a message and of those that it answers, in a comparable form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// Its own Message-ID.
    pub(super) own: Option<String>,
    /// Those that In-Reply-To and References name.
    pub(super) cited: Vec<String>,
    /// Numbers of tickets in its subject.
    pub(super) tickets: Vec<String>,
}

impl References {
    /// Those of a message; `token` stands right before the number of a ticket in its subject.
    pub fn of(headers: &Headers, token: Option<&str>) -> Self {
        let own = headers.first("Message-ID").and_then(|field| ids(field).into_iter().next());
        let fields = |name| headers.named(name).take(FIELDS_MAX).flat_map(ids);
        let mut cited: Vec<String> = fields("In-Reply-To").take(CITED_MAX / 4).collect();
        let all: Vec<String> = fields("References").collect();
        let half = (CITED_MAX.saturating_sub(cited.len())) / 2;
        let last = all.len().saturating_sub(half).max(half);
        cited.extend(all.iter().take(half).chain(all.iter().skip(last)).cloned());
        cited.sort_unstable();
        cited.dedup();
        let subjects = headers.named("Subject").take(FIELDS_MAX);
        let mut tickets: Vec<String> = match token {
            Some(token) => subjects.flat_map(texts).flat_map(|text| numbers(&text, token)).collect(),
            None => Vec::new(),
        };
        tickets.sort_unstable();
        tickets.dedup();
        tickets.truncate(TICKETS_MAX);
        Self { own, cited, tickets }
    }

    /// Whether the message names any other.
    pub(super) fn is_empty(&self) -> bool {
        self.cited.is_empty() && self.tickets.is_empty()
    }
}

/// The identifiers in a field, in lower case. Ticket systems differ in what they take for one, so that brackets, commas and blanks
/// are all taken for separators: a word too many is found nowhere.
fn ids(field: &Header) -> Vec<String> {
    let value = field.value();
    let half = FIELD_MAX / 2;
    let text = match (value.get(..half), value.len().checked_sub(half).and_then(|at| value.get(at..))) {
        (Some(head), Some(tail)) if value.len() > FIELD_MAX => [head, b" ", tail].concat(),
        _ => value.to_vec(),
    };
    let text = String::from_utf8_lossy(&text).to_lowercase();
    let separates = |c: char| c.is_whitespace() || matches!(c, '<' | '>' | ',' | ';');
    let words = text.split(separates).filter(|word| !word.is_empty() && word.len() <= ID_MAX);
    words.map(str::to_owned).collect()
}

/// A subject as it stands, and as it is shown (RFC 2047), in lower case.
fn texts(field: &Header) -> Vec<String> {
    let unfolded = field.unfolded();
    let unfolded = unfolded.get(..SUBJECT_MAX).unwrap_or(&unfolded);
    let mut texts = vec![String::from_utf8_lossy(unfolded).to_lowercase()];
    if unfolded.windows(2).any(|two| two == b"=?") {
        let message = [b"Subject: ", unfolded, b"\r\n\r\n"].concat();
        let parsed = MessageParser::default().parse(&message);
        texts.extend(parsed.and_then(|parsed| parsed.subject().map(str::to_lowercase)));
    }
    texts
}

/// The numbers behind each `token`.
fn numbers(text: &str, token: &str) -> Vec<String> {
    let token = token.to_lowercase();
    let behind = text.split(token.as_str()).skip(1);
    let number = |rest: &str| {
        let digits = rest.trim_start_matches(' ');
        let blanks = rest.len().saturating_sub(digits.len());
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let digits = digits.get(..end).filter(|_| blanks <= BLANKS_MAX)?;
        (1..=DIGITS_MAX).contains(&digits.len()).then(|| digits.to_owned())
    };
    behind.filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn of(fields: &[(&str, &str)], token: Option<&str>) -> References {
        References::of(&Headers::new(fields.iter().map(|(name, text)| Header::written(name, text)).collect()), token)
    }

    #[test]
    fn ids_are_found_however_they_are_written() {
        for (field, value) in [
            ("In-Reply-To", "<A@b.example>"),
            ("in-reply-to", "a@B.example"),
            ("References", "<x@y>\r\n\t<a@b.example>"),
            ("References", "<x@y>,<a@b.example>"),
            ("References", "< a@b.example >"),
            ("In-Reply-To", "Your message of Monday <a@b.example>"),
        ] {
            let found = of(&[("Message-ID", "<own@c.example>"), (field, value)], None);
            assert!(found.cited.contains(&"a@b.example".to_owned()), "{value}: {found:?}");
            assert_eq!(found.own.as_deref(), Some("own@c.example"));
        }
        assert!(of(&[("Message-ID", "<a@b>")], None).is_empty());
    }

    #[test]
    fn of_thousands_the_first_and_the_last_ones_count() {
        let many: String = (0..20_000).map(|n| format!("<{n}@b.example>\r\n ")).collect();
        let found = of(&[("References", &many), ("In-Reply-To", "<parent@b.example>")], None);
        assert!(found.cited.len() <= CITED_MAX, "{}", found.cited.len());
        for id in ["0@b.example", "19999@b.example", "parent@b.example"] {
            assert!(found.cited.contains(&id.to_owned()), "{id}");
        }
    }

    #[test]
    fn numbers_of_tickets_are_found_where_the_ticket_system_finds_them() {
        for (subject, token, expected) in [
            ("Re: Order [Ticket#2026112210000012]", Some("Ticket#"), &["2026112210000012"][..]),
            ("AW: TICKET# 4711 and ticket#4712", Some("Ticket#"), &["4711", "4712"]),
            ("Re: [rt.acme.example #123] printer", Some("#"), &["123"]),
            ("=?UTF-8?Q?Re:_[Ticket=2347?= =?UTF-8?Q?11]?=", Some("Ticket#"), &["4711"]),
            ("=?UTF-8?B?W1RpY2tldCM0NzExXQ==?=", Some("Ticket#"), &["4711"]),
            ("Re: Order #4711", Some("Ticket#"), &[]),
            ("[Ticket#]", Some("Ticket#"), &[]),
            ("[Ticket#123]", None, &[]),
        ] {
            assert_eq!(of(&[("Subject", subject)], token).tickets, expected, "{subject}");
        }
        let many: String = (0..1_000).map(|n| format!("#{n} ")).collect();
        assert_eq!(of(&[("Subject", &many)], Some("#")).tickets.len(), TICKETS_MAX);
    }

    proptest! {
        #[test]
        fn no_field_makes_it_panic_or_find_more_than_the_bounds(
            id in proptest::collection::vec(any::<u8>(), 0..200),
            subject in "(=\\?(utf-8|x)\\?[qQbB]\\?[a-zA-Z0-9#=_+/]{0,20}\\?= ?|Ticket#[0-9]{0,40}|\\PC{0,10}){0,6}",
            references in proptest::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let subject = format!(" {subject}");
            let fields = [("Message-ID", id.as_slice()), ("References", &references), ("Subject", subject.as_bytes())];
            let fields = fields.map(|(name, value)| Header::new(name.as_bytes(), value)).to_vec();
            let found = References::of(&Headers::new(fields), Some("Ticket#"));
            prop_assert!(found.cited.len() <= CITED_MAX && found.tickets.len() <= TICKETS_MAX);
        }
    }
}
