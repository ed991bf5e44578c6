//! A small LMTP client on a unix socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::Reply;
use crate::process::PATIENCE;

/// An LMTP session as the client.
#[derive(Debug)]
pub struct LmtpClient {
    stream: BufReader<UnixStream>,
}

impl LmtpClient {
    /// Connects, reads the greeting, says LHLO.
    ///
    /// # Panics
    /// When there is no connection, or no greeting.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap_or_else(|e| panic!("connect {socket:?}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        let mut client = Self { stream: BufReader::new(stream) };
        assert_eq!(client.reply().code, 220);
        assert_eq!(client.command("LHLO desk.acme.example").code, 250);
        client
    }

    /// One command line and its reply.
    pub fn command(&mut self, line: &str) -> Reply {
        self.write(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// One transaction: a reply for each recipient, or the one reply that refuses all of it.
    pub fn send(&mut self, sender: &str, recipients: &[&str], message: &[u8]) -> Vec<Reply> {
        let mail = self.command(&format!("MAIL FROM:<{sender}>"));
        if mail.code != 250 {
            return vec![mail];
        }
        for recipient in recipients {
            let reply = self.command(&format!("RCPT TO:<{recipient}>"));
            assert_eq!(reply.code, 250, "{recipient}: {reply}");
        }
        assert_eq!(self.command("DATA").code, 354);
        let mut wire = Vec::with_capacity(message.len() + 64);
        for line in message.split_inclusive(|&octet| octet == b'\n') {
            if line.starts_with(b".") {
                wire.push(b'.');
            }
            wire.extend_from_slice(line);
        }
        wire.extend_from_slice(b".\r\n");
        self.write(&wire);
        recipients.iter().map(|_| self.reply()).collect()
    }

    fn write(&mut self, octets: &[u8]) {
        self.stream.get_mut().write_all(octets).unwrap_or_else(|e| panic!("writing to the server: {e}"));
    }

    fn reply(&mut self) -> Reply {
        let mut texts = Vec::new();
        loop {
            let mut line = String::new();
            let count = self.stream.read_line(&mut line).unwrap_or_else(|e| panic!("reading a reply: {e}"));
            assert!(count > 0, "the server closed the connection instead of replying");
            let line = line.trim_end();
            let code = line.get(..3).and_then(|c| c.parse().ok()).unwrap_or_else(|| panic!("no reply: {line:?}"));
            texts.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Reply { code, text: texts.join("\n") };
            }
        }
    }
}
