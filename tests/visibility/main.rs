//! What a postmaster sees of the daemon: metrics, alerts, logs, and what becomes of one message.

#![cfg(test)]

mod agreement;
mod commands;
mod endpoint;
mod explain;
mod logs;
mod rules;
