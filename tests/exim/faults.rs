//! Faults in the middle of a transaction, in both modes: at each command of the endpoint, amid the data, at the ACL, on the last
//! hop. The message stays in Exim's queue or with its sender, and arrives when the fault is over.

use std::time::Duration;

use support::endpoint::Action::{self, Close, Hang, Say, TakeAndClose};
use support::endpoint::{Endpoint, Rule, Script};
use support::{EximSite, EximTerms, Message, Reply, SUPPORT_LOGIN, Site, notification, wait_within};

use super::inline::{on, scripted, taken};
use super::outbound::assert_signed;

const SUPPORT: &str = "support@acme.example";
const JANE: &str = "jane@customer.example";
const STRANGER: &str = "a@plain.example";

/// What the endpoint does where, and whether it has the message nevertheless.
const FAULTS: [(&str, Action, bool); 14] = [
    ("GREETING", Close, false),
    ("PLAIN EHLO", Close, false),
    ("STARTTLS", Close, false),
    ("HANDSHAKE", Close, false),
    ("EHLO", Close, false),
    ("AUTH", Close, false),
    ("MAIL", Close, false),
    ("RCPT", Close, false),
    ("RCPT", Say("450 4.2.1 busy\r\n"), false),
    ("DATA", Close, false),
    ("CONTENT", Close, false),
    ("DOT", Close, false),
    ("DOT", Say("451 4.3.1 no room\r\n"), false),
    ("DOT", TakeAndClose, true),
];

fn terms(mode: &str) -> EximTerms {
    EximTerms { endpoint: format!("relay = \"{mode}\"\ndeadline = \"8s\""), ..EximTerms::default() }
}

/// More than stays in a socket's buffer, so that a fault can strike amid the data.
fn message(subject: &str) -> Vec<u8> {
    Message::new(STRANGER, SUPPORT, subject).body(&"0123456789abcdef\r\n".repeat(12_000)).octets()
}

fn submit(site: &EximSite, message: &[u8]) -> Reply {
    site.exim.submit_as(&Site::stranger(), STRANGER, &[SUPPORT], message)
}

