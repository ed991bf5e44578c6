//! Sockets that a service manager bound for us and keeps open while we are restarted: sd_listen_fds(3), systemd.socket(5). No
//! connection is refused meanwhile; it waits in the socket's queue.

use std::collections::HashSet;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;

use listenfd::ListenFd;

use super::bind::{Name, Socket};
use super::listeners::Sockets;
use crate::config::{Config, Listen};

/// The sockets that were passed. Kept until the process ends: the service manager has them as well, so that nobody else could bind
/// one that a reload takes out of the configuration and the next puts back.
#[derive(Debug, Default)]
pub(super) struct Passed(Vec<(Listen, Kept)>);

#[derive(Debug)]
enum Kept {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Passed {
    /// Takes what was passed, and from the environment what tells of it.
    ///
    /// # Errors
    /// A file descriptor that is not a listening stream socket with a name.
    pub(super) fn take() -> Result<Self, String> {
        let mut given = ListenFd::from_env();
        let kept = (0..given.len()).map(|n| {
            keep(&mut given, n).map_err(|error| {
                format!(
                    "socket {n} of those passed to us: {error}; pass unix and TCP stream sockets only (ListenStream=, Accept=no)"
                )
            })
        });
        kept.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The socket for `listen`, if it was passed. Owner, group and mode are those that it was made with.
    pub(super) fn get(&self, listen: &Listen) -> Option<Result<Socket, String>> {
        let (_, kept) = self.0.iter().find(|(address, _)| is_same(address, listen))?;
        Some(kept.copy(listen).map_err(|error| format!("{listen}: {error}; the socket that was passed cannot be used")))
    }

    /// Whoever connects to a socket that nobody serves waits for nothing: tells of each.
    pub(super) fn warn_of_unused(&self, config: &Config) {
        let named: HashSet<Listen> = Sockets::named(config).collect();
        for (address, _) in self.0.iter().filter(|(address, _)| !named.iter().any(|listen| is_same(address, listen))) {
            tracing::warn!(
                socket = %address,
                "a socket was passed that the configuration does not name; write it into the configuration as it is spelled here, \
                 or take it out of the socket unit"
            );
        }
    }
}

impl Kept {
    fn copy(&self, listen: &Listen) -> io::Result<Socket> {
        match self {
            Self::Unix(listener) => {
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                let Listen::Unix(path) = listen else { return Err(io::ErrorKind::InvalidInput.into()) };
                Ok(Socket::Unix(listener, Name::of_another(path.clone())))
            }
            Self::Tcp(listener) => {
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                let bound = listener.local_addr()?;
                Ok(Socket::Tcp(listener, bound))
            }
        }
    }
}

fn keep(given: &mut ListenFd, n: usize) -> io::Result<(Listen, Kept)> {
    let nothing = || io::Error::from(io::ErrorKind::NotFound);
    // What is no unix socket is left where it is.
    if let Ok(listener) = given.take_unix_listener(n) {
        let listener = listener.ok_or_else(nothing)?;
        let path = listener.local_addr()?.as_pathname().map(Path::to_owned);
        return Ok((Listen::Unix(path.ok_or_else(nothing)?), Kept::Unix(listener)));
    }
    let listener = given.take_tcp_listener(n)?.ok_or_else(nothing)?;
    Ok((Listen::Inet(listener.local_addr()?), Kept::Tcp(listener)))
}

/// Whether both are one place; /var/run and /run, for example.
fn is_same(a: &Listen, b: &Listen) -> bool {
    match (a, b) {
        (Listen::Unix(a), Listen::Unix(b)) => {
            a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
        }
        _ => a == b,
    }
}
