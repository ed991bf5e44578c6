//! The file that Exim makes for content scanning: `scan/ID/ID.eml` in its spool directory. It lives until the ACL ends.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use super::request::MessageId;

/// Opens it. The path is made of the configured directory and the id, never told by who asks; below the directory no link is
/// followed, and what is opened is a regular file.
///
/// # Errors
/// The file is not there, not a file, or not for us to read.
pub(super) fn open(spool: &Path, id: &MessageId) -> io::Result<File> {
    let folder = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let below = folder | OFlag::O_NOFOLLOW;
    let file = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let none = Mode::empty();
    let spool = openat(AT_FDCWD, spool, folder, none)?;
    let scan = openat(&spool, "scan", below, none)?;
    let message = openat(&scan, id.as_str(), below, none)?;
    let file: OwnedFd = openat(&message, format!("{}.eml", id.as_str()).as_str(), file, none)?;
    let file = File::from(file);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;

    #[test]
    fn only_a_file_in_its_place_is_opened() {
        let spool = tempfile::tempdir().unwrap();
        let id = MessageId::parse(b"1xV6OO-0008Ms-24").unwrap();
        let folder = spool.path().join("scan").join(id.as_str());
        let path = folder.join(format!("{}.eml", id.as_str()));
        let kind = |error: io::Error| error.raw_os_error();
        assert_eq!(open(spool.path(), &id).map_err(kind).err(), Some(Some(libc_enoent())));
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, "hello").unwrap();
        let mut text = String::new();
        open(spool.path(), &id).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");

        let elsewhere = spool.path().join("secret");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(open(spool.path(), &id).is_err());
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(open(spool.path(), &id).is_err());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(open(spool.path(), &id).is_err());
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(spool.path().join("other")).unwrap();
        fs::write(spool.path().join("other").join(path.file_name().unwrap()), "x").unwrap();
        std::os::unix::fs::symlink(spool.path().join("other"), &folder).unwrap();
        assert!(open(spool.path(), &id).is_err());
    }

    fn libc_enoent() -> i32 {
        nix::errno::Errno::ENOENT as i32
    }
}
