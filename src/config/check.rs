//! From what was written to what holds: every rule of the configuration, each problem noted and the check gone on with.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::check_endpoint::EndpointSpans;
use super::check_outbound::OutboundSpans;
use super::key_files::{KeyFiles, KnownKeys};
use super::problem::Report;
use super::{
    Authentication, Config, Daemon, Exim, Limits, Listen, Milter, OnTempError, SecretFile, SocketAccess, Transport,
    credential, quantity, raw,
};
use crate::mail::Domain;

/// The users that MTAs hand over mail as, of which those count that exist on this host.
const MTA_USERS: [&str; 4] = ["root", "postfix", "Debian-exim", "exim"];

/// Checks a whole configuration. Relative paths are relative to `base`; keys that are `known` are not read again.
pub(super) fn check(raw: raw::Raw, base: &Path, known: KnownKeys, report: &mut Report<'_>) -> Option<Config> {
    let mut check =
        Check { base, report, owner: nix::unistd::geteuid().as_raw(), owner_named: false, keys: KeyFiles::default() };
    check.sockets(&raw);
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
