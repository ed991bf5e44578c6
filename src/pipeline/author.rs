//! Who the From field says wrote a message, where all readers agree on it.
//!
//! Mail programs, ticket systems and this program read odd From fields differently, and an attacker needs only one that shows
//! another domain than the one we vouch for. So every domain that any reader might see counts, and they must be one.

use mail_auth::AuthenticatedMessage;

use crate::mail::{Address, Domain, Header, Headers};

/// Who the From field says wrote the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Author {
    /// No From field, or none that holds an address with a domain name.
    Missing,
    /// Two From fields, or one in which readers may see addresses of several domains.
    Ambiguous,
    /// Exactly one domain.
    Domain(Domain),
}

impl Author {
    /// The author of a message; `message` is the library's reading of the same header section.
    pub(super) fn of(headers: &Headers, message: &AuthenticatedMessage<'_>) -> Self {
        let mut fields = headers.named("From");
        let author = match (fields.next(), fields.next()) {
            (None, _) => return Self::Missing,
            (Some(_), Some(_)) => return Self::Ambiguous,
            (Some(field), None) => read(field),
        };
        let Self::Domain(domain) = &author else { return author };
        let agrees = |address: &String| {
            address.rsplit_once('@').and_then(|(_, name)| Domain::parse(name).ok()).as_ref() == Some(domain)
        };
        if message.from_addresses().iter().filter(|address| address.contains('@')).all(agrees) {
            author
        } else {
            Self::Ambiguous
        }
    }

    pub(super) fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Domain(domain) => Some(domain),
            Self::Missing | Self::Ambiguous => None,
        }
    }
}

/// The one address that the From field shows to every reader; `None` where From does not stand exactly once, holds several
/// addresses, or may be read in several ways.
pub(super) fn sole_address(headers: &Headers) -> Option<Address> {
    let mut fields = headers.named("From");
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let Author::Domain(_) = read(field) else { return None };
    let shown = shown(field);
    let (first, others) = shown.split_first()?;
    if others.iter().all(|other| other == first) { first.clone() } else { None }
}

/// Every address that some reader may see in any From field.
pub(super) fn candidates(headers: &Headers) -> Vec<Address> {
    headers.named("From").flat_map(shown).flatten().collect()
}

/// What readers may see in one field, the library's reading included; `None` for what is no address of ours.
fn shown(field: &Header) -> Vec<Option<Address>> {
    let unfolded = String::from_utf8_lossy(field.value()).replace("\r\n", "");
    let mut shown = Vec::new();
    for element in elements(&unfolded).unwrap_or_default() {
        let parts: Vec<&str> = element.unquoted.split('@').collect();
        for pair in parts.windows(2) {
            let [local, domain] = pair else { continue };
            let local = local.rsplit(is_delimiter).next().unwrap_or_default();
            let domain = domain.split(is_delimiter).next().unwrap_or_default();
            shown.push(Address::parse(&format!("{local}@{domain}")).ok());
        }
    }
    let wire = [field.raw(), b"\r\n\r\n"].concat();
    let message = AuthenticatedMessage::parse(&wire).unwrap_or_default();
    shown.extend(message.from_addresses().iter().map(|address| Address::parse(address).ok()));
    shown
}

/// Reads one field. Every `@` outside quotes tells of a domain, in comments and bare display names too.
fn read(field: &Header) -> Author {
    let Some(elements) = elements(&String::from_utf8_lossy(field.value()).replace("\r\n", "")) else {
        return Author::Ambiguous;
    };
    let mut domains = Vec::new();
    for element in elements {
        let parts: Vec<&str> = element.unquoted.split('@').collect();
        if parts.len() == 1 && (element.unquoted.contains("=?") || element.quoted_at) {
            // Nothing but an encoded word or a quoted string where an address should be: some show what is in it.
            return Author::Ambiguous;
        }
        for pair in parts.windows(2) {
            let [local, domain] = pair else { continue };
            let local = local.rsplit(is_delimiter).next().unwrap_or_default();
            if local.contains("=?") || local.contains(QUOTED_AT) {
                return Author::Ambiguous;
            }
            domains.push(Domain::parse(domain.split(is_delimiter).next().unwrap_or_default()).ok());
        }
    }
    let mut known = domains.iter();
    match known.next() {
        None => Author::Missing,
        Some(first) if known.any(|other| other != first) => Author::Ambiguous,
        Some(None) => Author::Missing,
        Some(Some(domain)) => Author::Domain(domain.clone()),
    }
}

