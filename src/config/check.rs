//! From what was written to what holds: every rule of the configuration, each problem noted and the check gone on with.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::check_endpoint::EndpointSpans;
use super::check_outbound::{Logins, OutboundSpans};
use super::key_files::{KeyFiles, KnownKeys};
use super::problem::Report;
use super::{
    Authentication, Config, Connector, Daemon, Environment, Exim, Limits, Listen, Milter, Mode, OnTempError,
    SecretFile, SocketAccess, System, Transport, credential, quantity, raw,
};
use crate::mail::{Address, Domain};

/// The users that MTAs hand over mail as, of which those count that exist on this host.
const MTA_USERS: [&str; 4] = ["root", "postfix", "Debian-exim", "exim"];

/// Checks a whole configuration. Relative paths are relative to `base`; keys that are `known` are not read again.
pub(super) fn check(raw: raw::Raw, base: &Path, known: KnownKeys, report: &mut Report<'_>) -> Option<Config> {
    let mut check =
        Check { base, report, owner: nix::unistd::geteuid().as_raw(), owner_named: false, keys: KeyFiles::default() };
    let daemon = check.daemon(raw.daemon);
    // Whose files they must be is known now.
    check.keys = check.key_files(&raw.connector, &raw.signing, known);
    let log = check.log(raw.log);
    let milter = raw.milter.and_then(|milter| check.milter(milter));
    let transport = raw.transport.and_then(|transport| check.transport(transport));
    let relays_inline = raw.connector.iter().any(|connector| connector.get_ref().relays_inline());
    let exim = raw.exim.and_then(|exim| check.exim(exim, relays_inline));
    let limits = check.limits(raw.limits);
    let hostname = daemon.as_ref().map(|daemon| daemon.hostname.as_str().to_owned());
    let authentication = check.authentication(raw.authentication, hostname.as_deref());
    let endpoints = EndpointSpans::from(&raw.connector);
    let connectors = check.connectors(raw.connector, transport.is_some(), &limits);
    let spans = OutboundSpans::from(&raw.outbound);
    let outbound = check.outbound(raw.outbound);
    check.inline_relays(&endpoints, &connectors, milter.is_some() || exim.is_some(), &outbound);
    check.rejected(&endpoints, &connectors);
    let signs = !raw.signing.is_empty();
    let signing = check.signing(raw.signing);
    let submissions = connectors.iter().any(|connector| connector.submission.is_some());
    check.outbound_effect(&spans, &outbound, submissions, signs);
    let store = daemon.as_ref().and_then(|daemon| check.store(raw.store, &daemon.state_directory));
    let credentials = check.credentials(raw.credentials);
    let conversations = check.conversations(raw.conversations);
    let auth = raw.auth.and_then(|auth| check.auth(auth));
    let lookup = raw.lookup.and_then(|lookup| check.lookup(lookup));
    let metrics = raw.metrics.and_then(|metrics| check.metrics(metrics));
    Some(Config {
        daemon: daemon?,
        log: log?,
        milter,
        transport,
        exim,
        authentication: authentication?,
        limits,
        connectors,
        outbound,
        signing,
        store: store?,
        credentials,
        conversations,
        auth,
        lookup,
        metrics,
    })
}

pub(super) struct Check<'c, 'r> {
    base: &'c Path,
    report: &'c mut Report<'r>,
    /// The user id that deskmilter will run as, which secrets must belong to.
    pub(super) owner: u32,
    /// Whether the configuration says so.
    owner_named: bool,
    /// The private keys, read ahead.
    pub(super) keys: KeyFiles,
}

impl Check<'_, '_> {
    fn key_files(
        &self,
        connectors: &[Spanned<raw::Connector>],
        signing: &[raw::Signing],
        known: KnownKeys,
    ) -> KeyFiles {
        let of_connectors = connectors.iter().flat_map(|connector| &connector.get_ref().dkim).map(|key| &key.key_file);
        let files = of_connectors.chain(signing.iter().map(|entry| &entry.key_file));
        KeyFiles::load(files.map(|path| self.secret_file(path.get_ref())), known)
    }

    pub(super) fn note(&mut self, span: Range<usize>, key: &str, message: impl Into<String>) {
        self.report.note(span, key, message);
    }

    /// Whether the daemon is sure to run as root. Where nobody says as whom it runs, the service manager may do so.
    pub(super) fn runs_as_root(&self) -> bool {
        self.owner_named && self.owner == 0
    }

