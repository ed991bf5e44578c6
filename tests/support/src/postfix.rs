//! A Postfix of the test's own: configuration, queue, log, mailboxes and port apart from everything else on the machine.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::{PATIENCE, Process, folder, read, run, tail, wait_until};
use crate::{Client, Reply, SmtpSession, free_address};

/// The user that mailboxes belong to: any but root and Postfix's own.
const MAILBOX_USER: &str = "nobody";

/// How often a Postfix is started at most until it speaks.
const STARTS_MAX: usize = 4;

/// `main.cf` of every private Postfix: short retries, no look-ups, no way out of the machine.
const MAIN_CF: &str = "\
compatibility_level = 3.6
myhostname = mx.acme.example
myorigin = $myhostname
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
inet_protocols = ipv4
smtpd_peername_lookup = no
disable_dns_lookups = yes
default_transport = error:5.4.4 there is no outside world in a test
smtpd_authorized_xclient_hosts = 127.0.0.0/8
smtpd_authorized_xforward_hosts = 127.0.0.0/8
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
anvil_rate_time_unit = 1s
biff = no
in_flow_delay = 0
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 2s
smtp_connection_cache_on_demand = no
virtual_mailbox_base = $queue_directory/../mail
virtual_uid_maps = static:MAILBOX_UID
virtual_gid_maps = static:MAILBOX_GID
virtual_transport = virtual
";

/// `master.cf`: Debian's own services that a test needs. CHROOT is `y` as Debian has it, or `n`.
const MASTER_CF: &str = "\
SMTPD inet n - CHROOT - - smtpd
pickup unix n - CHROOT 1 1 pickup
cleanup unix n - CHROOT - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - CHROOT 1000? 1 tlsmgr
rewrite unix - - CHROOT - - trivial-rewrite
bounce unix - - CHROOT - 0 bounce
defer unix - - CHROOT - 0 bounce
trace unix - - CHROOT - 0 bounce
verify unix - - CHROOT - 1 verify
flush unix n - CHROOT 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - CHROOT - - smtp
relay unix - - CHROOT - - smtp
showq unix n - CHROOT - - showq
error unix - - CHROOT - - error
retry unix - - CHROOT - - error
discard unix - - CHROOT - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - CHROOT - - lmtp
anvil unix - - CHROOT - 1 anvil
scache unix - - CHROOT - 1 scache
postlog unix-dgram n - n - 1 postlogd
";

/// A private Postfix. Ends, with all its files, when dropped.
#[derive(Debug)]
pub struct PrivatePostfix {
    master: Option<Process>,
    address: SocketAddr,
    folder: TempDir,
}

/// One message in the queue, as `postqueue -j` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The queue id.
    pub id: String,
    /// `active`, `deferred`, `hold` or `incoming`.
    pub queue: String,
    /// The envelope sender.
    pub sender: String,
    /// Recipient and, when deferred, why.
    pub recipients: Vec<(String, String)>,
}

/// The messages that were delivered to one address.
#[derive(Debug, Clone)]
pub struct Mailbox {
    folder: PathBuf,
}

impl Mailbox {
    /// The messages, LF line endings, in order of arrival.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let Ok(entries) = fs::read_dir(self.folder.join("new")) else { return Vec::new() };
        let mut files: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        files.sort_by_key(|path| fs::metadata(path).and_then(|facts| facts.modified()).ok());
        files.iter().filter_map(|path| fs::read(path).ok()).collect()
    }

    /// How many messages there are.
    pub fn count(&self) -> usize {
        fs::read_dir(self.folder.join("new")).map_or(0, Iterator::count)
    }

    /// Throws them all away.
    pub fn clear(&self) {
        let Ok(entries) = fs::read_dir(self.folder.join("new")) else { return };
        entries.filter_map(Result::ok).for_each(|entry| {
            let _ = fs::remove_file(entry.path());
        });
    }
}

/// One of Postfix's commands: the installed one, or the one unpacked beside another MTA.
///
/// # Panics
/// When there is none.
pub fn postfix_program(name: &str) -> PathBuf {
    let unpacked = peers().join("bin").join(name);
    let installed = Path::new("/usr/sbin").join(name);
    let found = [unpacked, installed].into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("Postfix's {name} is missing; run tests/peers/install.sh"))
}

