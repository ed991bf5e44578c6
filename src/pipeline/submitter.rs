//! The desk side: as which support address is this message submitted to the company host, and may it be?
//!
//! The envelope's sender says so. Where it is the null sender, as in bounces and many automatic replies, the From field does.
//! The answer is an address that has a credential; the message itself is never changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::author;
use super::bucket::Bucket;
use crate::config::{Connector, Host, Unverified};
use crate::mail::{Address, Mail, Path, Reply};

/// Whose credential speaks for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitter {
    /// The support address whose credential it is.
    pub address: Address,
    /// The sender that has none, and for which the default address takes over.
    pub unverified: Option<Address>,
}

/// The rules of one connector, and how much each credential has sent.
#[derive(Debug)]
pub struct Submitters {
    connector: Arc<Connector>,
    host: Host,
    sent: HashMap<Address, Arc<Mutex<Bucket>>>,
}

impl Submitters {
    /// For a connector with a company host.
    pub fn new(connector: &Arc<Connector>, host: &Host, now: Instant) -> Self {
        let buckets = host.rate.map(|rate| {
            let bucket = || Arc::new(Mutex::new(Bucket::full(rate, now)));
            host.credentials.iter().map(|credential| (credential.address.clone(), bucket())).collect()
        });
        Self { connector: Arc::clone(connector), host: host.clone(), sent: buckets.unwrap_or_default() }
    }

    /// Goes on counting where `earlier` is, if the rate is the same.
    pub fn go_on_from(&mut self, earlier: &Self) {
        if self.host.rate != earlier.host.rate {
            return;
        }
        for (address, bucket) in &mut self.sent {
            if let Some(before) = earlier.sent.get(address) {
                *bucket = Arc::clone(before);
            }
        }
    }

    /// Whose credential speaks for `mail`. Counts the message against its rate.
    ///
    /// # Errors
    /// The reply for a message that must not be sent through this connector, or not now.
    pub fn admit(&self, mail: &Mail, now: Instant) -> Result<Submitter, Reply> {
        let submitter = self.submitter(mail)?;
        if let Some(bucket) = self.sent.get(&submitter.address) {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            if !bucket.has(1, now) {
                let (address, rate) = (&submitter.address, bucket.rate());
                let text =
                    format!("the credential of {address} has reached its limit of {rate} messages; try again later");
                return Err(Reply::new(451, 7, 1, text));
            }
            bucket.take(1);
        }
        Ok(submitter)
    }

    fn submitter(&self, mail: &Mail) -> Result<Submitter, Reply> {
        let Connector { name, domain, native_domain, recipient_delimiter, .. } = self.connector.as_ref();
        let (what, sender) = speaker(mail)?;
        if native_domain.as_ref() == Some(sender.domain()) {
            let text = format!(
                "{what} {sender} is a native address of the ticket system, which never goes through connector {name}; send as \
                 one of its support addresses"
            );
            return Err(Reply::new(550, 7, 1, text));
        }
        if sender.domain() != domain {
            let text = format!("{what} {sender} is not in {domain}, the domain of connector {name}");
            return Err(Reply::new(550, 7, 1, text));
        }
        let base = recipient_delimiter.and_then(|delimiter| sender.without_extension(delimiter));
        let known = [Some(&sender), base.as_ref()].into_iter().flatten().find_map(|own| self.host.credential(own));
        match (known, &self.host.unverified) {
            (Some(credential), _) => Ok(Submitter { address: credential.address.clone(), unverified: None }),
            (None, Unverified::Native(default)) => Ok(Submitter { address: default.clone(), unverified: Some(sender) }),
            (None, Unverified::Defer) => {
                let text = format!(
                    "{what} {sender} has no credential in connector {name}; add one to host.credentials, or set \
                     unverified = \"native\" to let a default address take over"
                );
                Err(Reply::new(451, 7, 1, text))
            }
        }
    }
}

impl Submitter {
    /// The envelope's sender for the company host: the default address where it takes over, for a host lets an account send as
    /// its own address. A null sender stays.
    pub fn sender(&self, mail: &Mail) -> Path {
        let own = || Path::parse(self.address.to_string().as_bytes()).ok();
        match self.unverified.is_some() && !mail.envelope.sender.is_null() {
            true => own().unwrap_or_else(|| mail.envelope.sender.clone()),
            false => mail.envelope.sender.clone(),
        }
    }
}

