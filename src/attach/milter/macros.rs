//! Macros: facts that the MTA sends ahead of a command.

/// The commands that macros are sent for, in the order of an SMTP session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// CONNECT.
    Connect,
    /// HELO.
    Helo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// Header fields and their end.
    Headers,
    /// Body and end of message.
    Message,
}

const STAGES: usize = 7;

impl Stage {
    /// The stage of a command octet.
    pub fn of(code: u8) -> Option<Self> {
        Some(match code {
            b'C' => Self::Connect,
            b'H' => Self::Helo,
            b'M' => Self::Mail,
            b'R' => Self::Rcpt,
            b'T' => Self::Data,
            b'L' | b'N' => Self::Headers,
            b'B' | b'E' => Self::Message,
            _ => return None,
        })
    }
}

/// The macros that hold at the moment.
///
/// A set belongs to the command that follows it. A command ends the sets of all later stages, and its own one unless that
/// was sent just now: the login of one message must never be taken for that of the next.
#[derive(Debug, Default)]
pub struct Macros {
    /// The sets as sent, one for each stage. The buffers are used again.
    sets: [Vec<u8>; STAGES],
    /// The set that came since the last command with macros.
    fresh: Option<Stage>,
}

impl Macros {
    /// Takes the set for the command that is to follow: names and values in turn, each ended by NUL.
    pub fn define(&mut self, stage: Stage, list: &[u8]) {
        self.clear_from(stage);
        if let Some(set) = self.sets.get_mut(stage as usize) {
            set.extend_from_slice(list);
        }
        self.fresh = Some(stage);
    }

    /// The command of `stage` has come.
    pub fn enter(&mut self, stage: Stage) {
        let keep = usize::from(self.fresh.take() == Some(stage));
        self.sets.iter_mut().skip(stage as usize + keep).for_each(Vec::clear);
    }

    /// Forgets the sets of `stage` and all later ones.
    pub fn clear_from(&mut self, stage: Stage) {
        self.sets.iter_mut().skip(stage as usize).for_each(Vec::clear);
        self.fresh = None;
    }

    /// The value of a macro, the latest stage first; `None` when it was not sent or is empty. MTAs send long names in
    /// braces and short ones with or without: `name` is without.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let named = |set: &Vec<u8>| find(set, name.as_bytes()).is_some();
        let set = self.sets.iter().rev().find(|set| named(set))?;
        find(set, name.as_bytes()).filter(|value| !value.is_empty())
    }

    /// As [`Self::get`], as text; what is not UTF-8 is replaced.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

/// The value of `name` in one set. A name without a value at the end of the set is passed over.
fn find<'a>(set: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut strings = set.strip_suffix(&[0]).unwrap_or(set).split(|&b| b == 0);
    while let (Some(sent), Some(value)) = (strings.next(), strings.next()) {
        let bare = sent.strip_prefix(b"{").and_then(|s| s.strip_suffix(b"}")).unwrap_or(sent);
        if bare == name {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_and_without_braces() {
        let mut macros = Macros::default();
        macros.define(Stage::Connect, b"j\0mx.example\0{daemon_name}\0smtpd\0{i}\0ABC\0");
        assert_eq!(macros.get("j"), Some(&b"mx.example"[..]));
        assert_eq!(macros.text("daemon_name").as_deref(), Some("smtpd"));
        assert_eq!(macros.get("i"), Some(&b"ABC"[..]));
        assert_eq!(macros.get("daemon"), None);
    }

    #[test]
    fn a_new_stage_ends_the_later_ones_and_keeps_the_earlier_ones() {
        let mut macros = Macros::default();
        macros.define(Stage::Helo, b"{tls_version}\0TLSv1.3\0");
        macros.enter(Stage::Helo);
        macros.define(Stage::Mail, b"{auth_authen}\0alice\0");
        macros.enter(Stage::Mail);
        macros.define(Stage::Data, b"i\0Q1\0");
        macros.enter(Stage::Data);
        macros.define(Stage::Mail, b"");
        macros.enter(Stage::Mail);
        assert_eq!(macros.get("i"), None);
        assert_eq!(macros.get("auth_authen"), None);
        assert_eq!(macros.get("tls_version"), Some(&b"TLSv1.3"[..]));
    }

    #[test]
    fn a_command_without_macros_ends_those_of_the_one_before() {
        let mut macros = Macros::default();
        macros.define(Stage::Mail, b"{auth_authen}\0alice\0");
        macros.enter(Stage::Mail);
        macros.enter(Stage::Rcpt);
        assert_eq!(macros.get("auth_authen"), Some(&b"alice"[..]));
        macros.enter(Stage::Mail);
        assert_eq!(macros.get("auth_authen"), None);
    }

    #[test]
    fn an_odd_count_an_empty_value_or_no_nul_does_no_harm() {
        let mut macros = Macros::default();
        macros.define(Stage::Mail, b"i\0Q1\0{auth_authen}\0\0{mail_addr}");
        assert_eq!(macros.get("i"), Some(&b"Q1"[..]));
        assert_eq!(macros.get("auth_authen"), None);
        assert_eq!(macros.get("mail_addr"), None);
        macros.define(Stage::Mail, b"\0\0\0\0");
        assert_eq!(macros.get("i"), None);
    }
}
