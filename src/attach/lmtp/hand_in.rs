//! The way of mail on the desk side into a ticket system: unchanged, with what the milter before the queue has written into it.

use std::sync::Arc;

use super::{HandOver, HandedOver};
use crate::config::Connector;
use crate::delivery::TicketSystem;
use crate::mail::Mail;

/// The ticket system.
#[derive(Debug)]
pub struct HandIn {
    /// The way into it.
    pub system: Arc<TicketSystem>,
    /// Received fields at most (RFC 5321 section 6.3).
    pub hops: usize,
}

impl HandOver for HandIn {
    async fn hand_over(&self, _: &Connector, mail: Mail) -> HandedOver {
        HandedOver { auth: None, delivery: self.system.deliver(&mail, self.hops).await, rejected_to: None }
    }
}
