//! What is handed over arrives octet by octet, with the envelope as it was.

use deskmilter::mail::{Body, BodyWriter, Header, Headers, Mail, Path, Spool};

use crate::site::{Site, mail, short};
use support::endpoint::{Endpoint, Script};

#[tokio::test]
async fn every_octet_arrives_as_it_was_handed_over() {
    let large: Vec<u8> = (0..5 * 1024 * 1024 / 64)
        .flat_map(|n| format!("{:>61}{}\r\n", n, if n % 3 == 0 { "." } else { "x" }).into_bytes())
        .collect();
    // Cuts at 64 KiB fall before, inside and after CRLF dot.
    let edges = |shift: usize| [vec![b'a'; 65536 - shift], b"\r\n..\r\n.\r\n".to_vec(), vec![b'b'; 70000]].concat();
    let mut messages: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"\r\n".to_vec(),
        b".".to_vec(),
        b".\r\n".to_vec(),
        b"\r\n.\r\n".to_vec(),
        b"Subject: x\r\n\r\n.hidden\r\n..\r\n...\r\nend.".to_vec(),
        b"Subject: gr\xfc\xdfe\r\n\r\n\xff\xfe\x00NUL\x00\r\n".to_vec(),
        b"no header at all\r\nQUIT\r\nDATA\r\n".to_vec(),
        [vec![b'x'; 100_000], b"\r\n".to_vec()].concat(),
        large,
    ];
    messages.extend((0..8).map(edges));
    let endpoint = Endpoint::start(Script::default()).await;
    let site = Site::new(&endpoint);
    let relay = site.relay(short());
    for message in &messages {
        let delivery = relay.send(&mail(&["a@acme.example"], message)).await;
        assert_eq!(delivery.replies.first().unwrap().code(), 250, "{delivery:?}");
    }
    endpoint.see(|record| {
        assert_eq!(record.taken.len(), messages.len());
        for (taken, message) in record.taken.iter().zip(&messages) {
            let mut expected = message.clone();
            if !expected.is_empty() && !expected.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            assert!(taken.content == expected, "{} octets became {}", expected.len(), taken.content.len());
        }
    });
}

#[tokio::test]
async fn header_fields_and_body_are_one_message() {
    let endpoint = Endpoint::start(Script::default()).await;
    let site = Site::new(&endpoint);
    let mut message = mail(&["a@acme.example"], b"");
    message.headers = Headers::new(vec![Header::new(b"Subject", b" a\n\tb"), Header::written("X", "y")]);
    message.body = Body::from_octets(b".\r\n".to_vec());
    site.relay(short()).send(&message).await;
    let expected = b"Subject: a\r\n\tb\r\nX: y\r\n\r\n.\r\n";
    endpoint.see(|record| assert_eq!(record.taken.first().unwrap().content, expected));
}

#[tokio::test]
async fn a_stray_line_ending_does_not_smuggle_a_second_message() {
    let endpoint = Endpoint::start(Script::default()).await;
    let site = Site::new(&endpoint);
    let message =
        b"\r\nx\n.\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<a@acme.example>\r\nDATA\r\n\r\nevil\r\n.\n\r\n";
    site.relay(short()).send(&mail(&["a@acme.example"], message)).await;
    endpoint.see(|record| {
        assert_eq!(record.taken.len(), 1);
        assert_eq!(record.taken.first().unwrap().content.len(), message.len());
    });
}

#[tokio::test]
async fn the_envelope_is_spelled_as_received_with_the_parameters_that_are_offered() {
    let none = vec!["AUTH PLAIN"];
    let all = vec!["8BITMIME", "SMTPUTF8", "SIZE", "AUTH PLAIN", "PIPELINING"];
    let rcpt = "RCPT TO:<Support+Tag@Acme.Example>";
    for (sender, message, extensions, expected) in [
        ("Bob@Example.ORG", &b"\r\nx\r\n"[..], none.clone(), "MAIL FROM:<Bob@Example.ORG>"),
        ("", b"\r\nx\r\n", none, "MAIL FROM:<>"),
        ("\"a b\"@x.example", b"\r\nx\r\n", all.clone(), "MAIL FROM:<\"a b\"@x.example> SIZE=5"),
        ("b@x.example", b"\r\n\xfc\r\n", all.clone(), "MAIL FROM:<b@x.example> SIZE=5 BODY=8BITMIME"),
        ("bärbel@x.example", b"\r\nx\r\n", all, "MAIL FROM:<bärbel@x.example> SIZE=5 SMTPUTF8"),
    ] {
        let endpoint = Endpoint::start(Script { secure: extensions, ..Script::default() }).await;
        let site = Site::new(&endpoint);
        let mut message = mail(&["Support+Tag@Acme.Example"], message);
        message.envelope.sender = Path::parse(sender.as_bytes()).unwrap();
        let delivery = site.relay(short()).send(&message).await;
        assert_eq!(delivery.replies.first().unwrap().code(), 250, "{delivery:?}");
        endpoint.see(|record| assert_eq!(record.taken.first().unwrap().envelope, [expected, rcpt]));
    }
}

