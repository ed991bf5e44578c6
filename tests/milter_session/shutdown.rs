//! Told to stop.

use std::time::Duration;

use deskmilter::attach::milter::Patience;
use tokio::time::timeout;

use crate::daemon::{Act, Daemon, limits};

#[tokio::test]
async fn on_shutdown_idle_connections_end_and_a_message_under_way_is_finished() {
    let mut daemon = Daemon::new(Act::Sleep(Duration::from_millis(100)));
    let (mut idle, mut busy, mut judged) = (daemon.unix().await, daemon.unix().await, daemon.unix().await);
    idle.begin().await;
    busy.begin().await;
    busy.support().await;
    judged.begin().await;
    judged.message().await;
    daemon.seen().await;
    daemon.shutdown.cancel();
    idle.expect_close().await;
    judged.expect('c').await;
    judged.expect_close().await;
    busy.content(&[("Subject", " last")], b"body\r\n").await;
    busy.expect('c').await;
    busy.expect_close().await;
    daemon.tasks.close();
    timeout(Duration::from_secs(5), daemon.tasks.wait()).await.expect("all sessions have ended");
    assert_eq!(daemon.seen().await.wire, b"Subject: last\r\n\r\nbody\r\n");
}

#[tokio::test]
async fn on_shutdown_no_message_is_waited_for_without_end() {
    let patience = Patience { drain: Duration::from_millis(100), ..Patience::default() };
    let mut daemon = Daemon::with(Act::Sleep(Duration::from_secs(60)), limits(), patience);
    let (mut stalled, mut judged) = (daemon.unix().await, daemon.unix().await);
    stalled.begin().await;
    stalled.support().await;
    judged.begin().await;
    judged.message().await;
    daemon.seen().await;
    daemon.shutdown.cancel();
    judged.expect_reply("451 4.3.2 ").await;
    judged.expect_close().await;
    stalled.expect_close().await;
    daemon.tasks.close();
    timeout(Duration::from_secs(5), daemon.tasks.wait()).await.expect("all sessions have ended");
}

#[tokio::test]
async fn a_session_may_go_on_for_a_while_where_others_can_wait_and_ends_after_it() {
    let patience = Patience { linger: Duration::from_millis(600), ..Patience::default() };
    let mut daemon = Daemon::with(Act::Pass, limits(), patience);
    let (mut idle, mut busy) = (daemon.unix().await, daemon.unix().await);
    idle.begin().await;
    busy.begin().await;
    daemon.shutdown.cancel();
    for _ in 0..2 {
        busy.message().await;
        busy.expect('c').await;
        daemon.seen().await;
    }
    idle.expect_close().await;
    busy.expect_close().await;
    daemon.tasks.close();
    timeout(Duration::from_secs(5), daemon.tasks.wait()).await.expect("all sessions have ended");
}
