//! The sandbox's tickets, of which each file says which message it came from.

use std::collections::HashMap;

use serde::Deserialize;

use super::ledger::{name, normal_id};

/// How often the endpoint has each message.
#[derive(Debug, Default)]
pub struct Tickets {
    by_message_id: HashMap<Box<str>, Vec<Filed>>,
    /// Files that could not be read as tickets.
    pub damaged: u64,
}

/// A message that the endpoint has.
#[derive(Debug)]
pub(super) struct Filed {
    pub(super) sender: String,
    pub(super) recipient: String,
    pub(super) times: u64,
}

#[derive(Deserialize)]
struct Ticket {
    #[serde(flatten)]
    passage: Passage,
    #[serde(default)]
    updates: Vec<Passage>,
}

#[derive(Deserialize)]
struct Passage {
    sender: String,
    recipients: Vec<String>,
    message_id: Option<String>,
}

impl Tickets {
    /// Takes one `ticket.json`.
    pub fn add(&mut self, json: &[u8]) {
        let Ok(ticket) = serde_json::from_slice::<Ticket>(json) else {
            self.damaged = self.damaged.saturating_add(1);
            return;
        };
        for passage in std::iter::once(ticket.passage).chain(ticket.updates) {
            let Some(id) = passage.message_id.as_deref().map(normal_id) else { continue };
            let all = self.by_message_id.entry(id).or_default();
            for recipient in passage.recipients {
                let (sender, recipient) = (name(&passage.sender), name(&recipient).to_lowercase());
                match all.iter_mut().find(|filed| filed.sender == sender && filed.recipient == recipient) {
                    Some(filed) => filed.times = filed.times.saturating_add(1),
                    None => all.push(Filed { sender, recipient, times: 1 }),
                }
            }
        }
    }

    /// Different messages, by Message-ID.
    pub fn len(&self) -> usize {
        self.by_message_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_message_id.is_empty()
    }

    /// What there is with this Message-ID.
    pub(super) fn of(&self, message_id: &str) -> &[Filed] {
        self.by_message_id.get(message_id).map_or(&[], Vec::as_slice)
    }
}
