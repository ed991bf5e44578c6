//! The configuration: TOML in, one checked and immutable [`Config`] out, or every problem at once with file, line, key
//! and remedy. Nothing else in the program reads the configuration file; nothing here opens a socket.

mod check;
mod check_connector;
mod check_delivery;
mod check_desk;
mod check_endpoint;
mod check_host;
mod check_listen;
mod check_observe;
mod check_outbound;
mod check_store;
mod credential;
mod delivery;
mod desk;
mod host;
mod key_files;
mod keys;
mod listen;
mod load;
mod log;
mod metrics;
mod outbound;
mod problem;
mod quantity;
mod raw;
mod raw_delivery;
mod raw_desk;
mod secret;
mod show;
mod show_delivery;
mod show_desk;
mod show_host;
mod stamp;
mod store;
mod submission_socket;

#[cfg(test)]
mod tests;

pub use delivery::{
    BaseUrl, Delivery, DeliveryWay, LineEnding, Post, PostProof, Refused, RtTarget, Shape, TicketSystem,
};
pub use desk::{Desk, FieldPattern};
pub use host::{Host, HostCredential, Mechanism, Preset, Proof, Unverified};
pub use key_files::KnownKeys;
pub use listen::{Listen, ListenError};
pub use log::{Log, LogFormat, LogTarget};
pub use metrics::Metrics;
pub use outbound::{
    BreachPolicy, Cover, DkimKey, Login, Outbound, Preserve, Rate, SenderPattern, SignWhen, SignWith, Signing,
    Submission, holds,
};
pub use problem::{Problem, Problems};
pub use secret::{Secret, SecretError, SecretFile};
pub use stamp::Stamp;
pub use store::{Auth, Conversations, Credentials, Lookup, PostgresServer, StoreConfig, StoreUrl};
pub use submission_socket::SubmissionSocket;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::mail::{Address, Domain};

/// A checked configuration. Immutable; a reload makes a new one.
#[derive(Debug, Clone)]
pub struct Config {
    /// The process itself.
    pub daemon: Daemon,
    /// Where the log goes.
    pub log: Log,
    /// The milter service; `None` when not configured.
    pub milter: Option<Milter>,
    /// The LMTP service; `None` when not configured.
    pub transport: Option<Transport>,
    /// The service for Exim; `None` when not configured.
    pub exim: Option<Exim>,
    /// How senders are authenticated.
    pub authentication: Authentication,
    /// Bounds.
    pub limits: Limits,
    /// The links between a domain and its ticket system.
    pub connectors: Vec<Arc<Connector>>,
    /// What holds for all outbound mail.
    pub outbound: Outbound,
    /// What is signed besides notifications.
    pub signing: Vec<Signing>,
    /// Where issued credentials are kept.
    pub store: StoreConfig,
    /// What holds for issued credentials.
    pub credentials: Credentials,
    /// How long conversations are remembered, on the desk side.
    pub conversations: Conversations,
    /// The service that checks logins; `None` when not configured.
    pub auth: Option<Auth>,
    /// The tables for the MTA; `None` when not configured.
    pub lookup: Option<Lookup>,
    /// The service that tells numbers; `None` when not configured.
    pub metrics: Option<Metrics>,
}

impl Config {
    /// Whether there is anything to serve.
    pub fn serves(&self) -> bool {
        let mail = self.milter.is_some() || self.transport.is_some() || self.exim.is_some();
        mail || self.auth.is_some() || self.lookup.is_some()
    }

    /// The same without the connectors that only observe: what is done, and not only logged.
    #[must_use]
    pub fn acting(&self) -> Self {
        self.with_connectors(|connector| !connector.observe)
    }

    /// The same with no other connectors than those that only observe; `None` where there are none.
    #[must_use]
    pub fn observing(&self) -> Option<Self> {
        self.connectors.iter().any(|connector| connector.observe).then(|| self.with_connectors(|one| one.observe))
    }

    fn with_connectors(&self, wanted: impl Fn(&Connector) -> bool) -> Self {
        let connectors = self.connectors.iter().filter(|connector| wanted(connector)).cloned().collect();
        Self { connectors, ..self.clone() }
    }

    /// Whether any mail is signed.
    pub fn signs(&self) -> bool {
        let signs = |connector: &Arc<Connector>| connector.submission.is_some() && !connector.dkim.is_empty();
        !self.signing.is_empty() || self.connectors.iter().any(signs)
    }

