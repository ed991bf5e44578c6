//! What the end user's provider saw of each notification, beside what the sandbox sent.
//!
//! In: messages sent and delivered, with what the provider found. Out: a list of checks, each green or red. Pure, but for reading
//! the state folder.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::SandboxError;
use super::letter::{GUARDED, PRESERVED};
use super::outbox::{Outbox, Sent, split};
use super::provider::{Delivery, Dkim, Method, deliveries};
use crate::mail::{Address, Domain, Headers};

/// The report on all notifications, or on those of one ticket.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether every check of every notification is green, and there is at least one.
    pub green: bool,
    /// One for each notification that was sent.
    pub notifications: Vec<Seen>,
}

/// One notification.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    /// Its number in `sent/`.
    pub notification: u64,
    /// What was sent.
    pub sent: Sent,
    /// Each hand-over to the end user's server: one, if all went well and there is one recipient.
    pub deliveries: Vec<Judged>,
    /// What concerns the notification as a whole.
    pub checks: Vec<Check>,
}

/// One delivery.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// Its number in `delivered/`.
    pub number: u64,
    /// The address that handed it over.
    pub client: String,
    /// What that host said in EHLO.
    pub helo: String,
    /// The envelope's sender.
    pub sender: String,
    /// The TLS version, empty for plain text.
    pub tls: String,
    /// What was checked.
    pub checks: Vec<Check>,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Whether it is as it must be.
    pub green: bool,
    /// `spf`, `dkim`, `arc`, `dmarc`, `delivery`, or the name of a header field.
    pub what: String,
    /// The result: of a method in the words of RFC 8601; of a field `same`, `changed`, `missing` or `added`.
    pub result: String,
    /// More words.
    pub detail: String,
}

impl Report {
    /// Reads the state folder.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub fn read(state: &Path, ticket: Option<u64>) -> Result<Self, SandboxError> {
        let mut delivered = Vec::new();
        for (delivery, message) in deliveries(state)? {
            delivered.push((delivery, split(&message)?.0));
        }
        let mut notifications = Vec::new();
        for (sent, message) in Outbox::new(state).read(ticket)? {
            let headers = split(&message)?.0;
            let of_this: Vec<_> = delivered.iter().filter(|(_, seen)| is_same_message(&headers, seen)).collect();
            notifications.push(Seen::of(sent, &headers, &of_this));
        }
        let green = !notifications.is_empty() && notifications.iter().all(Seen::is_green);
        Ok(Self { green, notifications })
    }

    /// Whether each recipient of each notification has got something, or will not: its hand-over was refused.
    pub fn is_complete(&self) -> bool {
        let waits = |check: &Check| check.what == "delivery" && check.result == "missing";
        !self.notifications.iter().any(|seen| seen.checks.iter().any(waits))
    }
}

/// By either of the two fields that tell messages apart: one of them may have been changed on the way.
fn is_same_message(sent: &Headers, seen: &Headers) -> bool {
    ["Message-ID", "X-Zendesk-Email-Id"].into_iter().any(|name| {
        let id = sent.first(name).map(crate::mail::Header::unfolded);
        id.is_some_and(|id| seen.named(name).any(|field| field.unfolded() == id))
    })
}

impl Seen {
    fn of(sent: Sent, headers: &Headers, delivered: &[&(Delivery, Headers)]) -> Self {
        let mut checks = Vec::new();
        for (n, recipient) in sent.recipients.iter().enumerate() {
            let is_it = |other: &String| Address::parse(other).ok() == Address::parse(recipient).ok();
            let count = delivered.iter().filter(|(delivery, _)| delivery.recipients.iter().any(is_it)).count();
            let reply = sent.replies.get(n).map(|replied| replied.reply.clone()).unwrap_or_default();
            let refused = sent.replies.get(n).is_some_and(|replied| replied.code / 100 == 5);
            let result = match count {
                0 if refused => "refused",
                0 => "missing",
                1 => "once",
                _ => "doubled",
            };
            let detail = format!("{recipient}, handed over: {reply}");
            checks.push(Check { green: count == 1, what: "delivery".to_owned(), result: result.to_owned(), detail });
        }
        let deliveries = delivered.iter().map(|(delivery, seen)| Judged::of(delivery, headers, seen)).collect();
        Self { notification: sent.number, sent, deliveries, checks }
    }

    fn is_green(&self) -> bool {
        let deliveries = self.deliveries.iter().flat_map(|judged| &judged.checks);
        self.checks.iter().chain(deliveries).all(|check| check.green)
    }
}

