//! docs/faults.md, made from the tables that the tests run.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::cell::{Cell, Log, Mode, Queue};
use crate::fault::Fault;

const INTRODUCTION: &str = "\
# Faults, and what they come to

What becomes of a message when something goes wrong, for both ways of relaying: [transport](postfix.md) (out of Postfix's
queue) and [inline](postfix.md#relaying-inline) (by the milter, before the queue). **Nothing is lost in any of these
cases.**

Each cell is a test on a real Postfix: what the client hears, what is in the queue, how many tickets there are, what the log
says; then the fault is taken away, and the message arrives. This page is made from those tests
(`tests/fault_matrix`): `UPDATE_DOCS=1 cargo test --ignore-rust-version --test fault_matrix document` writes it anew.

| word | what it means | what you do with the message |
| --- | --- | --- |
| **waits** | accepted with 250, then `deferred` in Postfix's queue, the reason in `mailq`; no ticket yet | nothing: Postfix tries again by itself; `postqueue -f` tries at once |
| **put off** | the client hears that 4xx; nothing is in the queue | nothing: the client comes again |
| **bounced** | accepted with 250, then Postfix tells the sender that it was refused, with the words | see what to do |
| **refused** | the client hears that 5xx, and its server tells the sender | see what to do |
| **ticket** | accepted with 250, and a ticket | nothing |
| **twice** | nobody can know whether the first copy was taken (RFC 1047), so it is sent again: at least once, perhaps twice. The log has both hand-overs under one queue id or Message-ID | merge the tickets |

Ordinary recipients of the same message get it at once in transport mode, whatever becomes of the ticket. `…` stands for words
that vary. *Postfix:* marks a line of Postfix's log; all others are ours, under the message's queue id where there is one:
`relay decision=deferred` for what waits or is put off, `decision=refused`, `decision=relayed`, each with the `reply=`.
";

fn sections() -> Vec<(&'static str, Vec<Fault>)> {
    vec![
        ("The endpoint, and the way to it", crate::endpoint::rows()),
        ("TLS and login", crate::endpoint::secure::rows()),
        ("What the endpoint answers", crate::endpoint::verdict::rows()),
        ("deskmilter and its host", crate::host::rows()),
        ("Postfix, and milters beside ours", crate::neighbours::rows()),
    ]
}

/// The whole document.
fn document() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (title, faults) in sections() {
        write!(text, "\n## {title}\n\n| fault | transport | inline | the log says | what to do |\n").unwrap();
        text.push_str("| --- | --- | --- | --- | --- |\n");
        for fault in faults {
            let mut logs: Vec<String> = fault.modes().filter_map(|mode| fault.cells.of(mode)).map(log).collect();
            logs.dedup();
            let outcome = |mode| fault.cells.of(mode).map_or("-".to_owned(), outcome);
            let (transport, inline) = (outcome(Mode::transport), outcome(Mode::inline));
            writeln!(text, "| {} | {transport} | {inline} | {} | {} |", fault.what, logs.join("; "), fault.remedy)
                .unwrap();
        }
    }
    text
}

/// What a cell comes to, in the words of the introduction.
fn outcome(cell: Cell) -> String {
    let mut text = match (cell.reply, cell.queue) {
        (Some(_), Queue::Waits(_)) => "**waits**".to_owned(),
        (Some(_), Queue::Bounced(words)) => format!("**bounced** `{}`", code(words)),
        (Some("250"), Queue::Empty) => "**ticket**".to_owned(),
        (Some(reply), Queue::Empty) if reply.starts_with('5') => format!("**refused** `{}`", code(reply)),
        (Some(reply), Queue::Empty) => format!("**put off** `{}`", code(reply)),
        (None, _) => "the connection ends without a reply: the client comes again".to_owned(),
    };
    if cell.reply != Some("250") && cell.tickets == 1 && cell.in_the_end == 1 {
        text.push_str("; the ticket is made already, and no second one");
    }
    if cell.in_the_end == 2 {
        text.push_str("; **twice**");
    }
    text
}

/// The codes that a reply begins with.
fn code(words: &str) -> String {
    let codes = words.split(' ').take_while(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    codes.collect::<Vec<_>>().join(" ")
}

fn log(cell: Cell) -> String {
    match cell.log {
        Log::Relay(decision, "250") => format!("`decision={decision}`"),
        Log::Relay(_, words) | Log::OfTheMessage(words) | Log::Ours(words) => format!("`{words}`"),
        Log::Postfix(words) => format!("*Postfix:* `{words}`"),
    }
}

#[test]
fn the_document_says_what_the_tests_prove() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let document = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &document).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == document, "docs/faults.md is not what the tests say; write it anew by UPDATE_DOCS=1");
}

#[test]
fn no_name_stands_for_two_faults_and_each_has_a_remedy() {
    for (title, faults) in sections() {
        for (n, fault) in faults.iter().enumerate() {
            assert!(!fault.remedy.is_empty() && fault.modes().count() > 0, "{title}: {}", fault.name);
            assert!(faults.iter().skip(n + 1).all(|other| other.name != fault.name && other.what != fault.what));
        }
    }
}
