//! The store as a PostgreSQL: for several hosts.
//!
//! One connection answers all questions, and hears of changes by NOTIFY. One that does not answer in time is given up, and the next
//! question makes a new one. What writes has a connection of its own, for its transaction's sake; only commands write.
//!
//! No statement is prepared under a name: behind a pooler that pools transactions the next one may be asked of another server
//! connection, where the name is unknown, or another client's.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, NoTls, Transaction};

use super::tls::Verified;
use super::{Event, NewCredential, Remembered, Row, StoreError, Which, foreign, name_taken, sql, too_many, too_new};
use crate::config::{PostgresServer, SecretFile, StoreConfig};
use crate::credential::{Binding, Credential, LIVE_SETS_MAX, UserName};
use crate::mail::Address;
use crate::relay::{RelayError, client_tls};

/// How long a connection with all that belongs to it, and an answer, may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// After a connection has failed the others hear of that for so long, instead of each trying for itself.
const REST: Duration = Duration::from_millis(250);
/// The channel of NOTIFY.
const LISTEN: &str = "LISTEN deskmilter";
const NOTIFY: &str = "NOTIFY deskmilter";
/// One process at a time makes tables. The number is any: it is ours.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(7281103314)";

/// The server, connected to when it is needed.
pub(super) struct Postgres {
    config: tokio_postgres::Config,
    password_file: Option<SecretFile>,
    tls: Option<Arc<ClientConfig>>,
    /// For the log.
    name: String,
    connection: Mutex<Connection>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Connection {
    client: Option<Arc<Client>>,
    failed: Option<(Instant, String)>,
}

/// A value with its type, which then needs not be asked for.
type Value<'v> = (&'v (dyn ToSql + Sync), Type);

fn text<'v>(value: &'v (impl ToSql + Sync)) -> Value<'v> {
    (value, Type::TEXT)
}

fn number(value: &i64) -> Value<'_> {
    (value, Type::INT8)
}

