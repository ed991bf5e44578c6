//! An Exim 4.96 of the test's own, run from where `tests/peers/install.sh` unpacked it, and a company around it: the files
//! that deskmilter ships for Exim, a name server, a ticket endpoint, an end user's mail server.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::User;
use tempfile::TempDir;

use crate::postfix::peers;
use crate::process::{Process, folder, read};
use crate::{
    BILLING_LOGIN, Client, Daemon, Dovecot, EMPLOYEE_LOGIN, NameServer, PrivateKey, Reply, SUPPORT_LOGIN,
    SandboxEndpoint, Signer, SmtpSession, SmtpSink, TlsIdentity, Zone, deskmilter, free_address, wait_until,
};

/// The user that Debian's package makes.
const USER: &str = "Debian-exim";
/// A client that greets by this name is judged by nobody.
const PAST: &str = "past.acme.example";

/// What differs from the ordinary.
#[derive(Debug, Clone, Copy, Default)]
pub struct EximTerms {
    /// More lines of Exim's main section.
    pub main: &'static str,
    /// More lines of the router for other hosts.
    pub router: &'static str,
    /// More lines of the transport for other hosts. `OWNKEY` stands for a DKIM key of the selector `own`.
    pub transport: &'static str,
    /// More of deskmilter's configuration, at its end.
    pub tables: &'static str,
}

/// A private Exim. Ends, with all its files, when dropped.
#[derive(Debug)]
pub struct PrivateExim {
    process: Option<Process>,
    address: SocketAddr,
    folder: TempDir,
}

impl PrivateExim {
    /// A folder for one, not started yet.
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a private Exim must be started as root");
        let folder = folder("exim");
        for name in ["spool", "mail", "log"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("a folder of our own");
            give(&path);
        }
        Self { process: None, address: free_address(), folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of its configuration.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("a file of Exim's configuration");
        give_file(&self.at(name));
    }

    /// Exim's program with the configuration, as Exim's user.
    pub fn command(&self) -> Command {
        let program = exim_program();
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        command.arg(program).arg("-C").arg(self.at("exim.conf")).current_dir("/");
        command
    }

    /// Starts it, or starts it again.
    ///
    /// # Panics
    /// When it does not start; shows its log.
    pub fn resume(&mut self) {
        let mut command = self.command();
        command.arg("-oP").arg(self.at("spool/pid")).args(["-bdf", "-q1s"]);
        let mut process = Process::start("Exim", &mut command, &self.at("log/printed"));
        let address = self.address;
        process.wait_until("an open port", || std::net::TcpStream::connect(address).is_ok());
        self.process = Some(process);
    }

    /// A session of `client`, greeted.
    pub fn connect(&self, client: &Client) -> SmtpSession {
        let mut session = SmtpSession::connect_through(self.address, client);
        session.expect(250, &format!("EHLO {}", client.helo));
        session
    }

    /// Hands over a message by SMTP.
    pub fn submit_as(&self, client: &Client, sender: &str, recipients: &[&str], message: &[u8]) -> Reply {
        self.connect(client).send(sender, recipients, message)
    }

    /// As [`Self::submit_as`], where no ACL asks deskmilter.
    pub fn submit_past_the_acl(&self, client: &Client, sender: &str, to: &[&str], message: &[u8]) -> Reply {
        self.connect(&Client { helo: PAST.to_owned(), ..client.clone() }).send(sender, to, message)
    }

