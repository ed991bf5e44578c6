//! The end user's provider: a milter at a real mail server that judges what comes in and keeps it for the report. It takes
//! everything and changes nothing.
//!
//! It knows neither the sandbox's tickets nor deskmilter's configuration: it judges as any provider would.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outbox::{json, read_json};
use super::{SandboxError, archive};
use crate::attach::milter::{self, message::MessageLimits};
use crate::config::Listen;
use crate::mail::{Budget, Connection, Domain, Envelope, Mail, Path as MailPath, Reply, Spool, Verdict};
use crate::pipeline::{Examination, Examiner, Judge, Outcome};

/// Bounds on one message: 50 MiB, of which 4 MiB are header section.
const MESSAGE_LIMITS: MessageLimits = MessageLimits { message_size: 50 * 1024 * 1024, header_size: 4 * 1024 * 1024 };
/// Connections from the mail server at a time.
const CONNECTIONS_MAX: usize = 100;
/// Octets of memory for messages that are judged (128 MiB).
const MEMORY: u64 = 128 * 1024 * 1024;

/// What a provider is started with.
#[derive(Debug, Clone)]
pub struct ProviderOptions {
    /// The sandbox's state folder; what was delivered goes into `delivered/` of it.
    pub directory: PathBuf,
    /// Where the mail server finds the milter.
    pub milter: Listen,
    /// Name servers; empty means the system's.
    pub name_servers: Vec<SocketAddr>,
    /// The provider's own name.
    pub hostname: Domain,
}

/// A message as it came to the end user's server, as in `delivery.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivery {
    /// Its number, also its folder's name.
    #[serde(skip)]
    pub number: u64,
    /// The address that handed it over.
    pub client: String,
    /// What that host said in EHLO.
    pub helo: String,
    /// The envelope's sender.
    pub sender: String,
    /// The envelope's recipients.
    pub recipients: Vec<String>,
    /// The TLS version, empty for plain text.
    pub tls: String,
    /// When, RFC 3339.
    pub received: String,
    /// SPF of the client's address.
    pub spf: Method,
    /// DKIM, topmost signature first.
    pub dkim: Vec<Dkim>,
    /// ARC.
    pub arc: Method,
    /// DMARC, with the domain of the From field.
    pub dmarc: Method,
}

/// A method's result in the words of RFC 8601.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Method {
    /// `pass`, `fail`, `none` ...
    pub result: String,
    /// The domain that was judged.
    pub domain: String,
    /// The policy or the reason, empty when there is none.
    pub detail: String,
}

/// A DKIM signature and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dkim {
    /// `pass`, `fail`, `permerror` ...
    pub result: String,
    /// `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// `a=`.
    pub algorithm: String,
    /// Why it did not pass, empty otherwise.
    pub reason: String,
}

