//! The authentication service and the tables, asked as an MTA asks them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use support::SaslReply;

use crate::both::Place;
use crate::desk::{Desk, issued};

const CLIENT: &str = "198.51.100.7";
const WRONG: &str = "FAIL\treason=invalid user name or password";

fn fail(reply: SaslReply) -> String {
    match reply {
        SaslReply::Fail(line) => line,
        other => panic!("{other:?}"),
    }
}

/// The words that the log has on the attempts, in order.
fn reasons(desk: &Desk) -> Vec<String> {
    let log = desk.daemon.log();
    let attempts = log.lines().filter(|line| line.contains("login refused"));
    attempts.filter_map(|line| Some(line.split_once("reason=")?.1.to_owned())).collect()
}

#[test]
fn a_set_logs_in_by_plain_and_login_and_what_is_wrong_is_told_to_the_log_alone() {
    let place = Place::sqlite();
    let desk = Desk::start(&place.url());
    let set = desk.issue("--domain acme.example --address support@acme.example");
    assert_eq!(set.user, "support@acme.example");
    let mut client = desk.client();
    let greeting: Vec<&str> = client.greeting().iter().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(greeting, ["VERSION", "MECH", "MECH", "SPID", "CUID", "COOKIE", "DONE"]);
    let ok = SaslReply::Ok(set.user.clone());
    assert_eq!(client.plain(&set.user, &set.password, CLIENT), ok);
    assert_eq!(client.login(&set.user, &set.password, CLIENT), ok);
    let log = desk.daemon.wait_for_log("cached=true");
    assert!(
        log.contains("login accepted login=support@acme.example mechanism=LOGIN client=198.51.100.7 credential=1"),
        "{log}"
    );
    assert!(desk.daemon.log().contains("cached=false"));

    desk.issue("--domain gone.example --user gone");
    desk.json("revoke --user gone");
    assert_eq!(fail(client.plain(&set.user, "wrong", "192.0.2.1")), WRONG);
    assert_eq!(fail(client.plain("nobody", &set.password, "192.0.2.2")), WRONG);
    assert_eq!(fail(client.login("gone", &set.password, "192.0.2.3")), WRONG);
    assert_eq!(fail(client.plain(&set.user, &set.password.to_uppercase(), "192.0.2.4")), WRONG);
    let clear = format!("PLAIN\tservice=smtp\trip={CLIENT}\tresp=AGFjbWUAczNjcmV0");
    assert_eq!(fail(client.auth(&clear)), "FAIL\treason=authentication needs TLS");
    assert_eq!(reasons(&desk), ["wrong-password", "unknown-user", "revoked", "wrong-password", "not-secured"]);
    assert!(!desk.daemon.log().contains("nobody"), "a name that is none may be a password");
}

#[test]
fn clients_who_hang_up_in_the_middle_of_a_login_keep_nobody_else_out() {
    let place = Place::sqlite();
    let desk = Desk::start(&place.url());
    let set = desk.issue("--domain acme.example");
    // Postfix keeps the connection for its next client, and does not say that the one before is gone.
    let mut client = desk.client();
    for id in 1_000..1_100 {
        client.write(&format!("AUTH\t{id}\tLOGIN\tservice=smtp\trip=192.0.2.66\tsecured\n"));
        assert_eq!(client.line(), Some(format!("CONT\t{id}\tVXNlcm5hbWU6")));
    }
    let ok = SaslReply::Ok(set.user.clone());
    assert_eq!(client.plain(&set.user, &set.password, CLIENT), ok);
    assert_eq!(client.login(&set.user, &set.password, CLIENT), ok);
}

#[test]
fn two_sets_overlap_while_a_password_is_changed_and_a_third_is_refused() {
    let place = Place::sqlite();
    let desk = Desk::start(&place.url());
    let old = desk.issue("--domain acme.example");
    let new = issued(&desk.json("rotate --domain acme.example"));
    assert_eq!((new.user.as_str(), old.user.as_str()), ("acme.example", "acme.example"));
    let mut client = desk.client();
    for set in [&old, &new] {
        assert_eq!(client.plain(&set.user, &set.password, CLIENT), SaslReply::Ok(set.user.clone()));
    }
    for words in ["rotate --domain acme.example", "issue --domain acme.example --user other"] {
        let output = desk.run(words);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("2 live sets"));
    }
    // It may have been cut off before anybody saw the new password: to revoke the old one would lock the company out.
    let told = String::from_utf8(desk.run("rotate --domain acme.example").stderr).unwrap();
    let begin_anew = format!("nobody has the password of {}, begin anew with: ", new.number);
    assert!(told.contains(&format!("credential={}, finish it with: ", new.number)), "{told}");
    assert!(told.contains(&begin_anew) && told.trim_end().ends_with(&format!("revoke {}", new.number)), "{told}");
    let refused = desk.run("issue --domain acme.example --address a@other.example");
    assert_eq!(refused.status.code(), Some(64));
    assert_eq!(desk.run("revoke 99").status.code(), Some(1));
    desk.json(&format!("revoke {}", old.number));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(fail(client.plain(&old.user, &old.password, CLIENT)), WRONG);
    assert_eq!(client.plain(&new.user, &new.password, CLIENT), SaslReply::Ok(new.user));
    let trail = desk.json("log");
    let whats: Vec<&str> = trail.as_array().unwrap().iter().map(|event| event["what"].as_str().unwrap()).collect();
    assert_eq!(whats, ["issued", "issued", "revoked"]);
    assert!(trail[0]["who"].as_str().unwrap().contains(" on "));
}

