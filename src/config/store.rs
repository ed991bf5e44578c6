//! `[store]`, `[credentials]`, `[conversations]`, `[auth]` and `[lookup]`: issued credentials, where they are kept, and who may have
//! them checked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Listen, SecretFile, SocketAccess};

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Where it is.
    pub url: StoreUrl,
    /// The password of a PostgreSQL.
    pub password_file: Option<SecretFile>,
    /// Certification authorities to trust for a PostgreSQL instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// `store.url`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A file of SQLite.
    Sqlite(PathBuf),
    /// A PostgreSQL.
    Postgres(PostgresServer),
}

/// Where a PostgreSQL is. TLS is required, unless it is reached by a unix socket or, said expressly, over the loopback interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresServer {
    /// As it was written. Without a password.
    text: String,
    pub(crate) config: Box<tokio_postgres::Config>,
}

impl PostgresServer {
    /// Reads `postgresql://user@host:port/database`, as libpq does.
    ///
    /// # Errors
    /// What is wrong, and what to write instead; never any part of the text, for a password may be in it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        use tokio_postgres::config::{Host, SslMode};
        // The library knows no more than that TLS is required; that certificates are verified in full is our doing.
        let plain = text.replace("sslmode=verify-full", "sslmode=require");
        let said = text.contains("sslmode=");
        let mut config: tokio_postgres::Config =
            plain.parse().map_err(|_| "not a URL of a PostgreSQL; write postgresql://user@host:5432/database")?;
        if config.get_password().is_some() {
            return Err(
                "a password does not belong here; write it into a file (mode 0600) and name that as password_file",
            );
        }
        if config.get_hosts().is_empty() {
            return Err("it names no host; write postgresql://user@host:5432/database, or ?host=/run/postgresql");
        }
        if config.get_user().is_none() {
            return Err("it names no user; write postgresql://user@host:5432/database");
        }
        let unix = |host: &Host| matches!(host, Host::Unix(_));
        let loopback = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback())
            }
        };
        let hosts = config.get_hosts();
        let mode = match config.get_ssl_mode() {
            _ if hosts.iter().all(unix) => SslMode::Disable,
            SslMode::Disable
                if hosts.iter().all(loopback) && config.get_hostaddrs().iter().all(|ip| ip.is_loopback()) =>
            {
                SslMode::Disable
            }
            SslMode::Require if said => SslMode::Require,
            _ if !said => SslMode::Require,
            _ => {
                return Err(
                    "no connection over a network goes without TLS; leave sslmode out: the certificate is verified in full",
                );
            }
        };
        config.ssl_mode(mode);
        Ok(Self { text: text.to_owned(), config: Box::new(config) })
    }
}

impl fmt::Display for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(server) => server.fmt(f),
        }
    }
}

/// `[credentials]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Two live sets of one binding are told of after so long.
    pub overlap_warning: Duration,
}

/// `[conversations]`: what is remembered of mail that comes to the desk side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversations {
    /// For how long after a message was last seen.
    pub lifetime: Duration,
    /// Messages at most; the ones seen longest ago go first.
    pub messages: usize,
}

/// `[auth]`: logins checked for an MTA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Where the MTA finds us. TCP on the loopback interface alone: passwords come this way.
    pub listen: Vec<Listen>,
    /// Permissions of unix sockets.
    pub access: SocketAccess,
    /// Argon2 computations at a time.
    pub computations: usize,
}

/// `[lookup]`: tables for an MTA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Where the MTA finds us.
    pub listen: Vec<Listen>,
    /// Permissions of unix sockets.
    pub access: SocketAccess,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::SslMode;

    #[test]
    fn no_postgresql_is_reached_over_a_network_without_tls() {
        let mode = |url: &str| PostgresServer::parse(url).map(|server| server.config.get_ssl_mode());
        for url in [
            "postgresql://deskmilter@db.acme.example/deskmilter",
            "postgres://deskmilter@db.acme.example:6432/deskmilter?sslmode=verify-full",
            "postgresql://deskmilter@127.0.0.1/deskmilter",
            "postgresql://deskmilter@db1.acme.example,db2.acme.example/deskmilter?target_session_attrs=read-write",
        ] {
            assert_eq!(mode(url), Ok(SslMode::Require), "{url}");
        }
        for url in [
            "postgresql:///deskmilter?host=/run/postgresql&user=deskmilter",
            "postgresql://deskmilter@127.0.0.1/deskmilter?sslmode=disable",
            "postgresql://deskmilter@localhost/deskmilter?sslmode=disable",
        ] {
            assert_eq!(mode(url), Ok(SslMode::Disable), "{url}");
        }
        for url in [
            "postgresql://deskmilter@db.acme.example/deskmilter?sslmode=disable",
            "postgresql://deskmilter@db.acme.example/deskmilter?sslmode=prefer",
            "postgresql://deskmilter@db.acme.example/deskmilter?sslmode=verify-ca",
            "postgresql://deskmilter@localhost,db.acme.example/deskmilter?sslmode=disable",
            "postgresql://deskmilter@localhost/deskmilter?sslmode=disable&hostaddr=192.0.2.1",
            "postgresql://db.acme.example/deskmilter",
            "postgresql:///deskmilter?user=a",
            "mysql://x",
        ] {
            assert!(mode(url).is_err(), "{url}");
        }
        let error = PostgresServer::parse("postgresql://deskmilter:s3cret@db.acme.example/deskmilter").unwrap_err();
        assert!(error.contains("password_file") && !error.contains("s3cret"));
    }
}
