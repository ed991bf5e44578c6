//! The rules of a company host: no way without TLS, exactly one credential for each support address, a default address that
//! has one.

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use super::check::Check;
use super::host::{Host, HostCredential, Mechanism, Preset, Proof, Unverified};
use super::{Tls, raw};
use crate::mail::{Address, Domain};

/// Octets of a user name at most.
const USERNAME_MAX: usize = 255;
/// Words of a command at most.
const COMMAND_WORDS_MAX: usize = 64;

impl Check<'_, '_> {
    /// `addresses` are the connector's, `domain` its domain.
    pub(super) fn host(
        &mut self,
        connector: &str,
        addresses: &[Address],
        domain: &Domain,
        raw: raw::Host,
        span: Range<usize>,
    ) -> Option<Host> {
        let key = |key: &str| format!("connector.{connector}.host.{key}");
        let preset = match raw.preset {
            Some(text) => Some(self.choice(&key("preset"), Some(text), Preset::Office365, &Preset::NAMES)?),
            None => None,
        };
        let host = match (raw.host, preset) {
            (Some(text), _) => {
                let host = text.get_ref().trim_end_matches('.').to_lowercase();
                if host.parse::<IpAddr>().is_err() && Domain::parse(&host).is_err() {
                    let remedy = "write the name of the company's submission service";
                    self.note(text.span(), &key("host"), format!("{host:?} is no host name; {remedy}"));
                }
                host
            }
            (None, Some(preset)) => preset.host().to_owned(),
            (None, None) => {
                let text =
                    "missing; name the company's submission service, or write preset = \"office365\" or \"gmail\"";
                self.note(span, &key("host"), text);
                return None;
            }
        };
        let tls = self.tls(&key("tls"), raw.tls)?;
        let port = match tls {
            Tls::Starttls => 587,
            Tls::Implicit => 465,
        };
        let port = u16::try_from(self.count(&key("port"), raw.port, port, 1, 65_535)).ok()?;
        let listed = raw.credentials.span();
        if raw.credentials.get_ref().is_empty() {
            self.note(listed.clone(), &key("credentials"), "empty; write one for each support address");
        }
        let mut credentials: Vec<HostCredential> = Vec::new();
        for raw in raw.credentials.into_inner() {
            let span = raw.address.span();
            let Some(credential) = self.host_credential(connector, preset, domain, raw) else { continue };
            let address = &credential.address;
            if credentials.iter().any(|other| other.address == *address) {
                let text = format!("two credentials for {address}; an address has one, replace its file to change it");
                self.note(span, &key("credentials.address"), text);
            } else if address.domain() == domain && !addresses.contains(address) {
                let text = format!("{address} is none of the connector's addresses; add it there, or remove it here");
                self.note(span, &key("credentials.address"), text);
            }
            credentials.push(credential);
        }
        for address in addresses {
            if !credentials.is_empty() && !credentials.iter().any(|credential| credential.address == *address) {
                let text = format!("no credential for {address}; add one, or remove it from the connector's addresses");
                self.note(listed.clone(), &key("credentials"), text);
            }
        }
        let default_connections = preset.map_or(5, Preset::connections);
        Some(Host {
            preset,
            host,
            port,
            tls,
            ca_file: raw.ca_file.map(|path| self.path(path.get_ref())),
            unverified: self.unverified(connector, &credentials, raw.unverified, raw.default_address)?,
            credentials,
            connections: self.count(&key("connections"), raw.connections, default_connections, 1, 1_000),
            rate: self.rate(&key("rate"), raw.rate),
            // Below Postfix's lmtp_data_done_timeout of 600 s, so that our reply always comes before it gives up.
            deadline: self.duration(&key("deadline"), raw.deadline, 300, 5, 540),
        })
    }

