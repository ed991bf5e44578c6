//! `deskmilter check`: is the configuration right, and what is in effect?

use std::process::ExitCode;

use super::{ConfigFile, EX_CONFIG, complain, say};
use crate::attach::lmtp;
use crate::config::{Config, SecretFile};
use crate::delivery::TicketSystem;
use crate::pipeline::SiteKey;
use crate::relay::{Authorities, Relay, RelayError};
use crate::store::Store;

pub(super) fn run(file: &ConfigFile) -> ExitCode {
    let config = match file.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let problems = problems_of_files(&config);
    for problem in &problems {
        complain(&format!("{}: {problem}", file.config.display()));
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
    let (mut problems, hello) = (Vec::new(), &config.daemon.hostname);
    for connector in &config.connectors {
        let mut note = |section: &str, error: RelayError| {
            problems.push(format!("connector.{}.{section}: {error}", connector.name));
        };
        if let Some(host) = &connector.host {
            lmtp::Desk::new(connector, host, hello, &mut authorities).map_or_else(|error| note("host", error), drop);
        }
        if let Some(endpoint) = &connector.endpoint {
            Relay::trusting(connector, endpoint, hello, &mut authorities)
                .map_or_else(|error| note("endpoint", error), drop);
        }
        if let Some(delivery) = &connector.delivery {
            TicketSystem::new(connector, delivery, &mut authorities).map_or_else(|error| note("delivery", error), drop);
        }
    }
    problems.extend(Store::new(&config.store).err());
    problems.extend(site_key_problem(&config.daemon.site_key_file));
    problems
}

/// A site key that is there must be usable; one that is not there yet is made by the daemon.
fn site_key_problem(file: &SecretFile) -> Option<String> {
    let there = file.path().try_exists().unwrap_or(true);
    let error = SiteKey::load(file).err().filter(|_| there)?;
    Some(format!("daemon.site_key_file: {error}"))
}
