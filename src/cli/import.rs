//! `deskmilter import`: prints the configuration that does what another program was configured to do. Changes nothing.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::key::{secret_file, uid};
use super::{EX_CONFIG, complain, say};
use crate::dkim::SigningKey;
use crate::import::opendkim::{Import, Settings};

/// Octets of one file at most: tables of some hundred thousand lines.
const FILE_MAX: u64 = 64 * 1024 * 1024;
/// Where OpenDKIM looks for its configuration.
const OPENDKIM_CONF: &str = "/etc/opendkim.conf";

/// Arguments of `deskmilter import`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum From {
    /// OpenDKIM: the signatures of its KeyTable and SigningTable. Exits with 1 when something cannot be taken over as it is.
    Opendkim(OpendkimArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct OpendkimArgs {
    /// OpenDKIM's configuration [default: /etc/opendkim.conf, unless both tables are given].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// KeyTable, instead of what the configuration says: a file, or as OpenDKIM writes it (refile:FILE).
    #[arg(long, value_name = "FILE")]
    key_table: Option<String>,
    /// SigningTable, instead of what the configuration says: a file, or as OpenDKIM writes it (refile:FILE).
    #[arg(long, value_name = "FILE")]
    signing_table: Option<String>,
    /// List of internal hosts, instead of what the configuration says.
    #[arg(long, value_name = "FILE")]
    trusted_hosts: Option<String>,
    /// The user that deskmilter runs as and the keys must belong to, unless it is you.
    #[arg(long, value_name = "NAME", value_parser = uid)]
    user: Option<u32>,
}

/// Runs it. Exits with 0; with 1 when something cannot be taken over; with 78 when a file cannot be read.
pub(super) fn run(args: &ImportArgs) -> ExitCode {
    let From::Opendkim(args) = &args.from;
    opendkim(args).unwrap_or_else(|message| {
        complain(&format!("deskmilter import opendkim: {message}"));
        ExitCode::from(EX_CONFIG)
    })
}

fn opendkim(args: &OpendkimArgs) -> Result<ExitCode, String> {
    let config = match &args.config {
        None if args.key_table.is_some() && args.signing_table.is_some() => None,
        None => Some(Path::new(OPENDKIM_CONF)),
        Some(path) => Some(path.as_path()),
    };
    let mut settings = config.map(|path| Settings::load(path, &mut read)).transpose()?.unwrap_or_default();
    let given =
        [("KeyTable", &args.key_table), ("SigningTable", &args.signing_table), ("InternalHosts", &args.trusted_hosts)];
    for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        // A bare name is a list to OpenDKIM, and a file to whoever types it.
        let value = if value.contains(':') { value.clone() } else { format!("file:{value}") };
        settings.set(name, &value);
    }
    let import = Import::read(settings, &mut read)?;
    let key_problem =
        |path: &Path| SigningKey::load(&secret_file(path, args.user)).err().map(|error| error.to_string());
    let (text, problems) = import.show(&key_problem);
    say(&text);
    Ok(if problems { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut octets = Vec::new();
    file.take(FILE_MAX.saturating_add(1)).read_to_end(&mut octets).map_err(failed)?;
    if octets.len() as u64 > FILE_MAX {
        return Err(format!("{}: larger than 64 MiB", path.display()));
    }
    Ok(String::from_utf8_lossy(&octets).into_owned())
}
