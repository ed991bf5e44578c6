//! The rules of `[[connector]]`: of each by itself, and between them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;

use super::check::Check;
use super::check_outbound::Logins;
use super::{Connector, Environment, Limits, Mode, System, raw};
use crate::mail::{Address, Domain};

impl Check<'_, '_> {
    /// The connectors, and the rules between them: one name, one address, one environment (M10).
    pub(super) fn connectors(
        &mut self,
        raw: Vec<Spanned<raw::Connector>>,
        transport: bool,
        limits: &Limits,
    ) -> Vec<Arc<Connector>> {
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut owners: HashMap<Address, (String, Environment)> = HashMap::new();
        let mut domains: HashMap<Domain, usize> = HashMap::new();
        let mut logins = Logins::new();
        let mut connectors = Vec::new();
        for raw in raw {
            let span = raw.span();
            let raw = raw.into_inner();
            let spans: Vec<_> = raw.addresses.get_ref().iter().map(Spanned::span).collect();
            let addresses_span = raw.addresses.span();
            let name_span = raw.name.span();
            let Some(connector) = self.connector(raw, span, transport, &mut logins) else { continue };
            let key = |key: &str| format!("connector.{}.{key}", connector.name);
            if names.insert(connector.name.clone(), connectors.len()).is_some() {
                self.note(
                    name_span,
                    "connector.name",
                    format!("two connectors are called {:?}; each needs a name of its own", connector.name),
                );
            }
            for (address, span) in connector.addresses.iter().zip(spans) {
                match owners.get(address) {
                    Some((owner, _)) if *owner == connector.name => {
                        self.note(span, &key("addresses"), format!("{address} is listed twice; remove one"))
                    }
                    Some((owner, environment)) => {
                        let where_ =
                            if *environment == connector.environment { "" } else { ", in another environment" };
                        self.note(span, &key("addresses"), format!("{address} belongs to connector {owner:?} already{where_}; an address belongs to one connector and one environment"));
                    }
                    None => {
                        owners.insert(address.clone(), (connector.name.clone(), connector.environment));
                    }
                }
            }
            if !domains.contains_key(&connector.domain) && domains.len() >= limits.domains {
                self.note(addresses_span.clone(), &key("domain"), format!("{} is one domain more than limits.domains = {} allows; raise the limit if the ticket system takes more", connector.domain, limits.domains));
            }
            let count = domains.entry(connector.domain.clone()).or_default();
            *count += connector.addresses.len();
            if *count > limits.addresses_per_domain {
                let message = format!(
                    "{count} support addresses in {}, but limits.addresses_per_domain = {}; raise the limit if the ticket system takes more",
                    connector.domain, limits.addresses_per_domain
                );
                self.note(addresses_span, &key("addresses"), message);
            }
            connectors.push(Arc::new(connector));
        }
        connectors
    }

    fn connector(
        &mut self,
        raw: raw::Connector,
        span: Range<usize>,
        transport: bool,
        logins: &mut Logins,
    ) -> Option<Connector> {
        let name = raw.name.get_ref().clone();
        let fit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if name.is_empty() || name.len() > 40 || !name.bytes().all(fit) {
            self.note(
                raw.name.span(),
                "connector.name",
                format!("{name:?} also names a socket; use 1 to 40 lower-case letters, digits, - and _"),
            );
            return None;
        }
        let key = |key: &str| format!("connector.{name}.{key}");
        let system = self.choice(&key("system"), raw.system, System::Generic, &System::NAMES)?;
        let native_domain = self.native_domain(&name, system, raw.native_domain, raw.account);
        let domain = self.domain(&key("domain"), &raw.domain)?;
        if native_domain.as_ref() == Some(&domain) {
            self.note(
                raw.domain.span(),
                &key("domain"),
                "this is the ticket system's own domain; a connector is for a domain of the company",
            );
        }
        let recipient_delimiter = self.recipient_delimiter(&name, raw.recipient_delimiter);
        let mode = self.choice(
            &key("mode"),
            raw.mode,
            Mode::TwoWay,
            &[("two-way", Mode::TwoWay), ("outbound-only", Mode::OutboundOnly)],
        )?;
        let environment = self.choice(
            &key("environment"),
            raw.environment,
            Environment::Production,
            &[("production", Environment::Production), ("sandbox", Environment::Sandbox)],
        )?;
        if raw.addresses.get_ref().is_empty() {
            self.note(raw.addresses.span(), &key("addresses"), "empty; name at least one support address");
        }
        let addresses: Vec<Address> = raw
            .addresses
            .into_inner()
            .into_iter()
            .filter_map(|text| {
                self.support_address(&key("addresses"), &text, &domain, native_domain.as_ref(), recipient_delimiter)
            })
            .collect();
        let desk_sides = [
            raw.host.as_ref().map(|host| (host.span(), "host")),
            raw.delivery.as_ref().map(|delivery| (delivery.span(), "delivery")),
        ];
        for (span, section) in desk_sides.iter().flatten() {
            if !transport {
                let text = "needs a [transport] section with the directory for the LMTP sockets";
                self.note(span.clone(), &key(section), text);
            }
        }
        let desk_side = desk_sides.iter().any(Option::is_some);
        if desk_side {
            let other = [
                raw.endpoint.as_ref().map(|endpoint| (endpoint.span(), "endpoint")),
                raw.submission.as_ref().map(|submission| (submission.span(), "submission")),
            ];
            for (span, section) in other.into_iter().flatten() {
                let text = "is for the company side, [connector.host] and [connector.delivery] for the desk side; a connector has \
                            one of them only";
                self.note(span, &key(section), text);
            }
        }
        if !desk_side && raw.desk.is_some() {
            let company_side = [
                raw.endpoint.as_ref().map(|endpoint| (endpoint.span(), "endpoint")),
                raw.submission.as_ref().map(|submission| (submission.span(), "submission")),
            ];
            self.desk_alone(&name, company_side);
        }
        let desk_side = desk_side || raw.desk.is_some();
        let observe = self.observe(&key("observe"), raw.observe, desk_side);
        let desk = desk_side.then(|| self.desk(&name, system, raw.desk.map(Spanned::into_inner)));
        let host = match raw.host {
            Some(host) => {
                let span = host.span();
                self.host(&name, &addresses, &domain, host.into_inner(), span)
            }
            None => None,
        };
        let delivery = match raw.delivery {
            Some(delivery) => {
                let span = delivery.span();
                self.delivery(&name, &addresses, delivery.into_inner(), span)
            }
            None => None,
        };
        let endpoint = match (raw.endpoint, mode) {
            (_, _) if desk_side => None,
            (Some(endpoint), Mode::TwoWay) => {
                if !transport && !endpoint.get_ref().is_inline() && !observe {
                    self.note(
                        endpoint.span(),
                        &key("endpoint"),
                        "relaying needs a [transport] section with the directory for the LMTP sockets",
                    );
                }
                self.endpoint(&name, endpoint.into_inner())
            }
            (Some(endpoint), Mode::OutboundOnly) => {
                self.note(endpoint.span(), &key("endpoint"), "mode = \"outbound-only\" relays nothing to an endpoint; remove the section or write mode = \"two-way\"");
                None
            }
            (None, Mode::TwoWay) if observe => None,
            (None, Mode::TwoWay) => {
                self.note(
                    span,
                    &key("endpoint"),
                    "missing; a two-way connector needs [connector.endpoint] with host and credentials, or on the desk side [connector.host] or [connector.delivery]",
                );
                None
            }
            (None, Mode::OutboundOnly) => None,
        };
        let outbound = self.connector_outbound(&name, &addresses, raw.submission, raw.preserve, raw.dkim, logins)?;
        Some(Connector {
            name,
            system,
            native_domain,
            domain,
            recipient_delimiter,
            mode,
            observe,
            environment,
            addresses,
            endpoint,
            host,
            desk,
            delivery,
            submission: outbound.submission,
            preserve: outbound.preserve,
            dkim: outbound.dkim,
        })
    }

