//! Odd messages and odd peers harm nobody. What each fault comes to is in the fault matrix.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use support::endpoint::{Action, Endpoint, Rule, Script};
use support::{Message, PATIENCE, Site, received_as_sent};

const SUPPORT: &str = "support@acme.example";
const PASSWORD: &str = "s3cret-one";

fn on(on: &'static str, action: Action) -> Script {
    Script { rules: vec![Rule { on, connection: None, action }], ..Script::default() }
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
