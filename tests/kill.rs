//! `kill -9` at any instant loses nothing: until the endpoint said 250, the message is Postfix's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use support::{Message, Site, SmtpSession};

const MESSAGES: usize = 1_000;
const KILLS: usize = 20;
/// Messages that can be under way to the endpoint at a time.
const IN_FLIGHT: usize = 5;

#[test]
fn a_thousand_messages_survive_twenty_kills_at_random_instants() {
    let mut site = Site::with("", &format!("max_connections = {IN_FLIGHT}"), "");
    let submitted = AtomicBool::new(false);
    let address = site.postfix.address();
    let mut kills = 0;
    let (daemon, desk) = (&mut site.daemon, &site.desk);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let senders: Vec<_> = (0..4)
                .map(|sender| {
                    scope.spawn(move || {
                        let mut session = SmtpSession::connect(address);
                        session.expect(250, "EHLO localhost");
                        for n in (sender..MESSAGES).step_by(4) {
                            let message =
                                Message::new("a@plain.example", "support@acme.example", &format!("message {n}"));
                            let reply = session.send("a@plain.example", &["support@acme.example"], &message.octets());
                            assert_eq!(reply.code, 250, "{reply}");
                        }
                    })
                })
                .collect();
            let done = senders.into_iter().all(|sender| sender.join().is_ok());
            submitted.store(done, Ordering::Release);
            assert!(done, "all messages were taken by Postfix");
        });
        // Kills are spread over the run: the next one comes a random while after the last one's effect has passed.
        let deadline = Instant::now() + Duration::from_secs(300);
        while kills < KILLS && Instant::now() < deadline {
            let tickets = desk.count_tickets();
            if kills > 0 && tickets >= MESSAGES {
                break;
            }
            std::thread::sleep(Duration::from_millis(50 + random() % 700));
            daemon.kill();
            kills += 1;
            std::thread::sleep(Duration::from_millis(random() % 100));
            daemon.resume();
        }
    });
    assert!(submitted.load(Ordering::Acquire));
    site.postfix.flush();
    support::wait_within(
        Duration::from_secs(240),
        "empty queue",
        || site.postfix.log(),
        || site.postfix.queue().is_empty(),
    );

    let mut seen: HashMap<String, usize> = HashMap::new();
    for ticket in site.desk.tickets() {
        *seen.entry(ticket.facts["message_id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    let doubles: usize = seen.values().map(|count| count - 1).sum();
    println!(
        "{kills} kills, {} distinct messages, {doubles} doubles (at most {} were in flight)",
        seen.len(),
        kills * IN_FLIGHT
    );
    assert_eq!(kills, KILLS, "the run was too short for all kills");
    assert_eq!(seen.len(), MESSAGES, "every message became a ticket");
    assert!(doubles <= kills * IN_FLIGHT);
    assert!(!site.postfix.log().contains("status=bounced"));
}

fn random() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| u64::from(now.subsec_nanos()) / 7)
}
