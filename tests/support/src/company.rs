//! One company for tests of behaviour that must be the same whichever mail server has deskmilter attached.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::{
    Client, Daemon, EximSite, EximTerms, NameServer, OutboundSite, Reply, SandboxEndpoint, Signer, Site, SmtpSession,
    SmtpSink, Terms, TlsIdentity, Transaction,
};

/// A mail server that deskmilter is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mta {
    /// By its milter.
    Postfix,
    /// By its ACLs, router, transport and transport filter.
    Exim,
}

/// The milter line alone, as `deskmilter postfix --apply` writes it for inline relay.
const INLINE_MAIN_CF: &str = "\
smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail, content_timeout=150s }
non_smtpd_milters = $smtpd_milters
transport_maps =
recipient_delimiter = +
";

/// A test for each mail server of each function named, which takes the [`Mta`]: `NAME::postfix` and `NAME::exim`.
#[macro_export]
macro_rules! for_each_mta {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[test]
            fn postfix() {
                super::$name(support::Mta::Postfix);
            }

            #[test]
            fn exim() {
                super::$name(support::Mta::Exim);
            }
        })*
    };
}

/// acme.example as [`Site`], [`OutboundSite`] and [`EximSite`] know it, without what is about its mail server.
#[derive(Debug)]
pub struct Company(Kind);

#[derive(Debug)]
enum Kind {
    Inbound(Box<Site>),
    Outbound(Box<OutboundSite>),
    Exim(Box<EximSite>),
}

impl From<OutboundSite> for Company {
    fn from(site: OutboundSite) -> Self {
        Self(Kind::Outbound(Box::new(site)))
    }
}

impl From<EximSite> for Company {
    fn from(site: EximSite) -> Self {
        Self(Kind::Exim(Box::new(site)))
    }
}

/// What all three have.
macro_rules! in_each {
    ($self:ident, $site:ident => $what:expr) => {
        match &$self.0 {
            Kind::Inbound($site) => $what,
            Kind::Outbound($site) => $what,
            Kind::Exim($site) => $what,
        }
    };
    (mut $self:ident, $site:ident => $what:expr) => {
        match &mut $self.0 {
            Kind::Inbound($site) => $what,
            Kind::Outbound($site) => $what,
            Kind::Exim($site) => $what,
        }
    };
}

/// What the mail server does, `postfix` or `exim`.
macro_rules! by_mta {
    ($self:ident, $postfix:ident => $one:expr, $exim:ident => $other:expr) => {
        match &$self.0 {
            Kind::Inbound(site) => {
                let $postfix = &site.postfix;
                $one
            }
            Kind::Outbound(site) => {
                let $postfix = &site.postfix;
                $one
            }
            Kind::Exim(site) => {
                let $exim = &site.exim;
                $other
            }
        }
    };
}

impl Company {
    /// One for mail to its support addresses.
    ///
    /// # Panics
    /// When a part does not start; shows its log.
    pub fn inbound(mta: Mta) -> Self {
        Self::inbound_with(mta, "")
    }

    /// The same with more lines in `[connector.endpoint]`. With Postfix extensions are taken off addresses by `+`, as with Exim.
    ///
    /// # Panics
    /// As [`Self::inbound`].
    pub fn inbound_with(mta: Mta, endpoint: &str) -> Self {
        Self(match mta {
            Mta::Postfix => Kind::Inbound(Box::new(Site::with("", endpoint, "recipient_delimiter = +\n"))),
            Mta::Exim => Kind::Exim(Box::new(EximSite::start(EximTerms {
                endpoint: endpoint.to_owned(),
                ..EximTerms::default()
            }))),
        })
    }

    /// One that relays inline, with more lines in `[connector.endpoint]`; more of main.cf where it has a Postfix.
    ///
    /// # Panics
    /// As [`Self::inbound`].
    pub fn inline(mta: Mta, endpoint: &str, main_cf: &str) -> Self {
        let endpoint = format!("relay = \"inline\"\n{endpoint}");
        match mta {
            Mta::Postfix => {
                let main_cf = format!("{INLINE_MAIN_CF}{main_cf}");
                Self(Kind::Inbound(Box::new(Site::with("", &endpoint, &main_cf))))
            }
            Mta::Exim => EximSite::start(EximTerms { endpoint, ..EximTerms::default() }).into(),
        }
    }

    /// One whose ticket system submits notifications.
    ///
    /// # Panics
    /// As [`Self::inbound`].
    pub fn outbound(mta: Mta, terms: &Terms) -> Self {
        match mta {
            Mta::Postfix => OutboundSite::start(terms).into(),
            Mta::Exim => EximSite::start(EximTerms { terms: terms.clone(), ..EximTerms::default() }).into(),
        }
    }

