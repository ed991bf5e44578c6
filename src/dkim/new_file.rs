//! A new key's file: made for its owner alone, never over another, on disk before anybody is told.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use crate::config::Secret;

/// Writes `secret` into the new file `path`, mode 0600, for the user `owner` (`None`: whoever runs this process).
///
/// When it returns, file and name have reached the disk. On failure nothing is left behind.
///
/// # Errors
/// What the system said; [`io::ErrorKind::AlreadyExists`] when something of that name is there, be it a dangling link.
pub fn write_new(path: &Path, secret: &Secret, owner: Option<u32>) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    fill(&file, secret, owner).and_then(|()| sync_folder(path)).inspect_err(|_| {
        // It is ours: it was not there before.
        let _ = std::fs::remove_file(path);
    })
}

fn fill(mut file: &File, secret: &Secret, owner: Option<u32>) -> io::Result<()> {
    // The umask may have taken bits from its owner.
    file.set_permissions(PermissionsExt::from_mode(0o600))?;
    if owner.is_some() {
        fchown(file, owner, None)?;
    }
    file.write_all(secret.expose())?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_new_file_is_for_its_owner_alone_and_never_replaces_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.pem");
        write_new(&path, &Secret::new(b"one".to_vec()), None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let error = write_new(&path, &Secret::new(b"two".to_vec()), None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (link, target) = (folder.path().join("link.pem"), folder.path().join("elsewhere"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(write_new(&link, &Secret::new(b"one".to_vec()), None).is_err());
        assert!(!target.exists());
    }
}
