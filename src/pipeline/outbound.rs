//! The outbound side of a message: where it comes from, what is put right in it, and whether it is sealed or signed.
//!
//! Where a content filter sits between two passes of ours, only the second one signs: a signature of the first would not
//! survive the filter. The first one seals instead, and without a good seal nothing that the filter hands back is signed:
//! mail of strangers comes back the same way.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::authenticate::Findings;
use super::notification::{Channel, Channels};
use super::preserve::{self, GUARDED, Preserved, Repair};
use super::seal::{self, Bound, Opened, Submitter};
use super::sign::{Dated, Key, Keys};
use super::{SiteKey, acceptable, author, sign};
use crate::config::{self, BreachPolicy, Config, Connector};
use crate::mail::{Address, Client, Connection, Domain, Envelope, Header, Headers, Mail, Pass, Reply, Shortfall};

/// Fields put right in one message at most. An honest one has a few. An MTA reads the header section anew for each (Postfix took
/// 4 s for 8,000), so a small message could keep it busy.
const EDITS_MAX: usize = 200;

/// All that the outbound side is configured with.
#[derive(Debug)]
pub(super) struct Outbound {
    channels: Channels,
    keys: Keys,
    connectors: HashMap<String, Outgoing>,
    /// The names of a domain's connectors: the cost of finding one does not grow with their number.
    by_domain: HashMap<Domain, Vec<String>>,
    settings: config::Outbound,
    /// For how long a message may wait between the first pass and its last hop: as long as the MTA keeps mail in its queue.
    queue_lifetime: Duration,
    /// What is decided is only logged: then the connectors' notifications alone are looked at.
    observes: bool,
}

/// A connector that takes notifications.
#[derive(Debug)]
struct Outgoing {
    connector: Arc<Connector>,
    preserved: Vec<Preserved>,
}

/// Where a message comes from.
pub(super) enum Origin<'o> {
    /// From anybody else: nothing of it is ours to sign.
    Elsewhere,
    /// Straight from a ticket system.
    TicketSystem(&'o Channel),
    /// From our own people and programs, with an author that `[[signing]]` is for.
    OwnPeople(Vec<Arc<Key>>),
    /// Back from the content filter, with a good seal.
    Filter(Opened),
}

/// The field that the outbound side adds on top: a seal, or signatures.
#[derive(Debug, Default)]
pub(super) struct Departure {
    pub(super) fields: Vec<Header>,
    /// The keys that signed, for the log.
    pub(super) signed: Vec<String>,
    pub(super) sealed: bool,
}

impl Outbound {
    pub(super) fn new(config: &Config) -> Self {
        let (mut connectors, mut by_domain) = (HashMap::new(), HashMap::<Domain, Vec<String>>::new());
        for connector in config.connectors.iter().filter(|connector| connector.submission.is_some()) {
            by_domain.entry(connector.domain.clone()).or_default().push(connector.name.clone());
            let preserved = preserve::of(connector);
            connectors.insert(connector.name.clone(), Outgoing { connector: Arc::clone(connector), preserved });
        }
        Self {
            channels: Channels::new(&config.connectors, Instant::now()),
            keys: Keys::new(&config.connectors, &config.signing, config.outbound.sign_with),
            connectors,
            by_domain,
            settings: config.outbound.clone(),
            queue_lifetime: config.authentication.verdict_lifetime,
            observes: false,
        }
    }

    /// The same for connectors that only observe.
    pub(super) fn observing(config: &Config) -> Self {
        Self { observes: true, ..Self::new(config) }
    }

    /// Remembers what each login has used of its rates under the configuration before.
    pub(super) fn go_on_from(&mut self, earlier: &Self) {
        self.channels.go_on_from(&earlier.channels);
    }

    /// Whether mail of this client may need something of us, whoever it is for. Where a content filter hands mail back, that is
    /// all mail: a seal that a stranger sends must be gone before the filter hands it back as if it were ours.
    pub(super) fn concerns(&self, connection: &Connection, envelope: &Envelope) -> bool {
        if self.observes {
            return self.channels.of(connection).is_some();
        }
        self.has_filter()
            || self.may_have_come_back(connection, envelope)
            || self.channels.of(connection).is_some()
            || (self.keys.has_rules() && self.is_trusted(connection))
    }

