//! An LMTP server that keeps what it is given and answers as it is told.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::process::PATIENCE;

/// One transaction as the sink saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// MAIL's argument, as received.
    pub mail: String,
    /// The addresses of RCPT, without brackets and parameters.
    pub recipients: Vec<String>,
    /// The message, dots undone, CRLF as received.
    pub message: Vec<u8>,
}

/// An LMTP server on a unix socket that anyone may connect to. Ends when dropped.
#[derive(Debug)]
pub struct LmtpSink {
    path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    transactions: Mutex<Vec<Transaction>>,
    reply: Mutex<String>,
}

impl LmtpSink {
    /// Listens at `path`.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).expect("mode of our own socket");
        let shared =
            Arc::new(Shared { transactions: Mutex::default(), reply: Mutex::new("250 2.0.0 taken".to_owned()) });
        let sink = Self { path: path.to_owned(), shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // The sink itself is gone: only the threads hold on to what it saw.
                if Arc::strong_count(&shared) == 1 {
                    break;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        sink
    }

    /// Answers every recipient of every message from now on with `reply`, for example `451 4.3.0 later`.
    pub fn answer(&self, reply: &str) {
        reply.clone_into(&mut self.shared.reply.lock().expect("no panic while held"));
    }

    /// What it was given, taken or not, in order.
    pub fn transactions(&self) -> Vec<Transaction> {
        self.shared.transactions.lock().expect("no panic while held").clone()
    }
}

impl Drop for LmtpSink {
    fn drop(&mut self) {
        let wake = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
        drop(wake);
    }
}

/// Serves one connection until it ends.
fn serve(stream: UnixStream, shared: &Shared) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut write = stream.try_clone().ok()?;
    let mut read = BufReader::new(stream);
    let (mut mail, mut recipients) = (String::new(), Vec::new());
    let mut say = |text: &str| write.write_all(format!("{text}\r\n").as_bytes()).ok();
    say("220 sink LMTP")?;
    loop {
        let mut line = String::new();
        if read.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        let (verb, argument) = line.split_at(line.len().min(4));
        match verb.to_ascii_uppercase().as_str() {
            "LHLO" => say("250-sink\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250 PIPELINING")?,
            "MAIL" => {
                argument.trim().clone_into(&mut mail);
                recipients.clear();
                say("250 2.1.0 ok")?;
            }
            "RCPT" => {
                let path =
                    argument.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path);
                recipients.push(path.to_owned());
                say("250 2.1.5 ok")?;
            }
            "DATA" => {
                say("354 go on")?;
                let message = read_message(&mut read)?;
                let reply = shared.reply.lock().ok()?.clone();
                let count = recipients.len();
                let transaction = Transaction {
                    mail: std::mem::take(&mut mail),
                    recipients: std::mem::take(&mut recipients),
                    message,
                };
                shared.transactions.lock().ok()?.push(transaction);
                for _ in 0..count {
                    say(&reply)?;
                }
            }
            "RSET" | "NOOP" => say("250 2.0.0 ok")?,
            "QUIT" => {
                say("221 2.0.0 bye")?;
                return Some(());
            }
            _ => say("500 5.5.1 unknown")?,
        }
    }
}

pub(crate) fn read_message(read: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut line = Vec::new();
        if read.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        if line == b".\r\n" {
            return Some(message);
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}
