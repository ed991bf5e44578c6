//! The lines of one message, put together.

use std::fmt;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::words::{Own, advice};
use super::{Kept, LINES_MAX};
use crate::audit::ledger::name;
use crate::audit::own;
use crate::audit::postfix::Event;
use crate::harmless::harmless;

/// The story of one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Story {
    /// Without brackets.
    pub message_id: Option<String>,
    /// In order of their first line.
    pub queue_ids: Vec<String>,
    /// What happened, in order of time.
    pub steps: Vec<Step>,
    /// Where it is now.
    pub recipients: Vec<Recipient>,
    /// What to do, if anything.
    pub advice: Vec<String>,
    /// What cannot be known, and why.
    pub notes: Vec<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// RFC 3339.
    pub time: String,
    /// Under which queue id; `-` where there was none.
    pub queue_id: String,
    /// In words: one sentence, and more about it.
    pub told: Vec<String>,
}

/// What became of the message for one recipient, as far as the logs go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recipient {
    /// Without brackets.
    pub address: String,
    /// In a word.
    pub state: State,
    /// When that was said.
    pub time: String,
    /// In words.
    pub told: String,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The ticket endpoint or company host has it.
    Relayed,
    /// The MTA delivered it elsewhere.
    Delivered,
    /// In the MTA's queue.
    Queued,
    /// Never taken: its client was told to come again.
    PutOff,
    /// Never taken: its client was told no.
    Refused,
    /// Taken, and its sender told that it cannot be delivered.
    Bounced,
    /// The endpoint refused it, and the mailbox of `rejected_to` has it.
    HandedBack,
    /// Removed from the queue by hand.
    Deleted,
    /// The logs do not say.
    Unknown,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Delivered => "delivered",
            Self::Queued => "in the queue",
            Self::PutOff => "put off",
            Self::Refused => "refused",
            Self::Bounced => "bounced",
            Self::HandedBack => "handed to rejected_to",
            Self::Deleted => "deleted",
            Self::Unknown => "unknown",
        }
    }
}

/// Tells it. `cut` says that there were more lines, `own` that any line of ours was read at all.
pub(super) fn tell(lines: &[Kept], message_id: Option<&str>, cut: bool, own: bool) -> Story {
    let mut teller = Teller::default();
    lines.iter().for_each(|line| teller.line(line));
    let mut notes = Vec::new();
    if cut {
        notes.push(format!(
            "there are more than {LINES_MAX} lines; the rest is left out: choose a time by --since and --until"
        ));
    }
    if !own {
        notes.push("no line of deskmilter was read: give its log by --log".to_owned());
    }
    if lines.iter().all(|line| line.agent.is_none()) {
        notes.push(
            "no line of Postfix is of this message: give its log by --log as well; of Exim's log exigrep tells"
                .to_owned(),
        );
    }
    teller.conclude(message_id, notes)
}

#[derive(Debug, Default)]
struct Teller {
    queue_ids: Vec<String>,
    steps: Vec<Step>,
    recipients: Vec<Recipient>,
    /// The last reply that kept it from getting on.
    trouble: Option<String>,
    queued: bool,
    removed: bool,
}

impl Teller {
    fn line(&mut self, line: &Kept) {
        let id = line.id.to_string();
        if id != "-" && !self.queue_ids.contains(&id) {
            self.queue_ids.push(id.clone());
        }
        let told = match line.agent {
            None => self.own(line),
            Some(agent) => self.postfix(line, agent),
        };
        if !told.is_empty() {
            self.steps.push(Step { time: instant(line.at), queue_id: id, told });
        }
    }

