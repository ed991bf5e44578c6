//! A submission service of a private Postfix: TLS, SASL by Dovecot, a milter, and a client that uses it.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::{Client, Dovecot, PrivatePostfix, Reply, SmtpSession, TlsIdentity, free_address};

/// master.cf options that a postmaster gives a submission service for a ticket system.
const OPTIONS: &[&str] = &[
    "syslog_name=postfix/submission",
    "smtpd_tls_security_level=encrypt",
    "smtpd_tls_auth_only=yes",
    "smtpd_sasl_auth_enable=yes",
    "smtpd_sasl_type=dovecot",
    "smtpd_sasl_path=sasl/auth",
    "smtpd_relay_restrictions=permit_sasl_authenticated,reject",
    "smtpd_milters={ unix:deskmilter/milter.sock, default_action=tempfail }",
];

/// A submission service. Its users end when it is dropped; the service ends with its Postfix.
#[derive(Debug)]
pub struct Submission {
    address: SocketAddr,
    identity: TlsIdentity,
    users: Vec<(String, String)>,
    dovecot: Dovecot,
}

impl Submission {
    /// Adds a service to a Postfix that is not started yet. Every user's password is the name backwards. `options` are
    /// further `name=value` settings of the service; the last word on a name counts.
    ///
    /// # Panics
    /// As [`Dovecot::start`].
    pub fn add(postfix: &PrivatePostfix, users: &[&str], options: &[String]) -> Self {
        let socket = postfix.socket_folder("sasl").join("auth");
        let users: Vec<(String, String)> =
            users.iter().map(|&name| (name.to_owned(), name.chars().rev().collect())).collect();
        let pairs: Vec<(&str, &str)> = users.iter().map(|(name, word)| (name.as_str(), word.as_str())).collect();
        let dovecot = Dovecot::start(&pairs, &socket);
        let address = free_address();
        let identity = TlsIdentity::for_names(&["mx.acme.example", &address.ip().to_string()]);
        let chain = postfix.configuration().join("chain.pem");
        identity.write_chain(&chain);
        let mut service = format!("{address} inet n - n - - smtpd\n  -o smtpd_tls_chain_files={}\n", chain.display());
        for option in OPTIONS.iter().copied().chain(options.iter().map(String::as_str)) {
            writeln!(service, "  -o {{ {option} }}").expect("a string takes all");
        }
        postfix.add_service(&service);
        Self { address, identity, users, dovecot }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificate.
    pub fn identity(&self) -> &TlsIdentity {
        &self.identity
    }

    /// A user's password.
    ///
    /// # Panics
    /// When there is no such user.
    pub fn password(&self, user: &str) -> &str {
        let found = self.users.iter().find(|(name, _)| name == user);
        found.map(|(_, password)| password.as_str()).unwrap_or_else(|| panic!("no user {user}"))
    }

    /// What its SASL service logged.
    pub fn sasl_log(&self) -> String {
        self.dovecot.log()
    }

    /// A session of `client` over TLS, not logged in.
    pub fn connect(&self, client: &Client) -> SmtpSession {
        let mut session = SmtpSession::connect_as(self.address, client);
        session.start_tls(&self.identity);
        session
    }

    /// A session of `client` over TLS, logged in as `user`.
    ///
    /// # Panics
    /// When the login is refused.
    pub fn login(&self, client: &Client, user: &str) -> SmtpSession {
        let mut session = self.connect(client);
        let reply = session.login(user, self.password(user));
        assert_eq!(reply.code, 235, "{reply}\n{}", self.sasl_log());
        session
    }

    /// One message of `client`, logged in as `user`.
    ///
    /// # Panics
    /// As [`Self::login`].
    pub fn submit(&self, client: &Client, user: &str, sender: &str, to: &[&str], message: &[u8]) -> Reply {
        self.login(client, user).send(sender, to, message)
    }
}
