//! What is known of the SMTP client that handed a message to the MTA.

use std::net::IpAddr;

/// Facts about the connection on which the MTA took the message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// Where the message came from.
    pub client: Client,
    /// The client's name by reverse DNS, as the MTA verified it; `None` when unknown.
    pub client_name: Option<String>,
    /// What the client said in HELO or EHLO.
    pub helo: Option<String>,
    /// TLS of the client's connection; `None` is plain text.
    pub tls: Option<TlsFacts>,
    /// The SASL login name (`{auth_authen}`); `None` when the client did not log in.
    pub login: Option<String>,
    /// The MTA's own host name (`j`), as it stands in its Received fields.
    pub mta_name: Option<String>,
    /// Where on its way through the MTA the message is shown to us.
    pub pass: Pass,
}

/// Where on its way through the MTA a message is shown to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pass {
    /// As it comes in, and nowhere else: what we sign now stays as it is.
    #[default]
    Only,
    /// As it comes in, and again on its last hop: what is to be signed is sealed.
    First,
    /// On its last hop, where nothing but the connection is left of what is known: only a seal tells whose message it is.
    Last,
}

/// The kind of client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Client {
    /// A host on the network.
    Network(IpAddr),
    /// A program on the MTA's host: sendmail(1), pickup, a unix socket.
    Local,
    /// The MTA did not say.
    #[default]
    Unknown,
}

impl Client {
    /// The address, where the client has one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Network(ip) => Some(ip),
            Self::Local | Self::Unknown => None,
        }
    }
}

/// TLS parameters of the client's connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// For example `TLSv1.3`.
    pub version: String,
    /// For example `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
}
