//! The other end of a filter's connection: a message on its last hop goes to the daemon, its header section comes back.
//!
//! Exim delivers whatever a filter prints before it exits with 0, so nothing is printed until everything is there, and every
//! doubt is an error: Exim then keeps the message and tries again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::request::VERSION;

/// A message of up to this many octets (1 MiB) stays in memory, a larger one goes to a file without a name.
const IN_MEMORY: usize = 1024 * 1024;
/// Octets of a reply's first line, at most.
const LINE_MAX: usize = 64 * 1024;
/// Octets of a header section, at most: as `limits.header_size`, and what is added.
const SECTION_MAX: u64 = 32 * 1024 * 1024;
/// For the daemon to take or give the next octets. Longer than it may take for a verdict.
const PATIENCE: Duration = Duration::from_secs(90);

/// A message that waits for its new header section.
#[derive(Debug)]
pub struct Message {
    octets: tempfile::SpooledTempFile,
    size: u64,
    /// Where the body begins.
    body: u64,
}

/// Why a message cannot be sent now.
#[derive(Debug, thiserror::Error)]
pub enum NotSigned {
    /// The message, or our copy of it.
    #[error("the message cannot be read, kept or written: {0}")]
    Io(io::Error),
    /// The daemon's socket.
    #[error("the daemon does not answer: {0}")]
    Daemon(io::Error),
    /// The daemon says so.
    #[error("{0}")]
    Refused(String),
    /// What came is no reply.
    #[error("the daemon's reply is none")]
    Reply,
}

impl Message {
    /// Reads a message to its end.
    ///
    /// # Errors
    /// It cannot be read or kept.
    pub fn read(mut input: impl Read) -> Result<Self, NotSigned> {
        let mut octets = tempfile::spooled_tempfile(IN_MEMORY);
        let size = io::copy(&mut input, &mut octets).map_err(NotSigned::Io)?;
        let body = body_begins(&mut octets).map_err(NotSigned::Io)?;
        Ok(Self { octets, size, body })
    }

    /// Shows it to the daemon. Returns its header section as it is to leave, the empty line included.
    ///
    /// # Errors
    /// The daemon is away, refuses, or says what cannot be understood.
    pub fn sign(&mut self, socket: &Path, id: &str) -> Result<Vec<u8>, NotSigned> {
        let stream = UnixStream::connect(socket).map_err(NotSigned::Daemon)?;
        let patience = Some(PATIENCE);
        stream.set_read_timeout(patience).map_err(NotSigned::Daemon)?;
        stream.set_write_timeout(patience).map_err(NotSigned::Daemon)?;
        let base64 = |text: &str| STANDARD.encode(text);
        let line = format!("{VERSION} sign id={} size={}\n", base64(id), base64(&self.size.to_string()));
        self.octets.seek(SeekFrom::Start(0)).map_err(NotSigned::Io)?;
        let sent = (&stream).write_all(line.as_bytes()).and_then(|()| io::copy(&mut self.octets, &mut &stream));
        // Who refuses early may close early, and has said why.
        let answer = read_answer(&stream);
        match (sent, answer) {
            (_, Ok(section)) => Ok(section),
            (_, Err(refused @ NotSigned::Refused(_))) => Err(refused),
            (Err(error), _) => Err(NotSigned::Daemon(error)),
            (Ok(_), Err(error)) => Err(error),
        }
    }

    /// Writes the message with another header section.
    ///
    /// # Errors
    /// It cannot be written whole.
    pub fn write(mut self, section: &[u8], mut output: impl Write) -> Result<(), NotSigned> {
        let mut all = || -> io::Result<()> {
            self.octets.seek(SeekFrom::Start(self.body))?;
            output.write_all(section)?;
            let copied = io::copy(&mut self.octets, &mut output)?;
            if self.body.saturating_add(copied) != self.size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            output.flush()
        };
        all().map_err(NotSigned::Io)
    }
}

/// Standard input or output without a buffer between, so that an error is heard of.
///
/// # Errors
/// The descriptor cannot be used.
pub fn unbuffered(descriptor: impl std::os::fd::AsFd) -> io::Result<File> {
    descriptor.as_fd().try_clone_to_owned().map(File::from)
}

