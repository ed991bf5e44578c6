//! Is this login right? The one place that says so, for every protocol in which it is asked.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::cache::{Cache, Digest, Digests};
use super::delays::{Client, Delays};
use super::issued::{Issued, Standing};
use super::{Binding, Credential, UserName, hash, overlaps};
use crate::config::Secret;
use crate::mail::{Domain, Waiting};
use crate::store::{Store, StoreError, now};

/// Octets of a password at most; ours have 31.
const PASSWORD_MAX: usize = 1_024;
/// Logins that wait for a computation, at most, for each computation at a time.
const WAITING_PER_COMPUTATION: usize = 32;
/// How long a login waits for a computation. With the delay before and the store after it stays below Postfix's 10 s.
const COMPUTATION_WAIT: Duration = Duration::from_secs(3);
/// How often the store is asked whether it has changed. A revocation counts within a second everywhere.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often a binding with two old sets is told in the log.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// A login that is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The number of the set.
    pub credential: i64,
    /// The user name as it was issued.
    pub user: UserName,
    /// What the set is good for.
    pub binding: Binding,
}

/// Why a login is not right. For the log; the client learns none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No set was ever issued under that name.
    UnknownUser,
    /// All sets of that name are revoked.
    Revoked,
    /// The name has live sets, and this is the password of none.
    WrongPassword,
}

/// The word on a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is right.
    Accepted {
        /// Whose it is.
        accepted: Accepted,
        /// Whether it was right a moment ago already and was not computed again.
        cached: bool,
    },
    /// It is wrong.
    Refused(Refusal),
    /// Nobody can say now, for this reason: the MTA must be given a temporary failure.
    Unavailable(String),
}

/// Checks logins. Shared by all sessions; a reload keeps it while the store is the same.
#[derive(Debug)]
pub struct Logins {
    store: Arc<Store>,
    digests: Digests,
    cache: Mutex<Cache>,
    delays: Mutex<Delays>,
    /// What the store said at the last look.
    issued: Mutex<Issued>,
    computations: Arc<Semaphore>,
    /// Logins in line for a computation.
    waiting: Semaphore,
    computing: Arc<Gauge>,
    in_line: Arc<AtomicUsize>,
    sets: Mutex<Sets>,
}

