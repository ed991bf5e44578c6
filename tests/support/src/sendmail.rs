//! A Sendmail 8.17 of the test's own, run from where `tests/peers/install.sh` unpacked it. It takes mail, asks a milter,
//! and keeps what it took in its queue, where the test reads it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::postfix::peers;
use crate::process::{Process, folder, read, run};
use crate::{Reply, SmtpSession, free_address};

/// A private Sendmail. Ends, with all its files, when dropped.
#[derive(Debug)]
pub struct PrivateSendmail {
    process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl PrivateSendmail {
    /// Starts one that asks the milter at `socket` (`local:/path` or `inet:port@host`) and refuses mail temporarily while
    /// that is not there; or one that asks nobody.
    ///
    /// # Panics
    /// When not root, when Sendmail is not unpacked, or when it does not start; shows its log.
    pub fn start(socket: Option<&str>) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a private Sendmail must be started as root");
        let folder = folder("sendmail");
        let address = free_address();
        let at = |name: &str| folder.path().join(name);
        for name in ["queue", "certificates"] {
            fs::create_dir(at(name)).expect("a folder of our own");
            fs::set_permissions(at(name), PermissionsExt::from_mode(0o700)).expect("mode of our own folder");
        }
        fs::write(at("sendmail.mc"), configuration(folder.path(), address, socket)).expect("sendmail.mc");
        fs::write(at("empty"), "").expect("an empty file");
        let cf = run(Command::new("m4").arg(at("sendmail.mc")));
        fs::write(at("sendmail.cf"), cf).expect("sendmail.cf");
        chown(at("sendmail.cf"), Some(0), Some(0)).expect("owner of sendmail.cf");
        // Without a dot in the host's name Sendmail sleeps for a minute first: it gets a host name of its own.
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", "hostname mx.acme.example && exec \"$@\"", "sh"]);
        command.arg(root().join("usr/libexec/sendmail/sendmail"));
        command.arg("-C").arg(at("sendmail.cf")).args(["-bD", "-q1h", "-X"]).arg(at("traffic"));
        command.args(["-L", "sendmail-test"]);
        let mut process = Process::start("Sendmail", &mut command, &at("log"));
        process.wait_until("a greeting", || std::net::TcpStream::connect(address).is_ok());
        Self { process, address, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands over a message by SMTP.
    pub fn submit(&self, sender: &str, recipients: &[&str], message: &[u8]) -> Reply {
        let mut session = SmtpSession::connect(self.address);
        session.expect(250, "EHLO client.customer.example");
        session.send(sender, recipients, message)
    }

    /// The messages in its queue as it would send them on: header section (from the `qf` file) and body.
    pub fn queued(&self) -> Vec<String> {
        self.control_paths().iter().map(|path| message(path)).collect()
    }

    /// The control files of the messages in its queue, recipients among them.
    pub fn control_files(&self) -> Vec<String> {
        self.control_paths().iter().map(|path| read(path)).collect()
    }

    fn control_paths(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("queue")).into_iter().flatten().filter_map(Result::ok);
        let mut control: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| name_starts(path, "qf")).collect();
        control.sort();
        control
    }

    /// The SMTP traffic and what it printed.
    pub fn log(&self) -> String {
        format!("{}{}", read(&self.folder.path().join("traffic")), self.process.log())
    }
}

/// Where Sendmail is unpacked.
fn root() -> PathBuf {
    let root = peers().join("sendmail");
    assert!(root.is_dir(), "{root:?} is missing; run tests/peers/install.sh");
    root
}

/// The configuration: deliver nothing, keep everything queued, depend on no user or file of an installed Sendmail.
fn configuration(folder: &Path, address: SocketAddr, socket: Option<&str>) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    let milter = socket.map_or(String::new(), |socket| {
        format!("INPUT_MAIL_FILTER(`deskmilter', `S={socket}, F=T, T=C:5s;S:30s;R:30s;E:5m')\n")
    });
    let cf = root().join("usr/share/sendmail/cf");
    format!(
        "divert(-1)\n\
         define(`_CF_DIR_', `{cf}/')\n\
         include(`{cf}/m4/cf.m4')\n\
         VERSIONID(`test')\n\
         OSTYPE(`linux')\n\
         define(`QUEUE_DIR', `{queue}')\n\
         define(`confPID_FILE', `{pid}')\n\
         define(`STATUS_FILE', `{statistics}')\n\
         define(`ALIAS_FILE', `{empty}')\n\
         define(`confCW_FILE', `-o {empty}')\n\
         define(`confHOSTS_FILE', `/etc/hosts')\n\
         define(`confDOMAIN_NAME', `mx.acme.example')\n\
         define(`confTRUSTED_USER', `root')\n\
         define(`confDEF_USER_ID', `mail:mail')\n\
         define(`confDELIVERY_MODE', `queueonly')\n\
         define(`confTO_IDENT', `0')\n\
         define(`confSERVICE_SWITCH_FILE', `{empty}')\n\
         define(`confDONT_BLAME_SENDMAIL', `GroupReadableKeyFile')\n\
         define(`confBIND_OPTS', `-DNSRCH -DEFNAMES')\n\
         define(`confDONT_PROBE_INTERFACES', `True')\n\
         FEATURE(`no_default_msa')\n\
         FEATURE(`nocanonify')\n\
         FEATURE(`accept_unresolvable_domains')\n\
         FEATURE(`accept_unqualified_senders')\n\
         FEATURE(`promiscuous_relay')\n\
         DAEMON_OPTIONS(`Name=MTA, Family=inet, Port={port}, Addr={ip}')\n\
         {milter}\
         MAILER(`local')\n\
         MAILER(`smtp')\n",
        cf = cf.display(),
        queue = at("queue"),
        pid = at("pid"),
        statistics = at("statistics"),
        empty = at("empty"),
        port = address.port(),
        ip = address.ip(),
    )
}

/// A queued message: the `H` lines of its control file, then its data file. `H??Name: value`, continued by white space.
fn message(control: &Path) -> String {
    let mut text = String::new();
    let mut in_header = false;
    for line in read(control).lines() {
        if let Some(field) = line.strip_prefix("H?") {
            text.push_str(field.split_once('?').map_or(field, |(_, field)| field));
            text.push('\n');
            in_header = true;
        } else if in_header && line.starts_with([' ', '\t']) {
            text.push_str(line);
            text.push('\n');
        } else {
            in_header = false;
        }
    }
    let name = control.file_name().map(|name| name.to_string_lossy().replacen("qf", "df", 1)).unwrap_or_default();
    format!("{text}\n{}", read(&control.with_file_name(name)))
}

fn name_starts(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}
