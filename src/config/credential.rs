//! Credentials that systemd passes to the service (`LoadCredential=`, systemd.exec(5)): files in a folder that nobody but root and
//! the service can read.

use std::path::{Path, PathBuf};

/// Begins a path that names a credential.
const PREFIX: &str = "credential:";

/// Where those of the packaged unit are. Whoever runs `deskmilter check` by hand has no `$CREDENTIALS_DIRECTORY`.
const OF_OUR_UNIT: &str = "/run/credentials/deskmilter.service";

/// Permissions that no credential of root has. Its group may seem to have read access: that is the mask of the access list by which
/// systemd lets the service's user in (acl(5)).
pub(super) const FORBIDDEN: u32 = 0o037;

/// Where the credential is that `text` names, if it names one.
pub(super) fn path(text: &str) -> Option<PathBuf> {
    text.strip_prefix(PREFIX).map(|name| directory().join(name))
}

/// Whether the file at `path` is a credential.
pub(super) fn is_one(path: &Path) -> bool {
    path.parent() == Some(&directory())
}

fn directory() -> PathBuf {
    let told = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|folder| folder.is_absolute());
    told.unwrap_or_else(|| PathBuf::from(OF_OUR_UNIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_into_the_folder_of_the_unit_and_out_of_it_no_more_is_granted() {
        let acme = path("credential:acme").unwrap();
        assert!(acme.ends_with("acme") && is_one(&acme));
        assert_eq!(path("acme.password"), None);
        for other in ["credential:../site.key", "credential:a/b", "credential:/etc/shadow"] {
            assert!(!is_one(&path(other).unwrap()), "{other}");
        }
    }
}
