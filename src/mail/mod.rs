//! One message on its way through the program: what every attachment makes, every pipeline step reads and the relay sends.
//!
//! In: bytes from a milter session, an LMTP transaction (later: an Exim ACL). Out: a [`Mail`] for the pipeline and the
//! relay, a [`Verdict`] back to the attachment. Nothing here knows which MTA asked, what a connector is, or does network
//! I/O; the only I/O is the spool file of a large [`Body`].

mod address;
#[cfg(test)]
pub(crate) mod any_edits;
mod body;
mod budget;
mod connection;
mod envelope;
mod header;
mod line_ending;
mod reply;
mod verdict;

pub use address::{Address, AddressError, Domain};
pub use body::{Body, BodyWriter, SPOOL_THRESHOLD, Spool};
pub use budget::{Budget, Permit, Waiting};
pub use connection::{Client, Connection, Pass, TlsFacts};
pub use envelope::{Envelope, Path, PathError};
pub use header::{Header, HeaderBlock, Headers, HeadersBuilder, HeadersError};
pub use line_ending::StrayLineEndings;
pub use reply::{EnhancedCode, Reply};
pub use verdict::{Disposition, HeaderEdit, RecipientEdit, Verdict};

use std::sync::Arc;

/// A message with all that is known of it.
#[derive(Debug)]
pub struct Mail {
    /// Who handed the message to the MTA, and how.
    pub connection: Arc<Connection>,
    /// Sender and recipients.
    pub envelope: Envelope,
    /// The header fields, raw and in order.
    pub headers: Headers,
    /// All after the empty line.
    pub body: Body,
    /// Why the body is not all there, if it is not: then it is empty.
    pub shortfall: Option<Shortfall>,
    /// The MTA's queue id, for the log.
    pub queue_id: Option<String>,
}

/// Why a message could not be taken whole. Its envelope and header fields are complete all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortfall {
    /// Larger than our limit.
    TooLarge,
    /// The spool could not be written.
    Spool,
}

impl Mail {
    /// The same message with another header section.
    #[must_use]
    pub fn with_headers(&self, headers: Headers) -> Self {
        Self {
            connection: Arc::clone(&self.connection),
            envelope: self.envelope.clone(),
            headers,
            body: self.body.clone(),
            shortfall: self.shortfall,
            queue_id: self.queue_id.clone(),
        }
    }

    /// Octets of the message as it would be sent: header fields, the empty line, body.
    pub fn size(&self) -> u64 {
        self.headers.wire_len() as u64 + self.body.wire_len()
    }

    /// The whole message as one buffer, CRLF line endings, ready for DKIM verification or sending.
    ///
    /// Whoever calls this holds a [`Permit`] for [`Mail::size`] octets.
    ///
    /// # Errors
    /// The spool file could not be read.
    pub async fn assemble(&self) -> std::io::Result<Vec<u8>> {
        let mut wire = Vec::with_capacity(usize::try_from(self.size()).unwrap_or(0));
        self.headers.write_to(&mut wire);
        self.body.append_to(&mut wire).await?;
        Ok(wire)
    }
}
