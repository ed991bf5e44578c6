//! The desk side: mail that comes in for the ticket system, from companies that log in with what was issued to them and from
//! anybody else.
//!
//! In: a message, what is known of its login, what is remembered of its conversation. Out: which way it came and the tags of its
//! ticket, as header fields that nobody else can write; or the reply for a login that is not good for it. It must not know
//! protocols, passwords or how a ticket system takes its mail.

mod conversations;
mod path;
mod references;

pub use conversations::Conversations;
pub use references::References;

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{self, Connector, System};
use crate::credential::Logins;
use crate::mail::{Address, Connection, Domain, Envelope, Header, HeaderEdit, Headers, Mail, Pass, Reply};
use conversations::Conversation;
use path::Path;

/// The field that says which way a message came.
const PATH_FIELD: &str = "X-Deskmilter-Path-Auth";
/// The field with the tags for its ticket.
const TAGS_FIELD: &str = "X-Deskmilter-Tags";
/// Domains and ticket systems among the recipients of one message at most: the store is asked for each.
const DOMAINS_MAX: usize = 10;

/// Judges mail for the connectors of the desk side, and for all domains for which credentials were issued.
#[derive(Debug)]
pub struct DeskSide {
    /// Those of the desk side alone.
    connectors: HashMap<Domain, Vec<Arc<Connector>>>,
    /// For domains that no connector has.
    others: config::Desk,
    logins: Arc<Logins>,
    conversations: Arc<Conversations>,
}

/// What a message of the desk side gets and loses.
#[derive(Debug)]
pub(super) struct Incoming {
    /// Names of the connectors whose support addresses are among the recipients.
    connectors: Vec<String>,
    path: Path,
    tags: Vec<String>,
    /// Positions of fields that only mail with a credential may have.
    stripped: Vec<usize>,
    /// The position of the company's own word on the sender, which stays.
    company_word: Option<usize>,
}

/// A recipient of ours.
struct Recipient<'d> {
    address: Address,
    rules: &'d config::Desk,
    /// The connector whose support address it is.
    connector: Option<&'d str>,
    /// Whether its mail makes tickets.
    makes_tickets: bool,
}

impl DeskSide {
    /// For the `connectors` that are of the desk side.
    pub fn new(connectors: &[Arc<Connector>], logins: Arc<Logins>, conversations: Arc<Conversations>) -> Self {
        let mut by_domain: HashMap<Domain, Vec<Arc<Connector>>> = HashMap::new();
        for connector in connectors.iter().filter(|connector| connector.desk.is_some()) {
            by_domain.entry(connector.domain.clone()).or_default().push(Arc::clone(connector));
        }
        Self { connectors: by_domain, others: config::Desk::preset(System::Generic), logins, conversations }
    }

    /// What is remembered of conversations, for those who pass notifications on.
    pub fn conversations(&self) -> &Arc<Conversations> {
        &self.conversations
    }

    /// Mail for a domain of ours, and all mail of a login that was issued: it is good for its own domain alone.
    pub(super) fn concerns(&self, connection: &Connection, envelope: &Envelope) -> bool {
        if connection.pass == Pass::Last {
            return false;
        }
        let issued = connection.login.as_deref().is_some_and(|login| self.logins.knows(login));
        issued || envelope.recipients.iter().filter_map(|path| path.address()).any(|to| self.is_ours(to.domain()))
    }

    fn is_ours(&self, domain: &Domain) -> bool {
        self.connectors.contains_key(domain) || self.logins.has_issued_for(domain)
    }

