//! A checked route: where to, how encrypted, whom to trust, as whom. Made once at start or reload, without any network.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Connector, CredentialSet, Endpoint, Tls};
use crate::mail::Domain;

/// Octets of a CA file at most: ten times the size of the usual system bundle.
const CA_FILE_MAX: u64 = 4 * 1024 * 1024;

/// Why a route cannot be used. Each message names the object and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// `endpoint.host` is neither a host name nor an address.
    #[error("endpoint host {host:?} is neither a host name nor an IP address; correct endpoint.host")]
    Host {
        /// As configured.
        host: String,
    },
    /// The CA file cannot be read.
    #[error("{}: {error}; endpoint.ca_file must be a PEM file that deskmilter can read", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: String,
    },
    /// The system has no certification authorities.
    #[error(
        "no certification authorities found on this system ({error}); install ca-certificates or set endpoint.ca_file"
    )]
    SystemRoots {
        /// What was met on the way.
        error: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// No credential set at all.
    #[error("no credentials for {host}; add an entry to endpoint.credentials")]
    NoCredentials {
        /// The endpoint.
        host: String,
    },
    /// A user name that AUTH cannot carry.
    #[error("user name {username:?} is empty or holds a control character; correct it in endpoint.credentials")]
    Username {
        /// As configured.
        username: String,
    },
}

/// Where to, how encrypted, whom to trust, as whom.
#[derive(Debug)]
pub(super) struct Route {
    /// The connector's name, for the log.
    pub connector: String,
    /// The endpoint's host in the spelling of DNS, or its address.
    pub host: Arc<str>,
    pub port: u16,
    /// What the certificate must be valid for.
    pub server_name: ServerName<'static>,
    pub encryption: Tls,
    pub tls: Arc<ClientConfig>,
    /// Our name in EHLO.
    pub hello: Domain,
    pub credentials: Vec<CredentialSet>,
}

impl Route {
    /// Checks what can be checked without contacting anyone.
    pub fn check(connector: &Connector, endpoint: &Endpoint, hello: &Domain) -> Result<Self, RelayError> {
        let host_error = || RelayError::Host { host: endpoint.host.clone() };
        let host = match endpoint.host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => Domain::parse(&endpoint.host).map_err(|_| host_error())?.as_str().to_owned(),
        };
        if endpoint.credentials.is_empty() {
            return Err(RelayError::NoCredentials { host });
        }
        for set in &endpoint.credentials {
            if set.username.is_empty() || set.username.chars().any(char::is_control) {
                return Err(RelayError::Username { username: set.username.clone() });
            }
        }
        let tls = client_tls(endpoint.ca_file.as_deref())?;
        Ok(Self {
            connector: connector.name.clone(),
            server_name: ServerName::try_from(host.clone()).map_err(|_| host_error())?,
            host: host.into(),
            port: endpoint.port,
            encryption: endpoint.tls,
            tls,
            hello: hello.clone(),
            credentials: endpoint.credentials.clone(),
        })
    }
}

/// TLS 1.2 or newer as a client that trusts the authorities in `ca_file`, or the system's.
///
/// # Errors
/// There are none that can be used.
pub fn client_tls(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, RelayError> {
    let roots = match ca_file {
        Some(path) => roots_from(path).map_err(|error| RelayError::CaFile { path: path.to_owned(), error })?,
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(tls))
}

fn roots_from(path: &Path) -> Result<RootCertStore, String> {
    let mut pem = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(CA_FILE_MAX).read_to_end(&mut pem).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a certificate in it is not usable: {error}"))?;
    }
    if roots.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, RelayError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let error = found.errors.first().map_or_else(|| "none installed".to_owned(), ToString::to_string);
        return Err(RelayError::SystemRoots { error });
    }
    Ok(roots)
}
