//! The client's side of SMTP. Part of `relay`.

use super::dot_stuffing::DotStuffing;
use super::reply::{Extensions, ReplyReader};
use crate::attach::smtp::DataDecoder;
use crate::fuzzing::input::{Input, pieces, repaired, sure};

pub(crate) fn token(octets: &[u8]) {
    if let Ok(granted) = super::token::parse(octets) {
        let token = granted.token.expose();
        assert!(!token.is_empty() && token.iter().all(u8::is_ascii_graphic), "a token that ends its field");
    }
}

pub(crate) fn dot_stuffing(octets: &[u8]) {
    let mut input = Input::new(octets);
    let (rhythm, other_rhythm) = (input.octet(), input.octet());
    let message = input.rest();
    let mut wire = Vec::new();
    let mut stuffing = DotStuffing::new();
    pieces(message, rhythm).for_each(|piece| stuffing.push(piece, &mut wire));
    stuffing.finish(&mut wire);
    assert!(wire.len() <= 2 * message.len() + 5);

    // What a server makes of it: the message without stray line endings, its last line complete.
    let mut expected = repaired(message);
    if !expected.is_empty() && !expected.ends_with(b"\r\n") {
        expected.extend_from_slice(b"\r\n");
    }
    let (mut decoder, mut decoded, mut used, mut ended) = (DataDecoder::default(), Vec::new(), 0, false);
    for piece in pieces(&wire, other_rhythm) {
        assert!(!ended, "the data ended too early");
        let (now, end) = decoder.decode(piece, &mut decoded);
        used += now;
        ended = end;
    }
    assert!(ended && used == wire.len());
    assert_eq!(decoded, expected);

    // Decoding what anybody sends: any cut gives the same, and never more than was sent.
    let mut whole = Vec::new();
    let (used, ended) = DataDecoder::default().decode(message, &mut whole);
    assert!(used <= message.len() && whole.len() <= used);
    let (mut decoder, mut cut, mut total, mut end) = (DataDecoder::default(), Vec::new(), 0, false);
    for piece in pieces(message, rhythm) {
        if end {
            break;
        }
        let (now, found) = decoder.decode(piece, &mut cut);
        total += now;
        end = found;
    }
    assert_eq!((&whole, used, ended), (&cut, total, end));
}

pub(crate) fn replies(octets: &[u8]) {
    let mut input = Input::new(octets);
    let rhythm = input.octet();
    let said = input.rest();
    let whole = read(std::iter::once(said));
    assert_eq!(whole, read(pieces(said, rhythm)));
}

/// Every reply as we would pass it on, and the error that ends the reading.
fn read<'s>(pieces: impl Iterator<Item = &'s [u8]>) -> (Vec<(String, String)>, Option<String>) {
    let mut reader = ReplyReader::default();
    let mut read = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next() {
                Ok(Some(reply)) => {
                    let extensions = Extensions::read(&reply);
                    let passed = reply.passed_back("endpoint.desk.example[192.0.2.1]:587");
                    assert!(passed.code() != 421 && !passed.lines().is_empty());
                    assert_eq!(passed.is_success(), reply.is_success());
                    for reply in [&passed, &reply.as_reply()] {
                        let wire = reply.to_wire();
                        assert!(wire.split_inclusive(|&b| b == b'\n').all(|line| line.len() <= 512));
                        // What we say of it is one reply with that code, and nothing besides.
                        let mut again = ReplyReader::default();
                        again.push(&wire);
                        let once = sure(again.next()).unwrap_or_else(|| unreachable!("a whole reply"));
                        assert_eq!((once.code, once.lines.len()), (reply.code(), reply.lines().len()));
                        assert!(again.is_empty());
                    }
                    read.push((format!("{reply:?} {extensions:?}"), passed.to_string()));
                }
                Ok(None) => break,
                Err(nonsense) => return (read, Some(nonsense.to_string())),
            }
        }
    }
    (read, None)
}
