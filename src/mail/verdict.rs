//! What the pipeline decided: the only thing an attachment acts on.

use super::{Header, Path, Reply};

/// The outcome of judging a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of the message.
    pub disposition: Disposition,
    /// Edits to its header section; meaningless unless the message goes on.
    pub edits: Vec<HeaderEdit>,
    /// Edits to its recipients; meaningless unless the message goes on.
    pub recipients: Vec<RecipientEdit>,
}

/// One change to the recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientEdit {
    /// One more recipient.
    Add(Path),
    /// One of the envelope's recipients, spelled as there, gets no copy. Where it was the last one nobody gets one, but those
    /// whom the MTA itself adds (`always_bcc`): the message is not discarded.
    Remove(Path),
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// It goes on its way, with the edits.
    Continue,
    /// It is refused with this reply (4xx or 5xx); the edits do not matter.
    Refuse(Reply),
}

/// One change to the header section. Indices count the fields as the pipeline saw them, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Puts a field on top of all others, the MTA's own Received included. Of several, the last is topmost.
    Prepend(Header),
    /// Takes a field away.
    Remove {
        /// Its position from 0.
        index: usize,
    },
    /// Puts another field of the same name in the place of one. A field that is also removed is removed.
    Replace {
        /// Its position from 0.
        index: usize,
        /// What stands there from now on.
        field: Header,
    },
    /// Puts a field below all others. Of several, the last is lowest.
    Append(Header),
}

impl Verdict {
    /// The message goes on unchanged.
    pub fn pass() -> Self {
        Self { disposition: Disposition::Continue, edits: Vec::new(), recipients: Vec::new() }
    }

    /// The message is refused with `reply`.
    pub fn refuse(reply: Reply) -> Self {
        Self { disposition: Disposition::Refuse(reply), ..Self::pass() }
    }
}
