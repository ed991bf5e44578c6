//! The story of one message, from plain logs: where it came from, what was made of it, who has it now, and what to do.
//!
//! In: a queue id or a Message-ID, and the lines of Postfix's log and of ours, as often as [`Search::wants_more`] asks for them.
//! Out: a [`Story`]. It reads no file and no configuration, and believes no line to be well-formed. A message has a queue id for
//! each time that it was put into a queue, and a queue id may have been another message's before: what holds the story together is
//! the Message-ID.

mod story;
#[cfg(test)]
mod tests;
mod words;

pub use story::{Recipient, State, Step, Story};

use std::collections::HashSet;

use time::{Duration, OffsetDateTime};

use crate::audit::Clock;
use crate::audit::ledger::{name, normal_id};
use crate::audit::line::{self, Line, OWN};
use crate::audit::own::{self, Fields};
use crate::audit::postfix::{self, Event};

/// Lines kept of a story at most; what is told of a message that was tried for days ends there.
pub const LINES_MAX: usize = 20_000;
/// Queue ids of one message at most.
const IDS_MAX: usize = 1_000;
/// How far a line of ours may be before or after those of Postfix that it belongs to.
const SLACK: Duration = Duration::seconds(5);

/// A search through logs, which it needs to see three times: which message is meant, which queue ids it had, and all of their lines.
pub struct Search {
    key: String,
    clock: Clock,
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
    stage: Stage,
    /// Without brackets, as both logs have it.
    message_id: Option<Box<str>>,
    ids: HashSet<Box<str>>,
    kept: Vec<Kept>,
    cut: bool,
    read: Read,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Which,
    Ids,
    Lines,
    Done,
}

/// What was read, for who finds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Lines.
    pub lines: u64,
    /// Those that have our name.
    pub own: u64,
    /// The earliest and the latest time that was seen; `None` where no line is of a known format.
    pub span: Option<(OffsetDateTime, OffsetDateTime)>,
}

impl Read {
    fn note(&mut self, line: &str, clock: &Clock) {
        self.lines = self.lines.saturating_add(1);
        // Our lines on standard error have a level in the place of our name.
        let is_own = line.contains("deskmilter[") || line::is_own(line);
        self.own = self.own.saturating_add(u64::from(is_own));
        // A look at one line in a hundred tells as much: logs are in the order of time.
        if self.span.is_none() || self.lines.is_multiple_of(100) || is_own && self.own == 1 {
            let Some(line) = Line::parse(&line::as_text(line), clock).map(|line| line.at) else { return };
            let (first, last) = self.span.unwrap_or((line, line));
            self.span = Some((first.min(line), last.max(line)));
        }
    }
}

/// One line of the story.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) at: OffsetDateTime,
    pub(super) id: Box<str>,
    /// Postfix's program; `None` for ours.
    pub(super) agent: Option<&'static str>,
    /// What follows the queue id.
    pub(super) text: Box<str>,
    /// Order among lines of one second, where they come from several logs.
    rank: u8,
}

impl Search {
    /// For the message that `key` names; lines before `since` and after `until` are not looked at.
    pub fn new(key: &str, clock: Clock, since: Option<OffsetDateTime>, until: Option<OffsetDateTime>) -> Self {
        Self {
            key: name(key),
            clock,
            since,
            until,
            stage: Stage::Which,
            message_id: None,
            ids: HashSet::new(),
            kept: Vec::new(),
            cut: false,
            read: Read::default(),
        }
    }

    /// Takes the next line of either log.
    pub fn line(&mut self, line: &str) {
        if self.stage == Stage::Which {
            self.read.note(line, &self.clock);
        }
        // Most lines are of other messages: not worth the time to take them apart.
        if !self.may_matter(line) {
            return;
        }
        let line = line::as_text(line);
        let Some(line) = Line::parse(&line, &self.clock) else { return };
        if self.since.is_some_and(|since| line.at < since) || self.until.is_some_and(|until| line.at > until) {
            return;
        }
        match self.stage {
            Stage::Which => self.which(&line),
            Stage::Ids => self.note_id(&line),
            Stage::Lines => self.keep(&line),
            Stage::Done => {}
        }
    }

    /// All logs were read once. Whether they must be read again, from the beginning.
    pub fn wants_more(&mut self) -> bool {
        self.stage = match self.stage {
            Stage::Which if self.message_id.is_none() && self.ids.is_empty() => Stage::Done,
            Stage::Which if self.message_id.is_some() => Stage::Ids,
            Stage::Which | Stage::Ids => Stage::Lines,
            Stage::Lines | Stage::Done => Stage::Done,
        };
        self.stage != Stage::Done
    }

    /// What was read.
    pub fn read(&self) -> Read {
        self.read
    }

    /// The story; `None` where no line is of that message. `sorted` says that all lines came from one log, in its order.
    pub fn story(mut self, sorted: bool) -> Option<Story> {
        match sorted {
            true => self.kept.sort_by_key(|line| line.at),
            false => self.kept.sort_by_key(|line| (line.at, line.rank)),
        }
        let message_id = self.message_id.clone();
        let lines = only_of(std::mem::take(&mut self.kept), message_id.as_deref());
        (!lines.is_empty()).then(|| story::tell(&lines, message_id.as_deref(), self.cut, self.read.own > 0))
    }

    /// Whether the line may have a name that is looked for.
    fn may_matter(&self, line: &str) -> bool {
        if self.stage == Stage::Which {
            return line.contains(plain_part(&self.key));
        }
        self.ids.iter().any(|id| line.contains(id.as_ref()))
            || self.message_id.as_deref().is_some_and(|id| line.contains(plain_part(id)))
    }