    fn daemon(&mut self, raw: raw::Daemon) -> Option<Daemon> {
        let hostname = match raw.hostname {
            Some(name) => self.domain("daemon.hostname", &name),
            None => {
                let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
                let domain = Domain::parse(&name).ok();
                if domain.is_none() {
                    self.note(
                        0..0,
                        "daemon.hostname",
                        "this host has no valid name; set hostname to the name of this mail server",
                    );
                }
                domain
            }
        };
        let user = raw.user.and_then(|user| match nix::unistd::User::from_name(user.get_ref()) {
            Ok(Some(found)) => {
                self.owner = found.uid.as_raw();
                self.owner_named = true;
                Some(user.into_inner())
            }
            _ => {
                self.note(
                    user.span(),
                    "daemon.user",
                    format!("there is no user {:?} on this host; create it or correct the name", user.get_ref()),
                );
                None
            }
        });
        let state_directory =
            raw.state_directory.map_or_else(|| PathBuf::from("/var/lib/deskmilter"), |path| self.path(path.get_ref()));
        let site_key_file = raw.site_key_file.map_or_else(
            || SecretFile::owned_by(state_directory.join("site.key"), self.owner),
            |path| self.secret_file(path.get_ref()),
        );
        let pid_file = raw.pid_file.map(|path| self.path(path.get_ref()));
        Some(Daemon { hostname: hostname?, state_directory, user, site_key_file, pid_file })
    }

    fn milter(&mut self, raw: raw::Milter) -> Option<Milter> {
        if raw.listen.get_ref().is_empty() {
            self.note(raw.listen.span(), "milter.listen", "empty; name at least one socket, or leave [milter] out");
        }
        let listen = raw
            .listen
            .into_inner()
            .into_iter()
            .filter_map(|text| match text.get_ref().parse::<Listen>() {
                Ok(listen) => Some(listen),
                Err(error) => {
                    self.note(text.span(), "milter.listen", format!("{:?} is {error}", text.get_ref()));
                    None
                }
            })
            .collect();
        let access = self.socket_access("milter", raw.socket_group, raw.socket_mode)?;
        Some(Milter { listen, access })
    }

    fn transport(&mut self, raw: raw::Transport) -> Option<Transport> {
        let directory = self.path(raw.directory.get_ref());
        let access = self.socket_access("transport", raw.socket_group, raw.socket_mode)?;
        let peers = self.peers("transport", raw.peers);
        Some(Transport { directory, access, peers })
    }

    fn exim(&mut self, raw: raw::Exim, relays_inline: bool) -> Option<Exim> {
        if raw.listen.get_ref().is_empty() {
            self.note(raw.listen.span(), "exim.listen", "empty; name at least one socket, or leave [exim] out");
        }
        let mut listen = Vec::new();
        for text in raw.listen.into_inner() {
            match text.get_ref().parse::<Listen>() {
                Ok(socket @ Listen::Unix(_)) => listen.push(socket),
                Ok(Listen::Inet(_)) | Err(_) => self.note(
                    text.span(),
                    "exim.listen",
                    format!("{:?} is no unix socket; write unix:/absolute/path", text.get_ref()),
                ),
            }
        }
        let access = self.socket_access("exim", raw.socket_group, raw.socket_mode)?;
        let peers = self.peers("exim", raw.peers);
        let spool =
            raw.spool_directory.map_or_else(|| PathBuf::from("/var/spool/exim4"), |path| self.path(path.get_ref()));
        // Relaying takes its time.
        let usual = if relays_inline { 125 } else { 50 };
        let deadline = self.duration("exim.deadline", raw.deadline, usual, 5, 240);
        Some(Exim { listen, access, peers, spool_directory: spool, deadline })
    }

    /// The users who may connect to the sockets of a section.
    fn peers(&mut self, section: &str, peers: Option<Spanned<Vec<Spanned<String>>>>) -> Vec<String> {
        let key = format!("{section}.peers");
        match peers {
            None => MTA_USERS.into_iter().filter(|user| user_exists(user)).map(str::to_owned).collect(),
            Some(peers) => {
                if peers.get_ref().is_empty() {
                    self.note(
                        peers.span(),
                        &key,
                        "empty, so nobody could hand over mail; name the MTA's user, or leave the key out",
                    );
                }
                for peer in peers.get_ref() {
                    if !user_exists(peer.get_ref()) {
                        self.note(
                            peer.span(),
                            &key,
                            format!("there is no user {:?} on this host; name the MTA's user", peer.get_ref()),
                        );
                    }
                }
                peers.into_inner().into_iter().map(Spanned::into_inner).collect()
            }
        }
    }

