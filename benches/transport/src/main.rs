//! Notifications from LMTP to the company host, beside Postfix's own SMTP client: the same host, TLS with a verified
//! certificate and AUTH PLAIN, as many connections at a time on every way, all of them used again.
//!
//! Three ways lead to the host, a scripted one in this process ([`support::endpoint`]):
//! - Postfix's `smtp`, fed by Postfix's queue;
//! - Postfix's `lmtp` and deskmilter's transport, fed by the same queue: what a desk would have;
//! - deskmilter's transport alone, fed by LMTP clients in this process, each of which waits for its reply before it goes on.
//!
//! All messages of a run are in the queue before it begins, and its clock runs from the release to the last message at the
//! host. The ways take turns ([`ROUNDS`]); ratios are taken within a round. docs/performance.md says how to read the result.

mod usage;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::endpoint::{Endpoint, Script};
use support::{CREDENTIALS, DeskSite, LmtpClient, PrivatePostfix, postfix_program, tail, wait_within};
use tokio::runtime::Runtime;

/// The name by which `BENCH_ONLY` chooses this bench.
const NAME: &str = "transport";
/// Messages a run.
const COUNT: usize = 600;
/// Messages sent by each way before anything is measured.
const WARM_UP: usize = 40;
/// Connections to the host at a time.
const CONNECTIONS: usize = 10;
/// Rounds unless `BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 3;
/// Octets of a message's body, about.
const BODY: usize = 10 * 1024;
/// How often is looked whether a run is done.
const POLL: Duration = Duration::from_millis(1);
/// When nothing has come for so long, Postfix is told again, and the clock starts again.
const DEAF: Duration = Duration::from_secs(4);
/// A run that takes longer is broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// The only sender; the site has a login for it.
const SENDER: &str = "support@acme.example";

/// One way to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Smtp,
    LmtpThenDeskmilter,
    Deskmilter,
}

/// What a run gave.
struct Figures {
    rate: f64,
    /// Milliseconds of CPU time for a message, of the programs that send it.
    cpu: f64,
    connections: usize,
}

fn main() -> ExitCode {
    if !NAME.contains(&std::env::var("BENCH_ONLY").unwrap_or_default()) {
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("bench: must be root, to start a private Postfix: run `sudo make bench`, or `make bench` as root");
        return ExitCode::FAILURE;
    }
    let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|value| value.parse().ok()).unwrap_or(ROUNDS).max(1);
    let bench = Bench::start();
    let mut figures: [Vec<Figures>; 3] = Default::default();
    for way in Way::ALL {
        bench.run(way, WARM_UP);
    }
    for round in 0..rounds {
        for turn in 0..Way::ALL.len() {
            // Who goes first changes from round to round.
            let n = (turn + round) % Way::ALL.len();
            figures[n].push(bench.run(Way::ALL[n], COUNT));
        }
        eprintln!("bench: transport, round {} of {rounds} done", round + 1);
    }
    print(&figures);
    ExitCode::SUCCESS
}

fn print(figures: &[Vec<Figures>; 3]) {
    println!(
        "{COUNT} messages of {} KiB to the company host (TLS, AUTH), {CONNECTIONS} connections at a time. Ratios are to Postfix's \
         smtp: median (least..most) of {} rounds.\n",
        BODY / 1024,
        figures[0].len(),
    );
    println!("| way | messages/s | CPU ms a message | connections made | rate ratio | CPU ratio |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (way, all) in Way::ALL.iter().zip(figures) {
        let of =
            |figures: &[Figures], figure: fn(&Figures) -> f64| -> Vec<f64> { figures.iter().map(figure).collect() };
        let ratio = |figure| {
            spread(&of(all, figure).iter().zip(of(&figures[0], figure)).map(|(a, b)| a / b).collect::<Vec<_>>())
        };
        println!(
            "| {} | {:.0} | {:.2} | {:.0} | {} | {} |",
            way.name(),
            median(&of(all, |one| one.rate)),
            median(&of(all, |one| one.cpu)),
            median(&of(all, |one| one.connections as f64)),
            ratio(|one| one.rate),
            ratio(|one| one.cpu),
        );
    }
    println!();
}

