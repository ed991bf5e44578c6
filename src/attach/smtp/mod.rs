//! The server's side of SMTP (RFC 5321) and LMTP (RFC 2033) as a pure state machine, used by the LMTP listener and by the
//! sandbox.
//!
//! In: octets from the client. Out: [`Event`]s in the order of the commands that caused them: replies to write, decisions
//! to make, message data. It must not know sockets, clocks, connectors or tickets.
//!
//! Commands are parsed here and not by a library: quoted local parts must keep their spelling, `<postmaster>` is not `<>`,
//! and `SIZE=99999999999999999999` is large. Where a line ends is decided in one place each: [`Session`] for commands,
//! [`DataDecoder`] for message data, and both know CRLF alone. A server that also takes a bare LF, or `LF.LF`, for an
//! ending lets a sender smuggle a second message past the one before it.

mod command;
mod data;
mod login;
mod session;

pub use data::DataDecoder;
pub use login::Login;
pub use session::{Event, Profile, Protocol, Session, too_large};
