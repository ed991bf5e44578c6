//! What our own log says of a message (see `relay::Record`).

use super::ledger::name;

/// What an endpoint that was cut off between the final dot and its reply is recorded with.
const UNKNOWN: &str = "unknown whether it was taken";
/// What the inline journal answers for a message that the endpoint took before.
const KNOWN_BEFORE: &str = "taken before: the journal";
/// How a value ends that was cut (`log::line`).
const CUT: &str = "...";
/// How a reply begins that stands for a hand-over to `rejected_to`.
const HANDED: &str = "handed to ";

/// Something that deskmilter did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It began to serve.
    Started,
    /// It ended by itself.
    Stopped,
    /// A message was judged before the queue.
    Judged { id: Option<String>, message_id: Option<String>, recipients: Vec<String> },
    /// A message was handed to the endpoint, or an attempt was made.
    Relay(Relay),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Relay {
    pub(crate) id: Option<String>,
    pub(crate) message_id: Option<String>,
    pub(crate) sender: String,
    pub(crate) recipients: Vec<(String, Outcome)>,
    /// There are more than the line has.
    pub(crate) cut: bool,
    pub(crate) inline: bool,
    /// Nobody knows whether the endpoint has it.
    pub(crate) unknown: bool,
}

/// What became of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Taken,
    /// Taken at an earlier attempt, which the journal remembers.
    TakenBefore,
    Later,
    Refused,
    /// The endpoint refused it and `rejected_to` has it.
    HandedBack,
}

impl Event {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.starts_with("ready ") {
            return Some(Self::Started);
        }
        if text == "stopped" || text.starts_with("stopping") {
            return Some(Self::Stopped);
        }
        let (id, what, fields) = parts(text)?;
        let id = id.map(str::to_owned);
        let message_id = fields.get("message_id").filter(|id| id != "-");
        match what {
            "judged" => {
                let recipients = names(&fields.get("to")?);
                Some(Self::Judged { id, message_id, recipients })
            }
            "relay" => Some(Self::Relay(relay(id, message_id, &fields)?)),
            _ => None,
        }
    }
}

/// The queue id, if there is one, the event's name of one word, and its fields.
pub(super) fn parts(text: &str) -> Option<(Option<&str>, &str, Fields<'_>)> {
    let (id, rest) = split_id(text);
    let (what, fields) = rest.split_once(' ')?;
    Some((id, what, Fields(fields)))
}

/// The queue id that a line of ours begins with, if any, and the rest.
pub(crate) fn split_id(text: &str) -> (Option<&str>, &str) {
    match text.split_once(": ") {
        Some((id, rest)) if !id.contains(' ') => (Some(id).filter(|id| *id != "-"), rest),
        _ => (None, text),
    }
}

fn relay(id: Option<String>, message_id: Option<String>, fields: &Fields<'_>) -> Option<Relay> {
    let reply = fields.get("reply").unwrap_or_default();
    let decision = fields.get("decision")?;
    let rejected_to = fields.get("rejected_to").is_some();
    let to = fields.get("to")?;
    let cut = to.ends_with(CUT) || decision == "mixed" && reply.ends_with(CUT);
    let recipients = names(&to).into_iter().map(|recipient| {
        // Where replies differ, each stands behind its recipient.
        let mark = format!("<{recipient}> ");
        let own = match decision.as_str() {
            "mixed" => reply.split_once(&mark).map_or("", |(_, own)| own.split("; <").next().unwrap_or_default()),
            _ => reply.as_str(),
        };
        let outcome = match (decision.as_str(), own.as_bytes().first()) {
            _ if rejected_to && own.contains(HANDED) => Outcome::HandedBack,
            ("refused", _) | ("mixed", Some(b'5')) if rejected_to => Outcome::HandedBack,
            ("relayed", _) | ("mixed", Some(b'2')) if own.contains(KNOWN_BEFORE) => Outcome::TakenBefore,
            ("relayed", _) | ("mixed", Some(b'2')) => Outcome::Taken,
            ("refused", _) | ("mixed", Some(b'5')) => Outcome::Refused,
            _ => Outcome::Later,
        };
        (recipient, outcome)
    });
    Some(Relay {
        id,
        message_id,
        sender: name(&fields.get("from")?),
        recipients: recipients.collect(),
        cut,
        inline: fields.get("note").is_some_and(|note| note.starts_with("inline")),
        unknown: reply.contains(UNKNOWN),
    })
}

/// `<a@b>,<c@d>`; the last one is left out where the value was cut.
fn names(list: &str) -> Vec<String> {
    let whole = match list.strip_suffix(CUT) {
        Some(cut) => cut.rsplit_once(">,").map_or("", |(whole, _)| whole),
        None => list,
    };
    whole.split(">,<").map(name).filter(|name| !name.is_empty()).collect()
}

/// Fields as `key=value` and `key="value"`.
pub(crate) struct Fields<'a>(pub(crate) &'a str);

impl Fields<'_> {
    /// The first field of this name. A value may look like fields, so each is read in turn.
    pub(crate) fn get(&self, wanted: &str) -> Option<String> {
        self.all().find(|(key, _)| *key == wanted).map(|(_, value)| value)
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, String)> {
        let mut rest = self.0.trim_start();
        std::iter::from_fn(move || {
            let (key, after) = rest.split_once('=')?;
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => unquote(quoted)?,
                None => {
                    let (value, after) = after.split_once(' ').unwrap_or((after, ""));
                    (value.to_owned(), after)
                }
            };
            rest = after.trim_start();
            Some((key, value))
        })
    }
}

/// The value up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(c),
        }
    }
    None
}
