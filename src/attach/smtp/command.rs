//! One command line into a [`Command`], or the reply that refuses it (RFC 5321 section 4.1).

use crate::mail::{Path, PathError, Reply};

/// Octets of the name in a greeting at most (RFC 5321 section 4.5.3.1.2).
const NAME_MAX: usize = 255;
/// Digits in a SIZE parameter at most (RFC 1870 section 4).
const SIZE_DIGITS_MAX: usize = 20;

/// A command, syntactically right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Hello { verb: Hello, name: String },
    Mail { sender: Path, parameters: MailParameters },
    Recipient(Path),
    Data,
    Reset,
    Noop,
    Help,
    Verify,
    Quit,
    StartTls,
    Auth { mechanism: String, initial: Option<String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hello {
    Lhlo,
    Ehlo,
    Helo,
}

/// The ESMTP parameters of MAIL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MailParameters {
    /// SIZE (RFC 1870), in octets; beyond what fits, the largest number.
    pub(super) size: Option<u64>,
    /// BODY=8BITMIME (RFC 6152).
    pub(super) eight_bit: bool,
    /// SMTPUTF8 (RFC 6531).
    pub(super) smtputf8: bool,
    /// AUTH (RFC 4954 section 5) was there; its value does not matter to us.
    pub(super) auth: bool,
}

/// Reads a line without its CRLF.
pub(super) fn parse(line: &[u8]) -> Result<Command, Reply> {
    let syntax = |text: &str| Reply::new(500, 5, 2, text);
    let line = std::str::from_utf8(line).map_err(|_| syntax("command is not UTF-8"))?;
    if line.chars().any(char::is_control) {
        return Err(syntax("control character in command"));
    }
    let line = line.trim_end_matches(' ');
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let bare = |command: Command| {
        if rest.is_empty() { Ok(command) } else { Err(Reply::new(501, 5, 4, "that command takes no parameter")) }
    };
    match verb.to_ascii_uppercase().as_str() {
        "LHLO" => hello(Hello::Lhlo, rest),
        "EHLO" => hello(Hello::Ehlo, rest),
        "HELO" => hello(Hello::Helo, rest),
        "MAIL" => mail(rest),
        "RCPT" => recipient(rest),
        "DATA" => bare(Command::Data),
        "RSET" => bare(Command::Reset),
        "QUIT" => bare(Command::Quit),
        "STARTTLS" => bare(Command::StartTls),
        "NOOP" => Ok(Command::Noop),
        "HELP" => Ok(Command::Help),
        "VRFY" if !rest.is_empty() => Ok(Command::Verify),
        "VRFY" => Err(Reply::new(501, 5, 4, "syntax: VRFY address")),
        "AUTH" => auth(rest),
        "BDAT" | "EXPN" | "ETRN" | "TURN" | "ATRN" | "BURL" | "SEND" | "SOML" | "SAML" => {
            Err(Reply::new(502, 5, 1, "command not implemented"))
        }
        _ => Err(Reply::new(500, 5, 1, "command unknown")),
    }
}

fn hello(verb: Hello, name: &str) -> Result<Command, Reply> {
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Reply::new(501, 5, 4, "the greeting needs one host name or address literal"));
    }
    Ok(Command::Hello { verb, name: name.to_owned() })
}

fn mail(rest: &str) -> Result<Command, Reply> {
    let usage = || Reply::new(501, 5, 4, "syntax: MAIL FROM:<address>");
    let (path, words) = path_and_parameters(rest, "FROM:").ok_or_else(usage)?;
    let sender = Path::parse(path.as_bytes()).map_err(|error| bad_path(error, 7))?;
    let mut parameters = MailParameters::default();
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let again = match (name.to_ascii_uppercase().as_str(), value) {
            ("SIZE", Some(value)) => parameters.size.replace(octets(value)?).is_some(),
            ("BODY", Some(value)) if value.eq_ignore_ascii_case("7BIT") => false,
            ("BODY", Some(value)) if value.eq_ignore_ascii_case("8BITMIME") => {
                std::mem::replace(&mut parameters.eight_bit, true)
            }
            ("SMTPUTF8", None) => std::mem::replace(&mut parameters.smtputf8, true),
            ("AUTH", Some(_)) => std::mem::replace(&mut parameters.auth, true),
            _ => return Err(unsupported(word)),
        };
        if again {
            return Err(Reply::new(501, 5, 4, format!("parameter {name} given twice")));
        }
    }
    Ok(Command::Mail { sender, parameters })
}

fn recipient(rest: &str) -> Result<Command, Reply> {
    let usage = || Reply::new(501, 5, 4, "syntax: RCPT TO:<address>");
    let (path, words) = path_and_parameters(rest, "TO:").ok_or_else(usage)?;
    if let Some(word) = words.split(' ').find(|word| !word.is_empty()) {
        return Err(unsupported(word));
    }
    let path = Path::parse(path.as_bytes()).map_err(|error| bad_path(error, 3))?;
    if path.is_null() {
        return Err(Reply::new(501, 1, 3, "the null path is no recipient"));
    }
    Ok(Command::Recipient(path))
}

