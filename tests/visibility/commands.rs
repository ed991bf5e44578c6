//! The commands where what they say cannot be written or what they are to read cannot be read; and a log that nobody reads.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{deskmilter, folder, http_get_unix, wait_until};

const HEAD: &str = "[daemon]\nhostname = \"mx.acme.example\"\nstate_directory = \"state\"\n";

fn configuration(folder: &Path, text: &str) -> std::path::PathBuf {
    let file = folder.join("deskmilter.toml");
    fs::write(&file, text).unwrap();
    file
}

/// Runs a command; its exit code and what it said.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// A pipe whose reader has gone, as that of `| head -n 1`.
fn closed_pipe() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn a_complaint_that_nobody_reads_does_not_change_the_exit_status() {
    let folder = folder("commands");
    let wrong = configuration(folder.path(), "[daemon]\nhostnam = \"x\"\n");
    let wrong = wrong.to_str().unwrap();
    for (words, expected) in [
        (&["check", "-c", wrong][..], 78),
        (&["serve", "-c", wrong], 78),
        (&["explain", "--log", "/nonexistent/mail.log", "4XYZ12"], 65),
        (&["submit", "-C", wrong, "support@acme.example"], 77),
        (&["postfix", "--undo", "--config-directory", "/nonexistent"], 1),
        (&["no-such-command"], 64),
    ] {
        let mut command = Command::new(deskmilter());
        let status = command.args(words).stdin(Stdio::null()).stdout(closed_pipe()).stderr(closed_pipe()).status();
        assert_eq!(status.unwrap().code(), Some(expected), "{words:?}");
    }
}

#[test]
fn what_a_full_disk_does_not_take_is_told_by_the_exit_status_and_a_closed_pipe_is_no_error() {
    let folder = folder("commands");
    let file = configuration(folder.path(), &format!("{HEAD}[milter]\nlisten = [\"unix:/run/x.sock\"]\n"));
    let check = || {
        let mut command = Command::new(deskmilter());
        command.arg("check").arg("-c").arg(&file).stdin(Stdio::null());
        command
    };
    let output = check().stdout(File::options().write(true).open("/dev/full").unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(74) && said.contains("standard output"), "{said}");
    assert_eq!(check().stdout(closed_pipe()).status().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_be_read_is_named_with_what_to_do() {
    let folder = folder("commands");
    let missing = folder.path().join("mail.log");
    let packed = folder.path().join("mail.log.zst");
    fs::write(&packed, b"\x28\xb5\x2f\xfdx").unwrap();
    let explain = |log: &Path| {
        run(Command::new(deskmilter()).args(["explain", "4XYZ12", "--log"]).arg(log).env("PATH", folder.path()))
    };
    let (code, said) = explain(&missing);
    assert!(code == Some(65) && said.contains("mail.log: No such file") && said.contains("name a log"), "{said}");
    assert!(!said.contains("a copy of"), "{said}");
    let (code, said) = explain(&packed);
    assert!(code == Some(65) && said.contains("no zstd on this host") && said.contains("install it"), "{said}");
    let (code, said) = explain(Path::new("journal"));
    assert!(code == Some(65) && said.contains("no journalctl") && said.contains("--log"), "{said}");
    let (code, said) = run(Command::new(deskmilter())
        .args(["postfix", "--config-directory"])
        .arg(&missing)
        .args(["-c", configuration(folder.path(), HEAD).to_str().unwrap()]));
    assert!(code == Some(1) && said.contains("--help"), "{said}");
}

#[test]
fn the_authorities_of_each_way_are_looked_at_by_check_and_not_first_by_the_start() {
    let folder = folder("commands");
    fs::write(folder.path().join("ca.pem"), "no certificate").unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "secret\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let file = configuration(
        folder.path(),
        &format!(
            "{HEAD}[transport]\ndirectory = \"sockets\"\n[[connector]]\nname = \"acme\"\ndomain = \"acme.example\"\n\
             addresses = [\"support@acme.example\"]\n[connector.delivery]\npreset = \"osticket\"\n\
             url = \"https://desk.example\"\nkey_file = \"key\"\nca_file = \"ca.pem\"\n"
        ),
    );
    let (code, said) = run(Command::new(deskmilter()).arg("check").arg("-c").arg(&file));
    assert!(code == Some(78) && said.contains("connector.acme.delivery") && said.contains("ca.pem"), "{said}");
}

#[test]
fn without_a_log_file_audit_asks_the_journal_for_both_logs_and_a_report_says_that_ours_is_elsewhere() {
    let folder = folder("commands");
    let (program, asked) = (folder.path().join("journalctl"), folder.path().join("asked"));
    let line = "2026-11-22T12:40:09+00:00 mx postfix/qmgr[3]: 4XyzAb1kQ9z1Rt: removed";
    fs::write(&program, format!("#!/bin/sh\necho \"$@\" >'{}'\necho '{line}'\n", asked.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let with_journal = |words: &[&str]| {
        run(Command::new(deskmilter()).args(words).env("PATH", format!("{}:/usr/bin:/bin", folder.path().display())))
    };
    let words = ["audit", "--since", "1h", "--address", "support@acme.example", "--postfix-log", "journal"];
    let (code, said) = with_journal(&words);
    assert_eq!(code, Some(0), "{said}");
    let told = fs::read_to_string(&asked).unwrap();
    assert!(told.contains("SYSLOG_FACILITY=2 + _SYSTEMD_UNIT=deskmilter.service"), "{told}");
    let (code, said) = with_journal(&["observe", "report", "--since", "1h", "--log", "journal"]);
    assert!(code == Some(65) && said.contains("no line of deskmilter in the journal"), "{said}");
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing_and_what_is_lost_of_it_is_counted() {
    let folder = folder("commands");
    let socket = folder.path().join("metrics.sock");
    let good = format!(
        "{HEAD}[milter]\nlisten = [\"unix:{0}/milter.sock\"]\n[metrics]\nlisten = [\"unix:{0}/metrics.sock\"]\n",
        folder.path().display()
    );
    let file = configuration(folder.path(), &good);
    let mut child =
        Command::new(deskmilter()).arg("serve").arg("-c").arg(&file).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("metrics", String::new, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    // Each reload has as many complaints as are told of one.
    let wrong: String = (0..100).map(|n| format!("{}{n} = 1\n", "a".repeat(100))).collect();
    fs::write(&file, format!("{wrong}{good}")).unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let dropped = || {
        let (_, numbers) = http_get_unix(&socket, "/metrics");
        let line = numbers.lines().find_map(|line| line.strip_prefix("deskmilter_log_lines_dropped_total "));
        line.unwrap().parse::<f64>().unwrap()
    };
    wait_until("lines that are lost", String::new, || {
        kill(pid, Signal::SIGHUP).unwrap();
        dropped() > 0.0
    });
    assert_eq!(http_get_unix(&socket, "/health").0, 200);
    let begun = Instant::now();
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("configuration not usable"), "{log}");
}
