//! A line of the journal against second tickets. Part of `inline::journal`.

use super::{line, parse};

pub(crate) fn journal_line(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    if let Some((time, key)) = parse(text) {
        assert_eq!(parse(&line(time, key)), Some((time, key)));
    }
}
