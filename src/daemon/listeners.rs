//! Everything we listen on: bound for a configuration, opened, kept open over reloads, closed.

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::unistd::User;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bind::{Access, Mark, Name, Socket};
use super::measure::Served;
use super::parts::{Credentials, Parts};
use super::passed::Passed;
use crate::attach::slots::Slots;
use crate::attach::{accept, exim, lmtp, lookup, milter, sasl};
use crate::config::{Config, Connector, Listen};
use crate::credential::Logins;
use crate::inline::Inline;
use crate::status::{self, Status};

/// Sockets that are told one by one in the log, at most; more of them are told in one line.
const TOLD_MAX: usize = 20;

/// Sockets that a thread of its own is worth.
const SOCKETS_A_THREAD: usize = 256;

/// Where the LMTP socket of a connector is; `None` where nothing is relayed to a server.
pub(super) fn transport_socket(config: &Config, connector: &Connector) -> Option<PathBuf> {
    let service = config.transport.as_ref()?;
    if connector.endpoint.is_none() && connector.host.is_none() {
        return None;
    }
    Some(service.directory.join(format!("{}.sock", connector.name)))
}

/// Where the LMTP socket is that leads into a connector's ticket system; `None` where none does. No connector's name holds a dot.
pub(super) fn delivery_socket(config: &Config, connector: &Connector) -> Option<PathBuf> {
    connector.delivery.as_ref()?;
    Some(config.transport.as_ref()?.directory.join(format!("{}.delivery.sock", connector.name)))
}

/// All LMTP sockets.
fn lmtp_sockets(config: &Config) -> impl Iterator<Item = (&Connector, PathBuf)> {
    config.connectors.iter().flat_map(|connector| {
        let sockets = [transport_socket(config, connector), delivery_socket(config, connector)];
        sockets.into_iter().flatten().map(|path| (connector.as_ref(), path))
    })
}

/// What a socket is for.
#[derive(Debug)]
enum Purpose {
    Milter,
    Exim,
    /// LMTP for the connector of that name.
    Transport(String),
    Auth,
    Lookup,
    Metrics,
}

/// Bound sockets that nobody serves yet. Dropping them takes them back.
#[derive(Debug, Default)]
pub(super) struct Sockets(Vec<(Listen, Purpose, Socket)>);

impl Sockets {
    /// How many `config` names.
    pub(super) fn count(config: &Config) -> usize {
        Self::named(config).count()
    }

    /// Everything that `config` names.
    pub(super) fn named(config: &Config) -> impl Iterator<Item = Listen> {
        Self::by_section(config).map(|(listen, _)| listen)
    }

    /// The same, with the section that names it.
    fn by_section(config: &Config) -> impl Iterator<Item = (Listen, &'static str)> {
        let transport = lmtp_sockets(config).map(|(_, path)| (Listen::Unix(path), "transport"));
        let lists = [
            ("milter", config.milter.as_ref().map(|service| &service.listen)),
            ("exim", config.exim.as_ref().map(|service| &service.listen)),
            ("auth", config.auth.as_ref().map(|service| &service.listen)),
            ("lookup", config.lookup.as_ref().map(|service| &service.listen)),
            ("metrics", config.metrics.as_ref().map(|service| &service.listen)),
        ];
        let others = lists
            .into_iter()
            .flat_map(|(section, list)| list.into_iter().flatten().map(move |listen| (listen.clone(), section)));
        others.chain(transport)
    }

