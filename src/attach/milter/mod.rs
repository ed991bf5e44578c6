//! The milter attachment: Postfix and Sendmail show us each message before they queue it.
//!
//! In: the milter protocol, versions 2 to 6, over unix and TCP sockets, many messages a connection. Out: one
//! [`Mail`](crate::mail::Mail) for the [`Judge`](crate::pipeline::Judge) for each message that concerns us, and its verdict
//! as header edits and one final response. It must not know what a connector is, why a verdict was reached, or where mail
//! goes afterwards.
//!
//! Bytes become a message and a verdict becomes bytes in this order:
//! [`frame`] (lengths) -> [`command`] (payloads) -> [`session`] (what may follow what; [`macros`], [`client`], [`message`]) ->
//! [`conversation`] (the only part with I/O and clocks: reads, spools the body, has the message judged, answers) ->
//! [`edits`] and [`response`]. [`negotiate`] settles at the beginning of a connection what is sent and answered at all.
//!
//! # What becomes of a message
//! | message | reply at its end |
//! | --- | --- |
//! | does not concern us | `ACCEPT` at DATA, before its content is sent to us; untouched |
//! | judged | the verdict |
//! | larger than `limits.message_size`, or not to be spooled (disk full) | the verdict, which knows that the body is missing |
//! | header section larger than `limits.header_size` | 552 5.3.4 |
//! | header section larger than 128 KiB while such ones take 32 MiB already | 451 4.3.1 |
//! | judging failed or took too long | 451 4.7.1 |
//! | we are shutting down and judging took too long for that | 451 4.3.2 |
//!
//! The last four concern the whole message, other recipients included: one SMTP transaction has one reply. A connection on
//! which no valid milter protocol is spoken is closed with one WARN line; the MTA then does as its default action says.

pub mod client;
pub mod command;
pub mod conversation;
pub mod edits;
pub mod frame;
mod intake;
pub mod listener;
pub mod macros;
pub mod message;
pub mod negotiate;
pub mod response;
pub mod session;

pub use listener::{Listener, serve};

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::slots::Slots;
use crate::config::Limits;
use crate::mail::{Budget, Spool};
use message::MessageLimits;

/// Octets of header section, and of a frame that is not complete yet, that each session may keep (128 KiB): more than nearly all
/// mail has.
pub const SESSION_FREE: u64 = 128 * 1024;
/// Octets that all sessions together may keep beyond that (32 MiB). Without it 1,000 connections could keep 4 GiB: a frame of
/// [`frame::FRAME_MAX`] and a header section of `limits.header_size` each.
pub const LARGE_HEADERS: u64 = 32 * 1024 * 1024;

/// All that the sessions of a milter service share.
#[derive(Debug)]
pub struct Service<J> {
    judge: Arc<ArcSwap<J>>,
    spool: Spool,
    limits: ArcSwap<MessageLimits>,
    slots: Slots,
    patience: Patience,
    /// [`LARGE_HEADERS`].
    large_headers: Budget,
}

/// How long we wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the next command. As long as libmilter: MTAs keep connections open between messages, and within one they wait
    /// for their own client.
    pub idle: Duration,
    /// For the rest of a command of which a part has come.
    pub frame: Duration,
    /// For the MTA to take our answer.
    pub write: Duration,
    /// For a verdict. Shorter than the 300 s that Postfix waits for us at the end of a message (`milter_content_timeout`).
    pub judge: Duration,
    /// Between two signs of life while judging. Sendmail may be set to wait no more than 10 s.
    pub progress: Duration,
    /// For the message at hand once we are told to stop.
    pub drain: Duration,
    /// For the next message of a session that goes on, once we are told to stop. Postfix takes a connection that closes between
    /// two messages for the end of the milter, and does as its default action says until the client has gone. Zero where other
    /// clients find nobody meanwhile; where a service manager holds our sockets they wait there, and the sessions that we have can
    /// end by themselves.
    pub linger: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(7210),
            frame: Duration::from_secs(60),
            write: Duration::from_secs(60),
            judge: Duration::from_secs(200),
            progress: Duration::from_secs(8),
            drain: Duration::from_secs(30),
            linger: Duration::ZERO,
        }
    }
}

impl<J> Service<J> {
    /// The connections.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// A service that asks the judge that `judge` holds when a message begins, and spools bodies into `spool`. Of `limits`,
    /// `message_size`, `header_size` and `milter_connections` count; the last is for all listeners together.
    pub fn new(judge: Arc<ArcSwap<J>>, spool: Spool, limits: &Limits) -> Self {
        Self::bounded(judge, spool, message_limits(limits), limits.milter_connections)
    }

    /// As [`Self::new`], with bounds on one message and on the connections at a time.
    pub fn bounded(judge: Arc<ArcSwap<J>>, spool: Spool, limits: MessageLimits, connections: usize) -> Self {
        Self {
            judge,
            spool,
            limits: ArcSwap::from_pointee(limits),
            slots: Slots::new(connections),
            patience: Patience::default(),
            large_headers: Budget::new(LARGE_HEADERS),
        }
    }

    /// Other bounds, for connections and messages that begin from now on.
    pub fn set_limits(&self, limits: &Limits) {
        self.limits.store(Arc::new(message_limits(limits)));
        self.slots.set(limits.milter_connections);
    }

    /// The same service with other waiting times.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }
}

fn message_limits(limits: &Limits) -> MessageLimits {
    MessageLimits { message_size: limits.message_size, header_size: limits.header_size }
}