#[test]
fn a_set_is_issued_whoever_reads_what_is_remarked_and_not_where_nobody_can_read_the_password() {
    let place = Place::sqlite();
    let desk = Desk::start(&place.url());
    let issue = |domain: &str| {
        let mut command = std::process::Command::new(support::deskmilter());
        command.args(["credential", "issue", "--domain", domain, "-c"]).arg(desk.configuration());
        command
    };
    let (reader, nobody) = std::io::pipe().unwrap();
    drop(reader);
    let output = issue("one.example").stderr(nobody).output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    assert!(String::from_utf8_lossy(&output.stdout).contains("password:  "));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = issue("two.example").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(74), "{}", String::from_utf8_lossy(&output.stderr));
    let live = desk.json("list");
    assert_eq!(live.as_array().unwrap().len(), 1, "{live}");
}

#[test]
fn two_old_sets_of_one_binding_are_warned_of_in_list_and_log() {
    let place = Place::sqlite();
    let folder = support::folder("desk");
    let socket = folder.path().join("auth.sock");
    let mut desk = Desk::start_at(&place.url(), folder, socket, "");
    desk.issue("--domain acme.example");
    desk.json("rotate --domain acme.example");
    assert!(desk.run("list").stderr.is_empty());
    // As if they had been issued ten days ago.
    let path = place.url().replace("sqlite:", "");
    rusqlite::Connection::open(path)
        .unwrap()
        .execute("UPDATE credential SET issued_at = issued_at - 864000", [])
        .unwrap();
    let warning = String::from_utf8(desk.run("list").stderr).unwrap();
    assert!(warning.contains("acme.example has had two live sets since"), "{warning}");
    assert_eq!(desk.json("list")[0]["overlap_warning"], true);
    desk.daemon.stop();
    desk.daemon.resume();
    let told = desk.daemon.wait_for_log("two credential sets are live");
    assert!(told.contains("WARN") && told.contains("binding=acme.example days=10"), "{told}");
}

#[test]
fn who_guesses_waits_longer_each_time_and_nobody_else_does() {
    let place = Place::sqlite();
    let desk = Desk::start(&place.url());
    let set = desk.issue("--domain acme.example");
    let mut client = desk.client();
    let mut took = Vec::new();
    for n in 0..6 {
        let begun = Instant::now();
        assert_eq!(fail(client.plain(&set.user, &format!("guess {n}"), "192.0.2.66")), WRONG);
        took.push(begun.elapsed());
    }
    assert!(took[3] >= Duration::from_millis(450) && took[4] >= Duration::from_millis(950), "{took:?}");
    assert!(took[5] >= Duration::from_millis(1_900), "{took:?}");
    // Many at once from there get no further: those for whom the line is too long are not heard at all.
    let begun = Instant::now();
    let heard = std::thread::scope(|scope| {
        let guessers: Vec<_> = (0..10)
            .map(|n| {
                let (desk, set) = (&desk, &set);
                scope.spawn(move || desk.client().plain(&set.user, &format!("more {n}"), "192.0.2.66"))
            })
            .collect();
        // Meanwhile the owner logs in from elsewhere, at once.
        let elsewhere = Instant::now();
        assert_eq!(desk.client().plain(&set.user, &set.password, CLIENT), SaslReply::Ok(set.user.clone()));
        assert!(elsewhere.elapsed() < Duration::from_secs(2), "{:?}", elsewhere.elapsed());
        let replies = guessers.into_iter().map(|guesser| guesser.join().unwrap());
        replies.filter(|reply| *reply != SaslReply::Closed).count()
    });
    assert!(heard <= 2, "{heard}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn an_unknown_name_takes_as_long_as_a_wrong_password() {
    let place = Place::sqlite();
    let desk = Desk::start(&place.url());
    let set = desk.issue("--domain acme.example");
    let mut client = desk.client();
    let median = |client: &mut support::SaslClient, user: &str, first: usize| {
        let mut took: Vec<Duration> = (0..15)
            .map(|n| {
                let begun = Instant::now();
                // Each from another address, so that no delay is in it.
                assert_eq!(fail(client.plain(user, "wrong", &format!("10.0.{first}.{n}"))), WRONG);
                begun.elapsed()
            })
            .collect();
        took.sort();
        took[7].as_secs_f64()
    };
    let (known, unknown) = (median(&mut client, &set.user, 1), median(&mut client, "nobody", 2));
    let ratio = known / unknown;
    assert!((0.4..2.5).contains(&ratio), "{known} {unknown}");
}

#[test]
fn hundreds_of_logins_a_second_come_from_the_cache() {
    let place = Place::sqlite();
    let desk = Desk::start(&place.url());
    let set = desk.issue("--domain acme.example");
    let mut client = desk.client();
    let ok = SaslReply::Ok(set.user.clone());
    assert_eq!(client.plain(&set.user, &set.password, CLIENT), ok);
    let begun = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(client.plain(&set.user, &set.password, CLIENT), ok);
    }
    // 500 in a second are promised for two processors; this one shares them with other tests.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(desk.daemon.log().matches("cached=false").count(), 1);
}