/// Stands for a quoted string, and for one that holds an `@`.
const QUOTED: char = '\u{e000}';
const QUOTED_AT: char = '\u{e001}';

/// What stands between two commas.
#[derive(Default)]
struct Element {
    /// The text with each quoted string replaced by one character; what is in comments is still there.
    unquoted: String,
    quoted_at: bool,
}

/// The elements of an address list (RFC 5322 section 3.4), or `None` where readers disagree on where they begin: control
/// characters, unclosed quotes or comments, a backslash outside them, an escaped quote before an address.
fn elements(text: &str) -> Option<Vec<Element>> {
    let mut elements = vec![];
    let mut element = Element::default();
    let mut comments = 0usize;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            QUOTED | QUOTED_AT => return None,
            c if c.is_control() && c != '\t' => return None,
            '\\' if comments == 0 => return None,
            '\\' => element.unquoted.extend(chars.next()),
            '"' if comments == 0 => {
                let holds_at = skip_quoted(&mut chars)?;
                element.quoted_at |= holds_at;
                element.unquoted.push(if holds_at { QUOTED_AT } else { QUOTED });
            }
            '(' => {
                comments = comments.saturating_add(1);
                element.unquoted.push(c);
            }
            ')' => {
                comments = comments.saturating_sub(1);
                element.unquoted.push(c);
            }
            ',' | ';' if comments == 0 => elements.push(std::mem::take(&mut element)),
            _ => element.unquoted.push(c),
        }
    }
    elements.push(element);
    (comments == 0).then_some(elements)
}

/// Takes a quoted string up to its closing quote; whether it holds an `@`. `None` where it has no end, or where a reader
/// without escapes would end it earlier and find an address in the rest.
fn skip_quoted(chars: &mut std::str::Chars<'_>) -> Option<bool> {
    let (mut at, mut escaped_quote) = (false, false);
    loop {
        match chars.next()? {
            '"' if at && escaped_quote => return None,
            '"' => return Some(at),
            '\\' => match chars.next()? {
                '"' => escaped_quote = true,
                '@' => at = true,
                _ => {}
            },
            '@' => at = true,
            c if c.is_control() && c != '\t' => return None,
            _ => {}
        }
    }
}

