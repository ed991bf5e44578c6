//! What a program pipes to `deskmilter submit`. Part of `submit`.

use super::message::Message;
use crate::fuzzing::input::{Input, sure};
use crate::mail::Path;

pub(crate) fn message(octets: &[u8]) {
    let mut input = Input::new(octets);
    let choice = input.octet();
    let octets = input.rest();
    let mut message = Message::read(octets, choice & 1 == 0);
    let before = message.wire();
    assert!(before.split(|&octet| octet == b'\n').rev().skip(1).all(|line| line.ends_with(b"\r")), "a bare LF");
    // To nobody that is not named, by a word at least.
    for address in message.recipients().unwrap_or_default() {
        let told = String::from_utf8_lossy(octets).into_owned();
        assert!(address.split(['@', '.', '"', '\\', ' ']).all(|word| told.contains(word)), "{address:?}");
    }
    let _ = message.author();
    let sender = if choice & 2 == 0 { Path::parse(b"desk@acme.example") } else { Path::parse(b"") };
    message.complete(&sure(sender), Some("M\u{fc}ller \"A\""), "acme.example");
    let after = message.wire();
    let again = Message::read(&after, true);
    assert_eq!(again.wire(), after, "what is sent reads otherwise than it was meant");
}
