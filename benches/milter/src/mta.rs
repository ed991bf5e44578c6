//! Postfix's side of the milter protocol (`milter8.c` of Postfix 3.7): what is offered, what is sent ahead, what is waited for.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::mail::Letter;

/// Version and options that Postfix 3.7 offers.
const VERSION: u32 = 6;
const ACTIONS: u32 = 0x1ff;
const PROTOCOL: u32 = 0x1f_ffff;
/// `SMFIP_HDR_LEADSPC` and `SMFIP_SKIP`.
const LEADING_SPACE: u32 = 0x10_0000;
/// Octets of one body chunk at most.
const CHUNK: usize = 65_535;
/// Octets that Postfix gathers before it writes to a unix socket; over TCP it fits its buffer to the segment size.
const UNIX_BUFFER: usize = 4_096;
const TCP_BUFFER: usize = 64 * 1024;
/// A filter that takes longer than this is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a filter listens.
#[derive(Debug, Clone)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port on loopback.
    Tcp(SocketAddr),
}

/// What a filter made of a message.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The fields that it added.
    pub added: Vec<(String, String)>,
}

/// One event of the protocol: its command and the two bits by which a filter has it left out or its answer not awaited.
struct Event {
    code: u8,
    left_out: u32,
    unanswered: u32,
}

const CONNECT: Event = Event { code: b'C', left_out: 0x01, unanswered: 0x1000 };
const HELO: Event = Event { code: b'H', left_out: 0x02, unanswered: 0x2000 };
const MAIL: Event = Event { code: b'M', left_out: 0x04, unanswered: 0x4000 };
const RCPT: Event = Event { code: b'R', left_out: 0x08, unanswered: 0x8000 };
const BODY: Event = Event { code: b'B', left_out: 0x10, unanswered: 0x8_0000 };
const HEADER: Event = Event { code: b'L', left_out: 0x20, unanswered: 0x80 };
const END_OF_HEADERS: Event = Event { code: b'N', left_out: 0x40, unanswered: 0x4_0000 };
const DATA: Event = Event { code: b'T', left_out: 0x200, unanswered: 0x1_0000 };
const END_OF_MESSAGE: Event = Event { code: b'E', left_out: 0, unanswered: 0 };

