//! What the process may do: never dump its memory, and be root no longer than it must.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{User, geteuid, initgroups, setgroups, setresgid, setresuid};

/// Open files besides the listening sockets, at least: connections, spool files, DNS, the log.
const OTHER_FILES: u64 = 256;

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

/// Checks that so many sockets can be listened on and something be done with them.
pub(super) fn check_open_files(sockets: usize) -> Result<(), String> {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    shortage(sockets, limit).map_or(Ok(()), Err)
}

/// What is wrong with this limit of open files, and what to do about it.
fn shortage(sockets: usize, limit: u64) -> Option<String> {
    let needed = u64::try_from(sockets).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    (limit < needed).then(|| {
        format!(
            "{sockets} sockets to listen on, but this process may have no more than {limit} files open; allow at least {needed}: \
             LimitNOFILE= in the systemd unit, or ulimit -Hn where it is started by hand"
        )
    })
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
    fn a_limit_too_low_for_all_sockets_is_told_with_the_number_that_is_needed() {
        assert_eq!(shortage(2, 1_024), None);
        let told = shortage(10_001, 10_001).unwrap();
        assert!(told.contains("10257") && told.contains("LimitNOFILE"), "{told}");
    }

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(512), hard).unwrap();
        allow_open_files();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
