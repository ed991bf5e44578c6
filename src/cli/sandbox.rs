//! `deskmilter sandbox`: starts the embedded ticket endpoint and shows what to paste to reach it; its subcommands send, judge and
//! report.

mod provider;
mod report;
mod send;
mod verify;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{EX_CONFIG, complain};
use crate::mail::Domain;
use crate::sandbox::{Account, Fault, Sandbox, SandboxOptions};

/// Runs a ticket endpoint for trying things out: an SMTP service with STARTTLS and AUTH that files tickets in a folder
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct SandboxArgs {
    #[command(subcommand)]
    command: Option<SandboxCommand>,
    #[command(flatten)]
    endpoint: Option<EndpointArgs>,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum SandboxCommand {
    /// Answer a ticket in Zendesk's shape, over a transport or straight to the company host
    Notify(send::NotifyArgs),
    /// Send verification mail for a support address and wait for its authenticated return
    Verify(verify::VerifyArgs),
    /// Show which support addresses are verified
    Verifications(verify::VerificationsArgs),
    /// Judge what comes to the end user's mail server: a milter that takes everything and keeps it for the report
    Provider(provider::ProviderArgs),
    /// Say what the end user's provider saw of the notifications. Exits with 0 if all is green, 1 if not
    Report(report::ReportArgs),
}

/// The endpoint.
#[derive(Debug, Clone, clap::Args)]
pub struct EndpointArgs {
    /// State folder: certificates, hashed credentials, tickets
    #[arg(long, value_name = "DIR")]
    pub directory: PathBuf,
    /// Address and port to listen on, with STARTTLS; port 0 takes any
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:2525")]
    pub listen: SocketAddr,
    /// Address and port to listen on with implicit TLS
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen_tls: Option<SocketAddr>,
    /// Name in the greeting and, besides localhost, in the certificate
    #[arg(long, value_name = "NAME", default_value = "localhost", value_parser = domain)]
    pub hostname: Domain,
    /// Domain whose mail becomes tickets; may be repeated
    #[arg(long, value_name = "DOMAIN", required = true, value_parser = domain)]
    pub domain: Vec<Domain>,
    /// User name that the domain's credentials carry, in the order of the domains; the domain itself unless given
    #[arg(long, value_name = "NAME")]
    pub username: Vec<String>,
    /// File for the domain's new password, mode 0600, in the order of the domains; a password already there is taken
    #[arg(long, value_name = "FILE")]
    pub password_file: Vec<PathBuf>,
    /// What goes wrong: tempfail, reject, auth, drop (each with :N for every Nth only), slow:SECONDS; may be repeated
    #[arg(long, value_name = "FAULT")]
    pub fault: Vec<Fault>,
}

fn domain(text: &str) -> Result<Domain, String> {
    Domain::parse(text).map_err(|error| error.to_string())
}

/// Runs until its work is done, the endpoint and the provider until SIGTERM or SIGINT.
pub(super) fn run(args: SandboxArgs) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("the runtime cannot be started: {error}"));
    let ended = runtime.and_then(|runtime| {
        runtime.block_on(async {
            match (args.command, args.endpoint) {
                (Some(SandboxCommand::Notify(args)), _) => args.run().await,
                (Some(SandboxCommand::Verify(args)), _) => args.run().await,
                (Some(SandboxCommand::Verifications(args)), _) => args.run(),
                (Some(SandboxCommand::Provider(args)), _) => args.run().await,
                (Some(SandboxCommand::Report(args)), _) => args.run().await,
                (None, Some(args)) => serve(args).await.map(|()| ExitCode::SUCCESS),
                (None, None) => Err("--directory and --domain are needed; see deskmilter sandbox --help".to_owned()),
            }
        })
    });
    ended.unwrap_or_else(|message| {
        complain(&format!("deskmilter sandbox: {message}"));
        ExitCode::from(EX_CONFIG)
    })
}

