//! `deskmilter exim`: shows, makes and takes back the change to an Exim configuration that attaches deskmilter, and checks
//! whether it is attached as it should be.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{ConfigFile, EX_CONFIG, complain, say, tell};
use crate::config::Config;
use crate::doctor::exim::{Change, Exim, EximError, check};

/// Arguments of `deskmilter exim`.
#[derive(Debug, Clone, clap::Args)]
pub struct EximArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Show what would be changed, and change nothing (this is the default).
    #[arg(long, group = "action")]
    pub diff: bool,
    /// Show the change and make it. Exim is not reloaded.
    #[arg(long, group = "action")]
    pub apply: bool,
    /// Show what is taken back and take it back: the files are then as they were before --apply.
    #[arg(long, group = "action")]
    pub undo: bool,
    /// Check that deskmilter is attached as it should be.
    #[arg(long, group = "action")]
    pub check: bool,
    /// The Exim configuration. With a conf.d beside it, as Debian's template has one, the parts there are changed.
    #[arg(long, value_name = "FILE", default_value = "/etc/exim4/exim4.conf.template")]
    pub config_file: PathBuf,
    /// Exim's program, for --check.
    #[arg(long, value_name = "PATH")]
    pub exim: Option<PathBuf>,
    /// What --check has Exim read, where that is not Exim's own choice.
    #[arg(long, value_name = "FILE")]
    pub generated: Option<PathBuf>,
}

/// Runs it. Exits with 0; with 1 when a check failed or Exim's side is in the way; with 78 when deskmilter's configuration is
/// wrong or does not fit.
pub(super) fn run(args: &EximArgs) -> ExitCode {
    // Taking back must work whatever has become of deskmilter's own configuration.
    let outcome = if args.undo {
        Change::detach(&args.config_file).and_then(|change| make(args, &change, true))
    } else {
        match args.file.load() {
            // What only observes is attached to the milter alone.
            Ok(config) => act(args, &config.acting()),
            Err(code) => return code,
        }
    };
    outcome.unwrap_or_else(|error| {
        complain(&format!("deskmilter exim: {error}"));
        match error {
            EximError::Configuration(_) => ExitCode::from(EX_CONFIG),
            _ => ExitCode::FAILURE,
        }
    })
}

fn act(args: &EximArgs, config: &Config) -> Result<ExitCode, EximError> {
    if args.check {
        let exim = Exim::find(args.exim.as_deref(), args.generated.as_deref())?;
        let findings = check(config, &exim)?;
        return Ok(tell(&findings));
    }
    let program = std::env::current_exe().map_err(|error| EximError::Program(error.to_string()))?;
    make(args, &Change::attach(config, &args.config_file, &program)?, args.apply)
}

fn make(args: &EximArgs, change: &Change, really: bool) -> Result<ExitCode, EximError> {
    if change.is_empty() {
        say(&format!("nothing to change in {}\n", args.config_file.display()));
        return Ok(ExitCode::SUCCESS);
    }
    say(&change.diff());
    if really {
        change.apply()?;
        say("now check with exim -bV (Debian: update-exim4.conf first), then reload Exim\n");
    }
    Ok(ExitCode::SUCCESS)
}
