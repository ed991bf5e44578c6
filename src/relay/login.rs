//! From a route to a session that the endpoint has authenticated: credential sets in their order, AUTH PLAIN or LOGIN
//! (RFC 4954, RFC 4616), each set on a connection of its own, for many servers close after a refusal.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::Trace;
use super::clock::{Clock, Step};
use super::connect::{Secured, connect};
use super::dialogue::Dialogue;
use super::failure::{Cause, Failure};
use super::reply::{Extensions, RemoteReply};
use super::route::Route;
use crate::config::{CredentialSet, Secret, Stamp};

/// Octets of a command line at most (RFC 5321 section 4.5.3.1.4); a longer AUTH sends its response in the next line
/// (RFC 4954 section 4).
const COMMAND_MAX: usize = 512;

/// How long we wait before a password file that cannot be used is read once more: somebody may be writing it.
const REREAD_AFTER: Duration = Duration::from_millis(250);

/// So many characters of an AUTH response in a reply are taken for its repetition, be it cut short.
const ECHO_MIN: usize = 12;

/// An authenticated session, ready for MAIL.
#[derive(Debug)]
pub(super) struct Session {
    pub dialogue: Dialogue<TlsStream<TcpStream>>,
    pub extensions: Extensions,
    /// Protocol and cipher.
    pub tls: String,
    /// `host[address]:port`.
    pub remote: Option<String>,
    /// The position of the credential set that was taken.
    pub set: usize,
    /// Which content of its password file that was.
    pub stamp: Option<Stamp>,
    pub opened: Instant,
    /// Messages sent so far.
    pub messages: u32,
}

/// The set's password file as it is now; `None` when it is not there.
pub(super) async fn stamp_of(set: &CredentialSet) -> Option<Stamp> {
    tokio::fs::metadata(set.password_file.path()).await.ok().as_ref().map(Stamp::from)
}

/// Which credential sets were refused lately, so that the endpoint is not asked again and again for what it refuses.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<usize, Refusal>>);

#[derive(Debug)]
struct Refusal {
    until: Instant,
    stamp: Option<Stamp>,
}

impl Refusals {
    fn remember(&self, set: usize, stamp: Option<Stamp>, lifetime: Duration) {
        if let Some(until) = Instant::now().checked_add(lifetime) {
            let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.insert(set, Refusal { until, stamp });
        }
    }

    /// Whether this content of the set's password file was refused a short while ago.
    fn holds(&self, set: usize, stamp: Option<Stamp>) -> bool {
        let refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.get(&set).is_some_and(|refusal| refusal.stamp == stamp && Instant::now() < refusal.until)
    }

    fn forget(&self, set: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&set);
    }
}

/// Connects and logs in with the first credential set that the endpoint takes.
///
/// A set refused with 5xx is named in a warning and the next one is tried; sets refused lately are passed over while there
/// is another, and all are tried when there is none. A 4xx (RFC 4954 section 6: 454 temporary authentication failure)
/// is about the endpoint, not the set: trying the others would add load there and might take the wrong one for revoked.
///
/// A set whose password file was replaced while the endpoint refused it is tried once more, with what is in the file then.
pub(super) async fn login(
    route: &Route,
    refusals: &Refusals,
    clock: Clock,
    trace: &mut Trace,
) -> Result<Session, Failure> {
    let mut candidates = VecDeque::new();
    for (index, set) in route.credentials.iter().enumerate() {
        let stamp = clock
            .within(Step::Password, stamp_of(set))
            .await
            .map_err(|elapsed| Failure::timeout(&route.host, elapsed))?;
        candidates.push_back((index, set, stamp));
    }
    if candidates.iter().any(|(index, _, stamp)| !refusals.holds(*index, *stamp)) {
        candidates.retain(|(index, _, stamp)| !refusals.holds(*index, *stamp));
    }
    let mut trouble = None;
    let mut refused = Vec::new();
    let mut tried_again = Vec::new();
    while let Some((index, set, stamp)) = candidates.pop_front() {
        let password = match read_password(route, set, clock).await {
            Ok(password) => password,
            Err(failure) => {
                tracing::error!(
                    connector = %route.connector, username = %set.username, reason = %failure,
                    "credential set not usable"
                );
                trouble.get_or_insert(failure);
                continue;
            }
        };
        let Secured { mut dialogue, extensions, tls } = connect(route, clock, trace).await?;
        let reply = authenticate(&mut dialogue, &extensions, &set.username, &password).await?;
        drop(password);
        let peer = dialogue.peer().clone();
        if reply.is_success() {
            refusals.forget(index);
            trace.credential = Some(set.username.clone());
            return Ok(Session {
                dialogue,
                extensions,
                tls,
                remote: trace.remote.clone(),
                set: index,
                stamp,
                opened: Instant::now(),
                messages: 0,
            });
        }
        tokio::spawn(dialogue.quit());
        refusals.remember(index, stamp, clock.bounds().refusal);
        tracing::warn!(
            connector = %route.connector, remote = %peer, username = %set.username, reply = %reply.as_reply(),
            "credential set refused by the endpoint"
        );
        if !refused.contains(&set.username) {
            refused.push(set.username.clone());
        }
        trouble = Some(Failure::new(&peer, Cause::Credentials { usernames: refused.join(", "), last: reply }));
        let now = clock.within(Step::Password, stamp_of(set)).await.ok().flatten();
        if now.is_some() && now != stamp && !tried_again.contains(&index) {
            tried_again.push(index);
            candidates.push_front((index, set, now));
        }
    }
    let none = || Failure::new(&route.host, Cause::Password("no credential set configured".to_owned()));
    Err(trouble.unwrap_or_else(none))
}

