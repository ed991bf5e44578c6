//! What can go wrong on our side or on the way, and the reply that says so. All of it is temporary: the MTA that called
//! us keeps the message and comes again. Verdicts of the endpoint on a message are no failures; they are passed back.

use std::fmt;
use std::sync::Arc;

use tracing::Level;

use super::clock::{Elapsed, Step};
use super::refusal::{Concerns, Refusal};
use super::reply::RemoteReply;
use crate::config::Mechanism;
use crate::mail::Reply;

/// Why a message was not handed over, and to whom.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// `host[address]`, or the host alone before it was reached.
    peer: Arc<str>,
    pub cause: Cause,
}

/// The causes. Codes are those of RFC 3463 and RFC 5248.
#[derive(Debug, Clone)]
pub(super) enum Cause {
    /// No address.
    Resolve(String),
    /// No address answers.
    Connect(String),
    /// This process, or this host, has no file descriptor left for a look-up or a connection.
    Descriptors,
    /// A step took too long.
    Timeout(Step),
    /// The connection broke.
    Lost(Step, String),
    /// What came is no SMTP, or not what can follow here.
    Nonsense(Step, String),
    /// 4xx outside the verdict on a message, and 421 anywhere.
    Temporary(RemoteReply),
    /// 5xx that concerns our session, not the message.
    Session(Step, RemoteReply),
    /// STARTTLS is not offered.
    NoStarttls,
    /// Plain text after the reply to STARTTLS: somebody on the way tries to inject replies.
    Injection,
    /// The handshake failed, or the certificate is not good.
    Handshake(String),
    /// AUTH is not offered with this mechanism.
    NoAuth(Mechanism),
    /// Every credential set was refused.
    Credentials { usernames: String, last: RemoteReply },
    /// No password can be read.
    Password(String),
    /// No token can be got.
    Token(String),
    /// Our own spool cannot be read.
    Spool(String),
}

impl Failure {
    pub fn new(peer: &Arc<str>, cause: Cause) -> Self {
        Self { peer: Arc::clone(peer), cause }
    }

    pub fn timeout(peer: &Arc<str>, elapsed: Elapsed) -> Self {
        Self::new(peer, Cause::Timeout(elapsed.0))
    }

    /// The reply to the MTA that called us: always 4xx.
    pub fn reply(&self) -> Reply {
        let (subject, detail) = match &self.cause {
            Cause::Temporary(reply) => return reply.passed_back(&self.peer),
            Cause::Resolve(_) => (4, 3),
            Cause::Connect(_) | Cause::Timeout(Step::Connect) => (4, 1),
            Cause::Timeout(Step::Slot | Step::Spool | Step::Password) | Cause::Descriptors => (3, 2),
            Cause::Password(_) => (3, 5),
            Cause::Timeout(_) | Cause::Lost(..) => (4, 2),
            Cause::Nonsense(..) => (5, 0),
            Cause::Session(_, reply) if (500..=504).contains(&reply.code) => (5, 0),
            Cause::Session(..) | Cause::Token(_) => (7, 0),
            Cause::NoStarttls | Cause::NoAuth(_) => (7, 4),
            Cause::Injection | Cause::Handshake(_) => (7, 5),
            Cause::Credentials { .. } => (7, 8),
            Cause::Spool(_) => (3, 0),
        };
        Reply::new(451, subject, detail, self.to_string())
    }

    /// ERROR when somebody must act: us or the endpoint's administrator. WARN when time may heal it.
    pub fn level(&self) -> Level {
        match self.cause {
            Cause::Resolve(_)
            | Cause::Connect(_)
            | Cause::Timeout(_)
            | Cause::Lost(..)
            | Cause::Nonsense(..)
            | Cause::Temporary(_) => Level::WARN,
            _ if self.refusal().is_some_and(|refusal| refusal.concerns == Concerns::Rate) => Level::WARN,
            _ => Level::ERROR,
        }
    }

