//! What Exim says over the socket, and what it puts above a message in its scan file. Part of `attach::exim`.

use super::prefix::Prefix;
use super::request::{MessageId, Request};
use crate::fuzzing::input::{Input, pieces};
use crate::mail::Path;

pub(crate) fn request(octets: &[u8]) {
    let Ok(request) = Request::parse(octets) else { return };
    match request {
        Request::Ask(facts) | Request::Recipient { facts, .. } => assert!(facts.id.as_ref().is_none_or(names_a_file)),
        Request::Judge(facts) => assert!(facts.id.as_ref().is_some_and(names_a_file)),
        Request::Sign { id, .. } => assert!(names_a_file(&id)),
    }
}

/// Whether it cannot lead out of a folder.
fn names_a_file(id: &MessageId) -> bool {
    id.as_str().bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-') && !id.as_str().is_empty()
}

pub(crate) fn prefix(octets: &[u8]) {
    let mut input = Input::new(octets);
    let (rhythm, length) = (input.octet(), input.octet() % 32);
    let Ok(sender) = Path::parse(input.take(length)) else { return };
    let file = input.rest();
    let strip = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut prefix = Prefix::new(&sender);
        let mut message = Vec::new();
        for piece in pieces {
            message.extend_from_slice(prefix.strip(piece).ok()?);
        }
        prefix.is_complete().then_some(message)
    };
    let whole = strip(&mut std::iter::once(file));
    assert_eq!(whole, strip(&mut pieces(file, rhythm)), "another message by other chunks");
    assert!(whole.is_none_or(|message| file.ends_with(&message)));
}