    /// The ticket system's own domain, where there is one.
    fn native_domain(
        &mut self,
        name: &str,
        system: System,
        native_domain: Option<Spanned<String>>,
        account: Option<Spanned<String>>,
    ) -> Option<Domain> {
        let key = |key: &str| format!("connector.{name}.{key}");
        match (native_domain, account, system) {
            (Some(domain), None, _) => self.domain(&key("native_domain"), &domain),
            (Some(domain), Some(_), _) => {
                self.note(
                    domain.span(),
                    &key("native_domain"),
                    "account names the native domain already; leave one of them out",
                );
                None
            }
            (None, Some(account), System::Zendesk) => {
                match Domain::parse(&format!("{}.zendesk.com", account.get_ref())) {
                    Ok(domain) if !account.get_ref().contains('.') => Some(domain),
                    _ => {
                        self.note(
                            account.span(),
                            &key("account"),
                            "not an account name; it is the part before .zendesk.com",
                        );
                        None
                    }
                }
            }
            (None, Some(account), _) => {
                self.note(account.span(), &key("account"), "only system = \"zendesk\" has accounts; write native_domain = \"the ticket system's own domain\" instead");
                None
            }
            (None, None, _) => None,
        }
    }

    fn recipient_delimiter(&mut self, name: &str, raw: Option<Spanned<String>>) -> Option<char> {
        match raw {
            None => Some('+'),
            Some(text) => {
                let mut chars = text.get_ref().chars();
                let delimiter = chars.next();
                if chars.next().is_some() || delimiter.is_some_and(|c| !"+-=_.#".contains(c)) {
                    self.note(
                        text.span(),
                        &format!("connector.{name}.recipient_delimiter"),
                        "write one of + - = _ . # as in the MTA's recipient_delimiter, or \"\" for none",
                    );
                }
                delimiter
            }
        }
    }

    fn support_address(
        &mut self,
        key: &str,
        text: &Spanned<String>,
        domain: &Domain,
        native: Option<&Domain>,
        delimiter: Option<char>,
    ) -> Option<Address> {
        let address = match Address::parse(text.get_ref()) {
            Ok(address) => address,
            Err(error) => {
                self.note(text.span(), key, format!("{:?} is no mail address: {error}", text.get_ref()));
                return None;
            }
        };
        if native.is_some_and(|native| native == address.domain()) {
            self.note(text.span(), key, format!("{address} is a native address of the ticket system, which never goes through a connector; remove it"));
        } else if address.domain() != domain {
            self.note(text.span(), key, format!("{address} is not in the connector's domain {domain}; inbound and outbound use one domain: give {} a connector of its own", address.domain()));
        } else if delimiter.is_some_and(|delimiter| address.without_extension(delimiter).is_some()) {
            self.note(text.span(), key, format!("{address} has an extension; write the address without it (all its extensions belong to it), or set recipient_delimiter"));
        }
        Some(address)
    }
}
