//! Logs as a postmaster names them: files, compressed or not, standard input, the journal.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use time::{OffsetDateTime, UtcOffset};

use crate::audit::{Clock, parse_time};

/// What the journal is asked for to have the lines of Postfix and deskmilter: both use the mail facility, but for deskmilter's standard
/// error.
pub(super) const BOTH_OF_JOURNAL: [&str; 3] = ["SYSLOG_FACILITY=2", "+", "_SYSTEMD_UNIT=deskmilter.service"];

/// Octets of a log line that are looked at; the rest is passed over.
const LINE_MAX: u64 = 64 * 1024;
/// Where Postfix's log is unless told: the first one that is there, else the journal.
const POSTFIX_LOGS: [&str; 2] = ["/var/log/mail.log", "/var/log/maillog"];
/// How a compressed log begins, and what opens it.
const COMPRESSED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gzip"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2")];

/// Where lines come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf),
    StandardInput,
    Journal,
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        match text {
            "-" => Self::StandardInput,
            "journal" => Self::Journal,
            path => Self::File(path.into()),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::StandardInput => f.write_str("standard input"),
            Self::Journal => f.write_str("the journal"),
        }
    }
}

/// The system's mail log, where none is named.
pub(super) fn mail_log() -> Source {
    let found = POSTFIX_LOGS.iter().find(|path| Path::new(path).exists());
    found.map_or(Source::Journal, |path| Source::from(*path))
}

/// This host's time.
pub(super) fn clock() -> Clock {
    // Before any thread is there: the zone of this host, as system logs use it.
    let zone = |at: time::PrimitiveDateTime| UtcOffset::local_offset_at(at.assume_utc()).unwrap_or(UtcOffset::UTC);
    Clock { now: OffsetDateTime::now_utc(), zone }
}

/// A time on the command line.
pub(super) fn instant(text: &str) -> Result<OffsetDateTime, String> {
    parse_time(text, &clock())
}

/// Gives all lines of a source to `take`. Of the journal those that `of_journal` selects, from `since` on.
///
/// # Errors
/// The source cannot be read, or `take` says so.
pub(super) fn read(
    source: &Source,
    of_journal: &[&str],
    since: Option<OffsetDateTime>,
    take: &mut dyn FnMut(&str) -> Result<(), String>,
) -> Result<(), String> {
    match source {
        Source::StandardInput => feed(&mut io::stdin().lock(), "standard input", take),
        Source::File(path) => file(path, take),
        Source::Journal => {
            let mut command = Command::new("journalctl");
            command.args(["--no-pager", "--quiet", "--output=short-iso"]).args(of_journal);
            command.args(since.map(|since| format!("--since=@{}", since.unix_timestamp())));
            said_by(command, "journalctl", take)
        }
    }
}

/// Copies what can be read only once (a pipe, the journal) into a file without a name, so that it can be read again.
///
/// # Errors
/// It cannot be read, or there is no room in the folder for temporary files.
pub(super) fn keep(source: &Source, of_journal: &[&str], since: Option<OffsetDateTime>) -> Result<File, String> {
    let failed = |error: io::Error| format!("a copy of {source} in {}: {error}", std::env::temp_dir().display());
    let mut copy = io::BufWriter::new(tempfile::tempfile().map_err(failed)?);
    read(source, of_journal, since, &mut |line| {
        copy.write_all(line.as_bytes()).and_then(|()| copy.write_all(b"\n")).map_err(failed)
    })?;
    copy.into_inner().map_err(|error| failed(error.into_error()))
}

/// Gives all lines of a copy to `take`, from the beginning.
///
/// # Errors
/// As [`read`].
pub(super) fn read_copy(copy: &mut File, take: &mut dyn FnMut(&str) -> Result<(), String>) -> Result<(), String> {
    copy.rewind().map_err(|error| format!("a copy of a log: {error}"))?;
    feed(&mut BufReader::with_capacity(LINE_MAX as usize, copy), "a copy of a log", take)
}

fn file(path: &Path, take: &mut dyn FnMut(&str) -> Result<(), String>) -> Result<(), String> {
    let name = path.display().to_string();
    let failed = |error: io::Error| format!("{name}: {error}");
    let mut file = File::open(path).map_err(|error| format!("{name}: {error}{}", remedy(&error)))?;
    if !file.metadata().map_err(failed)?.is_file() {
        return feed(&mut BufReader::with_capacity(LINE_MAX as usize, file), &name, take);
    }
    let mut head = Vec::new();
    (&mut file).take(8).read_to_end(&mut head).map_err(failed)?;
    file.rewind().map_err(failed)?;
    match COMPRESSED.iter().find(|(mark, _)| head.starts_with(mark)) {
        None => feed(&mut BufReader::with_capacity(LINE_MAX as usize, file), &name, take),
        Some((_, program)) => {
            let mut command = Command::new(program);
            command.args(["-d", "-c"]).stdin(file);
            said_by(command, program, take).map_err(|error| format!("{name}: {error}"))
        }
    }
}

/// What to do about a log that cannot be opened.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "; name a log that is there, or \"journal\"",
        ErrorKind::IsADirectory => "; name a file in it",
        ErrorKind::PermissionDenied => "; run this as root, or as a member of the group that may read it",
        _ => "",
    }
}

fn said_by(mut command: Command, name: &str, take: &mut dyn FnMut(&str) -> Result<(), String>) -> Result<(), String> {
    let failed = |error: io::Error| format!("{name}: {error}");
    if name == "journalctl" {
        command.stdin(Stdio::null());
    }
    let absent = |error: io::Error| match (error.kind(), name) {
        (ErrorKind::NotFound, "journalctl") => "no journalctl on this host; name a log by --log".to_owned(),
        (ErrorKind::NotFound, _) => {
            format!("no {name} on this host to open it; install it, or unpack the file elsewhere")
        }
        _ => failed(error),
    };
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(absent)?;
    let fed = match child.stdout.take() {
        Some(lines) => feed(&mut BufReader::with_capacity(LINE_MAX as usize, lines), name, take),
        None => Ok(()),
    };
    let status = child.wait().map_err(failed)?;
    fed?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}")) }
}

fn feed(lines: &mut impl BufRead, name: &str, take: &mut dyn FnMut(&str) -> Result<(), String>) -> Result<(), String> {
    let failed = |error: io::Error| format!("{name}: {error}{}", remedy(&error));
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.take(LINE_MAX).read_until(b'\n', &mut line).map_err(failed)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == LINE_MAX {
            skip_line(lines).map_err(failed)?;
        }
        let text = String::from_utf8_lossy(&line);
        // What journalctl says of itself, and empty lines, are no lines of a log.
        let text = text.trim_end_matches(['\r', '\n']);
        if !text.is_empty() && !text.starts_with("-- ") {
            take(text)?;
        }
    }
}

/// Passes over the rest of a line, whatever its length, without keeping it.
fn skip_line(lines: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = lines.fill_buf()?;
        let (count, done) = match memchr::memchr(b'\n', buffer) {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        lines.consume(count);
        if done {
            return Ok(());
        }
    }
}
