//! A message as Exim stores it, lines ended by LF, on its way into a `Mail`, lines ended by CRLF: what is judged and signed is
//! what goes over the wire.

use std::io;

use crate::mail::{Body, BodyWriter, HeaderBlock, Headers, HeadersBuilder, HeadersError, Shortfall, Spool};

/// Takes one message.
#[derive(Debug)]
pub(super) struct Intake {
    /// Exim's id of it, for the log.
    id: String,
    state: State,
    /// Octets taken until the header section was complete, lines ended by CRLF.
    taken: usize,
    spool: Spool,
    message_size: u64,
    body_size: u64,
    shortfall: Option<Shortfall>,
    wire: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Headers(HeadersBuilder),
    Body(Headers, BodyWriter),
}

/// A complete message.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) headers: Headers,
    pub(super) body: Body,
    pub(super) shortfall: Option<Shortfall>,
    /// Octets of the body, lines ended by LF, whether it was kept or not.
    pub(super) body_size: u64,
}

/// Why a message is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// Exim keeps lines ended by LF and turns every other CR into something else on reception.
    #[error("it holds a CR, which Exim's own format has not")]
    CarriageReturn,
    /// Exim takes for header fields what RFC 5322 section 2.2 does not: a name with octets beyond ASCII, none at all, or one with a
    /// fold before its colon (`receive.c`). For others the body begins there, so that readers would see two messages.
    #[error("a line of the header section is no header field (RFC 5322 section 2.2)")]
    NoField,
    #[error(transparent)]
    Headers(#[from] HeadersError),
}

impl Intake {
    /// Keeps up to `message_size` octets of message `id` in all, and `header_size` of the header section.
    pub(super) fn new(id: &str, spool: &Spool, message_size: u64, header_size: usize) -> Self {
        Self {
            id: id.to_owned(),
            state: State::Headers(HeadersBuilder::new(header_size)),
            taken: 0,
            spool: spool.clone(),
            message_size,
            body_size: 0,
            shortfall: None,
            wire: Vec::new(),
        }
    }

    /// Takes the next octets.
    ///
    /// # Errors
    /// As [`Unfit`] says.
    pub(super) async fn take(&mut self, chunk: &[u8]) -> Result<(), Unfit> {
        if memchr::memchr(b'\r', chunk).is_some() {
            return Err(Unfit::CarriageReturn);
        }
        let mut wire = std::mem::take(&mut self.wire);
        wire.clear();
        for line in chunk.split_inclusive(|&octet| octet == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(text) => {
                    wire.extend_from_slice(text);
                    wire.extend_from_slice(b"\r\n");
                }
                None => wire.extend_from_slice(line),
            }
        }
        let body = match &mut self.state {
            State::Body(..) => Some(std::mem::take(&mut wire)),
            State::Headers(builder) => {
                self.taken = self.taken.saturating_add(wire.len());
                match builder.push(&wire)? {
                    Some(block) => {
                        ends_as_it_should(&block, self.taken)?;
                        self.state = State::Body(block.headers, BodyWriter::new(&self.spool));
                        Some(block.body)
                    }
                    None => None,
                }
            }
        };
        if let Some(body) = body {
            self.keep(&body).await;
            wire = body;
        }
        self.wire = wire;
        Ok(())
    }

    /// Ends the message.
    ///
    /// # Errors
    /// As [`Unfit`] says.
    pub(super) async fn finish(mut self) -> Result<Content, Unfit> {
        if let State::Headers(builder) = self.state {
            let block = builder.finish();
            ends_as_it_should(&block, self.taken)?;
            self.state = State::Body(block.headers, BodyWriter::new(&self.spool));
            self.keep(&block.body).await;
        }
        let (mut shortfall, body_size) = (self.shortfall, self.body_size);
        let nothing = Body::from_octets(Vec::new());
        Ok(match self.state {
            State::Body(headers, writer) if shortfall.is_none() => {
                let body = writer.finish().await.unwrap_or_else(|error| {
                    shortfall = Some(told(&self.id, &error));
                    nothing
                });
                Content { headers, body, shortfall, body_size }
            }
            State::Body(headers, _) => Content { headers, body: nothing, shortfall, body_size },
            State::Headers(_) => Content { headers: Headers::default(), body: nothing, shortfall, body_size },
        })
    }

    async fn keep(&mut self, body: &[u8]) {
        let lines = memchr::memchr_iter(b'\n', body).count();
        self.body_size = self.body_size.saturating_add(body.len().saturating_sub(lines) as u64);
        let State::Body(headers, writer) = &mut self.state else { return };
        if self.shortfall.is_some() {
            return;
        }
        let size = (headers.wire_len() as u64).saturating_add(writer.len()).saturating_add(body.len() as u64);
        if size > self.message_size {
            self.shortfall = Some(Shortfall::TooLarge);
        } else if let Err(error) = writer.write(body).await {
            self.shortfall = Some(told(&self.id, &error));
        }
        if self.shortfall.is_some() {
            // What was kept of it goes.
            *writer = BodyWriter::new(&self.spool);
        }
    }
}

