//! What one configuration is made into: the pipeline and, for each connector with an endpoint, its relay. Immutable; a reload makes
//! new ones, in which all that did not change is carried over, and swaps them in.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::listeners::{delivery_socket, transport_socket};
use super::{privileges, state, watch};
use crate::attach::{exim, lmtp, lookup};
use crate::config::{Config, Connector};
use crate::credential::Logins;
use crate::delivery::TicketSystem;
use crate::inline::{Inline, Standing};
use crate::mail::{Budget, Spool};
use crate::pipeline::{Conversations, DeskSide, Pipeline, SiteKey};
use crate::relay::{Authorities, HandBack, Relay, RelayError};
use crate::store::Store;

/// The parts, put together.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) pipeline: Arc<Pipeline>,
    /// What the milter and Exim's ACLs ask: the pipeline, and the relays where mail is relayed before the queue.
    pub(super) judge: Arc<Inline>,
    /// By LMTP socket.
    pub(super) services: HashMap<PathBuf, Arc<lmtp::Service>>,
    /// What holds for Exim's requests; nobody may ask where there is no `[exim]`.
    pub(super) exim: exim::Settings,
    pub(super) spool: Spool,
    pub(super) site_key: SiteKey,
    /// Where the store is needed: see [`needs_store`].
    pub(super) credentials: Option<Credentials>,
    budget: Budget,
    standing: Arc<Standing>,
    remotes: Remotes,
}

/// What is served of issued credentials.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) logins: Arc<Logins>,
    pub(super) tables: Arc<lookup::Tables>,
    conversations: Arc<Conversations>,
}

/// The servers that connectors lead to, with their connections, by the connectors' names.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    /// Ticket endpoints.
    endpoints: HashMap<String, Arc<Relay>>,
    /// Company hosts.
    hosts: HashMap<String, Arc<lmtp::Desk>>,
    /// Ticket systems that take no SMTP.
    deliveries: HashMap<String, Arc<TicketSystem>>,
}

/// Why a connector leads nowhere.
#[derive(Debug)]
pub(super) struct NoRemote {
    pub(super) connector: String,
    /// Its file of certification authorities; `None` for the system's.
    pub(super) trusts: Option<PathBuf>,
    pub(super) problem: String,
}

impl Parts {
    /// The parts of a process that starts.
    ///
    /// # Errors
    /// All that is wrong.
    pub(super) fn first(config: Config, site_key: SiteKey) -> Result<Self, Vec<String>> {
        let (remotes, failed) = Remotes::new(&config, None, &HashSet::new());
        if !failed.is_empty() {
            return Err(failed.into_iter().map(|failed| failed.problem).collect());
        }
        let budget = Budget::new(config.limits.memory);
        let spool = Spool::new(state::spool_directory(&config.daemon.state_directory));
        let credentials = credentials(&config, &site_key, None, &HashSet::new()).map_err(|problem| vec![problem])?;
        let pipeline = Pipeline::new(&config, site_key.clone(), &budget).map_err(|problem| vec![problem])?;
        let pipeline = pipeline.with_desk(desk_side(&config, credentials.as_ref()));
        let standing = Standing::open(&config.daemon.state_directory);
        let parts = Self::assemble(config, Arc::new(pipeline), site_key, budget, standing, spool, remotes)?;
        Ok(Self { credentials, ..parts })
    }

    /// The parts of the next configuration; `changed` are the files whose content is another than when `self` was made.
    ///
    /// # Errors
    /// All that is wrong.
    pub(super) fn next(
        &self,
        config: Config,
        site_key: SiteKey,
        remotes: Remotes,
        changed: &HashSet<PathBuf>,
    ) -> Result<Self, Vec<String>> {
        let old = &self.config;
        let same_memory = config.limits.memory == old.limits.memory;
        let budget = if same_memory { self.budget.clone() } else { Budget::new(config.limits.memory) };
        let (before, after) = (&old.authentication, &config.authentication);
        let same_resolver = same_memory
            && config.daemon.hostname == old.daemon.hostname
            && before.name_servers == after.name_servers
            && before.dns_timeout == after.dns_timeout
            && before.max_signatures == after.max_signatures
            && !(after.name_servers.is_empty() && changed.contains(Path::new(watch::RESOLV_CONF)));
        let pipeline = self
            .pipeline
            .successor(&config, site_key.clone(), &budget, same_resolver)
            .map_err(|problem| vec![problem])?;
        let credentials = credentials(&config, &site_key, Some(self), changed).map_err(|problem| vec![problem])?;
        let pipeline = pipeline.with_desk(desk_side(&config, credentials.as_ref()));
        let (standing, spool) = (Arc::clone(&self.standing), self.spool.clone());
        let parts = Self::assemble(config, Arc::new(pipeline), site_key, budget, standing, spool, remotes)?;
        Ok(Self { credentials, ..parts })
    }