/// Where `install.sh` unpacks what cannot be installed.
pub(crate) fn peers() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| manifest.join("../../target")).join("peers")
}

impl PrivatePostfix {
    /// Starts one that delivers mail for `mailboxes` into files and refuses all other addresses of their domains.
    /// `main_cf` is appended to its main.cf.
    ///
    /// # Panics
    /// When not root, when Postfix is missing, or when it does not start; shows its log.
    pub fn start(mailboxes: &[&str], main_cf: &str) -> Self {
        let mut postfix = Self::new(mailboxes, main_cf, false);
        postfix.resume();
        postfix
    }

    /// As [`Self::start`], with the daemons chrooted into the queue directory as Debian has them.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_chrooted(mailboxes: &[&str], main_cf: &str) -> Self {
        let mut postfix = Self::new(mailboxes, main_cf, true);
        postfix.resume();
        postfix
    }

    /// The configuration alone, not started: for what reads or edits it.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn new(mailboxes: &[&str], main_cf: &str, chrooted: bool) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a private Postfix must be started as root");
        let postfix = Self { master: None, address: free_address(), folder: folder("postfix") };
        let main = format!("{MAIN_CF}{}{main_cf}\n", postfix.places(mailboxes));
        let user = nix::unistd::User::from_name(MAILBOX_USER).ok().flatten().expect("the user nobody");
        let main = main.replace("MAILBOX_UID", &user.uid.to_string()).replace("MAILBOX_GID", &user.gid.to_string());
        let chroot = if chrooted { "y" } else { "n" };
        let master = MASTER_CF.replace("SMTPD", &postfix.address.to_string()).replace("CHROOT", chroot);
        for name in ["config", "queue", "data", "mail"] {
            fs::create_dir(postfix.path(name)).expect("a folder of our own");
        }
        let owner = nix::unistd::User::from_name("postfix").ok().flatten().expect("the user postfix; run install.sh");
        chown(postfix.path("data"), Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).expect("chown of data");
        chown(postfix.path("mail"), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown of mail");
        write_settled(&postfix.path("config/main.cf"), &last_words(&main));
        fs::write(postfix.path("config/master.cf"), master).expect("master.cf");
        fs::write(postfix.path("config/dynamicmaps.cf"), "").expect("dynamicmaps.cf");
        postfix.socket_folder("deskmilter");
        if chrooted {
            fs::create_dir(postfix.path("queue/etc")).expect("etc of the chroot");
            for name in ["hosts", "localtime", "nsswitch.conf", "resolv.conf", "services"] {
                let _ = fs::copy(Path::new("/etc").join(name), postfix.path("queue/etc").join(name));
            }
        }
        postfix
    }

    /// main.cf lines that say where things are.
    fn places(&self, mailboxes: &[&str]) -> String {
        let at = |name: &str| self.path(name).display().to_string();
        let mut domains: Vec<&str> = mailboxes.iter().filter_map(|a| a.rsplit_once('@')).map(|(_, d)| d).collect();
        domains.sort_unstable();
        domains.dedup();
        let maps: Vec<String> = mailboxes.iter().map(|address| format!("{{ {address} = {address}/ }}")).collect();
        let mut lines = format!(
            "queue_directory = {}\ndata_directory = {}\nmaillog_file = {}\nmaillog_file_prefixes = {}\n\
             virtual_mailbox_domains = {}\nvirtual_mailbox_maps = inline:{{ {} }}\n",
            at("queue"),
            at("data"),
            at("log"),
            self.folder.path().display(),
            domains.join(", "),
            maps.join(" "),
        );
        let unpacked = peers().join("postfix");
        if peers().join("bin/postfix").exists() {
            let at = |name: &str| unpacked.join(name).display().to_string();
            lines.push_str(&format!(
                "daemon_directory = {}\ncommand_directory = {}\nmeta_directory = {}\nshlib_directory = {}\n\
                 sendmail_path = {}\nmailq_path = /usr/bin/mailq\nnewaliases_path = /usr/bin/newaliases\n\
                 import_environment = MAIL_CONFIG TZ LANG=C POSTLOG_SERVICE POSTLOG_HOSTNAME LD_LIBRARY_PATH={}\n",
                at("usr/lib/postfix/sbin"),
                at("usr/sbin"),
                at("etc/postfix"),
                at("usr/lib/postfix"),
                at("usr/sbin/sendmail"),
                at("usr/lib/postfix"),
            ));
        }
        lines
    }

    /// Starts it, or starts it again after [`Self::stop`].
    ///
    /// # Panics
    /// When it does not start; shows its log.
    pub fn resume(&mut self) {
        // Makes what is missing of the queue directory. Warnings about file owners go to the log.
        run(self.command("postfix").arg("check"));
        let daemons = run(self.command("postconf").args(["-xh", "daemon_directory"]));
        let mut master = Command::new(Path::new(daemons.trim()).join("master"));
        master.arg("-c").arg(self.configuration()).arg("-s");
        if peers().join("bin/postfix").exists() {
            master.env("LD_LIBRARY_PATH", peers().join("postfix/usr/lib/postfix"));
        }
        let mut starts = 0;
        self.master = loop {
            let mut process = Process::start("Postfix", &mut master, &self.path("log"));
            for address in self.services() {
                process.wait_until("an open port", || std::net::TcpStream::connect(address).is_ok());
            }
            starts += 1;
            // Now and then a master opens its ports and sleeps for ever: another one is started in its place.
            if starts == STARTS_MAX || speaks(self.address) {
                break Some(process);
            }
            process.kill();
        };
    }

    /// Where its services of master.cf listen, its first smtpd among them.
    fn services(&self) -> Vec<SocketAddr> {
        let master = read(&self.path("config/master.cf"));
        master.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
    }

    /// Stops it. The queue stays.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        if let Some(mut master) = self.master.take() {
            master.terminate(PATIENCE);
        }
    }

    /// Appends to main.cf. Counts after [`Self::reload`], or from the start for one that is not started yet.
    pub fn configure(&self, lines: &str) {
        let path = self.path("config/main.cf");
        write_settled(&path, &last_words(&format!("{}{lines}\n", read(&path))));
    }

    /// Appends to master.cf.
    pub fn add_service(&self, lines: &str) {
        let path = self.path("config/master.cf");
        fs::write(&path, format!("{}{lines}\n", read(&path))).expect("master.cf");
    }

    /// Makes the running Postfix read its configuration again; processes under way finish with the old one.
    ///
    /// # Panics
    /// When it is stopped.
    pub fn reload(&self) {
        let reloads = |postfix: &Self| postfix.log().matches("reload -- version").count();
        let before = reloads(self);
        let asked = std::cell::Cell::new(None::<std::time::Instant>);
        self.wait_for("the reload", |postfix| {
            // A signal to a master that has just opened its sockets and does not heed signals yet is lost: ask again.
            if asked.get().is_none_or(|at| at.elapsed() > std::time::Duration::from_secs(3)) {
                postfix.master.as_ref().expect("a running Postfix").signal(Signal::SIGHUP);
                asked.set(Some(std::time::Instant::now()));
            }
            reloads(postfix) > before
        });
    }

    /// Where its smtpd listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its configuration directory.
    pub fn configuration(&self) -> PathBuf {
        self.path("config")
    }

    /// Its queue directory: relative socket paths in its configuration are relative to this.
    pub fn queue_directory(&self) -> PathBuf {
        self.path("queue")
    }

    /// A folder under the queue directory where anyone may make sockets and reach them.
    pub fn socket_folder(&self, name: &str) -> PathBuf {
        let path = self.path("queue").join(name);
        fs::create_dir_all(&path).expect("a folder under the queue directory");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("mode of our own folder");
        path
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        read(&self.path("log"))
    }

    /// The file with everything it logged.
    pub fn log_file(&self) -> PathBuf {
        self.path("log")
    }

    /// The queue.
    pub fn queue(&self) -> Vec<Queued> {
        let text = run(self.command("postqueue").arg("-j"));
        text.lines().filter(|line| !line.is_empty()).map(queued).collect()
    }

    /// Tries deferred mail now.
    pub fn flush(&self) {
        run(self.command("postqueue").arg("-f"));
    }

    /// Waits until the queue is empty.
    ///
    /// # Panics
    /// When it is not after [`PATIENCE`].
    pub fn wait_for_empty_queue(&self) {
        self.wait_for("empty queue", |postfix| postfix.queue().is_empty());
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`]; shows the log's end.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        wait_until(what, || self.log(), || condition(self));
    }

    /// The messages delivered to one of the mailboxes.
    pub fn mailbox(&self, address: &str) -> Mailbox {
        Mailbox { folder: self.path("mail").join(address) }
    }

    /// Waits until the mailbox holds `count` messages, and returns them.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`].
    pub fn wait_for_mail(&self, address: &str, count: usize) -> Vec<Vec<u8>> {
        let mailbox = self.mailbox(address);
        self.wait_for(&format!("{count} messages for {address}"), |_| mailbox.messages().len() >= count);
        mailbox.messages()
    }

    /// Hands over a message by SMTP as the machine itself.
    pub fn submit(&self, sender: &str, recipients: &[&str], message: &[u8]) -> Reply {
        let mut session = SmtpSession::connect(self.address);
        session.expect(250, "EHLO localhost");
        session.send(sender, recipients, message)
    }

    /// Hands over a message by SMTP as a client elsewhere.
    pub fn submit_as(&self, client: &Client, sender: &str, recipients: &[&str], message: &[u8]) -> Reply {
        SmtpSession::connect_as(self.address, client).send(sender, recipients, message)
    }

    /// Hands over a message by sendmail(1).
    ///
    /// # Panics
    /// When sendmail refuses it.
    pub fn submit_by_sendmail(&self, sender: &str, recipients: &[&str], message: &[u8]) {
        use std::io::Write;
        let mut child = Command::new(postfix_program("sendmail"))
            .arg("-C")
            .arg(self.configuration())
            .args(["-i", "-f", sender, "--"])
            .args(recipients)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sendmail");
        child.stdin.take().expect("a pipe").write_all(message).expect("writing to sendmail");
        let output = child.wait_with_output().expect("sendmail's end");
        assert!(
            output.status.success(),
            "sendmail: {}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            tail(&self.log())
        );
    }

    /// A parameter's value, expanded, as Postfix itself reads it.
    pub fn parameter(&self, name: &str) -> String {
        run(self.command("postconf").args(["-xh", name])).trim_end().to_owned()
    }

    /// One of Postfix's commands for this configuration.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(postfix_program(name));
        command.arg("-c").arg(self.configuration());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A main.cf in which each parameter stands once, with its last value, which is the one that counts.
