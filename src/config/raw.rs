//! The configuration file as serde reads it: all that may be written, nothing judged yet. Values that a check may object
//! to carry their place in the file.

use serde::Deserialize;
use toml::Spanned;

use super::{log, metrics, raw_desk};

type Text = Spanned<String>;

/// The whole file.
#[derive(Debug, Deserialize)]
pub(super) struct Raw {
    #[serde(default)]
    pub(super) daemon: Daemon,
    #[serde(default)]
    pub(super) log: log::Raw,
    pub(super) milter: Option<Milter>,
    pub(super) transport: Option<Transport>,
    pub(super) exim: Option<Exim>,
    #[serde(default)]
    pub(super) authentication: Authentication,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) connector: Vec<Spanned<Connector>>,
    #[serde(default)]
    pub(super) outbound: Outbound,
    #[serde(default)]
    pub(super) signing: Vec<Signing>,
    #[serde(default)]
    pub(super) store: Store,
    #[serde(default)]
    pub(super) credentials: Credentials,
    #[serde(default)]
    pub(super) conversations: raw_desk::Conversations,
    pub(super) auth: Option<Auth>,
    pub(super) lookup: Option<Lookup>,
    pub(super) metrics: Option<metrics::Raw>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Daemon {
    pub(super) hostname: Option<Text>,
    pub(super) state_directory: Option<Text>,
    pub(super) user: Option<Text>,
    pub(super) site_key_file: Option<Text>,
    pub(super) pid_file: Option<Text>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Milter {
    pub(super) listen: Spanned<Vec<Text>>,
    pub(super) socket_group: Option<Text>,
    pub(super) socket_mode: Option<Text>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Transport {
    pub(super) directory: Text,
    pub(super) socket_group: Option<Text>,
    pub(super) socket_mode: Option<Text>,
    pub(super) peers: Option<Spanned<Vec<Text>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Exim {
    pub(super) listen: Spanned<Vec<Text>>,
    pub(super) socket_group: Option<Text>,
    pub(super) socket_mode: Option<Text>,
    pub(super) peers: Option<Spanned<Vec<Text>>>,
    pub(super) spool_directory: Option<Text>,
    pub(super) deadline: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Authentication {
    pub(super) authserv_id: Option<Text>,
    #[serde(default)]
    pub(super) name_servers: Vec<Text>,
    pub(super) dns_timeout: Option<Text>,
    pub(super) max_signatures: Option<Spanned<u64>>,
    pub(super) on_temperror: Option<Text>,
    pub(super) verdict_lifetime: Option<Text>,
    pub(super) verdict_covers_body: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Limits {
    pub(super) message_size: Option<Text>,
    pub(super) header_size: Option<Text>,
    pub(super) memory: Option<Text>,
    pub(super) milter_connections: Option<Spanned<u64>>,
    pub(super) transport_connections: Option<Spanned<u64>>,
    pub(super) hops: Option<Spanned<u64>>,
    pub(super) addresses_per_domain: Option<Spanned<u64>>,
    pub(super) domains: Option<Spanned<u64>>,
    pub(super) inline_relays: Option<Spanned<u64>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Connector {
    pub(super) name: Text,
    pub(super) system: Option<Text>,
    pub(super) account: Option<Text>,
    pub(super) native_domain: Option<Text>,
    pub(super) domain: Text,
    pub(super) recipient_delimiter: Option<Text>,
    pub(super) mode: Option<Text>,
    pub(super) observe: Option<Spanned<bool>>,
    pub(super) environment: Option<Text>,
    pub(super) addresses: Spanned<Vec<Text>>,
    pub(super) endpoint: Option<Spanned<Endpoint>>,
    pub(super) host: Option<Spanned<Host>>,
    pub(super) desk: Option<Spanned<raw_desk::Desk>>,
    pub(super) delivery: Option<Spanned<super::raw_delivery::Delivery>>,
    pub(super) submission: Option<Spanned<Submission>>,
    pub(super) preserve: Option<Spanned<Preserve>>,
    #[serde(default)]
    pub(super) dkim: Vec<Dkim>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Endpoint {
    pub(super) host: Text,
    pub(super) port: Option<Spanned<u64>>,
    pub(super) tls: Option<Text>,
    pub(super) relay: Option<Text>,
    pub(super) keep_copy: Option<Spanned<bool>>,
    pub(super) rejected_to: Option<Text>,
    pub(super) rejected_via: Option<Text>,
    pub(super) ca_file: Option<Text>,
    pub(super) credentials: Spanned<Vec<CredentialSet>>,
    pub(super) max_connections: Option<Spanned<u64>>,
    pub(super) deadline: Option<Text>,
}

impl Connector {
    /// Whether its mail is relayed before the MTA's queue.
    pub(super) fn relays_inline(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| endpoint.get_ref().is_inline())
    }
}

impl Endpoint {
    /// Whether it says so.
    pub(super) fn is_inline(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| relay.get_ref() == "inline")
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct CredentialSet {
    pub(super) username: Text,
    pub(super) password_file: Text,
}

#[derive(Debug, Deserialize)]
pub(super) struct Host {
    pub(super) preset: Option<Text>,
    pub(super) host: Option<Text>,
    pub(super) port: Option<Spanned<u64>>,
    pub(super) tls: Option<Text>,
    pub(super) ca_file: Option<Text>,
    pub(super) credentials: Spanned<Vec<HostCredential>>,
    pub(super) unverified: Option<Text>,
    pub(super) default_address: Option<Text>,
    pub(super) connections: Option<Spanned<u64>>,
    pub(super) rate: Option<Text>,
    pub(super) deadline: Option<Text>,
}

#[derive(Debug, Deserialize)]
pub(super) struct HostCredential {
    pub(super) address: Text,
    pub(super) username: Option<Text>,
    pub(super) mechanism: Option<Text>,
    pub(super) password_file: Option<Text>,
    pub(super) token_file: Option<Text>,
    pub(super) token_command: Option<Spanned<Vec<Text>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Submission {
    pub(super) logins: Spanned<Vec<Login>>,
    #[serde(default)]
    pub(super) networks: Vec<Text>,
    pub(super) rate: Option<Text>,
    pub(super) recipient_rate: Option<Text>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Login {
    pub(super) name: Text,
    pub(super) addresses: Spanned<Vec<Text>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Preserve {
    pub(super) policy: Option<Text>,
    pub(super) headers: Option<Spanned<Vec<Text>>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Dkim {
    pub(super) selector: Text,
    pub(super) key_file: Text,
    pub(super) cover: Option<Text>,
    pub(super) sign: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Outbound {
    #[serde(default)]
    pub(super) signing_networks: Vec<Text>,
    #[serde(default)]
    pub(super) reinjection_networks: Vec<Text>,
    pub(super) seal_lifetime: Option<Text>,
    pub(super) sign_with: Option<Text>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Signing {
    pub(super) domain: Text,
    pub(super) selector: Text,
    pub(super) key_file: Text,
    pub(super) sign_for: Option<Spanned<Vec<Text>>>,
    pub(super) sign: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Store {
    pub(super) url: Option<Text>,
    pub(super) password_file: Option<Text>,
    pub(super) ca_file: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Credentials {
    pub(super) overlap_warning: Option<Text>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Auth {
    pub(super) listen: Spanned<Vec<Text>>,
    pub(super) socket_group: Option<Text>,
    pub(super) socket_mode: Option<Text>,
    pub(super) computations: Option<Spanned<u64>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Lookup {
    pub(super) listen: Spanned<Vec<Text>>,
    pub(super) socket_group: Option<Text>,
    pub(super) socket_mode: Option<Text>,
}
