//! The desk side of acme.example: deskmilter beside a self-hosted ticket system, and a scripted company host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::endpoint::{Endpoint, Script};
use crate::process::folder;
use crate::{Daemon, LmtpClient, Reply};

/// The credentials of the site unless told: support@ with `s3cret-one`, billing@ with `s3cret-two`.
pub const CREDENTIALS: &str = "\
{ address = \"support@acme.example\", username = \"desk-support\", password_file = \"support.secret\" }, \
{ address = \"billing@acme.example\", username = \"desk-billing\", password_file = \"billing.secret\" }";

/// deskmilter with the connector `acme`, whose native domain is desk.example. Its deadline is 5 s.
#[derive(Debug)]
pub struct DeskSite {
    /// The daemon. Stopped first.
    pub daemon: Daemon,
    folder: TempDir,
}

impl DeskSite {
    /// A daemon that submits to `localhost:port`, whose authority is `ca`; `more` are lines of `[connector.host]`.
    ///
    /// # Panics
    /// When it does not start; shows its log.
    pub fn start(port: u16, ca: &str, credentials: &str, more: &str) -> Self {
        Self::at("localhost", port, ca, credentials, more)
    }

    /// As [`Self::start`], with the company host `host`.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn at(host: &str, port: u16, ca: &str, credentials: &str, more: &str) -> Self {
        let folder = folder("desk");
        write_secret(&folder.path().join("support.secret"), "s3cret-one");
        write_secret(&folder.path().join("billing.secret"), "s3cret-two");
        fs::write(folder.path().join("ca.pem"), ca).expect("the authority");
        let configuration = folder.path().join("deskmilter.toml");
        let text = format!(
            r#"
[daemon]
hostname = "desk.acme.example"
state_directory = "state"
[transport]
directory = "sockets"
socket_group = "postfix"
[[connector]]
name = "acme"
system = "zammad"
native_domain = "desk.example"
domain = "acme.example"
addresses = ["support@acme.example", "billing@acme.example"]
[connector.host]
host = "{host}"
port = {port}
ca_file = "ca.pem"
deadline = "5s"
credentials = [{credentials}]
{more}
"#
        )
        .replace("FOLDER", &folder.path().display().to_string());
        fs::write(&configuration, text).expect("the configuration");
        let daemon = Daemon::start(&configuration, &[folder.path().join("sockets/acme.sock")]);
        Self { daemon, folder }
    }

    /// With a scripted company host.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn with_script(runtime: &Runtime, script: Script, credentials: &str, more: &str) -> (Self, Endpoint) {
        let host = runtime.block_on(Endpoint::start(script));
        (Self::start(host.port, &host.ca, credentials, more), host)
    }

    /// The site's folder: configuration, secrets and whatever a test puts there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("deskmilter.toml")
    }

    /// The connector's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sockets/acme.sock")
    }

    /// Hands over a message: a reply for each recipient.
    pub fn send(&self, sender: &str, recipients: &[&str], message: &[u8]) -> Vec<Reply> {
        LmtpClient::connect(&self.socket()).send(sender, recipients, message)
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
}

fn write_secret(path: &Path, secret: &str) {
    fs::write(path, secret).expect("a secret file");
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("its mode");
}
