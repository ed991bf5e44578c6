//! The line that Exim sends: `deskmilter/1 VERB name=base64 name=base64 ...`.

use std::collections::HashMap;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::prefix::recipients;
use crate::mail::{Client, Connection, Envelope, Pass, Path, TlsFacts};

/// Octets of a request's line, at most (4 MiB): 10,000 recipients of the longest kind.
pub const LINE_MAX: usize = 4 * 1024 * 1024;
/// The first word.
pub const VERSION: &str = "deskmilter/1";
/// Octets kept of a name that Exim sends, at most: HELO can be whatever fits into a command line.
const NAME_MAX: usize = 1024;
/// Letters of a message id: 16 up to Exim 4.96, 23 since 4.97.
const ID_LENGTHS: [usize; 2] = [16, 23];

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Does this message concern us at all?
    Ask(Facts),
    /// May this recipient be in the message, too? The envelope has those before it, the first one at least.
    Recipient {
        /// What is known so far.
        facts: Facts,
        /// The recipient.
        to: Path,
    },
    /// What becomes of this message, whose content is in the scan file?
    Judge(Facts),
    /// The message follows, `size` octets, on its last hop: what is to be its header section?
    Sign {
        /// Exim's id of the message.
        id: MessageId,
        /// Octets that follow.
        size: u64,
    },
}

/// What Exim knows of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    /// Exim's id of the message; there is none before its data.
    pub id: Option<MessageId>,
    /// Who handed it in.
    pub connection: Connection,
    /// Sender and recipients.
    pub envelope: Envelope,
    /// Octets of the body as Exim has received it (`$message_body_size`).
    pub body_size: Option<u64>,
    /// Exim's files take recipients away and add some as a verdict says.
    pub edits_recipients: bool,
}

/// Exim's id of a message (`$message_exim_id`). It names files, so it holds nothing but letters, digits and `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageId(String);

/// Why a line is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It does not begin with `deskmilter/1`: the fragments in Exim's configuration are of another version.
    #[error("the request does not begin with {VERSION}; update the deskmilter files in Exim's configuration")]
    Version,
    /// Longer than [`LINE_MAX`].
    #[error("the request is longer than {LINE_MAX} octets: too many recipients")]
    Length,
    /// No such verb.
    #[error("the request asks for nothing that is known")]
    Verb,
    /// A word that is no `name=base64`.
    #[error("a word of the request is no name=base64")]
    Word,
    /// A fact that must be there is missing or cannot be read.
    #[error("the fact {0:?} is missing or cannot be read")]
    Fact(&'static str),
}

impl Request {
    /// Reads a line, with or without its line feed. Facts that are not known are passed over.
    ///
    /// # Errors
    /// As [`RequestError`] says.
    pub fn parse(line: &[u8]) -> Result<Self, RequestError> {
        if line.len() > LINE_MAX {
            return Err(RequestError::Length);
        }
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        if words.next() != Some(VERSION.as_bytes()) {
            return Err(RequestError::Version);
        }
        let verb = words.next().ok_or(RequestError::Verb)?;
        let facts = Values::read(words)?;
        match verb {
            b"ask" => Ok(Self::Ask(facts.message()?)),
            b"rcpt" => {
                let to = facts.get("to").filter(|to| !to.is_empty()).ok_or(RequestError::Fact("to"))?;
                Ok(Self::Recipient { facts: facts.message()?, to: Path::lenient(to) })
            }
            b"judge" => {
                let facts = facts.message()?;
                facts.id.as_ref().ok_or(RequestError::Fact("id"))?;
                Ok(Self::Judge(facts))
            }
            b"sign" => Ok(Self::Sign {
                id: facts.id()?.ok_or(RequestError::Fact("id"))?,
                size: facts.number("size")?.ok_or(RequestError::Fact("size"))?,
            }),
            _ => Err(RequestError::Verb),
        }
    }
}

