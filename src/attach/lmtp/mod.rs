//! The LMTP listener of the transport (RFC 2033): the MTA hands over the mail of one connector's support addresses out of
//! its queue, and gets the ticket endpoint's reply for each recipient.
//!
//! In: connections on one unix socket per connector. Out: a [`Mail`] for the pipeline and the relay, replies for the MTA,
//! one INFO line per message. It must not know SMTP clients, verdicts or tickets.
//!
//! The MTA keeps the message until the endpoint said 250, so nothing here is stored beyond the transaction, and every
//! trouble of ours is a 4xx at RCPT or after the data. The greeting never tells of trouble: Postfix would mark the whole
//! destination dead.

mod conversation;
mod desk;
#[cfg(any(test, fuzzing))]
#[path = "../../../fuzz/targets/lmtp.rs"]
pub(crate) mod fuzzing;
mod hand_in;
mod intake;
mod queue_id;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::slots::Slots;
use crate::config::{Connector, Limits};
use crate::mail::{Domain, Mail, Path, Reply, Spool};
use crate::pipeline::{Conversations, Pipeline, References, is_authenticated};
use crate::relay::{Delivery, HandBack, Relay};

pub use desk::Desk;
pub use hand_in::HandIn;
pub use queue_id::queue_id;

/// How long the listener rests after it could not accept a connection: out of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What a listener works with. Immutable; a reload swaps in a new one, which counts from the next transaction on.
#[derive(Debug)]
pub struct Service<H = Way> {
    /// The connector whose mail comes this way.
    pub connector: Arc<Connector>,
    /// Where complete messages go.
    pub hand_over: H,
    /// Bounds. The number of connections is the business of the listener.
    pub limits: Limits,
    /// Where large bodies are kept while they pass.
    pub spool: Spool,
    /// This host's name.
    pub hostname: Domain,
    /// The users whose processes may hand over mail, by uid.
    pub peers: Vec<u32>,
    /// Waits.
    pub timeouts: Timeouts,
}

/// How long the listener waits for the MTA.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the next command, and for the MTA to read a reply.
    pub command: Duration,
    /// For the next octets of a message.
    pub data: Duration,
    /// For a whole message.
    pub message: Duration,
    /// For the rest of a transaction, the endpoint's reply included, once the service is told to end.
    pub drain: Duration,
    /// For a client that has just come, or has just asked by RSET whether we are there, to begin its transaction, once the service
    /// is told to end. Sent away in the place of an answer to LHLO, Postfix would take the destination for dead, and to MAIL it would
    /// put the message off; when it asks it expects that.
    pub first: Duration,
}

impl Default for Timeouts {
    /// 300 s for a command and for data (RFC 5321 section 4.5.3.2.7 asks for 5 minutes), 30 minutes for a message, 30 s
    /// to drain, 2 s for a client that is about to begin.
    fn default() -> Self {
        Self {
            command: Duration::from_secs(300),
            data: Duration::from_secs(300),
            message: Duration::from_secs(30 * 60),
            drain: Duration::from_secs(30),
            first: Duration::from_secs(2),
        }
    }
}

/// Who takes a complete message. A trait, so that the dialogue can be tested with any replies.
pub trait HandOver: Send + Sync + 'static {
    /// Takes the message on. One reply per recipient of the envelope, in its order. Bounded in time.
    fn hand_over(&self, connector: &Connector, mail: Mail) -> impl Future<Output = HandedOver> + Send;

    /// Whether the way is for `recipient`. Only support addresses are relayed unless told otherwise.
    fn takes(&self, connector: &Connector, recipient: &Path) -> bool {
        recipient.address().is_some_and(|address| connector.supports(&address))
    }
}

/// What became of a message.
#[derive(Debug)]
pub struct HandedOver {
    /// The message's auth status, for the log; `None` when it was refused before that was known.
    pub auth: Option<String>,
    /// The replies and the way.
    pub delivery: Delivery,
    /// Where it was handed instead, because the endpoint refused it.
    pub rejected_to: Option<String>,
}

/// Where the socket of a connector leads.
#[derive(Debug)]
pub enum Way {
    /// On the company side: to the ticket endpoint.
    Endpoint(Route),
    /// On the desk side: to the company host. What was taken there is remembered.
    Host(Arc<Desk>, Option<Arc<Conversations>>),
    /// On the desk side: into the ticket system.
    Delivery(HandIn),
}

