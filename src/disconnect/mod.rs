//! Takes support addresses, or a whole connector, down without a lost message, and puts them back.
//!
//! In: which addresses, and where their mail goes from now on. Out: a [`Record`] of everything that is changed, then the changes: mail
//! is forwarded by the MTA itself, what still waits in its queue for us goes the same way, the configuration is without the
//! addresses and the daemon knows it, issued credentials are revoked. It must not know mail, nor the daemon's insides.
//!
//! The order is what makes it safe. New mail is given its other way first ([`Record::first`]); until the queue holds nothing more
//! for the addresses the daemon goes on relaying; only then it is told ([`Record::settings`]); last, what comes late all the same
//! is made to wait instead of bouncing ([`Record::last`]). Each file has one text before and one after, and the record is on
//! the disk before the first of them is touched: so whatever instant it is cut off at, the same command goes on from there,
//! and `--undo` goes back.

mod carry_out;
mod plan;
mod record;
mod sets;
mod settings;
mod target;
mod undo;
mod waiting;

pub use carry_out::{Site, carry_out, check_places};
pub use plan::{Plan, plan};
pub use record::{FileChange, Record, Records};
pub use target::{Request, Way, read_list};
pub use undo::undo;
pub use waiting::Waiting;

use crate::doctor::postfix::PostfixError;

/// Why it stopped.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// Somebody has to do something first; nothing more was changed.
    #[error("{0}")]
    Refused(String),
    /// Not now; the same command goes on later.
    #[error("{0}")]
    Later(String),
    /// Postfix, or a file.
    #[error(transparent)]
    Postfix(#[from] PostfixError),
}
