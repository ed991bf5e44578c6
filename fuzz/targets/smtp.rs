//! The server's side of SMTP and LMTP.

use super::input::{Input, block, pieces};
use crate::attach::lmtp;
use crate::attach::smtp::{Event, Profile, Protocol, Session};
use crate::mail::{Path, Reply};

/// Recipients of a message at most: few, so that inputs reach it.
const RECIPIENTS: usize = 3;
/// Octets of a message at most.
const MESSAGE: u64 = 1_000;

pub(super) fn session(octets: &[u8]) {
    let mut input = Input::new(octets);
    let (kind, rhythm) = (input.octet(), input.octet());
    let octets = input.rest();
    if kind % 3 == 2 {
        // What is sent ahead of the handshake is refused or lost, as it comes: no two cuts are the same here.
        let _ = talk(&profile(Protocol::Smtp, true), false, pieces(octets, rhythm));
        return;
    }
    let (protocol, tls) = if kind % 3 == 0 { (Protocol::Lmtp, false) } else { (Protocol::Smtp, true) };
    let profile = profile(protocol, tls);
    let whole = talk(&profile, tls, std::iter::once(octets));
    assert_eq!(whole, talk(&profile, tls, pieces(octets, rhythm)));
    // An answer of a few hundred octets for a command of a few, and no more.
    let answers: usize = whole.iter().map(|line| line.len()).sum();
    assert!(answers <= 4_096 + 512 * octets.len(), "{answers}");
}

fn profile(protocol: Protocol, secure: bool) -> Profile {
    Profile {
        protocol,
        hostname: "mx.acme.example".to_owned(),
        message_size: MESSAGE,
        recipients: RECIPIENTS,
        starttls: secure,
        auth: secure,
    }
}

/// What is said and what happens, cuts within a message's data put together.
fn talk<'o>(profile: &Profile, mut tls: bool, pieces: impl Iterator<Item = &'o [u8]>) -> Vec<Vec<u8>> {
    let mut session = Session::new(profile.clone(), tls);
    let mut said = vec![line(&session.greeting())];
    let (mut data, mut closed) = (Vec::new(), false);
    for piece in pieces {
        session.receive(piece);
        while let Some(event) = session.poll() {
            assert!(!closed, "something after the end");
            let secure = tls || !profile.starttls;
            match event {
                Event::Reply(reply) => said.push(line(&reply)),
                Event::Close(reply) => {
                    said.push(line(&reply));
                    closed = true;
                }
                Event::Recipient(path) => {
                    assert!(secure && session.in_transaction());
                    round_trip(&path);
                    if !path.as_str().starts_with("no") {
                        session.take_recipient();
                    }
                    said.push(path.to_string().into_bytes());
                }
                Event::Data => {
                    assert!(secure && !session.recipients().is_empty());
                    said.push(b"354".to_vec());
                }
                Event::Chunk(chunk) => {
                    assert!(session.in_transaction() && !chunk.is_empty());
                    data.extend_from_slice(&chunk);
                }
                Event::End(envelope) => {
                    assert!((1..=RECIPIENTS).contains(&envelope.recipients.len()) && !session.in_transaction());
                    round_trip(&envelope.sender);
                    said.push(format!("{envelope:?}").into_bytes());
                    said.push(std::mem::take(&mut data));
                }
                Event::StartTls(reply) => {
                    assert!(!tls && profile.starttls);
                    said.push(line(&reply));
                    session.tls_established();
                    tls = true;
                    assert!(session.user().is_none() && session.client_name().is_none() && !session.in_transaction());
                    break;
                }
                Event::Login(login) => {
                    assert!(tls && profile.auth && session.user().is_none());
                    assert!(!login.user.is_empty() && !login.password.expose().is_empty());
                    said.push(line(&session.finish_login(login.user == "ann")));
                }
            }
        }
    }
    said.push(data);
    said
}

/// A reply as it is written: lines of at most 512 octets (RFC 5321 section 4.5.3.1.5).
fn line(reply: &Reply) -> Vec<u8> {
    let wire = reply.to_wire();
    assert!(wire.split_inclusive(|&b| b == b'\n').all(|line| line.len() <= 512 && line.ends_with(b"\r\n")));
    wire
}

fn round_trip(path: &Path) {
    assert_eq!(Path::parse(path.to_string().as_bytes()).as_ref(), Ok(path));
}

pub(super) fn queue_id(octets: &[u8]) {
    let headers = block(octets).headers;
    if let Some(id) = lmtp::queue_id(&headers) {
        assert!((1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()), "{id:?}");
    }
}
