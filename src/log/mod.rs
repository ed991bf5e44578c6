//! The log: one line an event, queue id first, so that `grep QUEUEID` over the MTA's log and ours tells one story.
//!
//! ```text
//! 4XYZ12: judged decision=tagged connector=acme client=192.0.2.1 auth="pass; reason=dmarc; ..."
//! ```
//! Where lines go (standard error, syslog, the journal) and how they are written there is configuration; what stands in them is
//! decided where the event happens. In: events. Out: [`line::Line`]s, in which no value can begin another line, at a target. What is
//! counted of them is the business of [`status`](crate::status).

mod journal;
mod line;

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::config::{Log, LogFormat, LogTarget};
use crate::status::list::LOG_LINES_DROPPED;
use crate::status::{Board, Counting};
use journal::Journal;
use line::Line;

/// Starts logging for the whole process, and counting on `board` what is logged.
///
/// # Errors
/// No system log to connect to, or logging was started before.
pub fn start(log: &Log, board: &Arc<Board>) -> Result<(), String> {
    let output = match log.target {
        LogTarget::Stderr => Output::Stderr(log.format),
        LogTarget::Syslog => Output::Syslog(Mutex::new(connect_syslog()?)),
        LogTarget::Journald => Output::Journald(Journal::connect()?),
    };
    // Libraries below are as quiet as they can be: only warnings and errors of theirs are of use to a postmaster.
    let others = LevelFilter::from_level(Level::WARN.min(log.level));
    let targets = Targets::new().with_default(others).with_target("deskmilter", log.level);
    let lines = Lines { output, board: Arc::clone(board) }.with_filter(targets);
    let counting = Counting::new(Arc::clone(board)).with_filter(Counting::targets());
    let subscriber = tracing_subscriber::registry().with(lines).with(counting);
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
    board: Arc<Board>,
}

enum Output {
    Stderr(LogFormat),
    Syslog(Mutex<SyslogLogger>),
    Journald(Journal),
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if self.output.write(*event.metadata().level(), &line).is_err() {
            self.board.add(&LOG_LINES_DROPPED, &[], 1);
        }
    }
}

/// The line is nowhere.
struct Dropped;

impl Output {
    fn write(&self, level: Level, line: &Line) -> Result<(), Dropped> {
        match self {
            Self::Stderr(format) => write_stderr(level, line, *format),
            Self::Syslog(logger) => {
                let text = line.to_string();
                let mut logger = logger.lock().unwrap_or_else(PoisonError::into_inner);
                if send(&mut logger, level, &text).is_ok() {
                    return Ok(());
                }
                // The system log was restarted: connect anew, and rather tell standard error than nobody.
                if let Ok(fresh) = connect_syslog() {
                    *logger = fresh;
                    if send(&mut logger, level, &text).is_ok() {
                        return Ok(());
                    }
                }
                write_stderr(level, line, LogFormat::Text)
            }
            Self::Journald(journal) => {
                journal.send(level, line).or_else(|_| write_stderr(level, line, LogFormat::Text))
            }
        }
    }
}

fn write_stderr(level: Level, line: &Line, format: LogFormat) -> Result<(), Dropped> {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).ok().and_then(|now| now.format(&Rfc3339).ok());
    let now = now.unwrap_or_default();
    let text = match format {
        LogFormat::Text => format!("{now} {level} {line}\n"),
        LogFormat::Logfmt => format!("{}\n", line.logfmt(&now, level)),
        LogFormat::Json => format!("{}\n", line.json(&now, level)),
    };
    std::io::stderr().write_all(text.as_bytes()).map_err(|_| Dropped)
}

fn send(logger: &mut SyslogLogger, level: Level, text: &str) -> Result<(), syslog::Error> {
    match level {
        Level::ERROR => logger.err(text),
        Level::WARN => logger.warning(text),
        Level::INFO => logger.info(text),
        Level::DEBUG | Level::TRACE => logger.debug(text),
    }
}

/// One line of a relayed message in each form, as standard error has it.
#[cfg(test)]
pub(crate) fn tests_line() -> [String; 3] {
    line::tests::relayed()
}
