//! What connectors that only observe would have done, out of our own log: the lines `judged ... observed=yes`.
//!
//! In: log lines in any order. Out: an [`Observed`]: for each connector how many messages would have been tagged, refused, signed,
//! and why, beside what the programs of today made of them. Keeps counts and a few queue ids, never a message.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use time::OffsetDateTime;

use super::line::{self, Clock, Line, OWN};
use super::own;
use super::report::instant;
use crate::harmless::harmless;

/// Queue ids kept of each kind.
const EXAMPLES_MAX: usize = 3;
/// Different connectors, reasons, replies or keys that are told apart; what comes after them is counted as `others`.
const KINDS_MAX: usize = 200;
/// What is counted together once there are too many kinds.
const OTHERS: &str = "others";
/// Rows of a table that people are shown.
const ROWS_MAX: usize = 10;

/// How often something happened, and to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Messages.
    pub messages: u64,
    /// Queue ids of the first ones.
    pub examples: Vec<String>,
}

/// What a connector would have done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Connector {
    /// Messages judged for it.
    pub judged: Count,
    /// Inbound ones by the status and reason that they would have been tagged with: `pass dmarc`.
    pub tagged: BTreeMap<String, Count>,
    /// By reply, with addresses, numbers and names taken out.
    pub refused: BTreeMap<String, Count>,
    /// The same for 4xx.
    pub deferred: BTreeMap<String, Count>,
    /// Notifications by the keys that would have signed them: `desk2026/acme.example`, or `sealed` before a content filter.
    pub signed: BTreeMap<String, Count>,
    /// Notifications by the signatures that they had when they came to us: what signs them today.
    pub signed_by_others: BTreeMap<String, Count>,
    /// Inbound ones with a DKIM result of another program on this host: `pass, here pass`.
    pub dkim: BTreeMap<String, Count>,
    /// Messages from which fields that claim to be ours would have been removed.
    pub forged: Count,
}

/// The whole report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// Lines before this were not looked at.
    pub since: String,
    /// By connector. Mail of a domain that is for none of its support addresses stands under the domain.
    pub connectors: BTreeMap<String, Connector>,
}

/// A report under way.
pub struct Observation {
    since: OffsetDateTime,
    clock: Clock,
    observed: Observed,
    understood: u64,
    own: u64,
    lines: u64,
}

impl Observation {
    /// One that has read nothing yet.
    pub fn new(since: OffsetDateTime, clock: Clock) -> Self {
        let observed = Observed { since: instant(since), ..Observed::default() };
        Self { since, clock, observed, understood: 0, own: 0, lines: 0 }
    }

    /// Takes the next line.
    pub fn line(&mut self, line: &str) {
        self.lines = self.lines.saturating_add(1);
        let line = line::as_text(line);
        let Some(line) = Line::parse(&line, &self.clock) else { return };
        self.understood = self.understood.saturating_add(1);
        if line.program != OWN {
            return;
        }
        self.own = self.own.saturating_add(1);
        if line.at < self.since {
            return;
        }
        if let Some((id, "judged", fields)) = own::parts(line.text)
            && fields.get("observed").as_deref() == Some("yes")
        {
            self.observed.judged(id.unwrap_or("-"), &fields);
        }
    }

    /// Whether what was read is no log at all.
    pub fn is_nonsense(&self) -> bool {
        self.understood == 0 && self.lines > 0
    }

    /// Whether no line of deskmilter was read: then it is in another log, and nobody can say what it would have done.
    pub fn is_of_others(&self) -> bool {
        self.own == 0
    }

    /// What was found.
    pub fn report(self) -> Observed {
        self.observed
    }
}

