//! The rules of the desk side for mail that comes in, and of what is remembered of its conversations.

use std::ops::Range;

use toml::Spanned;

use super::check::Check;
use super::desk::{Desk, FieldPattern};
use super::raw_desk;
use super::{Conversations, System};

/// Patterns in a list at most.
const PATTERNS_MAX: usize = 100;
/// Octets of a tag, and of a subject's token, at most.
const TAG_MAX: usize = 100;
const TOKEN_MAX: usize = 40;

impl Check<'_, '_> {
    /// A connector of the desk side has nothing of the company side.
    pub(super) fn desk_alone(&mut self, connector: &str, company_side: [Option<(Range<usize>, &str)>; 2]) {
        for (span, section) in company_side.into_iter().flatten() {
            let text = "is for the company side and [connector.desk] for the desk side; a connector has one of them";
            self.note(span, &format!("connector.{connector}.{section}"), text);
        }
    }

    pub(super) fn desk(&mut self, connector: &str, system: System, raw: Option<raw_desk::Desk>) -> Desk {
        let mut desk = Desk::preset(system);
        let Some(raw) = raw else { return desk };
        let key = |key: &str| format!("connector.{connector}.desk.{key}");
        if let Some(patterns) = raw.strip {
            desk.strip = self.field_patterns(&key("strip"), patterns);
        }
        for (name, value, place) in
            [("ticket_tag", raw.ticket_tag, &mut desk.ticket_tag), ("update_tag", raw.update_tag, &mut desk.update_tag)]
        {
            let Some(text) = value else { continue };
            if is_tag(text.get_ref()) {
                *place = text.into_inner();
            } else {
                let message = format!("{:?} is no tag; write letters, digits, _ - . : and /", text.get_ref());
                self.note(text.span(), &key(name), message);
            }
        }
        if let Some(text) = raw.subject_token {
            let token = text.get_ref();
            if token.len() > TOKEN_MAX
                || token.chars().any(char::is_control)
                || token.ends_with(|c: char| c.is_ascii_digit())
            {
                let message = "not a token; write what stands right before a ticket's number in subjects, for example \
                               \"Ticket#\", or \"\" where the ticket system does not look there";
                self.note(text.span(), &key("subject_token"), message);
            }
            desk.subject_token = Some(text.into_inner()).filter(|token| !token.is_empty());
        }
        desk
    }

    fn field_patterns(&mut self, key: &str, patterns: Spanned<Vec<Spanned<String>>>) -> Vec<FieldPattern> {
        if patterns.get_ref().len() > PATTERNS_MAX {
            self.note(patterns.span(), key, format!("more than {PATTERNS_MAX} names; let one end in * for many"));
        }
        let mut found = Vec::new();
        for text in patterns.into_inner() {
            match FieldPattern::parse(text.get_ref()) {
                Some(pattern) => found.push(pattern),
                None => {
                    let message = format!(
                        "{:?} names no header field; write \"X-Name\", \"X-Prefix-*\", or \"!X-Name\" for an exception",
                        text.get_ref()
                    );
                    self.note(text.span(), key, message);
                }
            }
        }
        found
    }

    pub(super) fn conversations(&mut self, raw: raw_desk::Conversations) -> Conversations {
        Conversations {
            lifetime: self.duration("conversations.lifetime", raw.lifetime, 180 * 86_400, 86_400, 3_650 * 86_400),
            messages: self.count("conversations.messages", raw.messages, 1_000_000, 1_000, 100_000_000),
        }
    }
}

/// Fit for a list that commas separate, in a header field.
fn is_tag(text: &str) -> bool {
    let fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':' | b'/');
    !text.is_empty() && text.len() <= TAG_MAX && text.bytes().all(fit)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::config::{Config, Problems};

    /// A connector that takes mail for its ticket system and submits nothing.
    const DESK: &str = "[daemon]\nhostname = \"desk.example\"\n[milter]\nlisten = [\"unix:/run/deskmilter/milter.sock\"]\n\
                        [[connector]]\nname = \"acme\"\nsystem = \"zammad\"\ndomain = \"acme.example\"\n\
                        addresses = [\"support@acme.example\"]\n[connector.desk]\n";

    fn parse(text: &str) -> Result<Config, Problems> {
        Config::parse(text, Path::new("/etc/deskmilter/deskmilter.toml"))
    }

    #[test]
    fn a_connector_may_be_of_the_desk_side_by_its_desk_section_alone_and_what_is_shown_reads_back() {
        let more = "strip = [\"X-Steer-*\", \"!X-Steer-Not\"]\nticket_tag = \"by_login\"\nupdate_tag = \"by_mail\"\n\
                    subject_token = \"\"\n[conversations]\nlifetime = \"30d\"\nmessages = 5000\n";
        let config = parse(&format!("{DESK}{more}")).unwrap();
        let desk = config.connectors[0].desk.as_ref().unwrap();
        assert!(desk.strips(b"x-steer-here") && !desk.strips(b"X-Steer-Not") && !desk.strips(b"X-Zammad-A"));
        assert_eq!((desk.ticket_tag.as_str(), desk.update_tag.as_str()), ("by_login", "by_mail"));
        assert_eq!(desk.subject_token, None);
        assert_eq!(config.conversations.lifetime, Duration::from_secs(30 * 86_400));
        assert_eq!(config.conversations.messages, 5_000);
        let again = parse(&config.to_string()).unwrap();
        assert_eq!((&again.connectors, &again.conversations), (&config.connectors, &config.conversations));
        let preset = parse(DESK).unwrap();
        assert!(preset.connectors[0].desk.as_ref().unwrap().strips(b"X-Zammad-Ticket-Owner"));
    }

    #[test]
    fn each_rule_of_incoming_mail_is_kept() {
        for (more, expected) in [
            ("strip = [\"*\"]\n", "desk.strip: \"*\" names no header field; write"),
            ("strip = [\"X Y\"]\n", "names no header field"),
            ("ticket_tag = \"a, b\"\n", "desk.ticket_tag: \"a, b\" is no tag"),
            ("update_tag = \"\"\n", "desk.update_tag: \"\" is no tag"),
            ("subject_token = \"Ticket#1\"\n", "desk.subject_token: not a token"),
            ("ticket_tags = \"a\"\n", "did you mean \"ticket_tag\"?"),
            ("[connector.submission]\nlogins = []\n", "a connector has one of them"),
            ("[connector.endpoint]\nhost = \"e.example\"\ncredentials = []\n", "a connector has one of them"),
            ("[conversations]\nlifetime = \"1h\"\n", "conversations.lifetime: \"1h\" is no duration from 1d"),
            ("[conversations]\nmessages = 1\n", "conversations.messages: 1 is out of range"),
            ("[conversations]\nlifetimes = \"30d\"\n", "did you mean \"lifetime\"?"),
        ] {
            let problems = parse(&format!("{DESK}{more}")).expect_err(more).to_string();
            assert!(problems.contains(expected), "{expected}: {problems}");
        }
    }
}