    /// The last message that the key names: short queue ids are used again.
    fn which(&mut self, line: &Line<'_>) {
        let (id, message_id) = names_of(line);
        let Some(id) = id else {
            if message_id.as_deref() == Some(&*normal_id(&self.key)) {
                self.message_id = message_id;
            }
            return;
        };
        if *id == self.key {
            self.ids.insert(id.into());
            self.message_id = message_id.or(self.message_id.take());
        } else if message_id.as_deref().is_some_and(|found| *found == *normal_id(&self.key)) {
            self.message_id = message_id;
        }
    }

    fn note_id(&mut self, line: &Line<'_>) {
        let (id, message_id) = names_of(line);
        if let (Some(id), true) = (id, message_id.is_some() && message_id == self.message_id)
            && self.ids.len() < IDS_MAX
        {
            self.ids.insert(id.into());
        }
    }

    fn keep(&mut self, line: &Line<'_>) {
        let (id, message_id) = names_of(line);
        let is_its = id.is_some_and(|id| self.ids.contains(id))
            || id.is_none() && message_id.is_some() && message_id == self.message_id;
        if !is_its {
            return;
        }
        if self.kept.len() >= LINES_MAX {
            self.cut = true;
            return;
        }
        let agent = postfix::agent(line.program);
        let text = match agent {
            Some(_) => line.text.split_once(": ").unwrap_or_default().1,
            None => own::split_id(line.text).1,
        };
        self.kept.push(Kept {
            at: line.at,
            id: id.unwrap_or("-").into(),
            agent,
            text: text.into(),
            rank: rank(agent, text),
        });
    }
}

/// The queue id and the Message-ID that a line has.
fn names_of<'l>(line: &Line<'l>) -> (Option<&'l str>, Option<Box<str>>) {
    if line.program == OWN {
        let (id, rest) = own::split_id(line.text);
        let fields = rest.split_once(' ').map_or("", |(_, fields)| fields);
        let is_record = rest.starts_with("judged ") || rest.starts_with("relay ");
        let message_id = is_record.then(|| Fields(fields).get("message_id")).flatten();
        return (id, message_id.filter(|id| id != "-").map(|id| normal_id(&id)));
    }
    let Some(agent) = postfix::agent(line.program) else { return (None, None) };
    match Event::parse(agent, line.text) {
        Some((id, Event::MessageId(message_id))) => (Some(id), Some(normal_id(message_id)).filter(|id| !id.is_empty())),
        Some((id, _)) if id != "NOQUEUE" => (Some(id), None),
        // What is not understood otherwise, of a bounce for example, may still belong to it.
        None => (line.text.split_once(": ").map(|(id, _)| id).filter(|id| postfix::is_queue_id(id)), None),
        Some(_) => (None, None),
    }
}

/// The lines of this very message: those of another that had the same queue id are left out.
fn only_of(lines: Vec<Kept>, message_id: Option<&str>) -> Vec<Kept> {
    let Some(message_id) = message_id else { return lines };
    // Each arrival begins a new life of its queue id, which is this message's or another's.
    let mut lives: Vec<(Box<str>, OffsetDateTime, OffsetDateTime, Option<bool>)> = Vec::new();
    for line in &lines {
        let Some(agent) = line.agent else { continue };
        let whole = format!("{}: {}", line.id, line.text);
        let event = Event::parse(agent, &whole).map(|(_, event)| event);
        let open = lives.iter_mut().rev().find(|(id, ..)| *id == line.id);
        let its = match &event {
            Some(Event::MessageId(found)) => Some(*normal_id(found) == *message_id),
            _ => None,
        };
        match open {
            Some((_, _, end, is_its)) if event != Some(Event::Arrives) => {
                *end = line.at;
                *is_its = is_its.or(its);
            }
            _ => lives.push((line.id.clone(), line.at, line.at, its)),
        }
    }
    let lives: Vec<_> = lives.into_iter().filter(|(.., is_its)| *is_its != Some(false)).collect();
    let is_its = |line: &Kept| {
        let said = match line.agent {
            None => Fields(line.text.split_once(' ').map_or("", |(_, fields)| fields)).get("message_id"),
            Some(_) => None,
        };
        match said.filter(|id| id != "-") {
            Some(said) => *normal_id(&said) == *message_id,
            None => {
                let slack = if line.agent.is_some() { Duration::ZERO } else { SLACK };
                let within = |(id, begin, end, _): &(Box<str>, OffsetDateTime, OffsetDateTime, _)| {
                    *id == line.id && line.at >= *begin - slack && line.at <= *end + slack
                };
                lives.is_empty() || lives.iter().any(within)
            }
        }
    };
    lines.into_iter().filter(is_its).collect()
}

/// As things follow each other, where a log's seconds do not tell.
fn rank(agent: Option<&str>, text: &str) -> u8 {
    match agent {
        None if text.starts_with("judged ") => 2,
        None if text.starts_with("relay ") => 5,
        None => 4,
        Some(_) if text == "removed" => 7,
        Some("smtpd" | "pickup") => 0,
        Some("cleanup") => 1,
        Some("qmgr" | "nqmgr") => 3,
        Some(_) => 6,
    }
}

/// The longest part of a Message-ID that both logs write alike.
fn plain_part(id: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '+' | '=' | '$');
    id.split(|c| !plain(c)).max_by_key(|part| part.len()).unwrap_or_default()
}