    fn own(&mut self, line: &Kept) -> Vec<String> {
        let facts = Own::of(line);
        match facts.what.as_str() {
            "judged" => {
                let state = match facts.get("decision").filter(|_| facts.get("observed").is_none()) {
                    Some("refused") => Some(State::Refused),
                    Some("deferred") => Some(State::PutOff),
                    _ => None,
                };
                if let Some(state) = state {
                    let reply = facts.get("reply").unwrap_or_default().to_owned();
                    for to in addresses(facts.get("to").unwrap_or_default()) {
                        self.set(&to, state, line.at, &format!("its client was told: {reply}"));
                    }
                    self.trouble = Some(reply);
                }
                facts.judged()
            }
            "relay" => {
                self.relayed(line);
                facts.relayed()
            }
            other => vec![format!("deskmilter: {other}")],
        }
    }

    fn relayed(&mut self, line: &Kept) {
        let Some(own::Event::Relay(relay)) = own::Event::parse(&format!("{}: {}", line.id, line.text)) else { return };
        let facts = Own::of(line);
        let connector = facts.get("connector").unwrap_or_default().to_owned();
        let reply = facts.get("reply").unwrap_or_default().to_owned();
        for (to, outcome) in relay.recipients {
            let (state, told) = match outcome {
                own::Outcome::Taken | own::Outcome::TakenBefore => {
                    (State::Relayed, format!("the remote server of connector {connector} has it: {reply}"))
                }
                own::Outcome::HandedBack => (State::HandedBack, format!("refused by the remote server: {reply}")),
                own::Outcome::Refused if relay.inline => (State::Refused, format!("its client was told: {reply}")),
                own::Outcome::Refused => (State::Bounced, format!("refused for good: {reply}")),
                own::Outcome::Later if relay.inline => (State::PutOff, format!("its client was told: {reply}")),
                own::Outcome::Later => (State::Queued, format!("the MTA tries again; the last reply was: {reply}")),
            };
            self.trouble = if state == State::Relayed { None } else { Some(reply.clone()) };
            self.set(&to, state, line.at, &told);
        }
    }

    fn postfix(&mut self, line: &Kept, agent: &str) -> Vec<String> {
        let whole = format!("{}: {}", line.id, line.text);
        let Some((_, event)) = Event::parse(agent, &whole) else {
            return vec![format!("Postfix {agent}: {}", line.text)];
        };
        vec![match event {
            Event::Arrives => match line.text.strip_prefix("client=") {
                Some(client) => format!("it came to Postfix from {client}"),
                None => format!("it was handed to Postfix on its own host: {}", line.text),
            },
            Event::MessageId(id) => format!("its Message-ID is {id}"),
            Event::Queued { sender, recipients } if !self.queued => {
                self.queued = true;
                format!("Postfix has queued it: from <{sender}>, recipients: {recipients}")
            }
            // Each further attempt takes it up again; the deliveries tell of that.
            Event::Queued { .. } => return Vec::new(),
            Event::Delivery { to, relay, status, text, .. } => {
                self.delivery(line, to, relay, status, text);
                format!("Postfix for <{to}> by {relay}: {status} {text}")
            }
            Event::Expired => {
                self.all(line.at, State::Bounced, "given up after the queue's lifetime, and its sender told");
                "Postfix has given it up after the queue's lifetime, and told its sender".to_owned()
            }
            Event::Refused { to, for_good, text } => {
                let state = if for_good { State::Refused } else { State::PutOff };
                let told = format!("its client was told: {text}");
                match to.filter(|_| !text.starts_with("END-OF-MESSAGE ")) {
                    Some(to) => self.set(to, state, line.at, &told),
                    None => self.all(line.at, state, &told),
                }
                format!("Postfix did not take it: {text}")
            }
            Event::Removed if agent == "postsuper" => {
                self.all(line.at, State::Deleted, "removed from the queue by hand (postsuper -d)");
                "it was removed from the queue by hand (postsuper -d)".to_owned()
            }
            Event::Removed => {
                self.removed = true;
                "Postfix is done with it".to_owned()
            }
            Event::Requeued => "it was put into the queue anew, under another id (postsuper -r)".to_owned(),
        }]
    }

