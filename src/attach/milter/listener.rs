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
use super::conversation::{ConversationError, Stop, converse_until};
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
/// `shutdown` no more are taken; those in `tasks` end between messages, at once or after [`Patience::linger`], and within 30 s
/// otherwise. Returns when no more connections are taken; wait for `tasks` to see the last one end.
///
/// [`Patience::linger`]: super::Patience::linger
pub async fn serve<J: Judge>(
    listener: Listener,
    service: Arc<Service<J>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    let mut pause = PAUSE_MIN;
    let stop = stop(shutdown.clone(), service.patience.linger);
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
        // What was taken is served where that is possible, even if we were told to stop just then.
        let slot = tokio::select! {
            biased;
            slot = service.slots.take() => slot,
            () = shutdown.cancelled() => return,
        };
        let (service, stop) = (Arc::clone(&service), stop.clone());
        tasks.spawn(async move {
            let _slot = slot;
            let ended = match stream {
                Stream::Unix(stream) => converse_until(&stop, stream, &peer, &service).await,
                Stream::Tcp(stream) => converse_until(&stop, stream, &peer, &service).await,
            };
            log_end(&peer, ended);
        });
    }
}

/// When `shutdown` comes, and when `linger` is over after it.
fn stop(shutdown: CancellationToken, linger: Duration) -> Stop {
    if linger.is_zero() {
        return Stop::at_once(shutdown);
    }
    let (told, between) = (shutdown, CancellationToken::new());
    let stop = Stop { told: told.clone(), between: between.clone() };
    // None of the tasks that the end waits for.
    tokio::spawn(async move {
        told.cancelled().await;
        sleep(linger).await;
        between.cancel();
    });
    stop
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
