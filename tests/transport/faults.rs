//! What becomes of a notification when the company host, the network or a credential fails: the reply for each recipient with
//! the remote words, how many copies were taken, and which credential the log names.

use std::time::Duration;

use support::endpoint::{Action, Certificate, Endpoint, Rule, Script};
use support::{CREDENTIALS, DeskSite};
use tokio::runtime::Runtime;

const MESSAGE: &[u8] = b"From: support@acme.example\r\nSubject: hello\r\n\r\n..dots\r\n.\r\n";

struct Row {
    what: &'static str,
    script: Script,
    credentials: Option<&'static str>,
    /// Code, words of the reply.
    expected: (u16, &'static str),
    /// Messages that the host took.
    taken: usize,
    /// Words of the log.
    log: &'static str,
}

fn on(on: &'static str, action: Action) -> Script {
    Script { rules: vec![Rule { on, connection: None, action }], ..Script::default() }
}

fn row(what: &'static str, script: Script, expected: (u16, &'static str)) -> Row {
    Row { what, script, credentials: None, expected, taken: 0, log: "credential=desk-support" }
}

const BEARER: &str = "{ address = \"support@acme.example\", username = \"desk-support\", token_file = \"support.secret\" }, \
    { address = \"billing@acme.example\", username = \"desk-billing\", password_file = \"billing.secret\" }";
const FAILING: &str = "{ address = \"support@acme.example\", username = \"desk-support\", \
    token_command = [\"/bin/sh\", \"-c\", \"echo invalid_grant >&2; exit 1\"] }, \
    { address = \"billing@acme.example\", username = \"desk-billing\", password_file = \"billing.secret\" }";

fn rows() -> Vec<Row> {
    use Action::{Close, Hang, Late, Say, SayAndClose};
    let certificate = |certificate| Script { certificate, ..Script::default() };
    let oauth = || Script { secure: vec!["PIPELINING", "AUTH XOAUTH2"], ..Script::default() };
    let slow = Late(Duration::from_secs(1));
    vec![
        Row { taken: 1, ..row("no fault", Script::default(), (250, "ticket 4711")) },
        Row { taken: 1, ..row("slow", on("DOT", slow.clone()), (250, "ticket 4711")) },
        row(
            "greeting 421",
            on("GREETING", SayAndClose("421 4.3.2 busy\r\n")),
            (451, "4.3.2 localhost[127.0.0.1] said: busy"),
        ),
        row("greeting 554", on("GREETING", Say("554 5.7.1 go away\r\n")), (451, "go away")),
        row("silent", on("GREETING", Hang), (451, "4.4.2")),
        row("closes at once", on("GREETING", Close), (451, "lost connection")),
        row("no STARTTLS", Script { plain: vec![], ..Script::default() }, (451, "does not offer STARTTLS")),
        row("STARTTLS 454", on("STARTTLS", Say("454 4.7.0 no key\r\n")), (454, "no key")),
        row("other name", certificate(Certificate::OtherName), (451, "not valid for the name localhost")),
        row("unknown authority", certificate(Certificate::OtherCa), (451, "unknown issuer")),
        row("expired", certificate(Certificate::Expired), (451, "certificate expired")),
        row("EHLO 502", on("EHLO", Say("502 5.5.1 what?\r\n")), (451, "what?")),
        row("no AUTH", Script { secure: vec!["PIPELINING"], ..Script::default() }, (451, "offers neither AUTH PLAIN")),
        row("password refused", Script { passwords: vec![], ..Script::default() }, (451, "4.7.8")),
        row("AUTH 454", on("AUTH", Say("454 4.7.0 Too many login attempts\r\n")), (454, "rate_limited: ")),
        row("AUTH drops", on("AUTH", Close), (451, "lost connection (AUTH)")),
        row("MAIL 451", on("MAIL", Say("451 4.3.0 later\r\n")), (451, "said: later")),
        row("MAIL 550", on("MAIL", Say("550 5.7.1 unwanted\r\n")), (550, "said: unwanted")),
        row("MAIL drops", on("MAIL", Close), (451, "lost connection (MAIL")),
        row("RCPT 450", on("RCPT", Say("450 4.2.1 mailbox busy\r\n")), (450, "mailbox busy")),
        row(
            "RCPT 550",
            on("RCPT", Say("550 5.1.1 no such user\r\n")),
            (550, "5.1.1 localhost[127.0.0.1] said: no such user"),
        ),
        row("DATA 451", on("DATA", Say("451 4.3.0 not now\r\n")), (451, "not now")),
        row("DATA 554", on("DATA", Say("554 5.6.0 no\r\n")), (554, "said: no")),
        row("drops amid the message", on("CONTENT", Close), (451, "lost connection")),
        row("452 after the message", on("DOT", Say("452 4.3.1 disk full\r\n")), (452, "disk full")),
        row("552 after the message", on("DOT", Say("552 5.2.2 too much\r\n")), (552, "too much")),
        row("drops after the message", on("DOT", Close), (451, "unknown whether it was taken")),
        row(
            "rate limit of Microsoft",
            on("DOT", Say("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded\r\n")),
            (432, "rate_limited: localhost[127.0.0.1] said: STOREDRV"),
        ),
        row(
            "daily limit of Google",
            on("MAIL", Say("550 5.4.5 Daily user sending quota exceeded.\r\n")),
            (451, "Daily user"),
        ),
        row("421 amid", on("MAIL", SayAndClose("421 4.7.28 unusual rate\r\n")), (451, "4.7.28 rate_limited: ")),
        Row {
            log: "cause=send_as_denied",
            ..row(
                "not its address",
                on("DOT", Say("554 5.2.252 SendAsDenied; a@b not allowed to send as c@d\r\n")),
                (451, "send_as_denied: localhost[127.0.0.1]"),
            )
        },
        row(
            "an attachment",
            on(
                "DOT",
                Say(
                    "552-5.7.0 This message was blocked because its content presents a potential\r\n552 5.7.0 security issue.\r\n",
                ),
            ),
            (552, "attachment_refused: localhost[127.0.0.1] said: This message was blocked"),
        ),
        Row {
            log: "cause=smtp_auth_disabled",
            ..row(
                "SMTP AUTH switched off",
                on(
                    "AUTH",
                    Say(
                        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.\r\n",
                    ),
                ),
                (451, "smtp_auth_disabled: "),
            )
        },
        Row {
            log: "cause=platform_blocked",
            ..row(
                "the provider wants a browser",
                on(
                    "AUTH",
                    Say("534-5.7.14 <https://accounts.google.com/signin/continue>\r\n534 5.7.14 Please log in\r\n"),
                ),
                (451, "platform_blocked: "),
            )
        },
        Row { taken: 1, credentials: Some(BEARER), ..row("a token", oauth(), (250, "ticket 4711")) },
        Row {
            credentials: Some(BEARER),
            log: "scope",
            ..row("token expired", Script { passwords: vec![], ..oauth() }, (451, "bad credentials"))
        },
        Row { credentials: Some(BEARER), ..row("no XOAUTH2", Script::default(), (451, "does not offer AUTH XOAUTH2")) },
        Row {
            credentials: Some(FAILING),
            ..row("token command fails", oauth(), (451, "no token: /bin/sh: exit status: 1: invalid_grant"))
        },
    ]
}

