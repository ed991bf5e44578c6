//! Reconciles Postfix's log with ours, and with the sandbox's tickets: what became of every message that Postfix accepted for a
//! support address.
//!
//! In: log lines, in the order of each file, ours before Postfix's where they are apart. Out: a [`Report`]: how many were relayed,
//! wait, bounced and so on; which are *lost* (accepted and nowhere); which are *doubled* (taken twice by the endpoint), and why.
//! It reads no file and no configuration, believes no line to be well-formed, and keeps a bounded amount about the messages that
//! concern it, nothing about others once they are gone from the queue.
//!
//! The queue id joins the two logs. Short queue ids are used again, so the Message-ID decides where both logs have one. A log says
//! less than happened where it was rotated away or cut; then the report says that it cannot know, and never that mail is lost.

mod conclude;
pub(crate) mod ledger;
pub(crate) mod line;
mod observed;
pub(crate) mod own;
pub(crate) mod postfix;
pub(crate) mod report;
mod tickets;

pub use line::{Clock, parse_time};
pub use observed::{Connector as ObservedConnector, Count, Observation, Observed};
pub use report::{Doubled, Report, Trouble};
pub use tickets::Tickets;

use time::OffsetDateTime;

use ledger::Ledger;

/// Messages kept in mind at most; a log with more needs a shorter time.
pub const MESSAGES_MAX: usize = 1_000_000;

/// What is to be looked at.
pub struct Scope {
    /// Messages accepted before this are not looked at.
    pub since: OffsetDateTime,
    /// Nor those accepted after this; what became of the others later still counts.
    pub until: Option<OffsetDateTime>,
    /// Whether an address, without angle brackets, is a support address.
    pub supports: Box<dyn Fn(&str) -> bool>,
    /// Names of the connectors' LMTP sockets (`acme.sock`). Empty: any LMTP socket in the file system is one.
    pub sockets: Vec<String>,
}

/// An audit under way.
pub struct Audit {
    scope: Scope,
    clock: Clock,
    ledger: Ledger,
    understood: u64,
}

/// The log has more messages than can be kept in mind ([`MESSAGES_MAX`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MESSAGES_MAX} messages; choose a shorter time by --since and --until")]
pub struct TooMany;

impl Audit {
    /// An audit that has read nothing yet.
    pub fn new(scope: Scope, clock: Clock) -> Self {
        Self { scope, clock, ledger: Ledger::default(), understood: 0 }
    }

    /// Takes the next line of either log.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn line(&mut self, line: &str) -> Result<(), TooMany> {
        let line = line::as_text(line);
        let Some(line) = line::Line::parse(&line, &self.clock) else {
            self.ledger.not_understood += 1;
            return Ok(());
        };
        self.understood = self.understood.saturating_add(1);
        if line.at < self.scope.since {
            return Ok(());
        }
        if line.program == line::OWN {
            if let Some(event) = own::Event::parse(line.text) {
                self.ledger.own(line.at, event, &self.scope);
            } else {
                self.ledger.own_line(line.at);
            }
        } else if let Some(agent) = postfix::agent(line.program) {
            self.ledger.postfix_line(line.at);
            if let Some((id, event)) = postfix::Event::parse(agent, line.text) {
                self.ledger.postfix(line.at, agent, id, event, &self.scope);
            }
        }
        if self.ledger.len() > MESSAGES_MAX { Err(TooMany) } else { Ok(()) }
    }

    /// Whether what was read is no log at all: there were lines, and none of a known format.
    pub fn is_nonsense(&self) -> bool {
        self.understood == 0 && self.ledger.not_understood > 0
    }

    /// What became of the messages; `tickets` are those of a sandbox, where its store was given.
    pub fn report(self, tickets: Option<&Tickets>) -> Report {
        conclude::conclude(self.ledger, &self.scope, tickets)
    }
}

#[cfg(test)]
mod tests;
