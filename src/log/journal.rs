//! systemd's journal by its own protocol: a datagram an event, each field by its name, so that `journalctl QUEUE_ID=4XYZ12` finds it.
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::Value;
use tracing::Level;

use super::line::Line;
use super::socket::Socket;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The mail facility of syslog(3), by which Postfix's lines are found as well.
const FACILITY_MAIL: &str = "2";

/// A way to the journal. It may be restarted: each line finds it by its name.
#[derive(Debug)]
pub(super) struct Journal {
    socket: Socket,
    path: &'static Path,
}

impl Journal {
    /// # Errors
    /// There is none, and what to do.
    pub(super) fn connect() -> Result<Self, String> {
        Self::at(Path::new(SOCKET)).map_err(|error| {
            format!("no journal at {SOCKET}: {error}; is this host run by systemd? Else set log.target = \"syslog\" or \"stderr\"")
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
    /// The journal has not taken it.
    pub(super) fn send(&self, level: Level, line: &Line) -> io::Result<()> {
        self.socket.send(&datagram(level, line), self.path)
    }
}

/// `MESSAGE` is the line as a system log has it; what is in it stands beside it once more by name. A value never has a line feed, so
/// the simple form of a field does.
fn datagram(level: Level, line: &Line) -> Vec<u8> {
    // Priorities of syslog(3).
    let priority = match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    };
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        text.push_str(name);
        text.push('=');
        text.push_str(value);
        text.push('\n');
    };
    field("MESSAGE", &line.to_string());
    field("PRIORITY", priority);
    field("SYSLOG_IDENTIFIER", "deskmilter");
    field("SYSLOG_FACILITY", FACILITY_MAIL);
    if let Some(id) = &line.queue_id {
        field("QUEUE_ID", id);
    }
    for (name, value) in &line.fields {
        // With a prefix: MESSAGE_ID, PRIORITY and others mean something else to the journal.
        let name = format!("DESKMILTER_{}", name.to_uppercase());
        match value {
            Value::String(value) => field(&name, value),
            value => field(&name, &value.to_string()),
        }
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            queue_id: Some("4XYZ12".to_owned()),
            message: "judged".to_owned(),
            fields: vec![("decision", "tagged".into()), ("message_id", "<a@b.example>".into()), ("size", 5_u64.into())],
        }
    }

    #[test]
    fn every_field_has_its_name_and_the_message_is_the_line() {
        let text = String::from_utf8(datagram(Level::WARN, &line())).unwrap();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "MESSAGE=4XYZ12: judged decision=tagged message_id=<a@b.example> size=5",
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=deskmilter",
                "SYSLOG_FACILITY=2",
                "QUEUE_ID=4XYZ12",
                "DESKMILTER_DECISION=tagged",
                "DESKMILTER_MESSAGE_ID=<a@b.example>",
                "DESKMILTER_SIZE=5",
            ]
        );
    }

    #[test]
    fn a_journal_that_is_restarted_is_found_again_and_one_that_is_away_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path: &'static Path = Box::leak(folder.path().join("journal").into_boxed_path());
        assert!(Journal::at(path).is_err());
        let listening = UnixDatagram::bind(path).unwrap();
        let journal = Journal::at(path).unwrap();
        journal.send(Level::INFO, &line()).unwrap();
        let mut buffer = [0; 4096];
        let length = listening.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"MESSAGE=4XYZ12: judged"));
        drop(listening);
        assert!(journal.send(Level::INFO, &line()).is_err());
        std::fs::remove_file(path).unwrap();
        let again = UnixDatagram::bind(path).unwrap();
        journal.send(Level::INFO, &line()).unwrap();
        assert!(again.recv(&mut buffer).unwrap() > 0);
    }
}
