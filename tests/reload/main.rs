//! A daemon that is given a new configuration, new keys and new passwords while mail flows.

#![cfg(test)]

mod restarts;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Daemon, Message, OutboundSite, PrivateKey, Site, SmtpSession, Terms, Ticket, fields, free_address};

const SUPPORT: &str = "support@acme.example";
const MESSAGES: usize = 500;
const RELOADS: usize = 50;
/// A little longer than the daemon takes to look at its files again.
const TWO_LOOKS: Duration = Duration::from_secs(11);

fn edit(site: &Site, change: impl FnOnce(String) -> String) {
    edit_file(&site.configuration(), change);
}

fn edit_file(path: &Path, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, change(text)).unwrap();
}

fn reload(site: &mut Site) -> String {
    reload_daemon(&mut site.daemon)
}

/// SIGHUP, and waits until the daemon has said what became of it.
fn reload_daemon(daemon: &mut Daemon) -> String {
    let ends = ["configuration reloaded", "configuration not reloaded"];
    let count = |log: &str| ends.iter().map(|end| log.matches(end).count()).sum::<usize>();
    let before = daemon.log();
    daemon.reload();
    let daemon = &*daemon;
    support::wait_until("the end of a reload", || daemon.log(), || count(&daemon.log()) > count(&before));
    daemon.log()[before.len()..].to_owned()
}

fn another_connector(site: &Site, name: &str) -> String {
    format!(
        r#"
[[connector]]
name = "{name}"
domain = "acme.example"
addresses = ["{name}@acme.example"]
[connector.endpoint]
host = "localhost"
port = {}
ca_file = "{}"
credentials = [{{ username = "acme.example", password_file = "{}" }}]
"#,
        site.desk.address().port(),
        site.desk.directory().join("ca.pem").display(),
        site.desk.password_file().display(),
    )
}

fn sockets(site: &Site) -> PathBuf {
    site.postfix.queue_directory().join("deskmilter")
}

fn submit(site: &Site, subject: &str) {
    let reply =
        site.postfix.submit("a@plain.example", &[SUPPORT], &Message::new("a@plain.example", SUPPORT, subject).octets());
    assert_eq!(reply.code, 250, "{reply}");
}

fn fact<'t>(ticket: &'t Ticket, name: &str) -> &'t str {
    ticket.facts[name].as_str().unwrap_or_else(|| panic!("{name} in {}", ticket.facts))
}

/// Somebody who speaks LMTP to a connector's socket.
struct Lmtp(BufReader<UnixStream>);

impl Lmtp {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Self(BufReader::new(stream));
        assert!(client.line().starts_with("220 "));
        client
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn say(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        loop {
            let line = self.line();
            text += &line;
            if line.as_bytes().get(3) != Some(&b'-') {
                return text;
            }
        }
    }
}

