//! Message data (RFC 5321 sections 4.1.1.4 and 4.5.2): finds its end and takes the dot-stuffing off.

/// Decodes message data that arrives in chunks.
///
/// Only `CRLF . CRLF` ends the data, or `. CRLF` at its very beginning. A bare CR or LF is data like any other octet and
/// begins no line, so no dot after it means anything.
#[derive(Debug, Default)]
pub struct DataDecoder {
    at: At,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// After CRLF, or before the first octet.
    #[default]
    LineStart,
    /// After a dot that began a line.
    Dot,
    /// After a dot that began a line, and CR.
    DotCr,
    /// Within a line.
    Line,
    /// Within a line, after CR.
    Cr,
}

impl DataDecoder {
    /// Decodes as much of `input` as belongs to the data, appending the message to `message`. Returns how many octets of
    /// `input` were used and whether the data ended with them; what follows are commands.
    pub fn decode(&mut self, input: &[u8], message: &mut Vec<u8>) -> (usize, bool) {
        let mut rest = input;
        while let Some((&octet, after)) = rest.split_first() {
            self.at = match (self.at, octet) {
                (At::LineStart, b'.') => At::Dot,
                (At::Dot, b'\r') => At::DotCr,
                (At::DotCr, b'\n') => {
                    self.at = At::LineStart;
                    return (input.len() - after.len(), true);
                }
                (At::DotCr, _) => {
                    // The dot was stuffing and the CR belongs to the message; the octet is looked at again.
                    message.push(b'\r');
                    self.at = At::Cr;
                    continue;
                }
                (At::Cr, b'\n') => {
                    message.push(b'\n');
                    At::LineStart
                }
                (_, b'\r') => {
                    message.push(b'\r');
                    At::Cr
                }
                _ => {
                    let run = rest.iter().position(|&b| b == b'\r').unwrap_or(rest.len());
                    let (plain, from_cr) = rest.split_at(run);
                    message.extend_from_slice(plain);
                    self.at = At::Line;
                    rest = from_cr;
                    continue;
                }
            };
            rest = after;
        }
        (input.len(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunks: &[&[u8]]) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut decoder = DataDecoder::default();
        let (mut message, mut left) = (Vec::new(), None);
        for chunk in chunks {
            match &mut left {
                Some(left) => Vec::extend_from_slice(left, chunk),
                None => {
                    let (used, ended) = decoder.decode(chunk, &mut message);
                    if ended {
                        left = Some(chunk[used..].to_vec());
                    }
                }
            }
        }
        (message, left)
    }

    #[test]
    fn stuffing_comes_off_and_the_rest_is_left_for_commands() {
        for (input, message, left) in [
            (&b".\r\n"[..], &b""[..], Some(&b""[..])),
            (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", Some(b"QUIT\r\n")),
            (b"..\r\n.\r\n", b".\r\n", Some(b"")),
            (b"...a\r\n.b\r\n.\r\n", b"..a\r\nb\r\n", Some(b"")),
            (b"a.\r\n.\r\n", b"a.\r\n", Some(b"")),
            (b"a\r\n.", b"a\r\n", None),
        ] {
            assert_eq!(decode(&[input]), (message.to_vec(), left.map(<[u8]>::to_vec)), "{input:?}");
        }
    }

    #[test]
    fn no_other_ending_ends_the_data() {
        for (ending, kept) in [
            (&b"\n.\n"[..], &b"\n.\n"[..]),
            (b"\n.\r\n", b"\n.\r\n"),
            (b"\r\n.\n", b"\r\n\n"),
            (b"\r.\r", b"\r.\r"),
            (b"\r.\r\n", b"\r.\r\n"),
            (b"\r\n.\r", b"\r\n"),
            (b"\r\n.\r\r\n", b"\r\n\r\r\n"),
            (b"\r\n\0.\r\n", b"\r\n\0.\r\n"),
            (b"\r\r\n.\rx", b"\r\r\n\rx"),
        ] {
            let input = [b"a".as_slice(), ending].concat();
            assert_eq!(decode(&[&input]), ([b"a".as_slice(), kept].concat(), None), "{ending:?}");
        }
    }

    /// The definition, written the slow way: where `CRLF . CRLF` first stands, the beginning counting as CRLF.
    fn end_by_definition(input: &[u8]) -> Option<usize> {
        let framed = [b"\r\n".as_slice(), input].concat();
        framed.windows(5).position(|w| w == b"\r\n.\r\n").map(|at| at + 3)
    }

    proptest! {
        #[test]
        fn the_end_is_where_the_rfc_says_however_it_is_cut(
            input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'x')], 0..40),
            cut in 0usize..40,
        ) {
            let whole = decode(&[&input]);
            let (a, b) = input.split_at(cut.min(input.len()));
            prop_assert_eq!(&decode(&[a, b]), &whole);
            prop_assert_eq!(whole.1.map(|left| input.len() - left.len()), end_by_definition(&input));
        }

        #[test]
        fn a_stuffed_message_comes_back(lines in proptest::collection::vec("[.a\\x00\u{e9}]{0,5}", 0..10)) {
            let message: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let stuffed: String =
                lines.iter().map(|line| if line.starts_with('.') { format!(".{line}\r\n") } else { format!("{line}\r\n") }).collect();
            prop_assert_eq!(decode(&[stuffed.as_bytes(), b".\r\n"]), (message.into_bytes(), Some(Vec::new())));
        }
    }
}
