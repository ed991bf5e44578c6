//! Header fields as raw octets in order (RFC 5322 section 2.2): what is not edited leaves exactly as it came.

use memchr::memchr2;

use super::verdict::HeaderEdit;

/// One header field: name, colon and value as received, folded with CRLF, without the CRLF that ends it.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    raw: Vec<u8>,
    colon: usize,
}

impl Header {
    /// A field from its name and the octets after the colon, leading white space included.
    ///
    /// Folds may be LF (as milters give them) or CRLF; any other CR or LF becomes a space, so that a value can never
    /// begin another field. Octets that cannot be in a field name become `?`.
    pub fn new(name: &[u8], value: &[u8]) -> Self {
        let mut raw = Vec::with_capacity(name.len() + value.len() + 8);
        raw.extend(name.iter().map(|&b| if is_name_octet(b) || b == b' ' || b == b'\t' { b } else { b'?' }));
        let colon = raw.len();
        raw.push(b':');
        let mut rest = value;
        while let Some((&octet, tail)) = rest.split_first() {
            rest = match (octet, tail) {
                (b'\r', [b'\n', after @ ..]) | (b'\n', after) if matches!(after.first(), Some(b' ' | b'\t')) => {
                    raw.extend_from_slice(b"\r\n");
                    after
                }
                (b'\r', [b'\n', after @ ..]) => {
                    raw.push(b' ');
                    after
                }
                (b'\r' | b'\n', after) => {
                    raw.push(b' ');
                    after
                }
                _ => {
                    let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    let (plain, after) = rest.split_at(end);
                    raw.extend_from_slice(plain);
                    after
                }
            };
        }
        Self { raw, colon }
    }

    /// A field as we write it: one space after the colon. Fold with CRLF and a blank.
    pub fn written(name: &str, text: &str) -> Self {
        Self::new(name.as_bytes(), format!(" {text}").as_bytes())
    }

    /// The field name as spelled, without white space before the colon (obsolete syntax, still met).
    pub fn name(&self) -> &[u8] {
        self.raw.get(..self.colon).unwrap_or_default().trim_ascii_end()
    }

    /// Whether the field has this name, in any letter case.
    pub fn is(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name.as_bytes())
    }

    /// All after the colon, raw: leading white space and folds included.
    pub fn value(&self) -> &[u8] {
        self.raw.get(self.colon + 1..).unwrap_or_default()
    }

    /// The value unfolded, trimmed, with runs of white space as one space: relaxed canonicalisation (RFC 6376 section 3.4.2).
    pub fn unfolded(&self) -> Vec<u8> {
        let mut words = self.value().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let mut unfolded = words.next().unwrap_or_default().to_vec();
        for word in words {
            unfolded.push(b' ');
            unfolded.extend_from_slice(word);
        }
        unfolded
    }

    /// [`Self::unfolded`] as text, invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.unfolded()).into_owned()
    }

    /// The field as it goes over the wire, without the final CRLF.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.raw))
    }
}

/// RFC 5322 section 2.2: printable US-ASCII except colon.
fn is_name_octet(octet: u8) -> bool {
    octet.is_ascii_graphic() && octet != b':'
}

/// The header section of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    fields: Vec<Header>,
    separator: bool,
}

impl Headers {
    /// A header section from its fields, with the empty line that ends it.
    pub fn new(fields: Vec<Header>) -> Self {
        Self { fields, separator: true }
    }

    /// The fields in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Header> {
        self.fields.iter()
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field at all.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The fields of this name, in order.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Header> + 'a {
        self.fields.iter().filter(move |field| field.is(name))
    }

    /// The first field of this name.
    pub fn first(&self, name: &str) -> Option<&Header> {
        self.fields.iter().find(|field| field.is(name))
    }

    /// Carries out edits. Indices in `edits` mean the fields as they are now, whatever the order of the edits.
    pub fn apply(&mut self, edits: &[HeaderEdit]) {
        let mut removed = vec![false; self.fields.len()];
        let (mut top, mut bottom) = (Vec::new(), Vec::new());
        for edit in edits {
            match edit {
                HeaderEdit::Prepend(field) => top.push(field.clone()),
                HeaderEdit::Append(field) => bottom.push(field.clone()),
                HeaderEdit::Replace { index, field } => {
                    if let Some(place) = self.fields.get_mut(*index) {
                        *place = field.clone();
                    }
                }
                HeaderEdit::Remove { index } => {
                    if let Some(mark) = removed.get_mut(*index) {
                        *mark = true;
                    }
                }
            }
        }
        let mut marks = removed.into_iter();
        self.fields.retain(|_| !marks.next().unwrap_or(false));
        top.reverse();
        self.fields.splice(0..0, top);
        self.fields.append(&mut bottom);
    }

    /// Octets over the wire, with the empty line that ends the section.
    pub fn wire_len(&self) -> usize {
        let fields: usize = self.fields.iter().map(|field| field.raw.len() + 2).sum();
        fields + if self.separator { 2 } else { 0 }
    }

    /// Appends the section as it goes over the wire, with the empty line.
    pub fn write_to(&self, wire: &mut Vec<u8>) {
        for field in &self.fields {
            wire.extend_from_slice(&field.raw);
            wire.extend_from_slice(b"\r\n");
        }
        if self.separator {
            wire.extend_from_slice(b"\r\n");
        }
    }
}

