//! `[connector.desk]` and `[conversations]` as text, in the effective configuration.

use std::fmt;

use super::desk::{Desk, FieldPattern};
use super::{Conversations, quantity};

pub(super) fn write(f: &mut fmt::Formatter<'_>, desk: &Desk) -> fmt::Result {
    let strip: Vec<&str> = desk.strip.iter().map(FieldPattern::as_str).collect();
    writeln!(f, "\n[connector.desk]\nstrip = {strip:?}")?;
    writeln!(f, "ticket_tag = {:?}\nupdate_tag = {:?}", desk.ticket_tag, desk.update_tag)?;
    writeln!(f, "subject_token = {:?}", desk.subject_token.as_deref().unwrap_or_default())
}

pub(super) fn write_conversations(f: &mut fmt::Formatter<'_>, conversations: &Conversations) -> fmt::Result {
    let lifetime = quantity::write_duration(conversations.lifetime);
    writeln!(f, "\n[conversations]\nlifetime = {lifetime:?}\nmessages = {}", conversations.messages)
}
