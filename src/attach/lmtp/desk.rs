//! The way of a notification on the desk side: as one of the support addresses to the company host, unchanged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::{HandOver, HandedOver};
use crate::config::{Connector, Host};
use crate::mail::{Address, Domain, Mail, Path};
use crate::pipeline::Submitters;
use crate::relay::{Authorities, Bounds, Connections, Relay, RelayError};

/// The company host, and a relay of its own for each credential: a message can only go with the login of its own sender.
#[derive(Debug)]
pub struct Desk {
    submitters: Submitters,
    relays: HashMap<Address, Relay>,
}

impl Desk {
    /// Checks the routes without contacting anyone.
    ///
    /// # Errors
    /// Names the object and the remedy.
    pub fn new(
        connector: &Arc<Connector>,
        host: &Host,
        hello: &Domain,
        authorities: &mut Authorities,
    ) -> Result<Self, RelayError> {
        Self::with_bounds(connector, host, hello, Bounds::default(), authorities)
    }

    /// As [`Self::new`], with other bounds for the steps.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_bounds(
        connector: &Arc<Connector>,
        host: &Host,
        hello: &Domain,
        bounds: Bounds,
        authorities: &mut Authorities,
    ) -> Result<Self, RelayError> {
        let relays = host.credentials.iter().map(|credential| {
            let relay = Relay::to_host(connector, host, credential, hello, bounds, authorities)?;
            Ok((credential.address.clone(), relay))
        });
        Ok(Self {
            submitters: Submitters::new(connector, host, Instant::now()),
            relays: relays.collect::<Result<_, RelayError>>()?,
        })
    }

    /// The connections of all credentials at this moment.
    pub fn connections(&self) -> Connections {
        self.relays.values().map(Relay::connections).fold(Connections::default(), |all, one| Connections {
            busy: all.busy.saturating_add(one.busy),
            idle: all.idle.saturating_add(one.idle),
            waiting: all.waiting.saturating_add(one.waiting),
            limit: all.limit.saturating_add(one.limit),
        })
    }

    /// As [`Relay::certificate_expiry`].
    pub fn certificate_expiry(&self) -> Option<i64> {
        self.relays.values().filter_map(Relay::certificate_expiry).min()
    }

    /// Goes on counting where `earlier` is: a reload gives no credential a fresh start.
    #[must_use]
    pub fn going_on_from(mut self, earlier: &Self) -> Self {
        self.submitters.go_on_from(&earlier.submitters);
        self
    }
}

impl HandOver for Desk {
    async fn hand_over(&self, connector: &Connector, mut mail: Mail) -> HandedOver {
        let recipients = mail.envelope.recipients.len();
        let submitter = match self.submitters.admit(&mail, Instant::now()) {
            Ok(submitter) => submitter,
            Err(reply) => return HandedOver::refused(&reply, recipients),
        };
        if let Some(unverified) = &submitter.unverified {
            tracing::warn!(
                queue_id = mail.queue_id,
                connector = connector.name,
                sender = %unverified,
                default = %submitter.address,
                "sender without a credential: the default address takes over in the envelope"
            );
            mail.envelope.sender = submitter.sender(&mail);
        }
        match self.relays.get(&submitter.address) {
            Some(relay) => HandedOver { auth: None, delivery: relay.send(&mail).await, rejected_to: None },
            // There is one for each credential.
            None => HandedOver::refused(&crate::mail::Reply::new(451, 3, 5, "no such credential"), recipients),
        }
    }

    /// A notification is for anybody.
    fn takes(&self, _: &Connector, _: &Path) -> bool {
        true
    }
}
