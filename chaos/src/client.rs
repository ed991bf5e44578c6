//! SMTP clients that do as MTAs do: whatever was not answered with 250 comes again.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::mail;

/// How long a client waits before it tries again.
const BACKOFF: Duration = Duration::from_millis(300);
/// How long it waits for a reply: longer than deskmilter's deadline for inline relay.
const REPLY: Duration = Duration::from_secs(180);

/// Messages in Postfix's queue at most: with more it would do nothing but try them again, as fast as it is told to here.
const QUEUED_MAX: usize = 500;

/// Sends the next message until there is none, each until it is accepted. Returns how often one came again.
pub(crate) fn send_all(
    address: SocketAddr,
    next: &AtomicUsize,
    messages: usize,
    sent: &AtomicUsize,
    taken: &AtomicUsize,
    until: Instant,
) -> usize {
    let (mut session, mut repeats) = (None, 0);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= messages {
            return repeats;
        }
        while sent.load(Ordering::Relaxed) > taken.load(Ordering::Relaxed) + QUEUED_MAX && Instant::now() < until {
            std::thread::sleep(BACKOFF);
        }
        let message = mail::message(number);
        while Instant::now() < until {
            match attempt(&mut session, address, &message) {
                Ok(250) => {
                    sent.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                // After a lost connection nobody knows whether it was accepted: RFC 5321 section 4.5.4.1 says to send again.
                Ok(_) | Err(_) => {
                    session = None;
                    repeats += 1;
                    std::thread::sleep(BACKOFF);
                }
            }
        }
    }
}

/// One transaction; the code of the reply that decides it.
fn attempt(session: &mut Option<BufReader<TcpStream>>, address: SocketAddr, message: &[u8]) -> io::Result<u16> {
    let stream = match session {
        Some(stream) => stream,
        None => session.insert(connect(address)?),
    };
    for (command, expected) in [
        (format!("MAIL FROM:<{}>\r\n", mail::SENDER), 250),
        (format!("RCPT TO:<{}>\r\n", mail::RECIPIENT), 250),
        ("DATA\r\n".to_owned(), 354),
    ] {
        let code = say(stream, command.as_bytes())?;
        if code != expected {
            return Ok(code);
        }
    }
    stream.get_mut().write_all(message)?;
    say(stream, b".\r\n")
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, REPLY)?;
    stream.set_read_timeout(Some(REPLY))?;
    stream.set_write_timeout(Some(REPLY))?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    match (reply(&mut stream)?, say(&mut stream, b"EHLO plain.example\r\n")?) {
        (220, 250) => Ok(stream),
        _ => Err(io::Error::other("no welcome")),
    }
}

fn say(stream: &mut BufReader<TcpStream>, octets: &[u8]) -> io::Result<u16> {
    stream.get_mut().write_all(octets)?;
    reply(stream)
}

fn reply(stream: &mut BufReader<TcpStream>) -> io::Result<u16> {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return line.get(..3).and_then(|code| code.parse().ok()).ok_or_else(|| io::Error::other(line));
        }
    }
}
