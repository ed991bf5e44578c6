//! The octets of a message, block by block. A message that is sent is never in memory as a whole: endpoints may take minutes
//! for one, and what waits for a slow endpoint must keep no memory from other mail.

use std::io;

use crate::mail::Mail;

/// Octets of the body read at a time (64 KiB).
const BLOCK: usize = 64 * 1024;

/// Reads a message from its first octet to its last.
#[derive(Debug)]
pub(crate) struct Content<'m> {
    mail: &'m Mail,
    next: Next,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    Headers,
    Body(u64),
}

impl<'m> Content<'m> {
    pub fn of(mail: &'m Mail) -> Self {
        Self { mail, next: Next::Headers }
    }

    /// The next octets: the header section, then the body in blocks; `None` after the last one.
    ///
    /// # Errors
    /// The spool file could not be read.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let offset = match self.next {
            Next::Headers => {
                let mut section = Vec::with_capacity(self.mail.headers.wire_len());
                self.mail.headers.write_to(&mut section);
                self.next = Next::Body(0);
                return Ok(Some(section));
            }
            Next::Body(offset) => offset,
        };
        let block = self.mail.body.read_at(offset, BLOCK).await?;
        self.next = Next::Body(offset.saturating_add(block.len() as u64));
        Ok((!block.is_empty()).then_some(block))
    }

    /// Whether the whole message is ASCII.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn is_ascii(mail: &Mail) -> io::Result<bool> {
        let mut content = Content::of(mail);
        while let Some(block) = content.next().await? {
            if !block.is_ascii() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
