//! How Exim writes addresses into lists, and what it puts above a message in the file for content scanning (`spool_mbox.c`):
//! ```text
//! From MAILER-DAEMON Sun Nov 22 12:10:00 2026
//! X-Envelope-From: <jane@customer.example>         (not for the null sender)
//! X-Envelope-To: support@acme.example, sales@acme.example
//! ```
//! The first line names the sender once a recipient was verified.

use crate::mail::Path;

/// Splits `$recipients`, which Exim joins by comma and blank. An address may hold both, between quotes or after a backslash: Exim
/// takes one outside of quotes too (`read_local_part` in `parse.c`).
pub fn recipients(list: &[u8]) -> Vec<&[u8]> {
    let (mut addresses, mut rest) = (Vec::new(), list);
    while !rest.is_empty() {
        let (address, tail) = rest.split_at_checked(end_of_address(rest)).unwrap_or((rest, &[]));
        addresses.push(address.trim_ascii());
        rest = tail.get(1..).unwrap_or_default();
    }
    addresses.retain(|address| !address.is_empty());
    addresses
}

/// Where the first comma is that stands for itself.
fn end_of_address(list: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, &octet) in list.iter().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    list.len()
}

/// Which lines of the prefix are still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Separator,
    Sender,
    Recipients,
}

/// Takes the prefix off a scan file that arrives in chunks.
#[derive(Debug)]
pub struct Prefix {
    sender: Vec<u8>,
    next: Option<Line>,
    line: Vec<u8>,
}

/// The file does not begin as Exim begins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the scan file does not begin as Exim's spool_mbox.c begins it")]
pub struct NoPrefix;

impl Prefix {
    /// The prefix of a message of this sender. A sender's own `X-Envelope-From` is told from Exim's by that.
    pub fn new(sender: &Path) -> Self {
        Self { sender: sender.as_str().as_bytes().to_vec(), next: Some(Line::Separator), line: Vec::new() }
    }

    /// Whether all of it was there.
    pub fn is_complete(&self) -> bool {
        self.next.is_none()
    }

    /// What of `chunk` is the message.
    ///
    /// # Errors
    /// The file begins otherwise.
    pub fn strip<'c>(&mut self, chunk: &'c [u8]) -> Result<&'c [u8], NoPrefix> {
        let mut rest = chunk;
        while let Some(line) = self.next {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.line.extend_from_slice(rest);
                // The recipients, above all: as long as the request that named them.
                return if self.line.len() > super::request::LINE_MAX { Err(NoPrefix) } else { Ok(&[]) };
            };
            let (text, tail) = rest.split_at_checked(end).ok_or(NoPrefix)?;
            self.line.extend_from_slice(text);
            rest = tail.get(1..).unwrap_or_default();
            self.next = self.after(line)?;
            self.line.clear();
        }
        Ok(rest)
    }

    fn after(&self, line: Line) -> Result<Option<Line>, NoPrefix> {
        let text = self.line.as_slice();
        match line {
            Line::Separator if text.starts_with(b"From ") => {
                Ok(Some(if self.sender.is_empty() { Line::Recipients } else { Line::Sender }))
            }
            Line::Sender if text.strip_prefix(b"X-Envelope-From: <").is_some_and(|rest| rest.ends_with(b">")) => {
                Ok(Some(Line::Recipients))
            }
            Line::Recipients if text.starts_with(b"X-Envelope-To: ") => Ok(None),
            _ => Err(NoPrefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_told_apart_whatever_is_between_their_quotes() {
        for (list, expected) in [
            (&b""[..], vec![]),
            (b"a@b.example", vec![&b"a@b.example"[..]]),
            (
                b"a@b.example, \"c, \\\"d\"@b.example, e@b.example",
                vec![b"a@b.example", b"\"c, \\\"d\"@b.example", b"e@b.example"],
            ),
            (b"\"open, @b.example", vec![b"\"open, @b.example"]),
            (b"a\\\"b@c.example, a\\,b@c.example", vec![b"a\\\"b@c.example", b"a\\,b@c.example"]),
        ] {
            assert_eq!(recipients(list), expected, "{}", String::from_utf8_lossy(list));
        }
    }

    fn stripped(sender: &[u8], file: &[u8]) -> Result<Vec<u8>, NoPrefix> {
        let mut whole = Vec::new();
        for size in [1, 7, 10_000] {
            let mut prefix = Prefix::new(&Path::parse(sender).unwrap());
            let mut message = Vec::new();
            for chunk in file.chunks(size) {
                message.extend_from_slice(prefix.strip(chunk)?);
            }
            if !prefix.is_complete() {
                return Err(NoPrefix);
            }
            whole = message;
        }
        Ok(whole)
    }

    #[test]
    fn what_exim_puts_above_is_taken_off_and_what_looks_like_it_stays() {
        let file =
            b"From MAILER-DAEMON x\nX-Envelope-From: <a@b.example>\nX-Envelope-To: c@d.example\nX-Envelope-From: e\n";
        assert_eq!(stripped(b"a@b.example", file).unwrap(), b"X-Envelope-From: e\n");
        let bounce = b"From MAILER-DAEMON x\nX-Envelope-To: c@d.example\nX-Envelope-To: e\n\nx";
        assert_eq!(stripped(b"", bounce).unwrap(), b"X-Envelope-To: e\n\nx");
        assert_eq!(stripped(b"a@b.example", bounce), Err(NoPrefix));
        assert_eq!(stripped(b"", b"Subject: x\n\nx"), Err(NoPrefix));
        assert_eq!(stripped(b"", b"From MAILER-DAEMON x\nX-Env"), Err(NoPrefix));
    }
}
