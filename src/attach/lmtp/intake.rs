//! A message's data as it arrives: header section and body apart, within the limits, line endings repaired.

use std::io;

use super::queue_id::queue_id;
use crate::attach::smtp::too_large;
use crate::config::Limits;
use crate::mail::{BodyWriter, Headers, HeadersBuilder, Reply, Spool, StrayLineEndings};

use crate::mail::Body;

/// Takes one message's data. Once it cannot be kept, the rest is counted and thrown away: the reply comes after the data.
#[derive(Debug)]
pub(super) struct Intake {
    state: State,
    strays: StrayLineEndings,
    spool: Spool,
    message_size: u64,
    size: u64,
}

#[derive(Debug)]
enum State {
    Headers(HeadersBuilder),
    Body(Headers, BodyWriter),
    Refused(Refused),
}

/// A message that could not be kept.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reply: Reply,
    /// Its header fields, by which it is found in the logs; none when it was refused for them.
    pub(super) headers: Headers,
}

impl Intake {
    pub(super) fn new(limits: &Limits, spool: &Spool) -> Self {
        Self {
            state: State::Headers(HeadersBuilder::new(limits.header_size)),
            strays: StrayLineEndings::default(),
            spool: spool.clone(),
            message_size: limits.message_size,
            size: 0,
        }
    }

    /// Octets so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next octets, dot-stuffing already off.
    pub(super) async fn take(&mut self, chunk: &[u8]) {
        let mut repaired = Vec::new();
        self.strays.push(chunk, &mut repaired);
        self.keep(&repaired).await;
    }

    /// Ends the message.
    ///
    /// # Errors
    /// The message could not be kept.
    pub(super) async fn finish(mut self) -> Result<(Headers, Body), Refused> {
        let mut last = Vec::new();
        self.strays.finish(&mut last);
        self.keep(&last).await;
        match self.state {
            State::Headers(builder) => {
                let block = builder.finish();
                Ok((block.headers, Body::from_octets(block.body)))
            }
            State::Body(headers, writer) => match writer.finish().await {
                Ok(body) => Ok((headers, body)),
                Err(error) => Err(Refused { reply: spool_trouble(&error, &headers), headers }),
            },
            State::Refused(refused) => Err(refused),
        }
    }

    async fn keep(&mut self, octets: &[u8]) {
        self.size = self.size.saturating_add(octets.len() as u64);
        if self.size > self.message_size && !matches!(self.state, State::Refused(_)) {
            self.refuse(too_large(self.message_size));
        }
        let outcome = match &mut self.state {
            State::Refused(_) => return,
            State::Body(headers, writer) => writer.write(octets).await.map_err(|error| spool_trouble(&error, headers)),
            State::Headers(builder) => match builder.push(octets) {
                Ok(None) => Ok(()),
                Ok(Some(block)) => {
                    let mut writer = BodyWriter::new(&self.spool);
                    let written = writer.write(&block.body).await;
                    let written = written.map_err(|error| spool_trouble(&error, &block.headers));
                    self.state = State::Body(block.headers, writer);
                    written
                }
                Err(error) => Err(Reply::new(552, 3, 4, error.to_string())),
            },
        };
        if let Err(reply) = outcome {
            self.refuse(reply);
        }
    }

    fn refuse(&mut self, reply: Reply) {
        let headers = match &mut self.state {
            State::Body(headers, _) => std::mem::take(headers),
            State::Headers(_) | State::Refused(_) => Headers::default(),
        };
        self.state = State::Refused(Refused { reply, headers });
    }
}

fn spool_trouble(error: &io::Error, headers: &Headers) -> Reply {
    let queue_id = queue_id(headers);
    tracing::error!(queue_id, %error, "cannot spool a message; check room and permissions of the state directory");
    Reply::new(452, 3, 1, "no room to spool the message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            message_size: 200_000,
            header_size: 100,
            memory: 0,
            milter_connections: 1,
            transport_connections: 1,
            hops: 1,
            addresses_per_domain: 1,
            domains: 1,
            inline_relays: 20,
        }
    }

    async fn intake(spool: &Spool, chunks: &[&[u8]]) -> Result<Vec<u8>, String> {
        let mut intake = Intake::new(&limits(), spool);
        for chunk in chunks {
            intake.take(chunk).await;
        }
        let (headers, body) = intake.finish().await.map_err(|refused| refused.reply.to_string())?;
        let mut wire = Vec::new();
        headers.write_to(&mut wire);
        body.append_to(&mut wire).await.unwrap();
        Ok(wire)
    }

    #[tokio::test]
    async fn a_message_is_kept_as_it_came_but_for_stray_line_endings() {
        let spool = Spool::new("/nonexistent");
        let message = intake(&spool, &[b"Subject: a\r", b"\n\r\nbo\ndy\r", b"\r\n"]).await;
        assert_eq!(message.unwrap(), b"Subject: a\r\n\r\nbo dy \r\n");
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_refused_after_the_data() {
        let spool = Spool::new("/nonexistent");
        let big = vec![b'x'; 150_000];
        for (chunks, expected) in [
            (vec![&[b'x'; 101][..]], "552 5.3.4 header section larger than 100 octets"),
            (vec![&b"A: b\r\n\r\n"[..], &big], "452 4.3.1 no room to spool the message"),
        ] {
            assert_eq!(intake(&spool, &chunks).await, Err(expected.to_owned()));
        }
        let room = tempfile::tempdir().unwrap();
        let chunks = [&b"A: b\r\n\r\n"[..], &big, &big, b"tail\r\n"];
        let outcome = intake(&Spool::new(room.path()), &chunks).await;
        assert_eq!(outcome, Err("552 5.3.4 message larger than 200000 octets".to_owned()));
    }

    #[tokio::test]
    async fn what_was_refused_is_still_known_by_its_header_fields() {
        let mut intake = Intake::new(&limits(), &Spool::new("/nonexistent"));
        intake.take(b"Message-ID: <1@a.example>\r\n\r\n").await;
        intake.take(&[b'x'; 150_000]).await;
        let refused = intake.finish().await.unwrap_err();
        assert_eq!(refused.headers.first("Message-ID").unwrap().text(), "<1@a.example>");
    }
}
