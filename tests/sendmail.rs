//! The milter attached to a real Sendmail: the same judgement as with Postfix, in Sendmail's own conventions.

#![cfg(test)]

use support::{
    Daemon, Message, NameServer, PrivateSendmail, SandboxEndpoint, Signer, SmtpSession, Zone, free_address,
    received_as_sent,
};

const SUPPORT: &str = "support@acme.example";

struct Site {
    sendmail: PrivateSendmail,
    daemon: Daemon,
    signer: Signer,
    _names: NameServer,
    _folder: tempfile::TempDir,
}

/// Attached by its unix socket, or by TCP in Sendmail's spelling.
fn site(tcp: bool) -> Site {
    site_with(tcp, "mode = \"outbound-only\"\n", "")
}

/// The same with an endpoint that mail is relayed to inline: Sendmail has no transport map.
fn relaying(desk: &SandboxEndpoint) -> Site {
    let endpoint = format!(
        "[connector.endpoint]\nhost = \"localhost\"\nport = {}\nca_file = \"{}\"\nrelay = \"inline\"\n\
         credentials = [{{ username = \"acme.example\", password_file = \"{}\" }}]\n",
        desk.address().port(),
        desk.directory().join("ca.pem").display(),
        desk.password_file().display()
    );
    site_with(false, "", &endpoint)
}

fn site_with(tcp: bool, connector: &str, endpoint: &str) -> Site {
    // Sendmail takes no socket below a folder that everybody may write to, as /tmp is.
    let folder = tempfile::Builder::new().prefix("dm-sendmail-").tempdir_in("/run").unwrap();
    let signer = Signer::new("customer.example", "mail");
    let zone = Zone::new().txt("customer.example", "v=spf1 -all").txt("_dmarc.customer.example", "v=DMARC1; p=reject");
    let names = NameServer::start(&signer.publish(zone));
    let inet = free_address();
    let socket = folder.path().join("milter.sock");
    let configuration = folder.path().join("deskmilter.toml");
    let text = format!(
        "[daemon]\nhostname = \"mx.acme.example\"\nstate_directory = \"state\"\n\
         [milter]\nlisten = [\"local:{}\", \"inet:{}@{}\"]\nsocket_mode = \"0600\"\n\
         [authentication]\nauthserv_id = \"mx.acme.example\"\nname_servers = [\"{}\"]\n\
         [[connector]]\nname = \"acme\"\ndomain = \"acme.example\"\n{connector}addresses = [\"{SUPPORT}\"]\n{endpoint}",
        socket.display(),
        inet.port(),
        inet.ip(),
        names.address()
    );
    std::fs::write(&configuration, text).unwrap();
    let daemon = Daemon::start(&configuration, std::slice::from_ref(&socket));
    let attached =
        if tcp { format!("inet:{}@{}", inet.port(), inet.ip()) } else { format!("local:{}", socket.display()) };
    Site { sendmail: PrivateSendmail::start(Some(&attached)), daemon, signer, _names: names, _folder: folder }
}

#[test]
fn an_authentic_message_is_tagged_pass_and_its_signature_stays_whole() {
    for tcp in [false, true] {
        let site = site(tcp);
        let message = site.signer.sign(&Message::new("ann@customer.example", SUPPORT, "Order 4711").octets());
        let reply = site.sendmail.submit("ann@customer.example", &[SUPPORT], &message);
        assert_eq!(reply.code, 250, "{reply}\n{}\n{}", site.sendmail.log(), site.daemon.log());
        let queued = site.sendmail.queued();
        assert_eq!(queued.len(), 1);
        assert!(queued[0].contains("X-Deskmilter-Sender-Auth: pass; reason=dmarc; dmarc=pass;"), "{}", queued[0]);
        assert!(queued[0].contains("dkim=pass"), "{}", queued[0]);
        let place = |field: &str| queued[0].find(field).unwrap_or_else(|| panic!("no {field} in {}", queued[0]));
        assert!(place("Authentication-Results: mx.acme.example;") < place("Received: "), "{}", queued[0]);
    }
}

