//! The whole circle: the end user's mail server, the company's, and the ticket system, each real; mail goes round in both
//! directions, and the end user's provider says what it sees.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Process, folder};
use crate::{
    Company, Daemon, EximSite, EximTerms, Message, Mta, OutboundSite, PrivateKey, PrivatePostfix, Ran, SUPPORT_LOGIN,
    SandboxEndpoint, Signer, Terms, Zone, deskmilter, free_address,
};

/// The address from which the company's server hands mail to others, as its SPF record has it. A loopback address of its own, so
/// that SPF has something to judge although all servers are on one host.
pub const COMPANY: &str = "127.0.0.25";

/// A company as for notifications, and customer.example with a Postfix of its own, at which the sandbox's provider judges.
#[derive(Debug)]
pub struct Circle {
    /// jane@customer.example's mail server.
    pub end_user: PrivatePostfix,
    /// The company and the ticket system.
    pub company: Company,
    /// Signs as customer.example.
    pub signer: Signer,
    /// The ticket system's transport: submits to the company host what it gets by LMTP.
    pub transport: Daemon,
    provider: Process,
    folder: TempDir,
}

/// acme.example publishes [`COMPANY`], DMARC, its key `desk2026` and Zendesk's; customer.example its own key and DMARC.
pub fn circle_records(zendesk: &Signer) -> Zone {
    let zone = Zone::new()
        .txt("acme.example", &format!("v=spf1 ip4:{COMPANY} -all"))
        .txt("_dmarc.acme.example", "v=DMARC1; p=reject")
        .txt("desk2026._domainkey.acme.example", PrivateKey::rsa().record())
        .txt("_dmarc.customer.example", "v=DMARC1; p=reject");
    signer().publish(zendesk.publish(zone))
}

fn signer() -> Signer {
    Signer::new("customer.example", "mail")
}

impl Circle {
    /// Everything running, the company with a Postfix.
    ///
    /// # Panics
    /// When a part does not start; shows its log.
    pub fn start(terms: &Terms) -> Self {
        Self::with(Mta::Postfix, terms)
    }

    /// Everything running.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn with(mta: Mta, terms: &Terms) -> Self {
        let folder = folder("circle");
        let terms = Terms { records: Some(terms.records.unwrap_or(circle_records)), ..terms.clone() };
        let (company, end_user, provider) = match mta {
            Mta::Postfix => with_postfix(&terms, &folder),
            Mta::Exim => with_exim(&terms, &folder),
        };
        company.zendesk().write_key(&folder.path().join("zendesk2.pem"));
        let password = folder.path().join("submission.password");
        fs::write(&password, company.password(SUPPORT_LOGIN)).expect("a password file");
        fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).expect("its mode");
        let (host, identity) = company.submission();
        fs::write(folder.path().join("company-ca.pem"), identity.authority()).expect("a PEM file");
        let configuration = folder.path().join("transport.toml");
        fs::write(&configuration, transport_toml(host, &folder)).expect("the configuration");
        let transport = Daemon::start(&configuration, &[folder.path().join("transport/acme.sock")]);
        Self { end_user, company, signer: signer(), transport, provider, folder }
    }

    /// Arguments that name the transport's socket.
    pub fn transport(&self) -> Vec<String> {
        let socket = self.folder.path().join("transport/acme.sock");
        ["--transport".to_owned(), socket.display().to_string()].to_vec()
    }

    /// The ticket system.
    pub fn desk(&self) -> &SandboxEndpoint {
        self.company.desk()
    }

    /// Arguments that name the company host and the credentials for support@acme.example.
    pub fn host(&self) -> Vec<String> {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let (host, password, ca) =
            (self.company.submission().0.to_string(), at("submission.password"), at("company-ca.pem"));
        let arguments = ["--host", &host, "--username", SUPPORT_LOGIN, "--password-file", &password, "--ca-file", &ca];
        arguments.map(str::to_owned).to_vec()
    }

    /// The ticket system's own DKIM key.
    pub fn zendesk_key(&self) -> PathBuf {
        self.folder.path().join("zendesk2.pem")
    }

    /// Jane writes to support@acme.example, by her own server; returns when her message has become a ticket.
    ///
    /// # Panics
    /// When it does not; shows the logs.
    pub fn write_as_jane(&self, subject: &str) -> Message {
        let before = self.desk().tickets().len();
        let message = Message::new("Jane <jane@customer.example>", "support@acme.example", subject);
        let octets = self.signer.sign(&message.octets());
        self.end_user.submit_by_sendmail("jane@customer.example", &["support@acme.example"], &octets);
        crate::wait_until("Jane's ticket", || self.logs(), || self.desk().tickets().len() > before);
        message
    }

    /// Answers a ticket through transport and company, signed by the ticket system too, and waits for the report on it.
    pub fn notify_and_report(&self, ticket: u64) -> (Ran, Ran) {
        let (ticket, key) = (ticket.to_string(), self.zendesk_key().display().to_string());
        let mut arguments = self.transport();
        arguments.extend([&ticket, "--sign-key", &key].map(str::to_owned));
        (self.desk().run("notify", &arguments), self.desk().run("report", &[&ticket, "--wait", "20"]))
    }

    /// The logs of all.
    pub fn logs(&self) -> String {
        let parts =
            [self.end_user.log(), self.company.logs(), self.desk().log(), self.provider.log(), self.transport.log()];
        parts.join("\n")
    }
}

