//! What a program that only hands over mail needs of the configuration: which socket is for which domain. It runs as the
//! ticket system's user, who may read the configuration file but none of the secrets that it names.

use std::path::{Path, PathBuf};

use super::raw;
use crate::mail::{Address, Domain};

/// The socket of a desk-side connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmissionSocket {
    /// The connector's name.
    pub connector: String,
    /// Whose mail it takes.
    pub domain: Domain,
    /// The ticket system's own domain, whose mail is refused there with the reason.
    pub native_domain: Option<Domain>,
    /// The connector's support addresses.
    pub addresses: Vec<Address>,
    /// Where the daemon listens.
    pub path: PathBuf,
}

impl SubmissionSocket {
    /// The sockets of all desk-side connectors in a configuration file. What is wrong elsewhere in the file is for
    /// `deskmilter check` to tell.
    ///
    /// # Errors
    /// The file cannot be read, or is not a configuration.
    pub fn all(file: &Path) -> Result<Vec<Self>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| failed(&error))?;
        let raw: raw::Raw = toml::from_str(&text).map_err(|error| failed(&error.message()))?;
        let Some(transport) = raw.transport else { return Ok(Vec::new()) };
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let directory = file.parent().unwrap_or(Path::new("/")).join(transport.directory.get_ref());
        let sockets =
            raw.connector.into_iter().map(toml::Spanned::into_inner).filter(|connector| connector.host.is_some());
        Ok(sockets
            .filter_map(|connector| {
                let addresses = connector.addresses.into_inner().into_iter();
                Some(Self {
                    domain: Domain::parse(connector.domain.get_ref()).ok()?,
                    native_domain: connector.native_domain.and_then(|domain| Domain::parse(domain.get_ref()).ok()),
                    addresses: addresses.filter_map(|address| Address::parse(address.get_ref()).ok()).collect(),
                    path: directory.join(format!("{}.sock", connector.name.get_ref())),
                    connector: connector.name.into_inner(),
                })
            })
            .collect())
    }
}
