//! What a ticket system's HTTP answer says of a message. Pure: an [`Answer`] in, an [`Outcome`] out.
//!
//! Success is only what the system documents as its own success: a page of some other service at the same address, a login form or
//! an empty answer of a proxy is none. What is documented as the refusal of a message is permanent; everything else is temporary.
//!
//! | system | success | refusal | sources |
//! | --- | --- | --- | --- |
//! | osTicket | 201 | 415, 416, 417, 501; 403 by `refused` | setup/scripts/automail.php, include/api.tickets.php |
//! | RT | 2xx, the answer begins with `ok` | `not ok` by `refused` | bin/rt-mailgate, REST/1.0/NoAuth/mail-gateway |
//! | Action Mailbox, Chatwoot | 2xx without content (204) | none | ActionMailbox::Relayer, its relay ingress |
//! | GitLab | 200, `{"success": true}` | 400, `{"success": false}` | lib/api/internal/mail_room.rb |
//! | any other | 2xx | none | |

use super::outcome::{Outcome, Trouble};
use crate::config::{Refused, TicketSystem};
use crate::mail::Reply;

/// Octets of an answer's content that are read at most (64 KiB); beyond, it counts as cut off.
pub(super) const CONTENT_MAX: usize = 64 * 1024;
/// Characters of it that are told.
const SHOWN: usize = 200;

/// An HTTP answer, as far as it matters.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `Location`, of a redirection.
    pub(super) location: Option<String>,
    /// At most [`CONTENT_MAX`] octets.
    pub(super) content: Vec<u8>,
    /// Whether that is all of the content.
    pub(super) whole: bool,
    /// The content repeats a secret and must not be told.
    pub(super) unspeakable: bool,
}

/// Judges an answer of a system called `name`. `refused` says what becomes of mail that the system does not want, where that cannot
/// be told from a fault for certain.
pub(super) fn judge(name: &str, preset: Option<TicketSystem>, refused: Refused, answer: &Answer) -> Outcome {
    let status = answer.status;
    let text = answer.told(name);
    let log = format!("HTTP {status}");
    let taken = || Outcome::said(Reply::new(250, 0, 0, &text), &log);
    let bad = |subject, detail| Outcome::said(Reply::new(554, subject, detail, &text), &log);
    let unwanted = || match refused {
        Refused::Reject => bad(7, 1),
        Refused::Defer => Outcome::later((7, 1), &text, &log),
    };
    let no_success = |what: &str| {
        let text = format!("{text}; no success of {name}: {what}");
        Outcome::until_mended((3, 5), text, &log)
    };
    let success = (200..300).contains(&status);
    match preset {
        Some(TicketSystem::OsTicket) => match status {
            201 => return taken(),
            403 => return unwanted(),
            415..=417 | 501 => return bad(6, 0),
            _ if success => return no_success("that would be 201; is the url right?"),
            _ => {}
        },
        Some(TicketSystem::Rt) if success => {
            // What the message came to stands in the first line alone: half of it is none.
            return match &*answer.content {
                content if !answer.whole && !content.contains(&b'\n') => cut_off(name, &log),
                content if content.starts_with(b"ok") => taken(),
                content if content.starts_with(b"not ok") => unwanted(),
                content if content.starts_with(b"temporary failure") => Outcome::later((3, 0), &text, &log),
                _ => no_success("that would begin with \"ok\"; is the url right?"),
            };
        }
        Some(TicketSystem::ActionMailbox | TicketSystem::Chatwoot) if success => {
            return match (answer.content.is_empty(), answer.whole) {
                (true, true) => taken(),
                (true, false) => cut_off(name, &log),
                _ => no_success("that would be 204, without content; is the url right?"),
            };
        }
        Some(TicketSystem::GitLab) if success || status == 400 => {
            // An object that can be read is there from end to end, whatever was to follow.
            return match (answer.success(), answer.whole) {
                (Some(true), _) if status == 200 => taken(),
                (Some(false), _) if status == 400 => bad(6, 0),
                (None, false) => cut_off(name, &log),
                _ if success => no_success("that would be 200 with {\"success\": true}; is the url right?"),
                _ => Outcome::later((3, 0), &text, &log),
            };
        }
        Some(TicketSystem::Zammad | TicketSystem::Otrs) | None if success => return taken(),
        _ => {}
    }
    let ((subject, detail), trouble) = match status {
        401 | 403 | 407 => ((7, 0), Trouble::Lasting),
        300..=399 | 404 | 405 | 410 => ((3, 5), Trouble::Lasting),
        413 => ((3, 4), Trouble::Lasting),
        408 | 425 | 429 | 502..=504 => ((3, 2), Trouble::Passing),
        _ => ((3, 0), Trouble::Passing),
    };
    Outcome { trouble: Some(trouble), ..Outcome::later((subject, detail), &text, &log) }
}

