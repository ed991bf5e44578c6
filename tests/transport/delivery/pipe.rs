//! Through a program: what it gets, and what each way to end comes to.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use support::{DeliverySite, wait_until};

use super::MESSAGE;

const SUPPORT: &[&str] = &["support@acme.example"];

fn shell(script: &str) -> DeliverySite {
    DeliverySite::start(&format!("command = [\"/bin/sh\", \"-c\", '''{script}''']"), None)
}

#[test]
fn a_program_gets_the_message_with_lf_or_as_it_is() {
    let lf: Vec<u8> = MESSAGE.iter().copied().filter(|&octet| octet != b'\r').collect();
    let large = [MESSAGE, b"0123456789abcdef\r\n".repeat(20_000).as_slice()].concat();
    for (ending, message, expected) in
        [("lf", MESSAGE, lf.as_slice()), ("crlf", MESSAGE, MESSAGE), ("crlf", &large, large.as_slice())]
    {
        let command = "command = [\"/bin/sh\", \"-c\", \"cat > FOLDER/out/message\"]";
        let site = DeliverySite::start(&format!("{command}\nline_ending = \"{ending}\""), None);
        assert_eq!(site.send(SUPPORT, message)[0].text, "2.0.0 command: taken");
        assert!(site.written("message") == expected, "{ending}");
        let log = site.daemon.wait_for_log(" relay ");
        assert!(
            log.contains("system=command") && log.contains("status=\"exit 0\"") && log.contains("remote=/bin/sh"),
            "{log}"
        );
    }
}

#[test]
fn a_program_runs_as_the_daemons_user_with_an_environment_of_our_own_and_no_shell_reads_its_words() {
    let words = "command = [\"/bin/sh\", \"-c\", 'cat >/dev/null; id -u > FOLDER/out/id; env > FOLDER/out/env; printf %s \"$1\" > FOLDER/out/word', \
                 \"sh\", \"$(id); *\"]";
    let site = DeliverySite::start(words, None);
    assert_eq!(site.send(&["Support+4711@acme.example"], MESSAGE)[0].code, 250);
    let nobody =
        fs::metadata(site.folder().join("out/id")).map(|facts| std::os::unix::fs::MetadataExt::uid(&facts)).unwrap();
    assert_eq!(String::from_utf8(site.written("id")).unwrap().trim(), nobody.to_string());
    assert!(nobody != 0);
    assert_eq!(site.written("word"), b"$(id); *");
    let environment = String::from_utf8(site.written("env")).unwrap();
    for line in [
        "SENDER=jane@end.example",
        "RECIPIENT=Support+4711@acme.example",
        "EXTENSION=4711",
        "USER=nobody",
        "LANG=C.UTF-8",
    ] {
        assert!(environment.lines().any(|found| found == line), "{line}: {environment}");
    }
    let ours = ["PATH", "LANG", "HOME", "USER", "LOGNAME", "SENDER", "RECIPIENT", "EXTENSION"];
    let of_the_shell = ["PWD", "OLDPWD", "SHLVL", "_"];
    let names = environment.lines().filter_map(|line| Some(line.split_once('=')?.0));
    assert!(names.clone().all(|name| ours.contains(&name) || of_the_shell.contains(&name)), "{environment}");
}

#[test]
fn each_exit_status_has_its_reply_with_the_first_line_of_what_the_program_says() {
    let site =
        shell("cat >/dev/null; read -r status < FOLDER/status; printf \"first\\tline\\nsecond\\n\" >&2; exit $status");
    for (status, reply) in [
        (0, "250 2.0.0 command: taken: first line"),
        (1, "451 4.3.0 command: exit status 1 (of no known meaning): first line"),
        (64, "451 4.3.5"),
        (65, "554 5.6.0 command: exit status 65 (data format error): first line"),
        (66, "451 4.3.0"),
        (67, "550 5.1.1"),
        (68, "550 5.1.2"),
        (69, "451 4.3.0"),
        (70, "451 4.3.0"),
        (73, "451 4.3.0"),
        (74, "451 4.3.0"),
        (75, "451 4.3.0 command: exit status 75 (temporary failure): first line"),
        (76, "451 4.5.0"),
        (77, "550 5.7.0"),
        (78, "451 4.3.5"),
        (255, "451 4.3.0"),
    ] {
        fs::write(site.folder().join("status"), format!("{status}\n")).unwrap();
        let [said] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
        assert!(said.to_string().starts_with(reply), "{status}: {said}");
        assert!(!said.text.contains("second"), "{said}");
    }
}

