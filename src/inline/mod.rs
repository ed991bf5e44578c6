//! Relaying before the MTA's queue: at the end of a message the milter, or Exim's ACL, has it handed to the ticket endpoint, and
//! the endpoint's reply becomes the answer to the MTA's client.
//!
//! In: what an attachment asks of a [`Judge`]. Out: the pipeline's verdict, and for support addresses of a connector with
//! `relay = "inline"` what became of the message: taken recipients are removed (never `DISCARD`, which would destroy an
//! `always_bcc` copy too), or the message is refused with the endpoint's words. Everything about the message itself is decided
//! by the [`Pipeline`], everything about SMTP by the [`Relay`]; this only brings them together.
//!
//! One transaction has one reply, so it takes one *route*: a recipient of another route than those before it is put off with
//! `452 4.5.3`, and its client sends it again in its next transaction. Where nobody would do so, because the message comes from
//! sendmail(1) or from a mail program that has logged in, or because the MTA does not ask us about recipients, all recipients
//! share one fate (see [`outcome`]): no message is lost by that and none doubled; but ordinary mail waits, too, while the
//! endpoint does not take its part.

mod breaker;
mod hand_over;
pub(crate) mod journal;
mod outcome;

use std::collections::HashMap;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::config::{Config, Connector, RelayMode};
use crate::mail::{Client, Connection, Disposition, Domain, Envelope, Mail, Path, Reply, Shortfall, Verdict};
use crate::pipeline::{Judge, Pipeline, Terms};
use crate::relay::Relay;
use breaker::Breaker;
use hand_over::HandOver;
use journal::Journal;
use outcome::Outcome;

/// How long after the end of a message its fate must be known: judging, relaying and all. Far below the 300 s that Postfix
/// waits for a milter at that point, and that clients wait for a reply to the final dot at least (RFC 5321 section 4.5.3.2.6
/// says 600 s).
const DEADLINE: Duration = Duration::from_secs(120);
/// Where the MTA waits for less: the answer is there so long before.
const MARGIN: Duration = Duration::from_secs(5);
/// With less time left than this the endpoint is not contacted at all.
const TIME_MIN: Duration = Duration::from_secs(5);
/// The journal's name in the state directory.
const JOURNAL: &str = "inline.journal";

/// Judges by the pipeline and relays inline. A reload makes a new one with the same [`Standing`].
#[derive(Debug)]
pub struct Inline {
    pipeline: Arc<Pipeline>,
    routes: HashMap<Domain, Vec<Arc<Route>>>,
    standing: Arc<Standing>,
    /// Messages relayed at a time, at most.
    most: usize,
}

/// What outlives a reload: which endpoints are down, which messages were taken, how many are under way.
#[derive(Debug)]
pub struct Standing {
    journal: Arc<Journal>,
    breakers: Mutex<HashMap<String, Arc<Breaker>>>,
    under_way: AtomicUsize,
}

/// The way to the endpoint of one connector.
#[derive(Debug)]
struct Route {
    connector: Arc<Connector>,
    keep_copy: bool,
    /// The mailbox for what the endpoint refuses of senders who are not proven.
    rejected_to: Option<Path>,
    relay: Arc<Relay>,
    /// The endpoint, `host:port`.
    place: String,
    breaker: Arc<Breaker>,
}

/// One of the messages that may be relayed at a time.
#[derive(Debug)]
struct Slot(Arc<Standing>);

impl Standing {
    /// With the journal that `state_directory` holds. The file is made when the first message was relayed.
    pub fn open(state_directory: &FilePath) -> Arc<Self> {
        Arc::new(Self {
            journal: Arc::new(Journal::open(state_directory.join(JOURNAL), seconds_since_1970())),
            breakers: Mutex::default(),
            under_way: AtomicUsize::new(0),
        })
    }

    /// The breaker of an endpoint, the same one as long as connector, host and port are the same.
    fn breaker(&self, connector: &str, place: &str) -> Arc<Breaker> {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let breaker = breakers.entry(format!("{connector} {place}"));
        Arc::clone(breaker.or_insert_with(|| Arc::new(Breaker::new(connector, place))))
    }

