//! Relaying at DATA time (`relay = "inline"`): what the client is told, what stays in Exim's queue, and how many tickets there
//! are, whatever goes wrong and however often the client comes again.

use std::time::{Duration, Instant};

use support::endpoint::{Action, Endpoint, Rule, Script};
use support::{EximSite, EximTerms, Message, Reply, SUPPORT_LOGIN, Site, fields, received_as_sent, wait_within};

use super::outbound::assert_signed;

const SUPPORT: &str = "support@acme.example";
const BILLING: &str = "billing@acme.example";
const SALES: &str = "sales@acme.example";
const BOSS: &str = "boss@acme.example";
const STRANGER: &str = "a@plain.example";
const PASSWORD: &str = "s3cret-one";

fn terms(endpoint: &str) -> EximTerms {
    EximTerms { endpoint: format!("relay = \"inline\"\n{endpoint}"), ..EximTerms::default() }
}

/// A company that relays inline to an endpoint that does as it is told.
pub fn scripted(terms: EximTerms, script: Script) -> (EximSite, tokio::runtime::Runtime, Endpoint) {
    let mut site = EximSite::start(terms);
    site.set_password(PASSWORD);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let desk = runtime.block_on(Endpoint::start(script));
    site.point_at(desk.port, &desk.ca);
    (site, runtime, desk)
}

pub fn on(on: &'static str, connection: Option<usize>, action: Action) -> Script {
    Script { rules: vec![Rule { on, connection, action }], ..Script::default() }
}

pub fn taken(desk: &Endpoint) -> usize {
    desk.see(|record| record.taken.len())
}

fn message(subject: &str) -> Vec<u8> {
    Message::new(STRANGER, SUPPORT, subject).octets()
}

fn submit(site: &EximSite, to: &[&str], message: &[u8]) -> Reply {
    site.exim.submit_as(&Site::stranger(), STRANGER, to, message)
}

