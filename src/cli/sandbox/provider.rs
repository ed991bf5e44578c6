//! `deskmilter sandbox provider`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use super::super::say;
use super::{End, domain};
use crate::config::Listen;
use crate::mail::Domain;
use crate::sandbox::{Provider, ProviderOptions};

/// Judges what comes to the end user's mail server
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ProviderArgs {
    /// State folder of the sandbox
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// Where the end user's mail server finds the milter: inet:127.0.0.1:8893 or unix:/path
    #[arg(long, value_name = "SOCKET")]
    milter: Listen,
    /// Name server, instead of the system's; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    name_server: Vec<SocketAddr>,
    /// The provider's own name
    #[arg(long, value_name = "NAME", default_value = "localhost", value_parser = domain)]
    hostname: Domain,
}

impl ProviderArgs {
    /// Runs until SIGTERM or SIGINT.
    pub(super) async fn run(self) -> Result<ExitCode, String> {
        let mut end = End::new()?;
        let options = ProviderOptions {
            directory: self.directory,
            milter: self.milter,
            name_servers: self.name_server,
            hostname: self.hostname,
        };
        let provider = Provider::start(options).await.map_err(|error| error.to_string())?;
        say(&format!("smtpd_milters = {{ {}, default_action=tempfail }}\n", provider.milter()));
        end.wait().await;
        provider.stop().await;
        Ok(ExitCode::SUCCESS)
    }
}
