//! deskmilter's own programs as processes.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{PATIENCE, Process, folder};
use crate::{SmtpSession, free_port};

/// The deskmilter program under test: built beside the test that runs, or the one that `DESKMILTER` names.
///
/// # Panics
/// When it is not built.
pub fn deskmilter() -> PathBuf {
    if let Some(path) = std::env::var_os("DESKMILTER") {
        return PathBuf::from(path);
    }
    // Beside target/release/demo, or one folder above target/debug/deps/some_test.
    let own = std::env::current_exe().expect("the path of the test itself");
    let folders = own.ancestors().skip(1);
    let found = folders.take(2).map(|folder| folder.join("deskmilter")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no deskmilter near {own:?}; run: cargo build --ignore-rust-version"))
}

/// `deskmilter serve`. Ends when dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    configuration: PathBuf,
    sockets: Vec<PathBuf>,
    log: PathBuf,
    prefix: Vec<String>,
    _folder: TempDir,
}

impl Daemon {
    /// Starts it with the configuration file `configuration`, and waits until each of `sockets` takes connections.
    ///
    /// # Panics
    /// When it ends or does not open them; shows its log.
    pub fn start(configuration: &Path, sockets: &[PathBuf]) -> Self {
        let folder = folder("daemon");
        let mut daemon = Self {
            process: None,
            configuration: configuration.to_owned(),
            sockets: sockets.to_vec(),
            log: folder.path().join("log"),
            prefix: Vec::new(),
            _folder: folder,
        };
        daemon.resume();
        daemon
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`].
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn resume(&mut self) {
        let mut words = self.prefix.iter().map(PathBuf::from).chain([deskmilter()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("serve").arg("-c").arg(&self.configuration);
        let mut process = Process::start("deskmilter serve", &mut command, &self.log);
        let sockets = &self.sockets;
        process.wait_until("listening sockets", || {
            sockets.iter().all(|path| std::os::unix::net::UnixStream::connect(path).is_ok())
        });
        self.process = Some(process);
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.running().kill();
        self.process = None;
    }

    /// SIGTERM, and waits until it has ended.
    ///
    /// # Panics
    /// When it does not run or does not end in time; shows its log.
    pub fn stop(&mut self) -> ExitStatus {
        let status = self.running().terminate(PATIENCE);
        self.process = None;
        status
    }

    /// SIGTERM alone; it may still have work to finish.
    ///
    /// # Panics
    /// When it does not run.
    pub fn terminate(&mut self) {
        self.running().signal(Signal::SIGTERM);
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not in time; shows its log.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.running().wait(PATIENCE);
        self.process = None;
        status
    }

    /// SIGSTOP: it is there and does nothing, until [`Self::thaw`]. Returns when each of its threads has stopped, which on a busy
    /// machine is some messages later than the signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&mut self) {
        self.running().signal(Signal::SIGSTOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid()));
        let stopped = || {
            let threads = std::fs::read_dir(&tasks).into_iter().flatten().filter_map(Result::ok);
            // proc(5): pid, name in parentheses, state; T is stopped.
            threads.map(|thread| crate::process::read(&thread.path().join("stat"))).all(|stat| stat.contains(") T "))
        };
        crate::wait_until("all threads stopped", || self.log(), stopped);
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&mut self) {
        self.running().signal(Signal::SIGCONT);
    }

    /// Lets another program start it from now on: `prefix` and then its own command line. That program must become it (exec).
    pub fn start_by(&mut self, prefix: &[&str]) {
        self.prefix = prefix.iter().map(|&word| word.to_owned()).collect();
    }

    /// SIGHUP: read the configuration again.
    ///
    /// # Panics
    /// When it does not run.
    pub fn reload(&mut self) {
        self.running().signal(Signal::SIGHUP);
    }

    /// The process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&mut self) -> u32 {
        self.running().pid()
    }

    /// The file that it reads its configuration from.
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// Everything it logged, over all its starts.
    pub fn log(&self) -> String {
        crate::process::read(&self.log)
    }

    /// The file with everything it logged.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Waits until its log holds `text`, and returns the first line with it.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`].
    pub fn wait_for_log(&self, text: &str) -> String {
        crate::wait_until(&format!("{text:?} in deskmilter's log"), || self.log(), || self.log().contains(text));
        self.log().lines().find(|line| line.contains(text)).unwrap_or_default().to_owned()
    }

    fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("a running daemon")
    }
}

/// `deskmilter sandbox`: a ticket endpoint. Ends when dropped; so do its tickets.
#[derive(Debug)]
pub struct SandboxEndpoint {
    process: Option<Process>,
    address: SocketAddr,
    domain: String,
    arguments: Vec<String>,
    folder: TempDir,
}

/// One ticket that the sandbox filed.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// Its folder.
    pub folder: PathBuf,
    /// `ticket.json`.
    pub facts: Value,
}

/// What a program said, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The exit code.
    pub code: i32,
    /// What it printed.
    pub told: String,
}

impl Ticket {
    /// Its tags.
    pub fn tags(&self) -> Vec<String> {
        let tags = self.facts["tags"].as_array();
        tags.map(|tags| tags.iter().filter_map(Value::as_str).map(str::to_owned).collect()).unwrap_or_default()
    }