impl Logins {
    /// Checks logins against `store`, with `computations` of Argon2 at a time, each with 19 MiB and a processor of its own.
    /// Watches the store until it is dropped. Must be called in a runtime.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn start(store: Arc<Store>, computations: usize, overlap_warning: Duration) -> Result<Arc<Self>, String> {
        let logins = Arc::new(Self {
            store,
            digests: Digests::new()?,
            cache: Mutex::default(),
            delays: Mutex::default(),
            issued: Mutex::default(),
            computations: Arc::new(Semaphore::new(computations.max(1))),
            waiting: Semaphore::new(computations.max(1).saturating_mul(WAITING_PER_COMPUTATION)),
            computing: Arc::default(),
            in_line: Arc::default(),
            sets: Mutex::default(),
        });
        hash::prepare();
        tokio::spawn(watch(Arc::downgrade(&logins), overlap_warning));
        Ok(logins)
    }

    /// The store behind.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What is known of a user name with which somebody has logged in. Asks nobody: the store is looked at four times a second, and
    /// what it said counts for a minute.
    pub fn standing(&self, user: &str) -> Standing {
        lock(&self.issued).standing(user, Instant::now())
    }

    /// Whether a set of that user name was ever issued.
    pub fn knows(&self, user: &str) -> bool {
        lock(&self.issued).knows(user)
    }

    /// Whether a set for `domain` or an address of it was ever issued.
    pub fn has_issued_for(&self, domain: &Domain) -> bool {
        lock(&self.issued).has_domain(domain)
    }

    /// How many computations there were at a time, at most, since the start.
    pub fn peak_computations(&self) -> usize {
        self.computing.peak.load(Ordering::Relaxed)
    }

    /// How things are at this moment.
    pub fn at_present(&self) -> AtPresent {
        let sets = lock(&self.sets);
        let long =
            |since: &&i64| u64::try_from(now().saturating_sub(**since)).is_ok_and(|age| age > sets.overlap_warning);
        AtPresent {
            running: self.computing.now.load(Ordering::Relaxed),
            waiting: self.in_line.load(Ordering::Relaxed),
            store_up: sets.store_up,
            live: sets.live,
            overlapping: sets.overlaps.iter().filter(long).count(),
            oldest: sets.oldest,
        }
    }

    /// Checks one login of a client at `address`. Takes some 9 s at most.
    pub async fn check(&self, user: &str, password: Secret, address: Option<IpAddr>) -> Outcome {
        let name = self.digests.of(&[user.as_bytes()]);
        let login = self.digests.of(&[user.as_bytes(), password.expose()]);
        if let Some(accepted) = self.remembered(&name, &login) {
            return Outcome::Accepted { accepted, cached: true };
        }
        let client = Client::new(address);
        let delay = lock(&self.delays).queue(client, name, Instant::now());
        match delay {
            Ok(delay) if delay.is_zero() => {}
            Ok(delay) => sleep(delay).await,
            Err(()) => return Outcome::Unavailable("too many failed logins of this client".to_owned()),
        }
        let outcome = self.compute(user, password, &name, &login).await;
        match &outcome {
            Outcome::Accepted { .. } => lock(&self.delays).succeeded(client, name, Instant::now()),
            Outcome::Refused(_) => lock(&self.delays).failed(client, name, Instant::now()),
            Outcome::Unavailable(_) => {}
        }
        outcome
    }

    fn remembered(&self, name: &Digest, login: &Digest) -> Option<Accepted> {
        lock(&self.cache).get(name, login, Instant::now())
    }

    async fn compute(&self, user: &str, password: Secret, name: &Digest, login: &Digest) -> Outcome {
        let busy = || Outcome::Unavailable("too many logins at once".to_owned());
        let Ok(_place) = self.waiting.try_acquire() else { return busy() };
        let waiting = Waiting::count(&self.in_line);
        let computation = timeout(COMPUTATION_WAIT, Arc::clone(&self.computations).acquire_owned()).await;
        drop(waiting);
        let Ok(Ok(computation)) = computation else { return busy() };
        // Of many that came at once with the same login the first one has done the work for all.
        if let Some(accepted) = self.remembered(name, login) {
            return Outcome::Accepted { accepted, cached: true };
        }
        let generation = lock(&self.cache).generation();
        let mut sets = match self.store.sets_of(user).await {
            Ok(sets) => sets,
            Err(error) => return Outcome::Unavailable(error.to_string()),
        };
        let known = !sets.is_empty();
        sets.retain(|(set, _)| set.revoked_at.is_none());
        let (sets, hashes): (Vec<Credential>, Vec<String>) = sets.into_iter().unzip();
        let checked_at = Instant::now();
        // Whatever is too long is of no set; that it is, is told by nothing but itself.
        let too_long = password.expose().len() > PASSWORD_MAX;
        let password = if too_long { Secret::new(Vec::new()) } else { password };
        let computing = Arc::clone(&self.computing);
        // The permit goes with the computation: it counts until that ends, also when nobody waits for it any more.
        let compute = move || {
            let position = computing.count(|| hash::position(password.expose(), &hashes));
            drop(computation);
            position
        };
        let position = tokio::task::spawn_blocking(compute).await;
        match position {
            Ok(Some(position)) if !too_long => {
                let Some(set) = sets.into_iter().nth(position) else { return Outcome::Refused(Refusal::WrongPassword) };
                let accepted = Accepted { credential: set.id, user: set.user, binding: set.binding };
                lock(&self.cache).insert(*name, *login, accepted.clone(), generation, checked_at);
                lock(&self.issued).learn(user, &accepted.binding);
                Outcome::Accepted { accepted, cached: false }
            }
            Ok(_) => Outcome::Refused(match (known, sets.is_empty()) {
                (false, _) => Refusal::UnknownUser,
                (true, true) => Refusal::Revoked,
                (true, false) => Refusal::WrongPassword,
            }),
            Err(error) => Outcome::Unavailable(format!("the computation failed: {error}")),
        }
    }
}

/// How the check of logins stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtPresent {
    /// Computations under way.
    pub running: usize,
    /// Logins in line for one.
    pub waiting: usize,
    /// The store has answered when it was asked last; `None` before that.
    pub store_up: Option<bool>,
    /// Live sets.
    pub live: usize,
    /// Bindings that have had two live sets for longer than they should.
    pub overlapping: usize,
    /// When the oldest live set was issued, in seconds since 1970.
    pub oldest: Option<i64>,
}

/// What was seen of the sets when the store was asked last.
#[derive(Debug, Default)]
struct Sets {
    store_up: Option<bool>,
    live: usize,
    oldest: Option<i64>,
    /// Since when each binding with two sets has had them, in seconds since 1970.
    overlaps: Vec<i64>,
    /// Seconds.
    overlap_warning: u64,
}

