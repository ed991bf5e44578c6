//! Mail addresses and domains as the configuration and the classification use them (RFC 5321 section 4.1.2, RFC 6531).

use std::fmt;

/// Octets in a domain name at most (RFC 5321 section 4.5.3.1.2).
const DOMAIN_MAX: usize = 255;
/// Octets in a local part at most. RFC 5321 section 4.5.3.1.1 says 64 and section 4.5.3.1 that a limit is to be avoided: MTAs take
/// longer ones, as a support address with a token behind its delimiter has, and what they take must not be nobody's.
const LOCAL_PART_MAX: usize = 255;

/// A domain name in its comparable form: lower case, A-labels, no trailing dot.
///
/// `Acme.Example.`, `acme.example` and for international names the U-label and the A-label spelling are the same `Domain`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

impl Domain {
    /// Reads a domain name.
    ///
    /// # Errors
    /// An empty or too long name, an invalid label, or an address literal.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > DOMAIN_MAX {
            return Err(AddressError::DomainLength);
        }
        let ascii = idna::domain_to_ascii(text).map_err(|_| AddressError::DomainSyntax)?;
        let valid_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if ascii.len() > DOMAIN_MAX || !ascii.split('.').all(valid_label) {
            return Err(AddressError::DomainSyntax);
        }
        Ok(Self(ascii))
    }

    /// The name in lower case, A-labels, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mail address in its comparable form: the local part in lower case and unquoted, the domain as [`Domain`].
///
/// RFC 5321 leaves the case of a local part to its own host; support addresses are the company's own, and no MTA
/// that deskmilter serves tells `Support@` from `support@` by default.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    local: String,
    domain: Domain,
}

/// Why a text is not a mail address or domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `@`.
    #[error("no @ between local part and domain")]
    NoAt,
    /// The local part is empty or longer than 255 octets.
    #[error("the part before the @ is empty or longer than 255 octets")]
    LocalLength,
    /// The local part holds a space, a control character or an unquoted special.
    #[error("the part before the @ holds a character that is not allowed there")]
    LocalSyntax,
    /// The domain is empty or longer than 255 octets.
    #[error("the domain is empty or longer than 255 octets")]
    DomainLength,
    /// The domain is not a valid domain name.
    #[error("the domain is not a valid domain name")]
    DomainSyntax,
}

impl Address {
    /// Reads `local@domain`, without angle brackets.
    ///
    /// # Errors
    /// As [`AddressError`] says. Address literals (`user@[192.0.2.1]`) are not addresses in this sense.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::NoAt)?;
        if local.is_empty() || local.len() > LOCAL_PART_MAX {
            return Err(AddressError::LocalLength);
        }
        let domain = Domain::parse(domain)?;
        let local = unquote(local)?.to_lowercase();
        Ok(Self { local, domain })
    }

    /// The local part in lower case, unquoted.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The address without its extension: `support+tag@acme.example` is `support@acme.example` with delimiter `+`.
    ///
    /// `None` when there is no extension. As with Postfix, a delimiter at the very beginning is no delimiter.
    pub fn without_extension(&self, delimiter: char) -> Option<Self> {
        let (base, _) = self.local.split_once(delimiter)?;
        (!base.is_empty()).then(|| Self { local: base.to_owned(), domain: self.domain.clone() })
    }
}

/// The local part without quotes and backslashes: `"a b"` is `a b`. Dot-atoms come back as they are.
fn unquote(local: &str) -> Result<String, AddressError> {
    let Some(quoted) = local.strip_prefix('"') else {
        let allowed = |c: char| !c.is_ascii_control() && !c.is_whitespace() && !"()<>[]:;@\\,\"".contains(c);
        return if local.chars().all(allowed) { Ok(local.to_owned()) } else { Err(AddressError::LocalSyntax) };
    };
    let mut plain = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    loop {
        match chars.next() {
            Some('"') if chars.as_str().is_empty() && !plain.is_empty() => return Ok(plain),
            None | Some('"') => return Err(AddressError::LocalSyntax),
            Some('\\') => plain.push(chars.next().filter(|c| !c.is_ascii_control()).ok_or(AddressError::LocalSyntax)?),
            Some(c) if c.is_ascii_control() => return Err(AddressError::LocalSyntax),
            Some(c) => plain.push(c),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_quotes_and_a_trailing_dot_do_not_make_another_address() {
        let plain = Address::parse("support@acme.example").unwrap();
        for spelling in ["Support@ACME.Example", "\"support\"@acme.example.", "SUPPORT@acme.example"] {
            assert_eq!(Address::parse(spelling).unwrap(), plain, "{spelling}");
        }
    }

    #[test]
    fn international_domains_compare_by_their_a_labels() {
        assert_eq!(Domain::parse("Bücher.example").unwrap(), Domain::parse("xn--bcher-kva.example").unwrap());
    }

    #[test]
    fn extension_is_cut_at_the_first_delimiter() {
        let address = |text| Address::parse(text).unwrap();
        assert_eq!(address("support+a+b@acme.example").without_extension('+'), Some(address("support@acme.example")));
        assert_eq!(address("support@acme.example").without_extension('+'), None);
        assert_eq!(address("+x@acme.example").without_extension('+'), None);
        let long = format!("support+{}@acme.example", "a1".repeat(60));
        let token = Address::parse(&long).unwrap();
        assert_eq!(token.without_extension('+'), Some(address("support@acme.example")));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "support",
            "@acme.example",
            "a b@acme.example",
            "a@",
            "a@-x.example",
            "a@[192.0.2.1]",
            "\"@x.example",
            "\"\"@x.example",
            "a\r\n@x.example",
            "a@x..example",
            &format!("{}@x.example", "a".repeat(256)),
        ] {
            assert!(Address::parse(text).is_err(), "{text:?}");
        }
    }
}
