//! A company whose ticket system submits notifications: Postfix with a submission service, deskmilter, a content filter if
//! asked for, and the end user's mail server beyond it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::folder;
use crate::{
    Client, ContentFilter, Daemon, NameServer, PrivateKey, PrivatePostfix, Reply, SandboxEndpoint, Signer, SmtpSession,
    SmtpSink, Submission, Transaction, Zone, deskmilter, free_address, write_settled,
};

/// The login that the ticket system has for support@acme.example.
pub const SUPPORT_LOGIN: &str = "zendesk-support";
/// The login that it has for billing@acme.example.
pub const BILLING_LOGIN: &str = "zendesk-billing";
/// The login of an employee.
pub const EMPLOYEE_LOGIN: &str = "boss";

/// What differs from the ordinary: each is lines of TOML for the table it is named after, or a setting of the site.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// `[connector.submission]`.
    pub submission: &'static str,
    /// `[connector.preserve]`.
    pub preserve: &'static str,
    /// `[[connector.dkim]]` tables and more, in place of the one key `desk2026`. `KEYS` stands for the keys' folder.
    pub keys: Option<&'static str>,
    /// `[outbound]`.
    pub outbound: &'static str,
    /// `[authentication]`.
    pub authentication: &'static str,
    /// Whole tables at the end. `KEYS` stands for the keys' folder.
    pub tables: &'static str,
    /// What stands between two passes of the milter.
    pub filter: Filter,
    /// More `name=value` settings of the submission service.
    pub service: &'static [&'static str],
    /// More lines of main.cf.
    pub main_cf: &'static str,
    /// The world's records in place of the ordinary ones; the signer is Zendesk's.
    pub records: Option<fn(&Signer) -> Zone>,
}

/// What stands between two passes of the milter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Filter {
    /// Nothing: there is one pass.
    #[default]
    None,
    /// A [`ContentFilter`].
    Real,
    /// A sink ([`OutboundSite::between`]): the test itself hands back ([`OutboundSite::hand_back`]).
    Test,
}

/// acme.example: `support@` and `billing@` belong to the ticket system, `sales@` and `boss@` are people. The company publishes
/// SPF (203.0.113.25), DMARC (`p=reject`), its keys `desk2026` (RSA), `ed2026` (Ed25519) and `mail2026`, and Zendesk's key.
#[derive(Debug)]
pub struct OutboundSite {
    /// The company's mail server. Dropped, and so stopped, first.
    pub postfix: PrivatePostfix,
    /// Its submission service.
    pub submission: Submission,
    /// The daemon.
    pub daemon: Daemon,
    /// The ticket system's inbound side.
    pub desk: SandboxEndpoint,
    /// The world's name server.
    pub names: NameServer,
    /// customer.example, with 8BITMIME and SMTPUTF8.
    pub customer: SmtpSink,
    /// old.example, with neither.
    pub old: SmtpSink,
    /// Signs as Zendesk does for the company.
    pub zendesk: Signer,
    /// What came out of the first pass, with [`Filter::Test`].
    pub between: SmtpSink,
    /// The second pass, with a [`Filter`].
    pub second_pass: SocketAddr,
    _filter: Option<ContentFilter>,
    folder: TempDir,
}

impl OutboundSite {
    /// Everything running.
    ///
    /// # Panics
    /// When a part does not start; shows its log.
    pub fn start(terms: &Terms) -> Self {
        Self::prepare(terms).start()
    }