#[test]
fn a_message_becomes_a_ticket_before_its_client_has_the_answer_and_nothing_stays() {
    let site = EximSite::start(terms(""));
    let message = site.signer.sign(&Message::new("Jane <jane@customer.example>", SUPPORT, "Order 4711").octets());
    let reply = site.exim.submit_as(&Site::customer(), "jane@customer.example", &[SUPPORT], &message);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
    let tickets = site.desk.tickets();
    assert_eq!(tickets.len(), 1, "the answer comes after the ticket");
    let received = &tickets[0].messages()[0];
    assert!(received_as_sent(received, &message), "{}", String::from_utf8_lossy(received));
    assert_eq!((&tickets[0].facts["sender_auth"], tickets[0].tags().len()), (&"pass".into(), 1), "{}", site.logs());
    let trace = String::from_utf8(fields(received, "Received").concat()).unwrap();
    assert!(trace.starts_with("Received: from mail.customer.example ([192.0.2.10])"), "{trace}");
    assert!(trace.contains("by mx.acme.example (deskmilter connector=acme)") && trace.contains("with ESMTP id "));

    site.exim.wait_for_empty_queue();
    let line = site.daemon.wait_for_log("relay decision=relayed");
    for part in ["connector=acme", "note=inline", "credential=acme.example", "remote=localhost", "reply=\"250"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!((site.desk.tickets().len(), site.exim.mailbox(SUPPORT).len()), (1, 0), "Exim relays nothing besides");
}

#[test]
fn two_support_addresses_make_one_ticket_in_whatever_spelling_and_an_alias_comes_by_the_router() {
    let site = EximSite::start(terms(""));
    let several =
        [&[SUPPORT, BILLING][..], &[SUPPORT, SUPPORT], &["Support+4711@ACME.example"], &["\"support\"@acme.example"]];
    for (n, to) in several.iter().enumerate() {
        assert_eq!(submit(&site, to, &message("one")).code, 250, "{}", site.logs());
        assert_eq!(site.desk.tickets().len(), n + 1, "{to:?}");
    }
    site.exim.wait_for_empty_queue();
    assert_eq!(site.desk.tickets().len(), several.len(), "{}", site.logs());
    assert_eq!(submit(&site, &["info@acme.example"], &message("by an alias")).code, 250);
    site.desk.wait_for_tickets(several.len() + 1);
    site.exim.wait_for_empty_queue();
    assert_eq!((site.exim.mailbox(SUPPORT).len(), site.exim.mailbox(BILLING).len()), (0, 0));
}

#[test]
fn with_keep_copy_the_mailbox_has_it_too() {
    let site = EximSite::start(terms("keep_copy = true"));
    let message = message("kept");
    assert_eq!(submit(&site, &[SUPPORT], &message).code, 250, "{}", site.logs());
    assert_eq!(site.desk.tickets().len(), 1);
    assert!(received_as_sent(&site.exim.wait_for_mail(SUPPORT, 1)[0], &message));
    site.exim.wait_for_empty_queue();
    assert_eq!(site.desk.tickets().len(), 1);
}

#[test]
fn a_recipient_of_another_route_is_put_off_to_the_next_transaction_whichever_comes_first() {
    let site = EximSite::start(terms(""));
    for (first, other) in [(SUPPORT, SALES), (SALES, SUPPORT)] {
        let message = message("for both");
        let mut session = site.exim.connect(&Site::stranger());
        for to in [first, other] {
            session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
            // One who is refused is not the first.
            session.expect(550, "RCPT TO:<nobody@acme.example>");
            session.expect(250, &format!("RCPT TO:<{to}>"));
            if to == first {
                let reply = session.expect(452, &format!("RCPT TO:<{other}>"));
                assert!(reply.text.starts_with("4.5.3 "), "{reply}");
            }
            session.expect(354, "DATA");
            let reply = session.data(&message);
            assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
        }
    }
    site.exim.wait_for_empty_queue();
    assert_eq!((site.desk.tickets().len(), site.exim.mailbox(SALES).len()), (2, 2));
}

#[test]
fn a_mail_program_that_has_logged_in_reaches_a_desk_and_a_colleague_with_one_message() {
    let site = EximSite::start(terms(""));
    let reply = site.login(support::EMPLOYEE_LOGIN).send(BOSS, &[SALES, SUPPORT], &message("for both at once"));
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
    site.exim.wait_for_mail(SALES, 1);
    site.exim.wait_for_empty_queue();
    assert_eq!((site.desk.tickets().len(), site.exim.mailbox(SUPPORT).len()), (1, 0));
}

#[test]
fn what_a_program_on_the_host_hands_in_is_relayed_out_of_the_queue_which_waits_for_the_endpoint() {
    let mut site = EximSite::start(terms(""));
    site.desk.stop();
    site.exim.submit_by_sendmail(STRANGER, &[SUPPORT, SALES], &message("local"));
    site.exim.wait_for_mail(SALES, 1);
    site.daemon.kill();
    site.exim.submit_by_sendmail(STRANGER, &[SUPPORT, SALES], &message("local, and the daemon is down"));
    site.exim.wait_for_mail(SALES, 2);
    site.daemon.resume();
    site.desk.resume();
    site.desk.wait_for_tickets(2);
    site.exim.wait_for_empty_queue();
    assert_eq!(site.desk.tickets().len(), 2);
}

#[test]
fn what_the_endpoint_refuses_of_unproven_senders_goes_to_the_mailbox_in_the_support_addresss_place() {
    let refusing = on("DOT", None, Action::Say("550 5.7.1 \"spam\" is not wanted\r\n"));
    let (site, _runtime, desk) = scripted(terms(&format!("rejected_to = \"{BOSS}\"")), refusing);
    let sent = message("refused");
    let reply = submit(&site, &[SUPPORT, BILLING], &sent);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
    let got = &site.exim.wait_for_mail(BOSS, 1)[0];
    let reason = String::from_utf8(fields(got, "X-Refused-By-Ticket-System").concat()).unwrap();
    assert!(reason.contains("to=<support@acme.example>") && reason.contains("'spam' is not wanted"), "{reason}");
    site.exim.wait_for_empty_queue();
    assert_eq!((taken(&desk), site.exim.mailbox(BOSS).len(), site.exim.mailbox(SUPPORT).len()), (0, 1, 0));
    // Who is proven hears it.
    let message = site.signer.sign(&Message::new("ann@customer.example", SUPPORT, "proven").octets());
    let reply = site.exim.submit_as(&Site::customer(), "ann@customer.example", &[SUPPORT], &message);
    assert!(reply.code == 550 && reply.text.contains("is not wanted"), "{reply}");
}

#[test]
fn while_an_endpoint_is_down_its_mail_is_put_off_at_rcpt_and_ordinary_mail_flows() {
    let mut site = EximSite::start(terms(""));
    site.desk.stop();
    let message = message("while it is down");
    for _ in 0..3 {
        let reply = submit(&site, &[SUPPORT], &message);
        assert!(reply.code == 451 && reply.text.contains("4.4.1"), "{reply}");
    }
    let mut session = site.exim.connect(&Site::stranger());
    session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
    let reply = session.expect(451, &format!("RCPT TO:<{SUPPORT}>"));
    assert!(reply.text.starts_with("4.4.1 "), "{reply}");
    session.expect(250, &format!("RCPT TO:<{SALES}>"));
    session.expect(354, "DATA");
    assert_eq!(session.data(&message).code, 250);
    site.desk.resume();
    let since = Instant::now();
    while submit(&site, &[SUPPORT], &message).code != 250 {
        assert!(since.elapsed() < Duration::from_secs(30), "{}", site.logs());
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(site.desk.tickets().len(), 1);
}

#[test]
fn while_the_daemon_is_down_mail_for_a_support_address_stays_with_its_sender_and_other_mail_flows() {
    let mut site = EximSite::start(terms(""));
    site.daemon.kill();
    let first = message("the daemon is down");
    for to in [&[SUPPORT][..], &["Billing+1@acme.example"], &[SALES, SUPPORT]] {
        let reply = submit(&site, to, &first);
        assert!(reply.code == 451 && reply.text.starts_with("4.3.0"), "{to:?}: {reply}");
    }
    assert_eq!(submit(&site, &[SALES], &first).code, 250, "{}", site.logs());
    assert!(site.exim.queue().len() <= 1);
    site.daemon.resume();
    assert_eq!(submit(&site, &[SUPPORT], &first).code, 250);
    assert_eq!(site.desk.tickets().len(), 1);
}

#[test]
fn a_daemon_or_an_exim_that_is_killed_while_the_endpoint_thinks_loses_nothing_and_the_journal_knows_what_it_saw() {
    let (mut site, _runtime, desk) = scripted(terms(""), on("DOT", Some(1), Action::Late(Duration::from_secs(4))));
    let first = message("killed meanwhile");
    std::thread::scope(|scope| {
        let exim = &site.exim;
        let first = &first;
        let client = scope.spawn(move || exim.submit_as(&Site::stranger(), STRANGER, &[SUPPORT], first));
        wait_within(Duration::from_secs(30), "the message at the endpoint", String::new, || desk.see(|r| r.read) == 1);
        site.daemon.kill();
        let reply = client.join().unwrap();
        assert!(reply.code == 451 && reply.text.starts_with("4.3.0"), "{reply}");
    });
    assert!(site.exim.queue().is_empty());
    site.daemon.resume();
    assert_eq!(submit(&site, &[SUPPORT], &first).code, 250, "{}", site.logs());

    // The endpoint takes it, and Exim is not there any more to hear it.
    desk.mend();
    let second = message("Exim is killed");
    let before = taken(&desk);
    let (mut site, _runtime, desk) = (site, _runtime, desk);
    let mut session = site.exim.connect(&Site::stranger());
    session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
    session.expect(250, &format!("RCPT TO:<{SUPPORT}>"));
    session.expect(354, "DATA");
    session.write(&[&second[..], b".\r\n"].concat());
    let took = || taken(&desk) == before + 1;
    wait_within(Duration::from_secs(30), "the endpoint took it", || site.daemon.log(), took);
    site.exim.kill();
    site.exim.resume();
    for _ in 0..2 {
        assert_eq!(submit(&site, &[SUPPORT], &second).code, 250);
    }
    assert_eq!(taken(&desk), before + 1, "{}", site.logs());
    site.exim.wait_for_empty_queue();
}

#[test]
fn after_a_later_refusal_the_journal_answers_the_repeat_also_after_kill_and_restart() {
    let refusing = "  defer condition = ${if match{$h_Subject:}{\\Nlater\\N}}\n        message = 451 4.7.1 not yet\n";
    let mut site = EximSite::start(EximTerms { acl: refusing, ..terms("") });
    let first = message("taken, then refused later");
    for _ in 0..2 {
        let reply = submit(&site, &[SUPPORT], &first);
        assert!(reply.code == 451 && reply.text.contains("not yet"), "{reply}");
        assert_eq!(site.desk.tickets().len(), 1);
    }
    assert!(site.daemon.log().contains("inline, taken before"), "{}", site.daemon.log());
    site.daemon.kill();
    site.daemon.resume();
    assert_eq!(submit(&site, &[SUPPORT], &first).code, 451);
    assert_eq!(site.desk.tickets().len(), 1, "{}", site.logs());
    assert_eq!(submit(&site, &[SUPPORT], &message("another")).code, 250);
    assert_eq!(site.desk.tickets().len(), 2);
    site.exim.wait_for_empty_queue();
}

#[test]
fn a_client_that_hangs_up_while_the_endpoint_thinks_comes_again_and_makes_no_second_ticket() {
    let (site, _runtime, desk) = scripted(terms(""), on("DOT", Some(1), Action::Late(Duration::from_secs(3))));
    let message = message("the client has no patience");
    let mut session = site.exim.connect(&Site::stranger());
    session.expect(250, &format!("MAIL FROM:<{STRANGER}>"));
    session.expect(250, &format!("RCPT TO:<{SUPPORT}>"));
    session.expect(354, "DATA");
    session.write(&[&message[..], b".\r\n"].concat());
    wait_within(Duration::from_secs(30), "the message at the endpoint", || site.logs(), || desk.see(|r| r.read) == 1);
    session.hang_up();
    // While it is under way, and afterwards.
    let answered = || submit(&site, &[SUPPORT], &message).code == 250;
    wait_within(Duration::from_secs(30), "the repeat is answered", || site.logs(), answered);
    site.exim.wait_for_empty_queue();
    assert_eq!(taken(&desk), 1, "{}", site.logs());
}

#[test]
fn an_endpoint_that_takes_longer_than_exim_waits_puts_the_message_off_before_exim_gives_up() {
    let script = on("DOT", Some(1), Action::Late(Duration::from_secs(20)));
    let (mut site, _runtime, desk) = scripted(terms("deadline = \"60s\""), script);
    let text = std::fs::read_to_string(site.configuration()).unwrap();
    std::fs::write(site.configuration(), text.replacen("[exim]", "[exim]\ndeadline = \"15s\"", 1)).unwrap();
    site.daemon.stop();
    site.daemon.resume();
    let message = message("slow");
    let begun = Instant::now();
    let reply = submit(&site, &[SUPPORT], &message);
    assert!(reply.code == 451 && begun.elapsed() < Duration::from_secs(16), "{reply} {:?}", begun.elapsed());
    let answered = || submit(&site, &[SUPPORT], &message).code == 250;
    wait_within(Duration::from_secs(40), "the repeat is answered", || site.logs(), answered);
    site.exim.wait_for_empty_queue();
    // Nobody can know whether the first one was taken in the end.
    assert!((1..=2).contains(&taken(&desk)), "{}", site.logs());
}

#[test]
fn verification_mail_from_and_to_the_support_address_is_signed_and_becomes_a_ticket_at_once() {
    let site = EximSite::start(terms(""));
    let sent = Message::zendesk_notification(SUPPORT, SUPPORT, "Verify your address").without("Cc").octets();
    let sent = site.zendesk.sign(&sent);
    let reply = site.login(SUPPORT_LOGIN).send(SUPPORT, &[SUPPORT], &sent);
    assert_eq!(reply.code, 250, "{reply}\n{}", site.logs());
    let tickets = site.desk.tickets();
    assert_eq!(tickets.len(), 1, "{}", site.logs());
    let received = tickets[0].messages().remove(0);
    assert!(received_as_sent(&received, &sent), "{}", String::from_utf8_lossy(&received));
    assert_signed(&site, &received);
    assert_eq!(tickets[0].tags(), ["system_authenticated_email_ticket"]);
    site.exim.wait_for_empty_queue();
}
