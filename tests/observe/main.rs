//! A connector that only observes, on a real Postfix: mail is octet by octet as without us, and the log says what would have been.

#![cfg(test)]

mod exim;
mod inbound;
mod outbound;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Message, deskmilter};

const SUPPORT: &str = "support@acme.example";

/// Has the connector `acme` of a configuration observe.
fn observing(text: &str) -> String {
    let observing = text.replacen("account = \"acme\"\n", "account = \"acme\"\nobserve = true\n", 1);
    assert_ne!(observing, text);
    observing
}

/// `deskmilter observe report` on a log, for people and for programs.
fn report(log: &Path) -> (String, Value) {
    let run = |more: &[&str]| {
        let mut command = Command::new(deskmilter());
        command.args(["observe", "report", "--since", "1h", "--log"]).arg(log).args(more);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    (run(&[]), serde_json::from_str(&run(&["--json"])).unwrap())
}

/// The line about the message that this one is.
fn line_of(log: &str, message: &Message) -> String {
    let id = format!("message_id={} ", message.id());
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&id)).collect();
    assert_eq!(lines.len(), 1, "{id}: {lines:?}");
    lines.concat()
}
