//! Mail servers that are programs of the test: one that keeps what it is given, and a content filter between two passes of
//! Postfix.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::lmtp_sink::read_message;
use crate::process::PATIENCE;
use crate::{SmtpSession, Transaction, wait_until};

/// What a modern mail server says to EHLO.
const MODERN: [&str; 4] = ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];

/// What to answer to a whole message.
type Handler = dyn Fn(&Transaction) -> String + Send + Sync;

/// An end user's mail server: takes everything for everybody and keeps it octet by octet. Ends when dropped.
#[derive(Debug)]
pub struct SmtpSink {
    server: Server,
    transactions: Arc<Mutex<Vec<Transaction>>>,
}

impl SmtpSink {
    /// One that offers 8BITMIME and SMTPUTF8.
    pub fn modern() -> Self {
        Self::start(&MODERN)
    }

    /// One that offers just these extensions.
    pub fn start(extensions: &'static [&'static str]) -> Self {
        let transactions: Arc<Mutex<Vec<Transaction>>> = Arc::default();
        let kept = Arc::clone(&transactions);
        let server = Server::start(extensions, move |transaction| {
            kept.lock().expect("no panic while held").push(transaction.clone());
            "250 2.0.0 taken".to_owned()
        });
        Self { server, transactions }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// What it was given, in order.
    pub fn transactions(&self) -> Vec<Transaction> {
        self.transactions.lock().expect("no panic while held").clone()
    }

    /// Waits until it was given `count` messages, and returns them. `log` is shown when it is not.
    ///
    /// # Panics
    /// When it was not within [`PATIENCE`].
    pub fn wait_for(&self, count: usize, log: impl Fn() -> String) -> Vec<Transaction> {
        wait_until(&format!("{count} messages at the end user's server"), log, || self.transactions().len() >= count);
        self.transactions()
    }
}

/// A content filter as `FILTER_README` of Postfix describes the advanced one: takes mail by SMTP, changes it, and hands it
/// back to a second smtpd whose reply it passes on. It does to a notification what filters do: drops `X-Mailer`, rewrites
/// `Auto-Submitted`, appends a disclaimer, adds a field of its own. Ends when dropped.
#[derive(Debug)]
pub struct ContentFilter {
    server: Server,
}

/// What the filter appends to every body.
pub const DISCLAIMER: &str = "-- \r\nThis message may be confidential.\r\n";

impl ContentFilter {
    /// Starts one that hands back to `next`.
    pub fn start(next: SocketAddr) -> Self {
        Self { server: Server::start(&MODERN, move |transaction| reinject(next, transaction)) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }
}

fn reinject(next: SocketAddr, transaction: &Transaction) -> String {
    let mut session = SmtpSession::connect(next);
    session.expect(250, "EHLO filter.acme.example");
    let (sender, parameters) = path_and_parameters(&transaction.mail);
    let parameters: Vec<&str> = parameters.split_whitespace().filter(|p| !p.starts_with("SIZE=")).collect();
    let recipients: Vec<&str> = transaction.recipients.iter().map(String::as_str).collect();
    let message = filtered(&transaction.message);
    let reply = session.send_with(sender, &parameters.join(" "), &recipients, &message);
    format!("{} {}", reply.code, reply.text.replace('\n', " "))
}

fn filtered(message: &[u8]) -> Vec<u8> {
    let mut out = b"X-Scanned-By: filter.acme.example\r\n".to_vec();
    let end = message.windows(4).position(|four| four == b"\r\n\r\n").map_or(message.len(), |at| at + 2);
    let (header, body) = message.split_at(end);
    for field in crate::message::split_fields(header) {
        let name = field.split(|&octet| octet == b':').next().unwrap_or_default();
        if name.eq_ignore_ascii_case(b"X-Mailer") {
        } else if name.eq_ignore_ascii_case(b"Auto-Submitted") {
            out.extend_from_slice(b"Auto-Submitted: auto-replied\r\n");
        } else {
            out.extend_from_slice(field);
        }
    }
    out.extend_from_slice(body);
    out.extend_from_slice(DISCLAIMER.as_bytes());
    out
}

/// A small SMTP server on 127.0.0.1.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Server {
    fn start(
        extensions: &'static [&'static str],
        handler: impl Fn(&Transaction) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the address just bound");
        let ended = Arc::new(AtomicBool::new(false));
        let (end, handler): (_, Arc<Handler>) = (Arc::clone(&ended), Arc::new(handler));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let handler = Arc::clone(&handler);
                std::thread::spawn(move || serve(stream, extensions, &*handler));
            }
        });
        Self { address, ended }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Ok(wake) = TcpStream::connect(self.address) {
            let _ = wake.shutdown(Shutdown::Both);
        }
    }
}

/// Serves one connection until it ends.
fn serve(stream: TcpStream, extensions: &[&str], handler: &Handler) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_nodelay(true).ok()?;
    let mut write = stream.try_clone().ok()?;
    let mut read = BufReader::new(stream);
    let mut transaction = Transaction { mail: String::new(), recipients: Vec::new(), message: Vec::new() };
    let mut say = |text: &str| write.write_all(format!("{text}\r\n").as_bytes()).ok();
    say("220 sink.example ESMTP")?;
    loop {
        let mut line = String::new();
        if read.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        let (verb, argument) = line.split_at(line.len().min(4));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                let lines: String = extensions.iter().map(|extension| format!("250-{extension}\r\n")).collect();
                say(&format!("{lines}250 SIZE 100000000"))?;
            }
            "MAIL" => {
                argument.trim().clone_into(&mut transaction.mail);
                transaction.recipients.clear();
                say("250 2.1.0 ok")?;
            }
            "RCPT" => {
                transaction.recipients.push(path_and_parameters(argument).0.to_owned());
                say("250 2.1.5 ok")?;
            }
            "DATA" => {
                say("354 go on")?;
                transaction.message = read_message(&mut read)?;
                let reply = handler(&transaction);
                say(&reply)?;
            }
            "HELO" | "RSET" | "NOOP" => say("250 2.0.0 ok")?,
            "QUIT" => {
                say("221 2.0.0 bye")?;
                return Some(());
            }
            _ => say("502 5.5.1 unknown")?,
        }
    }
}

/// `FROM:<path> parameters` or `TO:<path> parameters`.
fn path_and_parameters(argument: &str) -> (&str, &str) {
    argument.split_once('<').and_then(|(_, rest)| rest.split_once('>')).unwrap_or_default()
}
