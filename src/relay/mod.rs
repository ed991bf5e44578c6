//! Sends a [`Mail`] over one route (host, TLS, credentials) and returns the remote server's reply for each recipient.
//!
//! In: a message and a connector's endpoint. Out: a [`Delivery`]. The endpoint's verdict on the message is passed back
//! with its own codes and words; everything else that can go wrong is a 4xx, so that the MTA that called keeps the message.
//! Nothing is sent, and no password read, before TLS with a verified certificate stands; but what an endpoint refused may go
//! back to the company's own MTA, within this host ([`HandBack`]). Knows nothing of milters, classification or tickets.
//!
//! [`Relay::send`] is the story: a slot of the `pool`, an idle connection or a new one (`connect`, `login`), the
//! `transaction` with the message's `content`, and the connection back into the pool. [`send_lmtp`] runs the same transaction
//! over a unix socket of this host.

mod certificate;
mod clock;
mod connect;
mod content;
mod credential;
mod dialogue;
mod dot_stuffing;
mod failure;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/relay.rs"]
pub(crate) mod fuzzing;
mod lmtp;
mod login;
mod pool;
mod record;
mod refusal;
mod rejected;
mod reply;
mod route;
mod sasl;
mod token;
mod transaction;

pub use clock::Bounds;
pub use lmtp::send_lmtp;
pub use pool::Connections;
pub use record::Record;
pub use rejected::{FIELD as REFUSED_FIELD, HandBack, refused_field};
pub use route::{Authorities, RelayError, client_tls};

pub(crate) use connect::{is_out_of_descriptors, parameters as tls_parameters, reason as handshake_reason};
pub(crate) use content::Content;
pub(crate) use credential::read as read_secret;

use std::time::Duration;

use tracing::Level;

use crate::config::{Connector, Endpoint, Host, HostCredential};
use crate::mail::{Domain, Mail, Reply};
use clock::Clock;
use failure::Failure;
use login::{Refusals, login};
use pool::Pool;
use route::{Remote, Route};
use transaction::{After, Transaction};

/// One route to a ticket endpoint, with its connections.
#[derive(Debug)]
pub struct Relay {
    route: Route,
    deadline: Duration,
    bounds: Bounds,
    pool: Pool,
    refusals: Refusals,
}

/// What became of a message that was handed to [`Relay::send`].
#[derive(Debug, Clone)]
pub struct Delivery {
    /// One reply per recipient of the envelope, in its order: the remote server's own, or a 4xx of ours.
    ///
    /// Ours are 5xx in two cases, in which the endpoint has said in advance what it does not take: 552 5.3.4 for a message
    /// larger than its SIZE, 553 5.6.7 for an address that needs SMTPUTF8.
    pub replies: Vec<Reply>,
    /// What happened on the way, for the log.
    pub trace: Trace,
}

/// The way a message took, for the log line.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// `host[address]:port`, once connected; of a ticket system that takes no SMTP, its address or its program.
    pub remote: Option<String>,
    /// Such a ticket system.
    pub system: Option<String>,
    /// How it ended there: `HTTP 201`, `exit 75`.
    pub status: Option<String>,
    /// Protocol and cipher, for example `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
    pub tls: Option<String>,
    /// The user name of the credential set that the endpoint took.
    pub credential: Option<String>,
    /// An earlier connection was used again.
    pub reused: bool,
    /// The connection failed, at whatever step: the endpoint or the way to it is down, or speaks no SMTP.
    pub broken: bool,
}

impl Relay {
    /// Checks the route (host, CA file, user names) without contacting anyone.
    ///
    /// # Errors
    /// Names the object and the remedy.
    pub fn new(connector: &Connector, endpoint: &Endpoint, hello: &Domain) -> Result<Self, RelayError> {
        Self::trusting(connector, endpoint, hello, &mut Authorities::default())
    }

