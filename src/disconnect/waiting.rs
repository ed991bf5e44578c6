//! How the mail is known that waits in the MTA's queue for what is taken down.

use serde::{Deserialize, Serialize};

use crate::doctor::postfix::Queued;
use crate::harmless::harmless;
use crate::mail::Address;

/// Support addresses, each with the recipient delimiter of its connector.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Mail for them is put through address rewriting again.
    pub recipients: Vec<(String, Option<char>)>,
    /// Mail of them is waited for: a ticket system's notifications on the desk side.
    pub senders: Vec<(String, Option<char>)>,
}

impl Waiting {
    /// Whether the message is for what is taken down, or of it.
    pub(super) fn has(&self, message: &Queued) -> bool {
        self.has_for(message) || is_among(&self.senders, &message.sender)
    }

    /// The messages that are deferred and for what is taken down.
    pub(super) fn deferred(&self, queued: &[Queued]) -> Vec<String> {
        let is = |message: &&Queued| message.queue == "deferred" && self.has_for(message);
        queued.iter().filter(is).map(|message| message.id.clone()).collect()
    }

    /// A line for each message that [`Self::has`]. Addresses and reasons are strangers' words.
    pub fn told(&self, queued: &[Queued]) -> Vec<String> {
        let ours = queued.iter().filter(|message| self.has(message));
        let line = |Queued { id, queue, sender, recipients }: &Queued| {
            let reason =
                recipients.iter().map(|recipient| recipient.delay_reason.as_str()).find(|reason| !reason.is_empty());
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            let recipients: Vec<&str> = recipients.iter().map(|recipient| recipient.address.as_str()).collect();
            harmless(&format!("{id} ({queue}) from <{sender}> for {}{reason}", recipients.join(", ")))
        };
        ours.map(line).collect()
    }

    fn has_for(&self, message: &Queued) -> bool {
        message.recipients.iter().any(|recipient| is_among(&self.recipients, &recipient.address))
    }
}

/// Whether `text` is one of `addresses`, in any letter case, with or without an extension.
fn is_among(addresses: &[(String, Option<char>)], text: &str) -> bool {
    let Ok(address) = Address::parse(text) else { return false };
    addresses.iter().any(|(own, delimiter)| {
        let base = delimiter.and_then(|delimiter| address.without_extension(delimiter));
        Address::parse(own).is_ok_and(|own| own == address || Some(own) == base)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_in_the_queue_in_any_case_and_with_its_extension() {
        let known = [("support@acme.example".to_owned(), Some('+')), ("b@acme.example".to_owned(), None)];
        for text in ["support@acme.example", "Support@Acme.Example", "support+id7@acme.example", "b@acme.example"] {
            assert!(is_among(&known, text), "{text}");
        }
        for text in ["", "MAILER-DAEMON", "b+x@acme.example", "supporter@acme.example", "support@other.example"] {
            assert!(!is_among(&known, text), "{text}");
        }
    }

    #[test]
    fn what_is_deferred_for_them_is_told_from_what_is_under_way_and_from_what_is_not_theirs() {
        let line = |id: &str, queue: &str, sender: &str, to: &str| -> Queued {
            let text = format!(
                "{{\"queue_name\":\"{queue}\",\"queue_id\":\"{id}\",\"arrival_time\":1,\"message_size\":2,\"sender\":\"{sender}\",\
                 \"recipients\":[{{\"address\":\"x@acme.example\"}},{{\"address\":\"{to}\",\"delay_reason\":\"down\"}}]}}"
            );
            serde_json::from_str(&text).unwrap()
        };
        let waiting = Waiting {
            recipients: vec![("support@acme.example".to_owned(), Some('+'))],
            senders: vec![("desk@acme.example".to_owned(), None)],
        };
        let queued = [
            line("A", "deferred", "a@b.example", "support+1@acme.example"),
            line("B", "active", "a@b.example", "support@acme.example"),
            line("C", "deferred", "Desk@acme.example", "a@b.example"),
            line("D", "deferred", "a@b.example", "boss@acme.example"),
        ];
        assert_eq!(waiting.deferred(&queued), ["A"]);
        let told = waiting.told(&queued);
        assert_eq!(told.len(), 3);
        let hostile = [line("E", "deferred", "\\u001b]0;x\\u0007@b.example", "support@acme.example")];
        assert_eq!(
            waiting.told(&hostile),
            ["E (deferred) from <\\u{1b}]0;x\\u{7}@b.example> for x@acme.example, support@acme.example: down"]
        );
        assert_eq!(told[0], "A (deferred) from <a@b.example> for x@acme.example, support+1@acme.example: down");
    }
}
