//! The exchanges of PLAIN (RFC 4616) and LOGIN, from decoded responses to a login. Pure.

use zeroize::Zeroizing;

use crate::config::Secret;

/// How far an exchange is.
#[derive(Debug)]
pub(super) enum Exchange {
    Plain,
    LoginUser,
    LoginPassword { user: String },
}

/// What follows a response.
#[derive(Debug)]
pub(super) enum Step {
    /// The next challenge.
    Ask(Exchange, &'static str),
    /// The exchange is complete.
    Done { user: String, password: Secret },
    /// It is no response of this mechanism, or wants to act as somebody else.
    Malformed,
}

impl Exchange {
    /// The exchange of `mechanism` and its first challenge; `None` when it is not offered.
    pub(super) fn begin(mechanism: &[u8]) -> Option<(Self, &'static str)> {
        if mechanism.eq_ignore_ascii_case(b"PLAIN") {
            Some((Self::Plain, ""))
        } else if mechanism.eq_ignore_ascii_case(b"LOGIN") {
            Some((Self::LoginUser, "Username:"))
        } else {
            None
        }
    }

    /// Takes the client's response.
    pub(super) fn respond(self, response: &Zeroizing<Vec<u8>>) -> Step {
        match self {
            Self::Plain => plain(response).unwrap_or(Step::Malformed),
            Self::LoginUser => match text(response) {
                Some(user) => Step::Ask(Self::LoginPassword { user }, "Password:"),
                None => Step::Malformed,
            },
            Self::LoginPassword { user } if is_password(response) => {
                Step::Done { user, password: Secret::new(response.to_vec()) }
            }
            Self::LoginPassword { .. } => Step::Malformed,
        }
    }
}

/// `[authzid] NUL authcid NUL passwd`. Who logs in acts as himself.
fn plain(response: &[u8]) -> Option<Step> {
    let mut parts = response.split(|&b| b == 0);
    let (acts_as, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !is_password(password) || !(acts_as.is_empty() || acts_as == user) {
        return None;
    }
    Some(Step::Done { user: text(user)?, password: Secret::new(password.to_vec()) })
}

fn is_password(octets: &[u8]) -> bool {
    !octets.is_empty() && !octets.contains(&0)
}

fn text(octets: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(octets).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn respond(exchange: Exchange, response: &[u8]) -> String {
        match exchange.respond(&Zeroizing::new(response.to_vec())) {
            Step::Ask(Exchange::LoginPassword { user }, challenge) => format!("{user} {challenge}"),
            Step::Ask(..) => "?".to_owned(),
            Step::Done { user, password } => format!("{user}/{}", String::from_utf8_lossy(password.expose())),
            Step::Malformed => "malformed".to_owned(),
        }
    }

    #[test]
    fn plain_carries_a_name_and_a_password_and_nobody_acts_as_somebody_else() {
        assert_eq!(respond(Exchange::Plain, b"\0acme\0s3cret"), "acme/s3cret");
        assert_eq!(respond(Exchange::Plain, b"acme\0acme\0s3cret"), "acme/s3cret");
        for wrong in
            ["", "\0", "\0\0", "acme", "\0acme", "\0acme\0", "\0\0x", "other\0acme\0x", "\0acme\0x\0", "\0a\nb\0x"]
        {
            assert_eq!(respond(Exchange::Plain, wrong.as_bytes()), "malformed", "{wrong:?}");
        }
        assert_eq!(respond(Exchange::Plain, b"\0\xff\0x"), "malformed");
    }

    #[test]
    fn login_asks_for_name_and_password_in_turn() {
        assert_eq!(respond(Exchange::LoginUser, b"acme"), "acme Password:");
        let asked = || Exchange::LoginPassword { user: "acme".to_owned() };
        assert_eq!(respond(asked(), b"s3cret"), "acme/s3cret");
        for (exchange, wrong) in
            [(Exchange::LoginUser, ""), (Exchange::LoginUser, "a\0b"), (asked(), ""), (asked(), "a\0")]
        {
            assert_eq!(respond(exchange, wrong.as_bytes()), "malformed");
        }
    }
}
