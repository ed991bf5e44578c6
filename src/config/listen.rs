//! Listening addresses in the spellings that postmasters know from `smtpd_milters` and `INPUT_MAIL_FILTER`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Inet(SocketAddr),
}

/// A text that is no listening address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a listening address; write unix:/absolute/path, inet:address:port or inet6:[address]:port")]
pub struct ListenError;

impl FromStr for Listen {
    type Err = ListenError;

    /// Postfix's `unix:/path` and `inet:host:port`, Sendmail's `local:/path` and `inet:port@host`; `inet6:` for IPv6.
    /// Hosts are addresses or `localhost`: a name server must not decide where we listen.
    fn from_str(text: &str) -> Result<Self, ListenError> {
        let (family, rest) = text.split_once(':').ok_or(ListenError)?;
        match family {
            "unix" | "local" if rest.starts_with('/') => Ok(Self::Unix(PathBuf::from(rest))),
            "inet" | "inet6" => {
                let (host, port) = match rest.split_once('@') {
                    Some((port, host)) => (host, port),
                    None => rest.rsplit_once(':').ok_or(ListenError)?,
                };
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let host = match (family, host) {
                    ("inet6", "localhost") => "::1",
                    (_, "localhost") => "127.0.0.1",
                    (_, host) => host,
                };
                let ip = host.parse().map_err(|_| ListenError)?;
                Ok(Self::Inet(SocketAddr::new(ip, port.parse().map_err(|_| ListenError)?)))
            }
            _ => Err(ListenError),
        }
    }
}

/// As Postfix spells it.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inet(address) => write!(f, "inet:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_postfix_and_sendmail_spellings_are_read() {
        for (text, expected) in [
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("local:/run/x.sock", "unix:/run/x.sock"),
            ("inet:127.0.0.1:8891", "inet:127.0.0.1:8891"),
            ("inet:8891@localhost", "inet:127.0.0.1:8891"),
            ("inet6:[::1]:8891", "inet:[::1]:8891"),
            ("inet6:8891@::1", "inet:[::1]:8891"),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), expected);
        }
        for text in ["", "unix:relative", "inet:8891", "inet:mail.acme.example:8891", "inet:127.0.0.1:99999", "tcp:1:2"]
        {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
