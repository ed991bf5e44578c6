//! The desk side of a connector: how mail gets into a ticket system that takes none by SMTP.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::SecretFile;
use crate::mail::{Address, Domain};

/// `[connector.delivery]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// A ticket system whose manners are known.
    pub preset: Option<TicketSystem>,
    /// How it takes mail.
    pub way: DeliveryWay,
    /// How the lines of a message end when it gets it.
    pub line_ending: LineEnding,
    /// Messages that are handed over at a time.
    pub concurrency: usize,
    /// How long one hand-over may take, the wait for its turn included.
    pub deadline: Duration,
}

/// `delivery.preset`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketSystem {
    /// osTicket's API.
    OsTicket,
    /// Request Tracker's mail gateway.
    Rt,
    /// Ruby on Rails' relay ingress.
    ActionMailbox,
    /// Chatwoot, which uses Action Mailbox.
    Chatwoot,
    /// GitLab's intake for its mail_room.
    GitLab,
    /// Zammad's command.
    Zammad,
    /// OTRS' command, and Znuny's.
    Otrs,
}

/// By a program or by HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryWay {
    /// `delivery.command`: a program's full path and its arguments.
    Command(Vec<String>),
    /// `delivery.url`
    Post(Box<Post>),
}

/// A ticket system that takes mail by HTTP POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// Its address.
    pub url: BaseUrl,
    /// What follows in the address of its mail intake.
    pub path: String,
    /// In what shape a message is posted.
    pub shape: Shape,
    /// What lets us in.
    pub proof: PostProof,
    /// Certification authorities to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// What becomes of mail that the system itself does not want, where that cannot be told from a fault for certain.
    pub refused: Refused,
}

/// In what shape a message is posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// The message is the request's content.
    Message {
        /// Its `Content-Type`.
        content_type: &'static str,
    },
    /// A form with the fields of RT's mail gateway, one of which is the message.
    RtForm {
        /// Where mail goes unless told otherwise.
        target: RtTarget,
        /// Where that of single support addresses goes.
        queues: Vec<(Address, RtTarget)>,
    },
}

/// A queue of RT and what is done there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtTarget {
    /// The queue's name.
    pub queue: String,
    /// `correspond`, `comment` and so on.
    pub action: String,
}

/// What is shown with each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostProof {
    /// Nothing.
    None,
    /// Basic authentication (RFC 7617).
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password_file: SecretFile,
    },
    /// A header field that is the key.
    Key {
        /// The field.
        header: String,
        /// The key.
        key_file: SecretFile,
    },
    /// A header field with a token (RFC 7519) signed by HMAC with SHA-256.
    Jwt {
        /// The field.
        header: String,
        /// The token's `iss`.
        issuer: String,
        /// The key, in base64.
        secret_file: SecretFile,
    },
}

/// `delivery.refused`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// 451: it waits until somebody has looked, or the MTA gives up.
    Defer,
    /// 554: it bounces.
    Reject,
}

/// `delivery.line_ending`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnding {
    /// LF, as MTAs give a message to a program.
    Lf,
    /// CRLF, as it came.
    Crlf,
}

/// Where a ticket system answers: scheme, host, port and the beginning of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// Over TLS. Without it the host is this one.
    pub https: bool,
    /// A name in the spelling of DNS, or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Without a slash at its end.
    pub path: String,
}

impl TicketSystem {
    /// The names in the configuration.
    pub(super) const NAMES: [(&'static str, Self); 7] = [
        ("osticket", Self::OsTicket),
        ("rt", Self::Rt),
        ("action-mailbox", Self::ActionMailbox),
        ("chatwoot", Self::Chatwoot),
        ("gitlab", Self::GitLab),
        ("zammad", Self::Zammad),
        ("otrs", Self::Otrs),
    ];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, system)| *system == self).map_or("", |(name, _)| name)
    }

    /// The path of its mail intake; `None` for one that takes none by HTTP.
    pub(super) fn path(self) -> Option<&'static str> {
        match self {
            Self::OsTicket => Some("/api/tickets.email"),
            Self::Rt => Some("/REST/1.0/NoAuth/mail-gateway"),
            Self::ActionMailbox | Self::Chatwoot => Some("/rails/action_mailbox/relay/inbound_emails"),
            Self::GitLab => Some("/api/v4/internal/mail_room/incoming_email"),
            Self::Zammad | Self::Otrs => None,
        }
    }

    /// The program that takes a message on standard input, where the system's packages put one.
    pub(super) fn command(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Zammad => Some(&["/usr/bin/zammad", "run", "rails", "runner", "Channel::Driver::MailStdin.new"]),
            Self::Otrs => Some(&["/opt/otrs/bin/otrs.Console.pl", "Maint::PostMaster::Read", "--untrusted"]),
            Self::OsTicket | Self::Rt | Self::ActionMailbox | Self::Chatwoot | Self::GitLab => None,
        }
    }
}