    pub(super) fn socket_access(
        &mut self,
        section: &str,
        group: Option<Spanned<String>>,
        mode: Option<Spanned<String>>,
    ) -> Option<SocketAccess> {
        let group = group.map(|group| {
            if !matches!(nix::unistd::Group::from_name(group.get_ref()), Ok(Some(_))) {
                self.note(
                    group.span(),
                    &format!("{section}.socket_group"),
                    format!("there is no group {:?} on this host; for Postfix it is \"postfix\"", group.get_ref()),
                );
            }
            group.into_inner()
        });
        let mode = match mode {
            None => 0o660,
            Some(text) => match u32::from_str_radix(text.get_ref(), 8) {
                Ok(mode) if mode <= 0o777 && mode & 0o006 == 0 && mode & 0o600 == 0o600 => mode,
                _ => {
                    self.note(
                        text.span(),
                        &format!("{section}.socket_mode"),
                        "not a mode for our sockets; write \"0660\" (owner and group) or \"0600\": others must not reach them",
                    );
                    return None;
                }
            },
        };
        Some(SocketAccess { group, mode })
    }

    fn authentication(&mut self, raw: raw::Authentication, hostname: Option<&str>) -> Option<Authentication> {
        let authserv_id = match raw.authserv_id {
            Some(id) => {
                let name = id.get_ref().trim_end_matches('.').to_lowercase();
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
                if name.is_empty() || name.len() > 255 || !name.bytes().all(plain) {
                    self.note(id.span(), "authentication.authserv_id", "not usable in a header field; write this mail server's host name, for example \"mx.acme.example\"");
                    return None;
                }
                name
            }
            None => hostname?.to_owned(),
        };
        let name_servers = raw
            .name_servers
            .iter()
            .filter_map(|text| {
                let server = text
                    .get_ref()
                    .parse::<SocketAddr>()
                    .ok()
                    .or_else(|| Some(SocketAddr::new(text.get_ref().parse::<IpAddr>().ok()?, 53)));
                if server.is_none() {
                    self.note(
                        text.span(),
                        "authentication.name_servers",
                        format!("{:?} is no address; write \"192.0.2.53\" or \"192.0.2.53:53\"", text.get_ref()),
                    );
                }
                server
            })
            .collect();
        let on_temperror = self.choice(
            "authentication.on_temperror",
            raw.on_temperror,
            OnTempError::Tag,
            &[("tag", OnTempError::Tag), ("defer", OnTempError::Defer)],
        );
        Some(Authentication {
            authserv_id,
            name_servers,
            dns_timeout: self.duration("authentication.dns_timeout", raw.dns_timeout, 15, 1, 60),
            max_signatures: self.count("authentication.max_signatures", raw.max_signatures, 10, 1, 100),
            on_temperror: on_temperror?,
            verdict_lifetime: self.duration(
                "authentication.verdict_lifetime",
                raw.verdict_lifetime,
                7 * 86_400,
                3_600,
                60 * 86_400,
            ),
            verdict_covers_body: raw.verdict_covers_body.unwrap_or(true),
        })
    }

    fn limits(&mut self, raw: raw::Limits) -> Limits {
        Limits {
            message_size: self.octets("limits.message_size", raw.message_size, 50 << 20, 64 << 10, 1 << 30),
            header_size: usize::try_from(self.octets(
                "limits.header_size",
                raw.header_size,
                2 << 20,
                64 << 10,
                16 << 20,
            ))
            .unwrap_or(2 << 20),
            memory: self.octets("limits.memory", raw.memory, 64 << 20, 1 << 20, 64 << 30),
            milter_connections: self.count("limits.milter_connections", raw.milter_connections, 1_000, 1, 100_000),
            transport_connections: self.count(
                "limits.transport_connections",
                raw.transport_connections,
                100,
                1,
                10_000,
            ),
            hops: self.count("limits.hops", raw.hops, 50, 10, 1_000),
            addresses_per_domain: self.count("limits.addresses_per_domain", raw.addresses_per_domain, 50, 1, 10_000),
            domains: self.count("limits.domains", raw.domains, 4, 1, 10_000),
            inline_relays: self.count("limits.inline_relays", raw.inline_relays, 20, 1, 1_000),
        }
    }

