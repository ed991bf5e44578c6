//! What the logs have said so far of each message.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::Scope;
use super::own::{self, Outcome, Relay};
use super::postfix::Event;

/// Characters of a Message-ID that count: our log cuts it, Postfix's does not.
const MESSAGE_ID_MAX: usize = 190;
/// Instants kept of one kind for a message; more only say the same again.
const TIMES_MAX: usize = 8;
/// Recipients kept of a message.
const RECIPIENTS_MAX: usize = 1_000;
/// Starts of deskmilter kept.
const STARTS_MAX: usize = 100_000;

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Messages under way, by queue id.
    open: HashMap<Box<str>, Message>,
    /// Messages that concern us and are gone from the queue.
    pub(super) done: Vec<Message>,
    /// What we did with the messages of a queue id, which may have been several.
    pub(super) own: HashMap<Box<str>, Vec<Own>>,
    own_count: usize,
    /// Starts after an end that nobody asked for: kill -9, a crash.
    pub(super) unclean_starts: Vec<OffsetDateTime>,
    running: bool,
    pub(super) own_span: Option<(OffsetDateTime, OffsetDateTime)>,
    pub(super) postfix_span: Option<(OffsetDateTime, OffsetDateTime)>,
    /// Recipients refused for good, and put off, while the message was arriving.
    pub(super) refused: u64,
    pub(super) put_off: u64,
    pub(super) not_understood: u64,
}

/// A message in Postfix's queue.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) queue_id: Box<str>,
    /// When it arrived; `None` when that is not in the log.
    pub(super) arrived: Option<OffsetDateTime>,
    pub(super) message_id: Option<Box<str>>,
    /// Recipients when the queue manager first saw it: it was accepted.
    pub(super) accepted: Option<u32>,
    /// The last that was said of each recipient, under the name that concerns us.
    pub(super) deliveries: Vec<Delivery>,
    pub(super) expired: bool,
    pub(super) end: Option<End>,
    /// When a connection broke so that it may come twice.
    pub(super) cut: Vec<OffsetDateTime>,
}

#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) recipient: Box<str>,
    pub(super) status: Status,
    pub(super) ours: bool,
    pub(super) relay: Box<str>,
    pub(super) at: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Sent,
    Deferred,
    Bounced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Removed,
    /// With postsuper -d.
    Deleted,
    Requeued,
    Refused,
}

/// What we did with a message.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) message_id: Option<Box<str>>,
    pub(super) sender: Box<str>,
    pub(super) recipients: Vec<OwnRecipient>,
    /// When the endpoint was cut off before its reply.
    pub(super) unknown: Vec<OffsetDateTime>,
    /// It had more recipients than a line of our log shows.
    pub(super) cut: bool,
    pub(super) inline: bool,
}

#[derive(Debug)]
pub(super) struct OwnRecipient {
    pub(super) name: Box<str>,
    /// `None`: judged, not relayed.
    pub(super) last: Option<Outcome>,
    /// When the endpoint took it.
    pub(super) taken: Vec<OffsetDateTime>,
}

impl Ledger {
    /// Messages kept in mind.
    pub(super) fn len(&self) -> usize {
        self.open.len().saturating_add(self.done.len()).saturating_add(self.own_count)
    }

    pub(super) fn own_line(&mut self, at: OffsetDateTime) {
        stretch(&mut self.own_span, at);
    }

    pub(super) fn postfix_line(&mut self, at: OffsetDateTime) {
        stretch(&mut self.postfix_span, at);
    }

    pub(super) fn own(&mut self, at: OffsetDateTime, event: own::Event, scope: &Scope) {
        self.own_line(at);
        match event {
            own::Event::Started => {
                if self.running && self.unclean_starts.len() < STARTS_MAX {
                    self.unclean_starts.push(at);
                }
                self.running = true;
            }
            own::Event::Stopped => self.running = false,
            own::Event::Judged { id, message_id, recipients } => {
                let supported: Vec<String> = recipients.into_iter().filter(|name| (scope.supports)(name)).collect();
                let Some(own) = self.own_entry(id, message_id, !supported.is_empty()) else { return };
                for name in &supported {
                    own.recipient(name);
                }
            }
            own::Event::Relay(relay) => self.relay(at, relay),
        }
    }

