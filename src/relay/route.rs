//! A checked route: where to, how encrypted, whom to trust, as whom. Made once at start or reload, without any network.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::certificate::Expiry;
use super::credential::Credential;
use crate::config::{Endpoint, Host, HostCredential, Tls};
use crate::mail::Domain;

/// Octets of a CA file at most: ten times the size of the usual system bundle.
const CA_FILE_MAX: u64 = 4 * 1024 * 1024;

/// Why a route cannot be used. Each message names the object and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// `host` is neither a host name nor an address.
    #[error("{host:?} is neither a host name nor an IP address; correct endpoint.host or host.host")]
    Host {
        /// As configured.
        host: String,
    },
    /// The CA file cannot be read.
    #[error("{}: {error}; ca_file (endpoint.ca_file, host.ca_file, delivery.ca_file) must be a PEM file that deskmilter can read", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: String,
    },
    /// The system has no certification authorities.
    #[error(
        "no certification authorities found on this system ({error}); install ca-certificates or set endpoint.ca_file, host.ca_file or delivery.ca_file"
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
        /// The remote server.
        host: String,
    },
    /// A user name that AUTH cannot carry.
    #[error(
        "user name {username:?} is empty or holds a control character; correct it in endpoint.credentials or host.credentials"
    )]
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
    /// The remote server's name in the spelling of DNS, or its address.
    pub host: Arc<str>,
    pub port: u16,
    /// What the certificate must be valid for.
    pub server_name: ServerName<'static>,
    pub encryption: Tls,
    pub tls: Arc<ClientConfig>,
    /// Our name in EHLO.
    pub hello: Domain,
    pub credentials: Vec<Credential>,
    pub remote: Remote,
    /// When the certificate expires that was seen last.
    pub expiry: Expiry,
}

/// What the remote server is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remote {
    /// A ticket endpoint, on the company side.
    Endpoint,
    /// A company host, on the desk side.
    Host,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Endpoint => "endpoint",
            Self::Host => "company host",
        })
    }
}

/// Where to and how, before it is checked.
struct Target<'a> {
    remote: Remote,
    host: &'a str,
    port: u16,
    tls: Tls,
    ca_file: Option<&'a Path>,
}

/// The certification authorities that routes trust, read once for all routes that are made together: the system's are more than
/// a hundred, and read anew for each of thousands of routes they would take minutes and gigabytes.
#[derive(Debug, Default)]
pub struct Authorities {
    /// By `ca_file`; the system's have none.
    read: HashMap<Option<PathBuf>, Arc<ClientConfig>>,
}

impl Authorities {
    /// TLS as a client that trusts those in `ca_file`, or the system's.
    pub(crate) fn trusted(&mut self, ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, RelayError> {
        let ca_file = ca_file.map(Path::to_owned);
        if let Some(tls) = self.read.get(&ca_file) {
            return Ok(Arc::clone(tls));
        }
        let tls = client_tls(ca_file.as_deref())?;
        self.read.insert(ca_file, Arc::clone(&tls));
        Ok(tls)
    }
}

impl Route {
    /// To a ticket endpoint.
    pub fn to_endpoint(
        connector: &str,
        endpoint: &Endpoint,
        hello: &Domain,
        authorities: &mut Authorities,
    ) -> Result<Self, RelayError> {
        let Endpoint { host, port, tls, ca_file, credentials, .. } = endpoint;
        let target = Target { remote: Remote::Endpoint, host, port: *port, tls: *tls, ca_file: ca_file.as_deref() };
        Self::check(connector, &target, credentials.iter().map(Credential::of_endpoint).collect(), hello, authorities)
    }

    /// To a company host, as one of its accounts.
    pub fn to_host(
        connector: &str,
        host: &Host,
        credential: &HostCredential,
        hello: &Domain,
        authorities: &mut Authorities,
    ) -> Result<Self, RelayError> {
        let Host { host, port, tls, ca_file, .. } = host;
        let target = Target { remote: Remote::Host, host, port: *port, tls: *tls, ca_file: ca_file.as_deref() };
        Self::check(connector, &target, vec![Credential::of_host(credential)], hello, authorities)
    }

    /// Checks what can be checked without contacting anyone.
    fn check(
        connector: &str,
        target: &Target<'_>,
        credentials: Vec<Credential>,
        hello: &Domain,
        authorities: &mut Authorities,
    ) -> Result<Self, RelayError> {
        let host_error = || RelayError::Host { host: target.host.to_owned() };
        let host = match target.host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => Domain::parse(target.host).map_err(|_| host_error())?.as_str().to_owned(),
        };
        if credentials.is_empty() {
            return Err(RelayError::NoCredentials { host });
        }
        for set in &credentials {
            if set.username.is_empty() || set.username.chars().any(char::is_control) {
                return Err(RelayError::Username { username: set.username.clone() });
            }
        }
        Ok(Self {
            connector: connector.to_owned(),
            server_name: ServerName::try_from(host.clone()).map_err(|_| host_error())?,
            host: host.into(),
            port: target.port,
            encryption: target.tls,
            tls: authorities.trusted(target.ca_file)?,
            hello: hello.clone(),
            credentials,
            remote: target.remote,
            expiry: Expiry::default(),
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
    // Opening a FIFO would wait for somebody to write into it, and with it every further reload.
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(|error| error.to_string())?;
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("not a regular file".to_owned());
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_fifo_or_folder_in_the_place_of_the_authorities_is_refused_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("ca.pem");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let also = folder.path().to_owned();
        std::thread::spawn(move || tell.send([roots_from(&fifo).err(), roots_from(&also).err()]));
        let errors = told.recv_timeout(Duration::from_secs(10)).expect("it waits for a writer");
        assert_eq!(errors, [Some("not a regular file".to_owned()), Some("not a regular file".to_owned())]);
    }
}
