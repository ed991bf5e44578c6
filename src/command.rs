//! Programs that an administrator names in the configuration.
//!
//! In: a program's full path and its arguments. Out: a [`Command`] that runs it without a shell, as the user that deskmilter runs
//! as, with an environment of our own and in a process group of its own. It must not know what the program is for.

use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use zeroize::Zeroizing;

/// The folders in which the program finds others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Characters of a complaint that are told.
const COMPLAINT_SHOWN: usize = 200;

/// A command that is ready to be spawned: standard input is empty unless told otherwise, `PATH`, `LANG`, `HOME`, `USER` and
/// `LOGNAME` are all of its environment. `None` without a program.
pub(crate) fn prepare(words: &[String]) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/");
    if let Ok(Some(user)) = nix::unistd::User::from_uid(nix::unistd::geteuid()) {
        command.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name);
    }
    // In a process group of its own, so that nothing that it started outlives it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    Some(command)
}

/// Kills what is left of a process group.
#[derive(Debug)]
pub(crate) struct Group(Option<u32>);

impl Group {
    /// The group that the process `id` leads, as it does after [`prepare`].
    pub(crate) fn led_by(id: Option<u32>) -> Self {
        Self(id)
    }

    /// Leaves the group alone.
    pub(crate) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()).filter(|&id| id > 1) {
            // Usually nothing is left.
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// What a program printed.
#[derive(Debug)]
pub(crate) struct Printed {
    /// The first octets.
    pub(crate) octets: Zeroizing<Vec<u8>>,
    /// Whether that is all.
    pub(crate) whole: bool,
}

impl Printed {
    /// Nothing yet, and room for `limit` octets.
    pub(crate) fn with_room(limit: usize) -> Self {
        Self { octets: Zeroizing::new(Vec::with_capacity(limit)), whole: true }
    }

    /// Reads to the end; what is over `limit` octets is read and thrown away, so that the program can end.
    pub(crate) async fn read<R: AsyncRead + Unpin>(&mut self, pipe: Option<R>, limit: usize) {
        let Some(mut pipe) = pipe else { return };
        let mut block = Zeroizing::new([0_u8; 1024]);
        while let Ok(count @ 1..) = pipe.read(block.as_mut_slice()).await {
            let read = block.get(..count).unwrap_or_default();
            let room = limit.saturating_sub(self.octets.len());
            self.whole &= read.len() <= room;
            self.octets.extend_from_slice(read.get(..room.min(read.len())).unwrap_or_default());
        }
    }

    /// The first line as text, without control characters; empty when there is none.
    pub(crate) fn first_line(&self) -> String {
        let line = self.octets.trim_ascii().split(|&b| b == b'\n').next().unwrap_or_default();
        let text: String = String::from_utf8_lossy(line)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(COMPLAINT_SHOWN)
            .collect();
        text.trim().to_owned()
    }
}
