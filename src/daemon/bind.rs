//! Listening sockets with the right owner, group and mode from their first moment on.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, chown, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{Group, User};

use crate::config::{Listen, SocketAccess};

/// Who may use the sockets of a service, by the numbers that the system knows: looked up once for all of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Access {
    mode: u32,
    /// `None` leaves what the process has.
    owner: Option<u32>,
    group: Option<u32>,
}

impl Access {
    /// As configured, for the user that we will run as.
    ///
    /// # Errors
    /// There is no such group.
    pub(super) fn new(access: &SocketAccess, user: Option<&User>) -> Result<Self, String> {
        let group = match &access.group {
            None => None,
            Some(name) => match Group::from_name(name) {
                Ok(Some(group)) => Some(group.gid.as_raw()),
                _ => return Err(format!("there is no group {name:?} on this host; correct socket_group")),
            },
        };
        Ok(Self { mode: access.mode, owner: user.map(|user| user.uid.as_raw()), group })
    }
}

/// A bound socket and where it is.
#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixListener, Name),
    Tcp(TcpListener, SocketAddr),
}

impl Socket {
    pub(super) fn bind(listen: &Listen, access: Access) -> Result<Self, String> {
        match listen {
            Listen::Unix(path) => unix(path, access).map(|(listener, name)| Self::Unix(listener, name)),
            Listen::Inet(address) => {
                let failed = |error: io::Error| format!("inet:{address}: {error}; is another program listening there?");
                let listener = TcpListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                Ok(Self::Tcp(listener, bound))
            }
        }
    }

    /// Where it is, as the MTA's configuration spells it.
    pub(super) fn address(&self) -> Listen {
        match self {
            Self::Unix(_, name) => Listen::Unix(name.path.clone()),
            Self::Tcp(_, address) => Listen::Inet(*address),
        }
    }
}

/// The name of a socket. Dropping one that we made removes it, so that an MTA sees at once that nobody is there; but not when
/// another program has put its own socket in the place.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    /// Device and inode, where we made it.
    made: Option<(u64, u64)>,
}

impl Name {
    /// The name of a socket that somebody else made, and removes.
    pub(super) fn of_another(path: PathBuf) -> Self {
        Self { path, made: None }
    }

    /// Whether the socket can still be reached: its name, or the whole folder, may have been removed.
    pub(super) fn leads_here(&self) -> bool {
        leads_to(&self.path, self.made)
    }
}

impl Name {
    /// What tells later whether it is still there.
    pub(super) fn mark(&self) -> Mark {
        Mark { path: self.path.clone(), made: self.made }
    }
}

/// A socket's name as it was when it was bound. Dropping it does nothing.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    path: PathBuf,
    made: Option<(u64, u64)>,
}

