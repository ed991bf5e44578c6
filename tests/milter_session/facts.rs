//! Facts about the client and the message: macros, CONNECT, ESMTP parameters.

use deskmilter::mail::Client;

use crate::daemon::{Act, Daemon};

#[tokio::test]
async fn the_login_of_one_message_is_not_that_of_the_next() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'D', b"M{auth_type}\0PLAIN\0{auth_authen}\0alice\0{mail_addr}\0a@b.example\0").await;
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.mail.connection.login.as_deref(), Some("alice"));
    mta.message().await;
    mta.expect('c').await;
    let seen = daemon.seen().await;
    assert_eq!(seen.mail.connection.login, None);
    assert!(seen.mail.connection.tls.is_some(), "facts of the connection stay");
    mta.send(b'D', b"M{auth_authen}\0\0").await;
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.mail.connection.login, None);
}

#[tokio::test]
async fn macros_of_suppressed_events_empty_sets_and_odd_counts_are_taken_as_they_come() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'D', b"H").await;
    mta.send(b'H', b"plain.example\0").await;
    mta.send(b'D', b"U{x}\0y\0").await;
    mta.send(b'D', b"M{auth_authen}").await;
    mta.send(b'M', b"<a@b.example>\0").await;
    mta.send(b'D', b"R{rcpt_addr}\0support@acme.example\0{rcpt_mailer}\0").await;
    mta.send(b'R', b"<support@acme.example>\0").await;
    mta.send(b'T', b"").await;
    mta.expect('c').await;
    // Postfix sends macros with every field.
    for value in ["1", "2"] {
        mta.send(b'D', b"Li\0QUEUE1\0").await;
        mta.send(b'L', format!("A\0 {value}\0").as_bytes()).await;
    }
    mta.send(b'D', b"Ni\0QUEUE1\0").await;
    mta.send(b'N', b"").await;
    mta.send(b'D', b"Ei\0QUEUE1\0").await;
    mta.send(b'E', b"").await;
    mta.expect('c').await;
    let seen = daemon.seen().await;
    assert_eq!(seen.mail.connection.tls, None, "a HELO without TLS macros is one without TLS");
    assert_eq!(seen.mail.connection.login, None);
    assert_eq!(seen.mail.queue_id.as_deref(), Some("QUEUE1"));
}

#[tokio::test]
async fn mail_by_sendmail_and_pickup_is_local_and_no_recipient_is_ever_refused() {
    let mut daemon = Daemon::new(Act::Pass);
    for connect in [&b"localhost\x004\0\x00127.0.0.1\0"[..], b"localhost\0U", b"localhost\0L\0\0/run/x\0"] {
        let mut mta = daemon.unix().await;
        mta.negotiate(6, 0).await;
        for (code, payload) in [
            (b'C', connect),
            (b'M', b"<a@b.example>\0"),
            (b'R', b"<nonsense\0"),
            (b'R', b"<support@acme.example>\0"),
            (b'T', b""),
            (b'E', b""),
        ] {
            mta.send(code, payload).await;
            mta.expect('c').await;
        }
        let seen = daemon.seen().await;
        assert_eq!(seen.mail.connection.client, Client::Local);
        let recipients: Vec<&str> = seen.mail.envelope.recipients.iter().map(|to| to.as_str()).collect();
        assert_eq!(recipients, ["nonsense", "support@acme.example"]);
    }
}

#[tokio::test]
async fn a_recipient_that_the_mta_refused_is_none() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'M', b"<a@b.example>\0").await;
    mta.send(b'D', b"R{rcpt_mailer}\0error\0{rcpt_host}\x005.1.1\0{rcpt_addr}\x00550 no such user\0").await;
    mta.send(b'R', b"<nobody@acme.example>\0").await;
    mta.send(b'D', b"R{rcpt_mailer}\0local\0").await;
    mta.send(b'R', b"<other@else.example>\0").await;
    mta.send(b'T', b"").await;
    mta.expect('a').await;
    daemon.nothing_judged();
}

#[tokio::test]
async fn esmtp_parameters_reach_the_envelope() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'M', "<jürgen@b.example>\0BODY=8BITMIME\0SMTPUTF8\0".as_bytes()).await;
    mta.send(b'R', b"<support@acme.example>\0NOTIFY=NEVER\0").await;
    mta.send(b'E', b"").await;
    mta.expect('c').await;
    let envelope = daemon.seen().await.mail.envelope;
    assert!(envelope.smtputf8 && envelope.eight_bit);
    assert_eq!(envelope.sender.as_str(), "jürgen@b.example");
}