    fn delivery(&mut self, line: &Kept, to: &str, relay: &str, status: &str, text: &str) {
        let known = self.recipients.iter().find(|known| same(&known.address, to)).map(|known| known.state);
        let (state, told) = match status {
            // Ours said already who has it, in the remote server's own words.
            "sent" if matches!(known, Some(State::Relayed | State::HandedBack)) => return,
            "sent" => (State::Delivered, format!("delivered by Postfix to {relay} {text}")),
            "deferred" => (State::Queued, format!("the MTA tries again; the last reply was {text}")),
            "bounced" | "expired" => (State::Bounced, format!("its sender was told: {text}")),
            _ => return,
        };
        if state == State::Queued && self.trouble.is_none() {
            self.trouble = Some(text.trim_matches(['(', ')']).to_owned());
        }
        self.set(to, state, line.at, &told);
    }

    fn set(&mut self, to: &str, state: State, at: OffsetDateTime, told: &str) {
        let address = name(to);
        let new = Recipient { address, state, time: instant(at), told: told.to_owned() };
        match self.recipients.iter_mut().find(|known| same(&known.address, &new.address)) {
            // What somebody has he keeps: a later bounce of another queue id is about another copy.
            Some(known) if known.state == State::Relayed && state != State::Relayed => {}
            Some(known) => *known = new,
            None => self.recipients.push(new),
        }
    }

    fn all(&mut self, at: OffsetDateTime, state: State, told: &str) {
        let names: Vec<String> = self.recipients.iter().map(|known| known.address.clone()).collect();
        let open = |known: &Recipient| !matches!(known.state, State::Relayed | State::Delivered | State::HandedBack);
        for name in names {
            if self.recipients.iter().any(|known| known.address == name && open(known)) {
                self.set(&name, state, at, told);
            }
        }
    }

    fn conclude(self, message_id: Option<&str>, notes: Vec<String>) -> Story {
        let mut advice_told: Vec<String> = Vec::new();
        let stuck = self.recipients.iter().any(|known| !matches!(known.state, State::Relayed | State::Delivered));
        if stuck && let Some(told) = self.trouble.as_deref().and_then(advice) {
            advice_told.push(told.to_owned());
        }
        let mut recipients = self.recipients;
        if recipients.is_empty() {
            let told = match (self.queued, self.removed) {
                (_, true) => "Postfix is done with it, and the logs do not say who has it: was a log rotated away?",
                (true, false) => "in the queue, and not tried yet",
                (false, false) => "it was not queued, as far as the logs go",
            };
            let time = self.steps.last().map(|step| step.time.clone()).unwrap_or_default();
            let state = if self.queued && !self.removed { State::Queued } else { State::Unknown };
            recipients.push(Recipient { address: "-".to_owned(), state, time, told: told.to_owned() });
        }
        Story {
            message_id: message_id.map(str::to_owned),
            queue_ids: self.queue_ids,
            steps: self.steps,
            recipients,
            advice: advice_told,
            notes,
        }
    }
}

/// `<a@b>,<c@d>`
fn addresses(list: &str) -> Vec<String> {
    list.split(">,<").map(name).filter(|name| !name.is_empty()).collect()
}

fn same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

fn instant(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.message_id.as_deref().map_or_else(|| "(without Message-ID)".to_owned(), |id| format!("<{id}>"));
        writeln!(f, "message {}, queue id {}", harmless(&id), harmless(&self.queue_ids.join(", ")))?;
        for Step { time, queue_id, told } in &self.steps {
            for (n, sentence) in told.iter().enumerate() {
                match n {
                    0 => writeln!(f, "{time} {}: {}", harmless(queue_id), harmless(sentence))?,
                    _ => writeln!(f, "    {}", harmless(sentence))?,
                }
            }
        }
        writeln!(f, "now:")?;
        for Recipient { address, state, time, told } in &self.recipients {
            writeln!(f, "  {}: {} ({time}); {}", harmless(address), state.as_str(), harmless(told))?;
        }
        for advice in &self.advice {
            writeln!(f, "to do: {}", harmless(advice))?;
        }
        for note in &self.notes {
            writeln!(f, "note: {}", harmless(note))?;
        }
        Ok(())
    }
}
