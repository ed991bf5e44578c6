//! What an attachment asks of whoever judges its mail.

use std::time::{Duration, Instant};

use crate::mail::{Connection, Envelope, Mail, Path, Reply, Verdict};

/// Who judges mail before it is queued: the [`Pipeline`](super::Pipeline). A trait, so that an attachment's protocol can be tested with
/// any verdict.
pub trait Judge: Send + Sync + 'static {
    /// Whether mail of this client with this envelope is any of our business: what is not is never looked at.
    fn concerns(&self, connection: &Connection, envelope: &Envelope) -> bool;

    /// Whether [`Self::recipient`] ever has anything to say: asking costs a round trip for each recipient.
    fn asks_recipients(&self) -> bool {
        false
    }

    /// Why one more recipient cannot be in this message, if it cannot; `envelope` has those before it.
    fn recipient(&self, _connection: &Connection, _envelope: &Envelope, _to: &Path) -> Option<Reply> {
        None
    }

    /// Whether mail of this client with this envelope concerns nobody but connectors that only observe: whatever becomes of its
    /// judgement, nothing may happen to it.
    fn only_observes(&self, _connection: &Connection, _envelope: &Envelope) -> bool {
        false
    }

    /// Judges a message that concerns us.
    fn judge(&self, mail: &Mail) -> impl Future<Output = Verdict> + Send;

    /// Does what must be done before the verdict on `mail` is told, and returns what is told.
    fn deliver(&self, _mail: &Mail, verdict: Verdict, _terms: Terms) -> impl Future<Output = Verdict> + Send {
        std::future::ready(verdict)
    }
}

/// What an attachment can offer for [`Judge::deliver`].
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// When the message was complete: what the MTA's patience is counted from.
    pub complete: Instant,
    /// The MTA lets us add and remove recipients.
    pub edits_recipients: bool,
    /// How long after that the answer must be there at the latest, where the MTA waits no longer.
    pub within: Option<Duration>,
    /// What is not taken for a support address is relayed out of the MTA's queue all the same.
    pub queue_relays: bool,
}
