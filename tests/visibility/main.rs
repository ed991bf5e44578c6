//! What a postmaster sees of the daemon: metrics, alerts, logs, and what becomes of one message.

#![cfg(test)]

mod endpoint;
mod rules;