/// Counts what is under way, and remembers the highest count.
#[derive(Debug, Default)]
struct Gauge {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Gauge {
    /// Does `work`, counted.
    fn count<T>(&self, work: impl FnOnce() -> T) -> T {
        let count = self.now.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        self.peak.fetch_max(count, Ordering::Relaxed);
        let done = work();
        self.now.fetch_sub(1, Ordering::Relaxed);
        done
    }
}

impl Refusal {
    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownUser => "unknown-user",
            Self::Revoked => "revoked",
            Self::WrongPassword => "wrong-password",
        }
    }
}

/// Looks for changes of the store as long as anybody uses `logins`: what was revoked is forgotten, and what is too old is told.
async fn watch(logins: Weak<Logins>, overlap_warning: Duration) {
    let mut watched = Watched::default();
    loop {
        let Some(logins) = logins.upgrade() else { return };
        let store = Arc::clone(&logins.store);
        watched.look(&logins, overlap_warning).await;
        drop(logins);
        store.changed_within(LOOK_INTERVAL).await;
    }
}

/// What is known of the store.
#[derive(Debug, Default)]
struct Watched {
    revision: Option<i64>,
    away: bool,
    warned: Option<Instant>,
}

impl Watched {
    async fn look(&mut self, logins: &Logins, overlap_warning: Duration) {
        let looked = self.try_look(logins, overlap_warning).await;
        lock(&logins.sets).store_up = Some(looked.is_ok());
        match looked {
            Ok(()) if self.away => {
                self.away = false;
                tracing::info!(store = %logins.store, "the store is there again");
            }
            Err(error) if !self.away => {
                self.away = true;
                // What comes back may be an earlier copy whose number was used for something else.
                self.revision = None;
                tracing::error!(
                    store = %logins.store, %error,
                    "the store is away: logins that were right within the last minute still are, others are temporary failures"
                );
            }
            Ok(()) | Err(_) => {}
        }
    }

    async fn try_look(&mut self, logins: &Logins, overlap_warning: Duration) -> Result<(), StoreError> {
        let asked_at = Instant::now();
        let revision = logins.store.revision().await?;
        let changed = self.revision != Some(revision);
        let due = self.warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL);
        if !changed && !due {
            lock(&logins.issued).still_holds(asked_at);
            return Ok(());
        }
        let mut live = logins.store.list(true).await?;
        if changed {
            *lock(&logins.issued) = Issued::from_sets(&live, asked_at);
        } else {
            lock(&logins.issued).still_holds(asked_at);
        }
        live.retain(|set| set.revoked_at.is_none());
        if changed {
            let ids: HashSet<i64> = live.iter().map(|set| set.id).collect();
            lock(&logins.cache).retain(ids);
            let mut sets = lock(&logins.sets);
            sets.live = live.len();
            sets.oldest = live.iter().map(|set| set.issued_at).min();
            sets.overlaps = overlaps(&live).into_iter().map(|(_, since)| since).collect();
            sets.overlap_warning = overlap_warning.as_secs();
            drop(sets);
            self.revision = Some(revision);
        }
        if due {
            self.warned = Some(Instant::now());
            warn_of_overlaps(&live, overlap_warning);
        }
        Ok(())
    }
}