/// A running provider. Ends when told by [`Self::stop`], or when dropped.
#[derive(Debug)]
pub struct Provider {
    milter: Listen,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Provider {
    /// Starts the milter.
    ///
    /// # Errors
    /// Names the file or address and the remedy.
    pub async fn start(options: ProviderOptions) -> Result<Self, SandboxError> {
        let directory = options.directory.join("delivered");
        super::tickets::make_directory(&directory, 0o700).map_err(|error| SandboxError::at(&directory, error))?;
        let examiner =
            Examiner::new(&options.name_servers, &options.hostname, Budget::new(MEMORY)).map_err(SandboxError)?;
        let spool = Spool::new(&directory);
        let watcher = Arc::new(ArcSwap::from_pointee(Watcher { examiner, directory }));
        let service = Arc::new(milter::Service::bounded(watcher, spool, MESSAGE_LIMITS, CONNECTIONS_MAX));
        let (listener, bound) = listen(&options.milter).await?;
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(milter::serve(listener, service, shutdown.clone(), tasks.clone()));
        tasks.close();
        Ok(Self { milter: bound, shutdown, tasks })
    }

    /// Where the mail server finds it, as `smtpd_milters` wants it.
    pub fn milter(&self) -> &Listen {
        &self.milter
    }

    /// Ends it: messages on their way are judged first.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.wait().await;
        if let Listen::Unix(path) = &self.milter {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn listen(at: &Listen) -> Result<(milter::Listener, Listen), SandboxError> {
    let failed = |error| SandboxError(format!("cannot listen on {at}: {error}; choose another with --milter"));
    match at {
        Listen::Unix(path) => {
            let listener = UnixListener::bind(path).map_err(failed)?;
            Ok((milter::Listener::Unix(listener), at.clone()))
        }
        Listen::Inet(address) => {
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            Ok((milter::Listener::Tcp(listener), Listen::Inet(bound)))
        }
    }
}

/// Judges, keeps, and lets pass.
#[derive(Debug)]
struct Watcher {
    examiner: Examiner,
    directory: PathBuf,
}

impl Judge for Watcher {
    fn concerns(&self, _: &Connection, _: &Envelope) -> bool {
        true
    }

    async fn judge(&self, mail: &Mail) -> Verdict {
        match self.keep(mail).await {
            Ok(number) => {
                tracing::info!(delivery = number, queue_id = mail.queue_id, "delivery kept");
                Verdict::pass()
            }
            // What is not kept would be missing from the report: the sender comes again.
            Err(error) => {
                tracing::error!(queue_id = mail.queue_id, %error, "a delivery cannot be kept");
                Verdict::refuse(Reply::new(451, 3, 0, "local trouble, try again later"))
            }
        }
    }
}

impl Watcher {
    async fn keep(&self, mail: &Mail) -> Result<u64, SandboxError> {
        if let Some(shortfall) = mail.shortfall {
            return Err(SandboxError(format!("the message cannot be taken whole: {shortfall:?}")));
        }
        let found = self.examiner.examine(mail).await.map_err(SandboxError)?;
        let message = mail.assemble().await.map_err(|error| SandboxError(error.to_string()))?;
        let facts = json(&delivery(mail, found))?;
        let directory = self.directory.clone();
        let add = move || archive::add(&directory, &[("message.eml", &message), ("delivery.json", &facts)]);
        let added = tokio::task::spawn_blocking(add).await.map_err(std::io::Error::other).flatten();
        added.map_err(|error| SandboxError::at(&self.directory, error))
    }
}

fn delivery(mail: &Mail, found: Examination) -> Delivery {
    let text = |outcome: Outcome| outcome.as_str().to_owned();
    let author = found.author.map(|domain| domain.to_string()).unwrap_or_default();
    let connection = &mail.connection;
    Delivery {
        number: 0,
        client: connection.client.ip().map_or_else(|| "local".to_owned(), |ip| ip.to_string()),
        helo: connection.helo.clone().unwrap_or_default(),
        sender: mail.envelope.sender.as_str().to_owned(),
        recipients: mail.envelope.recipients.iter().map(MailPath::as_str).map(str::to_owned).collect(),
        tls: connection.tls.as_ref().map(|tls| tls.version.clone()).unwrap_or_default(),
        received: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        spf: Method {
            result: text(found.spf),
            domain: found.spf_domain,
            detail: found.spf_reason.unwrap_or_default().to_owned(),
        },
        dkim: found
            .dkim
            .into_iter()
            .map(|signature| Dkim {
                result: text(signature.outcome),
                domain: signature.domain,
                selector: signature.selector,
                algorithm: signature.algorithm.to_owned(),
                reason: signature.reason.unwrap_or_default().to_owned(),
            })
            .collect(),
        arc: Method { result: text(found.arc), domain: String::new(), detail: String::new() },
        dmarc: Method {
            result: text(found.dmarc),
            domain: author,
            detail: found.dmarc_policy.map(|policy| format!("p={policy}")).unwrap_or_default(),
        },
    }
}

/// What was delivered, with the octets.
pub(super) fn deliveries(state: &Path) -> Result<Vec<(Delivery, Vec<u8>)>, SandboxError> {
    let directory = state.join("delivered");
    let mut found = Vec::new();
    for (number, folder) in archive::entries(&directory).map_err(|error| SandboxError::at(&directory, error))? {
        let delivery: Delivery = read_json(&folder.join("delivery.json"))?;
        let file = folder.join("message.eml");
        let message = std::fs::read(&file).map_err(|error| SandboxError::at(&file, error))?;
        found.push((Delivery { number, ..delivery }, message));
    }
    Ok(found)
}