impl MessageId {
    /// Reads an id.
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let fits = ID_LENGTHS.contains(&octets.len()) && octets.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-');
        fits.then(|| Self(String::from_utf8_lossy(octets).into_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The facts, decoded.
struct Values<'l>(HashMap<&'l [u8], Vec<u8>>);

impl<'l> Values<'l> {
    fn read(words: impl Iterator<Item = &'l [u8]>) -> Result<Self, RequestError> {
        let mut values = HashMap::new();
        for word in words {
            let equals = word.iter().position(|&b| b == b'=').ok_or(RequestError::Word)?;
            let (name, value) = word.split_at_checked(equals).ok_or(RequestError::Word)?;
            let value = STANDARD.decode(value.get(1..).unwrap_or_default()).map_err(|_| RequestError::Word)?;
            values.insert(name, value);
        }
        Ok(Self(values))
    }

    fn message(&self) -> Result<Facts, RequestError> {
        let sender = self.get("sender").ok_or(RequestError::Fact("sender"))?;
        let list = self.get("recipients").ok_or(RequestError::Fact("recipients"))?;
        // Exim takes local parts with octets beyond ASCII, and backslashes outside of quotes. What it has taken is judged: otherwise
        // who calls himself so would go past us.
        let envelope = Envelope {
            sender: Path::lenient(sender),
            recipients: recipients(list).into_iter().map(Path::lenient).collect(),
            smtputf8: self.get("smtputf8") == Some(b"yes"),
            eight_bit: false,
        };
        let connection = Connection {
            client: self.client()?,
            client_name: self.text("name"),
            helo: self.text("helo"),
            tls: self.text("tls").map(|version| TlsFacts { version, cipher: self.text("cipher").unwrap_or_default() }),
            login: self.text("login"),
            mta_name: self.text("mta"),
            pass: Pass::First,
        };
        let edits_recipients = self.get("edits") == Some(b"recipients");
        Ok(Facts { id: self.id()?, connection, envelope, body_size: self.number("body")?, edits_recipients })
    }

    /// `local` is said in so many words: who hands in mail on the host itself is trusted, so it is never what is left out.
    fn client(&self) -> Result<Client, RequestError> {
        match self.get("client") {
            Some(b"local") => Ok(Client::Local),
            Some(address) => {
                let ip = std::str::from_utf8(address).ok().and_then(|text| text.parse::<IpAddr>().ok());
                ip.map(|ip| Client::Network(ip.to_canonical())).ok_or(RequestError::Fact("client"))
            }
            None => Err(RequestError::Fact("client")),
        }
    }

    fn id(&self) -> Result<Option<MessageId>, RequestError> {
        match self.get("id").filter(|id| !id.is_empty()) {
            Some(id) => MessageId::parse(id).map(Some).ok_or(RequestError::Fact("id")),
            None => Ok(None),
        }
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, RequestError> {
        let Some(digits) = self.get(name) else { return Ok(None) };
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        number.map(Some).ok_or(RequestError::Fact(name))
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name.as_bytes()).map(Vec::as_slice)
    }

    /// A fact as text; `None` where it is not there or empty.
    fn text(&self, name: &str) -> Option<String> {
        let value = self.get(name).filter(|value| !value.is_empty())?;
        Some(String::from_utf8_lossy(value.get(..NAME_MAX).unwrap_or(value)).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(verb: &str, facts: &[(&str, &str)]) -> Vec<u8> {
        let words: String = facts.iter().map(|(name, value)| format!(" {name}={}", STANDARD.encode(value))).collect();
        format!("{VERSION} {verb}{words}\n").into_bytes()
    }

    const FACTS: [(&str, &str); 4] = [
        ("sender", "Jane@Customer.example"),
        ("recipients", "support@acme.example, \"a, b\"@acme.example"),
        ("client", "::ffff:192.0.2.10"),
        ("id", "1xV6OO-0008Ms-24"),
    ];

    #[test]
    fn facts_become_envelope_and_connection() {
        let more = [("tls", "TLS1.3"), ("cipher", "X"), ("login", "desk"), ("helo", ""), ("body", "43"), ("new", "x")];
        let Request::Judge(facts) = Request::parse(&line("judge", &[&FACTS[..], &more].concat())).unwrap() else {
            panic!("another verb");
        };
        assert_eq!(facts.envelope.sender.as_str(), "Jane@Customer.example");
        let recipients: Vec<&str> = facts.envelope.recipients.iter().map(Path::as_str).collect();
        assert_eq!(recipients, ["support@acme.example", "\"a, b\"@acme.example"]);
        assert_eq!(facts.connection.client, Client::Network("192.0.2.10".parse().unwrap()));
        assert_eq!((facts.connection.login.as_deref(), facts.connection.helo), (Some("desk"), None));
        assert_eq!(facts.connection.tls.unwrap().version, "TLS1.3");
        assert_eq!((facts.body_size, facts.connection.pass), (Some(43), Pass::First));
        // Files that were written before inline relay do not say so.
        assert!(!facts.edits_recipients);
    }

    #[test]
    fn addresses_that_exim_takes_and_no_rfc_knows_are_judged_all_the_same() {
        let long = format!("{}@b.example", "a".repeat(490));
        for sender in ["a\\\"b@x.example", "a\\ b@x.example", "\"a\rb\"@x.example", "<>@x.example", &long] {
            let facts =
                [("sender", sender), ("recipients", "a\\\"b@acme.example, c@acme.example"), ("client", "local")];
            let Ok(Request::Ask(facts)) = Request::parse(&line("ask", &facts)) else {
                panic!("{sender:?} is not judged")
            };
            assert!(!facts.envelope.sender.is_null(), "{sender:?}");
            assert_eq!(facts.envelope.recipients.len(), 2, "{sender:?}");
        }
        let octets = |value: &[u8]| STANDARD.encode(value);
        let text =
            format!("{VERSION} ask sender={} recipients= client={}", octets(b"\xff@x.example"), octets(b"local"));
        assert!(matches!(Request::parse(text.as_bytes()), Ok(Request::Ask(_))));
    }

    #[test]
    fn one_more_recipient_is_told_from_those_before_it() {
        let facts = [("sender", ""), ("recipients", ""), ("client", "192.0.2.10"), ("to", "support@acme.example")];
        let Ok(Request::Recipient { facts, to }) = Request::parse(&line("rcpt", &facts)) else {
            panic!("no question about a recipient");
        };
        assert_eq!((to.as_str(), facts.envelope.recipients.len()), ("support@acme.example", 0));
    }

    #[test]
    fn a_client_that_is_not_told_is_never_taken_for_this_host() {
        for client in ["", "x", "LOCAL"] {
            let facts = [("sender", ""), ("recipients", "a@b.example"), ("client", client)];
            assert_eq!(Request::parse(&line("ask", &facts)), Err(RequestError::Fact("client")), "{client}");
        }
        assert_eq!(Request::parse(&line("ask", &FACTS[..2])), Err(RequestError::Fact("client")));
    }

    #[test]
    fn what_is_no_request_says_why() {
        let id = |id| line("sign", &[("id", id), ("size", "1")]);
        for (line, expected) in [
            (b"deskmilter/2 ask\n".to_vec(), RequestError::Version),
            (b"GET / HTTP/1.1\r\n".to_vec(), RequestError::Version),
            (b"".to_vec(), RequestError::Version),
            ([b"deskmilter/1 ask recipients=", &vec![b'A'; LINE_MAX][..]].concat(), RequestError::Length),
            (b"deskmilter/1\n".to_vec(), RequestError::Verb),
            (b"deskmilter/1 eat\n".to_vec(), RequestError::Verb),
            (b"deskmilter/1 ask sender\n".to_vec(), RequestError::Word),
            (b"deskmilter/1 ask sender=%\n".to_vec(), RequestError::Word),
            (line("judge", &FACTS[..3]), RequestError::Fact("id")),
            (line("ask", &[("recipients", "")]), RequestError::Fact("sender")),
            (line("rcpt", &FACTS), RequestError::Fact("to")),
            (line("sign", &[("id", "1xV6OO-0008Ms-24")]), RequestError::Fact("size")),
            (id("../../etc/passwd"), RequestError::Fact("id")),
            (id("1xV6OO-0008Ms/24"), RequestError::Fact("id")),
        ] {
            let shown = String::from_utf8_lossy(line.get(..200).unwrap_or(&line)).into_owned();
            assert_eq!(Request::parse(&line), Err(expected), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&line);
            let _ = Request::parse(&[b"deskmilter/1 judge ", &line[..]].concat());
        }
    }
}
