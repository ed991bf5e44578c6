//! A message block by block, with the line endings that the ticket system gets.

use std::io;

use crate::config::LineEnding;
use crate::mail::Mail;
use crate::relay::Content;

/// Reads a message from its first octet to its last. Never more of it in memory than the header section or one block.
#[derive(Debug)]
pub(super) struct Octets<'m> {
    content: Content<'m>,
    ending: LineEnding,
}

impl<'m> Octets<'m> {
    pub(super) fn of(mail: &'m Mail, ending: LineEnding) -> Self {
        Self { content: Content::of(mail), ending }
    }

    /// How many there will be.
    ///
    /// # Errors
    /// The spool file could not be read.
    pub(super) async fn count(mail: &Mail, ending: LineEnding) -> io::Result<u64> {
        if ending == LineEnding::Crlf {
            return Ok(mail.size());
        }
        let (mut octets, mut count) = (Octets::of(mail, ending), 0_u64);
        while let Some(block) = octets.next().await? {
            count = count.saturating_add(block.len() as u64);
        }
        Ok(count)
    }

    /// The next octets; `None` after the last one.
    ///
    /// # Errors
    /// The spool file could not be read.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(mut block) = self.content.next().await? else { return Ok(None) };
        if self.ending == LineEnding::Lf {
            // Where a message comes in, each stray CR or LF was replaced: every CR left is one of CRLF.
            block.retain(|&b| b != b'\r');
        }
        Ok(Some(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::mail::{Body, Connection, Envelope, Header, Headers, Mail};

    async fn read(mail: &Mail, ending: LineEnding) -> Vec<u8> {
        let (mut octets, mut all) = (Octets::of(mail, ending), Vec::new());
        while let Some(block) = octets.next().await.unwrap() {
            all.extend_from_slice(&block);
        }
        assert_eq!(Octets::count(mail, ending).await.unwrap(), all.len() as u64);
        all
    }

    #[tokio::test]
    async fn a_message_comes_as_it_is_or_with_lf_whatever_its_size() {
        for lines in [0, 1, 3, 40_000] {
            let body = "\r\n.line\r\n".repeat(lines) + "last";
            let mail = Mail {
                connection: Arc::new(Connection::default()),
                envelope: Envelope::default(),
                headers: Headers::new(vec![Header::new(b"Subject", b" a\r\n\tb"), Header::new(b"X", b"")]),
                body: Body::from_octets(body.clone().into_bytes()),
                shortfall: None,
                queue_id: None,
            };
            let wire = format!("Subject: a\r\n\tb\r\nX:\r\n\r\n{body}");
            assert!(read(&mail, LineEnding::Crlf).await == wire.as_bytes(), "{lines}");
            assert!(read(&mail, LineEnding::Lf).await == wire.replace("\r\n", "\n").as_bytes(), "{lines}");
        }
    }
}
