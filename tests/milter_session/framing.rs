//! Lengths, payloads, pieces, writes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use deskmilter::attach::milter::Patience;
use deskmilter::mail::{Header, HeaderEdit};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::daemon::{Act, Daemon, edit, limits};
use crate::mta::frame;

#[tokio::test]
async fn garbage_closes_its_own_connection_and_no_other() {
    let daemon = Daemon::new(Act::Pass);
    let mut good = daemon.unix().await;
    good.begin().await;
    for octets in [
        &b"\0\0\0\0"[..],
        b"\xff\xff\xff\xffO",
        b"GET / HTTP/1.1\r\n\r\n",
        &frame(b'O', &[0; 11]),
        &frame(b'M', b"<a@b.example>\0"),
    ] {
        let mut bad = daemon.unix().await;
        bad.stream.write_all(octets).await.unwrap();
        bad.expect_close().await;
    }
    for (code, payload) in
        [(b'C', &b"no nul"[..]), (b'H', b"no nul"), (b'L', b"Subject\0no nul"), (b'M', b""), (b'R', b""), (b'D', b"")]
    {
        let mut bad = daemon.unix().await;
        bad.begin().await;
        bad.send(code, payload).await;
        bad.expect_close().await;
    }
    good.message().await;
    good.expect('c').await;
}

#[tokio::test]
async fn a_field_of_one_mebibyte_and_ten_thousand_fields_pass() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    let long = " x".repeat(1 << 19);
    mta.support().await;
    mta.content(&[("Subject", &long)], b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.mail.headers.first("subject").unwrap().value().len(), 1 << 20);
    mta.support().await;
    mta.content(&vec![("X-Many", " 1"); 10_000], b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.mail.headers.len(), 10_000);
}

#[tokio::test]
async fn a_body_may_hold_nul_and_end_within_the_last_command() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.send(b'L', b"A\0 b\0").await;
    mta.send(b'N', b"").await;
    mta.send(b'B', b"a\0b\r\n").await;
    mta.send(b'E', b"\0tail\r\n").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"A: b\r\n\r\na\0b\r\n\0tail\r\n");
}

#[tokio::test]
async fn a_message_without_fields_or_body_and_with_the_null_sender_passes() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.envelope("", &["support@acme.example"]).await;
    mta.expect('c').await;
    mta.content(&[], b"").await;
    mta.expect('c').await;
    let seen = daemon.seen().await;
    assert_eq!(seen.wire, b"\r\n");
    assert!(seen.mail.envelope.sender.is_null());
}

#[tokio::test]
async fn commands_may_come_in_any_pieces() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    let mut octets = frame(b'M', b"<a@b.example>\0");
    octets.extend(frame(b'R', b"<support@acme.example>\0"));
    octets.extend(frame(b'T', b""));
    octets.extend(frame(b'L', b"Subject\0 in pieces\0"));
    for octet in octets {
        mta.stream.write_all(&[octet]).await.unwrap();
        tokio::task::yield_now().await;
    }
    mta.expect('c').await;
    mta.content(&[], b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"Subject: in pieces\r\n\r\n");
}

#[tokio::test]
async fn a_command_that_never_ends_is_not_waited_for() {
    let patience = Patience { frame: Duration::from_millis(100), ..Patience::default() };
    let daemon = Daemon::with(Act::Pass, limits(), patience);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.stream.write_all(&frame(b'M', b"<a@b.example>\0")[..7]).await.unwrap();
    mta.expect_close().await;
}

#[tokio::test]
async fn between_commands_we_wait_at_least_as_long_as_libmilter() {
    assert!(Patience::default().idle >= Duration::from_secs(7210));
    let patience = Patience { frame: Duration::from_millis(50), ..Patience::default() };
    let daemon = Daemon::with(Act::Pass, limits(), patience);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    sleep(Duration::from_millis(150)).await;
    mta.message().await;
    mta.expect('c').await;
}

#[tokio::test]
async fn all_edits_and_the_final_answer_go_out_in_one_write() {
    let edits = (0..50).map(|n| HeaderEdit::Prepend(Header::written("X-Edit", &n.to_string()))).collect();
    let daemon = Daemon::new(edit(edits));
    let (mut mta, writes, _conversation) = daemon.converse();
    mta.begin().await;
    mta.support().await;
    let before = writes.load(Ordering::Relaxed);
    mta.content(&[("A", " b")], b"body\r\n").await;
    for _ in 0..50 {
        assert_eq!(mta.receive().await.0, 'i');
    }
    mta.expect('c').await;
    assert_eq!(writes.load(Ordering::Relaxed), before + 1);
}

#[tokio::test]
async fn over_tcp_no_answer_waits_for_a_delayed_acknowledgement() {
    let daemon = Daemon::new(edit(vec![HeaderEdit::Prepend(Header::written("X-Edit", "1"))]));
    let mut mta = daemon.tcp().await;
    mta.stream.set_nodelay(true).unwrap();
    mta.begin().await;
    let start = Instant::now();
    for _ in 0..100 {
        mta.message().await;
        assert_eq!(mta.receive().await.0, 'i');
        mta.expect('c').await;
        mta.send(b'A', b"").await;
    }
    // With Nagle's algorithm and delayed acknowledgements: 40 ms a message, 4 s and more.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}
