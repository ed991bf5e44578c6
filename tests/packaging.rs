//! What the packages bring: the unit is sound and strict, the daemon works under it, and it speaks systemd's protocols. The packages
//! themselves are tried by packaging/test.sh, in a Debian of their own.

#![cfg(test)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::PATIENCE;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_deskmilter");

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; run tests/peers/install.sh"))
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A folder with a configuration: a milter, a transport and a connector whose endpoint nobody asks.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("dm-unit-").tempdir_in("/tmp").unwrap();
        let at = folder.path();
        fs::write(at.join("acme.password"), "s3cret\n").unwrap();
        fs::set_permissions(at.join("acme.password"), PermissionsExt::from_mode(0o600)).unwrap();
        let text = format!(
            "[daemon]\nhostname = \"mx.acme.example\"\nstate_directory = \"{0}/state\"\npid_file = \"{0}/pid\"\n\
             [milter]\nlisten = [\"unix:{0}/milter.sock\"]\n[transport]\ndirectory = \"{0}\"\npeers = [\"root\"]\n\
             [[connector]]\nname = \"acme\"\ndomain = \"acme.example\"\naddresses = [\"support@acme.example\"]\n\
             [connector.endpoint]\nhost = \"endpoint.invalid\"\n\
             credentials = [{{ username = \"acme.example\", password_file = \"acme.password\" }}]\n",
            at.display()
        );
        fs::write(at.join("deskmilter.toml"), text).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn serve(&self) -> Command {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("-c").arg(self.path("deskmilter.toml")).stdin(Stdio::null()).stderr(log);
        command
    }

    /// As systemd does it: the sockets are file descriptors 3 and 4 of the process.
    fn serve_passed(&self, milter: &UnixListener, transport: &UnixListener) -> Running {
        let copy = |listener: &UnixListener| OwnedFd::from(listener.try_clone().unwrap());
        let script = "exec 3<&0 4<&1 </dev/null >/dev/null\n\
                      export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=milter:acme\nexec \"$@\"";
        let mut shell = Command::new("bash");
        shell
            .args(["-c", script, "bash", PROGRAM, "serve", "-c"])
            .arg(self.path("deskmilter.toml"))
            .stdin(copy(milter))
            .stdout(copy(transport))
            .stderr(fs::File::options().create(true).append(true).open(self.path("log")).unwrap());
        Running(shell.spawn().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

/// Ends with the test.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    fn stop(self) {
        self.signal(Signal::SIGTERM);
        self.ends();
    }

    fn ends(mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn next(&self) -> String {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).expect("a message within the time");
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// The next message that is no sign of life.
    fn next_change(&self) -> String {
        std::iter::repeat_with(|| self.next()).find(|message| message != "WATCHDOG=1").unwrap()
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    // The programs that they start and the pages that they name are where the packages put them.
    let folder = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for entry in fs::read_dir(packaging("systemd")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".conf") {
            continue;
        }
        let lines = fs::read_to_string(&entry).unwrap();
        let lines: Vec<_> = lines
            .lines()
            .filter(|line| !line.starts_with("Documentation=man:"))
            .map(|line| line.replace("/usr/bin/deskmilter", PROGRAM).replace("/usr/lib/deskmilter/", "/bin/true #"))
            .map(|line| line.split_once(" #").map_or(line.clone(), |(before, _)| before.to_owned()))
            .collect();
        fs::write(folder.path().join(&name), lines.join("\n").replace("=+/bin/true #socket-folders", "=+/bin/true"))
            .unwrap();
        units.push(folder.path().join(name.replace("@.", "@acme.")).display().to_string());
    }
    fs::rename(
        folder.path().join("deskmilter-transport@.socket"),
        folder.path().join("deskmilter-transport@acme.socket"),
    )
    .unwrap();
    let arguments: Vec<&str> = ["verify", "--man=no"].into_iter().chain(units.iter().map(String::as_str)).collect();
    let output = run("systemd-analyze", &arguments);
    assert!(output.status.success() && told(&output).is_empty(), "{}", told(&output));
}

#[test]
fn the_service_is_exposed_by_1_1_at_most() {
    let unit = packaging("systemd/deskmilter.service");
    let output = run("systemd-analyze", &["security", "--offline=true", "--threshold=11", unit.to_str().unwrap()]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn the_configuration_that_is_installed_passes_the_check_serves_and_the_one_in_its_comments_is_valid() {
    let text = fs::read_to_string(packaging("deskmilter.toml")).unwrap();
    let installed = Installed::new();
    let file = installed.path("deskmilter.toml");
    let here = |text: &str| {
        text.replace("user = \"deskmilter\"", &format!("state_directory = \"{}\"", installed.path("state").display()))
            .replace("[daemon]", "[daemon]\nhostname = \"mx.acme.example\"")
            .replace("/run/deskmilter", installed.folder.path().to_str().unwrap())
    };
    fs::write(&file, here(&text)).unwrap();
    let output = run(PROGRAM, &["check", "-c", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", told(&output));
    let running = Running(installed.serve().spawn().unwrap());
    support::wait_until("ready", || installed.log(), || installed.log().contains("ready"));
    assert!(!installed.log().contains("ERROR"), "{}", installed.log());
    running.stop();

    let uncommented: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("listen = "))
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '!'])).unwrap_or(line))
        .collect();
    let uncommented = here(&uncommented.join("\n")).replacen("\nhostname = \"mx.acme.example\"", "", 1);
    fs::write(&file, uncommented).unwrap();
    let output = run(PROGRAM, &["check", "-c", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn systemd_is_told_of_start_reload_failed_reload_life_and_stop_in_this_order() {
    let installed = Installed::new();
    let manager = Manager::at(&installed.path("notify"));
    let mut command = installed.serve();
    command.env("NOTIFY_SOCKET", installed.path("notify")).env("WATCHDOG_USEC", "400000");
    let running = Running(command.spawn().unwrap());
    assert_eq!(manager.next(), "READY=1\nSTATUS=1 connectors, 2 sockets");
    for name in ["milter.sock", "acme.sock"] {
        UnixStream::connect(installed.path(name)).expect("ready means that it listens");
    }
    let pid = fs::read_to_string(installed.path("pid")).unwrap();
    assert_eq!(pid.trim(), running.0.id().to_string());
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }

    running.signal(Signal::SIGHUP);
    let reloading = manager.next_change();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.split('\n').next());
    assert!(since.is_some_and(|since| since.parse::<u64>().unwrap() > 0), "{reloading}");
    assert_eq!(manager.next_change(), "READY=1\nSTATUS=1 connectors, 2 sockets");

    fs::write(installed.path("deskmilter.toml"), "[daemon").unwrap();
    running.signal(Signal::SIGHUP);
    assert!(manager.next_change().starts_with("RELOADING=1\n"));
    let failed = manager.next_change();
    assert!(failed.starts_with("READY=1\n") && failed.contains("reload failed"), "{failed}");

    running.signal(Signal::SIGTERM);
    assert_eq!(manager.next_change(), "STOPPING=1\nSTATUS=finishing what is in flight");
    running.ends();
    assert!(!installed.path("pid").exists());
}

#[test]
fn a_daemon_that_does_not_get_on_gives_no_sign_of_life() {
    let installed = Installed::new();
    let manager = Manager::at(&installed.path("notify"));
    let mut command = installed.serve();
    command.env("NOTIFY_SOCKET", installed.path("notify")).env("WATCHDOG_USEC", "200000");
    let running = Running(command.spawn().unwrap());
    while manager.next() != "WATCHDOG=1" {}
    running.signal(Signal::SIGSTOP);
    manager.0.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    let mut message = [0; 64];
    // One may have been under way.
    let silent = (0..2).any(|_| manager.0.recv(&mut message).is_err());
    running.signal(Signal::SIGCONT);
    assert!(silent);
}

#[test]
fn sockets_that_are_passed_are_served_over_five_restarts_and_no_connection_is_refused() {
    let installed = Installed::new();
    // As systemd does it: bound once, passed to each process as file descriptors 3 and 4.
    let milter = UnixListener::bind(installed.path("milter.sock")).unwrap();
    let transport = UnixListener::bind(installed.path("acme.sock")).unwrap();
    let start = || installed.serve_passed(&milter, &transport);
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (path, over) = (installed.path("acme.sock"), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut served = 0;
                while !over.load(Ordering::Relaxed) {
                    let mut stream = UnixStream::connect(&path).expect("never refused");
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    // A daemon that is about to end may hang up; then the next one answers.
                    let Some(Ok(greeting)) = lines.next() else { continue };
                    assert!(greeting.starts_with("220 ") || greeting.starts_with("421 "), "{greeting}");
                    let _ = stream.write_all(b"QUIT\r\n");
                    served += usize::from(greeting.starts_with("220 "));
                }
                served
            })
        })
        .collect();
    let ready = || installed.log().matches("ready version").count();
    for n in 1..=6 {
        let running = start();
        support::wait_until("ready", || installed.log(), || ready() == n);
        std::thread::sleep(Duration::from_millis(200));
        running.stop();
        assert!(installed.path("acme.sock").exists() && installed.path("milter.sock").exists());
    }
    let last = start();
    over.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.join().unwrap() > 6);
    }
    assert!(!installed.log().contains("another process serves"), "{}", installed.log());
    last.stop();
}

