//! The message on standard input: line endings as on the wire, recipients read from it, what sendmail adds added, everything
//! else as it came.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::address_list::addresses;
use crate::mail::{Header, HeaderEdit, Headers, HeadersBuilder, Path};

/// A message with its header section apart.
#[derive(Debug)]
pub(super) struct Message {
    headers: Headers,
    body: Vec<u8>,
}

impl Message {
    /// Reads lines that end in LF or CRLF. A line with a single dot ends the message unless `ignores_dots`; a line `From ...`
    /// at the beginning, of a mailbox file, is left out. What begins with no header field has none.
    pub(super) fn read(input: &[u8], ignores_dots: bool) -> Self {
        let mut wire = Vec::with_capacity(input.len().saturating_add(input.len() / 32));
        for (number, line) in input.split_inclusive(|&octet| octet == b'\n').enumerate() {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if text == b"." && !ignores_dots {
                break;
            }
            if number == 0 && text.starts_with(b"From ") {
                continue;
            }
            wire.extend_from_slice(text);
            wire.extend_from_slice(b"\r\n");
        }
        let mut builder = HeadersBuilder::new(usize::MAX);
        match builder.push(&wire) {
            Ok(Some(block)) => Self { headers: block.headers, body: block.body },
            _ => {
                let block = builder.finish();
                // A section without the empty line at its end gets it, for fields may be added.
                Self { headers: Headers::new(block.headers.iter().cloned().collect()), body: block.body }
            }
        }
    }

    /// The addresses of To, Cc and Bcc; where the message is sent anew, those of the Resent fields instead.
    ///
    /// # Errors
    /// Names what cannot be read: to leave it out would lose the message for somebody.
    pub(super) fn recipients(&self) -> Result<Vec<String>, String> {
        let of = |names: [&str; 3]| -> Result<Vec<String>, String> {
            let mut found = Vec::new();
            for field in self.headers.iter().filter(|field| names.iter().any(|name| field.is(name))) {
                found.extend(addresses(&String::from_utf8_lossy(field.value()))?);
            }
            Ok(found)
        };
        let resent = of(["Resent-To", "Resent-Cc", "Resent-Bcc"])?;
        if resent.is_empty() { of(["To", "Cc", "Bcc"]) } else { Ok(resent) }
    }

    /// The first address of From.
    pub(super) fn author(&self) -> Option<String> {
        addresses(&String::from_utf8_lossy(self.headers.first("From")?.value())).ok()?.into_iter().next()
    }

    /// Takes Bcc away, and adds From, Date and Message-ID where there is none.
    pub(super) fn complete(&mut self, sender: &Path, full_name: Option<&str>, origin: &str) {
        let hidden = |field: &Header| field.is("Bcc") || field.is("Resent-Bcc");
        let hidden = self.headers.iter().enumerate().filter(|(_, field)| hidden(field));
        let mut edits: Vec<HeaderEdit> = hidden.map(|(index, _)| HeaderEdit::Remove { index }).collect();
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let mut add = |name: &str, text: String| {
            if self.headers.first(name).is_none() {
                edits.push(HeaderEdit::Append(Header::written(name, &text)));
            }
        };
        if !sender.is_null() {
            let from =
                full_name.map_or_else(|| sender.as_str().to_owned(), |name| format!("{} {sender}", phrase(name)));
            add("From", from);
        }
        add("Date", now.format(&Rfc2822).unwrap_or_default());
        let mut unique = [0; 12];
        // Without the system's random numbers time and process id must do.
        let _ = aws_lc_rs::rand::fill(&mut unique);
        let id: String = unique.iter().map(|octet| format!("{octet:02x}")).collect();
        add("Message-ID", format!("<{}.{}.{id}@{origin}>", now.unix_timestamp(), std::process::id()));
        self.headers.apply(&edits);
    }

    /// The whole message as it goes over the wire, dots not stuffed.
    pub(super) fn wire(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.headers.wire_len().saturating_add(self.body.len()));
        self.headers.write_to(&mut wire);
        wire.extend_from_slice(&self.body);
        wire
    }
}