#[test]
fn forged_fields_do_not_survive_though_sendmail_counts_deleted_ones() {
    let site = site(false);
    let mut message = Message::new("ann@customer.example", SUPPORT, "Trust me");
    for n in 0..6 {
        let (ours, kept) = (
            format!("mx.acme.example; dmarc=pass header.from=forged{n}.example"),
            format!("mx.other.example; dmarc=pass header.from=kept{n}.example"),
        );
        message = message
            .field(["Authentication-Results", "authentication-results"][n % 2], &ours)
            .field("Authentication-Results", &kept);
        message = message.field("X-Deskmilter-Sender-Auth", &format!("pass; reason=forged{n}"));
    }
    let reply = site.sendmail.submit("x@stranger.example", &[SUPPORT], &message.octets());
    assert_eq!(reply.code, 250, "{reply}");
    let queued = &site.sendmail.queued()[0];
    assert!(!queued.contains("forged"), "{queued}");
    for n in 0..6 {
        assert!(queued.contains(&format!("kept{n}.example")), "{queued}");
    }
    assert!(queued.contains("X-Deskmilter-Sender-Auth: fail; reason=dmarc"), "{queued}");
}

#[test]
fn many_messages_of_one_connection_are_judged_each_and_others_are_left_alone() {
    let site = site(false);
    let mut session = SmtpSession::connect(site.sendmail.address());
    session.expect(250, "EHLO client.customer.example");
    for n in 0..5 {
        let to = if n % 2 == 0 { SUPPORT } else { "somebody@other.example" };
        let message = Message::new("ann@customer.example", to, &format!("message {n}")).octets();
        let reply = session.send("ann@customer.example", &[to], &message);
        assert_eq!(reply.code, 250, "{reply}");
        session.expect(250, "RSET");
    }
    let queued = site.sendmail.queued();
    assert_eq!(queued.len(), 5);
    for message in &queued {
        assert_eq!(message.contains("X-Deskmilter-"), message.contains(SUPPORT), "{message}");
    }
    assert_eq!(site.daemon.log().matches(": judged ").count(), 3, "{}", site.daemon.log());
}

#[test]
fn inline_the_endpoint_has_it_before_sendmail_says_so_and_nothing_is_queued() {
    let desk = SandboxEndpoint::start("acme.example", &[]);
    let site = relaying(&desk);
    let message = site.signer.sign(&Message::new("ann@customer.example", SUPPORT, "Order 4711").octets());
    let reply = site.sendmail.submit("ann@customer.example", &[SUPPORT], &message);
    assert_eq!(reply.code, 250, "{reply}\n{}\n{}", site.sendmail.log(), site.daemon.log());
    let tickets = desk.tickets();
    assert_eq!(tickets.len(), 1);
    assert!(received_as_sent(&tickets[0].messages()[0], &message));
    assert_eq!(site.sendmail.control_files(), [""; 0]);

    // Mail for people stays with Sendmail, and is not mixed with that for the ticket system.
    let mut session = SmtpSession::connect(site.sendmail.address());
    session.expect(250, "EHLO client.customer.example");
    for (first, other) in [(SUPPORT, "sales@acme.example"), ("sales@acme.example", SUPPORT)] {
        session.expect(250, "MAIL FROM:<ann@customer.example>");
        session.expect(250, &format!("RCPT TO:<{first}>"));
        let reply = session.expect(452, &format!("RCPT TO:<{other}>"));
        assert!(reply.text.starts_with("4.5.3 "), "{reply}");
        session.expect(354, "DATA");
        assert_eq!(session.data(&Message::new("ann@customer.example", first, "one of two").octets()).code, 250);
    }
    assert_eq!((desk.tickets().len(), site.sendmail.control_files().len()), (2, 1));
}

#[test]
fn inline_an_endpoint_that_is_down_or_refuses_is_told_to_the_client() {
    let mut desk = SandboxEndpoint::start("acme.example", &["--fault", "reject"]);
    let site = relaying(&desk);
    let message = Message::new("ann@customer.example", SUPPORT, "again and again").octets();
    let reply = site.sendmail.submit("ann@customer.example", &[SUPPORT], &message);
    assert!(reply.code / 100 == 5 && reply.text.contains("said:"), "{reply}");
    desk.stop();
    let reply = site.sendmail.submit("ann@customer.example", &[SUPPORT], &message);
    assert!(reply.code == 451 && reply.text.contains("4.4.1"), "{reply}");
    desk.restart_with(&[]);
    assert_eq!(site.sendmail.submit("ann@customer.example", &[SUPPORT], &message).code, 250);
    assert_eq!((desk.tickets().len(), site.sendmail.control_files().len()), (1, 0));
}
