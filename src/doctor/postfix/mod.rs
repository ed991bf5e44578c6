//! One Postfix configuration: what it says ([`Installation`]), whether deskmilter is attached to it as it should be
//! ([`check`]), and the change that attaches it and can be taken back ([`Change`]).
//!
//! Values are read through `postconf`, so that includes, defaults, `$name` expansion and later definitions are Postfix's own;
//! only the lines that we add to `main.cf` are ours. `master.cf` is read and never edited.

mod attachment;
mod change;
mod checks;
mod forwarding;
#[cfg(any(test, fuzzing))]
#[path = "../../../fuzz/targets/postfix.rs"]
pub(crate) mod fuzzing;
mod main_cf;
mod milter_list;
mod outgoing;
mod queue;
mod reach;
mod service;

pub use attachment::{Attachment, keys};
pub use change::{Change, Undo, diff, replace, sweep};
pub use checks::check;
pub use forwarding::{Forwarding, Rewrite, foreign_transport, has_a_way, take_off_transport};
pub use main_cf::ParameterEdit;
pub use milter_list::MilterEntry;
pub use queue::{Queued, QueuedRecipient};
pub use service::Service;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::finding::remedy;

/// Where programs of Postfix are looked for when PATH does not have them: a postmaster's shell may lack the sbin folders.
const SBIN: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"];

/// A Postfix configuration directory.
#[derive(Debug, Clone)]
pub struct Installation {
    directory: PathBuf,
}

/// Why a Postfix configuration cannot be read or changed. Each message names the object and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum PostfixError {
    /// A file cannot be read or written.
    #[error("{}: {error}{}", path.display(), remedy(error))]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// One of Postfix's programs failed or is missing.
    #[error("{program}: {message}")]
    Program {
        /// Its name.
        program: String,
        /// What it said.
        message: String,
    },
    /// deskmilter's own configuration does not fit this Postfix.
    #[error("{0}")]
    Configuration(String),
    /// The change cannot be made or taken back without destroying somebody's work.
    #[error("{0}")]
    Refused(String),
}

impl Installation {
    /// Opens a configuration directory.
    ///
    /// # Errors
    /// When there is no `main.cf` or `master.cf`, or `postconf` cannot read them.
    pub fn open(directory: &Path) -> Result<Self, PostfixError> {
        // Absolute, because Postfix's programs are run elsewhere and the transport map is named in main.cf.
        let absolute =
            directory.canonicalize().map_err(|error| PostfixError::File { path: directory.to_owned(), error })?;
        for name in ["main.cf", "master.cf"] {
            let path = absolute.join(name);
            std::fs::metadata(&path).map_err(|error| PostfixError::File { path, error })?;
        }
        let installation = Self { directory: absolute };
        installation.parameter("mail_version")?;
        Ok(installation)
    }

    /// The configuration directory, absolute.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `main.cf` itself: where a link leads.
    ///
    /// # Errors
    /// It is gone.
    pub fn main_cf(&self) -> Result<PathBuf, PostfixError> {
        let path = self.directory.join("main.cf");
        path.canonicalize().map_err(|error| PostfixError::File { path, error })
    }

    /// A parameter's value with every `$name` expanded (`postconf -xh`).
    ///
    /// # Errors
    /// When `postconf` fails.
    pub fn parameter(&self, name: &str) -> Result<String, PostfixError> {
        Ok(self.postconf(&["-xh", name])?.trim().to_owned())
    }

    /// Every parameter that `main.cf` sets (`postconf -n`).
    ///
    /// # Errors
    /// When `postconf` fails.
    pub fn explicit(&self) -> Result<String, PostfixError> {
        self.postconf(&["-n"])
    }

    /// The services of `master.cf` with their overrides, every `$name` in these expanded (`postconf -Px`).
    ///
    /// # Errors
    /// When `postconf` fails.
    pub fn services(&self) -> Result<Vec<Service>, PostfixError> {
        let compatibility = self.parameter("compatibility_level")?;
        Ok(service::parse(&self.postconf(&["-M"])?, &self.postconf(&["-Px"])?, &compatibility))
    }

    /// The queue directory: where relative socket paths begin, and the root of a chrooted service.
    ///
    /// # Errors
    /// When `postconf` fails.
    pub fn queue_directory(&self) -> Result<PathBuf, PostfixError> {
        Ok(PathBuf::from(self.parameter("queue_directory")?))
    }

    /// What a lookup table answers for `key` (`postmap -q`).
    ///
    /// # Errors
    /// When the table cannot be read. No answer is no error.
    pub fn look_up(&self, table: &str, key: &str) -> Result<Option<String>, PostfixError> {
        let directory = self.directory.display().to_string();
        let output = output("postmap", &["-c", &directory, "-q", key, table])?;
        // Exit status 1 is both "not found" and "failed"; only a failure says so. Warnings are about other things.
        let said = String::from_utf8_lossy(&output.stderr);
        let message = said.lines().filter(|line| !line.contains(": warning: ")).collect::<Vec<_>>().join("; ");
        if !output.status.success() && !message.is_empty() {
            return Err(PostfixError::Program { program: "postmap".to_owned(), message });
        }
        let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(output.status.success().then_some(answer))
    }

    fn postconf(&self, arguments: &[&str]) -> Result<String, PostfixError> {
        let directory = self.directory.display().to_string();
        let mut all = vec!["-c", &directory];
        all.extend_from_slice(arguments);
        let output = output("postconf", &all)?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(PostfixError::Program { program: "postconf".to_owned(), message });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Runs one of Postfix's programs to its end, found by PATH or where Postfix is installed.
fn output(program: &str, arguments: &[&str]) -> Result<std::process::Output, PostfixError> {
    let failed = |message: String| PostfixError::Program { program: program.to_owned(), message };
    let candidates =
        std::iter::once(PathBuf::from(program)).chain(SBIN.iter().map(|sbin| Path::new(sbin).join(program)));
    for candidate in candidates {
        // LANG: the messages are shown, and compared by nobody; LC_ALL=C keeps them English.
        match Command::new(&candidate).args(arguments).env("LC_ALL", "C").stdin(std::process::Stdio::null()).output() {
            Ok(output) => return Ok(output),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    Err(failed("not found; is Postfix installed, and are its programs in PATH?".to_owned()))
}
