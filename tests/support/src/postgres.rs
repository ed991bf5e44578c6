//! A PostgreSQL of the test's own.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::{PATIENCE, Process, folder, run};
use crate::{TlsIdentity, free_port};

/// PostgreSQL refuses to run as root.
const USER: &str = "nobody";

/// A private PostgreSQL with the user and the database `deskmilter`: over its unix socket without a password, over TCP with TLS and a
/// password. Ends, with all its files, when dropped.
#[derive(Debug)]
pub struct PrivatePostgres {
    process: Option<Process>,
    port: u16,
    identity: TlsIdentity,
    folder: TempDir,
}

impl PrivatePostgres {
    /// The password of `deskmilter`.
    pub const PASSWORD: &'static str = "the-password-of-the-database";

    /// Makes a cluster and starts its server.
    ///
    /// # Panics
    /// When not root, when PostgreSQL is missing, or when it does not start; shows its log.
    pub fn start() -> Self {
        let folder = folder("postgres");
        let own = nix::unistd::User::from_name(USER).ok().flatten().expect("the user nobody");
        let own = |path: &Path| chown(path, Some(own.uid.as_raw()), Some(own.gid.as_raw())).expect("chown");
        own(folder.path());
        let mut postgres = Self { process: None, port: free_port(), identity: TlsIdentity::new("localhost"), folder };
        let (data, password) = (postgres.path("data"), postgres.path("password"));
        fs::write(&password, Self::PASSWORD).expect("the password file");
        let mut initdb = postgres.command("initdb");
        initdb.args(["--no-sync", "--no-instructions", "--locale=C", "--encoding=UTF8", "--username=deskmilter"]);
        run(initdb.arg("--auth=trust").arg("--pwfile").arg(&password).arg("-D").arg(&data));
        fs::write(data.join("pg_hba.conf"), "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
            .expect("pg_hba.conf");
        let chain = postgres.path("chain.pem");
        postgres.identity.write_chain(&chain);
        own(&chain);
        postgres.resume();
        postgres
    }

    /// Starts it, or starts it again after [`Self::stop`].
    ///
    /// # Panics
    /// When it does not start; shows its log.
    pub fn resume(&mut self) {
        let mut command = self.command("postgres");
        let (folder, port) = (self.folder.path().display(), self.port);
        command.arg("-D").arg(self.path("data"));
        for setting in [
            format!("unix_socket_directories={folder}"),
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={folder}/chain.pem"),
            format!("ssl_key_file={folder}/chain.pem"),
            "fsync=off".to_owned(),
            "shared_buffers=16MB".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        let mut process = Process::start("PostgreSQL", &mut command, &self.path("log"));
        let socket = self.path(&format!(".s.PGSQL.{port}"));
        process.wait_until("its socket", || UnixStream::connect(&socket).is_ok());
        let log = self.path("log");
        let ready = || crate::process::read(&log).matches("ready to accept connections").count();
        let starts = || crate::process::read(&log).matches("starting PostgreSQL").count();
        process.wait_until("its readiness", || ready() == starts());
        self.process = Some(process);
    }

    /// Ends it at once, with all its connections.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGINT);
            process.wait(PATIENCE);
        }
    }

    /// The URL by unix socket.
    pub fn url(&self) -> String {
        format!("postgresql:///postgres?host={}&port={}&user=deskmilter", self.folder.path().display(), self.port)
    }

    /// The URL by TCP, for which the certificate is valid.
    pub fn tls_url(&self) -> String {
        format!("postgresql://deskmilter@localhost:{}/postgres", self.port)
    }

    /// Its certificate.
    pub fn identity(&self) -> &TlsIdentity {
        &self.identity
    }

    /// What it logged.
    pub fn log(&self) -> String {
        crate::process::read(&self.path("log"))
    }

    /// All rows of all tables of ours, as text.
    ///
    /// # Panics
    /// When the server is away.
    pub fn dump(&self) -> String {
        let mut command = Command::new(program("pg_dump"));
        let port = self.port.to_string();
        run(command.arg("-h").arg(self.folder.path()).args(["-p", &port, "-U", "deskmilter", "postgres"]))
    }

    /// One of PostgreSQL's programs, as its user.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", "nogroup", "--clear-groups"]).arg(program(name));
        command.current_dir(self.folder.path());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // SIGTERM, which a dropped process gets, would wait for its clients.
        if let Some(process) = &self.process {
            process.signal(Signal::SIGINT);
        }
    }
}

/// Debian keeps them apart by version; the newest one is taken.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.is_file());
    found.sort();
    found.pop().unwrap_or_else(|| panic!("PostgreSQL's {name} is missing; run tests/peers/install.sh"))
}
