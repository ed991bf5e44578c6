//! A socket to a log that may hang: what does not read holds up mail for five seconds once, and not with every line.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a line may wait for a log that does not take it: longer than a disk that is busy keeps the journal from reading, for a line
/// that is lost is missed later; shorter than any command that an MTA waits for.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends datagrams to a path, each time to whoever listens there then.
#[derive(Debug)]
pub(super) struct Socket {
    patient: UnixDatagram,
    hasty: UnixDatagram,
    /// The last line was not taken in time: until one is, none waits.
    stuck: AtomicBool,
}

impl Socket {
    pub(super) fn new() -> io::Result<Self> {
        let (patient, hasty) = (UnixDatagram::unbound()?, UnixDatagram::unbound()?);
        patient.set_write_timeout(Some(SEND_TIMEOUT))?;
        hasty.set_nonblocking(true)?;
        Ok(Self { patient, hasty, stuck: AtomicBool::new(false) })
    }

    /// Sends one line.
    ///
    /// # Errors
    /// It was not taken: nobody listens, or not in time.
    pub(super) fn send(&self, octets: &[u8], path: &Path) -> io::Result<()> {
        let socket = if self.stuck.load(Ordering::Relaxed) { &self.hasty } else { &self.patient };
        let sent = socket.send_to(octets, path).map(drop);
        let is_stuck = sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        self.stuck.store(is_stuck, Ordering::Relaxed);
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Instant;

    #[test]
    fn a_log_that_hangs_holds_up_one_line_and_not_each_and_is_heard_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let listening = UnixDatagram::bind(&path).unwrap();
        let socket = Socket::new().unwrap();
        let begun = Instant::now();
        let taken = (0..20_000).take_while(|_| socket.send(b"line", &path).is_ok()).count();
        assert!(taken < 20_000, "the queue of a socket has an end");
        assert!((0..1_000).all(|_| socket.send(b"line", &path).is_err()));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let mut buffer = [0; 16];
        (0..taken).for_each(|_| assert_eq!(listening.recv(&mut buffer).unwrap(), 4));
        socket.send(b"again", &path).unwrap();
        assert_eq!(listening.recv(&mut buffer).unwrap(), 5);
    }
}
