//! A message's body: in memory while small, in an unlinked file beyond.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

/// A body of up to this many octets (64 KiB) stays in memory; beyond, it goes to a spool file in pieces of this size.
pub const SPOOL_THRESHOLD: usize = 64 * 1024;

/// The directory for spool files: ours alone, mode 0700.
#[derive(Debug, Clone)]
pub struct Spool {
    directory: Arc<PathBuf>,
}

impl Spool {
    /// Spool files go into `directory`, which exists.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: Arc::new(directory.into()) }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    async fn create(&self) -> io::Result<File> {
        let directory = Arc::clone(&self.directory);
        blocking(move || tempfile::tempfile_in(directory.as_path())).await
    }
}

/// Takes a body as it arrives.
#[derive(Debug)]
pub struct BodyWriter {
    spool: Spool,
    pending: Vec<u8>,
    file: Option<(Arc<File>, u64)>,
}

/// A complete body.
#[derive(Debug, Clone)]
pub struct Body(Storage);

#[derive(Debug, Clone)]
enum Storage {
    Memory(Arc<Vec<u8>>),
    File { file: Arc<File>, len: u64 },
}

impl BodyWriter {
    /// An empty body that spools into `spool`.
    pub fn new(spool: &Spool) -> Self {
        Self { spool: spool.clone(), pending: Vec::new(), file: None }
    }

    /// Octets taken so far.
    pub fn len(&self) -> u64 {
        self.pending.len() as u64 + self.file.as_ref().map_or(0, |(_, written)| *written)
    }

    /// Whether nothing was taken so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `chunk`.
    ///
    /// # Errors
    /// The spool file could not be made or written: the disk is full, say.
    pub async fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(chunk);
        if self.pending.len() > SPOOL_THRESHOLD { self.flush().await } else { Ok(()) }
    }

    /// Ends the body.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn finish(mut self) -> io::Result<Body> {
        if self.file.is_some() && !self.pending.is_empty() {
            self.flush().await?;
        }
        Ok(Body(match self.file {
            Some((file, len)) => Storage::File { file, len },
            None => Storage::Memory(Arc::new(self.pending)),
        }))
    }

    async fn flush(&mut self) -> io::Result<()> {
        let (file, at) = match self.file.take() {
            Some(file) => file,
            None => (Arc::new(self.spool.create().await?), 0),
        };
        let pending = std::mem::take(&mut self.pending);
        let writer = Arc::clone(&file);
        let mut buffer = blocking(move || writer.write_all_at(&pending, at).map(|()| pending)).await?;
        self.file = Some((file, at + buffer.len() as u64));
        buffer.clear();
        self.pending = buffer;
        Ok(())
    }
}

impl Body {
    /// A body that is already in memory.
    pub fn from_octets(octets: Vec<u8>) -> Self {
        Self(Storage::Memory(Arc::new(octets)))
    }

    /// Octets over the wire, before dot-stuffing.
    pub fn wire_len(&self) -> u64 {
        match &self.0 {
            Storage::Memory(octets) => octets.len() as u64,
            Storage::File { len, .. } => *len,
        }
    }

    /// Whether the body is in a spool file, so that reading it waits for a disk.
    pub fn is_spooled(&self) -> bool {
        matches!(self.0, Storage::File { .. })
    }

    /// Shows the body to `take` in pieces of at most 64 KiB ([`SPOOL_THRESHOLD`]), never more of it in memory than one.
    /// Blocks where the body is spooled: then call it off the async threads.
    ///
    /// # Errors
    /// The spool file could not be read.
    pub fn for_each_chunk(&self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let (file, len) = match &self.0 {
            Storage::Memory(octets) => {
                take(octets);
                return Ok(());
            }
            Storage::File { file, len } => (file, *len),
        };
        let mut buffer = vec![0; SPOOL_THRESHOLD];
        let mut at = 0;
        while at < len {
            let rest = usize::try_from(len - at).unwrap_or(SPOOL_THRESHOLD);
            let piece = buffer.get_mut(..rest.min(SPOOL_THRESHOLD)).unwrap_or_default();
            file.read_exact_at(piece, at)?;
            take(piece);
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// The octets from `offset` on: `length` of them, fewer where the body ends, none beyond.
    ///
    /// # Errors
    /// The spool file could not be read.
    pub async fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.wire_len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(left);
        match &self.0 {
            Storage::Memory(octets) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(length);
                Ok(octets.get(start..end).unwrap_or_default().to_vec())
            }
            Storage::File { file, .. } => {
                let file = Arc::clone(file);
                blocking(move || {
                    let mut octets = vec![0; length];
                    file.read_exact_at(&mut octets, offset).map(|()| octets)
                })
                .await
            }
        }
    }

    /// Appends the body to `wire`.
    ///
    /// # Errors
    /// The spool file could not be read.
    pub async fn append_to(&self, wire: &mut Vec<u8>) -> io::Result<()> {
        match &self.0 {
            Storage::Memory(octets) => wire.extend_from_slice(octets),
            Storage::File { file, len } => {
                let (file, len) = (Arc::clone(file), usize::try_from(*len).map_err(io::Error::other)?);
                let mut buffer = std::mem::take(wire);
                *wire = blocking(move || {
                    let start = buffer.len();
                    buffer.resize(start + len, 0);
                    file.read_exact_at(buffer.get_mut(start..).unwrap_or_default(), 0).map(|()| buffer)
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// Runs blocking file I/O off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_of_all_sizes_come_back_exact_and_leave_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path());
        for size in [0, 1, SPOOL_THRESHOLD, SPOOL_THRESHOLD + 1, 3 * SPOOL_THRESHOLD + 17] {
            let octets: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let mut writer = BodyWriter::new(&spool);
            for chunk in octets.chunks(10_007) {
                writer.write(chunk).await.unwrap();
            }
            assert_eq!(writer.len(), size as u64);
            let body = writer.finish().await.unwrap();
            let mut wire = b"head".to_vec();
            body.append_to(&mut wire).await.unwrap();
            assert_eq!(body.wire_len(), size as u64);
            assert_eq!(wire.get(4..).unwrap(), octets);
            let mut pieces = Vec::new();
            body.for_each_chunk(|piece| pieces.extend_from_slice(piece)).unwrap();
            assert_eq!((&pieces, body.is_spooled()), (&octets, size > SPOOL_THRESHOLD));
            pieces.clear();
            loop {
                let piece = body.read_at(pieces.len() as u64, 10_007).await.unwrap();
                if piece.is_empty() {
                    break;
                }
                pieces.extend(piece);
            }
            assert_eq!(pieces, octets);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }

    #[tokio::test]
    async fn a_spool_that_cannot_be_written_is_an_error_not_a_loss() {
        let mut writer = BodyWriter::new(&Spool::new("/nonexistent/spool"));
        assert!(writer.write(&vec![0; SPOOL_THRESHOLD + 1]).await.is_err());
    }
}
