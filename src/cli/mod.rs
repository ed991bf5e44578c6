//! The command line: one file a subcommand. Each reads its arguments, does one thing, and ends with an exit code of sysexits(3).

mod audit;
mod check;
mod credential;
mod disconnect;
mod exim;
mod exim_filter;
mod explain;
mod import;
mod key;
mod logs;
mod observe;
mod postfix;
mod sandbox;
mod serve;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::doctor::{Finding, Outcome};

/// Exit code for wrong arguments (EX_USAGE).
pub const EX_USAGE: u8 = 64;
/// Exit code for input that cannot be read as what it should be (EX_DATAERR).
pub const EX_DATAERR: u8 = 65;
/// Exit code for a service that cannot run (EX_UNAVAILABLE).
pub const EX_UNAVAILABLE: u8 = 69;
/// Exit code for a file that cannot be made (EX_CANTCREAT).
pub const EX_CANTCREAT: u8 = 73;
/// Exit code for output that could not be written (EX_IOERR).
pub const EX_IOERR: u8 = 74;
/// Exit code for trouble that may pass (EX_TEMPFAIL).
pub const EX_TEMPFAIL: u8 = 75;
/// Exit code for a wrong configuration (EX_CONFIG).
pub const EX_CONFIG: u8 = 78;

/// Connects a company's own mail server with its ticket system over authenticated, encrypted SMTP.
#[derive(Debug, Parser)]
#[command(name = "deskmilter", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground: the milter and one LMTP listener per connector.
    Serve(ConfigFile),
    /// Check the configuration and print what is in effect, without secrets. Exits with 0, or 78 if something is wrong.
    Check(ConfigFile),
    /// Reconcile Postfix's log with deskmilter's: what became of every message for a support address, and whether one is lost.
    Audit(Box<audit::AuditArgs>),
    /// Tell what connectors with observe = true would have done, before they do it.
    Observe(observe::ObserveArgs),
    /// Tell the story of one message from the logs of Postfix and deskmilter: what was made of it, and where it is now.
    Explain(Box<explain::ExplainArgs>),
    /// Show, make or take back the change to a Postfix configuration that attaches deskmilter, or check it.
    Postfix(postfix::PostfixArgs),
    /// Hand over a message to the daemon, called as sendmail is: the ticket system's way out.
    ///
    /// The message is read from standard input. -f ADDRESS or -r ADDRESS: the sender; "" is the null sender; without it the address of
    /// From. -t: recipients from To, Cc and Bcc, together with those of the command line. -i or -oi: a line with a single dot does
    /// not end the message. -F NAME: the full name, where From is missing. -C FILE: the configuration file. -v: tell the replies.
    /// Other options of sendmail are known and without effect.
    ///
    /// Ends with 0 when the message was taken for all recipients; with 75 when the caller must come again; with 64 (arguments), 65
    /// (message or address), 67, 68 (no such recipient), 69 or 77 (refused) when that would not help; with 78 when the configuration
    /// cannot be read.
    #[command(disable_help_flag = true)]
    Submit(SubmitArgs),
    /// Show, make or take back the change to an Exim configuration that attaches deskmilter, or check it.
    Exim(exim::EximArgs),
    /// Sign a message on its last hop: what Exim's transport_filter runs.
    EximFilter(exim_filter::EximFilterArgs),
    /// Run a ticket endpoint for trying things out: SMTP with STARTTLS and AUTH that files tickets in a folder.
    Sandbox(Box<sandbox::SandboxArgs>),
    /// Make a DKIM key, print the DNS record that publishes it, or check what DNS has.
    Key(key::KeyArgs),
    /// Issue, list, rotate and revoke what a company's mail server logs in with.
    Credential(credential::CredentialArgs),
    Disconnect(Box<disconnect::DisconnectArgs>),
    /// Print the configuration that does what another program was configured to do.
    Import(import::ImportArgs),
}

/// sendmail's arguments, which are not ours to read here.
#[derive(Debug, Clone, clap::Args)]
struct SubmitArgs {
    /// As sendmail's: -f SENDER, -t, -i, -F NAME, -C CONFIGURATION, recipients.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<std::ffi::OsString>,
}

/// Which configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(short, long = "config", value_name = "FILE", default_value = "/etc/deskmilter/deskmilter.toml")]
    pub config: PathBuf,
}

impl ConfigFile {
    /// The checked configuration, or the exit code after all problems were told on standard error.
    ///
    /// # Errors
    /// [`EX_CONFIG`].
    pub fn load(&self) -> Result<Config, ExitCode> {
        Config::load(&self.config).map_err(|problems| {
            complain(&problems.to_string());
            ExitCode::from(EX_CONFIG)
        })
    }
}

/// Runs the program with the arguments of the process.
pub fn run() -> ExitCode {
    // sendmail's arguments follow rules of their own.
    let mut words = std::env::args_os();
    let called = words.next().map(PathBuf::from);
    let is_sendmail = called.as_deref().and_then(Path::file_name).is_some_and(|name| name == "sendmail");
    let submits = is_sendmail || words.next().is_some_and(|word| word == "submit");
    // Which is none of sendmail's.
    let asks = submits && !is_sendmail && words.next().is_some_and(|word| word == "--help");
    if submits && !asks {
        return ExitCode::from(crate::submit::run(std::env::args_os().skip(if is_sendmail { 1 } else { 2 })));
    }
    let parsed =
        if asks { Arguments::try_parse_from(["deskmilter", "help", "submit"]) } else { Arguments::try_parse() };
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; whoever closed standard output does not want to know.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let code = match arguments.command {
        Command::Serve(file) => serve::run(&file),
        Command::Check(file) => check::run(&file),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::Observe(arguments) => observe::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Postfix(arguments) => postfix::run(&arguments),
        Command::Submit(arguments) => ExitCode::from(crate::submit::run(arguments.arguments)),
        Command::Sandbox(arguments) => sandbox::run(*arguments),
        Command::Exim(arguments) => exim::run(&arguments),
        Command::EximFilter(arguments) => exim_filter::run(&arguments),
        Command::Key(arguments) => key::run(&arguments),
        Command::Credential(arguments) => credential::run(&arguments),
        Command::Disconnect(arguments) => disconnect::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
    };
    // Whoever goes by the exit status must not take half of what was to be said for all of it.
    if CUT_SHORT.load(Ordering::Relaxed) { ExitCode::from(EX_IOERR) } else { code }
}

/// Something that was to be said is not on standard output.
static CUT_SHORT: AtomicBool = AtomicBool::new(false);

/// Prints what checks found. Exits with 1 when one failed.
fn tell(findings: &[Finding]) -> ExitCode {
    for finding in findings {
        say(&format!("{finding}\n"));
    }
    if findings.iter().any(|finding| finding.outcome == Outcome::Fail) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Writes to standard output. A disk that is full is told, and by the exit status too.
fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    // Whoever closed it does not want to know.
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
        && !CUT_SHORT.swap(true, Ordering::Relaxed)
    {
        complain(&format!("deskmilter: standard output: {error}"));
    }
}

/// Writes a line to standard error. Nobody may be reading that either; then the exit status has to say it.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