#[test]
fn nonsense_closes_the_connection_and_long_lines_are_not_kept() {
    let place = Place::sqlite();
    let desk = Desk::start(&place.url());
    for wrong in ["GET / HTTP/1.1\n".to_owned(), "VERSION\t2\t0\n".to_owned(), "x".repeat(100_000)] {
        let mut stream = UnixStream::connect(desk.socket()).unwrap();
        let _ = stream.write_all(wrong.as_bytes());
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        // The greeting, and nothing more: closed, with or without what was not read.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 512, "{rest:?}");
    }
    desk.daemon.wait_for_log("a line that is too long");
}

fn ask(stream: &mut UnixStream, request: &str) -> String {
    write!(stream, "{}:{request},", request.len()).unwrap();
    let mut reply = Vec::new();
    let mut octet = [0];
    while reply.last() != Some(&b',') {
        stream.read_exact(&mut octet).unwrap();
        reply.push(octet[0]);
    }
    String::from_utf8(reply).unwrap().split_once(':').unwrap().1.trim_end_matches(',').to_owned()
}

#[test]
fn tables_tell_logins_and_transports_and_never_a_secret() {
    let mut place = Place::sqlite();
    let desk = Desk::start(&place.url());
    let set = desk.issue("--domain acme.example --address support@acme.example");
    let mut stream = UnixStream::connect(desk.lookup()).unwrap();
    assert_eq!(ask(&mut stream, "sender_login Support@acme.example"), "OK support@acme.example");
    for absent in
        ["sender_login a@b.example", "sender_login @acme.example", "sender_login x", "sender_transport a@b.example"]
    {
        assert_eq!(ask(&mut stream, absent), "NOTFOUND ", "{absent}");
    }
    for wrong in ["password support@acme.example", "sender_login"] {
        let reply = ask(&mut stream, wrong);
        assert!(reply.starts_with("PERM ") && !reply.contains(&set.password), "{reply}");
    }
    place.stop();
    assert!(ask(&mut stream, "sender_login support@acme.example").starts_with("TEMP "));
    place.resume();
    assert_eq!(ask(&mut stream, "sender_login support@acme.example"), "OK support@acme.example");
    stream.write_all(b"9999999:").unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn a_reload_opens_and_closes_the_service_and_keeps_what_it_knows() {
    let place = Place::sqlite();
    let mut desk = Desk::start(&place.url());
    let set = desk.issue("--domain acme.example");
    let ok = SaslReply::Ok(set.user.clone());
    let mut client = desk.client();
    assert_eq!(client.plain(&set.user, &set.password, CLIENT), ok);
    let original = std::fs::read_to_string(desk.configuration()).unwrap();
    let second = desk.socket().with_file_name("second.sock");
    let listen = format!("auth.sock\", \"unix:{}\"]", second.display());
    std::fs::write(desk.configuration(), original.replace("auth.sock\"]", &listen)).unwrap();
    desk.daemon.reload();
    desk.daemon.wait_for_log("configuration reloaded");
    let mut other = support::SaslClient::connect(&second);
    assert_eq!(other.plain(&set.user, &set.password, CLIENT), ok);
    assert_eq!(desk.daemon.log().matches("cached=true").count(), 1, "the cache outlived the reload");
    let place = Place::sqlite();
    let moved = original.split("[store]").next().unwrap().to_owned()
        + &format!("[store]\nurl = \"{}\"\n[auth]", place.url())
        + original.split("[auth]").nth(1).unwrap();
    std::fs::write(desk.configuration(), moved).unwrap();
    desk.daemon.reload();
    desk.daemon.wait_for_log("auth closed");
    support::wait_until(
        "another store",
        || desk.daemon.log(),
        || desk.daemon.log().matches("configuration reloaded").count() == 2,
    );
    assert_eq!(fail(client.plain(&set.user, &set.password, CLIENT)), WRONG, "another store knows nobody");
}
