//! What a remote server says, read from octets: replies (RFC 5321 section 4.2) and the extensions in its EHLO reply.
//! Pure: octets in, replies out. Everything is bounded, for the other side may be anyone.

use super::refusal::Refusal;
use crate::mail::Reply;

/// Octets in a reply line at most. RFC 5321 section 4.5.3.1.5 says 512; as lenient as Postfix's `line_length_limit`.
const LINE_MAX: usize = 2048;
/// Lines in a reply at most; the longest EHLO replies in the field have some thirty.
const LINES_MAX: usize = 128;

/// A complete reply of the remote server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteReply {
    pub code: u16,
    /// Text of each line, enhanced codes included; octets that are no UTF-8 replaced.
    pub lines: Vec<String>,
}

impl RemoteReply {
    /// The reply with the remote server's codes and words, `peer` named before them, and the name of a refusal that is known.
    ///
    /// 421 becomes 451: it says that a connection closes, and would close the one of the MTA that called us (Postfix
    /// disconnects its client when a milter says 421, and takes a whole LMTP service for dead).
    pub fn passed_back(&self, peer: &str) -> Reply {
        let code = if self.code == 421 { 451 } else { self.code };
        let name = Refusal::of(self).map(|refusal| format!("{}: ", refusal.name)).unwrap_or_default();
        Reply::from_remote(code, self.lines.iter().map(String::as_str)).prefixed(&format!("{name}{peer} said: "))
    }

    /// The reply as one of ours, without a prefix.
    pub fn as_reply(&self) -> Reply {
        Reply::from_remote(self.code, self.lines.iter().map(String::as_str))
    }

    /// 2xx.
    pub fn is_success(&self) -> bool {
        self.code / 100 == 2
    }
}

/// Why the octets are no reply. The connection is of no use after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Nonsense {
    #[error("a reply line longer than 2048 octets")]
    LongLine,
    #[error("a reply of more than 128 lines")]
    ManyLines,
    #[error("a line that is no SMTP reply")]
    Syntax,
    #[error("a reply whose lines differ in their codes")]
    MixedCodes,
}

/// Cuts a stream of octets into replies.
#[derive(Debug, Default)]
pub(super) struct ReplyReader {
    buffer: Vec<u8>,
    code: Option<u16>,
    lines: Vec<String>,
}

impl ReplyReader {
    /// Takes octets as they arrive. Call [`Self::next`] until it has nothing more before pushing again: that bounds the
    /// buffer.
    pub fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// Whether everything that was pushed has been read.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.lines.is_empty()
    }

    /// The next complete reply. A lone LF ends a line too: nothing can be smuggled in a reply that is taken alone.
    pub fn next(&mut self) -> Result<Option<RemoteReply>, Nonsense> {
        loop {
            let end = self.buffer.iter().position(|&b| b == b'\n');
            if end.unwrap_or(self.buffer.len()) > LINE_MAX {
                return Err(Nonsense::LongLine);
            }
            let Some(end) = end else { return Ok(None) };
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let (code, last, text) = split_line(line.trim_ascii_end()).ok_or(Nonsense::Syntax)?;
            if *self.code.get_or_insert(code) != code {
                return Err(Nonsense::MixedCodes);
            }
            if self.lines.len() >= LINES_MAX {
                return Err(Nonsense::ManyLines);
            }
            self.lines.push(String::from_utf8_lossy(text).into_owned());
            if last {
                self.code = None;
                return Ok(Some(RemoteReply { code, lines: std::mem::take(&mut self.lines) }));
            }
        }
    }
}

/// `250-text`, `250 text` or `250` into code, whether it is the last line, and text.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (code, rest) = line.split_at_checked(3)?;
    let code: u16 = std::str::from_utf8(code).ok().filter(|c| c.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    let (last, text) = match rest.split_first() {
        None => (true, rest),
        Some((b' ', text)) => (true, text),
        Some((b'-', text)) => (false, text),
        Some(_) => return None,
    };
    (200..=599).contains(&code).then_some((code, last, text))
}

/// The extensions of an EHLO reply that matter to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    pub starttls: bool,
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    /// SIZE is understood in MAIL.
    pub size: bool,
    /// The fixed limit in octets; `None` when there is none (RFC 1870 section 4: no argument, or 0).
    pub size_limit: Option<u64>,
    pub auth_plain: bool,
    pub auth_login: bool,
    pub auth_xoauth2: bool,
}

