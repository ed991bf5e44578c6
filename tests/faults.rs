//! What becomes of a message when something beyond Postfix goes wrong, or when the message itself is odd: what Postfix says of
//! it, whether it is still in the queue, and how many tickets there are. After every row the daemon still serves others.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use support::endpoint::{Action, Certificate, Endpoint, Rule, Script};
use support::{Message, PATIENCE, Site, received_as_sent};

const SUPPORT: &str = "support@acme.example";
const PASSWORD: &str = "s3cret-one";

/// What became of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Deferred: still in the queue, with these words.
    Waits(&'static str),
    /// Returned to the sender with the endpoint's own words.
    Bounces(&'static str),
    /// Taken by the endpoint.
    Arrives,
}

fn on(on: &'static str, action: Action) -> Script {
    Script { rules: vec![Rule { on, connection: None, action }], ..Script::default() }
}

/// Each fault that an endpoint can have, and the message's fate.
fn faults() -> Vec<(&'static str, Script, Fate)> {
    use Action::{Close, Endless, Hang, Say};
    use Fate::{Arrives, Bounces, Waits};
    let certificate = |certificate| Script { certificate, ..Script::default() };
    vec![
        ("no fault", Script::default(), Arrives),
        ("slow greeting", on("GREETING", Action::Late(Duration::from_secs(2))), Arrives),
        ("silent", on("GREETING", Hang), Waits("451 4.4.2")),
        ("closes at once", on("GREETING", Close), Waits("451 4.4.2")),
        ("speaks HTTP", on("GREETING", Say("HTTP/1.1 400 Bad Request\r\n")), Waits("451 4.5.0")),
        ("endless reply", on("EHLO", Endless), Waits("451 4.5.0")),
        ("no STARTTLS", Script { plain: vec![], ..Script::default() }, Waits("451 4.7.4")),
        ("expired certificate", certificate(Certificate::Expired), Waits("certificate expired")),
        ("certificate of another host", certificate(Certificate::OtherName), Waits("not valid for the name localhost")),
        ("certificate of an unknown authority", certificate(Certificate::OtherCa), Waits("unknown issuer")),
        ("self-signed certificate", certificate(Certificate::SelfSigned), Waits("451 4.7.5")),
        ("no AUTH", Script { secure: vec!["PIPELINING"], ..Script::default() }, Waits("451 4.7.4")),
        ("password refused", Script { passwords: vec![], ..Script::default() }, Waits("451 4.7.8")),
        ("directory down at AUTH", on("AUTH", Say("454 4.7.0 directory down\r\n")), Waits("directory down")),
        ("4xx to MAIL", on("MAIL", Say("451 4.3.0 come later\r\n")), Waits("come later")),
        ("5xx to MAIL", on("MAIL", Say("550 5.7.1 sender unwanted\r\n")), Bounces("sender unwanted")),
        ("4xx to RCPT", on("RCPT", Say("450 4.2.1 mailbox busy\r\n")), Waits("mailbox busy")),
        ("5xx to RCPT", on("RCPT", Say("550 5.1.1 no such ticket queue\r\n")), Bounces("no such ticket queue")),
        ("4xx to DATA", on("DATA", Say("451 4.3.0 not now\r\n")), Waits("not now")),
        ("drops in mid-DATA", on("CONTENT", Close), Waits("451 4.4.2")),
        ("4xx after the message", on("DOT", Say("452 4.3.1 disk full\r\n")), Waits("disk full")),
        ("5xx after the message", on("DOT", Say("554 5.6.0 no thanks\r\n")), Bounces("no thanks")),
        ("drops after the message", on("DOT", Close), Waits("451 4.4.2")),
        ("nonsense after the message", on("DOT", Say("what?\r\n")), Waits("451 4.5.0")),
        ("hangs after the message", on("DOT", Hang), Waits("451 4.4.2")),
        (
            "SIZE smaller than the message",
            Script { secure: vec!["AUTH PLAIN", "SIZE 100"], ..Script::default() },
            Bounces("552 5.3.4"),
        ),
    ]
}

#[test]
fn each_fault_of_the_endpoint_has_its_proven_outcome() {
    let mut site = Site::with("", "deadline = \"5s\"", "");
    site.set_password(PASSWORD);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("| fault | Postfix says | in the queue | tickets |\n| --- | --- | --- | --- |");
    for (what, script, fate) in faults() {
        let endpoint = runtime.block_on(Endpoint::start(script));
        site.point_at(endpoint.port, &endpoint.ca);
        let message = Message::new("a@plain.example", SUPPORT, what).octets();
        let before = site.postfix.log().len();
        assert_eq!(site.postfix.submit("a@plain.example", &[SUPPORT, "sales@acme.example"], &message).code, 250);
        let status = |log: &str| {
            let line = log.get(before..)?.lines().find(|line| line.contains("/lmtp[") && line.contains("status="))?;
            line.split(" status=").nth(1).map(str::to_owned)
        };
        site.postfix.wait_for(&format!("status of {what:?}"), |postfix| status(&postfix.log()).is_some());
        let said = status(&site.postfix.log()).unwrap();
        let (expected, words) = match fate {
            Fate::Waits(words) => ("deferred", words),
            Fate::Bounces(words) => ("bounced", words),
            Fate::Arrives => ("sent", "ticket 4711"),
        };
        assert!(said.starts_with(expected) && said.contains(words), "{what}: {said}\n{}", site.daemon.log());
        // The ordinary recipient of the same message has it, whatever became of the other.
        site.postfix.wait_for("the ordinary copy", |postfix| {
            postfix.mailbox("sales@acme.example").messages().iter().any(|mail| received_as_sent(mail, &message))
        });
        let queued = site.postfix.queue().len();
        let taken = endpoint.see(|record| record.taken.len());
        println!("| {what} | {said} | {queued} | {taken} |");
        match fate {
            Fate::Waits(_) => assert_eq!((queued, taken), (1, 0), "{what}"),
            Fate::Arrives => assert_eq!(taken, 1, "{what}"),
            Fate::Bounces(_) => assert_eq!(taken, 0, "{what}"),
        }
        if let Fate::Waits(_) = fate {
            let well = runtime.block_on(Endpoint::start(Script::default()));
            site.point_at(well.port, &well.ca);
            site.postfix.flush();
            site.postfix.wait_for(&format!("arrival after {what:?}"), |_| well.see(|record| record.taken.len()) == 1);
        }
        site.postfix.wait_for_empty_queue();
    }
    assert!(!site.daemon.log().contains(PASSWORD));
}

/// Odd messages, as they go into Postfix; each becomes one ticket.
fn odd_messages() -> Vec<(&'static str, Vec<u8>)> {
    let head = "From: a@plain.example\r\nTo: support@acme.example\r\nMessage-ID: <odd@plain.example>\r\nDate: Mon, 02 Mar 2026 09:30:00 +0000\r\n";
    let with_body = |body: &[u8]| [head.as_bytes(), b"\r\n", body].concat();
    let long_header = format!("X-Long: {}\r\n", "word ".repeat(200)).replace("word word word ", "word\r\n word word ");
    vec![
        ("no header fields", b"\r\njust text\r\n".to_vec()),
        ("no body", head.as_bytes().to_vec()),
        ("empty", Vec::new()),
        ("10,000 header fields", format!("{}{head}\r\nbody\r\n", "X-Many: 1\r\n".repeat(10_000)).into_bytes()),
        (
            "1 MiB header field",
            format!("{head}{}\r\nbody\r\n", format!("X-Big:{}", "\r\n big big big big".repeat(60_000)) + "\r\n")
                .into_bytes(),
        ),
        ("folded header fields", format!("{head}{long_header}\r\nbody\r\n").into_bytes()),
        ("NUL octets", with_body(b"a\0b\0\r\n")),
        ("8-bit text", with_body("Gr\u{fc}\u{df}e \u{1f600}\r\n".as_bytes())),
        ("8-bit that is no UTF-8", with_body(b"\xff\xfe\x80\r\n")),
        ("lines of 5,000 octets", with_body(&[b"x".repeat(5_000), b"\r\n".to_vec()].concat())),
        ("no final line ending", with_body(b"the end")),
        ("lines that begin with dots", with_body(b".\r\n..\r\n.hidden\r\n")),
        ("bare CR and bare LF", with_body(b"a\rb\nc\r\n.\rd\r\n")),
        ("a smuggled message", with_body(b"text\n.\r\nMAIL FROM:<x@evil.example>\r\n")),
        ("5 MiB", with_body(&b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(80_000))),
    ]
}

#[test]
fn odd_messages_become_one_ticket_each_and_no_bare_line_ending_leaves() {
    let site = Site::with("", "", "header_size_limit = 2000000\n");
    for (n, (what, message)) in odd_messages().into_iter().enumerate() {
        let reply = site.postfix.submit("a@plain.example", &[SUPPORT], &message);
        assert_eq!(reply.code, 250, "{what}: {reply}");
        let tickets = site.desk.wait_for_tickets(n + 1);
        site.postfix.wait_for_empty_queue();
        assert_eq!(tickets.len(), n + 1, "{what}");
        let received = &tickets[n].messages()[0];
        let without_crlf = String::from_utf8_lossy(received).replace("\r\n", "");
        assert!(!without_crlf.contains(['\r', '\n']), "{what}: a bare CR or LF went on");
        let changed_by_postfix = [
            "NUL octets",
            "bare CR and bare LF",
            "no final line ending",
            "no header fields",
            "empty",
            "a smuggled message",
            "1 MiB header field",
        ];
        assert!(
            changed_by_postfix.contains(&what) || received_as_sent(received, &message),
            "{what} was changed: {:?}",
            String::from_utf8_lossy(received)
        );
    }
}

#[test]
fn an_endpoint_that_hangs_with_a_large_message_holds_up_nobody_else() {
    let mut site = Site::with("[limits]\nmemory = \"1MiB\"", "deadline = \"20s\"", "");
    site.set_password(PASSWORD);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut script = on("DOT", Action::Hang);
    script.secure.retain(|extension| !extension.starts_with("SIZE"));
    let endpoint = runtime.block_on(Endpoint::start(script));
    site.point_at(endpoint.port, &endpoint.ca);
    let head = b"From: a@plain.example\r\nTo: support@acme.example\r\nMessage-ID: <large@plain.example>\r\n\r\n";
    let large = [&head[..], &b"0123456789abcdef0123456789abcdef\r\n".repeat(60_000)].concat();
    assert_eq!(site.postfix.submit("a@plain.example", &[SUPPORT], &large).code, 250);
    site.postfix.wait_for("the whole message at the endpoint", |_| endpoint.see(|record| record.read) == 1);

    let begun = std::time::Instant::now();
    let message = Message::new("a@plain.example", "boss@acme.example", "lunch").octets();
    assert_eq!(site.postfix.submit("a@plain.example", &["boss@acme.example"], &message).code, 250);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}\n{}", begun.elapsed(), site.daemon.log());
}

#[test]
fn garbage_on_our_sockets_harms_nobody_else() {
    let mut site = Site::start();
    let sockets = site.postfix.queue_directory().join("deskmilter");
    for garbage in [
        &b"\xff\xff\xff\xffO"[..],
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x05O\0\0",
        b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff\0\0\0\x05C",
    ] {
        for name in ["milter.sock", "transport/acme.sock"] {
            let mut stream = UnixStream::connect(sockets.join(name)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.write_all(garbage);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
        }
    }
    let message = Message::new("a@plain.example", SUPPORT, "still there").octets();
    site.postfix.submit("a@plain.example", &[SUPPORT], &message);
    site.desk.wait_for_tickets(1);
    assert!(site.daemon.stop().success());
    assert!(!site.daemon.log().contains("panic"), "{}", site.daemon.log());
}
