//! What is told in the end.

use std::fmt;

use crate::harmless::harmless;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Messages of a kind that are listed for people; programs get all.
const LISTED_MAX: usize = 100;

/// What became of the messages that Postfix accepted for support addresses in the time that was looked at.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// From then on.
    pub since: String,
    /// All of them.
    pub messages: u64,
    /// Taken by the endpoint.
    pub relayed: u64,
    /// Of these, taken while they were arriving (inline relay).
    pub relayed_inline: u64,
    /// Still in Postfix's queue, as far as its log goes.
    pub queued: u64,
    /// Their senders were told.
    pub bounced: u64,
    /// Refused by the endpoint, and handed to the mailbox of `rejected_to`.
    pub handed_to_rejected_to: u64,
    /// Delivered by Postfix, but not to deskmilter.
    pub elsewhere: u64,
    /// Removed from the queue by hand (postsuper -d).
    pub deleted: u64,
    /// The logs do not reach far enough.
    pub unknown: u64,
    /// Accepted and nowhere.
    pub lost: Vec<Trouble>,
    /// Taken twice by the endpoint.
    pub doubled: Vec<Doubled>,
    /// Relayed after a broken connection: the endpoint may have them twice, and no log can tell.
    pub may_be_doubled: u64,
    /// Refused for good while they were arriving: their clients were told.
    pub refused_at_smtp: u64,
    /// Put off while they were arriving: their clients come again.
    pub put_off_at_smtp: u64,
    /// What else a postmaster should look at: messages delivered elsewhere.
    pub look_at: Vec<Trouble>,
    /// What cannot be known, and why.
    pub notes: Vec<String>,
}

/// A message that is not where it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// When it arrived.
    pub time: String,
    /// Postfix's queue id.
    pub queue_id: String,
    /// Without brackets.
    pub message_id: String,
    /// The support address.
    pub to: String,
    /// Why.
    pub reason: String,
}

/// A message that the endpoint has more than once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doubled {
    /// Without brackets.
    pub message_id: String,
    /// The sender.
    pub from: String,
    /// The support address.
    pub to: String,
    /// How often the endpoint has it.
    pub times: u64,
    /// The queue ids under which Postfix handed it over.
    pub queue_ids: Vec<String>,
    /// Why.
    pub reason: String,
}

impl Report {
    /// Whether nothing is lost.
    pub fn is_good(&self) -> bool {
        self.lost.is_empty()
    }
}

/// A time as the report shows it.
pub(super) fn instant(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} messages accepted by Postfix for support addresses since {}", self.messages, self.since)?;
        for (count, what) in [
            (self.relayed, "relayed to the ticket system"),
            (self.relayed_inline, "  of these while they arrived (inline)"),
            (self.queued, "still in the queue"),
            (self.bounced, "bounced: their senders know"),
            (self.handed_to_rejected_to, "refused by the ticket system, handed to rejected_to"),
            (self.elsewhere, "delivered elsewhere by Postfix"),
            (self.deleted, "deleted from the queue by hand"),
            (self.unknown, "cannot be known: see below"),
        ] {
            if count > 0 {
                writeln!(f, "{count:>10}  {what}")?;
            }
        }
        writeln!(f, "{:>10}  lost", self.lost.len())?;
        writeln!(f, "{:>10}  taken twice by the ticket system", self.doubled.len())?;
        if self.may_be_doubled > 0 {
            let more = "relayed after a broken connection: may be there twice";
            writeln!(f, "{:>10}  {more}", self.may_be_doubled)?;
        }
        let (refused, put_off) = (self.refused_at_smtp, self.put_off_at_smtp);
        if refused + put_off > 0 {
            writeln!(f, "besides, while they arrived: {refused} refused, {put_off} put off; their clients know")?;
        }
        list(f, "lost", &self.lost, Trouble::told)?;
        list(f, "taken twice", &self.doubled, Doubled::told)?;
        list(f, "delivered elsewhere", &self.look_at, Trouble::told)?;
        for note in &self.notes {
            writeln!(f, "note: {}", harmless(note))?;
        }
        Ok(())
    }
}

impl Trouble {
    fn told(&self) -> String {
        format!("{} {} <{}> to {}: {}", self.time, self.queue_id, self.message_id, self.to, self.reason)
    }
}

impl Doubled {
    fn told(&self) -> String {
        let Self { message_id, from, to, times, queue_ids, reason } = self;
        format!("{} <{message_id}> from <{from}> to {to}, {times} times: {reason}", queue_ids.join(" "))
    }
}

fn list<T>(f: &mut fmt::Formatter<'_>, what: &str, all: &[T], told: fn(&T) -> String) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    writeln!(f, "{what}:")?;
    for one in all.iter().take(LISTED_MAX) {
        writeln!(f, "  {}", harmless(&told(one)))?;
    }
    match all.len().saturating_sub(LISTED_MAX) {
        0 => Ok(()),
        more => writeln!(f, "  and {more} more; --json has them all"),
    }
}
