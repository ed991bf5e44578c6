//! A client that comes again with a message that the endpoint has taken: no second ticket.

use std::time::Duration;

use deskmilter::mail::Reply;
use support::endpoint::{Action, Endpoint, Script};
use support::{Site, wait_within};

use super::later_milter::LaterMilter;
use super::{SUPPORT, delivered, message, on, scripted, site, submit, taken};

const TWO_MILTERS: &str = "smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail }, \
                           { unix:deskmilter/later.sock, default_action=tempfail }\n";

fn with_a_later_milter() -> (Site, LaterMilter) {
    let site = site("", TWO_MILTERS);
    let later = LaterMilter::start(&site.postfix.queue_directory(), Reply::new(451, 7, 1, "not yet"));
    (site, later)
}

#[test]
fn after_a_later_milter_refused_the_journal_answers_the_repeat_also_after_kill_and_restart() {
    let (mut site, later) = with_a_later_milter();
    let first = message("taken, then refused");
    for _ in 0..2 {
        let reply = submit(&site, &[SUPPORT], &first);
        assert!(reply.code == 451 && reply.text.contains("not yet"), "{reply}");
        assert_eq!(site.desk.tickets().len(), 1);
    }
    assert!(site.daemon.log().contains("inline, taken before"), "{}", site.daemon.log());
    site.daemon.kill();
    site.daemon.resume();
    assert_eq!(submit(&site, &[SUPPORT], &first).code, 451);
    site.daemon.stop();
    site.daemon.resume();
    later.relent();
    assert_eq!(submit(&site, &[SUPPORT], &first).code, 250);
    assert_eq!(site.desk.tickets().len(), 1, "{}", site.daemon.log());

    assert_eq!(submit(&site, &[SUPPORT], &message("another")).code, 250);
    assert_eq!(site.desk.tickets().len(), 2);
    site.postfix.wait_for_empty_queue();
    assert_eq!(delivered(&site, SUPPORT), 0);
    let journal = site.configuration().with_file_name("state").join("inline.journal");
    let text = std::fs::read_to_string(journal).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn what_the_endpoint_takes_when_the_mta_has_gone_is_remembered() {
    let milter = "smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail, content_timeout=3s }\n";
    let (site, _runtime, desk) = scripted("", milter, on("DOT 1", Action::Late(Duration::from_secs(6))));
    let message = message("the MTA does not wait");
    assert_eq!(submit(&site, &[SUPPORT], &message).code, 451);
    // The same message again while the first one is under way, and once it is taken.
    wait_within(
        Duration::from_secs(30),
        "the repeat is answered",
        || site.daemon.log(),
        || {
            let mut session = super::connect(site.postfix.address());
            session.send(super::STRANGER, &[SUPPORT], &message).code == 250
        },
    );
    assert_eq!(taken(&desk), 1, "{}", site.daemon.log());
}

#[test]
fn what_the_sandbox_has_taken_is_handed_to_the_ticket_system_that_comes_after_it() {
    let (mut site, later) = with_a_later_milter();
    let message = message("taken by the sandbox alone");
    assert_eq!(submit(&site, &[SUPPORT], &message).code, 451);
    assert_eq!(site.desk.tickets().len(), 1);
    // The postmaster has tried it out, and writes the real endpoint into the configuration.
    site.set_password(super::PASSWORD);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let desk = runtime.block_on(Endpoint::start(Script::default()));
    site.point_at(desk.port, &desk.ca);
    later.relent();
    assert_eq!(submit(&site, &[SUPPORT], &message).code, 250);
    assert_eq!((taken(&desk), site.desk.tickets().len()), (1, 1), "{}", site.daemon.log());
}
