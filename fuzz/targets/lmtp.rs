//! The content of a message that comes by LMTP. Part of `attach::lmtp`.

use super::intake::Intake;
use crate::config::Limits;
use crate::fuzzing::configuration;
use crate::fuzzing::input::{Input, at_once, pieces, repaired, sure};
use crate::mail::Spool;

/// Octets of a message and of its header section at most: small, so that inputs reach them.
const MESSAGE: u64 = 1_500;
const SECTION: usize = 500;

pub(crate) fn intake(octets: &[u8]) {
    let mut input = Input::new(octets);
    let rhythm = input.octet();
    let data = input.rest();
    let limits = Limits { message_size: MESSAGE, header_size: SECTION, ..configuration::smallest().limits };
    let whole = take(&limits, std::iter::once(data));
    assert_eq!(whole, take(&limits, pieces(data, rhythm)));
    if let Ok(wire) = whole {
        assert!(wire.len() as u64 <= MESSAGE + 4);
        let plain = |octets: &[u8]| octets.iter().copied().filter(|b| !b"\r\n".contains(b)).collect::<Vec<_>>();
        assert_eq!(plain(&wire), plain(&repaired(data)));
        assert_eq!(repaired(&wire), wire, "a stray line ending");
    }
}

fn take<'d>(limits: &Limits, pieces: impl Iterator<Item = &'d [u8]>) -> Result<Vec<u8>, u16> {
    // The bounds are below what is spooled.
    let mut intake = Intake::new(limits, &Spool::new("/nonexistent"));
    for piece in pieces {
        at_once(intake.take(piece));
    }
    let (headers, body) = at_once(intake.finish()).map_err(|refused| refused.reply.code())?;
    let mut wire = Vec::new();
    headers.write_to(&mut wire);
    sure(at_once(body.append_to(&mut wire)));
    Ok(wire)
}
