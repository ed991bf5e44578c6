//! Received fields: ours is added, too many are a loop, and our own one is a loop already (RFC 5321 sections 4.4 and 6.3).

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::mail::{Domain, Header, Headers, Mail, Reply};

/// Refuses a message that goes round in circles.
pub(super) fn refuse_loop(headers: &Headers, hostname: &Domain, connector: &str, limit: usize) -> Result<(), Reply> {
    let hops = headers.named("Received").count();
    if hops > limit {
        return Err(Reply::new(554, 4, 6, format!("mail loop: {hops} Received fields, {limit} are allowed")));
    }
    let mark = mark(hostname, connector);
    if headers.named("Received").any(|field| field.text().contains(&mark)) {
        return Err(Reply::new(
            554,
            4,
            6,
            format!("mail loop: connector {connector} has relayed this message before; the ticket system sent it back"),
        ));
    }
    Ok(())
}

/// Our trace field for a message that goes to the relay.
pub(super) fn received(mail: &Mail, hostname: &Domain, connector: &str, now: OffsetDateTime) -> Header {
    let from = mail.connection.helo.as_deref().and_then(|helo| Domain::parse(helo).ok());
    let from = from.map(|from| format!("from {from} ")).unwrap_or_default();
    let protocol = if mail.envelope.smtputf8 { "UTF8LMTP" } else { "LMTP" };
    let id = mail.queue_id.as_deref().map(|id| format!(" id {id}")).unwrap_or_default();
    let date = now.format(&Rfc2822).unwrap_or_default();
    Header::written("Received", &format!("{from}{}\r\n\twith {protocol}{id};\r\n\t{date}", mark(hostname, connector)))
}

/// What tells our Received field from all others.
fn mark(hostname: &Domain, connector: &str) -> String {
    format!("by {hostname} (deskmilter connector={connector})")
}
