//! Takes connections for a service that wants nothing but a stream of octets, each in a task of its own.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::slots::Slots;

/// How long the listener rests after it could not accept a connection: out of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// `unix:`
    Unix(UnixListener),
    /// `inet:`
    Tcp(TcpListener),
}

/// One connection.
pub type Stream = Box<dyn Duplex>;

/// Octets both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// Gives each connection of `listener` to `converse`, as many at a time as `slots` has, until `shutdown`; further ones wait in the
/// kernel's queue.
pub async fn serve<F, S>(listener: Listener, slots: Slots, shutdown: CancellationToken, tasks: TaskTracker, converse: F)
where
    F: Fn(Stream, CancellationToken) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection; trying again");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        // What was taken is served where that is possible, even if we were told to stop just then.
        let slot = tokio::select! {
            biased;
            slot = slots.take() => slot,
            () = shutdown.cancelled() => return,
        };
        let conversation = converse(stream, shutdown.clone());
        tasks.spawn(async move {
            conversation.await;
            drop(slot);
        });
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A socket that does not take the option is closed already, which the first read will tell.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
        }
    }
}
