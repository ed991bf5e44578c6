//! What programs that send mail expect of `sendmail`: how each calls it, with which exit code it ends, and what is on its way
//! then.

#![cfg(test)]

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::endpoint::{Action, Endpoint, Message, Rule, Script};
use support::{CREDENTIALS, DeskSite, deskmilter};
use tokio::runtime::Runtime;

const NATIVE: &str = "unverified = \"native\"\ndefault_address = \"support@acme.example\"";

/// Calls a program with sendmail's arguments and a message.
fn call(program: &Path, first: &[&str], arguments: &[&str], message: &str) -> Output {
    let mut child = Command::new(program)
        .args(first)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends without reading is told by its exit code.
    let _ = child.stdin.take().unwrap().write_all(message.as_bytes());
    child.wait_with_output().unwrap()
}

struct Site {
    desk: DeskSite,
    host: Endpoint,
    _runtime: Runtime,
}

impl Site {
    fn start(rules: Vec<Rule>) -> Self {
        let runtime = Runtime::new().unwrap();
        let script = Script { passwords: vec!["s3cret-one", "s3cret-two"], rules, ..Script::default() };
        let (desk, host) = DeskSite::with_script(&runtime, script, CREDENTIALS, NATIVE);
        Self { desk, host, _runtime: runtime }
    }

