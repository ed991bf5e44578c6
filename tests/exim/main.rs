//! The main job on a real Exim: what `tests/inbound.rs` and `tests/outbound` demand with Postfix. `docs/exim.md` says of each
//! whether it applies.

#![cfg(test)]

mod attachment;
mod inbound;
mod inline;
mod outbound;
