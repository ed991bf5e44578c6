//! Tables for Postfix by its socketmap protocol (`socketmap_table(5)`): requests `name key` and replies `OK data`, `NOTFOUND ` or
//! `TEMP reason`, each a netstring.
//!
//! In: connections of the MTA. Out: what the store and the configuration say. It must never give out a secret: Postfix itself
//! calls these tables unfit for what security depends on.
//!
//! - `sender_login`: mail address -> user names that may send as it, for `smtpd_sender_login_maps`.
//! - `sender_transport`: support address -> the transport that its notifications take, for
//!   `sender_dependent_default_transport_maps`.

#[cfg(any(test, fuzzing))]
#[path = "../../../fuzz/targets/lookup.rs"]
pub(crate) mod fuzzing;
mod netstring;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::{self, Listener, Stream};
use super::slots::Slots;
use crate::mail::Address;
use crate::store::Store;
use netstring::{REQUEST_MAX, Read};

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 1_000;
/// Postfix closes idle ones after 10 s by itself, and all after 1 h.
const IDLE: Duration = Duration::from_secs(3600);
/// Our answer is read within this time.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// Octets of a reply at most: a hundred user names of the longest kind. Postfix takes 100,000.
const REPLY_MAX: usize = 30_000;

/// What is looked up in. Immutable; a reload swaps in a new one.
#[derive(Debug)]
pub struct Tables {
    /// Who may send as whom.
    pub store: Arc<Store>,
    /// The transport of a support address.
    pub transports: HashMap<Address, String>,
}

/// Serves `listener` until `shutdown`.
pub async fn serve(
    listener: Listener,
    slots: Slots,
    tables: Arc<ArcSwap<Tables>>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    let converse = move |stream, shutdown| converse(stream, Arc::clone(&tables), shutdown);
    accept::serve(listener, slots, shutdown, tasks, converse).await;
}

async fn converse(stream: Stream, tables: Arc<ArcSwap<Tables>>, shutdown: CancellationToken) {
    if let Err(error) = dialogue(stream, &tables, &shutdown).await {
        tracing::warn!(reason = %error, "connection of the lookup service closed");
    }
}

async fn dialogue(mut stream: Stream, tables: &ArcSwap<Tables>, shutdown: &CancellationToken) -> io::Result<()> {
    let mut octets: Vec<u8> = Vec::new();
    loop {
        match netstring::read(&octets) {
            Read::Whole(request, taken) => {
                let reply = tables.load_full().answer(request).await;
                octets.drain(..taken.min(octets.len()));
                let write = async {
                    stream.write_all(&netstring::write(&reply)).await?;
                    stream.flush().await
                };
                timeout(WRITE_TIME, write)
                    .await
                    .map_err(|_| io::Error::other("the MTA does not read our answer"))??;
            }
            Read::Wrong => return Err(io::Error::new(io::ErrorKind::InvalidData, "not a netstring of a lookup")),
            Read::Part => {
                // What is kept is less than one request: a netstring that could be longer is wrong.
                let mut more = [0; REQUEST_MAX];
                let count = tokio::select! {
                    count = timeout(IDLE, stream.read(&mut more)) => count.unwrap_or(Ok(0))?,
                    () = shutdown.cancelled() => return Ok(()),
                };
                if count == 0 {
                    return Ok(());
                }
                octets.extend_from_slice(more.get(..count).unwrap_or_default());
            }
        }
    }
}

impl Tables {
    /// The reply to a request.
    async fn answer(&self, request: &[u8]) -> String {
        let request = String::from_utf8_lossy(request);
        let Some((table, key)) = request.split_once(' ') else { return "PERM no key".to_owned() };
        // Postfix asks for the address, then for the local part and for @domain alone, which are nobody's here.
        let address = Address::parse(key).ok();
        match (table, address) {
            ("sender_login" | "sender_transport", None) => not_found(),
            ("sender_login", Some(address)) => match self.store.logins_for(&address).await {
                Ok(logins) if logins.is_empty() => not_found(),
                Ok(logins) => {
                    let logins: Vec<&str> = logins.iter().map(|login| login.as_str()).collect();
                    let found = format!("OK {}", logins.join(","));
                    if found.len() > REPLY_MAX { "PERM too many logins".to_owned() } else { found }
                }
                Err(error) => {
                    tracing::warn!(%error, table, "lookup not answered");
                    "TEMP the store is away".to_owned()
                }
            },
            ("sender_transport", Some(address)) => {
                self.transports.get(&address).map_or_else(not_found, |transport| format!("OK {transport}"))
            }
            _ => "PERM no such table; there are sender_login and sender_transport".to_owned(),
        }
    }
}

fn not_found() -> String {
    "NOTFOUND ".to_owned()
}