#[test]
fn five_hundred_messages_meet_fifty_reloads_and_arrive_once_each() {
    let mut site = Site::start();
    let original = std::fs::read_to_string(site.configuration()).unwrap();
    let others = format!("{original}{}", another_connector(&site, "other"));
    let address = site.postfix.address();
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for sender in 0..4 {
            let sent = &sent;
            scope.spawn(move || {
                let mut session = SmtpSession::connect(address);
                session.expect(250, "EHLO localhost");
                for n in (sender..MESSAGES).step_by(4) {
                    let message = Message::new("a@plain.example", SUPPORT, &format!("message {n}"));
                    let reply = session.send("a@plain.example", &[SUPPORT], &message.octets());
                    assert_eq!(reply.code, 250, "{reply}");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 0..RELOADS {
            // Spread over the run; each one is another configuration than the one before, with other pools.
            while sent.load(Ordering::Relaxed) < n * MESSAGES / RELOADS {
                std::thread::sleep(Duration::from_millis(5));
            }
            let text = if n % 2 == 0 { &others } else { &original };
            let connections = format!("[connector.endpoint]\nmax_connections = {}", 2 + n % 5);
            std::fs::write(site.configuration(), text.replace("[connector.endpoint]", &connections)).unwrap();
            let told = reload(&mut site);
            assert!(told.contains("configuration reloaded"), "{told}");
        }
    });
    let tickets = site.desk.wait_for_tickets(MESSAGES);
    site.postfix.wait_for_empty_queue();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for ticket in &tickets {
        *seen.entry(fact(ticket, "message_id")).or_default() += 1;
    }
    assert_eq!((seen.len(), site.desk.count_tickets()), (MESSAGES, MESSAGES), "each message once");
    let log = site.postfix.log();
    for trouble in ["status=deferred", "status=bounced", "connect to Milter", "warning: milter", "reject:"] {
        assert!(!log.contains(trouble), "{trouble}: {log}");
    }
    let log = site.daemon.log();
    assert_eq!(log.matches("configuration reloaded").count(), RELOADS);
    assert_eq!(
        (log.matches("judged decision=tagged").count(), log.matches("decision=relayed").count()),
        (MESSAGES, MESSAGES)
    );
    assert!(!log.contains("milter closed"), "an unchanged socket is never closed: {log}");
}

#[test]
fn a_wrong_configuration_changes_nothing_and_says_why() {
    let mut site = Site::start();
    let original = std::fs::read_to_string(site.configuration()).unwrap();
    let another = another_connector(&site, "other");
    let missing = original.replace("ca_file = \"", "ca_file = \"/nonexistent");
    for (wrong, expected) in [
        (original.replace("port = ", "prot = "), vec!["deskmilter.toml:", "connector.endpoint.prot", "did you mean"]),
        (
            format!("{original}{}", another.replace("port = ", "port = 0 # ").replace("\"other@", "\"other@x.")),
            vec!["connector.other.endpoint.port", "connector.other.addresses", "problems=2"],
        ),
        (format!("{missing}{another}"), vec!["connector.acme.endpoint", "/nonexistent", "ca_file"]),
        (String::new(), vec!["none of [milter], [transport]"]),
        ("[daemon\n".to_owned(), vec!["deskmilter.toml:1"]),
    ] {
        std::fs::write(site.configuration(), &wrong).unwrap();
        let told = reload(&mut site);
        assert!(told.contains("ERROR configuration not reloaded; the one before stays in force"), "{told}");
        for text in expected {
            assert!(told.contains(text), "{text}: {told}");
        }
    }
    assert!(!sockets(&site).join("transport/other.sock").exists());
    submit(&site, "as before");
    site.desk.wait_for_tickets(1);
    std::fs::write(site.configuration(), original).unwrap();
    assert!(reload(&mut site).contains("configuration reloaded connectors=1 unchanged=true"));
}

#[test]
fn sockets_come_and_go_with_what_needs_them_and_others_are_never_touched() {
    let mut site = Site::start();
    let original = std::fs::read_to_string(site.configuration()).unwrap();
    let inode = |name: &str| std::fs::metadata(sockets(&site).join(name)).unwrap().ino();
    let before = [inode("milter.sock"), inode("transport/acme.sock")];
    let (other, port) = (sockets(&site).join("transport/other.sock"), free_address());
    let text = original.replace("milter.sock\"]", &format!("milter.sock\", \"inet:{port}\"]"));
    std::fs::write(site.configuration(), format!("{text}{}", another_connector(&site, "other"))).unwrap();
    let told = reload(&mut site);
    assert!(told.contains("configuration reloaded connectors=2 added=other sections_changed=milter"), "{told}");
    assert_eq!(std::fs::metadata(&other).unwrap().mode() & 0o777, 0o660);
    assert!(std::net::TcpStream::connect(port).is_ok());
    let mut idle = Lmtp::connect(&other);
    let mut busy = Lmtp::connect(&other);
    busy.say("LHLO mx");
    busy.say("MAIL FROM:<a@plain.example>");
    assert!(busy.say("RCPT TO:<other@acme.example>").starts_with("250"));

    std::fs::write(site.configuration(), original).unwrap();
    let told = reload(&mut site);
    assert!(
        told.contains("removed=other") && told.contains("transport closed") && told.contains("milter closed"),
        "{told}"
    );
    assert!(!other.exists());
    assert!(idle.line().starts_with("421 4.3.2"));
    // What is under way goes on to its end.
    assert!(busy.say("DATA").starts_with("354"));
    assert!(busy.say("From: a@plain.example\r\nMessage-ID: <busy@plain.example>\r\n\r\nhello\r\n.").starts_with("250"));
    assert!(busy.line().starts_with("421 4.3.2"));
    assert_eq!(fact(&site.desk.wait_for_tickets(1)[0], "message_id"), "busy@plain.example");
    support::wait_until("a closed port", || site.daemon.log(), || std::net::TcpStream::connect(port).is_err());
    let inode = |name: &str| std::fs::metadata(sockets(&site).join(name)).unwrap().ino();
    assert_eq!([inode("milter.sock"), inode("transport/acme.sock")], before);
}

#[test]
fn a_socket_whose_folder_was_swept_away_is_made_anew_by_a_reload() {
    let mut site = Site::start();
    let socket = sockets(&site).join("transport/acme.sock");
    let mut open = Lmtp::connect(&socket);
    std::fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    let told = reload(&mut site);
    assert!(told.contains("transport listening") && told.contains("configuration reloaded"), "{told}");
    assert!(Lmtp::connect(&socket).say("LHLO mx").starts_with("250"));
    assert!(open.line().starts_with("421 4.3.2"));
    let told = reload(&mut site);
    assert!(!told.contains("listening"), "{told}");
    assert!(Lmtp::connect(&socket).say("LHLO mx").starts_with("250"));
}

#[test]
fn a_socket_that_cannot_be_opened_is_a_reason_to_change_nothing() {
    let mut site = Site::start();
    std::fs::write(sockets(&site).join("transport/second.sock"), "a file").unwrap();
    let more = format!("{}{}", another_connector(&site, "first"), another_connector(&site, "second"));
    edit(&site, |text| text + &more);
    let told = reload(&mut site);
    assert!(told.contains("second.sock") && told.contains("no socket") && told.contains("not reloaded"), "{told}");
    assert!(!sockets(&site).join("transport/first.sock").exists());
    assert_eq!(std::fs::read_to_string(sockets(&site).join("transport/second.sock")).unwrap(), "a file");
}

#[test]
fn a_socket_that_another_section_names_now_is_not_left_without_anybody_who_serves_it() {
    let mut site = Site::start();
    let original = std::fs::read_to_string(site.configuration()).unwrap();
    let port = free_address();
    std::fs::write(site.configuration(), format!("{original}\n[metrics]\nlisten = [\"inet:{port}\"]\n")).unwrap();
    assert!(reload(&mut site).contains("configuration reloaded"));
    std::fs::write(site.configuration(), format!("{original}\n[lookup]\nlisten = [\"inet:{port}\"]\n")).unwrap();
    let told = reload(&mut site);
    assert!(told.contains("not reloaded") && told.contains("is open for [metrics]"), "{told}");
    assert_eq!(support::http_get(port, "/health").0, 200);
}

#[test]
fn what_needs_a_restart_is_told_each_time_and_the_rest_counts() {
    let mut site = Site::start();
    edit(&site, |text| {
        let text = text.replace(
            "state_directory = \"state\"",
            "state_directory = \"elsewhere\"\nsite_key_file = \"state/site.key\"",
        );
        format!("[limits]\nmessage_size = \"123KiB\"\n[log]\nlevel = \"debug\"\n{text}")
    });
    for _ in 0..2 {
        let told = reload(&mut site);
        assert!(told.contains("WARN these settings count from the next start"), "{told}");
        assert!(told.contains("settings=daemon.state_directory,log"), "{told}");
    }
    let greeted = Lmtp::connect(&sockets(&site).join("transport/acme.sock")).say("LHLO mx");
    assert!(greeted.contains(&format!("SIZE {}", 123 << 10)), "{greeted}");
}

#[test]
fn a_password_that_the_endpoint_changed_is_picked_up_while_mail_flows() {
    let mut site = Site::start();
    submit(&site, "with the old password");
    site.desk.wait_for_tickets(1);
    // The endpoint issues new credentials and writes the password where deskmilter reads it.
    site.desk.stop();
    std::fs::remove_file(site.desk.directory().join("credentials.json")).unwrap();
    let old = std::fs::read_to_string(site.desk.password_file()).unwrap();
    std::fs::remove_file(site.desk.password_file()).unwrap();
    submit(&site, "while there is none");
    site.desk.resume();
    assert_ne!(std::fs::read_to_string(site.desk.password_file()).unwrap(), old);
    submit(&site, "with the new password");
    let tickets = site.desk.wait_for_tickets(3);
    site.postfix.wait_for_empty_queue();
    assert_eq!((tickets.len(), site.desk.count_tickets()), (3, 3));
    assert!(!site.postfix.log().contains("status=bounced"));
    let file = site.desk.password_file();
    site.daemon.wait_for_log(&format!("replaced files taken over files={}", file.display()));
}

#[test]
fn a_half_written_authority_is_told_once_and_the_one_before_stays_in_force() {
    let mut site = Site::start();
    let authority = site.desk.directory().join("ca.pem");
    let good = std::fs::read_to_string(&authority).unwrap();
    std::fs::write(&authority, &good[..good.len() / 2]).unwrap();
    site.daemon.wait_for_log("WARN a replaced file is not usable");
    submit(&site, "still trusted");
    site.desk.wait_for_tickets(1);
    std::thread::sleep(TWO_LOOKS);
    assert_eq!(site.daemon.log().matches("not usable").count(), 1, "{}", site.daemon.log());
    let told = reload(&mut site);
    assert!(told.contains("configuration not reloaded") && told.contains("ca.pem"), "{told}");
    std::fs::write(&authority, &good).unwrap();
    site.daemon.wait_for_log(&format!("replaced files taken over files={}", authority.display()));
    submit(&site, "trusted again");
    site.desk.wait_for_tickets(2);
}

#[test]
fn a_replaced_dkim_key_signs_without_a_signal_and_an_unusable_one_does_not() {
    let mut site = OutboundSite::start(&Terms::default());
    let signature = |site: &OutboundSite| {
        let delivered = site.deliver(&site.notification());
        let ours = fields(&delivered, "DKIM-Signature").into_iter();
        let mut ours = ours.map(|field| String::from_utf8_lossy(&field).into_owned());
        let ours = ours.find(|field| field.contains("desk2026")).unwrap_or_else(|| panic!("{}", site.logs()));
        ours.split_whitespace().collect::<String>()
    };
    assert!(signature(&site).contains("a=rsa-sha256"));
    let path = site.keys().join("desk2026.pem");
    // As a copy that is not complete yet.
    std::fs::write(&path, "-----BEGIN PRIVATE KEY-----\nMIIE").unwrap();
    site.daemon.wait_for_log("WARN a replaced file is not usable");
    assert!(signature(&site).contains("a=rsa-sha256"));
    // Whoever asks for a reload is not told that all is well with a key that the next start would stumble over.
    let told = reload_daemon(&mut site.daemon);
    assert!(told.contains("configuration not reloaded") && told.contains("desk2026.pem"), "{told}");
    assert!(signature(&site).contains("a=rsa-sha256"));
    PrivateKey::ed25519().write(&path);
    site.daemon.wait_for_log(&format!("replaced files taken over files={}", path.display()));
    assert!(signature(&site).contains("a=ed25519-sha256"));
}

#[test]
fn a_second_site_key_takes_the_first_place_while_verdicts_of_the_old_one_wait_in_the_queue() {
    let mut site = Site::start();
    site.desk.stop();
    let message = site.signer.sign(&Message::new("Jane <jane@customer.example>", SUPPORT, "Order 4711").octets());
    site.postfix.submit_as(&Site::customer(), "jane@customer.example", &[SUPPORT], &message);
    site.postfix
        .wait_for("a deferred message", |postfix| postfix.queue().iter().any(|queued| queued.queue == "deferred"));
    let path = site.configuration().with_file_name("state").join("site.key");
    let old = std::fs::read_to_string(&path).unwrap();
    let new = "bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldyE\n";
    let aside = path.with_extension("new");
    std::fs::write(&aside, format!("{new}{old}")).unwrap();
    std::fs::set_permissions(&aside, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    site.daemon.wait_for_log(&format!("replaced files taken over files={}", path.display()));
    site.desk.resume();
    site.postfix.flush();
    assert_eq!(fact(&site.desk.wait_for_tickets(1)[0], "sender_auth"), "pass");
    // And what the new one seals is opened too, also after the old one has gone, which SIGHUP tells as well.
    std::fs::write(&path, new).unwrap();
    reload(&mut site);
    site.postfix.submit_as(&Site::customer(), "jane@customer.example", &[SUPPORT], &message);
    assert_eq!(fact(&site.desk.wait_for_tickets(2)[1], "sender_auth"), "pass");
}

#[test]
fn hundreds_of_connectors_that_stay_cost_a_reload_little() {
    let mut site = Site::start();
    let more: String = (0..300).map(|n| another_connector(&site, &format!("c{n}"))).collect();
    edit(&site, |text| format!("[limits]\naddresses_per_domain = 1000\n{text}{more}"));
    let told = reload(&mut site);
    assert!(told.contains("added=\"c0,c1,c2,c3,c4,c5,c6,c7,c8,c9 and 290 more\""), "{told}");
    let begun = Instant::now();
    let told = reload(&mut site);
    assert!(told.contains("connectors=301 unchanged=true"), "{told}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn without_root_a_reload_opens_what_it_may_and_says_what_needs_a_restart() {
    let folder = support::folder("unprivileged");
    let (ours, roots) = (folder.path().join("run"), folder.path().join("root"));
    std::fs::create_dir(&roots).unwrap();
    let configuration = folder.path().join("deskmilter.toml");
    let write = |sockets: &[&Path]| {
        let listen: Vec<String> = sockets.iter().map(|path| format!("\"unix:{}\"", path.display())).collect();
        let text = format!(
            "[daemon]\nhostname = \"mx.acme.example\"\nstate_directory = \"state\"\nuser = \"nobody\"\n\
             [milter]\nlisten = [{}]\n",
            listen.join(", ")
        );
        std::fs::write(&configuration, text).unwrap();
    };
    let [first, second, third] = [ours.join("first.sock"), ours.join("second.sock"), roots.join("third.sock")];
    write(&[&first]);
    let mut daemon = Daemon::start(&configuration, std::slice::from_ref(&first));
    write(&[&first, &second]);
    assert!(reload_daemon(&mut daemon).contains("configuration reloaded"));
    assert!(UnixStream::connect(&second).is_ok());
    write(&[&first, &third]);
    let told = reload_daemon(&mut daemon);
    assert!(told.contains("third.sock: Permission denied") && told.contains("restart"), "{told}");
    assert!(UnixStream::connect(&second).is_ok() && UnixStream::connect(&first).is_ok());
    assert!(daemon.stop().success());
    assert!(!first.exists() && !second.exists());
}
