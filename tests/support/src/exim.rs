//! An Exim 4.96 of the test's own, run from where `tests/peers/install.sh` unpacked it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::User;
use tempfile::TempDir;

use crate::postfix::peers;
use crate::process::{Process, folder, read};
use crate::{Client, Reply, SmtpSession, free_address, wait_until};

/// The user that Debian's package makes.
pub(crate) const USER: &str = "Debian-exim";
/// A client that greets by this name is judged by nobody.
pub(crate) const PAST: &str = "past.acme.example";

/// A private Exim. Ends, with all its files, when dropped.
#[derive(Debug)]
pub struct PrivateExim {
    process: Option<Process>,
    told: SocketAddr,
    address: SocketAddr,
    folder: TempDir,
}

impl PrivateExim {
    /// A folder for one, not started yet.
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a private Exim must be started as root");
        let folder = folder("exim");
        for name in ["spool", "mail", "log"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("a folder of our own");
            give(&path);
        }
        Self { process: None, told: free_address(), address: free_address(), folder }
    }

    /// One that takes mail for any address from this machine, with the caller's routers and transports, and tries again at once.
    ///
    /// # Panics
    /// When not root, or when it does not start; shows its log.
    pub fn routing(routers: &str, transports: &str) -> Self {
        let mut exim = Self::new();
        let (folder, address) = (exim.folder.path().display().to_string(), exim.told);
        let text = format!(
            "exim_path = {program}\nprimary_hostname = desk.acme.example\nspool_directory = {folder}/spool\n\
             log_file_path = {folder}/log/%s\nlocal_interfaces = {ip}\ndaemon_smtp_ports = {port}\nhosts_proxy = 127.0.0.0/8\n\
             notifier_socket =\nkeep_environment =\nnever_users =\ntrusted_users = {USER}\ndeliver_drop_privilege = true\n\
             host_lookup =\ntls_advertise_hosts =\nacl_smtp_rcpt = acl_rcpt\nbegin acl\nacl_rcpt:\n  accept\n\
             begin routers\n{routers}\nbegin transports\n{transports}\nbegin retry\n* * F,1h,1s\n",
            program = exim_program().display(),
            ip = address.ip(),
            port = address.port(),
        );
        exim.write("exim.conf", &text);
        exim.resume();
        exim
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.at("exim.conf")
    }

    /// A file of its configuration.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("a file of Exim's configuration");
        give_file(&self.at(name));
    }

    /// Exim's program with the configuration, as Exim's user.
    pub fn command(&self) -> Command {
        let program = exim_program();
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        command.arg(program).arg("-C").arg(self.at("exim.conf")).current_dir("/");
        command
    }

    /// Starts it, or starts it again.
    ///
    /// # Panics
    /// When it does not start; shows its log.
    pub fn resume(&mut self) {
        let mut command = self.command();
        command.arg("-oP").arg(self.at("spool/pid")).args(["-bdf", "-q1s"]);
        let mut process = Process::start("Exim", &mut command, &self.at("log/printed"));
        let address = self.told;
        process.wait_until("an open port", || std::net::TcpStream::connect(address).is_ok());
        self.process = Some(process);
    }

    /// Stops it. What is in its queue stays there.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.terminate(crate::PATIENCE);
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Where it listens for clients that say who they are by the PROXY protocol.
    pub(crate) fn told(&self) -> SocketAddr {
        self.told
    }

    /// Where it listens for all others.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A session of `client`, greeted.
    pub fn connect(&self, client: &Client) -> SmtpSession {
        let mut session = SmtpSession::connect_through(self.told, client);
        session.expect(250, &format!("EHLO {}", client.helo));
        session
    }

    /// Hands over a message by SMTP.
    pub fn submit_as(&self, client: &Client, sender: &str, recipients: &[&str], message: &[u8]) -> Reply {
        self.connect(client).send(sender, recipients, message)
    }

    /// As [`Self::submit_as`], where no ACL asks deskmilter.
    pub fn submit_past_the_acl(&self, client: &Client, sender: &str, to: &[&str], message: &[u8]) -> Reply {
        self.connect(&Client { helo: PAST.to_owned(), ..client.clone() }).send(sender, to, message)
    }

    /// Hands over a message by sendmail(1).
    ///
    /// # Panics
    /// When it is not taken.
    pub fn submit_by_sendmail(&self, sender: &str, recipients: &[&str], message: &[u8]) {
        let mut child =
            self.command().args(["-i", "-f", sender]).args(recipients).stdin(Stdio::piped()).spawn().expect("Exim");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), message).expect("writing to Exim");
        let status = child.wait().expect("Exim's end");
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// The messages in a mailbox.
    pub fn mailbox(&self, address: &str) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(self.at("mail").join(address).join("new")).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.sort();
        paths.iter().filter_map(|path| fs::read(path).ok()).collect()
    }

    /// Waits until a mailbox has `count` messages.
    ///
    /// # Panics
    /// When it has not in time.
    pub fn wait_for_mail(&self, address: &str, count: usize) -> Vec<Vec<u8>> {
        self.wait_for(&format!("{count} messages for {address}"), || self.mailbox(address).len() >= count);
        self.mailbox(address)
    }

    /// Ids of the messages in the queue.
    pub fn queue(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("spool/input")).into_iter().flatten().filter_map(Result::ok);
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_suffix("-H").map(str::to_owned)).collect()
    }

    /// Waits until the queue is empty.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn wait_for_empty_queue(&self) {
        self.wait_for("an empty queue", || self.queue().is_empty());
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When it does not in time; shows the log.
    pub fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_until(what, || self.log(), condition);
    }

    /// What it logged and printed.
    pub fn log(&self) -> String {
        ["main", "reject", "panic", "printed"].map(|name| read(&self.at("log").join(name))).concat()
    }

    /// Its spool directory.
    pub fn spool(&self) -> PathBuf {
        self.at("spool")
    }
}

/// Where Exim's program is.
///
/// # Panics
/// When it is not unpacked.
pub fn exim_program() -> PathBuf {
    let program = peers().join("exim/usr/sbin/exim4");
    assert!(program.is_file(), "{program:?} is missing; run tests/peers/install.sh");
    program
}

fn give(path: &Path) {
    let user = User::from_name(USER).expect("users").unwrap_or_else(|| panic!("no {USER}; run tests/peers/install.sh"));
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("an owner");
}

pub(crate) fn give_file(path: &Path) {
    give(path);
    fs::set_permissions(path, PermissionsExt::from_mode(0o640)).expect("a mode");
}
