//! The SASL exchanges of SMTP AUTH (RFC 4954): PLAIN (RFC 4616) and LOGIN.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::config::Secret;
use crate::mail::Reply;

/// What a client says of itself in AUTH.
#[derive(Debug)]
pub struct Login {
    /// The identity to act as; empty means that of `user`.
    pub acts_as: String,
    /// The user name.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// How far an exchange is.
#[derive(Debug)]
pub(super) enum Exchange {
    Plain,
    LoginUser,
    LoginPassword { user: String },
}

/// What follows a client's response.
pub(super) enum Step {
    /// Ask on with this challenge.
    Ask(Exchange, Reply),
    /// The exchange is complete.
    Done(Login),
}

impl Exchange {
    /// Begins the exchange of `mechanism`.
    ///
    /// # Errors
    /// The reply for a mechanism that is not offered, or for a wrong initial response.
    pub(super) fn begin(mechanism: &str, initial: Option<&str>) -> Result<Step, Reply> {
        let exchange = match mechanism {
            "PLAIN" => Self::Plain,
            "LOGIN" => Self::LoginUser,
            _ => return Err(Reply::new(504, 5, 4, "that mechanism is not offered; use PLAIN or LOGIN")),
        };
        match initial {
            // "=" is an empty initial response (RFC 4954 section 4).
            Some(response) => exchange.respond(if response == "=" { "" } else { response }),
            None => {
                let challenge = exchange.challenge();
                Ok(Step::Ask(exchange, challenge))
            }
        }
    }

    /// Takes the client's response, in base64.
    ///
    /// # Errors
    /// The reply for a cancelled or malformed exchange.
    pub(super) fn respond(self, response: &str) -> Result<Step, Reply> {
        if response == "*" {
            return Err(Reply::new(501, 7, 0, "authentication cancelled"));
        }
        let malformed = || Reply::new(501, 5, 2, "malformed authentication response");
        let octets = Zeroizing::new(STANDARD.decode(response).map_err(|_| malformed())?);
        match self {
            Self::Plain => plain(&octets).map(Step::Done).ok_or_else(malformed),
            Self::LoginUser => {
                let user = text(&octets).filter(|user| !user.is_empty()).ok_or_else(malformed)?;
                let next = Self::LoginPassword { user };
                let challenge = next.challenge();
                Ok(Step::Ask(next, challenge))
            }
            Self::LoginPassword { user } => {
                if octets.is_empty() {
                    return Err(malformed());
                }
                Ok(Step::Done(Login { acts_as: String::new(), user, password: Secret::new(octets.to_vec()) }))
            }
        }
    }

    fn challenge(&self) -> Reply {
        let prompt = match self {
            Self::Plain => String::new(),
            Self::LoginUser => STANDARD.encode("Username:"),
            Self::LoginPassword { .. } => STANDARD.encode("Password:"),
        };
        Reply::from_lines(334, None, [prompt.as_str()])
    }
}

/// `[authzid] NUL authcid NUL passwd`
fn plain(octets: &[u8]) -> Option<Login> {
    let mut parts = octets.split(|&b| b == 0);
    let (acts_as, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || user.is_empty() || password.is_empty() {
        return None;
    }
    Some(Login { acts_as: text(acts_as)?, user: text(user)?, password: Secret::new(password.to_vec()) })
}

fn text(octets: &[u8]) -> Option<String> {
    std::str::from_utf8(octets).ok().filter(|text| !text.chars().any(char::is_control)).map(str::to_owned)
}
