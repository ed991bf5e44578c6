//! Is this message a notification of a ticket system, and may it be sent?
//!
//! Only the SASL login says that it is: header fields can be written by anybody. The login belongs to one connector, and the
//! rules here hold for its messages alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::author;
use super::bucket::Bucket;
use crate::config::{Connector, Login, Rate, Submission, holds};
use crate::mail::{Address, Client, Connection, Mail, Reply};

/// Versions that RFC 8996 and RFC 7568 forbid, as OpenSSL and GnuTLS name them.
const TLS_TOO_OLD: [&str; 8] = ["SSLv2", "SSLv3", "SSL3.0", "TLSv1", "TLSv1.0", "TLSv1.1", "TLS1.0", "TLS1.1"];

/// The logins of all connectors. One for all sessions; as many rates are kept as there are logins.
#[derive(Debug)]
pub(super) struct Channels {
    by_login: HashMap<String, Channel>,
}

/// One login of a connector.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) connector: Arc<Connector>,
    submission: Submission,
    pub(super) login: Login,
    messages: Arc<Mutex<Option<Bucket>>>,
    recipients: Arc<Mutex<Option<Bucket>>>,
}

impl Channels {
    pub(super) fn new(connectors: &[Arc<Connector>], now: Instant) -> Self {
        let mut by_login = HashMap::new();
        for connector in connectors {
            let Some(submission) = &connector.submission else { continue };
            for login in &submission.logins {
                let channel = Channel {
                    connector: Arc::clone(connector),
                    submission: submission.clone(),
                    login: login.clone(),
                    messages: Arc::new(Mutex::new(submission.rate.map(|rate| Bucket::full(rate, now)))),
                    recipients: Arc::new(Mutex::new(submission.recipient_rate.map(|rate| Bucket::full(rate, now)))),
                };
                by_login.insert(login.name.to_lowercase(), channel);
            }
        }
        Self { by_login }
    }

    /// Goes on counting where `earlier` is, for each login whose rate is the same: a reload gives nobody a fresh start.
    pub(super) fn go_on_from(&mut self, earlier: &Self) {
        for (login, channel) in &mut self.by_login {
            let Some(before) = earlier.by_login.get(login) else { continue };
            if before.submission.rate == channel.submission.rate {
                channel.messages = Arc::clone(&before.messages);
            }
            if before.submission.recipient_rate == channel.submission.recipient_rate {
                channel.recipients = Arc::clone(&before.recipients);
            }
        }
    }

    /// The login that the client used, where it is one of a ticket system.
    pub(super) fn of(&self, connection: &Connection) -> Option<&Channel> {
        // SASL services fold the case of a login or not, each in its own way: no two logins differ in that alone.
        self.by_login.get(&connection.login.as_deref()?.to_lowercase())
    }
}

impl Channel {
    /// Applies the rules. Of several that are broken, the first one answers; what can be said most exactly comes first.
    ///
    /// # Errors
    /// The reply for a message that must not be sent.
    pub(super) fn admit(&self, mail: &Mail, now: Instant) -> Result<(), Reply> {
        self.admit_client(&mail.connection)?;
        let Some(from) = author::sole_address(&mail.headers) else {
            let text = "a notification has exactly one From field with exactly one address";
            return Err(Reply::new(550, 6, 0, text));
        };
        self.admit_address("From address", &from)?;
        let sender = &mail.envelope.sender;
        if !sender.is_null() {
            let Some(address) = sender.address() else {
                let Connector { domain, name, .. } = self.connector.as_ref();
                let text = format!("sender {sender} is not in {domain}, the domain of connector {name}");
                return Err(Reply::new(550, 7, 1, text));
            };
            self.admit_address("sender", &address)?;
        }
        self.admit_rate(mail.envelope.recipients.len(), now)
    }