    /// The connectors, and the rules between them: one name, one address, one environment (M10).
    fn connectors(
        &mut self,
        raw: Vec<Spanned<raw::Connector>>,
        transport: bool,
        limits: &Limits,
    ) -> Vec<Arc<Connector>> {
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut owners: HashMap<Address, (String, Environment)> = HashMap::new();
        let mut domains: HashMap<Domain, usize> = HashMap::new();
        let mut logins = Logins::new();
        let mut connectors = Vec::new();
        for raw in raw {
            let span = raw.span();
            let raw = raw.into_inner();
            let spans: Vec<_> = raw.addresses.get_ref().iter().map(Spanned::span).collect();
            let addresses_span = raw.addresses.span();
            let name_span = raw.name.span();
            let Some(connector) = self.connector(raw, span, transport, &mut logins) else { continue };
            let key = |key: &str| format!("connector.{}.{key}", connector.name);
            if names.insert(connector.name.clone(), connectors.len()).is_some() {
                self.note(
                    name_span,
                    "connector.name",
                    format!("two connectors are called {:?}; each needs a name of its own", connector.name),
                );
            }
            for (address, span) in connector.addresses.iter().zip(spans) {
                match owners.get(address) {
                    Some((owner, _)) if *owner == connector.name => {
                        self.note(span, &key("addresses"), format!("{address} is listed twice; remove one"))
                    }
                    Some((owner, environment)) => {
                        let where_ =
                            if *environment == connector.environment { "" } else { ", in another environment" };
                        self.note(span, &key("addresses"), format!("{address} belongs to connector {owner:?} already{where_}; an address belongs to one connector and one environment"));
                    }
                    None => {
                        owners.insert(address.clone(), (connector.name.clone(), connector.environment));
                    }
                }
            }
            if !domains.contains_key(&connector.domain) && domains.len() >= limits.domains {
                self.note(addresses_span.clone(), &key("domain"), format!("{} is one domain more than limits.domains = {} allows; raise the limit if the ticket system takes more", connector.domain, limits.domains));
            }
            let count = domains.entry(connector.domain.clone()).or_default();
            *count += connector.addresses.len();
            if *count > limits.addresses_per_domain {
                let message = format!(
                    "{count} support addresses in {}, but limits.addresses_per_domain = {}; raise the limit if the ticket system takes more",
                    connector.domain, limits.addresses_per_domain
                );
                self.note(addresses_span, &key("addresses"), message);
            }
            connectors.push(Arc::new(connector));
        }
        connectors
    }

