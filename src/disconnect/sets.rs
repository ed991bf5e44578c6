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
        // To ask for a file that is not there would make it.
        if let StoreUrl::Sqlite(path) = &config.store.url
            && !path.exists()
        {
            return Ok(Self::default());
        }
        let text = credential(file, &["list"])?;
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
    match credential(file, &["revoke", &number.to_string()]) {
        Err(Stop::Refused(_)) | Ok(_) => Ok(()),
        Err(later) => Err(later),
    }
}

/// Runs `deskmilter credential`; what it printed.
fn credential(file: &Path, words: &[&str]) -> Result<String, Stop> {
    let program: PathBuf =
        std::env::current_exe().map_err(|error| Stop::Refused(format!("the program cannot find itself: {error}")))?;
    let output = Command::new(&program)
        .args(["credential", "--json", "-c"])
        .arg(file)
        .args(words)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| Stop::Refused(format!("{}: {error}", program.display())))?;
    let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        // Nothing to revoke.
        Some(1) => Err(Stop::Refused(said())),
        _ => Err(Stop::Later(said())),
    }
}
