//! The files for Exim as `exim/` in the sources has them, with the values of a configuration.

use std::path::Path;
use std::sync::Arc;

use super::EximError;
use crate::config::{Config, Connector, Listen, RelayMode};

/// The first line of each file of ours.
pub(super) const HEADING: &str = "# Written by \"deskmilter exim --apply\"; \"--undo\" removes it.\n";

/// Where what is written for each connector begins in `exim/routers`.
const PER_CONNECTOR: &str = "# One for each connector";

/// Longer than an endpoint's deadline: for what goes before and after.
const MARGIN_SECONDS: u64 = 60;

/// How much longer than `exim.deadline` the DATA ACL waits.
const ANSWER_SECONDS: u64 = 5;

/// The files.
#[derive(Debug, Clone)]
pub(super) struct Fragments {
    pub(super) macros: String,
    /// For the ACL of RCPT; `None` where nothing is asked there.
    pub(super) rcpt: Option<String>,
    pub(super) acl: String,
    pub(super) routers: String,
    pub(super) transports: String,
}

impl Fragments {
    /// Those for `config`; `program` is ours.
    pub(super) fn of(config: &Config, program: &Path) -> Result<Self, EximError> {
        let missing = |what: &str| EximError::Configuration(format!("{what}; see docs/exim.md"));
        let exim = config.exim.as_ref().ok_or_else(|| missing("there is no [exim] in deskmilter's configuration"))?;
        let socket = exim.listen.iter().find_map(|listen| match listen {
            Listen::Unix(path) => Some(path.display().to_string()),
            Listen::Inet(_) => None,
        });
        let socket = socket.ok_or_else(|| missing("exim.listen names no socket"))?;
        let folder = config.transport.as_ref().map(|transport| transport.directory.display().to_string());
        let mut macros = format!(
            "{HEADING}DESKMILTER_SOCKET = {socket}\nDESKMILTER_RELAY = {}\nDESKMILTER_PROGRAM = {}\nDESKMILTER_LOGINS = {}\n\
             DESKMILTER_PATIENCE = {}s\n",
            folder.as_deref().unwrap_or("/run/deskmilter/transport"),
            program.display(),
            logins(config).join(" : "),
            exim.deadline.as_secs().saturating_add(ANSWER_SECONDS),
        );
        let unrouted = inline(config).filter(|connector| !is_routed(config, connector));
        for (name, list) in [("INLINE", inline_addresses(config)), ("UNROUTED", address_list(unrouted))] {
            if !list.is_empty() {
                macros.push_str(&format!("DESKMILTER_{name} = {list}\n"));
            }
        }
        macros.push_str(include_str!("../../../exim/macros"));
        let rcpt = inline(config).next().map(|_| format!("{HEADING}{}", include_str!("../../../exim/rcpt")));
        let acl = format!("{HEADING}{}", include_str!("../../../exim/acl"));
        let shipped = include_str!("../../../exim/routers");
        let of_all = shipped.split_once(PER_CONNECTOR).map_or(shipped, |(of_all, _)| of_all);
        let (mut routers, mut transports) = (format!("{HEADING}{of_all}"), HEADING.to_owned());
        for connector in config.connectors.iter().filter(|connector| is_routed(config, connector)) {
            routers.push_str(&router(connector));
            transports.push_str(&transport(connector));
        }
        Ok(Self { macros, rcpt, acl, routers, transports })
    }
}

fn inline(config: &Config) -> impl Iterator<Item = &Arc<Connector>> {
    config.connectors.iter().filter(|connector| connector.inline_endpoint().is_some())
}

/// The logins whose mail waits while the daemon is away, each as an item of a list within an expansion.
pub(super) fn logins(config: &Config) -> Vec<String> {
    let submissions = config.connectors.iter().filter_map(|connector| connector.submission.as_ref());
    submissions.flat_map(|submission| &submission.logins).map(|login| unexpanded(&login.name)).collect()
}

/// The support addresses whose mail is relayed before the queue, as an address list of Exim.
pub(super) fn inline_addresses(config: &Config) -> String {
    address_list(inline(config))
}

