use proptest::prelude::*;

use super::*;

fn profile(protocol: Protocol) -> Profile {
    Profile {
        protocol,
        hostname: "mx.acme.example".to_owned(),
        message_size: 1000,
        recipients: 3,
        starttls: protocol == Protocol::Smtp,
        auth: protocol == Protocol::Smtp,
    }
}

/// Runs the session over `chunks`, taking every recipient, and writes down what happened, data in one piece.
fn transcript(mut session: Session, chunks: &[&[u8]]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut data = Vec::new();
    for chunk in chunks {
        session.receive(chunk);
        while let Some(event) = session.poll() {
            lines.push(match event {
                Event::Chunk(octets) => {
                    data.extend_from_slice(&octets);
                    continue;
                }
                Event::Reply(reply) => reply.to_string(),
                Event::Close(reply) => format!("close {reply}"),
                Event::Recipient(path) => {
                    session.take_recipient();
                    format!("rcpt {path}")
                }
                Event::Data => "data".to_owned(),
                Event::End(envelope) => {
                    format!("{:?} {:?}", String::from_utf8_lossy(&std::mem::take(&mut data)), envelope.recipients)
                }
                Event::StartTls(reply) => format!("tls {reply}"),
                Event::Login(login) => {
                    let right = login.password.expose() == b"right";
                    format!("login {} {}", login.user, session.finish_login(right))
                }
            });
        }
    }
    lines
}

fn lmtp(input: &[u8]) -> Vec<String> {
    transcript(Session::new(profile(Protocol::Lmtp), false), &[input])
}

fn codes(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.split_whitespace().find(|word| word.len() == 3).unwrap_or(line)).collect()
}

#[test]
fn two_pipelined_messages_are_two_messages() {
    let lines = lmtp(
        b"LHLO mx\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n..one\r\n.\r\n\
          MAIL FROM:<c@y.example> SIZE=10 BODY=8BITMIME\r\nRCPT TO:<a@x.example>\r\nDATA\r\ntwo\r\n.\r\nQUIT\r\nNOOP\r\n",
    );
    assert_eq!(
        lines[1..],
        [
            "250 2.1.0 sender ok",
            "rcpt <a@x.example>",
            "rcpt <b@x.example>",
            "data",
            "\".one\\r\\n\" [<a@x.example>, <b@x.example>]",
            "250 2.1.0 sender ok",
            "rcpt <a@x.example>",
            "data",
            "\"two\\r\\n\" [<a@x.example>]",
            "close 221 2.0.0 bye",
        ]
    );
}

#[test]
fn commands_out_of_order_are_refused_and_harm_nothing() {
    for (input, expected) in [
        (&b"MAIL FROM:<>\r\n"[..], "503 5.5.1 LHLO first"),
        (b"EHLO mx\r\n", "500 5.5.1 this is LMTP: LHLO"),
        (b"HELO mx\r\n", "500 5.5.1 this is LMTP: LHLO"),
        (b"RCPT TO:<a@x.example>\r\n", "503 5.5.1 MAIL first"),
        (b"DATA\r\n", "503 5.5.1 no valid recipients"),
        (b"LHLO mx\r\nMAIL FROM:<>\r\nDATA\r\n", "503 5.5.1 no valid recipients"),
        (b"LHLO mx\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n", "503 5.5.1 one MAIL at a time"),
        (b"LHLO mx\r\nMAIL FROM:<>\r\nRSET\r\nRCPT TO:<a@x.example>\r\n", "503 5.5.1 MAIL first"),
        (b"LHLO mx\r\nMAIL FROM:<>\r\nLHLO mx\r\nRCPT TO:<a@x.example>\r\n", "503 5.5.1 MAIL first"),
        (b"LHLO mx\r\nMAIL FROM:<> SIZE=1001\r\n", "552 5.3.4 message larger than 1000 octets"),
        (b"LHLO mx\r\nMAIL FROM:<> AUTH=<>\r\n", "555 5.5.4 unsupported parameter: AUTH"),
        (b"STARTTLS\r\n", "502 5.5.1 STARTTLS is not offered"),
        (b"AUTH PLAIN\r\n", "502 5.5.1 AUTH is not offered"),
        (b"GET / HTTP/1.1\r\nLHLO mx\r\n", "close 421 4.7.0 this is not an HTTP server"),
    ] {
        assert_eq!(lmtp(input).last().unwrap(), expected, "{:?}", String::from_utf8_lossy(input));
    }
    let full: Vec<u8> = [&b"LHLO mx\r\nMAIL FROM:<>\r\n"[..], &b"RCPT TO:<a@x.example>\r\n".repeat(4)].concat();
    assert_eq!(lmtp(&full).last().unwrap(), "452 4.5.3 too many recipients");
}

