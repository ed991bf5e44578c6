//! Issued credentials: what a company's mail server logs in with at the desk side.
//!
//! In: user names and passwords, from the command line that issues them and from the MTA that has them checked. Out: new sets, and
//! the word on a login. Where sets are kept is the business of [`store`](crate::store); who asks, and in which protocol, that of
//! [`attach`](crate::attach). A password is in memory while it is made or checked, and nowhere else: what is kept is its Argon2id
//! hash, and for a minute a keyed digest.

mod cache;
mod delays;
mod hash;
mod issued;
mod logins;
mod password;

pub use hash::{HashError, hash};
pub use issued::Standing;
pub use logins::{Accepted, AtPresent, Logins, Outcome, Refusal};
pub use password::new_password;

use std::collections::HashMap;
use std::fmt;

use crate::mail::{Address, AddressError, Domain};

/// Live sets that one binding may have: the one in use, and the one that takes over.
pub const LIVE_SETS_MAX: usize = 2;

/// Octets of a user name at most (RFC 4616 allows 255 characters; the column of a mail address is no longer).
const USER_NAME_MAX: usize = 255;

/// What a set is good for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Binding {
    /// Any address of the domain.
    Domain(Domain),
    /// That address alone.
    Address(Address),
}

impl Binding {
    /// The binding to `domain`, or to `address` in it.
    ///
    /// # Errors
    /// The address is of another domain.
    pub fn new(domain: Domain, address: Option<Address>) -> Result<Self, String> {
        match address {
            None => Ok(Self::Domain(domain)),
            Some(address) if *address.domain() == domain => Ok(Self::Address(address)),
            Some(address) => Err(format!("{address} is not an address of {domain}")),
        }
    }

    /// As it is kept: domain and address, of which the latter may be empty.
    pub(crate) fn columns(&self) -> (String, String) {
        match self {
            Self::Domain(domain) => (domain.to_string(), String::new()),
            Self::Address(address) => (address.domain().to_string(), address.to_string()),
        }
    }

    /// From what [`Self::columns`] wrote.
    pub(crate) fn from_columns(domain: &str, address: &str) -> Result<Self, AddressError> {
        if address.is_empty() {
            Domain::parse(domain).map(Self::Domain)
        } else {
            Address::parse(address).map(Self::Address)
        }
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        match self {
            Self::Domain(domain) => domain,
            Self::Address(address) => address.domain(),
        }
    }

    /// The address, where it is bound to one.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Domain(_) => None,
            Self::Address(address) => Some(address),
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A user name: free, or a mail address. Compared octet by octet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserName(String);

/// Why a text is no user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a user name: write 1 to 255 octets of visible ASCII or letters, without spaces, commas, quotes and backslashes"
)]
pub struct UserNameError;

impl UserName {
    /// Reads a user name. Spaces and commas separate logins in Postfix's maps; quotes and backslashes are quoted differently by
    /// everybody who writes or reads a configuration.
    ///
    /// # Errors
    /// [`UserNameError`].
    pub fn parse(text: &str) -> Result<Self, UserNameError> {
        let wrong = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ',' | '"' | '\'' | '\\');
        if text.is_empty() || text.len() > USER_NAME_MAX || text.chars().any(wrong) {
            return Err(UserNameError);
        }
        Ok(Self(text.to_owned()))
    }

    /// As it was issued.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One issued set, without its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its number in the store.
    pub id: i64,
    /// What it is good for.
    pub binding: Binding,
    /// Its user name.
    pub user: UserName,
    /// When it was issued, in seconds since 1970 (UTC).
    pub issued_at: i64,
    /// When it was revoked, in seconds since 1970 (UTC); `None` while it lives.
    pub revoked_at: Option<i64>,
}

/// The bindings with two live sets, and since when: when the younger one was issued. `live` are live sets.
pub fn overlaps(live: &[Credential]) -> Vec<(&Binding, i64)> {
    let mut issued: HashMap<&Binding, Vec<i64>> = HashMap::new();
    for set in live {
        issued.entry(&set.binding).or_default().push(set.issued_at);
    }
    let mut overlaps: Vec<_> = issued
        .into_iter()
        .filter_map(|(binding, mut issued)| {
            issued.sort_unstable();
            Some((binding, *issued.get(1)?))
        })
        .collect();
    overlaps.sort_by_key(|(binding, _)| binding.columns());
    overlaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_is_anything_that_every_mta_passes_on_unchanged() {
        for good in ["acme.example", "support@acme.example", "zendesk-support", "Jürgen", "a=b/c+d"] {
            assert_eq!(UserName::parse(good).unwrap().as_str(), good);
        }
        for wrong in ["", "a b", "a,b", "a\tb", "a\"b", "a\\b", "a\nb", "a\u{a0}b", &"x".repeat(256)] {
            assert_eq!(UserName::parse(wrong), Err(UserNameError), "{wrong:?}");
        }
    }

    #[test]
    fn a_set_is_bound_to_a_domain_or_to_an_address_of_it_and_comes_back_from_its_columns() {
        let domain = Domain::parse("acme.example").unwrap();
        for address in [None, Some("Support@acme.example")] {
            let address = address.map(|text| Address::parse(text).unwrap());
            let binding = Binding::new(domain.clone(), address).unwrap();
            let (domain, address) = binding.columns();
            assert_eq!(Binding::from_columns(&domain, &address).unwrap(), binding);
        }
        assert!(Binding::new(domain, Address::parse("a@other.example").ok()).is_err());
    }
}
