//! SMTP replies (RFC 5321 section 4.2) with enhanced status codes (RFC 3463).

use std::fmt;

/// Lines of a reply at most.
const LINES_MAX: usize = 20;
/// Octets of text in a line at most: 512 with code, enhanced code and CRLF (RFC 5321 section 4.5.3.1.5).
const TEXT_MAX: usize = 480;

/// An SMTP reply: three-digit code, enhanced status code, text.
///
/// Always well-formed on the wire: text is single lines of printable characters within the length limits, and the class
/// of the enhanced code equals that of the code.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<EnhancedCode>,
    lines: Vec<String>,
}

/// Enhanced status code `class.subject.detail` (RFC 3463). The class is that of the reply's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnhancedCode {
    /// Subject, for example 7 for security.
    pub subject: u16,
    /// Detail within the subject.
    pub detail: u16,
}

impl Reply {
    /// A reply of ours. A code outside 200..=599 becomes 451: what we do not understand is temporary.
    pub fn new(code: u16, subject: u16, detail: u16, text: impl AsRef<str>) -> Self {
        Self::from_lines(code, Some(EnhancedCode { subject, detail }), std::iter::once(text.as_ref()))
    }

    /// A reply in several lines, or one of a remote server; enhanced code where there is one.
    pub fn from_lines<'a>(code: u16, enhanced: Option<EnhancedCode>, lines: impl IntoIterator<Item = &'a str>) -> Self {
        let code = if (200..=599).contains(&code) { code } else { 451 };
        let mut lines: Vec<String> = lines.into_iter().take(LINES_MAX).map(printable).collect();
        if lines.is_empty() {
            lines.push(String::new());
        }
        Self { code, enhanced, lines }
    }

    /// Reads a remote server's reply text, whose first line may begin with an enhanced code.
    pub fn from_remote<'a>(code: u16, lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut enhanced = None;
        let lines: Vec<&str> = lines
            .into_iter()
            .map(|line| match split_enhanced(code, line) {
                Some((found, text)) => {
                    enhanced.get_or_insert(found);
                    text
                }
                None => line,
            })
            .collect();
        Self::from_lines(code, enhanced, lines)
    }

    /// The three-digit code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced code as text, for example `4.7.0`.
    pub fn enhanced(&self) -> Option<String> {
        self.enhanced.map(|e| format!("{}.{}.{}", self.code / 100, e.subject, e.detail))
    }

    /// The text lines, without codes. At least one.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The text in one line.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// 2xx.
    pub fn is_success(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4xx.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5xx.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// The same reply with `prefix` before the text of the first line.
    #[must_use]
    pub fn prefixed(mut self, prefix: &str) -> Self {
        if let Some(first) = self.lines.first_mut() {
            *first = printable(&format!("{prefix}{first}"));
        }
        self
    }

    /// The same reply with one more line of text at its end; of many lines the last ones make room.
    #[must_use]
    pub fn followed_by(mut self, text: &str) -> Self {
        self.lines.truncate(LINES_MAX - 1);
        self.lines.push(printable(text));
        self
    }

    /// The reply as it goes over SMTP or LMTP, CRLF included.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut wire = Vec::new();
        let enhanced = self.enhanced().map(|e| e + " ").unwrap_or_default();
        for (n, line) in self.lines.iter().enumerate() {
            let separator = if n + 1 == self.lines.len() { ' ' } else { '-' };
            wire.extend_from_slice(format!("{}{separator}{enhanced}{line}\r\n", self.code).as_bytes());
        }
        wire
    }
}

/// One line of printable text, cut to length at a character boundary.
fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(TEXT_MAX));
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if line.len() + c.len_utf8() > TEXT_MAX {
            break;
        }
        line.push(c);
    }
    line.truncate(line.trim_end().len());
    line
}

/// `5.7.1 text` into its parts, if the class fits the code (RFC 2034 section 4).
fn split_enhanced(code: u16, line: &str) -> Option<(EnhancedCode, &str)> {
    let (status, text) = line.split_once(' ').unwrap_or((line, ""));
    let mut parts = status.split('.');
    let mut number = || parts.next().filter(|p| (1..=3).contains(&p.len())).and_then(|p| p.parse::<u16>().ok());
    let (class, subject, detail) = (number()?, number()?, number()?);
    (parts.next().is_none() && class == code / 100).then_some((EnhancedCode { subject, detail }, text))
}

/// `451 4.7.0 text`, all lines in one: for logs.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced() {
            write!(f, " {enhanced}")?;
        }
        write!(f, " {}", self.text())
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_reply_comes_back_with_its_codes() {
        let reply = Reply::from_remote(550, ["5.1.1 no such user", "5.1.1 here"]);
        assert_eq!(reply.to_wire(), b"550-5.1.1 no such user\r\n550 5.1.1 here\r\n");
        assert_eq!(Reply::from_remote(550, ["no code"]).to_wire(), b"550 no code\r\n");
        assert_eq!(Reply::from_remote(451, ["5.1.1 wrong class"]).to_wire(), b"451 5.1.1 wrong class\r\n");
    }

    #[test]
    fn no_text_can_break_out_of_its_line() {
        let reply = Reply::new(550, 7, 1, "a\r\n250 ok\0");
        assert_eq!(reply.to_wire(), b"550 5.7.1 a  250 ok\r\n");
        let long = Reply::new(451, 3, 0, "ü".repeat(1000));
        assert!(long.to_wire().len() <= 512);
        assert!(Reply::from_remote(450, vec!["x"; 1000]).lines().len() <= 20);
    }

    #[test]
    fn a_code_that_is_none_is_temporary() {
        assert!(Reply::new(99, 0, 0, "nonsense").is_transient());
        assert!(Reply::new(354, 0, 0, "odd").code() == 354);
    }
}