    /// Judges a message; `None` when it is none of the desk side's business.
    ///
    /// # Errors
    /// The reply for a message whose login is not good for it, and 451 when that, or what it belongs to, cannot be told now.
    pub(super) async fn judge(&self, mail: &Mail) -> Result<Option<Incoming>, Reply> {
        if !self.concerns(&mail.connection, &mail.envelope) {
            return Ok(None);
        }
        let recipients: Vec<Recipient<'_>> =
            mail.envelope.recipients.iter().filter_map(|path| self.recipient(path.address()?)).collect();
        let path = Path::of(mail, &self.logins, |to| self.base(to))?;
        let (mut stripped, mut company_word) = (Vec::new(), None);
        if path.is_authenticated() {
            company_word = company_word_on_sender(&mail.headers);
        } else {
            let strips = |name: &[u8]| recipients.iter().any(|to| to.rules.strips(name));
            let fields = mail.headers.iter().enumerate().filter(|(_, field)| strips(field.name()));
            stripped = fields.map(|(index, _)| index).collect();
        }
        let tags = self.tags(mail, &recipients, path.is_authenticated()).await?;
        let mut connectors: Vec<String> = Vec::new();
        for name in recipients.iter().filter_map(|to| to.connector) {
            if !connectors.iter().any(|known| known == name) {
                connectors.push(name.to_owned());
            }
        }
        Ok(Some(Incoming { connectors, path, tags, stripped, company_word }))
    }

    fn recipient(&self, address: Address) -> Option<Recipient<'_>> {
        if let Some(connectors) = self.connectors.get(address.domain()) {
            let supporting = connectors.iter().find(|connector| connector.supports(&address));
            let rules = supporting.or(connectors.first())?.desk.as_ref()?;
            let connector = supporting.map(|connector| connector.name.as_str());
            return Some(Recipient { address, rules, connector, makes_tickets: connector.is_some() });
        }
        let issued = self.logins.has_issued_for(address.domain());
        issued.then_some(Recipient { address, rules: &self.others, connector: None, makes_tickets: true })
    }

    /// An address without its extension.
    fn base(&self, address: &Address) -> Address {
        base(self.connectors.get(address.domain()).map(Vec::as_slice).unwrap_or_default(), address)
    }

    /// The tags, and what is remembered for later mail of the same conversation.
    async fn tags(&self, mail: &Mail, recipients: &[Recipient<'_>], authenticated: bool) -> Result<Vec<String>, Reply> {
        let mut tags: Vec<String> = Vec::new();
        let mut asked: Vec<(&Domain, &config::Desk)> = Vec::new();
        for Recipient { address, rules, makes_tickets, .. } in recipients {
            let domain = address.domain();
            let same = |(other, its): &(&Domain, &config::Desk)| *other == domain && std::ptr::eq(*its, *rules);
            if !makes_tickets || asked.iter().any(same) {
                continue;
            }
            if asked.len() == DOMAINS_MAX {
                let text = format!("recipients of more than {DOMAINS_MAX} domains; send them one after the other");
                return Err(Reply::new(452, 5, 3, text));
            }
            asked.push((domain, rules));
            let references = References::of(&mail.headers, rules.subject_token.as_deref());
            if references.too_many && !authenticated {
                // The one that matters could be among those that are not looked up.
                let text = "this message names more messages and tickets than can be looked up";
                return Err(Reply::new(554, 6, 0, text));
            }
            let known = self.conversations.find(domain, &references).await.map_err(|error| {
                tracing::warn!(queue_id = mail.queue_id, error, "the conversation of a message cannot be looked up");
                let text =
                    "the store is away, so that nobody can say which ticket this message belongs to; try again later";
                Reply::new(451, 3, 0, text)
            })?;
            let tag = match &known {
                None if authenticated => Some(&rules.ticket_tag),
                Some(Conversation { authenticated: true, .. }) if !authenticated => Some(&rules.update_tag),
                _ => None,
            };
            tags.extend(tag.filter(|tag| !tags.contains(tag)).cloned());
            // Of strangers nothing is kept but what belongs to a ticket that began authenticated.
            if authenticated || known.as_ref().is_some_and(|conversation| conversation.authenticated) {
                self.conversations.received(domain, &references, known).await;
            }
        }
        Ok(tags)
    }
}

impl Incoming {
    /// The positions of the fields that the message loses: the `forged` ones, and what this side takes from strangers.
    pub(super) fn lost(&self, mut forged: Vec<usize>, keeps_company_word: bool) -> Vec<usize> {
        forged.extend(&self.stripped);
        forged.sort_unstable();
        forged.dedup();
        forged.retain(|index| !(keeps_company_word && self.company_word == Some(*index)));
        forged
    }