impl Way {
    const ALL: [Self; 3] = [Self::Smtp, Self::LmtpThenDeskmilter, Self::Deskmilter];

    fn name(self) -> &'static str {
        match self {
            Self::Smtp => "Postfix: queue, smtp",
            Self::LmtpThenDeskmilter => "Postfix: queue, lmtp; deskmilter",
            Self::Deskmilter => "LMTP clients; deskmilter",
        }
    }

    /// The domain for which Postfix takes this way.
    fn domain(self) -> &'static str {
        match self {
            Self::Smtp => "direct.example",
            Self::LmtpThenDeskmilter | Self::Deskmilter => "desk.example",
        }
    }
}

/// The host, and who sends to it.
struct Bench {
    postfix: PrivatePostfix,
    desk: DeskSite,
    host: Endpoint,
    message: PathBuf,
    /// The process ids of deskmilter and of Postfix's master.
    daemon: u32,
    master: u32,
    _runtime: Runtime,
}

impl Bench {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let more = format!("connections = {CONNECTIONS}\n");
        let (mut desk, host) = DeskSite::with_script(&runtime, Script::default(), CREDENTIALS, &more);
        let postfix = postfix(&host, &desk.socket());
        let message = postfix.configuration().join("message");
        std::fs::write(&message, text()).expect("a file for the message");
        let daemon = desk.daemon.pid();
        let master = std::fs::read_to_string(postfix.queue_directory().join("pid/master.pid")).unwrap_or_default();
        let master = master.trim().parse().expect("the process id of Postfix's master");
        Self { postfix, desk, host, message, daemon, master, _runtime: runtime }
    }

    /// Sends `count` messages by `way`.
    fn run(&self, way: Way, count: usize) -> Figures {
        if way != Way::Deskmilter {
            self.fill_the_queue(way, count);
        }
        let seen = || self.host.see(|record| (record.taken.len(), record.connections));
        let ((before, connections), cpu) = (seen(), self.cpu(way));
        let mut start = Instant::now();
        match way {
            Way::Deskmilter => self.hand_over(count),
            Way::Smtp | Way::LmtpThenDeskmilter => self.postfix.flush(),
        }
        let log = || self.postfix.log() + &self.desk.daemon.log();
        while seen().0 < before + count {
            assert!(start.elapsed() < PATIENCE, "{way:?}: {} of {count}\n{}", seen().0 - before, tail(&log()));
            if way != Way::Deskmilter && seen().0 == before && start.elapsed() > DEAF {
                // A queue manager that is just starting may miss it.
                start = Instant::now();
                self.postfix.flush();
            }
            std::thread::sleep(POLL);
        }
        let elapsed = start.elapsed();
        let figures = Figures {
            rate: count as f64 / elapsed.as_secs_f64(),
            cpu: (self.cpu(way).saturating_sub(cpu)).as_secs_f64() * 1000.0 / count as f64,
            connections: seen().1 - connections,
        };
        self.postfix.wait_for_empty_queue();
        figures
    }

    /// CPU time so far of the programs that send by `way`.
    fn cpu(&self, way: Way) -> Duration {
        let ours = || usage::cpu(self.daemon);
        let postfix = |programs: &[&str]| usage::cpu_of_children(self.master, programs);
        match way {
            Way::Smtp => postfix(&["smtp", "tlsproxy", "scache"]),
            Way::LmtpThenDeskmilter => ours() + postfix(&["lmtp", "scache"]),
            Way::Deskmilter => ours(),
        }
    }

    fn hand_over(&self, count: usize) {
        let (next, message) = (AtomicUsize::new(0), text());
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(|| {
                    let mut client = LmtpClient::connect(&self.desk.socket());
                    while next.fetch_add(1, Ordering::Relaxed) < count {
                        let replies = client.send(SENDER, &["jane@customer.example"], &message);
                        assert!(replies.iter().all(|reply| reply.code == 250), "{replies:?}");
                    }
                });
            }
        });
    }

    /// Has Postfix keep messages until its queue is flushed: taken on hold, then moved to the deferred queue.
    fn fill_the_queue(&self, way: Way, count: usize) {
        let output = Command::new(postfix_program("smtp-source"))
            .args(["-s", "4", "-m", &count.to_string(), "-f", SENDER])
            .args(["-t", &format!("jane@{}", way.domain()), "-F"])
            .arg(&self.message)
            .arg(format!("inet:{}:{}", self.postfix.address().ip(), self.postfix.address().port()))
            .output()
            .expect("smtp-source");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "smtp-source: {} {said}", output.status);
        let held = || self.postfix.queue().iter().filter(|queued| queued.queue == "hold").count();
        wait_within(PATIENCE, "held messages", || self.postfix.log(), || held() >= count);
        let released = self.postfix.command("postsuper").args(["-H", "ALL"]).output().expect("postsuper");
        assert!(released.status.success(), "postsuper: {}", String::from_utf8_lossy(&released.stderr));
    }
}