    /// As [`Self::new`], one of several relays that share what they read of certification authorities.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn trusting(
        connector: &Connector,
        endpoint: &Endpoint,
        hello: &Domain,
        authorities: &mut Authorities,
    ) -> Result<Self, RelayError> {
        let route = Route::to_endpoint(&connector.name, endpoint, hello, authorities)?;
        Ok(Self::over(route, endpoint, Bounds::default()))
    }

    /// A route that belongs to no connector: `name` stands for it in the log.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn named(name: &str, endpoint: &Endpoint, hello: &Domain) -> Result<Self, RelayError> {
        let route = Route::to_endpoint(name, endpoint, hello, &mut Authorities::default())?;
        Ok(Self::over(route, endpoint, Bounds::default()))
    }

    /// As [`Self::new`], with other bounds for the steps.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_bounds(
        connector: &Connector,
        endpoint: &Endpoint,
        hello: &Domain,
        bounds: Bounds,
    ) -> Result<Self, RelayError> {
        let route = Route::to_endpoint(&connector.name, endpoint, hello, &mut Authorities::default())?;
        Ok(Self::over(route, endpoint, bounds))
    }

    fn over(route: Route, endpoint: &Endpoint, bounds: Bounds) -> Self {
        Self {
            route,
            deadline: endpoint.deadline,
            bounds,
            pool: Pool::new(endpoint.max_connections, bounds),
            refusals: Refusals::default(),
        }
    }

    /// The way to a company host as one of its accounts: its own connections, never another's login.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn to_host(
        connector: &Connector,
        host: &Host,
        credential: &HostCredential,
        hello: &Domain,
        bounds: Bounds,
        authorities: &mut Authorities,
    ) -> Result<Self, RelayError> {
        Ok(Self {
            route: Route::to_host(&connector.name, host, credential, hello, authorities)?,
            deadline: host.deadline,
            bounds,
            pool: Pool::new(host.connections, bounds),
            refusals: Refusals::default(),
        })
    }

    /// The connections at this moment.
    pub fn connections(&self) -> Connections {
        self.pool.standing()
    }

    /// When the certificate expires that the remote server showed last, in seconds since 1970; `None` before the first connection.
    pub fn certificate_expiry(&self) -> Option<i64> {
        self.route.expiry.get()
    }

    /// Hands the message to the endpoint within the endpoint's deadline. Never panics, never waits longer, and answers
    /// every failure of ours with 4xx.
    ///
    /// A connection lost between the final dot and its reply is a 4xx too: the message may arrive twice, but is never lost.
    pub async fn send(&self, mail: &Mail) -> Delivery {
        self.send_within(mail, self.deadline).await
    }

    /// As [`Self::send`], within `limit` if that is shorter.
    pub async fn send_within(&self, mail: &Mail, limit: Duration) -> Delivery {
        let mut trace = Trace::default();
        if let (Remote::Host, [account]) = (self.route.remote, self.route.credentials.as_slice()) {
            trace.credential = Some(account.username.clone());
        }
        if mail.envelope.recipients.is_empty() {
            return Delivery { replies: Vec::new(), trace };
        }
        let clock = Clock::start(self.deadline.min(limit), self.bounds);
        let mut transaction = Transaction::new(mail, self.route.remote);
        let failure = self.hand_over(mail, clock, &mut transaction, &mut trace).await.err();
        trace.broken = failure.as_ref().is_some_and(Failure::is_of_the_connection);
        if let Some(trouble) = failure.as_ref().or(transaction.trouble.as_ref()) {
            self.log(mail, trouble, trace.credential.as_deref());
        }
        Delivery { replies: transaction.into_replies(failure.as_ref()), trace }
    }

    async fn hand_over<'a>(
        &self,
        mail: &'a Mail,
        clock: Clock,
        transaction: &mut Transaction<'a>,
        trace: &mut Trace,
    ) -> Result<(), Failure> {
        let slot = self.pool.slot(&self.route, clock).await?;
        let mut idle = self.pool.take(&self.route, clock).await;
        loop {
            let reused = idle.is_some();
            let mut session = match idle.take() {
                Some(session) => session,
                None => login(&self.route, &self.refusals, clock, trace).await?,
            };
            trace.remote.clone_from(&session.remote);
            trace.tls = Some(session.tls.clone());
            trace.credential = self.route.credentials.get(session.set).map(|set| set.username.clone());
            trace.reused = reused;
            match transaction.run(&mut session).await {
                Ok(After::Spent) => return Ok(()),
                Ok(After::Reusable) => {
                    session.messages = session.messages.saturating_add(1);
                    self.pool.put(session, slot);
                    return Ok(());
                }
                // The endpoint closed a connection that lay idle: nothing was sent, so a new one may try, once.
                Err(failure) if reused && failure.may_be_stale() && transaction.is_repeatable() => {
                    tracing::debug!(connector = %self.route.connector, reason = %failure, "idle connection was stale");
                    *transaction = Transaction::new(mail, self.route.remote);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn log(&self, mail: &Mail, failure: &Failure, credential: Option<&str>) {
        let queue_id = mail.queue_id.as_deref().unwrap_or("-");
        let (connector, host, port) = (&self.route.connector, &*self.route.host, self.route.port);
        let (remote, reply) = (self.route.remote, failure.reply());
        let cause = failure.refusal().map(|refusal| refusal.name);
        if failure.level() == Level::ERROR {
            tracing::error!(connector, queue_id, host, port, credential, cause, %reply, "{remote}: cannot relay");
        } else {
            tracing::warn!(connector, queue_id, host, port, credential, cause, %reply, "{remote}: cannot relay now");
        }
    }
}
