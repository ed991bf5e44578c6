//! Which user names were issued and what for: what the store said at the last look, for those who must not wait for it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{Binding, Credential};
use crate::mail::Domain;

/// How long the last look counts: as long as a login that was right.
const LIFETIME: Duration = super::cache::LIFETIME;

/// What is known of a user name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has a live set, which is good for this.
    Live(Binding),
    /// All its sets are revoked.
    Revoked,
    /// It was never issued here.
    Unknown,
    /// Nobody can say now: the store has been away for too long.
    Unavailable,
}

/// The names and bindings of all sets.
#[derive(Debug, Default)]
pub(super) struct Issued {
    /// By user name: what it is good for, if a set of it lives.
    names: HashMap<String, Option<Binding>>,
    /// Of every set that was ever issued: mail for a domain whose sets are revoked still comes, unauthenticated.
    domains: HashSet<Domain>,
    /// When the store was last there.
    looked: Option<Instant>,
}

impl Issued {
    /// From all sets, those that are revoked too, as the store had them at `now`.
    pub(super) fn from_sets(sets: &[Credential], now: Instant) -> Self {
        let mut issued = Self { looked: Some(now), ..Self::default() };
        for set in sets {
            let known = issued.names.entry(set.user.as_str().to_owned()).or_default();
            if set.revoked_at.is_none() {
                *known = Some(set.binding.clone());
            }
            issued.domains.insert(set.binding.domain().clone());
        }
        issued
    }

    /// The store was there at `now`, and nothing has changed.
    pub(super) fn still_holds(&mut self, now: Instant) {
        self.looked = Some(now);
    }

    /// A login was right. One that was issued since the last look counts from here on; for all others the look knows better.
    pub(super) fn learn(&mut self, user: &str, binding: &Binding) {
        if !self.names.contains_key(user) {
            self.names.insert(user.to_owned(), Some(binding.clone()));
            self.domains.insert(binding.domain().clone());
        }
    }

    /// A name that is not known was not issued, however long ago the last look was: nobody could have logged in with it here.
    pub(super) fn standing(&self, user: &str, now: Instant) -> Standing {
        let Some(looked) = self.looked else { return Standing::Unavailable };
        let stale = now.saturating_duration_since(looked) >= LIFETIME;
        match self.names.get(user) {
            None => Standing::Unknown,
            Some(_) if stale => Standing::Unavailable,
            Some(Some(binding)) => Standing::Live(binding.clone()),
            Some(None) => Standing::Revoked,
        }
    }

    /// Whether the name was ever issued, however long ago that was known.
    pub(super) fn knows(&self, user: &str) -> bool {
        self.names.contains_key(user)
    }

    /// Whether any set was ever issued for the domain or an address of it.
    pub(super) fn has_domain(&self, domain: &Domain) -> bool {
        self.domains.contains(domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::UserName;

    fn set(id: i64, domain: &str, user: &str, revoked_at: Option<i64>) -> Credential {
        let binding = Binding::Domain(Domain::parse(domain).unwrap());
        Credential { id, binding, user: UserName::parse(user).unwrap(), issued_at: 0, revoked_at }
    }

    #[test]
    fn a_name_lives_as_long_as_one_of_its_sets_and_what_was_known_counts_for_a_minute() {
        let now = Instant::now();
        let sets =
            [set(1, "a.example", "a", Some(5)), set(2, "a.example", "a", None), set(3, "b.example", "b", Some(5))];
        let mut issued = Issued::from_sets(&sets, now);
        let live = Standing::Live(Binding::Domain(Domain::parse("a.example").unwrap()));
        assert_eq!(issued.standing("a", now), live);
        assert_eq!(issued.standing("A", now), Standing::Unknown, "names are compared octet by octet");
        assert_eq!(issued.standing("b", now), Standing::Revoked);
        assert_eq!(issued.standing("a", now + LIFETIME), Standing::Unavailable);
        assert_eq!(issued.standing("somebody", now + LIFETIME), Standing::Unknown, "an employee's mail does not wait");
        issued.still_holds(now + LIFETIME);
        assert_eq!(issued.standing("a", now + LIFETIME), live);
        assert!(issued.has_domain(&Domain::parse("b.example").unwrap()), "also when all its sets are revoked");
        assert_eq!(Issued::default().standing("a", now), Standing::Unavailable);
    }

    #[test]
    fn a_login_that_was_right_is_known_before_the_next_look_and_brings_no_revoked_one_back() {
        let now = Instant::now();
        let mut issued = Issued::from_sets(&[set(1, "a.example", "a", Some(5))], now);
        let binding = |domain| Binding::Domain(Domain::parse(domain).unwrap());
        issued.learn("new", &binding("new.example"));
        assert_eq!(issued.standing("new", now), Standing::Live(binding("new.example")));
        assert!(issued.has_domain(&Domain::parse("new.example").unwrap()));
        issued.learn("a", &binding("a.example"));
        assert_eq!(issued.standing("a", now), Standing::Revoked);
    }

    #[test]
    fn a_revoked_set_does_not_hide_a_live_one_whatever_their_order() {
        let now = Instant::now();
        let sets = [set(1, "a.example", "a", None), set(2, "a.example", "a", Some(5))];
        assert!(matches!(Issued::from_sets(&sets, now).standing("a", now), Standing::Live(_)));
    }
}
