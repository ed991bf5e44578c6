//! `deskmilter audit`: reads the logs and says what became of every message for a support address.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use time::{OffsetDateTime, UtcOffset};

use super::{ConfigFile, EX_CONFIG, EX_DATAERR, say};
use crate::audit::{Audit, Clock, Scope, Tickets, parse_time};
use crate::config::{Config, Connector};
use crate::mail::Address;

/// Octets of a log line that are looked at; the rest is passed over.
const LINE_MAX: u64 = 64 * 1024;
/// Octets of a ticket.json at most.
const TICKET_MAX: u64 = 16 * 1024 * 1024;
/// Where Postfix's log is unless told: the first one that is there, else the journal.
const POSTFIX_LOGS: [&str; 2] = ["/var/log/mail.log", "/var/log/maillog"];

/// Reconcile Postfix's log with deskmilter's: what became of every message for a support address. Exits with 0 when nothing is
/// lost, 1 when something is
#[derive(Debug, Clone, clap::Args)]
pub struct AuditArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Messages accepted from then on: 2026-11-22, "2026-11-22 08:00", 2026-11-22T08:00:00Z, today, yesterday, 30m, 2h, 3d
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: OffsetDateTime,
    /// Messages accepted until then; what became of them later still counts
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<OffsetDateTime>,
    /// Postfix's log: a file, - for standard input, or journal; may be repeated, oldest first. Unless given, /var/log/mail.log,
    /// /var/log/maillog or the journal
    #[arg(long, value_name = "FILE")]
    postfix_log: Vec<Source>,
    /// deskmilter's log: a file, or journal; may be repeated, oldest first. Unless given, its lines are in Postfix's log
    #[arg(long, value_name = "FILE")]
    log: Vec<Source>,
    /// Support address; may be repeated. Unless given, those of the configuration
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    address: Vec<Address>,
    /// State folder of the sandbox: compare with its tickets
    #[arg(long, value_name = "DIR")]
    tickets: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Where lines come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf),
    StandardInput,
    Journal,
}

