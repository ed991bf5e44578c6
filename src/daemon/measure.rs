//! What the daemon tells of this moment: how full, how old, whether it does what it should.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::bind::Mark;
use super::parts::Parts;
use crate::attach::slots::Slots;
use crate::config::Config;
use crate::relay::Connections;
use crate::status::list::{
    ARGON2_RUNNING, ARGON2_WAITING, CERTIFICATE_EXPIRY, CONFIGURATION_FAILED, CONFIGURATION_LOADED, CONNECTORS,
    CREDENTIAL_OLDEST, CREDENTIALS_LIVE, CREDENTIALS_OVERLAPPING, ENDPOINT_DOWN, INLINE_RELAYS, INLINE_RELAYS_LIMIT,
    KEY_CHANGED, MEMORY_LIMIT, MEMORY_USED, MEMORY_WAITING, PASSWORD_CHANGED, RELAY_CONNECTIONS,
    RELAY_CONNECTIONS_LIMIT, RELAY_WAITING, SESSIONS, SESSIONS_LIMIT, SOCKETS, STORE_UP,
};
use crate::status::{Board, Counting, Readiness, Source};

/// Connectors whose counters appear before the first message, at most: of thousands most have none for long.
const EXPECTED_MAX: usize = 200;

/// The connections of one service.
#[derive(Debug, Clone)]
pub(super) struct Served {
    /// `milter`, `exim`, `lmtp`, `auth`, `lookup`.
    pub(super) service: &'static str,
    /// Of LMTP.
    pub(super) connector: String,
    pub(super) slots: Slots,
    /// The names of its unix sockets; `None` for a port, which cannot be taken away.
    pub(super) names: Vec<Option<Mark>>,
}

/// What is in force, for whoever looks from outside.
#[derive(Debug, Default)]
pub(super) struct View {
    now: Mutex<Option<InForce>>,
    reload_failed: AtomicBool,
}

#[derive(Debug, Clone)]
struct InForce {
    parts: Arc<Parts>,
    served: Arc<Vec<Served>>,
    loaded: SystemTime,
}

impl View {
    /// From now on `parts` are in force, on the sockets of `served`. A reload has read the configuration anew; replaced files have not.
    pub(super) fn show(&self, parts: &Arc<Parts>, served: Vec<Served>, is_reload: bool) {
        let mut now = self.lock();
        let before = now.as_ref().filter(|_| !is_reload).map(|before| before.loaded);
        let loaded = before.unwrap_or_else(SystemTime::now);
        *now = Some(InForce { parts: Arc::clone(parts), served: Arc::new(served), loaded });
    }

    /// Nothing is in force any more: the process ends.
    pub(super) fn hide(&self) {
        *self.lock() = None;
    }

