//! Messages as people write them.

use std::sync::atomic::{AtomicU32, Ordering};

/// A message to be written: a small real-looking one unless told otherwise.
#[derive(Debug, Clone)]
pub struct Message {
    fields: Vec<(String, String)>,
    body: String,
}

impl Message {
    /// A message with From, To, Subject, Date and a Message-ID of its own.
    pub fn new(from: &str, to: &str, subject: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let (n, process) = (COUNTER.fetch_add(1, Ordering::Relaxed), std::process::id());
        let domain = from.trim_end_matches('>').rsplit('@').next().unwrap_or("customer.example");
        let fields = [
            ("From", from.to_owned()),
            ("To", to.to_owned()),
            ("Subject", subject.to_owned()),
            ("Date", "Mon, 02 Mar 2026 09:30:00 +0000".to_owned()),
            ("Message-ID", format!("<{n}.{process}@{domain}>")),
            ("MIME-Version", "1.0".to_owned()),
            ("Content-Type", "text/plain; charset=utf-8".to_owned()),
        ];
        Self {
            fields: fields.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            body: "Hello,\r\n\r\nmy order 4711 has not arrived.\r\n\r\nRegards\r\n".to_owned(),
        }
    }

    /// With one more field at the end of the header section. `value` is written as it is.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another body, CRLF line endings.
    #[must_use]
    pub fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    /// The Message-ID with its angle brackets.
    pub fn id(&self) -> &str {
        self.fields.iter().find(|(name, _)| name == "Message-ID").map_or("", |(_, value)| value)
    }

    /// The message as it goes over SMTP.
    pub fn octets(&self) -> Vec<u8> {
        let mut text: String = self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        text.push_str("\r\n");
        text.push_str(&self.body);
        text.into_bytes()
    }
}

/// Whether `received` is `sent` with nothing but fields added above it. Line endings may be LF, as in a mailbox file.
pub fn received_as_sent(received: &[u8], sent: &[u8]) -> bool {
    let (received, sent) = (with_lf(received), with_lf(sent));
    received.ends_with(&sent)
        && received.get(..received.len() - sent.len()).is_some_and(|top| top.is_empty() || top.ends_with(b"\n"))
}

fn with_lf(octets: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(octets.len());
    for line in octets.split_inclusive(|&octet| octet == b'\n') {
        lines.extend_from_slice(line.strip_suffix(b"\r\n").unwrap_or(line));
        if line.ends_with(b"\r\n") {
            lines.push(b'\n');
        }
    }
    lines
}
