//! Ten thousand connectors: how soon the daemon is there, and what they cost each message.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use support::{NameServer, PrivateKey};
use tempfile::TempDir;

use crate::filter::{Filter, Transport};
use crate::mail;
use crate::mta::{Client, Connection};
use crate::usage;

/// Connectors in the large configuration.
pub const CONNECTORS: usize = 10_000;
/// Different RSA keys: more take OpenSSL minutes. Every connector has a file of its own, which is read and checked by itself.
const KEYS: usize = 16;
/// Letters that are sent in turn, each from another connector.
const LETTERS: usize = 1_000;

/// deskmilter with `count` two-way connectors, each with a domain, a login, a password, an LMTP socket and an RSA-2048 key of
/// its own.
/// The sockets are made in `sockets`.
pub fn deskmilter(program: &Path, names: &NameServer, count: usize, sockets: &Path) -> Filter {
    let keys: Vec<PrivateKey> = (0..KEYS.min(count)).map(|_| PrivateKey::another_rsa()).collect();
    let mut filter = Filter::deskmilter_with(program, Transport::Unix, names, |folder| {
        std::fs::create_dir(folder.join("keys")).expect("a folder for the keys");
        PrivateKey::write_secret(&folder.join("endpoint.password"), "secret\n");
        let mut text = format!(
            "[transport]\ndirectory = \"{}/{count}\"\n[limits]\nmilter_connections = 400\ndomains = {count}\n",
            sockets.display()
        );
        for n in 0..count {
            keys[n % keys.len()].write(&folder.join(format!("keys/{n}.pem")));
            let _ = write!(
                text,
                r#"
[[connector]]
name = "c{n}"
system = "generic"
domain = "c{n}.example"
addresses = ["support@c{n}.example"]
[connector.endpoint]
host = "localhost"
credentials = [{{ username = "c{n}.example", password_file = "endpoint.password" }}]
[connector.submission]
logins = [{{ name = "desk-{n}", addresses = ["support@c{n}.example"] }}]
[[connector.dkim]]
selector = "desk2026"
key_file = "keys/{n}.pem"
cover = "core"
"#
            );
        }
        text
    });
    filter.name = format!("{count} connectors");
    filter
}

/// A folder for the sockets, in memory where there is such a place, as `/run` is: a file system on a disk may take longer for ten
/// thousand of them than all the rest (ext4 without a journal, after as many were removed).
///
/// # Panics
/// When it cannot be made.
pub fn socket_folder() -> TempDir {
    let builder = tempfile::Builder::new();
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).expect("a folder for sockets")
}

/// What something took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Time.
    pub elapsed: Duration,
    /// User and system time of the daemon's process.
    pub cpu: Duration,
}

/// From the daemon's start to its first answer.
///
/// # Panics
/// When there is none.
pub fn start_cost(filter: &Filter) -> Cost {
    Connection::open(&filter.address, Client::Unknown).expect("an answer to the offer");
    Cost { elapsed: filter.begun.elapsed(), cpu: usage::cpu(filter.pid()) }
}

/// A reload of the same configuration.
pub fn reload_cost(filter: &Filter) -> Cost {
    let before = usage::cpu(filter.pid());
    let elapsed = filter.reload_time();
    Cost { elapsed, cpu: usage::cpu(filter.pid()).saturating_sub(before) }
}

/// Notifications of `count` connectors in turn, of [`LETTERS`] at most.
pub fn letters(count: usize) -> Vec<mail::Letter> {
    let submitters: Vec<_> = (0..LETTERS)
        .map(|n| n * (count / LETTERS).max(1) % count)
        .map(|n| (format!("support@c{n}.example"), format!("desk-{n}")))
        .collect();
    mail::notifications(&submitters)
}