/// Why a header section was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadersError {
    /// The section is larger than the limit.
    #[error("header section larger than {limit} octets")]
    TooLarge {
        /// The limit in octets.
        limit: usize,
    },
}

/// Finds the header section at the beginning of a message that arrives in chunks with CRLF line endings.
///
/// The section ends at the empty line. A line that is no header field ends it too, and an empty line is put before that
/// line, as Postfix does: otherwise a lenient reader further on would take what follows for header fields that we never saw.
#[derive(Debug)]
pub struct HeadersBuilder {
    limit: usize,
    buffer: Vec<u8>,
    /// Where the line begins that is not complete yet.
    line: usize,
    fields: Vec<(usize, usize)>,
}

/// A complete header section and the octets of the body that came with it.
#[derive(Debug, PartialEq, Eq)]
pub struct HeaderBlock {
    /// The section.
    pub headers: Headers,
    /// The first octets of the body.
    pub body: Vec<u8>,
}

enum Line {
    Field { colon: usize },
    Continuation,
    Empty,
    Other,
}

impl HeadersBuilder {
    /// A builder that refuses sections of more than `limit` octets.
    pub fn new(limit: usize) -> Self {
        Self { limit, buffer: Vec::new(), line: 0, fields: Vec::new() }
    }

    /// Takes the next chunk; returns the section once it is complete. Later chunks are body and not for this builder.
    ///
    /// # Errors
    /// The section is larger than the limit.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Option<HeaderBlock>, HeadersError> {
        let mut searched = self.buffer.len().max(self.line);
        self.buffer.extend_from_slice(chunk);
        while let Some(found) = self.buffer.get(searched..).and_then(|rest| rest.iter().position(|&b| b == b'\n')) {
            let end = searched + found + 1;
            if end > self.limit {
                return Err(HeadersError::TooLarge { limit: self.limit });
            }
            let start = self.line;
            match self.classify(start, end) {
                Line::Field { colon } => self.fields.push((start, colon)),
                Line::Continuation => {}
                Line::Empty => return Ok(Some(self.complete(start, end, true))),
                Line::Other => return Ok(Some(self.complete(start, start, true))),
            }
            self.line = end;
            searched = end;
        }
        if self.buffer.len() > self.limit {
            return Err(HeadersError::TooLarge { limit: self.limit });
        }
        Ok(None)
    }

    /// The message ended without an empty line: what there is.
    pub fn finish(mut self) -> HeaderBlock {
        let (start, end) = (self.line, self.buffer.len());
        match self.classify(start, end) {
            _ if start == end => self.complete(end, end, false),
            Line::Field { colon } => {
                self.fields.push((start, colon));
                self.complete(end, end, false)
            }
            Line::Continuation => self.complete(end, end, false),
            Line::Empty | Line::Other => self.complete(start, start, true),
        }
    }

    fn classify(&self, start: usize, end: usize) -> Line {
        let line = self.buffer.get(start..end).unwrap_or_default();
        match line.first() {
            Some(b' ' | b'\t') if !self.fields.is_empty() => return Line::Continuation,
            _ if line == b"\r\n" || line == b"\n" => return Line::Empty,
            _ => {}
        }
        let Some(colon) = line.iter().position(|&b| b == b':') else { return Line::Other };
        let name = line.get(..colon).unwrap_or_default().trim_ascii_end();
        if !name.is_empty() && name.iter().all(|&b| is_name_octet(b)) {
            Line::Field { colon: start + colon }
        } else {
            Line::Other
        }
    }

    fn complete(&mut self, headers_end: usize, body_start: usize, separator: bool) -> HeaderBlock {
        let ends = self.fields.iter().skip(1).map(|&(start, _)| start).chain([headers_end]);
        let fields = self
            .fields
            .iter()
            .zip(ends)
            .map(|(&(start, colon), end)| {
                let raw = self.buffer.get(start..end).unwrap_or_default();
                let raw = raw.strip_suffix(b"\r\n").or_else(|| raw.strip_suffix(b"\n")).unwrap_or(raw);
                Header { raw: raw.to_vec(), colon: colon - start }
            })
            .collect();
        let body = self.buffer.split_off(body_start.min(self.buffer.len()));
        HeaderBlock { headers: Headers { fields, separator }, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(message: &[u8]) -> HeaderBlock {
        let mut builder = HeadersBuilder::new(1 << 20);
        builder.push(message).unwrap().unwrap_or_else(|| builder.finish())
    }

    fn rejoin(block: &HeaderBlock) -> Vec<u8> {
        let mut wire = Vec::new();
        block.headers.write_to(&mut wire);
        assert_eq!(wire.len(), block.headers.wire_len());
        wire.extend_from_slice(&block.body);
        wire
    }

    #[test]
    fn a_message_leaves_as_it_came() {
        for message in [
            &b"Subject: a\r\nX-Odd :\tb\r\n folded\r\n\r\nbody\r\n"[..],
            b"Subject: only a header\r\n",
            b"\r\nonly a body\r\n",
            b"A: \x80\xff\0\r\n\r\n",
            b"",
        ] {
            assert_eq!(rejoin(&parse(message)), message, "{message:?}");
        }
        assert_eq!(rejoin(&parse(b"Subject: no line ending")), b"Subject: no line ending\r\n");
    }

    #[test]
    fn a_line_that_is_no_field_begins_the_body_after_an_empty_line() {
        let block = parse(b"Subject: a\r\nno field here\r\nX-Deskmilter-Sender-Auth: pass\r\n\r\nbody\r\n");
        assert_eq!(block.headers.len(), 1);
        assert_eq!(
            rejoin(&block),
            b"Subject: a\r\n\r\nno field here\r\nX-Deskmilter-Sender-Auth: pass\r\n\r\nbody\r\n"
        );
        let block = parse(b" starts with a blank\r\nSubject: a\r\n\r\n");
        assert!(block.headers.is_empty());
    }

    #[test]
    fn a_section_over_the_limit_is_refused_even_without_a_line_ending() {
        let mut builder = HeadersBuilder::new(100);
        assert!(builder.push(&[b'a'; 101]).is_err());
        let mut builder = HeadersBuilder::new(100);
        let result = (0..20).try_for_each(|_| builder.push(b"Subject: a\r\n").map(|_| ()));
        assert_eq!(result, Err(HeadersError::TooLarge { limit: 100 }));
    }

    #[test]
    fn a_value_cannot_begin_another_field() {
        for value in [&b" a\r\nBcc: b"[..], b" a\nBcc: b", b" a\rBcc: b", b" a\r\n\r\nbody"] {
            let field = Header::new(b"Subject", value);
            let mut wire = field.raw().to_vec();
            wire.extend_from_slice(b"\r\n\r\n");
            assert_eq!(parse(&wire).headers.len(), 1, "{value:?}");
        }
        assert_eq!(Header::new(b"Subject", b" a\n b").raw(), b"Subject: a\r\n b");
        assert_eq!(Header::new(b"Sub\nject", b" a").raw(), b"Sub?ject: a");
    }

    #[test]
    fn edits_mean_the_fields_before_any_edit() {
        let mut headers = parse(b"A: 1\r\nB: 2\r\nA: 3\r\n\r\n").headers;
        headers.apply(&[
            HeaderEdit::Remove { index: 0 },
            HeaderEdit::Append(Header::written("Z", "below all")),
            HeaderEdit::Prepend(Header::written("X", "first")),
            HeaderEdit::Replace { index: 1, field: Header::written("B", "new") },
            HeaderEdit::Replace { index: 2, field: Header::written("A", "gone") },
            HeaderEdit::Remove { index: 2 },
            HeaderEdit::Prepend(Header::written("Y", "above X")),
        ]);
        let names: Vec<_> = headers.iter().map(|h| String::from_utf8_lossy(h.raw()).into_owned()).collect();
        assert_eq!(names, ["Y: above X", "X: first", "B: new", "Z: below all"]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_section(message in "([A-C]{0,2}[: ]{0,2}[a ]{0,3}(\r\n)?){0,8}", cut in 0usize..60) {
            let whole = parse(message.as_bytes());
            let (a, b) = message.as_bytes().split_at(cut.min(message.len()));
            let mut builder = HeadersBuilder::new(1 << 20);
            let pieces = match builder.push(a).unwrap() {
                Some(mut block) => { block.body.extend_from_slice(b); block }
                None => builder.push(b).unwrap().unwrap_or_else(|| builder.finish()),
            };
            prop_assert_eq!(whole, pieces);
        }
    }
}