/// Exim ends every header section by an empty line; without one the builder puts it in.
fn ends_as_it_should(block: &HeaderBlock, taken: usize) -> Result<(), Unfit> {
    let length = block.headers.wire_len().saturating_add(block.body.len());
    if length == taken { Ok(()) } else { Err(Unfit::NoField) }
}

fn told(queue_id: &str, error: &io::Error) -> Shortfall {
    tracing::error!(
        queue_id,
        %error,
        "cannot spool a message body: make room in the state directory, or check owner and mode"
    );
    Shortfall::Spool
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(message: &[u8], size: usize, limit: u64) -> Result<Content, Unfit> {
        let mut intake = Intake::new("1wABCD-000000001-0AbC", &Spool::new("/nonexistent"), limit, 1_000);
        for chunk in message.chunks(size) {
            intake.take(chunk).await?;
        }
        intake.finish().await
    }

    #[tokio::test]
    async fn a_message_gets_the_line_endings_of_the_wire_and_nothing_else() {
        let message = b"Subject: a\n b\nX:c\n\nbody\n.\n..dot\nnul\0\n\xff";
        for size in [1, 2, 3, 1_000] {
            let content = take(message, size, 1_000).await.unwrap();
            let mut wire = Vec::new();
            content.headers.write_to(&mut wire);
            content.body.append_to(&mut wire).await.unwrap();
            assert_eq!(wire, b"Subject: a\r\n b\r\nX:c\r\n\r\nbody\r\n.\r\n..dot\r\nnul\0\r\n\xff");
            assert_eq!(content.body_size, 19);
        }
    }

    #[tokio::test]
    async fn a_message_without_header_fields_is_all_body() {
        for (message, body) in [(&b"\nhello\n"[..], &b"hello\r\n"[..]), (b"\n", b"")] {
            let content = take(message, 1, 1_000).await.unwrap();
            assert!(content.headers.is_empty());
            let mut wire = Vec::new();
            content.body.append_to(&mut wire).await.unwrap();
            assert_eq!(wire, body);
        }
    }

    #[tokio::test]
    async fn what_exim_alone_takes_for_a_header_field_is_not_taken_for_the_beginning_of_the_body() {
        for line in [&b": no name"[..], b"N\xe4me: x", b"Authentication-Results\n : x"] {
            let message = [b"From: a@b.example\n", line, b"\nSubject: hidden\n\nbody\n"].concat();
            for size in [1, 3, 1_000] {
                let outcome = take(&message, size, 1_000).await;
                assert!(matches!(outcome, Err(Unfit::NoField)), "{}: {outcome:?}", String::from_utf8_lossy(line));
            }
        }
        assert!(matches!(take(b"hello\n", 1, 1_000).await, Err(Unfit::NoField)), "Exim has an empty line there");
    }

    #[tokio::test]
    async fn what_is_too_large_is_counted_and_not_kept_and_what_is_not_exims_is_refused() {
        let content = take(b"A: b\n\n1234567890\n", 1, 12).await.unwrap();
        assert_eq!((content.shortfall, content.body_size), (Some(Shortfall::TooLarge), 11));
        assert_eq!(content.body.wire_len(), 0);
        assert!(matches!(take(b"A: b\r\n\r\n", 100, 100).await, Err(Unfit::CarriageReturn)));
        let long = [&b"A: "[..], &[b'x'; 1_000], b"\n\n"].concat();
        assert!(matches!(take(&long, 100, 10_000).await, Err(Unfit::Headers(_))));
    }
}
