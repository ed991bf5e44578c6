//! A ticket system for trying things out: an SMTP service that behaves like Zendesk's authenticated connector and files tickets in
//! a folder, answers to them in Zendesk's shape, and an end user's provider that says what it saw of them.
//!
//! In: SMTP with STARTTLS (or implicit TLS) and AUTH, or forwarded mail without AUTH; messages that a mail server shows to the
//! provider's milter. Out: one folder per ticket, with the message as it was received and `ticket.json` beside it; notifications
//! and verification mail by the relay, over LMTP or SMTP; a report.
//!
//! It stands in for somebody else's systems. The endpoint (`serve`, `tickets`, `verification`) must not know connectors, the
//! pipeline or the relay: what it shows is what any endpoint would see. `outbox` alone sends. `provider` judges with the pipeline's
//! methods, without its rules.

mod archive;
mod authority;
mod credentials;
mod fault;
mod letter;
mod notify;
mod outbox;
mod provider;
mod report;
mod serve;
mod tickets;
mod verification;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Secret;
use crate::mail::Domain;

pub use fault::{Fault, FaultError};
pub use notify::Notification;
pub use outbox::{Replied, Sent, Way};
pub use provider::{Delivery, Dkim, Method, Provider, ProviderOptions};
pub use report::{Check, Judged, Report, Seen};
pub use tickets::{AuthStatus, Passage, Ticket, Update};
pub use verification::{State, Status, Verification, verifications};

use credentials::Credentials;
use fault::Faults;
use serve::Endpoint;
use tickets::Tickets;
use verification::Verifications;

/// What a sandbox is started with.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// The state folder; made when missing.
    pub directory: PathBuf,
    /// Where to listen with STARTTLS. Port 0 takes any.
    pub listen: SocketAddr,
    /// Where to listen with implicit TLS.
    pub listen_tls: Option<SocketAddr>,
    /// A name for the certificate and the greeting, besides `localhost`.
    pub hostname: Domain,
    /// The domains that are served. At least one.
    pub accounts: Vec<Account>,
    /// What goes wrong, for rehearsals.
    pub faults: Vec<Fault>,
}

/// A domain with its credentials.
#[derive(Debug, Clone)]
pub struct Account {
    /// The domain that the credentials are bound to.
    pub domain: Domain,
    /// The user name; unique among the accounts.
    pub username: String,
    /// Where a new password is written, mode 0600. A file that is already there is taken for the password instead.
    pub password_file: Option<PathBuf>,
}

/// Why a sandbox did not start: what happened to which object, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SandboxError(String);

impl SandboxError {
    fn at(path: &Path, error: impl std::fmt::Display) -> Self {
        Self(format!("{}: {error}", path.display()))
    }
}

/// A running sandbox. Ends when told by [`Self::stop`], or when dropped.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    ca_file: PathBuf,
    directory: PathBuf,
    accounts: Vec<(Account, Option<Secret>)>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Sandbox {
    /// Starts a sandbox: state folder, certificates, credentials, listeners.
    ///
    /// # Errors
    /// Names the file or address and the remedy.
    pub async fn start(options: SandboxOptions) -> Result<Self, SandboxError> {
        let directory = std::path::absolute(&options.directory).map_err(|e| SandboxError::at(&options.directory, e))?;
        let (names, accounts, folder) = (options.hostname.clone(), options.accounts.clone(), directory.clone());
        let prepare = move || {
            // Clients must reach ca.pem in it; what is secret has a mode of its own.
            tickets::make_directory(&folder, 0o755).map_err(|error| SandboxError::at(&folder, error))?;
            let tls = authority::server_config(&folder, &names)?;
            let (credentials, issued) = Credentials::open(&folder, &accounts)?;
            let tickets = Tickets::open(&folder.join("tickets"))?;
            Ok((tls, credentials, issued, tickets))
        };
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let (tls, credentials, issued, tickets) = prepared.map_err(|error| SandboxError(error.to_string()))??;

        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let endpoint = Arc::new(Endpoint {
            hostname: options.hostname.to_string(),
            tls: tokio_rustls::TlsAcceptor::from(tls),
            domains: options.accounts.iter().map(|account| account.domain.clone()).collect(),
            credentials,
            tickets: Arc::new(tickets),
            verifications: Arc::new(Verifications::new(&directory)),
            faults: Faults::new(options.faults),
            shutdown: shutdown.clone(),
        });
        let (listener, address) = bind(options.listen).await?;
        tasks.spawn(serve::serve(listener, Arc::clone(&endpoint), false, tasks.clone()));
        let tls_address = match options.listen_tls {
            Some(listen) => {
                let (listener, address) = bind(listen).await?;
                tasks.spawn(serve::serve(listener, endpoint, true, tasks.clone()));
                Some(address)
            }
            None => None,
        };
        tasks.close();
        let accounts = options.accounts.into_iter().zip(issued).collect();
        Ok(Self { address, tls_address, ca_file: authority::ca_file(&directory), directory, accounts, shutdown, tasks })
    }

    /// Where it listens with STARTTLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens with implicit TLS.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// The certification authority that its clients must trust, PEM.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// The folder with a folder for each ticket.
    pub fn tickets(&self) -> PathBuf {
        self.directory.join("tickets")
    }

    /// The accounts, each with its password if it was made at this start; later nobody knows it.
    pub fn accounts(&self) -> &[(Account, Option<Secret>)] {
        &self.accounts
    }

    /// The `[connector.endpoint]` table that connects deskmilter to this sandbox for `account`.
    pub fn connector_endpoint(&self, account: &Account) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let path = |path: &Path| quoted(&path.to_string_lossy());
        let password_file = match &account.password_file {
            Some(file) => path(&std::path::absolute(file).unwrap_or_else(|_| file.clone())),
            None => quoted(&format!("{}.password", account.domain)),
        };
        format!(
            "[connector.endpoint]\nhost = \"localhost\"\nport = {}\ntls = \"starttls\"\nca_file = {}\n\
             credentials = [{{ username = {}, password_file = {password_file} }}]\n",
            self.address.port(),
            path(&self.ca_file),
            quoted(&account.username),
        )
    }

    /// Ends it: idle sessions are sent away, messages on their way are filed.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SandboxError> {
    let failed = |error| SandboxError(format!("cannot listen on {address}: {error}; choose another with --listen"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
