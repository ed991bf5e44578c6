//! What is Exim's own: its files and checks, relaying at DATA time, signing on its last hop, faults of its side. What holds for
//! all mail servers is in `tests/inbound.rs` and `tests/outbound`; `docs/exim.md` says what does not.

#![cfg(test)]

mod attachment;
mod faults;
mod inbound;
mod inline;
mod outbound;