    /// What is wrong with `new` for a process that serves `old`: a socket that is open serves its section to the end.
    pub(super) fn moved(old: &Config, new: &Config) -> Vec<String> {
        let open: HashMap<Listen, &str> = Self::by_section(old).collect();
        let moved = Self::by_section(new).filter_map(|(listen, section)| {
            let other = open.get(&listen).filter(|other| **other != section)?;
            // Port 0 is another one each time.
            let is_one = !matches!(&listen, Listen::Inet(address) if address.port() == 0);
            is_one.then(|| {
                format!("{listen} is open for [{other}], and a reload cannot give it to [{section}]; restart, or name another")
            })
        });
        moved.collect()
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
        let mut wanted: Vec<(Listen, Purpose, Access)> = Vec::new();
        if let Some(service) = &config.milter {
            let access = Access::new(&service.access, user).map_err(|problem| vec![problem])?;
            wanted.extend(service.listen.iter().map(|listen| (listen.clone(), Purpose::Milter, access)));
        }
        if let Some(service) = &config.exim {
            let access = Access::new(&service.access, user).map_err(|problem| vec![problem])?;
            wanted.extend(service.listen.iter().map(|listen| (listen.clone(), Purpose::Exim, access)));
        }
        if let Some(service) = &config.transport {
            let access = Access::new(&service.access, user).map_err(|problem| vec![problem])?;
            wanted.extend(
                lmtp_sockets(config)
                    .map(|(connector, path)| (Listen::Unix(path), Purpose::Transport(connector.name.clone()), access)),
            );
        }
        if let Some(service) = &config.auth {
            let access = Access::new(&service.access, user).map_err(|problem| vec![problem])?;
            wanted.extend(service.listen.iter().map(|listen| (listen.clone(), Purpose::Auth, access)));
        }
        if let Some(service) = &config.lookup {
            let access = Access::new(&service.access, user).map_err(|problem| vec![problem])?;
            wanted.extend(service.listen.iter().map(|listen| (listen.clone(), Purpose::Lookup, access)));
        }
        if let Some(service) = &config.metrics {
            let access = Access::new(&service.access, user).map_err(|problem| vec![problem])?;
            wanted.extend(service.listen.iter().map(|listen| (listen.clone(), Purpose::Metrics, access)));
        }
        wanted.retain(|(listen, ..)| !open.contains(listen));
        let (mut sockets, mut problems) = (Vec::with_capacity(wanted.len()), Vec::new());
        for bound in bind_all(wanted, passed) {
            match bound {
                Ok(socket) => sockets.push(socket),
                Err(problem) => problems.push(problem),
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

/// Binds them on all processors: each socket takes a dozen system calls.
fn bind_all(
    mut wanted: Vec<(Listen, Purpose, Access)>,
    passed: &Passed,
) -> Vec<Result<(Listen, Purpose, Socket), String>> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = wanted.len().div_ceil(processors).max(SOCKETS_A_THREAD);
    let bind = |share: Vec<(Listen, Purpose, Access)>| -> Vec<_> {
        let bound = share.into_iter().map(|(listen, purpose, access)| {
            let socket = passed.get(&listen).unwrap_or_else(|| Socket::bind(&listen, access))?;
            Ok((listen, purpose, socket))
        });
        bound.collect()
    };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        while wanted.len() > share {
            let last = wanted.split_off(wanted.len().saturating_sub(share));
            threads.push(scope.spawn(move || bind(last)));
        }
        let mut bound = bind(wanted);
        // The last share was split off first.
        for thread in threads.into_iter().rev() {
            bound.extend(thread.join().unwrap_or_else(|_| vec![Err("sockets could not be bound".to_owned())]));
        }
        bound
    })
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
    name: Option<Name>,
}

impl Door {
    /// Whether somebody can find it.
    fn can_be_found(&self) -> bool {
        self.name.as_ref().is_none_or(Name::leads_here)
    }

    fn mark(&self) -> Option<Mark> {
        self.name.as_ref().map(Name::mark)
    }
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
    door: Door,
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
    judge: Arc<ArcSwap<Inline>>,
    service: Arc<milter::Service<Inline>>,
    milter: HashMap<Listen, Door>,
    exim_service: Arc<exim::Service<Inline>>,
    exim: HashMap<Listen, Door>,
    transport: HashMap<PathBuf, TransportDoor>,
    credentials: Option<CredentialDoors>,
    status: Arc<Status>,
    metrics: HashMap<Listen, Door>,
    metrics_slots: Slots,
    tasks: TaskTracker,
}

impl Listeners {
    /// Nothing is open yet; all connections will be in `tasks`. What goes on at the end between two messages may go on for
    /// `linger`. `status` is what `[metrics]` tells.
    pub(super) fn new(parts: &Parts, tasks: TaskTracker, linger: Duration, status: Arc<Status>) -> Self {
        let judge = Arc::new(ArcSwap::new(Arc::clone(&parts.judge)));
        let service = milter::Service::new(Arc::clone(&judge), parts.spool.clone(), &parts.config.limits)
            .with_patience(milter::Patience { linger, ..milter::Patience::default() });
        let exim_service = exim::Service::new(Arc::clone(&judge), parts.spool.clone(), parts.exim.clone());
        Self {
            judge,
            service: Arc::new(service),
            milter: HashMap::new(),
            exim_service: Arc::new(exim_service),
            exim: HashMap::new(),
            transport: HashMap::new(),
            credentials: None,
            status,
            metrics: HashMap::new(),
            metrics_slots: Slots::new(status::CONNECTIONS_MAX),
            tasks,
        }
    }

    /// What is open, as configured. A socket whose name was removed is not: a reload makes it anew.
    pub(super) fn open(&self) -> HashSet<Listen> {
        let credentials = self.credentials.iter().flat_map(|doors| doors.auth.iter().chain(&doors.lookup));
        let others = self
            .milter
            .iter()
            .chain(&self.exim)
            .chain(&self.metrics)
            .chain(credentials)
            .filter(|(_, door)| door.can_be_found());
        let transport = self.transport.iter().filter(|(_, transport)| transport.door.can_be_found());
        let transport = transport.map(|(path, _)| Listen::Unix(path.clone()));
        others.map(|(listen, _)| listen.clone()).chain(transport).collect()
    }

