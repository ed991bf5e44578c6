//! The state directory: the site key and the spool.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::User;

use crate::config::SecretFile;
use crate::pipeline::SiteKey;

/// What is ours in a state directory, by how its name begins: site key, spool, what is in force, the inline journal, the store, the
/// records of disconnections. And what a file system has of its own.
const OURS: [&str; 7] = ["site.key", "spool", "in-force.", "inline.", "deskmilter.", "disconnect", "lost+found"];

/// Where bodies of messages in transit are spooled, in files without a name.
pub(super) fn spool_directory(state: &Path) -> PathBuf {
    state.join("spool")
}

/// Makes the state directory and the spool, mode 0700, for the user that we will run as.
///
/// A folder that is in use for something else, `/var/lib` by a slip of the pen, is neither taken from its owner nor closed to others.
///
/// The spool lies in a folder that belongs to that user, who could put a link in its place and be given what it points to: it
/// is handed over only where it is a folder itself. Where the state directory leads is the administrator's to say.
pub(super) fn prepare(state: &Path, user: Option<&User>) -> Result<(), String> {
    let user = user.filter(|_| nix::unistd::geteuid().is_root());
    for (directory, follow) in [(state.to_owned(), OFlag::empty()), (spool_directory(state), OFlag::O_NOFOLLOW)] {
        hand_over(&directory, follow, user).map_err(|error| {
            let remedy = match error.kind() == ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() {
                true => "start this as root, or as the user that deskmilter runs as",
                false => "the state directory must be ours alone, see daemon.state_directory",
            };
            format!("{}: {error}; {remedy}", directory.display())
        })?;
    }
    Ok(())
}

/// Keeps other daemons off the state directory, as long as it is held: two would write one journal, and each would take the other's
/// entries out. The kernel lets go of it with the process, however that ends.
#[derive(Debug)]
pub(super) struct Lock {
    _held: Option<Flock<File>>,
}

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    /// Another daemon has it.
    pub(super) fn take(state: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}; see daemon.state_directory", state.display());
        let folder = File::open(state).map_err(failed)?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Self { _held: Some(held) }),
            Err((_, Errno::EWOULDBLOCK)) => Err(format!(
                "{}: another deskmilter serves with this state directory; stop it, or give this one a daemon.state_directory of its own",
                state.display()
            )),
            // A file system without locks.
            Err(_) => Ok(Self { _held: None }),
        }
    }
}

/// Makes one folder where there is none; owner and mode are set on the open folder, so that nobody can swap it in between.
fn hand_over(directory: &Path, follow: OFlag, user: Option<&User>) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let flags = OFlag::O_DIRECTORY | follow;
    let folder = OpenOptions::new().read(true).custom_flags(flags.bits()).open(directory)?;
    let facts = folder.metadata()?;
    let is_anothers = user.is_some_and(|user| facts.uid() != user.uid.as_raw());
    if (is_anothers || facts.mode() & 0o077 != 0)
        && let Some(name) = not_ours(directory)?
    {
        let owner = if is_anothers { "it belongs to another user" } else { "others may enter it" };
        return Err(std::io::Error::other(format!("{owner}, and {name:?} is in it, which is none of deskmilter's")));
    }
    if let Some(user) = user {
        fchown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    if facts.mode() & 0o077 != 0 {
        folder.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Something in the state directory that is not ours.
fn not_ours(directory: &Path) -> std::io::Result<Option<std::ffi::OsString>> {
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if !OURS.iter().any(|ours| name.as_encoded_bytes().starts_with(ours.as_bytes())) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The site key; a new one is made where there is none yet.
pub(super) fn site_key(file: &SecretFile) -> Result<SiteKey, String> {
    let path = file.path();
    let failed = |error: std::io::Error| format!("{}: {error}; the site key cannot be written", path.display());
    if !path.try_exists().map_err(failed)? {
        let key = SiteKey::generate()?;
        // Written aside and linked into place, so that a half-written key is never found; of two processes one wins.
        let aside = path.with_extension(format!("new.{}", std::process::id()));
        let write = || {
            let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
            out.write_all(key.expose())?;
            out.sync_all()?;
            std::fs::hard_link(&aside, path)
        };
        let written = write();
        let _ = std::fs::remove_file(&aside);
        match written {
            Ok(()) => {
                tracing::info!(file = %path.display(), "made a new site key; hosts of one site need the same one")
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    SiteKey::load(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_on_one_state_directory_is_told_so_until_the_first_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        assert!(Lock::take(folder.path()).is_err_and(|told| told.contains("another deskmilter")));
        drop(first);
        Lock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_others_use_is_left_as_it_is_and_one_of_ours_is_closed_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mode = || std::fs::metadata(&state).unwrap().mode() & 0o777;
        let open = || std::fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(&state).unwrap();
        open();
        for name in ["site.key", "inline.journal", "in-force.json", "deskmilter.db-wal"] {
            std::fs::write(state.join(name), "").unwrap();
        }
        prepare(&state, None).unwrap();
        assert_eq!(mode(), 0o700);
        // Nobody else's business while it is ours alone.
        std::fs::create_dir(state.join("apache2")).unwrap();
        prepare(&state, None).unwrap();
        open();
        let told = prepare(&state, None).unwrap_err();
        assert!(told.contains("\"apache2\" is in it") && told.contains("daemon.state_directory"), "{told}");
        assert_eq!(mode(), 0o755);
    }

    #[test]
    fn a_link_in_the_place_of_the_spool_gives_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let (state, victim) = (folder.path().join("state"), folder.path().join("victim"));
        prepare(&state, None).unwrap();
        std::fs::remove_dir(spool_directory(&state)).unwrap();
        std::fs::create_dir(&victim).unwrap();
        std::fs::set_permissions(&victim, Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&victim, spool_directory(&state)).unwrap();
        let user = User::from_uid(nix::unistd::geteuid()).unwrap();
        assert!(prepare(&state, user.as_ref()).is_err_and(|error| error.contains("spool")));
        assert_eq!(std::fs::metadata(&victim).unwrap().mode() & 0o777, 0o755);
    }
}
