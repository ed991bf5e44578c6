//! The store, on both real ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deskmilter::config::{PostgresServer, SecretFile, StoreConfig, StoreUrl};
use deskmilter::credential::{Binding, UserName};
use deskmilter::mail::{Address, Domain};
use deskmilter::store::{NewCredential, Remembered, Store, StoreError, Which, now};
use support::PrivatePostgres;

use crate::both::Place;

fn domain(name: &str) -> Binding {
    Binding::Domain(Domain::parse(name).unwrap())
}

fn address(text: &str) -> Binding {
    Binding::Address(Address::parse(text).unwrap())
}

fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

fn new(binding: Binding, name: &str) -> NewCredential {
    NewCredential { binding, user: user(name), hash: format!("hash of {name}") }
}

fn open(place: &Place) -> Store {
    Store::new(&place.config()).unwrap()
}

async fn a_set_lives_from_issue_to_revocation_and_the_trail_tells_all(place: &Place) {
    let store = open(place);
    let before = store.revision().await.unwrap();
    let first = store.issue(new(domain("acme.example"), "acme.example"), "jane on mx").await.unwrap();
    let second = store.issue(new(domain("acme.example"), "acme.example"), "jane on mx").await.unwrap();
    let third = store.issue(new(address("support@acme.example"), "support"), "joe on mx").await.unwrap();
    assert_ne!(store.revision().await.unwrap(), before);
    // A second process sees the same.
    let other = open(place);
    assert_eq!(other.list(false).await.unwrap(), [first.clone(), second.clone(), third.clone()]);
    let sets = other.sets_of("acme.example").await.unwrap();
    assert_eq!(sets.iter().map(|(set, _)| set.id).collect::<Vec<_>>(), [second.id, first.id], "the youngest first");
    assert_eq!(sets[0].1, "hash of acme.example");
    assert!(other.sets_of("ACME.example").await.unwrap().is_empty());

    let full = store.issue(new(domain("acme.example"), "another"), "jane").await.unwrap_err();
    assert!(matches!(&full, StoreError::Refused(why) if why.contains("2 live sets")), "{full}");
    let taken = store.issue(new(domain("other.example"), "support"), "jane").await.unwrap_err();
    assert!(matches!(&taken, StoreError::Refused(why) if why.contains("belongs to support@acme.example")), "{taken}");

    let revoked = store.revoke(Which::Id(first.id), "joe on mx").await.unwrap();
    assert_eq!(revoked.iter().map(|set| set.id).collect::<Vec<_>>(), [first.id]);
    assert!(revoked[0].revoked_at.is_some());
    assert!(store.revoke(Which::Id(first.id), "joe").await.unwrap().is_empty(), "once is enough");
    assert!(store.revoke(Which::Binding(domain("nobody.example")), "joe").await.unwrap().is_empty());
    assert_eq!(other.list(false).await.unwrap().len(), 2);
    assert_eq!(other.list(true).await.unwrap().len(), 3);
    // The domain's sets are not those of its addresses.
    assert_eq!(store.revoke(Which::Binding(domain("acme.example")), "joe").await.unwrap().len(), 1);
    assert_eq!(store.revoke(Which::User(user("support")), "joe").await.unwrap().len(), 1);
    // What a revoked set was called is free for another.
    store.issue(new(domain("other.example"), "support"), "jane").await.unwrap();
    let sets = store.sets_of("acme.example").await.unwrap();
    assert!(!sets.is_empty() && sets.iter().all(|(set, _)| set.revoked_at.is_some()), "known, and none lives");

    let events = other.events(100).await.unwrap();
    let told: Vec<String> =
        events.iter().map(|event| format!("{} {} {} {}", event.what, event.binding, event.user, event.who)).collect();
    assert_eq!(
        told,
        [
            "issued acme.example acme.example jane on mx",
            "issued acme.example acme.example jane on mx",
            "issued support@acme.example support joe on mx",
            "revoked acme.example acme.example joe on mx",
            "revoked acme.example acme.example joe",
            "revoked support@acme.example support joe",
            "issued other.example support jane",
        ]
    );
    assert_eq!(other.events(2).await.unwrap(), events[5..]);
}

