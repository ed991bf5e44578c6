//! Stores and daemons that go and come back, several at once.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{SaslReply, deskmilter, wait_within};

use crate::both::Place;
use crate::desk::{Desk, credential, issued};

const CLIENT: &str = "198.51.100.7";

#[test]
fn what_is_revoked_is_refused_within_a_second_on_two_daemons_that_share_a_postgresql() {
    let place = Place::postgres();
    let desks = [Desk::start(&place.url()), Desk::start(&place.url())];
    for round in 0..3 {
        let set = desks[0].issue("--domain acme.example");
        let mut clients = desks.each_ref().map(Desk::client);
        for client in &mut clients {
            assert_eq!(
                client.plain(&set.user, &set.password, CLIENT),
                SaslReply::Ok(set.user.clone()),
                "round {round}"
            );
        }
        desks[1].json(&format!("revoke {}", set.number));
        let revoked = Instant::now();
        for (n, client) in clients.iter_mut().enumerate() {
            // When it was accepted last; the refusal itself takes the time of two computations.
            let mut accepted = Duration::ZERO;
            loop {
                let asked = revoked.elapsed();
                match client.plain(&set.user, &set.password, &format!("192.0.2.{round}{n}")) {
                    SaslReply::Ok(_) => accepted = asked,
                    SaslReply::Fail(_) => break,
                    SaslReply::Closed => panic!("{}", desks[n].daemon.log()),
                }
                assert!(asked < Duration::from_secs(20), "never refused");
            }
            assert!(accepted < Duration::from_secs(1), "{n}: {accepted:?}");
            println!("round {round}: daemon {n} accepted it last {} ms after it was revoked", accepted.as_millis());
        }
    }
}

fn logins_outlive_the_store_for_a_minute_and_recover_with_it(mut place: Place) {
    let desk = Desk::start(&place.url());
    let (used, unused) = (desk.issue("--domain used.example"), desk.issue("--domain unused.example"));
    let ok = SaslReply::Ok(used.user.clone());
    let login = |set: &crate::desk::Issued| desk.client().plain(&set.user, &set.password, CLIENT);
    assert_eq!(login(&used), ok);
    let checked = Instant::now();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Load all the while; whatever happens it is never told that it is wrong.
        let load = scope.spawn(|| {
            let mut count = 0_u32;
            // Not for ever, lest a failure elsewhere in the test waits for it.
            while !stop.load(Ordering::Relaxed) && checked.elapsed() < Duration::from_secs(180) {
                let reply = login(&used);
                assert!(matches!(reply, SaslReply::Ok(_) | SaslReply::Closed), "{reply:?}");
                count += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            count
        });
        place.stop();
        desk.daemon.wait_for_log("the store is away");
        assert_eq!(login(&unused), SaslReply::Closed, "nobody can say");
        assert_eq!(login(&used), ok, "it was right a moment ago");
        let patience = Duration::from_secs(75);
        wait_within(patience, "an end of the cached login", || desk.daemon.log(), || login(&used) == SaslReply::Closed);
        let lasted = checked.elapsed();
        assert!(lasted < Duration::from_secs(70) && lasted > Duration::from_secs(50), "{lasted:?}");
        place.resume();
        for set in [&used, &unused] {
            let ok = SaslReply::Ok(set.user.clone());
            wait_within(Duration::from_secs(20), "a login", || desk.daemon.log(), || login(set) == ok);
        }
        desk.daemon.wait_for_log("the store is there again");
        stop.store(true, Ordering::Relaxed);
        assert!(load.join().unwrap() > 100);
    });
}

#[test]
fn a_file_that_is_gone_for_a_while_costs_nobody_a_login_for_good() {
    logins_outlive_the_store_for_a_minute_and_recover_with_it(Place::sqlite());
}

#[test]
fn a_postgresql_that_is_restarted_costs_nobody_a_login_for_good() {
    logins_outlive_the_store_for_a_minute_and_recover_with_it(Place::postgres());
}

#[test]
fn who_looks_into_a_store_that_was_moved_away_does_not_make_an_empty_one_for_the_daemon_to_find() {
    let mut place = Place::sqlite();
    let desk = Desk::start(&place.url());
    let (used, unused) = (desk.issue("--domain used.example"), desk.issue("--domain unused.example"));
    let login = |set: &crate::desk::Issued| desk.client().plain(&set.user, &set.password, CLIENT);
    assert_eq!(login(&used), SaslReply::Ok(used.user.clone()));
    place.stop();
    desk.daemon.wait_for_log("the store is away");
    for (words, code) in
        [("list", 0), ("list --all", 0), ("log", 0), ("rotate --domain used.example", 1), ("revoke 1", 75)]
    {
        let output = desk.run(words);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words}: {told}");
        assert!(output.stdout.is_empty() && told.contains("is not there: "), "{words}: {told}");
    }
    assert_eq!(desk.json("list"), serde_json::json!([]));
    // Disconnecting would leave in force what is in it.
    let mut command = Command::new(deskmilter());
    command.args(["disconnect", "used.example", "--apply", "--config-directory", "/nonexistent", "-c"]);
    let output = command.arg(desk.configuration()).output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(login(&used), SaslReply::Ok(used.user.clone()), "it was right a moment ago");
    assert_eq!(login(&unused), SaslReply::Closed, "nobody can say");
    place.resume();
    wait_within(
        Duration::from_secs(20),
        "a login",
        || desk.daemon.log(),
        || login(&unused) == SaslReply::Ok(unused.user.clone()),
    );
}

#[test]
fn a_command_that_is_killed_at_any_instant_has_issued_a_set_or_not() {
    let place = Place::sqlite();
    let mut desk = Desk::start(&place.url());
    let configuration = desk.configuration();
    let begun = Instant::now();
    let mut printed = vec![desk.issue("--domain first.example")];
    let whole = begun.elapsed();
    for n in 0..40_u32 {
        let domain = format!("d{n}.example");
        let mut child = Command::new(deskmilter())
            .args(["credential", "--json", "-c"])
            .arg(&configuration)
            .args(["issue", "--domain", &domain])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From its first instant to some time after its end.
        std::thread::sleep(whole * n / 30);
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        if let Ok(value) = serde_json::from_slice(&output.stdout) {
            printed.push(issued(&value));
        }
        // And the daemon too, now and then.
        if n % 10 == 5 {
            desk.daemon.kill();
            desk.daemon.resume();
        }
    }
    let path = place.url().replace("sqlite:", "");
    let connection = rusqlite::Connection::open(path).unwrap();
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    let sets = desk.json("list");
    let events = desk.json("log");
    assert_eq!(sets.as_array().unwrap().len(), events.as_array().unwrap().len(), "each set has its line in the trail");
    for set in &printed {
        let reply = desk.client().plain(&set.user, &set.password, CLIENT);
        assert_eq!(reply, SaslReply::Ok(set.user.clone()), "what was shown is good");
    }
    assert!(credential(&configuration, "issue --domain last.example").status.success());
}