impl Observed {
    fn judged(&mut self, id: &str, fields: &own::Fields<'_>) {
        let get = |name: &str| fields.get(name).filter(|value| !value.is_empty());
        let notification = get("notification");
        let domain = get("domain");
        let names: Vec<String> = match (get("connector"), &notification, &domain) {
            // A notification to a support address of its own is both.
            (Some(names), _, _) => names.split(',').map(str::to_owned).collect(),
            (None, Some(name), _) => vec![name.clone()],
            (None, None, Some(domain)) => vec![format!("others at {domain}")],
            (None, None, None) => return,
        };
        for name in names {
            let connector = entry(&mut self.connectors, name);
            connector.judged.add(id);
            if get("forged").is_some_and(|count| count != "0") {
                connector.forged.add(id);
            }
            match (get("decision").as_deref(), get("reply")) {
                (Some("refused"), Some(reply)) => entry(&mut connector.refused, kind_of(&reply)).add(id),
                (Some("deferred"), Some(reply)) => entry(&mut connector.deferred, kind_of(&reply)).add(id),
                _ => {}
            }
            if notification.is_some() {
                let keys = get("signed").or_else(|| get("decision").filter(|decision| decision == "sealed"));
                entry(&mut connector.signed, keys.unwrap_or_else(|| "none".to_owned())).add(id);
                let others = get("signed_by").unwrap_or_else(|| "none".to_owned());
                entry(&mut connector.signed_by_others, others).add(id);
            }
            if let Some(auth) = get("auth").filter(|_| domain.is_some()) {
                entry(&mut connector.tagged, tag(&auth)).add(id);
                let theirs = get("local_results").and_then(|results| method(&results, "dkim"));
                if let (Some(ours), Some(theirs)) = (method(&auth, "dkim"), theirs) {
                    entry(&mut connector.dkim, format!("{theirs}, here {ours}")).add(id);
                }
            }
        }
    }
}

impl Count {
    fn add(&mut self, id: &str) {
        self.messages = self.messages.saturating_add(1);
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(id.to_owned());
        }
    }
}

fn entry<T: Default>(all: &mut BTreeMap<String, T>, name: String) -> &mut T {
    let known = all.len() < KINDS_MAX || all.contains_key(&name);
    all.entry(if known { name } else { OTHERS.to_owned() }).or_default()
}

/// `pass dmarc` of `pass; reason=dmarc; dmarc=pass; ...`.
fn tag(auth: &str) -> String {
    let status = auth.split(';').next().unwrap_or_default().trim();
    let reason = auth.split("; ").find_map(|part| part.strip_prefix("reason="));
    reason.map_or_else(|| status.to_owned(), |reason| format!("{status} {reason}"))
}

/// The result of a method in `dkim=pass; spf=none`, without what follows it in brackets or after a blank.
fn method(results: &str, method: &str) -> Option<String> {
    results.split("; ").find_map(|result| {
        let (name, result) = result.split_once('=')?;
        let result: String = result.chars().take_while(char::is_ascii_alphanumeric).collect();
        (name == method).then_some(result)
    })
}

