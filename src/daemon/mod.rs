//! The running program: sockets bound, privileges dropped, services started, signals heeded, work in flight finished.
//!
//! In: a checked [`Config`]. Out: a process that serves until SIGTERM or SIGINT. Knows what the parts are and how they are put
//! together, and nothing of mail.

mod bind;
mod privileges;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attach::{lmtp, milter};
use crate::config::{Config, Connector, Endpoint};
use crate::mail::{Budget, Spool};
use crate::pipeline::{Pipeline, SiteKey};
use crate::relay::{Authorities, Relay};

/// How long work in flight may take after SIGTERM: a little longer than each session gives itself (30 s), so that those that
/// run out of time can still say so to the MTA.
const DRAIN: Duration = Duration::from_secs(35);

/// Runs the daemon in the foreground until it is told to stop.
///
/// # Errors
/// What kept it from starting, with the object and the remedy.
pub fn run(config: Config) -> Result<(), String> {
    privileges::forbid_core_dumps()?;
    privileges::allow_open_files();
    let user = config.daemon.user.as_deref().map(privileges::find_user).transpose()?;
    state::prepare(&config.daemon.state_directory, user.as_ref())?;
    privileges::check_open_files(Sockets::count(&config))?;
    let sockets = Sockets::bind(&config, user.as_ref())?;
    match &user {
        Some(user) => privileges::become_user(user)?,
        None if nix::unistd::geteuid().is_root() => {
            tracing::warn!(
                "running as root: it needs nothing of root but the sockets' owner; set daemon.user to a user of its own"
            );
        }
        None => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot be started: {error}"))?;
    runtime.block_on(serve(config, sockets))
}

/// Everything we listen on, bound while we may still be root.
struct Sockets {
    milter: Vec<bind::Socket>,
    transport: Vec<(Arc<Connector>, Endpoint, std::os::unix::net::UnixListener, PathBuf)>,
}

impl Sockets {
    fn count(config: &Config) -> usize {
        let milter = config.milter.as_ref().map_or(0, |service| service.listen.len());
        let endpoints = config.connectors.iter().filter(|connector| connector.endpoint.is_some());
        milter.saturating_add(if config.transport.is_some() { endpoints.count() } else { 0 })
    }

    fn bind(config: &Config, user: Option<&nix::unistd::User>) -> Result<Self, String> {
        let mut milter = Vec::new();
        if let Some(service) = &config.milter {
            for listen in &service.listen {
                milter.push(bind::Socket::bind(listen, &service.access, user)?);
            }
        }
        let mut transport = Vec::new();
        if let Some(service) = &config.transport {
            for connector in &config.connectors {
                let Some(endpoint) = &connector.endpoint else { continue };
                let path = service.directory.join(format!("{}.sock", connector.name));
                let listener = bind::unix(&path, &service.access, user)?;
                transport.push((Arc::clone(connector), endpoint.clone(), listener, path));
            }
        }
        Ok(Self { milter, transport })
    }
}

/// The parts, put together.
struct Services {
    pipeline: Arc<ArcSwap<Pipeline>>,
    milter: Arc<milter::Service<Pipeline>>,
    spool: Spool,
}

impl Services {
    fn new(config: &Config, site_key: SiteKey) -> Result<Self, String> {
        let budget = Budget::new(config.limits.memory);
        let spool = Spool::new(state::spool_directory(&config.daemon.state_directory));
        let pipeline = Arc::new(ArcSwap::from_pointee(Pipeline::new(config, site_key, &budget)?));
        let milter = Arc::new(milter::Service::new(Arc::clone(&pipeline), spool.clone(), &config.limits));
        Ok(Self { pipeline, milter, spool })
    }

    fn transport(
        &self,
        config: &Config,
        connector: Arc<Connector>,
        endpoint: &Endpoint,
        peers: &[u32],
        authorities: &mut Authorities,
    ) -> Result<Arc<ArcSwap<lmtp::Service>>, String> {
        let relay = Relay::trusting(&connector, endpoint, &config.daemon.hostname, authorities)
            .map_err(|error| format!("connector.{}.endpoint: {error}", connector.name))?;
        Ok(Arc::new(ArcSwap::from_pointee(lmtp::Service {
            connector,
            hand_over: lmtp::Route { pipeline: self.pipeline.load_full(), relay: Arc::new(relay) },
            limits: config.limits.clone(),
            spool: self.spool.clone(),
            hostname: config.daemon.hostname.clone(),
            peers: peers.to_vec(),
            timeouts: lmtp::Timeouts::default(),
        })))
    }
}

async fn serve(config: Config, sockets: Sockets) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("a socket cannot be used: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;

    let site_key = state::site_key(&config.daemon.site_key_file)?;
    let services = Services::new(&config, site_key)?;
    let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
    let mut paths = Vec::new();
    for socket in sockets.milter {
        tracing::info!(socket = %socket.address(), "milter listening");
        paths.extend(socket.path());
        let listener = match socket {
            bind::Socket::Unix(listener, _) => {
                milter::Listener::Unix(UnixListener::from_std(listener).map_err(failed)?)
            }
            bind::Socket::Tcp(listener, _) => milter::Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?),
        };
        tasks.spawn(milter::serve(listener, Arc::clone(&services.milter), shutdown.clone(), tasks.clone()));
    }
    // Looked up and read once for all connectors.
    let peers = config.transport.iter().flat_map(|transport| &transport.peers);
    let peers: Vec<u32> =
        peers.map(|name| privileges::find_user(name).map(|user| user.uid.as_raw())).collect::<Result<_, _>>()?;
    let mut authorities = Authorities::default();
    for (connector, endpoint, listener, path) in sockets.transport {
        tracing::info!(
            socket = %path.display(),
            connector = connector.name,
            endpoint = format!("{}:{}", endpoint.host, endpoint.port),
            "transport listening"
        );
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let service = services.transport(&config, connector, &endpoint, &peers, &mut authorities)?;
        tasks.spawn(lmtp::serve(listener, service, shutdown.clone(), tasks.clone()));
        paths.push(path);
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), connectors = config.connectors.len(), "ready");

    let reason = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            // A terminal that closes, or a habit from other daemons, must not end the service.
            _ = hangup.recv() => tracing::warn!("SIGHUP: the configuration is read at start only; restart to apply changes"),
        }
    };
    tracing::info!(reason, "stopping");
    shutdown.cancel();
    bind::unlink(&paths);
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!(
            seconds = DRAIN.as_secs(),
            "work in flight did not end in time; the MTA will send those messages again"
        );
    }
    tracing::info!("stopped");
    Ok(())
}
