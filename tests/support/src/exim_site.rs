//! A company with an Exim: the files that deskmilter ships for it, a name server, a ticket endpoint, end users' mail servers.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::exim::{PAST, USER, exim_program, give_file};
use crate::outbound_site::write_keys;
use crate::process::{folder, read};
use crate::{
    BILLING_LOGIN, Daemon, Dovecot, EMPLOYEE_LOGIN, NameServer, PrivateExim, PrivateKey, SUPPORT_LOGIN,
    SandboxEndpoint, Signer, SmtpSession, SmtpSink, Terms, TlsIdentity, Zone, deskmilter,
};

/// What differs from the ordinary.
#[derive(Debug, Clone, Default)]
pub struct EximTerms {
    /// More lines of Exim's main section.
    pub main: &'static str,
    /// More lines of the router for other hosts.
    pub router: &'static str,
    /// More lines of the transport for other hosts. `OWNKEY` stands for a DKIM key of the selector `own`.
    pub transport: &'static str,
    /// Statements of the ACL for DATA after ours.
    pub acl: &'static str,
    /// More lines of `[connector.endpoint]`. With `relay = "inline"` Exim's files are as that needs them.
    pub endpoint: String,
    /// More of deskmilter's configuration, as for a Postfix; what is about Postfix or its content filter is passed over.
    pub terms: Terms,
}

/// acme.example with an Exim: `support@` and `billing@` belong to the ticket system, `sales@` and `boss@` are people, `info@`
/// is an alias of `support@`. customer.example publishes SPF (192.0.2.10), DKIM and DMARC; the company SPF (203.0.113.25), DMARC
/// (`p=reject`), its keys `desk2026` (RSA), `ed2026` (Ed25519) and `mail2026`, and Zendesk's key.
#[derive(Debug)]
pub struct EximSite {
    /// The company's mail server. Dropped, and so stopped, first.
    pub exim: PrivateExim,
    /// The daemon.
    pub daemon: Daemon,
    /// The ticket system.
    pub desk: SandboxEndpoint,
    /// customer.example, with 8BITMIME and SMTPUTF8.
    pub customer: SmtpSink,
    /// old.example, with neither.
    pub old: SmtpSink,
    /// The world's name server.
    pub names: NameServer,
    /// Signs as customer.example.
    pub signer: Signer,
    /// Signs as Zendesk does for the company.
    pub zendesk: Signer,
    identity: TlsIdentity,
    _dovecot: Dovecot,
    folder: TempDir,
}

/// A company whose Exim and daemon are not started yet.
#[derive(Debug)]
pub struct PreparedExim {
    pub(crate) exim: PrivateExim,
    pub(crate) desk: SandboxEndpoint,
    pub(crate) names: NameServer,
    /// customer.example's mail server.
    pub(crate) customer_at: SocketAddr,
    /// The address from which mail is handed to others; empty for the system's choice.
    pub(crate) sends_from: &'static str,
    customer: SmtpSink,
    old: SmtpSink,
    signer: Signer,
    zendesk: Signer,
    folder: TempDir,
    terms: EximTerms,
}

impl EximSite {
    /// Everything running.
    ///
    /// # Panics
    /// When a part does not start; shows its log.
    pub fn start(terms: EximTerms) -> Self {
        Self::prepare(terms).start()
    }

