//! Received fields: ours is added, too many are a loop, and our own one is a loop already (RFC 5321 sections 4.4 and 6.3).

use std::net::IpAddr;

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
    let connection = &mail.connection;
    let name = connection.helo.as_deref().and_then(|helo| Domain::parse(helo).ok());
    let address = connection.client.ip().map(|ip| match ip {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    });
    let from = match (name, address) {
        (Some(name), Some(address)) => format!("from {name} ({address})\r\n\t"),
        (Some(name), None) => format!("from {name} "),
        (None, Some(address)) => format!("from {address} "),
        (None, None) => String::new(),
    };
    let id = mail.queue_id.as_deref().map(|id| format!(" id {id}")).unwrap_or_default();
    let date = now.format(&Rfc2822).unwrap_or_default();
    let with = protocol(mail).map(|protocol| format!("\r\n\twith {protocol}")).unwrap_or_default();
    Header::written("Received", &format!("{from}{}{with}{id};\r\n\t{date}", mark(hostname, connector)))
}

/// How the message came (RFC 3848, RFC 6531 section 4.3). The milter tells of the MTA's own client, whose Received field is not
/// there yet: a host on the network, or with no protocol at all sendmail(1). All else came by LMTP.
fn protocol(mail: &Mail) -> Option<String> {
    let connection = &mail.connection;
    let utf8 = mail.envelope.smtputf8;
    if connection.client.ip().is_some() {
        let tls = if connection.tls.is_some() { "S" } else { "" };
        let login = if connection.login.is_some() { "A" } else { "" };
        return Some(format!("{}{tls}{login}", if utf8 { "UTF8SMTP" } else { "ESMTP" }));
    }
    let by_milter = connection.mta_name.is_some();
    (!by_milter).then(|| if utf8 { "UTF8LMTP" } else { "LMTP" }.to_owned())
}

/// What tells our Received field from all others.
fn mark(hostname: &Domain, connector: &str) -> String {
    format!("by {hostname} (deskmilter connector={connector})")
}
