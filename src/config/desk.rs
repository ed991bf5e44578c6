//! The desk side of a connector for mail that comes in: what the ticket system is told of it, and what strangers must not tell it.

use super::System;

/// `[connector.desk]`: what becomes of mail for the ticket system on its own side. A preset of the system unless told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desk {
    /// Fields that mail without a credential loses; see [`Self::strips`].
    pub strip: Vec<FieldPattern>,
    /// The tag of a new ticket that came by a credential.
    pub ticket_tag: String,
    /// The tag of mail without one that updates such a ticket.
    pub update_tag: String,
    /// What stands right before the ticket's number in a subject, in any letter case; `None` where the ticket system does not look
    /// for its numbers there.
    pub subject_token: Option<String>,
}

/// Names of header fields: `X-Zammad-*`, `X-OTRS-Queue`, or after `!` what is excepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldPattern {
    text: String,
}

/// The names that Zendesk gave them.
const TICKET_TAG: &str = "system_authenticated_email_ticket";
const UPDATE_TAG: &str = "system_unauthenticated_email_update";

/// `X-OTRS-Loop` and `X-RT-Loop-Prevention` steer nothing: by them these systems know their own mail when it comes back, and
/// without them two of them would answer each other for ever.
const ZAMMAD: [&str; 1] = ["X-Zammad-*"];
const OTRS: [&str; 4] = ["X-OTRS-*", "X-Znuny-*", "X-OTOBO-*", "!X-OTRS-Loop"];
const RT: [&str; 3] = ["X-RT-*", "RT-*", "!X-RT-Loop-Prevention"];

/// Octets of a pattern at most.
const PATTERN_MAX: usize = 100;

impl Desk {
    /// What holds for `system` unless told.
    pub fn preset(system: System) -> Self {
        let strip: Vec<&str> = match system {
            System::Zammad => ZAMMAD.to_vec(),
            System::Otrs => OTRS.to_vec(),
            System::Rt => RT.to_vec(),
            // None that would steer them is known.
            System::Zendesk | System::FreeScout => Vec::new(),
            // It may be any of them.
            System::Generic => [&ZAMMAD[..], &OTRS, &RT].concat(),
        };
        let subject_token = match system {
            System::Zammad | System::Otrs => Some("Ticket#"),
            System::Rt | System::Generic => Some("#"),
            // These go by Message-IDs alone.
            System::Zendesk | System::FreeScout => None,
        };
        Self {
            strip: strip.into_iter().filter_map(FieldPattern::parse).collect(),
            ticket_tag: TICKET_TAG.to_owned(),
            update_tag: UPDATE_TAG.to_owned(),
            subject_token: subject_token.map(str::to_owned),
        }
    }

    /// Whether mail without a credential loses a field of this name: some pattern says so, and none excepts it.
    pub fn strips(&self, name: &[u8]) -> bool {
        let mut matching = self.strip.iter().filter(|pattern| pattern.matches(name)).peekable();
        matching.peek().is_some() && !matching.any(FieldPattern::excepts)
    }
}

impl FieldPattern {
    /// Reads a pattern; `None` when it is none. `*` alone is none: no mail would be left.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_prefix('!').unwrap_or(text);
        let name = name.strip_suffix('*').unwrap_or(name);
        let fit = |b: u8| b.is_ascii_graphic() && !matches!(b, b':' | b'*' | b'!');
        (!name.is_empty() && text.len() <= PATTERN_MAX && name.bytes().all(fit)).then(|| Self { text: text.to_owned() })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn excepts(&self) -> bool {
        self.text.starts_with('!')
    }

    fn matches(&self, name: &[u8]) -> bool {
        let pattern = self.text.strip_prefix('!').unwrap_or(&self.text);
        match pattern.strip_suffix('*') {
            Some(begin) => name.get(..begin.len()).is_some_and(|octets| octets.eq_ignore_ascii_case(begin.as_bytes())),
            None => name.eq_ignore_ascii_case(pattern.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_loses_what_steers_it_and_keeps_what_ends_loops() {
        for (system, lost, kept) in [
            (
                System::Zammad,
                &["X-Zammad-Ticket-Priority", "x-zammad-ignore"][..],
                &["X-Zammad", "X-RT-Sign", "X-Loop"][..],
            ),
            (System::Otrs, &["X-OTRS-Queue", "x-otrs-followup-state", "X-Znuny-X"], &["X-OTRS-Loop", "x-otrs-loop"]),
            (System::Rt, &["X-RT-GPG-Status", "RT-Squelch-Replies-To"], &["x-rt-loop-prevention", "X-Zammad-Ignore"]),
            (System::Generic, &["X-Zammad-A", "X-OTRS-A", "X-RT-A"], &["X-RT-Loop-Prevention", "Subject"]),
            (System::Zendesk, &[], &["X-Zammad-A", "X-Zendesk-Email-Id"]),
        ] {
            let desk = Desk::preset(system);
            assert!(lost.iter().all(|name| desk.strips(name.as_bytes())), "{system:?} keeps what it should lose");
            assert!(!kept.iter().any(|name| desk.strips(name.as_bytes())), "{system:?} loses what it should keep");
        }
    }

    #[test]
    fn a_pattern_names_one_field_or_begins_many_and_never_all() {
        for good in ["X-A", "X-A-*", "!X-A", "!X-A-*"] {
            assert_eq!(FieldPattern::parse(good).unwrap().as_str(), good);
        }
        for wrong in ["", "*", "!", "!*", "X A", "X:A", "X-*-A", "X-\u{fc}", "!!X", &"x".repeat(101)] {
            assert_eq!(FieldPattern::parse(wrong), None, "{wrong}");
        }
    }
}