impl LineEnding {
    /// The names in the configuration.
    pub(super) const NAMES: [(&'static str, Self); 2] = [("lf", Self::Lf), ("crlf", Self::Crlf)];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lf => "lf",
            Self::Crlf => "crlf",
        }
    }
}

impl Refused {
    /// The names in the configuration.
    pub(super) const NAMES: [(&'static str, Self); 2] = [("defer", Self::Defer), ("reject", Self::Reject)];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Defer => "defer",
            Self::Reject => "reject",
        }
    }
}

impl BaseUrl {
    /// Reads `https://host[:port][/path]`, and `http://` for a loopback address of this host.
    ///
    /// # Errors
    /// What is wrong and what to write.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "is no address; write \"https://desk.example.com\"";
        let (https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(SHAPE),
        };
        if rest.contains('@') {
            return Err(
                "has a user name in it; write username and password_file, for the configuration holds no secret",
            );
        }
        if rest.bytes().any(|b| !b.is_ascii_graphic() || b"?#\"<>\\^`{|}".contains(&b)) {
            return Err("has a character in it that has no place there; write scheme, host and path alone");
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some(""))),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, Some("")),
            },
        };
        let port = match port {
            Some("") => Some(if https { 443 } else { 80 }),
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse::<u16>().ok().filter(|&port| port > 0),
            Some(_) | None => None,
        };
        let port = port.ok_or(SHAPE)?;
        let address = host.parse::<IpAddr>().ok();
        let host = match address {
            Some(address) => address.to_string(),
            None => Domain::parse(host).map_err(|_| SHAPE)?.as_str().to_owned(),
        };
        if !https && host != "localhost" && !address.is_some_and(|address| address.is_loopback()) {
            return Err(
                "would send mail in plain text; write https://, http:// is for 127.0.0.1, ::1 and localhost alone",
            );
        }
        Ok(Self { https, host, port, path: path.trim_end_matches('/').to_owned() })
    }

    /// Host and port as a `Host` field has them: the port only where it is not the usual one.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl fmt::Display for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.url, self.path)
    }
}

impl Delivery {
    /// What the log calls it: the preset, else `command` or `http`.
    pub fn name(&self) -> &'static str {
        match (self.preset, &self.way) {
            (Some(preset), _) => preset.as_str(),
            (None, DeliveryWay::Command(_)) => "command",
            (None, DeliveryWay::Post(_)) => "http",
        }
    }

    /// The file of certification authorities that its server is checked by; `None` within for the system's, `None` where there is
    /// no server or no TLS.
    pub fn trusts(&self) -> Option<Option<&PathBuf>> {
        match &self.way {
            DeliveryWay::Post(post) if post.url.https => Some(post.ca_file.as_ref()),
            DeliveryWay::Post(_) | DeliveryWay::Command(_) => None,
        }
    }

    /// The file of what lets us in.
    pub fn secret_file(&self) -> Option<&SecretFile> {
        let DeliveryWay::Post(post) = &self.way else { return None };
        match &post.proof {
            PostProof::None => None,
            PostProof::Basic { password_file: file, .. }
            | PostProof::Key { key_file: file, .. }
            | PostProof::Jwt { secret_file: file, .. } => Some(file),
        }
    }
}

/// Where it leads, for the log.
impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            DeliveryWay::Command(words) => f.write_str(words.first().map_or("", String::as_str)),
            DeliveryWay::Post(post) => write!(f, "{post}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was_written() {
        for text in [
            "https://desk.example.com",
            "https://desk.example.com:8443/support",
            "https://[2001:db8::1]:8443",
            "http://127.0.0.1:3000",
            "http://localhost/rt",
            "http://[::1]",
        ] {
            assert_eq!(BaseUrl::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            BaseUrl::parse("https://Desk.Example.com:443/rt//").unwrap().to_string(),
            "https://desk.example.com/rt"
        );
    }

    #[test]
    fn what_would_travel_in_plain_text_or_is_no_address_is_refused_with_a_remedy() {
        for (text, remedy) in [
            ("http://desk.example.com", "plain text"),
            ("http://192.0.2.1", "plain text"),
            ("http://localhost.example.com", "plain text"),
            ("http://0.0.0.0", "plain text"),
            ("https://user:s3cret@desk.example.com", "password_file"),
            ("ftp://desk.example.com", "https://"),
            ("desk.example.com", "https://"),
            ("https://", "https://"),
            ("https://desk.example.com:0", "https://"),
            ("https://desk.example.com:+443", "https://"),
            ("https://desk.example.com:99999", "https://"),
            ("https://[::1", "https://"),
            ("https://[::1]x", "https://"),
            ("https://desk.example.com/?key=1", "no place there"),
            ("https://desk.example.com/a b", "no place there"),
            ("https://desk.example.com\r\nX: y", "no place there"),
        ] {
            let error = BaseUrl::parse(text).unwrap_err();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }
}