    fn relay(&mut self, at: OffsetDateTime, relay: Relay) {
        let Some(own) = self.own_entry(relay.id, relay.message_id, true) else { return };
        own.sender = relay.sender.into();
        own.inline |= relay.inline;
        own.cut |= relay.cut;
        if relay.unknown {
            note(&mut own.unknown, at);
        }
        for (name, outcome) in relay.recipients {
            let Some(recipient) = own.recipient(&name) else { continue };
            recipient.last = Some(outcome);
            if outcome == Outcome::Taken {
                note(&mut recipient.taken, at);
            }
        }
    }

    /// The entry of a message; a new one only where `wanted`.
    fn own_entry(&mut self, id: Option<String>, message_id: Option<String>, wanted: bool) -> Option<&mut Own> {
        let id = id?;
        let message_id = message_id.as_deref().map(normal_id);
        let found = self
            .own
            .get(id.as_str())
            .and_then(|all| all.iter().position(|own| same_id(own.message_id.as_deref(), message_id.as_deref())));
        if found.is_none() && !wanted {
            return None;
        }
        let all = self.own.entry(id.into()).or_default();
        let index = found.unwrap_or_else(|| {
            self.own_count = self.own_count.saturating_add(1);
            all.push(Own { message_id, ..Own::default() });
            all.len() - 1
        });
        all.get_mut(index)
    }

    pub(super) fn postfix(&mut self, at: OffsetDateTime, agent: &str, id: &str, event: Event<'_>, scope: &Scope) {
        if id == "NOQUEUE" {
            if let Event::Refused { to: Some(to), for_good, .. } = event {
                self.count_refusal(to, for_good, scope);
            }
            return;
        }
        // The id of a message that is gone, used again: pickup and cleanup tell of new messages alone.
        let message =
            self.open.entry(id.into()).or_insert_with(|| Message { queue_id: id.into(), ..Message::default() });
        if event.may_be_doubled() {
            note(&mut message.cut, at);
        }
        match event {
            Event::Arrives => message.arrived = Some(message.arrived.unwrap_or(at)),
            Event::MessageId(text) => {
                message.arrived = Some(message.arrived.unwrap_or(at));
                message.message_id = Some(normal_id(text)).filter(|id| !id.is_empty());
            }
            Event::Queued { recipients, .. } => message.accepted = Some(message.accepted.unwrap_or(recipients)),
            Event::Delivery { to, orig_to, relay, status, .. } => {
                message.delivery(at, agent, (to, orig_to), relay, status, scope);
            }
            Event::Expired => message.expired = true,
            Event::Refused { to, for_good, text } => {
                if let Some(to) = to {
                    self.count_refusal(to, for_good, scope);
                }
                // A refused recipient leaves the others; at the end of the message all is over.
                if text.starts_with("END-OF-MESSAGE ") {
                    self.end(id, End::Refused, scope);
                }
            }
            Event::Removed => self.end(id, if agent == "postsuper" { End::Deleted } else { End::Removed }, scope),
            Event::Requeued => self.end(id, End::Requeued, scope),
        }
    }

    fn count_refusal(&mut self, to: &str, for_good: bool, scope: &Scope) {
        if (scope.supports)(to) {
            let count = if for_good { &mut self.refused } else { &mut self.put_off };
            *count = count.saturating_add(1);
        }
    }

    fn end(&mut self, id: &str, end: End, scope: &Scope) {
        let Some(mut message) = self.open.remove(id) else { return };
        message.end = Some(end);
        // Nobody to deliver to: what the milter does when it has relayed. Our line on it may come after this one.
        let without_recipients = message.accepted == Some(0);
        let concerns = !message.deliveries.is_empty() || self.own.contains_key(id) || without_recipients;
        let matters = end != End::Refused || !message.cut.is_empty();
        if concerns && matters && !is_late(&message, scope) {
            self.done.push(message);
        }
    }

    /// All messages with anything known of them, those still under way at last.
    pub(super) fn take_messages(&mut self) -> Vec<Message> {
        let mut messages = std::mem::take(&mut self.done);
        messages.extend(self.open.drain().map(|(_, message)| message));
        messages
    }
}