/// Tells of bindings that have had two live sets for longer than they should.
fn warn_of_overlaps(live: &[Credential], overlap_warning: Duration) {
    let now = now();
    for (binding, since) in overlaps(live) {
        let age = u64::try_from(now.saturating_sub(since)).unwrap_or(0);
        if age > overlap_warning.as_secs() {
            tracing::warn!(
                binding = %binding,
                days = age / 86_400,
                "two credential sets are live for longer than they should; revoke the old one when nobody uses it"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::Ipv4Addr;

    use crate::config::{StoreConfig, StoreUrl};
    use crate::mail::Domain;
    use crate::store::NewCredential;

    /// Logins of a store with one set, `acme` and `s3cret`.
    async fn logins(folder: &tempfile::TempDir, computations: usize) -> Arc<Logins> {
        let url = StoreUrl::Sqlite(folder.path().join("test.db"));
        let store = Arc::new(Store::new(&StoreConfig { url, password_file: None, ca_file: None }).unwrap());
        let binding = Binding::Domain(Domain::parse("acme.example").unwrap());
        let hash = crate::credential::hash(b"s3cret").unwrap();
        let user = UserName::parse("acme").unwrap();
        store.issue(NewCredential { binding, user, hash }, "test").await.unwrap();
        Logins::start(store, computations, Duration::from_secs(86_400)).unwrap()
    }

    fn from(n: u32) -> Option<IpAddr> {
        Some(Ipv4Addr::from(0x0a00_0000 + n).into())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_flood_of_right_and_wrong_logins_is_never_more_computations_at_a_time_than_allowed() {
        const LOGINS: u32 = 120;
        let folder = tempfile::tempdir().unwrap();
        let logins = logins(&folder, 2).await;
        let attempts: Vec<_> = (0..LOGINS)
            .map(|n| {
                let logins = Arc::clone(&logins);
                // From everywhere, so that no delay spares us anything; the right ones only until the first was right.
                let password = if n % 3 == 0 { "s3cret".to_owned() } else { format!("x{n}") };
                tokio::spawn(async move { (n, logins.check("acme", Secret::new(password.into()), from(n)).await) })
            })
            .collect();
        let (mut right, mut wrong, mut put_off) = (0, 0, 0);
        for attempt in attempts {
            match attempt.await.unwrap() {
                (n, Outcome::Accepted { .. }) if n % 3 == 0 => right += 1,
                (n, Outcome::Refused(Refusal::WrongPassword)) if n % 3 != 0 => wrong += 1,
                (_, Outcome::Unavailable(_)) => put_off += 1,
                (n, other) => panic!("{n}: {other:?}"),
            }
        }
        assert_eq!(right + wrong + put_off, LOGINS);
        assert!(right > 0 && wrong > 0, "{right} right, {wrong} wrong, {put_off} put off");
        assert_eq!(logins.peak_computations(), 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn more_logins_than_can_wait_are_told_to_come_again_and_not_that_they_are_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let logins = logins(&folder, 1).await;
        let attempts: Vec<_> = (0..200)
            .map(|n| {
                let logins = Arc::clone(&logins);
                tokio::spawn(async move { logins.check("nobody", Secret::new(b"x".to_vec()), from(n)).await })
            })
            .collect();
        let mut unavailable = 0;
        for attempt in attempts {
            match attempt.await.unwrap() {
                Outcome::Unavailable(_) => unavailable += 1,
                other => assert_eq!(other, Outcome::Refused(Refusal::UnknownUser)),
            }
        }
        assert!(unavailable >= 100, "{unavailable}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_who_come_at_once_with_the_same_login_cost_one_computation_each_processor() {
        let folder = tempfile::tempdir().unwrap();
        let logins = logins(&folder, 2).await;
        let attempts: Vec<_> = (0..40)
            .map(|n| {
                let logins = Arc::clone(&logins);
                tokio::spawn(async move { logins.check("acme", Secret::new(b"s3cret".to_vec()), from(n)).await })
            })
            .collect();
        let mut computed = 0;
        for attempt in attempts {
            match attempt.await.unwrap() {
                Outcome::Accepted { cached, .. } => computed += usize::from(!cached),
                other => panic!("{other:?}"),
            }
        }
        assert!((1..=4).contains(&computed), "{computed}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_comes_back_is_looked_at_anew_though_its_number_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let logins = logins(&folder, 2).await;
        let login = || logins.check("acme", Secret::new(b"s3cret".to_vec()), from(1));
        let store_is = async |up| {
            let wait = async {
                while logins.at_present().store_up != Some(up) {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(Duration::from_secs(20), wait).await.unwrap();
        };
        assert!(matches!(login().await, Outcome::Accepted { .. }));
        store_is(true).await;
        let (file, aside) = (folder.path().join("test.db"), folder.path().join("aside"));
        // So that it is whole without what SQLite keeps beside it.
        let whole = rusqlite::Connection::open(&file).unwrap();
        whole.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(whole);
        std::fs::rename(&file, &aside).unwrap();
        store_is(false).await;
        // Another copy, in which the last change was another.
        let copy = rusqlite::Connection::open(&aside).unwrap();
        copy.execute("UPDATE credential SET revoked_at = 1", []).unwrap();
        drop(copy);
        std::fs::rename(&aside, &file).unwrap();
        store_is(true).await;
        assert_eq!(login().await, Outcome::Refused(Refusal::Revoked));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_password_that_is_too_long_is_wrong_like_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let logins = logins(&folder, 2).await;
        let long = Secret::new(vec![b'x'; PASSWORD_MAX + 1]);
        assert_eq!(logins.check("acme", long, None).await, Outcome::Refused(Refusal::WrongPassword));
    }
}
