//! What the sandbox sends: handed to a transport's socket or straight to a company host, and kept for comparison.

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{SandboxError, archive, authority};
use crate::config::Endpoint;
use crate::mail::{Address, Body, Connection, Domain, Envelope, Headers, HeadersBuilder, Mail, Path, Reply};
use crate::relay::{Relay, send_lmtp};

/// How long a hand-over may take in all.
const DEADLINE: Duration = Duration::from_secs(120);
/// Octets of a header section at most, of what was sent or delivered (4 MiB).
const HEADER_SIZE_MAX: usize = 4 * 1024 * 1024;
/// The name in the log for a company host that belongs to no connector.
const NAME: &str = "sandbox";

/// Where a message is handed to.
#[derive(Debug, Clone)]
pub enum Way {
    /// A transport's LMTP socket, which submits to the company host.
    Transport(PathBuf),
    /// The company host itself, with the credentials.
    Host(Box<Endpoint>),
}

/// A message that was sent, as in `sent.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sent {
    /// Its number, also its folder's name.
    #[serde(skip)]
    pub number: u64,
    /// The ticket that it answers.
    pub ticket: u64,
    /// The envelope's sender.
    pub sender: String,
    /// The envelope's recipients.
    pub recipients: Vec<String>,
    /// The Message-ID, without brackets.
    pub message_id: String,
    /// When, RFC 3339.
    pub sent: String,
    /// Where to, in words.
    pub way: String,
    /// What was answered for each recipient; empty until then.
    pub replies: Vec<Replied>,
}

/// A reply for a recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replied {
    /// The recipient.
    pub recipient: String,
    /// The code.
    pub code: u16,
    /// The whole reply.
    pub reply: String,
}

impl Way {
    /// Hands a message over; one reply per recipient.
    ///
    /// # Errors
    /// The way cannot be used at all, and nothing was sent; names the object and the remedy.
    pub(super) async fn hand_over(
        &self,
        sender: &Address,
        recipients: &[Address],
        message: &[u8],
    ) -> Result<Vec<Replied>, SandboxError> {
        let hello = hello()?;
        let mail = mail(sender, recipients, message)?;
        let replies = match self {
            Self::Transport(socket) => send_lmtp(socket, &hello, &mail, DEADLINE).await,
            Self::Host(endpoint) => {
                let mut endpoint = Endpoint::clone(endpoint);
                endpoint.deadline = DEADLINE;
                let relay = Relay::named(NAME, &endpoint, &hello).map_err(|error| SandboxError(error.to_string()))?;
                relay.send(&mail).await.replies
            }
        };
        let replied = |(recipient, reply): (&Address, Reply)| Replied {
            recipient: recipient.to_string(),
            code: reply.code(),
            reply: reply.to_string(),
        };
        Ok(recipients.iter().zip(replies).map(replied).collect())
    }

    /// In words, without the password.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Transport(socket) => format!("transport {}", socket.display()),
            Self::Host(endpoint) => {
                let username = endpoint.credentials.first().map(|set| set.username.as_str()).unwrap_or_default();
                format!("{}:{} as {username}", endpoint.host, endpoint.port)
            }
        }
    }
}

/// The messages that were sent, in `sent/` of the state folder.
#[derive(Debug)]
pub(super) struct Outbox {
    directory: PathBuf,
}

impl Outbox {
    pub(super) fn new(state: &FilePath) -> Self {
        Self { directory: state.join("sent") }
    }

    /// Keeps the message, sends it and keeps the replies: whatever arrives is known to have been sent.
    pub(super) async fn send(
        &self,
        ticket: u64,
        (sender, recipients): (&Address, &[Address]),
        (message_id, message): (&str, &[u8]),
        way: &Way,
    ) -> Result<Sent, SandboxError> {
        let mut sent = Sent {
            number: 0,
            ticket,
            sender: sender.to_string(),
            recipients: recipients.iter().map(ToString::to_string).collect(),
            message_id: message_id.to_owned(),
            sent: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            way: way.describe(),
            replies: Vec::new(),
        };
        let failed = |error: std::io::Error| SandboxError::at(&self.directory, error);
        let facts = json(&sent)?;
        sent.number =
            archive::add(&self.directory, &[("message.eml", message), ("sent.json", &facts)]).map_err(failed)?;
        let folder = archive::place(&self.directory, sent.number);
        sent.replies = match way.hand_over(sender, recipients, message).await {
            Ok(replies) => replies,
            Err(error) => {
                // Nothing left: there is nothing to compare.
                fs::remove_dir_all(&folder).map_err(failed)?;
                return Err(error);
            }
        };
        let file = folder.join("sent.json");
        authority::replace(&file, &json(&sent)?, 0o600).map_err(failed)?;
        Ok(sent)
    }

    /// What was sent, with the octets; for one ticket alone if asked for.
    pub(super) fn read(&self, ticket: Option<u64>) -> Result<Vec<(Sent, Vec<u8>)>, SandboxError> {
        let failed = |error: std::io::Error| SandboxError::at(&self.directory, error);
        let mut found = Vec::new();
        for (number, folder) in archive::entries(&self.directory).map_err(failed)? {
            let sent: Sent = read_json(&folder.join("sent.json"))?;
            if ticket.is_none_or(|ticket| ticket == sent.ticket) {
                let file = folder.join("message.eml");
                let message = fs::read(&file).map_err(|error| SandboxError::at(&file, error))?;
                found.push((Sent { number, ..sent }, message));
            }
        }
        Ok(found)
    }
}

/// This host's name for EHLO.
fn hello() -> Result<Domain, SandboxError> {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let name = Domain::parse(&name).or_else(|_| Domain::parse("localhost"));
    name.map_err(|error| SandboxError(format!("this host's name: {error}")))
}

fn mail(sender: &Address, recipients: &[Address], message: &[u8]) -> Result<Mail, SandboxError> {
    let path = |address: &Address| {
        let text = address.to_string();
        Path::parse(text.as_bytes()).map_err(|error| SandboxError(format!("{text}: {error}")))
    };
    let (headers, body) = split(message)?;
    Ok(Mail {
        connection: Arc::new(Connection::default()),
        envelope: Envelope {
            sender: path(sender)?,
            recipients: recipients.iter().map(path).collect::<Result<_, _>>()?,
            ..Envelope::default()
        },
        headers,
        body: Body::from_octets(body),
        shortfall: None,
        queue_id: None,
    })
}

/// Header section and body of a message.
pub(super) fn split(message: &[u8]) -> Result<(Headers, Vec<u8>), SandboxError> {
    let mut builder = HeadersBuilder::new(HEADER_SIZE_MAX);
    let block = match builder.push(message).map_err(|error| SandboxError(error.to_string()))? {
        Some(block) => block,
        None => builder.finish(),
    };
    Ok((block.headers, block.body))
}

pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>, SandboxError> {
    let mut json = serde_json::to_vec_pretty(value).map_err(|error| SandboxError(error.to_string()))?;
    json.push(b'\n');
    Ok(json)
}

pub(super) fn read_json<T: for<'de> Deserialize<'de>>(path: &FilePath) -> Result<T, SandboxError> {
    let text = fs::read(path).map_err(|error| SandboxError::at(path, error))?;
    serde_json::from_slice(&text).map_err(|error| SandboxError::at(path, error))
}