    fn admit_client(&self, connection: &Connection) -> Result<(), Reply> {
        let (connector, login) = (&self.connector.name, &self.login.name);
        // What a program on this host hands over without a network has no TLS and needs none.
        let problem = match &connection.tls {
            Some(tls) if TLS_TOO_OLD.iter().any(|old| tls.version.eq_ignore_ascii_case(old)) => {
                Some(format!("TLS 1.2 or newer, not {}", tls.version))
            }
            None if connection.client != Client::Local => Some("TLS; issue STARTTLS first".to_owned()),
            _ => None,
        };
        if let Some(problem) = problem {
            let text = format!("login {login} of connector {connector} needs {problem}");
            return Err(Reply::new(530, 7, 0, text));
        }
        let networks = &self.submission.networks;
        if networks.is_empty() || connection.client.ip().is_some_and(|ip| holds(networks, ip)) {
            return Ok(());
        }
        let client = connection.client.ip().map_or_else(|| "without an address".to_owned(), |ip| ip.to_string());
        let text =
            format!("client {client} is not in the networks that connector {connector} takes notifications from");
        Err(Reply::new(550, 7, 1, text))
    }

    fn admit_address(&self, what: &str, address: &Address) -> Result<(), Reply> {
        let Connector { name, domain, native_domain, recipient_delimiter, .. } = self.connector.as_ref();
        let login = &self.login.name;
        let base = recipient_delimiter.and_then(|delimiter| address.without_extension(delimiter));
        let bound = self.login.addresses.iter().any(|own| own == address || Some(own) == base.as_ref());
        let text = if native_domain.as_ref() == Some(address.domain()) {
            format!(
                "{what} {address} is a native address of the ticket system, which never goes through connector {name}"
            )
        } else if address.domain() != domain {
            format!("{what} {address} is not in {domain}, the domain of connector {name}")
        } else if !self.connector.supports(address) {
            format!("{what} {address} is not a support address of connector {name}")
        } else if !bound {
            format!("login {login} of connector {name} may not use the {what} {address}")
        } else {
            return Ok(());
        };
        Err(Reply::new(550, 7, 1, text))
    }

    /// Counts the message and its recipients, or neither.
    fn admit_rate(&self, recipients: usize, now: Instant) -> Result<(), Reply> {
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut to = self.recipients.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |what: &str, rate: Rate| {
            let text = format!("login {} has reached its limit of {rate} {what}; try again later", self.login.name);
            Reply::new(451, 7, 1, text)
        };
        if let Some(bucket) = messages.as_mut()
            && !bucket.has(1, now)
        {
            return Err(over("messages", bucket.rate()));
        }
        if let Some(bucket) = to.as_mut()
            && !bucket.has(recipients, now)
        {
            return Err(over("recipients", bucket.rate()));
        }
        messages.iter_mut().for_each(|bucket| bucket.take(1));
        to.iter_mut().for_each(|bucket| bucket.take(recipients));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_gives_no_login_a_fresh_start_but_another_rate_does() {
        let channels = |rate: &str| {
            let text = format!(
                "[daemon]\nhostname = \"mx.acme.example\"\n[milter]\nlisten = [\"unix:/run/x.sock\"]\n\
                 [[connector]]\nname = \"acme\"\nmode = \"outbound-only\"\ndomain = \"acme.example\"\n\
                 addresses = [\"support@acme.example\"]\n[connector.submission]\nrate = \"{rate}\"\n\
                 logins = [{{ name = \"desk\", addresses = [\"support@acme.example\"] }}]\n"
            );
            let config = crate::config::Config::parse(&text, std::path::Path::new("/x/deskmilter.toml")).unwrap();
            Channels::new(&config.connectors, Instant::now())
        };
        let admits = |channels: &Channels| channels.by_login.get("desk").unwrap().admit_rate(1, Instant::now()).is_ok();
        let first = channels("1/d");
        assert!(admits(&first) && !admits(&first));
        let (mut same, mut other) = (channels("1/d"), channels("2/d"));
        same.go_on_from(&first);
        other.go_on_from(&first);
        assert!(!admits(&same));
        assert!(admits(&other));
    }
}
