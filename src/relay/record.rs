//! The one log line of a message: all that a postmaster needs to find it again on both sides.

use std::time::Duration;

use super::Trace;
use crate::mail::{Path, Reply};

/// Characters of a Message-ID shown at most; a sender may have put anything there.
const MESSAGE_ID_MAX: usize = 200;
/// Replies shown at most when they differ.
const REPLIES_MAX: usize = 20;

/// What is told of a message.
#[derive(Debug)]
pub struct Record<'a> {
    /// The connector.
    pub connector: &'a str,
    /// The MTA's queue id.
    pub queue_id: Option<&'a str>,
    /// The Message-ID.
    pub message_id: Option<&'a str>,
    /// The reverse-path.
    pub sender: &'a Path,
    /// The forward-paths.
    pub recipients: &'a [Path],
    /// Octets of the message.
    pub size: u64,
    /// The auth status of its sender.
    pub auth: Option<&'a str>,
    /// The way it took.
    pub trace: &'a Trace,
    /// One reply per recipient, in order.
    pub replies: &'a [Reply],
    /// How long it took.
    pub delay: Duration,
    /// What else there is to say of it: `inline`, `journal`.
    pub note: Option<&'a str>,
    /// Where it was handed instead, because the endpoint refused it.
    pub rejected_to: Option<&'a str>,
}

impl Record<'_> {
    /// Writes the line.
    pub fn write(&self) {
        let known = |text: Option<&str>| text.unwrap_or("-").to_owned();
        tracing::info!(
            queue_id = known(self.queue_id),
            decision = decision(self.replies),
            message_id = known(self.message_id).chars().take(MESSAGE_ID_MAX).collect::<String>(),
            connector = self.connector,
            from = %self.sender,
            to = self.recipients.iter().map(Path::to_string).collect::<Vec<_>>().join(","),
            size = self.size,
            auth = known(self.auth),
            remote = known(self.trace.remote.as_deref()),
            system = self.trace.system.as_deref(),
            status = self.trace.status.as_deref(),
            tls = known(self.trace.tls.as_deref()),
            credential = known(self.trace.credential.as_deref()),
            reply = reply(self.recipients, self.replies),
            note = self.note,
            rejected_to = self.rejected_to,
            delay_ms = u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX),
            "relay"
        );
    }
}

/// `relayed`, `deferred` or `refused` when it holds for all recipients, otherwise `mixed`.
fn decision(replies: &[Reply]) -> &'static str {
    let of = |reply: &Reply| match reply {
        reply if reply.is_success() => "relayed",
        reply if reply.is_permanent() => "refused",
        _ => "deferred",
    };
    match replies.split_first() {
        Some((first, others)) if others.iter().all(|other| of(other) == of(first)) => of(first),
        Some(_) => "mixed",
        None => "deferred",
    }
}

/// The reply when all recipients got the same, otherwise each with its own.
fn reply(recipients: &[Path], replies: &[Reply]) -> String {
    match replies.split_first() {
        Some((first, others)) if others.iter().all(|other| other == first) => first.to_string(),
        _ => {
            let each = recipients.iter().zip(replies).take(REPLIES_MAX).map(|(to, reply)| format!("{to} {reply}"));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decision_is_that_of_all_recipients_or_mixed() {
        let (good, later, bad) =
            (Reply::new(250, 0, 0, "ok"), Reply::new(451, 3, 0, "later"), Reply::new(550, 1, 1, "no"));
        assert_eq!(decision(&[good.clone(), good.clone()]), "relayed");
        assert_eq!(decision(std::slice::from_ref(&later)), "deferred");
        assert_eq!(decision(std::slice::from_ref(&bad)), "refused");
        assert_eq!(decision(&[good.clone(), bad.clone()]), "mixed");
        let to = [Path::parse(b"<a@x.example>").unwrap(), Path::parse(b"<b@x.example>").unwrap()];
        assert_eq!(reply(&to, &[good.clone(), good.clone()]), "250 2.0.0 ok");
        assert_eq!(reply(&to, &[good, bad]), "<a@x.example> 250 2.0.0 ok; <b@x.example> 550 5.1.1 no");
    }
}
