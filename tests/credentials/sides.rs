//! The desk side of acme.example with a Postfix of its own, and the company beyond it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::endpoint::{Endpoint, Script};
use support::{
    Client, Daemon, LmtpClient, NameServer, PrivatePostfix, Reply, Signer, SmtpSession, SmtpSink, Submission,
    TlsIdentity, Zone, fields, free_address,
};
use tokio::runtime::Runtime;

use crate::desk::{Issued, credential, issued};

/// The login that the ticket system has at the company.
pub const DESK_LOGIN: &str = "desk-support";
const SUPPORT: &str = "support@acme.example";

/// Where notifications go.
pub struct CompanyHost {
    pub name: String,
    pub port: u16,
    pub authority: String,
    pub password: String,
}

/// A Postfix beside the ticket system Zammad, whose mailboxes are `support@` and `billing@acme.example` and `help@other.example`:
/// one smtpd takes mail from anybody, another one from those who log in with what was issued. deskmilter knows acme.example by its
/// configuration, and other.example only by what was issued.
pub struct DeskSide {
    pub postfix: PrivatePostfix,
    pub daemon: Daemon,
    service: SocketAddr,
    identity: TlsIdentity,
    folder: tempfile::TempDir,
}

impl DeskSide {
    /// One with the store `url` and more lines of its configuration's `[connector.desk]`.
    pub fn start(url: &str, host: &CompanyHost, more: &str) -> Self {
        let folder = support::folder("deskside");
        let main_cf = "myhostname = desk.example\n\
                       smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail }\n\
                       local_header_rewrite_clients =\nrecipient_delimiter = +\n";
        let mailboxes = [SUPPORT, "billing@acme.example", "help@other.example", "agent@desk.example"];
        let mut postfix = PrivatePostfix::new(&mailboxes, main_cf, false);
        let service = free_address();
        let identity = TlsIdentity::for_names(&["desk.example", &service.ip().to_string()]);
        let chain = postfix.configuration().join("desk.pem");
        identity.write_chain(&chain);
        let mut lines = format!("{service} inet n - n - - smtpd\n");
        for option in [
            "syslog_name=postfix/desk".to_owned(),
            format!("smtpd_tls_chain_files={}", chain.display()),
            "smtpd_tls_security_level=may".to_owned(),
            "smtpd_tls_auth_only=yes".to_owned(),
            "smtpd_sasl_auth_enable=yes".to_owned(),
            "smtpd_sasl_type=dovecot".to_owned(),
            "smtpd_sasl_path=deskmilter/auth".to_owned(),
            "smtpd_relay_restrictions=permit_sasl_authenticated,reject".to_owned(),
        ] {
            lines.push_str(&format!("  -o {{ {option} }}\n"));
        }
        postfix.add_service(&lines);
        let sockets = postfix.socket_folder("deskmilter");
        write_secret(&folder.path().join("support.secret"), &host.password);
        fs::write(folder.path().join("company-ca.pem"), &host.authority).unwrap();
        let text = format!(
            r#"
[log]
level = "debug"
[daemon]
hostname = "desk.example"
state_directory = "state"
[milter]
listen = ["unix:{sockets}/milter.sock"]
socket_group = "postfix"
[transport]
directory = "{sockets}/transport"
socket_group = "postfix"
[store]
url = "{url}"
[auth]
listen = ["unix:{sockets}/auth"]
socket_group = "postfix"
[[connector]]
name = "acme"
system = "zammad"
domain = "acme.example"
addresses = ["{SUPPORT}", "billing@acme.example"]
[connector.host]
host = "{name}"
port = {port}
ca_file = "company-ca.pem"
unverified = "native"
default_address = "{SUPPORT}"
credentials = [{{ address = "{SUPPORT}", username = "{DESK_LOGIN}", password_file = "support.secret" }},
               {{ address = "billing@acme.example", username = "{DESK_LOGIN}", password_file = "support.secret" }}]
[connector.desk]
{more}
"#,
            sockets = sockets.display(),
            name = host.name,
            port = host.port,
        );
        let configuration = folder.path().join("deskmilter.toml");
        fs::write(&configuration, text).unwrap();
        let listening = ["milter.sock", "auth", "transport/acme.sock"].map(|name| sockets.join(name));
        let daemon = Daemon::start(&configuration, &listening);
        postfix.resume();
        Self { postfix, daemon, service, identity, folder }
    }

