//! Who the MTA's client is, from CONNECT, HELO and macros.

use std::net::IpAddr;

use super::command::Peer;
use super::macros::Macros;
use crate::mail::{Client, Connection, Pass, TlsFacts};

/// Octets kept of a name that the MTA sends, at most: domain names have 255 at most (RFC 5321 section 4.5.3.1.2), HELO
/// can be whatever fits into a command line.
const NAME_MAX: usize = 1024;

/// What CONNECT and HELO said.
#[derive(Debug, Default)]
pub struct ClientFacts {
    client: Client,
    host: Vec<u8>,
    helo: Option<String>,
}

impl ClientFacts {
    /// From CONNECT. No HELO yet.
    pub fn connected(host: &[u8], peer: Peer<'_>) -> Self {
        Self { client: client(host, peer), host: cut(host).to_vec(), helo: None }
    }

    /// From HELO or EHLO.
    pub fn greeted(&mut self, helo: &[u8]) {
        self.helo = (!helo.is_empty()).then(|| String::from_utf8_lossy(cut(helo)).into_owned());
    }

    /// All that is known, with the macros of the message at hand.
    pub fn connection(&self, macros: &Macros) -> Connection {
        Connection {
            client: self.client,
            client_name: self.verified_name(macros),
            helo: self.helo.clone(),
            tls: macros
                .text("tls_version")
                .map(|version| TlsFacts { version, cipher: macros.text("cipher").unwrap_or_default() }),
            login: macros.text("auth_authen"),
            mta_name: macros.text("j"),
            pass: Pass::Only,
        }
    }

    /// Postfix says `unknown` where the name and the address do not lead to each other. Sendmail gives the address in
    /// brackets where there is no name, but gives an unverified name too and says so only in its macros.
    fn verified_name(&self, macros: &Macros) -> Option<String> {
        const FORGED: &[u8] = b"(may be forged)";
        let forged = macros.get("_").is_some_and(|text| text.windows(FORGED.len()).any(|window| window == FORGED))
            || macros.get("client_resolve").is_some_and(|resolved| resolved != b"OK");
        let named = !self.host.is_empty()
            && !self.host.starts_with(b"[")
            && !self.host.eq_ignore_ascii_case(b"unknown")
            && !forged;
        named.then(|| String::from_utf8_lossy(&self.host).into_owned())
    }
}

/// Mail by sendmail(1) comes as `localhost` with 127.0.0.1 and port 0 (Postfix's cleanup, which has no client to tell of) or
/// without an address (Sendmail). A client on the loopback network has a port.
fn client(host: &[u8], peer: Peer<'_>) -> Client {
    match peer {
        Peer::Inet { port, address } => match ip(address) {
            Some(ip) if ip.is_loopback() && port == 0 => Client::Local,
            Some(ip) => Client::Network(ip),
            None => Client::Unknown,
        },
        Peer::Unix => Client::Local,
        Peer::Unknown if host.eq_ignore_ascii_case(b"localhost") => Client::Local,
        Peer::Unknown => Client::Unknown,
    }
}

/// An address as MTAs write it: `IPv6:` before it, brackets around it or both; a mapped IPv4 address is the IPv4 address.
fn ip(address: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(address).ok()?;
    let text = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
    let text = match text.split_at_checked(5) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("IPv6:") => rest,
        _ => text,
    };
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn cut(name: &[u8]) -> &[u8] {
    name.get(..NAME_MAX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::milter::macros::Stage;

    fn inet(address: &str, port: u16) -> Peer<'_> {
        Peer::Inet { port, address: address.as_bytes() }
    }

    #[test]
    fn addresses_are_read_in_every_spelling() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("[192.0.2.1]", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("IPv6:2001:db8::1", "2001:db8::1"),
            ("[IPv6:2001:db8::1]", "2001:db8::1"),
            ("ipv6:::ffff:192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(client(b"x", inet(text, 25)), Client::Network(expected.parse().unwrap()), "{text}");
        }
        for text in ["", "unknown", "192.0.2", "[192.0.2.1", "IPv6:"] {
            assert_eq!(client(b"x", inet(text, 25)), Client::Unknown, "{text}");
        }
    }

    #[test]
    fn mail_by_sendmail_is_local_and_a_client_on_loopback_is_not() {
        assert_eq!(client(b"localhost", inet("127.0.0.1", 0)), Client::Local);
        assert_eq!(client(b"localhost", inet("127.0.0.1", 40000)), Client::Network("127.0.0.1".parse().unwrap()));
        assert_eq!(client(b"localhost", Peer::Unknown), Client::Local);
        assert_eq!(client(b"localhost", Peer::Unix), Client::Local);
        assert_eq!(client(b"mx.example", Peer::Unknown), Client::Unknown);
    }

    #[test]
    fn only_a_verified_name_counts() {
        let name = |host: &str, macros: &[u8]| {
            let mut sent = Macros::default();
            sent.define(Stage::Connect, macros);
            ClientFacts::connected(host.as_bytes(), Peer::Unknown).connection(&sent).client_name
        };
        assert_eq!(name("mx.example", b"").as_deref(), Some("mx.example"));
        assert_eq!(name("unknown", b""), None);
        assert_eq!(name("[192.0.2.1]", b""), None);
        assert_eq!(name("mx.example", b"_\0mx.example [192.0.2.1] (may be forged)\0"), None);
        assert_eq!(name("mx.example", b"{client_resolve}\0FORGED\0"), None);
        assert_eq!(name("mx.example", b"{client_resolve}\0OK\0").as_deref(), Some("mx.example"));
    }
}
