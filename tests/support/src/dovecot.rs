//! Dovecot's authentication service for a Postfix of the test's own: no mailboxes, no ports.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::process::{Process, folder};

/// A private Dovecot that knows some users and answers on one socket (`smtpd_sasl_type = dovecot`). Ends when dropped.
///
/// Its master process insists on root; its workers run as Debian's user `dovecot`.
#[derive(Debug)]
pub struct Dovecot {
    process: Process,
    _folder: TempDir,
}

impl Dovecot {
    /// Starts one that takes these names and passwords by PLAIN and LOGIN at the socket `socket`.
    ///
    /// # Panics
    /// When not root, when Dovecot is missing, or when it does not start; shows its log.
    pub fn start(users: &[(&str, &str)], socket: &Path) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a private Dovecot must be started as root");
        let folder = folder("dovecot");
        let at = |name: &str| folder.path().join(name);
        let users: String = users.iter().map(|(name, password)| format!("{name}:{{PLAIN}}{password}\n")).collect();
        fs::write(at("users"), users).expect("the password file");
        fs::set_permissions(at("users"), PermissionsExt::from_mode(0o644)).expect("its mode");
        fs::write(at("dovecot.conf"), configuration(folder.path(), socket)).expect("dovecot.conf");
        let mut command = Command::new("/usr/sbin/dovecot");
        command.arg("-F").arg("-c").arg(at("dovecot.conf"));
        let mut process = Process::start("Dovecot", &mut command, &at("log"));
        process.wait_until("its socket", || UnixStream::connect(socket).is_ok());
        Self { process, _folder: folder }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// `protocols` is empty, so `listen` is never used; Dovecot wants one all the same.
fn configuration(folder: &Path, socket: &Path) -> String {
    let (folder, socket) = (folder.display(), socket.display());
    format!(
        "base_dir = {folder}/run\n\
         state_dir = {folder}/state\n\
         log_path = /dev/stderr\n\
         auth_verbose = yes\n\
         protocols =\n\
         listen = 127.0.0.1\n\
         ssl = no\n\
         auth_mechanisms = plain login\n\
         disable_plaintext_auth = no\n\
         passdb {{\n  driver = passwd-file\n  args = scheme=PLAIN username_format=%u {folder}/users\n}}\n\
         userdb {{\n  driver = static\n  args = uid=nobody gid=nogroup home=/nonexistent\n}}\n\
         service auth {{\n  unix_listener sasl {{\n    path = {socket}\n    mode = 0666\n  }}\n}}\n"
    )
}
