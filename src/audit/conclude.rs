//! From what the logs said to what became of each message.

use std::collections::{BTreeSet, HashMap, HashSet};

use time::{Duration, OffsetDateTime};

use super::ledger::{End, Ledger, Message, Own, OwnRecipient, Status, is_late, same_id};
use super::own::Outcome;
use super::report::{Doubled, Report, Trouble, instant};
use super::{Scope, Tickets};

/// How far the clocks and the granularity of two logs may be apart.
const SLACK: Duration = Duration::seconds(5);
/// A start of deskmilter later than this after a broken connection is not the reason for that.
const RESTART_WITHIN: Duration = Duration::hours(1);

/// Queue ids named of a message that came again and again.
const QUEUE_IDS_MAX: usize = 20;
/// Instants named of one reason.
const TIMES_MAX: usize = 8;

/// What became of a recipient; the later one is the worse one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Relayed,
    HandedBack,
    Deleted,
    Elsewhere(String),
    Bounced,
    Queued,
    Unknown,
    Lost(String),
}

/// Message-ID, sender, recipient.
type Key = (Box<str>, String, String);

pub(super) fn conclude(mut ledger: Ledger, scope: &Scope, tickets: Option<&Tickets>) -> Report {
    let messages = ledger.take_messages();
    let facts = Facts { ledger: &ledger, tickets };
    let mut report = Report { since: instant(scope.since), ..Report::default() };
    let mut earlier = 0_u64;
    for message in &messages {
        let own = facts.own(message);
        if message.accepted.is_none() && message.deliveries.is_empty() || message.end == Some(End::Requeued) {
            continue;
        }
        let concerned = concerned(message, own, scope);
        if concerned.is_empty() && !facts.vanished(message, own) {
            continue;
        }
        if message.arrived.is_none() {
            earlier = earlier.saturating_add(1);
        } else if !is_late(message, scope) {
            facts.count(message, own, &concerned, &mut report);
        }
    }
    report.doubled = facts.doubled(&messages);
    report.refused_at_smtp = ledger.refused;
    report.put_off_at_smtp = ledger.put_off;
    report.notes = notes(&ledger, scope, &report, earlier, tickets);
    report
}

struct Facts<'a> {
    ledger: &'a Ledger,
    tickets: Option<&'a Tickets>,
}

/// The support addresses that a message went to.
fn concerned(message: &Message, own: Option<&Own>, scope: &Scope) -> BTreeSet<Box<str>> {
    let delivered = message.deliveries.iter().map(|delivery| delivery.recipient.clone());
    let own = own.into_iter().flat_map(|own| own.recipients.iter().map(|recipient| recipient.name.clone()));
    delivered.chain(own.filter(|name| (scope.supports)(name))).collect()
}

