//! What many connections and many large messages at once take of memory.
#![cfg(test)]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Daemon, MilterClient, NameServer, PrivateKey, Signer, Zone, folder, own_memory};
use tempfile::TempDir;

/// Octets of a body (4 MiB): were they kept in memory, all of them would take 200 MiB.
const BODY: usize = 4 << 20;
/// Kilobytes of anonymous and shared memory above those at rest that signing takes (32 MiB).
const SIGNING_MAX: u64 = 32 * 1024;
/// Kilobytes of anonymous and shared memory in all while verifying, at the default `limits.memory` (128 MiB).
const VERIFYING_MAX: u64 = 128 * 1024;
/// Kilobytes that an idle connection takes (32 KiB): its task and buffers, without those of the kernel.
const IDLE_MAX: u64 = 32;
/// How often a message comes again that found no memory within its time, as an MTA would send it.
const ATTEMPTS_MAX: usize = 5;

struct Company {
    daemon: Daemon,
    signer: Signer,
    socket: PathBuf,
    _names: NameServer,
    _folder: TempDir,
}

impl Company {
    fn start() -> Self {
        let folder = folder("memory");
        let socket = folder.path().join("milter.sock");
        PrivateKey::rsa().write(&folder.path().join("desk2026.pem"));
        let signer = Signer::new("customer.example", "mail");
        let names = NameServer::start(&signer.publish(Zone::new()));
        let configuration = folder.path().join("deskmilter.toml");
        std::fs::write(&configuration, toml(&socket, &names)).unwrap();
        let daemon = Daemon::start(&configuration, std::slice::from_ref(&socket));
        Self { daemon, signer, socket, _names: names, _folder: folder }
    }

    /// Kilobytes at the peak of what all of `count` threads do, which begin it together.
    fn peak_while(&mut self, count: usize, act: impl Fn(&Path, &Barrier) + Sync) -> u64 {
        let pid = self.daemon.pid();
        let (peak, done) = (AtomicU64::new(own_memory(pid)), AtomicBool::new(false));
        let barrier = Barrier::new(count);
        let all_well = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    peak.fetch_max(own_memory(pid), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(|| act(&self.socket, &barrier))).collect();
            let all_well = threads.into_iter().filter_map(|thread| thread.join().err()).count() == 0;
            done.store(true, Ordering::Relaxed);
            all_well
        });
        assert!(all_well, "{}", support::tail(&self.daemon.log()));
        peak.into_inner()
    }
}

#[test]
fn many_large_messages_at_once_are_signed_with_their_bodies_on_disk() {
    let mut company = Company::start();
    let idle = own_memory(company.daemon.pid());
    let body = text(BODY);
    let fields =
        [("From", " support@acme.example"), ("Date", " Mon, 02 Mar 2026 09:30:00 +0000"), ("Subject", " scan")];
    let peak = company.peak_while(50, |socket, barrier| {
        let mut mta = MilterClient::connect(socket);
        mta.begin("192.0.2.10", Some("desk"), "support@acme.example", "jane@customer.example", &fields);
        barrier.wait();
        let verdict = mta.end(body.as_bytes());
        assert!(verdict.last == b'c' && !verdict.added.is_empty(), "{verdict:?}");
    });
    let above = peak.saturating_sub(idle);
    assert!(above <= SIGNING_MAX, "{above} KiB above the {idle} KiB at rest");
}

