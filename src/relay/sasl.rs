//! AUTH (RFC 4954): PLAIN (RFC 4616), LOGIN, and XOAUTH2 as Google and Microsoft describe it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::clock::Step;
use super::dialogue::{Dialogue, Stream};
use super::failure::{Cause, Failure};
use super::reply::{Extensions, RemoteReply};
use crate::config::{Mechanism, Secret};

/// Octets of a command line at most (RFC 5321 section 4.5.3.1.4); a longer AUTH sends its response in the next line
/// (RFC 4954 section 4).
const COMMAND_MAX: usize = 512;

/// So many characters of an AUTH response in a reply are taken for its repetition, be it cut short.
const ECHO_MIN: usize = 12;

/// Characters of an explanation that are told.
const EXPLANATION_MAX: usize = 200;

/// AUTH over TLS. Returns the final reply: 235 or the 5xx that refuses the credential.
///
/// # Errors
/// The mechanism is not offered, a 4xx, or what is no answer to AUTH.
pub(super) async fn authenticate<S: Stream>(
    dialogue: &mut Dialogue<S>,
    extensions: &Extensions,
    mechanism: Mechanism,
    username: &str,
    secret: &Secret,
) -> Result<RemoteReply, Failure> {
    let lines = match mechanism {
        Mechanism::Plain if extensions.auth_plain => plain(username, secret),
        Mechanism::Plain | Mechanism::Login if extensions.auth_login => login(username, secret),
        Mechanism::Xoauth2 if extensions.auth_xoauth2 => xoauth2(username, secret),
        missing => return Err(dialogue.failure(Cause::NoAuth(missing))),
    };
    let mut lines = lines.into_iter();
    let mut line = lines.next();
    let mut explanation = None;
    while let Some(octets) = line {
        let answer = dialogue.command(Step::Auth, &octets).await;
        let mut reply = without_echo(answer, &octets, secret)?;
        line = lines.next();
        match (reply.code, &line) {
            (235, None) if explanation.is_none() => return Ok(reply),
            (500..=599, _) => {
                reply.lines.extend(explanation);
                return Ok(reply);
            }
            (334, Some(_)) => {}
            // The token is refused: why is in the challenge, and the reply comes after an empty response.
            (334, None) if mechanism == Mechanism::Xoauth2 && explanation.is_none() => {
                explanation = Some(explained(&reply, secret));
                line = Some(Zeroizing::new(b"\r\n".to_vec()));
            }
            (400..=499, _) => return Err(dialogue.failure(Cause::Temporary(reply))),
            // A challenge too many, or success before the secret was asked for: nothing to build on.
            _ => return Err(dialogue.out_of_place(Step::Auth, &reply)),
        }
    }
    Err(dialogue.failure(Cause::Nonsense(Step::Auth, "no end".to_owned())))
}

/// The answer to an AUTH line, without what repeats the secret: some servers quote a command that they do not understand
/// (Sendmail: `500 5.5.1 Command unrecognized: "..."`), and replies go into logs and bounces.
fn without_echo(
    mut answer: Result<RemoteReply, Failure>,
    sent: &[u8],
    secret: &Secret,
) -> Result<RemoteReply, Failure> {
    let reply = match &mut answer {
        Ok(reply) | Err(Failure { cause: Cause::Temporary(reply), .. }) => reply,
        Err(_) => return answer,
    };
    let response = sent.trim_ascii_end().rsplit(|&b| b == b' ').next().unwrap_or_default();
    let telling = response.get(..ECHO_MIN).unwrap_or(response);
    let is_response = !telling.is_empty() && !matches!(response, b"PLAIN" | b"LOGIN" | b"XOAUTH2");
    for line in &mut reply.lines {
        if holds(line, secret.expose()) || (is_response && holds(line, telling)) {
            "(text left out, it repeats the credentials)".clone_into(line);
        }
    }
    answer
}

fn holds(line: &str, part: &[u8]) -> bool {
    line.as_bytes().windows(part.len().max(1)).any(|window| window == part)
}