impl Source {
    /// The mail log of this host: the first file that is there, else the journal.
    pub(super) fn of_mail() -> Self {
        let found = POSTFIX_LOGS.iter().find(|path| Path::new(path).exists());
        found.map_or(Self::Journal, |path| Self::from(*path))
    }
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

pub(super) fn clock() -> Clock {
    // Before any thread is there: the zone of this host, as system logs use it.
    let zone = |at: time::PrimitiveDateTime| UtcOffset::local_offset_at(at.assume_utc()).unwrap_or(UtcOffset::UTC);
    Clock { now: OffsetDateTime::now_utc(), zone }
}

pub(super) fn instant(text: &str) -> Result<OffsetDateTime, String> {
    parse_time(text, &clock())
}

fn address(text: &str) -> Result<Address, String> {
    Address::parse(text).map_err(|error| error.to_string())
}

/// Runs it. Exits with 0 or 1 by what it found, 65 when a log or the tickets cannot be read, 78 when the configuration is wrong.
pub(super) fn run(args: &AuditArgs) -> ExitCode {
    let scope = match scope(args) {
        Ok(scope) => scope,
        Err(code) => return code,
    };
    let told = audit(args, scope).and_then(|report| {
        let text = if args.json {
            serde_json::to_string_pretty(&report).map_err(|error| error.to_string())? + "\n"
        } else {
            report.to_string()
        };
        say(&text);
        Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    });
    told.unwrap_or_else(|problem| {
        eprintln!("deskmilter audit: {problem}");
        ExitCode::from(EX_DATAERR)
    })
}

fn scope(args: &AuditArgs) -> Result<Scope, ExitCode> {
    let (since, until) = (args.since, args.until);
    if !args.address.is_empty() {
        let own = args.address.clone();
        let supports = move |text: &str| Address::parse(text).is_ok_and(|address| own.contains(&address));
        return Ok(Scope { since, until, supports: Box::new(supports), sockets: Vec::new() });
    }
    let config: Config = args.file.load()?.acting();
    let connectors: Vec<_> = config.connectors.into_iter().filter(|connector| connector.endpoint.is_some()).collect();
    if connectors.is_empty() {
        eprintln!("deskmilter audit: no connector of {} relays to an endpoint", args.file.config.display());
        return Err(ExitCode::from(EX_CONFIG));
    }
    let sockets = connectors.iter().map(|connector| format!("{}.sock", connector.name)).collect();
    let supports = move |text: &str| {
        let supported = |address| connectors.iter().any(|connector| Connector::supports(connector, &address));
        Address::parse(text).is_ok_and(supported)
    };
    Ok(Scope { since, until, supports: Box::new(supports), sockets })
}

fn audit(args: &AuditArgs, scope: Scope) -> Result<crate::audit::Report, String> {
    if args.until.is_some_and(|until| until < args.since) {
        return Err("--until is before --since".to_owned());
    }
    let mut audit = Audit::new(scope, clock());
    for source in &args.log {
        read(source, &["--unit=deskmilter"], args.since, &mut |line| take(&mut audit, line))?;
    }
    let postfix = if args.postfix_log.is_empty() { vec![Source::of_mail()] } else { args.postfix_log.clone() };
    for source in &postfix {
        // Both write to the mail facility.
        read(source, &["SYSLOG_FACILITY=2"], args.since, &mut |line| take(&mut audit, line))?;
    }
    if audit.is_nonsense() {
        return Err("no line is of a known format; see docs/audit.md for those that are".to_owned());
    }
    let tickets = args.tickets.as_deref().map(tickets).transpose()?;
    Ok(audit.report(tickets.as_ref()))
}

fn take(audit: &mut Audit, line: &str) -> Result<(), String> {
    audit.line(line).map_err(|error| error.to_string())
}

/// What takes the lines of a log; an error ends the reading.
pub(super) type Take<'t> = &'t mut dyn FnMut(&str) -> Result<(), String>;

/// Feeds all lines of a source; of the journal those since then that `of_journal` selects.
pub(super) fn read(source: &Source, of_journal: &[&str], since: OffsetDateTime, take: Take<'_>) -> Result<(), String> {
    match source {
        Source::StandardInput => feed(&mut io::stdin().lock(), "standard input", take),
        Source::File(path) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| format!("{name}: {error}"))?;
            feed(&mut BufReader::with_capacity(LINE_MAX as usize, file), &name, take)
        }
        Source::Journal => {
            let mut command = Command::new("journalctl");
            command.args(["--no-pager", "--quiet", "--output=short-iso"]).args(of_journal);
            command.arg(format!("--since=@{}", since.unix_timestamp()));
            let failed = |error: io::Error| format!("journalctl: {error}");
            let mut child: Child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
            if let Some(lines) = child.stdout.take() {
                feed(&mut BufReader::new(lines), "journalctl", take)?;
            }
            let status = child.wait().map_err(failed)?;
            if status.success() { Ok(()) } else { Err(format!("journalctl: {status}")) }
        }
    }
}

fn feed(lines: &mut impl BufRead, name: &str, take: Take<'_>) -> Result<(), String> {
    let failed = |error: io::Error| format!("{name}: {error}");
    let mut line = Vec::new();
    let mut first = true;
    loop {
        line.clear();
        if lines.take(LINE_MAX).read_until(b'\n', &mut line).map_err(failed)? == 0 {
            return Ok(());
        }
        if first && line.starts_with(&[0x1f, 0x8b]) {
            return Err(format!("{name}: compressed; use: zcat FILE, and - in the place of the file"));
        }
        first = false;
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

/// The tickets in a sandbox's state folder, or in its folder of tickets.
fn tickets(directory: &Path) -> Result<Tickets, String> {
    let inner = directory.join("tickets");
    let directory = if inner.is_dir() { inner } else { directory.to_owned() };
    let failed = |error: io::Error| format!("{}: {error}", directory.display());
    let mut tickets = Tickets::default();
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // What has another name is still arriving.
        if entry.file_name().to_str().is_none_or(|name| name.parse::<u64>().is_err()) {
            continue;
        }
        let mut json = Vec::new();
        let read = File::open(entry.path().join("ticket.json"));
        match read.and_then(|file| file.take(TICKET_MAX).read_to_end(&mut json)) {
            Ok(_) => tickets.add(&json),
            Err(_) => tickets.damaged = tickets.damaged.saturating_add(1),
        }
    }
    Ok(tickets)
}