/// After the first empty line; the end of the message where there is none.
fn body_begins(octets: &mut tempfile::SpooledTempFile) -> io::Result<u64> {
    octets.seek(SeekFrom::Start(0))?;
    let mut reader = io::BufReader::new(octets);
    let (mut at, mut line) = (0_u64, Vec::new());
    loop {
        line.clear();
        let count = io::BufRead::read_until(&mut reader, b'\n', &mut line)?;
        at = at.saturating_add(count as u64);
        if count == 0 || line == b"\n" {
            return Ok(at);
        }
    }
}

fn read_answer(stream: &UnixStream) -> Result<Vec<u8>, NotSigned> {
    let mut reader = io::BufReader::new(stream);
    let mut line = Vec::new();
    let mut limited = io::Read::take(&mut reader, LINE_MAX as u64);
    io::BufRead::read_until(&mut limited, b'\n', &mut line).map_err(NotSigned::Daemon)?;
    let Some(size) = announced(&line)? else { return Err(NotSigned::Reply) };
    let mut section = Vec::new();
    // One octet more than there may be: what is too long is no reply either.
    io::Read::take(reader, SECTION_MAX.min(size).saturating_add(1))
        .read_to_end(&mut section)
        .map_err(NotSigned::Daemon)?;
    if section.len() as u64 == size && (section.ends_with(b"\n\n") || section == b"\n") {
        Ok(section)
    } else {
        Err(NotSigned::Reply)
    }
}

/// How long the section is that follows; `None` where the line says nothing that is known.
fn announced(line: &[u8]) -> Result<Option<u64>, NotSigned> {
    let Some(text) = line.strip_suffix(b"\n").and_then(|text| std::str::from_utf8(text).ok()) else { return Ok(None) };
    let words: Vec<(&str, &str)> = text.split(' ').filter_map(|word| word.split_once('=')).collect();
    let value = |name: &str| words.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
    match value("v") {
        Some("signed") => Ok(value("size").and_then(|size| size.parse().ok())),
        Some(_) => {
            let reason = value("text").and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
            Err(NotSigned::Refused(String::from_utf8_lossy(&reason).into_owned()))
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// What becomes of a message when the daemon says `answer`.
    fn filtered(answer: &'static [u8], message: &[u8]) -> Result<Vec<u8>, NotSigned> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = vec![0; 10];
            let _ = stream.read(&mut seen);
            stream.write_all(answer).unwrap();
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut seen);
        });
        let mut whole = Message::read(message).unwrap();
        let outcome = whole.sign(&socket, "1xV6OO-0008Ms-24");
        daemon.join().unwrap();
        let mut output = Vec::new();
        whole.write(&outcome?, &mut output)?;
        Ok(output)
    }

    #[test]
    fn the_body_follows_the_new_header_section_octet_by_octet() {
        let body = [&b"line\n\n.\nnul\0 \xff"[..], &vec![b'x'; 3 * IN_MEMORY]].concat();
        let message = [b"A: b\nC: d\n\n", &body[..]].concat();
        let output = filtered(b"v=signed size=11\nNew: field\n\n", &message);
        assert!(matches!(output, Err(NotSigned::Reply)), "the size is wrong");
        let output = filtered(b"v=signed size=12\nNew: field\n\n", &message).unwrap();
        assert!(output == [b"New: field\n\n", &body[..]].concat());
        assert_eq!(filtered(b"v=signed size=6\nA: b\n\n", b"A: c\n").unwrap(), b"A: b\n\n");
    }

    #[test]
    fn whatever_is_no_whole_reply_is_an_error() {
        for answer in [
            &b""[..],
            b"v=signed\n",
            b"v=signed size=x\n\n",
            b"v=signed size=6\nA: b\n",
            b"v=signed size=5\nA: b\n",
            b"v=signed size=6\nA: b\n\nmore",
            b"v=signed size=6",
            b"nonsense\n",
        ] {
            let outcome = filtered(answer, b"A: b\n\nbody\n");
            assert!(matches!(outcome, Err(NotSigned::Reply)), "{}: {outcome:?}", String::from_utf8_lossy(answer));
        }
        let outcome = filtered(b"v=defer text=NDUxIG5v\n", b"A: b\n\nbody\n");
        assert!(matches!(&outcome, Err(NotSigned::Refused(reason)) if reason == "451 no"), "{outcome:?}");
        let away = Message::read(&b"A: b\n\n"[..]).unwrap().sign(Path::new("/nonexistent/s"), "x");
        assert!(matches!(away, Err(NotSigned::Daemon(_))));
    }
}
