//! A name server with the test's own records: dnsmasq, on a loopback address of its own.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use tempfile::TempDir;

use crate::free_address;
use crate::process::{Process, folder};

/// Octets in one character-string of a TXT record (RFC 1035 section 3.3).
const CHARACTER_STRING_MAX: usize = 255;

/// The records a [`NameServer`] gives out.
///
/// Names it does not know answer NXDOMAIN. Use names under `.example`.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    lines: Vec<String>,
    silent: Vec<String>,
    failing: Vec<String>,
}

impl Zone {
    /// A zone without records.
    pub fn new() -> Self {
        Self::default()
    }

    /// A TXT record; texts over 255 octets become several character-strings, as RSA keys need it.
    #[must_use]
    pub fn txt(mut self, name: &str, text: &str) -> Self {
        assert!(text.is_ascii(), "a TXT record in a test is ASCII");
        let strings: Vec<String> = text
            .as_bytes()
            .chunks(CHARACTER_STRING_MAX)
            .map(|chunk| format!("\"{}\"", String::from_utf8_lossy(chunk).replace('\\', "\\\\").replace('"', "\\\"")))
            .collect();
        self.lines.push(format!("txt-record={name},{}", strings.join(",")));
        self
    }

    /// An address record (A or AAAA) without a PTR record.
    #[must_use]
    pub fn address(mut self, name: &str, ip: &str) -> Self {
        // interface-name aside, dnsmasq makes a PTR of every host-record; a resource record given as octets it does not.
        let ip: std::net::IpAddr = ip.parse().expect("an IP address");
        let (kind, octets) = match ip {
            std::net::IpAddr::V4(ip) => (1, ip.octets().to_vec()),
            std::net::IpAddr::V6(ip) => (28, ip.octets().to_vec()),
        };
        let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        self.lines.push(format!("dns-rr={name},{kind},{hex}"));
        self
    }

    /// A host: its address record and the PTR record that points back.
    #[must_use]
    pub fn host(mut self, name: &str, ip: &str) -> Self {
        self.lines.push(format!("host-record={name},{ip}"));
        self
    }

    /// An MX record with preference 10.
    #[must_use]
    pub fn mx(mut self, name: &str, target: &str) -> Self {
        self.lines.push(format!("mx-host={name},{target},10"));
        self
    }

    /// Seconds for which answers may be kept; 0, so not at all, unless told.
    #[must_use]
    pub fn ttl(mut self, seconds: u32) -> Self {
        self.lines.push(format!("local-ttl={seconds}"));
        self
    }

    /// Every question below `domain` stays unanswered: the client's look-up times out.
    #[must_use]
    pub fn silent(mut self, domain: &str) -> Self {
        self.silent.push(domain.to_owned());
        self
    }

    /// Every question below `domain` is answered SERVFAIL at once: a temporary error.
    #[must_use]
    pub fn failing(mut self, domain: &str) -> Self {
        self.failing.push(domain.to_owned());
        self
    }
}

/// A running name server. Ends when dropped.
#[derive(Debug)]
pub struct NameServer {
    process: Option<Process>,
    address: SocketAddr,
    // Takes the questions that stay unanswered, and says nothing.
    _silence: UdpSocket,
    // Dropped with the server: ends the thread that answers SERVFAIL.
    _failure: Failure,
    folder: TempDir,
}

impl NameServer {
    /// Starts one with the records of `zone`.
    ///
    /// # Panics
    /// When dnsmasq does not start or does not like a record; shows what it said.
    pub fn start(zone: &Zone) -> Self {
        Self::start_at(free_address(), zone)
    }

    /// As [`Self::start`], at a place of the caller's choice: port 53 for a resolv.conf, which knows no other.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_at(address: SocketAddr, zone: &Zone) -> Self {
        let folder = folder("dns");
        let silence = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let failure = Failure::start();
        let silence_port = silence.local_addr().expect("its address").port();
        let mut lines = vec![
            format!("port={}", address.port()),
            format!("listen-address={}", address.ip()),
            "bind-interfaces\nno-resolv\nno-hosts\nno-poll\nuser=root\npid-file=\nlog-queries\nlog-facility=-"
                .to_owned(),
            // Nothing is asked elsewhere: what is not here does not exist.
            "local=/#/\nedns-packet-max=4096\ncache-size=0".to_owned(),
        ];
        lines.extend(zone.lines.iter().cloned());
        lines
            .extend(zone.failing.iter().map(|domain| format!("server=/{domain}/127.0.0.1#{}", failure.address.port())));
        lines.extend(zone.silent.iter().map(|domain| format!("server=/{domain}/127.0.0.1#{silence_port}")));
        let configuration = folder.path().join("dnsmasq.conf");
        std::fs::write(&configuration, lines.join("\n") + "\n").expect("dnsmasq.conf");
        let mut server = Self { process: None, address, _silence: silence, _failure: failure, folder };
        server.resume();
        server
    }

    /// Ends it: nobody answers.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again after [`Self::stop`].
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn resume(&mut self) {
        let mut command = Command::new("/usr/sbin/dnsmasq");
        command.arg("--keep-in-foreground").arg(format!("--conf-file={}", self.configuration().display()));
        let mut process = Process::start("dnsmasq", &mut command, &self.folder.path().join("log"));
        let address = self.address;
        process.wait_until("an open port", || std::net::TcpStream::connect(address).is_ok());
        self.process = Some(process);
    }

    /// Where it listens, UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The questions it was asked and its answers.
    pub fn log(&self) -> String {
        crate::process::read(&self.folder.path().join("log"))
    }

    /// The folder of its configuration.
    pub fn configuration(&self) -> std::path::PathBuf {
        self.folder.path().join("dnsmasq.conf")
    }
}

/// A name server whose every answer is SERVFAIL.
#[derive(Debug)]
struct Failure {
    address: SocketAddr,
}

impl Failure {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("its address");
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            // An empty datagram ends it.
            while let Ok((length @ 4.., client)) = socket.recv_from(&mut message) {
                // RFC 1035 section 4.1.1: QR on; RA on and RCODE 2.
                message[2] |= 0x80;
                message[3] = 0x82;
                let _ = socket.send_to(&message[..length], client);
            }
        });
        Self { address }
    }
}

impl Drop for Failure {
    fn drop(&mut self) {
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            let _ = socket.send_to(&[], self.address);
        }
    }
}