async fn read_password(route: &Route, set: &CredentialSet, clock: Clock) -> Result<Secret, Failure> {
    match read_password_once(route, set, clock).await {
        Ok(password) => Ok(password),
        Err(_) => {
            let _in_time = clock.within(Step::Password, tokio::time::sleep(REREAD_AFTER)).await;
            read_password_once(route, set, clock).await
        }
    }
}

async fn read_password_once(route: &Route, set: &CredentialSet, clock: Clock) -> Result<Secret, Failure> {
    let file = set.password_file.clone();
    let reading = clock.within(Step::Password, spawn_blocking(move || file.read_password()));
    match reading.await {
        Ok(Ok(Ok(password))) => Ok(password),
        Ok(Ok(Err(error))) => Err(Failure::new(&route.host, Cause::Password(error.to_string()))),
        Ok(Err(error)) => Err(Failure::new(&route.host, Cause::Password(error.to_string()))),
        Err(elapsed) => Err(Failure::timeout(&route.host, elapsed)),
    }
}

/// AUTH over TLS. Returns the final reply: 235 or the 5xx that refuses the set.
async fn authenticate(
    dialogue: &mut Dialogue<TlsStream<TcpStream>>,
    extensions: &Extensions,
    username: &str,
    password: &Secret,
) -> Result<RemoteReply, Failure> {
    let mut lines = if extensions.auth_plain {
        plain(username, password)
    } else if extensions.auth_login {
        // The server's prompts are not looked at: they come in many languages, their order is always the same.
        vec![
            Zeroizing::new(b"AUTH LOGIN\r\n".to_vec()),
            encoded(b"", &[username.as_bytes()]),
            encoded(b"", &[password.expose()]),
        ]
    } else {
        return Err(dialogue.failure(Cause::NoAuth));
    }
    .into_iter();
    let mut line = lines.next();
    while let Some(octets) = line {
        let answer = dialogue.command(Step::Auth, &octets).await;
        let reply = without_echo(answer, &octets, password)?;
        line = lines.next();
        match (reply.code, &line) {
            (235, None) | (500..=599, _) => return Ok(reply),
            (334, Some(_)) => {}
            (400..=499, _) => return Err(dialogue.failure(Cause::Temporary(reply))),
            // A challenge too many, or success before the password was asked for: nothing to build on.
            _ => return Err(dialogue.out_of_place(Step::Auth, &reply)),
        }
    }
    Err(dialogue.failure(Cause::Nonsense(Step::Auth, "no end".to_owned())))
}

/// The answer to an AUTH line, without what repeats the secret: some servers quote a command that they do not understand
/// (Sendmail: `500 5.5.1 Command unrecognized: "..."`), and replies go into logs and bounces.
fn without_echo(
    mut answer: Result<RemoteReply, Failure>,
    sent: &[u8],
    password: &Secret,
) -> Result<RemoteReply, Failure> {
    let reply = match &mut answer {
        Ok(reply) | Err(Failure { cause: Cause::Temporary(reply), .. }) => reply,
        Err(_) => return answer,
    };
    let response = sent.trim_ascii_end().rsplit(|&b| b == b' ').next().unwrap_or_default();
    let telling = response.get(..ECHO_MIN).unwrap_or(response);
    let is_mechanism = matches!(response, b"PLAIN" | b"LOGIN");
    let holds = |line: &str, part: &[u8]| line.as_bytes().windows(part.len().max(1)).any(|window| window == part);
    for line in &mut reply.lines {
        if holds(line, password.expose()) || (!is_mechanism && holds(line, telling)) {
            "(text left out, it repeats the credentials)".clone_into(line);
        }
    }
    answer
}

/// AUTH PLAIN with its response in the same line where it fits (RFC 4954 section 4), else in the next.
fn plain(username: &str, password: &Secret) -> Vec<Zeroizing<Vec<u8>>> {
    let message: [&[u8]; 4] = [b"\0", username.as_bytes(), b"\0", password.expose()];
    let line = encoded(b"AUTH PLAIN ", &message);
    if line.len() <= COMMAND_MAX {
        vec![line]
    } else {
        vec![Zeroizing::new(b"AUTH PLAIN\r\n".to_vec()), encoded(b"", &message)]
    }
}

/// `command`, the base64 of `parts` together, CRLF; no copy of a secret outlives the call.
fn encoded(command: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    let mut message = Zeroizing::new(Vec::with_capacity(length));
    parts.iter().for_each(|part| message.extend_from_slice(part));
    let mut text = Zeroizing::new(String::with_capacity(length.saturating_add(2).saturating_mul(4) / 3 + 4));
    STANDARD.encode_string(message.as_slice(), &mut text);
    let mut line = Zeroizing::new(Vec::with_capacity(text.len().saturating_add(command.len()).saturating_add(2)));
    line.extend_from_slice(command);
    line.extend_from_slice(text.as_bytes());
    line.extend_from_slice(b"\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_one_line_unless_that_is_too_long() {
        let lines = plain("user", &Secret::new(b"password".to_vec()));
        assert_eq!(lines.len(), 1);
        assert_eq!(lines.first().unwrap().as_slice(), b"AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=\r\n");
        let lines = plain("user", &Secret::new(vec![b'x'; 600]));
        assert_eq!(lines.first().unwrap().as_slice(), b"AUTH PLAIN\r\n");
        assert_eq!(lines.len(), 2);
    }
}
