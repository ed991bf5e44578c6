//! Requests of Postfix's socketmap. Part of `attach::lookup`.

use super::netstring::{REQUEST_MAX, Read, read};

pub(crate) fn netstring(octets: &[u8]) {
    let Read::Whole(content, length) = read(octets) else { return };
    assert!(content.len() <= REQUEST_MAX && length <= octets.len());
    // Whatever follows, and only when all of it is there.
    for cut in 0..length {
        assert_eq!(octets.get(..cut).map(read), Some(Read::Part), "{cut}");
    }
    assert_eq!(octets.get(..length).map(read), Some(Read::Whole(content, length)));
}
