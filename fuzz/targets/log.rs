//! Log lines, ours and Postfix's, in the order that anybody can make them come in.

use time::UtcOffset;
use time::macros::datetime;

use crate::audit::{Audit, Clock, Scope};
use crate::explain::Search;

/// What is asked for; the seeds have both.
const KEYS: [&str; 2] = ["4A1B2C", "<m1@customer.example>"];

pub(super) fn lines(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    let scope = Scope {
        since: datetime!(2026-01-01 0:00 UTC),
        until: None,
        supports: Box::new(|address| address == "support@acme.example"),
        sockets: Vec::new(),
    };
    let clock = Clock { now: datetime!(2026-11-22 12:00 UTC), zone: |_| UtcOffset::UTC };
    let mut audit = Audit::new(scope, clock);
    for line in text.lines() {
        assert!(audit.line(line).is_ok());
    }
    harmless(&audit.report(None).to_string());

    let [id, message_id] = KEYS;
    let key = if octets.len().is_multiple_of(3) { message_id } else { id };
    let mut search = Search::new(key, clock, None, None);
    loop {
        text.lines().for_each(|line| search.line(line));
        if !search.wants_more() {
            break;
        }
    }
    if let Some(story) = search.story(octets.len().is_multiple_of(2)) {
        harmless(&story.to_string());
    }
}

/// Nothing in it commands a terminal.
fn harmless(told: &str) {
    assert!(!told.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{told:?}");
}