    /// The keys whose files `unchanged` says are what they were, for the next [`Self::load_again`].
    pub fn known_keys(&self, unchanged: impl Fn(&Path) -> bool) -> KnownKeys {
        let connectors = self.connectors.iter().flat_map(|connector| &connector.dkim);
        let connectors = connectors.map(|key| (&key.key_file, &key.key));
        let all = connectors.chain(self.signing.iter().map(|signing| (&signing.key_file, &signing.key)));
        let unchanged = all.filter(|(file, _)| unchanged(file.path()));
        unchanged.map(|(file, key)| (file.clone(), Arc::clone(key))).collect()
    }

    /// Whether a ticket system hands notifications in.
    pub fn takes_notifications(&self) -> bool {
        self.connectors.iter().any(|connector| connector.submission.is_some())
    }
}

/// `[daemon]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// This host's name in EHLO and Received.
    pub hostname: Domain,
    /// Where the site key and the spool are kept; mode 0700.
    pub state_directory: PathBuf,
    /// The user to run as after binding the sockets, when started as root.
    pub user: Option<String>,
    /// The key that authenticates verdicts between milter and transport; shared by all hosts of a site.
    pub site_key_file: SecretFile,
    /// Where the process writes its id, for a service manager that wants it; nowhere unless told.
    pub pid_file: Option<PathBuf>,
}

/// Permissions of our unix sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketAccess {
    /// The group that owns the sockets, so that the MTA can connect.
    pub group: Option<String>,
    /// The permission bits, 0660 unless told.
    pub mode: u32,
}

/// `[milter]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Milter {
    /// Where the MTA finds us.
    pub listen: Vec<Listen>,
    /// Permissions of unix sockets.
    pub access: SocketAccess,
}

/// `[transport]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// The folder that holds one LMTP socket per connector, `NAME.sock`.
    pub directory: PathBuf,
    /// Permissions of the sockets.
    pub access: SocketAccess,
    /// Names of the users whose processes may hand over mail. Checked by the peer's uid.
    pub peers: Vec<String>,
}

/// `[exim]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exim {
    /// Unix sockets for `${readsocket}` and the transport filter.
    pub listen: Vec<Listen>,
    /// Permissions of the sockets.
    pub access: SocketAccess,
    /// Names of the users whose processes may ask. Checked by the peer's uid.
    pub peers: Vec<String>,
    /// Exim's `spool_directory`.
    pub spool_directory: PathBuf,
    /// How long a verdict may take.
    pub deadline: Duration,
}

/// `[authentication]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// The name that signs our Authentication-Results (RFC 8601 section 2.5).
    pub authserv_id: String,
    /// Name servers; empty means the system's.
    pub name_servers: Vec<SocketAddr>,
    /// How long one message's look-ups may take in all.
    pub dns_timeout: Duration,
    /// DKIM signatures looked at, at most.
    pub max_signatures: usize,
    /// What becomes of mail whose authentication met a temporary DNS error.
    pub on_temperror: OnTempError,
    /// For how long after judging a verdict counts at the transport: longer than the MTA keeps mail in its queue.
    pub verdict_lifetime: Duration,
    /// Whether a verdict counts only while the body is the one that was judged. Without it, who can inject mail past the
    /// milter and has seen a verdict can give it to another text of the same author, date and Message-ID.
    pub verdict_covers_body: bool,
}

/// `authentication.on_temperror`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTempError {
    /// Tag it `none` and let it through.
    Tag,
    /// 451: the sender comes again.
    Defer,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Octets of a message at most.
    pub message_size: u64,
    /// Octets of a header section at most.
    pub header_size: usize,
    /// Octets of memory for whole messages while they are verified, shared by all sessions.
    pub memory: u64,
    /// Milter connections at a time.
    pub milter_connections: usize,
    /// LMTP connections at a time, per connector.
    pub transport_connections: usize,
    /// Received fields at most (RFC 5321 section 6.3).
    pub hops: usize,
    /// Support addresses per domain (M10).
    pub addresses_per_domain: usize,
    /// Domains (M10).
    pub domains: usize,
    /// Messages that are relayed inline at a time, over all connectors.
    pub inline_relays: usize,
}

