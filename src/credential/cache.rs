//! Logins that were right a moment ago, so that a mail server that logs in for each message costs no Argon2 each time.
//!
//! What is kept is an HMAC under a key that lives as long as the process: never a password, and nothing that is of use to somebody
//! who reads the memory later without the key beside it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use aws_lc_rs::{constant_time, hmac};

use super::Accepted;

/// How long a login counts after it was checked against the store. Using it does not prolong it.
pub(super) const LIFETIME: Duration = Duration::from_secs(60);
/// User names at most; a new one then takes the place of the one that expires first.
const NAMES_MAX: usize = 10_000;
/// Passwords of one user name at most: those of the live sets.
const PASSWORDS_MAX: usize = super::LIVE_SETS_MAX;

/// Digests under a key of this process.
#[derive(Debug)]
pub(super) struct Digests(hmac::Key);

/// The digest of a user name, or of a user name and a password.
pub(super) type Digest = [u8; 32];

impl Digests {
    pub(super) fn new() -> Result<Self, String> {
        hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new())
            .map(Self)
            .map_err(|_| "no randomness from the system".to_owned())
    }

    /// Of all parts in their order; where one ends is part of it.
    pub(super) fn of(&self, parts: &[&[u8]]) -> Digest {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.iter_mut().zip(context.sign().as_ref()).for_each(|(octet, signed)| *octet = *signed);
        digest
    }
}

/// The logins. Forgets what was revoked, what is too old, and what does not fit.
#[derive(Debug, Default)]
pub(super) struct Cache {
    names: HashMap<Digest, Vec<Entry>>,
    /// Counts the times that the store has changed.
    generation: u64,
    /// The sets that counted after the last change.
    live: HashSet<i64>,
}

#[derive(Debug)]
struct Entry {
    login: Digest,
    accepted: Accepted,
    expires: Instant,
}

impl Cache {
    /// What was accepted for exactly this user name and password, `LIFETIME` ago at most.
    pub(super) fn get(&self, name: &Digest, login: &Digest, now: Instant) -> Option<Accepted> {
        let entries = self.names.get(name)?.iter().filter(|entry| now < entry.expires);
        // Each is looked at in full: how long it takes tells nothing of the password.
        let mut found = None;
        for entry in entries {
            if constant_time::verify_slices_are_equal(&entry.login, login).is_ok() {
                found = Some(entry.accepted.clone());
            }
        }
        found
    }

    /// To be asked before the store is read, and given to [`Self::insert`].
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Keeps a login that was checked at `now`, unless the store has changed since `generation` and the set does not live any more.
    pub(super) fn insert(&mut self, name: Digest, login: Digest, accepted: Accepted, generation: u64, now: Instant) {
        let Some(expires) = now.checked_add(LIFETIME) else { return };
        if generation != self.generation && !self.live.contains(&accepted.credential) {
            return;
        }
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(&name) {
            self.make_room(now);
        }
        let entries = self.names.entry(name).or_default();
        entries.retain(|entry| entry.login != login && now < entry.expires);
        if entries.len() >= PASSWORDS_MAX {
            entries.remove(0);
        }
        entries.push(Entry { login, accepted, expires });
    }

    /// The store has changed, and `live` are the sets that count.
    pub(super) fn retain(&mut self, live: HashSet<i64>) {
        self.generation = self.generation.wrapping_add(1);
        self.names.retain(|_, entries| {
            entries.retain(|entry| live.contains(&entry.accepted.credential));
            !entries.is_empty()
        });
        self.live = live;
    }

    fn make_room(&mut self, now: Instant) {
        self.names.retain(|_, entries| entries.iter().any(|entry| now < entry.expires));
        if self.names.len() >= NAMES_MAX {
            let last = |entries: &Vec<Entry>| entries.iter().map(|entry| entry.expires).max();
            let first = self.names.iter().min_by_key(|(_, entries)| last(entries)).map(|(name, _)| *name);
            first.and_then(|name| self.names.remove(&name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::{Binding, UserName};
    use crate::mail::Domain;

    fn accepted(credential: i64) -> Accepted {
        Accepted {
            credential,
            user: UserName::parse("acme").unwrap(),
            binding: Binding::Domain(Domain::parse("acme.example").unwrap()),
        }
    }

    fn digest(n: u32) -> Digest {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&n.to_be_bytes());
        digest
    }

    #[test]
    fn a_login_counts_for_a_minute_from_its_check_and_not_longer_however_often_it_is_used() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(digest(1), digest(2), accepted(7), 0, now);
        for second in [0, 30, 59] {
            assert_eq!(cache.get(&digest(1), &digest(2), now + Duration::from_secs(second)), Some(accepted(7)));
        }
        assert_eq!(cache.get(&digest(1), &digest(2), now + LIFETIME), None);
        assert_eq!(cache.get(&digest(1), &digest(3), now), None, "another password");
        assert_eq!(cache.get(&digest(2), &digest(2), now), None, "another name");
    }

    #[test]
    fn what_is_revoked_is_forgotten_at_once_also_where_it_was_just_being_checked() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(digest(1), digest(2), accepted(7), cache.generation(), now);
        cache.insert(digest(1), digest(3), accepted(8), cache.generation(), now);
        let before = cache.generation();
        cache.retain(HashSet::from([8]));
        assert_eq!(cache.get(&digest(1), &digest(2), now), None);
        assert_eq!(cache.get(&digest(1), &digest(3), now), Some(accepted(8)));
        cache.insert(digest(1), digest(2), accepted(7), before, now);
        assert_eq!(cache.get(&digest(1), &digest(2), now), None, "it was read before the change");
        cache.insert(digest(5), digest(6), accepted(8), before, now);
        assert_eq!(cache.get(&digest(5), &digest(6), now), Some(accepted(8)), "the change was another's");
    }

    #[test]
    fn a_name_has_as_many_passwords_as_live_sets_and_there_are_no_more_names_than_the_bound() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..5 {
            cache.insert(digest(1), digest(n), accepted(7), 0, now);
        }
        assert_eq!(cache.names[&digest(1)].len(), PASSWORDS_MAX);
        for n in 0..u32::try_from(NAMES_MAX).unwrap() + 10 {
            cache.insert(digest(n), digest(n), accepted(7), 0, now + Duration::from_millis(u64::from(n)));
        }
        assert_eq!(cache.names.len(), NAMES_MAX);
        assert_eq!(cache.get(&digest(0), &digest(0), now), None, "the oldest gave way");
    }

    #[test]
    fn a_digest_tells_parts_apart() {
        let digests = Digests::new().unwrap();
        assert_eq!(digests.of(&[b"ab", b"c"]), digests.of(&[b"ab", b"c"]));
        assert_ne!(digests.of(&[b"ab", b"c"]), digests.of(&[b"a", b"bc"]));
        assert_ne!(digests.of(&[b"ab"]), Digests::new().unwrap().of(&[b"ab"]));
    }
}
