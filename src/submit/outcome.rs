//! Replies as an exit code of sysexits(3): what the caller does next depends on it alone.

use std::fmt;

use crate::mail::{Path, Reply};

pub(super) const EX_USAGE: u8 = 64;
pub(super) const EX_DATAERR: u8 = 65;
pub(super) const EX_NOUSER: u8 = 67;
pub(super) const EX_NOHOST: u8 = 68;
pub(super) const EX_UNAVAILABLE: u8 = 69;
pub(super) const EX_IOERR: u8 = 74;
pub(super) const EX_TEMPFAIL: u8 = 75;
pub(super) const EX_NOPERM: u8 = 77;
pub(super) const EX_CONFIG: u8 = 78;

/// Why a message was not taken, and the exit code that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Of sysexits(3).
    pub code: u8,
    text: String,
}

impl Failure {
    pub(super) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The outcome for all recipients. One that may pass later decides: the caller keeps the message and comes again, and those
/// who have it already get it twice, which is better than that one never gets it.
pub(super) fn of(replies: &[(Path, Reply)]) -> Result<(), Failure> {
    let failed: Vec<_> = replies.iter().filter(|(_, reply)| !reply.is_success()).collect();
    let decisive = failed.iter().find(|(_, reply)| !reply.is_permanent()).or(failed.first());
    let Some((_, reply)) = decisive else { return Ok(()) };
    let told: Vec<String> = failed.iter().map(|(recipient, reply)| format!("{recipient} {reply}")).collect();
    let taken = replies.len().saturating_sub(failed.len());
    let others = if taken > 0 { format!(" (taken for {taken} other recipients)") } else { String::new() };
    Err(Failure::new(code(reply), format!("{}{others}", told.join("\n"))))
}

fn code(reply: &Reply) -> u8 {
    if !reply.is_permanent() {
        return EX_TEMPFAIL;
    }
    let enhanced = reply.enhanced().unwrap_or_default();
    let mut parts = enhanced.split('.').skip(1);
    match (parts.next(), parts.next()) {
        (Some("1"), Some("2")) => EX_NOHOST,
        (Some("1"), Some("3" | "7" | "8")) | (Some("6"), _) | (Some("3"), Some("4")) | (Some("2"), Some("3")) => {
            EX_DATAERR
        }
        (Some("1"), _) => EX_NOUSER,
        (Some("7"), _) => EX_NOPERM,
        _ => EX_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whether_to_come_again() {
        let to = |replies: &[Reply]| {
            let replies: Vec<_> =
                replies.iter().map(|reply| (Path::parse(b"a@b.example").unwrap(), reply.clone())).collect();
            of(&replies).map_err(|failure| failure.code).err().unwrap_or(0)
        };
        let (good, later) = (Reply::new(250, 0, 0, "ok"), Reply::new(451, 3, 0, "later"));
        let bad = |subject, detail| Reply::new(550, subject, detail, "no");
        for (replies, expected) in [
            (vec![good.clone(), good.clone()], 0),
            (vec![good.clone(), later.clone()], EX_TEMPFAIL),
            (vec![bad(1, 1), later], EX_TEMPFAIL),
            (vec![good, bad(1, 1)], EX_NOUSER),
            (vec![bad(1, 2)], EX_NOHOST),
            (vec![bad(1, 3)], EX_DATAERR),
            (vec![bad(3, 4)], EX_DATAERR),
            (vec![bad(7, 1)], EX_NOPERM),
            (vec![bad(0, 0)], EX_UNAVAILABLE),
            (vec![Reply::from_remote(554, ["no"])], EX_UNAVAILABLE),
        ] {
            assert_eq!(to(&replies), expected, "{replies:?}");
        }
    }
}
