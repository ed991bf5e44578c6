//! `deskmilter exim-filter`: what Exim's `transport_filter` runs on a message's last hop. It shows the message to the daemon,
//! which has the keys, and prints it with the header section that comes back.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{EX_TEMPFAIL, complain};
use crate::attach::exim::last_hop::{Message, NotSigned, unbuffered};

/// Arguments of `deskmilter exim-filter`.
#[derive(Debug, Clone, clap::Args)]
pub struct EximFilterArgs {
    /// The daemon's socket for Exim (exim.listen).
    #[arg(long, value_name = "PATH", default_value = "/run/deskmilter/exim.sock")]
    pub socket: PathBuf,
    /// Exim's id of the message: $message_exim_id.
    pub id: String,
}

/// Runs it. Exits with 0 when the whole message is printed, otherwise with 75, and Exim keeps the message.
pub(super) fn run(args: &EximFilterArgs) -> ExitCode {
    match filter(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("deskmilter exim-filter: message {}: {error}", args.id));
            ExitCode::from(EX_TEMPFAIL)
        }
    }
}

fn filter(args: &EximFilterArgs) -> Result<(), NotSigned> {
    let input = unbuffered(std::io::stdin()).map_err(NotSigned::Io)?;
    let mut message = Message::read(input)?;
    let section = message.sign(&args.socket, &args.id)?;
    message.write(&section, unbuffered(std::io::stdout()).map_err(NotSigned::Io)?)
}
