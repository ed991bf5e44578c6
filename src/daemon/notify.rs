//! What the service manager is told: sd_notify(3). One datagram a message; where nobody asks to be told, nothing happens.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{MissedTickBehavior, interval};

/// How long a message may wait for a service manager that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the service manager, if there is one that wants to be told.
#[derive(Debug, Default)]
pub(super) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// A sign of life is due within each such time.
    watchdog: Option<Duration>,
}

impl Notify {
    /// As `$NOTIFY_SOCKET`, `$WATCHDOG_USEC` and `$WATCHDOG_PID` say.
    ///
    /// # Errors
    /// `$NOTIFY_SOCKET` is of a kind that we do not know.
    pub(super) fn from_environment() -> Result<Self, String> {
        let told = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(name) = told("NOTIFY_SOCKET") else { return Ok(Self::default()) };
        let to = open(&name).map_err(|error| format!("NOTIFY_SOCKET={name}: {error}"))?;
        let for_us = told("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let interval = told("WATCHDOG_USEC").and_then(|value| value.parse().ok()).filter(|interval| *interval > 0);
        Ok(Self { to: Some(to), watchdog: interval.filter(|_| for_us).map(Duration::from_micros) })
    }

    /// Started, or done with a reload, whether it succeeded or not.
    pub(super) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins; [`Self::ready`] ends it. The time is what `Type=notify-reload` asks for.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading", now.as_micros()));
    }

    /// No more connections are taken; work in flight is being finished.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=finishing what is in flight");
    }

    /// Gives a sign of life twice in the time that it is due in, each time after it was seen that there is life.
    pub(super) async fn keep_watchdog(self: Arc<Self>) {
        let Some(due) = self.watchdog else { return };
        let mut tick = interval(due / 2);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match prove_alive().await {
                Ok(()) => self.send("WATCHDOG=1"),
                Err(error) => tracing::warn!(%error, "no sign of life for the watchdog"),
            }
        }
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::warn!(%error, message, "the service manager cannot be told");
        }
    }
}

/// Sends an octet from one task to another over a socket, as every message comes: the timer has woken us, tasks are scheduled,
/// sockets are watched.
async fn prove_alive() -> io::Result<()> {
    let (mut near, mut far) = UnixStream::pair()?;
    let echo = tokio::spawn(async move {
        let octet = far.read_u8().await?;
        far.write_u8(octet).await
    });
    near.write_u8(1).await?;
    near.read_u8().await?;
    echo.await.map_err(io::Error::other)?
}

fn open(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
        None => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract socket")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok((socket, address))
}
