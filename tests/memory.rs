//! What many large messages at once take of memory while they are signed: their bodies are on disk.
#![cfg(test)]

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::{Daemon, PrivateKey, folder};

/// Messages at once.
const MESSAGES: usize = 50;
/// Octets of a body (4 MiB): were they kept in memory, all of them would take 200 MiB.
const BODY: usize = 4 << 20;
/// Kilobytes of anonymous and shared memory above those at rest (32 MiB).
const ABOVE_IDLE_MAX: u64 = 32 * 1024;
/// Octets of a body chunk of the milter protocol at most.
const CHUNK: usize = 65_535;

#[test]
fn many_large_messages_at_once_are_signed_with_their_bodies_on_disk() {
    let folder = folder("memory");
    let socket = folder.path().join("milter.sock");
    PrivateKey::rsa().write(&folder.path().join("desk2026.pem"));
    let configuration = folder.path().join("deskmilter.toml");
    std::fs::write(&configuration, toml(&socket)).unwrap();
    let mut daemon = Daemon::start(&configuration, std::slice::from_ref(&socket));
    let pid = daemon.pid();

    let idle = own_memory(pid);
    let (peak, done) = (AtomicU64::new(idle), AtomicBool::new(false));
    let barrier = Barrier::new(MESSAGES);
    let line = "VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZyBhbmQgbG9va3MgZm9y\r\n";
    let body = line.repeat(BODY / line.len());
    let signed = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(own_memory(pid), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let send = || {
            let mut mta = Mta::connect(&socket);
            mta.envelope_and_fields();
            barrier.wait();
            mta.is_signed(body.as_bytes())
        };
        let senders: Vec<_> = (0..MESSAGES).map(|_| scope.spawn(send)).collect();
        let signed = senders.into_iter().filter_map(|sender| sender.join().ok()).filter(|signed| *signed).count();
        done.store(true, Ordering::Relaxed);
        signed
    });
    assert_eq!(signed, MESSAGES, "{}", daemon.log());
    let above = peak.into_inner().saturating_sub(idle);
    assert!(above <= ABOVE_IDLE_MAX, "{above} KiB above the {idle} KiB at rest");
}

fn toml(socket: &Path) -> String {
    format!(
        r#"
[daemon]
hostname = "mx.acme.example"
state_directory = "state"
[milter]
listen = ["unix:{}"]
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
        socket.display()
    )
}

/// Kilobytes that are the process's own: anonymous memory, and shared memory in its share (proc_pid_smaps(5)).
fn own_memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kilobytes = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    kilobytes("Anonymous:") + kilobytes("Pss_Shmem:")
}

/// The MTA's side of one message.
struct Mta {
    write: UnixStream,
    read: BufReader<UnixStream>,
}

impl Mta {
    fn connect(socket: &Path) -> Self {
        let write = UnixStream::connect(socket).unwrap();
        write.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let read = BufReader::new(write.try_clone().unwrap());
        Self { write, read }
    }

    /// Up to the end of the header section; only the negotiation and DATA are answered.
    fn envelope_and_fields(&mut self) {
        let offer: Vec<u8> = [6_u32, 0x1ff, 0x1f_ffff].iter().flat_map(|number| number.to_be_bytes()).collect();
        self.send(b'O', &offer);
        assert_eq!(self.receive(), b'O');
        self.send(b'C', b"desk.example\x004\x9c\x40192.0.2.10\0");
        self.send(b'D', b"H{tls_version}\0TLSv1.3\0");
        self.send(b'H', b"desk.example\0");
        self.send(b'D', b"M{auth_authen}\0desk\0");
        self.send(b'M', b"<support@acme.example>\0");
        self.send(b'R', b"<jane@customer.example>\0");
        self.send(b'T', b"");
        assert_eq!(self.receive(), b'c');
        for field in ["From\0 support@acme.example\0", "Date\0 Mon, 02 Mar 2026 09:30:00 +0000\0", "Subject\0 scan\0"] {
            self.send(b'L', field.as_bytes());
        }
        self.send(b'N', b"");
    }

    /// The body, and whether a signature is among the answers to its end.
    fn is_signed(&mut self, body: &[u8]) -> bool {
        for chunk in body.chunks(CHUNK) {
            self.send(b'B', chunk);
        }
        self.send(b'E', b"");
        let mut signed = false;
        loop {
            match self.receive() {
                b'i' => signed = true,
                b'p' => {}
                last => return signed && last == b'c',
            }
        }
    }

    fn send(&mut self, code: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len() + 1).unwrap();
        self.write.write_all(&[&length.to_be_bytes(), &[code][..], payload].concat()).unwrap();
    }

    fn receive(&mut self) -> u8 {
        let mut head = [0; 5];
        self.read.read_exact(&mut head).unwrap();
        let [length @ .., code] = head;
        let mut payload = vec![0; u32::from_be_bytes(length) as usize - 1];
        self.read.read_exact(&mut payload).unwrap();
        code
    }
}
