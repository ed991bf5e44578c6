//! Issued credentials of what is taken down.
//!
//! They are listed and revoked by `deskmilter credential` as a process of its own: it becomes the daemon's user, to whom the
//! store's files belong, and we must stay who may change the MTA's configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::Stop;
use super::target::Request;
use crate::config::{Config, StoreUrl};

/// One set, as `deskmilter credential list --json` tells it.
#[derive(Debug, Clone, Deserialize)]
struct Set {
    number: i64,
    domain: String,
    address: Option<String>,
}

/// Live sets.
#[derive(Debug, Clone, Default)]
pub(super) struct Sets(Vec<Set>);

impl Sets {
    /// The live sets that are bound to what `request` names.
    pub(super) fn bound_to(request: &Request, config: &Config, file: &Path) -> Result<Self, Stop> {
        if let StoreUrl::Sqlite(path) = &config.store.url {
            let there = path.try_exists().map_err(|error| Stop::Later(format!("{}: {error}", path.display())))?;
            if !there && config.auth.is_none() {
                return Ok(Self::default());
            }
            // A daemon that checks logins has made it, so that it was moved away: what is in it would live on.
            if !there {
                return Err(Stop::Later(format!(
                    "{} is not there, so that no credential can be revoked: put it back, or start deskmilter where there never was \
                     one, and try again",
                    path.display()
                )));
            }
        }
        let text = match credential(&program()?, file, &["list"])? {
            Answer::Done(text) => text,
            Answer::Nothing(why) => return Err(Stop::Refused(why)),
        };
        let mut sets: Vec<Set> = serde_json::from_str(&text)
            .map_err(|error| Stop::Refused(format!("deskmilter credential list: {error}")))?;
        let named = |address: &str| request.addresses.keys().any(|named| named.to_string() == address);
        sets.retain(|set| match &request.domain {
            Some(domain) => set.domain == domain.as_str(),
            None => set.address.as_deref().is_some_and(named),
        });
        Ok(Self(sets))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn numbers(&self) -> Vec<i64> {
        self.0.iter().map(|set| set.number).collect()
    }

    /// What the other side should know.
    pub(super) fn notes(&self) -> Vec<String> {
        let bound = |set: &Set| set.address.clone().unwrap_or_else(|| set.domain.clone());
        let note = |set: &Set| {
            format!(
                "set {} for {} is revoked, for good: a mail server that still logs in with it is put off and keeps its mail until it \
                 is disconnected, too",
                set.number,
                bound(set)
            )
        };
        self.0.iter().map(note).collect()
    }
}

/// Revokes a set. One that is revoked already is as it should be.
pub(super) fn revoke(file: &Path, number: i64) -> Result<(), Stop> {
    revoke_with(&program()?, file, number)
}

fn revoke_with(program: &Path, file: &Path, number: i64) -> Result<(), Stop> {
    credential(program, file, &["revoke", &number.to_string()]).map(drop)
}

/// What `deskmilter credential` did.
enum Answer {
    /// What was asked for; what it printed.
    Done(String),
    /// There was nothing to do it to; why.
    Nothing(String),
}

fn program() -> Result<PathBuf, Stop> {
    std::env::current_exe().map_err(|error| Stop::Later(format!("the program cannot find itself: {error}")))
}

/// Runs `program credential`. Whatever keeps it from being run or from answering is an error, lest it be taken for an answer.
fn credential(program: &Path, file: &Path, words: &[&str]) -> Result<Answer, Stop> {
    let output = Command::new(program)
        .args(["credential", "--json", "-c"])
        .arg(file)
        .args(words)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| Stop::Later(format!("{}: {error}", program.display())))?;
    let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(Answer::Done(String::from_utf8_lossy(&output.stdout).into_owned())),
        Some(1) => Ok(Answer::Nothing(said())),
        _ => Err(Stop::Later(format!("deskmilter credential {}: {}: {}", words.join(" "), output.status, said()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_counts_as_revoked_only_where_the_command_said_so() {
        let revoked = |program: &str| revoke_with(Path::new(program), Path::new("/nonexistent"), 7);
        assert!(revoked("/bin/true").is_ok());
        assert!(revoked("/bin/false").is_ok(), "it was revoked before");
        // Another exit code; and no program at all, as when the package is replaced meanwhile.
        for trouble in ["/usr/bin/env", "/nonexistent"] {
            assert!(matches!(revoked(trouble), Err(Stop::Later(_))), "{trouble}");
        }
    }
}
