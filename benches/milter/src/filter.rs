//! The filters that are measured, each a daemon of its own, as its users run it.

use std::fmt::{self, Write};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{NameServer, PATIENCE, PrivateKey, Process, folder, free_address};
use tempfile::TempDir;

use crate::mta::Address;

/// The address that the ticket system submits notifications for.
pub const SUPPORT: &str = "support@acme.example";
/// An author of the company's own mail.
pub const EMPLOYEE: &str = "news@acme.example";
/// The login of the ticket system.
pub const LOGIN: &str = "desk";

/// The beginning of a connector. The limit is for the load's own connections.
const CONNECTOR: &str = r#"[limits]
milter_connections = 400
[[connector]]
name = "acme"
system = "generic"
domain = "acme.example"
"#;

/// rspamd that verifies DKIM and says so in Authentication-Results, as a milter of two processes.
const RSPAMD: &str = r#"options {
  pidfile = "FOLDER/rspamd.pid"
  temp_dir = "FOLDER"
  cache_file = "FOLDER/symbols.cache"
  hs_cache_dir = "FOLDER"
  url_tld = "/usr/share/rspamd/effective_tld_names.dat"
  filters = "dkim"
  dns { nameserver = ["NAMES"]; }
}
logging { type = "console"; level = "error"; }
metric { name = "default"; actions { reject = 1000000; } }
dkim { max_sigs = 5; }
modules { path = "/usr/share/rspamd/plugins/milter_headers.lua"; }
milter_headers {
  use = ["authentication-results"];
  authenticated_headers = ["authentication-results"];
  routines { authentication-results { hostname = "mx.acme.example"; } }
}
worker "rspamd_proxy" {
  bind_socket = "SOCKET";
  milter = yes;
  timeout = 60s;
  count = 2;
  upstream "local" { default = yes; self_scan = yes; }
}
"#;

/// How a filter is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A unix socket.
    Unix,
    /// TCP over loopback.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unix => "unix",
            Self::Tcp => "TCP",
        })
    }
}

/// A running filter. Ends when dropped.
#[derive(Debug)]
pub struct Filter {
    /// Its name and version.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// When it was started.
    pub begun: Instant,
    command: Command,
    process: Process,
    folder: TempDir,
}

impl Filter {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The address as Postfix's `smtpd_milters` and the daemons' own configuration write it.
    pub fn socket(&self) -> String {
        socket(&self.address)
    }

    /// deskmilter, the program `program`, judging mail for acme.example.
    pub fn deskmilter(program: &Path, transport: Transport, names: &NameServer) -> Self {
        Self::deskmilter_with(program, transport, names, |_| {
            format!("{CONNECTOR}addresses = [\"support@acme.example\"]\nmode = \"outbound-only\"\n")
        })
    }

    /// deskmilter, signing what [`LOGIN`] submits as [`SUPPORT`] with each of `keys`, a selector and a key; `cover` is for all.
    pub fn deskmilter_signing(
        program: &Path,
        transport: Transport,
        names: &NameServer,
        keys: &[(&str, PrivateKey)],
        cover: &str,
    ) -> Self {
        Self::deskmilter_with(program, transport, names, |folder| {
            let mut text = format!(
                "{CONNECTOR}addresses = [\"{SUPPORT}\"]\nmode = \"outbound-only\"\n[connector.submission]\n\
                 logins = [{{ name = \"{LOGIN}\", addresses = [\"{SUPPORT}\"] }}]\n"
            );
            for (selector, key) in keys {
                key.write(&folder.join(selector).with_extension("pem"));
                let _ = write!(
                    text,
                    "[[connector.dkim]]\nselector = \"{selector}\"\nkey_file = \"{selector}.pem\"\ncover = \"{cover}\"\n"
                );
            }
            text
        })
    }

    /// deskmilter, signing the company's own mail, as OpenDKIM does.
    pub fn deskmilter_signing_own(program: &Path, names: &NameServer, (selector, key): (&str, &PrivateKey)) -> Self {
        Self::deskmilter_with(program, Transport::Unix, names, |folder| {
            key.write(&folder.join(selector).with_extension("pem"));
            format!(
                "{CONNECTOR}addresses = [\"{SUPPORT}\"]\nmode = \"outbound-only\"\n\
                 [[signing]]\ndomain = \"acme.example\"\nselector = \"{selector}\"\nkey_file = \"{selector}.pem\"\n"
            )
        })
    }

    /// deskmilter with the connectors that `connectors` writes; it may put files into the configuration's folder.
    pub fn deskmilter_with(
        program: &Path,
        transport: Transport,
        names: &NameServer,
        connectors: impl FnOnce(&Path) -> String,
    ) -> Self {
        let folder = folder("bench");
        let address = address(transport, folder.path());
        let text = format!(
            r#"
[daemon]
hostname = "mx.acme.example"
state_directory = "state"
[milter]
listen = ["{socket}"]
socket_group = "postfix"
[authentication]
authserv_id = "mx.acme.example"
name_servers = ["{names}"]
{connectors}"#,
            socket = socket(&address),
            names = names.address(),
            connectors = connectors(folder.path()),
        );
        let configuration = folder.path().join("deskmilter.toml");
        std::fs::write(&configuration, text).expect("the configuration");
        let name = version(Command::new(program).arg("--version"));
        let mut command = Command::new(program);
        command.arg("serve").arg("-c").arg(&configuration);
        Self::start(name, command, address, folder)
    }

