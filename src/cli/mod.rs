//! To be written.

pub mod postfix;
