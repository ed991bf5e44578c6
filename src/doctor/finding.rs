//! What a check of an MTA's configuration found, and what to do about it.

use std::fmt;
use std::io::ErrorKind;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Works, but somebody should look at it.
    Warn,
    /// Does not work.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it ended.
    pub outcome: Outcome,
    /// What was checked.
    pub check: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when all is well.
    pub remedy: String,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: String) -> Self {
        Self { outcome: Outcome::Ok, check, found, remedy: String::new() }
    }

    pub(super) fn warn(check: &'static str, found: String, remedy: &str) -> Self {
        Self { outcome: Outcome::Warn, check, found, remedy: remedy.to_owned() }
    }

    pub(super) fn fail(check: &'static str, found: String, remedy: &str) -> Self {
        Self { outcome: Outcome::Fail, check, found, remedy: remedy.to_owned() }
    }
}

/// What to do about a file of an MTA's that cannot be read or written.
pub(super) fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "; run this as root",
        ErrorKind::NotFound => "; name the MTA's configuration where it is (see --help)",
        ErrorKind::InvalidData => "; convert it to UTF-8 (its comments, most likely) and try again",
        ErrorKind::StorageFull => "; make room there and try again",
        _ => "",
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Ok => "ok  ",
            Outcome::Warn => "warn",
            Outcome::Fail => "fail",
        };
        write!(f, "{outcome}  {}: {}", self.check, self.found)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}
