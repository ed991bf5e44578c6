//! Hands mail into a ticket system that takes none by SMTP: to a program, or by HTTP.
//!
//! In: a [`Mail`] for support addresses of one connector and what `[connector.delivery]` says. Out: a reply for each recipient.
//! 250 is said only after the system's own success; its own refusal of a message, as it documents it, is a 5xx; everything else
//! that can happen is a 4xx, so that the MTA that called keeps the message. Not one octet of a message changes but its line endings.
//! Knows nothing of LMTP, verdicts or credentials of companies.
//!
//! [`TicketSystem::deliver`] is the story: who gets it by which way, a slot, then a `pipe` (whose exit status `sysexits` reads) or
//! a `post` (`proof`, `form`, `connect`, and the `answer` judged). `octets` gives the message block by block.

mod answer;
mod connect;
mod destination;
mod form;
mod jwt;
mod octets;
mod outcome;
mod pipe;
mod post;
mod proof;
mod sysexits;

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::config::{Connector, Delivery as Section, DeliveryWay};
use crate::mail::{Headers, Mail, Path, Reply};
use crate::relay::{Authorities, Delivery, RelayError, Trace};
use destination::Destination;
use outcome::Outcome;

/// Delivered-To fields that name one of the recipients, at most: the company's MTA and ours may each have written one.
const DELIVERED_TO_MAX: usize = 3;

/// The way into one ticket system.
#[derive(Debug)]
pub struct TicketSystem {
    connector: Arc<Connector>,
    section: Section,
    /// Whom to trust, where it is reached over TLS.
    tls: Option<Arc<ClientConfig>>,
    slots: Semaphore,
}

impl TicketSystem {
    /// Checks the way (CA file) without contacting anyone or running anything.
    ///
    /// # Errors
    /// Names the object and the remedy.
    pub fn new(
        connector: &Arc<Connector>,
        section: &Section,
        authorities: &mut Authorities,
    ) -> Result<Self, RelayError> {
        let tls =
            section.trusts().map(|file| authorities.trusted(file.map(std::path::PathBuf::as_path))).transpose()?;
        let slots = Semaphore::new(section.concurrency.clamp(1, Semaphore::MAX_PERMITS));
        Ok(Self { connector: Arc::clone(connector), section: section.clone(), tls, slots })
    }

    /// Hands the message over, once for all recipients that go the same way. Never waits longer than `deadline` says.
    ///
    /// What was handed over and not answered is a 4xx: the message may arrive twice, but is never lost.
    pub async fn deliver(&self, mail: &Mail, hops: usize) -> Delivery {
        let recipients = &mail.envelope.recipients;
        let mut trace = Trace {
            system: Some(self.section.name().to_owned()),
            remote: Some(self.section.to_string()),
            ..Trace::default()
        };
        if let Some(reply) = looped(&mail.headers, recipients, hops) {
            return Delivery { replies: vec![reply; recipients.len()], trace };
        }
        let until = Instant::now().checked_add(self.section.deadline).unwrap_or_else(Instant::now);
        let mut replies: Vec<Option<Reply>> = vec![None; recipients.len()];
        let mut statuses: Vec<String> = Vec::new();
        for destination in Destination::all(&self.connector, &self.section, &mail.envelope) {
            let outcome = self.hand_over(mail, &destination, until).await;
            self.log(mail, &outcome);
            for index in destination.recipients {
                if let Some(place) = replies.get_mut(index) {
                    *place = Some(outcome.reply.clone());
                }
            }
            trace.tls = outcome.tls.or(trace.tls);
            if !statuses.contains(&outcome.status) {
                statuses.push(outcome.status);
            }
        }
        trace.status = Some(statuses.join(", "));
        let missing = || Reply::new(451, 3, 0, "not handed over");
        Delivery { replies: replies.into_iter().map(|reply| reply.unwrap_or_else(missing)).collect(), trace }
    }

    async fn hand_over(&self, mail: &Mail, destination: &Destination<'_>, until: Instant) -> Outcome {
        let name = self.section.name();
        // The semaphore is never closed.
        let Ok(Ok(_slot)) = timeout_at(until, self.slots.acquire()).await else {
            let text = format!("{name}: timed out (waiting for its turn; concurrency = {})", self.section.concurrency);
            return Outcome::later((3, 2), text, "-");
        };
        match &self.section.way {
            DeliveryWay::Command(words) => {
                pipe::run(name, words, &destination.environment, mail, self.section.line_ending, until).await
            }
            DeliveryWay::Post(post) => {
                let ending = self.section.line_ending;
                let request = post::Request { name, post, preset: self.section.preset, target: destination.target };
                request.send(mail, ending, self.tls.as_ref(), until).await
            }
        }
    }

    /// One line more than that of the message, where somebody should look.
    fn log(&self, mail: &Mail, outcome: &Outcome) {
        let Outcome { reply, status, trouble, .. } = outcome;
        let (connector, queue_id) = (&self.connector.name, mail.queue_id.as_deref().unwrap_or("-"));
        let (system, way) = (self.section.name(), &self.section);
        match trouble {
            None => {}
            Some(outcome::Trouble::Passing) => {
                tracing::warn!(connector, queue_id, system, %way, status, %reply, "ticket system: cannot hand over now");
            }
            Some(outcome::Trouble::Lasting) => {
                tracing::error!(connector, queue_id, system, %way, status, %reply, "ticket system: cannot hand over");
            }
        }
    }
}

/// Refuses a message that goes round in circles (RFC 5321 section 6.3). We add no field of our own, which could tell: what counts
/// are the MTAs' own.
fn looped(headers: &Headers, recipients: &[Path], limit: usize) -> Option<Reply> {
    let hops = headers.named("Received").count();
    if hops > limit {
        return Some(Reply::new(554, 4, 6, format!("mail loop: {hops} Received fields, {limit} are allowed")));
    }
    let delivered: Vec<String> = headers.named("Delivered-To").map(crate::mail::Header::text).collect();
    let again = recipients.iter().find(|recipient| {
        let name = recipient.to_string();
        let name = name.trim_start_matches('<').trim_end_matches('>');
        delivered.iter().filter(|text| text.eq_ignore_ascii_case(name)).count() > DELIVERED_TO_MAX
    });
    again.map(|recipient| {
        let text = format!("mail loop: delivered to {recipient} more than {DELIVERED_TO_MAX} times before");
        Reply::new(554, 4, 6, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Header;

    fn headers(name: &str, value: &str, count: usize) -> Headers {
        Headers::new((0..count).map(|_| Header::written(name, value)).collect())
    }

    #[test]
    fn a_message_that_came_round_too_often_is_refused() {
        let to = [Path::parse(b"<Support@acme.example>").unwrap()];
        assert_eq!(looped(&headers("Received", "by x", 50), &to, 50), None);
        assert_eq!(looped(&headers("Received", "by x", 51), &to, 50).map(|reply| reply.code()), Some(554));
        assert_eq!(looped(&headers("Delivered-To", "support@acme.example", 3), &to, 50), None);
        assert_eq!(looped(&headers("Delivered-To", "other@acme.example", 9), &to, 50), None);
        let reply = looped(&headers("Delivered-To", "support@acme.example", 4), &to, 50).unwrap();
        assert!(reply.to_string().starts_with("554 5.4.6 mail loop"), "{reply}");
    }
}
