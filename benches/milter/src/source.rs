//! Where mail comes from: Postfix's smtp-source.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{PrivatePostfix, postfix_program};

/// SMTP sessions at a time.
const SESSIONS: usize = 16;

/// How many messages a client sends in one SMTP session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// One, and each has a connection to the milter of its own.
    OneMessage,
    /// As many as there are for it.
    Many,
}

/// Sends `count` messages, each the same, to `postfix` at one of its addresses; says how long it took until the last one was
/// taken.
///
/// # Panics
/// When a message is not taken.
pub fn send(
    postfix: &PrivatePostfix,
    address: SocketAddr,
    session: Session,
    count: usize,
    (sender, recipient): (&str, &str),
    message: &[u8],
) -> Duration {
    let file = postfix.configuration().join("message");
    std::fs::write(&file, message).expect("a file for the message");
    let mut command = Command::new(postfix_program("smtp-source"));
    if session == Session::Many {
        command.arg("-d");
    }
    command
        .args(["-s", &SESSIONS.min(count).to_string(), "-m", &count.to_string(), "-f", sender])
        .args(["-t", recipient, "-F"])
        .arg(file)
        .arg(format!("inet:{}:{}", address.ip(), address.port()));
    let start = Instant::now();
    let output = command.output().expect("smtp-source");
    let elapsed = start.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "smtp-source: {} {said}", output.status);
    elapsed
}
