//! Which way did a message come, and may it?

use std::fmt;

use crate::credential::{Binding, Logins, Standing};
use crate::mail::{Address, Mail, Reply};
use crate::pipeline::authentication_results::pvalue;

/// The value of `X-Deskmilter-Path-Auth`: `pass; login=acme.example; reason=issued`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    login: Option<String>,
    reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// A login that was issued for all recipients.
    Issued,
    /// Nobody has logged in.
    NoLogin,
    /// Somebody has logged in with what was not issued here: an employee at a service of another kind.
    ForeignLogin,
}

impl Path {
    /// The way of `mail`; `base` takes the extension off an address.
    ///
    /// # Errors
    /// The reply for a login that is not, or not now, good for all recipients.
    pub(super) fn of(mail: &Mail, logins: &Logins, base: impl Fn(&Address) -> Address) -> Result<Self, Reply> {
        let Some(login) = mail.connection.login.as_deref() else {
            return Ok(Self { login: None, reason: Reason::NoLogin });
        };
        let standing = logins.standing(login);
        Self::judged(mail, login, standing, base)
    }

    fn judged(mail: &Mail, login: &str, standing: Standing, base: impl Fn(&Address) -> Address) -> Result<Self, Reply> {
        let path = |reason| Ok(Self { login: Some(login.to_owned()), reason });
        let binding = match standing {
            Standing::Live(binding) => binding,
            Standing::Unknown => return path(Reason::ForeignLogin),
            // The connection is older than that: who comes again has to log in again, and learns then that he cannot. A 5xx would
            // bounce what is good mail.
            Standing::Revoked => {
                let text = format!("login {login} was revoked; log in again with the one that took its place");
                return Err(Reply::new(451, 7, 8, text));
            }
            Standing::Unavailable => {
                let text = format!(
                    "the store of issued credentials is away, so that nobody can say what login {login} is good for; try again later"
                );
                return Err(Reply::new(451, 3, 0, text));
            }
        };
        if mail.connection.tls.is_none() {
            let text = format!("login {login} came without TLS; try again after STARTTLS");
            return Err(Reply::new(451, 7, 10, text));
        }
        for path in &mail.envelope.recipients {
            let good = path.address().is_some_and(|to| match &binding {
                Binding::Domain(domain) => to.domain() == domain,
                Binding::Address(address) => to == *address || base(&to) == *address,
            });
            if !good {
                let text = format!("login {login} was issued for {binding} and is not good for {path}");
                return Err(Reply::new(550, 7, 1, text));
            }
        }
        path(Reason::Issued)
    }

    /// Whether the message came by a credential that was issued for its recipients.
    pub(super) fn is_authenticated(&self) -> bool {
        self.reason == Reason::Issued
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, reason) = match self.reason {
            Reason::Issued => ("pass", "issued"),
            Reason::NoLogin => ("none", "no-login"),
            Reason::ForeignLogin => ("none", "foreign-login"),
        };
        let login = self.login.as_deref().map_or_else(|| "-".to_owned(), pvalue);
        write!(f, "{status}; login={login}; reason={reason}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mail::{Body, Connection, Domain, Envelope, Headers, Path as Forward, TlsFacts};

    fn mail(tls: bool, recipients: &[&str]) -> Mail {
        let connection =
            Connection { login: Some("acme".to_owned()), tls: tls.then(TlsFacts::default), ..Connection::default() };
        let recipients = recipients.iter().map(|to| Forward::parse(to.as_bytes()).unwrap()).collect();
        Mail {
            connection: Arc::new(connection),
            envelope: Envelope { recipients, ..Envelope::default() },
            headers: Headers::default(),
            body: Body::from_octets(Vec::new()),
            shortfall: None,
            queue_id: None,
        }
    }

    fn judged(mail: &Mail, standing: Standing) -> String {
        let base = |to: &Address| to.without_extension('+').unwrap_or_else(|| to.clone());
        match Path::judged(mail, "acme", standing, base) {
            Ok(path) => path.to_string(),
            Err(reply) => reply.to_string(),
        }
    }

    #[test]
    fn a_live_login_is_good_for_its_own_domain_or_address_and_for_nobody_else() {
        let domain = || Standing::Live(Binding::Domain(Domain::parse("acme.example").unwrap()));
        let address = || Standing::Live(Binding::Address(Address::parse("support@acme.example").unwrap()));
        let pass = "pass; login=acme; reason=issued";
        let refused = "550 5.7.1 login acme was issued for ";
        for (to, standing, expected) in [
            (&["support@acme.example", "Billing+x@ACME.example"][..], domain(), pass),
            (&["support@acme.example", "a@other.example"], domain(), refused),
            (&["support@sub.acme.example"], domain(), refused),
            (&["postmaster"], domain(), refused),
            (&["Support+4711@acme.example"], address(), pass),
            (&["billing@acme.example"], address(), refused),
        ] {
            let told = judged(&mail(true, to), standing);
            assert!(told.starts_with(expected), "{to:?}: {told}");
        }
        let told = judged(&mail(true, &["a@other.example"]), domain());
        assert!(told.contains("acme.example and is not good for <a@other.example>"), "{told}");
    }

    #[test]
    fn what_cannot_be_told_or_will_be_better_next_time_is_temporary() {
        let live = Standing::Live(Binding::Domain(Domain::parse("acme.example").unwrap()));
        for (tls, standing, expected) in [
            (true, Standing::Revoked, "451 4.7.8 login acme was revoked"),
            (true, Standing::Unavailable, "451 4.3.0 the store"),
            (false, live, "451 4.7.10 login acme came without TLS"),
            (true, Standing::Unknown, "none; login=acme; reason=foreign-login"),
        ] {
            let told = judged(&mail(tls, &["support@acme.example"]), standing);
            assert!(told.starts_with(expected), "{told}");
        }
    }

    #[test]
    fn no_login_can_add_a_word_of_its_own() {
        let path = Path { login: Some("a; reason=issued\r\nX: \"y".to_owned()), reason: Reason::ForeignLogin };
        assert_eq!(path.to_string(), "none; login=\"a; reason=issued??X: \\\"y\"; reason=foreign-login");
        assert_eq!(Path { login: None, reason: Reason::NoLogin }.to_string(), "none; login=-; reason=no-login");
    }
}
