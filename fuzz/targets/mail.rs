//! Header sections, fields and addresses.

use super::input::{Input, block, parts, pieces, repaired, text};
use crate::mail::{Address, Domain, Header, HeaderEdit, Headers, HeadersBuilder, Path};

/// Octets of a header section at most: small, so that inputs reach it.
const LIMIT: usize = 1_024;

pub(super) fn headers(octets: &[u8]) {
    let mut input = Input::new(octets);
    let (rhythm, picks) = (input.octet(), [input.octet(), input.octet(), input.octet()]);
    let message = input.rest();

    // Any cut gives the same, the refusal of a section over the limit included.
    let (whole, cut) = (read(std::iter::once(message)), read(pieces(message, rhythm)));
    assert_eq!(whole, cut);
    if let Ok(wire) = &whole {
        // A bare LF ends a line, too, and leaves as CRLF.
        assert!(wire.len() <= 2 * message.len() + 4);
    }

    // It leaves as it came, but for an empty line put before what is no field, and a last line ending.
    let message = repaired(message);
    let found = block(&message);
    let mut wire = section(&found.headers);
    wire.extend_from_slice(&found.body);
    let plain = |octets: &[u8]| octets.iter().copied().filter(|octet| !b"\r\n".contains(octet)).collect::<Vec<_>>();
    assert_eq!(plain(&wire), plain(&message));
    let again = block(&wire);
    assert_eq!((&again.headers, &again.body), (&found.headers, &found.body));

    // Edits of it, written and read again, give the fields that were meant.
    let mut edited = found.headers.clone();
    let picked = |pick: u8| usize::from(pick) % (edited.len() + 1);
    let edits = [
        HeaderEdit::Prepend(Header::written("X-Top", "1")),
        HeaderEdit::Remove { index: picked(picks[0]) },
        HeaderEdit::Replace { index: picked(picks[1]), field: Header::written("X-New", "2") },
        HeaderEdit::Remove { index: picked(picks[2]) },
        HeaderEdit::Append(Header::written("X-End", "3")),
    ];
    let gone: std::collections::HashSet<usize> =
        [picks[0], picks[2]].into_iter().map(picked).filter(|&index| index < edited.len()).collect();
    let expected = edited.len() + 2 - gone.len();
    edited.apply(&edits);
    assert_eq!(edited.len(), expected);
    assert_eq!(fields(&block(&section(&edited)).headers), fields(&edited));
}

/// What a reader with a limit makes of a message in pieces: the message as it leaves, or that it is refused.
fn read<'m>(pieces: impl Iterator<Item = &'m [u8]>) -> Result<Vec<u8>, ()> {
    let mut builder = Some(HeadersBuilder::new(LIMIT));
    let (mut wire, mut held) = (Vec::new(), 0);
    for piece in pieces {
        let Some(open) = &mut builder else {
            wire.extend_from_slice(piece);
            continue;
        };
        held += piece.len();
        match open.push(piece) {
            Err(_) => return Err(()),
            Ok(None) => assert!(held <= LIMIT),
            Ok(Some(block)) => {
                assert!(block.headers.wire_len() <= LIMIT + 4);
                wire = section(&block.headers);
                wire.extend_from_slice(&block.body);
                builder = None;
            }
        }
    }
    if let Some(open) = builder {
        let block = open.finish();
        wire = section(&block.headers);
        wire.extend_from_slice(&block.body);
    }
    Ok(wire)
}

fn section(headers: &Headers) -> Vec<u8> {
    let mut wire = Vec::new();
    headers.write_to(&mut wire);
    assert_eq!(wire.len(), headers.wire_len());
    wire
}

fn fields(headers: &Headers) -> Vec<&[u8]> {
    headers.iter().map(Header::raw).collect()
}

pub(super) fn header_value(octets: &[u8]) {
    let [name, value] = parts(octets);
    let field = Header::new(name, value);
    assert!(field.raw().len() <= name.len() + 2 * value.len() + 1);

    // No line of it begins anything but itself: every CRLF is a fold, and there is no CR or LF besides.
    let mut lines = field.raw().split(|&octet| octet == b'\n').peekable();
    while let Some(line) = lines.next() {
        let line = match lines.peek() {
            Some(next) => {
                assert!(matches!(next.first(), Some(b' ' | b'\t')), "{field:?}");
                line.strip_suffix(b"\r").unwrap_or_else(|| unreachable!("a bare LF in {field:?}"))
            }
            None => line,
        };
        assert!(!line.contains(&b'\r'), "{field:?}");
    }
    // The same again is the same.
    assert_eq!(Header::new(field.name(), field.value()).raw(), [field.name(), b":", field.value()].concat());

    // A field with a name that is one is one field to whoever reads it.
    if !field.name().is_empty() && field.name().iter().all(u8::is_ascii_graphic) {
        let mut headers = Headers::new(vec![Header::written("X-Before", "1"), field.clone()]);
        headers.apply(&[HeaderEdit::Append(Header::written("X-After", "2"))]);
        let read = block(&section(&headers));
        assert_eq!((fields(&read.headers), read.body.len()), (fields(&headers), 0));
    }
    let unfolded = field.unfolded();
    assert!(!unfolded.contains(&b'\n') && !unfolded.contains(&b'\r'));
    let again = Header::new(b"X", &unfolded);
    assert_eq!(again.unfolded(), unfolded);
}

pub(super) fn addresses(octets: &[u8]) {
    let written = text(octets);
    if let Ok(domain) = Domain::parse(&written) {
        assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(&domain));
        assert!(domain.as_str().len() <= 255 && domain.as_str().bytes().all(|b| b.is_ascii_graphic()), "{domain}");
        assert!(!domain.as_str().bytes().any(|b| b.is_ascii_uppercase()), "{domain}");
    }
    if let Ok(address) = Address::parse(&written) {
        assert!(!address.local().is_empty() && !address.local().chars().any(|c| c.is_ascii_control()), "{address}");
        let quoted = address.local().replace('\\', "\\\\").replace('"', "\\\"");
        // A local part that grows by quoting may be too long then.
        if let Ok(again) = Address::parse(&format!("\"{quoted}\"@{}", address.domain())) {
            assert_eq!(again, address);
        } else {
            assert!(quoted.len() + 2 > 64, "{address}");
        }
        for delimiter in ['+', '-'] {
            let base = address.without_extension(delimiter);
            assert!(
                base.is_none_or(|base| address.local().starts_with(base.local()) && !base.local().contains(delimiter))
            );
        }
    }
    if let Ok(path) = Path::parse(octets) {
        let shown = path.to_string();
        assert_eq!(Path::parse(shown.as_bytes()).as_ref(), Ok(&path));
        assert!(shown.len() <= 322 && !shown.chars().any(char::is_control));
        assert_eq!(path.is_null(), shown == "<>");
    }
}
