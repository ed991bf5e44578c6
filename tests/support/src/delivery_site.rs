//! The desk side of acme.example where mail comes in: deskmilter beside a ticket system that takes no SMTP, run as `nobody`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::User;
use tempfile::TempDir;

use crate::process::folder;
use crate::{Daemon, LmtpClient, Reply, TICKET_SECRET, TICKET_SECRET_BASE64};

/// Who the daemon runs as: commands are never run as root.
const USER: &str = "nobody";

/// deskmilter with the connector `acme`, whose support addresses are support@ and billing@. Its deadline is 5 s.
#[derive(Debug)]
pub struct DeliverySite {
    /// The daemon. Stopped first.
    pub daemon: Daemon,
    folder: TempDir,
}

impl DeliverySite {
    /// `delivery` are the lines of `[connector.delivery]`; in them `FOLDER` is the site's folder, where `key`, `key.base64` and, if
    /// given, `ca.pem` are.
    ///
    /// # Panics
    /// When not root, or when it does not start; shows its log.
    pub fn start(delivery: &str, ca: Option<&str>) -> Self {
        Self::prepared(delivery, ca, |_| {})
    }

    /// As [`Self::start`], with a folder that is made ready before.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn prepared(delivery: &str, ca: Option<&str>, prepare: impl FnOnce(&Path)) -> Self {
        Self::run_as(&format!("user = \"{USER}\""), delivery, ca, prepare)
    }

    /// As [`Self::start`], but run as root, without a user of its own.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn as_root(delivery: &str) -> Self {
        Self::run_as("", delivery, None, |_| {})
    }

    fn run_as(user: &str, delivery: &str, ca: Option<&str>, prepare: impl FnOnce(&Path)) -> Self {
        let folder = folder("delivery");
        let at = folder.path();
        write_secret(&at.join("key"), TICKET_SECRET);
        write_secret(&at.join("key.base64"), TICKET_SECRET_BASE64);
        fs::write(at.join("ca.pem"), ca.unwrap_or_default()).expect("the authority");
        // What commands write.
        fs::create_dir(at.join("out")).expect("a folder");
        own(&at.join("out"));
        prepare(at);
        let text = format!(
            "[daemon]\nhostname = \"desk.acme.example\"\nstate_directory = \"state\"\n{user}\n\
             [transport]\ndirectory = \"sockets\"\nsocket_group = \"postfix\"\n\
             [[connector]]\nname = \"acme\"\ndomain = \"acme.example\"\n\
             addresses = [\"support@acme.example\", \"billing@acme.example\"]\n\
             [connector.delivery]\n{delivery}\n{}",
            if delivery.contains("deadline") { "" } else { "deadline = \"5s\"\n" }
        );
        let configuration = at.join("deskmilter.toml");
        fs::write(&configuration, text.replace("FOLDER", &at.display().to_string())).expect("the configuration");
        let daemon = Daemon::start(&configuration, &[at.join("sockets/acme.delivery.sock")]);
        Self { daemon, folder }
    }

    /// The site's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The socket that leads into the ticket system.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sockets/acme.delivery.sock")
    }

    /// Hands over a message: a reply for each recipient.
    pub fn send(&self, recipients: &[&str], message: &[u8]) -> Vec<Reply> {
        LmtpClient::connect(&self.socket()).send("jane@end.example", recipients, message)
    }

    /// Replaces a secret as an administrator's editor does: by a new file of the same name.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set_secret(&self, name: &str, secret: &str) {
        let aside = self.folder.path().join(format!("{name}.new"));
        write_secret(&aside, secret);
        fs::rename(&aside, self.folder.path().join(name)).expect("its place");
    }

    /// A file that a command has written into `out`, or nothing.
    pub fn written(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.path().join("out").join(name)).unwrap_or_default()
    }
}

/// RT's own client of its mail gateway, as Debian packages it.
///
/// # Panics
/// When it is not there.
pub fn rt_mailgate() -> PathBuf {
    let path = crate::postfix::peers().join("rt/usr/bin/rt-mailgate-5");
    assert!(path.is_file(), "{path:?} is missing; run tests/peers/install.sh");
    path
}

fn write_secret(path: &Path, secret: &str) {
    fs::write(path, format!("{secret}\n")).expect("a secret file");
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("its mode");
    own(path);
}

fn own(path: &Path) {
    let user = User::from_name(USER).ok().flatten().expect("the user nobody");
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root's right to give files away");
}
