//! OpenDKIM 2.11: `opendkim.conf`, KeyTable, SigningTable, lists of hosts. Read as OpenDKIM reads them (opendkim.conf(5),
//! opendkim(8) "DATA SETS"), so that the same senders get the same signatures.

mod dataset;
mod settings;
mod show;
mod signing;
mod tables;
#[cfg(test)]
mod tests;

pub use dataset::{Dataset, Entry, Matching, Pattern, Source};
pub use settings::{Setting, Settings};
pub use signing::{Import, Rule, Signature, Signing};
pub use tables::{Key, KeyData, KeyTable, SigningTable};
