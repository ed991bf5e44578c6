//! Mail that concerns no connector.

use std::sync::atomic::Ordering;

use deskmilter::attach::milter::Patience;
use deskmilter::config::Limits;

use crate::daemon::{Act, Daemon, limits};
use crate::mta::{NO_REPLY_ENVELOPE, NO_REPLY_HEADER, PROTOCOL};

#[tokio::test]
async fn mail_of_no_connector_is_let_go_at_data_and_the_judge_is_asked_once() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    for n in 1..=3 {
        mta.envelope("a@b.example", &["x@else.example", "y@else.example"]).await;
        mta.expect('a').await;
        assert_eq!(daemon.asked.load(Ordering::Relaxed), n);
        mta.send(b'A', b"").await;
    }
    mta.message().await;
    mta.expect('c').await;
    daemon.seen().await;
    daemon.nothing_judged();
}

#[tokio::test]
async fn an_mta_that_sends_its_content_all_the_same_gets_an_answer_wherever_it_waits_for_one() {
    let content = [(b'L', &b"A\0 b\0"[..]), (b'N', b""), (b'B', b"body\r\n"), (b'E', b"")];
    let mut daemon = Daemon::new(Act::Pass);
    for protocol in [0, PROTOCOL] {
        let mut mta = daemon.unix().await;
        let waits = mta.negotiate(6, protocol).await == 0;
        for to in ["x@else.example", "support@acme.example", "x@else.example"] {
            let ours = to.starts_with("support");
            let envelope = [(b'M', "<a@b.example>\0".to_owned()), (b'R', format!("<{to}>\0"))];
            for (code, payload) in envelope {
                mta.send(code, payload.as_bytes()).await;
                if waits {
                    mta.expect('c').await;
                }
            }
            mta.send(b'T', b"").await;
            mta.expect(if ours { 'c' } else { 'a' }).await;
            for (code, payload) in content {
                mta.send(code, payload).await;
                if waits || code == b'E' {
                    mta.expect(if ours { 'c' } else { 'a' }).await;
                }
            }
            mta.send(b'E', b"").await;
            mta.expect_silence().await;
            if ours {
                assert!(daemon.seen().await.wire.ends_with(b" b\r\n\r\nbody\r\n"));
            }
        }
    }
    daemon.nothing_judged();
}

#[tokio::test]
async fn without_data_it_is_let_go_at_the_first_answer_after_the_recipients() {
    let daemon = Daemon::new(Act::Pass);
    let field = (b'L', &b"A\0b\0"[..]);
    for (version, protocol, content) in [
        (2, 0, &[field][..]),
        (3, NO_REPLY_HEADER, &[field, field, (b'N', b"")]),
        (3, PROTOCOL, &[field, (b'N', b"")]),
        (6, PROTOCOL, &[field, (b'E', b"")]),
    ] {
        let mut mta = daemon.unix().await;
        let agreed = mta.negotiate(version, protocol).await;
        for (code, payload) in [(b'M', &b"<a@b.example>\0"[..]), (b'R', b"<x@else.example>\0")] {
            mta.send(code, payload).await;
            if agreed & NO_REPLY_ENVELOPE == 0 {
                mta.expect('c').await;
            }
        }
        for (code, payload) in content {
            mta.send(*code, payload).await;
        }
        mta.expect('a').await;
        mta.expect_silence().await;
    }
}

#[tokio::test]
async fn mail_of_no_connector_passes_whatever_its_size_and_sender() {
    let tight = Limits { message_size: 100, header_size: 50, ..limits() };
    let mut daemon = Daemon::with(Act::Pass, tight, Patience::default());
    let mut mta = daemon.unix().await;
    mta.negotiate(6, PROTOCOL).await;
    mta.send(b'M', b"<a b@c>\0").await;
    mta.send(b'R', b"<x@else.example>\0").await;
    let long = "x".repeat(1000);
    mta.content(&[("Subject", &long)], long.as_bytes()).await;
    mta.expect('a').await;
    daemon.nothing_judged();
}
