//! Takes connections, each into a task of its own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::Service;
use super::conversation::{ConversationError, converse};
use crate::pipeline::Judge;

/// How long we wait after a failed accept at first (10 ms), and at most (1 s): "too many open files" comes back at once.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Between two log lines about the same lasting trouble.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// `unix:` or `local:`.
    Unix(UnixListener),
    /// `inet:` or `inet6:`.
    Tcp(TcpListener),
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Serves `listener` until `shutdown`, each connection in a task of `tasks`.
///
/// When `limits.milter_connections` are served, the next one waits for one to end, and further ones wait in the kernel's
/// queue, which bounds them; an MTA that waits too long does as its default action says. On
/// `shutdown` no more are taken; those in `tasks` end at once between messages and within 30 s otherwise. Returns when no
/// more connections are taken; wait for `tasks` to see the last one end.
pub async fn serve<J: Judge>(
    listener: Listener,
    service: Arc<Service<J>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    let mut pause = PAUSE_MIN;
    let mut full = Throttle::default();
    let mut failing = Throttle::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if failing.is_due() {
                    warn!(%error, "cannot take a milter connection; trying again");
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        pause = PAUSE_MIN;
        if service.slots.is_full() && full.is_due() {
            warn!("all milter connections are in use, more have to wait; consider a higher limits.milter_connections");
        }
        // Only a connection that is there takes a slot: a listener that waits for one must not starve the others.
        let slot = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            slot = service.slots.take() => slot,
        };
        let (service, shutdown) = (Arc::clone(&service), shutdown.clone());
        tasks.spawn(async move {
            let _slot = slot;
            let ended = match stream {
                Stream::Unix(stream) => converse(stream, &peer, &service, &shutdown).await,
                Stream::Tcp(stream) => converse(stream, &peer, &service, &shutdown).await,
            };
            log_end(&peer, ended);
        });
    }
}

fn log_end(peer: &str, ended: Result<(), ConversationError>) {
    match ended {
        Ok(()) => debug!(peer, "milter connection ended"),
        Err(error) => warn!(peer, reason = %error, "milter connection closed"),
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = match stream.peer_cred() {
                    Ok(peer) => format!("unix(uid={}, pid={})", peer.uid(), peer.pid().unwrap_or_default()),
                    Err(_) => "unix".to_owned(),
                };
                Ok((Stream::Unix(stream), peer))
            }
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Without this each answer may wait 40 ms for the MTA's delayed acknowledgement. A socket that does not take
                // the option is closed already, which the first read will tell.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), peer.to_string()))
            }
        }
    }
}

/// Lets one log line through in a while.
#[derive(Debug, Default)]
struct Throttle {
    last: Option<Instant>,
}

impl Throttle {
    fn is_due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}