async fn of_many_who_issue_at_once_two_succeed(place: &Place) {
    let place = Arc::new(place.config());
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let place = Arc::clone(&place);
            tokio::spawn(async move {
                let store = Store::new(&place).unwrap();
                store.issue(new(domain("busy.example"), &format!("busy{n}")), "jane").await
            })
        })
        .collect();
    let mut issued = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => issued += 1,
            Err(error) => assert!(matches!(error, StoreError::Refused(_)), "{error}"),
        }
    }
    assert_eq!(issued, 2);
}

async fn logins_of_an_address_are_its_own_and_those_of_its_domain(place: &Place) {
    let store = open(place);
    for (binding, name) in [
        (domain("shop.example"), "shop.example"),
        (address("help@shop.example"), "help"),
        (address("sales@shop.example"), "sales"),
    ] {
        store.issue(new(binding, name), "jane").await.unwrap();
    }
    let logins = async |text: &str| {
        let logins = store.logins_for(&Address::parse(text).unwrap()).await.unwrap();
        logins.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    assert_eq!(logins("Help@shop.example").await, "help,shop.example");
    assert_eq!(logins("billing@shop.example").await, "shop.example");
    assert_eq!(logins("help@elsewhere.example").await, "");
    store.revoke(Which::User(user("shop.example")), "jane").await.unwrap();
    assert_eq!(logins("help@shop.example").await, "help");
}

async fn a_store_that_goes_is_told_within_seconds_and_used_again_when_it_is_back(place: &mut Place) {
    let store = open(place);
    let set = store.issue(new(domain("lasting.example"), "lasting"), "jane").await.unwrap();
    place.stop();
    let begun = Instant::now();
    for _ in 0..3 {
        let error = store.list(false).await.unwrap_err();
        assert!(matches!(error, StoreError::Away(_)), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    place.resume();
    let mut sets = store.list(false).await;
    while sets.is_err() && begun.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        sets = store.list(false).await;
    }
    assert!(sets.unwrap().contains(&set));
}

async fn conversations_are_found_until_they_are_forgotten_and_stay_what_they_were(place: &Place) {
    let store = open(place);
    let message = |key: &str, thread: &str, authenticated| Remembered {
        key: key.to_owned(),
        thread: thread.to_owned(),
        authenticated,
    };
    let keys = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>();
    let (first, answer, other) = (message("a", "a", true), message("b", "a", true), message("x", "x", false));
    store.remember(vec![first.clone(), answer.clone()]).await.unwrap();
    store.remember(vec![other.clone()]).await.unwrap();
    // Once more, as another's: it stays where it was.
    store.remember(vec![message("x", "a", true)]).await.unwrap();
    let second = open(place);
    let mut found = second.conversations(keys(&["a", "b", "x", "unknown"]), now() - 60).await.unwrap();
    found.sort_by(|one, other| one.key.cmp(&other.key));
    assert_eq!(found, [first.clone(), answer, other]);
    assert!(second.conversations(keys(&["a"]), now() + 60).await.unwrap().is_empty(), "seen too long ago");
    assert!(second.conversations(Vec::new(), 0).await.unwrap().is_empty());

    // A conversation of thousands keeps a thousand, and others lose nothing by it.
    for hundred in 0..11 {
        let messages = (0..100).map(|n| message(&format!("m{hundred:02}{n:02}"), "long", true)).collect();
        store.remember(messages).await.unwrap();
    }
    let all = (0..11).flat_map(|hundred| (0..100).map(move |n| format!("m{hundred:02}{n:02}"))).collect();
    assert_eq!(store.conversations(all, 0).await.unwrap().len(), 1_000);
    assert_eq!(store.conversations(keys(&["a"]), 0).await.unwrap(), [first]);

    assert_eq!(store.forget_conversations(now() - 60, 2_000).await.unwrap(), 0);
    assert_eq!(store.forget_conversations(now() - 60, 10).await.unwrap(), 993, "all but the last ten");
    assert_eq!(store.forget_conversations(now() + 60, 10).await.unwrap(), 10, "all of them are too old by then");
}

async fn everything(mut place: Place) {
    a_set_lives_from_issue_to_revocation_and_the_trail_tells_all(&place).await;
    of_many_who_issue_at_once_two_succeed(&place).await;
    logins_of_an_address_are_its_own_and_those_of_its_domain(&place).await;
    conversations_are_found_until_they_are_forgotten_and_stay_what_they_were(&place).await;
    a_store_that_goes_is_told_within_seconds_and_used_again_when_it_is_back(&mut place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_sqlite_keeps_sets_and_their_trail() {
    everything(Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_keeps_sets_and_their_trail() {
    everything(Place::postgres()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_does_not_wait_for_those_who_want_to_write_while_somebody_else_does() {
    let place = Place::sqlite();
    let store = Arc::new(open(&place));
    let set = store.issue(new(domain("acme.example"), "acme"), "jane").await.unwrap();
    // Somebody at the prompt of sqlite3.
    let other = rusqlite::Connection::open(place.url().replace("sqlite:", "")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let writers: Vec<_> = (0..8)
        .map(|n| {
            let store = Arc::clone(&store);
            let message = Remembered { key: format!("{n}"), thread: "t".to_owned(), authenticated: true };
            tokio::spawn(async move { store.remember(vec![message]).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(store.list(false).await.unwrap(), std::slice::from_ref(&set));
        assert!(asked.elapsed() < Duration::from_millis(1_500), "{:?}", asked.elapsed());
    }
    for writer in writers {
        let error = writer.await.unwrap().unwrap_err();
        assert!(matches!(&error, StoreError::Away(why) if why.contains("locked")), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(6), "all are told within seconds: {:?}", begun.elapsed());
    // One that is done in time is waited for.
    let waiting = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.issue(new(domain("acme.example"), "acme"), "jane").await })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    other.execute_batch("COMMIT").unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_is_prepared_under_a_name_that_a_pooler_of_transactions_would_not_know() {
    let server = PrivatePostgres::start();
    let url = format!("{}&options=-c%20log_statement%3Dall", server.url());
    let url = StoreUrl::Postgres(PostgresServer::parse(&url).unwrap());
    let store = Store::new(&StoreConfig { url, password_file: None, ca_file: None }).unwrap();
    let set = store.issue(new(domain("acme.example"), "acme"), "jane").await.unwrap();
    let message = Remembered { key: "k".to_owned(), thread: "t".to_owned(), authenticated: true };
    store.remember(vec![message]).await.unwrap();
    assert_eq!(store.conversations(vec!["k".to_owned()], 0).await.unwrap().len(), 1);
    assert_eq!(store.sets_of("acme").await.unwrap().len(), 1);
    store.revision().await.unwrap();
    store.events(10).await.unwrap();
    store.forget_conversations(0, 10).await.unwrap();
    store.revoke(Which::Id(set.id), "jane").await.unwrap();
    let log = server.log();
    let executed: Vec<&str> = log.lines().filter(|line| line.contains("execute ")).collect();
    assert!(executed.len() > 10, "{log}");
    assert!(executed.iter().all(|line| line.contains("execute <unnamed>: ")), "{executed:#?}");
}

/// A file system of its own, which is small. Gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Self {
        let folder = support::folder("small");
        let mut mount = std::process::Command::new("mount");
        assert!(mount.args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(folder.path()).status().unwrap().success());
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_nothing_is_kept_and_those_who_only_read_are_answered() {
    let small = Small::mount();
    let url = StoreUrl::Sqlite(small.0.path().join("test.db"));
    let store = Store::new(&StoreConfig { url, password_file: None, ca_file: None }).unwrap();
    let set = store.issue(new(domain("acme.example"), "acme"), "jane").await.unwrap();
    let filler = small.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 512]).is_ok() {}
    drop(file);
    let messages = || {
        let message = |n: u32| Remembered { key: format!("key {n}"), thread: "t".to_owned(), authenticated: true };
        (0..500).map(message).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        let error = store.remember(messages()).await.unwrap_err();
        assert!(matches!(&error, StoreError::Away(why) if why.contains("full")), "{error}");
        assert_eq!(store.list(false).await.unwrap(), std::slice::from_ref(&set));
        assert_eq!(store.sets_of("acme").await.unwrap().len(), 1);
    }
    std::fs::remove_file(&filler).unwrap();
    store.remember(messages()).await.unwrap();
    assert_eq!(store.conversations(vec!["key 7".to_owned()], 0).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_newer_version_and_a_file_that_others_can_read_are_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::sqlite();
    open(&place).list(false).await.unwrap();
    let StoreUrl::Sqlite(path) = place.config().url else { panic!() };
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(open(&place).list(false).await.unwrap_err().to_string().contains("chmod 0600"));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(open(&place).list(false).await.unwrap_err().to_string().contains("newer deskmilter"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_an_older_version_are_brought_up_to_date_with_all_that_is_in_them() {
    let place = Place::sqlite();
    let set = open(&place).issue(new(domain("acme.example"), "acme"), "jane").await.unwrap();
    let StoreUrl::Sqlite(path) = place.config().url else { panic!() };
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("DROP TABLE conversation; PRAGMA user_version = 1;")
        .unwrap();
    let store = open(&place);
    assert_eq!(store.list(false).await.unwrap(), [set]);
    assert!(store.conversations(vec!["a".to_owned()], 0).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_postgresqls_the_second_is_found_while_the_first_answers_nothing_at_all() {
    use std::os::unix::fs::PermissionsExt;
    let (server, folder) = (PrivatePostgres::start(), support::folder("two"));
    // As a host that lost its power: what is sent to it gets no answer, not even a refusal.
    let gone = tokio::net::TcpSocket::new_v4().unwrap();
    gone.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let gone = gone.listen(1).unwrap();
    let address = gone.local_addr().unwrap();
    let silence = Duration::from_millis(500);
    let waiting: Vec<_> =
        std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&address, silence).ok()).take(50).collect();
    assert!(waiting.len() < 50, "its queue is full");
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let url = server.tls_url().replace("@", &format!("@{address},"));
    let config = StoreConfig {
        url: StoreUrl::Postgres(PostgresServer::parse(&url).unwrap()),
        password_file: Some(SecretFile::new(write("password", PrivatePostgres::PASSWORD))),
        ca_file: Some(write("ca.pem", server.identity().authority())),
    };
    let begun = Instant::now();
    Store::new(&config).unwrap().list(false).await.unwrap();
    assert!(begun.elapsed() >= silence, "the first one was tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_over_tcp_is_used_with_a_verified_certificate_and_a_password_from_a_file_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (server, folder) = (PrivatePostgres::start(), support::folder("tls"));
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let config = |n: u8, url: &str, password: &str, authority: &str| StoreConfig {
        url: StoreUrl::Postgres(PostgresServer::parse(url).unwrap()),
        password_file: Some(SecretFile::new(write(&format!("password{n}"), password))),
        ca_file: Some(write(&format!("ca{n}.pem"), authority)),
    };
    let url = server.tls_url();
    let right = config(0, &url, PrivatePostgres::PASSWORD, server.identity().authority());
    Store::new(&right).unwrap().list(false).await.unwrap();
    let stranger = support::TlsIdentity::new("localhost");
    let by_address = url.replace("localhost", "127.0.0.1");
    for (config, expected) in [
        (config(1, &url, PrivatePostgres::PASSWORD, stranger.authority()), "certificate"),
        (config(2, &by_address, PrivatePostgres::PASSWORD, server.identity().authority()), "certificate"),
        (config(3, &url, "wrong", server.identity().authority()), "password authentication failed"),
    ] {
        let error = Store::new(&config).unwrap().list(false).await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains(PrivatePostgres::PASSWORD), "{expected}: {error}");
    }
}
