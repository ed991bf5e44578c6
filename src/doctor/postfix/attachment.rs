//! What Postfix has to be told so that this configuration of deskmilter is attached to it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::forwarding::{FENCE, Forwarding, can_fence};
use super::{Installation, MilterEntry, PostfixError, Service};
use crate::config::{Config, Listen, Mode, RelayMode};

/// The transport map's file name in Postfix's configuration directory.
pub(super) const MAP_NAME: &str = "deskmilter_transport";
/// First line of the transport map; a file without it is not ours to overwrite.
pub(super) const MAP_HEADING: &str =
    "# Written by \"deskmilter postfix --apply\" from deskmilter.toml; \"--undo\" removes it.";
/// How long Postfix may wait for a connection. The daemon is on the same machine: one that is up answers in microseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long Postfix may wait for the reply to one milter command before end of message. None of them makes us wait for
/// anybody; Postfix's default is 30 s.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long Postfix may wait at end of message beyond the DNS look-ups that judge it: turns for memory, disk.
/// Postfix's default is 300 s in all, too long for mail that waits for a daemon that hangs.
const CONTENT_SLACK: Duration = Duration::from_secs(40);
/// How long Postfix may wait at end of message where the milter relays: longer than deskmilter gives itself (120 s).
const CONTENT_TIMEOUT_INLINE: Duration = Duration::from_secs(150);

/// What keeps Postfix from rewriting 8-bit text as quoted-printable for a next hop without 8BITMIME, which happens after the
/// milters and breaks every signature. `force_mime_input_conversion` (Postfix 3.9) would rewrite it before them, and so break
/// the signatures that were there.
pub(super) const KEEPS_EIGHT_BIT: &str = "disable_mime_output_conversion";

/// The milter entry and the transport map for one Postfix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Where Postfix finds the milter, as Postfix spells it: relative to the queue directory where possible, so that it holds
    /// for chrooted services and others.
    pub endpoint: String,
    /// Every place where Postfix finds the milter, that one first: a postmaster may have named another.
    pub endpoints: Vec<String>,
    /// The whole entry of `smtpd_milters`.
    pub milter_entry: String,
    /// The transport map's file.
    pub map_path: PathBuf,
    /// `texthash:` and the path: a table that every Postfix since 2.8 reads as it is, so that no compiled copy can be out of
    /// step with it, and that holds exact addresses only.
    pub map: String,
    /// Support address and next hop, in order; last those that were disconnected, for which mail waits.
    pub routes: Vec<(String, String)>,
    /// Whether mail is signed, which Postfix then must not rewrite any more.
    pub signs: bool,
    /// The support addresses whose mail the milter relays.
    pub inline: Vec<String>,
    /// Those of them of which a copy stays: they must not lead to the transport, which would relay it once more.
    pub copies: Vec<String>,
    /// What Postfix does with mail while the milter is away: `accept`, but `tempfail` where mail that came past it would not be
    /// relayed, or on the desk side would bring to the ticket system what its sender forged.
    pub default_action: &'static str,
}

impl Attachment {
    /// Works it out.
    ///
    /// # Errors
    /// When no milter is configured, a socket is where this Postfix cannot reach it, or an address cannot be a table's key.
    pub fn of(config: &Config, installation: &Installation) -> Result<Self, PostfixError> {
        let queue_directory = installation.queue_directory()?;
        let services = installation.services()?;
        let listen = config.milter.as_ref().map(|milter| milter.listen.as_slice()).unwrap_or_default();
        let callers = |service: &&Service| service.receives_smtp() || service.command == "cleanup";
        let (endpoint, others) = endpoints(listen, &queue_directory, services.iter().filter(callers))?;
        let endpoints = std::iter::once(endpoint.clone()).chain(others).collect();
        let inline = addresses(config, |relay| relay != RelayMode::Transport)?;
        let copies = addresses(config, |relay| relay == RelayMode::Inline { keep_copy: true })?;
        let desk_side = config.connectors.iter().any(|connector| connector.desk.is_some());
        let default_action = if inline.is_empty() && !desk_side { "accept" } else { "tempfail" };
        let mut content = config.authentication.dns_timeout.saturating_add(CONTENT_SLACK);
        if !inline.is_empty() {
            content = content.max(CONTENT_TIMEOUT_INLINE);
        }
        let milter_entry = format!(
            "{{ {endpoint}, default_action={default_action}, connect_timeout={}s, command_timeout={}s, content_timeout={}s }}",
            CONNECT_TIMEOUT.as_secs(),
            COMMAND_TIMEOUT.as_secs(),
            content.as_secs()
        );
        let map_path = installation.directory().join(MAP_NAME);
        if map_path.to_str().is_none_or(|path| path.contains([' ', '\t', ','])) {
            return Err(PostfixError::Configuration(format!(
                "{}: Postfix cannot name a table whose path holds a blank or a comma",
                map_path.display()
            )));
        }
        let map = format!("texthash:{}", map_path.display());
        let clients: Vec<&Service> = services.iter().filter(|service| service.command == "lmtp").collect();
        let mut routes = routes(config, &queue_directory, &clients)?;
        if can_fence(&services) {
            let forwarding = Forwarding::read(installation)?;
            let fenced = forwarding.fenced().filter(|key| !routes.iter().any(|(known, _)| known == key));
            let fenced: Vec<_> = fenced.map(|key| (key.to_owned(), FENCE.to_owned())).collect();
            routes.extend(fenced);
        }
        let signs = config.signs();
        Ok(Self { endpoint, endpoints, milter_entry, map_path, map, routes, inline, copies, default_action, signs })
    }

