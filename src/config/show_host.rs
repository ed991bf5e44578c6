//! `[connector.host]` as text, in the effective configuration.

use std::fmt;

use super::host::{Host, HostCredential, Proof, Unverified};
use super::{Tls, quantity};

/// Secrets are only named by their files, or by the command that prints them.
pub(super) fn write(f: &mut fmt::Formatter<'_>, host: &Host) -> fmt::Result {
    let tls = match host.tls {
        Tls::Starttls => "starttls",
        Tls::Implicit => "implicit",
    };
    writeln!(f, "\n[connector.host]")?;
    if let Some(preset) = host.preset {
        writeln!(f, "preset = {:?}", preset.as_str())?;
    }
    writeln!(f, "host = {:?}\nport = {}\ntls = {tls:?}", host.host, host.port)?;
    if let Some(ca_file) = &host.ca_file {
        writeln!(f, "ca_file = {ca_file:?}")?;
    }
    let credentials: Vec<_> = host.credentials.iter().map(credential).collect();
    writeln!(f, "credentials = [{}]", credentials.join(", "))?;
    match &host.unverified {
        Unverified::Defer => writeln!(f, "unverified = \"defer\"")?,
        Unverified::Native(address) => {
            writeln!(f, "unverified = \"native\"\ndefault_address = {:?}", address.to_string())?
        }
    }
    writeln!(f, "connections = {}", host.connections)?;
    if let Some(rate) = host.rate {
        writeln!(f, "rate = \"{rate}\"")?;
    }
    writeln!(f, "deadline = {:?}", quantity::write_duration(host.deadline))
}

fn credential(credential: &HostCredential) -> String {
    let proof = match &credential.proof {
        Proof::Password(file) => format!("password_file = {:?}", file.path()),
        Proof::TokenFile(file) => format!("token_file = {:?}", file.path()),
        Proof::TokenCommand(words) => format!("token_command = {words:?}"),
    };
    format!(
        "{{ address = {:?}, username = {:?}, mechanism = {:?}, {proof} }}",
        credential.address.to_string(),
        credential.username,
        credential.mechanism.as_str()
    )
}