    /// Everything but the daemon and Postfix, which are not started yet.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn prepare(terms: &Terms) -> PreparedSite {
        let folder = folder("outbound");
        let zendesk = Signer::zendesk("acme.example");
        let names = NameServer::start(&terms.records.unwrap_or(world)(&zendesk));
        let desk = SandboxEndpoint::start("acme.example", &[]);
        let (customer, old) = (SmtpSink::modern(), SmtpSink::start(&[]));
        let main_cf = format!("{}{}\n", main_cf(&customer, &old), terms.main_cf);
        let mailboxes = ["support", "billing", "sales", "boss"].map(|name| format!("{name}@acme.example"));
        let mailboxes: Vec<&str> = mailboxes.iter().map(String::as_str).collect();
        let postfix = PrivatePostfix::new(&mailboxes, &main_cf, false);
        postfix.socket_folder("deskmilter");
        let mut settings: Vec<String> = terms.service.iter().map(|&setting| setting.to_owned()).collect();
        let (between, second_pass) = (SmtpSink::modern(), free_address());
        let filter = (terms.filter == Filter::Real).then(|| ContentFilter::start(second_pass));
        if terms.filter != Filter::None {
            postfix.add_service(&format!(
                "{second_pass} inet n - n - - smtpd\n  -o content_filter=\n  -o smtpd_sasl_auth_enable=no\n\
                 \x20 -o receive_override_options=no_unknown_recipient_checks\n\
                 \x20 -o {{ smtpd_milters = {{ unix:deskmilter/milter.sock, default_action=tempfail }} }}",
            ));
            let next = filter.as_ref().map_or(between.address(), ContentFilter::address);
            settings.push(format!("content_filter=smtp:[{}]:{}", next.ip(), next.port()));
        }
        let logins = [SUPPORT_LOGIN, BILLING_LOGIN, EMPLOYEE_LOGIN];
        let submission = Submission::add(&postfix, &logins, &settings);
        write_keys(folder.path());
        let configuration = folder.path().join("deskmilter.toml");
        fs::write(&configuration, deskmilter_toml(terms, &postfix, &names, &desk, folder.path()))
            .expect("the configuration");
        PreparedSite {
            postfix,
            submission,
            desk,
            names,
            customer,
            old,
            zendesk,
            between,
            second_pass,
            filter,
            configuration,
            folder,
        }
    }

    /// The folder of the company's keys: `desk2026.pem`, `ed2026.pem`, `mail2026.pem`.
    pub fn keys(&self) -> &Path {
        self.folder.path()
    }

    /// One of the ticket system's hosts.
    pub fn zendesk_host() -> Client {
        Client::new("216.198.3.4", "mta-out1.pod17.euw1.zdsys.com")
    }

    /// A notification of support@acme.example to jane@customer.example, signed as Zendesk signs it.
    pub fn notification(&self) -> Vec<u8> {
        self.zendesk.sign(&notification().octets())
    }

    /// Submits a message for support@acme.example as the ticket system does.
    pub fn submit(&self, to: &[&str], message: &[u8]) -> Reply {
        self.submit_as(SUPPORT_LOGIN, "support@acme.example", to, message)
    }

    /// Submits a message from the ticket system's host with another login or sender.
    pub fn submit_as(&self, login: &str, sender: &str, to: &[&str], message: &[u8]) -> Reply {
        self.submission.submit(&Self::zendesk_host(), login, sender, to, message)
    }

    /// Submits a message to jane@customer.example and returns it as her server got it.
    ///
    /// # Panics
    /// When it is not taken, or does not arrive.
    pub fn deliver(&self, message: &[u8]) -> Vec<u8> {
        let before = self.customer.transactions().len();
        let reply = self.submit(&["jane@customer.example"], message);
        assert_eq!(reply.code, 250, "{reply}\n{}", self.logs());
        self.delivered(before + 1).message
    }

    /// Hands a message to the second pass as a content filter on this host does.
    pub fn hand_back(&self, sender: &str, to: &[&str], message: &[u8]) -> Reply {
        let mut session = SmtpSession::connect(self.second_pass);
        session.expect(250, "EHLO filter.acme.example");
        session.send(sender, to, message)
    }

    /// The last of `count` messages that reached customer.example.
    ///
    /// # Panics
    /// When there are not as many in time.
    pub fn delivered(&self, count: usize) -> Transaction {
        self.customer.wait_for(count, || self.logs()).pop().expect("at least one")
    }

    /// The logs of Postfix and deskmilter.
    pub fn logs(&self) -> String {
        format!("{}\n{}", self.postfix.log(), self.daemon.log())
    }
}

/// A site whose daemon and Postfix are not started yet.
#[derive(Debug)]
pub struct PreparedSite {
    pub(crate) postfix: PrivatePostfix,
    submission: Submission,
    pub(crate) desk: SandboxEndpoint,
    pub(crate) names: NameServer,
    customer: SmtpSink,
    old: SmtpSink,
    zendesk: Signer,
    between: SmtpSink,
    second_pass: SocketAddr,
    filter: Option<ContentFilter>,
    /// The daemon's configuration file.
    pub configuration: PathBuf,
    folder: TempDir,
}

impl PreparedSite {
    /// The folder of the company's keys.
    pub fn keys(&self) -> &Path {
        self.folder.path()
    }

