//! The same with Exim: its ACL is told to let mail pass as it is.

use support::{EximSite, EximTerms, Message, Site, fields, received_as_sent};

use super::{line_of, observing};

#[test]
fn exim_hands_on_what_is_observed_as_it_came_and_refuses_nothing() {
    let mut site = EximSite::start(EximTerms::default());
    let text = std::fs::read_to_string(site.daemon.configuration()).unwrap();
    std::fs::write(site.daemon.configuration(), observing(&text)).unwrap();
    site.daemon.reload();
    site.daemon.wait_for_log("configuration reloaded");

    let (people, jane) = ("sales@acme.example", "jane@customer.example");
    let mut flood = Message::new("Jane <jane@customer.example>", people, "Forged");
    for n in 0..150 {
        flood = flood.field("X-Deskmilter-Tags", &n.to_string());
    }
    let reply = site.exim.submit_as(&Site::stranger(), jane, &[people], &flood.octets());
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
    let received = site.exim.wait_for_mail(people, 1).remove(0);
    let shown = String::from_utf8_lossy(&received);
    assert!(received_as_sent(&received, &flood.octets()), "{shown}");
    assert!(!shown.contains("Authentication-Results") && !shown.contains("Sender-Auth"), "{shown}");
    let line = line_of(&site.daemon.log(), &flood);
    assert!(line.contains("decision=refused observed=yes") && line.contains("554 5.7.1"), "{line}");

    let sent = support::notification();
    let delivered = site.deliver(&sent.octets());
    let shown = String::from_utf8_lossy(&delivered);
    assert!(received_as_sent(&delivered, &sent.octets()), "{shown}");
    assert!(fields(&delivered, "DKIM-Signature").is_empty() && !shown.contains("X-Deskmilter"), "{shown}");
    // Exim's last hop would have signed what was sealed here.
    assert!(line_of(&site.daemon.log(), &sent).contains("decision=sealed observed=yes"), "{}", site.logs());
}
