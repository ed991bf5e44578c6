//! One message on its way to one endpoint, before the MTA's queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::journal::{BodyDigest, Claim, Key, Known, MessageDigest};
use super::outcome::{Fate, Outcome};
use super::{Route, Standing, seconds_since_1970};
use crate::mail::{Header, Mail, Path, Reply};
use crate::pipeline::{Pipeline, is_authenticated};
use crate::relay::{Delivery, HandBack, Record, Trace};

/// All that is needed for it.
pub(super) struct HandOver {
    pub(super) route: Arc<Route>,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) standing: Arc<Standing>,
    /// Messages relayed at a time, at most.
    pub(super) most: usize,
    pub(super) time_left: Duration,
    pub(super) complete: Instant,
}

/// A recipient with what the journal knows.
struct Recipient {
    path: Path,
    key: Option<Key>,
    /// The journal says that the endpoint has it.
    taken: bool,
    /// Keeps others off while we are at it.
    _claim: Option<Claim>,
}

impl HandOver {
    /// Makes the message ready as the transport would, asks the journal, relays what it does not know, and remembers what was
    /// taken. `mail` has the recipients of this route alone. Writes the log line.
    pub(super) async fn run(self, mut mail: Mail) -> Vec<Outcome> {
        let all = mail.envelope.recipients.clone();
        let (auth, delivery, journal) = match self.pipeline.hand_over(&self.route.connector, &mut mail).await {
            Err(reply) => {
                let reply = match &self.route.rejected_to {
                    Some(_) => HandBack::keep_what_came_back(&mail, reply),
                    None => reply,
                };
                (None, Delivery { replies: vec![reply; all.len()], trace: Trace::default() }, false)
            }
            Ok(auth) => {
                let (delivery, journal) = self.relay(&mut mail, &auth).await;
                (Some(auth), delivery, journal)
            }
        };
        let proven = auth.as_deref().is_some_and(is_authenticated);
        // Not for what we refused ourselves: a loop must end.
        let rejected_to = self.route.rejected_to.as_ref().filter(|_| !proven && auth.is_some());
        let outcomes: Vec<Outcome> = all
            .iter()
            .zip(&delivery.replies)
            .map(|(to, reply)| Outcome {
                to: to.clone(),
                connector: self.route.connector.name.clone(),
                fate: match rejected_to {
                    _ if reply.is_success() => Fate::Taken { keep_copy: self.route.keep_copy },
                    Some(mailbox) if reply.is_permanent() => Fate::HandedBack {
                        reply: reply.clone(),
                        mailbox: mailbox.clone(),
                        keep_copy: self.route.keep_copy,
                    },
                    _ => Fate::Refused(reply.clone()),
                },
            })
            .collect();
        let handed_back = outcomes.iter().any(|outcome| matches!(outcome.fate, Fate::HandedBack { .. }));
        Record {
            connector: &self.route.connector.name,
            queue_id: mail.queue_id.as_deref(),
            message_id: mail.headers.first("Message-ID").map(Header::text).as_deref(),
            sender: &mail.envelope.sender,
            recipients: &all,
            size: mail.size(),
            auth: auth.as_deref(),
            trace: &delivery.trace,
            replies: &delivery.replies,
            delay: self.complete.elapsed(),
            note: Some(if journal { "inline, taken before" } else { "inline" }),
            rejected_to: rejected_to.filter(|_| handed_back).map(Path::as_str),
        }
        .write();
        outcomes
    }

    /// One reply per recipient, and whether the journal had one of them.
    async fn relay(&self, mail: &mut Mail, auth: &str) -> (Delivery, bool) {
        let all = std::mem::take(&mut mail.envelope.recipients);
        let recipients = match self.known(mail, &all, auth).await {
            Ok(recipients) => recipients,
            Err(reply) => {
                mail.envelope.recipients = all;
                return (self.refused(mail, &reply), false);
            }
        };
        let hit = recipients.iter().any(|recipient| recipient.taken);
        let new = recipients.iter().filter(|recipient| !recipient.taken);
        mail.envelope.recipients = new.map(|recipient| recipient.path.clone()).collect();
        let fresh = self.send(mail, &recipients).await;
        let mut replies = fresh.replies.into_iter();
        let replies = recipients.iter().map(|recipient| match recipient.taken {
            true => Reply::new(250, 0, 0, "taken before: the journal knows it"),
            false => replies.next().unwrap_or_else(|| Reply::new(451, 3, 0, "no reply for this recipient")),
        });
        let replies = replies.collect();
        mail.envelope.recipients = all;
        (Delivery { replies, trace: fresh.trace }, hit)
    }

    /// What the journal knows of each recipient. Those that it does not know are ours alone until the claims are dropped.
    async fn known(&self, mail: &Mail, all: &[Path], auth: &str) -> Result<Vec<Recipient>, Reply> {
        let body = match BodyDigest::of(&mail.body).await {
            Ok(digest) => digest,
            Err(error) => {
                tracing::error!(queue_id = mail.queue_id, %error, "the body cannot be read back from the spool");
                return Err(Reply::new(451, 3, 0, "local trouble, this message cannot be read; try again later"));
            }
        };
        let status = auth.split(';').next().unwrap_or_default();
        let (connector, endpoint) = (&self.route.connector.name, &self.route.place);
        let now = seconds_since_1970();
        let message = MessageDigest::of(&mail.headers, &body);
        let mut recipients = Vec::with_capacity(all.len());
        for path in all {
            let key = message
                .as_ref()
                .and_then(|message| Key::of([connector, endpoint, status], &mail.envelope.sender, path, message));
            let known = key.map(|key| self.standing.journal.look_up(key, now));
            let (taken, claim) = match known {
                None => (false, None),
                Some(Known::Taken) => (true, None),
                Some(Known::New(claim)) => (false, Some(claim)),
                Some(Known::UnderWay) => {
                    let text = "this very message is being relayed at this moment; try again later";
                    return Err(Reply::new(451, 3, 2, text));
                }
            };
            recipients.push(Recipient { path: path.clone(), key, taken, _claim: claim });
        }
        Ok(recipients)
    }

    /// Hands the message to the endpoint for the recipients in its envelope, and remembers those that were taken.
    async fn send(&self, mail: &Mail, recipients: &[Recipient]) -> Delivery {
        if mail.envelope.recipients.is_empty() {
            return Delivery { replies: Vec::new(), trace: Trace::default() };
        }
        let Some(_slot) = self.standing.slot(self.most) else {
            let text = format!("{} messages are being relayed, the limit here; try again later", self.most);
            return self.refused(mail, &Reply::new(451, 3, 2, text));
        };
        if let Err(reply) = self.route.breaker.admit(Instant::now()) {
            return self.refused(mail, &reply);
        }
        let delivery = self.route.relay.send_within(mail, self.time_left).await;
        // Where nobody was contacted, because all connections were in use, nothing is known of the endpoint.
        if delivery.trace.broken || delivery.trace.remote.is_some() {
            self.route.breaker.report(delivery.trace.broken, Instant::now());
        }
        let asked = recipients.iter().filter(|recipient| !recipient.taken);
        let taken = asked.zip(&delivery.replies).filter(|(_, reply)| reply.is_success());
        let keys = taken.filter_map(|(recipient, _)| recipient.key).collect();
        self.standing.journal.remember(keys, seconds_since_1970()).await;
        delivery
    }

    fn refused(&self, mail: &Mail, reply: &Reply) -> Delivery {
        Delivery { replies: vec![reply.clone(); mail.envelope.recipients.len()], trace: Trace::default() }
    }
}
