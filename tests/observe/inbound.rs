//! Mail for the company.

use std::path::Path;

use support::{Client, LmtpClient, Message, Site};

use super::{SUPPORT, line_of, observing, report};

/// Without the transport map: who observes has none yet, and support mail lies in a mailbox.
const NO_TRANSPORT: &str = "transport_maps =\n";

fn site(change: impl FnOnce(String) -> String) -> Site {
    let mut site = Site::with("", "", NO_TRANSPORT);
    let text = std::fs::read_to_string(site.configuration()).unwrap();
    std::fs::write(site.configuration(), change(observing(&text))).unwrap();
    site.daemon.stop();
    site.daemon.resume();
    site
}

/// A delivered message below the fields that Postfix itself put above it, which say when and under which id.
fn below_postfix(delivered: &[u8]) -> String {
    let text = String::from_utf8_lossy(delivered).into_owned();
    let (top, rest) = text.split_once("for <").unwrap_or_else(|| panic!("{text}"));
    assert!(top.starts_with("Return-Path: ") && top.matches("\n").count() < 8, "{text}");
    let (_, rest) = rest.split_once('\n').unwrap();
    rest.to_owned()
}

/// The message as it came through the smtpd that the daemon looks at and through the one that it does not.
fn both_ways(site: &Site, client: &Client, message: &[u8]) -> [String; 2] {
    let before = site.postfix.mailbox(SUPPORT).messages().len();
    let reply = site.postfix.submit_as(client, "jane@customer.example", &[SUPPORT], message);
    assert_eq!(reply.code, 250, "{reply}");
    let watched = site.postfix.wait_for_mail(SUPPORT, before + 1).pop().unwrap();
    let reply = site.submit_past_the_milter("jane@customer.example", &[SUPPORT], message);
    assert_eq!(reply.code, 250, "{reply}");
    let unwatched = site.postfix.wait_for_mail(SUPPORT, before + 2).pop().unwrap();
    [watched, unwatched].map(|delivered| below_postfix(&delivered))
}

#[test]
fn every_octet_of_mail_is_as_without_us_and_the_log_says_what_would_have_been() {
    let site = site(|text| {
        text.replacen("[milter]", "[limits]\nheader_size = \"64KiB\"\nmessage_size = \"64KiB\"\n[milter]", 1)
    });
    let from = "Jane <jane@customer.example>";
    let plain = || Message::new(from, SUPPORT, "Where is it?");
    let (signed, spoofed) = (plain(), plain());
    let forged = plain()
        .field("X-Deskmilter-Sender-Auth", "pass; reason=dmarc")
        .field("authentication-results", "mx.acme.example; dkim=pass");
    let mut flood = plain();
    for n in 0..150 {
        flood = flood.field("X-Deskmilter-Tags", &n.to_string());
    }
    // Postfix cuts a single field that is much longer.
    let value = format!("{}x", "x\r\n ".repeat(12_000));
    let long = plain().field("X-Long", &value).field("X-Longer", &value);
    let large = plain().body(&"a line of text\r\n".repeat(10_000));
    let cases: [(&str, Vec<u8>, Client, &[&str]); 6] = [
        (
            "signed",
            site.signer.sign(&signed.octets()),
            Site::customer(),
            &["decision=tagged observed=yes", "auth=\"pass; reason=dmarc"],
        ),
        ("spoofed", spoofed.octets(), Site::stranger(), &["decision=tagged observed=yes", "auth=\"fail; "]),
        (
            "forged",
            forged.octets(),
            Site::stranger(),
            &["decision=tagged observed=yes", "forged=2", "local_results=\"dkim=pass\""],
        ),
        ("flood", flood.octets(), Site::stranger(), &["decision=refused observed=yes", "554 5.7.1"]),
        (
            "long header",
            long.octets(),
            Site::stranger(),
            &["WARN", "refused before judging", "552 5.3.4", "observed=yes"],
        ),
        ("large", large.octets(), Site::stranger(), &["decision=tagged observed=yes", "too-large"]),
    ];
    for (name, octets, client, expected) in cases {
        let before = site.daemon.log().len();
        let [watched, unwatched] = both_ways(&site, &client, &octets);
        assert!(watched == unwatched, "{name}:\n{watched}\n---\n{unwatched}");
        assert!(watched.contains("Subject: Where is it?"), "{name}: {watched}");
        let log = site.daemon.log()[before..].to_owned();
        assert_eq!(log.lines().count(), 1, "{name}: {log}");
        for part in expected {
            assert!(log.contains(part), "{name}: {part}: {log}");
        }
    }
    assert_eq!(site.desk.count_tickets(), 0);

    let (text, told) = report(site.daemon.log_file());
    let acme = &told["connectors"]["acme"];
    assert_eq!(acme["judged"]["messages"], 5, "{text}");
    assert_eq!(acme["tagged"]["pass dmarc"]["messages"], 1, "{text}");
    assert_eq!(acme["forged"]["messages"], 2, "{text}");
    let refused = acme["refused"].as_object().unwrap();
    assert!(refused.len() == 1 && refused.keys().all(|reply| reply.starts_with("554 5.7.1 ")), "{text}");
    assert_eq!(acme["dkim"]["pass, here none"]["messages"], 1, "{text}");
}