    /// `deskmilter credential` with these words, which must succeed.
    pub fn credential(&self, words: &str) -> serde_json::Value {
        let output = credential(&self.configuration(), &format!("--json {words}"));
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// An issued set, once the daemon knows it.
    pub fn issue(&self, words: &str) -> Issued {
        let set = issued(&self.credential(&format!("issue {words}")));
        std::thread::sleep(std::time::Duration::from_secs(1));
        set
    }

    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("deskmilter.toml")
    }

    pub fn address(&self) -> SocketAddr {
        self.service
    }

    pub fn identity(&self) -> &TlsIdentity {
        &self.identity
    }

    /// A session of the company's mail server with the service, in the clear.
    pub fn connect(&self, ip: &str) -> SmtpSession {
        SmtpSession::connect_as(self.service, &Client::new(ip, "mx.acme.example"))
    }

    /// The same, over TLS.
    pub fn connect_over_tls(&self, ip: &str) -> SmtpSession {
        let mut session = self.connect(ip);
        session.start_tls(&self.identity);
        session
    }

    /// The same, logged in.
    pub fn login(&self, set: &Issued) -> SmtpSession {
        let mut session = self.connect_over_tls("203.0.113.25");
        let reply = session.login(&set.user, &set.password);
        assert_eq!(reply.code, 235, "{reply}\n{}", self.logs());
        session
    }

    /// Hands a message over with a login; it must be taken.
    pub fn send_as(&self, set: &Issued, to: &str, message: &[u8]) -> Vec<u8> {
        let reply = self.login(set).send("jane@customer.example", &[to], message);
        assert_eq!(reply.code, 250, "{reply}\n{}", self.logs());
        self.arrived(to)
    }

    /// Hands a message over as anybody may.
    pub fn forward(&self, to: &str, message: &[u8]) -> Reply {
        let anybody = Client::new("198.51.100.66", "forwarder.example");
        self.postfix.submit_as(&anybody, "jane@customer.example", &[to], message)
    }

    /// The same; it must be taken.
    pub fn forwarded(&self, to: &str, message: &[u8]) -> Vec<u8> {
        let reply = self.forward(to, message);
        assert_eq!(reply.code, 250, "{reply}\n{}", self.logs());
        self.arrived(to)
    }

    /// The last message in a mailbox, once all that was taken is there.
    pub fn arrived(&self, to: &str) -> Vec<u8> {
        self.postfix.wait_for_empty_queue();
        let (local, domain) = to.split_once('@').unwrap();
        let to = &format!("{}@{domain}", local.split('+').next().unwrap());
        self.postfix.mailbox(to).messages().pop().unwrap_or_else(|| panic!("nothing for {to}\n{}", self.logs()))
    }

    /// The ticket system hands a notification over; it must be taken.
    pub fn notify(&self, message: &[u8]) {
        let socket = self.postfix.queue_directory().join("deskmilter/transport/acme.sock");
        let replies = LmtpClient::connect(&socket).send(SUPPORT, &["jane@customer.example"], message);
        assert!(replies.iter().all(|reply| reply.code == 250), "{replies:?}\n{}", self.logs());
    }

    pub fn logs(&self) -> String {
        format!("{}\n{}", self.postfix.log(), self.daemon.log())
    }
}

/// A company host that takes everything.
pub fn scripted_host() -> (Runtime, Endpoint, CompanyHost) {
    let runtime = Runtime::new().unwrap();
    let endpoint = runtime.block_on(Endpoint::start(Script { passwords: vec!["s3cret-one"], ..Script::default() }));
    let host = CompanyHost {
        name: "localhost".to_owned(),
        port: endpoint.port,
        authority: endpoint.ca.clone(),
        password: "s3cret-one".to_owned(),
    };
    (runtime, endpoint, host)
}

/// The company acme.example and its customer: Postfix with deskmilter, a submission service for the ticket system, the world's
/// name server, the customer's mail server. Not running until [`Self::start`].
pub struct Company {
    pub postfix: PrivatePostfix,
    pub customer: SmtpSink,
    pub signer: Signer,
    submission: Submission,
    names: NameServer,
    daemon: Option<Daemon>,
    folder: tempfile::TempDir,
}

