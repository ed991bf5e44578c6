//! What became of the messages: the tickets by themselves, and what `deskmilter audit` makes of logs and tickets.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::Site;

use crate::trouble::Trouble;
use crate::{Mode, Plan, mail};

/// What a run showed.
#[derive(Debug)]
pub struct Outcome {
    mode: Mode,
    messages: usize,
    took: Duration,
    trouble: Trouble,
    repeats: usize,
    /// How many tickets each message became, by its number.
    tickets: Vec<usize>,
    /// Tickets whose message is not what was sent.
    pub damaged: usize,
    /// The audit's exit code.
    pub audit_code: i32,
    /// What it said to people.
    pub audit_text: String,
    /// What it said to programs.
    pub audit: Value,
}

impl Outcome {
    pub(crate) fn of(plan: &Plan, site: &mut Site, trouble: Trouble, repeats: usize, took: Duration) -> Self {
        let mut tickets = vec![0; plan.messages];
        let mut damaged = 0;
        for ticket in site.desk.tickets() {
            let id = ticket.facts["message_id"].as_str().unwrap_or_default();
            let Some(number) = mail::number(id).filter(|number| *number < plan.messages) else { continue };
            if let Some(count) = tickets.get_mut(number) {
                *count += 1;
            }
            let sent = mail::message(number);
            damaged += usize::from(!ticket.messages().iter().all(|octets| octets.ends_with(&sent)));
        }
        let (audit_code, audit_text) = audit(site, &[]);
        let (_, json) = audit(site, &["--json"]);
        let audit = serde_json::from_str(&json).unwrap_or(Value::Null);
        Self {
            mode: plan.mode,
            messages: plan.messages,
            took,
            trouble,
            repeats,
            tickets,
            damaged,
            audit_code,
            audit_text,
            audit,
        }
    }

    /// Messages without a ticket.
    pub fn lost(&self) -> usize {
        self.tickets.iter().filter(|count| **count == 0).count()
    }

    /// Messages with more than one.
    pub fn doubled(&self) -> usize {
        self.tickets.iter().filter(|count| **count > 1).count()
    }

    /// Doubles that the audit names with a reason.
    pub fn explained(&self) -> usize {
        let named = self.audit["doubled"].as_array().into_iter().flatten();
        named.filter(|one| one["reason"].as_str().is_some_and(|reason| !reason.starts_with("unknown"))).count()
    }

    /// What is not as it must be; nothing when all is well.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.lost() > 0 {
            let which: Vec<_> = (0..self.messages).filter(|n| self.tickets.get(*n) == Some(&0)).take(10).collect();
            complaints.push(format!("{} messages became no ticket: {which:?}", self.lost()));
        }
        if self.damaged > 0 {
            complaints.push(format!("{} tickets differ from what was sent", self.damaged));
        }
        if self.audit_code != 0 {
            complaints.push(format!("the audit ended with {}", self.audit_code));
        }
        if self.explained() != self.doubled() {
            complaints.push(format!("{} doubles, the audit gives a reason for {}", self.doubled(), self.explained()));
        }
        complaints
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trouble { kills, endpoint } = self.trouble;
        writeln!(
            f,
            "{}: {} of {} messages are tickets, {} lost, {} doubled; {} s, deskmilter killed {kills} times, the endpoint changed \
             {} times, {} passwords, {} attempts repeated by clients",
            self.mode,
            self.messages - self.lost(),
            self.messages,
            self.lost(),
            self.doubled(),
            self.took.as_secs(),
            endpoint.changes,
            endpoint.passwords,
            self.repeats,
        )?;
        f.write_str(&self.audit_text)
    }
}

fn audit(site: &Site, more: &[&str]) -> (i32, String) {
    let mut command = Command::new(support::deskmilter());
    command.args(["audit", "--since", "1970-01-01T00:00:00Z", "--config"]).arg(site.configuration());
    command.arg("--postfix-log").arg(site.postfix.log_file()).arg("--log").arg(site.daemon.log_file());
    command.arg("--tickets").arg(site.desk.directory()).args(more);
    match command.output() {
        Ok(output) => {
            let said = [&output.stdout[..], &output.stderr].concat();
            (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
        }
        Err(error) => (-1, format!("{command:?}: {error}\n")),
    }
}

/// Copies logs and what each ticket says of itself.
pub(crate) fn keep(site: &Site, folder: &Path) {
    let copied = fs::create_dir_all(folder)
        .and_then(|()| fs::copy(site.postfix.log_file(), folder.join("postfix.log")))
        .and_then(|_| fs::copy(site.daemon.log_file(), folder.join("deskmilter.log")))
        .and_then(|_| fs::copy(site.configuration(), folder.join("deskmilter.toml")));
    let copied = copied.and_then(|_| {
        site.desk.tickets().iter().try_for_each(|ticket| {
            let aside = folder.join("tickets").join(ticket.folder.file_name().unwrap_or_default());
            fs::create_dir_all(&aside)?;
            fs::copy(ticket.folder.join("ticket.json"), aside.join("ticket.json")).map(drop)
        })
    });
    if let Err(error) = copied {
        eprintln!("{}: {error}; the logs are not kept", folder.display());
    }
}
