//! What a process used, from /proc (proc_pid_stat(5), proc_pid_status(5)).

use std::fs;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// Memory in kilobytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident at the peak, file-backed pages included.
    pub peak: f64,
    /// Anonymous, now.
    pub anonymous: f64,
}

/// User and system time so far.
///
/// # Panics
/// When there is no such process.
pub fn cpu(pid: u32) -> Duration {
    let stat = read(pid, "stat");
    // The program's name, in parentheses, may hold anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let ticks_a_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Duration::from_secs_f64(ticks as f64 / ticks_a_second as f64)
}

/// Memory as it is.
///
/// # Panics
/// When there is no such process.
pub fn memory(pid: u32) -> Memory {
    let status = read(pid, "status");
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
    };
    Memory { peak: kilobytes("VmHWM:"), anonymous: kilobytes("RssAnon:") }
}

/// Lets the peak begin anew.
pub fn forget_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|e| panic!("process {pid}, {file}: {e}"))
}
