//! The state directory: the site key and the spool.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::User;

use crate::config::SecretFile;
use crate::pipeline::SiteKey;

/// Where bodies of messages in transit are spooled, in files without a name.
pub(super) fn spool_directory(state: &Path) -> PathBuf {
    state.join("spool")
}

/// Makes the state directory and the spool, mode 0700, for the user that we will run as.
pub(super) fn prepare(state: &Path, user: Option<&User>) -> Result<(), String> {
    for directory in [state.to_owned(), spool_directory(state)] {
        let failed = |error: std::io::Error| {
            format!(
                "{}: {error}; the state directory must be ours alone, see daemon.state_directory",
                directory.display()
            )
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
        if let Some(user) = user.filter(|_| nix::unistd::geteuid().is_root()) {
            std::os::unix::fs::chown(&directory, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(failed)?;
        }
        let facts = std::fs::metadata(&directory).map_err(failed)?;
        if facts.mode() & 0o077 != 0 {
            std::fs::set_permissions(&directory, Permissions::from_mode(0o700)).map_err(failed)?;
        }
    }
    Ok(())
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
