//! What a process used, from its CPU clock (clock_getcpuclockid(3)) and /proc (proc_pid_status(5), proc_pid_smaps(5)).

use std::fs;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use support::PrivatePostfix;

/// In a second, of the times in /proc: `USER_HZ`, 100 on all architectures of today.
const TICKS: u64 = 100;

/// Memory in kilobytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident at the peak, file-backed pages included.
    pub peak: f64,
    /// Anonymous, now.
    pub anonymous: f64,
}

/// The process id of a Postfix's master.
///
/// # Panics
/// When it does not run.
pub fn master(postfix: &PrivatePostfix) -> u32 {
    let file = postfix.queue_directory().join("pid/master.pid");
    let pid = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
    pid.trim().parse().unwrap_or_else(|e| panic!("{file:?}: {pid:?}: {e}"))
}

/// User and system time so far of a daemon: its process and those that it has started.
///
/// # Panics
/// When there is no such process.
pub fn cpu_of_daemon(pid: u32) -> Duration {
    cpu(pid) + cpu_of_children(pid)
}

/// User and system time so far of one process.
///
/// # Panics
/// When there is no such process.
pub fn cpu(pid: u32) -> Duration {
    let id = Pid::from_raw(pid.try_into().expect("a process id"));
    let clock = clock_getcpuclockid(id).unwrap_or_else(|e| panic!("process {pid}: {e}"));
    Duration::from(clock.now().unwrap_or_else(|e| panic!("process {pid}: {e}")))
}

/// User and system time so far of all processes that `parent` has started, those that have ended included.
///
/// # Panics
/// When there is no such process.
pub fn cpu_of_children(parent: u32) -> Duration {
    // cutime cstime.
    let of_parent = stat(parent).unwrap_or_else(|| panic!("no process {parent}"));
    let ticks = |n: usize| of_parent.get(n).and_then(|ticks| ticks.parse().ok()).unwrap_or(0_u64);
    let ended = Duration::from_millis((ticks(13) + ticks(14)) * 1000 / TICKS);
    let clock = |pid: u32| clock_getcpuclockid(Pid::from_raw(pid.try_into().ok()?)).ok()?.now().ok();
    children(parent).filter_map(clock).map(Duration::from).sum::<Duration>() + ended
}

/// What stands in /proc/PID/stat after the name: state ppid ... cutime cstime as the 14th and 15th (proc_pid_stat(5) counts from the
/// pid: 16 and 17).
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// The processes that `parent` has started and that are still there.
fn children(parent: u32) -> impl Iterator<Item = u32> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(move |pid| stat(*pid).is_some_and(|stat| stat.get(1) == Some(&parent.to_string())))
}

/// Memory of a daemon as it is: of its process and those that it has started, what they share counted for each.
///
/// # Panics
/// When there is no such process.
pub fn memory(pid: u32) -> Memory {
    let mut memory = memory_of(&read(pid, "status"));
    for child in children(pid) {
        // It may have ended meanwhile.
        let other = memory_of(&fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default());
        memory = Memory { peak: memory.peak + other.peak, anonymous: memory.anonymous + other.anonymous };
    }
    memory
}

fn memory_of(status: &str) -> Memory {
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0.0)
    };
    Memory { peak: kilobytes("VmHWM:"), anonymous: kilobytes("RssAnon:") }
}

/// Kilobytes that are the process's own for certain, now: anonymous memory, and shared memory in its share.
///
/// # Panics
/// As [`memory`].
pub fn own_memory(pid: u32) -> u64 {
    let rollup = read(pid, "smaps_rollup");
    let kilobytes = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    kilobytes("Anonymous:") + kilobytes("Pss_Shmem:")
}

/// Lets the peak begin anew.
pub fn forget_peak(pid: u32) {
    for pid in children(pid).chain([pid]) {
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|e| panic!("process {pid}, {file}: {e}"))
}
