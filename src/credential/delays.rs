//! Growing delays for those who guess.
//!
//! Each failure makes the next attempts of the same client wait, and those of the same client at the same login longer still.
//! Attempts stand in line: opening many connections at once gains nothing. A line is never longer than [`WAIT_MAX`]; who comes
//! then is sent away unheard, with a temporary failure.
//!
//! Nothing counts against a login as such, whoever tries it: else anybody on the internet could keep its owner out. Passwords are
//! random and of 138 bits, so that a login that is guessed at from many addresses is in no danger, and what that costs us is
//! bounded by the number of computations at a time. For the same reason a client from which a login has succeeded before waits for
//! that login's failures alone: a ticket system's own servers, which many customers share, are not held up by one of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::cache::Digest;

/// An attempt waits so long at most. Postfix waits 10 s for the answer, and the check itself comes after.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(4);
/// Failures at one login that cost nothing, a typing error say, and the delay after the next one, which then doubles.
const FREE_FAILURES: u32 = 2;
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// Failures of one client at any logins that cost nothing, and the delay after that, which then doubles up to the bound.
const FREE_FAILURES_OF_CLIENT: u32 = 20;
const FIRST_DELAY_OF_CLIENT: Duration = Duration::from_millis(100);
const DELAY_OF_CLIENT_MAX: Duration = Duration::from_secs(1);
/// Failures are forgotten after so long without another one; a success is remembered for so long.
const MEMORY: Duration = Duration::from_secs(15 * 60);
const SUCCESS_MEMORY: Duration = Duration::from_secs(24 * 3600);
/// Clients, and logins of clients, that are remembered. Each takes some 100 octets.
const ENTRIES_MAX: usize = 20_000;

/// Who tries: an IPv4 address, or an IPv6 network of 64 bits, which one customer of a provider has for himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client(Option<IpAddr>);

impl Client {
    pub(super) fn new(address: Option<IpAddr>) -> Self {
        Self(address.map(|address| match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
            address => address,
        }))
    }
}

/// The failures of the last while.
#[derive(Debug, Default)]
pub(super) struct Delays {
    clients: Table<Client>,
    /// By client and digest of the login: not its text, for some type their password there.
    logins: Table<(Client, Digest)>,
}

impl Delays {
    /// How long an attempt that comes at `now` has to wait, for which it then has a place in the line.
    ///
    /// # Errors
    /// The line is too long: the client has to come again.
    pub(super) fn queue(&mut self, client: Client, login: Digest, now: Instant) -> Result<Duration, ()> {
        let mut from = now;
        let own = self.logins.line(&(client, login), now, spacing);
        let known_good = self.logins.succeeded(&(client, login), now);
        let all = if known_good { None } else { self.clients.line(&client, now, spacing_of_client) };
        for (next, _) in own.iter().chain(&all) {
            from = from.max(*next);
        }
        let wait = from.saturating_duration_since(now);
        if wait > WAIT_MAX {
            return Err(());
        }
        if let Some((_, spacing)) = own {
            self.logins.take(&(client, login), from, spacing);
        }
        if let Some((_, spacing)) = all {
            self.clients.take(&client, from, spacing);
        }
        Ok(wait)
    }

    /// The login was right: its failures are forgiven, the client's others are not.
    pub(super) fn succeeded(&mut self, client: Client, login: Digest, now: Instant) {
        let record = self.logins.record((client, login), now);
        *record = Record { failures: 0, next: now, last: now, succeeded: Some(now) };
    }

    /// It was wrong.
    pub(super) fn failed(&mut self, client: Client, login: Digest, now: Instant) {
        self.logins.fail((client, login), now, spacing);
        self.clients.fail(client, now, spacing_of_client);
    }
}

/// The time between two attempts at one login from one client, after so many failures.
fn spacing(failures: u32) -> Duration {
    doubled(FIRST_DELAY, failures, FREE_FAILURES, WAIT_MAX)
}

/// The time between two attempts of one client.
fn spacing_of_client(failures: u32) -> Duration {
    doubled(FIRST_DELAY_OF_CLIENT, failures, FREE_FAILURES_OF_CLIENT, DELAY_OF_CLIENT_MAX)
}

fn doubled(first: Duration, failures: u32, free: u32, max: Duration) -> Duration {
    match failures.checked_sub(free) {
        None | Some(0) => Duration::ZERO,
        Some(more) => first.saturating_mul(2_u32.saturating_pow(more.saturating_sub(1).min(16))).min(max),
    }
}

/// Failures by whom they count against.
#[derive(Debug)]
struct Table<K>(HashMap<K, Record>);

