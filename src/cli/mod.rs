//! The command line: one file a subcommand. Each reads its arguments, does one thing, and ends with an exit code of sysexits(3).

mod check;
mod credential;
mod import;
mod key;
mod postfix;
mod sandbox;
mod serve;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

/// Exit code for wrong arguments (EX_USAGE).
pub const EX_USAGE: u8 = 64;
/// Exit code for a service that cannot run (EX_UNAVAILABLE).
pub const EX_UNAVAILABLE: u8 = 69;
/// Exit code for a file that cannot be made (EX_CANTCREAT).
pub const EX_CANTCREAT: u8 = 73;
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
    /// Show, make or take back the change to a Postfix configuration that attaches deskmilter, or check it.
    Postfix(postfix::PostfixArgs),
    /// Run a ticket endpoint for trying things out: SMTP with STARTTLS and AUTH that files tickets in a folder.
    Sandbox(sandbox::SandboxArgs),
    /// Make a DKIM key, print the DNS record that publishes it, or check what DNS has.
    Key(key::KeyArgs),
    /// Issue, list, rotate and revoke what a company's mail server logs in with.
    Credential(credential::CredentialArgs),
    /// Print the configuration that does what another program was configured to do.
    Import(import::ImportArgs),
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
            eprintln!("{problems}");
            ExitCode::from(EX_CONFIG)
        })
    }
}

/// Runs the program with the arguments of the process.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; whoever closed standard output does not want to know.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match arguments.command {
        Command::Serve(file) => serve::run(&file),
        Command::Check(file) => check::run(&file),
        Command::Postfix(arguments) => postfix::run(&arguments),
        Command::Sandbox(arguments) => sandbox::run(arguments),
        Command::Key(arguments) => key::run(&arguments),
        Command::Credential(arguments) => credential::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
    }
}

/// Writes to standard output.
fn say(text: &str) {
    // Whoever closed standard output does not want to know.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
