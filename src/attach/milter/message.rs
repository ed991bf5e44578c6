//! What is kept of the message at hand, and how much of it at most.

use super::command;
use crate::mail::{Envelope, Header, Path, Reply, Shortfall};

/// Recipients kept of a message, at most. Postfix takes 1,000 in a transaction. A message with more is judged by these;
/// what belongs to a later one is treated as if it had come past us.
pub const RECIPIENTS_MAX: usize = 10_000;
/// Header fields kept of a message, at most: a section of many tiny fields would cost far more memory than its octets.
pub const FIELDS_MAX: usize = 20_000;

/// Bounds on one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// Octets of the message.
    pub message_size: u64,
    /// Octets of its header section.
    pub header_size: usize,
}

/// A message under way, but for its body.
#[derive(Debug)]
pub(super) struct Message {
    limits: MessageLimits,
    pub(super) part: Part,
    pub(super) envelope: Envelope,
    /// Whether it is any of our business; `None` until all recipients are known.
    pub(super) ours: Option<bool>,
    pub(super) fields: Vec<Header>,
    header_octets: usize,
    body_octets: u64,
    /// The first reason why its body is not all there. No more of the body is kept then.
    pub(super) shortfall: Option<Shortfall>,
    /// Why it cannot be judged at all. Nothing more of it is kept then.
    pub(super) refusal: Option<Reply>,
}

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Envelope,
    Headers,
    Body,
}

impl Message {
    /// A message of which nothing but MAIL has come.
    pub(super) fn begun(mail: command::Path<'_>, limits: MessageLimits) -> Self {
        let sender = Path::lenient(mail.path);
        let smtputf8 = mail.has("SMTPUTF8");
        let eight_bit = mail.has("BODY=8BITMIME");
        Self {
            limits,
            part: Part::Envelope,
            envelope: Envelope { sender, recipients: Vec::new(), smtputf8, eight_bit },
            ours: None,
            fields: Vec::new(),
            header_octets: 0,
            body_octets: 0,
            shortfall: None,
            refusal: None,
        }
    }

    /// One more recipient.
    pub(super) fn add_recipient(&mut self, path: Path) {
        if self.envelope.recipients.len() < RECIPIENTS_MAX {
            self.envelope.recipients.push(path);
        }
    }

    /// One more header field; `value` with the white space after the colon.
    pub(super) fn add_field(&mut self, name: &[u8], value: &[u8]) {
        let limit = self.limits.header_size;
        // Colon and CRLF.
        self.header_octets = self.header_octets.saturating_add(name.len() + value.len() + 3);
        if self.header_octets > limit || self.fields.len() >= FIELDS_MAX {
            self.refuse(Reply::new(
                552,
                3,
                4,
                format!("header section larger than {limit} octets or {FIELDS_MAX} fields, the limit here"),
            ));
        } else {
            self.fields.push(Header::new(name, value));
        }
    }

    /// One more piece of the body has come, whether it is kept or not.
    pub(super) fn count_body(&mut self, chunk: &[u8]) {
        self.body_octets = self.body_octets.saturating_add(chunk.len() as u64);
        let size = self.body_octets.saturating_add(self.header_octets as u64);
        if size > self.limits.message_size {
            self.shortfall.get_or_insert(Shortfall::TooLarge);
        }
    }

    /// Whether what comes is kept.
    pub(super) fn is_storing(&self) -> bool {
        self.ours == Some(true) && self.refusal.is_none() && self.shortfall.is_none()
    }

    /// Octets kept of its header section.
    pub(super) fn header_octets(&self) -> usize {
        if self.refusal.is_none() { self.header_octets } else { 0 }
    }

    /// It cannot be judged, and is answered with `reply` at its end. The first reason counts.
    pub(super) fn refuse(&mut self, reply: Reply) {
        self.refusal.get_or_insert(reply);
        self.fields = Vec::new();
    }
}
