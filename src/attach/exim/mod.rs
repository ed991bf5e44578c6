//! The Exim attachment: Exim has no milters, but its ACLs can ask a socket (`${readsocket}`) and its transports can run a
//! message through a filter (`transport_filter`).
//!
//! In: one request a connection, in the protocol of `docs/exim-protocol.md`: facts from the RCPT ACL; facts from the DATA ACL, with
//! the message in the file that Exim makes for content scanning; or a whole message on its last hop. Out: one [`Mail`](crate::mail::Mail) for the
//! [`Judge`](crate::pipeline::Judge), and its verdict as one line that the ACL carries out, or as the header section that the
//! filter puts before the body. It must not know what a connector is, why a verdict was reached, or where mail goes afterwards.
//!
//! Bytes become a message and a verdict becomes bytes in this order: [`request`] (one line) -> [`prefix`] (what Exim puts
//! above the message) -> [`conversation`] (the only part with I/O and clocks; [`scan_file`], [`intake`]) -> [`edits`] and
//! [`reply`]. [`last_hop`] is the other end of a filter's connection.
//!
//! # What becomes of a message
//! | message | reply |
//! | --- | --- |
//! | one more recipient, which goes another way than those before it | `defer`: its client sends it again by itself |
//! | does not concern us | `pass`: its content is not asked for |
//! | judged, and relayed where that is done before the queue | the verdict, and whom Exim need not deliver to any more |
//! | larger than `limits.message_size`, or not to be spooled (disk full) | the verdict, which knows that the body is missing |
//! | header section larger than `limits.header_size` | 552 5.3.4 |
//! | header section with a line that is no field | 550 5.6.0 |
//! | not as Exim received it (`spool_wireformat`), or not to be read | 451 4.3.5 |
//! | judging took longer than `exim.deadline`, or we are shutting down | 451 |
//! | on its last hop without a good seal | `defer`: the filter fails, and Exim keeps the message |
//!
//! What is no request gets `error`, which the ACL takes for a daemon that is away.

pub mod conversation;
pub mod edits;
#[cfg(any(test, fuzzing))]
#[path = "../../../fuzz/targets/exim.rs"]
pub(crate) mod fuzzing;
mod intake;
pub mod last_hop;
pub mod listener;
pub mod prefix;
pub mod reply;
pub mod request;
mod scan_file;

pub use listener::serve;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::slots::Slots;
use crate::mail::Spool;

/// All that the connections of an Exim service share.
#[derive(Debug)]
pub struct Service<J> {
    judge: Arc<ArcSwap<J>>,
    spool: Spool,
    settings: ArcSwap<Settings>,
    slots: Slots,
}

/// What a reload may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Exim's `spool_directory`.
    pub spool_directory: PathBuf,
    /// The users whose processes may ask, by uid.
    pub peers: Vec<u32>,
    /// How long a verdict may take, and relaying before the queue with it.
    pub deadline: Duration,
    /// Exim has a router and a transport that lead to us: what is not relayed before the queue is relayed out of it.
    pub queue_relays: bool,
    /// Octets of a message at most.
    pub message_size: u64,
    /// Octets of a header section at most.
    pub header_size: usize,
    /// Connections at a time.
    pub connections: usize,
}

impl<J> Service<J> {
    /// The connections.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// A service that asks the judge that `judge` holds when a request comes, and spools bodies into `spool`.
    pub fn new(judge: Arc<ArcSwap<J>>, spool: Spool, settings: Settings) -> Self {
        let slots = Slots::new(settings.connections);
        Self { judge, spool, settings: ArcSwap::from_pointee(settings), slots }
    }

    /// Other settings, for requests that come from now on.
    pub fn set(&self, settings: Settings) {
        self.slots.set(settings.connections);
        self.settings.store(Arc::new(settings));
    }
}