    /// Hands over a message by sendmail(1).
    ///
    /// # Panics
    /// When it is not taken.
    pub fn submit_by_sendmail(&self, sender: &str, recipients: &[&str], message: &[u8]) {
        let mut child =
            self.command().args(["-i", "-f", sender]).args(recipients).stdin(Stdio::piped()).spawn().expect("Exim");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), message).expect("writing to Exim");
        let status = child.wait().expect("Exim's end");
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// The messages in a mailbox.
    pub fn mailbox(&self, address: &str) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(self.at("mail").join(address).join("new")).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.sort();
        paths.iter().filter_map(|path| fs::read(path).ok()).collect()
    }

    /// Waits until a mailbox has `count` messages.
    ///
    /// # Panics
    /// When it has not in time.
    pub fn wait_for_mail(&self, address: &str, count: usize) -> Vec<Vec<u8>> {
        self.wait_for(&format!("{count} messages for {address}"), || self.mailbox(address).len() >= count);
        self.mailbox(address)
    }

    /// Ids of the messages in the queue.
    pub fn queue(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("spool/input")).into_iter().flatten().filter_map(Result::ok);
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_suffix("-H").map(str::to_owned)).collect()
    }

    /// Waits until the queue is empty.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn wait_for_empty_queue(&self) {
        self.wait_for("an empty queue", || self.queue().is_empty());
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When it does not in time; shows the log.
    pub fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_until(what, || self.log(), condition);
    }

    /// What it logged and printed.
    pub fn log(&self) -> String {
        ["main", "reject", "panic", "printed"].map(|name| read(&self.at("log").join(name))).concat()
    }

    /// Its spool directory.
    pub fn spool(&self) -> PathBuf {
        self.at("spool")
    }
}

/// acme.example with an Exim: `support@` and `billing@` belong to the ticket system, `sales@` and `boss@` are people, `info@`
/// is an alias of `support@`. customer.example publishes SPF (192.0.2.10), DKIM and DMARC, the company its key `desk2026`.
#[derive(Debug)]
pub struct EximSite {
    /// The company's mail server. Dropped, and so stopped, first.
    pub exim: PrivateExim,
    /// The daemon.
    pub daemon: Daemon,
    /// The ticket system.
    pub desk: SandboxEndpoint,
    /// The end user's mail server.
    pub customer: SmtpSink,
    /// The world's name server.
    pub names: NameServer,
    /// Signs as customer.example.
    pub signer: Signer,
    /// Signs as Zendesk does for the company.
    pub zendesk: Signer,
    identity: TlsIdentity,
    _dovecot: Dovecot,
    _folder: TempDir,
}

impl EximSite {
    /// Everything running.
    ///
    /// # Panics
    /// When a part does not start; shows its log.
    pub fn start(terms: EximTerms) -> Self {
        let folder = folder("eximsite");
        let (signer, zendesk) = (Signer::new("customer.example", "mail"), Signer::zendesk("acme.example"));
        let names = NameServer::start(&world(&signer, &zendesk));
        let desk = SandboxEndpoint::start("acme.example", &[]);
        let customer = SmtpSink::modern();
        let mut exim = PrivateExim::new();
        let words = [SUPPORT_LOGIN, BILLING_LOGIN, EMPLOYEE_LOGIN].map(|name| (name, reversed(name)));
        let users: Vec<(&str, &str)> = words.iter().map(|(name, word)| (*name, word.as_str())).collect();
        let auth = folder.path().join("auth");
        let dovecot = Dovecot::start(&users, &auth);
        let identity = TlsIdentity::new("mx.acme.example");
        identity.write_chain(&exim.at("chain.pem"));
        give_file(&exim.at("chain.pem"));
        PrivateKey::rsa().write(&exim.at("own.pem"));
        give_file(&exim.at("own.pem"));
        PrivateKey::rsa().write(&folder.path().join("desk2026.pem"));
        let sockets = folder.path().join("sockets");
        fs::create_dir(&sockets).expect("a folder for the sockets");
        let configuration = folder.path().join("deskmilter.toml");
        let text = deskmilter_toml(&sockets, &exim, &names, &desk) + terms.tables;
        fs::write(&configuration, text).expect("the configuration");
        for name in ["macros", "acl", "routers", "transports", "auth"] {
            exim.write(name, &read(&shipped().join(name)));
        }
        exim.write("exim.conf", &exim_conf(&exim, &sockets, &auth, &customer, &terms));
        let daemon = Daemon::start(&configuration, &[sockets.join("exim.sock"), sockets.join("acme.sock")]);
        exim.resume();
        Self { exim, daemon, desk, customer, names, signer, zendesk, identity, _dovecot: dovecot, _folder: folder }
    }