    /// `deskmilter submit` with this site's configuration.
    fn submit(&self, arguments: &[&str], message: &str) -> (i32, String) {
        let configuration = self.desk.configuration();
        let output = call(&deskmilter(), &["submit", "-C", configuration.to_str().unwrap()], arguments, message);
        assert_eq!(output.stdout, b"");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn last(&self) -> Message {
        self.host.see(|record| record.taken.last().cloned()).unwrap()
    }
}

fn rule(on: &'static str, action: Action) -> Rule {
    Rule { on, connection: None, action }
}

#[test]
fn ticket_systems_and_the_programs_beside_them_are_served_as_they_call() {
    let site = Site::start(vec![]);
    let whole =
        "From: Acme <support@acme.example>\nTo: jane@end.example\nBcc: boss@end.example\nSubject: x\n\nhello\n.\nend\n";
    let body = "hello\n.\nend\n";
    for (who, arguments, message, sender, recipients, cut) in [
        (
            "RT (SendmailPath, SendmailArguments)",
            "-oi -t -f billing@acme.example",
            whole,
            "billing",
            &["jane", "boss"][..],
            false,
        ),
        ("RT without a sender", "-oi -t", whole, "support", &["jane", "boss"], false),
        ("Zammad (Ruby's mail)", "-i -f support@acme.example -- jane@end.example", whole, "support", &["jane"], false),
        ("PHP mail()", "-t -i", whole, "support", &["jane", "boss"], false),
        ("PHP mail() with -f", "-t -i -fbilling@acme.example", whole, "billing", &["jane", "boss"], false),
        ("Symfony Mailer -t", "-t", whole, "support", &["jane", "boss"], true),
        ("git send-email", "-i jane@end.example boss@end.example", whole, "support", &["jane", "boss"], false),
        ("mutt", "-oem -oi -f support@acme.example -- jane@end.example", whole, "support", &["jane"], false),
        ("Python's subprocess", "-t -oi", whole, "support", &["jane", "boss"], false),
        ("logwatch", "-t", whole, "support", &["jane", "boss"], true),
        ("a person", "-f support@acme.example -F Support jane@end.example", body, "support", &["jane"], true),
        ("mailx", "-i jane@end.example -r support@acme.example", body, "support", &["jane"], false),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let (code, complaint) = site.submit(&arguments, message);
        assert_eq!((code, complaint.as_str()), (0, ""), "{who}");
        let sent = site.last();
        assert!(
            sent.envelope[0].starts_with(&format!("MAIL FROM:<{sender}@acme.example>")),
            "{who}: {:?}",
            sent.envelope
        );
        let to: Vec<String> = recipients.iter().map(|name| format!("RCPT TO:<{name}@end.example>")).collect();
        assert_eq!(sent.envelope[1..], to, "{who}");
        let text = String::from_utf8(sent.content).unwrap();
        assert!(
            text.ends_with(if cut { "\r\n\r\nhello\r\n" } else { "\r\n\r\nhello\r\n.\r\nend\r\n" }),
            "{who}: {text}"
        );
        assert!(!text.contains("Bcc") && !text.contains("X-Deskmilter"), "{who}: {text}");
        for field in ["From: ", "Date: ", "Message-ID: <"] {
            assert_eq!(text.matches(field).count(), 1, "{who}: {text}");
        }
    }
}

#[test]
fn cron_reaches_root_through_the_default_address() {
    let site = Site::start(vec![]);
    let message =
        "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@desk> true\nAuto-Submitted: auto-generated\n\nx\n";
    let (code, complaint) = site.submit(&["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"], message);
    assert_eq!((code, complaint.as_str()), (0, ""));
    let sent = site.last();
    assert!(sent.envelope[0].starts_with("MAIL FROM:<support@acme.example>"), "{:?}", sent.envelope);
    assert_eq!(sent.envelope[1], "RCPT TO:<root@acme.example>");
    assert!(sent.content.starts_with(b"From: root (Cron Daemon)\r\nTo: root\r\n"));
}

#[test]
fn an_exit_code_says_what_to_do_next() {
    let site = Site::start(vec![
        rule("RCPT TO:<nobody@", Action::Say("550 5.1.1 no such user\r\n")),
        rule("RCPT TO:<busy@", Action::Say("450 4.2.1 mailbox busy\r\n")),
        rule("RCPT TO:<policy@", Action::Say("550 5.7.1 not wanted\r\n")),
    ]);
    let message = "From: support@acme.example\nTo: jane@end.example\n\nx\n";
    for (arguments, message, expected, words) in [
        ("-i nobody@end.example", message, 67, "no such user"),
        ("-i busy@end.example", message, 75, "mailbox busy"),
        ("-i busy@end.example nobody@end.example", message, 75, "<busy@end.example> 450 4.2.1"),
        ("-i policy@end.example", message, 77, "not wanted"),
        ("-i jane@end.example nobody@end.example", message, 67, "taken for 1 other recipients"),
        ("-i jane@end.example busy@end.example", message, 75, "taken for 1 other recipients"),
        ("-i -f support@desk.example jane@end.example", message, 77, "is a native address"),
        ("-i -f someone@other.example jane@end.example", message, 77, "no connector"),
        ("-t", "From: support@acme.example\n\nx\n", 65, "no recipient in To, Cc or Bcc"),
        ("-i", message, 64, "no recipient"),
        ("-bs -i", "EHLO x\n", 64, "-bs: SMTP is not spoken here"),
        ("-bp", "", 64, "there is no queue"),
        ("-bd", "", 64, "-bd is not available"),
        ("-Z", message, 64, "no option of sendmail"),
        ("-i jane@end.example -f", message, 64, "-f needs a value"),
        ("-q", "", 0, ""),
        ("-i -C /nonexistent/deskmilter.toml jane@end.example", message, 78, "/nonexistent/deskmilter.toml"),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let (code, complaint) = site.submit(&arguments, message);
        assert!(code == expected && complaint.contains(words), "{arguments:?}: {code} {complaint}");
    }
}

#[test]
fn what_the_daemon_cannot_take_now_stays_with_the_caller() {
    let mut site = Site::start(vec![rule("DOT 1", Action::Close)]);
    let message = "From: support@acme.example\nTo: jane@end.example\n\nx\n";
    let (code, complaint) = site.submit(&["-t"], message);
    assert!(code == 75 && complaint.contains("unknown whether it was taken"), "{code} {complaint}");
    site.desk.daemon.kill();
    let (code, complaint) = site.submit(&["-t"], message);
    assert!(code == 75 && complaint.contains("is deskmilter running?"), "{code} {complaint}");
}

#[test]
fn an_exit_code_is_right_though_nobody_hears_the_words() {
    let site = Site::start(vec![]);
    let path = site.desk.folder().join("message");
    std::fs::write(&path, "From: support@acme.example\nTo: jane@end.example\n\nx\n").unwrap();
    for (arguments, expected) in [(&["-v", "-t"][..], 0), (&["-i"], 64)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = Command::new(deskmilter())
            .args(["submit", "-C", site.desk.configuration().to_str().unwrap()])
            .args(arguments)
            .stdin(Stdio::from(std::fs::File::open(&path).unwrap()))
            .stderr(writer)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(expected), "{arguments:?}");
    }
}