impl Postgres {
    pub(super) fn new(config: &StoreConfig, server: &PostgresServer) -> Result<Self, String> {
        let tls = match server.config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(client_tls(config.ca_file.as_deref()).map_err(|error| match error {
                RelayError::CaFile { path, error } => format!("store.ca_file: {}: {error}", path.display()),
                other => format!("store: {other}"),
            })?),
        };
        Ok(Self {
            config: (*server.config).clone(),
            password_file: config.password_file.clone(),
            tls,
            name: server.to_string(),
            connection: Mutex::default(),
            changed: Arc::default(),
        })
    }

    pub(super) async fn issue(&self, new: NewCredential, who: String, now: i64) -> Result<Credential, StoreError> {
        let work = async {
            let mut client = self.ready().await?;
            let transaction = client.transaction().await.map_err(|error| self.failed(&error))?;
            let issued = self.issue_in(&transaction, new, &who, now).await?;
            transaction.commit().await.map_err(|error| self.failed(&error))?;
            Ok(issued)
        };
        self.in_time(work).await
    }

    async fn issue_in(
        &self,
        transaction: &Transaction<'_>,
        new: NewCredential,
        who: &str,
        now: i64,
    ) -> Result<Credential, StoreError> {
        let NewCredential { binding, user, hash } = new;
        let (domain, address) = binding.columns();
        let failed = |error: tokio_postgres::Error| self.failed(&error);
        // Of two that issue at once the second one sees what the first one did.
        transaction.batch_execute("LOCK TABLE credential IN SHARE ROW EXCLUSIVE MODE").await.map_err(failed)?;
        for owner in transaction.query_typed(sql::OWNERS_OF_NAME, &[text(&user.as_str())]).await.map_err(failed)? {
            let (other_domain, other_address) = (self.get::<String>(&owner, 0)?, self.get::<String>(&owner, 1)?);
            if (&other_domain, &other_address) != (&domain, &address) {
                return Err(name_taken(&user, &other_domain, &other_address));
            }
        }
        let live =
            transaction.query_typed_one(sql::COUNT_LIVE, &[text(&domain), text(&address)]).await.map_err(failed)?;
        if usize::try_from(self.get::<i64>(&live, 0)?).unwrap_or(0) >= LIVE_SETS_MAX {
            return Err(too_many(&binding));
        }
        let name = user.as_str();
        let values = [text(&domain), text(&address), text(&name), text(&hash), number(&now)];
        let id: i64 = self.get(&transaction.query_typed_one(sql::INSERT, &values).await.map_err(failed)?, 0)?;
        let trail = [number(&now), text(&who), text(&"issued"), number(&id)];
        transaction.query_typed(sql::AUDIT, &trail).await.map_err(failed)?;
        transaction.query_typed(sql::CHANGE, &[]).await.map_err(failed)?;
        transaction.batch_execute(NOTIFY).await.map_err(failed)?;
        Ok(Credential { id, binding, user, issued_at: now, revoked_at: None })
    }

    pub(super) async fn revoke(&self, which: Which, who: String, now: i64) -> Result<Vec<Credential>, StoreError> {
        let work = async {
            let failed = |error: tokio_postgres::Error| self.failed(&error);
            let mut client = self.ready().await?;
            let transaction = client.transaction().await.map_err(failed)?;
            let rows = match &which {
                Which::Id(id) => transaction.query_typed(sql::REVOKE_ID, &[number(&now), number(id)]).await,
                Which::User(user) => {
                    transaction.query_typed(sql::REVOKE_USER, &[number(&now), text(&user.as_str())]).await
                }
                Which::Binding(binding) => {
                    let (domain, address) = binding.columns();
                    let values = [number(&now), text(&domain), text(&address)];
                    transaction.query_typed(sql::REVOKE_BINDING, &values).await
                }
            };
            let revoked = self.credentials(&rows.map_err(failed)?)?;
            for set in &revoked {
                let trail = [number(&now), text(&who), text(&"revoked"), number(&set.id)];
                transaction.query_typed(sql::AUDIT, &trail).await.map_err(failed)?;
            }
            transaction.query_typed(sql::CHANGE, &[]).await.map_err(failed)?;
            transaction.batch_execute(NOTIFY).await.map_err(failed)?;
            transaction.commit().await.map_err(failed)?;
            Ok(revoked)
        };
        self.in_time(work).await
    }

    pub(super) async fn list(&self, all: bool) -> Result<Vec<Credential>, StoreError> {
        let rows = self.query(if all { sql::LIST_ALL } else { sql::LIST_LIVE }, &[]).await?;
        self.credentials(&rows)
    }

    pub(super) async fn sets_of(&self, user: String) -> Result<Vec<(Credential, String)>, StoreError> {
        let rows = self.query(sql::SETS_OF, &[text(&user)]).await?;
        rows.iter().map(|row| Ok((self.row(row)?.try_into()?, self.get(row, 6)?))).collect()
    }

    pub(super) async fn logins_for(&self, address: Address) -> Result<Vec<UserName>, StoreError> {
        let (domain, whole) = (address.domain().as_str(), address.to_string());
        let rows = self.query(sql::LOGINS_FOR, &[text(&domain), text(&whole)]).await?;
        let name = |row| UserName::parse(&self.get::<String>(row, 0)?).map_err(|error| foreign(&error));
        rows.iter().map(name).collect()
    }

    pub(super) async fn events(&self, count: u32) -> Result<Vec<Event>, StoreError> {
        let rows = self.query(sql::EVENTS, &[number(&i64::from(count))]).await?;
        let event = |row| {
            let (domain, address): (String, String) = (self.get(row, 4)?, self.get(row, 5)?);
            Ok(Event {
                at: self.get(row, 0)?,
                who: self.get(row, 1)?,
                what: self.get(row, 2)?,
                credential: self.get(row, 3)?,
                binding: Binding::from_columns(&domain, &address).map_err(|error| foreign(&error))?,
                user: UserName::parse(&self.get::<String>(row, 6)?).map_err(|error| foreign(&error))?,
            })
        };
        rows.iter().rev().map(event).collect()
    }

    pub(super) async fn conversations(&self, keys: Vec<String>, since: i64) -> Result<Vec<Remembered>, StoreError> {
        let rows = self.query(sql::CONVERSATIONS, &[(&keys, Type::TEXT_ARRAY), number(&since)]).await?;
        let message = |row| {
            let authenticated = self.get::<i64>(row, 2)? != 0;
            Ok(Remembered { key: self.get(row, 0)?, thread: self.get(row, 1)?, authenticated })
        };
        rows.iter().map(message).collect()
    }

    pub(super) async fn remember(&self, messages: Vec<Remembered>, now: i64) -> Result<(), StoreError> {
        for Remembered { key, thread, authenticated } in &messages {
            let authenticated = i64::from(*authenticated);
            self.query(sql::REMEMBER, &[text(key), text(thread), number(&authenticated), number(&now)]).await?;
        }
        if let Some(message) = messages.first() {
            self.query(sql::TRIM, &[text(&message.thread)]).await?;
        }
        Ok(())
    }

    pub(super) async fn forget_conversations(&self, before: i64, most: u32) -> Result<u64, StoreError> {
        let old = self.query(&counted(sql::FORGET_BEFORE), &[number(&before)]).await?;
        let many = self.query(&counted(sql::FORGET_BEYOND), &[number(&i64::from(most))]).await?;
        let counts = old.iter().chain(&many).map(|row| self.get::<i64>(row, 0));
        Ok(counts.sum::<Result<i64, StoreError>>()?.unsigned_abs())
    }

    pub(super) async fn revision(&self) -> Result<i64, StoreError> {
        let rows = self.query(sql::REVISION, &[]).await?;
        rows.first().map_or_else(|| Err(foreign(&"no revision")), |row| self.get(row, 0))
    }

    /// Waits until somebody tells of a change, or a new connection is made.
    pub(super) async fn changed_within(&self, limit: Duration) {
        // Either way it is time to look.
        let _ = timeout(limit, self.changed.notified()).await;
    }

    /// Asks. A connection that fails or does not answer in time is given up.
    async fn query(&self, statement: &str, values: &[Value<'_>]) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        let client = self.client().await?;
        let asked = async { client.query_typed(statement, values).await.map_err(|error| self.failed(&error)) };
        match self.in_time(asked).await {
            Ok(rows) => Ok(rows),
            Err(error) => {
                let mut connection = self.connection.lock().await;
                if connection.client.as_ref().is_some_and(|current| Arc::ptr_eq(current, &client)) {
                    connection.client = None;
                }
                Err(error)
            }
        }
    }

    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let mut connection = self.connection.lock().await;
        if let Some(client) = connection.client.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        connection.client = None;
        if let Some((at, error)) = &connection.failed
            && at.elapsed() < REST
        {
            return Err(StoreError::Away(error.clone()));
        }
        let connect = async {
            let client = self.ready().await?;
            client.batch_execute(LISTEN).await.map_err(|error| self.failed(&error))?;
            Ok(client)
        };
        match self.in_time(connect).await {
            Ok(client) => {
                let client = Arc::new(client);
                *connection = Connection { client: Some(Arc::clone(&client)), failed: None };
                // What was told while nobody listened is not told again.
                self.changed.notify_one();
                Ok(client)
            }
            Err(error) => {
                connection.failed = Some((Instant::now(), error.to_string()));
                Err(error)
            }
        }
    }

    /// A new connection to tables that are as we know them.
    async fn ready(&self) -> Result<Client, StoreError> {
        let mut client = self.dial().await?;
        self.migrate(&mut client).await?;
        Ok(client)
    }

    /// A new connection. It ends when the client is dropped.
    async fn dial(&self) -> Result<Client, StoreError> {
        let mut config = self.config.clone();
        config.connect_timeout(patience_with_each(config.get_hosts().len())).application_name("deskmilter");
        if let Some(file) = &self.password_file {
            let password =
                file.read_password().map_err(|error| StoreError::Away(format!("store.password_file: {error}")))?;
            config.password(password.expose());
        }
        match &self.tls {
            None => {
                let (client, connection) = config.connect(NoTls).await.map_err(|error| self.failed(&error))?;
                self.drive(connection);
                Ok(client)
            }
            Some(tls) => {
                let tls = Verified(Arc::clone(tls));
                let (client, connection) = config.connect(tls).await.map_err(|error| self.failed(&error))?;
                self.drive(connection);
                Ok(client)
            }
        }
    }

    /// Moves the octets of a connection, in a task of its own.
    fn drive<S, T>(&self, mut connection: tokio_postgres::Connection<S, T>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let changed = Arc::clone(&self.changed);
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    changed.notify_one();
                }
            }
        });
    }

    async fn migrate(&self, client: &mut Client) -> Result<(), StoreError> {
        let failed = |error: tokio_postgres::Error| self.failed(&error);
        if self.version(client).await? == Some(sql::VERSION) {
            return Ok(());
        }
        let transaction = client.transaction().await.map_err(failed)?;
        transaction.batch_execute(MIGRATION_LOCK).await.map_err(failed)?;
        let make = "CREATE TABLE IF NOT EXISTS deskmilter_version (version BIGINT NOT NULL)";
        transaction.batch_execute(make).await.map_err(failed)?;
        let row = transaction.query_typed_opt(sql::TABLES_VERSION, &[]).await.map_err(failed)?;
        let from = row.map_or(Ok(0), |row| self.get::<i64>(&row, 0))?;
        if from > sql::VERSION {
            return Err(too_new(from));
        }
        for migration in sql::POSTGRES_MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0)) {
            transaction.batch_execute(migration).await.map_err(failed)?;
        }
        transaction.batch_execute("DELETE FROM deskmilter_version").await.map_err(failed)?;
        let insert = "INSERT INTO deskmilter_version (version) VALUES ($1)";
        transaction.query_typed(insert, &[number(&sql::VERSION)]).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// The version of the tables; `None` where there are none.
    async fn version(&self, client: &Client) -> Result<Option<i64>, StoreError> {
        let failed = |error: tokio_postgres::Error| self.failed(&error);
        let there = "SELECT to_regclass('deskmilter_version') IS NOT NULL";
        let there = client.query_typed_one(there, &[]).await.map_err(failed)?;
        if !self.get::<bool>(&there, 0)? {
            return Ok(None);
        }
        let row = client.query_typed_opt(sql::TABLES_VERSION, &[]).await.map_err(failed)?;
        row.map(|row| self.get(&row, 0)).transpose()
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = |_| StoreError::Away(format!("{self}: no answer within {} s", PATIENCE.as_secs()));
        timeout(PATIENCE, work).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    fn credentials(&self, rows: &[tokio_postgres::Row]) -> Result<Vec<Credential>, StoreError> {
        rows.iter().map(|row| self.row(row)?.try_into()).collect()
    }

    fn row(&self, row: &tokio_postgres::Row) -> Result<Row, StoreError> {
        Ok(Row {
            id: self.get(row, 0)?,
            domain: self.get(row, 1)?,
            address: self.get(row, 2)?,
            user: self.get(row, 3)?,
            issued_at: self.get(row, 4)?,
            revoked_at: self.get(row, 5)?,
        })
    }

    fn get<'r, T: tokio_postgres::types::FromSql<'r>>(
        &self,
        row: &'r tokio_postgres::Row,
        column: usize,
    ) -> Result<T, StoreError> {
        row.try_get(column).map_err(|error| self.failed(&error))
    }

    /// What the server said, or why it said nothing: the library's own word is only "db error".
    fn failed(&self, error: &tokio_postgres::Error) -> StoreError {
        let reason = match error.as_db_error() {
            Some(said) => said.message().to_owned(),
            None => {
                let source = std::error::Error::source(error);
                source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
            }
        };
        StoreError::Away(format!("{self}: {reason}"))
    }
}

/// How long one of `hosts`, or an address of it, may take to be reached: one that is gone without a word leaves time for the one that
/// took its place.
fn patience_with_each(hosts: usize) -> Duration {
    let shares = u32::try_from(hosts).unwrap_or(u32::MAX).saturating_add(1);
    PATIENCE.checked_div(shares).unwrap_or(PATIENCE)
}

/// A deletion that tells how many rows it took.
fn counted(deletion: &str) -> String {
    format!("WITH gone AS ({deletion} RETURNING 1) SELECT count(*) FROM gone")
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("name", &self.name).finish_non_exhaustive()
    }
}
