//! The SMTP envelope (RFC 5321 section 2.3.1): reverse-path and forward-paths as the MTA gave them.

use std::fmt;

use super::Address;

/// Octets in a path at most, angle brackets not counted (RFC 5321 section 4.5.3.1.3 says 256 with them; some slack for
/// UTF-8 local parts that hosts in the field send).
const PATH_MAX: usize = 320;

/// Sender and recipients of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The reverse-path of MAIL FROM.
    pub sender: Path,
    /// The forward-paths of the accepted RCPT TO commands, in order.
    pub recipients: Vec<Path>,
    /// The client declared SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// The client declared BODY=8BITMIME (RFC 6152).
    pub eight_bit: bool,
}

/// A reverse- or forward-path without its angle brackets, spelled as received. Empty is the null reverse-path `<>`.
///
/// Safe to put into an SMTP command: it holds no control character, no space outside quotes and no angle bracket.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Path(String);

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Longer than 320 octets.
    #[error("path longer than 320 octets")]
    Length,
    /// Not valid UTF-8.
    #[error("path is not UTF-8")]
    Encoding,
    /// A control character, angle bracket or unquoted space.
    #[error("path holds a character that is not allowed")]
    Syntax,
}

impl Path {
    /// Reads a path, with or without angle brackets. Source routes (`@a,@b:user@c`) are dropped, as RFC 5321 appendix C says.
    ///
    /// # Errors
    /// As [`PathError`] says.
    pub fn parse(octets: &[u8]) -> Result<Self, PathError> {
        let text = std::str::from_utf8(octets).map_err(|_| PathError::Encoding)?;
        let text = match text.strip_prefix('<') {
            Some(inner) => inner.strip_suffix('>').ok_or(PathError::Syntax)?,
            None => text,
        };
        let text = match text.strip_prefix('@').and_then(|route| route.split_once(':')) {
            // A route within a route would still be one when it is taken off.
            Some((_, mailbox)) if mailbox.starts_with('@') => return Err(PathError::Syntax),
            Some((_, mailbox)) => mailbox,
            None => text,
        };
        if text.len() > PATH_MAX {
            return Err(PathError::Length);
        }
        let mut quoted = false;
        let mut escaped = false;
        for c in text.chars() {
            if c.is_control() || (!quoted && (c == ' ' || c == '<' || c == '>')) {
                return Err(PathError::Syntax);
            }
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                _ => {}
            }
        }
        if quoted { Err(PathError::Syntax) } else { Ok(Self(text.to_owned())) }
    }

    /// Reads a path that an MTA has taken in a spelling that no RFC knows: a bracket too many or too few does not count, as for
    /// Postfix without `strict_rfc821_envelopes`. What cannot be in a path becomes `?`, so that it is nobody's address. Null is
    /// only what is spelled `<>`: a sender that cannot be read is none.
    pub fn lenient(octets: &[u8]) -> Self {
        if let Ok(path) = Self::parse(octets) {
            return path;
        }
        let text = String::from_utf8_lossy(octets);
        let text = text.trim();
        let bare = text.strip_prefix('<').unwrap_or(text);
        let bare = bare.strip_suffix('>').unwrap_or(bare);
        if let Ok(path) = Self::parse(bare.as_bytes())
            && !path.is_null()
        {
            return path;
        }
        let plain = |c: char| if c.is_control() || " <>\"\\".contains(c) { '?' } else { c };
        let mut plain: String = bare.chars().map(plain).take(PATH_MAX).collect();
        while plain.len() > PATH_MAX {
            plain.pop();
        }
        Self(if plain.is_empty() { "?".to_owned() } else { plain })
    }

    /// The null reverse-path of bounces (RFC 5321 section 4.5.5).
    pub fn null() -> Self {
        Self::default()
    }

    /// Whether this is the null reverse-path.
    pub fn is_null(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as received, without angle brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The comparable address, where the path is one (`postmaster` alone or an address literal is not).
    pub fn address(&self) -> Option<Address> {
        Address::parse(&self.0).ok()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.0)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_source_routes_are_taken_off_and_spelling_is_kept() {
        for (input, expected) in [
            ("<Support@Acme.example>", "Support@Acme.example"),
            ("a@b.example", "a@b.example"),
            ("<>", ""),
            ("<@relay.example:a@b.example>", "a@b.example"),
            ("<\"a b\"@c.example>", "\"a b\"@c.example"),
        ] {
            assert_eq!(Path::parse(input.as_bytes()).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn nothing_that_could_end_an_smtp_command_passes() {
        for input in [
            "<a@b.example>\r\nRCPT TO:<c@d.example>",
            "<a\n@b>",
            "<a b@c.example>",
            "<a@b.example",
            "a>b@c",
            "\"a@b",
            "<a\0@b>",
            "<@a.example:@b.example:c@d.example>",
        ] {
            assert!(Path::parse(input.as_bytes()).is_err(), "{input:?}");
        }
        assert_eq!(Path::parse(b"<\xff@b.example>"), Err(PathError::Encoding));
        assert_eq!(Path::parse("a".repeat(400).as_bytes()), Err(PathError::Length));
    }

    #[test]
    fn what_an_mta_takes_in_an_odd_spelling_is_read_alike_and_never_as_null() {
        for (input, expected) in [
            (&b"a@b.example>"[..], "a@b.example"),
            (b"<a@b.example", "a@b.example"),
            (b"<a b@c.example>", "a?b@c.example"),
            (b"<\"a@b.example>", "?a@b.example"),
            (b"<\xff@b.example>", "\u{fffd}@b.example"),
            (b"<a@b.example>\r\nRCPT TO:<c@d.example>", "a@b.example???RCPT?TO:?c@d.example"),
            (b"<", "?"),
            (b">", "?"),
            (b"< >", "?"),
        ] {
            let path = Path::lenient(input);
            assert_eq!(path.as_str(), expected);
            assert_eq!(Path::parse(expected.as_bytes()), Ok(path), "it is a path all the same");
        }
        assert!(Path::lenient(b"<>").is_null() && Path::lenient(b"").is_null());
        for long in ["a".repeat(400), "\u{fc}".repeat(400), format!("<{}@b.example>", "a".repeat(400))] {
            assert!((1..=PATH_MAX).contains(&Path::lenient(long.as_bytes()).as_str().len()));
        }
    }
}