/// Arrived after the time that is looked at.
pub(super) fn is_late(message: &Message, scope: &Scope) -> bool {
    message.arrived.zip(scope.until).is_some_and(|(arrived, until)| arrived > until)
}

impl Message {
    fn delivery(
        &mut self,
        at: OffsetDateTime,
        agent: &str,
        (to, orig_to): (&str, Option<&str>),
        relay: &str,
        status: &str,
        scope: &Scope,
    ) {
        let Some(name) = [Some(to), orig_to].into_iter().flatten().find(|name| (scope.supports)(name)) else { return };
        let status = match status {
            "sent" => Status::Sent,
            "bounced" | "expired" => Status::Bounced,
            "deferred" => Status::Deferred,
            // Address verification: no message.
            _ => return,
        };
        let recipient = normal(name);
        let delivery =
            Delivery { recipient, status, ours: is_our_socket(agent, relay, scope), relay: relay.into(), at };
        let room = self.deliveries.len() < RECIPIENTS_MAX;
        match self.deliveries.iter_mut().find(|known| known.recipient == delivery.recipient) {
            // What came by two ways and was delivered by ours is delivered.
            Some(known) if known.status == Status::Sent && known.ours => {}
            Some(known) => *known = delivery,
            None if room => self.deliveries.push(delivery),
            None => {}
        }
    }
}

impl Own {
    /// Whether the endpoint has it, or may have it.
    pub(super) fn touched(&self) -> bool {
        !self.unknown.is_empty() || self.recipients.iter().any(|recipient| !recipient.taken.is_empty())
    }

    fn recipient(&mut self, name: &str) -> Option<&mut OwnRecipient> {
        let name = normal(name);
        let index = match self.recipients.iter().position(|known| known.name == name) {
            Some(index) => index,
            None if self.recipients.len() >= RECIPIENTS_MAX => return None,
            None => {
                self.recipients.push(OwnRecipient { name, last: None, taken: Vec::new() });
                self.recipients.len() - 1
            }
        };
        self.recipients.get_mut(index)
    }
}

/// `mx.acme.example[deskmilter/transport/acme.sock]`: Postfix shows the socket's path in brackets.
fn is_our_socket(agent: &str, relay: &str, scope: &Scope) -> bool {
    let place = relay.rsplit_once('[').and_then(|(_, rest)| rest.strip_suffix(']')).unwrap_or_default();
    let file = place.rsplit_once('/').map_or(place, |(_, file)| file);
    let named = scope.sockets.iter().any(|name| name == file);
    agent == "lmtp" && (named || scope.sockets.is_empty() && place.contains('/'))
}

fn stretch(span: &mut Option<(OffsetDateTime, OffsetDateTime)>, at: OffsetDateTime) {
    *span = Some(span.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
}

fn note(times: &mut Vec<OffsetDateTime>, at: OffsetDateTime) {
    if times.len() < TIMES_MAX {
        times.push(at);
    }
}

/// Two Message-IDs of one queue id mean one message unless both are known and differ.
pub(super) fn same_id(one: Option<&str>, other: Option<&str>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}

/// An address or Message-ID without its brackets.
pub(crate) fn name(text: &str) -> String {
    text.trim().trim_start_matches('<').trim_end_matches('>').to_owned()
}

fn normal(text: &str) -> Box<str> {
    name(text).to_lowercase().into()
}

/// A Message-ID as both logs and the tickets have it alike. What is no printable ASCII each of them shows in its own way, a folded line
/// too: a run of it is one `?`.
pub(crate) fn normal_id(text: &str) -> Box<str> {
    let inner = text.trim().trim_start_matches('<');
    let mut id = String::with_capacity(inner.len().min(MESSAGE_ID_MAX));
    for c in inner.chars() {
        let c = if c.is_ascii_graphic() { c } else { '?' };
        if id.len() >= MESSAGE_ID_MAX {
            break;
        }
        if c != '?' || !id.ends_with('?') {
            id.push(c);
        }
    }
    id.trim_end_matches('>').into()
}
