//! The desk side with everything real but the company host, which is scripted: what becomes of a notification.

#![cfg(test)]

mod credentials;
mod delivery;
mod faults;
mod senders;
mod tokens;