/// What a host says of a token that it refuses: base64 of a JSON object like
/// `{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}`.
fn explained(challenge: &RemoteReply, secret: &Secret) -> String {
    let encoded = challenge.lines.first().map(|line| line.trim()).unwrap_or_default();
    let octets = STANDARD.decode(encoded).unwrap_or_default();
    // Before it is cut to length: a part of the token is not told either.
    if octets.windows(secret.expose().len().max(1)).any(|window| window == secret.expose()) {
        return "(text left out, it repeats the token)".to_owned();
    }
    let text: String = String::from_utf8_lossy(&octets)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(EXPLANATION_MAX)
        .collect();
    if text.is_empty() {
        return "(token refused without an explanation)".to_owned();
    }
    text
}

/// AUTH PLAIN with its response in the same line where it fits (RFC 4954 section 4), else in the next.
fn plain(username: &str, password: &Secret) -> Vec<Zeroizing<Vec<u8>>> {
    initial("PLAIN", &[b"\0", username.as_bytes(), b"\0", password.expose()])
}

/// The server's prompts are not looked at: they come in many languages, their order is always the same.
fn login(username: &str, password: &Secret) -> Vec<Zeroizing<Vec<u8>>> {
    vec![
        Zeroizing::new(b"AUTH LOGIN\r\n".to_vec()),
        encoded(b"", &[username.as_bytes()]),
        encoded(b"", &[password.expose()]),
    ]
}

/// `user=NAME ^A auth=Bearer TOKEN ^A ^A`.
fn xoauth2(username: &str, token: &Secret) -> Vec<Zeroizing<Vec<u8>>> {
    initial("XOAUTH2", &[b"user=", username.as_bytes(), b"\x01auth=Bearer ", token.expose(), b"\x01\x01"])
}

fn initial(mechanism: &str, message: &[&[u8]]) -> Vec<Zeroizing<Vec<u8>>> {
    let line = encoded(format!("AUTH {mechanism} ").as_bytes(), message);
    if line.len() <= COMMAND_MAX {
        vec![line]
    } else {
        vec![Zeroizing::new(format!("AUTH {mechanism}\r\n").into_bytes()), encoded(b"", message)]
    }
}

/// `command`, the base64 of `parts` together, CRLF; no copy of a secret outlives the call.
fn encoded(command: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    let mut message = Zeroizing::new(Vec::with_capacity(length));
    parts.iter().for_each(|part| message.extend_from_slice(part));
    let mut text = Zeroizing::new(String::with_capacity(length.saturating_add(2).saturating_mul(4) / 3 + 4));
    STANDARD.encode_string(message.as_slice(), &mut text);
    let mut line = Zeroizing::new(Vec::with_capacity(text.len().saturating_add(command.len()).saturating_add(2)));
    line.extend_from_slice(command);
    line.extend_from_slice(text.as_bytes());
    line.extend_from_slice(b"\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_one_line_unless_that_is_too_long() {
        let lines = plain("user", &Secret::new(b"password".to_vec()));
        assert_eq!(lines.len(), 1);
        assert_eq!(lines.first().unwrap().as_slice(), b"AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=\r\n");
        let lines = plain("user", &Secret::new(vec![b'x'; 600]));
        assert_eq!(lines.first().unwrap().as_slice(), b"AUTH PLAIN\r\n");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn xoauth2_is_what_google_and_microsoft_document() {
        let lines =
            xoauth2("someuser@example.com", &Secret::new(b"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg".to_vec()));
        let expected = "AUTH XOAUTH2 dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJ\
                        oZG1semRHRXVZMjl0Q2cBAQ==\r\n";
        assert_eq!(lines.len(), 1);
        assert_eq!(lines.first().unwrap().as_slice(), expected.as_bytes());
        assert_eq!(xoauth2("a", &Secret::new(vec![b'x'; 2_000])).len(), 2);
    }

    #[test]
    fn an_explanation_is_told_without_control_characters_and_without_the_token() {
        let challenge = |text: &str| RemoteReply { code: 334, lines: vec![STANDARD.encode(text)] };
        let token = Secret::new(b"ya29.token".to_vec());
        assert_eq!(explained(&challenge("{\"status\":\"400\"}\r\n"), &token), "{\"status\":\"400\"}  ");
        assert_eq!(explained(&challenge(""), &token), "(token refused without an explanation)");
        let cut = format!("{}ya29.token", "x".repeat(EXPLANATION_MAX - 5));
        for text in ["{\"token\":\"ya29.token\"}", &cut] {
            let told = explained(&challenge(text), &token);
            assert!(!told.contains("ya29"), "{told}");
        }
    }
}
