//! Commands out, replies in, over any stream: the thin loop around [`ReplyReader`]. Every wait is bounded by the clock.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout_at;

use super::clock::{Clock, Step};
use super::failure::{Cause, Failure};
use super::reply::{RemoteReply, ReplyReader};

/// Octets read at a time.
const READ_SIZE: usize = 4096;

/// What a dialogue needs of its stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// One side of an SMTP session: ours.
#[derive(Debug)]
pub(super) struct Dialogue<S> {
    stream: S,
    peer: Arc<str>,
    clock: Clock,
    reader: ReplyReader,
}

impl<S: Stream> Dialogue<S> {
    /// A dialogue with `peer`, which speaks next or is spoken to next.
    pub fn new(stream: S, peer: Arc<str>, clock: Clock) -> Self {
        Self { stream, peer, clock, reader: ReplyReader::default() }
    }

    /// Goes on under another hand-over's clock.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The clock of the hand-over at hand.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// `host[address]`.
    pub fn peer(&self) -> &Arc<str> {
        &self.peer
    }

    /// A failure in this dialogue.
    pub fn failure(&self, cause: Cause) -> Failure {
        Failure::new(&self.peer, cause)
    }

    /// Sends a command line or several, CRLF included.
    ///
    /// # Errors
    /// Also when something unasked for was already there to read: the replies would no longer fit their commands.
    pub async fn send(&mut self, step: Step, octets: &[u8]) -> Result<(), Failure> {
        if !self.reader.is_empty() {
            return Err(self.failure(Cause::Nonsense(step, "a reply that nobody asked for".to_owned())));
        }
        let stream = &mut self.stream;
        let sent = self.clock.within(step, async {
            stream.write_all(octets).await?;
            stream.flush().await
        });
        match sent.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failure(Cause::Lost(step, error.to_string()))),
            Err(elapsed) => Err(Failure::timeout(&self.peer, elapsed)),
        }
    }

    /// The next reply, whatever it says; but 421 (the server closes, RFC 5321 section 3.8) is a failure everywhere.
    pub async fn reply(&mut self, step: Step) -> Result<RemoteReply, Failure> {
        // One bound for the whole reply: a server that trickles octets does not stretch it.
        let until = self.clock.until(step);
        let mut buffer = [0; READ_SIZE];
        loop {
            match self.reader.next() {
                Ok(Some(reply)) if reply.code == 421 => return Err(self.failure(Cause::Temporary(reply))),
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(nonsense) => return Err(self.failure(Cause::Nonsense(step, nonsense.to_string()))),
            }
            let read = match timeout_at(until, self.stream.read(&mut buffer)).await {
                Ok(Ok(0)) => Err(Cause::Lost(step, "closed by the other side".to_owned())),
                Ok(Ok(read)) => Ok(read),
                Ok(Err(error)) => Err(Cause::Lost(step, error.to_string())),
                Err(_) => Err(Cause::Timeout(step)),
            };
            let read = read.map_err(|cause| self.failure(cause))?;
            self.reader.push(buffer.get(..read).unwrap_or_default());
        }
    }

    /// Sends one command and reads its reply.
    pub async fn command(&mut self, step: Step, line: &[u8]) -> Result<RemoteReply, Failure> {
        self.send(step, line).await?;
        self.reply(step).await
    }

    /// Reads a reply that must have `code` for the session to go on.
    pub async fn expect(&mut self, step: Step, code: u16) -> Result<RemoteReply, Failure> {
        let reply = self.reply(step).await?;
        match reply.code {
            found if found == code => Ok(reply),
            400..=499 => Err(self.failure(Cause::Temporary(reply))),
            500..=599 => Err(self.failure(Cause::Session(step, reply))),
            _ => Err(self.out_of_place(step, &reply)),
        }
    }

    /// A well-formed reply of a class that cannot stand here.
    pub fn out_of_place(&self, step: Step, reply: &RemoteReply) -> Failure {
        self.failure(Cause::Nonsense(step, format!("a reply out of place: {}", reply.as_reply())))
    }

    /// Nothing has come since the last reply: neither the end of the connection nor a parting 421. Does not wait.
    pub async fn is_quiet(&mut self) -> bool {
        let mut octet = [0; 1];
        let mut buffer = ReadBuf::new(&mut octet);
        let stream = &mut self.stream;
        let pending = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut *stream).poll_read(context, &mut buffer).is_pending())
        });
        let pending = pending.await;
        self.reader.push(buffer.filled());
        self.reader.is_empty() && pending
    }

    /// Takes leave (RFC 5321 section 4.1.1.10) within the bound for QUIT. What is answered no longer matters.
    pub async fn quit(mut self) {
        let clock = Clock::start(self.clock.bounds().quit, *self.clock.bounds());
        self.clock = clock;
        if self.command(Step::Quit, b"QUIT\r\n").await.is_ok() {
            let _ended: Result<io::Result<()>, _> = clock.within(Step::Quit, self.stream.shutdown()).await;
        }
    }

    /// The stream, provided that nothing was left to read.
    pub fn into_stream(self) -> Option<S> {
        self.reader.is_empty().then_some(self.stream)
    }
}
