//! Hands a message to an LMTP service on a unix socket (RFC 2033), as an MTA does. No TLS and no login: the socket's permissions
//! say who may.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;

use super::clock::{Bounds, Clock, Step};
use super::dialogue::Dialogue;
use super::failure::{Cause, Failure};
use super::reply::Extensions;
use super::route::Remote;
use super::transaction::Transaction;
use crate::mail::{Domain, Mail, Reply};

/// Hands the message to the service at `socket` within `deadline`, saying LHLO as `hello`. Returns one reply per recipient of the
/// envelope, in its order: the service's own, or a 4xx of ours.
pub async fn send_lmtp(socket: &Path, hello: &Domain, mail: &Mail, deadline: Duration) -> Vec<Reply> {
    let clock = Clock::start(deadline, Bounds::default());
    let mut transaction = Transaction::new(mail, Remote::Endpoint);
    let failure = hand_over(socket, hello, clock, &mut transaction).await.err();
    transaction.into_replies(failure.as_ref())
}

async fn hand_over(
    socket: &Path,
    hello: &Domain,
    clock: Clock,
    transaction: &mut Transaction<'_>,
) -> Result<(), Failure> {
    let peer: Arc<str> = socket.display().to_string().into();
    let stream = match clock.within(Step::Connect, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Failure::new(&peer, Cause::Connect(error.to_string()))),
        Err(elapsed) => return Err(Failure::timeout(&peer, elapsed)),
    };
    let mut dialogue = Dialogue::new(stream, peer, clock);
    dialogue.expect(Step::Greeting, 220).await?;
    dialogue.send(Step::Ehlo, format!("LHLO {hello}\r\n").as_bytes()).await?;
    let extensions = Extensions::read(&dialogue.expect(Step::Ehlo, 250).await?);
    transaction.run_lmtp(&mut dialogue, &extensions).await?;
    dialogue.quit().await;
    Ok(())
}
