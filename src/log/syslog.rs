//! The system log, as syslog(3) speaks to it: facility mail, RFC 3164 section 4, with this host's own time as the MTA beside us has it.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use ::syslog::{Facility, Severity};
use nix::errno::Errno;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use tracing::Level;

use super::socket::Socket;

/// Where it listens.
const SOCKET: &str = "/dev/log";
/// The day has a blank before it where it is below 10 (RFC 3164 section 4.1.2).
const STAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[month repr:short] [day padding:space] [hour]:[minute]:[second]");

/// A way to the system log. It may be restarted: each line finds it by its name.
#[derive(Debug)]
pub(super) struct Syslog {
    socket: Socket,
    path: &'static Path,
}

impl Syslog {
    /// # Errors
    /// There is none, and what to do.
    pub(super) fn connect() -> Result<Self, String> {
        Self::at(Path::new(SOCKET)).map_err(|error| {
            let remedy = match error.raw_os_error() == Some(Errno::EPROTOTYPE as i32) {
                true => "have it listen for datagrams there",
                false => "start one",
            };
            format!("no system log at {SOCKET}: {error}; {remedy}, or set log.target = \"stderr\"")
        })
    }

    fn at(path: &'static Path) -> io::Result<Self> {
        // Whether somebody listens is known only by asking.
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Self { socket: Socket::new()?, path })
    }

    /// Sends one line.
    ///
    /// # Errors
    /// The system log has not taken it.
    pub(super) fn send(&self, level: Level, text: &str) -> io::Result<()> {
        let now = OffsetDateTime::now_utc();
        let now = now.to_offset(UtcOffset::local_offset_at(now).unwrap_or(UtcOffset::UTC));
        self.socket.send(line(level, now, text).as_bytes(), self.path)
    }
}

fn line(level: Level, now: OffsetDateTime, text: &str) -> String {
    let severity = match level {
        Level::ERROR => Severity::LOG_ERR,
        Level::WARN => Severity::LOG_WARNING,
        Level::INFO => Severity::LOG_INFO,
        Level::DEBUG | Level::TRACE => Severity::LOG_DEBUG,
    };
    // RFC 3164 section 4.1.1.
    let priority = Facility::LOG_MAIL as u8 | severity as u8;
    let stamp = now.format(STAMP).unwrap_or_default();
    format!("<{priority}>{stamp} deskmilter[{}]: {text}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaked(path: std::path::PathBuf) -> &'static Path {
        Box::leak(path.into_boxed_path())
    }

    #[test]
    fn a_line_has_the_form_of_rfc_3164_and_the_time_that_it_is_given() {
        let now = time::macros::datetime!(2026-11-02 08:09:10 +1);
        let expected = format!("<20>Nov  2 08:09:10 deskmilter[{}]: 4XYZ12: judged", std::process::id());
        assert_eq!(line(Level::WARN, now, "4XYZ12: judged"), expected);
        assert!(line(Level::ERROR, now, "").starts_with("<19>") && line(Level::INFO, now, "").starts_with("<22>"));
    }

    #[test]
    fn a_system_log_that_is_restarted_is_found_again_and_one_that_is_away_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = leaked(folder.path().join("log"));
        assert!(Syslog::at(path).is_err());
        let listening = UnixDatagram::bind(path).unwrap();
        let syslog = Syslog::at(path).unwrap();
        syslog.send(Level::INFO, "first").unwrap();
        let mut buffer = [0; 4096];
        let length = listening.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"<22>") && buffer[..length].ends_with(b"]: first"));
        drop(listening);
        assert!(syslog.send(Level::INFO, "nobody").is_err());
        std::fs::remove_file(path).unwrap();
        let again = UnixDatagram::bind(path).unwrap();
        syslog.send(Level::INFO, "second").unwrap();
        assert!(again.recv(&mut buffer).unwrap() > 0);
    }
}