#[test]
fn a_signal_a_program_that_is_not_there_and_one_that_may_not_be_run_are_temporary() {
    let killed = shell("cat >/dev/null; kill -9 $$").send(SUPPORT, MESSAGE).remove(0);
    assert!(killed.code == 451 && killed.text.contains("killed by signal 9"), "{killed}");
    for program in ["/nonexistent/program", "/etc/hostname", "/tmp"] {
        let site = DeliverySite::start(&format!("command = [\"{program}\"]"), None);
        let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
        assert!(reply.code == 451 && reply.text.starts_with("4.3.5 command: "), "{program}: {reply}");
        assert!(reply.text.contains("cannot be run"), "{program}: {reply}");
        assert!(site.daemon.wait_for_log("ERROR").contains(program));
    }
}

#[test]
fn at_the_deadline_a_program_and_all_that_it_started_is_killed_before_its_input_ends() {
    let site = shell(
        "(sleep 7; echo late > FOLDER/out/late) & cat > FOLDER/out/message; echo ended > FOLDER/out/ended; sleep 30",
    );
    let begun = Instant::now();
    let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.contains("did not end in time and was killed"), "{reply}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    std::thread::sleep(Duration::from_secs(4));
    assert!(!site.folder().join("out/late").exists());
    // One that does not read: the message is larger than a pipe, and never comes to its end.
    let site = shell("sleep 6; cat > FOLDER/out/message; echo ended > FOLDER/out/ended");
    let large = [MESSAGE, b"0123456789abcdef\r\n".repeat(100_000).as_slice()].concat();
    assert_eq!(site.send(SUPPORT, &large)[0].code, 451);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!site.folder().join("out/ended").exists());
}

#[test]
fn what_a_program_prints_and_leaves_running_delays_nothing() {
    let site = shell("cat >/dev/null; yes | head -c 5000000; yes | head -c 5000000 >&2; exit 75");
    let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.ends_with("(temporary failure): y"), "{reply}");
    let site = shell("cat >/dev/null; (sleep 5; echo late > FOLDER/out/late) & exit 0");
    let begun = Instant::now();
    assert_eq!(site.send(SUPPORT, MESSAGE)[0].code, 250);
    assert!(begun.elapsed() < Duration::from_millis(4_500), "{:?}", begun.elapsed());
    // It may be at work on the message: it has taken it.
    wait_until("the end of its work", || site.daemon.log(), || site.folder().join("out/late").exists());
}

#[test]
fn a_program_that_does_not_want_all_of_the_message_says_what_it_thinks_by_its_status() {
    let large = [MESSAGE, b"0123456789abcdef\r\n".repeat(200_000).as_slice()].concat();
    let site = shell("head -c 100 >/dev/null; exit 65");
    assert_eq!(site.send(SUPPORT, &large)[0].code, 554);
}

#[test]
fn who_reads_on_when_the_program_has_ended_gets_the_message_to_its_end_or_is_killed_before() {
    let large = [MESSAGE, b"0123456789abcdef\r\n".repeat(100_000).as_slice()].concat();
    let lf = large.iter().filter(|&&octet| octet != b'\r').count();
    let reader = "exec 3<&0; (sleep 1; cat <&3 > FOLDER/out/message; echo ended > FOLDER/out/ended) &";
    let site = shell(&format!("{reader} exit 0"));
    assert_eq!(site.send(SUPPORT, &large)[0].code, 250);
    wait_until("the reader's end", || site.daemon.log(), || !site.written("ended").is_empty());
    assert_eq!(site.written("message").len(), lf);
    for end in ["exit 75", "kill -9 $$"] {
        let site = shell(&format!("{reader} {end}"));
        assert_eq!(site.send(SUPPORT, &large)[0].code, 451, "{end}");
        std::thread::sleep(Duration::from_secs(2));
        assert!(site.written("ended").is_empty(), "{end}");
    }
}

