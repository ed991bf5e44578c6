//! A site with one connector whose endpoint is a scripted one.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deskmilter::config::{
    Connector, CredentialSet, Endpoint as Configured, Environment, Mode, Preserve, RelayMode, SecretFile, System, Tls,
};
use deskmilter::mail::{Body, Connection, Domain, Envelope, Headers, Mail, Path};
use deskmilter::relay::{Bounds, Relay};

use support::endpoint::Endpoint;

/// Short bounds for the steps, so that a test does not wait for minutes.
pub fn short() -> Bounds {
    let step = Duration::from_millis(1500);
    Bounds {
        greeting: step,
        command: step,
        handshake: step,
        auth: step,
        envelope: step,
        data: step,
        block: step,
        final_reply: step,
        quit: step,
        ..Bounds::default()
    }
}

pub struct Site {
    directory: tempfile::TempDir,
    endpoint: Configured,
}

impl Site {
    pub fn new(endpoint: &Endpoint) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, &endpoint.ca).unwrap();
        let configured = Configured {
            host: "localhost".to_owned(),
            port: endpoint.port,
            tls: Tls::Starttls,
            ca_file: Some(ca_file),
            credentials: Vec::new(),
            max_connections: 4,
            deadline: Duration::from_secs(4),
            relay: RelayMode::Transport,
            rejected: None,
        };
        let site = Self { directory, endpoint: configured };
        site.credential("acme.example", "s3cret-one")
    }

    /// Adds a credential set.
    pub fn credential(mut self, username: &str, password: &str) -> Self {
        self.write_password(username, password);
        let password_file = SecretFile::new(self.password_path(username));
        self.endpoint.credentials.push(CredentialSet { username: username.to_owned(), password_file });
        self
    }

    pub fn password_path(&self, username: &str) -> PathBuf {
        self.directory.path().join(format!("{username}.password"))
    }

    /// Replaces the password file as an administrator's editor does: by a new file of the same name.
    pub fn write_password(&self, username: &str, password: &str) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, password).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(new, self.password_path(username)).unwrap();
    }

    pub fn implicit(mut self, implicit: bool) -> Self {
        self.endpoint.tls = if implicit { Tls::Implicit } else { Tls::Starttls };
        self
    }

    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.endpoint.deadline = deadline;
        self
    }

    pub fn connections(mut self, connections: usize) -> Self {
        self.endpoint.max_connections = connections;
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.endpoint.port = port;
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.endpoint.host = host.to_owned();
        self
    }

    pub fn ca_file(mut self, path: PathBuf) -> Self {
        self.endpoint.ca_file = Some(path);
        self
    }

    pub fn try_relay(&self, bounds: Bounds) -> Result<Relay, deskmilter::relay::RelayError> {
        let connector = Connector {
            name: "acme".to_owned(),
            system: System::Zendesk,
            native_domain: None,
            domain: Domain::parse("acme.example").unwrap(),
            recipient_delimiter: None,
            mode: Mode::TwoWay,
            observe: false,
            environment: Environment::Production,
            addresses: Vec::new(),
            endpoint: Some(self.endpoint.clone()),
            host: None,
            desk: None,
            delivery: None,
            submission: None,
            preserve: Preserve::default(),
            dkim: Vec::new(),
        };
        Relay::with_bounds(&connector, &self.endpoint, &Domain::parse("mx.acme.example").unwrap(), bounds)
    }

    pub fn relay(&self, bounds: Bounds) -> Relay {
        self.try_relay(bounds).unwrap()
    }
}

/// A message whose octets on the wire are `message`.
pub fn mail(recipients: &[&str], message: &[u8]) -> Mail {
    let path = |text: &&str| Path::parse(text.as_bytes()).unwrap();
    let envelope = Envelope {
        sender: path(&"Sender@Example.org"),
        recipients: recipients.iter().map(path).collect(),
        ..Envelope::default()
    };
    Mail {
        connection: Arc::new(Connection::default()),
        envelope,
        headers: Headers::default(),
        body: Body::from_octets(message.to_vec()),
        shortfall: None,
        queue_id: Some("4c1Zxw2vKz".to_owned()),
    }
}
