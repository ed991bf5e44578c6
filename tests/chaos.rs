//! A short run of `make chaos`, each way.
#![cfg(test)]

use chaos::{Mode, Plan};

/// Messages of a short run.
const MESSAGES: usize = 150;

fn nothing_is_lost(mode: Mode) {
    let outcome = chaos::run(&Plan { mode, messages: MESSAGES, clients: 6, keep: None }, false);
    println!("{outcome}");
    assert_eq!(outcome.complaints(), Vec::<String>::new(), "{outcome}");
}

#[test]
fn nothing_is_lost_out_of_the_queue_while_everything_fails_and_the_audit_says_so() {
    nothing_is_lost(Mode::Transport);
}

#[test]
fn nothing_is_lost_inline_while_everything_fails_and_the_audit_says_so() {
    nothing_is_lost(Mode::Inline);
}