/// A reply without what differs from message to message: words with an `@`, a dot or a digit, but for the codes that begin it.
fn kind_of(reply: &str) -> String {
    let words = reply.split_whitespace().enumerate().map(|(n, word)| {
        let is_code = n < 2 && word.chars().all(|c| c.is_ascii_digit() || c == '.');
        let inner = word.trim_matches(|c: char| !c.is_alphanumeric());
        let differs = inner.chars().any(|c| c == '@' || c == '.' || c.is_ascii_digit());
        if differs && !is_code { "..." } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.connectors.is_empty() {
            return writeln!(f, "nothing was observed since {}", self.since);
        }
        writeln!(f, "what connectors with observe = true would have done since {}", self.since)?;
        for (name, connector) in &self.connectors {
            writeln!(f, "\n{}: {} messages judged", harmless(name), connector.judged.messages)?;
            table(f, "tagged", &connector.tagged)?;
            table(f, "DKIM as another program on this host has it, and as we have it", &connector.dkim)?;
            table(f, "notifications signed with", &connector.signed)?;
            table(f, "notifications as they came, signed by", &connector.signed_by_others)?;
            table(f, "refused", &connector.refused)?;
            table(f, "deferred", &connector.deferred)?;
            if connector.forged.messages > 0 {
                let one = BTreeMap::from([("fields that claim to be ours".to_owned(), connector.forged.clone())]);
                table(f, "removed from", &one)?;
            }
        }
        Ok(())
    }
}

fn table(f: &mut fmt::Formatter<'_>, what: &str, rows: &BTreeMap<String, Count>) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(f, "  {what}:")?;
    let mut sorted: Vec<_> = rows.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(count.messages));
    for (row, count) in sorted.iter().take(ROWS_MAX) {
        writeln!(f, "{:>10}  {}  ({})", count.messages, harmless(row), harmless(&count.examples.join(" ")))?;
    }
    match sorted.len().saturating_sub(ROWS_MAX) {
        0 => Ok(()),
        more => writeln!(f, "            and {more} more kinds; --json has them all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::UtcOffset;

    fn report(lines: &[&str]) -> Observed {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(334);
        let clock = Clock { now, zone: |_| UtcOffset::UTC };
        let mut observation = Observation::new(OffsetDateTime::UNIX_EPOCH + time::Duration::days(1), clock);
        lines.iter().for_each(|line| observation.line(line));
        assert!(!observation.is_nonsense());
        observation.report()
    }

    #[test]
    fn each_connector_is_told_what_it_would_have_done_and_what_others_made_of_it() {
        let told = report(&[
            "1969-11-20T10:00:00Z INFO 4A: judged decision=tagged observed=yes connector=acme domain=acme.example auth=\"pass; reason=dmarc\"",
            "1970-11-20T10:00:00Z INFO 4B: judged decision=tagged connector=acme domain=acme.example auth=\"pass; reason=dmarc\"",
            "1970-11-20T10:00:00Z INFO 4C: judged decision=tagged observed=yes connector=acme domain=acme.example \
             from=<observed=yes> auth=\"fail; reason=dmarc; dmarc=fail; dkim=fail\" forged=2 local_results=\"dkim=pass; spf=pass\"",
            "Nov 20 10:00:01 mx deskmilter[7]: 4D: judged decision=refused observed=yes connector=\"\" notification=acme login=desk \
             forged=0 signed_by=mail/acme.example reply=\"550 5.7.1 From address a@b.example is not in acme.example, the domain of connector acme\"",
            "1970-11-20T10:00:02Z INFO 4E: judged decision=signed observed=yes connector=\"\" notification=acme forged=0 signed=desk2026/acme.example",
            "1970-11-20T10:00:02Z INFO 4F: judged decision=tagged observed=yes connector=\"\" domain=acme.example forged=0 auth=\"none; reason=x\"",
            "1970-11-20T10:00:02Z INFO 4G: relay decision=relayed observed=yes connector=acme",
            "no line of a log",
        ]);
        assert_eq!(told.connectors.keys().collect::<Vec<_>>(), ["acme", "others at acme.example"]);
        let acme = &told.connectors["acme"];
        let one = |id: &str| Count { messages: 1, examples: vec![id.to_owned()] };
        assert_eq!((acme.judged.messages, &acme.forged), (3, &one("4C")));
        assert_eq!(acme.tagged, BTreeMap::from([("fail dmarc".to_owned(), one("4C"))]));
        assert_eq!(acme.dkim, BTreeMap::from([("pass, here fail".to_owned(), one("4C"))]));
        let reply = "550 5.7.1 From address ... is not in ... the domain of connector acme";
        assert_eq!(acme.refused, BTreeMap::from([(reply.to_owned(), one("4D"))]));
        assert_eq!(acme.signed["desk2026/acme.example"], one("4E"));
        assert_eq!(acme.signed_by_others["mail/acme.example"], one("4D"));
        let text = told.to_string();
        assert!(
            text.contains("\nacme: 3 messages judged\n") && text.contains("         1  fail dmarc  (4C)\n"),
            "{text}"
        );
        assert!(report(&["1970-11-20T10:00:02Z INFO ready version=1"]).to_string().starts_with("nothing was observed"));
    }

    #[test]
    fn every_form_of_the_log_is_read() {
        for line in [
            "1970-11-20T10:00:00Z INFO 4C: judged decision=refused observed=yes connector=acme reply=\"550 no \\\"a\\\"\"",
            "time=1970-11-20T10:00:00Z level=info queue_id=4C msg=judged decision=refused observed=yes connector=acme reply=\"550 no \\\"a\\\"\"",
            r#"{"time":"1970-11-20T10:00:00Z","level":"info","queue_id":"4C","msg":"judged","decision":"refused","observed":"yes","connector":"acme","reply":"550 no \"a\""}"#,
        ] {
            let told = report(&[line]);
            assert_eq!(told.connectors["acme"].refused["550 no \"a\""].examples, ["4C"], "{line}");
        }
    }

    #[test]
    fn a_flood_of_kinds_is_counted_together() {
        let lines: Vec<String> = (0..5_000)
            .map(|n| {
                format!("1970-11-20T10:00:00Z INFO 4C{n}: judged decision=tagged observed=yes connector=c{n} auth=x")
            })
            .collect();
        let told = report(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(told.connectors.len(), KINDS_MAX + 1);
        assert_eq!(told.connectors[OTHERS].judged.messages, 5_000 - KINDS_MAX as u64);
        assert_eq!(told.connectors[OTHERS].judged.examples.len(), EXAMPLES_MAX);
    }
}