///
/// Postfix warns of repeated ones, in every program that it starts. postlogd then waits for ever, now and then: it sends its own
/// warning to itself, while those of the others have filled up its socket.
fn last_words(main: &str) -> String {
    let mut entries: Vec<String> = Vec::new();
    for line in main.lines() {
        match entries.last_mut() {
            Some(entry) if line.starts_with([' ', '\t']) => *entry += &format!("\n{line}"),
            _ => entries.push(line.to_owned()),
        }
    }
    let name = |entry: &String| {
        let name = entry.split_once('=').map(|(name, _)| name.trim().to_owned());
        name.filter(|name| !name.starts_with('#'))
    };
    let names: Vec<Option<String>> = entries.iter().map(name).collect();
    let is_last = |n: usize| names[n].is_none() || !names[n + 1..].contains(&names[n]);
    let kept = entries.iter().enumerate().filter(|(n, _)| is_last(*n));
    kept.map(|(_, entry)| format!("{entry}\n")).collect()
}

/// Writes a file and dates it back: Postfix waits for a main.cf to be older than a moment, lest somebody is still writing it.
pub fn write_settled(path: &Path, text: &str) {
    let write = || {
        let mut file = fs::File::create(path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
    };
    write().unwrap_or_else(|e| panic!("{path:?}: {e}"));
}

/// Whether an smtpd says anything soon.
fn speaks(address: SocketAddr) -> bool {
    let heard = std::net::TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(6)))?;
        std::io::Read::read(&mut stream, &mut [0; 4])
    });
    heard.is_ok_and(|octets| octets > 0)
}

fn queued(line: &str) -> Queued {
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("postqueue -j: {e}: {line}"));
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Queued {
        id: text(&value, "queue_id"),
        queue: text(&value, "queue_name"),
        sender: text(&value, "sender"),
        recipients: value["recipients"]
            .as_array()
            .map(|all| all.iter().map(|r| (text(r, "address"), text(r, "delay_reason"))).collect())
            .unwrap_or_default(),
    }
}