    /// A session of the ticket system's host over TLS, logged in.
    ///
    /// # Panics
    /// When Exim refuses.
    pub fn login(&self, login: &str) -> SmtpSession {
        let mut session = self.connect_over_tls(&crate::OutboundSite::zendesk_host());
        let reply = session.login(login, &reversed(login));
        assert_eq!(reply.code, 235, "{reply}\n{}", self.logs());
        session
    }

    /// A notification, signed as Zendesk signs it.
    pub fn notification(&self) -> Vec<u8> {
        self.zendesk.sign(&crate::notification().octets())
    }

    /// A session of a client over TLS, not logged in.
    pub fn connect_over_tls(&self, client: &Client) -> SmtpSession {
        let mut session = self.exim.connect(client);
        session.start_tls(&self.identity);
        session
    }

    /// Submits a message to jane@customer.example as the ticket system does, and returns it as her server got it.
    ///
    /// # Panics
    /// When it is not taken, or does not arrive.
    pub fn deliver(&self, message: &[u8]) -> Vec<u8> {
        let before = self.customer.transactions().len();
        let reply = self.login(SUPPORT_LOGIN).send("support@acme.example", &["jane@customer.example"], message);
        assert_eq!(reply.code, 250, "{reply}\n{}", self.logs());
        self.customer.wait_for(before + 1, || self.logs()).pop().expect("at least one").message
    }

    /// The logs of Exim and deskmilter.
    pub fn logs(&self) -> String {
        format!("{}\n{}", self.exim.log(), self.daemon.log())
    }
}

fn reversed(name: &str) -> String {
    name.chars().rev().collect()
}

/// Where Exim's program is.
///
/// # Panics
/// When it is not unpacked.
pub fn exim_program() -> PathBuf {
    let program = peers().join("exim/usr/sbin/exim4");
    assert!(program.is_file(), "{program:?} is missing; run tests/peers/install.sh");
    program
}

/// The files for Exim that deskmilter ships.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../exim")
}

fn give(path: &Path) {
    let user = User::from_name(USER).expect("users").unwrap_or_else(|| panic!("no {USER}; run tests/peers/install.sh"));
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("an owner");
}

fn give_file(path: &Path) {
    give(path);
    fs::set_permissions(path, PermissionsExt::from_mode(0o640)).expect("a mode");
}

fn world(signer: &Signer, zendesk: &Signer) -> Zone {
    let zone = Zone::new()
        .txt("customer.example", "v=spf1 ip4:192.0.2.10 -all")
        .txt("_dmarc.customer.example", "v=DMARC1; p=reject")
        .txt("plain.example", "v=spf1 ip4:192.0.2.20 -all")
        .txt("acme.example", "v=spf1 ip4:203.0.113.25 -all")
        .txt("_dmarc.acme.example", "v=DMARC1; p=reject")
        .txt("desk2026._domainkey.acme.example", PrivateKey::rsa().record())
        .txt("own._domainkey.acme.example", PrivateKey::rsa().record())
        .silent("silent.example");
    zendesk.publish(signer.publish(zone))
}