/// `[[connector]]`: one link between a domain and its ticket system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    /// Its name: lower-case letters, digits, `-` and `_`; also the name of its socket.
    pub name: String,
    /// The ticket system.
    pub system: System,
    /// The ticket system's own domain for this account; its addresses never go through the connector.
    pub native_domain: Option<Domain>,
    /// The company's domain.
    pub domain: Domain,
    /// `+` in `support+tag@`, as the MTA's `recipient_delimiter`; `None` when extensions are not used.
    pub recipient_delimiter: Option<char>,
    /// Which directions are relayed.
    pub mode: Mode,
    /// It judges and logs what it would do, and does nothing. Company side only.
    pub observe: bool,
    /// Production or sandbox.
    pub environment: Environment,
    /// The support addresses, all of `domain`.
    pub addresses: Vec<Address>,
    /// The ticket endpoint; always there in two-way mode on the company side, unless the connector only observes.
    pub endpoint: Option<Endpoint>,
    /// The company host, on the desk side. No connector has both.
    pub host: Option<Host>,
    /// What becomes of mail for the ticket system on its own side; on the desk side alone, and there always.
    pub desk: Option<Desk>,
    /// The way into the ticket system, on the desk side.
    pub delivery: Option<Delivery>,
    /// How notifications come in; `None` where they do not come through here.
    pub submission: Option<Submission>,
    /// Which of their header fields must survive.
    pub preserve: Preserve,
    /// What signs them; nothing unless there is a submission.
    pub dkim: Vec<DkimKey>,
}

/// `connector.system`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Zendesk, or the built-in sandbox.
    Zendesk,
    /// Zammad.
    Zammad,
    /// Request Tracker.
    Rt,
    /// OTRS and its successors, Znuny among them.
    Otrs,
    /// FreeScout.
    FreeScout,
    /// Anything else.
    Generic,
}

/// `connector.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Inbound and outbound.
    TwoWay,
    /// Outbound alone: inbound mail is forwarded by a cloud service (M2).
    OutboundOnly,
}

/// `connector.environment`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Real tickets.
    Production,
    /// Rehearsal.
    Sandbox,
}

/// `[connector.endpoint]`: the ticket system's SMTP service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name; also the name its certificate must carry.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: Tls,
    /// Certification authorities to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Credential sets, tried in order. At least one.
    pub credentials: Vec<CredentialSet>,
    /// Connections at a time.
    pub max_connections: usize,
    /// How long one hand-over may take from the first connection attempt to the last reply.
    pub deadline: Duration,
    /// When its mail is relayed.
    pub relay: RelayMode,
    /// Who gets mail that the endpoint refused and that must not be bounced; `None` where it is.
    pub rejected: Option<Rejected>,
}

/// `endpoint.relay`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayMode {
    /// After the MTA's queue, by LMTP.
    Transport,
    /// Before it, by the milter at the end of the message.
    Inline {
        /// The support recipient also stays with the MTA, which delivers a copy.
        keep_copy: bool,
    },
}

/// `endpoint.rejected_to`: mail of a sender that is not authenticated, which the endpoint refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The company's mailbox that it is handed to.
    pub to: Address,
    /// The company's MTA, on this host, that takes it after the queue.
    pub via: SocketAddr,
}

/// `endpoint.tls`: there is no third way (M3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// STARTTLS, required (RFC 3207).
    Starttls,
    /// TLS from the first octet (RFC 8314).
    Implicit,
}

/// One user name and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialSet {
    /// The user name; names the set in the log.
    pub username: String,
    /// The file that holds the password.
    pub password_file: SecretFile,
}

impl System {
    /// The names in the configuration.
    pub(super) const NAMES: [(&'static str, Self); 6] = [
        ("zendesk", Self::Zendesk),
        ("zammad", Self::Zammad),
        ("rt", Self::Rt),
        ("otrs", Self::Otrs),
        ("freescout", Self::FreeScout),
        ("generic", Self::Generic),
    ];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, system)| *system == self).map_or("generic", |(name, _)| name)
    }
}

impl Endpoint {
    /// Whether its mail is relayed by the milter.
    pub fn is_inline(&self) -> bool {
        matches!(self.relay, RelayMode::Inline { .. })
    }
}

impl Connector {
    /// The endpoint, where its mail is relayed by the milter.
    pub fn inline_endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref().filter(|endpoint| endpoint.is_inline())
    }

    /// The files of the passwords and keys that the connector shows to servers.
    pub fn password_files(&self) -> impl Iterator<Item = &SecretFile> {
        let sets = self.endpoint.iter().flat_map(|endpoint| &endpoint.credentials).map(|set| &set.password_file);
        let accounts = self.host.iter().flat_map(|host| &host.credentials);
        let accounts = accounts.filter_map(|account| match &account.proof {
            Proof::Password(file) => Some(file),
            Proof::TokenFile(_) | Proof::TokenCommand(_) => None,
        });
        sets.chain(accounts).chain(self.delivery.as_ref().and_then(Delivery::secret_file))
    }

    /// Whether `address` is one of the support addresses, spelled in any letter case, with or without an extension.
    pub fn supports(&self, address: &Address) -> bool {
        let base = self.recipient_delimiter.and_then(|delimiter| address.without_extension(delimiter));
        self.addresses.iter().any(|own| own == address || Some(own) == base.as_ref())
    }
}