impl Facts<'_> {
    fn own(&self, message: &Message) -> Option<&Own> {
        let all = self.ledger.own.get(&message.queue_id)?;
        all.iter().find(|own| same_id(own.message_id.as_deref(), message.message_id.as_deref()))
    }

    /// Whether our log reaches back to then.
    fn is_covered(&self, at: OffsetDateTime) -> bool {
        self.ledger.own_span.is_some_and(|(first, _)| first <= at + SLACK)
    }

    /// Accepted without recipients, by way of our milter, which alone takes them away, and yet not relayed.
    fn vanished(&self, message: &Message, own: Option<&Own>) -> bool {
        own.is_some() && message.accepted == Some(0) && message.end == Some(End::Removed)
    }

    fn count(&self, message: &Message, own: Option<&Own>, concerned: &BTreeSet<Box<str>>, report: &mut Report) {
        report.messages += 1;
        let mut worst = (Fate::Relayed, Box::<str>::default());
        for recipient in concerned {
            let fate = self.fate(message, own, recipient);
            if fate > worst.0 || worst.1.is_empty() {
                worst = (fate, recipient.clone());
            }
        }
        let (fate, to) = worst;
        let trouble = |reason: &str| Trouble {
            time: message.arrived.map(instant).unwrap_or_default(),
            queue_id: message.queue_id.to_string(),
            message_id: message.message_id.as_deref().unwrap_or("-").to_owned(),
            to: to.to_string(),
            reason: reason.to_owned(),
        };
        let cut = !message.cut.is_empty() || own.is_some_and(|own| !own.unknown.is_empty());
        let count = match fate {
            Fate::Relayed => {
                report.relayed_inline += u64::from(own.is_some_and(|own| own.inline));
                report.may_be_doubled += u64::from(cut && self.tickets.is_none());
                &mut report.relayed
            }
            Fate::HandedBack => &mut report.handed_to_rejected_to,
            Fate::Deleted => &mut report.deleted,
            Fate::Elsewhere(relay) => {
                report.look_at.push(trouble(&format!("relay={relay}")));
                &mut report.elsewhere
            }
            Fate::Bounced => &mut report.bounced,
            Fate::Queued => &mut report.queued,
            Fate::Unknown => &mut report.unknown,
            Fate::Lost(reason) => {
                report.lost.push(trouble(&reason));
                return;
            }
        };
        *count += 1;
    }

    fn fate(&self, message: &Message, own: Option<&Own>, to: &str) -> Fate {
        let ours = own.and_then(|own| own.recipients.iter().find(|known| &*known.name == to));
        let delivery = message.deliveries.iter().find(|delivery| &*delivery.recipient == to);
        let by_log = match (ours.and_then(|ours| ours.last), delivery) {
            (Some(Outcome::Taken | Outcome::TakenBefore), _) => Fate::Relayed,
            // Taken once, whatever a repeat was told.
            _ if ours.is_some_and(|ours| !ours.taken.is_empty()) => Fate::Relayed,
            (Some(Outcome::HandedBack), _) => Fate::HandedBack,
            (_, Some(delivery)) => match delivery.status {
                Status::Bounced => Fate::Bounced,
                Status::Deferred if message.expired => Fate::Bounced,
                Status::Deferred => self.undelivered(message),
                Status::Sent if !delivery.ours => Fate::Elsewhere(delivery.relay.to_string()),
                Status::Sent if !self.is_covered(delivery.at) => Fate::Unknown,
                Status::Sent if own.is_some_and(|own| own.cut) => Fate::Unknown,
                Status::Sent => Fate::Lost(format!(
                    "Postfix says at {} that {} took it, and deskmilter's log has nothing of that",
                    instant(delivery.at),
                    delivery.relay
                )),
            },
            (_, None) => self.undelivered(message),
        };
        self.by_tickets(by_log, message, own, to)
    }

    /// Nobody has taken it, or nobody says so.
    fn undelivered(&self, message: &Message) -> Fate {
        match message.end {
            None => Fate::Queued,
            Some(End::Deleted) => Fate::Deleted,
            Some(_) if message.expired => Fate::Bounced,
            Some(_) if !message.arrived.is_some_and(|at| self.is_covered(at)) => Fate::Unknown,
            Some(_) if message.accepted == Some(0) => Fate::Lost(
                "accepted without recipients, as after inline relay, and deskmilter's log does not say that it was relayed"
                    .to_owned(),
            ),
            Some(_) => Fate::Lost("removed from the queue, and no line says that anybody has it".to_owned()),
        }
    }

    /// The tickets decide where there are any.
    fn by_tickets(&self, fate: Fate, message: &Message, own: Option<&Own>, to: &str) -> Fate {
        let id = message.message_id.as_ref().or(own.and_then(|own| own.message_id.as_ref()));
        let (Some(tickets), Some(id)) = (self.tickets, id) else { return fate };
        let there = tickets.of(id).iter().any(|filed| filed.recipient == to);
        match fate {
            Fate::Relayed if !there => {
                Fate::Lost("the ticket system took it by deskmilter's log, and has no ticket of it".to_owned())
            }
            Fate::Lost(_) | Fate::Unknown if there => Fate::Relayed,
            fate => fate,
        }
    }

    /// What the endpoint has more than once, by our log or by the tickets.
    fn doubled(&self, messages: &[Message]) -> Vec<Doubled> {
        let mut handed: HashMap<Key, Handed<'_>> = HashMap::new();
        for (queue_id, own) in self.ledger.own.iter().flat_map(|(id, all)| all.iter().map(move |own| (id, own))) {
            let Some(message_id) = &own.message_id else { continue };
            for OwnRecipient { name, taken, .. } in &own.recipients {
                let key = (message_id.clone(), own.sender.to_string(), name.to_string());
                let handed = handed.entry(key).or_default();
                handed.taken.extend(taken);
                handed.own.push((queue_id, own));
            }
        }
        let by_id: HashMap<&str, Vec<&Message>> = messages.iter().fold(HashMap::new(), |mut by_id, message| {
            if let Some(id) = &message.message_id {
                by_id.entry(&**id).or_default().push(message);
            }
            by_id
        });
        let mut doubled: Vec<Doubled> = handed
            .iter()
            .filter_map(|((message_id, from, to), handed)| {
                let filed = self.tickets.map_or(&[][..], |tickets| tickets.of(message_id));
                let filed = filed.iter().find(|filed| filed.sender == *from && filed.recipient == *to);
                // A sandbox is its own judge; without one our log is all there is.
                let by_log = handed.taken.len() as u64;
                let times = filed.map_or(by_log, |filed| filed.times.max(by_log));
                if times < 2 {
                    return None;
                }
                let messages = by_id.get(&**message_id).map_or(&[][..], Vec::as_slice);
                let handed_over = handed.own.iter().filter(|(_, own)| own.touched()).map(|(id, _)| id.to_string());
                let broken = messages.iter().filter(|message| !message.cut.is_empty() || message.accepted > Some(0));
                let mut queue_ids: Vec<String> =
                    handed_over.chain(broken.map(|message| message.queue_id.to_string())).collect();
                queue_ids.sort_unstable();
                queue_ids.dedup();
                queue_ids.truncate(QUEUE_IDS_MAX);
                Some(Doubled {
                    message_id: message_id.to_string(),
                    from: from.clone(),
                    to: to.clone(),
                    times,
                    queue_ids,
                    reason: self.reason(handed, messages),
                })
            })
            .collect();
        doubled.sort_by(|a, b| (&a.message_id, &a.from, &a.to).cmp(&(&b.message_id, &b.from, &b.to)));
        doubled
    }

    /// Why the endpoint has it more than once.
    fn reason(&self, handed: &Handed<'_>, messages: &[&Message]) -> String {
        let mut reasons = Vec::new();
        let mut unknown: Vec<OffsetDateTime> =
            handed.own.iter().flat_map(|(_, own)| own.unknown.iter().copied()).collect();
        unknown.sort_unstable();
        if !unknown.is_empty() {
            let times = times(&unknown);
            reasons
                .push(format!("the connection to the endpoint was lost between the final dot and its reply ({times})"));
        }
        let mut cut: Vec<OffsetDateTime> = messages.iter().flat_map(|message| message.cut.iter().copied()).collect();
        cut.sort_unstable();
        let killed: Vec<OffsetDateTime> = cut.iter().copied().filter(|at| self.was_killed(*at)).collect();
        if !killed.is_empty() {
            let times = times(&killed);
            reasons.push(format!(
                "deskmilter was killed after the content had gone out, before Postfix had a reply ({times})"
            ));
        } else if !cut.is_empty() {
            let times = times(&cut);
            reasons.push(format!("Postfix lost its connection to deskmilter before it had a reply ({times})"));
        }
        let accepted: HashSet<&str> = messages
            .iter()
            .filter(|message| message.accepted.is_some_and(|count| count > 0))
            .map(|m| &*m.queue_id)
            .collect();
        if accepted.len() > 1 {
            reasons.push("Postfix accepted it more than once: its client sent it again".to_owned());
        }
        if let (true, Some(first), Some(last)) =
            (reasons.is_empty(), handed.taken.iter().min(), handed.taken.iter().max())
        {
            let between = |at: &&OffsetDateTime| *first <= **at && **at <= *last + SLACK;
            if let Some(at) = self.ledger.unclean_starts.iter().find(between) {
                reasons.push(format!("deskmilter was killed meanwhile (started again at {})", instant(*at)));
            }
        }
        if reasons.is_empty() { "unknown: no line of either log explains it".to_owned() } else { reasons.join("; ") }
    }

    /// Whether deskmilter had to be started anew soon after.
    fn was_killed(&self, cut: OffsetDateTime) -> bool {
        let starts = &self.ledger.unclean_starts;
        let next = starts.partition_point(|start| *start < cut - SLACK);
        starts.get(next).is_some_and(|start| *start <= cut + RESTART_WITHIN)
    }
}

