//! A real Postfix that has its logins checked here, in an smtpd service of its own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use support::{Client, Message, PrivatePostfix, Submission, TlsIdentity, free_port};

use crate::both::Place;
use crate::desk::Desk;

/// A Postfix with two submission services: one whose users Dovecot knows, and one for what was issued.
pub struct Mta {
    pub postfix: PrivatePostfix,
    employees: Submission,
    /// Where those log in to whom credentials were issued.
    pub address: std::net::SocketAddr,
    pub identity: TlsIdentity,
}

/// One whose service asks `socket` about logins, and calls itself `names`.
pub fn start(socket: &str, names: &[&str]) -> Mta {
    let mut postfix = PrivatePostfix::new(&["support@acme.example"], "", false);
    // The milter that the support crate adds by default is not there.
    let employees = Submission::add(&postfix, &["employee"], &["smtpd_milters=".to_owned()]);
    let (address, identity): (std::net::SocketAddr, _) =
        (([127, 0, 0, 1], free_port()).into(), TlsIdentity::for_names(names));
    let chain = postfix.configuration().join("desk.pem");
    identity.write_chain(&chain);
    let chain = chain.display();
    let mut service = format!("{address} inet n - n - - smtpd\n");
    for option in [
        "syslog_name=postfix/desk".to_owned(),
        format!("smtpd_tls_chain_files={chain}"),
        "smtpd_tls_security_level=encrypt".to_owned(),
        "smtpd_tls_auth_only=yes".to_owned(),
        "smtpd_sasl_auth_enable=yes".to_owned(),
        "smtpd_sasl_type=dovecot".to_owned(),
        format!("smtpd_sasl_path={socket}"),
        "smtpd_relay_restrictions=defer_unauth_destination".to_owned(),
        "smtpd_recipient_restrictions=permit_sasl_authenticated,reject".to_owned(),
    ] {
        service.push_str(&format!("  -o {{ {option} }}\n"));
    }
    postfix.add_service(&service);
    postfix.resume();
    Mta { postfix, employees, address, identity }
}

impl Mta {
    /// The daemon that it asks, with the store `url`.
    pub fn desk(&self, url: &str) -> Desk {
        let socket = self.postfix.socket_folder("deskmilter").join("auth");
        let desk = Desk::start_at(url, support::folder("desk"), socket.clone(), "");
        // Postfix's own user must get at it; a postmaster sets socket_group.
        let owner = nix::unistd::User::from_name("postfix").unwrap().map(|user| user.uid.as_raw());
        std::os::unix::fs::chown(&socket, owner, None).unwrap();
        desk
    }

    fn connect(&self, ip: &str) -> support::SmtpSession {
        let mut session = support::SmtpSession::connect_as(self.address, &Client::new(ip, "mail.acme.example"));
        session.start_tls(&self.identity);
        session
    }
}

#[test]
fn a_company_logs_in_at_postfix_with_what_was_issued_and_employees_as_before() {
    let mut place = Place::sqlite();
    let mta = start("deskmilter/auth", &["desk.example"]);
    let desk = mta.desk(&place.url());
    let set = desk.issue("--domain acme.example");

    let reply = mta.connect("198.51.100.7").login(&set.user, &set.password);
    assert_eq!(reply.code, 235, "{reply}\n{}\n{}", mta.postfix.log(), desk.daemon.log());
    let mut session = mta.connect("198.51.100.7");
    session.expect(334, "AUTH LOGIN");
    session.expect(334, &STANDARD.encode(&set.user));
    session.expect(235, &STANDARD.encode(&set.password));
    let message = Message::new("jane@customer.example", "support@acme.example", "logged in").octets();
    let reply = session.send("jane@customer.example", &["support@acme.example"], &message);
    assert_eq!(reply.code, 250, "{reply}");
    mta.postfix.wait_for_mail("support@acme.example", 1);
    assert!(mta.postfix.log().contains("sasl_username=acme.example"), "{}", mta.postfix.log());

    // A login opens no relay, and without one nothing is taken.
    session.expect(250, "MAIL FROM:<jane@customer.example>");
    session.expect(454, "RCPT TO:<somebody@elsewhere.example>");
    let mut nobody = mta.connect("192.0.2.7");
    nobody.expect(250, "MAIL FROM:<jane@customer.example>");
    nobody.expect(554, "RCPT TO:<support@acme.example>");

    assert_eq!(mta.connect("192.0.2.1").login(&set.user, "wrong").code, 535);
    assert_eq!(mta.connect("192.0.2.2").login("nobody", &set.password).code, 535);
    assert!(desk.daemon.log().contains("client=192.0.2.1 reason=wrong-password"), "{}", desk.daemon.log());
    // Without TLS Postfix does not even offer it.
    let mut plain = support::SmtpSession::connect_as(mta.address, &Client::new("192.0.2.3", "x.example"));
    assert!(!matches!(plain.command("AUTH PLAIN AGFjbWUAczNjcmV0").code, 235 | 334));
    // Those who logged in elsewhere before still do, and not here.
    mta.employees.login(&Client::new("192.0.2.4", "x.example"), "employee");
    assert_eq!(mta.connect("192.0.2.5").login("employee", mta.employees.password("employee")).code, 535);

    // A store that is away is a temporary failure to a client that we have not seen lately.
    let other = desk.issue("--domain other.example");
    assert_eq!(mta.connect("198.51.100.7").login(&set.user, &set.password).code, 235);
    place.stop();
    let reply = mta.connect("192.0.2.6").login(&other.user, &other.password);
    assert_eq!(reply.code, 454, "{reply}");
    assert_eq!(mta.connect("198.51.100.7").login(&set.user, &set.password).code, 235);
    place.resume();
    assert_eq!(mta.connect("192.0.2.6").login(&other.user, &other.password).code, 235);

    desk.json(&format!("revoke {}", set.number));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(mta.connect("198.51.100.7").login(&set.user, &set.password).code, 535);
}

#[test]
fn postfix_finds_the_login_of_a_sender_by_socketmap() {
    let place = Place::sqlite();
    let mta = start("deskmilter/auth", &["desk.example"]);
    let desk = Desk::start(&place.url());
    desk.issue("--domain acme.example --address support@acme.example");
    let query = |table: &str, key: &str| {
        let map = format!("socketmap:unix:{}:{table}", desk.lookup().display());
        let output = mta.postfix.command("postmap").args(["-q", key, &map]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    assert_eq!(query("sender_login", "support@acme.example"), "support@acme.example");
    assert_eq!(query("sender_login", "other@acme.example"), "");
    // What a stranger may say in MAIL FROM is nobody's address, and no trouble.
    assert_eq!(query("sender_login", &format!("{}@acme.example", "x".repeat(1_900))), "");
    assert!(!desk.daemon.log().contains("connection of the lookup service closed"), "{}", desk.daemon.log());
}