/// Whether a router leads the connector's addresses to its LMTP socket. Relayed before the queue, they are taken out of it; what
/// was not asked about, an alias say, comes by the router all the same. A copy that is to be kept must not.
pub(super) fn is_routed(config: &Config, connector: &Connector) -> bool {
    let Some(endpoint) = connector.endpoint.as_ref().filter(|_| config.transport.is_some()) else { return false };
    endpoint.relay != RelayMode::Inline { keep_copy: true }
}

/// The addresses of these connectors as an address list of Exim, with their extensions.
fn address_list<'c>(connectors: impl Iterator<Item = &'c Arc<Connector>>) -> String {
    let of = |connector: &'c Arc<Connector>| {
        let extension = connector.recipient_delimiter.map(|mark| format!("({}.*)?", literally(&mark.to_string())));
        let extension = extension.unwrap_or_default();
        connector.addresses.iter().map(move |address| {
            let (local, domain) = (literally(address.local()), literally(address.domain().as_str()));
            format!(r"\N^{local}{extension}@{domain}$\N")
        })
    };
    connectors.flat_map(of).collect::<Vec<_>>().join(" : ")
}

/// As a regular expression that matches nothing else, in an item of a list.
fn literally(text: &str) -> String {
    let escaped = |c: char| match c {
        ':' => "::".to_owned(),
        c if c.is_alphanumeric() => c.to_string(),
        c => format!("\\{c}"),
    };
    text.chars().map(escaped).collect()
}

/// An item of a list within an expansion that comes out of it as it is. Of `ACME\zendesk` Exim would make `ACMEzendesk`.
fn unexpanded(text: &str) -> String {
    let marked = |c: char| match c {
        '\\' | '$' | '{' | '}' => format!("\\{c}"),
        ':' => "::".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(marked).collect()
}

/// Exim names routers and transports with letters, digits and `_`.
pub(super) fn name(connector: &Connector) -> String {
    format!("deskmilter_{}", connector.name.replace('-', "_"))
}

fn router(connector: &Connector) -> String {
    let addresses: Vec<String> = connector.addresses.iter().map(|address| unexpanded(&address.to_string())).collect();
    let suffix = connector
        .recipient_delimiter
        .map(|delimiter| format!("  local_part_suffix = {delimiter}*\n  local_part_suffix_optional\n"));
    format!(
        "{name}:\n  driver = accept\n  domains = {domain}\n  condition = ${{if inlisti{{$local_part@$domain}}{{{list}}}}}\n  \
         caseful_local_part\n{suffix}  transport = {name}\n\n",
        name = name(connector),
        domain = connector.domain,
        list = addresses.join(":"),
        suffix = suffix.unwrap_or_default(),
    )
}

fn transport(connector: &Connector) -> String {
    let deadline = connector.endpoint.as_ref().map_or(0, |endpoint| endpoint.deadline.as_secs());
    format!(
        "{name}:\n  driver = lmtp\n  socket = DESKMILTER_RELAY/{socket}.sock\n  batch_max = 50\n  rcpt_include_affixes\n  \
         timeout = {seconds}s\n\n",
        name = name(connector),
        socket = connector.name,
        seconds = deadline.saturating_add(MARGIN_SECONDS),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_an_expansion_is_said_to_mean_itself() {
        for (text, expected) in [
            ("zendesk", "zendesk"),
            ("ACME\\zendesk", "ACME\\\\zendesk"),
            ("desk$", "desk\\$"),
            ("a{b}:c", "a\\{b\\}::c"),
        ] {
            assert_eq!(unexpanded(text), expected, "{text}");
        }
    }

    #[test]
    fn a_variable_that_not_every_exim_has_is_used_only_where_it_is() {
        let (mut inside, mut found) = (false, 0);
        for line in include_str!("../../../exim/macros").lines() {
            inside = (inside || line == ".ifdef _HAVE_I18N") && line != ".else";
            found += usize::from(line.contains("$message_smtputf8"));
            assert!(inside || !line.contains("$message_smtputf8"), "{line}");
        }
        assert_eq!(found, 1);
    }
}
