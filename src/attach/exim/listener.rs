//! Takes connections, each into a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::conversation::converse;
use super::{Service, reply};
use crate::pipeline::Judge;

/// How long the listener rests after it could not accept a connection: out of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// For who is sent away to hear it.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Serves `listener` until `shutdown`, each connection in a task of `tasks`, as many at a time as the settings say; who does
/// not fit waits in the socket's backlog.
pub async fn serve<J: Judge>(
    listener: UnixListener,
    service: Arc<Service<J>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection of Exim");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        // What was taken is served where that is possible, even if we were told to stop just then.
        let slot = tokio::select! {
            biased;
            slot = service.slots.take() => slot,
            () = shutdown.cancelled() => return,
        };
        let (service, shutdown) = (Arc::clone(&service), shutdown.clone());
        tasks.spawn(async move {
            let _slot = slot;
            admit(stream, &service, &shutdown).await;
        });
    }
}

/// Lets in whom the configuration names: who may ask may say who has logged in.
async fn admit<J: Judge>(mut stream: UnixStream, service: &Service<J>, shutdown: &CancellationToken) {
    let peer = stream.peer_cred().ok();
    let uid = peer.map(|peer| peer.uid());
    if uid.is_some_and(|uid| service.settings.load().peers.contains(&uid)) {
        let name = peer.map(|peer| format!("unix(uid={}, pid={})", peer.uid(), peer.pid().unwrap_or_default()));
        return converse(stream, &name.unwrap_or_default(), service, shutdown).await;
    }
    let uid = uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
    tracing::warn!(uid, "a peer of the Exim socket was refused: its uid is not one of exim.peers");
    let refusal = reply::error(&format!("uid {uid} may not ask here; see exim.peers"));
    let _ = timeout(REFUSAL_TIME, tokio::io::AsyncWriteExt::write_all(&mut stream, &refusal)).await;
}
