//! The server's side of Dovecot's authentication protocol. Part of `attach::sasl`.

use super::protocol::{Action, Session};

pub(crate) fn session(octets: &[u8]) {
    let mut session = Session::default();
    let mut secured = Vec::new();
    let mut version = false;
    for line in octets.split(|&octet| octet == b'\n') {
        let words: Vec<&[u8]> = line.split(|&octet| octet == b'\t').collect();
        if words.first() == Some(&&b"AUTH"[..]) && words.iter().any(|word| word.starts_with(b"secured")) {
            secured.extend(words.get(1).and_then(|id| std::str::from_utf8(id).ok()?.parse::<u32>().ok()));
        }
        match session.receive(line) {
            Action::Wait => version |= words.first() == Some(&&b"VERSION"[..]),
            Action::Send(reply) | Action::Refuse { reply, .. } => {
                assert!(version, "an answer before the version");
                assert!(reply.ends_with('\n') && reply.matches('\n').count() == 1, "{reply:?}");
            }
            Action::Check(attempt) => {
                assert!(version && secured.contains(&attempt.id), "what came in the clear is checked");
                assert!(!attempt.user.is_empty() && !attempt.password.expose().is_empty());
            }
            Action::Close(_) => return,
        }
    }
}
