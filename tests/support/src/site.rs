//! A company with everything in place: Postfix, name server, deskmilter, and a ticket endpoint beyond it.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::process::folder;
use crate::{Client, Daemon, NameServer, PrivatePostfix, SandboxEndpoint, Signer, SmtpSession, Zone, free_address};

/// The main.cf lines that a postmaster adds.
const MAIN_CF: &str = "\
smtpd_milters = { unix:deskmilter/milter.sock, default_action=accept }
non_smtpd_milters = { unix:deskmilter/milter.sock, default_action=accept }
transport_maps = inline:{ { support@acme.example = lmtp:unix:deskmilter/transport/acme.sock }, \
{ billing@acme.example = lmtp:unix:deskmilter/transport/acme.sock } }
lmtp_line_length_limit = 0
virtual_alias_maps = inline:{ { info@acme.example = support@acme.example }, { info@other.example = support@acme.example } }
";

/// acme.example: `support@` and `billing@` belong to the ticket system, `sales@` and `boss@` are people, `info@` is an alias of
/// `support@`. customer.example publishes SPF (192.0.2.10), DKIM and DMARC (`p=reject`).
#[derive(Debug)]
pub struct Site {
    /// The company's mail server. Dropped, and so stopped, first.
    pub postfix: PrivatePostfix,
    /// The daemon.
    pub daemon: Daemon,
    /// The ticket system.
    pub desk: SandboxEndpoint,
    /// The world's name server.
    pub names: NameServer,
    /// Signs as customer.example.
    pub signer: Signer,
    /// The address of an smtpd that no milter looks at.
    pub unfiltered: std::net::SocketAddr,
    folder: TempDir,
}

impl Site {
    /// Everything running.
    ///
    /// # Panics
    /// When a part does not start; shows its log.
    pub fn start() -> Self {
        Self::with("", "", "")
    }

    /// Everything running, with more in `[authentication]`, in `[connector.endpoint]` and in main.cf.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn with(authentication: &str, endpoint: &str, main_cf: &str) -> Self {
        let folder = folder("site");
        let signer = Signer::new("customer.example", "mail");
        let names = NameServer::start(&world(&signer));
        let desk = SandboxEndpoint::start("acme.example", &[]);
        let mailboxes = ["support", "billing", "sales", "boss"].map(|name| format!("{name}@acme.example"));
        let mut mailboxes: Vec<&str> = mailboxes.iter().map(String::as_str).collect();
        mailboxes.push("someone@other.example");
        let mut postfix = PrivatePostfix::new(&mailboxes, &format!("{MAIN_CF}{main_cf}"), false);
        let unfiltered = free_address();
        postfix.add_service(&format!("{unfiltered} inet n - n - - smtpd -o smtpd_milters="));

        let sockets = postfix.socket_folder("deskmilter");
        let configuration = folder.path().join("deskmilter.toml");
        let mut text = String::new();
        write!(
            text,
            r#"
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
dns_timeout = "5s"
{authentication}
[[connector]]
name = "acme"
system = "zendesk"
account = "acme"
domain = "acme.example"
addresses = ["support@acme.example", "billing@acme.example"]
[connector.endpoint]
host = "localhost"
port = {port}
ca_file = "{ca}"
credentials = [{{ username = "acme.example", password_file = "{password}" }}]
{endpoint}
"#,
            sockets = sockets.display(),
            names = names.address(),
            port = desk.address().port(),
            ca = desk.directory().join("ca.pem").display(),
            password = desk.password_file().display(),
        )
        .expect("a string takes all");
        fs::write(&configuration, text).expect("the configuration");
        let daemon = Daemon::start(&configuration, &[sockets.join("milter.sock"), sockets.join("transport/acme.sock")]);
        postfix.resume();
        crate::wait_until("the second smtpd", || postfix.log(), || std::net::TcpStream::connect(unfiltered).is_ok());
        Self { postfix, daemon, desk, names, signer, unfiltered, folder }
    }

    /// The configuration file of the daemon.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("deskmilter.toml")
    }

    /// Makes the daemon relay to another endpoint on `localhost`, whose authority is `ca`, from now on.
    ///
    /// # Panics
    /// When the daemon does not come back.
    pub fn point_at(&mut self, port: u16, ca: &str) {
        point_at(&self.configuration(), port, ca);
        self.daemon.stop();
        self.daemon.resume();
    }

    /// Puts another password into the file that deskmilter reads.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set_password(&self, password: &str) {
        set_password(&self.desk, password);
    }

    /// The honest mail server of customer.example.
    pub fn customer() -> Client {
        Client::new("192.0.2.10", "mail.customer.example")
    }

    /// Somebody's mail server that nobody knows.
    pub fn stranger() -> Client {
        Client::new("198.51.100.66", "stranger.example")
    }

    /// Hands a message to the smtpd that no milter looks at.
    pub fn submit_past_the_milter(&self, sender: &str, recipients: &[&str], message: &[u8]) -> crate::Reply {
        let mut session = SmtpSession::connect(self.unfiltered);
        session.expect(250, "EHLO localhost");
        session.send(sender, recipients, message)
    }
}

/// Another endpoint on `localhost`, whose authority is `ca`, in a daemon's configuration.
pub(crate) fn point_at(configuration: &Path, port: u16, ca: &str) {
    let authority = configuration.with_file_name("other-ca.pem");
    fs::write(&authority, ca).expect("a file for the authority");
    let text = fs::read_to_string(configuration).expect("the configuration");
    let lines = text.lines().map(|line| match line.split(" = ").next() {
        Some("port") => format!("port = {port}"),
        Some("ca_file") => format!("ca_file = {:?}", authority.display().to_string()),
        _ => line.to_owned(),
    });
    let text: Vec<String> = lines.collect();
    fs::write(configuration, text.join("\n")).expect("the configuration");
}

/// Another password in the file that the daemon reads.
pub(crate) fn set_password(desk: &SandboxEndpoint, password: &str) {
    let path = desk.password_file();
    let aside = path.with_extension("new");
    fs::write(&aside, password).expect("a password file");
    fs::set_permissions(&aside, PermissionsExt::from_mode(0o600)).expect("its mode");
    fs::rename(&aside, &path).expect("its place");
}

fn world(signer: &Signer) -> Zone {
    let zone = Zone::new()
        .txt("customer.example", "v=spf1 ip4:192.0.2.10 -all")
        .txt("_dmarc.customer.example", "v=DMARC1; p=reject")
        .txt("plain.example", "v=spf1 ip4:192.0.2.20 -all")
        .silent("silent.example");
    signer.publish(zone)
}