fn postfix(host: &Endpoint, desk: &Path) -> PrivatePostfix {
    let mut postfix = PrivatePostfix::new(&[], "", false);
    let authority = postfix.configuration().join("ca.pem");
    std::fs::write(&authority, &host.ca).expect("the authority");
    let next_hop = format!("[localhost]:{}", host.port);
    postfix.configure(&format!(
        "transport_maps = inline:{{ {{ {direct} = direct:{next_hop} }}, {{ {through} = through:unix:{desk} }} }}\n\
         smtpd_end_of_data_restrictions = check_client_access static:HOLD\n\
         smtp_host_lookup = native\n\
         smtp_sasl_auth_enable = yes\n\
         smtp_sasl_password_maps = inline:{{ {{ {next_hop} = desk-support:s3cret-one }} }}\n\
         smtp_sasl_security_options = noanonymous\n\
         smtp_tls_security_level = secure\n\
         smtp_tls_secure_cert_match = localhost\n\
         smtp_tls_CAfile = {authority}\n\
         smtp_tls_connection_reuse = yes\n\
         smtp_connection_cache_on_demand = yes\n\
         smtp_connection_cache_destinations = {next_hop}\n\
         default_destination_concurrency_limit = {CONNECTIONS}\n\
         initial_destination_concurrency = {CONNECTIONS}\n\
         queue_run_delay = 600s\nminimal_backoff_time = 600s\nmaximal_backoff_time = 600s\n",
        direct = Way::Smtp.domain(),
        through = Way::LmtpThenDeskmilter.domain(),
        desk = desk.display(),
        authority = authority.display(),
    ));
    postfix.add_service(&format!("direct unix - - n - {CONNECTIONS} smtp"));
    postfix.add_service(&format!("through unix - - n - {CONNECTIONS} lmtp"));
    postfix.add_service("tlsproxy unix - - n - 0 tlsproxy");
    postfix.resume();
    postfix
}

fn text() -> Vec<u8> {
    let line = "a line of a notification, as long as people write them\r\n";
    let body: String = line.repeat(BODY / line.len());
    format!(
        "From: Support <{SENDER}>\r\nTo: jane@customer.example\r\nSubject: Re: order 4711 has not arrived\r\n\
         Date: Mon, 02 Mar 2026 09:30:00 +0000\r\nMessage-ID: <n4711@acme.example>\r\n\
         Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The middle one; the upper of two.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `2.10 (1.95..2.31)`.
fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.2} ({least:.2}..{most:.2})", median(values))
}
