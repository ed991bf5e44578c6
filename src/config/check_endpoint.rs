//! The rules of a ticket endpoint: no way without TLS, one or two credential sets, a deadline below the MTA's.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;

use super::check::Check;
use super::{Connector, CredentialSet, Endpoint, Outbound, Rejected, RelayMode, Tls, raw};
use crate::mail::{Address, Domain};

/// Where the company's MTA listens, unless told otherwise.
const REJECTED_VIA: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 25);

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
        let keep_copy = raw.keep_copy.as_ref().is_some_and(|keep| *keep.get_ref());
        let relay = self.choice(
            &key("relay"),
            raw.relay,
            RelayMode::Transport,
            &[("transport", RelayMode::Transport), ("inline", RelayMode::Inline { keep_copy })],
        )?;
        if let Some(keep) = raw.keep_copy.filter(|_| relay == RelayMode::Transport) {
            let message =
                "only relay = \"inline\" can leave a copy with the MTA; remove the key (always_bcc keeps copies, too)";
            self.note(keep.span(), &key("keep_copy"), message);
        }
        let rejected = self.rejected_to(connector, raw.rejected_to, raw.rejected_via);
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
                let file = self.secret_file(set.password_file.get_ref());
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
            relay,
            rejected,
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

    fn rejected_to(
        &mut self,
        connector: &str,
        to: Option<Spanned<String>>,
        via: Option<Spanned<String>>,
    ) -> Option<Rejected> {
        let key = |key: &str| format!("connector.{connector}.endpoint.{key}");
        let Some(to) = to else {
            if let Some(via) = via {
                self.note(via.span(), &key("rejected_via"), "it is for rejected_to, which is not set; remove it");
            }
            return None;
        };
        let via = match via {
            None => REJECTED_VIA,
            // Nothing travels in plain text but within this host.
            Some(text) => match text.get_ref().parse::<SocketAddr>() {
                Ok(via) if via.ip().is_loopback() && via.port() > 0 => via,
                _ => {
                    let message = format!(
                        "{:?} is no address of this host; write \"127.0.0.1:25\", where the company's own MTA listens",
                        text.get_ref()
                    );
                    self.note(text.span(), &key("rejected_via"), message);
                    return None;
                }
            },
        };
        match Address::parse(to.get_ref()) {
            Ok(to) => Some(Rejected { to, via }),
            Err(error) => {
                let message = format!("{:?}: {error}; write a mailbox of the company", to.get_ref());
                self.note(to.span(), &key("rejected_to"), message);
                None
            }
        }
    }

    /// Inline relaying is done where the MTA asks before its queue, and before any filter after the queue has seen the message.
    pub(super) fn inline_relays(
        &mut self,
        spans: &EndpointSpans,
        connectors: &[Arc<Connector>],
        asked: bool,
        outbound: &Outbound,
    ) {
        for connector in connectors.iter().filter(|connector| connector.inline_endpoint().is_some()) {
            let key = format!("connector.{}.endpoint.relay", connector.name);
            let span = spans.relay(&connector.name);
            if !asked {
                self.note(
                    span.clone(),
                    &key,
                    "\"inline\" relays before the MTA's queue; add a [milter] section, or [exim] for Exim",
                );
            }
            if !outbound.reinjection_networks.is_empty() {
                let message = "\"inline\" relays before the content filter of outbound.reinjection_networks has seen the \
                               message; write \"transport\"";
                self.note(span, &key, message);
            }
        }
    }

    /// What an endpoint refused must not come back to an endpoint.
    pub(super) fn rejected(&mut self, spans: &EndpointSpans, connectors: &[Arc<Connector>]) {
        for connector in connectors {
            let Some(Rejected { to, .. }) = connector.endpoint.as_ref().and_then(|endpoint| endpoint.rejected.as_ref())
            else {
                continue;
            };
            let key = format!("connector.{}.endpoint.rejected_to", connector.name);
            if let Some(owner) = connectors.iter().find(|other| other.supports(to)) {
                let message = format!(
                    "{to} is a support address of connector {:?}: what the endpoint refused would come back to one; write a \
                     mailbox that somebody reads",
                    owner.name
                );
                self.note(spans.rejected_to(&connector.name), &key, message);
            }
        }
    }
}

/// Where things stand in the sections of endpoints, for the rules between sections.
#[derive(Debug, Default)]
pub(super) struct EndpointSpans(HashMap<String, (Range<usize>, Range<usize>)>);

impl EndpointSpans {
    pub(super) fn from(connectors: &[Spanned<raw::Connector>]) -> Self {
        let spans = connectors.iter().filter_map(|connector| {
            let raw = connector.get_ref();
            let endpoint = raw.endpoint.as_ref()?;
            let span = |text: &Option<Spanned<String>>| text.as_ref().map_or(endpoint.span(), Spanned::span);
            let endpoint = endpoint.get_ref();
            Some((raw.name.get_ref().clone(), (span(&endpoint.relay), span(&endpoint.rejected_to))))
        });
        Self(spans.collect())
    }

    fn relay(&self, connector: &str) -> Range<usize> {
        self.0.get(connector).map_or(0..0, |(relay, _)| relay.clone())
    }

    fn rejected_to(&self, connector: &str) -> Range<usize> {
        self.0.get(connector).map_or(0..0, |(_, rejected_to)| rejected_to.clone())
    }
}
