//! A client of Dovecot's authentication protocol, as an MTA is one.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::process::PATIENCE;

/// One connection to an authentication service.
#[derive(Debug)]
pub struct SaslClient {
    stream: BufReader<UnixStream>,
    next: u32,
    greeting: Vec<String>,
}

/// The service's word on a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaslReply {
    /// `OK`, with the user's name.
    Ok(String),
    /// `FAIL`, with the whole line.
    Fail(String),
    /// The connection was closed: a temporary failure.
    Closed,
}

impl SaslClient {
    /// Connects, reads the greeting to its DONE, and introduces itself.
    ///
    /// # Panics
    /// When there is no service, or it says nothing.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap_or_else(|e| panic!("{socket:?}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        let mut client = Self { stream: BufReader::new(stream), next: 0, greeting: Vec::new() };
        while client.greeting.last().is_none_or(|line| line != "DONE") {
            let line = client.line().expect("a greeting that ends in DONE");
            client.greeting.push(line);
        }
        client.write("VERSION\t1\t0\nCPID\t4711\n");
        client
    }

    /// The lines of the greeting.
    pub fn greeting(&self) -> &[String] {
        &self.greeting
    }

    /// AUTH PLAIN over TLS, for a client at `address`.
    pub fn plain(&mut self, user: &str, password: &str, address: &str) -> SaslReply {
        let response = STANDARD.encode(format!("\0{user}\0{password}"));
        self.auth(&format!("PLAIN\tservice=smtp\tnologin\tlip=127.0.0.1\trip={address}\tsecured\tresp={response}"))
    }

    /// AUTH LOGIN over TLS, for a client at `address`.
    ///
    /// # Panics
    /// When the service does not ask for name and password.
    pub fn login(&mut self, user: &str, password: &str, address: &str) -> SaslReply {
        self.next += 1;
        let id = self.next;
        self.write(&format!("AUTH\t{id}\tLOGIN\tservice=smtp\tlip=127.0.0.1\trip={address}\tsecured\n"));
        for (challenge, response) in [("Username:", user), ("Password:", password)] {
            assert_eq!(self.line().as_deref(), Some(format!("CONT\t{id}\t{}", STANDARD.encode(challenge)).as_str()));
            self.write(&format!("CONT\t{id}\t{}\n", STANDARD.encode(response)));
        }
        self.reply()
    }

    /// `AUTH` with a number of its own and `rest`.
    pub fn auth(&mut self, rest: &str) -> SaslReply {
        self.next += 1;
        let id = self.next;
        self.write(&format!("AUTH\t{id}\t{rest}\n"));
        self.reply()
    }

    /// The next line; `None` when the connection is closed.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(count) if count > 0 => Some(line.trim_end_matches('\n').to_owned()),
            _ => None,
        }
    }

    /// Sends text as it is. That the other side has gone is found when its answer is read.
    pub fn write(&mut self, text: &str) {
        let _ = self.stream.get_mut().write_all(text.as_bytes());
    }

    fn reply(&mut self) -> SaslReply {
        let id = self.next;
        match self.line() {
            None => SaslReply::Closed,
            Some(line) => match line.strip_prefix(&format!("OK\t{id}\tuser=")) {
                Some(user) => SaslReply::Ok(user.to_owned()),
                None => SaslReply::Fail(line.replace(&format!("FAIL\t{id}"), "FAIL")),
            },
        }
    }
}
