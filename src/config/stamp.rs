//! Which content of a file was seen, without keeping the content.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How coarse the clock of a file system may be: what was changed so shortly before it was read may have been changed again
/// without a trace.
const GRANULARITY: Duration = Duration::from_secs(2);

/// Tells one content of a file from the next: by device, inode, length and the times of its last change, owner and mode included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The file as it is now, links followed; `None` when it is not there or out of reach.
    pub fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::from)
    }

    /// Whether the file was last changed well before `time`, so that what is read from then on is the content stamped here.
    pub fn is_older_than(&self, time: SystemTime) -> bool {
        let Ok(since_1970) = time.duration_since(SystemTime::UNIX_EPOCH) else { return false };
        let limit = since_1970.saturating_sub(GRANULARITY).as_secs();
        u64::try_from(self.changed.0).is_ok_and(|changed| changed < limit)
    }
}

impl From<&Metadata> for Stamp {
    fn from(facts: &Metadata) -> Self {
        Self {
            device: facts.dev(),
            inode: facts.ino(),
            length: facts.len(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        }
    }
}