impl Judged {
    fn of(delivery: &Delivery, sent: &Headers, seen: &Headers) -> Self {
        let mut checks = vec![method("spf", &delivery.spf, &["pass"])];
        checks.extend(signatures(delivery, sent, seen));
        checks.push(method("arc", &delivery.arc, &["none", "pass"]));
        checks.push(method("dmarc", &delivery.dmarc, &["pass"]));
        checks.extend(PRESERVED.iter().chain(&GUARDED).map(|name| field(name, sent, seen)));
        Self {
            number: delivery.number,
            client: delivery.client.clone(),
            helo: delivery.helo.clone(),
            sender: delivery.sender.clone(),
            tls: delivery.tls.clone(),
            checks,
        }
    }
}

fn method(what: &str, method: &Method, green: &[&str]) -> Check {
    let detail: Vec<&str> =
        [method.domain.as_str(), &method.detail].into_iter().filter(|text| !text.is_empty()).collect();
    Check {
        green: green.contains(&method.result.as_str()),
        what: what.to_owned(),
        result: method.result.clone(),
        detail: detail.join(", "),
    }
}

/// Each signature with whose it is; that the ticket system's own is still there; and that the company's is there at all.
fn signatures(delivery: &Delivery, sent: &Headers, seen: &Headers) -> Vec<Check> {
    let own: Vec<(String, String)> =
        sent.named("DKIM-Signature").map(|field| (tag(&field.text(), "d"), tag(&field.text(), "s"))).collect();
    let is_own =
        |dkim: &Dkim| own.iter().any(|(domain, selector)| *domain == dkim.domain && *selector == dkim.selector);
    let is_companys = |dkim: &Dkim| !is_own(dkim) && answers_for(&dkim.domain, &delivery.dmarc.domain);
    let check = |green, result: &str, detail: String| Check {
        green,
        what: "dkim".to_owned(),
        result: result.to_owned(),
        detail,
    };
    let mut checks: Vec<Check> = Vec::new();
    let mut fields: Vec<String> = seen.named("DKIM-Signature").map(crate::mail::Header::text).collect();
    for dkim in &delivery.dkim {
        let mine = fields.iter().position(|field| tag(field, "d") == dkim.domain && tag(field, "s") == dkim.selector);
        let covered = tag(&mine.map(|index| fields.remove(index)).unwrap_or_default(), "h");
        let covers = |name: &&str| covered.split(':').any(|other| other.eq_ignore_ascii_case(name));
        let over = if PRESERVED.iter().all(covers) { ", over the preserved fields too" } else { "" };
        let whose = match () {
            () if is_own(dkim) => "the ticket system's",
            () if is_companys(dkim) => "the company's",
            () => "somebody else's",
        };
        let reason = if dkim.reason.is_empty() { String::new() } else { format!(": {}", dkim.reason) };
        let detail = format!("d={} s={} {}, {whose}{over}{reason}", dkim.domain, dkim.selector, dkim.algorithm);
        checks.push(check(dkim.result == "pass", &dkim.result, detail));
    }
    for (domain, selector) in &own {
        if !delivery.dkim.iter().any(|dkim| dkim.domain == *domain && dkim.selector == *selector) {
            checks.push(check(false, "missing", format!("d={domain} s={selector}, the ticket system's")));
        }
    }
    if !delivery.dkim.iter().any(is_companys) {
        checks.push(check(false, "missing", format!("d={}, the company's", delivery.dmarc.domain)));
    }
    checks
}

