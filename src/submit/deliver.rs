//! LMTP (RFC 2033) to the daemon's socket, as a client that waits.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path as FilePath;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::outcome::{EX_NOPERM, EX_TEMPFAIL, Failure};
use crate::mail::{Path, Reply};

/// For a reply: longer than the daemon takes for a whole hand-over.
const REPLY_MAX: Duration = Duration::from_secs(600);
/// For the daemon to take the connection, or octets.
const WRITE_MAX: Duration = Duration::from_secs(300);
/// Octets of a reply line at most.
const LINE_MAX: u64 = 4_096;
/// Lines of a reply at most.
const LINES_MAX: usize = 128;

/// Hands over a message. A reply for each recipient.
///
/// # Errors
/// The daemon was not reached or went away: nothing is known of any recipient, and the caller comes again.
pub(super) fn deliver(
    socket: &FilePath,
    sender: &Path,
    recipients: &[Path],
    message: &[u8],
    name: &str,
) -> Result<Vec<(Path, Reply)>, Failure> {
    let failed = |error: io::Error| {
        let code = if error.kind() == ErrorKind::PermissionDenied { EX_NOPERM } else { EX_TEMPFAIL };
        let remedy = match error.kind() {
            ErrorKind::PermissionDenied => "; put this user into transport.socket_group",
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => "; is deskmilter running?",
            // What the system says is but "temporarily unavailable".
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                "; no answer in time: is deskmilter stuck, or the company host?"
            }
            _ => "",
        };
        Failure::new(code, format!("{}: {error}{remedy}", socket.display()))
    };
    let stream = connect(socket, WRITE_MAX).map_err(failed)?;
    stream.set_read_timeout(Some(REPLY_MAX)).map_err(failed)?;
    stream.set_write_timeout(Some(WRITE_MAX)).map_err(failed)?;
    Client { stream: BufReader::new(stream) }.transaction(sender, recipients, message, name).map_err(failed)
}

/// Connects within `wait`: where the socket's queue is full, connect(2) waits for room, and for ever unless told.
fn connect(socket: &FilePath, wait: Duration) -> io::Result<UnixStream> {
    let stream = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let wait = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
    setsockopt(&stream, sockopt::SendTimeout, &TimeVal::new(wait, 0))?;
    nix::sys::socket::connect(stream.as_raw_fd(), &UnixAddr::new(socket)?)?;
    Ok(stream.into())
}

struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn transaction(
        &mut self,
        sender: &Path,
        recipients: &[Path],
        message: &[u8],
        name: &str,
    ) -> io::Result<Vec<(Path, Reply)>> {
        let all = |reply: Reply| recipients.iter().map(|recipient| (recipient.clone(), reply.clone())).collect();
        let greeting = self.reply()?;
        if !greeting.is_success() {
            return Ok(all(greeting));
        }
        let mut mail = format!("MAIL FROM:{sender}");
        if !message.is_ascii() {
            mail.push_str(" BODY=8BITMIME");
        }
        if std::iter::once(sender).chain(recipients).any(|path| !path.as_str().is_ascii()) {
            mail.push_str(" SMTPUTF8");
        }
        for line in [format!("LHLO {name}"), mail] {
            let reply = self.command(&line)?;
            if !reply.is_success() {
                return Ok(all(reply));
            }
        }
        let mut replies = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            replies.push((recipient.clone(), self.command(&format!("RCPT TO:{recipient}"))?));
        }
        let accepted = |reply: &Reply| reply.is_success();
        if replies.iter().any(|(_, reply)| accepted(reply)) {
            let reply = self.command("DATA")?;
            if reply.code() == 354 {
                self.send(message)?;
                for (_, reply) in replies.iter_mut().filter(|(_, reply)| accepted(reply)) {
                    *reply = self.reply()?;
                }
            } else if reply.is_success() {
                // Nothing was sent that could have been taken.
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "DATA was answered without waiting for the message",
                ));
            } else {
                replies.iter_mut().filter(|(_, old)| accepted(old)).for_each(|(_, old)| *old = reply.clone());
            }
        }
        // The replies are in: whether the farewell arrives does not matter.
        let _ = self.stream.get_mut().write_all(b"QUIT\r\n");
        Ok(replies)
    }

    fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// The message, whose lines all end in CRLF, dots stuffed, and its end.
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let mut wire = Vec::with_capacity(message.len().saturating_add(message.len() / 64).saturating_add(8));
        for line in message.split_inclusive(|&octet| octet == b'\n') {
            if line.starts_with(b".") {
                wire.push(b'.');
            }
            wire.extend_from_slice(line);
        }
        wire.extend_from_slice(b".\r\n");
        self.stream.get_mut().write_all(&wire)
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let nonsense = || io::Error::new(ErrorKind::InvalidData, "no LMTP reply");
        let mut lines: Vec<String> = Vec::new();
        while lines.len() < LINES_MAX {
            let mut line = String::new();
            if (&mut self.stream).take(LINE_MAX).read_line(&mut line)? == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed without a reply"));
            }
            let code: u16 = line.get(..3).and_then(|code| code.parse().ok()).ok_or_else(nonsense)?;
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line.get(4..).unwrap_or_default().trim_end().to_owned());
            if is_last {
                return Ok(Reply::from_remote(code, lines.iter().map(String::as_str)));
            }
        }
        Err(nonsense())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// What becomes of a message whose service says `replies`, one for each command.
    fn delivered(replies: &'static [&'static str]) -> Result<Vec<(Path, Reply)>, u8> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("x.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let service = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            for reply in replies {
                let _ = reader.get_mut().write_all(format!("{reply}\r\n").as_bytes());
                let mut line = String::new();
                let _ = reader.read_line(&mut line);
            }
        });
        let path = |text: &str| Path::parse(text.as_bytes()).unwrap();
        let outcome = deliver(&socket, &path("a@b.example"), &[path("c@d.example")], b"A: b\r\n\r\n", "b.example");
        service.join().unwrap();
        outcome.map_err(|failure| failure.code)
    }

    #[test]
    fn a_socket_whose_queue_is_full_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("x.sock");
        let listener =
            nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&socket).unwrap()).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            assert!(waiting.len() < 10, "the queue is never full");
            match connect(&socket, Duration::from_secs(1)) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn success_before_the_message_was_sent_is_none() {
        assert_eq!(delivered(&["220 x", "250 x", "250 x", "250 x", "250 taken"]), Err(EX_TEMPFAIL));
        assert_eq!(delivered(&["220 x", "250 x", "250 x", "250 x"]), Err(EX_TEMPFAIL));
        let refused = delivered(&["220 x", "250 x", "250 x", "250 x", "554 5.7.1 no"]).unwrap();
        assert!(refused.iter().all(|(_, reply)| reply.is_permanent()));
    }
}
