//! Counts what is logged. A counter can thus never say other than the log, and what happens to mail knows nothing of counters.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::Board;
use super::list::{
    AUTHENTICATION, DNS_FAILURES, DNS_LOOKUPS, FILES_REFUSED, FORGED, HANDED_BACK, JUDGE_SECONDS, JUDGED, LOG_LINES,
    LOGINS, OBSERVED, PRESERVED, RELAY_REPLIES, RELAY_SECONDS, RELAY_TROUBLE, RELAYED, RELOADS, SEALS_REFUSED,
    VERDICTS,
};

/// The target of events that are counted and never written.
const DNS_TARGET: &str = "deskmilter::dns";

/// Events that are counted, by their message.
pub(super) mod messages {
    pub const JUDGED: &str = "judged";
    pub const RELAY: &str = "relay";
    pub const CANNOT_RELAY: &str = ": cannot relay";
    pub const CANNOT_RELAY_NOW: &str = ": cannot relay now";
    pub const CANNOT_HAND_OVER: &str = ": cannot hand over";
    pub const CANNOT_HAND_OVER_NOW: &str = ": cannot hand over now";
    pub const LOGIN_ACCEPTED: &str = "login accepted";
    pub const LOGIN_REFUSED: &str = "login refused";
    pub const LOGIN_NOT_CHECKED: &str = "login not checked; the client has to come again";
    pub const RESTORED: &str = "preserved fields were changed or missing: put back";
    pub const LOST: &str = "preserved fields were changed or missing and cannot be put back";
    pub const SEAL_REFUSED: &str = "seal refused; not signed";
    pub const RELOADED: &str = "configuration reloaded";
    pub const NOT_RELOADED: &str = "configuration not reloaded; the one before stays in force";
    pub const FILE_REFUSED: &str = "a replaced file is not usable; what was read before stays in force";
    pub const DNS_CACHED: &str = "dns cached";
    pub const DNS_ASKED: &str = "dns asked";
    pub const DNS_FAILED: &str = "dns failed";

    #[cfg(test)]
    pub const ALL: &[&str] = &[
        JUDGED,
        RELAY,
        CANNOT_RELAY,
        CANNOT_RELAY_NOW,
        CANNOT_HAND_OVER,
        CANNOT_HAND_OVER_NOW,
        LOGIN_ACCEPTED,
        LOGIN_REFUSED,
        LOGIN_NOT_CHECKED,
        RESTORED,
        LOST,
        SEAL_REFUSED,
        RELOADED,
        NOT_RELOADED,
        FILE_REFUSED,
        DNS_CACHED,
        DNS_ASKED,
        DNS_FAILED,
    ];
}

/// What a judged message comes to.
pub(super) const DECISIONS: [&str; 6] = ["tagged", "passed", "signed", "sealed", "deferred", "refused"];
/// What an attempt to relay comes to.
pub(super) const RELAY_DECISIONS: [&str; 4] = ["relayed", "deferred", "refused", "mixed"];
const STATUSES: [&str; 3] = ["pass", "fail", "none"];
const REASONS: [&str; 11] = [
    "dmarc",
    "dkim-aligned",
    "spf-aligned",
    "spf",
    "smtp-auth",
    "from-missing",
    "from-ambiguous",
    "dns-temporary",
    "nothing-aligned",
    "too-large",
    "local-error",
];
const METHODS: [&str; 4] = ["dmarc", "spf", "dkim", "arc"];
/// RFC 8601 section 2.7.
const RESULTS: [&str; 8] = ["none", "pass", "fail", "softfail", "neutral", "policy", "temperror", "permerror"];
const LOGIN_REASONS: [&str; 4] = ["unknown-user", "revoked", "wrong-password", "not-secured"];
/// Refusals that providers document (`relay::refusal`).
const REFUSALS: [&str; 5] =
    ["smtp_auth_disabled", "platform_blocked", "send_as_denied", "rate_limited", "attachment_refused"];
