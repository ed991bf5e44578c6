//! The milter protocol.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio_util::codec::Decoder;
use tokio_util::sync::CancellationToken;

use super::configuration;
use super::input::{Input, at_once, pieces, sure};
use crate::attach::milter::command::{Command, Offer};
use crate::attach::milter::conversation::converse;
use crate::attach::milter::frame::FrameDecoder;
use crate::attach::milter::negotiate::{Agreement, Event};
use crate::attach::milter::{Service, edits as header_edits};
use crate::config::Limits;
use crate::mail::{Connection, Disposition, Envelope, Header, HeaderEdit, Headers, Mail, Reply, Spool, Verdict};
use crate::pipeline::Judge;

/// Octets of a message and of its header section at most: small, so that inputs reach them.
const MESSAGE: u64 = 1_500;
const SECTION: usize = 500;

pub(super) fn frames(octets: &[u8]) {
    let mut input = Input::new(octets);
    let rhythm = input.octet();
    let wire = input.rest();
    let whole = decode(std::iter::once(wire));
    assert_eq!(whole, decode(pieces(wire, rhythm)));
    // What was taken off is what was there.
    assert!(wire.starts_with(&whole.0));
    if whole.1.is_none() {
        assert_eq!(wire.len(), whole.0.len() + whole.2);
    }
}

/// The frames as they stood, the error, and how many octets were left over.
fn decode<'w>(pieces: impl Iterator<Item = &'w [u8]>) -> (Vec<u8>, Option<String>, usize) {
    let (mut buffer, mut taken) = (BytesMut::new(), BytesMut::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match FrameDecoder.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    let _ = Command::parse(frame.code, &frame.payload);
                    put_frame(&mut taken, frame.code, &frame.payload);
                }
                Ok(None) => break,
                Err(error) => return (taken.to_vec(), Some(error.to_string()), 0),
            }
        }
    }
    (taken.to_vec(), None, buffer.len())
}

fn put_frame(wire: &mut BytesMut, code: u8, payload: &[u8]) {
    wire.put_u32(sure(u32::try_from(payload.len() + 1)));
    wire.put_u8(code);
    wire.put_slice(payload);
}

pub(super) fn session(octets: &[u8]) {
    let mut input = Input::new(octets);
    let rhythm = input.octet();
    let mut wire = BytesMut::new();
    let mut commands = 0;
    while !input.is_empty() {
        let (code, length) = (input.octet(), input.octet());
        put_frame(&mut wire, code, input.take(length));
        commands += 1;
    }
    let whole = talk(vec![&wire]);
    let cut = talk(pieces(&wire, rhythm).collect());
    assert_eq!((&whole.outcome, &whole.mails), (&cut.outcome, &cut.mails));
    // Answers that wait for more to come are lost when the connection breaks.
    if whole.outcome == Ok(()) {
        assert_eq!(whole.said, cut.said);
    } else {
        assert!(cut.said.starts_with(&whole.said));
    }
    let mut answers = 0;
    let mut said = BytesMut::from(cut.said.as_slice());
    while let Some(frame) = sure(FrameDecoder.decode(&mut said)) {
        match frame.code {
            // Edits come before the last answer, which is one for one command at most.
            b'm' | b'h' | b'i' | b'p' => {}
            b'O' | b'c' | b'a' | b's' | b'y' => answers += 1,
            other => unreachable!("{other} is no answer of ours"),
        }
    }
    assert!(said.is_empty() && answers <= commands);
}

/// What came of a conversation.
struct Talk {
    said: Vec<u8>,
    mails: Vec<String>,
    outcome: Result<(), String>,
}

fn talk(pieces: Vec<&[u8]>) -> Talk {
    thread_local! {
        static RUNTIME: Runtime = sure(Builder::new_current_thread().enable_time().build());
        static LIMITS: Limits =
            Limits { message_size: MESSAGE, header_size: SECTION, ..configuration::smallest().limits };
    }
    let judge = Arc::new(Recorder::default());
    let mut mta = Mta { pieces, next: 0, said: Vec::new() };
    let spool = Spool::new("/nonexistent");
    let service = LIMITS.with(|limits| Service::new(Arc::new(ArcSwap::new(Arc::clone(&judge))), spool, limits));
    let outcome =
        RUNTIME.with(|runtime| runtime.block_on(converse(&mut mta, "fuzz", &service, &CancellationToken::new())));
    let mails = std::mem::take(&mut *judge.mails.lock().unwrap_or_else(PoisonError::into_inner));
    Talk { said: mta.said, mails, outcome: outcome.map_err(|error| error.to_string()) }
}

