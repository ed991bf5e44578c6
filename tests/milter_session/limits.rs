//! What is too much or fails is judged without it or refused; nothing else suffers.

use deskmilter::attach::milter::Patience;
use deskmilter::config::Limits;
use deskmilter::mail::{Shortfall, Spool};

use crate::daemon::{Act, Daemon, limits};

#[tokio::test]
async fn mail_over_a_limit_is_judged_without_its_body_or_refused_and_the_next_message_passes() {
    let tight = Limits { message_size: 100_000, header_size: 1000, ..limits() };
    let mut daemon = Daemon::with(Act::Pass, tight, Patience::default());
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.content(&[("Subject", &"x".repeat(1000))], b"body\r\n").await;
    mta.expect_reply("552 5.3.4 header section larger than 1000 octets").await;
    mta.support().await;
    mta.content(&[("Subject", " x")], &vec![b'x'; 1_000_000]).await;
    mta.expect('c').await;
    let seen = daemon.seen().await;
    assert_eq!((seen.wire.as_slice(), seen.mail.shortfall), (&b"Subject: x\r\n\r\n"[..], Some(Shortfall::TooLarge)));
    mta.envelope("a b@c", &["support@acme.example"]).await;
    mta.expect('c').await;
    mta.content(&[], b"").await;
    mta.expect('c').await;
    assert_eq!(
        daemon.seen().await.mail.envelope.sender.as_str(),
        "a?b@c",
        "a sender that cannot be read is not the null sender"
    );
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.mail.shortfall, None);
}

#[tokio::test]
async fn very_many_tiny_fields_are_a_header_section_too_large() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.content(&vec![("a", ""); 20_001], b"").await;
    mta.expect_reply("552 5.3.4 ").await;
    daemon.nothing_judged();
}

#[tokio::test]
async fn a_body_that_cannot_be_spooled_is_judged_as_missing_and_nothing_else_suffers() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::new(directory.path().join("missing"));
    let mut daemon = Daemon::spooling(Act::Pass, limits(), Patience::default(), directory, spool);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.content(&[("Subject", " large")], &vec![b'x'; 200_000]).await;
    mta.expect('c').await;
    let seen = daemon.seen().await;
    assert_eq!((seen.wire.as_slice(), seen.mail.shortfall), (&b"Subject: large\r\n\r\n"[..], Some(Shortfall::Spool)));
    mta.envelope("a@b.example", &["x@else.example"]).await;
    mta.expect('a').await;
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"Subject: hello\r\n\r\nbody\r\n");
}

#[tokio::test]
async fn a_large_body_comes_back_exact() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    let body: Vec<u8> = (0..40_000).flat_map(|n| format!("line {n}\r\n").into_bytes()).collect();
    mta.support().await;
    mta.content(&[], &body).await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire[2..], body);
}

#[tokio::test]
async fn beyond_the_connection_limit_one_waits_for_another_to_end() {
    let daemon = Daemon::with(Act::Pass, Limits { milter_connections: 2, ..limits() }, Patience::default());
    let (mut first, mut second) = (daemon.unix().await, daemon.unix().await);
    first.begin().await;
    second.begin().await;
    let mut third = daemon.unix().await;
    third.send(b'O', &[0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0x1f, 0xff, 0xff]).await;
    third.expect_silence().await;
    drop(first);
    assert_eq!(third.receive().await.0, 'O');
    second.message().await;
    second.expect('c').await;
}

#[tokio::test]
async fn large_header_sections_share_what_there_is_for_them_and_the_next_message_passes() {
    let mut daemon = Daemon::new(Act::Pass);
    let value = "x".repeat(1_000_000);
    let mut connections = Vec::new();
    // Each keeps 1 MB of header section that does not end, and 32 MiB are there for all.
    for _ in 0..40 {
        let mut mta = daemon.unix().await;
        mta.begin().await;
        mta.support().await;
        connections.push(mta);
    }
    let sends = connections.into_iter().map(|mut mta| {
        let field = format!("Subject\0{value}\0");
        tokio::spawn(async move {
            let sent = tokio::time::timeout(std::time::Duration::from_secs(3), mta.send(b'L', field.as_bytes())).await;
            (mta, sent.is_ok())
        })
    });
    let mut waiting = 0;
    let mut kept = Vec::new();
    for send in sends.collect::<Vec<_>>() {
        let (mta, sent) = send.await.unwrap();
        waiting += usize::from(!sent);
        kept.push(mta);
    }
    assert!((1..40).contains(&waiting), "{waiting} of 40 wait in the MTA's buffers");
    drop(kept);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.content(&[("Subject", &value)], b"body\r\n").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.mail.headers.len(), 1);
}
