//! A real Exim that has its logins checked here, by the authenticator that deskmilter ships for it.

use std::os::unix::fs::chown;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use support::{Client, EximSite, EximTerms, Message};

use crate::both::Place;
use crate::desk::{Desk, credential, issued};
use crate::sides::{judged, said};

#[test]
fn exim_takes_what_was_issued_over_tls_alone_and_puts_off_while_nobody_can_say() {
    let mut place = Place::sqlite();
    let mut desk = Desk::start(&place.url());
    let set = desk.issue("--domain customer.example");
    let user = nix::unistd::User::from_name("Debian-exim").unwrap().unwrap();
    // A postmaster sets socket_group.
    let let_in = |desk: &Desk| {
        let folder = desk.socket().parent().unwrap().to_owned();
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        chown(desk.socket(), Some(user.uid.as_raw()), None).unwrap();
    };
    let_in(&desk);
    // Exim lets a macro be given another value; the authenticator reads it below.
    let main = format!("DESKMILTER_AUTH == {}\n", desk.socket().display());
    let site = EximSite::start(EximTerms { main: main.leak(), ..EximTerms::default() });
    let login = |ip: &str, user: &str, password: &str| {
        let reply = site.connect_over_tls(&Client::new(ip, "mail.customer.example")).login(user, password);
        format!("{} {}", reply.code, reply.text)
    };
    let logs = |desk: &Desk| format!("{}\n{}", site.logs(), desk.daemon.log());

    let mut session = site.connect_over_tls(&Client::new("198.51.100.7", "mail.customer.example"));
    let reply = session.login(&set.user, &set.password);
    assert_eq!(reply.code, 235, "{reply}\n{}", logs(&desk));
    let message = Message::new("jane@customer.example", "jane@customer.example", "logged in").octets();
    assert_eq!(
        session.send("jane@customer.example", &["jane@customer.example"], &message).code,
        250,
        "{}",
        logs(&desk)
    );
    assert!(site.exim.log().contains("A=deskmilter_plain:customer.example"), "{}", site.exim.log());
    // Without an initial response, and wrong in several ways.
    let mut session = site.connect_over_tls(&Client::new("198.51.100.7", "mail.customer.example"));
    session.expect(334, "AUTH PLAIN");
    session.expect(235, &STANDARD.encode(format!("\0{}\0{}", set.user, set.password)));
    for (ip, user, password) in [
        ("192.0.2.1", set.user.as_str(), "wrong"),
        ("192.0.2.2", "nobody", set.password.as_str()),
        ("192.0.2.3", "", ""),
    ] {
        assert!(login(ip, user, password).starts_with("535 "), "{user}\n{}", logs(&desk));
    }
    assert!(desk.daemon.log().contains("client=192.0.2.1 reason=wrong-password"), "{}", desk.daemon.log());
    // In the clear it is not offered, and refused if it is tried.
    let mut clear = site.exim.connect(&Client::new("192.0.2.4", "mail.customer.example"));
    assert!(!matches!(clear.login(&set.user, &set.password).code, 235 | 334), "{}", logs(&desk));

    let other = desk.issue("--domain other.example");
    place.stop();
    assert!(login("192.0.2.5", &other.user, &other.password).starts_with("435 "), "{}", logs(&desk));
    assert!(login("198.51.100.7", &set.user, &set.password).starts_with("235 "), "it was right a moment ago");
    place.resume();
    desk.daemon.stop();
    assert!(login("192.0.2.6", &set.user, &set.password).starts_with("435 "), "{}", logs(&desk));
    desk.daemon.resume();
    let_in(&desk);
    assert!(login("192.0.2.6", &set.user, &set.password).starts_with("235 "), "{}", logs(&desk));
    desk.json(&format!("revoke {}", set.number));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(login("192.0.2.7", &set.user, &set.password).starts_with("535 "), "{}", logs(&desk));
}

#[test]
fn exim_asks_on_the_desk_side_too_which_way_mail_came() {
    let folder = support::folder("eximdesk");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (auth, store) = (at("auth"), format!("[store]\nurl = \"sqlite:{}\"\n", at("test.db")));
    let tables = format!("{store}[auth]\nlisten = [\"unix:{auth}\"]\nsocket_group = \"Debian-exim\"\n");
    let main = format!("DESKMILTER_AUTH == {auth}\n");
    let terms = support::Terms { tables: tables.leak(), ..support::Terms::default() };
    let site = EximSite::start(EximTerms { main: main.leak(), terms, ..EximTerms::default() });
    // The same store, which is all that the command needs to know.
    let configuration = folder.path().join("issue.toml");
    std::fs::write(
        &configuration,
        format!("[daemon]\nhostname = \"desk.example\"\nstate_directory = \"state\"\n{store}"),
    )
    .unwrap();
    let output = credential(&configuration, "--json issue --domain other.example");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let set = issued(&serde_json::from_slice(&output.stdout).unwrap());
    std::thread::sleep(std::time::Duration::from_secs(1));

    let to = "support@other.example";
    let message = || {
        let message = Message::new("Jane <jane@customer.example>", to, "Order").field("X-Zammad-Ticket-Owner", "admin");
        message.field("X-Deskmilter-Path-Auth", "pass; login=forged; reason=issued").octets()
    };
    let company = Client::new("203.0.113.25", "mx.other.example");
    let mut session = site.connect_over_tls(&company);
    assert_eq!(session.login(&set.user, &set.password).code, 235, "{}", site.logs());
    let reply = session.send("jane@customer.example", &[to], &message());
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
    let got = site.exim.wait_for_mail(to, 1).remove(0);
    let expected = "pass; login=other.example; reason=issued".to_owned();
    assert_eq!(judged(&got), (expected, vec!["system_authenticated_email_ticket".to_owned()]), "{}", site.logs());
    assert_eq!(said(&got, "X-Zammad-Ticket-Owner"), ["admin"]);

    let reply = site.exim.submit_as(
        &Client::new("198.51.100.66", "forwarder.example"),
        "jane@customer.example",
        &[to],
        &message(),
    );
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
    let got = site.exim.wait_for_mail(to, 2).remove(1);
    assert_eq!(judged(&got), ("none; login=-; reason=no-login".to_owned(), Vec::new()));
    assert!(said(&got, "X-Zammad-Ticket-Owner").is_empty());

    let reply = session.send("jane@customer.example", &["sales@acme.example"], &message());
    assert!(reply.code == 550 && reply.text.contains("login other.example was issued for other.example"), "{reply}");
}