#[test]
fn a_hundred_messages_of_ten_mebibytes_are_verified_at_once_within_128_mebibytes() {
    let mut company = Company::start();
    let message = format!(
        "From: jane@customer.example\r\nTo: support@acme.example\r\nSubject: scan\r\nDate: Mon, 02 Mar 2026 09:30:00 +0000\r\n\
         Message-ID: <scan@customer.example>\r\n\r\n{}",
        text(10 << 20)
    );
    let signed = String::from_utf8(company.signer.sign(message.as_bytes())).unwrap();
    let (header, body) = signed.split_once("\r\n\r\n").unwrap();
    let unfolded = header.replace("\r\n\t", "\n\t").replace("\r\n ", "\n ");
    let fields: Vec<(&str, &str)> = unfolded.split("\r\n").filter_map(|field| field.split_once(':')).collect();
    let (begun, pass) = (Instant::now(), AtomicU64::new(0));
    let put_off = AtomicU64::new(0);
    let peak = company.peak_while(100, |socket, barrier| {
        let mut mta = MilterClient::connect(socket);
        for attempt in 0..ATTEMPTS_MAX {
            mta.begin("192.0.2.10", None, "jane@customer.example", "support@acme.example", &fields);
            if attempt == 0 {
                barrier.wait();
            }
            let verdict = mta.end(body.as_bytes());
            if verdict.last == b'c' {
                pass.fetch_add(u64::from(verdict.added.iter().any(|f| f.contains("dkim=pass"))), Ordering::Relaxed);
                return;
            }
            // On a slow machine a share of the memory does not become free in time: put off, never refused.
            assert!(verdict.reply.starts_with("451 4.3.0"), "{verdict:?}");
            put_off.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (took, put_off) = (begun.elapsed().as_secs(), put_off.into_inner());
    println!("100 x 10 MiB verified: {} MiB at the peak, {took} s, {put_off} put off meanwhile", peak / 1024);
    assert_eq!(pass.into_inner(), 100, "{}", support::tail(&company.daemon.log()));
    assert!(peak <= VERIFYING_MAX, "{peak} KiB");
}

#[test]
fn a_thousand_idle_connections_take_next_to_nothing() {
    let mut company = Company::start();
    let pid = company.daemon.pid();
    let before = own_memory(pid);
    // One less than the limit, so that there is one left.
    let mut idle: Vec<MilterClient> = (0..999).map(|_| MilterClient::connect(&company.socket)).collect();
    let each = own_memory(pid).saturating_sub(before) / 999;
    println!("999 idle connections: {each} KiB each, {} MiB in all", own_memory(pid) / 1024);
    assert!(each <= IDLE_MAX, "{each} KiB each");
    // After a message they are as small again.
    for mta in idle.iter_mut().take(100) {
        mta.begin("192.0.2.10", None, "jane@customer.example", "support@acme.example", &[("Subject", " x")]);
        assert_eq!(mta.end(text(60_000).as_bytes()).last, b'c');
    }
    let after = own_memory(pid).saturating_sub(before) / 1024;
    assert!(after <= 32, "{after} MiB after a message over each of 100");
}

#[test]
fn slow_connections_hold_up_nobody() {
    let company = Company::start();
    // Each sends an octet of a frame now and then, some of a frame that would take 2 MiB.
    let mut slow: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(&company.socket).unwrap()).collect();
    let offer = [0_u8, 0, 0, 13, b'O', 0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0x1f, 0xff];
    for octet in offer {
        slow.iter_mut().for_each(|stream| stream.write_all(&[octet]).unwrap());
        let begun = Instant::now();
        let mut mta = MilterClient::connect(&company.socket);
        mta.begin("192.0.2.10", None, "jane@customer.example", "support@acme.example", &[("Subject", " x")]);
        assert_eq!(mta.end(b"hello\r\n").last, b'c');
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

fn text(octets: usize) -> String {
    let line = "VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZyBhbmQgbG9va3MgZm9y\r\n";
    line.repeat(octets / line.len())
}

fn toml(socket: &Path, names: &NameServer) -> String {
    format!(
        r#"
[daemon]
hostname = "mx.acme.example"
state_directory = "state"
[milter]
listen = ["unix:{}"]
[authentication]
name_servers = ["{}"]
[[connector]]
name = "acme"
domain = "acme.example"
addresses = ["support@acme.example"]
mode = "outbound-only"
[connector.submission]
logins = [{{ name = "desk", addresses = ["support@acme.example"] }}]
[[connector.dkim]]
selector = "desk2026"
key_file = "desk2026.pem"
"#,
        socket.display(),
        names.address(),
    )
}
