//! The one story of a message: whose is it, who handed it in, what must survive in it, who wrote it, what does the ticket
//! system get to know, what do we sign.
//!
//! In: a [`Mail`] from an attachment. Out: a [`Verdict`] for the attachment ([`Judge::judge`], before the queue) or the same
//! mail ready for the relay ([`Pipeline::hand_over`], after the queue). Nothing here knows which MTA asked or talks to an
//! endpoint; the only network I/O is DNS and, on the [desk side](DeskSide), the store.

mod acceptable;
mod authenticate;
mod authentication_results;
mod author;
mod body_digest;
mod bucket;
mod classify;
mod desk;
mod dmarc_record;
pub(crate) mod dns;
mod examine;
mod forged;
#[cfg(any(test, fuzzing))]
#[path = "../../fuzz/targets/pipeline.rs"]
pub(crate) mod fuzzing;
mod hops;
mod judge;
mod lane;
mod notification;
mod outbound;
mod preserve;
mod record;
mod seal;
mod sender_auth;
mod sign;
mod site_key;
mod spf;
mod spf_record;
mod submitter;
#[cfg(test)]
mod tests;

pub use authentication_results::Outcome;
use body_digest::body_digest;
pub use desk::{Conversations, DeskSide, References};
pub use examine::{Examination, Examiner, SeenSignature};
pub use judge::{Judge, Terms};
pub use seal::FIELD as SEAL_FIELD;
pub use sender_auth::{Doubt, SenderAuth, Status};
pub use site_key::SiteKey;
pub use submitter::{Submitter, Submitters};

use lane::{Beside, Lane};
use outbound::Origin;
use record::Record;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{Config, Connector, OnTempError};
use crate::mail::{
    Budget, Connection, Domain, Envelope, Header, HeaderEdit, Headers, Mail, Pass, Reply, Shortfall, Verdict,
};

/// Verdict fields of a message that are looked at, from the top: ours is the first, for the milter takes all others away. Each
/// costs a MAC over the bound fields, which may be megabytes: of thousands, one message would keep a thread for minutes.
const VERDICTS_MAX: usize = 3;

/// Whether an auth status, as [`Pipeline::hand_over`] returns it, is that of a proven sender.
pub fn is_authenticated(status: &str) -> bool {
    status.split(';').next() == Some(Status::Pass.as_str())
}

/// Judges mail by one configuration. A reload makes a new one.
#[derive(Debug)]
pub struct Pipeline {
    hostname: Domain,
    authserv_id: String,
    hops: usize,
    on_temperror: OnTempError,
    verdict_lifetime: Duration,
    verdict_covers_body: bool,
    authenticator: Arc<authenticate::Authenticator>,
    /// What is done.
    acting: Lane,
    /// What would be done.
    observing: Option<Lane>,
    desk: Option<DeskSide>,
    site_key: SiteKey,
}

impl Judge for Pipeline {
    fn concerns(&self, connection: &Connection, envelope: &Envelope) -> bool {
        self.acting.concerns(connection, envelope)
            || self.observer(connection, envelope).is_some()
            || self.desk.as_ref().is_some_and(|desk| desk.concerns(connection, envelope))
    }

    fn only_observes(&self, connection: &Connection, envelope: &Envelope) -> bool {
        self.observer(connection, envelope).is_some()
            && !self.acting.concerns(connection, envelope)
            && !self.desk.as_ref().is_some_and(|desk| desk.concerns(connection, envelope))
    }

    async fn judge(&self, mail: &Mail) -> Verdict {
        let mut known = None;
        let (connection, envelope) = (&mail.connection, &mail.envelope);
        let verdict = match self.only_observes(connection, envelope) {
            true => Verdict::pass(),
            false => self.judge_in(&self.acting, mail, &mut known).await,
        };
        if let Some(lane) = self.observer(connection, envelope) {
            // Its line in the log is all that comes of it.
            self.judge_in(lane, mail, &mut known).await;
        }
        verdict
    }
}

