//! The store as a file of SQLite: of one host, nothing to install, nothing to run.
//!
//! A transaction that was committed is on the disk (WAL, `synchronous = FULL`): kill -9 and a power cut lose nothing that was told.

use std::fmt;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Params, Transaction, TransactionBehavior, params};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Event, NewCredential, Remembered, Row, StoreError, Which, foreign, name_taken, sql, too_many, too_new};
use crate::credential::{Binding, Credential, LIVE_SETS_MAX, UserName};
use crate::mail::Address;

/// How long a question waits for another process that has locked the file.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// Who wants to write gives the file back so often meanwhile, to those who only read: they need not wait for that lock.
const WRITE_TRY: Duration = Duration::from_millis(50);
/// How long a question waits for those before it, and an answer takes. No more than one thread waits for the file.
const PATIENCE: Duration = Duration::from_secs(3);

/// The file, opened when it is needed.
#[derive(Debug, Clone)]
pub(super) struct Sqlite {
    path: PathBuf,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    connection: Option<Connection>,
    /// Device and inode of the file that was opened. One that is gone later is not made anew: an empty store would look like one in
    /// which everything was revoked.
    file: Option<(u64, u64)>,
}

/// What became of an attempt to write.
enum Tried<T, W> {
    Done(T),
    /// Another process is writing. The work is still to be done.
    Busy(W, Failed),
}

/// A statement that failed, with what it was about.
type Failed = rusqlite::Error;