    /// Where a message comes from. What is wrong with a seal is logged here.
    pub(super) fn origin(&self, mail: &Mail, site_key: &SiteKey, now: u64) -> Origin<'_> {
        let connection = &mail.connection;
        if connection.pass == Pass::Last {
            return self.opened(mail, site_key, now).map_or(Origin::Elsewhere, Origin::Filter);
        }
        if let Some(channel) = self.channels.of(connection) {
            return Origin::TicketSystem(channel);
        }
        if self.observes {
            return Origin::Elsewhere;
        }
        if self.is_reinjection(connection) {
            return self.opened(mail, site_key, now).map_or(Origin::Elsewhere, Origin::Filter);
        }
        if self.may_have_come_back(connection, &mail.envelope) {
            self.tell_of_an_unknown_filter(mail);
        }
        if self.keys.has_rules() && self.is_trusted(connection) {
            let keys = self.keys.of_author(&author::candidates(&mail.headers));
            if !keys.is_empty() {
                return Origin::OwnPeople(keys);
            }
        }
        Origin::Elsewhere
    }

    /// The keys that are asked to sign a message of this origin; `headers` are as they were written.
    pub(super) fn keys(&self, origin: &Origin<'_>, headers: &Headers) -> Vec<Arc<Key>> {
        let of = |connector: &str| self.keys.of_connector(connector, &author::candidates(headers));
        match origin {
            Origin::Elsewhere => Vec::new(),
            Origin::TicketSystem(channel) => of(&channel.connector.name),
            Origin::OwnPeople(keys) => keys.clone(),
            Origin::Filter(opened) => match &opened.submitter.connector {
                Some(connector) => of(connector),
                None => self.keys.of_author(&author::candidates(headers)),
            },
        }
    }

    /// What is put right in the header section: of a notification the values that all of its kind have, of what comes back from
    /// the filter all that was sealed.
    ///
    /// # Errors
    /// The reply where a preserved field is lost and the connector's policy is to refuse that.
    pub(super) fn repair(&self, origin: &Origin<'_>, mail: &Mail) -> Result<Repair, Reply> {
        let (connector, repair) = match origin {
            Origin::Elsewhere | Origin::OwnPeople(_) => return Ok(Repair::default()),
            Origin::TicketSystem(channel) => {
                let outgoing = self.connectors.get(&channel.connector.name);
                let preserved = outgoing.map_or(&[][..], |outgoing| &outgoing.preserved);
                (Some(&channel.connector), preserve::check(&mail.headers, preserved))
            }
            Origin::Filter(opened) => {
                let outgoing = opened.submitter.connector.as_ref().and_then(|name| self.connectors.get(name));
                (outgoing.map(|outgoing| &outgoing.connector), opened.restore(&mail.headers))
            }
        };
        let name = connector.map(|connector| connector.name.as_str());
        if repair.edits.len() > EDITS_MAX {
            let count = repair.edits.len();
            let text = format!("{count} header fields would have to be put right, more than {EDITS_MAX}");
            return Err(Reply::new(554, 6, 0, text));
        }
        if !repair.restored.is_empty() {
            let fields = repair.restored.join(",");
            tracing::warn!(
                queue_id = mail.queue_id,
                connector = name,
                fields,
                observed = self.observed(),
                "preserved fields were changed or missing: put back"
            );
        }
        if !repair.lost.is_empty() {
            let fields = repair.lost.join(",");
            tracing::warn!(
                queue_id = mail.queue_id,
                connector = name,
                fields,
                observed = self.observed(),
                "preserved fields were changed or missing and cannot be put back"
            );
            if let Some(connector) = connector.filter(|connector| connector.preserve.policy == BreachPolicy::Reject) {
                let text = format!(
                    "header field {fields} is missing or changed, which connector {} must preserve",
                    connector.name
                );
                return Err(Reply::new(550, 7, 1, text));
            }
        }
        Ok(repair)
    }

    /// Seals or signs a message that is otherwise done. Fields that are still to be added or taken away are none that a seal or
    /// a signature covers.
    ///
    /// # Errors
    /// The reply for a message that must not leave unsigned and cannot be signed.
    pub(super) async fn depart(
        &self,
        origin: &Origin<'_>,
        keys: Vec<Arc<Key>>,
        mail: &Mail,
        findings: Option<&Findings>,
        site_key: &SiteKey,
        now: u64,
    ) -> Result<Departure, Reply> {
        let headers = &mail.headers;
        if !keys.is_empty() {
            refuse_incomplete(mail)?;
            // A notification has a Date. In other mail the server behind the filter may add it, so that a seal then rests on the
            // Message-ID.
            let is_sealed = self.has_filter() && matches!(origin, Origin::OwnPeople(_));
            let is_unbound = is_sealed && headers.named("Message-ID").count() != 1;
            let dated = if origin.connector().is_some() || is_unbound { Dated::Must } else { Dated::May };
            sign::refuse_malformed(headers, dated, &keys)?;
        }
        let mut departure = Departure::default();
        let signers: Vec<Arc<Key>> = match self.submitter(origin, &mail.connection) {
            Some(submitter) => {
                let preserved = submitter.connector.as_ref().and_then(|name| self.connectors.get(name));
                let preserved = preserved.map_or(&[][..], |outgoing| &outgoing.preserved);
                // The author comes first: whatever finds no room in the seal, it does.
                let preserved_names =
                    preserved.iter().map(|field| field.name.as_str()).filter(|name| !is_guarded(name));
                let names = GUARDED.into_iter().take(1).chain(preserved_names).chain(GUARDED.into_iter().skip(1));
                let id = mail.queue_id.as_deref().filter(|_| mail.connection.pass == Pass::First);
                departure.fields.push(seal::seal(site_key, submitter, &mail.envelope.sender, id, headers, names, now));
                departure.sealed = true;
                // Nobody signs yet, but a line that cannot be signed is refused while its sender is there to hear it.
                Vec::new()
            }
            None => keys.iter().filter(|key| key.signs(findings)).cloned().collect(),
        };
        if keys.is_empty() {
            return Ok(departure);
        }
        departure.signed = signers.iter().map(ToString::to_string).collect();
        match self.keys.sign(signers, headers.clone(), mail.body.clone()).await {
            Ok(fields) => departure.fields.extend(fields),
            Err(failure) => {
                let reply = failure.reply();
                let keys = keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                if reply.is_transient() {
                    tracing::error!(
                        queue_id = mail.queue_id,
                        keys,
                        %failure,
                        observed = self.observed(),
                        "message not signed; it is deferred"
                    );
                }
                return Err(reply);
            }
        }
        Ok(departure)
    }

    /// Who is to be named in a seal, where one is due.
    fn submitter(&self, origin: &Origin<'_>, connection: &Connection) -> Option<Submitter> {
        let sees_it_again = connection.pass == Pass::First;
        if !self.has_filter() && !sees_it_again {
            return None;
        }
        match origin {
            Origin::TicketSystem(channel) => Some(Submitter {
                connector: Some(channel.connector.name.clone()),
                login: Some(channel.login.name.clone()),
            }),
            Origin::OwnPeople(_) => Some(Submitter::default()),
            // After the filter the last hop is still to come.
            Origin::Filter(opened) if sees_it_again => Some(opened.submitter.clone()),
            Origin::Elsewhere | Origin::Filter(_) => None,
        }
    }

    fn opened(&self, mail: &Mail, site_key: &SiteKey, now: u64) -> Option<Opened> {
        let queue_id = mail.queue_id.as_deref();
        let (bound, lifetime) = match mail.connection.pass {
            Pass::Last => (Bound::QueueId(queue_id), self.queue_lifetime),
            Pass::Only | Pass::First => (Bound::Sender(&mail.envelope.sender), self.settings.seal_lifetime),
        };
        match seal::open(site_key, &mail.headers, bound, now, lifetime) {
            Some(Ok(opened)) => {
                let connector = opened.submitter.connector.as_ref();
                let gone = connector.filter(|name| !self.connectors.contains_key(*name));
                if let Some(connector) = gone {
                    tracing::warn!(queue_id, connector, reason = "no such connector", "seal refused; not signed");
                    return None;
                }
                Some(opened)
            }
            Some(Err(reason)) => {
                tracing::warn!(queue_id, %reason, "seal refused; not signed");
                None
            }
            None => {
                self.tell_of_a_lost_seal(mail);
                None
            }
        }
    }

    /// Mail that comes back from the filter without a seal although its author is a ticket system's address: the filter has
    /// dropped the seal, or a stranger has borrowed the address. Nobody can tell which, so nothing is repaired.
    fn tell_of_a_lost_seal(&self, mail: &Mail) {
        let Some(from) = author::sole_address(&mail.headers) else { return };
        let Some(Outgoing { connector, preserved }) = self.outgoing(&from) else { return };
        let Repair { restored, lost, .. } = preserve::check(&mail.headers, preserved);
        tracing::warn!(
            queue_id = mail.queue_id,
            connector = connector.name,
            fields = [restored, lost].concat().join(","),
            "a message with this connector's From came back from the content filter without a seal: not repaired, not signed; fields are the preserved ones that are missing or changed"
        );
    }

    /// Whether this may be a notification that a content filter on this host hands back, although nobody told us of one.
    fn may_have_come_back(&self, connection: &Connection, envelope: &Envelope) -> bool {
        let Some(sender) = envelope.sender.address().filter(|_| !self.has_filter() && connection.login.is_none())
        else {
            return false;
        };
        let here = connection.client.ip().is_some_and(|ip| ip.to_canonical().is_loopback());
        here && self.outgoing(&sender).is_some()
    }

    /// Signed by us already and changed since: the signature is broken, and nothing can be put back without a seal.
    fn tell_of_an_unknown_filter(&self, mail: &Mail) {
        let Some(from) = author::sole_address(&mail.headers) else { return };
        let Some(Outgoing { connector, preserved }) = self.outgoing(&from) else { return };
        let Repair { restored, lost, .. } = preserve::check(&mail.headers, preserved);
        let fields = [restored, lost].concat().join(",");
        if fields.is_empty() || !is_signed_by(connector, &mail.headers) {
            return;
        }
        tracing::warn!(
            queue_id = mail.queue_id,
            connector = connector.name,
            fields,
            "preserved fields were changed after this notification was signed; if a content filter on this host hands mail back, name it in outbound.reinjection_networks"
        );
    }

    fn outgoing(&self, address: &Address) -> Option<&Outgoing> {
        let names = self.by_domain.get(address.domain())?;
        names.iter().filter_map(|name| self.connectors.get(name)).find(|outgoing| outgoing.connector.supports(address))
    }

    /// Whether a content filter stands between two passes of mail that is sealed and signed.
    fn has_filter(&self) -> bool {
        let signs = !self.connectors.is_empty() || self.keys.has_rules();
        signs && !self.settings.reinjection_networks.is_empty()
    }

    /// `yes` where what is told of is not done, for the log.
    fn observed(&self) -> Option<&'static str> {
        self.observes.then_some("yes")
    }

    /// Whether a content filter hands the message back: it comes from there, and nobody has logged in.
    pub(super) fn is_reinjection(&self, connection: &Connection) -> bool {
        connection.login.is_none() && connection.client.ip().is_some_and(|ip| self.settings.is_reinjection(ip))
    }

    /// Authenticated clients, this host, and the networks that are named. What a content filter hands back was anybody's.
    fn is_trusted(&self, connection: &Connection) -> bool {
        if connection.login.is_some() || connection.client == Client::Local {
            return true;
        }
        let trusted = |ip: std::net::IpAddr| ip.to_canonical().is_loopback() || self.settings.is_signing_client(ip);
        connection.client.ip().is_some_and(trusted) && !self.is_reinjection(connection)
    }
}

