//! Octets as the choices of a target.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::mail::{HeaderBlock, HeadersBuilder, StrayLineEndings};

/// Reads choices off the front; when there are no more octets, all choices are 0 or empty.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn octet(&mut self) -> u8 {
        self.take(1_usize).first().copied().unwrap_or(0)
    }

    /// As many octets, or as many as there are.
    pub(crate) fn take(&mut self, length: impl Into<usize>) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.into().min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The octets in `N` parts, which end with 0xff: an octet that no text holds. Missing ones are empty.
pub(crate) fn parts<const N: usize>(octets: &[u8]) -> [&[u8]; N] {
    let mut parts = octets.splitn(N, |&octet| octet == 0xff);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// The octets in pieces, cut by a rhythm: 0 is one piece, 1 is octet by octet, and so on with growing irregular ones.
pub(crate) fn pieces(octets: &[u8], rhythm: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = octets;
    let mut state = u32::from(rhythm);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = match rhythm {
            0 => rest.len(),
            most => 1 + (state >> 16) as usize % usize::from(most),
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        Some(piece)
    })
}

/// The octets as the text that they are, or as near as can be.
pub(crate) fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// A message as a session would have it: CR and LF as CRLF only.
pub(crate) fn repaired(octets: &[u8]) -> Vec<u8> {
    let (mut wire, mut strays) = (Vec::new(), StrayLineEndings::default());
    strays.push(octets, &mut wire);
    strays.finish(&mut wire);
    wire
}

/// A message in two: its header section and what follows.
pub(crate) fn block(message: &[u8]) -> HeaderBlock {
    let mut builder = HeadersBuilder::new(message.len().saturating_add(1));
    match builder.push(message) {
        Ok(Some(block)) => block,
        Ok(None) => builder.finish(),
        Err(error) => unreachable!("the limit is larger than the message: {error}"),
    }
}

/// The outcome of what has nothing to wait for.
pub(crate) fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => unreachable!("this waits for nothing"),
    }
}

/// What must be there.
pub(crate) fn sure<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| unreachable!("{error:?}"))
}
