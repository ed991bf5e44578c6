//! What was changed, kept on the disk until it is taken back: enough to go on from any instant, and to go back to every octet.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::{Stop, Waiting};
use crate::doctor::postfix::{PostfixError, Rewrite, replace, sweep};

/// The records' folder in the state directory.
const FOLDER: &str = "disconnect";
/// The lock in it.
const LOCK: &str = "lock";
/// Where the next text of a record is written first.
const ASIDE: &str = "next";
/// Octets of a record at most: the configuration twice, the tables.
const RECORD_MAX: u64 = 256 << 20;

/// One disconnection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked for: a domain, or addresses separated by blanks.
    pub request: String,
    /// Where the mail goes, in the words of the command; `None` where nothing was said of it.
    #[serde(default)]
    pub way: Option<String>,
    /// When, as RFC 3339.
    pub begun: String,
    /// Gives new mail its other way.
    pub first: Vec<FileChange>,
    /// The configuration of deskmilter.
    pub settings: Option<FileChange>,
    /// Makes mail wait that comes late all the same.
    pub last: Vec<FileChange>,
    /// Mail in the queue that is for us.
    pub waiting: Waiting,
    /// Issued sets that are revoked, by number.
    pub sets: Vec<i64>,
    /// Those that were.
    pub revoked: Vec<i64>,
    /// All was done.
    pub finished: bool,
}

/// One file, and its two texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// The file.
    pub path: PathBuf,
    /// What was in it; `None` where there was none.
    pub before: Option<String>,
    /// What is in it.
    pub after: String,
    /// The file whose owner and mode it has.
    model: PathBuf,
}

/// What is in a file now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// As before.
    Before,
    /// As after.
    After,
}

impl FileChange {
    /// The change of a file that has the owner and the mode of `model` when it is made.
    pub(super) fn new(rewrite: Rewrite, model: &Path) -> Self {
        let Rewrite { path, before, after } = rewrite;
        let model = if before.is_some() { path.clone() } else { model.to_owned() };
        Self { path, before, after, model }
    }

    /// Where the file stands.
    ///
    /// # Errors
    /// Somebody else has written to it since.
    pub(super) fn stage(&self) -> Result<Stage, Stop> {
        let now = match fs::read_to_string(&self.path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&self.path, error)),
        };
        match now {
            Some(text) if text == self.after => Ok(Stage::After),
            now if now == self.before => Ok(Stage::Before),
            _ => Err(Stop::Refused(format!(
                "{}: somebody has changed it since; nothing was written. The record of the disconnection has both of its texts",
                self.path.display()
            ))),
        }
    }

    /// Writes the text after.
    pub(super) fn make(&self) -> Result<(), Stop> {
        sweep(&self.path)?;
        match self.stage()? {
            Stage::After => Ok(()),
            Stage::Before => Ok(replace(&self.path, &self.after, &self.model)?),
        }
    }

    /// Writes the text before.
    pub(super) fn take_back(&self) -> Result<(), Stop> {
        sweep(&self.path)?;
        match (self.stage()?, &self.before) {
            (Stage::Before, _) => Ok(()),
            (Stage::After, Some(before)) => Ok(replace(&self.path, before, &self.path)?),
            (Stage::After, None) => fs::remove_file(&self.path).map_err(|error| failed(&self.path, error)),
        }
    }
}

impl Record {
    /// All files, in the order in which they are written.
    pub fn files(&self) -> impl Iterator<Item = &FileChange> {
        self.first.iter().chain(&self.settings).chain(&self.last)
    }

    /// Whether every file is as it was left.
    pub fn is_in_force(&self) -> bool {
        self.files().all(|file| matches!(file.stage(), Ok(Stage::After)))
    }
}

/// The records of one daemon. While it is there, no other process has it.
///
/// The state directory is the daemon's, who may be compromised, and we may be root: a record counts only if it is a file of our own
/// that nobody else can write or read, and its files are compared with those that the caller means.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    _lock: Flock<File>,
}

impl Records {
    /// Whether there ever were any.
    pub fn exist(state_directory: &Path) -> bool {
        state_directory.join(FOLDER).is_dir()
    }