    /// Everything but the daemon and Exim, which are not started yet.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn prepare(terms: EximTerms) -> PreparedExim {
        let folder = folder("eximsite");
        let (signer, zendesk) = (Signer::new("customer.example", "mail"), Signer::zendesk("acme.example"));
        let zone = terms.terms.records.map_or_else(|| world(&signer, &zendesk), |records| records(&zendesk));
        let names = NameServer::start(&zone);
        let desk = SandboxEndpoint::start("acme.example", &[]);
        let (customer, old) = (SmtpSink::modern(), SmtpSink::start(&[]));
        let exim = PrivateExim::new();
        write_keys(folder.path());
        let (customer_at, sends_from) = (customer.address(), "");
        PreparedExim { exim, desk, names, customer_at, sends_from, customer, old, signer, zendesk, folder, terms }
    }

    /// The folder of the company's keys: `desk2026.pem`, `ed2026.pem`, `mail2026.pem`.
    pub fn keys(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file of the daemon.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("deskmilter.toml")
    }

    /// The certificate of Exim's SMTP service.
    pub fn identity(&self) -> &TlsIdentity {
        &self.identity
    }

    /// The password of a login.
    pub fn password(login: &str) -> String {
        login.chars().rev().collect()
    }

    /// Makes the daemon relay to another endpoint on `localhost`, whose authority is `ca`, from now on.
    ///
    /// # Panics
    /// When the daemon does not come back.
    pub fn point_at(&mut self, port: u16, ca: &str) {
        crate::site::point_at(&self.configuration(), port, ca);
        self.daemon.stop();
        self.daemon.resume();
    }

    /// Puts another password into the file that deskmilter reads.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set_password(&self, password: &str) {
        crate::site::set_password(&self.desk, password);
    }

    /// A session of `client` over TLS, not logged in.
    pub fn connect_over_tls(&self, client: &crate::Client) -> SmtpSession {
        let mut session = self.exim.connect(client);
        session.start_tls(&self.identity);
        session
    }

    /// A session of `client` over TLS, logged in.
    ///
    /// # Panics
    /// When Exim refuses.
    pub fn login_as(&self, client: &crate::Client, login: &str) -> SmtpSession {
        let mut session = self.connect_over_tls(client);
        let reply = session.login(login, &Self::password(login));
        assert_eq!(reply.code, 235, "{reply}\n{}", self.logs());
        session
    }

    /// A session of the ticket system's host over TLS, logged in.
    ///
    /// # Panics
    /// As [`Self::login_as`].
    pub fn login(&self, login: &str) -> SmtpSession {
        self.login_as(&crate::OutboundSite::zendesk_host(), login)
    }

    /// A notification, signed as Zendesk signs it.
    pub fn notification(&self) -> Vec<u8> {
        self.zendesk.sign(&crate::notification().octets())
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

impl PreparedExim {
    /// Starts the daemon and then Exim.
    ///
    /// # Panics
    /// When one of them does not start; shows its log.
    pub fn start(mut self) -> EximSite {
        let words = [SUPPORT_LOGIN, BILLING_LOGIN, EMPLOYEE_LOGIN].map(|name| (name, EximSite::password(name)));
        let users: Vec<(&str, &str)> = words.iter().map(|(name, word)| (*name, word.as_str())).collect();
        let dovecot = Dovecot::start(&users, &self.folder.path().join("auth"));
        let identity = TlsIdentity::for_names(&["mx.acme.example", &self.exim.address().ip().to_string()]);
        identity.write_chain(&self.exim.at("chain.pem"));
        give_file(&self.exim.at("chain.pem"));
        PrivateKey::rsa().write(&self.exim.at("own.pem"));
        give_file(&self.exim.at("own.pem"));
        let sockets = self.folder.path().join("sockets");
        fs::create_dir(&sockets).expect("a folder for the sockets");
        let configuration = self.folder.path().join("deskmilter.toml");
        fs::write(&configuration, self.deskmilter_toml(&sockets)).expect("the configuration");
        self.write_exim_files(&sockets);
        let daemon = Daemon::start(&configuration, &[sockets.join("exim.sock"), sockets.join("acme.sock")]);
        self.exim.resume();
        EximSite {
            exim: self.exim,
            daemon,
            desk: self.desk,
            customer: self.customer,
            old: self.old,
            names: self.names,
            signer: self.signer,
            zendesk: self.zendesk,
            identity,
            _dovecot: dovecot,
            folder: self.folder,
        }
    }

    fn is_inline(&self) -> bool {
        self.terms.endpoint.contains("\"inline\"")
    }

    fn deskmilter_toml(&self, sockets: &Path) -> String {
        let Terms { submission, preserve, outbound, authentication, tables, .. } = &self.terms.terms;
        let keys = self.terms.terms.keys;
        let keys = keys.unwrap_or("[[connector.dkim]]\nselector = \"desk2026\"\nkey_file = \"desk2026.pem\"\n");
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
{authentication}
[outbound]
{outbound}
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
{endpoint}
[connector.submission]
logins = [{{ name = "{SUPPORT_LOGIN}", addresses = ["support@acme.example"] }},
          {{ name = "{BILLING_LOGIN}", addresses = ["billing@acme.example"] }}]
{submission}
[connector.preserve]
{preserve}
{keys}
{tables}
"#,
            sockets = sockets.display(),
            spool = self.exim.spool().display(),
            names = self.names.address(),
            port = self.desk.address().port(),
            ca = self.desk.directory().join("ca.pem").display(),
            password = self.desk.password_file().display(),
            endpoint = self.terms.endpoint,
        )
        .replace("KEYS", &self.folder.path().display().to_string())
    }

    /// The shipped files as they are, and a configuration of the upstream kind that includes them.
    fn write_exim_files(&self, sockets: &Path) {
        for name in ["macros", "rcpt", "acl", "transports", "auth"] {
            self.exim.write(name, &read(&shipped().join(name)));
        }
        let (keeps_copy, routers) =
            (self.terms.endpoint.contains("keep_copy = true"), read(&shipped().join("routers")));
        let of_all = routers.split_once("# One for each connector").map_or("", |(of_all, _)| of_all);
        self.exim.write("routers", if keeps_copy { of_all } else { &routers });
        let mut values = String::new();
        if self.is_inline() {
            values.push_str(&format!("DESKMILTER_PATIENCE = 130s\nDESKMILTER_INLINE = {INLINE}\n"));
        }
        if keeps_copy {
            values.push_str(&format!("DESKMILTER_UNROUTED = {INLINE}\n"));
        }
        self.exim.write("exim.conf", &self.exim_conf(sockets, &values));
    }

    /// Clients at one of the two ports tell who they are by the PROXY protocol.
    fn exim_conf(&self, sockets: &Path, values: &str) -> String {
        let EximTerms { main, router, transport, acl, .. } = &self.terms;
        let (told, plain) = (self.exim.told(), self.exim.address());
        let interface = match self.sends_from {
            "" => String::new(),
            address => format!("  interface = {address}\n"),
        };
        format!(
            r#"
DESKMILTER_SOCKET = {sockets}/exim.sock
DESKMILTER_RELAY = {sockets}
DESKMILTER_PROGRAM = {program}
DESKMILTER_LOGINS = {SUPPORT_LOGIN} : {BILLING_LOGIN}
DESKMILTER_AUTH = {auth}
{values}
.include {folder}/macros
exim_path = {exim_path}
primary_hostname = mx.acme.example
spool_directory = {folder}/spool
log_file_path = {folder}/log/%s
log_selector = +smtp_protocol_error
local_interfaces = <; [{told_ip}]:{told_port} ; [{plain_ip}]:{plain_port}
hosts_proxy = ${{if eq{{$received_port}}{{{told_port}}}{{127.0.0.0/8}}}}
notifier_socket =
keep_environment =
never_users =
trusted_users = {USER}
deliver_drop_privilege = true
host_lookup =
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
recipients_max = 0
header_maxsize = 8M
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
  .include {folder}/rcpt
  accept authenticated = *
  accept domains = +local_domains
         endpass
         verify = recipient
  accept hosts = 127.0.0.1
  deny
acl_data:
  .include {folder}/acl
{acl}
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
  local_parts = support : billing : sales : boss : someone
  local_part_suffix = +*
  local_part_suffix_optional
  transport = mailbox
everybody_else:
  driver = manualroute
  domains = customer.example : old.example
  route_list = customer.example {customer_ip}::{customer_port} ; old.example {old_ip}::{old_port}
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
{interface}{transport}
begin retry
* * F,1h,1s
begin authenticators
.include {folder}/auth
"#,
            sockets = sockets.display(),
            program = deskmilter().display(),
            auth = self.folder.path().join("auth").display(),
            exim_path = exim_program().display(),
            folder = self.exim.at("").display().to_string().trim_end_matches('/'),
            told_ip = told.ip(),
            told_port = told.port(),
            plain_ip = plain.ip(),
            plain_port = plain.port(),
            customer_ip = self.customer_at.ip(),
            customer_port = self.customer_at.port(),
            old_ip = self.old.address().ip(),
            old_port = self.old.address().port(),
        )
        .replace("OWNKEY", &self.exim.at("own.pem").display().to_string())
    }
}

/// The support addresses as `deskmilter exim` writes them for inline relay.
const INLINE: &str = r"\N^(support|billing)(\+.*)?@acme\.example$\N";

/// The files for Exim that deskmilter ships.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../exim")
}

fn world(signer: &Signer, zendesk: &Signer) -> Zone {
    let zone = Zone::new()
        .txt("customer.example", "v=spf1 ip4:192.0.2.10 -all")
        .txt("_dmarc.customer.example", "v=DMARC1; p=reject")
        .txt("plain.example", "v=spf1 ip4:192.0.2.20 -all")
        .txt("acme.example", "v=spf1 ip4:203.0.113.25 -all")
        .txt("_dmarc.acme.example", "v=DMARC1; p=reject")
        .txt("desk2026._domainkey.acme.example", PrivateKey::rsa().record())
        .txt("ed2026._domainkey.acme.example", PrivateKey::ed25519().record())
        .txt("mail2026._domainkey.acme.example", PrivateKey::rsa().record())
        .txt("own._domainkey.acme.example", PrivateKey::rsa().record())
        .silent("silent.example");
    zendesk.publish(signer.publish(zone))
}
