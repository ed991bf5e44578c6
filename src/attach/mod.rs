//! How an MTA reaches us. Each attachment translates one protocol: what it hears becomes a [`Mail`](crate::mail::Mail),
//! what the pipeline answers becomes that protocol's words. No attachment decides anything, and none knows another.
//!
//! - [`milter`]: Postfix and Sendmail, before the queue: judge and tag.
//! - [`exim`]: Exim's ACLs and transport filters: judge and tag, and sign on the last hop.
//! - [`lmtp`]: any MTA, out of the queue: hand over to the relay.
//! - [`smtp`]: the server's side of SMTP and LMTP as a pure state machine, used by `lmtp` and by the sandbox.
//! - [`sasl`]: Postfix and Exim, while a client logs in: are name and password right?
//! - [`lookup`]: tables for Postfix.
//! - [`accept`]: takes connections for `sasl` and `lookup`.
//! - [`slots`]: how many connections at a time.

pub mod accept;
pub mod exim;
pub mod lmtp;
pub mod lookup;
pub mod milter;
pub mod sasl;
pub mod slots;
pub mod smtp;
