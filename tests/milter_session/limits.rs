//! What is too much or fails is refused or waits; nothing else suffers.

use deskmilter::attach::milter::Patience;
use deskmilter::config::Limits;
use deskmilter::mail::Spool;

use crate::daemon::{Act, Daemon, limits};

#[tokio::test]
async fn support_mail_over_a_limit_is_refused_with_the_limit_and_the_next_message_passes() {
    let tight = Limits { message_size: 100_000, header_size: 1000, ..limits() };
    let mut daemon = Daemon::with(Act::Pass, tight, Patience::default());
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.content(&[("Subject", &"x".repeat(1000))], b"body\r\n").await;
    mta.expect_reply("552 5.3.4 header section larger than 1000 octets").await;
    mta.support().await;
    mta.content(&[("Subject", " x")], &vec![b'x'; 1_000_000]).await;
    mta.expect_reply("552 5.3.4 message larger than 100000 octets").await;
    mta.envelope("a b@c", &["support@acme.example"]).await;
    mta.expect('c').await;
    mta.content(&[], b"").await;
    mta.expect_reply("553 5.1.7 ").await;
    daemon.nothing_judged();
    mta.message().await;
    mta.expect('c').await;
    daemon.seen().await;
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
async fn a_spool_that_cannot_be_written_defers_support_mail_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::new(directory.path().join("missing"));
    let mut daemon = Daemon::spooling(Act::Pass, limits(), Patience::default(), directory, spool);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.content(&[("Subject", " large")], &vec![b'x'; 200_000]).await;
    mta.expect_reply("452 4.3.1 ").await;
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