impl Origin<'_> {
    /// The SASL login by which the message came, now or before the filter.
    pub(super) fn login(&self) -> Option<&str> {
        match self {
            Self::TicketSystem(channel) => Some(&channel.login.name),
            Self::Filter(opened) => opened.submitter.login.as_deref(),
            Self::Elsewhere | Self::OwnPeople(_) => None,
        }
    }

    /// The connector whose notification it is.
    pub(super) fn connector(&self) -> Option<&str> {
        match self {
            Self::TicketSystem(channel) => Some(&channel.connector.name),
            Self::Filter(opened) => opened.submitter.connector.as_deref(),
            Self::Elsewhere | Self::OwnPeople(_) => None,
        }
    }

    /// Why the host that handed the message over need not be one that SPF knows.
    pub(super) fn trusted_hop(&self) -> Option<&'static str> {
        match self {
            Self::TicketSystem(_) => Some("hop is trusted by its login"),
            Self::Filter(_) => Some("hop is trusted by its seal"),
            Self::Elsewhere | Self::OwnPeople(_) => None,
        }
    }
}

fn is_guarded(name: &str) -> bool {
    GUARDED.iter().any(|guarded| guarded.eq_ignore_ascii_case(name))
}

/// Whether the message carries a signature that claims to be of one of the connector's keys.
fn is_signed_by(connector: &Connector, headers: &Headers) -> bool {
    headers.named("DKIM-Signature").any(|field| {
        let unfolded = field.unfolded();
        let tags = acceptable::tags(&unfolded);
        let says = |name: &[u8], value: &str| {
            tags.iter().any(|(tag, said)| *tag == name && said.eq_ignore_ascii_case(value.as_bytes()))
        };
        says(b"d", connector.domain.as_str()) && connector.dkim.iter().any(|key| says(b"s", &key.selector.to_string()))
    })
}

/// Without its body a message cannot be signed.
fn refuse_incomplete(mail: &Mail) -> Result<(), Reply> {
    match mail.shortfall {
        None => Ok(()),
        Some(Shortfall::TooLarge) => {
            Err(Reply::new(552, 3, 4, "message larger than limits.message_size, so it cannot be signed here"))
        }
        Some(Shortfall::Spool) => {
            Err(Reply::new(451, 3, 0, "local trouble, this message cannot be signed now; try again later"))
        }
    }
}
