//! Notifications, beside the OpenDKIM that signs them today.

use std::net::SocketAddr;

use support::{
    Client, Message, NameServer, OutboundSite, PrivateKey, Process, Terms, fields, folder, free_address,
    received_as_sent,
};
use tempfile::TempDir;

use super::{SUPPORT, line_of, observing, report};

/// A private OpenDKIM that signs acme.example with `mail2026` and verifies all else. Ends when dropped.
struct OpenDkim {
    process: Process,
    _folder: TempDir,
}

impl OpenDkim {
    fn start(address: SocketAddr, names: &NameServer) -> Self {
        let folder = folder("opendkim");
        let key = folder.path().join("mail2026.pem");
        PrivateKey::rsa().write(&key);
        let configuration = folder.path().join("opendkim.conf");
        let text = format!(
            "Mode sv\nDomain acme.example\nSelector mail2026\nKeyFile {}\nRequireSafeKeys no\nCanonicalization relaxed/relaxed\n\
             Socket inet:{}@{}\nAuthservID mx.acme.example\nBackground no\nSyslog no\nNameservers {}@{}\n",
            key.display(),
            address.port(),
            address.ip(),
            names.address().ip(),
            names.address().port(),
        );
        std::fs::write(&configuration, text).unwrap();
        let mut command = std::process::Command::new("/usr/sbin/opendkim");
        command.arg("-f").arg("-x").arg(&configuration);
        let mut process = Process::start("opendkim", &mut command, &folder.path().join("log"));
        process.wait_until("an open port", || std::net::TcpStream::connect(address).is_ok());
        Self { process, _folder: folder }
    }
}

/// OpenDKIM first, then us; for what the ticket system submits and for what comes from the world.
fn site() -> (OutboundSite, OpenDkim) {
    let address = free_address();
    let milters = format!("{{ inet:{address} }}, {{ unix:deskmilter/milter.sock, default_action=tempfail }}");
    let service: &'static str = format!("smtpd_milters={milters}").leak();
    let main_cf: &'static str = format!("smtpd_milters = {milters}\n").leak();
    let service: &'static [&'static str] = vec![service].leak();
    let prepared = OutboundSite::prepare(&Terms { service, main_cf, ..Terms::default() });
    let text = std::fs::read_to_string(&prepared.configuration).unwrap();
    std::fs::write(&prepared.configuration, observing(&text)).unwrap();
    let site = prepared.start();
    let opendkim = OpenDkim::start(address, &site.names);
    (site, opendkim)
}

#[test]
fn beside_opendkim_its_signature_alone_leaves_nothing_is_refused_and_the_report_compares() {
    let (site, opendkim) = site();
    let sent = support::notification();
    let delivered = site.deliver(&sent.octets());
    let shown = String::from_utf8_lossy(&delivered);
    assert!(received_as_sent(&delivered, &sent.octets()), "{shown}");
    let signatures = fields(&delivered, "DKIM-Signature");
    assert!(signatures.len() == 1 && shown.contains("s=mail2026;"), "{shown}\n{}", opendkim.process.log());
    assert!(!shown.contains("Deskmilter"), "{shown}");
    let line = line_of(&site.daemon.log(), &sent);
    let expected = "decision=signed observed=yes connector=\"\" notification=acme";
    assert!(line.contains(expected) && line.contains("signed=desk2026/acme.example"), "{line}");
    assert!(line.contains("signed_by=mail2026/acme.example"), "{line}");

    // What a connector that acts would refuse.
    let wrong = support::notification().set("From", "Boss <boss@acme.example>");
    let received = site.deliver(&wrong.octets());
    assert!(received_as_sent(&received, &wrong.octets()), "{}", String::from_utf8_lossy(&received));
    let line = line_of(&site.daemon.log(), &wrong);
    assert!(line.contains("decision=refused observed=yes") && line.contains("550 5.7.1"), "{line}");
    // What it would put right.
    let bare = support::notification().set("Auto-Submitted", "no");
    assert!(received_as_sent(&site.deliver(&bare.octets()), &bare.octets()));
    let told = site.daemon.log();
    let told = told.lines().find(|line| line.contains("preserved fields")).unwrap_or_else(|| panic!("{told}"));
    assert!(told.contains("observed=yes"), "{told}");

    // Mail from the world: OpenDKIM's result and ours.
    let people = "sales@acme.example";
    let inbound = Message::new("support@acme.example", people, "Signed by Zendesk");
    let world = Client::new("198.51.100.66", "forwarder.example");
    let octets = site.zendesk.sign(&inbound.octets());
    let reply = site.postfix.submit_as(&world, SUPPORT, &[people], &octets);
    assert_eq!(reply.code, 250, "{reply}");
    let received = site.postfix.wait_for_mail(people, 1).remove(0);
    assert!(received_as_sent(&received, &octets), "{}", String::from_utf8_lossy(&received));
    let line = line_of(&site.daemon.log(), &inbound);
    assert!(line.contains("dkim=pass") && line.contains("local_results=\"dkim=pass"), "{line}");

    let (text, told) = report(site.daemon.log_file());
    let acme = &told["connectors"]["acme"];
    assert_eq!(acme["judged"]["messages"], 3, "{text}");
    assert_eq!(acme["signed"]["desk2026/acme.example"]["messages"], 2, "{text}");
    assert_eq!(acme["signed_by_others"]["mail2026/acme.example"]["messages"], 3, "{text}");
    let others = &told["connectors"]["others at acme.example"];
    assert_eq!(others["dkim"]["pass, here pass"]["messages"], 1, "{text}");
    assert_eq!(acme["refused"].as_object().unwrap().len(), 1, "{text}");
    assert!(text.contains("\nacme: 3 messages judged\n"), "{text}");
}
