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

    /// A notification as Zendesk submits it for the address in `from`; not signed yet (see [`crate::Signer::zendesk`]).
    /// It answers a message of the end user, so that every guarded field is there.
    pub fn zendesk_notification(from: &str, to: &str, subject: &str) -> Self {
        let message = Self::new(from, to, subject);
        let id = message.id().trim_start_matches('<').split('@').next().unwrap_or_default().replace('.', "");
        let address = from.rsplit('<').next().unwrap_or(from).trim_end_matches('>');
        let reply_to = address.replacen('@', "+id4711@", 1);
        message
            .set("Message-ID", &format!("<4711.{id}_sprut@zendesk.com>"))
            .field("Reply-To", &format!("Acme <{reply_to}>"))
            .field("Cc", "Colleague <colleague@customer.example>")
            .field("In-Reply-To", "<first@customer.example>\r\n <KLJ2P7_4711@zendesk.com>")
            .field("References", "<first@customer.example> <KLJ2P7_4711@zendesk.com>\r\n\t<second@customer.example>")
            .field("Content-Transfer-Encoding", "7bit")
            .field("X-Delivery-Context", "event-id-4711")
            .field("Auto-Submitted", "auto-generated")
            .field("X-Auto-Response-Suppress", "All")
            .field("X-Mailer", "Zendesk Mailer")
            .field("X-Zendesk-From-Account-Id", "1a2b3c4")
            .field("X-Zendesk-Email-Id", "01HRZJ3V4K8M2QWXY6T9ABCDEF")
    }

    /// With another value of the field `name`, or with that field.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        match self.fields.iter_mut().find(|(known, _)| known == name) {
            Some(field) => value.clone_into(&mut field.1),
            None => self.fields.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Without the fields `name`.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(known, _)| known != name);
        self
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

/// The fields called `name` in a message, in order, each as it stands there: name, colon, folds and line endings.
pub fn fields(message: &[u8], name: &str) -> Vec<Vec<u8>> {
    split_fields(message)
        .filter(|field| {
            let found = field.split(|&octet| octet == b':').next().unwrap_or_default();
            found.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes())
        })
        .map(<[u8]>::to_vec)
        .collect()
}

/// The fields of a message's header section, which ends at the first empty line.
pub(crate) fn split_fields(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() || rest.starts_with(b"\r\n") || rest.starts_with(b"\n") {
            return None;
        }
        let ends = rest.iter().enumerate().filter(|&(_, &octet)| octet == b'\n').map(|(at, _)| at + 1);
        let end = ends.into_iter().find(|&end| !matches!(rest.get(end), Some(b' ' | b'\t')));
        let (field, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(field)
    })
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
