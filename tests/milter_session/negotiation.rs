//! What is agreed on holds: as many answers as the MTA awaits, values with or without their first space.

use deskmilter::attach::milter::Patience;
use deskmilter::config::Limits;
use deskmilter::mail::{Client, Header, HeaderEdit};
use proptest::prelude::*;

use crate::daemon::{Act, Daemon, edit, limits, runtime};
use crate::mta::{ACTIONS, LEADING_SPACE, NO_REPLY_HEADER, PROTOCOL, SKIP};

#[tokio::test]
async fn where_no_answer_was_agreed_on_none_is_given_and_the_judge_sees_the_message_exactly() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.envelope("A@client.example", &["Support@acme.example", "other@else.example"]).await;
    mta.expect('c').await;
    mta.content(&[("Received", " from x\n\tby y"), ("SUBJECT", "\ttab"), ("X-None", "none")], b"a\r\nb").await;
    mta.expect('c').await;
    mta.expect_silence().await;
    let seen = daemon.seen().await;
    assert_eq!(
        String::from_utf8_lossy(&seen.wire),
        "Received: from x\r\n\tby y\r\nSUBJECT:\ttab\r\nX-None:none\r\n\r\na\r\nb"
    );
    let connection = &seen.mail.connection;
    assert_eq!(connection.client, Client::Network("192.0.2.7".parse().unwrap()));
    assert_eq!(connection.client_name.as_deref(), Some("client.example"));
    assert_eq!(connection.helo.as_deref(), Some("helo.example"));
    assert_eq!(connection.mta_name.as_deref(), Some("mx.acme.example"));
    assert_eq!(connection.tls.as_ref().unwrap().version, "TLSv1.3");
    assert_eq!(connection.tls.as_ref().unwrap().cipher, "TLS_AES_256_GCM_SHA384");
    assert_eq!(connection.login, None);
    assert_eq!(seen.mail.queue_id.as_deref(), Some("4ABC123"));
    assert_eq!(seen.mail.envelope.sender.as_str(), "A@client.example");
    assert_eq!(seen.mail.envelope.recipients.len(), 2);
}

#[tokio::test]
async fn without_leading_space_one_space_is_put_back_and_none_sent() {
    let mut daemon = Daemon::new(edit(vec![HeaderEdit::Prepend(Header::written("X-A", "one\r\n two"))]));
    let mut mta = daemon.unix().await;
    mta.negotiate(6, PROTOCOL & !LEADING_SPACE).await;
    mta.support().await;
    mta.content(&[("A", "x"), ("B", " y"), ("C", "\tz"), ("D", "")], b"").await;
    assert_eq!(mta.receive().await, ('i', b"\0\0\0\0X-A\0one\n two\0".to_vec()));
    mta.expect('c').await;
    assert_eq!(String::from_utf8_lossy(&daemon.seen().await.wire), "A: x\r\nB:  y\r\nC: \tz\r\nD: \r\n\r\n");
}

#[tokio::test]
async fn with_leading_space_the_space_is_ours_to_send_and_a_cr_is_never_sent() {
    let daemon = Daemon::new(edit(vec![HeaderEdit::Prepend(Header::written("X-A", "one\r\n two"))]));
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.message().await;
    assert_eq!(mta.receive().await, ('i', b"\0\0\0\0X-A\0 one\n two\0".to_vec()));
    mta.expect('c').await;
}

#[tokio::test]
async fn an_mta_that_does_not_let_us_edit_or_speaks_version_1_is_left() {
    let daemon = Daemon::new(Act::Pass);
    for offer in [[1u32, ACTIONS, PROTOCOL], [6, 0, PROTOCOL]] {
        let mut mta = daemon.unix().await;
        mta.send(b'O', &offer.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<_>>()).await;
        mta.expect_close().await;
    }
}

#[tokio::test]
async fn skip_is_said_only_where_offered_and_for_the_body_alone() {
    for (protocol, answer) in [(SKIP, 's'), (0, 'c')] {
        let daemon = Daemon::with(Act::Pass, Limits { message_size: 100, ..limits() }, Patience::default());
        let mut mta = daemon.unix().await;
        mta.negotiate(6, protocol).await;
        for (code, payload) in [
            (b'M', &b"<a@b.example>\0"[..]),
            (b'R', b"<support@acme.example>\0"),
            (b'T', b""),
            (b'L', b"A\0b\0"),
            (b'N', b""),
        ] {
            mta.send(code, payload).await;
            mta.expect('c').await;
        }
        mta.send(b'B', &[b'x'; 200]).await;
        mta.expect(answer).await;
        mta.send(b'E', b"").await;
        mta.expect('c').await;
    }
}

/// One whole message with any set of bits offered: exactly as many answers as the MTA awaits, and the same message judged.
async fn a_message_with_bits(version: u32, protocol: u32) {
    let mut daemon = Daemon::new(Act::Pass);
    let (mut mta, _, conversation) = daemon.converse();
    let agreed = mta.negotiate(version, protocol).await;
    let subject: &[u8] = if agreed & LEADING_SPACE != 0 { b"Subject\0 x\0" } else { b"Subject\0x\0" };
    for (code, payload, no_reply) in [
        (b'C', &b"mx.example\x004\0\x19192.0.2.1\0"[..], 0x1000),
        (b'H', b"mx.example\0", 0x2000),
        (b'M', b"<a@b.example>\0", 0x4000),
        (b'R', b"<support@acme.example>\0", 0x8000),
        (b'T', b"", 0x1_0000),
        (b'L', subject, NO_REPLY_HEADER),
        (b'N', b"", 0x4_0000),
        (b'B', b"body\r\n", 0x8_0000),
        (b'E', b"tail\r\n", 0),
    ] {
        if code == b'T' && version < 4 {
            continue;
        }
        mta.send(code, payload).await;
        if agreed & no_reply == 0 {
            mta.expect('c').await;
        }
    }
    assert_eq!(String::from_utf8_lossy(&daemon.seen().await.wire), "Subject: x\r\n\r\nbody\r\ntail\r\n");
    mta.send(b'Q', b"").await;
    mta.expect_close().await;
    conversation.await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_set_of_offered_bits_works(version in 2u32..9, protocol in any::<u32>()) {
        runtime().block_on(a_message_with_bits(version, protocol));
    }
}