    /// The services with their connections and sockets.
    pub(super) fn served(&self) -> Vec<Served> {
        let of = |service, slots: &Slots, doors: &HashMap<Listen, Door>| Served {
            service,
            connector: String::new(),
            slots: slots.clone(),
            names: doors.values().map(Door::mark).collect(),
        };
        let mut served = vec![
            of("milter", self.service.slots(), &self.milter),
            of("exim", self.exim_service.slots(), &self.exim),
            of("metrics", &self.metrics_slots, &self.metrics),
        ];
        if let Some(doors) = &self.credentials {
            served.push(of("auth", &doors.auth_slots, &doors.auth));
            served.push(of("lookup", &doors.lookup_slots, &doors.lookup));
        }
        served.retain(|served| !served.names.is_empty());
        served.extend(self.transport.values().map(|transport| Served {
            service: "lmtp",
            connector: transport.connector.clone(),
            slots: transport.slots.clone(),
            names: vec![transport.door.mark()],
        }));
        served
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
        let listen: HashSet<&Listen> = parts.config.exim.iter().flat_map(|service| &service.listen).collect();
        self.exim.retain(|address, _| {
            let stays = listen.contains(address);
            if !stays {
                tracing::info!(socket = %address, "exim closed");
            }
            stays
        });
        let listen: HashSet<&Listen> = parts.config.metrics.iter().flat_map(|service| &service.listen).collect();
        self.metrics.retain(|address, _| {
            let stays = listen.contains(address);
            if !stays {
                tracing::info!(socket = %address, "metrics closed");
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
        self.exim_service.set(parts.exim.clone());
        self.judge.store(Arc::clone(&parts.judge));
        match &parts.credentials {
            None => self.credentials = None,
            Some(credentials) => {
                let doors = self.credentials.get_or_insert_with(|| CredentialDoors::new(credentials));
                doors.swap(credentials, &parts.config);
            }
        }
        let each = new.0.len() <= TOLD_MAX;
        let before = self.transport.len();
        for ready in new.0 {
            self.serve(ready, parts, each);
        }
        if let (false, Some(service)) = (each, &parts.config.transport) {
            let sockets = self.transport.len().saturating_sub(before);
            tracing::info!(directory = %service.directory.display(), sockets, "transport listening");
        }
    }

    /// Opens one, and with `told` says where its mail goes.
    fn serve(&mut self, ready: Ready, parts: &Parts, told: bool) {
        let Ready { listen, purpose, address, listener, name } = ready;
        let (close, tasks) = (CancellationToken::new(), self.tasks.clone());
        let door = Door { close: close.clone(), name };
        match (purpose, listen, listener) {
            (Purpose::Milter, listen, listener) => {
                tracing::info!(socket = %address, "milter listening");
                self.tasks.spawn(milter::serve(listener, Arc::clone(&self.service), close, tasks));
                self.milter.insert(listen, door);
            }
            (Purpose::Exim, listen, milter::Listener::Unix(listener)) => {
                tracing::info!(socket = %address, "exim listening");
                self.tasks.spawn(exim::serve(listener, Arc::clone(&self.exim_service), close, tasks));
                self.exim.insert(listen, door);
            }
            (Purpose::Transport(connector), Listen::Unix(path), milter::Listener::Unix(listener)) => {
                let Some(service) = parts.services.get(&path) else { return };
                if told {
                    let Connector { endpoint, host, delivery, .. } = service.connector.as_ref();
                    let delivery = delivery.as_ref().filter(|_| matches!(service.hand_over, lmtp::Way::Delivery(_)));
                    let host = host.as_ref().filter(|_| delivery.is_none());
                    tracing::info!(
                        socket = %path.display(),
                        connector,
                        endpoint = endpoint.as_ref().map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port)),
                        host = host.map(|host| format!("{}:{}", host.host, host.port)),
                        delivery = delivery.map(ToString::to_string),
                        "transport listening"
                    );
                }
                let service = Arc::new(ArcSwap::new(Arc::clone(service)));
                let slots = Slots::new(parts.config.limits.transport_connections);
                let serving = lmtp::serve_within(slots.clone(), listener, Arc::clone(&service), close, tasks);
                self.tasks.spawn(serving);
                self.transport.insert(path, TransportDoor { connector, service, slots, door });
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
            (Purpose::Metrics, listen, listener) => {
                tracing::info!(socket = %address, "metrics listening");
                let (slots, status) = (self.metrics_slots.clone(), Arc::clone(&self.status));
                self.tasks.spawn(status::serve(plain(listener), slots, status, close, tasks));
                self.metrics.insert(listen, door);
            }
            // These have unix sockets only.
            (Purpose::Transport(_) | Purpose::Exim, ..) => {}
        }
    }
}

fn plain(listener: milter::Listener) -> accept::Listener {
    match listener {
        milter::Listener::Unix(listener) => accept::Listener::Unix(listener),
        milter::Listener::Tcp(listener) => accept::Listener::Tcp(listener),
    }
}