/// An MTA that sends its pieces, one a read, and takes every answer.
struct Mta<'w> {
    pieces: Vec<&'w [u8]>,
    next: usize,
    said: Vec<u8>,
}

impl AsyncRead for Mta<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let next = self.next;
        if let Some(piece) = self.pieces.get_mut(next) {
            let (now, later) = piece.split_at(piece.len().min(buffer.remaining()));
            buffer.put_slice(now);
            *piece = later;
            self.next += usize::from(later.is_empty());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Mta<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.said.extend_from_slice(octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A judge that keeps what it saw, and has an edit of each kind made.
#[derive(Default)]
struct Recorder {
    mails: Mutex<Vec<String>>,
}

impl Judge for Recorder {
    fn concerns(&self, _: &Connection, envelope: &Envelope) -> bool {
        envelope.recipients.iter().any(|path| path.as_str().ends_with("acme.example"))
    }

    async fn judge(&self, mail: &Mail) -> Verdict {
        let wire = sure(at_once(mail.assemble()));
        assert_eq!(wire.len() as u64, mail.size());
        assert!(mail.headers.wire_len() <= SECTION + 2);
        assert!(mail.size() <= MESSAGE + 2 && (mail.shortfall.is_none() || mail.body.wire_len() == 0));
        let rest = String::from_utf8_lossy(&wire).replace("\r\n", "");
        assert!(!rest.contains(['\r', '\n']), "{rest:?}");
        let Mail { connection, envelope, queue_id, shortfall, .. } = mail;
        let seen =
            format!("{connection:?} {envelope:?} {queue_id:?} {shortfall:?} {:?}", String::from_utf8_lossy(&wire));
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        if envelope.sender.is_null() {
            return Verdict::refuse(Reply::new(550, 7, 1, &rest));
        }
        let mut edits = vec![HeaderEdit::Prepend(Header::written("X-Top", &rest)), HeaderEdit::Remove { index: 1 }];
        edits.extend(mail.headers.iter().take(1).map(|field| HeaderEdit::Append(field.clone())));
        edits.extend(mail.headers.iter().take(1).map(|field| HeaderEdit::Replace { index: 0, field: field.clone() }));
        Verdict { disposition: Disposition::Continue, edits, recipients: Vec::new() }
    }
}

pub(super) fn negotiation(octets: &[u8]) {
    let Ok(Command::Negotiate(offer)) = Command::parse(b'O', octets) else {
        assert!(octets.len() < 12);
        return;
    };
    let Ok(agreed) = Agreement::reach(offer) else {
        assert!(offer.version < 2 || offer.actions & 0x11 != 0x11);
        return;
    };
    assert!((2..=6).contains(&agreed.version) && agreed.version <= offer.version);
    assert_eq!((agreed.actions & !offer.actions, agreed.protocol & !offer.protocol), (0, 0));
    // DATA is where mail of others is let go; an MTA that can hear no answer there hears it at the end of the header section.
    assert!(agreed.answers(Event::Data));
    assert!(agreed.version >= 4 || agreed.answers(Event::EndOfHeaders));
    // Agreed once is agreed again.
    let again = Offer { version: agreed.version, actions: agreed.actions, protocol: agreed.protocol };
    assert_eq!(Agreement::reach(again), Ok(agreed));
}

pub(super) fn edits(octets: &[u8]) {
    let mut input = Input::new(octets);
    let name =
        |pick: u8| ["A", "a", "B", "Received", "X-Long-Name", "b"].get(usize::from(pick % 6)).copied().unwrap_or("A");
    let count = input.octet() % 16;
    let headers: Vec<Header> = (0..count)
        .map(|_| Header::new(name(input.octet()).as_bytes(), &[b" ", input.take(2_usize)].concat()))
        .collect();
    let headers = Headers::new(headers);
    let mut edits = Vec::new();
    while !input.is_empty() && edits.len() < 32 {
        let (kind, at) = (input.octet(), input.octet());
        let index = usize::from(at % 18);
        let length = usize::from(kind / 4 % 8);
        let value = [b" ", input.take(length)].concat();
        let field = |name: &str| Header::new(name.as_bytes(), &value);
        edits.push(match kind % 4 {
            0 => HeaderEdit::Prepend(field(name(at))),
            1 => HeaderEdit::Append(field(name(at))),
            2 => HeaderEdit::Remove { index },
            // A field is replaced by one of its own name.
            _ => {
                let own = headers.iter().nth(index).map_or(Vec::new(), |field| field.name().to_vec());
                HeaderEdit::Replace { index, field: Header::new(&own, &value) }
            }
        });
    }
    // The MTA's own Received is on top, not shown to us, and not counted.
    let received = Header::written("Received", "own");
    let mut meant = headers.clone();
    meant.apply(&edits);
    let above = edits.iter().filter(|edit| matches!(edit, HeaderEdit::Prepend(_))).count();
    let mut meant: Vec<Vec<u8>> = meant.iter().map(on_the_wire).collect();
    meant.insert(above, on_the_wire(&received));
    let mut wire = BytesMut::new();
    header_edits::write(&edits, &headers, true, &mut wire);
    for renumbers in [true, false] {
        let fields = std::iter::once(&received).chain(headers.iter()).map(|field| Some(on_the_wire(field))).collect();
        let mut section = Section { fields, deleted: Vec::new(), renumbers };
        section.carry_out(&mut wire.clone());
        assert_eq!(section.fields.into_iter().flatten().collect::<Vec<_>>(), meant, "{edits:?}");
    }
}

/// A field as an MTA has it from us: folded with LF, no NUL in it, and not empty.
fn on_the_wire(field: &Header) -> Vec<u8> {
    field.raw().iter().filter(|&&b| b != b'\r').map(|&b| if b == 0 { b' ' } else { b }).collect()
}

/// An MTA's header section, carrying out edits as Postfix's cleanup_milter.c does (`renumbers`), or as Sendmail, which goes
/// on counting what is deleted.
struct Section {
    fields: Vec<Option<Vec<u8>>>,
    /// The names of deleted fields, in their places.
    deleted: Vec<(usize, Vec<u8>)>,
    renumbers: bool,
}

impl Section {
    fn carry_out(&mut self, wire: &mut BytesMut) {
        while let Some(frame) = sure(FrameDecoder.decode(wire)) {
            let mut payload = Input::new(&frame.payload);
            let place = if frame.code == b'h' {
                0
            } else {
                payload.take(4_usize).iter().fold(0, |n, &b| n << 8 | usize::from(b))
            };
            let mut strings = payload.rest().split(|&b| b == 0);
            let (Some(name), Some(value), Some([]), None) =
                (strings.next(), strings.next(), strings.next(), strings.next())
            else {
                unreachable!("two strings, each with its NUL");
            };
            let field = [name, b":", value].concat();
            match frame.code {
                b'h' => self.fields.push(Some(field)),
                b'i' => {
                    assert_eq!(place, 0);
                    self.fields.insert(0, Some(field));
                    self.deleted.iter_mut().for_each(|(at, _)| *at += 1);
                }
                b'm' => self.change(place, name, (!value.is_empty()).then_some(field)),
                other => unreachable!("{other} is no edit"),
            }
        }
    }

    /// Changes or deletes the field with this ordinal of its name; the top one is the MTA's own and does not count.
    fn change(&mut self, ordinal: usize, name: &[u8], field: Option<Vec<u8>>) {
        let is_named = |at: usize, section: &Self| match section.fields.get(at) {
            Some(Some(field)) => field.split(|&b| b == b':').next().is_some_and(|n| n.eq_ignore_ascii_case(name)),
            _ => {
                let was = section.deleted.iter().find(|(place, _)| *place == at);
                !section.renumbers && was.is_some_and(|(_, was)| was.eq_ignore_ascii_case(name))
            }
        };
        let found = (1..self.fields.len()).filter(|&at| is_named(at, self)).nth(ordinal.wrapping_sub(1));
        let Some((at, place)) = found.and_then(|at| Some((at, self.fields.get_mut(at)?))) else {
            unreachable!("{name:?} number {ordinal} is there");
        };
        if field.is_none() {
            self.deleted.push((at, name.to_vec()));
        }
        *place = field;
    }
}
