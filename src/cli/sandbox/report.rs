//! `deskmilter sandbox report`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use super::super::say;
use crate::sandbox::Report;

/// Between two looks at whether everything has been delivered.
const LOOK: Duration = Duration::from_millis(100);

/// Says what the end user's provider saw
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ReportArgs {
    /// State folder of the sandbox
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// The notifications of one ticket alone
    #[arg(value_name = "TICKET")]
    ticket: Option<u64>,
    /// Seconds to wait at most for what is on its way
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    wait: u32,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl ReportArgs {
    pub(super) async fn run(self) -> Result<ExitCode, String> {
        let until = Instant::now() + Duration::from_secs(u64::from(self.wait));
        let report = loop {
            let report = Report::read(&self.directory, self.ticket).map_err(|error| error.to_string())?;
            if report.is_complete() || Instant::now() >= until {
                break report;
            }
            tokio::time::sleep(LOOK).await;
        };
        if self.json {
            say(&format!("{}\n", serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?));
        } else {
            say(&report.to_string());
        }
        Ok(if report.green { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
