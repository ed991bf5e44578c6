//! The two stores.

use std::path::Path;

use deskmilter::config::{PostgresServer, StoreConfig, StoreUrl};
use support::PrivatePostgres;

/// A place for a store.
pub enum Place {
    Sqlite(tempfile::TempDir),
    Postgres(Box<PrivatePostgres>),
}

impl Place {
    pub fn sqlite() -> Self {
        Self::Sqlite(support::folder("store"))
    }

    pub fn postgres() -> Self {
        Self::Postgres(Box::new(PrivatePostgres::start()))
    }

    /// What the configuration calls it.
    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite:{}", folder.path().join("test.db").display()),
            Self::Postgres(server) => server.url(),
        }
    }

    pub fn config(&self) -> StoreConfig {
        let url = match self {
            Self::Sqlite(folder) => StoreUrl::Sqlite(folder.path().join("test.db")),
            Self::Postgres(server) => StoreUrl::Postgres(PostgresServer::parse(&server.url()).unwrap()),
        };
        StoreConfig { url, password_file: None, ca_file: None }
    }

    /// Takes it away.
    pub fn stop(&mut self) {
        match self {
            Self::Sqlite(folder) => move_all(folder.path(), ".db", ".gone"),
            Self::Postgres(server) => server.stop(),
        }
    }

    /// Brings it back.
    pub fn resume(&mut self) {
        match self {
            Self::Sqlite(folder) => move_all(folder.path(), ".gone", ".db"),
            Self::Postgres(server) => server.resume(),
        }
    }

    /// Every octet that it keeps.
    pub fn content(&self) -> Vec<u8> {
        match self {
            Self::Sqlite(folder) => {
                let files = std::fs::read_dir(folder.path()).unwrap();
                files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
            }
            Self::Postgres(server) => format!("{}{}", server.dump(), server.log()).into_bytes(),
        }
    }
}

/// Renames the file, which is what counts; what SQLite keeps beside it stays and fits again when it is back.
fn move_all(folder: &Path, from: &str, to: &str) {
    std::fs::rename(folder.join(format!("test{from}")), folder.join(format!("test{to}"))).unwrap();
}
