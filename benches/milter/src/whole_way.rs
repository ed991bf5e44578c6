//! The whole way of a message: smtp-source, smtpd with a milter or none, cleanup, queue, and on to where it is read, or over TLS
//! with AUTH to the next server ([`support::endpoint`], in this process). The clock stops when the last message has arrived.

use std::fmt::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::endpoint::{Endpoint, Script};
use support::{NameServer, PATIENCE, PrivateKey, PrivatePostfix, Signer, free_address, tail};
use tokio::runtime::Runtime;

use crate::end_to_end::{Figures, Kind};
use crate::filter::{EMPLOYEE, Filter, Transport};
use crate::source::{self, Session};
use crate::{mail, usage};

/// Messages a run.
const COUNT: usize = 600;
/// Messages by each way before anything is measured.
const WARM_UP: usize = 20;
/// How often is looked whether all have arrived.
const POLL: Duration = Duration::from_millis(5);
/// Somebody's mailbox on this server.
const MAILBOX: &str = "someone@other.example";
/// A support address that deskmilter relays for.
const RELAYED: &str = "support@acme.example";
/// One that it judges, and for which Postfix's own smtp client speaks to the ticket system.
const DIRECT: &str = "support@direct.example";
/// Somebody elsewhere, by way of the provider's relay host.
const ELSEWHERE: &str = "jane@elsewhere.example";
/// The login at the next server, and its password.
const LOGIN: (&str, &str) = ("acme", "s3cret-one");

/// One way of a message through the server.
pub struct Way {
    /// What it is called in the table.
    pub name: String,
    /// The mail that it is for; the first way of each kind is without a milter.
    pub kind: Kind,
    smtpd: SocketAddr,
    recipient: &'static str,
    /// The filter's process id.
    filter: Option<u32>,
}

/// A Postfix with one smtpd for each way, and the next server.
pub struct WholeWay {
    postfix: PrivatePostfix,
    master: u32,
    /// The ways, those of one kind together.
    pub ways: Vec<Way>,
    signer: Signer,
    next: Endpoint,
    _filters: Vec<Filter>,
    _runtime: Runtime,
}

impl WholeWay {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not start, or a way loses a message.
    pub fn start(signer: &Signer, names: &NameServer) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let next = runtime.block_on(Endpoint::start(Script::default()));
        let mut postfix = PrivatePostfix::new(&[MAILBOX], "", false);
        let sockets = postfix.socket_folder("deskmilter");
        let relay = sockets.join("transport/acme.sock");
        configure(&postfix, &next, &relay);
        let program = support::deskmilter();
        let (selector, key) = ("rsa2026", PrivateKey::rsa());
        let filters = vec![
            relaying(&program, names, &next, &sockets.join("transport")),
            Filter::opendkim_verifying(Transport::Unix, names),
            Filter::deskmilter_signing_own(&program, names, (selector, &key)),
            Filter::opendkim_signing(Transport::Unix, names, (selector, &key), "rsa-sha256"),
        ];
        let mut ways = Vec::new();
        let mut add = |kind, name: &str, recipient, filter: Option<&Filter>| {
            let smtpd = free_address();
            let milter = filter.map(Filter::socket).unwrap_or_default();
            postfix.add_service(&format!("{smtpd} inet n - n - - smtpd -o smtpd_milters={milter}"));
            let name = filter.map_or(name.to_owned(), |filter| format!("{}{name}", filter.name));
            ways.push(Way { name, kind, smtpd, recipient, filter: filter.map(Filter::pid) });
        };
        add(Kind::Others, "no milter", MAILBOX, None);
        add(Kind::Others, "", MAILBOX, Some(&filters[0]));
        add(Kind::Others, "", MAILBOX, Some(&filters[1]));
        add(Kind::Support, "no milter; smtp", DIRECT, None);
        add(Kind::Support, ", its transport", RELAYED, Some(&filters[0]));
        add(Kind::Support, "; smtp", DIRECT, Some(&filters[0]));
        add(Kind::Support, "; smtp", DIRECT, Some(&filters[1]));
        add(Kind::Own, "no milter; smtp", ELSEWHERE, None);
        add(Kind::Own, "; smtp", ELSEWHERE, Some(&filters[2]));
        add(Kind::Own, "; smtp", ELSEWHERE, Some(&filters[3]));
        postfix.resume();
        for way in &ways {
            postfix.wait_for(&format!("the smtpd with {}", way.name), |_| TcpStream::connect(way.smtpd).is_ok());
        }
        let master = usage::master(&postfix);
        let whole = Self { postfix, master, ways, signer: signer.clone(), next, _filters: filters, _runtime: runtime };
        for way in &whole.ways {
            whole.send(way, WARM_UP);
            whole.check(way);
        }
        whole
    }

    /// Sends messages by a way.
    ///
    /// # Panics
    /// When one does not arrive.
    pub fn run(&self, way: &Way) -> Figures {
        let cpu = || (usage::cpu_of_children(self.master), way.filter.map_or(Duration::ZERO, usage::cpu_of_daemon));
        let before = cpu();
        let elapsed = self.send(way, COUNT);
        // So that the next run begins as this one did.
        self.postfix.wait_for_empty_queue();
        self.postfix.mailbox(MAILBOX).clear();
        Figures::of(COUNT, elapsed, before, cpu())
    }

    /// Sends `count` messages and waits for the last one.
    fn send(&self, way: &Way, count: usize) -> Duration {
        let (sender, message) = match way.kind {
            Kind::Others => (mail::CUSTOMER, mail::octets(0, way.recipient, None)),
            Kind::Support => (mail::CUSTOMER, mail::octets(0, way.recipient, Some(&self.signer))),
            Kind::Own => (EMPLOYEE, mail::plain(0, EMPLOYEE, way.recipient)),
        };
        let (before, start) = (self.arrived(way), Instant::now());
        source::send(&self.postfix, way.smtpd, Session::OneMessage, count, (sender, way.recipient), &message);
        while self.arrived(way) < before + count {
            assert!(start.elapsed() < PATIENCE * 4, "{}: lost\n{}", way.name, tail(&self.postfix.log()));
            std::thread::sleep(POLL);
        }
        start.elapsed()
    }

    /// How many messages are where this way leads to.
    fn arrived(&self, way: &Way) -> usize {
        match way.kind {
            Kind::Others => self.postfix.mailbox(MAILBOX).count(),
            Kind::Support | Kind::Own => self.next.see(|record| record.taken.len()),
        }
    }

    /// The last message shows what the filter has done.
    fn check(&self, way: &Way) {
        let last = match way.kind {
            // OpenDKIM says that there is no signature.
            Kind::Others => return,
            Kind::Support | Kind::Own => self.next.see(|record| record.taken.last().map(|mail| mail.content.clone())),
        };
        let last = last.unwrap_or_default();
        let mail = String::from_utf8_lossy(&last);
        let done = match way.kind {
            Kind::Own => mail.contains("DKIM-Signature:"),
            Kind::Others | Kind::Support => mail.contains("dkim=pass"),
        };
        assert_eq!(done, way.filter.is_some(), "what {} did: {mail}", way.name);
    }
}

