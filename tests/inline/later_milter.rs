//! A milter after ours that refuses what it is told to refuse.

use std::path::Path;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use deskmilter::attach::milter::{Listener, Service, serve};
use deskmilter::config::Limits;
use deskmilter::mail::{Connection, Envelope, Mail, Reply, Spool, Verdict};
use deskmilter::pipeline::Judge;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Its socket, below Postfix's queue directory.
const SOCKET: &str = "deskmilter/later.sock";

/// Ends when dropped.
#[derive(Debug)]
pub struct LaterMilter {
    judge: LaterJudge,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Debug, Clone)]
struct LaterJudge(Arc<Mutex<Option<Reply>>>);

impl Judge for LaterJudge {
    fn concerns(&self, _: &Connection, _: &Envelope) -> bool {
        true
    }

    async fn judge(&self, _: &Mail) -> Verdict {
        self.0.lock().unwrap().clone().map_or_else(Verdict::pass, Verdict::refuse)
    }
}

impl LaterMilter {
    /// Serves a Postfix with this queue directory, and refuses each message with `reply`.
    pub fn start(queue_directory: &Path, reply: Reply) -> Self {
        let judge = LaterJudge(Arc::new(Mutex::new(Some(reply))));
        let socket = queue_directory.join(SOCKET);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let limits = Limits {
            message_size: 1 << 20,
            header_size: 1 << 20,
            memory: 1 << 20,
            milter_connections: 10,
            transport_connections: 1,
            hops: 50,
            addresses_per_domain: 1,
            domains: 1,
            inline_relays: 1,
        };
        let shared = Arc::new(ArcSwap::from_pointee(judge.clone()));
        let service = Arc::new(Service::new(shared, Spool::new("/nonexistent"), &limits));
        let listener = Listener::Unix(runtime.block_on(async { UnixListener::bind(&socket) }).unwrap());
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        runtime.spawn(serve(listener, service, CancellationToken::new(), TaskTracker::new()));
        Self { judge, _runtime: runtime }
    }

    /// Takes everything from now on.
    pub fn relent(&self) {
        *self.judge.0.lock().unwrap() = None;
    }
}
