//! CR and LF only ever travel as CRLF (RFC 5321 section 2.3.8).

use memchr::memchr2;

/// Replaces each stray CR or LF by a space, over a stream that arrives in chunks; CRLF passes unchanged.
///
/// A bare CR or LF that one server passes on and the next takes for a line ending lets a sender smuggle a second message
/// (SMTP smuggling) and lets a signature cover something else than what is shown. Postfix's `cleanup_replace_stray_cr_lf`
/// does the same; doing it again costs nothing and holds for every MTA. The message is judged as it will be relayed.
#[derive(Debug, Default)]
pub struct StrayLineEndings {
    held_cr: bool,
    replaced: u64,
}

impl StrayLineEndings {
    /// Appends the repaired `chunk` to `out`. A CR at the very end is held until the next call or [`Self::finish`].
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        out.reserve(chunk.len() + 1);
        let mut rest = chunk;
        if self.held_cr {
            match rest.split_first() {
                None => return,
                Some((b'\n', tail)) => {
                    out.extend_from_slice(b"\r\n");
                    rest = tail;
                }
                Some(_) => self.replace(out),
            }
            self.held_cr = false;
        }
        while let Some(at) = memchr2(b'\r', b'\n', rest) {
            let (before, from) = rest.split_at(at);
            out.extend_from_slice(before);
            rest = match from {
                [b'\r', b'\n', tail @ ..] => {
                    out.extend_from_slice(b"\r\n");
                    tail
                }
                [b'\r'] => {
                    self.held_cr = true;
                    &[]
                }
                [_, tail @ ..] => {
                    self.replace(out);
                    tail
                }
                [] => &[],
            };
        }
        out.extend_from_slice(rest);
    }

    /// Ends the stream: a CR still held is stray. Returns how many were replaced in all.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> u64 {
        if std::mem::take(&mut self.held_cr) {
            self.replace(out);
        }
        self.replaced
    }

    fn replace(&mut self, out: &mut Vec<u8>) {
        out.push(b' ');
        self.replaced = self.replaced.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn repair(chunks: &[&[u8]]) -> (Vec<u8>, u64) {
        let mut out = Vec::new();
        let mut filter = StrayLineEndings::default();
        for chunk in chunks {
            filter.push(chunk, &mut out);
        }
        let count = filter.finish(&mut out);
        (out, count)
    }

    #[test]
    fn stray_cr_and_lf_become_spaces_and_crlf_stays() {
        for (input, expected, count) in [
            (&b"a\r\nb\r\n"[..], &b"a\r\nb\r\n"[..], 0),
            (b"a\rb\nc", b"a b c", 2),
            (b"\r\r\n", b" \r\n", 1),
            (b"\n\r\n.\r\n", b" \r\n.\r\n", 1),
            (b"end\r", b"end ", 1),
            (b"\r\n\n", b"\r\n ", 1),
        ] {
            assert_eq!(repair(&[input]), (expected.to_vec(), count), "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn chunking_makes_no_difference_and_nothing_stray_is_left(input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'x')], 0..40), cut in 0usize..40) {
            let whole = repair(&[&input]);
            let (a, b) = input.split_at(cut.min(input.len()));
            prop_assert_eq!(&repair(&[a, b]), &whole);
            let text = String::from_utf8(whole.0).unwrap().replace("\r\n", "");
            prop_assert!(!text.contains(['\r', '\n']));
        }
    }
}