    /// Whether an entry of a milter list leads to us.
    pub(super) fn is_named_by(&self, entry: &MilterEntry, queue_directory: &Path) -> bool {
        self.endpoints.iter().any(|endpoint| entry.reaches(endpoint, queue_directory))
    }

    /// The transport map's text.
    pub fn map_text(&self) -> String {
        let mut text = format!("{MAP_HEADING}\n");
        for (address, next_hop) in &self.routes {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{address}\t{next_hop}");
        }
        text
    }
}

/// The listening addresses that all of `callers` reach: the best one, and the others. Sockets under the queue directory are better.
fn endpoints<'a>(
    listen: &[Listen],
    queue_directory: &Path,
    callers: impl Iterator<Item = &'a Service>,
) -> Result<(String, Vec<String>), PostfixError> {
    let chrooted: Vec<String> = callers.filter(|service| service.chrooted).map(Service::label).collect();
    let (mut below, mut others) = (Vec::new(), Vec::new());
    for address in listen {
        match address {
            Listen::Unix(path) => match path.strip_prefix(queue_directory) {
                Ok(relative) => below.push(format!("unix:{}", relative.display())),
                Err(_) if chrooted.is_empty() => others.push(address.to_string()),
                Err(_) => {}
            },
            // Everywhere is reached on loopback; a name would be looked up in the chroot.
            Listen::Inet(socket) if socket.ip().is_unspecified() => {
                let loopback = if socket.is_ipv4() { "127.0.0.1" } else { "[::1]" };
                others.push(format!("inet:{loopback}:{}", socket.port()));
            }
            Listen::Inet(socket) => others.push(format!("inet:{socket}")),
        }
    }
    let mut all = below.into_iter().chain(others);
    if let Some(best) = all.next() {
        return Ok((best, all.collect()));
    }
    let queue = queue_directory.display();
    Err(PostfixError::Configuration(match listen.first() {
        None => format!("no milter is configured; set milter.listen = [\"unix:{queue}/deskmilter/milter.sock\"]"),
        Some(first) => format!(
            "milter.listen = {first} is out of reach: {} run chrooted in {queue}; listen on \
             unix:{queue}/deskmilter/milter.sock or on inet:127.0.0.1:8891",
            chrooted.join(", ")
        ),
    }))
}

fn routes(
    config: &Config,
    queue_directory: &Path,
    clients: &[&Service],
) -> Result<Vec<(String, String)>, PostfixError> {
    let mut routes = Vec::new();
    let relayed =
        config.connectors.iter().filter(|connector| connector.mode == Mode::TwoWay && connector.endpoint.is_some());
    for connector in relayed {
        match connector.endpoint.as_ref().map(|endpoint| endpoint.relay) {
            // The milter is enough. Where there is a transport too, it takes what comes past the milter: by an alias, say.
            Some(RelayMode::Inline { .. }) if config.transport.is_none() => continue,
            Some(RelayMode::Inline { keep_copy: true }) => continue,
            _ => {}
        }
        let Some(transport) = &config.transport else {
            return Err(PostfixError::Configuration(format!(
                "connector {} relays to an endpoint, but there is no [transport]; set transport.directory = \
                 \"{}/deskmilter/transport\"",
                connector.name,
                queue_directory.display()
            )));
        };
        let socket = transport.directory.join(format!("{}.sock", connector.name));
        let next_hop = match socket.strip_prefix(queue_directory) {
            Ok(relative) => format!("lmtp:unix:{}", relative.display()),
            Err(_) if clients.iter().any(|client| client.chrooted) => {
                return Err(PostfixError::Configuration(format!(
                    "transport.directory = {} is out of reach: lmtp/unix runs chrooted in {}; use a folder below it",
                    transport.directory.display(),
                    queue_directory.display()
                )));
            }
            Err(_) => format!("lmtp:unix:{}", socket.display()),
        };
        for address in &connector.addresses {
            for key in keys(address)? {
                routes.push((key, next_hop.clone()));
            }
        }
    }
    Ok(routes)
}

/// The table keys of all support addresses whose mail is relayed in such a way.
fn addresses(config: &Config, wanted: impl Fn(RelayMode) -> bool) -> Result<Vec<String>, PostfixError> {
    let mut found = Vec::new();
    for connector in &config.connectors {
        if connector.endpoint.as_ref().is_some_and(|endpoint| wanted(endpoint.relay)) {
            for address in &connector.addresses {
                found.extend(keys(address)?);
            }
        }
    }
    Ok(found)
}

/// The table keys of an address: as it is, and for an international domain also in its Unicode spelling, by which Postfix
/// looks up what came with SMTPUTF8.
///
/// # Errors
/// It cannot be a key of a text table.
pub fn keys(address: &crate::mail::Address) -> Result<Vec<String>, PostfixError> {
    let local = address.local();
    if local.starts_with('#') || local.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '\\')
    {
        return Err(PostfixError::Configuration(format!(
            "{address}: Postfix cannot look up this address in a text table; use an address without blanks and quotes"
        )));
    }
    let ascii = address.domain().as_str();
    let (unicode, valid) = idna::domain_to_unicode(ascii);
    let mut keys = vec![format!("{local}@{ascii}")];
    if valid.is_ok() && unicode != ascii {
        keys.push(format!("{local}@{unicode}"));
    }
    Ok(keys)
}
