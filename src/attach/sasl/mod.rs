//! SMTP AUTH for an MTA: the server of Dovecot's authentication protocol, as Postfix (`smtpd_sasl_type = dovecot`) and Exim
//! (`driver = dovecot`) use it.
//!
//! In: connections of the MTA. Out: its questions for [`Logins`], the answers for the MTA, one INFO line per attempt. It must not
//! know mail, stores or hashes.
//!
//! When nobody can say whether a login is right, the connection is closed without an answer: to both MTAs that is a temporary
//! failure, whereas they ignore the protocol's own word for one.

#[cfg(any(test, fuzzing))]
#[path = "../../../fuzz/targets/sasl.rs"]
pub(crate) mod fuzzing;
mod mechanism;
mod protocol;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::accept::{self, Listener, Stream};
use super::slots::Slots;
use crate::credential::{Logins, Outcome, Refusal};
use protocol::{Action, Attempt, Facts, LINE_MAX, Session};

/// Connections at a time: as many as an MTA of the largest kind has processes that log clients in.
pub const CONNECTIONS_MAX: usize = 1_000;
/// An MTA's process keeps its connection for the next client; one that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(3600);
/// The rest of a line, and a line of ours, take no longer.
const LINE_TIME: Duration = Duration::from_secs(10);

/// Serves `listener` until `shutdown`: then idle connections end at once, and a login that is being checked is answered first.
pub async fn serve(
    listener: Listener,
    slots: Slots,
    logins: Arc<arc_swap::ArcSwap<Logins>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    let converse = move |stream, shutdown| converse(stream, Arc::clone(&logins), shutdown);
    accept::serve(listener, slots, shutdown, tasks, converse).await;
}

async fn converse(stream: Stream, logins: Arc<arc_swap::ArcSwap<Logins>>, shutdown: CancellationToken) {
    let ended = tokio::select! {
        ended = dialogue(stream, &logins, &shutdown) => ended,
        // A login under way ends by itself within seconds; the dialogue sees the token before it waits again.
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LINE_TIME).await;
        } => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(reason = %error, "connection of the authentication service closed");
    }
}

async fn dialogue(stream: Stream, logins: &arc_swap::ArcSwap<Logins>, shutdown: &CancellationToken) -> io::Result<()> {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
    let mut cookie = [0; 16];
    aws_lc_rs::rand::fill(&mut cookie).map_err(|_| io::Error::other("no randomness from the system"))?;
    let greeting = protocol::greeting(std::process::id(), CONNECTIONS.fetch_add(1, Ordering::Relaxed), &cookie);

    let mut stream = BufReader::new(stream);
    send(&mut stream, &greeting).await?;
    let mut session = Session::default();
    loop {
        let line = tokio::select! {
            line = read_line(&mut stream) => line?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let Some(line) = line else { return Ok(()) };
        match session.receive(&line) {
            Action::Wait => {}
            Action::Send(line) => send(&mut stream, &line).await?,
            Action::Refuse { reply, facts, reason } => {
                tracing::info!(mechanism = facts.mechanism, client = client(&facts), reason, "login refused");
                send(&mut stream, &reply).await?;
            }
            Action::Check(attempt) => {
                let logins = logins.load_full();
                match check(&logins, attempt).await {
                    Some(reply) => send(&mut stream, &reply).await?,
                    None => return Ok(()),
                }
            }
            Action::Close(reason) => return Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
        }
    }
}

/// The answer to an attempt; `None` when there is none. The name is logged where it is known to be one: some people type their
/// password in its place.
async fn check(logins: &Logins, attempt: Attempt) -> Option<String> {
    let Attempt { id, user, password, facts } = attempt;
    let (mechanism, client) = (facts.mechanism, client(&facts));
    match logins.check(&user, password, facts.client).await {
        Outcome::Accepted { accepted, cached } => {
            let (user, binding) = (&accepted.user, &accepted.binding);
            let credential = accepted.credential;
            tracing::info!(login = %user, mechanism, client, credential, binding = %binding, cached, "login accepted");
            Some(protocol::accepted(id, user.as_str()))
        }
        Outcome::Refused(refusal) => {
            let login = (refusal != Refusal::UnknownUser).then_some(user);
            tracing::info!(login, mechanism, client, reason = refusal.as_str(), "login refused");
            Some(protocol::refused(id, protocol::WRONG))
        }
        Outcome::Unavailable(reason) => {
            tracing::warn!(mechanism, client, reason, "login not checked; the client has to come again");
            None
        }
    }
}

fn client(facts: &Facts) -> String {
    facts.client.map_or_else(|| "unknown".to_owned(), |client| client.to_string())
}

async fn send(stream: &mut BufReader<Stream>, line: &str) -> io::Result<()> {
    let write = async {
        stream.write_all(line.as_bytes()).await?;
        stream.flush().await
    };
    timeout(LINE_TIME, write).await.map_err(|_| io::Error::other("the MTA does not read our answer"))?
}

/// The next line without its ending; `None` at the end of the connection. Wiped when dropped: passwords are in it.
async fn read_line(stream: &mut BufReader<Stream>) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let idle = |_| io::Error::other("nothing heard for an hour");
    if timeout(IDLE, stream.fill_buf()).await.map_err(idle)??.is_empty() {
        return Ok(None);
    }
    // With room for all of it, lest growing leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_MAX));
    let mut limited = stream.take(LINE_MAX as u64);
    let late = |_| io::Error::other("a line that does not end");
    timeout(LINE_TIME, limited.read_until(b'\n', &mut line)).await.map_err(late)??;
    match line.pop() {
        Some(b'\n') => Ok(Some(line)),
        _ if line.len() >= LINE_MAX - 1 => Err(io::Error::new(io::ErrorKind::InvalidData, "a line that is too long")),
        _ => Ok(None),
    }
}
