//! What a message says of the conversation that it belongs to.

use mail_parser::MessageParser;

use crate::mail::{Header, Headers};

/// Octets of In-Reply-To and References that are read, and Message-IDs looked up. A hundred answers make 10 KiB.
const CITING_MAX: usize = 64 * 1024;
const CITED_MAX: usize = 2_000;
/// Octets of Message-ID fields that are read, and identifiers in them. There is one.
const OWN_OCTETS_MAX: usize = 4 * 1024;
const OWN_MAX: usize = 10;
/// Octets of a Message-ID that count (a line has 998 at most).
const ID_MAX: usize = 998;
/// Octets of subjects that are read, fields of that name, and numbers looked up.
const SUBJECT_MAX: usize = 8 * 1024;
const SUBJECTS_MAX: usize = 10;
const TICKETS_MAX: usize = 1_000;
/// Digits of a ticket's number, and blanks before it that a ticket system passes over.
const DIGITS_MAX: usize = 32;
const BLANKS_MAX: usize = 3;

/// Names of a message and of those that it answers, in a comparable form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// Its own Message-ID. Several, where several fields or a broken one leave readers the choice.
    pub(in crate::pipeline) own: Vec<String>,
    /// Those that In-Reply-To and References name.
    pub(in crate::pipeline) cited: Vec<String>,
    /// Numbers of tickets in its subject.
    pub(in crate::pipeline) tickets: Vec<String>,
    /// Whether it names more than is looked at: what it belongs to could be among the rest.
    pub(in crate::pipeline) too_many: bool,
}

impl References {
    /// Those of a message; `token` stands right before the number of a ticket in its subject.
    pub fn of(headers: &Headers, token: Option<&str>) -> Self {
        let mut references = Self::default();
        let citing = joined(headers, &["In-Reply-To", "References"], CITING_MAX, &mut references.too_many);
        references.cited = bounded(ids(&citing), CITED_MAX, &mut references.too_many);
        let own = joined(headers, &["Message-ID"], OWN_OCTETS_MAX, &mut references.too_many);
        references.own = bounded(ids(&own), OWN_MAX, &mut references.too_many);
        if let Some(token) = token {
            let subjects: Vec<&Header> = headers.named("Subject").collect();
            let octets: usize = subjects.iter().map(|field| field.value().len()).sum();
            references.too_many |= octets > SUBJECT_MAX || subjects.len() > SUBJECTS_MAX;
            let texts = subjects.into_iter().take(SUBJECTS_MAX).flat_map(texts);
            let numbers = texts.flat_map(|text| numbers(&text, token)).collect();
            references.tickets = bounded(numbers, TICKETS_MAX, &mut references.too_many);
        }
        references
    }

    /// Whether the message names any other.
    pub(super) fn is_empty(&self) -> bool {
        self.cited.is_empty() && self.tickets.is_empty()
    }
}

/// All values of fields of these names, as far as they are read.
fn joined(headers: &Headers, names: &[&str], most: usize, too_many: &mut bool) -> Vec<u8> {
    let mut octets = Vec::new();
    for field in names.iter().flat_map(|name| headers.named(name)) {
        octets.extend_from_slice(field.value());
        octets.push(b' ');
        if octets.len() > most {
            *too_many = true;
            octets.truncate(most);
            break;
        }
    }
    octets
}

/// Without repetitions.
fn bounded(mut names: Vec<String>, most: usize, too_many: &mut bool) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    *too_many |= names.len() > most;
    names.truncate(most);
    names
}

/// The identifiers in a text, in lower case. Ticket systems differ in what they take for one, so that brackets, commas and blanks
/// are all taken for separators: a word too many is found nowhere.
fn ids(octets: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(octets).to_lowercase();
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
            assert_eq!(found.own, ["own@c.example"]);
        }
        assert!(of(&[("Message-ID", "<a@b>")], None).is_empty());
    }

    #[test]
    fn what_is_hidden_among_thousands_is_found_or_the_message_is_known_to_hide_something() {
        let many = |count: usize| (0..count).map(|n| format!("<{n}@b.example>\r\n ")).collect::<String>();
        let found = of(&[("References", &many(1_000)), ("In-Reply-To", "<parent@b.example>")], None);
        assert!(found.cited.len() == 1_001 && !found.too_many);
        for fields in [
            vec![("References".to_owned(), many(2_001))],
            vec![("In-Reply-To".to_owned(), "x".repeat(CITING_MAX))],
            (0..=OWN_MAX).map(|n| ("Message-ID".to_owned(), format!("<{n}@b>"))).collect(),
            vec![("Subject".to_owned(), "x".repeat(SUBJECT_MAX))],
            (0..=SUBJECTS_MAX).map(|n| ("Subject".to_owned(), format!("Ticket#{n}"))).collect(),
        ] {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert!(of(&fields, Some("Ticket#")).too_many, "{}", fields[0].0);
        }
        // Of several Message-IDs each reader takes the one that he likes.
        let found = of(&[("Message-ID", "<a@b>"), ("Message-ID", "<c@d>")], None);
        assert_eq!((found.own, found.too_many), (vec!["a@b".to_owned(), "c@d".to_owned()], false));
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
        let many: String = (0..1_001).map(|n| format!("#{n} ")).collect();
        let found = of(&[("Subject", &many)], Some("#"));
        assert!(found.tickets.len() == TICKETS_MAX && found.too_many);
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