#[tokio::test]
async fn an_address_that_needs_smtputf8_is_refused_where_it_is_not_offered_and_the_others_pass() {
    let endpoint = Endpoint::start(Script { secure: vec!["AUTH PLAIN"], ..Script::default() }).await;
    let site = Site::new(&endpoint);
    let relay = site.relay(short());
    let delivery = relay.send(&mail(&["jürgen@acme.example", "a@acme.example"], b"\r\n")).await;
    let codes: Vec<u16> = delivery.replies.iter().map(|reply| reply.code()).collect();
    assert_eq!(codes, [553, 250], "{delivery:?}");
    assert_eq!(delivery.replies.first().unwrap().enhanced().unwrap(), "5.6.7");
    let mut from = mail(&["a@acme.example"], b"\r\n");
    from.envelope.sender = Path::parse("bärbel@x.example".as_bytes()).unwrap();
    assert_eq!(relay.send(&from).await.replies.first().unwrap().code(), 553);
    endpoint.see(|record| assert_eq!(record.taken.len(), 1));
}

#[tokio::test]
async fn two_hundred_recipients_get_two_hundred_replies() {
    let endpoint = Endpoint::start(Script::default()).await;
    let site = Site::new(&endpoint);
    let recipients: Vec<String> = (0..200).map(|n| format!("r{n}@acme.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let delivery = site.relay(short()).send(&mail(&recipients, b"\r\n")).await;
    assert_eq!(delivery.replies.len(), 200);
    assert!(delivery.replies.iter().all(|reply| reply.code() == 250));
    endpoint.see(|record| assert_eq!(record.taken.first().unwrap().envelope.len(), 201));
}

#[tokio::test]
async fn a_spooled_message_arrives_as_it_was_handed_over_and_one_that_cannot_be_read_does_not_arrive() {
    let mut script = Script::default();
    script.secure.retain(|extension| !extension.starts_with("SIZE"));
    let endpoint = Endpoint::start(script).await;
    let site = Site::new(&endpoint);
    let relay = site.relay(short());
    let octets = b"\r\n.first\r\n0123456789 \xc3\xbc\r\n".repeat(50_000);
    let directory = tempfile::tempdir().unwrap();
    let spooled = async |octets: &[u8]| {
        let mut writer = BodyWriter::new(&Spool::new(directory.path()));
        for chunk in octets.chunks(30_011) {
            writer.write(chunk).await.unwrap();
        }
        Mail { body: writer.finish().await.unwrap(), ..mail(&["a@acme.example"], b"") }
    };
    let whole = spooled(&octets).await;
    let delivery = relay.send(&whole).await;
    assert_eq!(delivery.replies.first().unwrap().code(), 250, "{delivery:?}");
    assert!(endpoint.see(|record| record.taken.first().unwrap().content == octets));
    assert!(endpoint.see(|record| record.lines.iter().any(|line| line.ends_with("BODY=8BITMIME"))));

    // The disk fails: whatever was sent of it, the endpoint is never told that it was all.
    let cut = spooled(&octets).await;
    truncate_spool(directory.path(), 100_000);
    let delivery = relay.send(&cut).await;
    assert!(delivery.replies.first().unwrap().to_string().starts_with("451 4.3.0 "), "{delivery:?}");
    assert_eq!(endpoint.see(|record| record.taken.len()), 1);
}

/// Cuts every spool file of this process to `length`: they have no name, but their descriptors do.
fn truncate_spool(directory: &std::path::Path, length: u64) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let mut cut = 0;
    for descriptor in descriptors {
        if std::fs::read_link(&descriptor).is_ok_and(|to| to.starts_with(directory)) {
            std::fs::OpenOptions::new().write(true).open(&descriptor).unwrap().set_len(length).unwrap();
            cut += 1;
        }
    }
    assert!(cut > 0, "the message is in the spool");
}
