//! `deskmilter key`: makes a DKIM key, prints the record that publishes it, checks whether DNS has it right.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{EX_CANTCREAT, EX_CONFIG, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE, complain, say};
use crate::config::SecretFile;
use crate::dkim::{KeyError, NewKey, Selector, SigningKey, record_name, write_new, zone_entry};
use crate::doctor::dkim::{Severity, Trouble, check};
use crate::mail::Domain;

/// Arguments of `deskmilter key`.
#[derive(Debug, Clone, clap::Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    /// Make a key in a new file, mode 0600, and print the DNS record and the configuration to paste.
    New(NewArgs),
    /// Print the DNS record that publishes a key.
    Record(RecordArgs),
    /// Check that the key, the record in DNS and a test signature agree. Exits with 0; 1 if something is wrong; 75 if DNS
    /// cannot say.
    Check(CheckArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct NewArgs {
    #[command(flatten)]
    place: Place,
    /// Kind of key. Keep RSA among the keys of a domain: large providers do not verify Ed25519 yet.
    #[arg(long = "type", value_name = "TYPE", default_value = "rsa")]
    kind: Kind,
    /// Bits of an RSA key.
    #[arg(long, value_name = "BITS", default_value = "2048", value_parser = ["2048", "3072", "4096"])]
    bits: String,
    /// Folder for the file DOMAIN.SELECTOR.pem.
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    directory: PathBuf,
    /// The file itself, instead of DIRECTORY/DOMAIN.SELECTOR.pem. Nothing that exists is overwritten.
    #[arg(long, value_name = "FILE", conflicts_with = "directory")]
    file: Option<PathBuf>,
    /// The user that deskmilter runs as and the file is to belong to, unless it is you.
    #[arg(long, value_name = "NAME", value_parser = uid)]
    user: Option<u32>,
}

#[derive(Debug, Clone, clap::Args)]
struct RecordArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: KeyFile,
    /// zone: a line for a zone file; text: the bare text, for a form.
    #[arg(long, value_name = "FORMAT", default_value = "zone")]
    format: Format,
}

#[derive(Debug, Clone, clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: KeyFile,
    /// Name server to ask instead of the system's, as 192.0.2.53 or 192.0.2.53:5353; may be repeated.
    #[arg(long, value_name = "ADDRESS", value_parser = name_server)]
    name_server: Vec<SocketAddr>,
}

/// Where a key is published.
#[derive(Debug, Clone, clap::Args)]
struct Place {
    /// The domain that signs (d=).
    #[arg(long, value_name = "DOMAIN", value_parser = domain)]
    domain: Domain,
    /// The selector (s=): each key of a domain has its own.
    #[arg(long, value_name = "SELECTOR", value_parser = selector)]
    selector: Selector,
}

/// Where a key is kept.
#[derive(Debug, Clone, clap::Args)]
struct KeyFile {
    /// The private key: PEM, mode 0600.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// The user that deskmilter runs as and the file must belong to, unless it is you.
    #[arg(long, value_name = "NAME", value_parser = uid)]
    user: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Rsa,
    Ed25519,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Zone,
    Text,
}

/// Runs it. Exits with 0; with 1 when the check found a problem; with an exit code of sysexits(3) otherwise.
pub(super) fn run(args: &KeyArgs) -> ExitCode {
    let outcome = match &args.action {
        Action::New(args) => new(args),
        Action::Record(args) => record(args),
        Action::Check(args) => check_key(args),
    };
    outcome.unwrap_or_else(|(code, message)| {
        complain(&format!("deskmilter key: {message}"));
        ExitCode::from(code)
    })
}

/// An exit code and what to say.
type Failure = (u8, String);

