//! KeyTable and SigningTable.

use std::path::PathBuf;

use super::dataset::{Dataset, Entry, Matching, Pattern};

/// KeyTable: by name the domain, the selector and the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTable(pub Dataset);

/// One key of a [`KeyTable`], for one sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// `d=`
    pub domain: String,
    /// `s=`
    pub selector: String,
    /// The private key.
    pub data: KeyData,
}

/// Where a private key is.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyData {
    /// In a file.
    File(PathBuf),
    /// In the table itself. Not kept here.
    Inline,
}

impl std::fmt::Debug for KeyData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Inline => f.write_str("[secret]"),
        }
    }
}

impl KeyTable {
    /// The key `name`, when a sender of `sender_domain` signs with it; `None` when there is none.
    ///
    /// `%` as the domain, and within a path, stands for the sender's domain.
    ///
    /// # Errors
    /// The entry does not hold domain, selector and key.
    pub fn get(&self, name: &str, sender_domain: &str) -> Result<Option<Key>, String> {
        let Some(entry) = self.0.matches(name, false).next() else { return Ok(None) };
        let mut parts = entry.value.splitn(3, ':');
        let (Some(domain), Some(selector), Some(data)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(corrupt(entry));
        };
        if domain.is_empty() || selector.is_empty() || data.is_empty() {
            return Err(corrupt(entry));
        }
        let domain = if domain == "%" { sender_domain } else { domain };
        let data = if data.starts_with('/') {
            KeyData::File(data.replace('%', domain).into())
        } else if data.starts_with("./") || data.starts_with("../") {
            KeyData::File(data.into())
        } else {
            KeyData::Inline
        };
        Ok(Some(Key { domain: domain.to_owned(), selector: selector.to_owned(), data }))
    }
}

fn corrupt(entry: &Entry) -> String {
    format!("KeyTable line {}: {:?} is not followed by domain:selector:key", entry.line, entry.name)
}

/// SigningTable: by sender the names of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningTable(pub Dataset);

impl SigningTable {
    /// The entries for a sender, in OpenDKIM's order; the first alone signs, unless MultipleSignatures is on.
    ///
    /// A table of patterns is gone through from the top. Otherwise these names are looked up: `user@host`, `host`,
    /// `user@.domain` and `.domain` for each domain above, `user@*`, `*`.
    pub fn lookup(&self, sender: &str) -> Vec<&Entry> {
        let Some((user, domain)) = sender.rsplit_once('@') else { return Vec::new() };
        let domain = domain.to_ascii_lowercase();
        if user.is_empty() || domain.is_empty() {
            return Vec::new();
        }
        if self.0.matching() == Matching::Pattern {
            let sender = format!("{user}@{domain}");
            return self.0.entries().iter().filter(|entry| Pattern(&entry.name).matches(&sender, true)).collect();
        }
        let mut names = vec![format!("{user}@{domain}"), domain.clone()];
        for (at, _) in domain.match_indices('.') {
            let above = domain.get(at..).unwrap_or_default();
            names.extend([format!("{user}@{above}"), above.to_owned()]);
        }
        names.extend([format!("{user}@*"), "*".to_owned()]);
        // The table is said to be ASCII only: other names find nothing.
        names.iter().filter(|name| name.is_ascii()).filter_map(|name| self.first(name)).collect()
    }

    fn first(&self, name: &str) -> Option<&Entry> {
        self.0.entries().iter().find(|entry| entry.name.eq_ignore_ascii_case(name))
    }

    /// The name of an entry's key, for a sender of `sender_domain`, and the identity for `i=`, if there is one.
    pub fn key<'a>(entry: &'a Entry, sender_domain: &'a str) -> (&'a str, Option<&'a str>) {
        let (key, identity) = match entry.value.split_once(':') {
            Some((key, identity)) => (key, Some(identity).filter(|identity| !identity.is_empty())),
            None => (entry.value.as_str(), None),
        };
        (if key == "%" { sender_domain } else { key }, identity)
    }
}