    fn connector(
        &mut self,
        raw: raw::Connector,
        span: Range<usize>,
        transport: bool,
        logins: &mut Logins,
    ) -> Option<Connector> {
        let name = raw.name.get_ref().clone();
        let fit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if name.is_empty() || name.len() > 40 || !name.bytes().all(fit) {
            self.note(
                raw.name.span(),
                "connector.name",
                format!("{name:?} also names a socket; use 1 to 40 lower-case letters, digits, - and _"),
            );
            return None;
        }
        let key = |key: &str| format!("connector.{name}.{key}");
        let system = self.choice(&key("system"), raw.system, System::Generic, &System::NAMES)?;
        let native_domain = match (raw.native_domain, raw.account, system) {
            (Some(domain), None, _) => Some(self.domain(&key("native_domain"), &domain)?),
            (Some(domain), Some(_), _) => {
                self.note(
                    domain.span(),
                    &key("native_domain"),
                    "account names the native domain already; leave one of them out",
                );
                None
            }
            (None, Some(account), System::Zendesk) => {
                match Domain::parse(&format!("{}.zendesk.com", account.get_ref())) {
                    Ok(domain) if !account.get_ref().contains('.') => Some(domain),
                    _ => {
                        self.note(
                            account.span(),
                            &key("account"),
                            "not an account name; it is the part before .zendesk.com",
                        );
                        None
                    }
                }
            }
            (None, Some(account), _) => {
                self.note(account.span(), &key("account"), "only system = \"zendesk\" has accounts; write native_domain = \"the ticket system's own domain\" instead");
                None
            }
            (None, None, _) => None,
        };
        let domain = self.domain(&key("domain"), &raw.domain)?;
        if native_domain.as_ref() == Some(&domain) {
            self.note(
                raw.domain.span(),
                &key("domain"),
                "this is the ticket system's own domain; a connector is for a domain of the company",
            );
        }
        let recipient_delimiter = match raw.recipient_delimiter {
            None => Some('+'),
            Some(text) => {
                let mut chars = text.get_ref().chars();
                let delimiter = chars.next();
                if chars.next().is_some() || delimiter.is_some_and(|c| !"+-=_.#".contains(c)) {
                    self.note(
                        text.span(),
                        &key("recipient_delimiter"),
                        "write one of + - = _ . # as in the MTA's recipient_delimiter, or \"\" for none",
                    );
                }
                delimiter
            }
        };
        let mode = self.choice(
            &key("mode"),
            raw.mode,
            Mode::TwoWay,
            &[("two-way", Mode::TwoWay), ("outbound-only", Mode::OutboundOnly)],
        )?;
        let environment = self.choice(
            &key("environment"),
            raw.environment,
            Environment::Production,
            &[("production", Environment::Production), ("sandbox", Environment::Sandbox)],
        )?;
        if raw.addresses.get_ref().is_empty() {
            self.note(raw.addresses.span(), &key("addresses"), "empty; name at least one support address");
        }
        let addresses: Vec<Address> = raw
            .addresses
            .into_inner()
            .into_iter()
            .filter_map(|text| {
                self.support_address(&key("addresses"), &text, &domain, native_domain.as_ref(), recipient_delimiter)
            })
            .collect();
        let desk_sides = [
            raw.host.as_ref().map(|host| (host.span(), "host")),
            raw.delivery.as_ref().map(|delivery| (delivery.span(), "delivery")),
        ];
        for (span, section) in desk_sides.iter().flatten() {
            if !transport {
                let text = "needs a [transport] section with the directory for the LMTP sockets";
                self.note(span.clone(), &key(section), text);
            }
        }
        let desk_side = desk_sides.iter().any(Option::is_some);
        if desk_side {
            let other = [
                raw.endpoint.as_ref().map(|endpoint| (endpoint.span(), "endpoint")),
                raw.submission.as_ref().map(|submission| (submission.span(), "submission")),
            ];
            for (span, section) in other.into_iter().flatten() {
                let text = "is for the company side, [connector.host] and [connector.delivery] for the desk side; a connector has \
                            one of them only";
                self.note(span, &key(section), text);
            }
        }
        if !desk_side && raw.desk.is_some() {
            let company_side = [
                raw.endpoint.as_ref().map(|endpoint| (endpoint.span(), "endpoint")),
                raw.submission.as_ref().map(|submission| (submission.span(), "submission")),
            ];
            self.desk_alone(&name, company_side);
        }
        let desk_side = desk_side || raw.desk.is_some();
        let observe = self.observe(&key("observe"), raw.observe, desk_side);
        let desk = desk_side.then(|| self.desk(&name, system, raw.desk.map(Spanned::into_inner)));
        let host = match raw.host {
            Some(host) => {
                let span = host.span();
                self.host(&name, &addresses, &domain, host.into_inner(), span)
            }
            None => None,
        };
        let delivery = match raw.delivery {
            Some(delivery) => {
                let span = delivery.span();
                self.delivery(&name, &addresses, delivery.into_inner(), span)
            }
            None => None,
        };
        let endpoint = match (raw.endpoint, mode) {
            (_, _) if desk_side => None,
            (Some(endpoint), Mode::TwoWay) => {
                if !transport && !endpoint.get_ref().is_inline() && !observe {
                    self.note(
                        endpoint.span(),
                        &key("endpoint"),
                        "relaying needs a [transport] section with the directory for the LMTP sockets",
                    );
                }
                self.endpoint(&name, endpoint.into_inner())
            }
            (Some(endpoint), Mode::OutboundOnly) => {
                self.note(endpoint.span(), &key("endpoint"), "mode = \"outbound-only\" relays nothing to an endpoint; remove the section or write mode = \"two-way\"");
                None
            }
            (None, Mode::TwoWay) if observe => None,
            (None, Mode::TwoWay) => {
                self.note(
                    span,
                    &key("endpoint"),
                    "missing; a two-way connector needs [connector.endpoint] with host and credentials, or on the desk side [connector.host] or [connector.delivery]",
                );
                None
            }
            (None, Mode::OutboundOnly) => None,
        };
        let outbound = self.connector_outbound(&name, &addresses, raw.submission, raw.preserve, raw.dkim, logins)?;
        Some(Connector {
            name,
            system,
            native_domain,
            domain,
            recipient_delimiter,
            mode,
            observe,
            environment,
            addresses,
            endpoint,
            host,
            desk,
            delivery,
            submission: outbound.submission,
            preserve: outbound.preserve,
            dkim: outbound.dkim,
        })
    }

