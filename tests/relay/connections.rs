//! Connections are reused, limited and left politely; credentials rotate without a lost message.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deskmilter::relay::{Bounds, Delivery, Relay};
use tokio::task::JoinSet;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::site::{Site, mail, short};
use support::endpoint::{Action, Endpoint, Rule, Script};

async fn send(relay: &Relay) -> Delivery {
    relay.send(&mail(&["a@acme.example"], b"A: b\r\n\r\nhello\r\n")).await
}

fn code(delivery: &Delivery) -> String {
    let reply = delivery.replies.first().unwrap();
    format!("{} {}", reply.code(), reply.enhanced().unwrap_or_default())
}

/// Waits for what happens in the background.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(5), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_connection_serves_many_messages_and_the_trace_tells() {
    let endpoint = Endpoint::start(Script::default()).await;
    let site = Site::new(&endpoint);
    let relay = site.relay(short());
    let first = send(&relay).await;
    assert!(!first.trace.reused);
    assert_eq!(first.trace.remote.unwrap(), format!("localhost[127.0.0.1]:{}", endpoint.port));
    assert!(first.trace.tls.as_ref().unwrap().starts_with("TLSv1.3 TLS13_"), "{:?}", first.trace.tls);
    assert_eq!(first.trace.credential.unwrap(), "acme.example");
    for _ in 0..5 {
        let next = send(&relay).await;
        assert!(next.trace.reused && next.trace.remote.is_some() && next.trace.credential.is_some());
    }
    endpoint.see(|record| assert_eq!((record.connections, record.taken.len(), record.logins.len()), (1, 6, 1)));
}

#[tokio::test]
async fn a_refused_message_does_not_cost_the_connection() {
    let endpoint = Endpoint::start(Script {
        rules: vec![Rule { on: "RCPT TO:<a@", connection: None, action: Action::Say("550 5.1.1 no\r\n") }],
        ..Script::default()
    })
    .await;
    let site = Site::new(&endpoint);
    let relay = site.relay(short());
    assert_eq!(code(&send(&relay).await), "550 5.1.1");
    let next = relay.send(&mail(&["b@acme.example"], b"\r\n")).await;
    assert!(next.trace.reused && next.replies.first().unwrap().code() == 250, "{next:?}");
    endpoint.see(|record| {
        assert!(record.lines.contains(&"RSET".to_owned()));
        assert_eq!(record.lines.iter().filter(|line| *line == "DATA").count(), 1);
    });
}

