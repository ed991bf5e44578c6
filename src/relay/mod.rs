//! Sends a [`Mail`] over one route (host, TLS, credentials) and returns the remote server's reply for each recipient.
//! Knows nothing of milters, classification or tickets.

use crate::config::{Connector, Endpoint};
use crate::mail::{Budget, Domain, Mail, Reply};

/// One route to a ticket endpoint, with its connections.
#[derive(Debug)]
pub struct Relay {}

/// What became of a message that was handed to [`Relay::send`].
#[derive(Debug, Clone)]
pub struct Delivery {
    /// One reply per recipient of the envelope, in its order: the remote server's own, or a 4xx of ours.
    pub replies: Vec<Reply>,
    /// What happened on the way, for the log.
    pub trace: Trace,
}

/// The way a message took, for the log line.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// `host[address]:port`, once connected.
    pub remote: Option<String>,
    /// Protocol and cipher, for example `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
    pub tls: Option<String>,
    /// The user name of the credential set that the endpoint took.
    pub credential: Option<String>,
    /// An earlier connection was used again.
    pub reused: bool,
}

impl Relay {
    /// Checks the route (CA file, credentials) without contacting anyone.
    ///
    /// # Errors
    /// Names the file and the remedy.
    pub fn new(
        _connector: &Connector,
        _endpoint: &Endpoint,
        _hello: &Domain,
        _budget: &Budget,
    ) -> Result<Self, String> {
        Ok(Self {})
    }

    /// Hands the message to the endpoint within the endpoint's deadline. Never panics, never waits longer, and answers
    /// every failure of ours with 4xx.
    pub async fn send(&self, mail: &Mail) -> Delivery {
        let reply = Reply::new(451, 3, 0, "not yet");
        Delivery { replies: vec![reply; mail.envelope.recipients.len()], trace: Trace::default() }
    }
}
