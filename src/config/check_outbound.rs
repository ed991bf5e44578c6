//! The rules of the outbound side: logins and their addresses, networks, keys, and what would have no effect.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use ipnet::IpNet;
use toml::Spanned;

use super::check::Check;
use super::outbound::{
    BreachPolicy, Cover, DkimKey, Login, Outbound, Preserve, Rate, SenderPattern, SignWhen, SignWith, Signing,
    Submission,
};
use super::{SecretFile, raw};
use crate::dkim::{Selector, SigningKey, record_name};
use crate::mail::Address;

/// Octets in a login at most (RFC 4954 has no limit of its own; Postfix's SASL user names end far below).
const LOGIN_MAX: usize = 255;
/// Octets in a field name at most: a line of 78 with its colon (RFC 5322 section 2.1.1).
const FIELD_NAME_MAX: usize = 77;
/// Preserved fields of a connector at most: more would make the seal larger than a header field may be.
const PRESERVED_MAX: usize = 50;

/// What a connector has on the outbound side.
#[derive(Debug, Default)]
pub(super) struct ConnectorOutbound {
    pub(super) submission: Option<Submission>,
    pub(super) preserve: Preserve,
    pub(super) dkim: Vec<DkimKey>,
}

/// Every login of the configuration, to whom it belongs.
pub(super) type Logins = HashMap<String, String>;

impl Check<'_, '_> {
    pub(super) fn outbound(&mut self, raw: raw::Outbound) -> Outbound {
        let choices = [("every", SignWith::Every), ("first", SignWith::First)];
        Outbound {
            sign_with: self.choice("outbound.sign_with", raw.sign_with, SignWith::Every, &choices).unwrap_or_default(),
            signing_networks: self.networks("outbound.signing_networks", raw.signing_networks, false),
            reinjection_networks: self.networks("outbound.reinjection_networks", raw.reinjection_networks, false),
            seal_lifetime: self.duration("outbound.seal_lifetime", raw.seal_lifetime, 3_600, 60, 7 * 86_400),
        }
    }

    pub(super) fn connector_outbound(
        &mut self,
        connector: &str,
        addresses: &[Address],
        submission: Option<Spanned<raw::Submission>>,
        preserve: Option<Spanned<raw::Preserve>>,
        dkim: Vec<raw::Dkim>,
        logins: &mut Logins,
    ) -> Option<ConnectorOutbound> {
        let key = |key: &str| format!("connector.{connector}.{key}");
        if submission.is_none() {
            let remedy = "has no effect without [connector.submission], which says how notifications come in";
            if let Some(preserve) = &preserve {
                self.note(preserve.span(), &key("preserve"), remedy);
            }
            if let Some(entry) = dkim.first() {
                let remedy = format!("{remedy}; for a domain's other mail write [[signing]]");
                self.note(entry.selector.span(), &key("dkim"), remedy);
            }
        }
        let submission =
            submission.map(|submission| self.submission(connector, addresses, submission.into_inner(), logins));
        let preserve = preserve.map(|preserve| self.preserve(connector, preserve.into_inner()));
        let mut keys: Vec<DkimKey> = Vec::new();
        for raw in dkim {
            let span = raw.selector.span();
            let Some(entry) = self.dkim(connector, raw) else { continue };
            if keys.iter().any(|other| other.selector == entry.selector) {
                let text = format!("selector {} stands twice; each key has a selector of its own", entry.selector);
                self.note(span, &key("dkim.selector"), text);
            }
            keys.push(entry);
        }
        Some(ConnectorOutbound { submission, preserve: preserve.unwrap_or(Some(Preserve::default()))?, dkim: keys })
    }

    fn submission(
        &mut self,
        connector: &str,
        own: &[Address],
        raw: raw::Submission,
        logins: &mut Logins,
    ) -> Submission {
        let key = |key: &str| format!("connector.{connector}.submission.{key}");
        if raw.logins.get_ref().is_empty() {
            self.note(raw.logins.span(), &key("logins"), "empty; name the ticket system's login and its addresses");
        }
        let logins = raw
            .logins
            .into_inner()
            .into_iter()
            .filter_map(|login| {
                let span = login.name.span();
                let name = login.name.into_inner();
                if name.is_empty() || name.len() > LOGIN_MAX || name.chars().any(char::is_control) {
                    self.note(span, &key("logins.name"), "not a login; write it as the MTA's SASL service knows it");
                    return None;
                }
                if let Some(owner) = logins.insert(name.to_lowercase(), connector.to_owned()) {
                    let text = if owner == connector {
                        format!("login {name:?} is listed twice; write all its addresses in one entry")
                    } else {
                        format!("login {name:?} belongs to connector {owner:?} already; each needs a login of its own")
                    };
                    self.note(span, &key("logins.name"), text);
                }
                let addresses = self.login_addresses(&key("logins.addresses"), &name, own, login.addresses);
                Some(Login { name, addresses })
            })
            .collect();
        Submission {
            logins,
            networks: self.networks(&key("networks"), raw.networks, true),
            rate: self.rate(&key("rate"), raw.rate),
            recipient_rate: self.rate(&key("recipient_rate"), raw.recipient_rate),
        }
    }