/// Who sends the message, and what says so.
fn speaker(mail: &Mail) -> Result<(&'static str, Address), Reply> {
    let sender = &mail.envelope.sender;
    if !sender.is_null() {
        let address = sender.address();
        let text = format!("sender {sender} is no mail address, so no connector is for it");
        return address.map(|address| ("sender", address)).ok_or_else(|| Reply::new(550, 7, 1, text));
    }
    let text = "a message with the null sender has exactly one From field with exactly one address, that of the sender";
    author::sole_address(&mail.headers).map(|from| ("From address", from)).ok_or_else(|| Reply::new(550, 6, 0, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, HostCredential, Mechanism, Mode, Preserve, Proof, Rate, SecretFile, System, Tls};
    use crate::mail::{Body, Connection, Domain, Envelope, Header, Headers};
    use std::time::Duration;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn submitters(unverified: Unverified, rate: Option<Rate>) -> Submitters {
        let domain = |name| Domain::parse(name).unwrap();
        let credential = |name: &str| HostCredential {
            address: address(name),
            username: name.to_owned(),
            mechanism: Mechanism::Plain,
            proof: Proof::Password(SecretFile::new("/nonexistent")),
        };
        let host = Host {
            preset: None,
            host: "mail.acme.example".to_owned(),
            port: 587,
            tls: Tls::Starttls,
            ca_file: None,
            credentials: ["support@acme.example", "billing@acme.example"].map(credential).to_vec(),
            unverified,
            connections: 1,
            rate,
            deadline: Duration::from_secs(5),
        };
        let connector = Connector {
            name: "acme".to_owned(),
            system: System::Zammad,
            native_domain: Some(domain("desk.example")),
            domain: domain("acme.example"),
            recipient_delimiter: Some('+'),
            mode: Mode::TwoWay,
            observe: false,
            environment: Environment::Production,
            addresses: Vec::new(),
            endpoint: None,
            host: Some(host.clone()),
            desk: None,
            delivery: None,
            submission: None,
            preserve: Preserve::default(),
            dkim: Vec::new(),
        };
        Submitters::new(&Arc::new(connector), &host, Instant::now())
    }

    fn mail(sender: &str, from: &[&str]) -> Mail {
        Mail {
            connection: Arc::new(Connection::default()),
            envelope: Envelope { sender: Path::parse(sender.as_bytes()).unwrap(), ..Envelope::default() },
            headers: Headers::new(from.iter().map(|from| Header::written("From", from)).collect()),
            body: Body::from_octets(Vec::new()),
            shortfall: None,
            queue_id: None,
        }
    }

    #[test]
    fn the_envelope_sender_chooses_the_credential_and_from_does_for_the_null_sender() {
        let submitters = submitters(Unverified::Defer, None);
        for (sender, from, expected) in [
            ("Support@ACME.example", &["x@other.example"][..], Ok("support@acme.example")),
            ("billing+4711@acme.example", &[], Ok("billing@acme.example")),
            ("", &["Acme <billing@acme.example>"], Ok("billing@acme.example")),
            ("", &["a@acme.example, b@acme.example"], Err("550 5.6.0")),
            ("", &["a@acme.example", "b@acme.example"], Err("550 5.6.0")),
            ("", &[], Err("550 5.6.0")),
            ("support@desk.example", &[], Err("550 5.7.1 sender support@desk.example is a native address")),
            ("", &["support@desk.example"], Err("550 5.7.1 From address support@desk.example is a native address")),
            ("support@other.example", &[], Err("550 5.7.1 sender support@other.example is not in acme.example")),
            ("support@sub.acme.example", &[], Err("550 5.7.1")),
            ("root", &[], Err("550 5.7.1 sender <root> is no mail address")),
            (
                "sales@acme.example",
                &[],
                Err("451 4.7.1 sender sales@acme.example has no credential in connector acme; add"),
            ),
        ] {
            match (submitters.admit(&mail(sender, from), Instant::now()), expected) {
                (Ok(submitter), Ok(expected)) => {
                    assert_eq!((submitter.address, submitter.unverified), (address(expected), None), "{sender}");
                }
                (Err(reply), Err(expected)) => assert!(reply.to_string().starts_with(expected), "{sender}: {reply}"),
                (found, expected) => panic!("{sender}: {found:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn the_default_address_takes_over_in_the_envelope_alone() {
        let submitters = submitters(Unverified::Native(address("support@acme.example")), None);
        for (sender, from, envelope) in
            [("sales@acme.example", "sales@acme.example", "support@acme.example"), ("", "sales@acme.example", "")]
        {
            let mail = mail(sender, &[from]);
            let submitter = submitters.admit(&mail, Instant::now()).unwrap();
            assert_eq!(submitter.address, address("support@acme.example"));
            assert_eq!(submitter.unverified, Some(address("sales@acme.example")));
            assert_eq!(submitter.sender(&mail).as_str(), envelope);
        }
        let known = mail("billing+1@acme.example", &[]);
        let submitter = submitters.admit(&known, Instant::now()).unwrap();
        assert_eq!(submitter.sender(&known).as_str(), "billing+1@acme.example");
        let native = submitters.admit(&mail("a@desk.example", &[]), Instant::now());
        assert!(native.is_err(), "nothing takes over for a native address");
    }

    #[test]
    fn each_credential_has_a_rate_of_its_own() {
        let rate = Rate { count: 2, period: Duration::from_secs(3_600) };
        let submitters = submitters(Unverified::Defer, Some(rate));
        let now = Instant::now();
        let admit = |sender| submitters.admit(&mail(sender, &[]), now).map(|_| ()).map_err(|reply| reply.to_string());
        assert_eq!((admit("support@acme.example"), admit("support+x@acme.example")), (Ok(()), Ok(())));
        let over = admit("support@acme.example").unwrap_err();
        assert!(
            over.starts_with("451 4.7.1 the credential of support@acme.example has reached its limit of 2/h"),
            "{over}"
        );
        assert_eq!(admit("billing@acme.example"), Ok(()));
    }
}
