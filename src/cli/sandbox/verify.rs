//! `deskmilter sandbox verify` and `deskmilter sandbox verifications`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::super::{EX_TEMPFAIL, say};
use super::send::{WayArgs, address, exit};
use crate::mail::Address;
use crate::sandbox::{State, Status, Verification, verifications};

/// Between two looks at whether the message has come back.
const LOOK: Duration = Duration::from_millis(100);

/// Sends verification mail
#[derive(Debug, Clone, clap::Args)]
pub(super) struct VerifyArgs {
    /// State folder of the sandbox, which must be running
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// The support address
    #[arg(value_name = "ADDRESS", value_parser = address)]
    address: Address,
    /// Seconds within which the message must come back
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    within: u32,
    /// Say "pending" and do not wait
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    way: WayArgs,
}

/// Shows states
#[derive(Debug, Clone, clap::Args)]
pub(super) struct VerificationsArgs {
    /// State folder of the sandbox
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// One support address alone
    #[arg(value_name = "ADDRESS", value_parser = address)]
    address: Option<Address>,
}

impl VerifyArgs {
    pub(super) async fn run(self) -> Result<ExitCode, String> {
        let (way, key) = (self.way.way()?, self.way.key()?);
        let within = Duration::from_secs(u64::from(self.within));
        let verification = Verification { address: self.address.clone(), within, key: key.as_ref() };
        let replied = verification.send(&self.directory, &way).await.map_err(|error| error.to_string())?;
        say(&format!("{}: {}\n", replied.recipient, replied.reply));
        if replied.code / 100 != 2 {
            show(&self.directory, Some(&self.address))?;
            return Ok(exit(&[replied]));
        }
        loop {
            let states = verifications(&self.directory, Some(&self.address)).map_err(|error| error.to_string())?;
            let pending = states.iter().any(|status| status.state == State::Pending);
            if self.no_wait || !pending {
                return show(&self.directory, Some(&self.address));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl VerificationsArgs {
    pub(super) fn run(self) -> Result<ExitCode, String> {
        show(&self.directory, self.address.as_ref())
    }
}

/// Exits with 0 if all are verified, 1 if one has failed, 75 if one is pending.
fn show(directory: &std::path::Path, address: Option<&Address>) -> Result<ExitCode, String> {
    let states = verifications(directory, address).map_err(|error| error.to_string())?;
    if states.is_empty() {
        say("no verification was sent\n");
        return Ok(ExitCode::FAILURE);
    }
    for Status { address, state, reason } in &states {
        say(&format!("{address}  {}  {reason}\n", state.as_str()));
    }
    let any = |state| states.iter().any(|status| status.state == state);
    Ok(match () {
        () if any(State::Failed) => ExitCode::FAILURE,
        () if any(State::Pending) => ExitCode::from(EX_TEMPFAIL),
        () => ExitCode::SUCCESS,
    })
}
