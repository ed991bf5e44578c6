//! Answers a ticket as Zendesk does: a notification to its requester, from the support address.

use std::fs;
use std::path::Path;

use mail_parser::MessageParser;

use super::letter::{self, Letter, Marks};
use super::outbox::{Outbox, Sent, Way, read_json};
use super::{SandboxError, Ticket};
use crate::dkim::SigningKey;
use crate::mail::Address;

/// Octets of a Message-ID at most; longer ones are not answered to, for their field could not be folded.
const MESSAGE_ID_MAX: usize = 250;
/// Message-IDs in References at most.
const REFERENCES_MAX: usize = 20;

/// A notification that is wanted.
#[derive(Debug)]
pub struct Notification<'a> {
    /// The ticket's number.
    pub ticket: u64,
    /// Who gets it instead of the requester.
    pub to: Option<Address>,
    /// Who gets a copy.
    pub cc: Vec<Address>,
    /// The agent's words; a few with letters beyond ASCII unless told.
    pub text: Option<String>,
    /// Zendesk's own key, when the company has published it under `zendesk2._domainkey`.
    pub key: Option<&'a SigningKey>,
}

impl Notification<'_> {
    /// Writes it, keeps it in the state folder and sends it.
    ///
    /// # Errors
    /// There is no such ticket, nobody to answer, or no way to send; names the object.
    pub async fn send(&self, state: &Path, way: &Way) -> Result<Sent, SandboxError> {
        let folder = state.join("tickets").join(format!("{:06}", self.ticket));
        let ticket: Ticket = read_json(&folder.join("ticket.json"))?;
        let first = |list: &[String]| list.first().and_then(|text| Address::parse(text).ok());
        let from = first(&ticket.passage.recipients)
            .ok_or_else(|| SandboxError(format!("ticket {}: no support address in its envelope", ticket.id)))?;
        if ticket.passage.sender.is_empty() && self.to.is_none() {
            let why = "came with the null reverse-path: an answer to it could go in circles; name somebody with --to";
            return Err(SandboxError(format!("ticket {} {why}", ticket.id)));
        }
        let to = match &self.to {
            Some(to) => to.clone(),
            None => requester(&folder.join("message.eml"))?,
        };
        if let Some(odd) = [&from, &to].into_iter().chain(&self.cc).find(|address| !letter::is_writable(address)) {
            return Err(SandboxError(format!("{odd}: the sandbox writes to plain ASCII addresses alone")));
        }
        let marks = Marks::new().map_err(SandboxError)?;
        let references = references(&ticket);
        // Zendesk names the message that it answers, and the ticket.
        let in_reply_to: Vec<String> = [references.first(), references.last()].into_iter().flatten().cloned().collect();
        let name = from.domain().as_str().split('.').next().unwrap_or_default();
        let text = self.text.clone().unwrap_or_else(|| words(&ticket));
        let letter = Letter {
            from: &from,
            from_name: &format!("{name} ({})", from.local()),
            to: &to,
            cc: &self.cc,
            extension: Some(format!("id{}", ticket.id)),
            subject: &format!("[{name}] Re: {}", ticket.subject),
            in_reply_to: &in_reply_to,
            references: &references,
            text: &text,
        };
        let mut message = letter.write(&marks);
        if let Some(key) = self.key {
            message = letter::sign(&message, from.domain(), key).map_err(SandboxError)?;
        }
        let recipients: Vec<Address> = std::iter::once(to).chain(self.cc.iter().cloned()).collect();
        Outbox::new(state).send(ticket.id, (&from, &recipients), (&marks.message_id, &message), way).await
    }
}

/// The ids of the ticket's messages that can be referred to, and at last the ticket's own.
fn references(ticket: &Ticket) -> Vec<String> {
    let passages = std::iter::once(&ticket.passage).chain(ticket.updates.iter().map(|update| &update.passage));
    let fit = |id: &&String| id.len() <= MESSAGE_ID_MAX && id.bytes().all(|b| b.is_ascii_graphic() && b != b'<');
    let ids = passages.filter_map(|passage| passage.message_id.as_ref()).filter(fit).take(REFERENCES_MAX);
    ids.cloned().chain([format!("ticket-{}@{}.zendesk.com", ticket.id, ticket.domain.replace('.', "-"))]).collect()
}

/// Who wrote the ticket's first message.
fn requester(message: &Path) -> Result<Address, SandboxError> {
    let octets = fs::read(message).map_err(|error| SandboxError::at(message, error))?;
    let parsed = MessageParser::default().parse_headers(&octets);
    let from = parsed.as_ref().and_then(|parsed| parsed.from()?.first()?.address().map(str::to_owned));
    from.and_then(|from| Address::parse(&from).ok())
        .ok_or_else(|| SandboxError::at(message, "no From address that can be answered; name somebody with --to"))
}

fn words(ticket: &Ticket) -> String {
    format!(
        "##- Please type your reply above this line -##\n\n\
         Your request ({}) has been updated – schöne Grüße.\n\n\
         It is on its way: 1 × “{}”, €\u{a0}20. ✓\n",
        ticket.id,
        ticket.subject.chars().take(60).collect::<String>()
    )
}