    /// The memory for messages that are verified.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The ticket endpoints, by connector.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&str, &Relay)> {
        self.remotes.endpoints.iter().map(|(name, relay)| (name.as_str(), relay.as_ref()))
    }

    /// The company hosts, by connector.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (&str, &lmtp::Desk)> {
        self.remotes.hosts.iter().map(|(name, desk)| (name.as_str(), desk.as_ref()))
    }

    /// The remote servers for `config`; see [`Remotes::new`].
    pub(super) fn remotes(&self, config: &Config, changed: &HashSet<PathBuf>) -> (Remotes, Vec<NoRemote>) {
        Remotes::new(config, Some(self), changed)
    }

    /// Has `remotes` lead the connector where it leads now, so far as they do not lead it anywhere.
    pub(super) fn keep_remote(&self, remotes: &mut Remotes, connector: &str) {
        if let Some(relay) = self.remotes.endpoints.get(connector) {
            remotes.endpoints.entry(connector.to_owned()).or_insert_with(|| Arc::clone(relay));
        }
        if let Some(desk) = self.remotes.hosts.get(connector) {
            remotes.hosts.entry(connector.to_owned()).or_insert_with(|| Arc::clone(desk));
        }
        if let Some(system) = self.remotes.deliveries.get(connector) {
            remotes.deliveries.entry(connector.to_owned()).or_insert_with(|| Arc::clone(system));
        }
    }

    /// Whether `remotes` has another way for the connector than there is now.
    pub(super) fn leads_elsewhere(&self, remotes: &Remotes, connector: &str) -> bool {
        let now = &self.remotes;
        differ(now.endpoints.get(connector), remotes.endpoints.get(connector))
            || differ(now.hosts.get(connector), remotes.hosts.get(connector))
            || differ(now.deliveries.get(connector), remotes.deliveries.get(connector))
    }

    /// All but the issued credentials, which depend on nothing here.
    fn assemble(
        config: Config,
        pipeline: Arc<Pipeline>,
        site_key: SiteKey,
        budget: Budget,
        standing: Arc<Standing>,
        spool: Spool,
        remotes: Remotes,
    ) -> Result<Self, Vec<String>> {
        let peers = uids("transport.peers", config.transport.iter().flat_map(|transport| &transport.peers))?;
        let service = config.exim.as_ref();
        let exim = exim::Settings {
            spool_directory: service.map(|service| service.spool_directory.clone()).unwrap_or_default(),
            peers: uids("exim.peers", service.iter().flat_map(|service| &service.peers))?,
            deadline: service.map(|service| service.deadline).unwrap_or_default(),
            queue_relays: config.transport.is_some(),
            message_size: config.limits.message_size,
            header_size: config.limits.header_size,
            connections: config.limits.milter_connections,
        };
        let ways = config.connectors.iter().flat_map(|connector| {
            let transport = remotes.way(connector, &pipeline, &config).zip(transport_socket(&config, connector));
            let delivery = remotes.ticket_system_of(connector, &config).zip(delivery_socket(&config, connector));
            [transport, delivery].into_iter().flatten().map(move |(way, path)| (connector, way, path))
        });
        let services = ways.map(|(connector, hand_over, path)| {
            let service = lmtp::Service {
                connector: Arc::clone(connector),
                hand_over,
                limits: config.limits.clone(),
                spool: spool.clone(),
                hostname: config.daemon.hostname.clone(),
                peers: peers.clone(),
                timeouts: lmtp::Timeouts::default(),
            };
            (path, Arc::new(service))
        });
        let services = services.collect();
        let judge = Arc::new(Inline::new(&config, Arc::clone(&pipeline), &remotes.endpoints, Arc::clone(&standing)));
        Ok(Self {
            pipeline,
            judge,
            services,
            exim,
            spool,
            site_key,
            credentials: None,
            budget,
            standing,
            remotes,
            config,
        })
    }
}