    /// OpenDKIM as a verifier.
    pub fn opendkim_verifying(transport: Transport, names: &NameServer) -> Self {
        Self::opendkim(transport, names, |_| "Mode v\n".to_owned())
    }

    /// OpenDKIM, signing what an authenticated client submits from acme.example; `algorithm` as `SignatureAlgorithm` has it.
    pub fn opendkim_signing(
        transport: Transport,
        names: &NameServer,
        (selector, key): (&str, &PrivateKey),
        algorithm: &str,
    ) -> Self {
        Self::opendkim(transport, names, |folder| {
            let file = folder.join(selector).with_extension("pem");
            key.write(&file);
            // A folder in /tmp is none that it calls safe.
            format!(
                "Mode s\nDomain acme.example\nSelector {selector}\nKeyFile {}\nRequireSafeKeys no\n\
                 Canonicalization relaxed/relaxed\nSignatureAlgorithm {algorithm}\n",
                file.display()
            )
        })
    }

    /// rspamd as a verifier of DKIM alone, without its other modules and rules; none where it is not installed.
    pub fn rspamd_verifying(transport: Transport, names: &NameServer) -> Option<Self> {
        const PROGRAM: &str = "/usr/bin/rspamd";
        if !Path::new(PROGRAM).exists() {
            return None;
        }
        let folder = folder("bench");
        let address = address(transport, folder.path());
        let configuration = folder.path().join("rspamd.conf");
        let socket = match &address {
            Address::Unix(path) => format!("{} mode=0666", path.display()),
            Address::Tcp(address) => address.to_string(),
        };
        let text = RSPAMD
            .replace("FOLDER", &folder.path().display().to_string())
            .replace("NAMES", &names.address().to_string())
            .replace("SOCKET", &socket);
        std::fs::write(&configuration, text).expect("the configuration");
        let name = version(Command::new(PROGRAM).arg("--version")).replace("Rspamd daemon version", "rspamd");
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg("-i").arg("-c").arg(&configuration);
        Some(Self::start(name, command, address, folder))
    }

    fn opendkim(transport: Transport, names: &NameServer, mode: impl FnOnce(&Path) -> String) -> Self {
        let folder = folder("bench");
        let address = address(transport, folder.path());
        let configuration = folder.path().join("opendkim.conf");
        // QueryCache, so that it keeps keys as we do. With `ResolverConfiguration` instead of `Nameservers` OpenDKIM 2.11 of
        // Debian 12 dies of a general protection fault under 16 connections.
        let text = format!(
            "{}Socket {}\nAuthservID mx.acme.example\nBackground no\nSyslog no\nUMask 000\nQueryCache yes\nNameservers {}@{}\n",
            mode(folder.path()),
            opendkim_socket(&address),
            names.address().ip(),
            names.address().port(),
        );
        std::fs::write(&configuration, text).expect("the configuration");
        let name = version(Command::new("/usr/sbin/opendkim").arg("-V"));
        let mut command = Command::new("/usr/sbin/opendkim");
        command.arg("-f").arg("-x").arg(&configuration);
        Self::start(name, command, address, folder)
    }

    fn start(name: String, mut command: Command, address: Address, folder: TempDir) -> Self {
        let (begun, process) = run(&name, &mut command, &address, folder.path());
        Self { name, address, begun, command, process, folder }
    }

    /// From SIGHUP to the line in its log that says that it is done.
    ///
    /// # Panics
    /// When there is none.
    pub fn reload_time(&self) -> Duration {
        const DONE: &str = "configuration reloaded";
        let log = self.folder.path().join("log");
        let mut log = File::open(&log).unwrap_or_else(|e| panic!("{log:?}: {e}"));
        log.seek(SeekFrom::End(0)).expect("the end of the log");
        let (begun, mut told) = (Instant::now(), String::new());
        self.process.signal(Signal::SIGHUP);
        while !told.contains(DONE) {
            assert!(begun.elapsed() < PATIENCE, "{}: not reloaded: {told}", self.name);
            std::thread::sleep(Duration::from_millis(1));
            log.read_to_string(&mut told).expect("the log");
        }
        begun.elapsed()
    }

    /// Ends it and starts it again.
    pub fn restart(&mut self) {
        self.process.terminate(PATIENCE);
        (self.begun, self.process) = run(&self.name, &mut self.command, &self.address, self.folder.path());
    }
}

/// Starts the filter and waits until it can be connected to.
fn run(name: &str, command: &mut Command, address: &Address, folder: &Path) -> (Instant, Process) {
    let begun = Instant::now();
    let mut process = Process::start(name, command, &folder.join("log"));
    process.wait_until("a listening socket", || match address {
        Address::Unix(path) => UnixStream::connect(path).is_ok(),
        Address::Tcp(address) => TcpStream::connect(address).is_ok(),
    });
    (begun, process)
}

fn address(transport: Transport, folder: &Path) -> Address {
    match transport {
        Transport::Unix => Address::Unix(folder.join("milter.sock")),
        Transport::Tcp => Address::Tcp(free_address()),
    }
}

fn socket(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("unix:{}", path.display()),
        Address::Tcp(address) => format!("inet:{}:{}", address.ip(), address.port()),
    }
}

fn opendkim_socket(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("local:{}", path.display()),
        Address::Tcp(address) => format!("inet:{}@{}", address.port(), address.ip()),
    }
}

/// The first line that a program says about itself.
fn version(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; run tests/peers/install.sh"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().replace("opendkim: ", "").replace(" Filter v", " ").trim().to_owned()
}
