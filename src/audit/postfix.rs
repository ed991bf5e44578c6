//! What Postfix's log says of a message. The formats are those of Postfix 2.x to 3.11: they have not changed in twenty years.

/// Octets of a queue id: short ones have at least 6, long ones (`enable_long_queue_ids`) some 12 to 20.
const QUEUE_ID: std::ops::RangeInclusive<usize> = 5..=30;

/// What Postfix says, from sending the content until the reply, when the connection breaks (`smtp_proto.c`).
const MAY_BE_DOUBLED: &str = "message may be sent more than once";

/// The programs whose lines tell something of a message.
const AGENTS: [&str; 17] = [
    "smtpd",
    "postscreen",
    "pickup",
    "cleanup",
    "qmgr",
    "nqmgr",
    "lmtp",
    "smtp",
    "local",
    "virtual",
    "pipe",
    "error",
    "retry",
    "discard",
    "bounce",
    "postsuper",
    "relay",
];

/// Postfix's program by the tag of a line: `postfix/smtpd`, `postfix-out/relay/smtp`; `None` for other programs' tags.
pub(crate) fn agent(tag: &str) -> Option<&'static str> {
    let (_, name) = tag.rsplit_once('/')?;
    AGENTS.iter().find(|agent| **agent == name).copied()
}

/// Something that happened to a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// It begins to arrive.
    Arrives,
    /// Its Message-ID, empty where it has none.
    MessageId(&'a str),
    /// The queue manager has it: it was accepted.
    Queued { sender: &'a str, recipients: u32 },
    /// A delivery, or an attempt.
    Delivery { to: &'a str, orig_to: Option<&'a str>, relay: &'a str, status: &'a str, text: &'a str },
    /// Given up after `maximal_queue_lifetime`, and its sender told.
    Expired,
    /// Refused while it was arriving.
    Refused { to: Option<&'a str>, for_good: bool, text: &'a str },
    /// Gone from the queue.
    Removed,
    /// Put into the queue anew, with another id (postsuper -r).
    Requeued,
}

impl<'a> Event<'a> {
    /// The queue id (`NOQUEUE` where there is none yet) and what happened.
    pub(crate) fn parse(agent: &str, text: &'a str) -> Option<(&'a str, Self)> {
        let (id, rest) = text.split_once(": ")?;
        if !is_queue_id(id) {
            return None;
        }
        let event = match agent {
            _ if rest == "removed" => Self::Removed,
            _ if rest == "requeued" => Self::Requeued,
            "pickup" if rest.starts_with("uid=") => Self::Arrives,
            _ if rest.starts_with("client=") => Self::Arrives,
            _ if rest.starts_with("milter-reject: ") || rest.starts_with("reject: ") => refused(rest)?,
            "cleanup" => Self::MessageId(rest.strip_prefix("message-id=")?),
            "qmgr" | "nqmgr" => queued(rest)?,
            _ => delivery(rest)?,
        };
        Some((id, event))
    }

    /// Whether after this the message may come a second time.
    pub(crate) fn may_be_doubled(&self) -> bool {
        match self {
            Self::Delivery { status, text, .. } => *status == "deferred" && text.contains(MAY_BE_DOUBLED),
            // The milter's connection broke while Postfix waited for the verdict: inline, the endpoint may have the message.
            Self::Refused { text, .. } => {
                text.starts_with("END-OF-MESSAGE ") && text.contains(": 4.7.1 Service unavailable")
            }
            _ => false,
        }
    }
}

pub(crate) fn is_queue_id(id: &str) -> bool {
    // At least one digit or capital, unlike `warning` and `fatal`.
    QUEUE_ID.contains(&id.len())
        && id.bytes().all(|octet| octet.is_ascii_alphanumeric())
        && id.bytes().any(|octet| !octet.is_ascii_lowercase())
}

/// `from=<a@b>, size=1, nrcpt=1 (queue active)` or `from=<a@b>, status=expired, returned to sender`.
fn queued(rest: &str) -> Option<Event<'_>> {
    let (sender, rest) = bracketed(rest.strip_prefix("from=")?)?;
    if rest.contains("status=expired") || rest.contains("status=force-expired") {
        return Some(Event::Expired);
    }
    let count = rest.split_once("nrcpt=")?.1;
    let digits = count.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(Event::Queued { sender, recipients: digits.parse().ok()? })
}

/// `to=<a@b>, orig_to=<c@d>, relay=x[y], delay=1, delays=0/0/0/0, dsn=2.0.0, status=sent (250 ok)`.
fn delivery(rest: &str) -> Option<Event<'_>> {
    let (to, rest) = bracketed(rest.strip_prefix("to=")?)?;
    let (orig_to, rest) = match rest.strip_prefix(", orig_to=") {
        Some(rest) => bracketed(rest).map(|(orig_to, rest)| (Some(orig_to), rest))?,
        None => (None, rest),
    };
    let (relay, rest) = rest.strip_prefix(", relay=")?.split_once(", ")?;
    let (_, rest) = rest.split_once("status=")?;
    let (status, text) = rest.split_once(' ').unwrap_or((rest, ""));
    Some(Event::Delivery { to, orig_to, relay, status, text })
}

/// `milter-reject: STAGE from client[address]: 451 4.7.1 words; from=<a@b> to=<c@d> proto=ESMTP helo=<e>`.
fn refused(rest: &str) -> Option<Event<'_>> {
    let text = rest.split_once(": ")?.1;
    let (_, reply) = text.split_once("]: ")?;
    let for_good = reply.starts_with('5');
    let to =
        text.rsplit_once("; from=<").and_then(|(_, tail)| tail.split_once("> to=")).and_then(|(_, to)| bracketed(to));
    Some(Event::Refused { to: to.map(|(to, _)| to), for_good, text })
}

/// An address in angle brackets, of which a quoted local part may contain some, and what follows.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    let end = inner.char_indices().find(|&(_, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '>' => return !quoted,
            _ => {}
        }
        false
    });
    let (end, _) = end?;
    Some((inner.get(..end)?, inner.get(end + 1..)?))
}