impl Extensions {
    /// Reads an EHLO reply; its first line is the server's name. Keywords are known in any letter case (RFC 5321 section
    /// 2.4), `AUTH=` is an old spelling still offered beside the new one.
    pub fn read(reply: &RemoteReply) -> Self {
        let mut found = Self::default();
        for line in reply.lines.iter().skip(1) {
            let line = line.to_ascii_uppercase();
            let mut words = line.split(|c: char| c.is_ascii_whitespace() || c == '=').filter(|word| !word.is_empty());
            match words.next() {
                Some("STARTTLS") => found.starttls = true,
                Some("PIPELINING") => found.pipelining = true,
                Some("8BITMIME") => found.eight_bit_mime = true,
                Some("SMTPUTF8") => found.smtputf8 = true,
                Some("SIZE") => {
                    found.size = true;
                    found.size_limit = words.next().and_then(|n| n.parse().ok()).filter(|&n| n > 0);
                }
                Some("AUTH") => {
                    for mechanism in words {
                        found.auth_plain |= mechanism == "PLAIN";
                        found.auth_login |= mechanism == "LOGIN";
                        found.auth_xoauth2 |= mechanism == "XOAUTH2";
                    }
                }
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(octets: &[u8]) -> Result<Option<RemoteReply>, Nonsense> {
        let mut reader = ReplyReader::default();
        reader.push(octets);
        reader.next()
    }

    #[test]
    fn replies_are_read_in_every_legal_spelling() {
        for (octets, code, lines) in [
            (&b"250 2.1.0 Ok\r\n"[..], 250, &["2.1.0 Ok"][..]),
            (b"250\r\n", 250, &[""]),
            (b"250 \r\n", 250, &[""]),
            (b"250-a\r\n250-\r\n250 b\r\n", 250, &["a", "", "b"]),
            (b"550 gr\xfc\xdfe\r\n", 550, &["gr\u{fffd}\u{fffd}e"]),
        ] {
            let reply = read(octets).unwrap().unwrap();
            assert_eq!((reply.code, reply.lines), (code, lines.iter().map(|&l| l.to_owned()).collect()));
        }
    }

    #[test]
    fn what_is_no_reply_is_told() {
        for (octets, expected) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], Nonsense::Syntax),
            (b"\r\n", Nonsense::Syntax),
            (b"25\r\n", Nonsense::Syntax),
            (b"2500 x\r\n", Nonsense::Syntax),
            (b"150 x\r\n", Nonsense::Syntax),
            (b"+50 x\r\n", Nonsense::Syntax),
            (b"250-a\r\n550 b\r\n", Nonsense::MixedCodes),
            (&[b'2'; LINE_MAX + 1], Nonsense::LongLine),
            (&b"250-x\r\n".repeat(LINES_MAX + 1), Nonsense::ManyLines),
        ] {
            assert_eq!(read(octets), Err(expected), "{:?}", String::from_utf8_lossy(octets));
        }
        assert_eq!(read(b"250-more to come\r\n25"), Ok(None));
    }

    #[test]
    fn extensions_are_known_in_any_case_and_the_servers_name_is_none() {
        let lines = ["STARTTLS", "size 1000", "Auth=LOGIN plain", "8bitmime", "PIPELINING", "SMTPUTF8"];
        let reply = RemoteReply { code: 250, lines: lines.map(str::to_owned).to_vec() };
        let found = Extensions::read(&reply);
        assert!(!found.starttls && found.size && found.eight_bit_mime && found.pipelining && found.smtputf8);
        assert!(found.auth_plain && found.auth_login);
        assert_eq!(found.size_limit, Some(1000));
        for line in ["SIZE", "SIZE 0", "SIZE x"] {
            let reply = RemoteReply { code: 250, lines: vec![String::new(), line.to_owned()] };
            assert_eq!((Extensions::read(&reply).size, Extensions::read(&reply).size_limit), (true, None));
        }
    }

    proptest! {
        #[test]
        fn no_octets_and_no_cut_bring_the_reader_down(octets: Vec<u8>, cut in 0usize..64) {
            let mut whole = ReplyReader::default();
            whole.push(&octets);
            let mut cut_up = ReplyReader::default();
            let (a, b) = octets.split_at(cut.min(octets.len()));
            cut_up.push(a);
            let early = cut_up.next();
            if early == Ok(None) {
                cut_up.push(b);
                prop_assert_eq!(cut_up.next(), whole.next());
            } else {
                prop_assert_eq!(early, whole.next());
            }
        }
    }
}