#[test]
fn a_program_with_half_a_message_does_not_outlive_a_daemon_that_is_told_twice_to_end() {
    for _ in 0..3 {
        let mut site = shell(
            "head -c 1000 >/dev/null; echo begun > FOLDER/out/begun; sleep 2; cat >/dev/null; echo ended > FOLDER/out/ended",
        );
        let mut client = UnixStream::connect(site.socket()).unwrap();
        let envelope =
            b"LHLO x\r\nMAIL FROM:<jane@end.example>\r\nRCPT TO:<support@acme.example>\r\nDATA\r\nA: b\r\n\r\n";
        let lines = b"0123456789abcdef\r\n".repeat(100_000);
        client.write_all(&[envelope, lines.as_slice(), b".\r\n"].concat()).unwrap();
        wait_until("the program", || site.daemon.log(), || !site.written("begun").is_empty());
        site.daemon.terminate();
        site.daemon.wait_for_log("stopping");
        site.daemon.terminate();
        assert!(site.daemon.wait().success());
        std::thread::sleep(Duration::from_millis(2_500));
        assert!(site.written("ended").is_empty(), "it took a part for all of it");
    }
}

#[test]
fn no_program_is_run_as_root() {
    let site = DeliverySite::as_root("command = [\"/bin/sh\", \"-c\", \"id > FOLDER/out/id\"]");
    let [reply] = site.send(SUPPORT, MESSAGE).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.contains("no command is run as root"), "{reply}");
    assert!(site.written("id").is_empty());
}

#[test]
fn no_more_programs_run_at_a_time_than_configured() {
    let script = "cat >/dev/null; echo begin >> FOLDER/out/runs; sleep 0.3; echo end >> FOLDER/out/runs";
    let site = DeliverySite::start(
        &format!("command = [\"/bin/sh\", \"-c\", '{script}']\nconcurrency = 2\ndeadline = \"60s\""),
        None,
    );
    std::thread::scope(|scope| {
        let sent: Vec<_> = (0..8).map(|_| scope.spawn(|| site.send(SUPPORT, MESSAGE).remove(0))).collect();
        assert!(sent.into_iter().all(|sent| sent.join().unwrap().code == 250));
    });
    let runs = String::from_utf8(site.written("runs")).unwrap();
    let (mut running, mut most) = (0_i32, 0_i32);
    for line in runs.lines() {
        running += if line == "begin" { 1 } else { -1 };
        most = most.max(running);
    }
    assert_eq!((runs.lines().count(), most), (16, 2), "{runs}");
}

#[test]
fn a_connector_with_a_company_host_as_well_has_a_socket_for_each_way() {
    let host = "[connector.host]\nhost = \"127.0.0.1\"\nport = 1\ncredentials = [\
        { address = \"support@acme.example\", password_file = \"key\" }, { address = \"billing@acme.example\", password_file = \"key\" }]";
    let site = DeliverySite::start(&format!("command = [\"/bin/cat\"]\ndeadline = \"5s\"\n{host}"), None);
    assert_eq!(site.send(SUPPORT, MESSAGE)[0].code, 250);
    let out = site.folder().join("sockets/acme.sock");
    let mut out = support::LmtpClient::connect(&out);
    let [reply] = out.send("support@acme.example", &["jane@end.example"], MESSAGE).try_into().unwrap();
    assert!(reply.code == 451 && reply.text.starts_with("4.4.1 127.0.0.1: cannot connect"), "{reply}");
    let log = site.daemon.log();
    assert!(
        log.contains("connector=acme delivery=/bin/cat") && log.contains("connector=acme host=127.0.0.1:1"),
        "{log}"
    );
}
