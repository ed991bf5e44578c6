//! A load on one filter: some connections, each sending message after message, and what that cost.

use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::mail::Letter;
use crate::mta::{Address, Client, Connection, Outcome};
use crate::usage;

/// Sent before anything is measured: caches fill, threads start, memory grows.
const WARM_UP: Duration = Duration::from_millis(300);

/// Letters between those that two connections begin with.
const STRIDE: usize = 37;

/// What is sent, and what must come of it.
#[derive(Debug)]
pub struct Work {
    /// What it is called in the table.
    pub name: &'static str,
    /// Who the mail server says the SMTP client is.
    pub client: Client,
    /// The messages: the same ones for every filter, or a set for each.
    pub letters: Vec<Vec<Letter>>,
    /// Whether a filter did what was asked of it.
    pub done: fn(&Outcome) -> bool,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Messages a second.
    pub rate: f64,
    /// Milliseconds from MAIL to the last answer: half of the messages took no longer.
    pub p50: f64,
    /// As `p50`, 99 of 100.
    pub p99: f64,
    /// Milliseconds of the filter's CPU time for a message, user and system.
    pub cpu: f64,
    /// Kilobytes resident at the peak.
    pub peak: f64,
    /// Kilobytes of anonymous memory at the end.
    pub anonymous: f64,
    /// Percent of the messages for which it did not do what was asked.
    pub undone: f64,
}

/// Sends the letters that `work` has for the `filter`th over `connections` for `time`, and accounts what the process `pid` used.
///
/// # Errors
/// The filter broke the protocol, took too long or went away.
pub fn run(
    address: &Address,
    pid: u32,
    work: &Work,
    filter: usize,
    connections: usize,
    time: Duration,
) -> io::Result<Figures> {
    let letters = work.letters.get(filter).or(work.letters.first()).map_or(&[][..], Vec::as_slice);
    usage::forget_peak(pid);
    let open = || Connection::open(address, work.client);
    let all = (0..connections).map(|_| open()).collect::<io::Result<Vec<_>>>()?;
    let barrier = Barrier::new(connections + 1);
    std::thread::scope(|scope| {
        let senders: Vec<_> = all
            .into_iter()
            .enumerate()
            .map(|(n, connection)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now() + WARM_UP;
                    send(connection, letters, work.done, n, start, start + time)
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now() + WARM_UP;
        std::thread::sleep(WARM_UP);
        let before = usage::cpu_of_daemon(pid);
        let (mut times, mut undone) = (Vec::new(), 0);
        for sender in senders {
            let sent = sender.join().map_err(|_| io::Error::other("a sender panicked"))??;
            times.extend(sent.times);
            undone += sent.undone;
        }
        let (elapsed, cpu) = (start.elapsed(), usage::cpu_of_daemon(pid) - before);
        times.sort_unstable();
        let memory = usage::memory(pid);
        let count = times.len().max(1) as f64;
        Ok(Figures {
            rate: count / elapsed.as_secs_f64(),
            p50: percentile(&times, 50),
            p99: percentile(&times, 99),
            cpu: cpu.as_secs_f64() * 1000.0 / count,
            peak: memory.peak,
            anonymous: memory.anonymous,
            undone: f64::from(undone) * 100.0 / count,
        })
    })
}

/// Sends each of the letters that `work` has for the `filter`th once: a key's first signature costs more than all later ones.
///
/// # Errors
/// As [`run`].
pub fn send_each(address: &Address, work: &Work, filter: usize) -> io::Result<()> {
    let mut connection = Connection::open(address, work.client)?;
    for letter in work.letters.get(filter).or(work.letters.first()).into_iter().flatten() {
        connection.send(letter)?;
    }
    connection.quit()
}

/// What one connection sent.
#[derive(Default)]
struct Sent {
    times: Vec<Duration>,
    undone: u32,
}

/// Sends until `end`, and keeps account of the messages begun after `start`.
fn send(
    mut connection: Connection,
    letters: &[Letter],
    done: fn(&Outcome) -> bool,
    n: usize,
    start: Instant,
    end: Instant,
) -> io::Result<Sent> {
    let mut sent = Sent::default();
    for letter in letters.iter().cycle().skip(n * STRIDE) {
        let begin = Instant::now();
        if begin >= end {
            break;
        }
        let outcome = connection.send(letter)?;
        if begin >= start {
            sent.times.push(begin.elapsed());
            sent.undone += u32::from(!done(&outcome));
        }
    }
    connection.quit()?;
    Ok(sent)
}

/// Milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}