    /// The fields that it gets, the last one topmost.
    pub(super) fn fields(&self) -> impl Iterator<Item = HeaderEdit> {
        let tags = (!self.tags.is_empty()).then(|| Header::written(TAGS_FIELD, &self.tags()));
        let path = Header::written(PATH_FIELD, &self.path.to_string());
        tags.into_iter().chain([path]).map(HeaderEdit::Prepend)
    }

    /// Whose tickets it makes, for the log.
    pub(super) fn connectors(&self) -> &[String] {
        &self.connectors
    }

    /// Which way it came, for the log.
    pub(super) fn path(&self) -> String {
        self.path.to_string()
    }

    /// Its tags, separated by commas.
    pub(super) fn tags(&self) -> String {
        self.tags.join(", ")
    }
}

/// An address without its extension, by the delimiter of the connector that it belongs to, of those of its domain.
fn base(connectors: &[Arc<Connector>], address: &Address) -> Address {
    let connector = connectors.iter().find(|connector| connector.supports(address)).or(connectors.first());
    let delimiter = connector.map_or(Some('+'), |connector| connector.recipient_delimiter);
    delimiter.and_then(|delimiter| address.without_extension(delimiter)).unwrap_or_else(|| address.clone())
}

/// Where a company's deskmilter tells of the sender: right below the Received field with which it handed the message over, the
/// topmost. Further down it may be an end user who writes both: a server that is no deskmilter adds mostly nothing but Received fields.
fn company_word_on_sender(headers: &Headers) -> Option<usize> {
    let mut fields = headers.iter();
    let (top, below) = (fields.next()?, fields.next()?);
    let handed_over = top.is("Received") && top.text().contains(" (deskmilter connector=");
    (handed_over && below.is(super::site_key::FIELD)).then_some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        Headers::new(fields.iter().map(|(name, text)| Header::written(name, text)).collect())
    }

    #[test]
    fn an_extension_is_cut_off_as_the_addresss_own_connector_has_it() {
        let connector = |name: &str, delimiter: &str| {
            format!(
                "[[connector]]\nname = \"{name}\"\nsystem = \"zammad\"\ndomain = \"acme.example\"\n\
                 recipient_delimiter = \"{delimiter}\"\naddresses = [\"{name}@acme.example\"]\n[connector.desk]\n"
            )
        };
        let head = "[daemon]\nhostname = \"desk.example\"\n[milter]\nlisten = [\"unix:/run/deskmilter/milter.sock\"]\n";
        let text = format!("{head}{}{}", connector("support", "+"), connector("billing", "-"));
        let config = config::Config::parse(&text, std::path::Path::new("/etc/deskmilter/deskmilter.toml")).unwrap();
        let address = |text: &str| Address::parse(text).unwrap();
        for (to, expected) in [
            ("support+1@acme.example", "support@acme.example"),
            ("billing-1@acme.example", "billing@acme.example"),
            ("billing-1+2@acme.example", "billing@acme.example"),
            ("sales+1@acme.example", "sales@acme.example"),
            ("support-1@acme.example", "support-1@acme.example"),
        ] {
            assert_eq!(base(&config.connectors, &address(to)), address(expected), "{to}");
        }
        assert_eq!(base(&[], &address("help+1@other.example")), address("help@other.example"));
    }

    #[test]
    fn the_companys_word_stands_below_its_own_received_and_nowhere_else() {
        let ours = ("Received", "from mx by mx.acme.example (deskmilter connector=acme) with LMTP id X; date");
        let theirs = ("Received", "from pc by mx.acme.example (Postfix) with ESMTPS id Y; date");
        let word = ("X-Deskmilter-Sender-Auth", "pass; reason=dmarc");
        for (fields, expected) in [
            (&[ours, word, theirs][..], Some(1)),
            // The company's server is no deskmilter, and its end user wrote the rest.
            (&[theirs, ours, word], None),
            (&[ours, word, theirs, word], Some(1)),
            (&[theirs, word], None),
            (&[word], None),
            (&[ours, theirs, word], None),
            (&[("Subject", "a"), ours, word], None),
            (&[], None),
        ] {
            assert_eq!(company_word_on_sender(&headers(fields)), expected, "{fields:?}");
        }
    }
}
