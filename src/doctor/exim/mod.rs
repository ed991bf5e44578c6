//! One Exim configuration: what it says ([`Exim`]), whether deskmilter is attached to it as it should be ([`check`]), and the
//! change that attaches it and can be taken back ([`Change`]).
//!
//! Values are read through `exim -bP`, `-bt` and `-brw`, so that includes, macros and defaults are Exim's own. What is written
//! are files of ours in a folder of their own, and marked lines that include them.

mod acls;
mod change;
mod checks;
mod fragments;
mod section;

pub use change::{Change, FileChange};
pub use checks::check;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::finding::remedy;

/// Where Exim's program is looked for: Debian's name, and upstream's.
const PROGRAMS: [&str; 4] = ["/usr/sbin/exim4", "/usr/sbin/exim", "/usr/local/sbin/exim", "/usr/exim/bin/exim"];

/// Why an Exim configuration cannot be read or changed. Each message names the object and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum EximError {
    /// A file cannot be read or written.
    #[error("{}: {error}{}", path.display(), remedy(error))]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Exim failed or is missing.
    #[error("{0}")]
    Program(String),
    /// deskmilter's own configuration does not fit.
    #[error("{0}")]
    Configuration(String),
    /// The change cannot be made without destroying somebody's work.
    #[error("{0}")]
    Refused(String),
}

/// Exim's program and the configuration that it is asked about.
#[derive(Debug, Clone)]
pub struct Exim {
    program: PathBuf,
    file: Option<PathBuf>,
}

impl Exim {
    /// The program at `program`, or where it usually is; with the configuration `file`, or its own.
    ///
    /// # Errors
    /// There is none.
    pub fn find(program: Option<&Path>, file: Option<&Path>) -> Result<Self, EximError> {
        let usual = || PROGRAMS.iter().map(PathBuf::from).find(|path| path.exists());
        let program = program.map(Path::to_owned).or_else(usual).ok_or_else(|| {
            EximError::Program("no exim4 or exim in the usual places; name it with --exim".to_owned())
        })?;
        Ok(Self { program, file: file.map(Path::to_owned) })
    }

    /// What `exim` says with these arguments.
    fn says(&self, arguments: &[&str]) -> Result<String, EximError> {
        let output = self.run(arguments)?;
        if !output.status.success() {
            let told = [&output.stdout[..], &output.stderr[..]].concat();
            let message = String::from_utf8_lossy(&told).trim().to_owned();
            return Err(EximError::Program(format!("exim {}: {message}", arguments.join(" "))));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn run(&self, arguments: &[&str]) -> Result<Output, EximError> {
        let mut command = Command::new(&self.program);
        if let Some(file) = &self.file {
            command.arg("-C").arg(file);
        }
        let command = command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
        command.output().map_err(|error| EximError::Program(format!("{}: {error}", self.program.display())))
    }

    /// The value of a main option.
    fn option(&self, name: &str) -> Result<String, EximError> {
        let said = self.says(&["-bP", name])?;
        let line = said.lines().find(|line| line.starts_with(name) || line.strip_prefix("no_") == Some(name));
        let line = line.unwrap_or_default();
        Ok(line.split_once(" = ").map_or(line, |(_, value)| value).trim().to_owned())
    }
}
