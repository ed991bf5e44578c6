//! The files for Exim as `exim/` in the sources has them, with the values of a configuration.

use std::path::Path;

use super::EximError;
use crate::config::{Config, Connector, Listen};

/// The first line of each file of ours.
pub(super) const HEADING: &str = "# Written by \"deskmilter exim --apply\"; \"--undo\" removes it.\n";

/// Longer than an endpoint's deadline: for what goes before and after.
const MARGIN_SECONDS: u64 = 60;

/// The four files.
#[derive(Debug, Clone)]
pub(super) struct Fragments {
    pub(super) macros: String,
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
        let logins = config.connectors.iter().filter_map(|connector| connector.submission.as_ref());
        let logins = logins.flat_map(|submission| &submission.logins).map(|login| login.name.replace(':', "::"));
        let logins: Vec<String> = logins.collect();
        let macros = format!(
            "{HEADING}DESKMILTER_SOCKET = {socket}\nDESKMILTER_RELAY = {}\nDESKMILTER_PROGRAM = {}\nDESKMILTER_LOGINS = {}\n{}",
            folder.as_deref().unwrap_or("/run/deskmilter/transport"),
            program.display(),
            logins.join(" : "),
            include_str!("../../../exim/macros"),
        );
        let acl = format!("{HEADING}{}", include_str!("../../../exim/acl"));
        let (mut routers, mut transports) = (HEADING.to_owned(), HEADING.to_owned());
        routers.push_str(
            "deskmilter_taken:\n  driver = redirect\n  condition = ${if inlisti{$local_part@$domain}{$acl_m_deskmilter_taken}}\n  \
             caseful_local_part\n  data = :blackhole:\n\n",
        );
        for connector in config.connectors.iter().filter(|connector| connector.endpoint.is_some() && folder.is_some()) {
            routers.push_str(&router(connector));
            transports.push_str(&transport(connector));
        }
        Ok(Self { macros, acl, routers, transports })
    }
}

/// Exim names routers and transports with letters, digits and `_`.
pub(super) fn name(connector: &Connector) -> String {
    format!("deskmilter_{}", connector.name.replace('-', "_"))
}

fn router(connector: &Connector) -> String {
    let addresses: Vec<String> =
        connector.addresses.iter().map(|address| address.to_string().replace(':', "::")).collect();
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
