//! `deskmilter postfix`: shows, makes and takes back the change to a Postfix configuration that attaches deskmilter, and
//! checks whether it is attached as it should be.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{ConfigFile, EX_CONFIG, complain, say, tell};
use crate::config::Config;
use crate::doctor::postfix::{Attachment, Change, Installation, PostfixError, Undo, check};

/// Arguments of `deskmilter postfix`.
#[derive(Debug, Clone, clap::Args)]
pub struct PostfixArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Show what would be changed, and change nothing (this is the default).
    #[arg(long, group = "action")]
    pub diff: bool,
    /// Show the change and make it. Postfix is not reloaded.
    #[arg(long, group = "action")]
    pub apply: bool,
    /// Show what is taken back and take it back: the files are then as they were before --apply.
    #[arg(long, group = "action")]
    pub undo: bool,
    /// Check that deskmilter is attached as it should be.
    #[arg(long, group = "action")]
    pub check: bool,
    /// The Postfix configuration directory.
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/postfix")]
    pub config_directory: PathBuf,
}

/// Runs it. Exits with 0; with 1 when a check failed or Postfix's side is in the way; with 78 when deskmilter's
/// configuration is wrong or does not fit this Postfix.
pub(super) fn run(args: &PostfixArgs) -> ExitCode {
    // Taking back must work whatever has become of deskmilter's own configuration.
    let outcome = if args.undo {
        undo(args)
    } else {
        match args.file.load() {
            // What only observes is attached to the milter alone.
            Ok(config) => act(args, &config.acting()),
            Err(code) => return code,
        }
    };
    outcome.unwrap_or_else(|error| {
        complain(&format!("deskmilter postfix: {error}"));
        match error {
            PostfixError::Configuration(_) => ExitCode::from(EX_CONFIG),
            _ => ExitCode::FAILURE,
        }
    })
}

fn undo(args: &PostfixArgs) -> Result<ExitCode, PostfixError> {
    let installation = Installation::open(&args.config_directory)?;
    let undo = Undo::plan(&installation)?;
    if undo.is_empty() {
        say(&format!("nothing of deskmilter in {}\n", installation.directory().display()));
        return Ok(ExitCode::SUCCESS);
    }
    say(&undo.diff());
    for path in undo.removed() {
        say(&format!("remove {}\n", path.display()));
    }
    undo.apply()?;
    say(&reload(&installation));
    Ok(ExitCode::SUCCESS)
}

fn act(args: &PostfixArgs, config: &Config) -> Result<ExitCode, PostfixError> {
    let installation = Installation::open(&args.config_directory)?;
    if args.check {
        let findings = check(config, &installation)?;
        return Ok(tell(&findings));
    }
    let attachment = Attachment::of(config, &installation)?;
    let change = Change::plan(&installation, &attachment)?;
    if change.is_empty() {
        say(&format!("nothing to change in {}\n", installation.directory().display()));
        return Ok(ExitCode::SUCCESS);
    }
    say(&change.diff());
    if args.apply {
        change.apply()?;
        say(&reload(&installation));
    }
    Ok(ExitCode::SUCCESS)
}

fn reload(installation: &Installation) -> String {
    format!("now run: postfix -c {} reload\n", installation.directory().display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        postfix: PostfixArgs,
    }

    #[test]
    fn one_action_at_a_time_and_showing_by_default() {
        let line = Line::try_parse_from(["postfix"]).unwrap().postfix;
        assert!(!line.apply && !line.undo && !line.check);
        assert_eq!(line.config_directory, PathBuf::from("/etc/postfix"));
        assert!(Line::try_parse_from(["postfix", "--undo", "--config-directory", "/x"]).unwrap().postfix.undo);
        assert!(Line::try_parse_from(["postfix", "--apply", "--undo"]).is_err());
    }
}
