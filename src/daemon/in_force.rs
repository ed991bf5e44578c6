//! Which configuration a running daemon has in force, told to other processes by a file of the state directory: so that who has
//! changed the configuration can tell the daemon, and knows that it was heeded.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The file's name in the state directory.
const NAME: &str = "in-force.json";
/// Octets of it at most.
const FILE_MAX: u64 = 64 * 1024;
/// Problems of a configuration that are told in it, at most.
const PROBLEMS_MAX: usize = 10;
/// How often it is looked at while a reload is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct InForce {
    /// The daemon's process.
    pid: i32,
    /// When that process began, in the kernel's count: with it the number cannot be another process's.
    started: u64,
    /// Reloads since then, refused ones too.
    reloads: u64,
    /// SHA-256 of the configuration file that was taken over last; `None` before the first reload.
    configuration: Option<String>,
    /// Why the last reload was refused.
    refused: Vec<String>,
}

/// The daemon's own side of the file. Dropping it removes it.
#[derive(Debug)]
pub(super) struct InForceFile {
    path: PathBuf,
    now: InForce,
}

impl InForceFile {
    /// Tells that this process serves. That the file cannot be written is told in the log and keeps nobody from serving.
    pub(super) fn new(state_directory: &Path) -> Self {
        let pid = nix::unistd::getpid().as_raw();
        let now = InForce {
            pid,
            started: started(pid).unwrap_or_default(),
            reloads: 0,
            configuration: None,
            refused: Vec::new(),
        };
        let file = Self { path: state_directory.join(NAME), now };
        file.write();
        file
    }

    /// Tells of a configuration that was taken over; `None` where its file was changed while it was read.
    pub(super) fn taken_over(&mut self, configuration: Option<String>) {
        self.now.configuration = configuration;
        self.end_of_reload(Vec::new());
    }

    /// Tells of one that was refused.
    pub(super) fn refused(&mut self, problems: &[String]) {
        self.end_of_reload(problems.iter().take(PROBLEMS_MAX).cloned().collect());
    }

    fn end_of_reload(&mut self, refused: Vec<String>) {
        self.now.reloads = self.now.reloads.saturating_add(1);
        self.now.refused = refused;
        self.write();
    }

    fn write(&self) {
        if let Err(error) = self.replace() {
            tracing::warn!(file = %self.path.display(), %error, "cannot tell which configuration is in force");
        }
    }

    /// Written aside and renamed into place: nobody reads half of it.
    fn replace(&self) -> io::Result<()> {
        let aside = self.path.with_extension("new");
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        out.write_all(&serde_json::to_vec(&self.now)?)?;
        fs::rename(&aside, &self.path)
    }
}

impl Drop for InForceFile {
    fn drop(&mut self) {
        if read(&self.path).is_ok_and(|told| told.is_some_and(|told| told.pid == self.now.pid)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Has the daemon of `state_directory` read its configuration `file` again, and waits until it has taken over just what is in that
/// file now. `Ok(false)` when no daemon runs there.
///
/// # Errors
/// The daemon refused the configuration, or did not say within `wait`.
pub fn tell_to_reload(state_directory: &Path, file: &Path, wait: Duration) -> Result<bool, String> {
    let path = state_directory.join(NAME);
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let Some(before) = read(&path).map_err(failed)?.filter(|told| told.is_alive(&path)) else { return Ok(false) };
    let wanted = fingerprint(file).ok_or_else(|| format!("{}: cannot be read", file.display()))?;
    kill(Pid::from_raw(before.pid), Signal::SIGHUP).map_err(|error| format!("process {}: {error}", before.pid))?;
    let begun = Instant::now();
    while begun.elapsed() < wait {
        match read(&path).map_err(failed)? {
            Some(now)
                if now.reloads > before.reloads
                    && now.configuration.as_ref() == Some(&wanted)
                    && now.refused.is_empty() =>
            {
                return Ok(true);
            }
            Some(now) if now.reloads > before.reloads && !now.refused.is_empty() => {
                return Err(format!("the daemon has refused the configuration: {}", now.refused.join("; ")));
            }
            // It ends meanwhile: the next one reads what is there.
            None => return Ok(false),
            Some(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    }
    Err(format!(
        "process {} has not taken over {} within {} s; see its log",
        before.pid,
        file.display(),
        wait.as_secs()
    ))
}

/// What tells one content of a file from another.
pub(super) fn fingerprint(file: &Path) -> Option<String> {
    let content = fs::read(file).ok()?;
    Some(digest(&SHA256, &content).as_ref().iter().map(|octet| format!("{octet:02x}")).collect())
}

impl InForce {
    /// Whether that process runs, and as the user whose file this is: nobody can have another's process signalled by it.
    fn is_alive(&self, path: &Path) -> bool {
        let Ok(facts) = fs::symlink_metadata(path) else { return false };
        let same = started(self.pid).is_some_and(|started| started == self.started);
        self.pid > 1 && same && uid_of(self.pid) == Some(facts.uid())
    }
}

/// The file, if it is there.
fn read(path: &Path) -> io::Result<Option<InForce>> {
    let facts = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        facts => facts?,
    };
    if !facts.is_file() || facts.len() > FILE_MAX {
        return Err(io::Error::other("not a file that a daemon wrote"));
    }
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        content => Ok(Some(serde_json::from_slice(&content?)?)),
    }
}

/// When a process began (proc_pid_stat(5), field 22).
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the state, field 3, comes after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The real user of a process (proc_pid_status(5)); the owner of its folder is root for one that cannot be dumped.
fn uid_of(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_is_told_and_goes_with_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let mut file = InForceFile::new(folder.path());
        let told = read(&path).unwrap().unwrap();
        assert!(told.is_alive(&path) && told.configuration.is_none());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        file.taken_over(Some("x".to_owned()));
        file.refused(&["no".to_owned()]);
        let told = read(&path).unwrap().unwrap();
        assert_eq!((told.reloads, told.configuration.as_deref(), told.refused.len()), (2, Some("x"), 1));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_was_left_behind_has_nobody_signalled() {
        let folder = tempfile::tempdir().unwrap();
        let configuration = folder.path().join("deskmilter.toml");
        fs::write(&configuration, "").unwrap();
        let file = InForceFile::new(folder.path());
        // As after kill -9, when the number has come to be another's: ours, which SIGHUP would end.
        let left = InForce { started: file.now.started.wrapping_add(1), ..file.now.clone() };
        fs::write(folder.path().join(NAME), serde_json::to_vec(&left).unwrap()).unwrap();
        assert_eq!(tell_to_reload(folder.path(), &configuration, Duration::from_secs(1)), Ok(false));
        fs::remove_file(folder.path().join(NAME)).unwrap();
        assert_eq!(tell_to_reload(folder.path(), &configuration, Duration::from_secs(1)), Ok(false));
    }
}