    fn login_addresses(
        &mut self,
        key: &str,
        login: &str,
        own: &[Address],
        addresses: Spanned<Vec<Spanned<String>>>,
    ) -> Vec<Address> {
        if addresses.get_ref().is_empty() {
            let text = format!("empty, so {login:?} could send nothing; name the support addresses that it is for");
            self.note(addresses.span(), key, text);
        }
        let mut bound = Vec::new();
        for text in addresses.into_inner() {
            match Address::parse(text.get_ref()) {
                Err(error) => {
                    self.note(text.span(), key, format!("{:?} is no mail address: {error}", text.get_ref()));
                }
                Ok(address) if !own.contains(&address) => {
                    let remedy = "is none of the connector's addresses; add it there, or remove it here";
                    self.note(text.span(), key, format!("{address} {remedy}"));
                }
                Ok(address) if bound.contains(&address) => {
                    self.note(text.span(), key, format!("{address} is listed twice; remove one"));
                }
                Ok(address) => bound.push(address),
            }
        }
        bound
    }

    fn preserve(&mut self, connector: &str, raw: raw::Preserve) -> Option<Preserve> {
        let key = |key: &str| format!("connector.{connector}.preserve.{key}");
        let policies = [("warn", BreachPolicy::Warn), ("reject", BreachPolicy::Reject)];
        let policy = self.choice(&key("policy"), raw.policy, BreachPolicy::Warn, &policies)?;
        let headers = raw.headers.map(|headers| {
            if headers.get_ref().len() > PRESERVED_MAX {
                let text = format!("{} names; {PRESERVED_MAX} at most can be sealed", headers.get_ref().len());
                self.note(headers.span(), &key("headers"), text);
            }
            let mut names: Vec<String> = Vec::new();
            for name in headers.into_inner() {
                let span = name.span();
                let name = name.into_inner();
                let plain = name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
                let ours = ["dkim-signature", "received", "return-path", "authentication-results"];
                let lower = name.to_ascii_lowercase();
                if name.is_empty() || name.len() > FIELD_NAME_MAX || !plain {
                    self.note(
                        span,
                        &key("headers"),
                        format!("{name:?} is no field name; write for example \"X-Mailer\""),
                    );
                } else if ours.contains(&lower.as_str()) || lower.starts_with("x-deskmilter-") {
                    self.note(
                        span,
                        &key("headers"),
                        format!("{name} is written by mail servers on the way; remove it"),
                    );
                } else if names.iter().any(|other| other.eq_ignore_ascii_case(&name)) {
                    self.note(span, &key("headers"), format!("{name} is listed twice; remove one"));
                } else {
                    names.push(name);
                }
            }
            names
        });
        Some(Preserve { policy, headers })
    }

    fn dkim(&mut self, connector: &str, raw: raw::Dkim) -> Option<DkimKey> {
        let key = |key: &str| format!("connector.{connector}.dkim.{key}");
        let covers = [("core", Cover::Core), ("preserved", Cover::Preserved)];
        let selector = self.selector(&key("selector"), &raw.selector);
        let key_file = self.key_file(&key("key_file"), raw.key_file);
        let cover = self.choice(&key("cover"), raw.cover, Cover::Preserved, &covers);
        let sign = self.sign_when(&key("sign"), raw.sign);
        let (key_file, key) = key_file?;
        Some(DkimKey { selector: selector?, key_file, key, cover: cover?, sign: sign? })
    }

    pub(super) fn signing(&mut self, raw: Vec<raw::Signing>) -> Vec<Signing> {
        let mut entries: Vec<Signing> = Vec::new();
        let mut names: HashMap<String, (SecretFile, SignWhen)> = HashMap::new();
        for raw in raw {
            let span = raw.selector.span();
            let domain = self.domain("signing.domain", &raw.domain);
            let selector = self.selector("signing.selector", &raw.selector);
            let key_file = self.key_file("signing.key_file", raw.key_file);
            let sign = self.sign_when("signing.sign", raw.sign);
            let patterns = raw.sign_for.map(|patterns| {
                if patterns.get_ref().is_empty() {
                    let text = "empty, so nothing would be signed; leave it out to sign for the domain";
                    self.note(patterns.span(), "signing.sign_for", text);
                }
                let parse = |text: Spanned<String>| match SenderPattern::parse(text.get_ref()) {
                    Ok(pattern) => Some(pattern),
                    Err(error) => {
                        let remedy = "write \"acme.example\", \"*@news.acme.example\" or \"ann@acme.example\"";
                        self.note(text.span(), "signing.sign_for", format!("{:?}: {error}; {remedy}", text.get_ref()));
                        None
                    }
                };
                patterns.into_inner().into_iter().filter_map(parse).collect::<Vec<_>>()
            });
            let (Some(domain), Some(selector), Some((key_file, key)), Some(sign)) = (domain, selector, key_file, sign)
            else {
                continue;
            };
            // The same key may stand in several places: where the first entry signs, their order counts.
            let this = (key_file.clone(), sign);
            let first = names.entry(record_name(&selector, &domain)).or_insert_with(|| this.clone());
            if *first != this {
                let text = format!(
                    "selector {selector} of {domain} stands twice with another key or another sign; each key has a selector of its own"
                );
                self.note(span, "signing.selector", text);
            }
            let sign_for = patterns.unwrap_or_else(|| vec![SenderPattern::all_of(&domain)]);
            entries.push(Signing { domain, selector, key_file, key, sign_for, sign });
        }
        entries
    }

