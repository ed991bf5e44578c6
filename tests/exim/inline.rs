//! What is Exim's own of relaying at DATA time (`relay = "inline"`): its ACLs and routers, its death and that of the daemon, its
//! patience. The rest is in `tests/inline`, for all mail servers.

use std::time::{Duration, Instant};

use support::endpoint::{Action, Endpoint, Rule, Script};
use support::{EximSite, EximTerms, Message, Reply, SUPPORT_LOGIN, Site, received_as_sent, wait_within};

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
fn a_support_address_makes_one_ticket_in_whatever_spelling_and_an_alias_comes_by_the_router() {
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

#[test]
fn what_apply_writes_into_a_configuration_without_us_is_enough() {
    let mut site = EximSite::start(terms(""));
    site.exim.stop();
    let file = site.exim.configuration();
    let bare = |line: &&str| {
        let ours = ["/macros", "/rcpt", "/acl", "/routers", "/transports"].iter().any(|name| line.ends_with(name));
        let value = line.starts_with("DESKMILTER_") && !line.starts_with("DESKMILTER_AUTH");
        !(value || line.contains("transport_filter") || line.contains(".include") && ours)
    };
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().filter(bare).collect();
    let text = lines.join("\n").replacen("acl_smtp_data = ${if", "# ${if", 1) + "\n";
    let text = text.replacen("acl_smtp_rcpt =", "acl_smtp_data = acl_data\nacl_smtp_rcpt =", 1);
    std::fs::write(&file, &text).unwrap();
    // --check runs Exim as root, who trusts nobody else's file.
    std::os::unix::fs::chown(&file, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let deskmilter = |action: &str| {
        let mut command = std::process::Command::new(support::deskmilter());
        command.args(["exim", action, "-c"]).arg(site.configuration()).arg("--config-file").arg(&file);
        let output = command.arg("--exim").arg(support::exim_program()).arg("--generated").arg(&file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    deskmilter("--apply");
    let told = deskmilter("--check");
    assert!(!told.contains("fail  ") && !told.contains("warn  "), "{told}");
    site.exim.resume();
    assert_eq!(submit(&site, &[SUPPORT], &message("by what was written")).code, 250, "{}", site.logs());
    assert_eq!(site.desk.tickets().len(), 1, "{}", site.logs());
    assert_eq!(submit(&site, &[SALES], &message("for people")).code, 250);
    site.exim.wait_for_mail(SALES, 1);
    site.exim.wait_for_empty_queue();
    assert_eq!((site.desk.tickets().len(), site.exim.mailbox(SUPPORT).len()), (1, 0));
    site.daemon.kill();
    let reply = submit(&site, &["support+1@acme.example"], &message("the daemon is down"));
    assert!(reply.code == 451 && reply.text.starts_with("4.3.0"), "{reply}");
}

#[test]
fn files_that_were_written_before_inline_relay_put_mail_off_rather_than_lose_it() {
    let mut site = EximSite::start(terms(&format!("rejected_to = \"{BOSS}\"")));
    let acl = site.exim.configuration().with_file_name("acl");
    let text = std::fs::read_to_string(&acl).unwrap();
    std::fs::write(&acl, text.replace("edits=${base64:recipients}", "")).unwrap();
    site.exim.stop();
    site.exim.resume();
    let reply = submit(&site, &[SUPPORT], &message("old files"));
    assert!(reply.code == 451 && reply.text.starts_with("4.3.5"), "{reply}\n{}", site.logs());
    assert!(site.desk.tickets().is_empty() && site.daemon.log().contains("deskmilter exim --apply"));
}
