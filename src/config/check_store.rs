//! The rules of the store and of the services that stand on it.

use std::path::Path;

use toml::Spanned;

use super::check::Check;
use super::{Auth, Credentials, Listen, Lookup, PostgresServer, SecretFile, SocketAccess, StoreConfig, StoreUrl, raw};
use crate::store::default_file;

impl Check<'_, '_> {
    pub(super) fn store(&mut self, raw: raw::Store, state_directory: &Path) -> Option<StoreConfig> {
        let url = match raw.url {
            None => StoreUrl::Sqlite(default_file(state_directory)),
            Some(url) => self.store_url(&url)?,
        };
        let postgres = matches!(url, StoreUrl::Postgres(_));
        for (key, value) in [("store.password_file", &raw.password_file), ("store.ca_file", &raw.ca_file)] {
            if let Some(value) = value.as_ref().filter(|_| !postgres) {
                self.note(value.span(), key, "a file of SQLite has none; remove the key, or name a PostgreSQL as url");
            }
        }
        let password_file = raw.password_file.map(|path| {
            let file = SecretFile::owned_by(self.path(path.get_ref()), self.owner);
            if let Err(error) = file.read_password() {
                self.note(path.span(), "store.password_file", error.to_string());
            }
            file
        });
        let ca_file = raw.ca_file.map(|path| self.path(path.get_ref()));
        Some(StoreConfig { url, password_file, ca_file })
    }

    fn store_url(&mut self, url: &Spanned<String>) -> Option<StoreUrl> {
        let text = url.get_ref();
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.starts_with(':') {
                self.note(url.span(), "store.url", "it names no file; write sqlite:/var/lib/deskmilter/deskmilter.db");
                return None;
            }
            return Some(StoreUrl::Sqlite(self.path(path)));
        }
        if text.starts_with("postgresql://") || text.starts_with("postgres://") {
            return match PostgresServer::parse(text) {
                Ok(server) => Some(StoreUrl::Postgres(server)),
                Err(problem) => {
                    self.note(url.span(), "store.url", problem);
                    None
                }
            };
        }
        self.note(url.span(), "store.url", "not a store; write sqlite:FILE or postgresql://user@host:5432/database");
        None
    }

    pub(super) fn credentials(&mut self, raw: raw::Credentials) -> Credentials {
        let overlap_warning =
            self.duration("credentials.overlap_warning", raw.overlap_warning, 7 * 86_400, 60, 365 * 86_400);
        Credentials { overlap_warning }
    }

    pub(super) fn auth(&mut self, raw: raw::Auth) -> Option<Auth> {
        let spans: Vec<_> = raw.listen.get_ref().iter().map(Spanned::span).collect();
        let (listen, access) = self.service("auth", raw.listen, raw.socket_group, raw.socket_mode)?;
        for (address, span) in listen.iter().zip(spans) {
            if let Listen::Inet(address) = address
                && !address.ip().to_canonical().is_loopback()
            {
                self.note(
                    span,
                    "auth.listen",
                    "passwords come this way in the clear; listen on a unix socket or 127.0.0.1",
                );
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Some(Auth { listen, access, computations: self.count("auth.computations", raw.computations, cores, 1, 1_000) })
    }

    pub(super) fn lookup(&mut self, raw: raw::Lookup) -> Option<Lookup> {
        let (listen, access) = self.service("lookup", raw.listen, raw.socket_group, raw.socket_mode)?;
        Some(Lookup { listen, access })
    }

    /// Where a service listens, and who may connect.
    pub(super) fn service(
        &mut self,
        section: &str,
        listen: Spanned<Vec<Spanned<String>>>,
        group: Option<Spanned<String>>,
        mode: Option<Spanned<String>>,
    ) -> Option<(Vec<Listen>, SocketAccess)> {
        let key = format!("{section}.listen");
        if listen.get_ref().is_empty() {
            self.note(listen.span(), &key, format!("empty; name at least one socket, or leave [{section}] out"));
        }
        let mut addresses = Vec::new();
        for text in listen.into_inner() {
            match text.get_ref().parse::<Listen>() {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    self.note(text.span(), &key, format!("{:?} is {error}", text.get_ref()));
                    return None;
                }
            }
        }
        let access = self.socket_access(section, group, mode)?;
        Some((addresses, access))
    }
}
