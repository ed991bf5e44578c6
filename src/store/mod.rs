//! What changes at run time and must outlive the process: issued credentials, who did what to them, and which conversations began
//! authenticated.
//!
//! In: new sets with their hashes, revocations, keyed digests of Message-IDs, questions. Out: sets, the audit trail, conversations,
//! and a word when something has changed. It must not know passwords, protocols or mail.
//!
//! A file of SQLite is the default. Several hosts share a PostgreSQL. Both are asked the same few statements (`sql`) and the
//! same tests run on both. While the store is away everything else goes on: what needs it gets [`StoreError::Away`] within
//! seconds, and the next question tries again.

mod postgres;
mod sql;
mod sqlite;
mod tls;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{StoreConfig, StoreUrl};
use crate::credential::{Binding, Credential, LIVE_SETS_MAX, UserName};
use crate::mail::Address;

/// A store. Connects when it is asked something, and again whenever that is needed.
#[derive(Debug)]
pub struct Store(Backend);

#[derive(Debug)]
enum Backend {
    Sqlite(sqlite::Sqlite),
    Postgres(Box<postgres::Postgres>),
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not there, or not usable; that may pass.
    #[error("{0}")]
    Away(String),
    /// It is there and says no.
    #[error("{0}")]
    Refused(String),
}

/// A set that is to be issued.
#[derive(Debug, Clone)]
pub struct NewCredential {
    /// What it is good for.
    pub binding: Binding,
    /// Its user name.
    pub user: UserName,
    /// Its password's hash, a PHC string.
    pub hash: String,
}

/// Which live sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// That one.
    Id(i64),
    /// All of that user name.
    User(UserName),
    /// All of that binding; those of a domain's addresses are not the domain's.
    Binding(Binding),
}

/// One line of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, in seconds since 1970 (UTC).
    pub at: i64,
    /// Who: the system's user and host.
    pub who: String,
    /// `issued` or `revoked`.
    pub what: String,
    /// The set's number.
    pub credential: i64,
    /// The set's binding.
    pub binding: Binding,
    /// The set's user name.
    pub user: UserName,
}

/// A message of a conversation, or a ticket's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// A keyed digest, which tells nothing to who has not the key.
    pub key: String,
    /// The key of the conversation's first message.
    pub thread: String,
    /// Whether that came by a credential.
    pub authenticated: bool,
}

/// Hands a question to the backend that there is.
macro_rules! ask {
    ($store:expr, $method:ident($($argument:expr),*)) => {
        match &$store.0 {
            Backend::Sqlite(backend) => backend.$method($($argument),*).await,
            Backend::Postgres(backend) => backend.$method($($argument),*).await,
        }
    };
}

impl Store {
    /// A store that is not connected yet.
    ///
    /// # Errors
    /// What it is told to trust cannot be read.
    pub fn new(config: &StoreConfig) -> Result<Self, String> {
        Ok(Self(match &config.url {
            StoreUrl::Sqlite(path) => Backend::Sqlite(sqlite::Sqlite::new(path.clone())),
            StoreUrl::Postgres(server) => Backend::Postgres(Box::new(postgres::Postgres::new(config, server)?)),
        }))
    }

    /// Keeps a new set and writes the audit trail; returns it when both are safely stored.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the binding has [`LIVE_SETS_MAX`] live sets already, or the user name is that of another
    /// binding.
    pub async fn issue(&self, new: NewCredential, who: &str) -> Result<Credential, StoreError> {
        ask!(self, issue(new, who.to_owned(), now()))
    }

    /// Revokes sets, and writes the audit trail. Returns those that lived until now.
    ///
    /// # Errors
    /// As [`StoreError`].
    pub async fn revoke(&self, which: Which, who: &str) -> Result<Vec<Credential>, StoreError> {
        ask!(self, revoke(which, who.to_owned(), now()))
    }

    /// The live sets, or `all`, oldest first.
    ///
    /// # Errors
    /// As [`StoreError`].
    pub async fn list(&self, all: bool) -> Result<Vec<Credential>, StoreError> {
        ask!(self, list(all))
    }