/// Our own enhanced codes for trouble on the way to a remote server (`relay::failure`), and what each is about.
const CAUSES: [(&str, &str); 11] = [
    ("4.4.3", "name"),
    ("4.4.1", "connect"),
    ("4.4.2", "timeout"),
    ("4.3.2", "busy"),
    ("4.3.5", "password_file"),
    ("4.5.0", "protocol"),
    ("4.7.0", "session"),
    ("4.7.4", "no_auth_or_tls"),
    ("4.7.5", "certificate"),
    ("4.7.8", "credentials"),
    ("4.3.0", "local"),
];
/// How an event ends that tells of an attempt which failed for a reason other than the message.
const TROUBLE: [&str; 4] =
    [messages::CANNOT_RELAY, messages::CANNOT_RELAY_NOW, messages::CANNOT_HAND_OVER, messages::CANNOT_HAND_OVER_NOW];
/// The value of a label for what is in no list.
const OTHER: &str = "other";

/// A layer of the log that counts.
#[derive(Debug, Clone)]
pub struct Counting {
    board: Arc<Board>,
}

impl Counting {
    /// Counts on `board`. What belongs to no connector appears at once, so that its first increase is one that Prometheus sees.
    pub fn new(board: Arc<Board>) -> Self {
        for level in ["error", "warn", "info"] {
            board.add(&LOG_LINES, &[level], 0);
        }
        for result in ["good", "bad"] {
            board.add(&RELOADS, &[result], 0);
        }
        for answered in ["cache", "server"] {
            board.add(&DNS_LOOKUPS, &[answered], 0);
        }
        Self { board }
    }

    /// What of the log it must see, whatever is written of it.
    pub fn targets() -> Targets {
        let others = LevelFilter::WARN;
        Targets::new().with_default(others).with_target("deskmilter", Level::INFO).with_target(DNS_TARGET, Level::TRACE)
    }

    /// As [`Self::new`] does, for the numbers of `connector`, whose mail is relayed `inline` or as `transport`.
    pub fn expect(board: &Board, connector: &str, mode: &str, attachments: &[&str]) {
        for decision in DECISIONS {
            let direction = if matches!(decision, "signed" | "sealed") { "outbound" } else { "inbound" };
            for attachment in attachments {
                board.add(&JUDGED, &[attachment, direction, connector, decision], 0);
            }
        }
        for decision in RELAY_DECISIONS {
            board.add(&RELAYED, &[connector, mode, decision], 0);
        }
        for cause in CAUSES.into_iter().map(|(_, cause)| cause).chain(REFUSALS).chain([OTHER]) {
            board.add(&RELAY_TROUBLE, &[connector, "error", cause], 0);
        }
        for outcome in ["restored", "lost"] {
            board.add(&PRESERVED, &[connector, outcome], 0);
        }
    }

    fn judged(&self, facts: &Facts, attachment: &str) {
        let decision = known(&DECISIONS, &facts.decision);
        let count = |direction, connector: &str| {
            let metric = if facts.observed { &OBSERVED } else { &JUDGED };
            self.board.add(metric, &[attachment, direction, connector, decision], 1);
        };
        for connector in facts.connectors() {
            count("inbound", connector);
        }
        if let Some(connector) = &facts.notification {
            count("outbound", connector);
        } else if facts.connector.is_empty() {
            // Mail for the rest of a connector's domain; mail of the company's own people; what merely passed.
            let direction = match facts.domain {
                true => "inbound",
                false if facts.signed || decision == "sealed" => "outbound",
                false => "none",
            };
            count(direction, "");
        }
        if let Some(auth) = &facts.auth {
            self.verdict(facts, auth);
        }
        // What is only observed was not done, and may be the second line of one message.
        if !facts.observed {
            self.board.observe(&JUDGE_SECONDS, &[attachment], facts.seconds);
            self.board.add(&FORGED, &[], facts.forged);
        }
    }