#[test]
fn a_line_without_cr_ends_the_connection() {
    for input in [&b"LHLO mx\n"[..], b"NOOP\nNOOP\r\n", b"\n"] {
        let lines = lmtp(input);
        assert_eq!(lines, ["close 500 5.5.2 lines end with CRLF; a bare LF was received"]);
    }
    let long = [vec![b'x'; 3000], b"\nNOOP\r\n".to_vec()].concat();
    assert_eq!(codes(&lmtp(&long)), ["500", "500"]);
}

#[test]
fn a_line_that_is_too_long_is_skipped_whole() {
    let long = [vec![b'x'; 5000], b"\r\nNOOP\r\n".to_vec()].concat();
    let lines = lmtp(&long);
    assert_eq!(lines, ["500 5.5.2 line too long", "250 2.0.0 ok"]);
    let chunks: Vec<&[u8]> = long.chunks(7).collect();
    assert_eq!(transcript(Session::new(profile(Protocol::Lmtp), false), &chunks), lines);
}

#[test]
fn too_many_bad_commands_close_the_connection() {
    let lines = lmtp(&b"WHAT\r\n".repeat(30));
    assert_eq!(lines.len(), 20);
    assert_eq!(lines.last().unwrap(), "close 421 4.7.0 too many bad commands");
}

#[test]
fn nothing_but_the_greeting_is_heard_before_tls() {
    let session = || Session::new(profile(Protocol::Smtp), false);
    let lines = transcript(session(), &[b"EHLO c\r\nMAIL FROM:<>\r\nAUTH PLAIN AGEAYg==\r\nNOOP\r\n"]);
    assert_eq!(codes(&lines), ["250", "530", "538", "250"]);
    assert!(lines[0].contains("STARTTLS") && !lines[0].contains("AUTH"));
    assert_eq!(transcript(session(), &[b"EHLO c\r\nSTARTTLS\r\n"]).last().unwrap(), "tls 220 2.0.0 ready to start TLS");
}

#[test]
fn plain_text_behind_starttls_never_counts_as_said_under_tls() {
    let session = || Session::new(profile(Protocol::Smtp), false);
    let lines = transcript(session(), &[b"EHLO c\r\nSTARTTLS\r\nMAIL FROM:<evil@x.example>\r\n"]);
    assert!(lines.last().unwrap().starts_with("close 503"), "{lines:?}");
    let mut later = session();
    later.receive(b"EHLO c\r\nSTARTTLS\r\n");
    while later.poll().is_some() {}
    later.receive(b"MAIL FROM:<evil@x.example>\r\n");
    assert!(later.poll().is_none());
    later.tls_established();
    assert!(later.poll().is_none());
    assert_eq!(transcript(later, &[b"MAIL FROM:<>\r\n"]), ["503 5.5.1 EHLO first"]);
}

