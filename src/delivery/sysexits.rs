//! What a program's exit status says of a message, as sysexits.h and Postfix's pipe(8) have it.
//!
//! Two things differ from pipe(8). What tells of trouble with the program or this host, and nothing of the message, is temporary:
//! Postfix bounces for 64, 66, 69, 70, 72, 73, 74, 76, 78 and for every status that it does not know. And as with Postfix an enhanced
//! status code at the beginning of what the program says counts before the exit status: Rails' own ingress commands speak so.

use crate::mail::Reply;

use super::outcome::{Outcome, Trouble};

/// EX_USAGE.
const USAGE: i32 = 64;
/// EX_DATAERR.
const DATA: i32 = 65;
/// EX_NOUSER.
const NO_USER: i32 = 67;
/// EX_NOHOST.
const NO_HOST: i32 = 68;
/// EX_UNAVAILABLE.
const UNAVAILABLE: i32 = 69;
/// EX_TEMPFAIL.
const TEMPFAIL: i32 = 75;
/// EX_PROTOCOL.
const PROTOCOL: i32 = 76;
/// EX_NOPERM.
const NO_PERMISSION: i32 = 77;
/// EX_CONFIG.
const CONFIG: i32 = 78;

/// Judges how a program ended; `said` is the first line of what it said.
pub(super) fn judge(name: &str, status: i32, said: &str) -> Outcome {
    let told = if said.is_empty() { String::new() } else { format!(": {said}") };
    let log = format!("exit {status}");
    if status == 0 {
        return Outcome::said(Reply::new(250, 0, 0, format!("{name}: taken{told}")), log);
    }
    if let Some((class, subject, detail)) = enhanced(said) {
        let text = format!("{name}: exit status {status}{told}");
        return match class {
            5 => Outcome::said(Reply::new(permanent(subject), subject, detail, text), log),
            _ => Outcome::later((subject, detail), text, log),
        };
    }
    let (meaning, reply, trouble) = match status {
        USAGE => ("command line usage error", (451, 3, 5), Some(Trouble::Lasting)),
        DATA => ("data format error", (554, 6, 0), None),
        NO_USER => ("user unknown", (550, 1, 1), None),
        NO_HOST => ("host name unknown", (550, 1, 2), None),
        UNAVAILABLE => ("service unavailable", (451, 3, 0), Some(Trouble::Passing)),
        TEMPFAIL => ("temporary failure", (451, 3, 0), Some(Trouble::Passing)),
        PROTOCOL => ("remote error in protocol", (451, 5, 0), Some(Trouble::Passing)),
        NO_PERMISSION => ("permission denied", (550, 7, 0), None),
        CONFIG => ("local configuration error", (451, 3, 5), Some(Trouble::Lasting)),
        66 => ("cannot open input", (451, 3, 0), Some(Trouble::Lasting)),
        70 => ("internal software error", (451, 3, 0), Some(Trouble::Lasting)),
        71 => ("system resource problem", (451, 3, 0), Some(Trouble::Passing)),
        72 => ("critical OS file missing", (451, 3, 0), Some(Trouble::Lasting)),
        73 => ("can't create user output file", (451, 3, 0), Some(Trouble::Lasting)),
        74 => ("input/output error", (451, 3, 0), Some(Trouble::Passing)),
        _ => ("of no known meaning", (451, 3, 0), Some(Trouble::Lasting)),
    };
    let (code, subject, detail) = reply;
    let text = format!("{name}: exit status {status} ({meaning}){told}");
    Outcome { reply: Reply::new(code, subject, detail, text), status: log, trouble, tls: None }
}

/// The code that goes with an enhanced code of class 5: 550 about mailboxes and policy, 554 about everything else.
fn permanent(subject: u16) -> u16 {
    if matches!(subject, 1 | 2 | 7) { 550 } else { 554 }
}

/// `4.7.0` or `5.1.1` at the beginning of a line (RFC 3463).
fn enhanced(said: &str) -> Option<(u16, u16, u16)> {
    let word = said.split_ascii_whitespace().next()?;
    let mut parts = word.split('.');
    let mut number =
        || parts.next().filter(|part| (1..=3).contains(&part.len())).and_then(|part| part.parse::<u16>().ok());
    let (class, subject, detail) = (number()?, number()?, number()?);
    let digits = word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (parts.next().is_none() && digits && matches!(class, 4 | 5)).then_some((class, subject, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_status_has_its_reply() {
        for (status, reply) in [
            (0, "250 2.0.0"),
            (1, "451 4.3.0"),
            (64, "451 4.3.5"),
            (65, "554 5.6.0"),
            (66, "451 4.3.0"),
            (67, "550 5.1.1"),
            (68, "550 5.1.2"),
            (69, "451 4.3.0"),
            (70, "451 4.3.0"),
            (71, "451 4.3.0"),
            (72, "451 4.3.0"),
            (73, "451 4.3.0"),
            (74, "451 4.3.0"),
            (75, "451 4.3.0"),
            (76, "451 4.5.0"),
            (77, "550 5.7.0"),
            (78, "451 4.3.5"),
            (79, "451 4.3.0"),
            (127, "451 4.3.0"),
            (255, "451 4.3.0"),
        ] {
            let outcome = judge("command", status, "words");
            assert!(outcome.reply.to_string().starts_with(reply), "{status}: {}", outcome.reply);
            assert!(outcome.reply.text().ends_with(": words") && outcome.status == format!("exit {status}"));
            assert_eq!(outcome.trouble.is_some(), outcome.reply.is_transient(), "{status}");
        }
    }

    #[test]
    fn only_zero_is_success_whatever_the_program_says() {
        for status in 1..=255 {
            for said in ["", "2.0.0 ok", "250 ok", "4.2.0 x", "5.1.1 x", "5.1.1", "5.1.1.1 x", "5.1", "9.9.9 x"] {
                assert!(!judge("command", status, said).reply.is_success(), "{status} {said}");
            }
        }
    }

    #[test]
    fn an_enhanced_code_counts_before_the_exit_status() {
        for (status, said, reply) in [
            (1, "4.7.0 Invalid credentials for ingress", "451 4.7.0"),
            (1, "5.1.1 nobody here", "550 5.1.1"),
            (75, "5.6.0 no mail", "554 5.6.0"),
            (65, "4.3.2 shutting down", "451 4.3.2"),
            (65, "5.6.0x", "554 5.6.0"),
            (75, "+5.6.0 x", "451 4.3.0"),
        ] {
            let outcome = judge("command", status, said);
            assert!(outcome.reply.to_string().starts_with(reply), "{said}: {}", outcome.reply);
        }
    }
}
