//! What one configuration is made into: the pipeline and, for each connector with an endpoint, its relay. Immutable; a reload makes
//! new ones, in which all that did not change is carried over, and swaps them in.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::listeners::transport_socket;
use super::{privileges, state, watch};
use crate::attach::{lmtp, lookup};
use crate::config::{Config, Connector, Endpoint};
use crate::credential::Logins;
use crate::mail::{Budget, Spool};
use crate::pipeline::{Pipeline, SiteKey};
use crate::relay::Relay;
use crate::store::Store;

/// The parts, put together.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) pipeline: Arc<Pipeline>,
    /// By LMTP socket.
    pub(super) services: HashMap<PathBuf, Arc<lmtp::Service>>,
    pub(super) spool: Spool,
    pub(super) site_key: SiteKey,
    /// Where `[auth]` or `[lookup]` is configured.
    pub(super) credentials: Option<Credentials>,
    budget: Budget,
    /// By connector.
    relays: Relays,
}

/// What is served of issued credentials.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) logins: Arc<Logins>,
    pub(super) tables: Arc<lookup::Tables>,
}

/// Relays by their connectors' names.
pub(super) type Relays = HashMap<String, Arc<Relay>>;

/// Why a connector has no relay.
#[derive(Debug)]
pub(super) struct NoRelay {
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
        let (relays, failed) = relays(&config, None, &HashSet::new());
        if !failed.is_empty() {
            return Err(failed.into_iter().map(|failed| failed.problem).collect());
        }
        let budget = Budget::new(config.limits.memory);
        let spool = Spool::new(state::spool_directory(&config.daemon.state_directory));
        let pipeline = Pipeline::new(&config, site_key.clone(), &budget).map_err(|problem| vec![problem])?;
        let credentials = credentials(&config, None, &HashSet::new()).map_err(|problem| vec![problem])?;
        Self::assemble(config, Arc::new(pipeline), site_key, budget, spool, relays, credentials)
    }

    /// The parts of the next configuration; `changed` are the files whose content is another than when `self` was made.
    ///
    /// # Errors
    /// All that is wrong.
    pub(super) fn next(
        &self,
        config: Config,
        site_key: SiteKey,
        relays: Relays,
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
        let credentials = credentials(&config, Some(self), changed).map_err(|problem| vec![problem])?;
        Self::assemble(config, Arc::new(pipeline), site_key, budget, self.spool.clone(), relays, credentials)
    }

    /// The relays for `config`; see [`relays`].
    pub(super) fn relays(&self, config: &Config, changed: &HashSet<PathBuf>) -> (Relays, Vec<NoRelay>) {
        relays(config, Some(self), changed)
    }

    /// The relay of a connector.
    pub(super) fn relay(&self, connector: &str) -> Option<&Arc<Relay>> {
        self.relays.get(connector)
    }

    fn assemble(
        config: Config,
        pipeline: Arc<Pipeline>,
        site_key: SiteKey,
        budget: Budget,
        spool: Spool,
        relays: Relays,
        credentials: Option<Credentials>,
    ) -> Result<Self, Vec<String>> {
        let peers = config.transport.iter().flat_map(|transport| &transport.peers);
        let peers: Vec<u32> = peers
            .map(|name| privileges::find_user(name).map(|user| user.uid.as_raw()))
            .collect::<Result<_, _>>()
            .map_err(|problem| vec![format!("transport.peers: {problem}")])?;
        let services = config.connectors.iter().filter_map(|connector| {
            let relay = relays.get(&connector.name)?;
            let service = lmtp::Service {
                connector: Arc::clone(connector),
                hand_over: lmtp::Route { pipeline: Arc::clone(&pipeline), relay: Arc::clone(relay) },
                limits: config.limits.clone(),
                spool: spool.clone(),
                hostname: config.daemon.hostname.clone(),
                peers: peers.clone(),
                timeouts: lmtp::Timeouts::default(),
            };
            Some((transport_socket(&config, connector)?, Arc::new(service)))
        });
        let services = services.collect();
        Ok(Self { pipeline, services, spool, site_key, credentials, budget, relays, config })
    }
}

/// The check of logins and the tables, where they are configured. Those of `earlier` who use the same store are kept, with what they
/// remember.
fn credentials(
    config: &Config,
    earlier: Option<&Parts>,
    changed: &HashSet<PathBuf>,
) -> Result<Option<Credentials>, String> {
    if config.auth.is_none() && config.lookup.is_none() {
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
    let transports = config.connectors.iter().filter_map(|connector| {
        let transport = format!("lmtp:unix:{}", transport_socket(config, connector)?.display());
        Some(connector.addresses.iter().map(move |address| (address.clone(), transport.clone())))
    });
    let tables = lookup::Tables { store, transports: transports.flatten().collect() };
    Ok(Some(Credentials { logins, tables: Arc::new(tables) }))
}

/// A relay for each connector with an endpoint, and the connectors whose relay cannot be made. Those of `earlier` are kept, with
/// their open connections, where neither the endpoint nor what it trusts has changed: connections that were made under other
/// terms are never used again.
fn relays(config: &Config, earlier: Option<&Parts>, changed: &HashSet<PathBuf>) -> (Relays, Vec<NoRelay>) {
    let (mut relays, mut failed) = (HashMap::new(), Vec::new());
    let before: HashMap<&str, &Endpoint> = earlier
        .iter()
        .filter(|earlier| earlier.config.daemon.hostname == config.daemon.hostname)
        .flat_map(|earlier| &earlier.config.connectors)
        .filter_map(|connector| Some((connector.name.as_str(), connector.endpoint.as_ref()?)))
        .collect();
    let roots_changed = watch::system_roots().iter().any(|path| changed.contains(path));
    for connector in &config.connectors {
        let Connector { name, endpoint: Some(endpoint), .. } = connector.as_ref() else { continue };
        let trust_changed = endpoint.ca_file.as_ref().map_or(roots_changed, |file| changed.contains(file));
        let kept = earlier
            .filter(|_| before.get(name.as_str()) == Some(&endpoint) && !trust_changed)
            .and_then(|earlier| earlier.relay(name));
        let relay = match kept {
            Some(relay) => Ok(Arc::clone(relay)),
            None => Relay::new(connector, endpoint, &config.daemon.hostname).map(Arc::new),
        };
        match relay {
            Ok(relay) => {
                relays.insert(name.clone(), relay);
            }
            Err(error) => {
                let problem = format!("connector.{name}.endpoint: {error}");
                failed.push(NoRelay { connector: name.clone(), trusts: endpoint.ca_file.clone(), problem });
            }
        }
    }
    (relays, failed)
}
