//! `deskmilter check`: is the configuration right, and what is in effect?

use std::process::ExitCode;

use super::{ConfigFile, EX_CONFIG, say};
use crate::attach::lmtp;
use crate::config::{Config, SecretFile};
use crate::pipeline::SiteKey;
use crate::relay::{Authorities, Relay};

pub(super) fn run(file: &ConfigFile) -> ExitCode {
    let config = match file.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let problems = problems_of_files(&config);
    for problem in &problems {
        eprintln!("{}: {problem}", file.config.display());
    }
    if !problems.is_empty() {
        return ExitCode::from(EX_CONFIG);
    }
    say(&config.to_string());
    ExitCode::SUCCESS
}

/// What the files that the configuration names hold: certificates and keys that only their users can judge.
fn problems_of_files(config: &Config) -> Vec<String> {
    let mut authorities = Authorities::default();
    let mut problems: Vec<String> = config
        .connectors
        .iter()
        .filter_map(|connector| {
            let (name, hello) = (&connector.name, &config.daemon.hostname);
            if let Some(host) = &connector.host {
                let error = lmtp::Desk::new(connector, host, hello, &mut authorities).err()?;
                return Some(format!("connector.{name}.host: {error}"));
            }
            let error = Relay::trusting(connector, connector.endpoint.as_ref()?, hello, &mut authorities).err()?;
            Some(format!("connector.{name}.endpoint: {error}"))
        })
        .collect();
    problems.extend(site_key_problem(&config.daemon.site_key_file));
    problems
}

/// A site key that is there must be usable; one that is not there yet is made by the daemon.
fn site_key_problem(file: &SecretFile) -> Option<String> {
    let there = file.path().try_exists().unwrap_or(true);
    let error = SiteKey::load(file).err().filter(|_| there)?;
    Some(format!("daemon.site_key_file: {error}"))
}
