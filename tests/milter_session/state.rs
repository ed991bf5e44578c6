//! What may follow what.

use std::net::IpAddr;
use std::sync::Arc;

use deskmilter::mail::Client;

use crate::daemon::{Act, Daemon};

#[tokio::test]
async fn many_messages_come_over_one_connection_and_an_abort_may_come_at_any_time() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'A', b"").await;
    for _ in 0..3 {
        mta.message().await;
        mta.expect('c').await;
        daemon.seen().await;
        mta.send(b'A', b"").await;
    }
    let commands = [
        (b'M', &b"<a@b.example>\0"[..]),
        (b'R', b"<support@acme.example>\0"),
        (b'T', b""),
        (b'L', b"A\0 b\0"),
        (b'N', b""),
        (b'B', b"x"),
    ];
    for end in 1..=commands.len() {
        for (code, payload) in &commands[..end] {
            mta.send(*code, payload).await;
        }
        if end >= 3 {
            mta.expect('c').await;
        }
        mta.send(b'A', b"").await;
    }
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"Subject: hello\r\n\r\nbody\r\n");
    daemon.nothing_judged();
}

#[tokio::test]
async fn a_close_may_be_the_only_event_and_quit_ends_the_connection() {
    let mut daemon = Daemon::new(Act::Pass);
    drop(daemon.unix().await);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    drop(mta);
    let mut mta = daemon.unix().await;
    mta.send(b'Q', b"").await;
    mta.expect_close().await;
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.send(b'Q', b"").await;
    mta.expect_close().await;
    daemon.nothing_judged();
}

#[tokio::test]
async fn after_quit_nc_the_next_client_comes_over_the_same_connection_and_inherits_nothing() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.send(b'K', b"").await;
    mta.send(b'C', b"unknown\x006\0\x19IPv6:2001:db8::9\0").await;
    mta.message().await;
    mta.expect('c').await;
    let connection = Arc::clone(&daemon.seen().await.mail.connection);
    assert_eq!(connection.client, Client::Network("2001:db8::9".parse::<IpAddr>().unwrap()));
    assert_eq!((&connection.client_name, &connection.helo), (&None, &None));
    assert_eq!((&connection.tls, &connection.mta_name), (&None, &None));
}

#[tokio::test]
async fn a_command_out_of_place_ends_the_message_and_is_tried_as_if_between_messages() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    // Without a message these mean nothing, and an answer would put both sides out of step.
    for (code, payload) in [
        (b'R', &b"<support@acme.example>\0"[..]),
        (b'T', b""),
        (b'L', b"A\0 b\0"),
        (b'N', b""),
        (b'B', b"x"),
        (b'E', b""),
    ] {
        mta.send(code, payload).await;
    }
    mta.expect_silence().await;
    // After the end of the header section these end the message.
    for (code, payload) in [(b'L', &b"A\0 b\0"[..]), (b'R', b"<support@acme.example>\0"), (b'T', b""), (b'N', b"")] {
        mta.support().await;
        mta.send(b'N', b"").await;
        mta.send(code, payload).await;
        mta.send(b'E', b"").await;
        mta.expect_silence().await;
    }
    // HELO and MAIL within a message begin anew.
    mta.envelope("first@b.example", &["support@acme.example"]).await;
    mta.expect('c').await;
    mta.send(b'L', b"A\0 first\0").await;
    mta.send(b'H', b"again.example\0").await;
    mta.send(b'M', b"<second@b.example>\0").await;
    mta.message().await;
    mta.expect('c').await;
    let seen = daemon.seen().await;
    assert_eq!(seen.mail.envelope.sender.as_str(), "a@client.example");
    assert_eq!(seen.mail.envelope.recipients.len(), 1);
    assert_eq!(seen.wire, b"Subject: hello\r\n\r\nbody\r\n");
    assert_eq!(seen.mail.connection.helo.as_deref(), Some("again.example"));
    daemon.nothing_judged();
}

#[tokio::test]
async fn a_body_before_the_fields_and_unknown_commands_do_no_harm() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'!', b"whatever").await;
    mta.send(b'M', b"<a@b.example>\0").await;
    mta.send(b'z', b"").await;
    mta.send(b'R', b"<support@acme.example>\0").await;
    mta.send(b'B', b"body\r\n").await;
    mta.send(b'E', b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"\r\nbody\r\n");
    mta.support().await;
    mta.send(b'B', b"body\r\n").await;
    mta.send(b'L', b"A\0 b\0").await;
    mta.send(b'E', b"").await;
    mta.expect_silence().await;
    daemon.nothing_judged();
}

#[tokio::test]
async fn an_smtp_command_that_the_mta_does_not_know_is_answered_where_an_answer_is_due() {
    let daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.negotiate(6, 0).await;
    mta.send(b'U', b"XYZZY\0").await;
    mta.expect('c').await;
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'U', b"XYZZY\0").await;
    mta.expect_silence().await;
}

#[tokio::test]
async fn negotiating_again_begins_anew() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'M', b"<a@b.example>\0").await;
    mta.begin().await;
    mta.message().await;
    mta.expect('c').await;
    daemon.seen().await;
}

#[tokio::test]
async fn nothing_of_a_message_that_was_cut_off_gets_into_the_next() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    for cut in [&[][..], &[(b'A', &b""[..])], &[(b'H', b"again.example\0")], &[(b'L', b"Late\0 field\0")]] {
        mta.support().await;
        mta.send(b'L', b"Earlier\0 field\0").await;
        mta.send(b'N', b"").await;
        mta.send(b'B', b"earlier body\r\n").await;
        for (code, payload) in cut {
            mta.send(*code, payload).await;
        }
        mta.message().await;
        mta.expect('c').await;
        assert_eq!(String::from_utf8_lossy(&daemon.seen().await.wire), "Subject: hello\r\n\r\nbody\r\n");
    }
}
