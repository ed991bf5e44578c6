//! The body of the message at hand on its way into the spool.

use crate::mail::{Body, BodyWriter, Spool, StrayLineEndings};

/// Takes a body chunk by chunk, stray line endings repaired: what is judged is what will be relayed.
#[derive(Debug)]
pub struct Intake {
    writer: BodyWriter,
    endings: StrayLineEndings,
    repaired: Vec<u8>,
}

impl Intake {
    /// An empty body.
    pub fn new(spool: &Spool) -> Self {
        Self { writer: BodyWriter::new(spool), endings: StrayLineEndings::default(), repaired: Vec::new() }
    }

    /// Appends `chunk`.
    ///
    /// # Errors
    /// The spool could not be written.
    pub async fn write(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        self.repaired.clear();
        self.endings.push(chunk, &mut self.repaired);
        self.writer.write(&self.repaired).await
    }

    /// Ends the body.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn finish(mut self) -> std::io::Result<Body> {
        self.repaired.clear();
        self.endings.finish(&mut self.repaired);
        self.writer.write(&self.repaired).await?;
        self.writer.finish().await
    }
}
