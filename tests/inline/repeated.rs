//! A client that comes again with a message that the endpoint has taken: no second ticket.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use deskmilter::attach::milter::{Listener, Service, serve};
use deskmilter::config::Limits;
use deskmilter::mail::{Connection, Envelope, Mail, Reply, Spool, Verdict};
use deskmilter::pipeline::Judge;
use support::endpoint::Action;
use support::{Site, wait_within};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{SUPPORT, delivered, message, on, scripted, site, submit, taken};

/// A milter after ours that defers each message while it is told to.
#[derive(Debug, Clone)]
struct Deferrer(Arc<AtomicBool>);

impl Judge for Deferrer {
    fn concerns(&self, _: &Connection, _: &Envelope) -> bool {
        true
    }

    async fn judge(&self, _: &Mail) -> Verdict {
        match self.0.load(Ordering::SeqCst) {
            true => Verdict::refuse(Reply::new(451, 7, 1, "not yet")),
            false => Verdict::pass(),
        }
    }
}

impl Deferrer {
    fn start(&self, socket: &Path) -> tokio::runtime::Runtime {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let limits = Limits {
            message_size: 1 << 20,
            header_size: 1 << 20,
            memory: 1 << 20,
            milter_connections: 10,
            transport_connections: 1,
            hops: 50,
            addresses_per_domain: 1,
            domains: 1,
            inline_relays: 1,
        };
        let judge = Arc::new(ArcSwap::from_pointee(self.clone()));
        let service = Arc::new(Service::new(judge, Spool::new("/nonexistent"), &limits));
        let listener = Listener::Unix(runtime.block_on(async { UnixListener::bind(socket) }).unwrap());
        std::fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        runtime.spawn(serve(listener, service, CancellationToken::new(), TaskTracker::new()));
        runtime
    }
}

const TWO_MILTERS: &str = "smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail }, \
                           { unix:deskmilter/later.sock, default_action=tempfail }\n";

fn with_a_later_milter() -> (Site, Deferrer, tokio::runtime::Runtime) {
    let site = site("", TWO_MILTERS);
    let later = Deferrer(Arc::new(AtomicBool::new(true)));
    let runtime = later.start(&site.postfix.queue_directory().join("deskmilter/later.sock"));
    (site, later, runtime)
}

#[test]
fn after_a_later_milter_refused_the_journal_answers_the_repeat_also_after_kill_and_restart() {
    let (mut site, later, _runtime) = with_a_later_milter();
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
    later.0.store(false, Ordering::SeqCst);
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
fn a_message_without_an_id_is_never_taken_for_a_repeat() {
    let (site, later, _runtime) = with_a_later_milter();
    later.0.store(false, Ordering::SeqCst);
    let message = b"From: a@plain.example\r\nTo: support@acme.example\r\nSubject: ping\r\n\r\nping\r\n";
    for n in 1..=2 {
        assert_eq!(submit(&site, &[SUPPORT], message).code, 250);
        assert_eq!(site.desk.tickets().len(), n);
    }
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
fn killed_while_relaying_nothing_is_lost() {
    let (mut site, _runtime, desk) = scripted("", "", on("DOT 1", Action::Late(Duration::from_secs(5))));
    let message = message("killed");
    let address = site.postfix.address();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| super::connect(address).send(super::STRANGER, &[SUPPORT], &message));
        support::wait_until("the message at the endpoint", String::new, || desk.see(|record| record.read) == 1);
        site.daemon.kill();
        assert_eq!(client.join().unwrap().code, 451);
        site.daemon.resume();
    });
    assert_eq!(submit(&site, &[SUPPORT], &message).code, 250);
    // At least once: the endpoint's 250 to the first try never reached us.
    assert!((1..=2).contains(&taken(&desk)));
}