/// RFC 6531 section 3.5: an address beyond ASCII in a transaction that was not declared as SMTPUTF8.
pub(super) fn needs_smtputf8() -> Reply {
    Reply::new(553, 6, 7, "an address beyond ASCII needs the SMTPUTF8 parameter of MAIL")
}

fn auth(rest: &str) -> Result<Command, Reply> {
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    let (mechanism, initial) = (words.next(), words.next());
    match (mechanism, words.next()) {
        (Some(mechanism), None) => {
            Ok(Command::Auth { mechanism: mechanism.to_ascii_uppercase(), initial: initial.map(str::to_owned) })
        }
        _ => Err(Reply::new(501, 5, 4, "syntax: AUTH mechanism [initial-response]")),
    }
}

/// `FROM:<path> parameters` into its parts, brackets kept. A space after the colon is met in the field and does no harm.
fn path_and_parameters<'a>(rest: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (head, rest) = rest.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_start_matches(' ');
    let end = closing_bracket(rest)?;
    let (path, parameters) = rest.split_at_checked(end)?;
    (parameters.is_empty() || parameters.starts_with(' ')).then_some((path, parameters))
}

/// Where the path that begins with `<` ends, brackets within quotes not counted.
fn closing_bracket(text: &str) -> Option<usize> {
    if !text.starts_with('<') {
        return None;
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, octet) in text.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn octets(digits: &str) -> Result<u64, Reply> {
    if digits.is_empty() || digits.len() > SIZE_DIGITS_MAX || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Reply::new(501, 5, 4, "SIZE is a number of octets"));
    }
    Ok(digits.parse().unwrap_or(u64::MAX))
}

fn unsupported(word: &str) -> Reply {
    // Replies are ASCII unless the transaction is SMTPUTF8 (RFC 6531 section 3.7.4).
    Reply::new(555, 5, 4, format!("unsupported parameter: {}", word.escape_default()))
}

fn bad_path(error: PathError, detail: u16) -> Reply {
    Reply::new(501, 1, detail, format!("bad address: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(line: &str) -> (String, MailParameters) {
        match parse(line.as_bytes()) {
            Ok(Command::Mail { sender, parameters }) => (sender.as_str().to_owned(), parameters),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn paths_keep_their_spelling() {
        for (line, expected) in [
            ("MAIL FROM:<>", ""),
            ("mail from: <A@B.example>", "A@B.example"),
            ("MAIL FROM:<\"a > b\"@c.example> SIZE=1", "\"a > b\"@c.example"),
            ("MAIL FROM:<\"a\\\"b\"@c.example>", "\"a\\\"b\"@c.example"),
            ("MAIL FROM:<postmaster>", "postmaster"),
            ("MAIL FROM:<@relay.example:a@b.example>", "a@b.example"),
            ("MAIL FROM:<ü@b.example> SMTPUTF8", "ü@b.example"),
        ] {
            assert_eq!(sender(line).0, expected, "{line}");
        }
    }

    #[test]
    fn parameters_are_read_in_any_case_and_order() {
        let (_, parameters) = sender("MAIL FROM:<a@b.example> smtputf8 body=8bitmime  SIZE=99999999999999999999");
        assert_eq!(parameters, MailParameters { size: Some(u64::MAX), eight_bit: true, smtputf8: true, auth: false });
    }

    #[test]
    fn what_is_wrong_gets_the_reply_that_says_so() {
        for (line, expected) in [
            (&b""[..], "500 5.5.1"),
            (b"WHAT", "500 5.5.1"),
            (b"MAIL\tFROM:<a@b.example>", "500 5.5.2"),
            (b"NOOP \0", "500 5.5.2"),
            (b"NOOP \xff", "500 5.5.2"),
            (b"NOOP \rx", "500 5.5.2"),
            (b"LHLO", "501 5.5.4"),
            (b"LHLO a b", "501 5.5.4"),
            (b"DATA now", "501 5.5.4"),
            (b"MAIL", "501 5.5.4"),
            (b"MAIL FROM:a@b.example", "501 5.5.4"),
            (b"MAIL FROM:<a@b.example", "501 5.5.4"),
            (b"MAIL FROM:<a@b.example>SIZE=1", "501 5.5.4"),
            (b"MAIL FROM:<a b@c.example>", "501 5.1.7"),
            (b"MAIL FROM:<a@b.example> SIZE=x", "501 5.5.4"),
            (b"MAIL FROM:<a@b.example> SIZE=1 SIZE=2", "501 5.5.4"),
            (b"MAIL FROM:<a@b.example> BODY=BINARYMIME", "555 5.5.4"),
            (b"MAIL FROM:<a@b.example> RET=FULL", "555 5.5.4"),
            (b"RCPT TO:<>", "501 5.1.3"),
            (b"RCPT TO:<a@b.example> NOTIFY=NEVER", "555 5.5.4"),
            (b"RCPT FROM:<a@b.example>", "501 5.5.4"),
            (b"BDAT 10 LAST", "502 5.5.1"),
            (b"AUTH", "501 5.5.4"),
        ] {
            let reply = parse(line).unwrap_err().to_string();
            assert!(reply.starts_with(expected), "{:?}: {reply}", String::from_utf8_lossy(line));
        }
    }
}