    /// Its mail server's kind.
    pub fn mta(&self) -> Mta {
        by_mta!(self, _postfix => Mta::Postfix, _exim => Mta::Exim)
    }

    /// The daemon.
    pub fn daemon(&self) -> &Daemon {
        in_each!(self, site => &site.daemon)
    }

    /// The daemon, to be stopped.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        in_each!(mut self, site => &mut site.daemon)
    }

    /// The ticket system.
    pub fn desk(&self) -> &SandboxEndpoint {
        in_each!(self, site => &site.desk)
    }

    /// The ticket system, to be stopped.
    pub fn desk_mut(&mut self) -> &mut SandboxEndpoint {
        in_each!(mut self, site => &mut site.desk)
    }

    /// The world's name server.
    pub fn names(&self) -> &NameServer {
        in_each!(self, site => &site.names)
    }

    /// Signs as customer.example.
    pub fn signer(&self) -> Signer {
        Signer::new("customer.example", "mail")
    }

    /// Signs as Zendesk does for the company.
    pub fn zendesk(&self) -> Signer {
        Signer::zendesk("acme.example")
    }

    /// The logs of the mail server and of deskmilter.
    pub fn logs(&self) -> String {
        format!("{}\n{}", self.mta_log(), self.daemon().log())
    }

    /// The mail server's log.
    pub fn mta_log(&self) -> String {
        by_mta!(self, postfix => postfix.log(), exim => exim.log())
    }

    /// The configuration file of the daemon.
    pub fn configuration(&self) -> PathBuf {
        match &self.0 {
            Kind::Inbound(site) => site.configuration(),
            Kind::Outbound(site) => site.keys().join("deskmilter.toml"),
            Kind::Exim(site) => site.configuration(),
        }
    }

    /// The folder of that file, and of the company's keys.
    pub fn keys(&self) -> PathBuf {
        self.configuration().with_file_name("")
    }

    /// Puts another password into the file that deskmilter reads.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set_password(&self, password: &str) {
        crate::site::set_password(self.desk(), password);
    }

    /// Makes the daemon relay to another endpoint on `localhost`, whose authority is `ca`, from now on.
    ///
    /// # Panics
    /// When the daemon does not come back.
    pub fn point_at(&mut self, port: u16, ca: &str) {
        crate::site::point_at(&self.configuration(), port, ca);
        self.daemon_mut().stop();
        self.daemon_mut().resume();
    }

    /// A session of another mail server, greeted.
    pub fn connect(&self, client: &Client) -> SmtpSession {
        by_mta!(self, postfix => SmtpSession::connect_as(postfix.address(), client), exim => exim.connect(client))
    }

    /// Hands over a message as another mail server does.
    pub fn receive(&self, client: &Client, sender: &str, to: &[&str], message: &[u8]) -> Reply {
        by_mta!(self, postfix => postfix.submit_as(client, sender, to, message),
            exim => exim.submit_as(client, sender, to, message))
    }

    /// Hands over a message by sendmail(1).
    ///
    /// # Panics
    /// When it is not taken.
    pub fn submit_by_sendmail(&self, sender: &str, to: &[&str], message: &[u8]) {
        by_mta!(self, postfix => postfix.submit_by_sendmail(sender, to, message),
            exim => exim.submit_by_sendmail(sender, to, message));
    }

    /// Hands over a message that nobody judges before the queue.
    ///
    /// # Panics
    /// With a company for notifications.
    pub fn receive_unjudged(&self, sender: &str, to: &[&str], message: &[u8]) -> Reply {
        match &self.0 {
            Kind::Inbound(site) => site.submit_past_the_milter(sender, to, message),
            Kind::Outbound(_) => panic!("no service without a milter here"),
            Kind::Exim(site) => site.exim.submit_past_the_acl(&Site::stranger(), sender, to, message),
        }
    }

    /// The messages in a mailbox.
    pub fn mailbox(&self, address: &str) -> Vec<Vec<u8>> {
        by_mta!(self, postfix => postfix.mailbox(address).messages(), exim => exim.mailbox(address))
    }

    /// Waits until a mailbox has `count` messages.
    ///
    /// # Panics
    /// When it has not in time.
    pub fn wait_for_mail(&self, address: &str, count: usize) -> Vec<Vec<u8>> {
        by_mta!(self, postfix => postfix.wait_for_mail(address, count), exim => exim.wait_for_mail(address, count))
    }

    /// Waits until the queue is empty.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn wait_for_empty_queue(&self) {
        by_mta!(self, postfix => postfix.wait_for_empty_queue(), exim => exim.wait_for_empty_queue());
    }

    /// Waits until a message for `to` is deferred for a reason with these words.
    ///
    /// # Panics
    /// When none is in time.
    pub fn wait_for_deferral(&self, to: &str, words: &str) {
        let what = format!("a deferral of {to}: {words}");
        let says = |line: &str| line.contains(&format!(" == {to}")) && line.contains(words);
        by_mta!(self,
            postfix => postfix.wait_for(&what, |postfix| {
                let queued = postfix.queue();
                let mut all = queued.iter().filter(|queued| queued.queue == "deferred").flat_map(|q| &q.recipients);
                all.any(|(recipient, reason)| recipient == to && reason.contains(words))
            }),
            exim => exim.wait_for(&what, || exim.log().lines().any(says)));
    }

    /// Has the queue tried again. Exim does that by itself here.
    pub fn flush(&self) {
        by_mta!(self, postfix => postfix.flush(), _exim => ());
    }

    /// The queue id of the first message.
    ///
    /// # Panics
    /// When the log tells of none.
    pub fn first_queue_id(&self) -> String {
        let log = self.mta_log();
        let id = match self.mta() {
            Mta::Postfix => log.lines().find_map(|line| line.split("qmgr[").nth(1)?.split(": ").nth(1)),
            Mta::Exim => log.split(" <= ").next().and_then(|text| text.rsplit(' ').next()),
        };
        id.unwrap_or_else(|| panic!("no queue id\n{log}")).to_owned()
    }

    /// A session of `client` over TLS, logged in.
    ///
    /// # Panics
    /// With a company for inbound mail on Postfix, and when the login is refused.
    pub fn login_as(&self, client: &Client, login: &str) -> SmtpSession {
        match &self.0 {
            Kind::Inbound(_) => panic!("no submission service here"),
            Kind::Outbound(site) => site.submission.login(client, login),
            Kind::Exim(site) => site.login_as(client, login),
        }
    }

    /// The same from the ticket system's host.
    pub fn login(&self, login: &str) -> SmtpSession {
        self.login_as(&OutboundSite::zendesk_host(), login)
    }

    /// Where the ticket system submits, and the certificate there.
    ///
    /// # Panics
    /// As [`Self::login_as`].
    pub fn submission(&self) -> (SocketAddr, &TlsIdentity) {
        match &self.0 {
            Kind::Inbound(_) => panic!("no submission service here"),
            Kind::Outbound(site) => (site.submission.address(), site.submission.identity()),
            Kind::Exim(site) => (site.exim.address(), site.identity()),
        }
    }

    /// Waits until the mail server's log has these words.
    ///
    /// # Panics
    /// When it has not in time.
    pub fn wait_for_mta_log(&self, words: &str) {
        crate::wait_until(words, || self.logs(), || self.mta_log().contains(words));
    }

    /// The password of a login.
    pub fn password(&self, login: &str) -> String {
        EximSite::password(login)
    }

    /// A notification of support@acme.example to jane@customer.example, signed as Zendesk signs it.
    pub fn notification(&self) -> Vec<u8> {
        self.zendesk().sign(&crate::notification().octets())
    }

    /// Submits a message for support@acme.example as the ticket system does.
    pub fn submit(&self, to: &[&str], message: &[u8]) -> Reply {
        self.submit_as(crate::SUPPORT_LOGIN, "support@acme.example", to, message)
    }

    /// Submits a message from the ticket system's host with another login or sender.
    pub fn submit_as(&self, login: &str, sender: &str, to: &[&str], message: &[u8]) -> Reply {
        self.login(login).send(sender, to, message)
    }

    /// Submits a message to jane@customer.example and returns it as her server got it.
    ///
    /// # Panics
    /// When it is not taken, or does not arrive.
    pub fn deliver(&self, message: &[u8]) -> Vec<u8> {
        let before = self.customer().transactions().len();
        let reply = self.submit(&["jane@customer.example"], message);
        assert_eq!(reply.code, 250, "{reply}\n{}", self.logs());
        self.delivered(before + 1).message
    }

    /// The last of `count` messages that reached customer.example.
    ///
    /// # Panics
    /// When there are not as many in time.
    pub fn delivered(&self, count: usize) -> Transaction {
        self.customer().wait_for(count, || self.logs()).pop().expect("at least one")
    }

    /// customer.example, with 8BITMIME and SMTPUTF8.
    ///
    /// # Panics
    /// With a company for inbound mail on Postfix.
    pub fn customer(&self) -> &SmtpSink {
        match &self.0 {
            Kind::Inbound(_) => panic!("nobody but the company is there"),
            Kind::Outbound(site) => &site.customer,
            Kind::Exim(site) => &site.customer,
        }
    }

    /// old.example, with neither.
    ///
    /// # Panics
    /// As [`Self::customer`].
    pub fn old(&self) -> &SmtpSink {
        match &self.0 {
            Kind::Inbound(_) => panic!("nobody but the company is there"),
            Kind::Outbound(site) => &site.old,
            Kind::Exim(site) => &site.old,
        }
    }
}