impl Company {
    pub fn prepare() -> Self {
        let signer = Signer::new("customer.example", "mail");
        let zone = Zone::new()
            .txt("customer.example", "v=spf1 ip4:192.0.2.10 -all")
            .txt("_dmarc.customer.example", "v=DMARC1; p=reject");
        let names = NameServer::start(&signer.publish(zone));
        let customer = SmtpSink::modern();
        let main_cf = format!(
            "smtpd_milters = {{ unix:deskmilter/milter.sock, default_action=accept }}\n\
             local_header_rewrite_clients =\nlmtp_line_length_limit = 0\n\
             transport_maps = inline:{{ {{ {SUPPORT} = lmtp:unix:deskmilter/transport/acme.sock }}, \
             {{ customer.example = smtp:[{}]:{} }} }}\n",
            customer.address().ip(),
            customer.address().port(),
        );
        let postfix = PrivatePostfix::new(&[SUPPORT, "boss@acme.example"], &main_cf, false);
        postfix.socket_folder("deskmilter");
        let submission = Submission::add(&postfix, &[DESK_LOGIN], &[]);
        Self { postfix, customer, signer, submission, names, daemon: None, folder: support::folder("company") }
    }

    /// Where the desk side submits notifications.
    pub fn host(&self) -> CompanyHost {
        CompanyHost {
            name: self.submission.address().ip().to_string(),
            port: self.submission.address().port(),
            authority: self.submission.identity().authority().to_owned(),
            password: self.submission.password(DESK_LOGIN).to_owned(),
        }
    }

    /// Starts it, with what the desk side has issued.
    pub fn start(&mut self, desk: &DeskSide, set: &Issued) {
        let at = |name: &str| self.folder.path().join(name);
        write_secret(&at("acme.password"), &set.password);
        fs::write(at("desk-ca.pem"), desk.identity().authority()).unwrap();
        let sockets = self.postfix.queue_directory().join("deskmilter");
        let text = format!(
            r#"
[log]
level = "debug"
[daemon]
hostname = "mx.acme.example"
state_directory = "state"
[milter]
listen = ["unix:{sockets}/milter.sock"]
socket_group = "postfix"
[transport]
directory = "{sockets}/transport"
socket_group = "postfix"
[authentication]
authserv_id = "mx.acme.example"
name_servers = ["{names}"]
[[connector]]
name = "acme"
system = "zammad"
domain = "acme.example"
addresses = ["{SUPPORT}"]
[connector.endpoint]
host = "{ip}"
port = {port}
ca_file = "desk-ca.pem"
credentials = [{{ username = "{user}", password_file = "acme.password" }}]
[connector.submission]
logins = [{{ name = "{DESK_LOGIN}", addresses = ["{SUPPORT}"] }}]
"#,
            sockets = sockets.display(),
            names = self.names.address(),
            ip = desk.address().ip(),
            port = desk.address().port(),
            user = set.user,
        );
        fs::write(at("deskmilter.toml"), text).unwrap();
        let listening = ["milter.sock", "transport/acme.sock"].map(|name| sockets.join(name));
        self.daemon = Some(Daemon::start(&at("deskmilter.toml"), &listening));
        self.postfix.resume();
    }

    /// jane@customer.example writes to support@, by her own server.
    pub fn write_as_jane(&self, message: &[u8]) {
        let client = Client::new("192.0.2.10", "mail.customer.example");
        let message = self.signer.sign(message);
        let reply = self.postfix.submit_as(&client, "jane@customer.example", &[SUPPORT], &message);
        assert_eq!(reply.code, 250, "{reply}\n{}", self.logs());
    }

    /// Its deskmilter's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Gives the company's deskmilter another password.
    pub fn set_password(&self, password: &str) {
        let aside = self.folder.path().join("new");
        write_secret(&aside, password);
        fs::rename(&aside, self.folder.path().join("acme.password")).unwrap();
    }

    pub fn logs(&self) -> String {
        let daemon = self.daemon.as_ref().map(Daemon::log).unwrap_or_default();
        format!("{}\n{daemon}", self.postfix.log())
    }
}

/// What the fields of a name say in a message, unfolded.
pub fn said(message: &[u8], name: &str) -> Vec<String> {
    let text = |field: Vec<u8>| {
        let text = String::from_utf8_lossy(&field).into_owned();
        let (_, value) = text.split_once(':').unwrap();
        value.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    fields(message, name).into_iter().map(text).collect()
}

/// The way that a message came and the tags of its ticket.
pub fn judged(message: &[u8]) -> (String, Vec<String>) {
    let (path, tags) = (said(message, "X-Deskmilter-Path-Auth"), said(message, "X-Deskmilter-Tags"));
    assert!(path.len() == 1 && tags.len() <= 1, "{}", String::from_utf8_lossy(message));
    (path[0].clone(), tags)
}

fn write_secret(path: &Path, secret: &str) {
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}