    fn selector(&mut self, key: &str, text: &Spanned<String>) -> Option<Selector> {
        let selector = Selector::parse(text.get_ref());
        if selector.is_err() {
            let remedy = "is no selector; use letters, digits and hyphens, for example \"desk2026\"";
            self.note(text.span(), key, format!("{:?} {remedy}", text.get_ref()));
        }
        selector.ok()
    }

    /// A key that cannot be used is a problem now, not when the first message comes.
    fn key_file(&mut self, key: &str, path: Spanned<String>) -> Option<(SecretFile, Arc<SigningKey>)> {
        let file = self.secret_file(path.get_ref());
        match self.keys.get(&file) {
            Ok(signing_key) => Some((file, signing_key)),
            Err(error) => {
                self.note(path.span(), key, error.to_string());
                None
            }
        }
    }

    fn sign_when(&mut self, key: &str, text: Option<Spanned<String>>) -> Option<SignWhen> {
        let choices = [("always", SignWhen::Always), ("unless-signed", SignWhen::UnlessSigned)];
        self.choice(key, text, SignWhen::Always, &choices)
    }

    pub(super) fn rate(&mut self, key: &str, text: Option<Spanned<String>>) -> Option<Rate> {
        let text = text?;
        let rate = Rate::parse(text.get_ref());
        if rate.is_none() {
            let remedy = "is no rate; write a number and the time, for example \"600/h\" (s, m, h or d)";
            self.note(text.span(), key, format!("{:?} {remedy}", text.get_ref()));
        }
        rate
    }

    fn networks(&mut self, key: &str, texts: Vec<Spanned<String>>, everywhere: bool) -> Vec<IpNet> {
        texts.into_iter().filter_map(|text| self.network(key, text.get_ref(), text.span(), everywhere)).collect()
    }

    fn network(&mut self, key: &str, text: &str, span: Range<usize>, everywhere: bool) -> Option<IpNet> {
        let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        let Some(network) = parsed else {
            self.note(
                span,
                key,
                format!("{text:?} is no network; write \"192.0.2.0/24\", \"2001:db8::/32\" or an address"),
            );
            return None;
        };
        if network.trunc() != network {
            self.note(
                span,
                key,
                format!("{text:?} is an address within a network; write {:?}", network.trunc().to_string()),
            );
            return None;
        }
        if network.prefix_len() == 0 && !everywhere {
            self.note(
                span,
                key,
                format!("{text:?} is the whole Internet, whose mail would be taken for yours; name your networks"),
            );
            return None;
        }
        Some(network)
    }

    /// What is written but could have no effect.
    pub(super) fn outbound_effect(
        &mut self,
        spans: &OutboundSpans,
        outbound: &Outbound,
        submissions: bool,
        signing: bool,
    ) {
        if let Some(span) = spans.signing_networks.clone()
            && !signing
            && !outbound.signing_networks.is_empty()
        {
            self.note(
                span,
                "outbound.signing_networks",
                "has no effect without [[signing]], which says what is signed",
            );
        }
        if let Some(span) = spans.sign_with.clone()
            && !signing
            && outbound.sign_with == SignWith::First
        {
            self.note(span, "outbound.sign_with", "has no effect without [[signing]]: a connector's keys all sign");
        }
        if let Some(span) = spans.reinjection_networks.clone()
            && !signing
            && !submissions
            && !outbound.reinjection_networks.is_empty()
        {
            let text = "has no effect without [connector.submission] or [[signing]]: there is nothing to seal";
            self.note(span, "outbound.reinjection_networks", text);
        }
    }
}

/// Where in the file stands what may have no effect.
#[derive(Debug, Default)]
pub(super) struct OutboundSpans {
    sign_with: Option<Range<usize>>,
    signing_networks: Option<Range<usize>>,
    reinjection_networks: Option<Range<usize>>,
}

impl From<&raw::Outbound> for OutboundSpans {
    fn from(raw: &raw::Outbound) -> Self {
        let first = |list: &[Spanned<String>]| list.first().map(Spanned::span);
        Self {
            sign_with: raw.sign_with.as_ref().map(Spanned::span),
            signing_networks: first(&raw.signing_networks),
            reinjection_networks: first(&raw.reinjection_networks),
        }
    }
}
