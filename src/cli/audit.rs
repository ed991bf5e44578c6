//! `deskmilter audit`: reads the logs and says what became of every message for a support address.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use time::OffsetDateTime;

use super::logs::{self, BOTH_OF_JOURNAL, Source, clock, instant};
use super::{ConfigFile, EX_CONFIG, EX_DATAERR, complain, say};
use crate::audit::{Audit, Scope, Tickets};
use crate::config::{Config, Connector};
use crate::mail::Address;

/// Octets of a ticket.json at most.
const TICKET_MAX: u64 = 16 * 1024 * 1024;
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
        complain(&format!("deskmilter audit: {problem}"));
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
        complain(&format!("deskmilter audit: no connector of {} relays to an endpoint", args.file.config.display()));
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
    let mut take = |line: &str| audit.line(line).map_err(|error| error.to_string());
    for source in &args.log {
        logs::read(source, &["--unit=deskmilter"], Some(args.since), &mut take)?;
    }
    let postfix = if args.postfix_log.is_empty() { vec![logs::mail_log()] } else { args.postfix_log.clone() };
    for source in &postfix {
        // Lines of deskmilter that were read above are not to be read twice.
        let of_journal = if args.log.is_empty() { &BOTH_OF_JOURNAL[..] } else { &["SYSLOG_FACILITY=2"] };
        logs::read(source, of_journal, Some(args.since), &mut take)?;
    }
    if audit.is_nonsense() {
        return Err("no line is of a known format; see docs/audit.md for those that are".to_owned());
    }
    let tickets = args.tickets.as_deref().map(tickets).transpose()?;
    Ok(audit.report(tickets.as_ref()))
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