    /// How the last reload ended.
    pub(super) fn reloaded(&self, good: bool) {
        self.reload_failed.store(!good, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Option<InForce>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the counters of all connectors appear.
pub(super) fn expect(board: &Board, config: &Config) {
    let services = [("milter", config.milter.is_some()), ("exim", config.exim.is_some())];
    let attachments: Vec<&str> = services.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
    for connector in config.connectors.iter().take(EXPECTED_MAX) {
        let mode = if connector.inline_endpoint().is_some() { "inline" } else { "transport" };
        Counting::expect(board, &connector.name, mode, &attachments);
    }
}

impl Source for View {
    fn measure(&self, board: &Board) {
        board.set(&CONFIGURATION_FAILED, &[], flag(self.reload_failed.load(Ordering::Relaxed)));
        let Some(InForce { parts, served, loaded }) = self.lock().clone() else { return };
        board.set(&CONFIGURATION_LOADED, &[], seconds(loaded));
        board.set(&CONNECTORS, &[], count(parts.config.connectors.len()));
        sessions(board, &served);
        board.set(&MEMORY_USED, &[], parts.budget().in_use() as f64);
        board.set(&MEMORY_LIMIT, &[], parts.budget().total() as f64);
        board.set(&MEMORY_WAITING, &[], count(parts.budget().waiting()));
        remotes(board, &parts);
        credentials(board, &parts);
        files(board, &parts.config);
    }

    fn readiness(&self) -> Readiness {
        let mut readiness = Readiness::default();
        if self.reload_failed.load(Ordering::Relaxed) {
            readiness.degraded.push("the last reload was refused; an earlier configuration is in force".to_owned());
        }
        let Some(InForce { parts, served, .. }) = self.lock().clone() else {
            readiness.failed.push("starting or ending".to_owned());
            return readiness;
        };
        for mark in served.iter().flat_map(|served| &served.names).flatten().filter(|mark| !mark.leads_here()) {
            readiness.failed.push(format!("unix:{} is gone; reload to make it anew", mark.path().display()));
        }
        let store = parts.credentials.as_ref().map(|credentials| credentials.logins.at_present().store_up);
        if store == Some(Some(false)) {
            let text = "the store is away: logins of the last minute are right, others are put off";
            readiness.degraded.push(text.to_owned());
        }
        for (connector, _) in parts.judge.endpoints().filter(|(_, is_down)| *is_down) {
            readiness.degraded.push(format!("connector {connector}: its endpoint does not answer"));
        }
        readiness
    }
}

fn sessions(board: &Board, served: &[Served]) {
    let (mut open, mut lost) = (0, 0);
    for Served { service, connector, slots, names } in served {
        board.set(&SESSIONS, &[service, connector], count(slots.in_use()));
        board.set(&SESSIONS_LIMIT, &[service, connector], count(slots.limit()));
        open += names.len();
        lost += names.iter().flatten().filter(|mark| !mark.leads_here()).count();
    }
    board.set(&SOCKETS, &["open"], count(open));
    board.set(&SOCKETS, &["lost"], count(lost));
}

fn remotes(board: &Board, parts: &Parts) {
    let endpoints = parts.endpoints().map(|(name, relay)| (name, relay.connections(), relay.certificate_expiry()));
    let hosts = parts.hosts().map(|(name, desk)| (name, desk.connections(), desk.certificate_expiry()));
    for (name, Connections { busy, idle, waiting, limit }, expiry) in endpoints.chain(hosts) {
        board.set(&RELAY_CONNECTIONS, &[name, "busy"], count(busy));
        board.set(&RELAY_CONNECTIONS, &[name, "idle"], count(idle));
        board.set(&RELAY_WAITING, &[name], count(waiting));
        board.set(&RELAY_CONNECTIONS_LIMIT, &[name], count(limit));
        if let Some(expiry) = expiry {
            board.set(&CERTIFICATE_EXPIRY, &[name], expiry as f64);
        }
    }
    let (under_way, most) = parts.judge.under_way();
    board.set(&INLINE_RELAYS, &[], count(under_way));
    board.set(&INLINE_RELAYS_LIMIT, &[], count(most));
    parts.judge.endpoints().for_each(|(name, is_down)| board.set(&ENDPOINT_DOWN, &[name], flag(is_down)));
}

fn credentials(board: &Board, parts: &Parts) {
    let Some(credentials) = &parts.credentials else { return };
    let standing = credentials.logins.at_present();
    board.set(&ARGON2_RUNNING, &[], count(standing.running));
    board.set(&ARGON2_WAITING, &[], count(standing.waiting));
    if let Some(up) = standing.store_up {
        board.set(&STORE_UP, &[], flag(up));
    }
    board.set(&CREDENTIALS_LIVE, &[], count(standing.live));
    board.set(&CREDENTIALS_OVERLAPPING, &[], count(standing.overlapping));
    if let Some(oldest) = standing.oldest {
        board.set(&CREDENTIAL_OLDEST, &[], oldest as f64);
    }
}

/// The ages of secrets are those of their files.
fn files(board: &Board, config: &Config) {
    let written = |path: &Path| fs::metadata(path).and_then(|facts| facts.modified()).ok().map(seconds);
    for connector in &config.connectors {
        for (index, file) in connector.password_files().enumerate() {
            if let Some(written) = written(file.path()) {
                // Those of a company host belong to an address each and do not take turns.
                let host = if connector.host.is_some() { "host" } else { "" };
                let set = format!("{host}{}", index.saturating_add(1));
                board.set(&PASSWORD_CHANGED, &[&connector.name, &set], written);
            }
        }
    }
    let of_connectors = config.connectors.iter().flat_map(|connector| {
        connector.dkim.iter().map(|key| (connector.domain.as_str(), key.selector.as_str(), key.key_file.path()))
    });
    let others = config.signing.iter();
    let others = others.map(|key| (key.domain.as_str(), key.selector.as_str(), key.key_file.path()));
    for (domain, selector, path) in of_connectors.chain(others) {
        if let Some(written) = written(path) {
            board.set(&KEY_CHANGED, &[domain, selector], written);
        }
    }
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

fn count(number: usize) -> f64 {
    number as f64
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
