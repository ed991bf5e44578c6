//! The desk side of a connector: the company's submission service, and who logs in there for which support address.

use std::path::PathBuf;
use std::time::Duration;

use super::{Rate, SecretFile, Tls};
use crate::mail::Address;

/// `[connector.host]`: the company host, to which a self-hosted ticket system's notifications are submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A provider whose host, port and mechanism are known.
    pub preset: Option<Preset>,
    /// Host name; also the name its certificate must carry.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: Tls,
    /// Certification authorities to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// One for each support address. At least one.
    pub credentials: Vec<HostCredential>,
    /// What becomes of mail of the domain whose sender has no credential.
    pub unverified: Unverified,
    /// Connections at a time, per credential.
    pub connections: usize,
    /// Messages at most, per credential.
    pub rate: Option<Rate>,
    /// How long one hand-over may take from the first connection attempt to the last reply.
    pub deadline: Duration,
}

/// What proves to the company host that a support address may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCredential {
    /// The support address that it is for.
    pub address: Address,
    /// The user name; names the credential in the log.
    pub username: String,
    /// How it is shown.
    pub mechanism: Mechanism,
    /// What is shown.
    pub proof: Proof,
}

/// `credentials.mechanism`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616. LOGIN where the host offers no PLAIN.
    Plain,
    /// The older exchange that some hosts have instead.
    Login,
    /// An OAuth 2.0 access token, as Microsoft and Google take it.
    Xoauth2,
}

/// The secret of a credential, or how to get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// `password_file`
    Password(SecretFile),
    /// `token_file`: somebody else keeps an access token fresh in it.
    TokenFile(SecretFile),
    /// `token_command`: program and arguments; it prints an access token.
    TokenCommand(Vec<String>),
}

/// `host.preset`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Exchange Online.
    Office365,
    /// Gmail and Google Workspace.
    Gmail,
}

/// `host.unverified`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unverified {
    /// 451, until there is a credential.
    Defer,
    /// The default address takes over: its credential, and it in the envelope.
    Native(Address),
}

impl Preset {
    /// The names in the configuration.
    pub(super) const NAMES: [(&'static str, Self); 2] = [("office365", Self::Office365), ("gmail", Self::Gmail)];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Office365 => "office365",
            Self::Gmail => "gmail",
        }
    }

    /// The submission service; its port is 587, with STARTTLS.
    pub(super) fn host(self) -> &'static str {
        match self {
            Self::Office365 => "smtp.office365.com",
            Self::Gmail => "smtp.gmail.com",
        }
    }

    /// Connections at a time: Exchange Online takes three of a mailbox, and refuses all with `432 4.3.2` at the fourth.
    pub(super) fn connections(self) -> usize {
        match self {
            Self::Office365 => 3,
            Self::Gmail => 5,
        }
    }
}

impl Mechanism {
    /// The names in the configuration.
    pub(super) const NAMES: [(&'static str, Self); 3] =
        [("plain", Self::Plain), ("login", Self::Login), ("xoauth2", Self::Xoauth2)];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Login => "login",
            Self::Xoauth2 => "xoauth2",
        }
    }
}

impl Host {
    /// The credential of a support address.
    pub fn credential(&self, address: &Address) -> Option<&HostCredential> {
        self.credentials.iter().find(|credential| credential.address == *address)
    }
}