#[tokio::test]
async fn no_more_connections_than_allowed_and_who_waits_too_long_is_told() {
    let script = Script {
        rules: vec![Rule { on: "DOT", connection: None, action: Action::Late(Duration::from_millis(100)) }],
        ..Script::default()
    };
    let endpoint = Endpoint::start(script).await;
    let site = Site::new(&endpoint).connections(2);
    let relay = Arc::new(site.relay(short()));
    let sends: Vec<_> = (0..10)
        .map(|_| {
            let relay = Arc::clone(&relay);
            tokio::spawn(async move { send(&relay).await })
        })
        .collect();
    for sent in sends {
        assert_eq!(code(&sent.await.unwrap()), "250 2.0.0");
    }
    endpoint.see(|record| assert_eq!((record.most_open, record.taken.len()), (2, 10)));

    let busy = Endpoint::start(Script {
        rules: vec![Rule { on: "DOT", connection: None, action: Action::Hang }],
        ..Script::default()
    })
    .await;
    let site = Site::new(&busy).connections(1).deadline(Duration::from_millis(300));
    let relay = Arc::new(site.relay(Bounds::default()));
    let sends: JoinSet<Delivery> = (0..5)
        .map(|_| {
            let relay = Arc::clone(&relay);
            async move { send(&relay).await }
        })
        .collect();
    let codes: Vec<String> = sends.join_all().await.iter().map(code).collect();
    assert!(codes.iter().all(|code| code.starts_with("451 4.")), "{codes:?}");
    assert!(codes.contains(&"451 4.3.2".to_owned()) && codes.contains(&"451 4.4.2".to_owned()), "{codes:?}");
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_without_the_caller_noticing() {
    for parting in [Action::SayAndClose("421 4.4.2 idle too long\r\n"), Action::Close] {
        // The second MAIL on the first connection meets the end.
        let endpoint = Endpoint::start(Script {
            rules: vec![Rule { on: "MAIL FROM:<Sender@Example.org> SIZE=2", connection: Some(1), action: parting }],
            ..Script::default()
        })
        .await;
        let site = Site::new(&endpoint);
        let relay = site.relay(short());
        assert_eq!(code(&send(&relay).await), "250 2.0.0");
        let next = relay.send(&mail(&["a@acme.example"], b"\r\n")).await;
        assert_eq!(code(&next), "250 2.0.0");
        assert!(!next.trace.reused);
        endpoint.see(|record| assert_eq!((record.connections, record.taken.len()), (2, 2)));
    }
}

#[tokio::test]
async fn a_connection_that_ended_or_spoke_while_idle_is_not_used_again() {
    for parting in [
        Action::SayAndClose("250 2.0.0 taken\r\n"),
        Action::Say("250 2.0.0 taken\r\n421 4.4.2 bye\r\n"),
        Action::SayAndClose("250 2.0.0 taken\r\n421 4.4.2 bye\r\n"),
    ] {
        let endpoint = Endpoint::start(Script {
            rules: vec![Rule { on: "DOT", connection: Some(1), action: parting }],
            ..Script::default()
        })
        .await;
        let site = Site::new(&endpoint);
        let relay = site.relay(short());
        assert_eq!(code(&send(&relay).await), "250 2.0.0");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let next = send(&relay).await;
        assert_eq!((code(&next).as_str(), next.trace.reused), ("250 2.0.0", false));
        // Found out without a command: nothing was said on the old connection any more.
        endpoint.see(|record| assert_eq!(record.lines.iter().filter(|line| line.starts_with("MAIL")).count(), 2));
    }
}

#[tokio::test]
async fn nothing_is_sent_twice_after_the_final_dot() {
    for parting in [Action::Close, Action::SayAndClose("421 4.3.2 bye\r\n")] {
        let rules = vec![Rule { on: "DOT 2", connection: None, action: parting }];
        let endpoint = Endpoint::start(Script { rules, ..Script::default() }).await;
        let site = Site::new(&endpoint);
        let relay = site.relay(short());
        send(&relay).await;
        let lost = send(&relay).await;
        assert!(lost.trace.reused && lost.replies.first().unwrap().code() == 451, "{lost:?}");
        endpoint.see(|record| assert_eq!((record.connections, record.read), (1, 2)));
    }
}

#[tokio::test]
async fn idle_and_old_connections_are_left_with_quit() {
    let quits = |endpoint: &Endpoint| endpoint.see(|record| record.lines.iter().filter(|line| *line == "QUIT").count());
    let endpoint = Endpoint::start(Script::default()).await;
    let site = Site::new(&endpoint);
    let idle = site.relay(Bounds { idle: Duration::from_millis(100), ..short() });
    send(&idle).await;
    eventually("the sweep says QUIT", || quits(&endpoint) == 1 && endpoint.see(|record| record.open) == 0).await;
    send(&idle).await;
    eventually("the next sweep too", || quits(&endpoint) == 2).await;

    let two = site.relay(Bounds { messages: 2, ..short() });
    for _ in 0..4 {
        send(&two).await;
    }
    eventually("two messages each", || quits(&endpoint) == 4).await;

    let dropped = site.relay(short());
    send(&dropped).await;
    drop(dropped);
    eventually("a dropped relay says QUIT", || quits(&endpoint) == 5 && endpoint.see(|record| record.open) == 0).await;
}

#[tokio::test]
async fn an_abandoned_hand_over_gives_its_slot_back() {
    let endpoint = Endpoint::start(Script {
        rules: vec![Rule { on: "DOT", connection: Some(1), action: Action::Hang }],
        ..Script::default()
    })
    .await;
    let site = Site::new(&endpoint).connections(1);
    let relay = site.relay(Bounds::default());
    assert!(tokio::time::timeout(Duration::from_millis(300), send(&relay)).await.is_err());
    assert_eq!(code(&send(&relay).await), "250 2.0.0");
}

#[tokio::test]
async fn the_second_set_takes_over_and_the_refused_one_is_left_alone_for_a_while() {
    let endpoint = Endpoint::start(Script { passwords: vec!["s3cret-two"], ..Script::default() }).await;
    let site = Site::new(&endpoint).credential("acme-next", "s3cret-two");
    // No connection is reused, so that each message logs in.
    let relay = site.relay(Bounds { messages: 1, ..short() });
    for _ in 0..3 {
        let delivery = send(&relay).await;
        assert_eq!(code(&delivery), "250 2.0.0");
        assert_eq!(delivery.trace.credential.unwrap(), "acme-next");
    }
    let logins = endpoint.see(|record| record.logins.clone());
    assert_eq!(
        logins,
        ["acme.example/s3cret-one", "acme-next/s3cret-two", "acme-next/s3cret-two", "acme-next/s3cret-two"]
    );
    // A replaced password file is tried at once.
    site.write_password("acme.example", "s3cret-two\n");
    assert_eq!(send(&relay).await.trace.credential.unwrap(), "acme.example");
    // After the time is over the set is tried again.
    let relay = site.relay(Bounds { messages: 1, refusal: Duration::ZERO, ..short() });
    site.write_password("acme.example", "wrong");
    send(&relay).await;
    send(&relay).await;
    let wrong = endpoint.see(|record| record.logins.iter().filter(|login| login.ends_with("/wrong")).count());
    assert_eq!(wrong, 2);
}

#[tokio::test]
async fn an_idle_connection_does_not_outlive_its_password() {
    let endpoint = Endpoint::start(Script { passwords: vec!["s3cret-one", "new"], ..Script::default() }).await;
    let site = Site::new(&endpoint);
    let relay = site.relay(short());
    send(&relay).await;
    site.write_password("acme.example", "new");
    assert!(!send(&relay).await.trace.reused);
    assert!(send(&relay).await.trace.reused);
    endpoint.see(|record| assert_eq!(record.logins, ["acme.example/s3cret-one", "acme.example/new"]));
}

#[tokio::test]
async fn when_all_sets_are_refused_each_message_tries_again() {
    let endpoint = Endpoint::start(Script { passwords: vec![], ..Script::default() }).await;
    let site = Site::new(&endpoint).credential("acme-next", "s3cret-two");
    let relay = site.relay(short());
    for tried in [2, 4] {
        let delivery = send(&relay).await;
        assert_eq!(code(&delivery), "451 4.7.8");
        let text = delivery.replies.first().unwrap().text();
        assert!(text.contains("refused the credentials of acme.example, acme-next"), "{text}");
        endpoint.see(|record| assert_eq!(record.logins.len(), tried));
    }
}

#[tokio::test]
async fn a_temporary_refusal_does_not_go_on_to_the_next_set() {
    let script = Script {
        rules: vec![Rule { on: "AUTH", connection: None, action: Action::Say("454 4.7.0 directory down\r\n") }],
        ..Script::default()
    };
    let endpoint = Endpoint::start(script).await;
    let site = Site::new(&endpoint).credential("acme-next", "s3cret-two");
    assert_eq!(code(&send(&site.relay(short())).await), "454 4.7.0");
    endpoint.see(|record| assert_eq!(record.logins, ["acme.example/s3cret-one"]));
}

#[tokio::test]
async fn an_endpoint_that_repeats_the_credentials_does_not_make_us_repeat_them() {
    // NUL acme.example NUL s3cret-one, whole, cut short, and decoded.
    for echo in [
        "500 5.5.1 Command unrecognized: \"AUTH PLAIN AGFjbWUuZXhhbXBsZQBzM2NyZXQtb25l\"\r\n",
        "535 5.7.8 AGFjbWUuZXhhbXBsZQBz...?\r\n",
        "535-5.7.8 bad\r\n535 5.7.8 s3cret-one\r\n",
        "454 4.7.0 AGFjbWUuZXhhbXBsZQBzM2NyZXQtb25l\r\n",
        "421 4.7.0 AGFjbWUuZXhhbXBsZQBzM2NyZXQtb25l\r\n",
    ] {
        let endpoint = Endpoint::start(Script {
            rules: vec![Rule { on: "AUTH", connection: None, action: Action::Say(echo) }],
            ..Script::default()
        })
        .await;
        let site = Site::new(&endpoint);
        let delivery = send(&site.relay(short())).await;
        let text = format!("{:?}", delivery.replies);
        assert!(text.contains("left out") && !text.contains("AGFjbWUu") && !text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn an_unreadable_password_file_is_named_with_its_remedy_before_anyone_is_contacted() {
    let endpoint = Endpoint::start(Script::default()).await;
    let site = Site::new(&endpoint);
    let path = site.password_path("acme.example");
    let relay = site.relay(short());
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let text = send(&relay).await.replies.first().unwrap().to_string();
    assert!(
        text.starts_with("451 4.3.5 ") && text.contains("chmod 0600") && text.contains(path.to_str().unwrap()),
        "{text}"
    );
    std::fs::remove_file(&path).unwrap();
    let text = send(&relay).await.replies.first().unwrap().to_string();
    assert!(text.starts_with("451 4.3.5 ") && text.contains("acme.example.password"), "{text}");
    assert_eq!(endpoint.see(|record| record.connections), 0);
    site.write_password("acme.example", "s3cret-one");
    assert_eq!(code(&send(&relay).await), "250 2.0.0");
}

#[tokio::test]
async fn a_long_password_and_a_user_name_that_is_an_address_log_in() {
    let long: &'static str = Box::leak("x".repeat(600).into_boxed_str());
    for secure in [vec!["AUTH PLAIN"], vec!["AUTH LOGIN"]] {
        let endpoint = Endpoint::start(Script { passwords: vec![long], secure, ..Script::default() }).await;
        let site = Site::new(&endpoint).credential("acme@acme.zendesk.example", long);
        let delivery = send(&site.relay(short())).await;
        assert_eq!(delivery.trace.credential.unwrap(), "acme@acme.zendesk.example");
    }
}

#[tokio::test]
async fn a_password_replaced_during_a_login_that_fails_is_tried_before_anything_is_answered() {
    let rules = vec![Rule { on: "GREETING", connection: Some(1), action: Action::Late(Duration::from_millis(500)) }];
    let endpoint = Endpoint::start(Script { passwords: vec!["s3cret-two"], rules, ..Script::default() }).await;
    let site = Site::new(&endpoint);
    let relay = site.relay(short());
    let replace = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        site.write_password("acme.example", "s3cret-two");
    };
    let (sent, ()) = tokio::join!(send(&relay), replace);
    assert_eq!(code(&sent), "250 2.0.0");
    let logins = |record: &support::endpoint::Record| record.logins.clone();
    assert_eq!(endpoint.see(logins), ["acme.example/s3cret-one", "acme.example/s3cret-two"]);
    // A file that stays wrong is not tried again and again.
    site.write_password("acme.example", "s3cret-three");
    assert_eq!(code(&send(&relay).await), "451 4.7.8");
    assert_eq!(endpoint.see(logins).len(), 3);
}

#[tokio::test]
async fn a_password_file_that_is_being_written_is_read_once_more() {
    let endpoint = Endpoint::start(Script::default()).await;
    let site = Site::new(&endpoint);
    let relay = site.relay(short());
    site.write_password("acme.example", "");
    let write = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        site.write_password("acme.example", "s3cret-one");
    };
    let (sent, ()) = tokio::join!(send(&relay), write);
    assert_eq!(code(&sent), "250 2.0.0");
}

#[tokio::test]
async fn a_route_that_cannot_work_is_told_at_start_with_its_remedy() {
    let endpoint = Endpoint::start(Script::default()).await;
    let missing = Site::new(&endpoint).ca_file("/nonexistent/ca.pem".into());
    let message = missing.try_relay(short()).unwrap_err().to_string();
    assert!(message.contains("/nonexistent/ca.pem") && message.contains("endpoint.ca_file"), "{message}");
    let site = Site::new(&endpoint);
    let not_pem = site.password_path("acme.example");
    let message = site.ca_file(not_pem).try_relay(short()).unwrap_err().to_string();
    assert!(message.contains("no certificate"), "{message}");
    let message = Site::new(&endpoint).host("not a host").try_relay(short()).unwrap_err().to_string();
    assert!(message.contains("endpoint.host"), "{message}");
    let message = Site::new(&endpoint).credential("a\r\nb", "x").try_relay(short()).unwrap_err().to_string();
    assert!(message.contains("endpoint.credentials"), "{message}");
}

/// Collects log lines as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                write!(self.0, " {field}={value:?}").unwrap();
            }
        }
        if event.metadata().target().starts_with("deskmilter") {
            let mut text = Text(event.metadata().level().to_string());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }
}

#[tokio::test]
async fn trouble_is_one_error_line_a_refused_set_one_warning_and_no_line_holds_a_password() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
    let endpoint = Endpoint::start(Script { passwords: vec!["s3cret-two"], ..Script::default() }).await;
    let site = Site::new(&endpoint);
    send(&site.relay(short())).await;
    let site = site.credential("acme-next", "s3cret-two");
    send(&site.relay(short())).await;
    let stripped = Endpoint::start(Script { plain: vec![], ..Script::default() }).await;
    let unencrypted = Site::new(&stripped);
    send(&unencrypted.relay(short())).await;
    let lines = lines.0.lock().unwrap();
    let of = |level: &str| lines.iter().filter(|line| line.starts_with(level)).collect::<Vec<_>>();
    assert_eq!((of("ERROR").len(), of("WARN").len()), (2, 2), "{lines:#?}");
    assert!(
        of("WARN").iter().all(|line| line.contains("acme.example") && line.contains("bad credentials")),
        "{lines:#?}"
    );
    assert!(of("ERROR").iter().any(|line| line.contains("4.7.4") && line.contains("4c1Zxw2vKz")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("s3cret")), "{lines:#?}");
}
