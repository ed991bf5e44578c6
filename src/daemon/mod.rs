//! The running program: sockets bound, privileges dropped, services started, signals heeded, work in flight finished.
//!
//! In: a checked [`Config`] and where it came from. Out: a process that serves until SIGTERM or SIGINT. Knows what the parts are
//! and how they are put together, and nothing of mail.
//!
//! [`run`] binds what `bind` and `listeners` can while it may still be root, and makes the [`parts`]; from then on `reload` makes
//! new ones on SIGHUP, and `refresh` when `watch` finds a file that was replaced. A service manager may have bound sockets before
//! (`passed`), and is told how it goes (`notify`).

mod bind;
mod difference;
mod in_force;
mod listeners;
mod measure;
mod notify;
mod parts;
mod passed;
mod pid_file;
mod privileges;
mod refresh;
mod reload;
mod state;
mod watch;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio_util::task::TaskTracker;

pub use in_force::tell_to_reload;

use crate::config::Config;
use crate::status::{Board, Status};
use in_force::InForceFile;
use listeners::{Listeners, Sockets};
use measure::View;
use notify::Notify;
use parts::Parts;
use passed::Passed;
use pid_file::PidFile;
use reload::Running;

/// How long work in flight may take after SIGTERM: a little longer than each session gives itself (30 s), so that those that
/// run out of time can still say so to the MTA.
const DRAIN: Duration = Duration::from_secs(35);

/// How long it may take to give up what is still in flight then.
const GIVE_UP: Duration = Duration::from_secs(1);

/// How long an SMTP session may go on with its next message after SIGTERM, where a service manager holds our sockets: new sessions
/// wait there for the next process, with Postfix 30 s (`milter_command_timeout`), and lose nothing by that.
const LINGER: Duration = Duration::from_secs(10);

/// So long before the daemon starts its configuration may have been read.
const READ_BEFORE_START: Duration = Duration::from_secs(60);

/// Runs the daemon in the foreground until it is told to stop. `file` is where `config` came from, and is read again on SIGHUP;
/// `board` is what the log is counted on.
///
/// # Errors
/// What kept it from starting, with the object and the remedy.
pub fn run(config: Config, file: &Path, board: Arc<Board>) -> Result<(), String> {
    // Until there is somebody to hear it, a SIGHUP waits: it would end the process.
    hangup().thread_block().map_err(|error| format!("SIGHUP cannot be blocked: {error}"))?;
    let file = std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))?;
    // All that we make has a mode of its own: one that is stricter, as a service manager may set it, would lock the MTA out.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    privileges::forbid_core_dumps()?;
    privileges::allow_open_files();
    let user = config.daemon.user.as_deref().map(privileges::find_user).transpose()?;
    state::prepare(&config.daemon.state_directory, user.as_ref())?;
    let _lock = state::Lock::take(&config.daemon.state_directory)?;
    privileges::check_open_files(Sockets::named(&config).count())?;
    let passed = Passed::take()?;
    let sockets =
        Sockets::bind(&config, user.as_ref(), &HashSet::new(), &passed).map_err(|problems| problems.join("; "))?;
    let _pid_file = config.daemon.pid_file.as_deref().map(PidFile::write).transpose()?;
    match &user {
        Some(user) => privileges::become_user(user)?,
        None if nix::unistd::geteuid().is_root() => {
            tracing::warn!(
                "running as root: it needs nothing of root but the sockets' owner; set daemon.user to a user of its own"
            );
        }
        None => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot be started: {error}"))?;
    let ended = runtime.block_on(serve(config, &file, sockets, passed, board));
    // Nothing is waited for beyond the time to drain, not even a file system that hangs. But what is given up must be seen to: a
    // program that has half a message is killed before its input ends.
    runtime.shutdown_timeout(GIVE_UP);
    ended
}

/// Makes this process what the daemon is: its user, its state directory, no core dumps. For commands that share its files.
///
/// # Errors
/// It may not, and what would help.
pub fn act_as_daemon(config: &Config) -> Result<(), String> {
    privileges::forbid_core_dumps()?;
    let user = config.daemon.user.as_deref().map(privileges::find_user).transpose()?;
    state::prepare(&config.daemon.state_directory, user.as_ref())?;
    user.as_ref().map_or(Ok(()), privileges::become_user)
}

async fn serve(config: Config, file: &Path, sockets: Sockets, passed: Passed, board: Arc<Board>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("signals cannot be heard: {error}");
    let mut stop = Stop {
        terminate: signal(SignalKind::terminate()).map_err(failed)?,
        interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
    };
    let mut reload = signal(SignalKind::hangup()).map_err(failed)?;
    hangup().thread_unblock().map_err(|error| failed(error.into()))?;

    let since = SystemTime::now().checked_sub(READ_BEFORE_START).unwrap_or(SystemTime::UNIX_EPOCH);
    let site_key = state::site_key(&config.daemon.site_key_file)?;
    let parts = Parts::first(config, site_key).map_err(|problems| problems.join("; "))?;
    let tasks = TaskTracker::new();
    let view = Arc::new(View::default());
    measure::expect(&board, &parts.config);
    let status = Arc::new(Status::new(Arc::clone(&board), Arc::clone(&view) as _));
    let linger = if passed.is_empty() { Duration::ZERO } else { LINGER };
    let mut listeners = Listeners::new(&parts, tasks.clone(), linger, status);
    listeners.swap(&parts, sockets.register()?);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), connectors = parts.config.connectors.len(), "ready");

    let notify = Arc::new(Notify::from_environment()?);
    let in_force = InForceFile::new(&parts.config.daemon.state_directory);
    let shown = (view, board, in_force);
    let mut running = Running::new(file.to_owned(), parts, listeners, since, (passed, Arc::clone(&notify)), shown);
    notify.ready(&running.status());
    tokio::spawn(Arc::clone(&notify).keep_watchdog());
    let reason = tokio::select! {
        reason = stop.told() => reason,
        never = running.keep_up_to_date(&mut reload) => match never {},
    };
    tracing::info!(reason, "stopping");
    notify.stopping();
    drop(running);
    tasks.close();
    tokio::select! {
        biased;
        () = tasks.wait() => {}
        reason = stop.told() => tracing::warn!(
            reason, "told again: work in flight is given up; the MTA will send those messages again"
        ),
        () = tokio::time::sleep(DRAIN) => tracing::warn!(
            seconds = DRAIN.as_secs(),
            "work in flight did not end in time; the MTA will send those messages again"
        ),
    }
    tracing::info!("stopped");
    Ok(())
}

fn hangup() -> SigSet {
    SigSet::from(Signal::SIGHUP)
}

/// The signals that end us.
struct Stop {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Stop {
    /// Waits for the next one; its name.
    async fn told(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