#[test]
fn plain_and_login_are_understood_with_and_without_initial_response() {
    for (dialogue, expected) in [
        (&b"AUTH PLAIN AHVzZXIAcmlnaHQ=\r\n"[..], "login user 235 2.7.0 authentication successful"),
        (b"auth plain\r\nAHVzZXIAcmlnaHQ=\r\n", "login user 235 2.7.0 authentication successful"),
        (b"AUTH LOGIN\r\ndXNlcg==\r\ncmlnaHQ=\r\n", "login user 235 2.7.0 authentication successful"),
        (b"AUTH LOGIN dXNlcg==\r\ncmlnaHQ=\r\n", "login user 235 2.7.0 authentication successful"),
        (b"AUTH PLAIN AHVzZXIAd3Jvbmc=\r\n", "login user 535 5.7.8 authentication credentials invalid"),
        (b"AUTH PLAIN\r\n*\r\n", "501 5.7.0 authentication cancelled"),
        (b"AUTH PLAIN =\r\n", "501 5.5.2 malformed authentication response"),
        (b"AUTH PLAIN !!\r\n", "501 5.5.2 malformed authentication response"),
        (b"AUTH PLAIN dXNlcg==\r\n", "501 5.5.2 malformed authentication response"),
        (b"AUTH CRAM-MD5\r\n", "504 5.5.4 that mechanism is not offered; use PLAIN or LOGIN"),
    ] {
        let input = [&b"EHLO c\r\n"[..], dialogue].concat();
        let lines = transcript(Session::new(profile(Protocol::Smtp), true), &[&input]);
        assert_eq!(lines.last().unwrap(), expected, "{:?}", String::from_utf8_lossy(dialogue));
    }
}

#[test]
fn a_fourth_login_is_not_heard_after_three_failures() {
    let input = [&b"EHLO c\r\n"[..], &b"AUTH PLAIN AHVzZXIAd3Jvbmc=\r\n".repeat(4)].concat();
    let lines = transcript(Session::new(profile(Protocol::Smtp), true), &[&input]);
    assert_eq!(codes(&lines[1..4]), ["535", "535", "535"]);
    assert_eq!(lines[4], "close 421 4.7.0 too many failed logins");
}

/// Lines that a client might send, whole and broken.
fn dialogue() -> impl Strategy<Value = Vec<u8>> {
    let line = proptest::sample::select(vec![
        &b"LHLO mx\r\n"[..],
        b"MAIL FROM:<a@b.example>\r\n",
        b"RCPT TO:<a@b.example>\r\n",
        b"DATA\r\n",
        b"Subject: x\r\n\r\n",
        b".\r\n",
        b"..\r\n",
        b".\r",
        b"RSET\r\n",
        b"EHLO mx\r\n",
        b"AUTH PLAIN\r\n",
        b"AHVzZXIAcmlnaHQ=\r\n",
        b"\xff\x00\r\n",
        b"QUIT\r\n",
    ]);
    proptest::collection::vec(line, 0..25).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_events(input in dialogue(), size in 1usize..40) {
        for (protocol, tls) in [(Protocol::Lmtp, false), (Protocol::Smtp, true)] {
            let session = || Session::new(profile(protocol), tls);
            let chunks: Vec<&[u8]> = input.chunks(size).collect();
            prop_assert_eq!(transcript(session(), &chunks), transcript(session(), &[&input]));
        }
    }

    #[test]
    fn random_octets_never_panic_and_never_become_a_message(
        input in proptest::collection::vec(any::<u8>(), 0..3000), tls in any::<bool>(),
    ) {
        for protocol in [Protocol::Lmtp, Protocol::Smtp] {
            let lines = transcript(Session::new(profile(protocol), tls), &[&input]);
            prop_assert!(!lines.iter().any(|line| line == "data"));
        }
    }

    #[test]
    fn a_message_ends_at_crlf_dot_crlf_alone(
        body in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'x')], 0..60),
    ) {
        let opening = b"LHLO mx\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\n";
        let lines = lmtp(&[opening, &body[..]].concat());
        let framed = [b"\r\n".as_slice(), &body].concat();
        let ended = lines.iter().skip(4).any(|line| line.ends_with("[<a@x.example>]"));
        prop_assert_eq!(ended, framed.windows(5).any(|w| w == b"\r\n.\r\n"));
    }
}

#[test]
fn an_address_beyond_ascii_needs_smtputf8_from_a_client_and_not_from_the_mta_that_took_it() {
    let input = "EHLO mx\r\nMAIL FROM:<ü@b.example>\r\n".as_bytes();
    let smtp = transcript(Session::new(profile(Protocol::Smtp), true), &[input]);
    assert!(smtp.last().unwrap().starts_with("553 5.6.7"), "{smtp:?}");
    let lmtp = lmtp("LHLO mx\r\nMAIL FROM:<ü@b.example>\r\nRCPT TO:<ü@x.example>\r\n".as_bytes());
    assert_eq!(lmtp.last().unwrap(), "rcpt <ü@x.example>");
}