    /// The messages as received: every file of the ticket's folder that ends in `.eml`.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "eml")).collect();
        paths.sort();
        paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
    }
}

impl SandboxEndpoint {
    /// Starts one for `domain`, with further command-line arguments, for example `["--fault", "tempfail"]`.
    ///
    /// # Panics
    /// When it ends or does not open its port; shows its log.
    pub fn start(domain: &str, arguments: &[&str]) -> Self {
        let mut sandbox = Self {
            process: None,
            address: SocketAddr::from(([127, 0, 0, 1], free_port())),
            domain: domain.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            folder: folder("sandbox"),
        };
        sandbox.resume();
        sandbox
    }

    /// Starts it again after [`Self::stop`]; port, password and tickets stay.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn resume(&mut self) {
        let mut command = Command::new(deskmilter());
        command
            .args(["sandbox", "--listen", &self.address.to_string(), "--domain", &self.domain, "--directory"])
            .arg(self.directory())
            .arg("--password-file")
            .arg(self.password_file())
            .args(&self.arguments);
        let mut process = Process::start("deskmilter sandbox", &mut command, &self.folder.path().join("log"));
        let address = self.address;
        process.wait_until("an open port", || std::net::TcpStream::connect(address).is_ok());
        self.process = Some(process);
    }

    /// Starts it again with other arguments.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn restart_with(&mut self, arguments: &[&str]) {
        self.stop();
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self.resume();
    }

    /// Ends it: the endpoint is down.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// `kill -9`: the endpoint is down, and its connections break wherever they are.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Ends it and starts it again with another password, which replaces that in [`Self::password_file`].
    ///
    /// # Panics
    /// As [`Self::start`], or when the password cannot be written.
    pub fn change_password(&mut self, password: &str) {
        self.stop();
        let aside = self.password_file().with_extension("new");
        std::fs::write(&aside, format!("{password}\n")).expect("a password file");
        std::fs::set_permissions(&aside, PermissionsExt::from_mode(0o600)).expect("its mode");
        std::fs::rename(&aside, self.password_file()).expect("its place");
        // Only hashes are kept there; without them the sandbox takes the password from the file.
        std::fs::remove_file(self.directory().join("credentials.json")).expect("the old password's hash");
        self.resume();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A session over TLS, not logged in.
    ///
    /// # Panics
    /// When there is none.
    pub fn session(&self) -> SmtpSession {
        let authority = crate::process::read(&self.directory().join("ca.pem"));
        let mut session = SmtpSession::connect(self.address);
        session.expect(250, "EHLO client.example");
        session.start_tls_trusting("localhost", &authority);
        session
    }

    /// A session over TLS, logged in with the domain's credentials.
    ///
    /// # Panics
    /// When there is none.
    pub fn session_logged_in(&self) -> SmtpSession {
        let mut session = self.session();
        let reply = session.login(&self.domain, crate::process::read(&self.password_file()).trim_end());
        assert_eq!(reply.code, 235, "{reply}");
        session
    }

    /// Runs a subcommand of `deskmilter sandbox` with the state folder and further arguments.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, subcommand: &str, arguments: &[S]) -> Ran {
        let mut command = Command::new(deskmilter());
        command.args(["sandbox", subcommand, "--directory"]).arg(self.directory()).args(arguments);
        let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), told: text(&output.stdout) + &text(&output.stderr) }
    }

    /// The folder with its authority (`ca.pem`) and its tickets.
    pub fn directory(&self) -> PathBuf {
        self.folder.path().join("desk")
    }

    /// The file that holds the password for [`Self::domain`].
    pub fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// The domain, also the user name.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What it logged.
    pub fn log(&self) -> String {
        crate::process::read(&self.folder.path().join("log"))
    }

    /// The tickets, oldest first: every folder that holds a `ticket.json`.
    pub fn tickets(&self) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        collect_tickets(&self.directory(), 3, &mut tickets);
        tickets.sort_by(|a, b| a.folder.cmp(&b.folder));
        tickets
    }

    /// How many tickets there are, without reading them.
    pub fn count_tickets(&self) -> usize {
        std::fs::read_dir(self.directory().join("tickets")).map_or(0, |entries| entries.filter_map(Result::ok).count())
    }

    /// Waits until there are `count` tickets, and returns them.
    ///
    /// # Panics
    /// When there are not within [`PATIENCE`].
    pub fn wait_for_tickets(&self, count: usize) -> Vec<Ticket> {
        crate::wait_until(&format!("{count} tickets"), || self.log(), || self.tickets().len() >= count);
        self.tickets()
    }
}

fn collect_tickets(folder: &Path, depth: usize, tickets: &mut Vec<Ticket>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        // A ticket that is still being written has another name.
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let facts = std::fs::read(path.join("ticket.json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(facts) = facts {
            tickets.push(Ticket { folder: path, facts });
        } else if depth > 0 && path.is_dir() {
            collect_tickets(&path, depth - 1, tickets);
        }
    }
}
