//! Many large messages at once: what the daemon takes of memory while it has them all.

use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::filter::Filter;
use crate::mail::{self, Letter};
use crate::mta::{Client, Connection};
use crate::usage;

/// Messages at once, each over a connection of its own.
pub const MESSAGES: usize = 50;
/// Octets of the body of one, in MiB.
pub const MEBIBYTES: usize = 25;
/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// What was seen, in kilobytes of anonymous and shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Before.
    pub idle: u64,
    /// At most.
    pub peak: u64,
    /// A while after the last one.
    pub after: u64,
}

/// Sends them all, and checks that each was signed.
///
/// # Errors
/// The filter broke the protocol, took too long or went away, or did not sign.
pub fn run(filter: &Filter, submitter: (String, String)) -> io::Result<Seen> {
    let letter = large(submitter);
    let idle = usage::own_memory(filter.pid());
    let (peak, done) = (AtomicU64::new(idle), AtomicBool::new(false));
    let barrier = Barrier::new(MESSAGES);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(usage::own_memory(filter.pid()), Ordering::Relaxed);
                std::thread::sleep(INTERVAL);
            }
        });
        let sent = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..MESSAGES).map(|_| scope.spawn(|| send(filter, &letter, &barrier))).collect();
            let join = |sender: std::thread::ScopedJoinHandle<'_, io::Result<()>>| {
                sender.join().unwrap_or_else(|_| Err(io::Error::other("a sender panicked")))
            };
            senders.into_iter().map(join).collect::<Vec<_>>().into_iter().collect::<io::Result<()>>()
        });
        done.store(true, Ordering::Relaxed);
        sent
    })?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(Seen { idle, peak: peak.into_inner(), after: usage::own_memory(filter.pid()) })
}

fn send(filter: &Filter, letter: &Letter, barrier: &Barrier) -> io::Result<()> {
    let connection = Connection::open(&filter.address, Client::Ipv4Tls("192.0.2.10"));
    // Also where it failed: the others wait.
    barrier.wait();
    let mut connection = connection?;
    let outcome = connection.send(letter)?;
    connection.quit()?;
    let signed = outcome.added.iter().any(|(name, _)| name.eq_ignore_ascii_case("DKIM-Signature"));
    if signed { Ok(()) } else { Err(io::Error::other("a large message was not signed")) }
}

/// A message as they come with a scan or a video attached.
fn large(submitter: (String, String)) -> Letter {
    let mut letters = mail::notifications(&[submitter]);
    let mut letter = letters.swap_remove(0);
    let line = "VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZyBhbmQgbG9va3MgZm9y\r\n";
    letter.body = line.repeat((MEBIBYTES << 20) / line.len()).into_bytes();
    letter
}