/// What the methods found, and whether the hop was trusted: what one lane has found out the other need not.
type Known = Option<(Option<&'static str>, authenticate::Findings)>;

impl Pipeline {
    /// A pipeline for this configuration; `budget` is for the messages that are verified.
    ///
    /// # Errors
    /// The resolver cannot be set up.
    pub fn new(config: &Config, site_key: SiteKey, budget: &Budget) -> Result<Self, String> {
        let authentication = &config.authentication;
        let authenticator = authenticate::Authenticator::new(
            &authentication.name_servers,
            &config.daemon.hostname,
            authentication.dns_timeout,
            authentication.max_signatures,
            budget.clone(),
        )?;
        Ok(Self::with(config, site_key, Arc::new(authenticator)))
    }

    /// A pipeline for the next configuration that goes on where this one is: what each login has used of its rates is
    /// remembered. With `same_resolver` the resolver, its bounds and its answers are kept as well, whatever `config` says.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn successor(
        &self,
        config: &Config,
        site_key: SiteKey,
        budget: &Budget,
        same_resolver: bool,
    ) -> Result<Self, String> {
        let mut next = match same_resolver {
            true => Self::with(config, site_key, Arc::clone(&self.authenticator)),
            false => Self::new(config, site_key, budget)?,
        };
        next.acting.outbound.go_on_from(&self.acting.outbound);
        if let (Some(next), Some(earlier)) = (&mut next.observing, &self.observing) {
            next.outbound.go_on_from(&earlier.outbound);
        }
        Ok(next)
    }

    fn with(config: &Config, site_key: SiteKey, authenticator: Arc<authenticate::Authenticator>) -> Self {
        let authentication = &config.authentication;
        Self {
            hostname: config.daemon.hostname.clone(),
            authserv_id: authentication.authserv_id.clone(),
            hops: config.limits.hops,
            on_temperror: authentication.on_temperror,
            verdict_lifetime: authentication.verdict_lifetime,
            verdict_covers_body: authentication.verdict_covers_body,
            authenticator,
            acting: Lane::acting(config),
            observing: Lane::observing(config),
            desk: None,
            site_key,
        }
    }

    /// The same pipeline, which also judges mail for the desk side.
    #[must_use]
    pub fn with_desk(mut self, desk: Option<DeskSide>) -> Self {
        self.desk = desk;
        self
    }

    /// The desk side, where there is one.
    pub fn desk(&self) -> Option<&DeskSide> {
        self.desk.as_ref()
    }

    /// The connectors that observe a message.
    fn observer(&self, connection: &Connection, envelope: &Envelope) -> Option<&Lane> {
        self.observing.as_ref().filter(|lane| connection.pass != Pass::Last && lane.concerns(connection, envelope))
    }

    async fn judge_in(&self, lane: &Lane, mail: &Mail, known: &mut Known) -> Verdict {
        let mut record = Record { started: Some(Instant::now()), ..Record::default() };
        let outcome = self.decide(lane, mail, &mut record, known).await;
        if lane.observes {
            record.beside = Some(Beside::of(mail, &self.authserv_id));
        }
        record.log(mail, outcome.as_ref().err());
        match outcome {
            Ok(edits) => Verdict { edits, ..Verdict::pass() },
            Err(reply) => Verdict::refuse(reply),
        }
    }

    /// Classify, recognise, preserve, authenticate, tag, seal or sign.
    ///
    /// Inbound mail is never refused for what it says of its sender: the ticket system decides what to do with unauthenticated
    /// mail. It is deferred where it is for a support address, and refused for a flood of forged fields. What is to leave with
    /// our signature must be fit for it.
    async fn decide(
        &self,
        lane: &Lane,
        mail: &Mail,
        record: &mut Record,
        known: &mut Known,
    ) -> Result<Vec<HeaderEdit>, Reply> {
        let Lane { classifier, outbound, .. } = lane;
        let now = seconds_since_1970();
        let class = classifier.classify(&mail.envelope);
        let origin = outbound.origin(mail, &self.site_key, now);
        record.recognised(&class, &origin);
        if mail.connection.pass == Pass::Last && matches!(origin, Origin::Elsewhere) {
            let text = "a message on its last hop has no seal that is worth anything, so it is not sent; see the log";
            return Err(Reply::new(451, 7, 1, text));
        }
        if let Origin::TicketSystem(channel) = &origin {
            channel.admit(mail, Instant::now())?;
        }

        let incoming = match &self.desk {
            Some(desk) if !lane.observes => desk.judge(mail).await?,
            _ => None,
        };
        record.incoming(incoming.as_ref());

        let repair = outbound.repair(&origin, mail)?;
        if !repair.edits.is_empty() {
            // What is judged is another message than the one that the other lane judges.
            *known = None;
        }
        let mut edits = repair.edits;
        let mut headers = mail.headers.clone();
        headers.apply(&edits);
        let standing = match &origin {
            Origin::Elsewhere => self.standing_verdict(outbound, &mail.connection, &mail.headers, &headers, now),
            _ => None,
        };
        let inbound = class.domain.is_some() && standing.is_none();
        let mut forged = match inbound || incoming.is_some() {
            true => forged::fields(&mail.headers, &self.authserv_id),
            false => forged::named_ours(&mail.headers),
        };
        if let Some(incoming) = &incoming {
            forged = incoming.lost(forged, !inbound);
        }
        record.forged = forged.len();
        if let Some(reply) = forged::refuse_flood(forged.len()) {
            return Err(reply);
        }
        let standing_at = standing.as_ref().map(|(index, _)| *index);
        let forged: Vec<usize> = forged.into_iter().filter(|index| Some(*index) != standing_at).collect();
        edits.extend(forged.into_iter().map(|index| HeaderEdit::Remove { index }));
        // From here on the message is what its author wrote.
        let mail = &mail.with_headers(headers);
        if let Some((index, verdict)) = standing {
            // What the filter did to the body is not the sender's doing. Ours stays where it is: what is below it is not ours.
            let digest = self.digest(mail).await;
            let field = self.site_key.seal(&verdict, &mail.headers, digest.as_deref(), now);
            edits.push(HeaderEdit::Replace { index, field });
            record.sender = Some(verdict);
        }

        let keys = outbound.keys(&origin, &mail.headers);
        let mut findings = None;
        if inbound || keys.iter().any(|key| key.asks(&mail.headers)) {
            let (sender, found) = self.authenticate(mail, &class, &origin, known).await;
            findings = found;
            record.sender = Some(sender.to_string());
            if let Some(reply) = self.deferral(&class, &sender) {
                return Err(reply);
            }
            if inbound {
                let digest = self.digest(mail).await;
                let verdict = self.site_key.seal(&sender.to_string(), &mail.headers, digest.as_deref(), now);
                edits.push(HeaderEdit::Prepend(verdict));
                edits.extend(findings.as_ref().map(|found| HeaderEdit::Prepend(found.field(&self.authserv_id))));
            }
        }

        edits.extend(incoming.iter().flat_map(desk::Incoming::fields));
        let departure = outbound.depart(&origin, keys, mail, findings.as_ref(), &self.site_key, now).await?;
        record.departed(&departure);
        edits.extend(departure.fields.into_iter().map(HeaderEdit::Prepend));
        Ok(edits)
    }

    /// The verdict of the pass before the content filter, and where it stands in the message as it came, if the filter hands
    /// the message back and the verdict holds. It stays, whatever the filter did to the body: to judge again would be to judge
    /// the filter.
    fn standing_verdict(
        &self,
        outbound: &outbound::Outbound,
        connection: &Connection,
        came: &Headers,
        restored: &Headers,
        now: u64,
    ) -> Option<(usize, String)> {
        if !outbound.is_reinjection(connection) {
            return None;
        }
        let fields = came.iter().enumerate().filter(|(_, field)| field.is(site_key::FIELD));
        fields.take(VERDICTS_MAX).find_map(|(index, field)| {
            let opened = self.site_key.open(field, restored, now, self.verdict_lifetime)?;
            Some((index, opened.verdict))
        })
    }

    /// What is known of the sender, and what the methods found.
    async fn authenticate(
        &self,
        mail: &Mail,
        class: &classify::Class,
        origin: &Origin<'_>,
        known: &mut Known,
    ) -> (SenderAuth, Option<authenticate::Findings>) {
        match mail.shortfall {
            // The transport refuses it for its size; whoever else it is for may take it.
            Some(Shortfall::TooLarge) => return (SenderAuth::unknown("too-large", None), None),
            Some(Shortfall::Spool) => return (SenderAuth::unknown("local-error", Some(Doubt::Local)), None),
            None => {}
        }
        let hop = origin.trusted_hop();
        let found = match known.take().filter(|(trusted, _)| *trusted == hop) {
            Some((_, findings)) => Ok(findings),
            None => self.authenticator.authenticate(mail, hop).await,
        };
        match found {
            Ok(mut findings) => {
                if self.observing.is_some() {
                    *known = Some((hop, findings.clone()));
                }
                // A login before the content filter is a login.
                findings.login = findings.login.or_else(|| origin.login().map(str::to_owned));
                (SenderAuth::weigh(&findings, class.domain.as_ref()), Some(findings))
            }
            Err(error) => {
                tracing::error!(queue_id = mail.queue_id, error, "message not authenticated");
                (SenderAuth::unknown("local-error", Some(Doubt::Local)), None)
            }
        }
    }

    /// What ties the verdict to the body; `None` where there is no body or that is switched off.
    async fn digest(&self, mail: &Mail) -> Option<String> {
        if !self.verdict_covers_body || mail.shortfall.is_some() {
            return None;
        }
        match body_digest(&mail.body).await {
            Ok(digest) => Some(digest),
            Err(error) => {
                tracing::error!(queue_id = mail.queue_id, %error, "the body cannot be read back from the spool");
                None
            }
        }
    }

    /// The reply for mail to a support address that another time could be judged better: when we are in trouble ourselves,
    /// and when the sender's DNS is, if that was asked for. Mail for others goes on.
    fn deferral(&self, class: &classify::Class, sender: &SenderAuth) -> Option<Reply> {
        if class.connectors.is_empty() {
            return None;
        }
        match sender.doubt? {
            Doubt::Local => {
                Some(Reply::new(451, 3, 0, "local trouble, this message cannot be judged now; try again later"))
            }
            Doubt::Dns if self.on_temperror == OnTempError::Defer => {
                let text = "the sender's DNS does not answer, so the sender cannot be verified; try again later";
                Some(Reply::new(451, 4, 3, text))
            }
            Doubt::Dns => None,
        }
    }

    /// Makes a message that came out of the queue ready for the relay: loops end here, the verdict of the milter side counts
    /// if it is really ours, what is forged goes, our trace is added. Returns the auth status for the log.
    ///
    /// # Errors
    /// The reply for a message that goes round in circles.
    pub async fn hand_over(&self, connector: &Connector, mail: &mut Mail) -> Result<String, Reply> {
        hops::refuse_loop(&mail.headers, &self.hostname, &connector.name, self.hops)?;
        let now = seconds_since_1970();
        self.sign_sealed(mail, now).await?;
        let mut fields =
            mail.headers.iter().enumerate().filter(|(_, field)| field.is(site_key::FIELD)).take(VERDICTS_MAX);
        let opened = fields.find_map(|(index, field)| {
            let opened = self.site_key.open(field, &mail.headers, now, self.verdict_lifetime)?;
            Some((opened, index))
        });
        let verdict = match opened {
            Some((opened, index)) if self.is_for_this_body(&opened, mail).await => Ok((opened.verdict, index)),
            Some(_) => Err("body-changed"),
            None => Err("not-judged"),
        };
        // Our Authentication-Results stands right above our verdict: what claims to be ours below is not, and without a verdict of
        // ours, when the message came past the milter, none is.
        let genuine = verdict.as_ref().map_or(0, |(_, index)| *index);
        let forged = forged::fields_below(&mail.headers, &self.authserv_id, genuine);
        let verdict =
            verdict.map_or_else(|reason| SenderAuth::unknown(reason, None).to_string(), |(verdict, _)| verdict);
        let trace = hops::received(mail, &self.hostname, &connector.name, time::OffsetDateTime::now_utc());
        let mut edits: Vec<HeaderEdit> = forged.into_iter().map(|index| HeaderEdit::Remove { index }).collect();
        edits.push(HeaderEdit::Prepend(Header::written(site_key::FIELD, &verdict)));
        edits.push(HeaderEdit::Prepend(trace));
        mail.headers.apply(&edits);
        Ok(verdict)
    }
}

