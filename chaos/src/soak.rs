//! Do memory and descriptors stay flat? Any number of small messages, verified and signed in turn, over a few milter connections.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Daemon, MilterClient, NameServer, PrivateKey, Signer, Zone, descriptors, folder, own_memory};

/// Milter connections at a time.
const CONNECTIONS: usize = 4;
/// Messages of a connection; then another one.
const MESSAGES_PER_CONNECTION: usize = 100;
/// Between two looks at the daemon.
const LOOK: Duration = Duration::from_millis(250);
/// The part of a run that is not looked at: caches fill, threads start.
const WARM_UP: f64 = 0.2;

/// What was seen.
#[derive(Debug)]
pub struct Soak {
    /// Messages judged.
    pub messages: usize,
    /// How long it took.
    pub took: Duration,
    /// Messages so far, kilobytes, descriptors.
    samples: Vec<(usize, u64, usize)>,
}

/// Runs `messages` through a daemon of its own.
///
/// # Panics
/// When a message is refused, is not signed, or does not pass; shows the log.
pub fn soak(messages: usize) -> Soak {
    let folder = folder("soak");
    let socket = folder.path().join("milter.sock");
    PrivateKey::rsa().write(&folder.path().join("desk2026.pem"));
    let signer = Signer::new("customer.example", "mail");
    let zone = signer.publish(Zone::new().txt("customer.example", "v=spf1 ip4:192.0.2.10 -all").ttl(3_600));
    let names = NameServer::start(&zone);
    let configuration = folder.path().join("deskmilter.toml");
    let text = TOML.replace("SOCKET", &socket.display().to_string()).replace("NAMES", &names.address().to_string());
    std::fs::write(&configuration, text).expect("the configuration");
    let mut daemon = Daemon::start(&configuration, std::slice::from_ref(&socket));
    let pid = daemon.pid();
    let inbound = signer.sign(
        b"From: jane@customer.example\r\nTo: support@acme.example\r\nSubject: hello\r\nDate: Mon, 02 Mar 2026 09:30:00 +0000\r\n\
          Message-ID: <soak@customer.example>\r\n\r\nMy order 4711 has not arrived.\r\n",
    );
    let inbound = String::from_utf8_lossy(&inbound).into_owned();
    let (header, body) = inbound.split_once("\r\n\r\n").expect("a header section");
    let unfolded = header.replace("\r\n\t", "\n\t").replace("\r\n ", "\n ");
    let fields: Vec<(&str, &str)> = unfolded.split("\r\n").filter_map(|field| field.split_once(':')).collect();
    let notification =
        [("From", " support@acme.example"), ("Date", " Mon, 02 Mar 2026 09:30:00 +0000"), ("Subject", " Re: hello")];
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    let mut samples = Vec::new();
    let all_well = std::thread::scope(|scope| {
        let send = || {
            while next.load(Ordering::Relaxed) < messages {
                let mut mta = MilterClient::connect(&socket);
                for _ in 0..MESSAGES_PER_CONNECTION {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= messages {
                        return;
                    }
                    let wanted = if number % 2 == 0 {
                        mta.begin("192.0.2.10", None, "jane@customer.example", "support@acme.example", &fields);
                        "dkim=pass"
                    } else {
                        let (from, to) = ("support@acme.example", "jane@customer.example");
                        mta.begin("192.0.2.10", Some("desk"), from, to, &notification);
                        "DKIM-Signature:"
                    };
                    let verdict = mta.end(body.as_bytes());
                    let good = verdict.last == b'c' && verdict.added.iter().any(|field| field.contains(wanted));
                    assert!(good, "no {wanted}: {verdict:?}");
                }
            }
        };
        let senders: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(send)).collect();
        let watch = scope.spawn(|| {
            let mut samples = Vec::new();
            while !done.load(Ordering::Acquire) {
                samples.push((next.load(Ordering::Relaxed).min(messages), own_memory(pid), descriptors(pid)));
                std::thread::sleep(LOOK);
            }
            samples
        });
        let all_well = senders.into_iter().filter_map(|sender| sender.join().err()).count() == 0;
        done.store(true, Ordering::Release);
        samples = watch.join().unwrap_or_default();
        all_well
    });
    assert!(all_well, "{}", support::tail(&daemon.log()));
    Soak { messages, took: begun.elapsed(), samples }
}

impl Soak {
    /// Octets of memory that each message leaves behind, by least squares over all but the beginning.
    pub fn octets_per_message(&self) -> f64 {
        self.slope(|sample| sample.1 as f64 * 1024.0)
    }

    /// Descriptors that a thousand messages leave behind.
    pub fn descriptors_per_thousand(&self) -> f64 {
        self.slope(|sample| sample.2 as f64) * 1_000.0
    }

    #[allow(clippy::cast_precision_loss)]
    fn slope(&self, of: impl Fn(&(usize, u64, usize)) -> f64) -> f64 {
        let points: Vec<(f64, f64)> = self
            .samples
            .iter()
            .map(|sample| (sample.0 as f64, of(sample)))
            .filter(|point| point.0 >= self.messages as f64 * WARM_UP)
            .collect();
        let count = points.len().max(1) as f64;
        let mean = |part: fn(&(f64, f64)) -> f64| points.iter().map(part).sum::<f64>() / count;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
        if spread == 0.0 { 0.0 } else { points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread }
    }
}

impl std::fmt::Display for Soak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.took.as_secs();
        writeln!(f, "{} messages in {seconds} s, half of them verified, half signed", self.messages)?;
        let step = self.samples.len().div_ceil(10).max(1);
        for (messages, kilobytes, descriptors) in self.samples.iter().step_by(step) {
            writeln!(f, "{messages:>10} messages: {kilobytes:>8} KiB, {descriptors:>4} descriptors")?;
        }
        let (octets, opened) = (self.octets_per_message(), self.descriptors_per_thousand());
        writeln!(f, "slope: {octets:.2} octets of memory a message, {opened:.4} descriptors a thousand messages")
    }
}

const TOML: &str = r#"
[daemon]
hostname = "mx.acme.example"
state_directory = "state"
[milter]
listen = ["unix:SOCKET"]
[authentication]
name_servers = ["NAMES"]
[[connector]]
name = "acme"
domain = "acme.example"
addresses = ["support@acme.example"]
mode = "outbound-only"
[connector.submission]
logins = [{ name = "desk", addresses = ["support@acme.example"] }]
[[connector.dkim]]
selector = "desk2026"
key_file = "desk2026.pem"
"#;
