//! Relaying before the queue, with a real Postfix and a real Exim: what its client is told, what stays in the queue, and how many tickets there
//! are, whatever goes wrong and however often the client comes again.

#![cfg(test)]

mod attachment;
mod each;
mod later_milter;
mod recipients;
mod rejected;
mod repeated;
mod slow;

use std::net::SocketAddr;

use support::endpoint::{Action, Endpoint, Rule, Script};
use support::{Message, Reply, Site, SmtpSession};

const SUPPORT: &str = "support@acme.example";
const BILLING: &str = "billing@acme.example";
const SALES: &str = "sales@acme.example";
const PASSWORD: &str = "s3cret-one";
const STRANGER: &str = "a@plain.example";

/// The milter line alone, as `deskmilter postfix --apply` writes it for inline relay.
const MILTER_ALONE: &str = "\
smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail, content_timeout=150s }
non_smtpd_milters = $smtpd_milters
transport_maps =
";

/// A company that relays inline; more for `[connector.endpoint]` and main.cf.
fn site(endpoint: &str, main_cf: &str) -> Site {
    Site::with("", &format!("relay = \"inline\"\n{endpoint}"), &format!("{MILTER_ALONE}{main_cf}"))
}

/// The same with a scripted endpoint.
fn scripted(endpoint: &str, main_cf: &str, script: Script) -> (Site, tokio::runtime::Runtime, Endpoint) {
    let mut site = site(endpoint, main_cf);
    site.set_password(PASSWORD);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let desk = runtime.block_on(Endpoint::start(script));
    site.point_at(desk.port, &desk.ca);
    (site, runtime, desk)
}

fn on(on: &'static str, action: Action) -> Script {
    let mut script = Script { rules: vec![Rule { on, connection: None, action }], ..Script::default() };
    // A message of any size.
    script.secure.retain(|extension| !extension.starts_with("SIZE"));
    script
}

fn taken(desk: &Endpoint) -> usize {
    desk.see(|record| record.taken.len())
}

fn message(subject: &str) -> Vec<u8> {
    Message::new(STRANGER, SUPPORT, subject).octets()
}

fn submit(site: &Site, to: &[&str], message: &[u8]) -> Reply {
    site.postfix.submit(STRANGER, to, message)
}

fn connect(address: SocketAddr) -> SmtpSession {
    let mut session = SmtpSession::connect(address);
    session.expect(250, "EHLO localhost");
    session
}

fn delivered(site: &Site, mailbox: &str) -> usize {
    site.postfix.mailbox(mailbox).messages().len()
}
