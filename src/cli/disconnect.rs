//! `deskmilter disconnect`: takes a connector or addresses down without a lost message, and puts them back.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{ConfigFile, EX_CONFIG, EX_TEMPFAIL, EX_USAGE, complain, say};
use crate::config::Config;
use crate::disconnect::{
    Plan, Record, Records, Request, Site, Stop, Way, carry_out, check_places, plan, read_list, undo,
};
use crate::doctor::postfix::{Installation, PostfixError, diff};
use crate::mail::{Address, Domain};

/// How long the queue may take to empty, at most, in seconds: a day.
const WAIT_MAX: i64 = 86_400;
/// Octets of a list of addresses that are read: more than a list may have.
const LIST_MAX: u64 = 2 << 20;

/// Take a connector, or support addresses, down without a lost message; or put them back.
///
/// Mail for the addresses is forwarded by Postfix from then on, as plain mail; it still makes tickets, unauthenticated. What waits
/// in Postfix's queue goes the same way. The addresses are taken out of the configuration, the daemon is told, and credentials
/// that were issued for them are revoked. Whenever it is interrupted, the same command goes on, and --undo goes back.
#[derive(Debug, Clone, clap::Args)]
pub struct DisconnectArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// All connectors of this domain, and all credentials issued for it.
    #[arg(value_name = "DOMAIN", value_parser = domain, conflicts_with_all = ["address", "addresses_from"])]
    domain: Option<Domain>,
    /// A support address; may be repeated.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    address: Vec<Address>,
    /// A file with support addresses, one a line, each with an address to forward to if it has one of its own; - for standard
    /// input.
    #[arg(long, value_name = "FILE")]
    addresses_from: Option<PathBuf>,
    /// Where mail goes. Unless given, to the same name in the connector's native domain.
    #[arg(long, value_name = "ADDRESS", value_parser = address, group = "way")]
    forward_to: Option<Address>,
    /// Do not forward: the addresses have mailboxes or aliases of their own.
    #[arg(long, group = "way")]
    to_mailbox: bool,
    /// Show what would be changed, and change nothing (this is the default).
    #[arg(long, visible_alias = "dry-run", group = "action")]
    diff: bool,
    /// Show the changes and make them. Postfix and deskmilter are reloaded.
    #[arg(long, group = "action")]
    apply: bool,
    /// Take the last disconnection back: every file is then as it was. Credentials that were revoked stay so.
    #[arg(long, group = "action", conflicts_with_all = ["domain", "address", "addresses_from", "forward_to", "to_mailbox"])]
    undo: bool,
    /// So many seconds Postfix's queue may take to be without mail for the addresses.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = clap::value_parser!(i64).range(0..=WAIT_MAX))]
    wait: i64,
    /// The Postfix configuration directory.
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/postfix")]
    config_directory: PathBuf,
}

