//! Everything we listen on: bound for a configuration, opened, kept open over reloads, closed.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use nix::unistd::User;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bind::{Name, Socket};
use super::parts::Parts;
use super::passed::Passed;
use crate::attach::slots::Slots;
use crate::attach::{lmtp, milter};
use crate::config::{Config, Connector, Listen};
use crate::inline::Inline;

/// Where the LMTP socket of a connector is; `None` where nothing is relayed to a server.
pub(super) fn transport_socket(config: &Config, connector: &Connector) -> Option<PathBuf> {
    let service = config.transport.as_ref()?;
    if connector.endpoint.is_none() && connector.host.is_none() {
        return None;
    }
    Some(service.directory.join(format!("{}.sock", connector.name)))
}

/// What a socket is for.
#[derive(Debug)]
enum Purpose {
    Milter,
    /// LMTP for the connector of that name.
    Transport(String),
}

/// Bound sockets that nobody serves yet. Dropping them takes them back.
#[derive(Debug, Default)]
pub(super) struct Sockets(Vec<(Listen, Purpose, Socket)>);

impl Sockets {
    /// Everything that `config` names.
    pub(super) fn named(config: &Config) -> impl Iterator<Item = Listen> {
        let milter = config.milter.iter().flat_map(|service| service.listen.iter().cloned());
        let transport = config.connectors.iter().filter_map(|connector| transport_socket(config, connector));
        milter.chain(transport.map(Listen::Unix))
    }

    /// Binds everything that `config` names and that is not among `open`; what was `passed` to us is bound already.
    ///
    /// # Errors
    /// Every one that cannot be bound, and what to do.
    pub(super) fn bind(
        config: &Config,
        user: Option<&User>,
        open: &HashSet<Listen>,
        passed: &Passed,
    ) -> Result<Self, Vec<String>> {
        let (mut sockets, mut problems) = (Vec::new(), Vec::new());
        let mut add = |listen: Listen, purpose, access| {
            if open.contains(&listen) {
                return;
            }
            let socket = passed.get(&listen).unwrap_or_else(|| Socket::bind(&listen, access, user));
            match socket {
                Ok(socket) => sockets.push((listen, purpose, socket)),
                Err(problem) => problems.push(problem),
            }
        };
        if let Some(service) = &config.milter {
            for listen in &service.listen {
                add(listen.clone(), Purpose::Milter, &service.access);
            }
        }
        if let Some(service) = &config.transport {
            for connector in &config.connectors {
                let Some(path) = transport_socket(config, connector) else { continue };
                add(Listen::Unix(path), Purpose::Transport(connector.name.clone()), &service.access);
            }
        }
        passed.warn_of_unused(config);
        if problems.is_empty() { Ok(Self(sockets)) } else { Err(problems) }
    }

    /// Hands them to the runtime, which must be running.
    ///
    /// # Errors
    /// The runtime cannot use one.
    pub(super) fn register(self) -> Result<Registered, String> {
        let mut registered = Registered(Vec::with_capacity(self.0.len()));
        for (listen, purpose, socket) in self.0 {
            let address = socket.address();
            let failed = |error: std::io::Error| format!("{address}: {error}; the socket cannot be used");
            let (listener, name) = match socket {
                Socket::Unix(listener, name) => {
                    (milter::Listener::Unix(UnixListener::from_std(listener).map_err(failed)?), Some(name))
                }
                Socket::Tcp(listener, _) => {
                    (milter::Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?), None)
                }
            };
            registered.0.push(Ready { listen, purpose, address, listener, name });
        }
        Ok(registered)
    }
}

/// Sockets that want nothing but somebody to serve them: from here on nothing can fail.
#[derive(Debug)]
pub(super) struct Registered(Vec<Ready>);

#[derive(Debug)]
struct Ready {
    /// As configured.
    listen: Listen,
    purpose: Purpose,
    /// As bound.
    address: Listen,
    listener: milter::Listener,
    name: Option<Name>,
}

