//! How long each step of a hand-over may take, and all of them together.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// The bound of each step. Whatever stands here, all steps of one hand-over lie within the endpoint's deadline.
///
/// The defaults follow RFC 5321 section 4.5.3.2 where it names a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Looking up the endpoint's addresses.
    pub resolve: Duration,
    /// TCP connection, all addresses together.
    pub connect: Duration,
    /// TCP connection, one address of several.
    pub connect_one: Duration,
    /// The greeting (RFC 5321 section 4.5.3.2.1).
    pub greeting: Duration,
    /// EHLO, STARTTLS, RSET: commands that need no work.
    pub command: Duration,
    /// The TLS handshake.
    pub handshake: Duration,
    /// Each line of AUTH.
    pub auth: Duration,
    /// MAIL (section 4.5.3.2.2) and RCPT (section 4.5.3.2.3).
    pub envelope: Duration,
    /// The go-ahead for DATA (section 4.5.3.2.4).
    pub data: Duration,
    /// One block of the message: a connection that takes nothing for so long is stalled (section 4.5.3.2.5).
    pub block: Duration,
    /// The reply to the final dot (section 4.5.3.2.6).
    pub final_reply: Duration,
    /// QUIT: nobody waits for it but a background task.
    pub quit: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// How old a connection grows at most.
    pub age: Duration,
    /// Messages over one connection at most.
    pub messages: u32,
    /// For how long a refused credential set is passed over while there is another.
    pub refusal: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            resolve: Duration::from_secs(20),
            connect: Duration::from_secs(30),
            connect_one: Duration::from_secs(10),
            greeting: Duration::from_secs(5 * 60),
            command: Duration::from_secs(60),
            handshake: Duration::from_secs(30),
            auth: Duration::from_secs(60),
            envelope: Duration::from_secs(5 * 60),
            data: Duration::from_secs(2 * 60),
            block: Duration::from_secs(3 * 60),
            final_reply: Duration::from_secs(10 * 60),
            quit: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            age: Duration::from_secs(5 * 60),
            messages: 100,
            refusal: Duration::from_secs(60),
        }
    }
}

/// A step of a hand-over; its name stands in replies and log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Slot,
    Spool,
    Password,
    Resolve,
    Connect,
    Greeting,
    Ehlo,
    Starttls,
    Handshake,
    Auth,
    Mail,
    Rcpt,
    Data,
    Message,
    FinalReply,
    Reset,
    Quit,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slot => "waiting for a free connection",
            Self::Spool => "reading the message from the spool",
            Self::Password => "reading the password file",
            Self::Resolve => "looking up its address",
            Self::Connect => "connecting",
            Self::Greeting => "waiting for the greeting",
            Self::Ehlo => "EHLO",
            Self::Starttls => "STARTTLS",
            Self::Handshake => "the TLS handshake",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL FROM",
            Self::Rcpt => "RCPT TO",
            Self::Data => "DATA",
            Self::Message => "sending the message",
            Self::FinalReply => "waiting for the reply to the message",
            Self::Reset => "RSET",
            Self::Quit => "QUIT",
        })
    }
}

/// The time left for one hand-over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    deadline: Instant,
    bounds: Bounds,
}

/// A step took longer than its bound or than the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elapsed(pub Step);

impl Clock {
    /// A clock that runs out after `total`.
    pub fn start(total: Duration, bounds: Bounds) -> Self {
        let now = Instant::now();
        Self { deadline: now.checked_add(total).unwrap_or(now), bounds }
    }

    /// When `step`, begun now, has taken too long.
    pub fn until(&self, step: Step) -> Instant {
        let bounds = &self.bounds;
        let bound = match step {
            Step::Slot | Step::Spool | Step::Password => return self.deadline,
            Step::Resolve => bounds.resolve,
            Step::Connect => bounds.connect,
            Step::Greeting => bounds.greeting,
            Step::Ehlo | Step::Starttls | Step::Reset => bounds.command,
            Step::Handshake => bounds.handshake,
            Step::Auth => bounds.auth,
            Step::Mail | Step::Rcpt => bounds.envelope,
            Step::Data => bounds.data,
            Step::Message => bounds.block,
            Step::FinalReply => bounds.final_reply,
            Step::Quit => bounds.quit,
        };
        Instant::now().checked_add(bound).map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// The bounds.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Runs `work` within the bound of `step`.
    pub async fn within<T>(&self, step: Step, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout_at(self.until(step), work).await.map_err(|_| Elapsed(step))
    }
}