fn strike(desk: &Endpoint, (on, action, _): &(&'static str, Action, bool)) {
    let rule = Rule { on, connection: None, action: action.clone() };
    desk.follow(Script { rules: vec![rule], ..Script::default() });
}

/// Whether a message is on its last hop.
fn filter_runs(site: &EximSite) -> bool {
    let socket = site.keys().join("sockets/exim.sock").display().to_string();
    let all = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let mut lines = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.any(|line| line.contains("exim-filter") && line.contains(&socket))
}

#[test]
fn out_of_the_queue_a_message_waits_for_the_endpoint_wherever_it_fails() {
    let (site, _runtime, desk) = scripted(terms("transport"), Script::default());
    for fault in FAULTS {
        let before = taken(&desk);
        strike(&desk, &fault);
        let deferrals = || site.exim.log().matches(" == support@acme.example").count();
        let deferred = deferrals();
        let reply = submit(&site, &message("transport"));
        assert_eq!(reply.code, 250, "{fault:?}: {reply}");
        site.exim.wait_for("a deferral", || deferrals() > deferred);
        assert_eq!((site.exim.queue().len(), taken(&desk) > before), (1, fault.2), "{fault:?}\n{}", site.logs());
        desk.mend();
        site.exim.wait_for_empty_queue();
        let copies = taken(&desk) - before;
        // Exim tries again each second: of what was taken without a word there may be many.
        assert!(if fault.2 { copies > 1 } else { copies == 1 }, "{fault:?}: {copies}\n{}", site.logs());
    }
    assert!(!site.exim.log().contains(" ** "), "nobody gets a bounce");
}

#[test]
fn inline_a_message_stays_with_its_sender_wherever_the_endpoint_fails() {
    let (site, _runtime, desk) = scripted(terms("inline"), Script::default());
    for fault in FAULTS {
        let before = taken(&desk);
        strike(&desk, &fault);
        let message = message("inline");
        let reply = submit(&site, &message);
        assert!((400..500).contains(&reply.code), "{fault:?}: {reply}");
        assert!(site.exim.queue().is_empty());
        assert_eq!(taken(&desk) - before, usize::from(fault.2), "{fault:?}");
        desk.mend();
        let reply = submit(&site, &message);
        assert_eq!(reply.code, 250, "{fault:?}: {reply}\n{}", site.logs());
        site.exim.wait_for_empty_queue();
        // Nobody can know that the first one was taken (RFC 1047).
        assert_eq!(taken(&desk) - before, 1 + usize::from(fault.2), "{fault:?}\n{}", site.logs());
    }
}

#[test]
fn a_client_that_is_lost_amid_the_data_leaves_nothing() {
    for mode in ["transport", "inline"] {
        let (site, _runtime, desk) = scripted(terms(mode), Script::default());
        let message = message("lost");
        let mut session = site.exim.connect(&Site::stranger());
        session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
        session.expect(250, &format!("RCPT TO:<{SUPPORT}>"));
        session.expect(354, "DATA");
        session.write(&message[..message.len() / 2]);
        session.hang_up();
        site.exim.wait_for("the end of the session", || site.exim.log().contains("lost while reading"));
        assert_eq!((site.exim.queue().len(), taken(&desk)), (0, 0), "{mode}");
        assert_eq!(submit(&site, &message).code, 250);
        wait_within(Duration::from_secs(30), "the ticket", || site.logs(), || taken(&desk) == 1);
    }
}

#[test]
fn a_daemon_that_is_killed_while_it_relays_out_of_the_queue_loses_nothing() {
    let (mut site, _runtime, desk) = scripted(terms("transport"), on("DOT", Some(1), Hang));
    assert_eq!(submit(&site, &message("killed while relaying")).code, 250);
    wait_within(Duration::from_secs(30), "the message at the endpoint", || site.logs(), || desk.see(|r| r.read) == 1);
    site.daemon.kill();
    site.exim.wait_for("a deferral", || site.exim.log().contains(" == support@acme.example"));
    assert_eq!((site.exim.queue().len(), taken(&desk)), (1, 0));
    site.daemon.resume();
    site.exim.wait_for_empty_queue();
    assert_eq!(taken(&desk), 1, "{}", site.logs());
}

/// Hands in a message whose sender's name server keeps silent, so that the daemon is judging when `strike` comes.
fn struck_while_judging(mode: &str, strike: fn(&mut EximSite)) -> (EximSite, Reply) {
    let mut site = EximSite::start(terms(mode));
    let message = Message::new("a@silent.example", SUPPORT, "judged for long").octets();
    let mut session = site.exim.connect(&Site::stranger());
    session.expect(250, "MAIL FROM:<a@silent.example>");
    session.expect(250, &format!("RCPT TO:<{SUPPORT}>"));
    session.expect(354, "DATA");
    session.write(&[&message[..], b".\r\n"].concat());
    site.exim.wait_for("the message at the daemon", || site.exim.spool().join("scan").exists());
    std::thread::sleep(Duration::from_millis(500));
    strike(&mut site);
    let reply = session.reply();
    (site, reply)
}

#[test]
fn mail_flows_past_a_daemon_that_is_killed_while_it_judges_and_is_tagged_none() {
    let (mut site, reply) = struck_while_judging("transport", |site| site.daemon.kill());
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
    site.daemon.resume();
    assert_eq!(site.desk.wait_for_tickets(1)[0].facts["sender_auth"], "none");
    site.exim.wait_for_empty_queue();
}

#[test]
fn inline_mail_stays_with_its_sender_when_the_daemon_is_killed_while_it_judges() {
    let (site, reply) = struck_while_judging("inline", |site| site.daemon.kill());
    assert!(reply.code == 451 && reply.text.starts_with("4.3.0"), "{reply}\n{}", site.logs());
    assert!(site.exim.queue().is_empty() && site.desk.tickets().is_empty());
}

#[test]
fn a_daemon_that_does_not_answer_any_more_holds_up_no_other_mail_for_long_and_loses_none() {
    for mode in ["transport", "inline"] {
        let mut site = EximSite::start(terms(mode));
        site.daemon.freeze();
        let message = Message::new(STRANGER, SUPPORT, "frozen").octets();
        let begun = std::time::Instant::now();
        let reply = site.exim.submit_as(&Site::stranger(), STRANGER, &["sales@acme.example"], &message);
        assert_eq!(reply.code, 250, "{mode}: {reply}");
        let reply = submit(&site, &message);
        assert_eq!(reply.code, if mode == "inline" { 451 } else { 250 }, "{mode}: {reply}");
        assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
        let notification = site.login(SUPPORT_LOGIN).send(SUPPORT, &[JANE], &site.notification());
        assert_eq!(notification.code, 451, "{mode}: {notification}");
        site.daemon.thaw();
        if mode == "inline" {
            assert_eq!(submit(&site, &message).code, 250, "{}", site.logs());
        }
        site.exim.wait_for_empty_queue();
        assert_eq!((site.desk.tickets().len(), site.customer.transactions().len()), (1, 0), "{}", site.logs());
    }
}

#[test]
fn a_daemon_that_is_killed_on_the_last_hop_leaves_the_notification_in_the_queue_whole() {
    let mut site = EximSite::start(EximTerms { main: "queue_only = true", ..EximTerms::default() });
    let sent = notification().body(&"0123456789abcdef\r\n".repeat(200_000)).octets();
    assert_eq!(site.login(SUPPORT_LOGIN).send(SUPPORT, &[JANE], &sent).code, 250);
    site.daemon.freeze();
    site.exim.wait_for("a delivery attempt", || filter_runs(&site));
    std::thread::sleep(Duration::from_millis(500));
    site.daemon.kill();
    site.exim.wait_for("a deferral", || site.exim.log().contains(" == jane@customer.example"));
    assert!(site.customer.transactions().is_empty(), "nothing leaves unsigned or in part");
    site.daemon.resume();
    let received = site.customer.wait_for(1, || site.logs()).remove(0).message;
    assert_signed(&site, &received);
    site.exim.wait_for_empty_queue();
    assert_eq!(site.customer.transactions().len(), 1);
}