    /// Opens the records of the daemon of `state_directory`, and makes their folder where there is none.
    ///
    /// # Errors
    /// The folder is not ours, or another process is at work.
    pub fn open(state_directory: &Path) -> Result<Self, Stop> {
        let folder = state_directory.join(FOLDER);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| failed(&folder, error))?;
        own(&folder, &fs::symlink_metadata(&folder).map_err(|error| failed(&folder, error))?)?;
        let path = folder.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .map_err(|error| failed(&path, error))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| Stop::Later(format!("{}: another disconnection is at work", path.display())))?;
        Ok(Self { folder, _lock: lock })
    }

    /// The last record that is there, with its number.
    ///
    /// # Errors
    /// It cannot be read, or is not ours.
    pub fn last(&self) -> Result<Option<(u32, Record)>, Stop> {
        let entries = fs::read_dir(&self.folder).map_err(|error| failed(&self.folder, error))?;
        let numbers =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".json")?.parse::<u32>().ok());
        let Some(number) = numbers.max() else { return Ok(None) };
        let path = self.path(number);
        let read = || {
            let mut file = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path)?;
            let facts = file.metadata()?;
            let mut text = String::new();
            if facts.is_file() && facts.len() <= RECORD_MAX {
                file.read_to_string(&mut text)?;
            }
            Ok((facts, text))
        };
        let (facts, text) = read().map_err(|error| failed(&path, error))?;
        own(&path, &facts)?;
        let record = serde_json::from_str(&text)
            .map_err(|error| Stop::Refused(format!("{}: not a record of ours: {error}", path.display())))?;
        Ok(Some((number, record)))
    }

    /// Keeps `record` under `number`, on the disk when this returns.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, number: u32, record: &Record) -> Result<(), Stop> {
        let path = self.path(number);
        let write = || {
            let aside = self.folder.join(ASIDE);
            match fs::remove_file(&aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
            out.write_all(&serde_json::to_vec(record)?)?;
            out.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| failed(&path, error))
    }

    /// Forgets the record `number`.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(&self, number: u32) -> Result<(), Stop> {
        let path = self.path(number);
        // On the disk when this returns: one that came back after a power cut would have the next command go on with it.
        fs::remove_file(&path).and_then(|()| File::open(&self.folder)?.sync_all()).map_err(|error| failed(&path, error))
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{number}.json"))
    }
}

fn own(path: &Path, facts: &fs::Metadata) -> Result<(), Stop> {
    if facts.file_type().is_symlink() || facts.uid() != geteuid().as_raw() || facts.mode() & 0o077 != 0 {
        return Err(Stop::Refused(format!(
            "{}: not a file of ours that nobody else can read or write; move it away, or run this as the user who made it",
            path.display()
        )));
    }
    Ok(())
}

fn failed(path: &Path, error: io::Error) -> Stop {
    Stop::Postfix(PostfixError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn record() -> Record {
        Record {
            request: "acme.example".to_owned(),
            way: None,
            begun: String::new(),
            first: Vec::new(),
            settings: None,
            last: Vec::new(),
            waiting: Waiting { recipients: vec![("a@b.example".to_owned(), Some('+'))], senders: Vec::new() },
            sets: vec![7],
            revoked: Vec::new(),
            finished: false,
        }
    }

    #[test]
    fn the_last_record_is_found_again_and_nobody_else_works_meanwhile() {
        let state = tempfile::tempdir().unwrap();
        let records = Records::open(state.path()).unwrap();
        assert_eq!(records.last().unwrap(), None);
        assert!(matches!(Records::open(state.path()), Err(Stop::Later(_))));
        for number in [1, 2, 10] {
            records.save(number, &Record { begun: number.to_string(), ..record() }).unwrap();
        }
        assert_eq!(fs::metadata(records.path(10)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(records.last().unwrap().unwrap(), (10, Record { begun: "10".to_owned(), ..record() }));
        records.forget(10).unwrap();
        drop(records);
        assert_eq!(Records::open(state.path()).unwrap().last().unwrap().unwrap().0, 2);
    }

    #[test]
    fn a_record_that_others_could_have_written_is_not_ours() {
        let state = tempfile::tempdir().unwrap();
        let records = Records::open(state.path()).unwrap();
        records.save(1, &record()).unwrap();
        fs::set_permissions(records.path(1), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(records.last(), Err(Stop::Refused(_))));
        fs::rename(records.path(1), state.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(state.path().join("elsewhere"), records.path(1)).unwrap();
        assert!(records.last().is_err());
    }

    #[test]
    fn a_file_goes_from_one_text_to_the_other_and_never_over_a_third() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::write(&old, "one\n").unwrap();
        fs::set_permissions(&old, PermissionsExt::from_mode(0o640)).unwrap();
        let change = |path: &Path, before: Option<&str>| {
            let before = before.map(str::to_owned);
            FileChange::new(Rewrite { path: path.to_owned(), before, after: "two\n".to_owned() }, &old)
        };
        let changes = [change(&old, Some("one\n")), change(&new, None)];
        for change in &changes {
            for _ in 0..2 {
                change.make().unwrap();
                assert_eq!(change.stage().unwrap(), Stage::After);
                assert_eq!(fs::metadata(&change.path).unwrap().mode() & 0o777, 0o640);
            }
            fs::write(&change.path, "three\n").unwrap();
            for refusal in [change.make(), change.take_back()] {
                assert!(refusal.unwrap_err().to_string().contains(&change.path.display().to_string()));
            }
            fs::write(&change.path, "two\n").unwrap();
            change.take_back().unwrap();
            change.take_back().unwrap();
        }
        assert_eq!(fs::read_to_string(&old).unwrap(), "one\n");
        assert!(!new.exists());
    }
}
