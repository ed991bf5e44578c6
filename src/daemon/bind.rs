//! Listening sockets with the right owner, group and mode from their first moment on.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{Group, User};

use crate::config::{Listen, SocketAccess};

/// A bound socket and where it is.
#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixListener, Name),
    Tcp(TcpListener, SocketAddr),
}

impl Socket {
    pub(super) fn bind(listen: &Listen, access: &SocketAccess, user: Option<&User>) -> Result<Self, String> {
        match listen {
            Listen::Unix(path) => unix(path, access, user).map(|(listener, name)| Self::Unix(listener, name)),
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
}

impl Drop for Name {
    fn drop(&mut self) {
        let ours = |facts: std::fs::Metadata| self.made == Some((facts.dev(), facts.ino()));
        if self.path.symlink_metadata().is_ok_and(ours) {
            // The folder may belong to root: then the next start replaces the socket.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds beside the final name, sets owner and mode, and only then renames: nobody meets a socket that is not ready, and a
/// socket left by a killed process is replaced, but never one that a living process serves.
fn unix(path: &Path, access: &SocketAccess, user: Option<&User>) -> Result<(UnixListener, Name), String> {
    let failed = |error: io::Error| {
        let remedy = match (&access.group, error.kind()) {
            (Some(group), ErrorKind::PermissionDenied) => format!(
                "; the folder must be ours, and where we may not give the socket to {group}, of that group and set-group-ID: \
                 chgrp {group} and chmod g+s"
            ),
            _ => String::new(),
        };
        format!("unix:{}: {error}{remedy}", path.display())
    };
    if UnixStream::connect(path).is_ok() {
        return Err(format!("unix:{}: another process serves this socket; stop it first", path.display()));
    }
    if path.symlink_metadata().is_ok_and(|facts| !std::os::unix::fs::FileTypeExt::is_socket(&facts.file_type())) {
        return Err(format!("unix:{}: there is a file of this name that is no socket; remove it", path.display()));
    }
    let group = match &access.group {
        None => None,
        Some(name) => match Group::from_name(name) {
            Ok(Some(group)) => Some(group.gid.as_raw()),
            _ => return Err(format!("there is no group {name:?} on this host; correct socket_group")),
        },
    };
    let owner = user.map(|user| user.uid.as_raw());
    let directory = path.parent().unwrap_or(Path::new("/"));
    make_directory(directory, owner, group)
        .map_err(|error| format!("{}: {error}; make the folder for our sockets", directory.display()))?;

    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let _ = std::fs::remove_file(&aside);
    let bind = || {
        let listener = UnixListener::bind(&aside)?;
        give(&aside, access.mode, owner, group)?;
        listener.set_nonblocking(true)?;
        let facts = aside.symlink_metadata()?;
        std::fs::rename(&aside, path)?;
        Ok((listener, Name { path: path.to_owned(), made: Some((facts.dev(), facts.ino())) }))
    };
    match bind() {
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
fn give(socket: &Path, mode: u32, owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
    fchmodat(AT_FDCWD, socket, Mode::from_bits_truncate(mode), FchmodatFlags::NoFollowSymlink)?;
    if belongs(&socket.symlink_metadata()?, owner, group) { Ok(()) } else { lchown(socket, owner, group) }
}

fn belongs(facts: &std::fs::Metadata, owner: Option<u32>, group: Option<u32>) -> bool {
    owner.is_none_or(|owner| facts.uid() == owner) && group.is_none_or(|group| facts.gid() == group)
}

/// Makes a folder for sockets where there is none: owner and group may enter, others not. One that exists is left as it is.
fn make_directory(directory: &Path, owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
    match DirBuilder::new().mode(0o750).create(directory) {
        Ok(()) if belongs(&directory.symlink_metadata()?, owner, group) => Ok(()),
        Ok(()) => chown(directory, owner, group),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ACCESS: SocketAccess = SocketAccess { group: None, mode: 0o660 };

    #[test]
    fn a_socket_left_behind_is_replaced_but_a_living_one_and_a_file_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/x.sock");
        let first = unix(&path, &ACCESS, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(unix(&path, &ACCESS, None).is_err_and(|error| error.contains("another process serves")));
        // As a killed process leaves it.
        let (listener, name) = first;
        drop(listener);
        let second = unix(&path, &ACCESS, None).unwrap();
        drop(name);
        assert!(path.exists(), "the name is not ours any more");
        drop(second);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(unix(&path, &ACCESS, None).is_err_and(|error| error.contains("no socket")));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_set_group_id_folder_gives_the_group_to_folder_and_socket_without_a_word_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o2750)).unwrap();
        let group = folder.path().metadata().unwrap().gid();
        let path = folder.path().join("transport/x.sock");
        let bound = unix(&path, &ACCESS, None).unwrap();
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
        let _ = give(&link, 0o666, None, None);
        assert_eq!(std::fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
