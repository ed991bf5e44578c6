//! Standard error: a pipe or a socket that somebody reads, or does not.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::socket::SEND_TIMEOUT;

/// Octets that a pipe takes at once or not at all (`PIPE_BUF`, pipe(7)): once it says that it takes any, so many do not wait.
const AT_ONCE: usize = 4_096;

/// The line is nowhere, or only its beginning.
#[derive(Debug)]
pub(super) struct Dropped;

/// Writes lines to where they may not be read: then one line waits [`SEND_TIMEOUT`], and the others not at all.
#[derive(Debug)]
pub(super) struct Stderr<W>(Mutex<State<W>>);

#[derive(Debug)]
struct State<W> {
    out: W,
    /// The last line was not taken in time: until one is, none waits.
    stuck: bool,
    /// Only the beginning of the last line is there.
    torn: bool,
}

impl<W: Write + AsFd> Stderr<W> {
    pub(super) fn new(out: W) -> Self {
        Self(Mutex::new(State { out, stuck: false, torn: false }))
    }

    /// Writes one line, line feed included.
    ///
    /// # Errors
    /// It was not taken: nobody reads, or not in time.
    pub(super) fn write(&self, line: &str) -> Result<(), Dropped> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(line)
    }
}

impl<W: Write + AsFd> State<W> {
    fn write(&mut self, line: &str) -> Result<(), Dropped> {
        let until = if self.stuck { Instant::now() } else { Instant::now() + SEND_TIMEOUT };
        let whole = if self.torn { format!("\n{line}") } else { line.to_owned() };
        for (n, chunk) in whole.as_bytes().chunks(AT_ONCE).enumerate() {
            self.stuck = !takes_any(&self.out, until);
            if self.stuck {
                self.torn |= n > 0;
                return Err(Dropped);
            }
            if self.out.write_all(chunk).is_err() {
                // A disk that is full takes what it has room for.
                self.torn = true;
                return Err(Dropped);
            }
        }
        self.torn = false;
        Ok(())
    }
}

/// Whether `out` can be written to by then. What is broken can: writing says so.
fn takes_any(out: &impl AsFd, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], left) {
            Err(Errno::EINTR) => {}
            ready => return ready != Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Read;
    use std::time::Duration;

    #[test]
    fn a_reader_that_hangs_holds_up_one_line_and_half_a_line_does_not_run_into_the_next() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let out = Stderr::new(writer);
        let line = "x".repeat(6_000) + "\n";
        let begun = Instant::now();
        let taken = (0..10_000).take_while(|_| out.write(&line).is_ok()).count();
        assert!(taken < 10_000, "a pipe has an end");
        assert!((0..1_000).all(|_| out.write(&line).is_err()));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let mut whole = vec![0; taken * line.len()];
        reader.read_exact(&mut whole).unwrap();
        assert_eq!(whole, line.repeat(taken).as_bytes());
        out.write("after\n").unwrap();
        drop(out);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let mut lines = rest.lines().rev();
        assert_eq!(lines.next(), Some("after"));
        assert!(lines.all(|line| line.bytes().all(|octet| octet == b'x')), "{rest}");
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error_and_not_waited_for() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let begun = Instant::now();
        assert!(Stderr::new(writer).write("nobody\n").is_err());
        assert!(begun.elapsed() < SEND_TIMEOUT);
    }
}
