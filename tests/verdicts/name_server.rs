//! A private name server: dnsmasq on a port of its own, with one zone that answers SERVFAIL and one that never answers.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Octets in one string of a TXT record (RFC 1035 section 3.3.14).
const STRING_MAX: usize = 255;
/// How long dnsmasq may take to start.
const START: Duration = Duration::from_secs(10);

/// A record of the test zone.
pub enum Record {
    Txt(String, String),
    A(String, &'static str),
    Aaaa(String, &'static str),
    Mx(String, u16, String),
    Ptr(String, String),
}

pub struct NameServer {
    pub address: SocketAddr,
    child: Child,
    _configuration: tempfile::TempDir,
}

impl NameServer {
    /// Serves `records`; everything else below `example` and `in-addr.arpa` does not exist. Below `servfail.example` and
    /// for a key of `both.example` every answer is SERVFAIL, below `down.example` there is none.
    pub fn start(records: &[Record]) -> Self {
        let trouble = troubled_zones();
        let deadline = Instant::now() + START;
        loop {
            let address = free_port();
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("dnsmasq.conf");
            std::fs::write(&file, configuration(records, address, trouble)).unwrap();
            let child = Command::new("dnsmasq")
                .arg("--keep-in-foreground")
                .arg(format!("--conf-file={}", file.display()))
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("dnsmasq: {error}; run tests/peers/install.sh"));
            let mut server = Self { address, child, _configuration: directory };
            while Instant::now() < deadline {
                // Another process may have taken the port in between; then this one's dnsmasq ends.
                let answers = TcpStream::connect(address).is_ok();
                let ended = server.child.try_wait().unwrap().is_some();
                if ended {
                    break;
                }
                if answers {
                    return server;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(Instant::now() < deadline, "dnsmasq did not start within {START:?}");
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> SocketAddr {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

fn configuration(records: &[Record], address: SocketAddr, trouble: SocketAddr) -> Vec<u8> {
    let mut text = Vec::new();
    let (ip, port) = (address.ip(), address.port());
    write!(
        text,
        "port={port}\nlisten-address={ip}\nbind-interfaces\nno-resolv\nno-hosts\npid-file\ncache-size=0\nuser={}\n\
         log-facility=/dev/null\nlocal=/example/\nlocal=/arpa/\n",
        whoami(),
    )
    .unwrap();
    for zone in ["servfail.example", "down.example", "servfail._domainkey.both.example"] {
        writeln!(text, "server=/{zone}/{}#{}", trouble.ip(), trouble.port()).unwrap();
    }
    for record in records {
        match record {
            Record::Txt(name, value) => {
                write!(text, "txt-record={name}").unwrap();
                for string in value.as_bytes().chunks(STRING_MAX) {
                    write!(text, ",\"{}\"", String::from_utf8_lossy(string)).unwrap();
                }
                writeln!(text).unwrap();
            }
            Record::A(name, ip) | Record::Aaaa(name, ip) => writeln!(text, "host-record={name},{ip}").unwrap(),
            Record::Mx(name, preference, host) => writeln!(text, "mx-host={name},{host},{preference}").unwrap(),
            Record::Ptr(name, target) => writeln!(text, "ptr-record={name},{target}").unwrap(),
        }
    }
    text
}

fn whoami() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The server that the two broken zones are delegated to. It ends with the test process.
fn troubled_zones() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 1024];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            let asked_for_servfail = query[..len].to_ascii_lowercase().windows(8).any(|part| part == b"servfail");
            if asked_for_servfail && len >= 12 {
                // RFC 1035 section 4.1.1: QR, RCODE 2.
                query[2] |= 0x80;
                query[3] = 0x82;
                let _ = socket.send_to(&query[..len], from);
            }
        }
    });
    address
}
