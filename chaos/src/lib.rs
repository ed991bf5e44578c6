//! Does anything get lost when everything fails at once? A real Postfix, deskmilter and the sandbox's endpoint carry messages of
//! mixed sizes from concurrent clients, while deskmilter is killed every two seconds, the endpoint flaps, and its password is
//! changed. In: a [`Plan`]. Out: an [`Outcome`], which counts tickets against what clients were told, octet for octet, and has
//! `deskmilter audit` reconcile the logs. It knows nothing of deskmilter's inside.

mod client;
mod mail;
mod outcome;
mod site;
mod soak;
mod trouble;

pub use outcome::Outcome;
pub use soak::{Soak, soak};

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use trouble::Trouble;

/// Sooner than this after the last kill there is no next one.
const KILL_INTERVAL: Duration = Duration::from_secs(2);
/// Longer than this no run takes, for each message in it: what is not done then hangs.
const PATIENCE_PER_MESSAGE: Duration = Duration::from_millis(400);
/// What is added to that for starting and ending.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which way mail is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Out of Postfix's queue, by LMTP.
    Transport,
    /// At the end of the message, in the milter.
    Inline,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Transport => "transport",
            Self::Inline => "inline",
        })
    }
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which way.
    pub mode: Mode,
    /// How many messages.
    pub messages: usize,
    /// Concurrent SMTP clients.
    pub clients: usize,
    /// A folder that the logs are copied to.
    pub keep: Option<PathBuf>,
}

/// Does it. Shows on standard output how far it is, when `progress` is set.
///
/// # Panics
/// When a server does not start, or the run is not over in time; shows the log that explains it.
pub fn run(plan: &Plan, progress: bool) -> Outcome {
    let started = Instant::now();
    let limit = PATIENCE + PATIENCE_PER_MESSAGE * u32::try_from(plan.messages).unwrap_or(u32::MAX);
    let mut site = site::company(plan.mode);
    let address = site.postfix.address();
    let (next, sent, calm) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let (taken, tickets) = (AtomicUsize::new(0), site.desk.directory().join("tickets"));
    let mut trouble = Trouble::default();
    let repeats = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..plan.clients.max(1))
            .map(|_| scope.spawn(|| client::send_all(address, &next, plan.messages, &sent, &taken, started + limit)))
            .collect();
        let (desk, daemon) = (&mut site.desk, &mut site.daemon);
        let flapping = scope.spawn(|| trouble::flap(desk, &calm));
        let mut told = Instant::now();
        while !calm.load(Ordering::Acquire) {
            std::thread::sleep(KILL_INTERVAL);
            daemon.kill();
            trouble.kills += 1;
            daemon.resume();
            let done = sent.load(Ordering::Relaxed);
            taken.store(std::fs::read_dir(&tickets).map_or(0, Iterator::count), Ordering::Relaxed);
            if progress && told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                println!(
                    "  {} s: {done} accepted, {} tickets, {} kills",
                    started.elapsed().as_secs(),
                    taken.load(Ordering::Relaxed),
                    trouble.kills
                );
            }
            // The trouble goes on until nearly all is through: what is left of the queue then comes in the calm after it.
            let through = plan.mode == Mode::Inline || site.postfix.queue().len() * 50 <= plan.messages;
            let over = started.elapsed() > limit || flapping.is_finished();
            calm.store(done >= plan.messages && through || over, Ordering::Release);
        }
        trouble.endpoint = flapping.join().unwrap_or_default();
        senders.into_iter().map(|sender| sender.join().unwrap_or_default()).sum()
    });
    site.postfix.flush();
    support::wait_within(limit, "empty queue", || site.postfix.log(), || site.postfix.queue().is_empty());
    let took = started.elapsed();
    if let Some(folder) = &plan.keep {
        outcome::keep(&site, folder);
    }
    Outcome::of(plan, &mut site, trouble, repeats, took)
}
