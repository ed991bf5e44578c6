//! Sets are rotated and revoked, and the store goes and comes back, while a company's daemon relays two thousand messages to a desk's
//! Postfix that has its logins checked here.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Daemon, LmtpClient};

use crate::both::Place;
use crate::desk::issued;
use crate::postfix;

const MESSAGES: usize = 2_000;
const CALLERS: usize = 8;
const SUPPORT: &str = "support@acme.example";

/// The company: a daemon whose connector leads to the desk's Postfix with two sets, and stands for a queue's LMTP client.
struct Company {
    daemon: Daemon,
    folder: tempfile::TempDir,
}

impl Company {
    fn start(port: u16, authority: &str, password: &str) -> Self {
        let folder = support::folder("company");
        std::fs::write(folder.path().join("ca.pem"), authority).unwrap();
        let text = format!(
            "[daemon]\nhostname = \"mx.acme.example\"\nstate_directory = \"state\"\n[transport]\ndirectory = \"sockets\"\n\
             [[connector]]\nname = \"acme\"\ndomain = \"acme.example\"\naddresses = [\"{SUPPORT}\"]\n[connector.endpoint]\n\
             host = \"localhost\"\nport = {port}\nca_file = \"ca.pem\"\nmax_connections = 4\ncredentials = [\n\
             {{ username = \"acme.example\", password_file = \"one\" }},\n{{ username = \"acme.example\", password_file = \"two\" }},\n]\n"
        );
        let configuration = folder.path().join("deskmilter.toml");
        std::fs::write(&configuration, text).unwrap();
        write(&folder.path().join("one"), password);
        write(&folder.path().join("two"), password);
        let daemon = Daemon::start(&configuration, &[folder.path().join("sockets/acme.sock")]);
        Self { daemon, folder }
    }

    /// Puts a password into one of the two files, as an administrator does.
    fn set(&self, name: &str, password: &str) {
        let aside = self.folder.path().join("new");
        write(&aside, password);
        std::fs::rename(&aside, self.folder.path().join(name)).unwrap();
    }

    /// As a queue does: what got a 4xx comes again, and nothing may get a 5xx.
    fn deliver(&self, client: &mut LmtpClient, number: usize) -> usize {
        let message = format!(
            "From: a@plain.example\r\nMessage-ID: <{number}@plain.example>\r\nSubject: number {number}.\r\n\r\nx\r\n"
        );
        for attempt in 1..1_000 {
            match client.send("a@plain.example", &[SUPPORT], message.as_bytes()).remove(0) {
                reply if reply.code == 250 => return attempt,
                reply => assert_eq!(reply.code / 100, 4, "message {number}: {reply}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("message {number} was never taken\n{}", self.daemon.log());
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

fn none_of_two_thousand_messages_is_lost_or_bounced(mut place: Place) {
    let mta = postfix::start("deskmilter/auth", &["localhost", "desk.example"]);
    let desk = mta.desk(&place.url());
    let first = desk.issue("--domain acme.example");
    let company = Company::start(mta.address.port(), mta.identity.authority(), &first.password);
    let (next, attempts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (mut live, mut rotations, mut restarts) = (first.number, 0, 0);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = LmtpClient::connect(&company.folder.path().join("sockets/acme.sock"));
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= MESSAGES {
                            return;
                        }
                        attempts.fetch_add(company.deliver(&mut client, number), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let begun = Instant::now();
        for round in 0.. {
            if callers.iter().all(|caller| caller.is_finished()) || begun.elapsed() > Duration::from_secs(300) {
                break;
            }
            // The second set, then the first one is revoked: before, or a moment before, the company has the new one.
            let rotated = desk.json("rotate --domain acme.example");
            let new = issued(&rotated);
            let file = ["one", "two"][round % 2];
            if round % 3 != 2 {
                company.set(file, &new.password);
            }
            desk.json(&format!("revoke {live}"));
            company.set("one", &new.password);
            company.set("two", &new.password);
            (live, rotations) = (new.number, rotations + 1);
            if round % 3 == 1 {
                place.stop();
                std::thread::sleep(Duration::from_millis(700));
                place.resume();
                desk.daemon.wait_for_log("the store is there again");
                restarts += 1;
            }
            if let (Place::Sqlite(_), 2) = (&place, round % 3) {
                // Somebody's backup holds the file for itself.
                let locked = rusqlite::Connection::open(place.url().replace("sqlite:", "")).unwrap();
                locked.busy_timeout(Duration::from_secs(10)).unwrap();
                locked.execute_batch("BEGIN EXCLUSIVE").unwrap();
                std::thread::sleep(Duration::from_millis(700));
                locked.execute_batch("ROLLBACK").unwrap();
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    assert!(rotations >= 3 && restarts >= 1, "{rotations} rotations, {restarts} restarts");
    mta.postfix.wait_for_empty_queue();
    let mut copies: HashMap<String, usize> = HashMap::new();
    for message in mta.postfix.mailbox(SUPPORT).messages() {
        let text = String::from_utf8(message).unwrap();
        let subject = text.lines().find(|line| line.starts_with("Subject: ")).unwrap();
        *copies.entry(subject.to_owned()).or_default() += 1;
    }
    assert_eq!(copies.len(), MESSAGES);
    assert!(copies.values().all(|&count| count == 1), "a message went twice");
    let log = mta.postfix.log();
    assert!(!log.contains("status=bounced") && !log.contains("status=expired"), "{log}");
    println!("{} attempts for {MESSAGES} messages, {rotations} rotations, {restarts} restarts", attempts.into_inner());
}

#[test]
fn rotation_and_a_file_that_goes_and_comes_back_lose_and_bounce_none_of_two_thousand_messages() {
    none_of_two_thousand_messages_is_lost_or_bounced(Place::sqlite());
}

#[test]
fn rotation_and_a_postgresql_that_is_restarted_lose_and_bounce_none_of_two_thousand_messages() {
    none_of_two_thousand_messages_is_lost_or_bounced(Place::postgres());
}
