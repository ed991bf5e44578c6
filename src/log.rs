//! The log: one line an event, queue id first, so that `grep QUEUEID` over the MTA's log and ours tells one story.
//!
//! ```text
//! 4XYZ12: judged decision=tagged connector=acme client=192.0.2.1 auth="pass; reason=dmarc; ..."
//! ```
//! Where lines go (standard error, syslog) is configuration; what stands in them is decided where the event happens.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::config::{Log, LogTarget};

/// Octets of one value at most; what is longer is cut and ends in `...`.
const VALUE_MAX: usize = 1_024;

/// Starts logging for the whole process.
///
/// # Errors
/// No system log to connect to, or logging was started before.
pub fn start(log: &Log) -> Result<(), String> {
    let output = match log.target {
        LogTarget::Stderr => Output::Stderr,
        LogTarget::Syslog => Output::Syslog(Mutex::new(connect_syslog()?)),
    };
    // Libraries below are as quiet as they can be: only warnings and errors of theirs are of use to a postmaster.
    let others = LevelFilter::from_level(Level::WARN.min(log.level));
    let targets = tracing_subscriber::filter::Targets::new().with_default(others).with_target("deskmilter", log.level);
    let subscriber = tracing_subscriber::registry().with(Lines { output }.with_filter(targets));
    tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())
}

type SyslogLogger = syslog::Logger<syslog::LoggerBackend, syslog::Formatter3164>;

fn connect_syslog() -> Result<SyslogLogger, String> {
    let formatter = syslog::Formatter3164 {
        facility: syslog::Facility::LOG_MAIL,
        hostname: None,
        process: "deskmilter".to_owned(),
        pid: std::process::id(),
    };
    syslog::unix(formatter)
        .map_err(|error| format!("no system log: {error}; start one, or set log.target = \"stderr\""))
}

struct Lines {
    output: Output,
}

enum Output {
    Stderr,
    Syslog(Mutex<SyslogLogger>),
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.output.write(*event.metadata().level(), &line.to_string());
    }
}

impl Output {
    fn write(&self, level: Level, text: &str) {
        match self {
            Self::Stderr => {
                let now =
                    OffsetDateTime::now_utc().replace_nanosecond(0).ok().and_then(|now| now.format(&Rfc3339).ok());
                // Nobody can be told that standard error is gone.
                let _ = std::io::stderr().write_all(format!("{} {level} {text}\n", now.unwrap_or_default()).as_bytes());
            }
            Self::Syslog(logger) => {
                let mut logger = logger.lock().unwrap_or_else(PoisonError::into_inner);
                if send(&mut logger, level, text).is_ok() {
                    return;
                }
                // The system log was restarted: connect anew, and rather tell standard error than nobody.
                match connect_syslog() {
                    Ok(fresh) => {
                        *logger = fresh;
                        if send(&mut logger, level, text).is_err() {
                            Self::Stderr.write(level, text);
                        }
                    }
                    Err(_) => Self::Stderr.write(level, text),
                }
            }
        }
    }
}

fn send(logger: &mut SyslogLogger, level: Level, text: &str) -> Result<(), syslog::Error> {
    match level {
        Level::ERROR => logger.err(text),
        Level::WARN => logger.warning(text),
        Level::INFO => logger.info(text),
        Level::DEBUG | Level::TRACE => logger.debug(text),
    }
}

/// An event on its way to text.
#[derive(Default)]
struct Line {
    queue_id: Option<String>,
    message: String,
    fields: String,
}

impl Line {
    fn field(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = clean(&value),
            "queue_id" => self.queue_id = Some(clean(&value)),
            name => {
                // Writing to a String does not fail.
                let _ = write!(self.fields, " {name}={}", quoted(&value));
            }
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.field(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, format!("{value:?}"));
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(queue_id) = &self.queue_id {
            write!(f, "{queue_id}: ")?;
        }
        write!(f, "{}{}", self.message, self.fields)
    }
}

/// A value as logfmt has it: bare where that is unambiguous, else in quotes. Nothing in it can begin another line.
fn quoted(value: &str) -> String {
    let value = clean(value);
    let bare = !value.is_empty() && value.chars().all(|c| !c.is_whitespace() && c != '"' && c != '=' && c != '\\');
    if bare { value } else { format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// `text` without control characters, cut to length.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(VALUE_MAX));
    for c in text.chars() {
        if clean.len() >= VALUE_MAX {
            clean.push_str("...");
            break;
        }
        clean.push(if c.is_control() { '?' } else { c });
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_a_stranger_stays_in_its_place() {
        assert_eq!(quoted("plain@b.example"), "plain@b.example");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("a b=\"c\""), "\"a b=\\\"c\\\"\"");
        assert_eq!(quoted("a\r\n4XYZ: judged"), "\"a??4XYZ: judged\"");
        assert!(quoted(&"x".repeat(5_000)).len() < 1_100);
    }
}