    /// Forgets endpoints that no configuration in force has. At a reload the one before still is.
    fn forget_unused_breakers(&self) {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        breakers.retain(|_, breaker| Arc::strong_count(breaker) > 1);
    }

    fn slot(self: &Arc<Self>, most: usize) -> Option<Slot> {
        let one_more = |count| (count < most).then_some(count + 1);
        let taken = self.under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.ok().map(|_| Slot(Arc::clone(self)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Inline {
    /// `relays` has the relay of each connector with an endpoint, by the connector's name.
    pub fn new(
        config: &Config,
        pipeline: Arc<Pipeline>,
        relays: &HashMap<String, Arc<Relay>>,
        standing: Arc<Standing>,
    ) -> Self {
        let mut routes: HashMap<Domain, Vec<Arc<Route>>> = HashMap::new();
        standing.forget_unused_breakers();
        for connector in config.connectors.iter().filter(|connector| !connector.observe) {
            let Some(endpoint) = &connector.endpoint else { continue };
            let (RelayMode::Inline { keep_copy }, Some(relay)) = (endpoint.relay, relays.get(&connector.name)) else {
                continue;
            };
            let place = format!("{}:{}", endpoint.host, endpoint.port);
            let rejected_to = endpoint.rejected.as_ref().map(|rejected| rejected.to.to_string());
            let route = Route {
                connector: Arc::clone(connector),
                keep_copy,
                rejected_to: rejected_to.and_then(|to| Path::parse(to.as_bytes()).ok()),
                relay: Arc::clone(relay),
                breaker: standing.breaker(&connector.name, &place),
                place,
            };
            routes.entry(connector.domain.clone()).or_default().push(Arc::new(route));
        }
        Self { pipeline, routes, standing, most: config.limits.inline_relays }
    }

    /// Messages under way, and how many there may be.
    pub fn under_way(&self) -> (usize, usize) {
        (self.standing.under_way.load(Ordering::Relaxed), self.most)
    }

    /// The connectors whose mail is relayed inline, and whether the endpoint of each counts as down.
    pub fn endpoints(&self) -> impl Iterator<Item = (&str, bool)> {
        self.routes.values().flatten().map(|route| (route.connector.name.as_str(), route.breaker.is_down()))
    }

    fn route(&self, to: &Path) -> Option<&Arc<Route>> {
        let address = to.address()?;
        self.routes.get(address.domain())?.iter().find(|route| route.connector.supports(&address))
    }

    /// The routes of a message, each with its recipients, none named twice.
    fn parts(&self, envelope: &Envelope) -> Vec<(Arc<Route>, Vec<Path>)> {
        let mut parts: Vec<(Arc<Route>, Vec<Path>)> = Vec::new();
        for to in &envelope.recipients {
            let Some(route) = self.route(to) else { continue };
            match parts.iter_mut().find(|(known, _)| Arc::ptr_eq(known, route)) {
                Some((_, paths)) if paths.contains(to) => {}
                Some((_, paths)) => paths.push(to.clone()),
                None => parts.push((Arc::clone(route), vec![to.clone()])),
            }
        }
        parts
    }

    /// Hands one route's part of the message over. One outcome per recipient, in order.
    async fn relay(
        &self,
        route: Arc<Route>,
        to: Vec<Path>,
        mail: &Mail,
        verdict: &Verdict,
        terms: Terms,
    ) -> Vec<Outcome> {
        let refused = |reply: Reply| Outcome::of_all(&route, &to, &reply);
        if let Some(reply) = unfit(&route, mail, terms) {
            return refused(reply);
        }
        let mut headers = mail.headers.clone();
        headers.apply(&verdict.edits);
        let mut copy = mail.with_headers(headers);
        copy.envelope.recipients.clone_from(&to);
        let patience = terms.within.map_or(DEADLINE, |within| within.saturating_sub(MARGIN).min(DEADLINE));
        let time_left = patience.saturating_sub(terms.complete.elapsed());
        let hand_over = HandOver {
            route: Arc::clone(&route),
            pipeline: Arc::clone(&self.pipeline),
            standing: Arc::clone(&self.standing),
            most: self.most,
            time_left,
            complete: terms.complete,
        };
        if time_left < TIME_MIN {
            return refused(Reply::new(451, 4, 2, "no time left to relay this message; try again later"));
        }
        // A task of its own: should the MTA go away meanwhile, what the endpoint takes is remembered all the same.
        match tokio::spawn(hand_over.run(copy)).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::error!(queue_id = mail.queue_id, %error, "relaying inline failed; the message is deferred");
                refused(Reply::new(451, 3, 0, "this message could not be relayed; try again later"))
            }
        }
    }
}

impl Judge for Inline {
    fn concerns(&self, connection: &Connection, envelope: &Envelope) -> bool {
        self.pipeline.concerns(connection, envelope)
    }

    fn only_observes(&self, connection: &Connection, envelope: &Envelope) -> bool {
        self.pipeline.only_observes(connection, envelope)
    }

    fn asks_recipients(&self) -> bool {
        !self.routes.is_empty()
    }

    fn recipient(&self, connection: &Connection, envelope: &Envelope, to: &Path) -> Option<Reply> {
        // A 4xx here would leave mail of sendmail(1) stuck in the queue, the good recipients with the others.
        let Client::Network(_) = connection.client else { return None };
        // Somebody's mail program: it takes a 4xx for one recipient for the end of it all, and its user would never get through.
        if connection.login.is_some() {
            return None;
        }
        let route = self.route(to);
        if let Some(first) = envelope.recipients.first() {
            let first = self.route(first);
            if first.map(Arc::as_ptr) != route.map(Arc::as_ptr) {
                let text =
                    "this recipient's mail goes another way than that of those before it; send it again by itself";
                return Some(Reply::new(452, 5, 3, text));
            }
        }
        route.and_then(|route| route.breaker.refusal(Instant::now()))
    }

    async fn judge(&self, mail: &Mail) -> Verdict {
        self.pipeline.judge(mail).await
    }

    async fn deliver(&self, mail: &Mail, verdict: Verdict, terms: Terms) -> Verdict {
        if verdict.disposition != Disposition::Continue {
            return verdict;
        }
        let mut outcomes = Vec::new();
        for (route, to) in self.parts(&mail.envelope) {
            // A program on this host does not come again when it is told 4xx, as a mail server does: the queue does.
            if terms.queue_relays && !route.keep_copy && mail.connection.client == Client::Local {
                continue;
            }
            outcomes.extend(self.relay(route, to, mail, &verdict, terms).await);
        }
        outcome::conclude(outcomes, &mail.envelope, verdict)
    }
}

/// The reply for a message that cannot be relayed whatever the endpoint says.
fn unfit(route: &Route, mail: &Mail, terms: Terms) -> Option<Reply> {
    let needs_edits = !route.keep_copy || route.rejected_to.is_some();
    if needs_edits && !terms.edits_recipients {
        let connector = route.connector.name.as_str();
        tracing::error!(
            queue_id = mail.queue_id,
            connector,
            "the MTA does not let us edit recipients, which relay = \"inline\" needs; the message is deferred (Exim: deskmilter exim --apply)"
        );
        return Some(Reply::new(451, 3, 5, "this mail server does not let its filter edit recipients"));
    }
    match mail.shortfall? {
        Shortfall::TooLarge => Some(Reply::new(552, 3, 4, "message larger than limits.message_size allows")),
        Shortfall::Spool => Some(Reply::new(451, 3, 0, "local trouble, this message cannot be kept; try again later")),
    }
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_is_kept_as_long_as_a_configuration_has_its_endpoint() {
        let folder = tempfile::tempdir().unwrap();
        let standing = Standing::open(folder.path());
        let kept = standing.breaker("acme", "endpoint.example:25");
        for port in 1_000..2_000 {
            standing.forget_unused_breakers();
            standing.breaker("acme", &format!("endpoint.example:{port}"));
            assert!(Arc::ptr_eq(&kept, &standing.breaker("acme", "endpoint.example:25")));
        }
        assert!(standing.breakers.lock().unwrap().len() <= 3);
    }
}