/// All that is known of a message that was handed to the endpoint.
#[derive(Default)]
struct Handed<'a> {
    taken: Vec<OffsetDateTime>,
    own: Vec<(&'a str, &'a Own)>,
}

fn times(all: &[OffsetDateTime]) -> String {
    all.iter().take(TIMES_MAX).map(|at| instant(*at)).collect::<Vec<_>>().join(", ")
}

/// What cannot be known.
fn notes(ledger: &Ledger, scope: &Scope, report: &Report, earlier: u64, tickets: Option<&Tickets>) -> Vec<String> {
    let mut notes = Vec::new();
    match ledger.postfix_span {
        None => notes.push("no line of Postfix in that time: nothing can be said".to_owned()),
        Some((first, _)) if first > scope.since + Duration::minutes(1) && scope.since.year() > 1970 => {
            notes.push(format!("Postfix's log begins at {}: what it accepted before is not here", instant(first)));
        }
        Some(_) => {}
    }
    match (ledger.own_span, ledger.postfix_span) {
        (None, Some(_)) => notes.push(
            "no line of deskmilter in that time: what Postfix handed to it cannot be checked; give its log by --log"
                .to_owned(),
        ),
        (Some((own, _)), Some((postfix, _))) if own > postfix + SLACK => {
            notes.push(format!("deskmilter's log begins at {}: what it took before cannot be checked", instant(own)));
        }
        _ => {}
    }
    if earlier > 0 {
        notes.push(format!(
            "{earlier} messages were accepted before that time or before the log begins; they are not judged"
        ));
    }
    if report.queued > 0 {
        let end = ledger.postfix_span.map(|(_, last)| instant(last)).unwrap_or_default();
        notes.push(format!("still in the queue means: as far as Postfix's log goes, which is to {end}"));
    }
    let cut = ledger.own.values().flatten().filter(|own| own.cut).count();
    if cut > 0 {
        notes.push(format!(
            "{cut} messages have more recipients than a line of deskmilter's log shows: what became of the others is in Postfix's log alone"
        ));
    }
    if ledger.not_understood > 0 {
        notes.push(format!("{} lines are of no known format and were passed over", ledger.not_understood));
    }
    if let Some(tickets) = tickets.filter(|tickets| tickets.damaged > 0) {
        notes.push(format!("{} tickets cannot be read", tickets.damaged));
    }
    notes
}