/// Whether a signature of `domain` counts for `author`: the same domain, or one above it.
fn answers_for(domain: &str, author: &str) -> bool {
    let (Ok(domain), Ok(author)) = (Domain::parse(domain), Domain::parse(author)) else { return false };
    let rest = author.as_str().strip_suffix(domain.as_str());
    domain.as_str().contains('.') && rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A tag of a DKIM-Signature field.
fn tag(value: &str, name: &str) -> String {
    let tags = value.split(';').filter_map(|tag| tag.split_once('='));
    let found = tags.map(|(tag, value)| (tag.trim(), value)).find(|(tag, _)| *tag == name);
    found.map(|(_, value)| value.split_whitespace().collect()).unwrap_or_default()
}

/// Compares all fields of a name octet by octet.
pub(super) fn field(name: &str, sent: &Headers, seen: &Headers) -> Check {
    let values = |headers: &Headers| headers.named(name).map(|field| field.value().to_vec()).collect::<Vec<_>>();
    let (before, after) = (values(sent), values(seen));
    let result = match (before.is_empty(), after.is_empty()) {
        _ if before == after => "same",
        (true, _) => "added",
        (_, true) => "missing",
        _ => "changed",
    };
    let first = |headers: &Headers| headers.first(name).map(crate::mail::Header::text).unwrap_or_default();
    let detail = match result {
        "same" => String::new(),
        "added" => format!("now {:?}", first(seen)),
        "missing" => format!("was {:?}", first(sent)),
        _ => format!("was {:?}, now {:?}", first(sent), first(seen)),
    };
    Check { green: result == "same", what: name.to_owned(), result: result.to_owned(), detail }
}

/// For people: red lines stand out, and fields that are the same share a line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for seen in &self.notifications {
            let Sent { ticket, sender, message_id, .. } = &seen.sent;
            writeln!(f, "notification {} of ticket {ticket}, from {sender}, <{message_id}>", seen.notification)?;
            seen.checks.iter().try_for_each(|check| line(f, check))?;
            for judged in &seen.deliveries {
                let tls = if judged.tls.is_empty() { "plain text" } else { &judged.tls };
                writeln!(
                    f,
                    "  delivered by {} [{}], MAIL FROM <{}>, {}",
                    plain(&judged.helo),
                    judged.client,
                    plain(&judged.sender),
                    plain(tls)
                )?;
                let is_field = |check: &&Check| check.what.contains('-') || GUARDED.contains(&check.what.as_str());
                let folded = |check: &&Check| is_field(check) && check.green;
                judged.checks.iter().filter(|check| !folded(check)).try_for_each(|check| line(f, check))?;
                for (names, what) in [(&PRESERVED[..], "preserved"), (&GUARDED[..], "untouched")] {
                    let same = |name: &&&str| judged.checks.iter().any(|check| check.green && check.what == **name);
                    let same: Vec<&str> = names.iter().filter(same).copied().collect();
                    if !same.is_empty() {
                        writeln!(f, "  ok   {what:<9} {}", same.join(", "))?;
                    }
                }
            }
        }
        match (self.green, self.notifications.is_empty()) {
            (true, _) => writeln!(f, "all green"),
            (false, true) => writeln!(f, "no notification was sent"),
            (false, false) => {
                let all = self.notifications.iter().flat_map(|seen| {
                    seen.checks.iter().chain(seen.deliveries.iter().flat_map(|judged| &judged.checks))
                });
                writeln!(f, "{} red", all.filter(|check| !check.green).count())
            }
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, check: &Check) -> fmt::Result {
    let mark = if check.green { "ok " } else { "RED" };
    let text = format!("  {mark}  {:<9} {:<7} {}", check.what, check.result, check.detail);
    writeln!(f, "{}", plain(text.trim_end()))
}

/// Text of strangers on somebody's terminal: without what could move its cursor or write another line.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_write_neither_moves_the_cursor_nor_makes_a_line() {
        let method = |result: &str| Method {
            result: result.to_owned(),
            domain: "\x1b[2K\rall green\n".to_owned(),
            detail: "\u{9b}31m".to_owned(),
        };
        let delivery = Delivery {
            number: 1,
            client: "192.0.2.1".to_owned(),
            helo: "x\x1b]0;title\x07".to_owned(),
            sender: "a\nall green".to_owned(),
            recipients: vec!["a@b.example".to_owned()],
            tls: "\x1b[1m".to_owned(),
            received: String::new(),
            spf: method("fail"),
            dkim: vec![Dkim {
                result: "fail".to_owned(),
                domain: "b.example".to_owned(),
                selector: "\x1b[8m".to_owned(),
                algorithm: String::new(),
                reason: "\u{85}".to_owned(),
            }],
            arc: method("none"),
            dmarc: method("fail"),
        };
        let sent = Sent {
            number: 1,
            ticket: 1,
            sender: "support@b.example".to_owned(),
            recipients: vec!["a@b.example".to_owned()],
            message_id: "x".to_owned(),
            sent: String::new(),
            way: String::new(),
            replies: Vec::new(),
        };
        let headers = Headers::default();
        let seen = Seen::of(sent, &headers, &[&(delivery, headers.clone())]);
        let shown = Report { green: false, notifications: vec![seen] }.to_string();
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(!shown.lines().any(|line| line.starts_with("all green")), "{shown}");
    }
}