#[test]
fn a_socket_that_is_passed_comes_back_when_a_reload_takes_its_connector_out_and_the_next_puts_it_back() {
    let installed = Installed::new();
    let transport = UnixListener::bind(installed.path("acme.sock")).unwrap();
    let milter = UnixListener::bind(installed.path("milter.sock")).unwrap();
    let running = installed.serve_passed(&milter, &transport);
    let reloads = |n: usize| {
        running.signal(Signal::SIGHUP);
        support::wait_until(
            "reload",
            || installed.log(),
            || installed.log().matches("configuration reloaded").count() == n,
        );
    };
    support::wait_until("ready", || installed.log(), || installed.log().contains("ready version"));
    let text = fs::read_to_string(installed.path("deskmilter.toml")).unwrap();
    fs::write(installed.path("deskmilter.toml"), &text[..text.find("[[connector]]").unwrap()]).unwrap();
    reloads(1);
    assert!(
        installed.log().contains("a socket was passed that the configuration does not name"),
        "{}",
        installed.log()
    );
    fs::write(installed.path("deskmilter.toml"), &text).unwrap();
    reloads(2);
    let mut greeting = String::new();
    let stream = UnixStream::connect(installed.path("acme.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream).read_line(&mut greeting).unwrap();
    assert!(greeting.starts_with("220 "), "{greeting}");
    running.stop();
}

#[test]
fn a_password_may_be_a_credential_that_root_owns_and_a_file_of_root_elsewhere_may_not() {
    let installed = Installed::new();
    let credentials = installed.path("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("acme"), "s3cret\n").unwrap();
    let file = installed.path("deskmilter.toml");
    let text = fs::read_to_string(&file).unwrap();
    // Somebody else than root, so that a credential is not simply a file of ours.
    let text = text.replace("[daemon]\n", "[daemon]\nuser = \"nobody\"\n");
    let check = |password: &str, mode: u32| {
        fs::set_permissions(credentials.join("acme"), PermissionsExt::from_mode(mode)).unwrap();
        fs::write(&file, text.replace("acme.password", password)).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["check", "-c"]).arg(&file).env("CREDENTIALS_DIRECTORY", &credentials).output().unwrap()
    };
    // 0440 is what an access list for the service's user looks like.
    for mode in [0o400, 0o440] {
        let output = check("credential:acme", mode);
        assert!(output.status.success(), "{}", told(&output));
    }
    assert!(told(&check("credential:acme", 0o400)).contains(credentials.join("acme").to_str().unwrap()));
    for mode in [0o444, 0o460] {
        assert!(told(&check("credential:acme", mode)).contains("lets others"));
    }
    assert!(told(&check("acme.password", 0o400)).contains("owned by uid 0"));
    assert!(told(&check("credential:other", 0o400)).contains("credentials/other"));
}

#[test]
fn the_daemon_serves_under_the_unit_s_system_calls_address_families_and_lack_of_rights() {
    let installed = Installed::new();
    let manager = Manager::at(&installed.path("notify"));
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/confined.py"))
        .args([packaging("systemd/deskmilter.service"), installed.folder.path().to_owned()])
        .args([PROGRAM, "serve", "-c"])
        .arg(installed.path("deskmilter.toml"))
        .env("NOTIFY_SOCKET", installed.path("notify"))
        .env("WATCHDOG_USEC", "400000")
        .stderr(fs::File::create(installed.path("log")).unwrap());
    let running = Running(command.spawn().unwrap());
    support::wait_until("ready", || installed.log(), || installed.log().contains("ready version"));
    assert!(manager.next().starts_with("READY=1\n"));
    let status = fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    // A transaction as far as it goes without an endpoint: threads, TLS, the resolver, the spool.
    let stream = UnixStream::connect(installed.path("acme.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut say = |command: &str| {
        (&stream).write_all(command.as_bytes()).unwrap();
        loop {
            let line = lines.next().unwrap().unwrap();
            if line.as_bytes().get(3) == Some(&b' ') {
                return line;
            }
        }
    };
    assert!(say("LHLO localhost\r\n").starts_with("220"));
    assert!(say("").starts_with("250"));
    assert!(say("MAIL FROM:<a@b.example>\r\n").starts_with("250"));
    assert!(say("RCPT TO:<support@acme.example>\r\n").starts_with("250"));
    assert!(say("DATA\r\n").starts_with("354"));
    let body = "x".repeat(70) + "\r\n";
    let reply = say(&format!("From: a@b.example\r\nSubject: large\r\n\r\n{}.\r\n", body.repeat(2_000)));
    assert!(reply.starts_with("451 4."), "{reply}");
    running.signal(Signal::SIGHUP);
    support::wait_until("reload", || installed.log(), || installed.log().contains("configuration reloaded"));
    running.stop();
    assert!(!installed.log().contains("Operation not permitted"), "{}", installed.log());
}

#[test]
fn the_program_needs_no_newer_c_library_than_2_34() {
    let output = run(packaging("glibc").to_str().unwrap(), &[PROGRAM]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn the_service_can_reach_what_the_documents_have_a_configuration_name() {
    let file = packaging("../docs/configuration.md");
    assert!(std::fs::read_to_string(file).unwrap().contains("default `/var/spool/exim4`"));
    let unit = std::fs::read_to_string(packaging("systemd/deskmilter.service")).unwrap();
    let shown = |path: &str| {
        unit.lines()
            .filter_map(|line| line.strip_prefix("BindReadOnlyPaths="))
            .any(|paths| paths.split(' ').any(|shown| shown.trim_start_matches('-') == path))
    };
    assert!(shown("/var/spool/exim4") && shown("/var/spool/exim") && shown("/run/postgresql"), "{unit}");
    let profile = std::fs::read_to_string(packaging("apparmor/deskmilter")).unwrap();
    assert!(profile.contains("/var/spool/exim{,4}/scan/{,**} r,"), "{profile}");
    assert!(profile.contains("/run/postgresql/.s.PGSQL.* rw,"), "{profile}");
}

#[test]
fn apparmor_understands_the_profile() {
    let output = run("apparmor_parser", &["-Q", "-K", packaging("apparmor/deskmilter").to_str().unwrap()]);
    assert!(output.status.success(), "{}", told(&output));
}
