//! Address lists as programs and people write them, in a field or an argument (RFC 5322 section 3.4): where one address ends and
//! the next begins.
//!
//! What cannot be told for certain is an error: no message may go to an address that nobody wrote, and nobody may be left out.

use std::str::Chars;

/// Comments within comments, at most.
const COMMENTS_MAX: usize = 50;

/// The addresses of a list, spelled as they stand there; a bare name is one too. `<>` alone is the empty one.
///
/// # Errors
/// The part that cannot be read.
pub(super) fn addresses(list: &str) -> Result<Vec<String>, String> {
    if list.trim() == "<>" {
        return Ok(vec![String::new()]);
    }
    let mut found = Vec::new();
    let mut element = Element::default();
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => element.text.push_str(&quoted(&mut chars).ok_or_else(|| unreadable(list))?),
            '(' => {
                comment(&mut chars).ok_or_else(|| unreadable(list))?;
                element.text.push(' ');
            }
            '[' => element.text.push_str(&through(&mut chars, '[', ']').ok_or_else(|| unreadable(list))?),
            '<' if element.bracketed.is_none() => {
                element.bracketed = Some(bracketed(&mut chars).ok_or_else(|| unreadable(list))?);
                element.text.clear();
            }
            '<' | '>' => return Err(unreadable(list)),
            // What was before it is the name of a group, but not where it was somebody's address.
            ':' if element.bracketed.is_none() && element.has_domain => return Err(unreadable(list)),
            ':' if element.bracketed.is_none() => element.text.clear(),
            ',' | ';' => found.extend(std::mem::take(&mut element).address()?),
            '\r' | '\n' => element.text.push(' '),
            _ => {
                element.has_domain |= c == '@';
                element.text.push(c);
            }
        }
    }
    found.extend(element.address()?);
    Ok(found)
}

/// What stands between two commas.
#[derive(Default)]
struct Element {
    /// Without comments, from the angle brackets on where there are some.
    text: String,
    bracketed: Option<String>,
    /// An `@` outside quotes and brackets.
    has_domain: bool,
}

impl Element {
    /// The address in it, if there is anything.
    fn address(self) -> Result<Option<String>, String> {
        let text = self.text.trim();
        let address = match &self.bracketed {
            Some(bracketed) if !text.contains('@') => bracketed.trim(),
            Some(_) => return Err(unreadable(text)),
            None if text.is_empty() => return Ok(None),
            None => text,
        };
        // An encoded word is no address, whatever is in it; a local part alone is one, a domain alone is none.
        let encoded = !address.contains('@') && address.contains("=?");
        // A line folded amid an address: what belongs to it is a guess.
        let folded = address.contains(char::is_control);
        if address.is_empty() || encoded || folded || address.contains(char::REPLACEMENT_CHARACTER) {
            return Err(unreadable(address));
        }
        if address.starts_with('@') && !address.contains(':') {
            return Err(unreadable(address));
        }
        Ok(Some(address.to_owned()))
    }
}

fn unreadable(text: &str) -> String {
    let shown: String = text.trim().chars().take(100).collect();
    format!("{shown:?} cannot be read as addresses; write each as name <local@domain>, with a comma between two")
}

/// The rest of a quoted string, both quotes included.
fn quoted(chars: &mut Chars<'_>) -> Option<String> {
    let mut text = String::from('"');
    loop {
        let c = chars.next()?;
        text.push(c);
        match c {
            '"' => return Some(text),
            '\\' => text.push(chars.next()?),
            _ => {}
        }
    }
}

/// Takes the rest of a comment.
fn comment(chars: &mut Chars<'_>) -> Option<()> {
    let mut depth = 1_usize;
    while depth > 0 {
        match chars.next()? {
            '(' if depth >= COMMENTS_MAX => return None,
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            '\\' => {
                chars.next()?;
            }
            _ => {}
        }
    }
    Some(())
}

/// What stands in angle brackets.
fn bracketed(chars: &mut Chars<'_>) -> Option<String> {
    let mut text = String::new();
    loop {
        match chars.next()? {
            '>' => return Some(text),
            '"' => text.push_str(&quoted(chars)?),
            '<' | '(' | ')' | ';' => return None,
            c => text.push(c),
        }
    }
}

/// From `open` to `close`, both included.
fn through(chars: &mut Chars<'_>, open: char, close: char) -> Option<String> {
    let mut text = String::from(open);
    loop {
        let c = chars.next()?;
        text.push(c);
        if c == close {
            return Some(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_the_shapes_that_are_in_use() {
        for (list, expected) in [
            ("a@b.example", &["a@b.example"][..]),
            (" a@b.example,\r\n\tc@d.example , ", &["a@b.example", "c@d.example"]),
            ("a@b.example; c@d.example", &["a@b.example", "c@d.example"]),
            ("Jane Doe <a@b.example>", &["a@b.example"]),
            ("\"Doe, Jane\" <a@b.example> (at home, x@y.example)", &["a@b.example"]),
            ("a@b.example <c@d.example>", &["c@d.example"]),
            ("=?utf-8?Q?Doe=2C_J?= <a@b.example>", &["a@b.example"]),
            ("J\u{fffd}rgen <a@b.example>", &["a@b.example"]),
            ("a@b.example (Jane (nested \\) one))", &["a@b.example"]),
            ("\"a b\"@c.example, <\"d>,e\"@f.example>", &["\"a b\"@c.example", "\"d>,e\"@f.example"]),
            ("Team: a@b.example, Jane <c@d.example>; , e@f.example", &["a@b.example", "c@d.example", "e@f.example"]),
            ("undisclosed-recipients:;", &[]),
            ("\"us@home\": a@b.example;", &["a@b.example"]),
            ("mailto:a@b.example", &["a@b.example"]),
            ("a@[192.0.2.1], b@[IPv6:2001:db8::1]", &["a@[192.0.2.1]", "b@[IPv6:2001:db8::1]"]),
            ("<@x.example,@y.example:a@b.example>", &["@x.example,@y.example:a@b.example"]),
            ("j\u{fc}rgen@b.example", &["j\u{fc}rgen@b.example"]),
            ("root (Cron Daemon), admin", &["root", "admin"]),
            ("<>", &[""]),
            ("", &[]),
        ] {
            assert_eq!(addresses(list).unwrap(), expected, "{list}");
        }
    }

    #[test]
    fn where_it_is_not_certain_who_is_meant_nobody_is() {
        for list in [
            "<a@b.example> <c@d.example>",
            "x <a@b.example> y <c@d.example>, e@f.example",
            "<a@b.example> c@d.example",
            "Jane <jane@a.exampOo: Jane\r\n n>",
            "<<a@b.example>>",
            "a@b.example>",
            "Jane <a@b.example, c@d.example",
            "\"Doe\" <>",
            "=?utf-8?Q?a=40b.example?=",
            "j\u{fffd}rgen@b.example",
            "@b.example",
            "a@b.example: c@d.example",
            "a@b.example:25",
            "\"Jane a@b.example, c@d.example",
            "(Jane a@b.example, c@d.example",
        ] {
            assert!(addresses(list).is_err(), "{list}: {:?}", addresses(list));
        }
        assert!(addresses(&"(".repeat(100_000)).is_err());
    }
}