/// A full name as a field has it: quoted, or encoded where it is not ASCII (RFC 2047).
fn phrase(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    if name.is_ascii() {
        return format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
    }
    // An encoded word has 75 octets at most: 45 octets of text in each, cut between characters.
    let mut words = vec![String::new()];
    for c in name.chars() {
        match words.last_mut() {
            Some(word) if word.len().saturating_add(c.len_utf8()) <= 45 => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    let words: Vec<String> = words.iter().map(|word| format!("=?UTF-8?B?{}?=", STANDARD.encode(word))).collect();
    words.join("\r\n ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(input: &str, ignores_dots: bool) -> String {
        String::from_utf8(Message::read(input.as_bytes(), ignores_dots).wire()).unwrap()
    }

    #[test]
    fn lines_leave_with_crlf_and_otherwise_as_they_came() {
        for (input, ignores_dots, expected) in [
            ("A: b\n\nx\n", true, "A: b\r\n\r\nx\r\n"),
            ("A: b\r\n c\r\n\r\nx  \r\n\r\n", true, "A: b\r\n c\r\n\r\nx  \r\n\r\n"),
            ("A: b\n\nx\n.\ny", true, "A: b\r\n\r\nx\r\n.\r\ny\r\n"),
            ("A: b\n\nx\n.\ny", false, "A: b\r\n\r\nx\r\n"),
            ("A: b\n\n..\n", false, "A: b\r\n\r\n..\r\n"),
            ("From ann Sun Nov 22\nA: b\n\nFrom x\n", true, "A: b\r\n\r\nFrom x\r\n"),
            ("just text\n", true, "\r\njust text\r\n"),
            ("A: b\n", true, "A: b\r\n\r\n"),
            ("A: b\ntext\n", true, "A: b\r\n\r\ntext\r\n"),
            ("", true, "\r\n"),
        ] {
            assert_eq!(wire(input, ignores_dots), expected, "{input:?}");
        }
    }

    #[test]
    fn recipients_are_those_of_to_cc_and_bcc_or_of_the_resent_fields() {
        let message = Message::read(
            b"To: \"Doe, Jane\" <jane@a.example>,\n bob@b.example (Bob)\ncc: team: x@c.example, <y@c.example>;\nBcc: z@d.example\n\n",
            true,
        );
        assert_eq!(
            message.recipients().unwrap(),
            ["jane@a.example", "bob@b.example", "x@c.example", "y@c.example", "z@d.example"]
        );
        let resent = Message::read(b"To: a@b.example\nResent-To: c@d.example\n\n", true);
        assert_eq!(resent.recipients().unwrap(), ["c@d.example"]);
        let odd = Message::read(b"To: a@b.example\nCc: <c@d.example> <e@f.example>\n\n", true);
        assert!(odd.recipients().is_err());
    }

    #[test]
    fn what_is_missing_is_added_at_the_end_and_bcc_goes() {
        let sender = Path::parse(b"support@acme.example").unwrap();
        let mut message = Message::read(b"Subject: a\nBcc: x@y.example\n\nx\n", true);
        message.complete(&sender, Some("Cron \"D\""), "acme.example");
        let wire = String::from_utf8(message.wire()).unwrap();
        assert!(wire.starts_with("Subject: a\r\nFrom: \"Cron \\\"D\\\"\" <support@acme.example>\r\nDate: "), "{wire}");
        assert!(wire.contains("\r\nMessage-ID: <") && wire.ends_with("@acme.example>\r\n\r\nx\r\n"), "{wire}");
        assert!(!wire.contains("Bcc"), "{wire}");
        let whole = "From: a@b.example\r\nDATE: x\r\nmessage-id: <y>\r\n\r\n";
        let mut message = Message::read(whole.as_bytes(), true);
        message.complete(&sender, Some("X"), "acme.example");
        assert_eq!(message.wire(), whole.as_bytes());
        assert_eq!(phrase("B\u{fc}ro"), "=?UTF-8?B?QsO8cm8=?=");
    }
}
