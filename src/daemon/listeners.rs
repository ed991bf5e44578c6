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
use super::parts::{Credentials, Parts};
use crate::attach::slots::Slots;
use crate::attach::{accept, lmtp, lookup, milter, sasl};
use crate::config::{Config, Connector, Listen};
use crate::credential::Logins;
use crate::pipeline::Pipeline;

/// Where the LMTP socket of a connector is; `None` where nothing is relayed to an endpoint.
pub(super) fn transport_socket(config: &Config, connector: &Connector) -> Option<PathBuf> {
    let service = config.transport.as_ref()?;
    connector.endpoint.as_ref()?;
    Some(service.directory.join(format!("{}.sock", connector.name)))
}

/// What a socket is for.
#[derive(Debug)]
enum Purpose {
    Milter,
    /// LMTP for the connector of that name.
    Transport(String),
    Auth,
    Lookup,
}

/// Bound sockets that nobody serves yet. Dropping them takes them back.
#[derive(Debug, Default)]
pub(super) struct Sockets(Vec<(Listen, Purpose, Socket)>);

impl Sockets {
    /// Binds everything that `config` names and that is not among `open`.
    ///
    /// # Errors
    /// Every one that cannot be bound, and what to do.
    pub(super) fn bind(config: &Config, user: Option<&User>, open: &HashSet<Listen>) -> Result<Self, Vec<String>> {
        let (mut sockets, mut problems) = (Vec::new(), Vec::new());
        let mut add = |listen: Listen, purpose, access| {
            if open.contains(&listen) {
                return;
            }
            match Socket::bind(&listen, access, user) {
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
        for listen in config.auth.iter().flat_map(|auth| &auth.listen) {
            let Some(service) = &config.auth else { continue };
            add(listen.clone(), Purpose::Auth, &service.access);
        }
        for listen in config.lookup.iter().flat_map(|lookup| &lookup.listen) {
            let Some(service) = &config.lookup else { continue };
            add(listen.clone(), Purpose::Lookup, &service.access);
        }
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

/// The sockets of `[auth]` and `[lookup]`, and what they serve.
#[derive(Debug)]
struct CredentialDoors {
    logins: Arc<ArcSwap<Logins>>,
    tables: Arc<ArcSwap<lookup::Tables>>,
    auth: HashMap<Listen, Door>,
    lookup: HashMap<Listen, Door>,
    auth_slots: Slots,
    lookup_slots: Slots,
}

impl CredentialDoors {
    fn new(credentials: &Credentials) -> Self {
        Self {
            logins: Arc::new(ArcSwap::new(Arc::clone(&credentials.logins))),
            tables: Arc::new(ArcSwap::new(Arc::clone(&credentials.tables))),
            auth: HashMap::new(),
            lookup: HashMap::new(),
            auth_slots: Slots::new(sasl::CONNECTIONS_MAX),
            lookup_slots: Slots::new(lookup::CONNECTIONS_MAX),
        }
    }

    /// Serves `credentials` from here on, and closes what `config` does not name.
    fn swap(&mut self, credentials: &Credentials, config: &Config) {
        self.logins.store(Arc::clone(&credentials.logins));
        self.tables.store(Arc::clone(&credentials.tables));
        let auth: HashSet<&Listen> = config.auth.iter().flat_map(|service| &service.listen).collect();
        let lookup: HashSet<&Listen> = config.lookup.iter().flat_map(|service| &service.listen).collect();
        for (doors, listen, what) in [(&mut self.auth, auth, "auth"), (&mut self.lookup, lookup, "lookup")] {
            doors.retain(|address, _| {
                let stays = listen.contains(address);
                if !stays {
                    tracing::info!(socket = %address, "{what} closed");
                }
                stays
            });
        }
    }
}

/// Everything that is served. Dropping it closes everything.
#[derive(Debug)]
pub(super) struct Listeners {
    pipeline: Arc<ArcSwap<Pipeline>>,
    service: Arc<milter::Service<Pipeline>>,
    milter: HashMap<Listen, Door>,
    transport: HashMap<PathBuf, TransportDoor>,
    credentials: Option<CredentialDoors>,
    tasks: TaskTracker,
}

impl Listeners {
    /// Nothing is open yet; all connections will be in `tasks`.
    pub(super) fn new(parts: &Parts, tasks: TaskTracker) -> Self {
        let pipeline = Arc::new(ArcSwap::new(Arc::clone(&parts.pipeline)));
        let service = milter::Service::new(Arc::clone(&pipeline), parts.spool.clone(), &parts.config.limits);
        Self {
            pipeline,
            service: Arc::new(service),
            milter: HashMap::new(),
            transport: HashMap::new(),
            credentials: None,
            tasks,
        }
    }

    /// What is open, as configured.
    pub(super) fn open(&self) -> HashSet<Listen> {
        let doors = self.credentials.iter();
        let credentials = doors.flat_map(|doors| doors.auth.keys().chain(doors.lookup.keys())).cloned();
        let transport = self.transport.keys().cloned().map(Listen::Unix);
        self.milter.keys().cloned().chain(transport).chain(credentials).collect()
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
        self.pipeline.store(Arc::clone(&parts.pipeline));
        match &parts.credentials {
            None => self.credentials = None,
            Some(credentials) => {
                let doors = self.credentials.get_or_insert_with(|| CredentialDoors::new(credentials));
                doors.swap(credentials, &parts.config);
            }
        }
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
                let endpoint = service.connector.endpoint.as_ref();
                tracing::info!(
                    socket = %path.display(),
                    connector,
                    endpoint = endpoint.map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port)),
                    "transport listening"
                );
                let service = Arc::new(ArcSwap::new(Arc::clone(service)));
                let slots = Slots::new(parts.config.limits.transport_connections);
                let serving = lmtp::serve_within(slots.clone(), listener, Arc::clone(&service), close, tasks);
                self.tasks.spawn(serving);
                self.transport.insert(path, TransportDoor { connector, service, slots, _door: door });
            }
            (Purpose::Auth, listen, listener) => {
                let Some(doors) = &mut self.credentials else { return };
                tracing::info!(socket = %address, "auth listening");
                let (slots, logins) = (doors.auth_slots.clone(), Arc::clone(&doors.logins));
                self.tasks.spawn(sasl::serve(plain(listener), slots, logins, close, tasks));
                doors.auth.insert(listen, door);
            }
            (Purpose::Lookup, listen, listener) => {
                let Some(doors) = &mut self.credentials else { return };
                tracing::info!(socket = %address, "lookup listening");
                let (slots, tables) = (doors.lookup_slots.clone(), Arc::clone(&doors.tables));
                self.tasks.spawn(lookup::serve(plain(listener), slots, tables, close, tasks));
                doors.lookup.insert(listen, door);
            }
            // A transport has unix sockets only.
            (Purpose::Transport(_), ..) => {}
        }
    }
}

fn plain(listener: milter::Listener) -> accept::Listener {
    match listener {
        milter::Listener::Unix(listener) => accept::Listener::Unix(listener),
        milter::Listener::Tcp(listener) => accept::Listener::Tcp(listener),
    }
}