fn deskmilter_toml(sockets: &Path, exim: &PrivateExim, names: &NameServer, desk: &SandboxEndpoint) -> String {
    format!(
        r#"
[daemon]
hostname = "mx.acme.example"
state_directory = "state"
[exim]
listen = ["unix:{sockets}/exim.sock"]
socket_group = "{USER}"
spool_directory = "{spool}"
[transport]
directory = "{sockets}"
socket_group = "{USER}"
[authentication]
authserv_id = "mx.acme.example"
name_servers = ["{names}"]
dns_timeout = "5s"
[[connector]]
name = "acme"
system = "zendesk"
account = "acme"
domain = "acme.example"
recipient_delimiter = "+"
addresses = ["support@acme.example", "billing@acme.example"]
[connector.endpoint]
host = "localhost"
port = {port}
ca_file = "{ca}"
credentials = [{{ username = "acme.example", password_file = "{password}" }}]
[connector.submission]
logins = [{{ name = "{SUPPORT_LOGIN}", addresses = ["support@acme.example"] }},
          {{ name = "{BILLING_LOGIN}", addresses = ["billing@acme.example"] }}]
[[connector.dkim]]
selector = "desk2026"
key_file = "desk2026.pem"
"#,
        sockets = sockets.display(),
        spool = exim.spool().display(),
        names = names.address(),
        port = desk.address().port(),
        ca = desk.directory().join("ca.pem").display(),
        password = desk.password_file().display(),
    )
}

/// A configuration of the upstream kind, the shipped files included. Clients tell who they are by the PROXY protocol.
fn exim_conf(exim: &PrivateExim, sockets: &Path, auth: &Path, customer: &SmtpSink, terms: &EximTerms) -> String {
    let own_key = exim.at("own.pem").display().to_string();
    let EximTerms { main, router, transport, .. } = terms;
    let folder = exim.folder.path().display();
    format!(
        r#"
DESKMILTER_SOCKET = {sockets}/exim.sock
DESKMILTER_RELAY = {sockets}
DESKMILTER_PROGRAM = {program}
DESKMILTER_LOGINS = {SUPPORT_LOGIN} : {BILLING_LOGIN}
DESKMILTER_AUTH = {auth}
.include {folder}/macros
exim_path = {exim_path}
primary_hostname = mx.acme.example
spool_directory = {folder}/spool
log_file_path = {folder}/log/%s
log_selector = +smtp_protocol_error
local_interfaces = {ip}
daemon_smtp_ports = {port}
hosts_proxy = 127.0.0.0/8
notifier_socket =
keep_environment =
never_users =
trusted_users = {USER}
deliver_drop_privilege = true
host_lookup =
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
tls_advertise_hosts = *
tls_certificate = {folder}/chain.pem
domainlist local_domains = acme.example : other.example
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = ${{if eq{{$sender_helo_name}}{{{PAST}}}{{acl_past}}{{acl_data}}}}
acl_not_smtp = acl_data
{main}
begin acl
acl_past:
  accept
acl_rcpt:
  accept authenticated = *
  accept domains = +local_domains
         endpass
         verify = recipient
  accept hosts = 127.0.0.1
  deny
acl_data:
  .include {folder}/acl
  accept
begin routers
.include {folder}/routers
aliases:
  driver = redirect
  domains = +local_domains
  data = ${{if eq{{$local_part}}{{info}}{{support@acme.example}}}}
people:
  driver = accept
  domains = +local_domains
  local_parts = support : billing : sales : boss
  transport = mailbox
everybody_else:
  driver = manualroute
  domains = customer.example
  route_list = * {customer_ip}::{customer_port}
  self = send
  transport = remote_smtp
{router}
begin transports
.include {folder}/transports
mailbox:
  driver = appendfile
  directory = {folder}/mail/$local_part_data@$domain_data
  maildir_format
  user = {USER}
remote_smtp:
  driver = smtp
  allow_localhost
  transport_filter = DESKMILTER_LAST_HOP
{transport}
begin retry
* * F,1h,1s
begin authenticators
.include {folder}/auth
"#,
        sockets = sockets.display(),
        program = deskmilter().display(),
        auth = auth.display(),
        exim_path = exim_program().display(),
        ip = exim.address.ip(),
        port = exim.address.port(),
        customer_ip = customer.address().ip(),
        customer_port = customer.address().port(),
    )
    .replace("OWNKEY", &own_key)
}