impl Mark {
    /// As [`Name::leads_here`].
    pub(super) fn leads_here(&self) -> bool {
        leads_to(&self.path, self.made)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn leads_to(path: &Path, made: Option<(u64, u64)>) -> bool {
    let ours = |facts: std::fs::Metadata| made.is_none_or(|made| made == (facts.dev(), facts.ino()));
    path.symlink_metadata().is_ok_and(ours)
}

impl Drop for Name {
    fn drop(&mut self) {
        if self.made.is_some() && self.leads_here() {
            // The folder may belong to root: then the next start replaces the socket.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds beside the final name, sets owner and mode, and only then renames: nobody meets a socket that is not ready, and a
/// socket left by a killed process is replaced, but never one that a living process serves.
fn unix(path: &Path, access: Access) -> Result<(UnixListener, Name), String> {
    let failed = |error: io::Error| {
        let remedy = match (access.group, error.kind()) {
            (Some(group), ErrorKind::PermissionDenied) => format!(
                "; the folder must be ours, and where we may not give the socket to group {group}, of that group and set-group-ID: \
                 chgrp {group} and chmod g+s"
            ),
            _ => String::new(),
        };
        format!("unix:{}: {error}{remedy}", path.display())
    };
    if let Ok(facts) = path.symlink_metadata() {
        if !facts.file_type().is_socket() {
            return Err(format!("unix:{}: there is a file of this name that is no socket; remove it", path.display()));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(format!("unix:{}: another process serves this socket; stop it first", path.display()));
        }
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let listener = match UnixListener::bind(&aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            make_directory(directory, access)
                .map_err(|error| format!("{}: {error}; make the folder for our sockets", directory.display()))?;
            UnixListener::bind(&aside)
        }
        // Left by a process that had our number and was killed.
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let _ = std::fs::remove_file(&aside);
            UnixListener::bind(&aside)
        }
        bound => bound,
    };
    let ready = |listener: UnixListener| {
        give(&aside, access)?;
        listener.set_nonblocking(true)?;
        let facts = aside.symlink_metadata()?;
        std::fs::rename(&aside, path)?;
        Ok((listener, Name { path: path.to_owned(), made: Some((facts.dev(), facts.ino())) }))
    };
    match listener.and_then(ready) {
        Ok(bound) => Ok(bound),
        Err(error) => {
            let _ = std::fs::remove_file(&aside);
            Err(failed(error))
        }
    }
}

/// Sets mode, then owner and group. The folder may belong to the user that we will run as, who could put a link in the socket's
/// place: none is followed.
///
/// A set-group-ID folder has given it the group already, as the folders of our packages do. Then nothing is left to do that needs a
/// membership of the group, or the system call that the packaged unit takes away.
fn give(socket: &Path, access: Access) -> io::Result<()> {
    fchmodat(AT_FDCWD, socket, Mode::from_bits_truncate(access.mode), FchmodatFlags::NoFollowSymlink)?;
    let Access { owner, group, .. } = access;
    if belongs(&socket.symlink_metadata()?, owner, group) { Ok(()) } else { lchown(socket, owner, group) }
}

fn belongs(facts: &std::fs::Metadata, owner: Option<u32>, group: Option<u32>) -> bool {
    owner.is_none_or(|owner| facts.uid() == owner) && group.is_none_or(|group| facts.gid() == group)
}

/// Makes a folder for sockets where there is none: owner and group may enter, others not. One that exists is left as it is.
fn make_directory(directory: &Path, access: Access) -> io::Result<()> {
    match DirBuilder::new().mode(0o750).create(directory) {
        Ok(()) if belongs(&directory.symlink_metadata()?, access.owner, access.group) => Ok(()),
        Ok(()) => chown(directory, access.owner, access.group),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ACCESS: Access = Access { mode: 0o660, owner: None, group: None };

    #[test]
    fn a_socket_left_behind_is_replaced_but_a_living_one_and_a_file_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/x.sock");
        let first = unix(&path, ACCESS).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(unix(&path, ACCESS).is_err_and(|error| error.contains("another process serves")));
        // As a killed process leaves it.
        let (listener, name) = first;
        drop(listener);
        let second = unix(&path, ACCESS).unwrap();
        drop(name);
        assert!(path.exists(), "the name is not ours any more");
        drop(second);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(unix(&path, ACCESS).is_err_and(|error| error.contains("no socket")));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_set_group_id_folder_gives_the_group_to_folder_and_socket_without_a_word_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o2750)).unwrap();
        let group = folder.path().metadata().unwrap().gid();
        let path = folder.path().join("transport/x.sock");
        let bound = unix(&path, ACCESS).unwrap();
        for made in [path.as_path(), path.parent().unwrap()] {
            assert!(belongs(&made.symlink_metadata().unwrap(), None, Some(group)));
        }
        assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o7777, 0o2750);
        drop(bound);
    }

    #[test]
    fn a_link_in_the_place_of_a_socket_gives_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link) = (folder.path().join("victim"), folder.path().join("link"));
        std::fs::write(&victim, "").unwrap();
        std::fs::set_permissions(&victim, PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let _ = give(&link, Access { mode: 0o666, ..ACCESS });
        assert_eq!(std::fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