impl HandOver for Way {
    async fn hand_over(&self, connector: &Connector, mail: Mail) -> HandedOver {
        match self {
            Self::Endpoint(route) => route.hand_over(connector, mail).await,
            Self::Host(desk, None) => desk.hand_over(connector, mail).await,
            Self::Host(desk, Some(conversations)) => {
                let token = connector.desk.as_ref().and_then(|desk| desk.subject_token.as_deref());
                let references = References::of(&mail.headers, token);
                let handed_over = desk.hand_over(connector, mail).await;
                if handed_over.delivery.replies.iter().any(Reply::is_success) {
                    conversations.sent(&connector.domain, references).await;
                }
                handed_over
            }
            Self::Delivery(hand_in) => hand_in.hand_over(connector, mail).await,
        }
    }

    fn takes(&self, connector: &Connector, recipient: &Path) -> bool {
        match self {
            Self::Endpoint(route) => route.takes(connector, recipient),
            Self::Host(desk, _) => desk.takes(connector, recipient),
            Self::Delivery(hand_in) => hand_in.takes(connector, recipient),
        }
    }
}

/// Through the pipeline to the ticket endpoint.
#[derive(Debug)]
pub struct Route {
    /// Makes the message ready.
    pub pipeline: Arc<Pipeline>,
    /// Sends it.
    pub relay: Arc<Relay>,
    /// Takes what the endpoint refuses and must not be bounced.
    pub hand_back: Option<Arc<HandBack>>,
}

impl HandOver for Route {
    async fn hand_over(&self, connector: &Connector, mut mail: Mail) -> HandedOver {
        let auth = match self.pipeline.hand_over(connector, &mut mail).await {
            Ok(auth) => auth,
            Err(reply) => {
                // Without rejected_to we have handed nothing back, whatever the message says.
                let reply = match &self.hand_back {
                    Some(_) => HandBack::keep_what_came_back(&mail, reply),
                    None => reply,
                };
                return HandedOver::refused(&reply, mail.envelope.recipients.len());
            }
        };
        let mut delivery = self.relay.send(&mail).await;
        let mut rejected_to = None;
        // Without a proven sender a bounce would reach somebody who never wrote.
        if let Some(hand_back) = self.hand_back.as_ref().filter(|_| !is_authenticated(&auth)) {
            rejected_to = hand_back.instead_of_a_bounce(&connector.name, &mail, &mut delivery.replies).await;
        }
        HandedOver { auth: Some(auth), delivery, rejected_to }
    }
}

impl HandedOver {
    /// The same reply for each of `recipients`, nobody contacted.
    pub fn refused(reply: &Reply, recipients: usize) -> Self {
        let delivery = Delivery { replies: vec![reply.clone(); recipients], trace: crate::relay::Trace::default() };
        Self { auth: None, delivery, rejected_to: None }
    }
}

/// As [`serve_within`], with as many connections at a time as the service's limits say when it begins.
pub async fn serve<H: HandOver>(
    listener: UnixListener,
    service: Arc<ArcSwap<Service<H>>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    let slots = Slots::new(service.load().limits.transport_connections);
    serve_within(slots, listener, service, shutdown, tasks).await;
}

/// Serves `listener` until `shutdown`, a connection for each of `slots`, then returns; sessions end by themselves, in `tasks`: idle ones at once with 421,
/// those within a transaction after it, and none later than [`Timeouts::drain`].
pub async fn serve_within<H: HandOver>(
    slots: Slots,
    listener: UnixListener,
    service: Arc<ArcSwap<Service<H>>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        // Who does not fit waits in the socket's backlog, unanswered: a refusal would mark the destination dead.
        let permit = tokio::select! {
            () = shutdown.cancelled() => return,
            permit = slots.take() => permit,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (service, shutdown) = (Arc::clone(&service), shutdown.clone());
                tasks.spawn(async move {
                    admit(stream, service, shutdown).await;
                    drop(permit);
                });
            }
            Err(error) => {
                let connector = service.load().connector.name.clone();
                tracing::error!(connector, %error, "cannot accept an LMTP connection");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// Lets in whom the configuration names; whoever else reaches the socket is sent away.
async fn admit<H: HandOver>(stream: UnixStream, service: Arc<ArcSwap<Service<H>>>, shutdown: CancellationToken) {
    let now = service.load_full();
    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
    if uid.is_some_and(|uid| now.peers.contains(&uid)) {
        conversation::Conversation::new(stream, service, shutdown).run().await;
        return;
    }
    let peer = uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
    tracing::warn!(
        connector = now.connector.name,
        uid = peer,
        "LMTP peer refused: its uid is not one of transport.peers"
    );
    let reply = Reply::new(421, 7, 0, format!("uid {peer} may not hand over mail here; see transport.peers"));
    conversation::send_away(stream, &reply, now.timeouts.drain).await;
}
