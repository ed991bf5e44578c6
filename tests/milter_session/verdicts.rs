//! Verdicts reach the MTA as meant.

use std::sync::Arc;
use std::time::Duration;

use deskmilter::attach::milter::Patience;
use deskmilter::mail::{Header, HeaderEdit, RecipientEdit, Reply, Verdict};

use crate::daemon::{Act, Daemon, TestJudge, edit, limits};
use crate::mta::PROTOCOL;

#[tokio::test]
async fn fields_are_deleted_from_the_last_to_the_first_before_any_is_inserted() {
    let daemon = Daemon::new(edit(vec![
        HeaderEdit::Prepend(Header::written("Authentication-Results", "mx; none")),
        HeaderEdit::Remove { index: 0 },
        HeaderEdit::Remove { index: 2 },
        HeaderEdit::Prepend(Header::written("X-Top", "1")),
    ]));
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    let fields = [("Authentication-Results", " mx; a"), ("From", " a"), ("AUTHENTICATION-results", " mx;\n b")];
    mta.content(&fields, b"").await;
    for (code, payload) in [
        ('m', &b"\0\0\0\x02AUTHENTICATION-results\0\0"[..]),
        ('m', b"\0\0\0\x01Authentication-Results\0\0"),
        ('i', b"\0\0\0\0Authentication-Results\0 mx; none\0"),
        ('i', b"\0\0\0\0X-Top\0 1\0"),
    ] {
        assert_eq!(mta.receive().await, (code, payload.to_vec()));
    }
    mta.expect('c').await;
}

#[tokio::test]
async fn a_refusal_is_one_well_formed_reply_and_the_edits_do_not_matter() {
    let reply = Reply::from_remote(550, ["5.7.1 100% sure", "5.7.1 not"]);
    let edits = vec![HeaderEdit::Remove { index: 0 }];
    let daemon = Daemon::new(Act::Give(Verdict { edits, ..Verdict::refuse(reply) }));
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.message().await;
    assert_eq!(mta.receive().await, ('y', b"550-5.7.1 100%% sure\r\n550 5.7.1 not\0".to_vec()));
    mta.expect_silence().await;
    mta.message().await;
    mta.expect_reply("550-5.7.1").await;
}

#[tokio::test]
async fn while_judging_takes_long_the_mta_hears_from_us() {
    let patience = Patience { progress: Duration::from_millis(50), ..Patience::default() };
    let daemon = Daemon::with(Act::Sleep(Duration::from_millis(180)), limits(), patience);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.message().await;
    mta.expect('p').await;
    mta.expect('p').await;
    loop {
        match mta.receive().await {
            ('p', _) => {}
            answer => break assert_eq!(answer, ('c', vec![])),
        }
    }
    assert!(Patience::default().progress <= Duration::from_secs(10));
}

#[tokio::test]
async fn a_judge_that_panics_or_takes_too_long_defers_its_message_alone() {
    let patience = Patience { judge: Duration::from_millis(50), ..Patience::default() };
    for act in [Act::Panic, Act::Sleep(Duration::from_secs(60))] {
        let daemon = Daemon::with(act, limits(), patience);
        let mut mta = daemon.unix().await;
        mta.begin().await;
        for _ in 0..2 {
            mta.message().await;
            mta.expect_reply("451 4.7.1 ").await;
        }
    }
    assert!(Patience::default().judge < Duration::from_secs(300));
}

#[tokio::test]
async fn what_is_judged_has_no_stray_line_endings() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.send(b'L', b"Subject\0 a\rb\nc\n d\0").await;
    mta.send(b'N', b"").await;
    mta.send(b'B', b"a\nb\r").await;
    mta.send(b'B', b"\n.\r").await;
    mta.send(b'E', b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"Subject: a b c\r\n d\r\n\r\na b\r\n. ");
}

#[tokio::test]
async fn a_judge_that_is_replaced_finishes_the_message_it_began() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    let (seen, asked) = (daemon.seen_by.clone(), Arc::clone(&daemon.asked));
    daemon.judge.store(Arc::new(TestJudge { name: "second", act: Act::Pass, seen, asked }));
    mta.content(&[], b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.judge, "first");
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.judge, "second");
}

fn taken() -> Act {
    let path = |text: &str| deskmilter::mail::Path::parse(text.as_bytes()).unwrap();
    let recipients =
        vec![RecipientEdit::Remove(path("<support@acme.example>")), RecipientEdit::Add(path("archive@acme.example"))];
    Act::Give(Verdict { recipients, ..Verdict::pass() })
}

#[tokio::test]
async fn recipients_are_removed_and_added_with_their_brackets_before_the_last_answer() {
    let daemon = Daemon::new(taken());
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.message().await;
    assert_eq!(mta.receive().await, ('-', b"<support@acme.example>\0".to_vec()));
    assert_eq!(mta.receive().await, ('+', b"<archive@acme.example>\0".to_vec()));
    mta.expect('c').await;
}

#[tokio::test]
async fn where_recipients_may_not_be_edited_such_a_verdict_defers_and_nothing_is_done_by_halves() {
    let daemon = Daemon::new(taken());
    let mut mta = daemon.unix().await;
    // Only header edits are offered.
    let offer: Vec<u8> = [6_u32, 0x11, PROTOCOL].iter().flat_map(|n| n.to_be_bytes()).collect();
    mta.send(b'O', &offer).await;
    let (_, agreed) = mta.receive().await;
    assert_eq!(agreed[4..8], 0x11_u32.to_be_bytes());
    mta.message().await;
    mta.expect_reply("451 4.3.5 ").await;
}
