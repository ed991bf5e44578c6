//! Credentials are replaced while mail flows: none is lost, none is refused for good, none goes with another's login.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::endpoint::{Action, Rule, Script};
use support::{CREDENTIALS, DeskSite, LmtpClient};
use tokio::runtime::Runtime;

const MESSAGES: usize = 2_000;
const CALLERS: usize = 8;

fn both() -> Script {
    Script { passwords: vec!["s3cret-one", "s3cret-two"], ..Script::default() }
}

/// A caller with a queue: what got a 4xx comes again.
fn deliver(client: &mut LmtpClient, sender: &str, number: usize) -> usize {
    let message = format!("From: {sender}\r\nSubject: {number}\r\n\r\nx\r\n");
    for attempt in 1..2_000 {
        match client.send(sender, &["jane@end.example"], message.as_bytes()).remove(0) {
            reply if reply.code == 250 => return attempt,
            reply => assert_eq!(reply.code / 100, 4, "message {number} of {sender}: {reply}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("message {number} of {sender} was never taken");
}

#[test]
fn replaced_credentials_lose_bounce_and_confuse_none_of_two_thousand_messages() {
    let runtime = Runtime::new().unwrap();
    let (site, host) = DeskSite::with_script(&runtime, both(), CREDENTIALS, "connections = 4");
    let (next, attempts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = LmtpClient::connect(&site.socket());
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= MESSAGES {
                            return;
                        }
                        let sender = ["support@acme.example", "billing@acme.example"][number % 2];
                        attempts.fetch_add(deliver(&mut client, sender, number), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        // The host takes old and new for a moment, then the new one alone; the file follows, now before and now after that.
        let mut round = 0;
        while callers.iter().any(|caller| !caller.is_finished()) {
            round += 1;
            let (one, two) = (format!("one-{round}"), format!("two-{round}"));
            if round % 2 == 0 {
                host.set_passwords(&[&one, &two]);
            }
            site.set_secret("support.secret", &one);
            site.set_secret("billing.secret", &two);
            if round % 2 == 1 {
                host.set_passwords(&[&one, &two]);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let mut copies: HashMap<String, usize> = HashMap::new();
    for message in host.see(|record| record.taken.clone()) {
        let login = message.login.split('/').next().unwrap().trim_start_matches("desk-").to_owned();
        let sender = message.envelope[0].trim_start_matches("MAIL FROM:<").split('@').next().unwrap();
        assert_eq!(login, sender);
        let content = String::from_utf8(message.content).unwrap();
        assert!(content.contains(&format!("From: {sender}@")));
        *copies.entry(content).or_default() += 1;
    }
    assert_eq!(copies.len(), MESSAGES);
    assert!(copies.values().all(|&count| count == 1), "a message went twice");
    println!("{} attempts for {MESSAGES} messages", attempts.into_inner());
}

#[test]
fn a_password_revoked_in_mid_run_defers_until_its_file_is_replaced() {
    let runtime = Runtime::new().unwrap();
    let (site, host) = DeskSite::with_script(&runtime, both(), CREDENTIALS, "");
    let send = || site.send("support@acme.example", &["jane@end.example"], b"Subject: x\r\n\r\nx\r\n").remove(0);
    assert_eq!(send().code, 250);
    host.set_passwords(&["s3cret-three"]);
    site.set_secret("support.secret", "s3cret-wrong");
    let refused = send();
    assert!(refused.code == 451 && refused.text.contains("refused the credentials of desk-support"), "{refused}");
    let logins = host.see(|record| record.logins.len());
    // What was refused a moment ago is not tried again: providers lock accounts for that.
    let start = Instant::now();
    assert!((0..20).all(|_| send().code == 451) && start.elapsed() < Duration::from_secs(20));
    assert_eq!(host.see(|record| record.logins.len()), logins);
    site.set_secret("support.secret", "s3cret-three");
    assert_eq!(send().code, 250);
}

#[test]
fn a_password_replaced_while_the_host_refuses_the_old_one_is_tried_at_once() {
    let runtime = Runtime::new().unwrap();
    let late = Rule { on: "AUTH", connection: Some(1), action: Action::Late(Duration::from_millis(700)) };
    let script = Script { passwords: vec!["s3cret-three"], rules: vec![late], ..Script::default() };
    let (site, host) = DeskSite::with_script(&runtime, script, CREDENTIALS, "");
    std::thread::scope(|scope| {
        let sent = scope
            .spawn(|| site.send("support@acme.example", &["jane@end.example"], b"Subject: x\r\n\r\nx\r\n").remove(0));
        support::wait_until("the first login", String::new, || host.see(|record| !record.logins.is_empty()));
        site.set_secret("support.secret", "s3cret-three");
        assert_eq!(sent.join().unwrap().code, 250);
    });
    assert_eq!(host.see(|record| record.logins.clone()), ["desk-support/s3cret-one", "desk-support/s3cret-three"]);
}