async fn serve(args: EndpointArgs) -> Result<(), String> {
    let options = options(args)?;
    let mut end = End::new()?;
    let sandbox = Sandbox::start(options).await.map_err(|error| error.to_string())?;
    announce(&sandbox, &mut io::stdout().lock())
        .map_err(|error| format!("cannot write to standard output: {error}"))?;
    end.wait().await;
    sandbox.stop().await;
    Ok(())
}

/// SIGTERM and SIGINT.
struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    fn new() -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot wait for signals: {error}");
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt()).map_err(failed)? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn options(args: EndpointArgs) -> Result<SandboxOptions, String> {
    for (option, given) in [("--username", args.username.len()), ("--password-file", args.password_file.len())] {
        if given > args.domain.len() {
            return Err(format!("{option} is given {given} times for {} domains", args.domain.len()));
        }
    }
    let mut usernames = args.username.into_iter();
    let mut password_files = args.password_file.into_iter();
    let accounts = args.domain.into_iter().map(|domain| Account {
        username: usernames.next().unwrap_or_else(|| domain.to_string()),
        password_file: password_files.next(),
        domain,
    });
    Ok(SandboxOptions {
        directory: args.directory,
        listen: args.listen,
        listen_tls: args.listen_tls,
        hostname: args.hostname,
        accounts: accounts.collect(),
        faults: args.fault,
    })
}

/// Says what there is and what to paste. A new password is shown here and never again.
fn announce(sandbox: &Sandbox, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "listening on {} (STARTTLS)", sandbox.address())?;
    if let Some(address) = sandbox.tls_address() {
        writeln!(out, "listening on {address} (implicit TLS)")?;
    }
    writeln!(out, "certification authority: {}", sandbox.ca_file().display())?;
    writeln!(out, "tickets: {}", sandbox.tickets().display())?;
    for (account, password) in sandbox.accounts() {
        writeln!(out, "\ndomain {}, user name {}", account.domain, account.username)?;
        match (password, &account.password_file) {
            (Some(password), _) => {
                writeln!(out, "password, shown this once: {}", String::from_utf8_lossy(password.expose()))?;
            }
            (None, _) => writeln!(out, "password: issued at an earlier start; only its hash is kept")?,
        }
        if account.password_file.is_none() {
            writeln!(out, "# write the password into the file named here, mode 0600")?;
        }
        write!(out, "{}", sandbox.connector_endpoint(account))?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        sandbox: EndpointArgs,
    }

    fn parse(line: &str) -> Result<SandboxOptions, String> {
        let words = std::iter::once("sandbox").chain(line.split_whitespace());
        Line::try_parse_from(words).map_err(|error| error.to_string()).and_then(|line| options(line.sandbox))
    }

    #[test]
    fn the_domain_is_the_user_name_unless_one_is_given() {
        let line = "--directory /x --domain acme.example --domain other.example --username desk@acme.example";
        let accounts = parse(line).unwrap().accounts;
        let names: Vec<_> = accounts.iter().map(|account| account.username.as_str()).collect();
        assert_eq!(names, ["desk@acme.example", "other.example"]);
    }

    #[test]
    fn options_that_cannot_be_meant_are_refused() {
        for line in [
            "--directory /x",
            "--domain acme.example",
            "--directory /x --domain -x",
            "--directory /x --domain acme.example --fault explode",
            "--directory /x --domain acme.example --username a --username b",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[tokio::test]
    async fn what_is_announced_holds_the_password_once_and_the_table_to_paste() {
        let directory = tempfile::tempdir().unwrap();
        let line = format!("--directory {} --domain acme.example --listen 127.0.0.1:0", directory.path().display());
        let announced = async || {
            let sandbox = Sandbox::start(parse(&line).unwrap()).await.unwrap();
            let mut out = Vec::new();
            announce(&sandbox, &mut out).unwrap();
            sandbox.stop().await;
            String::from_utf8(out).unwrap()
        };
        let first = announced().await;
        assert!(first.contains("password, shown this once: ") && first.contains("[connector.endpoint]\n"), "{first}");
        assert!(first.contains(&directory.path().join("ca.pem").display().to_string()), "{first}");
        assert!(!announced().await.contains("shown this once"));
    }
}
