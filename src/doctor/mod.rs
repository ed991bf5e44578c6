//! Reads what the MTA beside us and DNS are told, and says what in it keeps deskmilter from doing its work.
//!
//! In: the checked configuration and the MTA's own, read by the MTA's own tools; keys and the records that publish them.
//! Out: findings with a remedy each, and changes that are shown before they are made. Knows nothing of messages.

pub mod dkim;
pub mod exim;
mod finding;
pub mod postfix;

pub use finding::{Finding, Outcome};
