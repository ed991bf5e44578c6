//! The rules of a ticket endpoint: no way without TLS, one or two credential sets, a deadline below the MTA's.

use std::net::IpAddr;

use toml::Spanned;

use super::check::Check;
use super::{CredentialSet, Endpoint, SecretFile, Tls, raw};
use crate::mail::Domain;

impl Check<'_, '_> {
    pub(super) fn endpoint(&mut self, connector: &str, raw: raw::Endpoint) -> Option<Endpoint> {
        let key = |key: &str| format!("connector.{connector}.endpoint.{key}");
        let host = raw.host.get_ref().trim_end_matches('.').to_lowercase();
        if host.parse::<IpAddr>().is_err() && Domain::parse(&host).is_err() {
            self.note(
                raw.host.span(),
                &key("host"),
                format!("{host:?} is no host name; write the name that the ticket system gave with the credentials"),
            );
        }
        let tls = self.tls(&key("tls"), raw.tls)?;
        if let Some(relay) = raw.relay.filter(|relay| relay.get_ref() != "transport") {
            self.note(
                relay.span(),
                &key("relay"),
                format!("{:?} is not available; write \"transport\"", relay.get_ref()),
            );
        }
        let default_port = match tls {
            Tls::Starttls => 587,
            Tls::Implicit => 465,
        };
        let port = u16::try_from(self.count(&key("port"), raw.port, default_port, 1, 65_535)).ok()?;
        let ca_file = raw.ca_file.map(|path| self.path(path.get_ref()));
        let sets = raw.credentials.get_ref().len();
        if sets == 0 || sets > 2 {
            self.note(
                raw.credentials.span(),
                &key("credentials"),
                format!("{sets} sets; write one, or two while the password is being changed"),
            );
        }
        let credentials = raw
            .credentials
            .into_inner()
            .into_iter()
            .filter_map(|set| {
                let username = set.username.get_ref();
                if username.is_empty() || username.len() > 255 || username.chars().any(char::is_control) {
                    self.note(
                        set.username.span(),
                        &key("credentials.username"),
                        "not a user name; write it as the ticket system gave it",
                    );
                    return None;
                }
                let file = SecretFile::owned_by(self.path(set.password_file.get_ref()), self.owner);
                if let Err(error) = file.read_password() {
                    self.note(set.password_file.span(), &key("credentials.password_file"), error.to_string());
                }
                Some(CredentialSet { username: set.username.into_inner(), password_file: file })
            })
            .collect();
        Some(Endpoint {
            host,
            port,
            tls,
            ca_file,
            credentials,
            max_connections: self.count(&key("max_connections"), raw.max_connections, 10, 1, 1_000),
            // Below Postfix's lmtp_data_done_timeout of 600 s, so that our reply always comes before it gives up.
            deadline: self.duration(&key("deadline"), raw.deadline, 300, 5, 540),
        })
    }

    /// There is no third way (M3).
    pub(super) fn tls(&mut self, key: &str, text: Option<Spanned<String>>) -> Option<Tls> {
        if let Some(text) = &text
            && matches!(text.get_ref().as_str(), "none" | "no" | "off" | "may" | "opportunistic")
        {
            let remedy = "no message and no password travels unencrypted; write \"starttls\" or \"implicit\"";
            self.note(text.span(), key, remedy);
            return None;
        }
        self.choice(key, text, Tls::Starttls, &[("starttls", Tls::Starttls), ("implicit", Tls::Implicit)])
    }
}
