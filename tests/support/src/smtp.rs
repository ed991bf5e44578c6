//! A small SMTP client that says exactly what it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::TlsIdentity;
use crate::process::PATIENCE;
use crate::tls_identity::client_trusting;

/// Who an SMTP client claims to be, told to Postfix by XCLIENT.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its address: what SPF is judged on.
    pub ip: IpAddr,
    /// Its verified host name.
    pub name: String,
    /// Its EHLO name.
    pub helo: String,
}

impl Client {
    /// A client at `ip` that calls itself `name`.
    pub fn new(ip: &str, name: &str) -> Self {
        Self { ip: ip.parse().expect("an IP address"), name: name.to_owned(), helo: name.to_owned() }
    }
}

/// A server's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its code.
    pub code: u16,
    /// All its lines without the codes, joined by line feeds.
    pub text: String,
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// An SMTP (or LMTP) session as the client.
#[derive(Debug)]
pub struct SmtpSession {
    stream: BufReader<Channel>,
}

/// A connection that may become a TLS one.
#[derive(Debug)]
struct Channel {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.tcp).read(buffer),
            None => self.tcp.read(buffer),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.tcp).write(octets),
            None => self.tcp.write(octets),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.tcp).flush(),
            None => self.tcp.flush(),
        }
    }
}

impl SmtpSession {
    /// Connects and reads the greeting.
    ///
    /// # Panics
    /// When there is no connection or no 220.
    pub fn connect(address: SocketAddr) -> Self {
        Self::after(address, "")
    }

    /// Connects to an Exim that expects the PROXY protocol, as `client`, and reads the greeting.
    ///
    /// # Panics
    /// As [`Self::connect`].
    pub fn connect_through(address: SocketAddr, client: &Client) -> Self {
        let (family, to) = match client.ip {
            IpAddr::V4(_) => ("TCP4", "127.0.0.1"),
            IpAddr::V6(_) => ("TCP6", "::1"),
        };
        Self::after(address, &format!("PROXY {family} {} {to} 40000 25\r\n", client.ip))
    }

    fn after(address: SocketAddr, first: &str) -> Self {
        let stream =
            TcpStream::connect_timeout(&address, PATIENCE).unwrap_or_else(|e| panic!("connect {address}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        stream.set_nodelay(true).expect("no delay");
        let mut session = Self { stream: BufReader::new(Channel { tcp: stream, tls: None }) };
        session.write(first.as_bytes());
        let greeting = session.reply();
        assert_eq!(greeting.code, 220, "greeting of {address}: {greeting}");
        session
    }

    /// Connects to a Postfix that allows XCLIENT, as `client`, and says EHLO.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn connect_as(address: SocketAddr, client: &Client) -> Self {
        let mut session = Self::connect(address);
        session.expect(250, &format!("EHLO {}", client.helo));
        let ip = match client.ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("IPV6:{ip}"),
        };
        session.expect(220, &format!("XCLIENT NAME={} ADDR={ip} HELO={}", client.name, client.helo));
        session.expect(250, &format!("EHLO {}", client.helo));
        session
    }

