//! `deskmilter observe`: what connectors with `observe = true` would have done.

use std::process::ExitCode;

use clap::Subcommand;
use time::OffsetDateTime;

use super::logs::{self, Source, clock, instant};
use super::{EX_DATAERR, complain, say};
use crate::audit::Observation;

/// Tell what connectors with `observe = true` would have done
#[derive(Debug, Clone, clap::Args)]
pub struct ObserveArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Count, from the log, what would have been tagged, refused and signed, with queue ids to look at
    Report(ReportArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct ReportArgs {
    /// Messages judged from then on: 2026-11-22, "2026-11-22 08:00", 2026-11-22T08:00:00Z, today, yesterday, 30m, 2h, 7d
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: OffsetDateTime,
    /// deskmilter's log: a file, - for standard input, or journal; may be repeated. Unless given, /var/log/mail.log,
    /// /var/log/maillog or the journal
    #[arg(long, value_name = "FILE")]
    log: Vec<Source>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Exits with 0, or 65 when a log cannot be read.
pub(super) fn run(args: &ObserveArgs) -> ExitCode {
    let Command::Report(args) = &args.command;
    match report(args) {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            complain(&format!("deskmilter observe report: {problem}"));
            ExitCode::from(EX_DATAERR)
        }
    }
}

fn report(args: &ReportArgs) -> Result<String, String> {
    let mut observation = Observation::new(args.since, clock());
    let sources = if args.log.is_empty() { vec![logs::mail_log()] } else { args.log.clone() };
    for source in &sources {
        logs::read(source, &["--unit=deskmilter"], Some(args.since), &mut |line| {
            observation.line(line);
            Ok(())
        })?;
    }
    if observation.is_nonsense() {
        return Err("no line is of a known format; see docs/audit.md for those that are".to_owned());
    }
    if observation.is_of_others() {
        let names: Vec<String> = sources.iter().map(ToString::to_string).collect();
        return Err(format!(
            "no line of deskmilter in {}; name its log by --log, --log journal if it writes to standard error under systemd",
            names.join(", ")
        ));
    }
    let report = observation.report();
    if args.json {
        return serde_json::to_string_pretty(&report).map(|text| text + "\n").map_err(|error| error.to_string());
    }
    Ok(report.to_string())
}
