//! Postfix's queue as `postqueue -j` tells it, and the commands that have it look at a message again.

use std::time::Duration;

use serde::Deserialize;

use super::{Installation, PostfixError, output};

/// Before a reload: Postfix's programs wait for a `main.cf` that was just written.
const SETTLE: Duration = Duration::from_secs(1);
/// Queue ids in one command line.
const IDS_AT_ONCE: usize = 200;

/// One message in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Queued {
    /// Its queue id.
    #[serde(rename = "queue_id")]
    pub id: String,
    /// `maildrop`, `incoming`, `active`, `deferred` or `hold`.
    #[serde(rename = "queue_name")]
    pub queue: String,
    /// The envelope's sender; empty for a bounce.
    #[serde(default)]
    pub sender: String,
    /// Those who have it not yet.
    #[serde(default)]
    pub recipients: Vec<QueuedRecipient>,
}

/// One recipient of a message in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct QueuedRecipient {
    /// The address, extension included.
    pub address: String,
    /// Why it is deferred; empty otherwise.
    #[serde(default)]
    pub delay_reason: String,
}

impl Installation {
    /// All messages in the queue (`postqueue -j`, Postfix 3.1 or newer).
    ///
    /// # Errors
    /// When `postqueue` fails or says what cannot be read.
    pub fn queued(&self) -> Result<Vec<Queued>, PostfixError> {
        let text = self.tool("postqueue", &["-j".to_owned()])?;
        let unreadable = |error: serde_json::Error| PostfixError::Program {
            program: "postqueue -j".to_owned(),
            message: error.to_string(),
        };
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| serde_json::from_str(line).map_err(unreadable)).collect()
    }

    /// Puts deferred messages through address rewriting anew (`postsuper -r`, its section on requeued messages): milters do not
    /// see them again, virtual aliases count as they are now. One that is being delivered at this moment is left alone. How many
    /// were requeued.
    ///
    /// # Errors
    /// When `postsuper` fails.
    pub fn requeue(&self, ids: &[String]) -> Result<usize, PostfixError> {
        let mut count = 0_usize;
        for some in ids.chunks(IDS_AT_ONCE) {
            let mut arguments: Vec<String> = some.iter().flat_map(|id| ["-r".to_owned(), id.clone()]).collect();
            arguments.push("deferred".to_owned());
            let said = self.tool("postsuper", &arguments)?;
            count = count.saturating_add(requeued(&said));
        }
        self.nudge();
        Ok(count)
    }

    /// Has Postfix look at once at what was requeued and at what comes in. By itself it looks once a minute, and once in five
    /// minutes: that is how long a message would wait that was being delivered at a reload (the queue manager says "skipped, still
    /// being delivered", and takes it up again a minute later at the earliest). Whether it is heard does not matter.
    pub fn nudge(&self) {
        let _ = self.tool("postkick", &["public", "pickup", "W"].map(str::to_owned));
        let _ = self.tool("postkick", &["public", "qmgr", "I"].map(str::to_owned));
    }

    /// Tries deferred messages now (`postqueue -i`).
    ///
    /// # Errors
    /// When `postqueue` fails.
    pub fn retry(&self, ids: &[String]) -> Result<(), PostfixError> {
        ids.iter().try_for_each(|id| self.tool("postqueue", &["-i".to_owned(), id.clone()]).map(drop))
    }

    /// Whether Postfix runs (`postfix status`).
    ///
    /// # Errors
    /// When there is no such program.
    pub fn is_running(&self) -> Result<bool, PostfixError> {
        let directory = self.directory().display().to_string();
        Ok(output("postfix", &["-c", &directory, "status"])?.status.success())
    }

    /// Has Postfix read its configuration again, after a moment in which a change settles.
    ///
    /// # Errors
    /// When it does not run, or will not.
    pub fn reload(&self) -> Result<(), PostfixError> {
        std::thread::sleep(SETTLE);
        self.tool("postfix", &["reload".to_owned()]).map(drop)
    }

    fn tool(&self, program: &str, arguments: &[String]) -> Result<String, PostfixError> {
        let directory = self.directory().display().to_string();
        let all: Vec<&str> = ["-c", &directory].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let output = output(program, &all)?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(PostfixError::Program { program: program.to_owned(), message });
        }
        // postsuper tells on standard error what it did.
        let said = if program == "postsuper" { &output.stderr } else { &output.stdout };
        Ok(String::from_utf8_lossy(said).into_owned())
    }
}

/// The number in "postsuper: Requeued: 2 messages".
fn requeued(said: &str) -> usize {
    let number = |line: &str| line.split_once("Requeued: ")?.1.split_whitespace().next()?.parse::<usize>().ok();
    said.lines().filter_map(number).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postsuper_has_done_is_told_from_what_it_was_asked_for() {
        assert_eq!(requeued("postsuper: 4F8: requeued\npostsuper: Requeued: 1 message\n"), 1);
        assert_eq!(requeued("postsuper: Requeued: 12 messages\n"), 12);
        assert_eq!(requeued(""), 0);
    }
}
