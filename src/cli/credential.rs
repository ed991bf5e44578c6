//! `deskmilter credential`: issues, lists, rotates and revokes what a company's mail server logs in with.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{ConfigFile, EX_IOERR, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE, complain, say};
use crate::config::{Config, Secret, StoreUrl};
use crate::credential::{Binding, Credential, LIVE_SETS_MAX, UserName, hash, new_password, overlaps};
use crate::daemon;
use crate::mail::{Address, Domain};
use crate::store::{Event, NewCredential, Store, StoreError, Which, now};

/// Arguments of `deskmilter credential`.
#[derive(Debug, Clone, clap::Args)]
pub struct CredentialArgs {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/deskmilter/deskmilter.toml", global = true)]
    config: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    /// Issue a set for a domain, or for one address of it. The password is printed this once; only its hash is kept.
    Issue(IssueArgs),
    /// List the live sets, and which bindings have had two for too long.
    List(ListArgs),
    /// Issue the second set of a binding, under the same user name, and say how to go on.
    Rotate(RotateArgs),
    /// Revoke sets: running daemons refuse them within a second.
    Revoke(RevokeArgs),
    /// Print who issued and revoked what, and when.
    Log(LogArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct IssueArgs {
    /// The domain that the set is good for.
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    domain: Domain,
    /// The one address that the set is good for, instead of all of the domain.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    address: Option<Address>,
    /// The user name: any, or a mail address. The address or the domain unless told.
    #[arg(long, value_name = "NAME", value_parser = user)]
    user: Option<UserName>,
}

#[derive(Debug, Clone, clap::Args)]
struct ListArgs {
    /// Also those that are revoked.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Clone, clap::Args)]
struct RotateArgs {
    /// The domain of the set.
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    domain: Domain,
    /// The address, for a set of one address.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    address: Option<Address>,
}

#[derive(Debug, Clone, clap::Args)]
#[group(id = "which", required = true, multiple = true)]
struct RevokeArgs {
    /// The set with that number, as "list" shows it.
    #[arg(value_name = "NUMBER", group = "which", conflicts_with_all = ["user", "domain", "address"])]
    id: Option<i64>,
    /// All sets of a user name.
    #[arg(long, value_name = "NAME", value_parser = user, group = "which", conflicts_with_all = ["domain", "address"])]
    user: Option<UserName>,
    /// All sets of a domain; those of its addresses stay.
    #[arg(long, value_name = "DOMAIN", value_parser = domain, group = "which", conflicts_with = "address")]
    domain: Option<Domain>,
    /// All sets of an address.
    #[arg(long, value_name = "ADDRESS", value_parser = address, group = "which")]
    address: Option<Address>,
}

#[derive(Debug, Clone, clap::Args)]
struct LogArgs {
    /// The last so many lines.
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    lines: u32,
}

/// An exit code and what to say.
type Failure = (u8, String);

/// Runs it. Exits with 0; with 1 when what was asked for is refused or not there; 75 when the store is away; otherwise with an exit
/// code of sysexits(3).
pub(super) fn run(args: &CredentialArgs) -> ExitCode {
    let config = match (ConfigFile { config: args.config.clone() }).load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let outcome = Command::new(&config, args).and_then(|command| match &args.action {
        Action::Issue(args) => command.issue(args),
        Action::List(args) => command.list(args),
        Action::Rotate(args) => command.rotate(args),
        Action::Revoke(args) => command.revoke(args),
        Action::Log(args) => command.log(args),
    });
    outcome.unwrap_or_else(|(code, message)| {
        complain(&format!("deskmilter credential: {message}"));
        ExitCode::from(code)
    })
}

/// What all actions need.
struct Command<'c> {
    config: &'c Config,
    /// The configuration file, for the commands that we recommend.
    file: &'c Path,
    json: bool,
    store: Store,
    /// Its file, where that is not there. To look into it would make it, and a daemon whose file was moved away would take the
    /// empty one for its own and every login for wrong.
    absent: Option<PathBuf>,
    runtime: tokio::runtime::Runtime,
    /// For the audit trail.
    who: String,
}

impl<'c> Command<'c> {
    fn new(config: &'c Config, args: &'c CredentialArgs) -> Result<Self, Failure> {
        let unavailable = |problem: String| (EX_UNAVAILABLE, problem);
        let who = who();
        // The files of the store must belong to the daemon's user, also those that SQLite makes beside it.
        daemon::act_as_daemon(config).map_err(unavailable)?;
        let store = Store::new(&config.store).map_err(unavailable)?;
        let absent = match &config.store.url {
            StoreUrl::Sqlite(path) if path.try_exists().is_ok_and(|there| !there) => Some(path.clone()),
            StoreUrl::Sqlite(_) | StoreUrl::Postgres(_) => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| unavailable(format!("the runtime cannot be started: {error}")))?;
        Ok(Self { config, file: &args.config, json: args.json, store, absent, runtime, who })
    }

    fn issue(&self, args: &IssueArgs) -> Result<ExitCode, Failure> {
        let binding = binding(&args.domain, args.address.as_ref())?;
        let user = match &args.user {
            Some(user) => user.clone(),
            None => UserName::parse(&binding.to_string())
                .map_err(|_| (EX_USAGE, format!("{binding} cannot be a user name as it is; choose one with --user")))?,
        };
        let (set, password) = self.issue_set(binding, user)?;
        let mut hints = self.not_a_connectors(&set.binding);
        if self.config.auth.is_none() {
            hints.push("there is no [auth] in the configuration yet: nobody checks logins".to_owned());
        }
        if let Some(path) = &self.absent {
            hints.push(format!("note: a new store was made: {}", path.display()));
        }
        self.hand_out(&set, &password, &hints)
    }

    fn rotate(&self, args: &RotateArgs) -> Result<ExitCode, Failure> {
        let binding = binding(&args.domain, args.address.as_ref())?;
        let live: Vec<Credential> = self.live()?.into_iter().filter(|set| set.binding == binding).collect();
        let old = match live.as_slice() {
            [] => return Err((1, format!("{binding} has no live set; issue one"))),
            [old] => old,
            [old, new, ..] => {
                let (old, new) = (old.id, new.id);
                // The second one may be of a rotation that was cut off before anybody saw the password.
                return Err((
                    1,
                    format!(
                        "{binding} has {LIVE_SETS_MAX} live sets already: a rotation is under way. When logins are accepted with \
                         credential={new}, finish it with: {}; where nobody has the password of {new}, begin anew with: {}",
                        self.command(&format!("revoke {old}")),
                        self.command(&format!("revoke {new}"))
                    ),
                ));
            }
        };
        let (set, password) = self.issue_set(binding, old.user.clone())?;
        let hints = [
            format!(
                "1. give the new password to the mail server that logs in as {}; the old one goes on working",
                set.user
            ),
            format!("2. wait until its logins are accepted with credential={} in deskmilter's log", set.id),
            format!("3. revoke the old set: {}", self.command(&format!("revoke {}", old.id))),
        ];
        self.hand_out(&set, &password, &hints)
    }

    fn list(&self, args: &ListArgs) -> Result<ExitCode, Failure> {
        let sets = self.look(self.store.list(args.all))?;
        let live: Vec<Credential> = sets.iter().filter(|set| set.revoked_at.is_none()).cloned().collect();
        let limit = i64::try_from(self.config.credentials.overlap_warning.as_secs()).unwrap_or(i64::MAX);
        let now = now();
        let too_long: Vec<_> =
            overlaps(&live).into_iter().filter(|(_, since)| now.saturating_sub(*since) > limit).collect();
        if self.json {
            let sets: Vec<Value> = sets
                .iter()
                .map(|set| {
                    let too_long = too_long.iter().any(|(binding, _)| **binding == set.binding);
                    described(set, Some(("overlap_warning", json!(too_long))))
                })
                .collect();
            say(&format!("{}\n", Value::from(sets)));
            return Ok(ExitCode::SUCCESS);
        }
        let mut text = String::new();
        if !sets.is_empty() {
            let _ = writeln!(text, "{:>6}  {:<20}  {:<20}  good for, user name", "number", "issued", "revoked");
        }
        for set in &sets {
            let revoked = set.revoked_at.map_or_else(|| "-".to_owned(), moment);
            let _ = writeln!(
                text,
                "{:>6}  {:<20}  {revoked:<20}  {}, {}",
                set.id,
                moment(set.issued_at),
                set.binding,
                set.user
            );
        }
        say(&text);
        for (binding, since) in too_long {
            complain(&format!(
                "deskmilter credential: warning: {binding} has had two live sets since {}; revoke the one that is not used any more",
                moment(since)
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn revoke(&self, args: &RevokeArgs) -> Result<ExitCode, Failure> {
        let which = match args {
            RevokeArgs { id: Some(id), .. } => Which::Id(*id),
            RevokeArgs { user: Some(user), .. } => Which::User(user.clone()),
            RevokeArgs { domain: Some(domain), .. } => Which::Binding(Binding::Domain(domain.clone())),
            RevokeArgs { address: Some(address), .. } => Which::Binding(Binding::Address(address.clone())),
            RevokeArgs { .. } => return Err((EX_USAGE, "say which set".to_owned())),
        };
        // That nothing was revoked is not the same as that nothing of it lives.
        if let Some(path) = &self.absent {
            return Err((EX_TEMPFAIL, format!("{}; nothing was revoked", not_there(path))));
        }
        let revoked = self.ask(self.store.revoke(which, &self.who))?;
        if revoked.is_empty() {
            return Err((1, "no live set is that one; nothing was revoked".to_owned()));
        }
        if self.json {
            say(&format!("{}\n", Value::from(revoked.iter().map(|set| described(set, None)).collect::<Vec<_>>())));
        } else {
            let told: String =
                revoked.iter().map(|set| format!("revoked {}: {}, {}\n", set.id, set.binding, set.user)).collect();
            say(&told);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn log(&self, args: &LogArgs) -> Result<ExitCode, Failure> {
        let events = self.look(self.store.events(args.lines))?;
        if self.json {
            let value = |event: &Event| {
                json!({
                    "at": moment(event.at), "who": event.who, "what": event.what, "credential": event.credential,
                    "domain": event.binding.domain().as_str(), "address": event.binding.address().map(ToString::to_string),
                    "user": event.user.as_str(),
                })
            };
            say(&format!("{}\n", Value::from(events.iter().map(value).collect::<Vec<_>>())));
            return Ok(ExitCode::SUCCESS);
        }
        let line = |event: &Event| {
            let Event { at, who, what, credential, binding, user } = event;
            format!("{} {what} {credential}: {binding}, {user}, by {who}\n", moment(*at))
        };
        say(&events.iter().map(line).collect::<String>());
        Ok(ExitCode::SUCCESS)
    }

    /// Issues a set. Its password is returned when it is safely stored, and never before.
    fn issue_set(&self, binding: Binding, user: UserName) -> Result<(Credential, Secret), Failure> {
        let password = new_password().map_err(|error| (EX_UNAVAILABLE, error))?;
        let hash = hash(password.expose()).map_err(|error| (EX_UNAVAILABLE, error.to_string()))?;
        let set = self.ask(self.store.issue(NewCredential { binding, user, hash }, &self.who))?;
        Ok((set, password))
    }

    /// Prints a new set with its password on standard output. A set whose password nobody has seen is taken back.
    fn hand_out(&self, set: &Credential, password: &Secret, hints: &[String]) -> Result<ExitCode, Failure> {
        let shown = String::from_utf8_lossy(password.expose());
        let text = if self.json {
            format!("{}\n", described(set, Some(("password", json!(shown)))))
        } else {
            format!("number:    {}\ngood for:  {}\nuser name: {}\npassword:  {shown}\n", set.id, set.binding, set.user)
        };
        let text = zeroize::Zeroizing::new(text);
        let mut output = std::io::stdout().lock();
        if let Err(error) = output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            return Err(match self.ask(self.store.revoke(Which::Id(set.id), &self.who)) {
                Ok(_) => {
                    (EX_IOERR, format!("the password could not be printed, so the set was revoked again: {error}"))
                }
                Err((code, why)) => (
                    code,
                    format!(
                        "the password could not be printed ({error}), and set {}, whose password nobody has, could not be revoked \
                         again ({why}); do it later with: {}",
                        set.id,
                        self.command(&format!("revoke {}", set.id))
                    ),
                ),
            });
        }
        if !self.json {
            complain("The password is not shown again; only its hash is kept.");
        }
        hints.iter().for_each(|hint| complain(hint));
        Ok(ExitCode::SUCCESS)
    }

    fn not_a_connectors(&self, binding: &Binding) -> Vec<String> {
        let connectors = &self.config.connectors;
        let known = connectors.iter().any(|connector| match binding {
            Binding::Domain(domain) => connector.domain == *domain,
            Binding::Address(address) => connector.supports(address),
        });
        if known || connectors.is_empty() { Vec::new() } else { vec![format!("note: no connector is for {binding}")] }
    }

    fn live(&self) -> Result<Vec<Credential>, Failure> {
        self.look(self.store.list(false))
    }

    /// As [`Self::ask`], but finds nothing where there is no store.
    fn look<T: Default>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, Failure> {
        let Some(path) = &self.absent else { return self.ask(question) };
        complain(&format!("deskmilter credential: note: {}", not_there(path)));
        Ok(T::default())
    }

    fn ask<T>(&self, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, Failure> {
        self.runtime.block_on(question).map_err(|error| match error {
            StoreError::Away(what) => (EX_TEMPFAIL, what),
            StoreError::Refused(why) => (1, why),
        })
    }

    /// A command of ours with the same configuration file.
    fn command(&self, rest: &str) -> String {
        format!("deskmilter credential -c {} {rest}", self.file.display())
    }
}

fn not_there(path: &Path) -> String {
    format!("{} is not there: nothing was issued yet, or somebody has moved it away", path.display())
}

fn binding(domain: &Domain, address: Option<&Address>) -> Result<Binding, Failure> {
    Binding::new(domain.clone(), address.cloned()).map_err(|problem| (EX_USAGE, problem))
}

/// A set in JSON, with one more fact.
fn described(set: &Credential, more: Option<(&str, Value)>) -> Value {
    let facts = [
        ("number", json!(set.id)),
        ("domain", json!(set.binding.domain().as_str())),
        ("address", json!(set.binding.address().map(ToString::to_string))),
        ("user", json!(set.user.as_str())),
        ("issued", json!(moment(set.issued_at))),
        ("revoked", json!(set.revoked_at.map(moment))),
    ];
    Value::Object(facts.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value)).collect())
}

fn moment(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Who runs this: the user behind sudo(8) where there is one, and the host.
fn who() -> String {
    let own = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    let own = own.unwrap_or_else(|| nix::unistd::getuid().to_string());
    let behind =
        std::env::var("SUDO_USER").ok().filter(|name| nix::unistd::getuid().is_root() && UserName::parse(name).is_ok());
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    match behind {
        Some(behind) => format!("{behind} as {own} on {host}"),
        None => format!("{own} on {host}"),
    }
}

fn domain(text: &str) -> Result<Domain, String> {
    Domain::parse(text).map_err(|error| error.to_string())
}

fn address(text: &str) -> Result<Address, String> {
    Address::parse(text).map_err(|error| error.to_string())
}

fn user(text: &str) -> Result<UserName, String> {
    UserName::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        credential: CredentialArgs,
    }

    fn parses(line: &str) -> bool {
        Line::try_parse_from(std::iter::once("credential").chain(line.split_whitespace())).is_ok()
    }

    #[test]
    fn a_revocation_names_exactly_one_kind_of_set() {
        for line in
            ["revoke 7", "revoke --user a@b.example", "revoke --domain b.example", "revoke --address a@b.example"]
        {
            assert!(parses(line), "{line}");
        }
        for line in [
            "revoke",
            "revoke x",
            "revoke 7 --user a",
            "revoke --user a --domain b.example",
            "revoke --domain b.example --address a@b.example",
            "issue",
            "issue --domain b..example",
            "issue --domain b.example --user a,b",
            "rotate",
            "log -n 0",
        ] {
            assert!(!parses(line), "{line}");
        }
    }
}
