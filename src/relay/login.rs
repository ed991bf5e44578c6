//! From a route to a session that the remote server has authenticated: credentials in their order, each on a connection of its
//! own, for many servers close after a refusal.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::Trace;
use super::clock::{Clock, Step};
use super::connect::{Secured, connect};
use super::credential::Credential;
use super::dialogue::Dialogue;
use super::failure::{Cause, Failure};
use super::reply::Extensions;
use super::route::{Remote, Route};
use super::sasl::authenticate;
use crate::config::{Secret, Stamp};

/// An authenticated session, ready for MAIL.
#[derive(Debug)]
pub(super) struct Session {
    pub dialogue: Dialogue<TlsStream<TcpStream>>,
    pub extensions: Extensions,
    /// Protocol and cipher.
    pub tls: String,
    /// `host[address]:port`.
    pub remote: Option<String>,
    /// The position of the credential that was taken.
    pub set: usize,
    /// Which content of its secret file that was.
    pub stamp: Option<Stamp>,
    pub opened: Instant,
    /// Messages sent so far.
    pub messages: u32,
}

/// Which credentials were refused lately, so that the server is not asked again and again for what it refuses: providers lock
/// accounts for that.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<usize, Refused>>);

#[derive(Debug)]
struct Refused {
    until: Instant,
    stamp: Option<Stamp>,
    failure: Failure,
}

impl Refusals {
    fn remember(&self, set: usize, stamp: Option<Stamp>, lifetime: Duration, failure: &Failure) {
        if let Some(until) = Instant::now().checked_add(lifetime) {
            let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.insert(set, Refused { until, stamp, failure: failure.clone() });
        }
    }

    /// How this content of the credential's file was refused, if that was a short while ago.
    fn of(&self, set: usize, stamp: Option<Stamp>) -> Option<Failure> {
        let refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = refusals.get(&set)?;
        (refused.stamp == stamp && Instant::now() < refused.until).then(|| refused.failure.clone())
    }

    fn forget(&self, set: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&set);
    }
}

/// Connects and logs in with the first credential that the server takes.
///
/// A credential refused with 5xx is named in a warning and the next one is tried. Those refused lately are passed over while
/// there is another; where there is none, an endpoint is asked all the same, and of a company host the refusal is repeated
/// without asking. A 4xx (RFC 4954 section 6: 454 temporary authentication failure) is about the server, not the credential:
/// trying the others would add load there and might take the wrong one for revoked.
pub(super) async fn login(
    route: &Route,
    refusals: &Refusals,
    clock: Clock,
    trace: &mut Trace,
) -> Result<Session, Failure> {
    let mut candidates = Vec::new();
    let mut held = None;
    for (index, credential) in route.credentials.iter().enumerate() {
        let stamp = stamp(route, credential, clock).await?;
        match refusals.of(index, stamp) {
            Some(failure) => held = Some(failure),
            None => candidates.push((index, credential, stamp)),
        }
    }
    if candidates.is_empty() {
        match (route.remote, held) {
            (Remote::Host, Some(failure)) => return Err(failure),
            _ => {
                for (index, credential) in route.credentials.iter().enumerate() {
                    candidates.push((index, credential, stamp(route, credential, clock).await?));
                }
            }
        }
    }
    let mut trouble = None;
    let mut refused = Vec::new();
    for (index, credential, stamp) in candidates {
        let mut attempt = Attempt { route, index, credential, stamp, secret: None };
        match attempt.run(refusals, clock, trace).await? {
            Outcome::Session(session) => return Ok(*session),
            Outcome::Unusable(failure) => {
                trouble.get_or_insert(failure);
            }
            Outcome::Refused(peer, last) => {
                refused.push(credential.username.clone());
                let failure = Failure::new(&peer, Cause::Credentials { usernames: refused.join(", "), last });
                refusals.remember(index, attempt.stamp, clock.bounds().refusal, &failure);
                trouble = Some(failure);
            }
        }
    }
    let none = || Failure::new(&route.host, Cause::Password("no credential set configured".to_owned()));
    Err(trouble.unwrap_or_else(none))
}

async fn stamp(route: &Route, credential: &Credential, clock: Clock) -> Result<Option<Stamp>, Failure> {
    let reading = clock.within(Step::Password, credential.stamp()).await;
    reading.map_err(|elapsed| Failure::timeout(&route.host, elapsed))
}

/// One credential's way to a session.
struct Attempt<'a> {
    route: &'a Route,
    index: usize,
    credential: &'a Credential,
    stamp: Option<Stamp>,
    /// What was shown last.
    secret: Option<Secret>,
}

enum Outcome {
    Session(Box<Session>),
    /// There is no secret to show.
    Unusable(Failure),
    Refused(std::sync::Arc<str>, super::reply::RemoteReply),
}

impl Attempt<'_> {
    /// Logs in. A secret that is refused may have been replaced meanwhile, and a token may have expired: one that differs is
    /// shown once.
    async fn run(&mut self, refusals: &Refusals, clock: Clock, trace: &mut Trace) -> Result<Outcome, Failure> {
        let mut refusal = None;
        loop {
            let first = refusal.is_none();
            if !first {
                self.stamp = stamp(self.route, self.credential, clock).await?;
            }
            let secret = match self.credential.secret(self.route, self.secret.as_ref(), clock).await {
                Ok(secret) => secret,
                Err(failure) => {
                    tracing::error!(
                        connector = %self.route.connector, username = %self.credential.username, reason = %failure,
                        "credential set not usable"
                    );
                    return Ok(match refusal {
                        Some((peer, reply)) => Outcome::Refused(peer, reply),
                        None => Outcome::Unusable(failure),
                    });
                }
            };
            if let Some((peer, reply)) = refusal.take() {
                if self.secret.as_ref().is_some_and(|shown| shown.expose() == secret.expose()) {
                    return Ok(Outcome::Refused(peer, reply));
                }
                let (connector, username) = (&self.route.connector, &self.credential.username);
                tracing::info!(connector = %connector, username = %username, "refused, trying the new secret");
            }
            let Secured { mut dialogue, extensions, tls } = connect(self.route, clock, trace).await?;
            let Credential { username, mechanism, .. } = self.credential;
            let reply = authenticate(&mut dialogue, &extensions, *mechanism, username, &secret).await?;
            if reply.is_success() {
                refusals.forget(self.index);
                trace.credential = Some(username.clone());
                return Ok(Outcome::Session(Box::new(Session {
                    dialogue,
                    extensions,
                    tls,
                    remote: trace.remote.clone(),
                    set: self.index,
                    stamp: self.stamp,
                    opened: Instant::now(),
                    messages: 0,
                })));
            }
            let peer = dialogue.peer().clone();
            tokio::spawn(dialogue.quit());
            tracing::warn!(
                connector = %self.route.connector, remote = %peer, username = %username, reply = %reply.as_reply(),
                "credential set refused by the {}", self.route.remote
            );
            if !first {
                return Ok(Outcome::Refused(peer, reply));
            }
            self.secret = Some(secret);
            refusal = Some((peer, reply));
        }
    }
}