/// The numbers of the users that the setting `key` names.
fn uids<'n>(key: &str, names: impl Iterator<Item = &'n String>) -> Result<Vec<u32>, Vec<String>> {
    names
        .map(|name| privileges::find_user(name).map(|user| user.uid.as_raw()))
        .collect::<Result<_, _>>()
        .map_err(|problem| vec![format!("{key}: {problem}")])
}

/// Whether anything stands on the store: the check of logins, the tables, and the judging of mail on the desk side.
fn needs_store(config: &Config) -> bool {
    let judges = config.milter.is_some() || config.exim.is_some();
    let desk_side = config.connectors.iter().any(|connector| connector.desk.is_some());
    config.auth.is_some() || config.lookup.is_some() || (judges && desk_side)
}

/// What judges mail for the desk side.
fn desk_side(config: &Config, credentials: Option<&Credentials>) -> Option<DeskSide> {
    let Credentials { logins, conversations, .. } = credentials?;
    Some(DeskSide::new(&config.connectors, Arc::clone(logins), Arc::clone(conversations)))
}

/// What stands on the store, where it is needed. Those of `earlier` who use the same store are kept, with what they remember.
fn credentials(
    config: &Config,
    site_key: &SiteKey,
    earlier: Option<&Parts>,
    changed: &HashSet<PathBuf>,
) -> Result<Option<Credentials>, String> {
    if !needs_store(config) {
        return Ok(None);
    }
    let computations = |config: &Config| config.auth.as_ref().map_or(1, |auth| auth.computations);
    let kept = earlier.and_then(|earlier| Some((&earlier.config, earlier.credentials.as_ref()?)));
    let trust_changed = config.store.ca_file.as_ref().is_some_and(|file| changed.contains(file));
    let store = match kept {
        Some((before, kept)) if before.store == config.store && !trust_changed => Arc::clone(kept.logins.store()),
        _ => Arc::new(Store::new(&config.store)?),
    };
    let logins = match kept {
        Some((before, kept))
            if Arc::ptr_eq(kept.logins.store(), &store)
                && before.credentials == config.credentials
                && computations(before) == computations(config) =>
        {
            Arc::clone(&kept.logins)
        }
        _ => Logins::start(Arc::clone(&store), computations(config), config.credentials.overlap_warning)?,
    };
    // A ticket system's mail goes out by the sockets of the desk side alone.
    let desks = config.connectors.iter().filter(|connector| connector.host.is_some());
    let transports = desks.filter_map(|connector| {
        let transport = format!("lmtp:unix:{}", transport_socket(config, connector)?.display());
        Some(connector.addresses.iter().map(move |address| (address.clone(), transport.clone())))
    });
    let before = kept.map(|(_, kept)| kept.conversations.as_ref());
    let terms = config.conversations.clone();
    let conversations = Conversations::start(Arc::clone(&store), site_key.clone(), terms, before);
    let tables = lookup::Tables { store, transports: transports.flatten().collect() };
    Ok(Some(Credentials { logins, tables: Arc::new(tables), conversations }))
}

