//! Transparency (RFC 5321 section 4.5.2) for a message that is sent in pieces: a dot that begins a line is doubled, and
//! the end is marked by a lone dot. Pure.

use crate::mail::StrayLineEndings;

/// Turns the octets of a message into what follows DATA.
///
/// CRLF is the only line ending that leaves: a stray CR or LF becomes a space here as everywhere (the pipeline has seen
/// to it; this is the last gate before the next server, and SMTP smuggling is made of such octets).
#[derive(Debug)]
pub(super) struct DotStuffing {
    stray: StrayLineEndings,
    line_start: bool,
    repaired: Vec<u8>,
}

impl DotStuffing {
    pub fn new() -> Self {
        Self { stray: StrayLineEndings::default(), line_start: true, repaired: Vec::new() }
    }

    /// Appends the next piece of the message to `out`, wherever the message was cut.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut repaired = std::mem::take(&mut self.repaired);
        repaired.clear();
        self.stray.push(piece, &mut repaired);
        self.stuff(&repaired, out);
        self.repaired = repaired;
    }

    /// Appends the end: the line ending of the last line where it has none, and the lone dot. Returns how many stray
    /// line endings were replaced.
    pub fn finish(mut self, out: &mut Vec<u8>) -> u64 {
        let mut rest = Vec::new();
        let replaced = self.stray.finish(&mut rest);
        self.stuff(&rest, out);
        out.extend_from_slice(if self.line_start { b".\r\n" } else { b"\r\n.\r\n" });
        replaced
    }

    /// `octets` hold LF as the end of CRLF only.
    fn stuff(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        for line in octets.split_inclusive(|&b| b == b'\n') {
            if self.line_start && line.starts_with(b".") {
                out.push(b'.');
            }
            out.extend_from_slice(line);
            self.line_start = line.ends_with(b"\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(pieces: &[&[u8]]) -> Vec<u8> {
        let mut stuffing = DotStuffing::new();
        let mut out = Vec::new();
        for piece in pieces {
            stuffing.push(piece, &mut out);
        }
        stuffing.finish(&mut out);
        out
    }

    #[test]
    fn the_end_is_marked_and_a_last_line_completed() {
        for (message, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n..\r\na.\r\n", b"..\r\n...\r\na.\r\n.\r\n"),
            (b"a\r\n\r\n", b"a\r\n\r\n.\r\n"),
        ] {
            assert_eq!(encode(&[message]), wire, "{:?}", String::from_utf8_lossy(message));
        }
    }

    #[test]
    fn no_stray_line_ending_can_end_the_message_early() {
        for message in [&b"a\n.\r\nMAIL FROM:<x>"[..], b"a\r\n.\rb", b"a\n.\nb", b"a\r.\r\nb", b"a\r"] {
            let wire = encode(&[message]);
            let ends = wire.windows(5).filter(|w| w == b"\r\n.\r\n").count();
            assert_eq!(ends, 1, "{:?}", String::from_utf8_lossy(&wire));
            let text = String::from_utf8(wire).unwrap().replace("\r\n", "");
            assert!(!text.contains(['\r', '\n']), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter_and_the_receiver_gets_the_message_back(
            lines in prop::collection::vec("[.]{0,3}[ab\0ü]{0,3}", 0..20),
            last in "[.]{0,2}[a]{0,2}",
            cuts in prop::collection::vec(0usize..200, 0..6),
        ) {
            let mut message = lines.iter().map(|line| format!("{line}\r\n")).collect::<String>();
            message.push_str(&last);
            let message = message.as_bytes();
            let mut pieces = Vec::new();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (message.len() + 1)).collect();
            cuts.sort_unstable();
            let mut start = 0;
            for cut in cuts {
                pieces.push(message.get(start..cut).unwrap());
                start = cut;
            }
            pieces.push(message.get(start..).unwrap());
            let wire = encode(&pieces);
            prop_assert_eq!(&wire, &encode(&[message]));
            let wire = String::from_utf8(wire).unwrap();
            let content = wire.strip_suffix(".\r\n").unwrap();
            let mut received = String::new();
            for line in content.split_inclusive("\r\n") {
                prop_assert_ne!(line, ".\r\n");
                received.push_str(line.strip_prefix('.').unwrap_or(line));
            }
            let mut expected = String::from_utf8(message.to_vec()).unwrap();
            if !expected.is_empty() && !expected.ends_with("\r\n") {
                expected.push_str("\r\n");
            }
            prop_assert_eq!(received, expected);
        }
    }
}