#[test]
fn each_fault_leaves_the_message_with_the_caller_or_gives_it_the_hosts_own_refusal() {
    let rows = std::sync::Mutex::new(rows().into_iter());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let runtime = Runtime::new().unwrap();
                loop {
                    let Some(row) = rows.lock().unwrap().next() else { return };
                    judge(&runtime, &row);
                }
            });
        }
    });
}

fn judge(runtime: &Runtime, row: &Row) {
    let what = row.what;
    let (site, host) = DeskSite::with_script(runtime, row.script.clone(), row.credentials.unwrap_or(CREDENTIALS), "");
    let replies = site.send("support@acme.example", &["a@end.example", "b@end.example"], MESSAGE);
    let (code, words) = row.expected;
    for reply in &replies {
        assert!(reply.code == code && reply.text.contains(words), "{what}: {reply}\n{}", site.daemon.log());
        assert!(reply.code != 535, "{what}");
    }
    let taken = host.see(|record| record.taken.clone());
    assert_eq!(taken.len(), row.taken, "{what}");
    assert!(taken.iter().all(|message| message.content == MESSAGE && message.envelope.len() == 3), "{what}");
    let log = site.daemon.wait_for_log(" relay ");
    assert!(log.contains("connector=acme") && log.contains("credential=desk-support"), "{what}: {log}");
    let log = site.daemon.log();
    assert!(log.contains(row.log), "{what}: {log}");
    assert!(!log.contains("s3cret-one"), "{what}: {log}");
    assert!(host.see(|record| record.plain.iter().all(|line| !line.starts_with("AUTH"))), "{what}");
}

#[test]
fn one_recipient_refused_does_not_concern_the_other() {
    let runtime = Runtime::new().unwrap();
    let script = on("RCPT TO:<a@", Action::Say("550 5.1.1 no such user\r\n"));
    let (site, host) = DeskSite::with_script(&runtime, script, CREDENTIALS, "");
    let replies = site.send("support@acme.example", &["a@end.example", "b@end.example"], MESSAGE);
    assert_eq!(replies.iter().map(|reply| reply.code).collect::<Vec<_>>(), [550, 250]);
    assert_eq!(host.see(|record| record.taken.len()), 1);
}

#[test]
fn a_host_that_is_down_leaves_the_message_with_the_caller() {
    let runtime = Runtime::new().unwrap();
    let ca = runtime.block_on(Endpoint::start(Script::default())).ca.clone();
    let site = DeskSite::start(support::free_port(), &ca, CREDENTIALS, "");
    let reply = site.send("support@acme.example", &["a@end.example"], MESSAGE).remove(0);
    assert!(reply.code == 451 && reply.text.contains("cannot connect"), "{reply}");
}