    /// Sends one command line and reads the reply.
    pub fn command(&mut self, line: &str) -> Reply {
        self.write(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Sends one command line.
    ///
    /// # Panics
    /// When the reply's code is another one.
    pub fn expect(&mut self, code: u16, line: &str) -> Reply {
        let reply = self.command(line);
        assert_eq!(reply.code, code, "{line}: {reply}");
        reply
    }

    /// STARTTLS, with a server that must be `server`; then EHLO again.
    ///
    /// # Panics
    /// When the server refuses or is somebody else.
    pub fn start_tls(&mut self, server: &TlsIdentity) {
        self.start_tls_with(server.name(), server.client());
    }

    /// STARTTLS, with a server that must be `name` by the word of the authority in this PEM text; then EHLO again.
    ///
    /// # Panics
    /// As [`Self::start_tls`].
    pub fn start_tls_trusting(&mut self, name: &str, authority: &str) {
        self.start_tls_with(name, client_trusting(authority));
    }

    fn start_tls_with(&mut self, name: &str, config: Arc<ClientConfig>) {
        self.expect(220, "STARTTLS");
        assert!(self.stream.buffer().is_empty(), "the server spoke before the handshake");
        let name = ServerName::try_from(name.to_owned()).expect("a host name");
        let connection = ClientConnection::new(config, name).expect("a TLS client");
        self.stream.get_mut().tls = Some(Box::new(connection));
        self.expect(250, "EHLO client.example");
    }

    /// AUTH PLAIN.
    pub fn login(&mut self, name: &str, password: &str) -> Reply {
        self.command(&format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{name}\0{password}"))))
    }

    /// One whole transaction. Returns the first reply that refuses (MAIL, the last RCPT when none was taken, DATA), or the
    /// reply to the message. Refused recipients beside taken ones are passed over.
    pub fn send(&mut self, sender: &str, recipients: &[&str], message: &[u8]) -> Reply {
        self.send_with(sender, "", recipients, message)
    }

    /// As [`Self::send`], with parameters of MAIL, for example `BODY=8BITMIME SMTPUTF8`.
    pub fn send_with(&mut self, sender: &str, parameters: &str, recipients: &[&str], message: &[u8]) -> Reply {
        let reply = self.command(format!("MAIL FROM:<{sender}> {parameters}").trim_end());
        if reply.code != 250 {
            return reply;
        }
        let replies: Vec<Reply> = recipients.iter().map(|r| self.command(&format!("RCPT TO:<{r}>"))).collect();
        if let (false, Some(refusal)) = (replies.iter().any(|r| r.code == 250), replies.last()) {
            let refusal = refusal.clone();
            self.command("RSET");
            return refusal;
        }
        let reply = self.command("DATA");
        if reply.code != 354 {
            return reply;
        }
        self.data(message)
    }

    /// Sends the message after a 354, dots doubled, and reads the reply. A message without a final CRLF gets one.
    pub fn data(&mut self, message: &[u8]) -> Reply {
        let mut wire = Vec::with_capacity(message.len() + 64);
        for line in message.split_inclusive(|&octet| octet == b'\n') {
            if line.starts_with(b".") {
                wire.push(b'.');
            }
            wire.extend_from_slice(line);
        }
        if !wire.ends_with(b"\r\n") {
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b".\r\n");
        self.write(&wire);
        self.reply()
    }

    /// Sends octets as they are.
    pub fn write(&mut self, octets: &[u8]) {
        let channel = self.stream.get_mut();
        channel
            .write_all(octets)
            .and_then(|()| channel.flush())
            .unwrap_or_else(|e| panic!("writing to the server: {e}"));
    }

    /// Closes the connection without a word.
    pub fn hang_up(&mut self) {
        let _ = self.stream.get_mut().tcp.shutdown(std::net::Shutdown::Both);
    }

    /// Reads one reply.
    ///
    /// # Panics
    /// When the connection ends or nothing comes.
    pub fn reply(&mut self) -> Reply {
        let mut texts = Vec::new();
        loop {
            let mut line = String::new();
            let count = self.stream.read_line(&mut line).unwrap_or_else(|e| panic!("reading a reply: {e}"));
            assert!(count > 0, "the server closed the connection instead of replying");
            let line = line.trim_end();
            let code = line.get(..3).and_then(|c| c.parse().ok()).unwrap_or_else(|| panic!("no reply: {line:?}"));
            texts.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Reply { code, text: texts.join("\n") };
            }
        }
    }
}

impl Drop for SmtpSession {
    fn drop(&mut self) {
        let channel = self.stream.get_mut();
        let _ = channel.write_all(b"QUIT\r\n").and_then(|()| channel.flush());
    }
}