#[test]
fn one_message_for_an_observed_and_a_live_connector_is_tagged_for_the_live_one_alone_and_judged_for_both() {
    let other = "\n[[connector]]\nname = \"other\"\nmode = \"outbound-only\"\ndomain = \"other.example\"\naddresses = [\"someone@other.example\"]\n";
    let mut site = site(|text| format!("{text}{other}"));
    let live = "someone@other.example";
    let message = Message::new("jane@customer.example", SUPPORT, "To both");
    let reply = site.postfix.submit_as(&Site::stranger(), "jane@customer.example", &[SUPPORT, live], &message.octets());
    assert_eq!(reply.code, 250, "{reply}");
    for mailbox in [SUPPORT, live] {
        // A message has one header section, whoever gets it.
        let delivered = String::from_utf8(site.postfix.wait_for_mail(mailbox, 1).remove(0)).unwrap();
        assert_eq!(delivered.matches("X-Deskmilter-Sender-Auth: ").count(), 1, "{delivered}");
        assert_eq!(delivered.matches("Authentication-Results: mx.acme.example;").count(), 1, "{delivered}");
    }
    let log = site.daemon.log();
    let judged: Vec<_> = log.lines().filter(|line| line.contains("judged")).collect();
    assert_eq!(judged.len(), 2, "{judged:?}");
    assert!(judged[0].contains("connector=other") && !judged[0].contains("observed="), "{judged:?}");
    assert!(judged[1].contains("observed=yes connector=acme"), "{judged:?}");
    let auth = |line: &str| line.split(" auth=").nth(1).unwrap().split(" forged").next().unwrap().to_owned();
    assert_eq!(auth(judged[0]), auth(judged[1]), "judged once");

    let alone = Message::new("jane@customer.example", SUPPORT, "To one");
    let reply = site.postfix.submit_as(&Site::stranger(), "jane@customer.example", &[SUPPORT], &alone.octets());
    assert_eq!(reply.code, 250, "{reply}");
    let delivered = String::from_utf8(site.postfix.wait_for_mail(SUPPORT, 2).pop().unwrap()).unwrap();
    assert!(!delivered.contains("Deskmilter") && !delivered.contains("Authentication-Results"), "{delivered}");
    assert!(line_of(&site.daemon.log(), &alone).contains("observed=yes connector=acme"));

    // The week is over: a reload, and the connector acts.
    let text = std::fs::read_to_string(site.configuration()).unwrap();
    std::fs::write(site.configuration(), text.replace("observe = true\n", "")).unwrap();
    site.daemon.reload();
    site.daemon.wait_for_log("configuration reloaded");
    let acts = Message::new("jane@customer.example", SUPPORT, "Now");
    site.postfix.submit_as(&Site::stranger(), "jane@customer.example", &[SUPPORT], &acts.octets());
    let delivered = String::from_utf8(site.postfix.wait_for_mail(SUPPORT, 3).pop().unwrap()).unwrap();
    assert!(delivered.contains("X-Deskmilter-Sender-Auth: "), "{delivered}");
    assert!(!line_of(&site.daemon.log(), &acts).contains("observed"));
}

#[test]
fn inline_relay_that_is_observed_relays_nothing_and_asks_about_no_recipient() {
    let site = site(|text| text.replacen("[connector.endpoint]", "[connector.endpoint]\nrelay = \"inline\"", 1));
    let message = Message::new("jane@customer.example", SUPPORT, "Inline");
    let to = [SUPPORT, "sales@acme.example"];
    let reply = site.postfix.submit_as(&Site::stranger(), "jane@customer.example", &to, &message.octets());
    assert_eq!(reply.code, 250, "{reply}");
    site.postfix.wait_for_mail(SUPPORT, 1);
    site.postfix.wait_for_mail("sales@acme.example", 1);
    assert!(line_of(&site.daemon.log(), &message).contains("observed=yes"));
    assert_eq!(site.desk.count_tickets(), 0);
}

#[test]
fn mail_that_is_handed_to_the_transport_nevertheless_waits_and_is_told_why() {
    let site = site(|text| text);
    let socket = site.postfix.queue_directory().join("deskmilter/transport/acme.sock");
    let mut client = LmtpClient::connect(Path::new(&socket));
    client.command("LHLO mx");
    client.command("MAIL FROM:<jane@customer.example>");
    let reply = client.command(&format!("RCPT TO:<{SUPPORT}>"));
    assert!(reply.code == 451 && reply.text.contains("connector acme only observes"), "{reply}");
    site.daemon.wait_for_log("ERROR mail came to a connector that only observes");
}
