//! The log: one line an event, queue id first, so that `grep QUEUEID` over the MTA's log and ours tells one story.
//!
//! ```text
//! 4XYZ12: judged decision=tagged connector=acme client=192.0.2.1 auth="pass; reason=dmarc; ..."
//! ```
//! Where lines go (standard error, syslog, the journal) and how they are written there is configuration; what stands in them is
//! decided where the event happens. In: events. Out: [`line::Line`]s, in which no value can begin another line, at a target. A target
//! that hangs holds up one line for five seconds, and mail no longer than that. What is counted of lines is the business of
//! [`status`](crate::status).

mod journal;
mod line;
mod socket;
mod stderr;
mod syslog;

use std::io;
use std::sync::Arc;

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
use stderr::{Dropped, Stderr};
use syslog::Syslog;

/// Starts logging for the whole process, and counting on `board` what is logged.
///
/// # Errors
/// No system log to connect to, or logging was started before.
pub fn start(log: &Log, board: &Arc<Board>) -> Result<(), String> {
    let output = match log.target {
        LogTarget::Stderr => Output::Stderr(log.format),
        LogTarget::Syslog => Output::Syslog(Syslog::connect()?),
        LogTarget::Journald => Output::Journald(Journal::connect()?),
    };
    // Libraries below are as quiet as they can be: only warnings and errors of theirs are of use to a postmaster.
    let others = LevelFilter::from_level(Level::WARN.min(log.level));
    let targets = Targets::new().with_default(others).with_target("deskmilter", log.level);
    let stderr = Stderr::new(io::stderr());
    let lines = Lines { output, stderr, board: Arc::clone(board) }.with_filter(targets);
    let counting = Counting::new(Arc::clone(board)).with_filter(Counting::targets());
    let subscriber = tracing_subscriber::registry().with(lines).with(counting);
    tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())
}

struct Lines {
    output: Output,
    /// Where lines go that the target does not take: rather there than nowhere.
    stderr: Stderr<io::Stderr>,
    board: Arc<Board>,
}

enum Output {
    Stderr(LogFormat),
    Syslog(Syslog),
    Journald(Journal),
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if self.write(*event.metadata().level(), &line).is_err() {
            self.board.add(&LOG_LINES_DROPPED, &[], 1);
        }
    }
}

impl Lines {
    fn write(&self, level: Level, line: &Line) -> Result<(), Dropped> {
        let (sent, format) = match &self.output {
            Output::Stderr(format) => (false, *format),
            Output::Syslog(syslog) => (syslog.send(level, &line.to_string()).is_ok(), LogFormat::Text),
            Output::Journald(journal) => (journal.send(level, line).is_ok(), LogFormat::Text),
        };
        if sent { Ok(()) } else { self.stderr.write(&on_stderr(level, line, format)) }
    }
}

/// With time and level, and a line feed.
fn on_stderr(level: Level, line: &Line, format: LogFormat) -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).ok().and_then(|now| now.format(&Rfc3339).ok());
    let now = now.unwrap_or_default();
    match format {
        LogFormat::Text => format!("{now} {level} {line}\n"),
        LogFormat::Logfmt => format!("{}\n", line.logfmt(&now, level)),
        LogFormat::Json => format!("{}\n", line.json(&now, level)),
    }
}

/// One line of a relayed message in each form, as standard error has it.
#[cfg(test)]
pub(crate) fn tests_line() -> [String; 3] {
    line::tests::relayed()
}
