//! `[log]`: where lines go, and in which form.

use std::fmt;

use serde::Deserialize;
use toml::Spanned;
use tracing::Level;

use super::check::Check;

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Where to.
    pub target: LogTarget,
    /// In which form lines stand on standard error.
    pub format: LogFormat,
    /// `error`, `warn`, `info` or `debug`.
    pub level: Level,
}

/// `log.target`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error, a line an event.
    Stderr,
    /// The system log, facility mail.
    Syslog,
    /// systemd's journal, with every field by its name.
    Journald,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Queue id, message, fields: as the system log has it.
    Text,
    /// `key=value` throughout.
    Logfmt,
    /// A JSON object a line.
    Json,
}

const TARGETS: [(&str, LogTarget); 3] =
    [("stderr", LogTarget::Stderr), ("syslog", LogTarget::Syslog), ("journald", LogTarget::Journald)];
const FORMATS: [(&str, LogFormat); 3] =
    [("text", LogFormat::Text), ("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json)];
const LEVELS: [(&str, Level); 4] =
    [("error", Level::ERROR), ("warn", Level::WARN), ("info", Level::INFO), ("debug", Level::DEBUG)];

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Raw {
    target: Option<Spanned<String>>,
    format: Option<Spanned<String>>,
    level: Option<Spanned<String>>,
}

impl Check<'_, '_> {
    pub(super) fn log(&mut self, raw: Raw) -> Option<Log> {
        let target = self.choice("log.target", raw.target, LogTarget::Stderr, &TARGETS)?;
        let said = raw.format.as_ref().map(Spanned::span);
        let format = self.choice("log.format", raw.format, LogFormat::Text, &FORMATS)?;
        if let Some(span) = said.filter(|_| target != LogTarget::Stderr && format != LogFormat::Text) {
            self.note(
                span,
                "log.format",
                "only lines on standard error have a choice; remove it, or set target = \"stderr\"",
            );
        }
        let level = self.choice("log.level", raw.level, Level::INFO, &LEVELS)?;
        Some(Log { target, format, level })
    }
}

impl Log {
    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = name(&TARGETS, self.target);
        writeln!(f, "\n[log]\ntarget = {target:?}")?;
        if self.target == LogTarget::Stderr {
            writeln!(f, "format = {:?}", name(&FORMATS, self.format))?;
        }
        writeln!(f, "level = {:?}", name(&LEVELS, self.level))
    }
}

fn name<T: PartialEq>(names: &[(&'static str, T)], wanted: T) -> &'static str {
    names.iter().find(|(_, value)| *value == wanted).map_or("", |(name, _)| name)
}