    fn host_credential(
        &mut self,
        connector: &str,
        preset: Option<Preset>,
        domain: &Domain,
        raw: raw::HostCredential,
    ) -> Option<HostCredential> {
        let key = |key: &str| format!("connector.{connector}.host.credentials.{key}");
        let address_span = raw.address.span();
        let address = match Address::parse(raw.address.get_ref()) {
            Ok(address) => address,
            Err(error) => {
                let text = format!("{:?} is no mail address: {error}", raw.address.get_ref());
                self.note(address_span, &key("address"), text);
                return None;
            }
        };
        if address.domain() != domain {
            let text = format!("{address} is not in the connector's domain {domain}");
            self.note(address_span.clone(), &key("address"), text);
        }
        let username = match raw.username {
            Some(text) => {
                let username = text.get_ref();
                if username.is_empty() || username.len() > USERNAME_MAX || username.chars().any(char::is_control) {
                    self.note(text.span(), &key("username"), "not a user name; write it as the company host knows it");
                }
                text.into_inner()
            }
            None => address.to_string(),
        };
        let told = raw.mechanism.as_ref().map(Spanned::span);
        let given = [raw.password_file.is_some(), raw.token_file.is_some(), raw.token_command.is_some()];
        let proof = match (given, raw.password_file, raw.token_file, raw.token_command) {
            ([true, false, false], Some(path), ..) => {
                let file = self.secret_file(path.get_ref());
                if let Err(error) = file.read_password() {
                    self.note(path.span(), &key("password_file"), error.to_string());
                }
                Proof::Password(file)
            }
            ([false, true, false], _, Some(path), _) => {
                let file = self.secret_file(path.get_ref());
                // The file may be written later by whoever keeps the token fresh; what is there must be fit.
                if file.path().symlink_metadata().is_ok()
                    && let Err(error) = file.read()
                {
                    self.note(path.span(), &key("token_file"), error.to_string());
                }
                Proof::TokenFile(file)
            }
            ([false, false, true], _, _, Some(words)) => {
                let example = "[\"/usr/local/bin/token\", \"acme\"]";
                Proof::TokenCommand(self.command(&key("token_command"), words, example)?)
            }
            _ => {
                let text = "write exactly one of password_file, token_file and token_command";
                self.note(address_span, &key("address"), format!("{address}: {text}"));
                return None;
            }
        };
        let usual = match (preset, &proof) {
            (None, Proof::Password(_)) => Mechanism::Plain,
            _ => Mechanism::Xoauth2,
        };
        let mechanism = self.choice(&key("mechanism"), raw.mechanism, usual, &Mechanism::NAMES)?;
        let span = told.unwrap_or(address_span);
        match (mechanism, &proof) {
            (Mechanism::Xoauth2, Proof::Password(_)) => {
                let text = "xoauth2 shows a token, not a password: write token_file or token_command, or mechanism = \"plain\" \
                            if the host still takes a password";
                self.note(span, &key("mechanism"), text);
            }
            (Mechanism::Plain | Mechanism::Login, Proof::TokenFile(_) | Proof::TokenCommand(_)) => {
                let text = "a token is shown by xoauth2; write mechanism = \"xoauth2\", or password_file";
                self.note(span, &key("mechanism"), text);
            }
            _ => {}
        }
        Some(HostCredential { address, username, mechanism, proof })
    }

    /// A program's full path and its arguments.
    pub(super) fn command(
        &mut self,
        key: &str,
        words: Spanned<Vec<Spanned<String>>>,
        example: &str,
    ) -> Option<Vec<String>> {
        let span = words.span();
        let words: Vec<String> = words.into_inner().into_iter().map(Spanned::into_inner).collect();
        let program = words.first().map(String::as_str).unwrap_or_default();
        if !Path::new(program).is_absolute()
            || words.len() > COMMAND_WORDS_MAX
            || words.iter().any(|w| w.contains('\0'))
        {
            let text = format!(
                "write the full path of a program and its arguments, for example {example}; no shell reads them"
            );
            self.note(span, key, text);
            return None;
        }
        Some(words)
    }

    fn unverified(
        &mut self,
        connector: &str,
        credentials: &[HostCredential],
        choice: Option<Spanned<String>>,
        default: Option<Spanned<String>>,
    ) -> Option<Unverified> {
        let key = |key: &str| format!("connector.{connector}.host.{key}");
        let span = choice.as_ref().map(Spanned::span);
        let native = self.choice(&key("unverified"), choice, false, &[("defer", false), ("native", true)])?;
        match (native, default) {
            (false, None) => Some(Unverified::Defer),
            (false, Some(address)) => {
                let text = "has no effect without unverified = \"native\"";
                self.note(address.span(), &key("default_address"), text);
                None
            }
            (true, None) => {
                let text = "\"native\" needs default_address, the support address that takes over";
                self.note(span.unwrap_or(0..0), &key("unverified"), text);
                None
            }
            (true, Some(text)) => {
                let address = Address::parse(text.get_ref()).ok();
                let known = address.filter(|address| credentials.iter().any(|other| other.address == *address));
                if known.is_none() {
                    let message =
                        format!("{:?} has no credential; write one of credentials' addresses", text.get_ref());
                    self.note(text.span(), &key("default_address"), message);
                }
                known.map(Unverified::Native)
            }
        }
    }
}
