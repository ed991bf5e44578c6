//! The MTA's side of the milter protocol, over a unix socket, as Postfix speaks it.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::process::PATIENCE;

/// Octets of a body chunk at most (milter protocol).
const CHUNK: usize = 65_535;

/// A milter connection, over which any number of messages go.
#[derive(Debug)]
pub struct MilterClient {
    write: UnixStream,
    read: BufReader<UnixStream>,
}

/// What the milter said at the end of a message.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The code of its last answer: `c` let it pass, `y` refused it.
    pub last: u8,
    /// That answer's payload: the reply for `y`.
    pub reply: String,
    /// The fields that it added, as `name: value`.
    pub added: Vec<String>,
}

impl MilterClient {
    /// Connects and agrees on options.
    ///
    /// # Panics
    /// When the milter does not.
    pub fn connect(socket: &Path) -> Self {
        let write = UnixStream::connect(socket).unwrap_or_else(|e| panic!("{socket:?}: {e}"));
        write.set_read_timeout(Some(PATIENCE * 6)).expect("a read timeout");
        let read = BufReader::with_capacity(512, write.try_clone().expect("a copy of the socket"));
        let mut client = Self { write, read };
        let offer: Vec<u8> = [6_u32, 0x1ff, 0x1f_ffff].iter().flat_map(|number| number.to_be_bytes()).collect();
        client.send(b'O', &offer);
        assert_eq!(client.receive().expect("options").0, b'O');
        client
    }

    /// One message, up to the end of its header section. `client` is the sending host's address; with a `login` it is from this
    /// host's submission service. Only DATA is answered.
    ///
    /// # Panics
    /// When the milter refuses or is gone.
    pub fn begin(&mut self, client: &str, login: Option<&str>, from: &str, to: &str, fields: &[(&str, &str)]) {
        // Family and port.
        let connect = [b"mail.customer.example\x004\x9c\x40", client.as_bytes(), b"\0"].concat();
        self.send(b'C', &connect);
        if login.is_some() {
            self.send(b'D', b"H{tls_version}\0TLSv1.3\0");
        }
        self.send(b'H', b"mail.customer.example\0");
        if let Some(login) = login {
            self.send(b'D', format!("M{{auth_authen}}\0{login}\0").as_bytes());
        }
        self.send(b'M', format!("<{from}>\0").as_bytes());
        self.send(b'R', format!("<{to}>\0").as_bytes());
        self.send(b'T', b"");
        assert_eq!(self.receive().expect("an answer to DATA").0, b'c');
        for (name, value) in fields {
            self.send(b'L', format!("{name}\0{value}\0").as_bytes());
        }
        self.send(b'N', b"");
    }

    /// The body, and the verdict.
    ///
    /// # Panics
    /// When the milter is gone.
    pub fn end(&mut self, body: &[u8]) -> Verdict {
        for chunk in body.chunks(CHUNK) {
            self.send(b'B', chunk);
        }
        self.send(b'E', b"");
        let mut verdict = Verdict::default();
        loop {
            let (code, payload) = self.receive().expect("a verdict");
            let text = String::from_utf8_lossy(&payload).into_owned();
            match code {
                b'p' => {}
                b'i' | b'h' => {
                    let field = text.get(if code == b'i' { 4 } else { 0 }..).unwrap_or_default();
                    verdict.added.push(field.trim_end_matches('\0').replacen('\0', ":", 1));
                }
                b'm' | b'b' | b'+' | b'-' => {}
                last => {
                    verdict.last = last;
                    verdict.reply = text.trim_end_matches('\0').to_owned();
                    return verdict;
                }
            }
        }
    }

    /// Sends one frame.
    ///
    /// # Panics
    /// When the milter is gone.
    pub fn send(&mut self, code: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len() + 1).expect("a short frame");
        self.write.write_all(&[&length.to_be_bytes(), &[code][..], payload].concat()).expect("the milter's attention");
    }

    fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.read.read_exact(&mut head)?;
        let [length @ .., code] = head;
        let mut payload = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(1)];
        self.read.read_exact(&mut payload)?;
        Ok((code, payload))
    }
}