/// Whether such a system tells by the content of its answers, and not by their status alone, what a message came to.
pub(super) fn tells_by_content(preset: Option<TicketSystem>) -> bool {
    use TicketSystem::{ActionMailbox, Chatwoot, GitLab, Rt};
    matches!(preset, Some(Rt | ActionMailbox | Chatwoot | GitLab))
}

fn cut_off(name: &str, log: &str) -> Outcome {
    Outcome::later((4, 2), format!("{name}: {log}: the answer was cut off, unknown whether it was taken"), log)
}

impl Answer {
    /// The answer in one line, as far as it is for people: markup and secrets are not.
    fn told(&self, name: &str) -> String {
        let hint = match self.status {
            401 => " (not let in)".to_owned(),
            413 => " (too large for its web server)".to_owned(),
            300..=399 => match &self.location {
                Some(to) if !self.unspeakable => format!(" (not followed; it leads to {})", one_line(to)),
                _ => " (not followed)".to_owned(),
            },
            404 | 405 | 410 => " (is the url right?)".to_owned(),
            _ => String::new(),
        };
        let content = String::from_utf8_lossy(&self.content);
        let line = content.trim().lines().next().unwrap_or_default();
        let words = if line.starts_with('<') || self.unspeakable { String::new() } else { one_line(line) };
        let words = if words.is_empty() { words } else { format!(": {words}") };
        format!("{name}: HTTP {}{hint}{words}", self.status)
    }

