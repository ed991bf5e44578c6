//! Whose mail is it? Decided per recipient, by the domain and then by the address.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Connector;
use crate::mail::{Domain, Envelope};

/// Finds connectors by domain: the cost does not grow with their number.
#[derive(Debug)]
pub(super) struct Classifier {
    by_domain: HashMap<Domain, Vec<Arc<Connector>>>,
}

/// What the recipients of a message are to us.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Class {
    /// The first connector that a recipient's domain belongs to; its domain is what counts, not which of several connectors.
    pub(super) domain: Option<Domain>,
    /// Names of the connectors whose support addresses are among the recipients, in order.
    pub(super) connectors: Vec<String>,
}

impl Classifier {
    pub(super) fn new(connectors: &[Arc<Connector>]) -> Self {
        let mut by_domain: HashMap<Domain, Vec<Arc<Connector>>> = HashMap::new();
        // Who wrote what comes to the desk side was judged by the company.
        for connector in connectors.iter().filter(|connector| connector.desk.is_none()) {
            by_domain.entry(connector.domain.clone()).or_default().push(Arc::clone(connector));
        }
        Self { by_domain }
    }

    /// All mail for a connector's domain is judged, not only that for support addresses: an alias of the domain may end at one,
    /// and before the queue nobody knows.
    pub(super) fn concerns(&self, envelope: &Envelope) -> bool {
        envelope
            .recipients
            .iter()
            .filter_map(|path| path.address())
            .any(|address| self.by_domain.contains_key(address.domain()))
    }

    pub(super) fn classify(&self, envelope: &Envelope) -> Class {
        let mut class = Class::default();
        for address in envelope.recipients.iter().filter_map(|path| path.address()) {
            let Some(connectors) = self.by_domain.get(address.domain()) else { continue };
            class.domain.get_or_insert_with(|| address.domain().clone());
            if let Some(connector) = connectors.iter().find(|connector| connector.supports(&address))
                && !class.connectors.contains(&connector.name)
            {
                class.connectors.push(connector.name.clone());
            }
        }
        class
    }
}