    fn support_address(
        &mut self,
        key: &str,
        text: &Spanned<String>,
        domain: &Domain,
        native: Option<&Domain>,
        delimiter: Option<char>,
    ) -> Option<Address> {
        let address = match Address::parse(text.get_ref()) {
            Ok(address) => address,
            Err(error) => {
                self.note(text.span(), key, format!("{:?} is no mail address: {error}", text.get_ref()));
                return None;
            }
        };
        if native.is_some_and(|native| native == address.domain()) {
            self.note(text.span(), key, format!("{address} is a native address of the ticket system, which never goes through a connector; remove it"));
        } else if address.domain() != domain {
            self.note(text.span(), key, format!("{address} is not in the connector's domain {domain}; inbound and outbound use one domain: give {} a connector of its own", address.domain()));
        } else if delimiter.is_some_and(|delimiter| address.without_extension(delimiter).is_some()) {
            self.note(text.span(), key, format!("{address} has an extension; write the address without it (all its extensions belong to it), or set recipient_delimiter"));
        }
        Some(address)
    }

    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }

    /// The file of a secret, or the credential that `text` names.
    pub(super) fn secret_file(&self, text: &str) -> SecretFile {
        SecretFile::owned_by(credential::path(text).unwrap_or_else(|| self.path(text)), self.owner)
    }

    pub(super) fn domain(&mut self, key: &str, text: &Spanned<String>) -> Option<Domain> {
        let domain = Domain::parse(text.get_ref());
        if let Err(error) = &domain {
            self.note(text.span(), key, format!("{:?}: {error}", text.get_ref()));
        }
        domain.ok()
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        text: Option<Spanned<String>>,
        default: T,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let Some(text) = text else { return Some(default) };
        let found = choices.iter().find(|(name, _)| name == text.get_ref()).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.note(
                text.span(),
                key,
                format!("{:?} is not known here; write {}", text.get_ref(), names.join(" or ")),
            );
        }
        found
    }

    pub(super) fn count(
        &mut self,
        key: &str,
        number: Option<Spanned<u64>>,
        default: usize,
        min: u64,
        max: u64,
    ) -> usize {
        let Some(number) = number else { return default };
        if !(min..=max).contains(number.get_ref()) {
            self.note(
                number.span(),
                key,
                format!("{} is out of range; write a number from {min} to {max}", number.get_ref()),
            );
        }
        usize::try_from(*number.get_ref()).unwrap_or(default)
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        text: Option<Spanned<String>>,
        default: u64,
        min: u64,
        max: u64,
    ) -> Duration {
        let Some(text) = text else { return Duration::from_secs(default) };
        let range = Duration::from_secs(min)..=Duration::from_secs(max);
        match quantity::duration(text.get_ref()).filter(|duration| range.contains(duration)) {
            Some(duration) => duration,
            None => {
                let (min, max) = (quantity::write_duration(*range.start()), quantity::write_duration(*range.end()));
                self.note(
                    text.span(),
                    key,
                    format!(
                        "{:?} is no duration from {min} to {max}; write for example \"30s\", \"5m\", \"2h\" or \"7d\"",
                        text.get_ref()
                    ),
                );
                Duration::from_secs(default)
            }
        }
    }

    fn octets(&mut self, key: &str, text: Option<Spanned<String>>, default: u64, min: u64, max: u64) -> u64 {
        let Some(text) = text else { return default };
        match quantity::octets(text.get_ref()).filter(|octets| (min..=max).contains(octets)) {
            Some(octets) => octets,
            None => {
                let (min, max) = (quantity::write_octets(min), quantity::write_octets(max));
                self.note(
                    text.span(),
                    key,
                    format!(
                        "{:?} is no size from {min} to {max}; write for example \"64KiB\" or \"50MiB\"",
                        text.get_ref()
                    ),
                );
                default
            }
        }
    }
}

fn user_exists(name: &str) -> bool {
    matches!(nix::unistd::User::from_name(name), Ok(Some(_)))
}
