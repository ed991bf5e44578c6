//! Whether a process of Postfix gets through to a socket: its root, the folders on the way, the socket's mode, and somebody
//! listening.

use std::ffi::CString;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A user as the permission bits see it.
#[derive(Debug)]
pub(super) struct Account {
    name: String,
    uid: u32,
    groups: Vec<u32>,
}

/// A process that has to get through.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    /// Its service, for the message.
    pub label: String,
    /// Its root is the queue directory.
    pub chrooted: bool,
    /// Who it runs as.
    pub account: &'a Account,
}

/// What is in the way.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// Nothing is there, or nobody listens.
    Absent(String),
    /// A folder or the socket refuses.
    Forbidden(String),
    /// Cannot be told by this user.
    Unknown(String),
}

impl Account {
    /// The user `name` with all its groups, as `initgroups` gives them to Postfix's processes.
    pub(super) fn named(name: &str) -> Option<Self> {
        let user = nix::unistd::User::from_name(name).ok()??;
        let groups = nix::unistd::getgrouplist(&CString::new(name).ok()?, user.gid).ok()?;
        Some(Self {
            name: name.to_owned(),
            uid: user.uid.as_raw(),
            groups: groups.iter().map(|g| g.as_raw()).collect(),
        })
    }

    /// Whether the permission `bit` (1 search, 2 write) of a file is granted. Access control lists are not looked at.
    fn may(&self, facts: &std::fs::Metadata, bit: u32) -> bool {
        let shift = if facts.uid() == self.uid {
            6
        } else if self.groups.contains(&facts.gid()) {
            3
        } else {
            0
        };
        self.uid == 0 || (facts.mode() >> shift) & bit != 0
    }
}

/// Whether every one of `callers` reaches `endpoint`, and somebody listens there.
pub(super) fn reach(endpoint: &str, queue_directory: &Path, callers: &[Caller<'_>]) -> Result<(), Obstacle> {
    let Some(path) = endpoint.strip_prefix("unix:") else {
        return connect_inet(endpoint);
    };
    for caller in callers {
        let path = if caller.chrooted { path.trim_start_matches('/') } else { path };
        let path = queue_directory.join(path);
        walk(&path, caller)?;
        connect_unix(path)?;
    }
    Ok(())
}

/// Follows the path as the caller would.
fn walk(path: &Path, caller: &Caller<'_>) -> Result<(), Obstacle> {
    let who = format!("{}{}", caller.label, if caller.chrooted { " (chrooted)" } else { "" });
    let facts = |path: &Path| {
        std::fs::metadata(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => Obstacle::Unknown(format!("{}: {error}", path.display())),
            _ => Obstacle::Absent(format!("{who} looks for {}: {error}", path.display())),
        })
    };
    let account = caller.account;
    let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
    folders.reverse();
    for folder in folders {
        let facts = facts(folder)?;
        if !account.may(&facts, 1) {
            return Err(Obstacle::Forbidden(format!(
                "{who}: user {} may not enter {} (mode {:04o}, uid {}, gid {})",
                account.name,
                folder.display(),
                facts.mode() & 0o7777,
                facts.uid(),
                facts.gid()
            )));
        }
    }
    let socket = facts(path)?;
    if !socket.file_type().is_socket() {
        return Err(Obstacle::Absent(format!("{} is no socket", path.display())));
    }
    if !account.may(&socket, 2) {
        return Err(Obstacle::Forbidden(format!(
            "{who}: user {} may not connect to {} (mode {:04o}, uid {}, gid {})",
            account.name,
            path.display(),
            socket.mode() & 0o7777,
            socket.uid(),
            socket.gid()
        )));
    }
    Ok(())
}

/// A unix connect has no time limit of its own: it waits while the backlog is full.
fn connect_unix(path: PathBuf) -> Result<(), Obstacle> {
    let (sender, receiver) = mpsc::channel();
    let text = path.display().to_string();
    std::thread::spawn(move || sender.send(UnixStream::connect(path).map(drop)));
    match receiver.recv_timeout(CONNECT_TIMEOUT) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Obstacle::Unknown(format!("{text}: {error}")))
        }
        Ok(Err(error)) => Err(Obstacle::Absent(format!("{text}: {error}"))),
        Err(_) => Err(Obstacle::Absent(format!("{text}: no connection within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

fn connect_inet(endpoint: &str) -> Result<(), Obstacle> {
    let absent = |error: String| Obstacle::Absent(format!("{endpoint}: {error}"));
    let text = endpoint.split_once(':').map_or(endpoint, |(_, address)| address);
    let addresses: Vec<SocketAddr> = text.to_socket_addrs().map_err(|e| absent(e.to_string()))?.collect();
    let mut last = "no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error.to_string(),
        }
    }
    Err(absent(last))
}