/// The SMTP client that the mail server tells the filter of.
#[derive(Debug, Clone, Copy)]
pub enum Client {
    /// Family `U`: neither address nor port.
    Unknown,
    /// Family `4`.
    Ipv4(&'static str),
    /// As `Ipv4`, and it has issued STARTTLS.
    Ipv4Tls(&'static str),
}

/// A connection to a filter on which an SMTP client has said HELO.
pub struct Connection {
    write: BufWriter<Stream>,
    read: BufReader<Stream>,
    protocol: u32,
    payload: Vec<u8>,
}

impl Connection {
    /// Connects, negotiates, tells of the client.
    pub fn open(address: &Address, client: Client) -> io::Result<Self> {
        let (stream, buffer) = Stream::connect(address)?;
        let mut connection = Self {
            write: BufWriter::with_capacity(buffer, stream.try_clone()?),
            read: BufReader::new(stream),
            protocol: 0,
            payload: Vec::new(),
        };
        connection.negotiate()?;
        connection.macros(CONNECT, &[("j", "mx.acme.example"), ("{daemon_name}", "smtpd"), ("v", "Postfix 3.7.11")])?;
        let host = match client {
            Client::Unknown => b"unknown\0U".to_vec(),
            Client::Ipv4(address) | Client::Ipv4Tls(address) => {
                [b"mail.customer.example\x004\x9c\x40", address.as_bytes(), b"\0"].concat()
            }
        };
        connection.event(CONNECT, &host)?;
        if matches!(client, Client::Ipv4Tls(_)) {
            let tls = [("{tls_version}", "TLSv1.3"), ("{cipher}", "TLS_AES_256_GCM_SHA384"), ("{cipher_bits}", "256")];
            connection.macros(HELO, &tls)?;
        }
        connection.event(HELO, b"mail.customer.example\0")?;
        Ok(connection)
    }

    /// Hands over one message and says what became of it.
    pub fn send(&mut self, letter: &Letter) -> io::Result<Outcome> {
        let outcome = self.message(letter)?;
        // Goes out with the next message, as smtpd's does.
        self.command(b'A', &[])?;
        Ok(outcome)
    }

    /// Ends the connection.
    pub fn quit(mut self) -> io::Result<()> {
        self.command(b'Q', &[])?;
        self.write.flush()
    }

    fn message(&mut self, letter: &Letter) -> io::Result<Outcome> {
        let host = letter.sender.rsplit_once('@').map_or("", |(_, host)| host);
        let address = [("{mail_addr}", letter.sender.as_str()), ("{mail_host}", host), ("{mail_mailer}", "smtp")];
        let login = letter.login.as_deref().map(|login| [("{auth_type}", "PLAIN"), ("{auth_authen}", login)]);
        let macros: Vec<_> = login.into_iter().flatten().chain(address).collect();
        self.macros(MAIL, &macros)?;
        if self.event(MAIL, format!("<{}>\0SIZE=10240\0", letter.sender).as_bytes())? == Answer::Accept {
            return Ok(Outcome::default());
        }
        self.macros(RCPT, &[("{rcpt_addr}", &letter.recipient), ("{rcpt_mailer}", "smtp")])?;
        if self.event(RCPT, format!("<{}>\0", letter.recipient).as_bytes())? == Answer::Accept {
            return Ok(Outcome::default());
        }
        self.macros(DATA, &[("i", "4bXYZ12345z1")])?;
        if self.event(DATA, &[])? == Answer::Accept {
            return Ok(Outcome::default());
        }
        let leading_space = self.protocol & LEADING_SPACE != 0;
        for (name, value) in &letter.fields {
            let value = if leading_space { value } else { value.strip_prefix(' ').unwrap_or(value) };
            self.payload.clear();
            for part in [name.as_bytes(), b"\0", value.as_bytes(), b"\0"] {
                self.payload.extend_from_slice(part);
            }
            let payload = std::mem::take(&mut self.payload);
            let answer = self.event(HEADER, &payload)?;
            self.payload = payload;
            match answer {
                Answer::Accept => return Ok(Outcome::default()),
                Answer::Skip => break,
                Answer::Continue => {}
            }
        }
        self.macros(END_OF_HEADERS, &[("i", "4bXYZ12345z1")])?;
        if self.event(END_OF_HEADERS, &[])? == Answer::Accept {
            return Ok(Outcome::default());
        }
        for chunk in letter.body.chunks(CHUNK) {
            match self.event(BODY, chunk)? {
                Answer::Accept => return Ok(Outcome::default()),
                Answer::Skip => break,
                Answer::Continue => {}
            }
        }
        self.macros(END_OF_MESSAGE, &[("i", "4bXYZ12345z1")])?;
        self.command(END_OF_MESSAGE.code, &[])?;
        self.edits()
    }

    fn negotiate(&mut self) -> io::Result<()> {
        let offer: Vec<u8> = [VERSION, ACTIONS, PROTOCOL].iter().flat_map(|number| number.to_be_bytes()).collect();
        self.command(b'O', &offer)?;
        let (code, payload) = self.reply()?;
        let protocol = payload.get(8..12).and_then(|octets| octets.try_into().ok()).map(u32::from_be_bytes);
        match (code, protocol) {
            (b'O', Some(protocol)) if protocol & !PROTOCOL == 0 => self.protocol = protocol,
            _ => return Err(unexpected("to the offer", code)),
        }
        Ok(())
    }

    /// Sends the event if the filter wants it, and waits for the answer if the filter gives one.
    fn event(&mut self, event: Event, payload: &[u8]) -> io::Result<Answer> {
        if self.protocol & event.left_out != 0 {
            return Ok(Answer::Continue);
        }
        self.command(event.code, payload)?;
        if self.protocol & event.unanswered != 0 {
            return Ok(Answer::Continue);
        }
        match self.reply()?.0 {
            b'c' => Ok(Answer::Continue),
            b'a' => Ok(Answer::Accept),
            b's' => Ok(Answer::Skip),
            other => Err(unexpected("to an event", other)),
        }
    }

    /// The answers to the end of the message.
    fn edits(&mut self) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        loop {
            let (code, payload) = self.reply()?;
            let text = match code {
                b'c' | b'a' => return Ok(outcome),
                b'i' => payload.get(4..).unwrap_or_default(),
                b'h' => &payload,
                b'p' | b'm' => continue,
                other => return Err(unexpected("to the end of the message", other)),
            };
            let text = String::from_utf8_lossy(text);
            let mut strings = text.split('\0');
            let mut next = || strings.next().unwrap_or_default().to_owned();
            outcome.added.push((next(), next()));
        }
    }

    /// Macros are sent even for events that are not.
    fn macros(&mut self, event: Event, macros: &[(&str, &str)]) -> io::Result<()> {
        self.payload.clear();
        self.payload.push(event.code);
        for (name, value) in macros {
            for part in [name.as_bytes(), b"\0", value.as_bytes(), b"\0"] {
                self.payload.extend_from_slice(part);
            }
        }
        let payload = std::mem::take(&mut self.payload);
        let sent = self.command(b'D', &payload);
        self.payload = payload;
        sent
    }

    fn command(&mut self, code: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len() + 1).map_err(io::Error::other)?;
        self.write.write_all(&length.to_be_bytes())?;
        self.write.write_all(&[code])?;
        self.write.write_all(payload)
    }

    fn reply(&mut self) -> io::Result<(u8, Vec<u8>)> {
        self.write.flush()?;
        let mut head = [0; 5];
        self.read.read_exact(&mut head)?;
        let [length @ .., code] = head;
        let mut payload = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(1)];
        self.read.read_exact(&mut payload)?;
        Ok((code, payload))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Continue,
    Accept,
    Skip,
}

fn unexpected(to: &str, code: u8) -> io::Error {
    io::Error::other(format!("the filter answered {:?} {to}", char::from(code)))
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// With the size of the buffer that Postfix would use. Postfix leaves Nagle's algorithm on.
    fn connect(address: &Address) -> io::Result<(Self, usize)> {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok((Self::Unix(stream), UNIX_BUFFER))
            }
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok((Self::Tcp(stream), TCP_BUFFER))
            }
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(octets),
            Self::Tcp(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
