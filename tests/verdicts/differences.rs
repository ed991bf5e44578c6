//! Where we differ from a peer, and why.

/// A difference that the test expects, exactly so.
pub struct Difference {
    pub case: &'static str,
    pub method: &'static str,
    pub ours: &'static str,
    pub theirs: &'static str,
    /// The RFC that settles it.
    pub argument: &'static str,
}

pub const DIFFERENCES: &[Difference] = &[];
