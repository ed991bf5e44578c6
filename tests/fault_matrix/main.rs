//! The fault matrix: what each fault comes to, in both modes of relaying, on a real Postfix. Each cell says what the client
//! hears, what is in the queue, how many tickets there are and what the log tells; then the fault is taken away, and the message
//! arrives once (or twice, where nobody can know better, and the cell says so).
//!
//! The tables stand in `endpoint`, `host` and `neighbours`; `docs/faults.md` is made from them.

#![cfg(test)]

mod cell;
mod company;
mod document;
mod endpoint;
mod fault;
mod host;
#[path = "../inline/later_milter.rs"]
mod later_milter;
mod neighbours;