/// A socket that is served. Dropping it removes its name and takes no more connections; those that are there end by themselves,
/// idle ones at once.
#[derive(Debug)]
struct Door {
    close: CancellationToken,
    _name: Option<Name>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close.cancel();
    }
}

/// The LMTP socket of a connector.
#[derive(Debug)]
struct TransportDoor {
    connector: String,
    service: Arc<ArcSwap<lmtp::Service>>,
    slots: Slots,
    _door: Door,
}

/// Everything that is served. Dropping it closes everything.
#[derive(Debug)]
pub(super) struct Listeners {
    judge: Arc<ArcSwap<Inline>>,
    service: Arc<milter::Service<Inline>>,
    milter: HashMap<Listen, Door>,
    transport: HashMap<PathBuf, TransportDoor>,
    tasks: TaskTracker,
}

impl Listeners {
    /// Nothing is open yet; all connections will be in `tasks`.
    pub(super) fn new(parts: &Parts, tasks: TaskTracker) -> Self {
        let judge = Arc::new(ArcSwap::new(Arc::clone(&parts.judge)));
        let service = milter::Service::new(Arc::clone(&judge), parts.spool.clone(), &parts.config.limits);
        Self { judge, service: Arc::new(service), milter: HashMap::new(), transport: HashMap::new(), tasks }
    }

    /// What is open, as configured.
    pub(super) fn open(&self) -> HashSet<Listen> {
        self.milter.keys().cloned().chain(self.transport.keys().cloned().map(Listen::Unix)).collect()
    }

    /// From here on `parts` hold for every message that begins: what is open serves them, `new` is opened, what they do not name
    /// is closed.
    pub(super) fn swap(&mut self, parts: &Parts, new: Registered) {
        let limits = &parts.config.limits;
        let listen: HashSet<&Listen> = parts.config.milter.iter().flat_map(|service| &service.listen).collect();
        self.milter.retain(|address, _| {
            let stays = listen.contains(address);
            if !stays {
                tracing::info!(socket = %address, "milter closed");
            }
            stays
        });
        // The transport first: a verdict must not come to a pipeline that is older than the one that wrote it.
        self.transport.retain(|path, door| {
            let Some(service) = parts.services.get(path) else {
                tracing::info!(socket = %path.display(), connector = door.connector, "transport closed");
                return false;
            };
            door.service.store(Arc::clone(service));
            door.slots.set(limits.transport_connections);
            true
        });
        self.service.set_limits(limits);
        self.judge.store(Arc::clone(&parts.judge));
        for ready in new.0 {
            self.serve(ready, parts);
        }
    }

    fn serve(&mut self, ready: Ready, parts: &Parts) {
        let Ready { listen, purpose, address, listener, name } = ready;
        let (close, tasks) = (CancellationToken::new(), self.tasks.clone());
        let door = Door { close: close.clone(), _name: name };
        match (purpose, listen, listener) {
            (Purpose::Milter, listen, listener) => {
                tracing::info!(socket = %address, "milter listening");
                self.tasks.spawn(milter::serve(listener, Arc::clone(&self.service), close, tasks));
                self.milter.insert(listen, door);
            }
            (Purpose::Transport(connector), Listen::Unix(path), milter::Listener::Unix(listener)) => {
                let Some(service) = parts.services.get(&path) else { return };
                let Connector { endpoint, host, .. } = service.connector.as_ref();
                tracing::info!(
                    socket = %path.display(),
                    connector,
                    endpoint = endpoint.as_ref().map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port)),
                    host = host.as_ref().map(|host| format!("{}:{}", host.host, host.port)),
                    "transport listening"
                );
                let service = Arc::new(ArcSwap::new(Arc::clone(service)));
                let slots = Slots::new(parts.config.limits.transport_connections);
                let serving = lmtp::serve_within(slots.clone(), listener, Arc::clone(&service), close, tasks);
                self.tasks.spawn(serving);
                self.transport.insert(path, TransportDoor { connector, service, slots, _door: door });
            }
            // A transport has unix sockets only.
            (Purpose::Transport(_), ..) => {}
        }
    }
}
