//! The one story of a message: whose is it, who wrote it, what is forged in it, what does the ticket system get to know.
//!
//! In: a [`Mail`] from an attachment. Out: a [`Verdict`] for the attachment ([`Judge::judge`], before the queue) or the same
//! mail ready for the relay ([`Pipeline::hand_over`], after the queue). Nothing here knows which MTA asked or talks to an
//! endpoint; the only network I/O is DNS.

mod acceptable;
mod authenticate;
mod authentication_results;
mod author;
mod classify;
mod dmarc_record;
mod dns;
mod forged;
mod hops;
mod sender_auth;
mod site_key;
mod spf;
mod spf_record;
#[cfg(test)]
mod tests;

pub use sender_auth::{Doubt, SenderAuth, Status};
pub use site_key::SiteKey;

use std::time::{Duration, Instant, SystemTime};

use crate::config::{Config, Connector, OnTempError};
use crate::mail::{Budget, Domain, Envelope, Header, HeaderEdit, Mail, Reply, Shortfall, Verdict};

/// Verdict fields of a message that are looked at, from the top: ours is the first, for the milter takes all others away. Each
/// costs a MAC over the bound fields, which may be megabytes: of thousands, one message would keep a thread for minutes.
const VERDICTS_MAX: usize = 3;

/// Who judges mail before it is queued: the [`Pipeline`]. A trait, so that an attachment's protocol can be tested with
/// any verdict.
pub trait Judge: Send + Sync + 'static {
    /// Whether mail with this envelope is any of our business: a recipient belongs to a connector's domain.
    fn concerns(&self, envelope: &Envelope) -> bool;

    /// Judges a message that concerns us.
    fn judge(&self, mail: &Mail) -> impl Future<Output = Verdict> + Send;
}

/// Judges mail by one configuration. A reload makes a new one.
#[derive(Debug)]
pub struct Pipeline {
    hostname: Domain,
    authserv_id: String,
    hops: usize,
    on_temperror: OnTempError,
    verdict_lifetime: Duration,
    classifier: classify::Classifier,
    authenticator: authenticate::Authenticator,
    site_key: SiteKey,
}

impl Judge for Pipeline {
    fn concerns(&self, envelope: &Envelope) -> bool {
        self.classifier.concerns(envelope)
    }

    /// Classify, authenticate, strip, tag. Mail is never refused for what it says of its sender: the ticket system decides what to
    /// do with unauthenticated mail. It is deferred where it is for a support address, and refused for a flood of forged fields.
    async fn judge(&self, mail: &Mail) -> Verdict {
        let started = Instant::now();
        let class = self.classifier.classify(&mail.envelope);
        let forged = forged::fields(&mail.headers, &self.authserv_id);
        if let Some(reply) = forged::refuse_flood(forged.len()) {
            tracing::warn!(queue_id = mail.queue_id, sender = %mail.envelope.sender, forged = forged.len(), %reply, "message refused");
            return Verdict::refuse(reply);
        }
        let (sender, results) = self.authenticate(mail, &class).await;
        let deferral = self.deferral(&class, &sender);

        log_judgement(mail, &class, &sender, forged.len(), deferral.is_some(), started);
        if let Some(reply) = deferral {
            return Verdict::refuse(reply);
        }
        let verdict = self.site_key.seal(&sender.to_string(), &mail.headers, seconds_since_1970());
        let mut edits: Vec<HeaderEdit> = forged.into_iter().map(|index| HeaderEdit::Remove { index }).collect();
        edits.push(HeaderEdit::Prepend(verdict));
        edits.extend(results.map(HeaderEdit::Prepend));
        Verdict { edits, ..Verdict::pass() }
    }
}

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
        Ok(Self {
            hostname: config.daemon.hostname.clone(),
            authserv_id: authentication.authserv_id.clone(),
            hops: config.limits.hops,
            on_temperror: authentication.on_temperror,
            verdict_lifetime: authentication.verdict_lifetime,
            classifier: classify::Classifier::new(&config.connectors),
            authenticator,
            site_key,
        })
    }

    /// What is known of the sender, and the Authentication-Results field that says how.
    async fn authenticate(&self, mail: &Mail, class: &classify::Class) -> (SenderAuth, Option<Header>) {
        match mail.shortfall {
            // The transport refuses it for its size; whoever else it is for may take it.
            Some(Shortfall::TooLarge) => return (SenderAuth::unknown("too-large", None), None),
            Some(Shortfall::Spool) => return (SenderAuth::unknown("local-error", Some(Doubt::Local)), None),
            None => {}
        }
        match self.authenticator.authenticate(mail).await {
            Ok(findings) => {
                let sender = SenderAuth::weigh(&findings, class.domain.as_ref());
                (sender, Some(findings.field(&self.authserv_id)))
            }
            Err(error) => {
                tracing::error!(queue_id = mail.queue_id, error, "message not authenticated");
                (SenderAuth::unknown("local-error", Some(Doubt::Local)), None)
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
    pub fn hand_over(&self, connector: &Connector, mail: &mut Mail) -> Result<String, Reply> {
        hops::refuse_loop(&mail.headers, &self.hostname, &connector.name, self.hops)?;
        let now = seconds_since_1970();
        let mut fields =
            mail.headers.iter().enumerate().filter(|(_, field)| field.is(site_key::FIELD)).take(VERDICTS_MAX);
        let verdict = fields.find_map(|(index, field)| {
            let verdict = self.site_key.open(field, &mail.headers, now, self.verdict_lifetime)?;
            Some((verdict, index))
        });
        // Our Authentication-Results stands right above our verdict: what claims to be ours below is not, and without a verdict of
        // ours, when the message came past the milter, none is.
        let genuine = verdict.as_ref().map_or(0, |(_, index)| *index);
        let forged = forged::fields_below(&mail.headers, &self.authserv_id, genuine);
        let verdict =
            verdict.map_or_else(|| SenderAuth::unknown("not-judged", None).to_string(), |(verdict, _)| verdict);
        let trace = hops::received(mail, &self.hostname, &connector.name, time::OffsetDateTime::now_utc());
        let mut edits: Vec<HeaderEdit> = forged.into_iter().map(|index| HeaderEdit::Remove { index }).collect();
        edits.push(HeaderEdit::Prepend(Header::written(site_key::FIELD, &verdict)));
        edits.push(HeaderEdit::Prepend(trace));
        mail.headers.apply(&edits);
        Ok(verdict)
    }
}

/// The one line that tells of a judgement all that it rests on.
fn log_judgement(
    mail: &Mail,
    class: &classify::Class,
    sender: &SenderAuth,
    forged: usize,
    deferred: bool,
    started: Instant,
) {
    let connection = &mail.connection;
    tracing::info!(
        queue_id = mail.queue_id,
        decision = if deferred { "deferred" } else { "tagged" },
        connector = class.connectors.join(","),
        domain = class.domain.as_ref().map(Domain::as_str),
        message_id = mail.headers.first("Message-ID").map(Header::text),
        client = connection
            .client
            .ip()
            .map(|ip| ip.to_string())
            .unwrap_or_else(|| format!("{:?}", connection.client).to_lowercase()),
        helo = connection.helo,
        login = connection.login,
        from = %mail.envelope.sender,
        to = mail.envelope.recipients.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        size = mail.size(),
        auth = sender.to_string(),
        forged,
        delay_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "judged"
    );
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
