//! The one line that says of a message what was known, what was decided, and why.

use std::time::Instant;

use super::lane::Beside;
use super::outbound::{self, Origin};
use super::{classify, desk};
use crate::mail::{Domain, Header, Mail, Reply};

/// All that a decision rested on, for the one line that tells of it.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) started: Option<Instant>,
    pub(super) connectors: Vec<String>,
    pub(super) domain: Option<Domain>,
    /// The connector whose notification it is.
    pub(super) notification: Option<String>,
    pub(super) trusted_hop: Option<&'static str>,
    pub(super) sender: Option<String>,
    pub(super) forged: usize,
    /// On the desk side: which way it came, and the tags of its ticket.
    pub(super) path: Option<String>,
    pub(super) tags: Option<String>,
    pub(super) sealed: bool,
    pub(super) signed: Vec<String>,
    /// In a lane that only observes.
    pub(super) beside: Option<Beside>,
}

impl Record {
    pub(super) fn recognised(&mut self, class: &classify::Class, origin: &Origin<'_>) {
        self.connectors.clone_from(&class.connectors);
        self.domain.clone_from(&class.domain);
        self.notification = origin.connector().map(str::to_owned);
        self.trusted_hop = origin.trusted_hop();
    }

    pub(super) fn incoming(&mut self, incoming: Option<&desk::Incoming>) {
        self.connectors.extend(incoming.iter().flat_map(|incoming| incoming.connectors()).cloned());
        self.path = incoming.map(desk::Incoming::path);
        self.tags = incoming.map(desk::Incoming::tags).filter(|tags| !tags.is_empty());
    }

    pub(super) fn departed(&mut self, departure: &outbound::Departure) {
        self.sealed = departure.sealed;
        self.signed.clone_from(&departure.signed);
    }

    pub(super) fn log(&self, mail: &Mail, refusal: Option<&Reply>) {
        let decision = match refusal {
            Some(reply) if reply.is_transient() => "deferred",
            Some(_) => "refused",
            None if self.sealed => "sealed",
            None if !self.signed.is_empty() => "signed",
            None if self.domain.is_some() || self.path.is_some() => "tagged",
            None => "passed",
        };
        let connection = &mail.connection;
        let elapsed = self.started.map(|started| started.elapsed()).unwrap_or_default();
        tracing::info!(
            queue_id = mail.queue_id,
            decision,
            observed = self.beside.as_ref().map(|_| "yes"),
            connector = self.connectors.join(","),
            domain = self.domain.as_ref().map(Domain::as_str),
            notification = self.notification,
            message_id = mail.headers.first("Message-ID").map(Header::text),
            client = connection
                .client
                .ip()
                .map(|ip| ip.to_string())
                .unwrap_or_else(|| format!("{:?}", connection.client).to_lowercase()),
            helo = connection.helo,
            login = connection.login,
            from = %mail.envelope.sender,
            to = mail.envelope.recipients.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            size = mail.size(),
            tls = connection.tls.as_ref().map(|tls| tls.version.as_str()),
            path = self.path,
            tags = self.tags,
            auth = self.sender,
            spf = self.trusted_hop.map(|why| format!("not asked: {why}")),
            forged = self.forged,
            signed = (!self.signed.is_empty()).then(|| self.signed.join(",")),
            local_results = self.beside.as_ref().and_then(|beside| beside.results.as_deref()),
            signed_by = self.beside.as_ref().and_then(|beside| beside.signed_by.as_deref()),
            reply = refusal.map(ToString::to_string),
            delay_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            "judged"
        );
    }
}