    /// What the remote server's refusal is known as, if it is.
    pub fn refusal(&self) -> Option<Refusal> {
        match &self.cause {
            Cause::Temporary(reply) | Cause::Session(_, reply) | Cause::Credentials { last: reply, .. } => {
                Refusal::of(reply)
            }
            _ => None,
        }
    }

    /// Whether it has nothing to do with the endpoint: our spool.
    pub fn is_ours(&self) -> bool {
        matches!(self.cause, Cause::Spool(_) | Cause::Timeout(Step::Spool))
    }

    /// Whether the connection failed, and not a login, a message or something of ours.
    pub fn is_of_the_connection(&self) -> bool {
        match &self.cause {
            Cause::Resolve(_)
            | Cause::Connect(_)
            | Cause::Lost(..)
            | Cause::Nonsense(..)
            | Cause::NoStarttls
            | Cause::Injection
            | Cause::Handshake(_) => true,
            Cause::Timeout(step) => !matches!(step, Step::Slot | Step::Spool | Step::Password),
            Cause::Temporary(reply) => reply.code == 421,
            Cause::Session(..)
            | Cause::NoAuth(_)
            | Cause::Credentials { .. }
            | Cause::Password(_)
            | Cause::Token(_)
            | Cause::Spool(_)
            | Cause::Descriptors => false,
        }
    }

    /// Whether a connection that had lain idle may just have been closed by the other side meanwhile.
    pub fn may_be_stale(&self) -> bool {
        match &self.cause {
            Cause::Lost(..) => true,
            Cause::Temporary(reply) => reply.code == 421,
            _ => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = &self.peer;
        match &self.cause {
            Cause::Resolve(error) => write!(f, "{peer}: no address found: {error}"),
            Cause::Connect(error) => write!(f, "{peer}: cannot connect: {error}"),
            Cause::Descriptors => {
                write!(f, "{peer}: not contacted: Too many open files on our side; raise LimitNOFILE")
            }
            Cause::Timeout(step) => write!(f, "{peer}: timed out ({step})"),
            Cause::Lost(Step::FinalReply, error) => {
                write!(
                    f,
                    "{peer}: lost connection after the whole message was sent, unknown whether it was taken: {error}"
                )
            }
            Cause::Lost(step, error) => write!(f, "{peer}: lost connection ({step}): {error}"),
            Cause::Nonsense(step, what) => write!(f, "{peer}: answered nonsense ({step}): {what}"),
            Cause::Temporary(reply) => write!(f, "{peer} said: {}", reply.as_reply()),
            Cause::Session(step, reply) => {
                let refused =
                    format_args!("{peer}: refused our session, not the message ({step}): {}", reply.as_reply());
                known(f, self.refusal(), refused)
            }
            Cause::NoStarttls => write!(f, "{peer}: does not offer STARTTLS; nothing is sent without TLS"),
            Cause::Injection => {
                write!(f, "{peer}: plain text followed the reply to STARTTLS; somebody may be tampering")
            }
            Cause::Handshake(reason) => write!(f, "{peer}: no trusted TLS connection: {reason}"),
            Cause::NoAuth(Mechanism::Plain) => write!(f, "{peer}: offers neither AUTH PLAIN nor AUTH LOGIN"),
            Cause::NoAuth(missing) => write!(f, "{peer}: does not offer AUTH {}", missing.as_str().to_uppercase()),
            Cause::Credentials { usernames, last } => {
                let refused = format_args!("{peer}: refused the credentials of {usernames}: {}", last.as_reply());
                known(f, self.refusal(), refused)
            }
            Cause::Password(error) => write!(f, "{peer}: no password: {error}"),
            Cause::Token(error) => write!(f, "{peer}: no token: {error}"),
            Cause::Spool(error) => write!(f, "the message cannot be read from our spool: {error}"),
        }
    }
}

/// A refusal with its name before it and its remedy after it, where it is known.
fn known(f: &mut fmt::Formatter<'_>, refusal: Option<Refusal>, refused: fmt::Arguments<'_>) -> fmt::Result {
    match refusal {
        Some(Refusal { name, remedy, .. }) => write!(f, "{name}: {refused}; {remedy}"),
        None => f.write_fmt(refused),
    }
}