impl Sqlite {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, open: Arc::default() }
    }

    pub(super) async fn issue(&self, new: NewCredential, who: String, now: i64) -> Result<Credential, StoreError> {
        self.write(move |transaction| issue(transaction, new, &who, now)).await
    }

    pub(super) async fn revoke(&self, which: Which, who: String, now: i64) -> Result<Vec<Credential>, StoreError> {
        self.write(move |transaction| revoke(transaction, &which, &who, now)).await
    }

    pub(super) async fn list(&self, all: bool) -> Result<Vec<Credential>, StoreError> {
        let statement = if all { sql::LIST_ALL } else { sql::LIST_LIVE };
        self.read(move |connection| rows(connection, statement, [])).await
    }

    pub(super) async fn sets_of(&self, user: String) -> Result<Vec<(Credential, String)>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare(sql::SETS_OF)?;
            let found = statement.query_map([user], |row| Ok((self::row(row)?, row.get(6)?)))?;
            let found: Vec<(Row, String)> = found.collect::<Result<_, _>>()?;
            Ok(found.into_iter().map(|(row, hash)| Ok((row.try_into()?, hash))).collect())
        })
        .await
    }

    pub(super) async fn logins_for(&self, address: Address) -> Result<Vec<UserName>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare(sql::LOGINS_FOR)?;
            let found = statement
                .query_map([address.domain().as_str(), &address.to_string()], |row| row.get::<_, String>(0))?;
            let found: Vec<String> = found.collect::<Result<_, _>>()?;
            Ok(found.iter().map(|user| UserName::parse(user).map_err(|error| foreign(&error))).collect())
        })
        .await
    }

    pub(super) async fn events(&self, count: u32) -> Result<Vec<Event>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare(sql::EVENTS)?;
            let texts = |row: &rusqlite::Row<'_>| {
                let event = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                Ok((event, row.get::<_, String>(4)?, row.get::<_, String>(5)?, row.get::<_, String>(6)?))
            };
            let mut found: Vec<_> = statement.query_map([count], texts)?.collect::<Result<_, _>>()?;
            found.reverse();
            let event = |((at, who, what, credential), domain, address, user): (_, String, String, String)| {
                Ok(Event {
                    at,
                    who,
                    what,
                    credential,
                    binding: Binding::from_columns(&domain, &address).map_err(|error| foreign(&error))?,
                    user: UserName::parse(&user).map_err(|error| foreign(&error))?,
                })
            };
            Ok(found.into_iter().map(event).collect())
        })
        .await
    }

    pub(super) async fn conversations(&self, keys: Vec<String>, since: i64) -> Result<Vec<Remembered>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare(sql::CONVERSATION)?;
            let mut found = Vec::new();
            for key in keys {
                let rows = statement.query_map(params![key, since], |row| {
                    Ok(Remembered { key: row.get(0)?, thread: row.get(1)?, authenticated: row.get(2)? })
                })?;
                for row in rows {
                    found.push(row?);
                }
            }
            Ok(Ok(found))
        })
        .await
    }

    pub(super) async fn remember(&self, messages: Vec<Remembered>, now: i64) -> Result<(), StoreError> {
        self.write(move |transaction| {
            for Remembered { key, thread, authenticated } in &messages {
                transaction.execute(sql::REMEMBER, params![key, thread, authenticated, now])?;
            }
            if let Some(message) = messages.first() {
                transaction.execute(sql::TRIM, [&message.thread])?;
            }
            Ok(Ok(()))
        })
        .await
    }

    pub(super) async fn forget_conversations(&self, before: i64, most: u32) -> Result<u64, StoreError> {
        self.write(move |transaction| {
            let old = transaction.execute(sql::FORGET_BEFORE, [before])?;
            let many = transaction.execute(sql::FORGET_BEYOND, [most])?;
            Ok(Ok(old.saturating_add(many) as u64))
        })
        .await
    }

    pub(super) async fn revision(&self) -> Result<i64, StoreError> {
        self.read(|connection| Ok(Ok(connection.query_row(sql::REVISION, [], |row| row.get(0))?))).await
    }

    async fn write<T: Send + 'static>(
        &self,
        mut work: impl FnOnce(&Transaction<'_>) -> Result<Result<T, StoreError>, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        loop {
            let tried = self.on_file(WRITE_TRY, move |connection| {
                let transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
                    Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                        return Ok(Ok(Tried::Busy(work, error)));
                    }
                    transaction => transaction?,
                };
                let done = work(&transaction)?;
                // A refusal takes nothing back: it wrote nothing.
                if done.is_ok() {
                    transaction.commit()?;
                }
                Ok(done.map(Tried::Done))
            });
            match tried.await? {
                Tried::Done(done) => return Ok(done),
                Tried::Busy(_, error) if begun.elapsed() >= BUSY_WAIT => return Err(self.away(&error)),
                Tried::Busy(again, _) => work = again,
            }
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<Result<T, StoreError>, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        let answer = self.on_file(BUSY_WAIT, move |connection| work(connection));
        timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(self.late()))
    }

    /// Does `work` on a thread that may wait, for a lock as long as `wait`. After a failure the file is opened anew.
    async fn on_file<T: Send + 'static>(
        &self,
        wait: Duration,
        work: impl FnOnce(&mut Connection) -> Result<Result<T, StoreError>, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut open = timeout(PATIENCE, Arc::clone(&self.open).lock_owned()).await.map_err(|_| self.late())?;
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let connection = this.connection(&mut open)?;
            let done = connection.busy_timeout(wait).and_then(|()| work(connection)).map_err(|error| this.away(&error));
            if done.is_err() {
                open.connection = None;
            }
            done?
        });
        done.await.unwrap_or_else(|error| Err(self.away(&error)))
    }

    /// The open connection, to the file that has the name now.
    fn connection<'o>(&self, open: &'o mut Open) -> Result<&'o mut Connection, StoreError> {
        let facts = match self.path.metadata() {
            Ok(facts) => facts,
            Err(error) if error.kind() == ErrorKind::NotFound && open.file.is_none() => {
                let new =
                    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path);
                let facts = new.and_then(|file| file.metadata()).map_err(|error| self.away(&error))?;
                tracing::info!(store = %self, "made a new store; no set is issued in it yet");
                facts
            }
            Err(error) => {
                open.connection = None;
                return Err(self.away(&error));
            }
        };
        if facts.mode() & 0o077 != 0 {
            return Err(StoreError::Away(format!("{self}: others than its owner can read it; chmod 0600 it")));
        }
        let own = nix::unistd::geteuid();
        if facts.uid() != own.as_raw() && !own.is_root() {
            return Err(StoreError::Away(format!(
                "{self}: it belongs to uid {}, and deskmilter runs as uid {own}; chown it to {own}",
                facts.uid()
            )));
        }
        let file = (facts.dev(), facts.ino());
        if open.file != Some(file) {
            open.connection = None;
        }
        if open.connection.is_none() {
            open.connection = Some(self.open_file()?);
            open.file = Some(file);
        }
        open.connection.as_mut().ok_or_else(|| self.away(&"not open"))
    }

    fn open_file(&self) -> Result<Connection, StoreError> {
        let failed = |error: Failed| self.away(&error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_WAIT).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
        connection.pragma_update(None, "trusted_schema", false).map_err(failed)?;
        self.migrate(&mut connection)?;
        Ok(connection)
    }

    fn migrate(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let version = |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get(0));
        let failed = |error: Failed| self.away(&error);
        if version(connection).map_err(failed)? == sql::VERSION {
            return Ok(());
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        // Another process may have been faster.
        let from: i64 = version(&transaction).map_err(failed)?;
        if from > sql::VERSION {
            return Err(too_new(from));
        }
        for migration in sql::SQLITE_MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0)) {
            transaction.execute_batch(migration).map_err(failed)?;
        }
        transaction.pragma_update(None, "user_version", sql::VERSION).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    fn late(&self) -> StoreError {
        self.away(&format_args!("no answer within {} s", PATIENCE.as_secs()))
    }

    fn away(&self, error: &dyn fmt::Display) -> StoreError {
        StoreError::Away(format!("{self}: {error}"))
    }
}

