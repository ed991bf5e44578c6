//! What the process may do: never dump its memory, and be root no longer than it must.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{User, geteuid, initgroups, setgroups, setresgid, setresuid};

/// No core dumps, and no other process of our user may look into our memory: secrets are in it.
pub(super) fn forbid_core_dumps() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|error| format!("core dumps cannot be switched off: {error}"))?;
    nix::sys::prctl::set_dumpable(false).map_err(|error| format!("the process cannot be made undumpable: {error}"))
}

/// As many open files as the system lets us have: the usual first limit of 1,024 is less than the connections that the default
/// configuration allows, and when descriptors run out, DNS fails with them and senders go unjudged.
pub(super) fn allow_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// The user of that name.
pub(super) fn find_user(name: &str) -> Result<User, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user),
        _ => Err(format!("there is no user {name:?} on this host; create it or correct daemon.user")),
    }
}

/// Gives up root for good. Without being root there is nothing to give up, but then we must be that user already.
pub(super) fn become_user(user: &User) -> Result<(), String> {
    if geteuid() == user.uid {
        return Ok(());
    }
    if !geteuid().is_root() {
        return Err(format!(
            "started as uid {}, so it cannot run as {}; start it as root or as {}",
            geteuid(),
            user.name,
            user.name
        ));
    }
    let name = std::ffi::CString::new(user.name.as_str()).map_err(|_| "a user name with NUL".to_owned())?;
    let failed = |error: nix::Error| format!("cannot run as {}: {error}", user.name);
    setgroups(&[user.gid]).map_err(failed)?;
    initgroups(&name, user.gid).map_err(failed)?;
    setresgid(user.gid, user.gid, user.gid).map_err(failed)?;
    setresuid(user.uid, user.uid, user.uid).map_err(failed)?;
    if setresuid(nix::unistd::Uid::from_raw(0), nix::unistd::Uid::from_raw(0), nix::unistd::Uid::from_raw(0)).is_ok() {
        return Err("root could be had back after it was given up; the kernel does not keep users apart".to_owned());
    }
    // Changing ids makes a process dumpable again.
    forbid_core_dumps()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(512), hard).unwrap();
        allow_open_files();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
