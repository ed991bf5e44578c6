//! `deskmilter explain`: the story of one message.

use std::fs::File;
use std::process::ExitCode;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::logs::{self, BOTH_OF_JOURNAL, Source, clock, instant};
use super::{EX_DATAERR, complain, say};
use crate::explain::{Read, Search};

/// Tell the story of one message from the logs: where it came from, what was made of it, each attempt to relay it, where it is now,
/// and what to do. Exits with 0, or 1 when no line is of it
#[derive(Debug, Clone, clap::Args)]
pub struct ExplainArgs {
    /// A queue id, or a Message-ID with or without its angle brackets
    #[arg(value_name = "QUEUEID|MESSAGE-ID")]
    message: String,
    /// A log of Postfix or of deskmilter: a file, compressed or not, - for standard input, or journal; may be repeated. Unless
    /// given, /var/log/mail.log, /var/log/maillog or the journal
    #[arg(long, value_name = "FILE")]
    log: Vec<Source>,
    /// Lines from then on: 2026-11-22, "2026-11-22 08:00", 2026-11-22T08:00:00Z, today, yesterday, 30m, 2h, 3d
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<OffsetDateTime>,
    /// Lines until then
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<OffsetDateTime>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A log that can be read several times.
enum Log {
    File(Source),
    Copy(File),
}

/// Runs it. Exits with 0 or 1 by what it found, 65 when a log cannot be read.
pub(super) fn run(args: &ExplainArgs) -> ExitCode {
    match explain(args) {
        Ok(code) => code,
        Err(problem) => {
            complain(&format!("deskmilter explain: {problem}"));
            ExitCode::from(EX_DATAERR)
        }
    }
}

fn explain(args: &ExplainArgs) -> Result<ExitCode, String> {
    let sources = if args.log.is_empty() { vec![logs::mail_log()] } else { args.log.clone() };
    let mut logs = Vec::with_capacity(sources.len());
    for source in &sources {
        logs.push(match source {
            Source::File(path) if path.is_file() => Log::File(source.clone()),
            Source::File(_) | Source::StandardInput | Source::Journal => {
                Log::Copy(logs::keep(source, &BOTH_OF_JOURNAL, args.since)?)
            }
        });
    }
    let mut search = Search::new(&args.message, clock(), args.since, args.until);
    loop {
        let mut take = |line: &str| {
            search.line(line);
            Ok(())
        };
        for log in &mut logs {
            match log {
                Log::File(source) => logs::read(source, &[], None, &mut take)?,
                Log::Copy(copy) => logs::read_copy(copy, &mut take)?,
            }
        }
        if !search.wants_more() {
            break;
        }
    }
    let read = search.read();
    match search.story(logs.len() == 1) {
        Some(story) => {
            let text = match args.json {
                true => serde_json::to_string_pretty(&story).map_err(|error| error.to_string())? + "\n",
                false => story.to_string(),
            };
            say(&text);
            Ok(ExitCode::SUCCESS)
        }
        None => {
            complain(&format!("deskmilter explain: {}", not_found(args, &sources, read)));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn not_found(args: &ExplainArgs, sources: &[Source], read: Read) -> String {
    let names: Vec<String> = sources.iter().map(ToString::to_string).collect();
    let shown = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    let span = match read.span {
        Some((first, last)) => {
            format!("{} lines from {} to {}, {} of them of deskmilter", read.lines, shown(first), shown(last), read.own)
        }
        None => "no line of a known format".to_owned(),
    };
    let more = match read.own {
        0 => "give deskmilter's log by --log, or older logs",
        _ => "give older logs by --log, mail.log.1 for example",
    };
    format!("no line of {:?} in {}: {span}; {more}", args.message, names.join(", "))
}