    /// `pass; reason=dmarc; dmarc=pass; spf=pass; dkim=pass; arc=none; from=a.example`.
    fn verdict(&self, facts: &Facts, auth: &str) {
        let mut words = auth.split("; ");
        let status = known(&STATUSES, words.next().unwrap_or_default());
        let mut reason = OTHER;
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            if key == "reason" {
                reason = known(&REASONS, value);
            } else if let Some(method) = METHODS.into_iter().find(|method| *method == key) {
                self.board.add(&AUTHENTICATION, &[method, known(&RESULTS, value)], u64::from(!facts.observed));
            }
        }
        if facts.domain {
            let mut connectors = facts.connectors().peekable();
            if connectors.peek().is_none() {
                self.board.add(&VERDICTS, &["", status, reason], 1);
            }
            connectors.for_each(|connector| self.board.add(&VERDICTS, &[connector, status, reason], 1));
        }
    }

    fn relayed(&self, facts: &Facts) {
        let connector = facts.connector.as_str();
        let decision = known(&RELAY_DECISIONS, &facts.decision);
        let mode = if facts.inline { "inline" } else { "transport" };
        self.board.add(&RELAYED, &[connector, mode, decision], 1);
        self.board.observe(&RELAY_SECONDS, &[connector], facts.seconds);
        let reply = facts.reply.as_str();
        if reply.starts_with('<') {
            // One for each recipient: `<a@b.example> 250 2.0.0 ok; <c@b.example> 550 5.1.1 no`.
            reply
                .split("; <")
                .filter_map(|part| part.split_once("> "))
                .for_each(|(_, reply)| self.reply(connector, reply));
        } else {
            self.reply(connector, reply);
        }
        if facts.rejected_to {
            self.board.add(&HANDED_BACK, &[connector], 1);
        }
    }

    fn reply(&self, connector: &str, reply: &str) {
        let (class, subject) = classes(reply);
        self.board.add(&RELAY_REPLIES, &[connector, class, subject], 1);
    }

    fn trouble(&self, facts: &Facts, level: Level) {
        let named = facts.cause.as_deref().map(|cause| known(&REFUSALS, cause));
        let code = facts.reply.split(' ').nth(1).unwrap_or_default();
        let own = || CAUSES.iter().find(|(own, _)| *own == code).map_or(OTHER, |(_, cause)| *cause);
        // What the remote server said for a while is passed on with its own code.
        let cause = named.unwrap_or_else(|| if facts.reply.contains(" said: ") { "remote" } else { own() });
        let level = if level == Level::ERROR { "error" } else { "warn" };
        self.board.add(&RELAY_TROUBLE, &[&facts.connector, level, cause], 1);
    }

    fn count(&self, facts: &Facts, level: Level, attachment: &str) {
        let board = &self.board;
        let connector = facts.connector.as_str();
        match facts.message.as_str() {
            messages::JUDGED => self.judged(facts, attachment),
            messages::RELAY => self.relayed(facts),
            messages::LOGIN_ACCEPTED => board.add(&LOGINS, &["accepted", if facts.cached { "cached" } else { "" }], 1),
            messages::LOGIN_REFUSED => board.add(&LOGINS, &["refused", known(&LOGIN_REASONS, &facts.reason)], 1),
            messages::LOGIN_NOT_CHECKED => board.add(&LOGINS, &["unavailable", ""], 1),
            messages::RESTORED => board.add(&PRESERVED, &[connector, "restored"], 1),
            messages::LOST => board.add(&PRESERVED, &[connector, "lost"], 1),
            messages::SEAL_REFUSED => board.add(&SEALS_REFUSED, &[], 1),
            messages::RELOADED => board.add(&RELOADS, &["good"], 1),
            messages::NOT_RELOADED => board.add(&RELOADS, &["bad"], 1),
            messages::FILE_REFUSED => board.add(&FILES_REFUSED, &[], 1),
            other if TROUBLE.iter().any(|trouble| other.ends_with(trouble)) => self.trouble(facts, level),
            _ => {}
        }
    }
}