    /// The sets of a user name with their hashes: all live ones, youngest first, then the last ones revoked; a few at most.
    ///
    /// # Errors
    /// As [`StoreError`].
    pub async fn sets_of(&self, user: &str) -> Result<Vec<(Credential, String)>, StoreError> {
        ask!(self, sets_of(user.to_owned()))
    }

    /// The user names whose live sets are good for `address`: those of the address and those of its domain.
    ///
    /// # Errors
    /// As [`StoreError`].
    pub async fn logins_for(&self, address: &Address) -> Result<Vec<UserName>, StoreError> {
        ask!(self, logins_for(address.clone()))
    }

    /// The last `count` events, oldest first.
    ///
    /// # Errors
    /// As [`StoreError`].
    pub async fn events(&self, count: u32) -> Result<Vec<Event>, StoreError> {
        ask!(self, events(count))
    }

    /// What is known under `keys` and was seen at `since` (seconds since 1970) or later.
    ///
    /// # Errors
    /// As [`StoreError`].
    pub async fn conversations(&self, keys: Vec<String>, since: i64) -> Result<Vec<Remembered>, StoreError> {
        ask!(self, conversations(keys, since))
    }

    /// Keeps messages, seen now; one that is known already stays what it is.
    ///
    /// # Errors
    /// As [`StoreError`].
    pub async fn remember(&self, messages: Vec<Remembered>) -> Result<(), StoreError> {
        ask!(self, remember(messages, now()))
    }

    /// Forgets messages that were last seen before `before` (seconds since 1970), and of the others all but the last `most`; some
    /// thousands in one call. Returns how many; after none there are no more.
    ///
    /// # Errors
    /// As [`StoreError`].
    pub async fn forget_conversations(&self, before: i64, most: u32) -> Result<u64, StoreError> {
        ask!(self, forget_conversations(before, most))
    }

    /// A number that is another after each change of the sets.
    ///
    /// # Errors
    /// As [`StoreError`].
    pub async fn revision(&self) -> Result<i64, StoreError> {
        ask!(self, revision())
    }

    /// Waits until the store tells of a change, `limit` at most. Not every store tells.
    pub async fn changed_within(&self, limit: Duration) {
        match &self.0 {
            Backend::Sqlite(_) => tokio::time::sleep(limit).await,
            Backend::Postgres(backend) => backend.changed_within(limit).await,
        }
    }
}

/// What it is, for the log: never with a password.
impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Backend::Sqlite(backend) => backend.fmt(f),
            Backend::Postgres(backend) => backend.fmt(f),
        }
    }
}

/// Seconds since 1970 (UTC).
pub fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// Why a set is not issued.
fn too_many(binding: &Binding) -> StoreError {
    StoreError::Refused(format!(
        "{binding} has {LIVE_SETS_MAX} live sets already; revoke the one that is not used any more"
    ))
}

fn name_taken(user: &UserName, domain: &str, address: &str) -> StoreError {
    let owner = if address.is_empty() { domain } else { address };
    StoreError::Refused(format!("the user name {user} belongs to {owner}; choose another with --user"))
}

/// One set as the tables have it.
struct Row {
    id: i64,
    domain: String,
    address: String,
    user: String,
    issued_at: i64,
    revoked_at: Option<i64>,
}

impl TryFrom<Row> for Credential {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let binding = Binding::from_columns(&row.domain, &row.address).map_err(|error| foreign(&error))?;
        let user = UserName::parse(&row.user).map_err(|error| foreign(&error))?;
        Ok(Self { id: row.id, binding, user, issued_at: row.issued_at, revoked_at: row.revoked_at })
    }
}

fn foreign(error: &dyn fmt::Display) -> StoreError {
    StoreError::Away(format!("the store holds what deskmilter did not write: {error}"))
}

/// The version of the tables is one that we do not know.
fn too_new(version: i64) -> StoreError {
    StoreError::Away(format!("its tables are of version {version}, made by a newer deskmilter; update this one"))
}

/// Where the file of the default store is.
pub fn default_file(state_directory: &std::path::Path) -> PathBuf {
    state_directory.join("deskmilter.db")
}