    /// `success` of a JSON object.
    fn success(&self) -> Option<bool> {
        let object: serde_json::Value = serde_json::from_slice(&self.content).ok()?;
        object.get("success")?.as_bool()
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SYSTEMS: [Option<TicketSystem>; 8] = [
        None,
        Some(TicketSystem::OsTicket),
        Some(TicketSystem::Rt),
        Some(TicketSystem::ActionMailbox),
        Some(TicketSystem::Chatwoot),
        Some(TicketSystem::GitLab),
        Some(TicketSystem::Zammad),
        Some(TicketSystem::Otrs),
    ];

    fn answer(status: u16, content: &str) -> Answer {
        Answer { status, content: content.into(), whole: true, ..Answer::default() }
    }

    fn reply(preset: TicketSystem, status: u16, content: &str) -> String {
        judge(preset.as_str(), Some(preset), Refused::Defer, &answer(status, content)).reply.to_string()
    }

    #[test]
    fn each_documented_answer_has_its_reply() {
        use TicketSystem::{ActionMailbox, GitLab, OsTicket, Rt};
        for (preset, status, content, expected) in [
            (OsTicket, 201, "123456", "250 2.0.0 osticket: HTTP 201: 123456"),
            (OsTicket, 200, "<html>", "451 4.3.5 osticket: HTTP 200; no success"),
            (OsTicket, 400, "Unexpected data", "451 4.3.0"),
            (OsTicket, 401, "Valid API key required", "451 4.7.0"),
            (OsTicket, 403, "Ticket denied", "451 4.7.1"),
            (OsTicket, 415, "", "554 5.6.0"),
            (OsTicket, 416, "", "554 5.6.0"),
            (OsTicket, 417, "", "554 5.6.0"),
            (OsTicket, 500, "unknown error", "451 4.3.0"),
            (OsTicket, 501, "", "554 5.6.0"),
            (OsTicket, 503, "", "451 4.3.2"),
            (Rt, 200, "ok\nTicket: 1\n", "250 2.0.0 rt: HTTP 200: ok"),
            (Rt, 200, "okTicket: 1", "250 2.0.0"),
            (Rt, 200, "not ok - Could not load a valid user", "451 4.7.1"),
            (Rt, 200, "temporary failure - RT couldn't find the queue", "451 4.3.0"),
            (Rt, 200, "<html>login</html>", "451 4.3.5"),
            (Rt, 200, " ok", "451 4.3.5"),
            (Rt, 200, "", "451 4.3.5"),
            (Rt, 500, "ok", "451 4.3.0"),
            (Rt, 403, "", "451 4.7.0"),
            (ActionMailbox, 204, "", "250 2.0.0"),
            (ActionMailbox, 200, "", "250 2.0.0"),
            (ActionMailbox, 200, "<!DOCTYPE html>", "451 4.3.5"),
            (ActionMailbox, 401, "HTTP Basic: Access denied.", "451 4.7.0"),
            (ActionMailbox, 404, "", "451 4.3.5"),
            (ActionMailbox, 415, "", "451 4.3.0"),
            (ActionMailbox, 422, "", "451 4.3.0"),
            (ActionMailbox, 500, "", "451 4.3.0"),
            (GitLab, 200, "{\"success\":true}", "250 2.0.0"),
            (GitLab, 200, "{\"success\":false}", "451 4.3.5"),
            (GitLab, 201, "{\"success\":true}", "451 4.3.5"),
            (GitLab, 200, "ok", "451 4.3.5"),
            (GitLab, 400, "{\"success\":false,\"message\":\"too large\"}", "554 5.6.0"),
            (GitLab, 400, "{\"error\":\"mailbox_type is missing\"}", "451 4.3.0"),
            (GitLab, 401, "{\"message\":\"401 Unauthorized\"}", "451 4.7.0"),
            (OsTicket, 302, "", "451 4.3.5 osticket: HTTP 302 (not followed)"),
            (OsTicket, 413, "<html>", "451 4.3.4"),
            (OsTicket, 429, "", "451 4.3.2"),
            (OsTicket, 999, "", "451 4.3.0"),
        ] {
            let reply = reply(preset, status, content);
            assert!(reply.starts_with(expected), "{preset:?} {status} {content}: {reply}");
        }
    }

    #[test]
    fn what_the_system_does_not_want_bounces_only_where_that_is_asked_for() {
        for (preset, status, content) in
            [(TicketSystem::Rt, 200, "not ok - loop"), (TicketSystem::OsTicket, 403, "Ticket denied")]
        {
            let outcome = judge("x", Some(preset), Refused::Reject, &answer(status, content));
            assert!(outcome.reply.to_string().starts_with("554 5.7.1"), "{}", outcome.reply);
        }
    }

    #[test]
    fn an_answer_that_was_cut_off_is_no_success_where_the_content_says_it() {
        for (preset, status, content) in [
            (TicketSystem::Rt, 200, "ok"),
            (TicketSystem::GitLab, 200, "{\"success\":tr"),
            (TicketSystem::ActionMailbox, 200, ""),
        ] {
            let answer = Answer { whole: false, ..answer(status, content) };
            let outcome = judge("x", Some(preset), Refused::Defer, &answer);
            assert!(outcome.reply.is_transient() && outcome.reply.text().contains("cut off"), "{}", outcome.reply);
        }
    }

    #[test]
    fn a_success_whose_end_is_missing_is_one_where_all_that_matters_is_there() {
        for (preset, status, content) in [
            (TicketSystem::OsTicket, 201, ""),
            (TicketSystem::Rt, 200, "ok\nTick"),
            (TicketSystem::GitLab, 200, "{\"success\":true}"),
        ] {
            let answer = Answer { whole: false, ..answer(status, content) };
            let outcome = judge("x", Some(preset), Refused::Defer, &answer);
            assert!(outcome.reply.is_success(), "{}", outcome.reply);
        }
    }

    #[test]
    fn markup_and_secrets_are_not_told() {
        let markup = judge("x", None, Refused::Defer, &answer(500, "\n <html><b>s3cret</b>"));
        let secret = judge(
            "x",
            None,
            Refused::Defer,
            &Answer { unspeakable: true, location: Some("s3cret".into()), ..answer(302, "s3cret") },
        );
        for outcome in [markup, secret] {
            assert!(!outcome.reply.text().contains("s3cret"), "{}", outcome.reply);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_answered_only_2xx_is_success_and_each_temporary_reply_is_looked_at(
            system in 0..SYSTEMS.len(), status in 0_u16..1000, content in prop::collection::vec(any::<u8>(), 0..300),
            begin in prop::sample::select(vec!["", "ok", "not ok", "{\"success\":true}", "{\"success\":false}"]), whole: bool,
        ) {
            let content = [begin.as_bytes(), &content].concat();
            let answer = Answer { status, content, whole, ..Answer::default() };
            let outcome = judge("x", SYSTEMS[system], Refused::Defer, &answer);
            prop_assert!(!outcome.reply.is_success() || (200..300).contains(&status));
            prop_assert_eq!(outcome.trouble.is_some(), outcome.reply.is_transient());
            prop_assert!(!outcome.reply.text().chars().any(char::is_control));
        }
    }
}