#[derive(Debug, Clone, Copy)]
struct Record {
    failures: u32,
    /// When the next attempt may be heard.
    next: Instant,
    last: Instant,
    succeeded: Option<Instant>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Copy> Table<K> {
    /// When the next attempt may be heard, and how far apart attempts are. `None` when nothing is known against it.
    fn line(&self, key: &K, now: Instant, spacing: fn(u32) -> Duration) -> Option<(Instant, Duration)> {
        let record = self.0.get(key).filter(|record| now.saturating_duration_since(record.last) < MEMORY)?;
        let spacing = spacing(record.failures);
        (spacing > Duration::ZERO).then_some((record.next, spacing))
    }

    fn succeeded(&self, key: &K, now: Instant) -> bool {
        let at = self.0.get(key).and_then(|record| record.succeeded);
        at.is_some_and(|at| now.saturating_duration_since(at) < SUCCESS_MEMORY)
    }

    /// Takes the place in the line at `from`.
    fn take(&mut self, key: &K, from: Instant, spacing: Duration) {
        if let Some(record) = self.0.get_mut(key) {
            record.next = from.checked_add(spacing).unwrap_or(from);
        }
    }

    fn fail(&mut self, key: K, now: Instant, spacing: fn(u32) -> Duration) {
        let record = self.record(key, now);
        if now.saturating_duration_since(record.last) >= MEMORY {
            record.failures = 0;
        }
        record.failures = record.failures.saturating_add(1);
        record.last = now;
        record.next = record.next.max(now.checked_add(spacing(record.failures)).unwrap_or(now));
    }

    fn record(&mut self, key: K, now: Instant) -> &mut Record {
        if self.0.len() >= ENTRIES_MAX && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        self.0.entry(key).or_insert(Record { failures: 0, next: now, last: now, succeeded: None })
    }

    /// Forgets what is over, or else the quarter that was quiet for the longest time: not one alone, for looking through all of
    /// them takes a while.
    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, record| {
            let lives = |at: Instant, memory| now.saturating_duration_since(at) < memory;
            lives(record.last, MEMORY) || record.succeeded.is_some_and(|at| lives(at, SUCCESS_MEMORY))
        });
        if self.0.len() >= ENTRIES_MAX {
            let mut last: Vec<Instant> = self.0.values().map(|record| record.last).collect();
            let (_, quarter, _) = last.select_nth_unstable(ENTRIES_MAX / 4);
            let quarter = *quarter;
            self.0.retain(|_, record| record.last > quarter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        Client::new(Some(address.parse().unwrap()))
    }

    const ACME: Digest = [1; 32];
    const OTHER: Digest = [2; 32];

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn delays_grow_with_failures_up_to_a_bound_and_a_success_ends_them() {
        let (mut delays, mut now, guesser) = (Delays::default(), Instant::now(), client("192.0.2.1"));
        let mut waits = Vec::new();
        for _ in 0..9 {
            let wait = delays.queue(guesser, ACME, now).unwrap();
            waits.push(wait.as_millis());
            now += wait;
            delays.failed(guesser, ACME, now);
        }
        assert_eq!(waits, [0, 0, 0, 500, 1000, 2000, 4000, 4000, 4000]);
        delays.succeeded(guesser, ACME, now);
        assert_eq!(delays.queue(guesser, ACME, now), Ok(Duration::ZERO));
    }

    #[test]
    fn attempts_at_once_stand_in_line_and_a_long_line_sends_away() {
        let (mut delays, now, guesser) = (Delays::default(), Instant::now(), client("192.0.2.1"));
        for _ in 0..4 {
            delays.failed(guesser, ACME, now);
        }
        let line: Vec<_> = (0..6).map(|_| delays.queue(guesser, ACME, now)).collect();
        assert_eq!(line, [Ok(ms(1000)), Ok(ms(2000)), Ok(ms(3000)), Ok(ms(4000)), Err(()), Err(())]);
    }

    #[test]
    fn who_guesses_at_a_login_keeps_its_owner_out_from_nowhere_else() {
        let (mut delays, now) = (Delays::default(), Instant::now());
        for n in 0..1_000_u32 {
            let guesser = Client::new(Some(IpAddr::V4((0x0a00_0000 + n % 50).into())));
            delays.failed(guesser, ACME, now);
        }
        assert_eq!(delays.queue(client("198.51.100.1"), ACME, now), Ok(Duration::ZERO));
    }

    #[test]
    fn a_client_that_tries_many_names_is_slowed_down_but_not_a_login_that_succeeded_from_there() {
        let (mut delays, now, shared) = (Delays::default(), Instant::now(), client("192.0.2.1"));
        delays.succeeded(shared, ACME, now);
        for n in 0..100 {
            delays.failed(shared, [n; 32].map(|b: u8| b.wrapping_add(100)), now);
        }
        assert_eq!(delays.queue(shared, OTHER, now), Ok(ms(1000)));
        assert_eq!(delays.queue(shared, OTHER, now), Ok(ms(2000)));
        assert_eq!(delays.queue(shared, ACME, now), Ok(Duration::ZERO));
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_failures_are_forgotten() {
        let (mut delays, now) = (Delays::default(), Instant::now());
        for n in 0..5 {
            delays.failed(client(&format!("2001:db8:1:2::{n}")), ACME, now);
        }
        assert!(delays.queue(client("2001:db8:1:2:ffff::1"), ACME, now).unwrap() > Duration::ZERO);
        assert_eq!(delays.queue(client("2001:db8:1:3::1"), ACME, now), Ok(Duration::ZERO));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_eq!(delays.queue(client("2001:db8:1:2::1"), ACME, now + MEMORY), Ok(Duration::ZERO));
    }

    #[test]
    fn no_more_is_remembered_than_the_bound() {
        let (mut delays, now) = (Delays::default(), Instant::now());
        for n in 0..u32::try_from(ENTRIES_MAX).unwrap() + 1_000 {
            delays.failed(Client::new(Some(IpAddr::V4(n.into()))), ACME, now + Duration::from_micros(n.into()));
        }
        assert!(delays.clients.0.len() <= ENTRIES_MAX && delays.logins.0.len() <= ENTRIES_MAX);
        assert!(delays.clients.0.len() > ENTRIES_MAX / 2);
    }
}
