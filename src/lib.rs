//! deskmilter connects a company's own mail server with its ticket system over authenticated, encrypted SMTP.
//!
//! A message takes one way through the code: [`attach`] -> [`mail`] -> [`pipeline`] -> [`relay`], or on the desk side into a ticket
//! system [`attach`] -> [`mail`] -> [`delivery`]. `docs/architecture.md`
//! tells the story; each module opens with what it is for, what comes in, what goes out and what it must not know.

pub mod attach;
pub mod audit;
pub mod cli;
mod command;
pub mod config;
pub mod credential;
pub mod daemon;
pub mod delivery;
pub mod disconnect;
pub mod dkim;
pub mod doctor;
pub mod explain;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[path = "../fuzz/targets/mod.rs"]
pub mod fuzzing;
mod harmless;
pub mod import;
pub mod inline;
pub mod log;
pub mod mail;
pub mod pipeline;
pub mod relay;
pub mod sandbox;
pub mod status;
pub mod store;
pub mod submit;