impl Pipeline {
    /// To a message with a seal for its last hop this is the last hop: what was sealed is put back, and it is signed. A seal that
    /// is worth nothing goes with all other fields that are not ours, and the message is relayed as anybody's.
    async fn sign_sealed(&self, mail: &mut Mail, now: u64) -> Result<(), Reply> {
        if mail.headers.first(SEAL_FIELD).is_none() {
            return Ok(());
        }
        let connection = Connection { pass: Pass::Last, ..Connection::default() };
        let mut last = Mail { connection: Arc::new(connection), ..mail.with_headers(mail.headers.clone()) };
        let origin = self.acting.outbound.origin(&last, &self.site_key, now);
        if matches!(origin, Origin::Elsewhere) {
            return Ok(());
        }
        let mut record = Record { started: Some(Instant::now()), ..Record::default() };
        record.recognised(&classify::Class::default(), &origin);
        let mut edits = self.acting.outbound.repair(&origin, &last)?.edits;
        let seals = last.headers.iter().enumerate().filter(|(_, field)| field.is(SEAL_FIELD));
        edits.extend(seals.map(|(index, _)| HeaderEdit::Remove { index }));
        last.headers.apply(&edits);
        let keys = self.acting.outbound.keys(&origin, &last.headers);
        let findings = match keys.iter().any(|key| key.asks(&last.headers)) {
            true => self.authenticate(&last, &classify::Class::default(), &origin, &mut None).await.1,
            false => None,
        };
        let departure =
            self.acting.outbound.depart(&origin, keys, &last, findings.as_ref(), &self.site_key, now).await?;
        record.departed(&departure);
        record.log(&last, None);
        let fields: Vec<_> = departure.fields.into_iter().map(HeaderEdit::Prepend).collect();
        mail.headers = last.headers;
        mail.headers.apply(&fields);
        Ok(())
    }

    /// Whether the body is the one that was judged. A verdict without a digest says nothing of any body: good where that is
    /// switched off, and where it is `none` anyway.
    async fn is_for_this_body(&self, opened: &site_key::Opened, mail: &Mail) -> bool {
        match &opened.body {
            Some(judged) => !self.verdict_covers_body || self.digest(mail).await.as_ref() == Some(judged),
            None => !self.verdict_covers_body || opened.verdict.starts_with("none;"),
        }
    }
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
