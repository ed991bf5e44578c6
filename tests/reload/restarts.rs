//! A daemon that is restarted while mail flows, its sockets held by somebody else as systemd holds them.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::Group;
use support::{Message, Site, SmtpSession};

use super::{SUPPORT, another_connector, fact, reload, sockets};

/// Clients at a time.
const CLIENTS: usize = 6;
/// Messages of one SMTP session at most; then its client comes anew.
const MESSAGES_A_SESSION: usize = 7;
/// Longer than all messages may wait in the queue for their last attempt.
const QUEUE_TIME: Duration = Duration::from_secs(120);

/// How much of everything.
struct Plan {
    messages: usize,
    reloads: usize,
    restarts: usize,
}

impl Plan {
    /// A small one, unless `RESTARTS=full` asks for 5,000 messages, 200 reloads and 5 restarts.
    fn from_environment() -> Self {
        match std::env::var("RESTARTS").as_deref() {
            Ok("full") => Self { messages: 5_000, reloads: 200, restarts: 5 },
            _ => Self { messages: 500, reloads: 20, restarts: 2 },
        }
    }
}

/// The service manager's side of a socket: bound once, kept open for every process that is started.
fn socket(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    let group = Group::from_name("postfix").unwrap().unwrap();
    chown(path, None, Some(group.gid.as_raw())).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o660)).unwrap();
    // Whoever is started from here has it.
    fcntl(listener.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    listener
}

/// From now on the daemon is started as systemd starts it: the sockets are its descriptors 3 and 4.
fn hold_sockets(site: &mut Site) -> [UnixListener; 2] {
    assert!(site.daemon.stop().success());
    let held = ["milter.sock", "transport/acme.sock"].map(|name| socket(&sockets(site).join(name)));
    let [milter, transport] = held.each_ref().map(AsRawFd::as_raw_fd);
    let script = format!(
        "exec 13<&{milter} 14<&{transport}; exec 3<&13 4<&14 13<&- 14<&-; export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\""
    );
    site.daemon.start_by(&["/bin/bash", "-c", &script, "bash"]);
    start(site, 2);
    held
}

/// Starts the daemon for the `count`th time. Its sockets take connections all the time, so only its log says when it is ready, and
/// before that a SIGHUP would end it.
fn start(site: &mut Site, count: usize) {
    site.daemon.resume();
    let ready = || site.daemon.log().matches("ready version").count() >= count;
    support::wait_until("a daemon that is ready", || site.daemon.log(), ready);
}

/// Each message from its own client, in sessions of some messages; every one must be taken at the first attempt.
fn send(site: &std::net::SocketAddr, plan: &Plan, client: usize, sent: &AtomicUsize) {
    let mut numbers = (client..plan.messages).step_by(CLIENTS).peekable();
    let mut length = client % MESSAGES_A_SESSION;
    while numbers.peek().is_some() {
        let mut session = SmtpSession::connect(*site);
        session.expect(250, "EHLO localhost");
        length = (length + 1) % MESSAGES_A_SESSION;
        for n in numbers.by_ref().take(length + 1) {
            let message = Message::new("a@plain.example", SUPPORT, &format!("message {n}"));
            let reply = session.send("a@plain.example", &[SUPPORT], &message.octets());
            assert_eq!(reply.code, 250, "message {n}: {reply}");
            sent.fetch_add(1, Ordering::Relaxed);
        }
        session.expect(221, "QUIT");
    }
}

#[test]
fn over_reloads_and_restarts_no_message_is_refused_lost_doubled_or_comes_past_the_milter() {
    let plan = Plan::from_environment();
    let mut site = Site::start();
    let _held = hold_sockets(&mut site);
    let original = std::fs::read_to_string(site.configuration()).unwrap();
    let others = format!("{original}{}", another_connector(&site, "other"));
    let address = site.postfix.address();
    let (sent, begun) = (AtomicUsize::new(0), Instant::now());
    let mut longest = Duration::ZERO;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (sent, plan) = (&sent, &plan);
            scope.spawn(move || send(&address, plan, client, sent));
        }
        let mut restarted = 0;
        for n in 0..plan.reloads {
            while sent.load(Ordering::Relaxed) < n * plan.messages / plan.reloads {
                assert!(begun.elapsed() < Duration::from_secs(600), "the clients do not get on");
                std::thread::sleep(Duration::from_millis(5));
            }
            // Spread over the run, the first one after the first messages.
            if restarted < plan.restarts && n * (plan.restarts + 1) >= (restarted + 1) * plan.reloads {
                let stopped = Instant::now();
                assert!(site.daemon.stop().success());
                restarted += 1;
                start(&mut site, restarted + 2);
                longest = longest.max(stopped.elapsed());
            }
            let text = if n % 2 == 0 { &others } else { &original };
            let connections = format!("[connector.endpoint]\nmax_connections = {}", 2 + n % 5);
            std::fs::write(site.configuration(), text.replace("[connector.endpoint]", &connections)).unwrap();
            let told = reload(&mut site);
            assert!(told.contains("configuration reloaded"), "{told}");
        }
        assert_eq!(restarted, plan.restarts);
    });
    let took = begun.elapsed();
    let all_there = || site.desk.count_tickets() >= plan.messages;
    support::wait_within(QUEUE_TIME, "all tickets", || site.postfix.log(), all_there);
    site.postfix.wait_for_empty_queue();

    let mut seen: HashMap<String, usize> = HashMap::new();
    for ticket in &site.desk.tickets() {
        *seen.entry(fact(ticket, "message_id").to_owned()).or_default() += 1;
    }
    let (postfix, log) = (site.postfix.log(), site.daemon.log());
    let count = |what: &str| postfix.matches(what).count();
    println!(
        "{} messages by {CLIENTS} clients, {} reloads, {} restarts in {:.1} s; {} tickets; longest restart {:.1} s; \
         attempts that waited in the queue: {}",
        plan.messages,
        plan.reloads,
        plan.restarts,
        took.as_secs_f32(),
        site.desk.count_tickets(),
        longest.as_secs_f32(),
        count("status=deferred"),
    );
    println!("{}", lines(&postfix, "status=deferred"));
    assert_eq!(seen.len(), plan.messages, "none is lost");
    assert_eq!(site.desk.count_tickets(), plan.messages, "none is doubled: {:?}", doubled(&seen));
    for trouble in ["status=bounced", "connect to Milter", "warning: milter", "milter-reject", "reject:", "timeout"] {
        assert_eq!(count(trouble), 0, "{trouble}: {}", lines(&postfix, trouble));
    }
    assert_eq!(log.matches("configuration reloaded").count(), plan.reloads);
    let judged = log.matches("judged decision=tagged").count();
    assert_eq!(judged, plan.messages, "none came past the milter");
    assert!(!log.contains("reason=not-judged"), "{}", lines(&log, "reason=not-judged"));
    let troubles = log.lines().filter(|line| line.contains(" ERROR ") || line.contains(" WARN "));
    let troubles: Vec<_> = troubles.filter(|line| !line.contains("running as root")).collect();
    assert!(troubles.is_empty(), "{}", troubles.join("\n"));
}

fn doubled(seen: &HashMap<String, usize>) -> Vec<&String> {
    seen.iter().filter(|(_, count)| **count > 1).map(|(id, _)| id).collect()
}

/// The first lines with a text.
fn lines(log: &str, text: &str) -> String {
    log.lines().filter(|line| line.contains(text)).take(20).collect::<Vec<_>>().join("\n")
}
