//! Processes that end with the test, and waits that end in time.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take that normally takes a moment: generous, for a machine busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Lines of a log shown with a failure.
const TAIL_LINES: usize = 40;

/// A process of ours. Dropping it ends it and the process group that it leads.
///
/// It also ends when the test is killed: a guard waits for the end of a pipe that only the test holds open. (The kernel's
/// own parent-death signal is lost when a process changes its user, as Postfix's master does.)
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    guard: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `arguments`; what it prints is appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap_or_else(|e| panic!("{log:?}: {e}"));
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a copy of the log's handle"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}; run tests/peers/install.sh"));
        // In a group of its own, so that it outlives a test whose whole group is killed.
        let guard = Command::new("sh")
            .args(["-c", "read -r _; kill -TERM \"$1\"; kill -TERM -- \"-$1\"", "guard", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh");
        Self { name: name.to_owned(), child, guard, log: log.to_owned() }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When the process ends before, or after [`PATIENCE`]; shows the end of the log.
    pub fn wait_until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{} ended ({status}) before {what}\n{}", self.name, tail(&self.log()));
            }
            assert!(start.elapsed() < PATIENCE, "{}: no {what} within {PATIENCE:?}\n{}", self.name, tail(&self.log()));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        kill(self.id(), signal).unwrap_or_else(|e| panic!("{}: {signal}: {e}", self.name));
    }

    /// SIGKILL, at once; where it made a process group of its own (Postfix's master does), to all of that.
    pub fn kill(&mut self) {
        let _ = killpg(self.id(), Signal::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then waits for the end. What then still runs of its group is killed.
    ///
    /// # Panics
    /// When it has not ended after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        if self.is_running() {
            self.signal(Signal::SIGTERM);
        }
        self.wait(limit)
    }

    /// Waits for the end. What then still runs of its group is killed.
    ///
    /// # Panics
    /// When it has not ended after `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let _ = killpg(self.id(), Signal::SIGKILL);
                return status;
            }
            if start.elapsed() >= limit {
                self.kill();
                panic!("{}: still running after {limit:?}\n{}", self.name, tail(&self.log()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a process id"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = kill(self.id(), Signal::SIGTERM);
            let start = Instant::now();
            while self.is_running() && start.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.kill();
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// After [`PATIENCE`]; says what was waited for and shows the end of `log()`.
pub fn wait_until(what: &str, log: impl Fn() -> String, condition: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, log, condition);
}

/// Waits until `condition` holds, for at most `limit`.
///
/// # Panics
/// As [`wait_until`].
pub fn wait_within(limit: Duration, what: &str, log: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "no {what} within {limit:?}\n{}", tail(&log()));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last lines of a log, for a failure.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let skipped = lines.len().saturating_sub(TAIL_LINES);
    format!("---- log, last lines ----\n{}\n----", lines.get(skipped..).unwrap_or_default().join("\n"))
}

/// A temporary folder whose path is short enough for unix sockets, and that other users may pass through.
pub fn folder(name: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix(&format!("dm-{name}-")).tempdir_in("/tmp").expect("a folder in /tmp");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("mode 0755 on our own folder");
    folder
}

/// Kilobytes that are the process's own: anonymous memory, and shared memory in its share (proc_pid_smaps(5)).
///
/// # Panics
/// When there is no such process.
pub fn own_memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a running process");
    let kilobytes = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    kilobytes("Anonymous:") + kilobytes("Pss_Shmem:")
}

/// Open file descriptors of a process.
///
/// # Panics
/// When there is no such process.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a running process").count()
}

/// A text file, or nothing when it is not there yet.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read(path).map(|octets| String::from_utf8_lossy(&octets).into_owned()).unwrap_or_default()
}

/// Runs a program to its end and returns what it printed.
///
/// # Panics
/// When it fails; shows what it said.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; run tests/peers/install.sh"));
    assert!(
        output.status.success(),
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