/// deskmilter with its transport to the next server.
fn relaying(program: &Path, names: &NameServer, next: &Endpoint, directory: &Path) -> Filter {
    Filter::deskmilter_with(program, Transport::Unix, names, |folder| {
        std::fs::write(folder.join("ca.pem"), &next.ca).expect("the authority");
        let password: PathBuf = folder.join("password");
        std::fs::write(&password, LOGIN.1).expect("the password");
        std::fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).expect("its mode");
        let mut text = String::new();
        let _ = write!(
            text,
            "[transport]\ndirectory = \"{directory}\"\nsocket_group = \"postfix\"\n\
             [[connector]]\nname = \"acme\"\nsystem = \"generic\"\ndomain = \"acme.example\"\naddresses = [\"{RELAYED}\"]\n\
             [connector.endpoint]\nhost = \"localhost\"\nport = {port}\nca_file = \"ca.pem\"\n\
             credentials = [{{ username = \"{login}\", password_file = \"password\" }}]\n\
             [[connector]]\nname = \"direct\"\nsystem = \"generic\"\ndomain = \"direct.example\"\naddresses = [\"{DIRECT}\"]\n\
             mode = \"outbound-only\"\n",
            directory = directory.display(),
            port = next.port,
            login = LOGIN.0,
        );
        text
    })
}

/// Postfix's own smtp client as a postmaster sets it up for a relay host: verified TLS, AUTH, all else as Postfix comes.
fn configure(postfix: &PrivatePostfix, next: &Endpoint, relay: &Path) {
    let authority = postfix.configuration().join("ca.pem");
    std::fs::write(&authority, &next.ca).expect("the authority");
    let next_hop = format!("[localhost]:{}", next.port);
    let to_next = |address: &str| format!("{{ {address} = smtp:{next_hop} }}");
    postfix.configure(&format!(
        "relay_domains = acme.example, direct.example\n\
         transport_maps = inline:{{ {direct}, {elsewhere}, {{ {RELAYED} = lmtp:unix:{relay} }} }}\n\
         lmtp_line_length_limit = 0\n\
         smtp_host_lookup = native\n\
         smtp_sasl_auth_enable = yes\n\
         smtp_sasl_password_maps = inline:{{ {{ {next_hop} = {login}:{password} }} }}\n\
         smtp_sasl_security_options = noanonymous\n\
         smtp_tls_security_level = secure\n\
         smtp_tls_secure_cert_match = localhost\n\
         smtp_tls_CAfile = {authority}\n\
         smtp_connection_cache_on_demand = yes\n",
        direct = to_next(DIRECT),
        elsewhere = to_next(ELSEWHERE),
        relay = relay.display(),
        login = LOGIN.0,
        password = LOGIN.1,
        authority = authority.display(),
    ));
}
