//! The process itself, by the names that Prometheus' client libraries agree on.

use std::fs;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};

use super::Board;
use super::list::{BUILD_INFO, MAX_FDS, OPEN_FDS, RESIDENT_MEMORY, START_TIME};

static STARTED: LazyLock<f64> = LazyLock::new(|| seconds_since_1970(SystemTime::now()));

/// Remembers when the process started.
pub(super) fn begin() {
    LazyLock::force(&STARTED);
}

/// A time as Prometheus has it.
pub(super) fn seconds_since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Sets the gauges of the process; what the system does not tell is left out.
pub(super) fn measure(board: &Board) {
    board.set(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    board.set(&START_TIME, &[], *STARTED);
    // proc(5): `VmRSS:     5432 kB`.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u32>().ok());
    if let Some(kibibytes) = resident {
        board.set(&RESIDENT_MEMORY, &[], f64::from(kibibytes) * 1024.0);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is the folder that is being read.
        board.set(&OPEN_FDS, &[], entries.count().saturating_sub(1) as f64);
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        board.set(&MAX_FDS, &[], soft as f64);
    }
}
