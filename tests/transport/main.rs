//! The desk side with everything real but the company host, which is scripted: what becomes of a notification.

#![cfg(test)]

mod credentials;
mod faults;
mod senders;
mod tokens;
