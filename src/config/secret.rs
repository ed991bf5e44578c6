//! Secrets: read from files that only their owner can read, never printed, wiped when dropped.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::credential;

/// Octets in a secret file at most.
const SECRET_MAX: u64 = 64 * 1024;

/// A password or key. Cannot be printed; wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps a secret.
    pub fn new(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// The secret itself. Never hand the result to a log, an error or a command line.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where a secret is kept: a file of the user that deskmilter runs as, or a credential that systemd passes. Read anew whenever it is needed, so that a replaced file counts at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretFile {
    path: PathBuf,
    /// Who must own it; `None` is whoever runs this process.
    owner: Option<u32>,
}

/// Why a secret file cannot be used. Each message names the path and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be opened or read.
    #[error("{}: {error}; the file must exist and be readable by the user that deskmilter runs as", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Others than the owner can read or write it.
    #[error("{}: mode {mode:04o} lets others than its owner at it, so that it is not taken for a secret; if it holds this secret and nothing else, chmod 0600 it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("{}: owned by uid {owner}, but a secret must belong to uid {expected}, which deskmilter runs as; if it holds this secret and nothing else, chown it to {expected}", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who should own it.
        expected: u32,
    },
    /// Not a regular file, or larger than any secret.
    #[error("{}: not a regular file of at most 64 KiB", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("{}: the file is empty; write the secret into it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// More than one line, or a NUL.
    #[error("{}: a password is one line of text without NUL; the file holds more", path.display())]
    Lines {
        /// The file.
        path: PathBuf,
    },
}

impl SecretFile {
    /// A secret kept at `path`, in a file of the user that runs this process.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), owner: None }
    }

    /// A secret kept at `path`, in a file of the user `owner`.
    pub fn owned_by(path: impl Into<PathBuf>, owner: u32) -> Self {
        Self { path: path.into(), owner: Some(owner) }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole file after checking kind, owner and mode on the open file, so that nobody can swap it in between.
    ///
    /// # Errors
    /// As [`SecretError`] says; none of them holds a part of the secret.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let path = || self.path.clone();
        let read_error = |error| SecretError::Read { path: path(), error };
        // Opening a FIFO would wait for somebody to write into it; what is no regular file is refused below.
        let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let file = File::options().read(true).custom_flags(nonblocking).open(&self.path).map_err(read_error)?;
        let facts = file.metadata().map_err(read_error)?;
        if !facts.is_file() || facts.len() > SECRET_MAX {
            return Err(SecretError::Kind { path: path() });
        }
        let expected = self.owner.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
        let passed = facts.uid() == 0 && credential::is_one(&self.path);
        let mode = facts.mode() & 0o7777;
        if mode & if passed { credential::FORBIDDEN } else { 0o077 } != 0 {
            return Err(SecretError::Mode { path: path(), mode });
        }
        if facts.uid() != expected && !passed {
            return Err(SecretError::Owner { path: path(), owner: facts.uid(), expected });
        }
        let mut octets = Zeroizing::new(Vec::with_capacity(usize::try_from(facts.len()).unwrap_or(0) + 1));
        file.take(SECRET_MAX).read_to_end(&mut octets).map_err(read_error)?;
        if octets.is_empty() {
            return Err(SecretError::Empty { path: path() });
        }
        Ok(Secret(octets))
    }

    /// Reads a password: one line, whose line ending is not part of it.
    ///
    /// # Errors
    /// As [`Self::read`], and when there is more than one line or a NUL (RFC 4616 forbids it).
    pub fn read_password(&self) -> Result<Secret, SecretError> {
        let secret = self.read()?;
        let octets = secret.expose();
        let line = octets.strip_suffix(b"\n").unwrap_or(octets);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(SecretError::Empty { path: self.path.clone() });
        }
        if line.iter().any(|b| matches!(b, b'\n' | b'\r' | 0)) {
            return Err(SecretError::Lines { path: self.path.clone() });
        }
        Ok(Secret::new(line.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(content: &str, mode: u32) -> (tempfile::TempDir, SecretFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("acme.password");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        (directory, SecretFile::new(path))
    }

    #[test]
    fn a_password_is_one_line_without_its_line_ending() {
        for content in ["s3cret", "s3cret\n", "s3cret\r\n"] {
            let (_directory, file) = file(content, 0o600);
            assert_eq!(file.read_password().unwrap().expose(), b"s3cret");
        }
        for content in ["", "\n", "a\nb\n", "a\0b"] {
            let (_directory, file) = file(content, 0o600);
            assert!(file.read_password().is_err(), "{content:?}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_path_mode_and_remedy() {
        for mode in [0o644, 0o640, 0o604, 0o660] {
            let (_directory, file) = file("s3cret", mode);
            let message = file.read_password().unwrap_err().to_string();
            assert!(message.contains("acme.password") && message.contains(&format!("{mode:04o}")), "{message}");
            assert!(message.contains("chmod 0600") && !message.contains("s3cret"), "{message}");
            // Nobody is to run it on a file that happens to be no secret.
            assert!(!message.contains("chmod 0600 /"), "{message}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [path, directory.path().to_owned()] {
            assert!(matches!(SecretFile::new(path).read(), Err(SecretError::Kind { .. })));
        }
    }

    #[test]
    fn no_printing_of_a_secret() {
        assert_eq!(format!("{:?}", Secret::new(b"s3cret".to_vec())), "[secret]");
    }
}
