//! Netstrings (<https://cr.yp.to/proto/netstrings.txt>): `5:hello,`. Pure.

/// Octets of a request at most: the name of a table and an address, which may be as long as a line that Postfix takes
/// (`line_length_limit`, 2,048), though none that long is known here.
pub(super) const REQUEST_MAX: usize = 4_096;
/// Digits of a length at most; Postfix sends no leading zeros.
const DIGITS_MAX: usize = 4;

/// What stands at the beginning of some octets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<'a> {
    /// A whole netstring, and how many octets it takes in all.
    Whole(&'a [u8], usize),
    /// More is needed.
    Part,
    /// It is none, or too long.
    Wrong,
}

/// Reads one netstring.
pub(super) fn read(octets: &[u8]) -> Read<'_> {
    let digits = octets.iter().take(DIGITS_MAX + 1).take_while(|b| b.is_ascii_digit()).count();
    let (length, rest) = octets.split_at(digits.min(octets.len()));
    let colon = match rest.first() {
        None if digits <= DIGITS_MAX => return Read::Part,
        Some(b':') if (1..=DIGITS_MAX).contains(&digits) => rest.get(1..).unwrap_or_default(),
        _ => return Read::Wrong,
    };
    let length = std::str::from_utf8(length).ok().and_then(|length| length.parse::<usize>().ok());
    let Some(length) = length.filter(|length| *length <= REQUEST_MAX) else { return Read::Wrong };
    match (colon.get(..length), colon.get(length)) {
        (Some(content), Some(b',')) => Read::Whole(content, digits.saturating_add(length).saturating_add(2)),
        (_, Some(_)) => Read::Wrong,
        _ => Read::Part,
    }
}

/// Writes one.
pub(super) fn write(content: &str) -> Vec<u8> {
    format!("{}:{content},", content.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn netstrings_are_read_whole_or_not_at_all() {
        assert_eq!(read(b"5:hello,rest"), Read::Whole(b"hello", 8));
        assert_eq!(read(b"0:,"), Read::Whole(b"", 3));
        for part in ["", "5", "5:", "5:hel", "5:hello"] {
            assert_eq!(read(part.as_bytes()), Read::Part, "{part}");
        }
        for wrong in [":", "x", "-1:,", "5:hello;", "5 :hello,", "99999:", "12345", "4097:"] {
            assert_eq!(read(wrong.as_bytes()), Read::Wrong, "{wrong}");
        }
        assert_eq!(write("OK a"), b"4:OK a,");
    }

    proptest! {
        #[test]
        fn any_octets_are_taken_without_harm(octets in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = read(&octets);
        }

        #[test]
        fn what_is_written_is_read_again(text in "[ -~]{0,300}") {
            let written = write(&text);
            prop_assert_eq!(read(&written), Read::Whole(text.as_bytes(), written.len()));
        }
    }
}