fn new(args: &NewArgs) -> Result<ExitCode, Failure> {
    let kind = match (args.kind, args.bits.as_str()) {
        (Kind::Rsa, "2048") => NewKey::Rsa2048,
        (Kind::Rsa, "3072") => NewKey::Rsa3072,
        (Kind::Rsa, _) => NewKey::Rsa4096,
        (Kind::Ed25519, "2048") => NewKey::Ed25519,
        (Kind::Ed25519, _) => {
            return Err((EX_USAGE, "--bits is for --type rsa; an Ed25519 key has one size".to_owned()));
        }
    };
    let Place { domain, selector } = &args.place;
    let path = args.file.clone().unwrap_or_else(|| args.directory.join(format!("{domain}.{selector}.pem")));
    let pem = SigningKey::generate(kind).map_err(|error| (EX_UNAVAILABLE, error))?;
    let key = SigningKey::parse(&pem).map_err(|flaw| (EX_UNAVAILABLE, format!("the new key is {flaw}")))?;
    write_new(&path, &pem, args.user).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AlreadyExists => "; a key is never overwritten: choose a new selector, or another file",
            ErrorKind::NotFound => "; make the folder first",
            _ => "",
        };
        (EX_CANTCREAT, format!("{}: {error}{hint}", path.display()))
    })?;
    let path = path.canonicalize().unwrap_or(path);
    let owner = args.user.is_none().then_some("; the user that deskmilter runs as must own it (chown)");
    let mut text = format!("# the private key, mode 0600{}: {}\n", owner.unwrap_or_default(), path.display());
    let _ = writeln!(text, "\n# 1. publish this in the zone of {domain}:");
    text.push_str(&zone_entry(&record_name(selector, domain), &key.public().record()));
    let file = toml::Value::String(path.display().to_string());
    let _ = writeln!(
        text,
        "\n# 2. wait until all is well by: deskmilter key check --domain {domain} --selector {selector} --file {}",
        path.display()
    );
    let _ = writeln!(
        text,
        "\n# 3. then sign with it: add this to the connector in deskmilter.toml and reload\n\
         [[connector.dkim]]\nselector = \"{selector}\"\nkey_file = {file}"
    );
    say(&text);
    Ok(ExitCode::SUCCESS)
}

fn record(args: &RecordArgs) -> Result<ExitCode, Failure> {
    let record = args.key.load()?.public().record();
    match args.format {
        Format::Zone => say(&zone_entry(&record_name(&args.place.selector, &args.place.domain), &record)),
        Format::Text => say(&format!("{record}\n")),
    }
    Ok(ExitCode::SUCCESS)
}

fn check_key(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let key = args.key.load()?;
    let Place { domain, selector } = &args.place;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| (EX_UNAVAILABLE, format!("the runtime cannot be started: {error}")))?;
    let findings = runtime.block_on(check(&key, domain, selector, &args.name_server)).map_err(|trouble| {
        let code = match trouble {
            Trouble::Dns { .. } => EX_TEMPFAIL,
            Trouble::Resolver(_) => EX_UNAVAILABLE,
        };
        (code, trouble.to_string())
    })?;
    let name = record_name(selector, domain);
    let mut text = String::new();
    for finding in &findings {
        let _ = writeln!(text, "{name}: {finding}");
    }
    say(&text);
    let problem = findings.iter().any(|finding| finding.severity() == Severity::Problem);
    Ok(if problem { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl KeyFile {
    fn load(&self) -> Result<SigningKey, Failure> {
        SigningKey::load(&secret_file(&self.file, self.user)).map_err(|error: KeyError| (EX_CONFIG, error.to_string()))
    }
}

/// The file of a secret that must belong to `user`, or to whoever runs this process.
pub(super) fn secret_file(path: &Path, user: Option<u32>) -> SecretFile {
    user.map_or_else(|| SecretFile::new(path), |user| SecretFile::owned_by(path, user))
}

/// The uid of a user by name.
pub(super) fn uid(name: &str) -> Result<u32, String> {
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("no such user".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn domain(text: &str) -> Result<Domain, String> {
    Domain::parse(text).map_err(|error| error.to_string())
}

fn selector(text: &str) -> Result<Selector, String> {
    Selector::parse(text).map_err(|_| "a selector is made of letters, digits and hyphens, as in desk2026".to_owned())
}

fn name_server(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53)))
        .map_err(|_| "write 192.0.2.53 or 192.0.2.53:5353".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        key: KeyArgs,
    }

    fn parse(line: &str) -> Result<Action, clap::Error> {
        let words = std::iter::once("key").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.key.action)
    }

    #[test]
    fn an_rsa_key_of_2048_bits_is_made_unless_told_otherwise() {
        let Ok(Action::New(args)) = parse("new --domain Acme.Example. --selector Desk2026") else { panic!() };
        assert_eq!((args.kind, args.bits.as_str()), (Kind::Rsa, "2048"));
        assert_eq!((args.place.domain.as_str(), args.place.selector.as_str()), ("acme.example", "desk2026"));
        for wrong in
            ["--bits 1024", "--type dsa", "--file a --directory b", "--user no-such-user-here", "--domain a..b"]
        {
            assert!(parse(&format!("new --domain acme.example --selector s {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_server_has_port_53_unless_told_otherwise() {
        let line = "check --domain a.example --selector s --file f --name-server 192.0.2.53 --name-server [::1]:5353";
        let Ok(Action::Check(args)) = parse(line) else { panic!() };
        let servers: Vec<String> = args.name_server.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53:53", "[::1]:5353"]);
    }
}
