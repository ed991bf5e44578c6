//! What the outbound side is configured with: who may submit for a ticket system, what must survive, what is signed.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::SecretFile;
use crate::dkim::{Selector, SigningKey};
use crate::mail::{Address, AddressError, Domain};

/// `[outbound]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Clients beside the authenticated ones and this host whose mail `[[signing]]` signs.
    pub signing_networks: Vec<IpNet>,
    /// Where a content filter hands mail back. Where there are any, the pass before the filter seals and the pass after it signs.
    pub reinjection_networks: Vec<IpNet>,
    /// For how long a seal counts: longer than the content filter keeps mail.
    pub seal_lifetime: Duration,
    /// Which of the `[[signing]]` entries for an author sign.
    pub sign_with: SignWith,
}

/// `outbound.sign_with`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SignWith {
    /// Every one.
    #[default]
    Every,
    /// The first one of the file alone, as OpenDKIM does without MultipleSignatures.
    First,
}

/// `[connector.submission]`: how notifications reach us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The SASL logins of the ticket system. At least one.
    pub logins: Vec<Login>,
    /// Where its servers are; empty means anywhere.
    pub networks: Vec<IpNet>,
    /// Messages of one login at most.
    pub rate: Option<Rate>,
    /// Recipients of one login's messages at most.
    pub recipient_rate: Option<Rate>,
}

/// One SASL login and what it may send as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The name as the MTA tells it (`{auth_authen}`).
    pub name: String,
    /// The support addresses that it may use. At least one.
    pub addresses: Vec<Address>,
}

/// So many in such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In what time: a second, minute, hour or day.
    pub period: Duration,
}

/// `[connector.preserve]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preserve {
    /// What becomes of a breach whose value cannot be known.
    pub policy: BreachPolicy,
    /// The names to preserve instead of the preset's.
    pub headers: Option<Vec<String>>,
}

/// `connector.preserve.policy`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BreachPolicy {
    /// It is logged.
    #[default]
    Warn,
    /// The message is refused.
    Reject,
}

/// A key and what it signs as: `[[connector.dkim]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DkimKey {
    /// `s=`
    pub selector: Selector,
    /// Where the private key is kept.
    pub key_file: SecretFile,
    /// The private key, as it was when the configuration was read.
    pub key: Arc<SigningKey>,
    /// Which fields it covers.
    pub cover: Cover,
    /// When it signs.
    pub sign: SignWhen,
}

/// `connector.dkim.cover`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// The fields that every reader sees.
    Core,
    /// Two signatures: one over those fields, one over the preserved fields as well.
    Preserved,
}

/// `sign`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignWhen {
    /// Whatever signatures are there already.
    Always,
    /// Not when a valid signature of the same domain is there already.
    UnlessSigned,
}

/// `[[signing]]`: signs the rest of a domain's mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signing {
    /// `d=`
    pub domain: Domain,
    /// `s=`
    pub selector: Selector,
    /// Where the private key is kept.
    pub key_file: SecretFile,
    /// The private key, as it was when the configuration was read.
    pub key: Arc<SigningKey>,
    /// From addresses that it signs for.
    pub sign_for: Vec<SenderPattern>,
    /// When it signs.
    pub sign: SignWhen,
}

/// Addresses of the From field: `acme.example`, `*@news.acme.example`, `*.acme.example`, `ann@acme.example`. An asterisk
/// stands for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderPattern {
    written: String,
    pattern: String,
}

impl Outbound {
    /// Whether `ip` is where a content filter hands mail back.
    pub fn is_reinjection(&self, ip: IpAddr) -> bool {
        holds(&self.reinjection_networks, ip)
    }

    /// Whether `[[signing]]` trusts `ip`.
    pub fn is_signing_client(&self, ip: IpAddr) -> bool {
        holds(&self.signing_networks, ip)
    }
}

/// Whether one of `networks` holds `ip`; a mapped IPv4 address is the IPv4 address.
pub fn holds(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

/// As it is written: `600/h`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.period.as_secs() {
            0..60 => "s",
            60..3_600 => "m",
            3_600..86_400 => "h",
            _ => "d",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl Rate {
    /// Reads `count/s`, `/m`, `/h` or `/d`; the count is at least 1.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_once('/')?;
        let period = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        let count = count.trim().parse().ok().filter(|&count| count > 0)?;
        Some(Self { count, period: Duration::from_secs(period) })
    }
}