#[test]
fn who_asks_for_help_gets_it() {
    let output = Command::new(deskmilter()).args(["submit", "--help"]).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for words in ["deskmilter submit", "-f ADDRESS", "-t: recipients", "with 75 when the caller must come again"] {
        assert!(told.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{words}: {told}");
    }
}

#[test]
fn under_the_name_of_sendmail_it_is_sendmail() {
    let site = Site::start(vec![]);
    let link = site.desk.folder().join("sendmail");
    symlink(deskmilter(), &link).unwrap();
    let configuration = site.desk.configuration();
    let arguments = ["-C", configuration.to_str().unwrap(), "-f", "", "jane@end.example"];
    let message = "From: billing@acme.example\nX-Auto: 1\n\nGr\u{fc}\u{df}e\n";
    let output = call(&link, &[], &arguments, message);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let sent = site.last();
    assert!(
        sent.envelope[0].starts_with("MAIL FROM:<>") && sent.envelope[0].contains("BODY=8BITMIME"),
        "{:?}",
        sent.envelope
    );
    assert_eq!(sent.login, "desk-billing/s3cret-two");
}

#[test]
fn a_user_who_can_read_no_secret_submits_once_the_socket_is_for_its_group_and_it_is_a_peer() {
    let mut site = Site::start(vec![]);
    let submit = |site: &Site| {
        let path = site.desk.folder().join("message");
        std::fs::write(&path, "From: support@acme.example\nTo: jane@end.example\n\nx\n").unwrap();
        let output = Command::new("setpriv")
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            .arg(deskmilter())
            .args(["submit", "-C", site.desk.configuration().to_str().unwrap(), "-t"])
            .stdin(Stdio::from(std::fs::File::open(&path).unwrap()))
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, complaint) = submit(&site);
    assert!(code == 77 && complaint.contains("put this user into transport.socket_group"), "{code} {complaint}");
    for (more, expected, words) in [
        ("socket_group = \"nogroup\"\npeers = [\"root\"]", 75, "may not hand over mail here"),
        ("socket_group = \"nogroup\"\npeers = [\"root\", \"nobody\"]", 0, ""),
    ] {
        let text = std::fs::read_to_string(site.desk.configuration()).unwrap();
        let text = text.split_once("[[connector]]").unwrap().1;
        let text = format!(
            "[daemon]\nhostname = \"desk.acme.example\"\nstate_directory = \"state\"\n[transport]\n\
             directory = \"sockets\"\n{more}\n[[connector]]{text}"
        );
        // An existing folder is left as it is: made anew, it is the group's.
        std::fs::remove_dir_all(site.desk.folder().join("sockets")).unwrap();
        std::fs::write(site.desk.configuration(), text).unwrap();
        site.desk.daemon.stop();
        site.desk.daemon.resume();
        let (code, complaint) = submit(&site);
        assert!(code == expected && complaint.contains(words), "{code} {complaint}");
    }
}

#[test]
fn a_message_that_was_taken_is_told_so_also_where_nobody_reads_what_is_said_of_it() {
    let site = Site::start(vec![]);
    let mut child = Command::new(deskmilter())
        .args(["submit", "-v", "-C", site.desk.configuration().to_str().unwrap()])
        .args(["-f", "billing@acme.example", "jane@end.example"])
        .stdin(Stdio::piped())
        .stderr(std::io::pipe().unwrap().1)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"From: billing@acme.example\nSubject: once\n\nhello\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(site.host.see(|record| record.taken.len()), 1);
}