impl fmt::Display for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{}", self.path.display())
    }
}

fn issue(
    transaction: &Transaction<'_>,
    new: NewCredential,
    who: &str,
    now: i64,
) -> Result<Result<Credential, StoreError>, Failed> {
    let NewCredential { binding, user, hash } = new;
    let (domain, address) = binding.columns();
    let mut statement = transaction.prepare(sql::OWNERS_OF_NAME)?;
    let owners = statement.query_map([user.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let owners: Vec<(String, String)> = owners.collect::<Result<_, _>>()?;
    if let Some((other_domain, other_address)) =
        owners.iter().find(|owner| **owner != (domain.clone(), address.clone()))
    {
        return Ok(Err(name_taken(&user, other_domain, other_address)));
    }
    let live: u32 = transaction.query_row(sql::COUNT_LIVE, [&domain, &address], |row| row.get(0))?;
    if live as usize >= LIVE_SETS_MAX {
        return Ok(Err(too_many(&binding)));
    }
    let values = params![domain, address, user.as_str(), hash, now];
    let id = transaction.query_row(sql::INSERT, values, |row| row.get(0))?;
    transaction.execute(sql::AUDIT, params![now, who, "issued", id])?;
    transaction.execute(sql::CHANGE, [])?;
    Ok(Ok(Credential { id, binding, user, issued_at: now, revoked_at: None }))
}

fn revoke(
    transaction: &Transaction<'_>,
    which: &Which,
    who: &str,
    now: i64,
) -> Result<Result<Vec<Credential>, StoreError>, Failed> {
    let revoked = match which {
        Which::Id(id) => rows(transaction, sql::REVOKE_ID, params![now, id]),
        Which::User(user) => rows(transaction, sql::REVOKE_USER, params![now, user.as_str()]),
        Which::Binding(binding) => {
            let (domain, address) = binding.columns();
            rows(transaction, sql::REVOKE_BINDING, params![now, domain, address])
        }
    }?;
    if let Ok(revoked) = &revoked {
        for set in revoked {
            transaction.execute(sql::AUDIT, params![now, who, "revoked", set.id])?;
        }
        transaction.execute(sql::CHANGE, [])?;
    }
    Ok(revoked)
}

fn rows(
    connection: &Connection,
    statement: &str,
    values: impl Params,
) -> Result<Result<Vec<Credential>, StoreError>, Failed> {
    let mut statement = connection.prepare(statement)?;
    let found: Vec<Row> = statement.query_map(values, row)?.collect::<Result<_, _>>()?;
    Ok(found.into_iter().map(Credential::try_from).collect())
}

fn row(row: &rusqlite::Row<'_>) -> Result<Row, Failed> {
    Ok(Row {
        id: row.get(0)?,
        domain: row.get(1)?,
        address: row.get(2)?,
        user: row.get(3)?,
        issued_at: row.get(4)?,
        revoked_at: row.get(5)?,
    })
}
