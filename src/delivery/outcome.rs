//! What became of one hand-over.

use crate::mail::Reply;

/// A reply, and what the log tells besides.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) reply: Reply,
    /// `HTTP 201`, `exit 75`, `signal 9`; `-` when it did not come so far.
    pub(super) status: String,
    /// Where somebody should look at it.
    pub(super) trouble: Option<Trouble>,
    /// Protocol and cipher.
    pub(super) tls: Option<String>,
}

/// How much somebody should look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Time may heal it.
    Passing,
    /// Somebody must act.
    Lasting,
}

impl Outcome {
    /// As the ticket system said; nobody needs to look.
    pub(super) fn said(reply: Reply, status: impl Into<String>) -> Self {
        Self { reply, status: status.into(), trouble: None, tls: None }
    }

    /// 451 with this subject and detail (RFC 3463); time may heal it.
    pub(super) fn later(code: (u16, u16), text: impl AsRef<str>, status: impl Into<String>) -> Self {
        let reply = Reply::new(451, code.0, code.1, text);
        Self { reply, status: status.into(), trouble: Some(Trouble::Passing), tls: None }
    }

    /// As [`Self::later`], but somebody must act.
    pub(super) fn until_mended(code: (u16, u16), text: impl AsRef<str>, status: impl Into<String>) -> Self {
        Self { trouble: Some(Trouble::Lasting), ..Self::later(code, text, status) }
    }
}