fn with_postfix(terms: &Terms, folder: &TempDir) -> (Company, PrivatePostfix, Process) {
    let prepared = OutboundSite::prepare(terms);
    let milter = free_address();
    let provider = start_provider(&prepared.desk, prepared.names.address(), milter, folder);
    let end_user = end_user(milter, prepared.postfix.address());
    prepared.postfix.configure(&format!(
        "smtp_bind_address = {COMPANY}\n\
         transport_maps = inline:{{ {{ support@acme.example = lmtp:unix:deskmilter/transport/acme.sock }}, \
         {{ billing@acme.example = lmtp:unix:deskmilter/transport/acme.sock }}, \
         {{ customer.example = {} }} }}\n{}",
        next_hop(end_user.address()),
        terms.main_cf
    ));
    (prepared.start().into(), end_user, provider)
}

fn with_exim(terms: &Terms, folder: &TempDir) -> (Company, PrivatePostfix, Process) {
    let mut prepared = EximSite::prepare(EximTerms { terms: terms.clone(), ..EximTerms::default() });
    let milter = free_address();
    let provider = start_provider(&prepared.desk, prepared.names.address(), milter, folder);
    let end_user = end_user(milter, prepared.exim.address());
    (prepared.customer_at, prepared.sends_from) = (end_user.address(), COMPANY);
    (prepared.start().into(), end_user, provider)
}

/// customer.example's Postfix, at which a provider judges by its milter.
fn end_user(milter: SocketAddr, company: SocketAddr) -> PrivatePostfix {
    PrivatePostfix::start(
        &["jane@customer.example"],
        &format!(
            "myhostname = mx.customer.example\nlocal_header_rewrite_clients =\n\
             transport_maps = inline:{{ {{ acme.example = {} }} }}\n\
             smtpd_milters = {{ inet:{}:{}, default_action=tempfail }}\n",
            next_hop(company),
            milter.ip(),
            milter.port(),
        ),
    )
}

fn start_provider(desk: &SandboxEndpoint, names: SocketAddr, milter: SocketAddr, folder: &TempDir) -> Process {
    let mut command = Command::new(deskmilter());
    command.args(["sandbox", "provider", "--hostname", "mx.customer.example", "--directory"]).arg(desk.directory());
    command.args(["--milter", &format!("inet:{}:{}", milter.ip(), milter.port())]);
    command.args(["--name-server", &names.to_string()]);
    let mut process = Process::start("deskmilter sandbox provider", &mut command, &folder.path().join("provider.log"));
    process.wait_until("an open port", || std::net::TcpStream::connect(milter).is_ok());
    process
}

fn transport_toml(host: SocketAddr, folder: &TempDir) -> String {
    format!(
        r#"
[daemon]
hostname = "mta-out.desk.example"
state_directory = "transport-state"
[transport]
directory = "{folder}/transport"
[[connector]]
name = "acme"
system = "zendesk"
account = "acme"
domain = "acme.example"
addresses = ["support@acme.example"]
[connector.host]
host = "{ip}"
port = {port}
ca_file = "company-ca.pem"
credentials = [{{ address = "support@acme.example", username = "{SUPPORT_LOGIN}", password_file = "submission.password" }}]
"#,
        folder = folder.path().display(),
        ip = host.ip(),
        port = host.port(),
    )
}

fn next_hop(address: SocketAddr) -> String {
    format!("smtp:[{}]:{}", address.ip(), address.port())
}
