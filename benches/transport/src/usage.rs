//! CPU time of processes, by their CPU clocks (clock_getcpuclockid(3)).

use std::fs;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// User and system time of a process so far.
///
/// # Panics
/// When there is no such process.
pub fn cpu(pid: u32) -> Duration {
    clock(pid).unwrap_or_else(|| panic!("no process {pid}"))
}

/// User and system time so far of the processes that `parent` has started from `programs` and that still run.
pub fn cpu_of_children(parent: u32, programs: &[&str]) -> Duration {
    let processes = fs::read_dir("/proc").expect("/proc");
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        // pid (comm) state ppid: proc_pid_stat(5).
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, rest)) = stat.split_once('(') else { return false };
        let Some((name, rest)) = rest.rsplit_once(')') else { return false };
        programs.contains(&name) && rest.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    pids.filter(ours).filter_map(clock).sum()
}

fn clock(pid: u32) -> Option<Duration> {
    let id = clock_getcpuclockid(Pid::from_raw(pid.try_into().ok()?)).ok()?;
    id.now().ok().map(Duration::from)
}
