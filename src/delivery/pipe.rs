//! A message to a program's standard input.
//!
//! The program runs as the user that deskmilter runs as, never as root, without a shell, with an environment of our own. It and all
//! that it started is killed at the deadline, and before that nothing ends its input but the message's end: a program that has part
//! of a message must never take it for all of it.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};
use tokio::time::{Instant, timeout, timeout_at};

use super::octets::Octets;
use super::outcome::Outcome;
use super::sysexits;
use crate::command::{self, Group, Printed};
use crate::config::LineEnding;
use crate::mail::Mail;

/// Octets of what it says that are looked at, of standard output and of standard error.
const SAID_MAX: usize = 4 * 1024;
/// How long a program that has ended is listened to: what it left running may hold its output open for ever.
const LINGER: Duration = Duration::from_secs(1);

/// Runs a program's full path and its arguments with `mail` on its standard input, and is done by `until`.
pub(super) async fn run(
    name: &str,
    words: &[String],
    environment: &[(&'static str, String)],
    mail: &Mail,
    ending: LineEnding,
    until: Instant,
) -> Outcome {
    if nix::unistd::geteuid().is_root() {
        let text = format!("{name}: not run: no command is run as root; set daemon.user to a user of its own");
        return Outcome::until_mended((3, 5), text, "-");
    }
    let program = words.first().map_or("", String::as_str);
    let spawned = command::prepare(words).ok_or_else(|| io::Error::other("no command")).and_then(|mut command| {
        command.envs(environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::piped()).spawn()
    });
    let child = match spawned {
        Ok(child) => child,
        Err(error) => {
            return Outcome::until_mended((3, 5), format!("{name}: {program} cannot be run: {error}"), "-");
        }
    };
    match timeout_at(until, converse(name, child, Octets::of(mail, ending))).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::later((4, 2), format!("{name}: {program} did not end in time and was killed"), "timeout"),
    }
}

async fn converse(name: &str, mut child: Child, octets: Octets<'_>) -> Outcome {
    let (out, complaint) = (child.stdout.take(), child.stderr.take());
    let (mut printed, mut complained) = (Printed::with_room(SAID_MAX), Printed::with_room(SAID_MAX));
    let ended = {
        let mut feeding = pin!(feed(child.stdin.take(), octets));
        let mut listening = pin!(async {
            tokio::join!(printed.read(out, SAID_MAX), complained.read(complaint, SAID_MAX));
        });
        // Dropped before `feeding`, which holds the program's input: it must be dead before that is closed.
        let group = Group::led_by(child.id());
        let (mut fed, mut heard) = (false, false);
        let mut ended: Option<io::Result<ExitStatus>> = None;
        // One that has said success may have left the reading to another, who must have the message to its end; where there is
        // nobody, the pipe says so at once.
        let is_over = |ended: &io::Result<ExitStatus>, fed| fed || !ended.as_ref().is_ok_and(ExitStatus::success);
        let ended = loop {
            if let Some(ended) = ended.take_if(|ended| is_over(ended, fed)) {
                break ended;
            }
            tokio::select! {
                result = child.wait(), if ended.is_none() => ended = Some(result),
                () = &mut listening, if !heard => heard = true,
                result = &mut feeding, if !fed => match result {
                    Ok(()) => fed = true,
                    Err((error, input)) => {
                        drop(group);
                        drop(input);
                        return Outcome::later((3, 0), format!("the message cannot be read from our spool: {error}"), "-");
                    }
                },
            }
        };
        // It has done its duty, or not: what it left running is its own, unless it would take a part of the message for all of it.
        if fed {
            group.release();
        } else {
            drop(group);
        }
        if !heard {
            let _: Result<(), _> = timeout(LINGER, &mut listening).await;
        }
        ended
    };
    let said = [&complained, &printed].map(Printed::first_line).into_iter().find(|line| !line.is_empty());
    let said = said.unwrap_or_default();
    match ended {
        Err(error) => Outcome::later((3, 0), format!("{name}: its end cannot be heard of: {error}"), "-"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => sysexits::judge(name, code, &said),
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                let text =
                    format!("{name}: killed by signal {signal}{}{said}", if said.is_empty() { "" } else { ": " });
                Outcome::later((3, 0), text, format!("signal {signal}"))
            }
        },
    }
}

/// Writes the message. A program that does not want all of it is not wrong: its exit status says what it thinks.
///
/// # Errors
/// The message cannot be read; the program's input comes back, still open.
async fn feed(input: Option<ChildStdin>, mut octets: Octets<'_>) -> Result<(), (io::Error, Option<ChildStdin>)> {
    let mut input = input;
    loop {
        match octets.next().await {
            Ok(Some(block)) => {
                let Some(open) = &mut input else { return Ok(()) };
                if open.write_all(&block).await.is_err() {
                    return Ok(());
                }
            }
            Ok(None) => return Ok(()),
            Err(error) => return Err((error, input)),
        }
    }
}