/// What cannot be in a domain name or an unquoted local part.
fn is_delimiter(c: char) -> bool {
    c.is_whitespace() || "<>(),;:[]\"".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(fields: &str) -> Author {
        let wire = format!("{fields}\r\nSubject: a\r\n\r\n");
        let mut builder = crate::mail::HeadersBuilder::new(1 << 16);
        let block = builder.push(wire.as_bytes()).unwrap().unwrap();
        Author::of(&block.headers, &AuthenticatedMessage::parse(wire.as_bytes()).unwrap())
    }

    fn of(domain: &str) -> Author {
        Author::Domain(Domain::parse(domain).unwrap())
    }

    #[test]
    fn what_people_send_is_read_as_it_is_shown() {
        for field in [
            "From: ann@a.example",
            "From: <ann@a.example>",
            "From: Ann <ann@a.example>",
            "FROM:Ann<ANN@A.Example>",
            "From: \"Ann, of A\" <ann@a.example>",
            "From: Ann, of A <ann@a.example>",
            "From: Dr. Ann B. <ann@a.example>",
            "From: ann@a.example (Ann)",
            "From: Ann (at home) <ann@a.example>",
            "From: =?utf-8?B?QW5uIEBob21l?= <ann@a.example>",
            "From: \"ann@b.example via A\" <desk@a.example>",
            "From: ann@a.example <ann@a.example>",
            "From: Ann <ann@a.example>, Bob <bob@a.example>",
            "From: Us: ann@a.example, bob@a.example;",
            "From: J\u{fc}rgen <j\u{fc}rgen@a.example>",
            "From: \"j o e\"@a.example",
            "From: Ann\r\n <ann@a.example>",
            "From :\tAnn <ann@a.example.>",
        ] {
            assert_eq!(author(field), of("a.example"), "{field}");
        }
        assert_eq!(author("From: Ann <ann@b\u{fc}cher.example>"), of("xn--bcher-kva.example"));
    }

    #[test]
    fn where_two_readers_may_see_two_domains_there_is_no_author() {
        for field in [
            "From: ann@a.example\r\nFrom: eve@b.example",
            "From: ann@a.example\r\nFrom : ann@a.example",
            "From: ann@a.example\r\nF r o m: eve@b.example",
            "From: ann@a.example, eve@b.example",
            "From: ann@a.example <eve@b.example>",
            "From: <ann@a.example> <eve@b.example>",
            "From: <eve@b.example> ann@a.example",
            "From: (ann@a.example) <eve@b.example>",
            "From: (a (nested\\) ann@a.example)) <eve@b.example>",
            "From: <@a.example,@c.example:eve@b.example>",
            "From: <ann@a.example@b.example>",
            "From: \"ann@a.example\"@b.example",
            "From: \"ann@a.example\", <eve@b.example>",
            "From: ann@a.example\0 <eve@b.example>",
            "From: \0ann@a.example",
            "From: ann\\@a.example <eve@b.example>",
            "From: \"x\\\" <ann@a.example>, \\\"\" <eve@b.example>",
            "From: \"Ann <ann@a.example>",
            "From: (Ann <ann@a.example>",
            "From: =?utf-8?B?YW5uQGEuZXhhbXBsZQ==?=, <eve@b.example>",
            "From: <=?utf-8?B?YW5uQGEuZXhhbXBsZQ==?=@b.example>",
            "From: =?utf-8?Q?ann=40a.example?=",
            "From: Us: ann@a.example; eve@b.example",
            "From: Ann <ann@a.example>, Eve <eve@[192.0.2.1]>",
            "From: ann@a.example\u{e001}@b.example",
        ] {
            assert_eq!(author(field), Author::Ambiguous, "{field}");
        }
    }

    #[test]
    fn without_an_address_there_is_no_author_to_speak_of() {
        for field in
            ["X: y", "From:", "From: Ann", "From: <>", "From: ann@[192.0.2.1]", "From: undisclosed:;", "From: a@"]
        {
            assert_eq!(author(field), Author::Missing, "{field}");
        }
    }

    #[test]
    fn a_sole_address_is_one_that_every_reader_sees() {
        let sole = |fields: &str| {
            let mut builder = crate::mail::HeadersBuilder::new(1 << 16);
            let block = builder.push(format!("{fields}\r\nTo: a\r\n\r\n").as_bytes()).unwrap().unwrap();
            sole_address(&block.headers).map(|address| address.to_string())
        };
        for field in [
            "From: Desk <Support@acme.example>",
            "From: support@acme.example",
            "From: \"billing@acme.example\" <support@acme.example>",
            "From: =?utf-8?Q?Desk?= <support@acme.example>",
        ] {
            assert_eq!(sole(field).as_deref(), Some("support@acme.example"), "{field}");
        }
        for field in [
            "Subject: no From",
            "From: support@acme.example\r\nFrom: support@acme.example",
            "From: support@acme.example, billing@acme.example",
            "From: support@acme.example <billing@acme.example>",
            "From: (support@acme.example) <billing@acme.example>",
            "From: support@acme.example@acme.example",
            "From: Desk",
        ] {
            assert_eq!(sole(field), None, "{field}");
        }
    }
}