impl Remotes {
    /// One for each connector that leads to a server, and the connectors for which it cannot be made. Those of `earlier` are kept,
    /// with their open connections, where neither the server's section nor what it trusts has changed: connections that were made
    /// under other terms are never used again.
    fn new(config: &Config, earlier: Option<&Parts>, changed: &HashSet<PathBuf>) -> (Self, Vec<NoRemote>) {
        let (mut remotes, mut failed, mut authorities) = (Self::default(), Vec::new(), Authorities::default());
        let before: HashMap<&str, &Connector> = earlier
            .iter()
            .filter(|earlier| earlier.config.daemon.hostname == config.daemon.hostname)
            .flat_map(|earlier| &earlier.config.connectors)
            .map(|connector| (connector.name.as_str(), connector.as_ref()))
            .collect();
        let earlier = earlier.map(|earlier| &earlier.remotes);
        let hello = &config.daemon.hostname;
        let roots_changed = watch::system_roots().iter().any(|path| changed.contains(path));
        for connector in &config.connectors {
            let name = &connector.name;
            let before = before.get(name.as_str());
            let same_trust = |trusts: Option<&PathBuf>| !trusts.map_or(roots_changed, |file| changed.contains(file));
            let old = earlier.and_then(|earlier| earlier.deliveries.get(name));
            if let Some(delivery) = &connector.delivery {
                let trusts = delivery.trusts();
                let same_trust = trusts.is_none_or(same_trust);
                let kept = old.filter(|_| same_trust && before == Some(&connector.as_ref()));
                let made = kept.map_or_else(
                    || TicketSystem::new(connector, delivery, &mut authorities).map(Arc::new),
                    |kept| Ok(Arc::clone(kept)),
                );
                match made {
                    Ok(system) => {
                        remotes.deliveries.insert(name.clone(), system);
                    }
                    Err(error) => failed.push(NoRemote {
                        connector: name.clone(),
                        trusts: trusts.flatten().cloned(),
                        problem: format!("connector.{name}.delivery: {error}"),
                    }),
                }
            }
            let Some(trusts) = server_trusts(connector) else { continue };
            let same_trust = same_trust(trusts);
            let made = if let Some(endpoint) = &connector.endpoint {
                let kept = earlier
                    .filter(|_| same_trust && before.is_some_and(|before| before.endpoint.as_ref() == Some(endpoint)))
                    .and_then(|earlier| earlier.endpoints.get(name));
                let relay = kept.map_or_else(
                    || Relay::trusting(connector, endpoint, hello, &mut authorities).map(Arc::new),
                    |kept| Ok(Arc::clone(kept)),
                );
                relay
                    .map(|relay| {
                        remotes.endpoints.insert(name.clone(), relay);
                    })
                    .map_err(|error| format!("connector.{name}.endpoint: {error}"))
            } else if let Some(host) = &connector.host {
                let old = earlier.and_then(|earlier| earlier.hosts.get(name));
                let kept = old.filter(|_| same_trust && before == Some(&connector.as_ref()));
                let desk = kept.map_or_else(
                    || {
                        let desk = lmtp::Desk::new(connector, host, hello, &mut authorities)?;
                        Ok(Arc::new(match old {
                            Some(old) => desk.going_on_from(old),
                            None => desk,
                        }))
                    },
                    |kept| Ok(Arc::clone(kept)),
                );
                desk.map(|desk| {
                    remotes.hosts.insert(name.clone(), desk);
                })
                .map_err(|error: RelayError| format!("connector.{name}.host: {error}"))
            } else {
                Ok(())
            };
            if let Err(problem) = made {
                failed.push(NoRemote { connector: name.clone(), trusts: trusts.cloned(), problem });
            }
        }
        (remotes, failed)
    }

    /// Where mail for the connector's ticket system goes.
    fn ticket_system_of(&self, connector: &Connector, config: &Config) -> Option<lmtp::Way> {
        let system = Arc::clone(self.deliveries.get(&connector.name)?);
        Some(lmtp::Way::Delivery(lmtp::HandIn { system, hops: config.limits.hops }))
    }

    /// Where mail that comes to the connector's socket goes.
    fn way(&self, connector: &Connector, pipeline: &Arc<Pipeline>, config: &Config) -> Option<lmtp::Way> {
        if let Some(desk) = self.hosts.get(&connector.name) {
            let conversations = pipeline.desk().map(|desk| Arc::clone(desk.conversations()));
            return Some(lmtp::Way::Host(Arc::clone(desk), conversations));
        }
        let relay = self.endpoints.get(&connector.name)?;
        let rejected = connector.endpoint.as_ref().and_then(|endpoint| endpoint.rejected.as_ref());
        let hand_back = rejected.map(|rejected| Arc::new(HandBack::new(rejected, &config.daemon.hostname)));
        let (pipeline, relay) = (Arc::clone(pipeline), Arc::clone(relay));
        Some(lmtp::Way::Endpoint(lmtp::Route { pipeline, relay, hand_back }))
    }
}

/// The files of certification authorities that a connector's remote servers are checked by; `None` for the system's.
pub(super) fn trusts(connector: &Connector) -> impl Iterator<Item = Option<&PathBuf>> {
    let delivery = connector.delivery.as_ref().and_then(|delivery| delivery.trusts());
    server_trusts(connector).into_iter().chain(delivery)
}

/// That of its endpoint or host; `None` within for the system's, `None` where there is no such server.
fn server_trusts(connector: &Connector) -> Option<Option<&PathBuf>> {
    let endpoint = connector.endpoint.as_ref().map(|endpoint| endpoint.ca_file.as_ref());
    endpoint.or_else(|| connector.host.as_ref().map(|host| host.ca_file.as_ref()))
}

fn differ<T>(old: Option<&Arc<T>>, new: Option<&Arc<T>>) -> bool {
    matches!((old, new), (Some(old), Some(new)) if !Arc::ptr_eq(old, new))
}
