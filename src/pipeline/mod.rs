//! The one story of a message. To be completed.

use crate::config::Connector;
use crate::mail::{Envelope, Mail, Reply, Verdict};

/// Who judges mail before it is queued: the [`Pipeline`]. A trait, so that an attachment's protocol can be tested with
/// any verdict.
pub trait Judge: Send + Sync + 'static {
    /// Whether mail with this envelope is any of our business: a recipient belongs to a connector's domain.
    fn concerns(&self, envelope: &Envelope) -> bool;

    /// Judges a message that concerns us.
    fn judge(&self, mail: &Mail) -> impl Future<Output = Verdict> + Send;
}

/// Judges mail.
#[derive(Debug)]
pub struct Pipeline {}

impl Judge for Pipeline {
    fn concerns(&self, _envelope: &Envelope) -> bool {
        true
    }

    async fn judge(&self, _mail: &Mail) -> Verdict {
        Verdict::pass()
    }
}

impl Pipeline {
    /// Makes a message that came out of the queue ready for the relay: loops found, forged headers stripped, traces added.
    /// Returns the auth status for the log.
    ///
    /// # Errors
    /// The reply for a message that must not go on.
    pub fn hand_over(&self, _connector: &Connector, _mail: &mut Mail) -> Result<String, Reply> {
        Ok("none".to_owned())
    }
}