impl SenderPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with the local part or the domain.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').unwrap_or(("*", text));
        if local.is_empty() {
            return Err(AddressError::LocalLength);
        }
        if local.chars().any(|c| c.is_control() || c.is_whitespace() || "<>()[],;:\\\"@".contains(c)) {
            return Err(AddressError::LocalSyntax);
        }
        let domain = if domain.contains('*') {
            let labels = domain.strip_suffix('.').unwrap_or(domain).split('.').map(Self::label);
            labels.collect::<Result<Vec<_>, _>>()?.join(".")
        } else {
            Domain::parse(domain)?.as_str().to_owned()
        };
        Ok(Self { written: text.to_owned(), pattern: format!("{}@{domain}", local.to_lowercase()) })
    }

    /// One label of a domain with an asterisk: lower case; an A-label where it has none itself.
    fn label(text: &str) -> Result<String, AddressError> {
        if !text.contains('*') {
            return Ok(Domain::parse(text)?.as_str().to_owned());
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"*-_".contains(&b);
        if text.bytes().all(plain) { Ok(text.to_ascii_lowercase()) } else { Err(AddressError::DomainSyntax) }
    }

    /// All addresses of a domain.
    pub(super) fn all_of(domain: &Domain) -> Self {
        Self { written: domain.to_string(), pattern: format!("*@{domain}") }
    }

    /// The domain whose addresses alone are meant, where it is one.
    pub fn domain(&self) -> Option<&str> {
        self.pattern.rsplit_once('@').map(|(_, domain)| domain).filter(|domain| !domain.contains('*'))
    }

    /// Whether `address` is meant.
    pub fn matches(&self, address: &Address) -> bool {
        matches(self.pattern.as_bytes(), address.to_string().as_bytes())
    }
}

/// As it was written.
impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Whether `text` is what `pattern` says. Goes back to the last asterisk only, so the cost is the product of both lengths at
/// most.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut asterisk: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                asterisk = Some((p, t));
                p += 1;
            }
            Some(octet) if Some(octet) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => match asterisk {
                Some((at, taken)) => {
                    asterisk = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|&octet| octet == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_its_domain_its_wildcards_and_nothing_beside() {
        for (pattern, yes, no) in [
            (
                "acme.example",
                vec!["a@acme.example", "A.B@ACME.example"],
                vec!["a@news.acme.example", "a@xacme.example"],
            ),
            ("*@news.acme.example", vec!["a@news.acme.example"], vec!["a@acme.example"]),
            ("*.acme.example", vec!["a@news.acme.example", "a@x.y.acme.example"], vec!["a@acme.example"]),
            ("Ann@acme.example", vec!["ann@acme.example"], vec!["anne@acme.example", "jann@acme.example"]),
            ("news-*@acme.example", vec!["news-1@acme.example", "news-@acme.example"], vec!["news@acme.example"]),
            ("b\u{fc}cher.example", vec!["a@xn--bcher-kva.example"], vec!["a@bucher.example"]),
            ("*.b\u{fc}cher.example", vec!["a@x.xn--bcher-kva.example"], vec!["a@xn--bcher-kva.example"]),
            ("*", vec!["a@acme.example"], vec![]),
        ] {
            let parsed = SenderPattern::parse(pattern).unwrap();
            let address = |text: &str| Address::parse(text).unwrap();
            assert!(yes.iter().all(|text| parsed.matches(&address(text))), "{pattern}");
            assert!(!no.iter().any(|text| parsed.matches(&address(text))), "{pattern}");
            assert_eq!(parsed.to_string(), pattern);
        }
        for broken in [
            "",
            "@acme.example",
            "a b@acme.example",
            "acme..example",
            "*.b\u{fc} r.example",
            "*..example",
            "a@*/x",
            "<a@acme.example>",
        ] {
            assert!(SenderPattern::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_rate_is_read_as_it_is_written() {
        for text in ["1/s", "30/m", "600/h", "100000/d"] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "600", "0/h", "-1/h", "600/w", "1.5/s", "99999999999/h", "/h"] {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
    }
}