/// Runs it. Exits with 0; with 1 when somebody has to do something first; 64 for wrong arguments; 75 when it has to be run again
/// later; 78 when the configuration is wrong or does not fit this Postfix.
pub(super) fn run(args: &DisconnectArgs) -> ExitCode {
    let config = match args.file.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let outcome = if args.undo {
        take_back(args, &config)
    } else {
        match args.request() {
            Ok(request) => disconnect(args, &config, &request),
            Err(problem) => {
                complain(&format!("deskmilter disconnect: {problem}"));
                return ExitCode::from(EX_USAGE);
            }
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            complain(&format!("deskmilter disconnect: {stop}"));
            match stop {
                Stop::Later(_) => ExitCode::from(EX_TEMPFAIL),
                Stop::Postfix(PostfixError::Configuration(_)) => ExitCode::from(EX_CONFIG),
                Stop::Refused(_) | Stop::Postfix(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn disconnect(args: &DisconnectArgs, config: &Config, request: &Request) -> Result<(), Stop> {
    // To show something nothing is made, not even a folder.
    let records = (args.apply || Records::exist(&config.daemon.state_directory))
        .then(|| Records::open(&config.daemon.state_directory))
        .transpose()?;
    let last = records.as_ref().map(Records::last).transpose()?.flatten();
    let number = last.as_ref().map_or(1, |(number, _)| number.saturating_add(1));
    if let Some((_, record)) = &last
        && record.request == request.name()
        && (!record.finished || record.is_in_force())
    {
        same_way(record, request)?;
    }
    match last {
        Some((number, record)) if !record.finished && record.request == request.name() => {
            say(&format!("the disconnection of {} that was begun at {} goes on\n", record.request, record.begun));
            let plan = Plan { record, notes: Vec::new() };
            return make(args, config, records.as_ref(), number, plan);
        }
        Some((_, record)) if !record.finished => {
            return Err(Stop::Refused(format!(
                "the disconnection of {} that was begun at {} is not finished: give the same command again, or --undo",
                record.request, record.begun
            )));
        }
        // What came in late: it is requeued, and that is all.
        Some((number, record)) if record.request == request.name() && record.is_in_force() => {
            say(&format!("{} was disconnected at {}\n", record.request, record.begun));
            let plan = Plan { record, notes: Vec::new() };
            return make(args, config, records.as_ref(), number, plan);
        }
        _ => {}
    }
    let postfix = || args.installation();
    let plan = plan(request, config, &args.file.config, postfix)?;
    make(args, config, records.as_ref(), number, plan)
}

/// To go on with a record is to send mail where it says; who now says another place must not believe that it goes there.
fn same_way(record: &Record, request: &Request) -> Result<(), Stop> {
    match request.way() {
        Some(way) if record.way.as_ref() != Some(&way) => {
            let began = record.way.as_deref().unwrap_or("to the native domain");
            Err(Stop::Refused(format!(
                "the disconnection of {} at {} sends mail another way ({began}): give it again without another one, or --undo it \
                 first",
                record.request, record.begun
            )))
        }
        _ => Ok(()),
    }
}

/// Shows a plan, and with --apply carries it out.
fn make(
    args: &DisconnectArgs,
    config: &Config,
    records: Option<&Records>,
    number: u32,
    plan: Plan,
) -> Result<(), Stop> {
    let Plan { mut record, notes } = plan;
    let postfix = args.postfix(&record)?;
    for change in record.files() {
        let now = std::fs::read_to_string(&change.path).unwrap_or_default();
        say(&diff(&change.path, &now, &change.after));
    }
    if let Some(postfix) = &postfix {
        for message in record.waiting.told(&postfix.queued()?) {
            say(&format!("in the queue: {message}\n"));
        }
    }
    notes.iter().for_each(|note| say(&format!("note: {note}\n")));
    let Some(records) = records.filter(|_| args.apply) else {
        say("nothing was changed; --apply makes the changes\n");
        return Ok(());
    };
    let site = args.site(config, postfix);
    check_places(&site, &record)?;
    records.save(number, &record)?;
    carry_out(&site, records, number, &mut record)?;
    say(&format!("{} is disconnected; deskmilter disconnect --undo takes it back\n", record.request));
    Ok(())
}

fn take_back(args: &DisconnectArgs, config: &Config) -> Result<(), Stop> {
    let nothing = || Stop::Refused("nothing was disconnected here".to_owned());
    let state = &config.daemon.state_directory;
    let records = if Records::exist(state) { Records::open(state)? } else { return Err(nothing()) };
    let (number, mut record) = records.last()?.ok_or_else(nothing)?;
    let site = args.site(config, args.postfix(&record)?);
    undo(&site, &records, number, &mut record)?;
    say(&format!("{} is as it was before {}\n", record.request, record.begun));
    if !record.revoked.is_empty() {
        let sets: Vec<String> = record.revoked.iter().map(ToString::to_string).collect();
        say(&format!(
            "the sets {} stay revoked: issue new ones (deskmilter credential issue), and give them to the other side\n",
            sets.join(", ")
        ));
    }
    Ok(())
}

impl DisconnectArgs {
    fn request(&self) -> Result<Request, String> {
        let mut addresses = match &self.addresses_from {
            Some(file) => {
                let text = read(file).map_err(|error| format!("{}: {error}", file.display()))?;
                read_list(&text).map_err(|problem| format!("{}: {problem}", file.display()))?
            }
            None => std::collections::BTreeMap::new(),
        };
        addresses.extend(self.address.iter().map(|address| (address.clone(), None)));
        if self.domain.is_none() && addresses.is_empty() {
            return Err("say which: DOMAIN, --address ADDRESS or --addresses-from FILE".to_owned());
        }
        let way = match &self.forward_to {
            Some(to) => Way::Forward(to.clone()),
            None if self.to_mailbox => Way::Mailbox,
            None => Way::Native,
        };
        Ok(Request { domain: self.domain.clone(), addresses, way })
    }

    /// The Postfix, where one matters: on the desk side there need not be one.
    fn postfix(&self, record: &Record) -> Result<Option<Installation>, PostfixError> {
        let optional = record.first.is_empty() && record.last.is_empty() && record.waiting.recipients.is_empty();
        if optional && (record.waiting.senders.is_empty() || !self.config_directory.join("main.cf").exists()) {
            return Ok(None);
        }
        self.installation().map(Some)
    }

    fn installation(&self) -> Result<Installation, PostfixError> {
        if !self.config_directory.exists() {
            return Err(PostfixError::Refused(format!(
                "{}: no Postfix is configured here; name its directory with --config-directory. For Exim docs/disconnect.md tells what to \
                 do",
                self.config_directory.display()
            )));
        }
        Installation::open(&self.config_directory)
    }

    fn site(&self, config: &Config, postfix: Option<Installation>) -> Site {
        Site {
            file: self.file.config.clone(),
            state_directory: config.daemon.state_directory.clone(),
            postfix,
            wait: Duration::from_secs(self.wait.unsigned_abs()),
            say: |text| say(&format!("{text}\n")),
        }
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(LIST_MAX).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(file)?.take(LIST_MAX).read_to_string(&mut text)?;
    }
    Ok(text)
}

fn domain(text: &str) -> Result<Domain, String> {
    Domain::parse(text).map_err(|error| error.to_string())
}

fn address(text: &str) -> Result<Address, String> {
    Address::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        disconnect: DisconnectArgs,
    }

    fn parse(line: &str) -> Option<DisconnectArgs> {
        let words = std::iter::once("disconnect").chain(line.split_whitespace());
        Line::try_parse_from(words).ok().map(|line| line.disconnect)
    }

    #[test]
    fn a_domain_or_addresses_by_one_action_and_showing_by_default() {
        let shown = parse("acme.example").unwrap();
        assert!(!shown.apply && !shown.undo && shown.wait == 300);
        assert_eq!(shown.request().unwrap().way, Way::Native);
        let request =
            parse("--address a@b.example --address c@b.example --to-mailbox --apply").unwrap().request().unwrap();
        assert_eq!((request.addresses.len(), request.way, request.domain), (2, Way::Mailbox, None));
        assert!(parse("").unwrap().request().is_err());
        for wrong in [
            "acme.example --address a@b.example",
            "acme.example --forward-to a@b.example --to-mailbox",
            "acme.example --apply --undo",
            "acme.example --undo",
            "acme..example",
            "acme.example --wait -1",
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