impl<S: Subscriber + for<'l> LookupSpan<'l>> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut facts = Facts::default();
        if event.metadata().target() == DNS_TARGET {
            event.record(&mut facts);
            match facts.message.as_str() {
                messages::DNS_CACHED => self.board.add(&DNS_LOOKUPS, &["cache"], 1),
                messages::DNS_ASKED => self.board.add(&DNS_LOOKUPS, &["server"], 1),
                messages::DNS_FAILED => self.board.add(&DNS_FAILURES, &[], 1),
                _ => {}
            }
            return;
        }
        let word = match level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            _ => "info",
        };
        self.board.add(&LOG_LINES, &[word], 1);
        event.record(&mut facts);
        // Attachments have messages judged in a span of their own name.
        let span = context.event_span(event);
        self.count(&facts, level, span.as_ref().map_or("", |span| span.name()));
    }
}

/// What an event says, as far as it is counted.
#[derive(Debug, Default)]
struct Facts {
    message: String,
    connector: String,
    notification: Option<String>,
    decision: String,
    auth: Option<String>,
    reply: String,
    cause: Option<String>,
    reason: String,
    /// Somebody of a connector's domain is among the recipients.
    domain: bool,
    signed: bool,
    /// It only says what would have been done.
    observed: bool,
    inline: bool,
    rejected_to: bool,
    cached: bool,
    forged: u64,
    seconds: f64,
}

impl Facts {
    /// Those of `acme,beta`.
    fn connectors(&self) -> impl Iterator<Item = &str> {
        self.connector.split(',').filter(|name| !name.is_empty())
    }
}

impl Visit for Facts {
    fn record_str(&mut self, field: &Field, value: &str) {
        let text = || value.to_owned();
        match field.name() {
            "connector" => self.connector = text(),
            "notification" => self.notification = Some(text()),
            "decision" => self.decision = text(),
            "auth" => self.auth = Some(text()).filter(|auth| auth != "-"),
            "reply" => self.reply = text(),
            "cause" => self.cause = Some(text()),
            "reason" => self.reason = text(),
            "domain" => self.domain = true,
            "signed" => self.signed = true,
            "observed" => self.observed = true,
            "note" => self.inline = value.starts_with("inline"),
            "rejected_to" => self.rejected_to = true,
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "forged" => self.forged = value,
            "delay_ms" => self.seconds = value as f64 / 1_000.0,
            _ => {}
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.cached |= value && field.name() == "cached";
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let target = match field.name() {
            "message" => &mut self.message,
            "reply" => &mut self.reply,
            "connector" => &mut self.connector,
            "reason" => &mut self.reason,
            _ => return,
        };
        // Writing to a String does not fail.
        let _ = write!(target, "{value:?}");
    }
}

/// `value`, if it is one of `list`.
fn known(list: &[&'static str], value: &str) -> &'static str {
    list.iter().find(|known| **known == value).copied().unwrap_or(OTHER)
}

/// The class of a reply and the subject of its enhanced code (RFC 3463): `4xx` and `4.7` of `451 4.7.8 no`.
fn classes(reply: &str) -> (&'static str, &'static str) {
    const SUBJECTS: [[&str; 8]; 3] = [
        ["2.0", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7"],
        ["4.0", "4.1", "4.2", "4.3", "4.4", "4.5", "4.6", "4.7"],
        ["5.0", "5.1", "5.2", "5.3", "5.4", "5.5", "5.6", "5.7"],
    ];
    let (class, subjects) = match reply.as_bytes().first() {
        Some(b'2') => ("2xx", 0),
        Some(b'4') => ("4xx", 1),
        Some(b'5') => ("5xx", 2),
        _ => return (OTHER, ""),
    };
    let enhanced = reply.split(' ').nth(1).unwrap_or_default();
    let is_code = enhanced.split('.').count() == 3;
    let subjects = SUBJECTS.get(subjects).into_iter().flatten();
    let subject = subjects
        .filter(|subject| is_code && enhanced.strip_prefix(**subject).is_some_and(|rest| rest.starts_with('.')));
    (class, subject.copied().next().unwrap_or_default())
}
