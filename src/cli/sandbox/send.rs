//! `deskmilter sandbox notify`, and the way out that it shares with `verify`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::super::{EX_TEMPFAIL, EX_UNAVAILABLE, say};
use crate::config::{CredentialSet, Endpoint, RelayMode, SecretFile, Tls};
use crate::dkim::SigningKey;
use crate::mail::Address;
use crate::sandbox::{Notification, Replied, Way};

/// How long one hand-over may take; the sandbox has a bound of its own too.
const DEADLINE: Duration = Duration::from_secs(120);

/// Answers a ticket
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NotifyArgs {
    /// State folder of the sandbox
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// The ticket's number
    #[arg(value_name = "TICKET")]
    ticket: u64,
    /// Who gets it, instead of the ticket's requester
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    to: Option<Address>,
    /// Who gets a copy; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    cc: Vec<Address>,
    /// What it says
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    #[command(flatten)]
    way: WayArgs,
}

/// Where messages are handed to: a transport's socket, or a company host with credentials.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct WayArgs {
    /// LMTP socket of the transport that submits to the company host
    #[arg(long, value_name = "SOCKET", required_unless_present = "host", conflicts_with = "host")]
    transport: Option<PathBuf>,
    /// The company host itself
    #[arg(long, value_name = "HOST:PORT", requires = "username", requires = "password_file")]
    host: Option<String>,
    /// How the connection to the host is encrypted: starttls or implicit
    #[arg(long, value_name = "HOW", default_value = "starttls", value_parser = tls)]
    tls: Tls,
    /// User name at the host
    #[arg(long, value_name = "NAME", requires = "host")]
    username: Option<String>,
    /// File with the password, mode 0600
    #[arg(long, value_name = "FILE", requires = "host")]
    password_file: Option<PathBuf>,
    /// Certification authorities to trust instead of the system's, PEM
    #[arg(long, value_name = "FILE", requires = "host")]
    ca_file: Option<PathBuf>,
    /// Key of the ticket system's own signature (s=zendesk2 of the company's domain); without it there is none
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
}

pub(super) fn address(text: &str) -> Result<Address, String> {
    Address::parse(text).map_err(|error| error.to_string())
}

fn tls(text: &str) -> Result<Tls, String> {
    match text {
        "starttls" => Ok(Tls::Starttls),
        "implicit" => Ok(Tls::Implicit),
        _ => Err("starttls or implicit; there is no third way".to_owned()),
    }
}

impl NotifyArgs {
    pub(super) async fn run(self) -> Result<ExitCode, String> {
        let (way, key) = (self.way.way()?, self.way.key()?);
        let notification =
            Notification { ticket: self.ticket, to: self.to, cc: self.cc, text: self.text, key: key.as_ref() };
        let sent = notification.send(&self.directory, &way).await.map_err(|error| error.to_string())?;
        say(&format!("notification {} <{}> by {}\n", sent.number, sent.message_id, sent.way));
        for replied in &sent.replies {
            say(&format!("{}: {}\n", replied.recipient, replied.reply));
        }
        Ok(exit(&sent.replies))
    }
}

/// As sysexits(3): 75 if any recipient may be tried again, 69 if one was refused for good, 0 if all were taken.
pub(super) fn exit(replies: &[Replied]) -> ExitCode {
    let any = |class: u16| replies.iter().any(|replied| replied.code / 100 == class);
    match () {
        () if any(4) || replies.is_empty() => ExitCode::from(EX_TEMPFAIL),
        () if any(5) => ExitCode::from(EX_UNAVAILABLE),
        () => ExitCode::SUCCESS,
    }
}

impl WayArgs {
    pub(super) fn way(&self) -> Result<Way, String> {
        if let Some(socket) = &self.transport {
            return Ok(Way::Transport(socket.clone()));
        }
        let (Some(host), Some(username), Some(password_file)) = (&self.host, &self.username, &self.password_file)
        else {
            return Err("--transport, or --host with --username and --password-file".to_owned());
        };
        let (host, port) = host.rsplit_once(':').ok_or_else(|| format!("--host {host}: write HOST:PORT"))?;
        let port = port.parse().map_err(|_| format!("--host: {port} is no port"))?;
        Ok(Way::Host(Box::new(Endpoint {
            host: host.to_owned(),
            port,
            tls: self.tls,
            ca_file: self.ca_file.clone(),
            credentials: vec![CredentialSet {
                username: username.clone(),
                password_file: SecretFile::new(password_file),
            }],
            max_connections: 1,
            deadline: DEADLINE,
            relay: RelayMode::Transport,
            rejected: None,
        })))
    }

    pub(super) fn key(&self) -> Result<Option<SigningKey>, String> {
        let load = |path: &PathBuf| SigningKey::load(&SecretFile::new(path)).map_err(|error| error.to_string());
        self.sign_key.as_ref().map(load).transpose()
    }
}