    /// Has the ticket endpoint fail, by further command-line arguments.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn desk_faults(&mut self, arguments: &[&str]) {
        self.desk.restart_with(arguments);
    }

    /// Lets deskmilter write into main.cf what it needs: `deskmilter postfix --apply`.
    ///
    /// # Panics
    /// When it does not succeed.
    #[must_use]
    pub fn apply(self) -> Self {
        let directory = self.postfix.configuration();
        let mut command = Command::new(deskmilter());
        command.args(["postfix", "--apply", "--config-directory"]).arg(&directory).arg("-c").arg(&self.configuration);
        let output = command.output().expect("deskmilter runs");
        assert!(output.status.success(), "{output:?}");
        let main_cf = directory.join("main.cf");
        write_settled(&main_cf, &fs::read_to_string(&main_cf).expect("main.cf"));
        self
    }

    /// Starts the daemon and then Postfix.
    ///
    /// # Panics
    /// When one of them does not start; shows its log.
    pub fn start(mut self) -> OutboundSite {
        let sockets = self.postfix.queue_directory().join("deskmilter");
        let daemon =
            Daemon::start(&self.configuration, &[sockets.join("milter.sock"), sockets.join("transport/acme.sock")]);
        self.postfix.resume();
        OutboundSite {
            postfix: self.postfix,
            submission: self.submission,
            daemon,
            desk: self.desk,
            names: self.names,
            customer: self.customer,
            old: self.old,
            zendesk: self.zendesk,
            between: self.between,
            second_pass: self.second_pass,
            _filter: self.filter,
            folder: self.folder,
        }
    }
}

/// A notification of support@acme.example to jane@customer.example, not signed.
pub fn notification() -> crate::Message {
    let body = "##- Please type your reply above this line -##\r\n\r\nYour request (4711) has been updated.\r\n";
    crate::Message::zendesk_notification(
        "Acme Support <support@acme.example>",
        "Jane <jane@customer.example>",
        "[Acme] Re: Order 4711",
    )
    .body(body)
}

/// Postfix decides at the greeting whether it completes a client's header section, before XCLIENT says who the client is: it is
/// told to complete nobody's, as it does for clients elsewhere.
fn main_cf(customer: &SmtpSink, old: &SmtpSink) -> String {
    format!(
        "smtpd_milters = {{ unix:deskmilter/milter.sock, default_action=accept }}\n\
         non_smtpd_milters = {{ unix:deskmilter/milter.sock, default_action=accept }}\n\
         lmtp_line_length_limit = 0\n\
         local_header_rewrite_clients =\n\
         transport_maps = inline:{{ {{ support@acme.example = lmtp:unix:deskmilter/transport/acme.sock }}, \
         {{ billing@acme.example = lmtp:unix:deskmilter/transport/acme.sock }}, \
         {{ customer.example = smtp:[{}]:{} }}, {{ old.example = smtp:[{}]:{} }} }}\n",
        customer.address().ip(),
        customer.address().port(),
        old.address().ip(),
        old.address().port(),
    )
}

fn world(zendesk: &Signer) -> Zone {
    let zone = Zone::new()
        .txt("acme.example", "v=spf1 ip4:203.0.113.25 -all")
        .txt("_dmarc.acme.example", "v=DMARC1; p=reject")
        .txt("desk2026._domainkey.acme.example", PrivateKey::rsa().record())
        .txt("ed2026._domainkey.acme.example", PrivateKey::ed25519().record())
        .txt("mail2026._domainkey.acme.example", PrivateKey::rsa().record());
    zendesk.publish(zone)
}

pub(crate) fn write_keys(folder: &Path) {
    for (name, key) in
        [("desk2026", PrivateKey::rsa()), ("ed2026", PrivateKey::ed25519()), ("mail2026", PrivateKey::rsa())]
    {
        key.write(&folder.join(name).with_extension("pem"));
    }
}

fn deskmilter_toml(
    terms: &Terms,
    postfix: &PrivatePostfix,
    names: &NameServer,
    desk: &SandboxEndpoint,
    folder: &Path,
) -> String {
    let sockets = postfix.queue_directory().join("deskmilter");
    let Terms { submission, preserve, outbound, authentication, tables, .. } = terms;
    let keys = terms.keys.unwrap_or("[[connector.dkim]]\nselector = \"desk2026\"\nkey_file = \"desk2026.pem\"\n");
    format!(
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
[outbound]
{outbound}
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
        names = names.address(),
        port = desk.address().port(),
        ca = desk.directory().join("ca.pem").display(),
        password = desk.password_file().display(),
    )
    .replace("KEYS", &folder.display().to_string())
}
