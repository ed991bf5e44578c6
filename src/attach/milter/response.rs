//! What we say: typed responses as frames.

use bytes::{BufMut, BytesMut};
use memchr::memchr2;

use super::negotiate::Agreement;
use crate::mail::{Header, Path, Reply};

/// A response (`SMFIR_*` in Sendmail's `mfdef.h`). Those that edit are only for the end of a message, before the last one.
#[derive(Debug, Clone, Copy)]
pub enum Response<'a> {
    /// `O`: what we agreed to.
    Agree(Agreement),
    /// `c`: go on.
    Continue,
    /// `a`: the message may pass; no more of it is wanted. Ends everything for this message, edits included.
    Accept,
    /// `s`: no more events of this kind for this message. Only where agreed on.
    Skip,
    /// `p`: still at work; the MTA's timer starts anew.
    Progress,
    /// `y`: the message is refused with this reply. One that is neither 4xx nor 5xx is said as `451`.
    Refuse(&'a Reply),
    /// `m`: the header field of this name is deleted.
    DeleteHeader {
        /// Which of several of the name, from 1. The MTA's own Received does not count.
        ordinal: u32,
        /// The name, in any letter case.
        name: &'a [u8],
    },
    /// `m`: the header field of this name gets another value.
    ChangeHeader {
        /// Which of several of the name, from 1, as in `DeleteHeader`.
        ordinal: u32,
        /// The field as it will be.
        field: &'a Header,
        /// As in `PrependHeader`.
        leading_space: bool,
    },
    /// `h`: the header field goes below all others.
    AppendHeader {
        /// The field.
        field: &'a Header,
        /// As in `PrependHeader`.
        leading_space: bool,
    },
    /// `i` at position 0: the header field goes on top of all others, the MTA's own Received included.
    PrependHeader {
        /// The field.
        field: &'a Header,
        /// Whether values go with the white space after the colon; if not, the MTA puts one space there.
        leading_space: bool,
    },
    /// `+`: one more recipient. Only where agreed on.
    AddRecipient(&'a Path),
    /// `-`: one recipient less. Only where agreed on.
    RemoveRecipient(&'a Path),
}

impl Response<'_> {
    /// Appends the frame. Strings end where they must: a NUL inside becomes a space, a CR is left out.
    pub fn write(&self, wire: &mut BytesMut) {
        let start = wire.len();
        wire.put_u32(0);
        match *self {
            Self::Agree(agreement) => {
                wire.put_u8(b'O');
                wire.put_u32(agreement.version);
                wire.put_u32(agreement.actions);
                wire.put_u32(agreement.protocol);
            }
            Self::Continue => wire.put_u8(b'c'),
            Self::Accept => wire.put_u8(b'a'),
            Self::Skip => wire.put_u8(b's'),
            Self::Progress => wire.put_u8(b'p'),
            Self::Refuse(reply) => {
                wire.put_u8(b'y');
                put_reply(wire, reply);
            }
            Self::AddRecipient(path) => {
                wire.put_u8(b'+');
                put_string(wire, path.to_string().as_bytes());
            }
            Self::RemoveRecipient(path) => {
                wire.put_u8(b'-');
                put_string(wire, path.to_string().as_bytes());
            }
            Self::DeleteHeader { ordinal, name } => {
                wire.put_u8(b'm');
                wire.put_u32(ordinal);
                put_string(wire, name);
                wire.put_u8(0);
            }
            Self::ChangeHeader { ordinal, field, leading_space } => {
                wire.put_u8(b'm');
                wire.put_u32(ordinal);
                put_string(wire, field.name());
                let value = value(field, leading_space);
                // An empty value would delete the field.
                put_string(wire, if value.is_empty() { b" " } else { value });
            }
            Self::AppendHeader { field, leading_space } => {
                wire.put_u8(b'h');
                put_string(wire, field.name());
                put_string(wire, value(field, leading_space));
            }
            Self::PrependHeader { field, leading_space } => {
                wire.put_u8(b'i');
                wire.put_u32(0);
                put_string(wire, field.name());
                put_string(wire, value(field, leading_space));
            }
        }
        let length = u32::try_from(wire.len().saturating_sub(start + 4)).unwrap_or(u32::MAX);
        if let Some(place) = wire.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// A field's value; where white space after the colon is not sent, the MTA puts one space there.
fn value(field: &Header, leading_space: bool) -> &[u8] {
    let value = field.value();
    if leading_space { value } else { value.strip_prefix(b" ").unwrap_or(value) }
}

/// A string and its NUL. Milters fold with LF alone.
fn put_string(wire: &mut BytesMut, octets: &[u8]) {
    wire.reserve(octets.len() + 1);
    let mut rest = octets;
    while let Some(at) = memchr2(b'\r', 0, rest) {
        let (before, from) = rest.split_at(at);
        wire.put_slice(before);
        if from.first() == Some(&0) {
            wire.put_u8(b' ');
        }
        rest = from.get(1..).unwrap_or_default();
    }
    wire.put_slice(rest);
    wire.put_u8(0);
}

/// `ddd x.y.z text`, in several lines `ddd-x.y.z text` CRLF `ddd x.y.z text`, no CRLF at the end.
///
/// Postfix drops a reply without an enhanced code of the same class, Sendmail takes the text for a printf format and drops
/// it at a single `%`. Text is ASCII: whether the client could read anything else (RFC 6531) is not ours to know.
fn put_reply(wire: &mut BytesMut, reply: &Reply) {
    let code = if reply.is_transient() || reply.is_permanent() { reply.code() } else { 451 };
    let enhanced = match reply.enhanced() {
        Some(enhanced) if code == reply.code() => enhanced,
        _ => format!("{}.0.0", code / 100),
    };
    let last = reply.lines().len().saturating_sub(1);
    for (n, line) in reply.lines().iter().enumerate() {
        let separator = if n == last { ' ' } else { '-' };
        wire.extend_from_slice(format!("{code}{separator}{enhanced} ").as_bytes());
        for c in line.chars() {
            match c {
                '%' => wire.extend_from_slice(b"%%"),
                ' '..='~' => wire.put_u8(u8::try_from(c).unwrap_or(b'?')),
                _ => wire.put_u8(b'?'),
            }
        }
        if n != last {
            wire.extend_from_slice(b"\r\n");
        }
    }
    wire.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(response: Response<'_>) -> Vec<u8> {
        let mut wire = BytesMut::from(&b"earlier"[..]);
        response.write(&mut wire);
        let frame = wire.split_off(7);
        assert_eq!(frame.get(..4).unwrap(), (frame.len() as u32 - 4).to_be_bytes());
        frame.get(4..).unwrap().to_vec()
    }

    #[test]
    fn plain_responses_have_no_trailing_octets() {
        for (response, code) in
            [(Response::Continue, b'c'), (Response::Accept, b'a'), (Response::Skip, b's'), (Response::Progress, b'p')]
        {
            assert_eq!(payload(response), [code]);
        }
    }

    #[test]
    fn a_reply_has_both_codes_on_every_line_and_doubled_percent_signs() {
        let reply = Reply::from_remote(550, ["5.1.1 100% no", "5.1.1 such user"]);
        assert_eq!(payload(Response::Refuse(&reply)), b"y550-5.1.1 100%% no\r\n550 5.1.1 such user\0");
    }

    #[test]
    fn the_enhanced_code_always_has_the_class_of_the_code() {
        let without = Reply::from_remote(552, ["too big"]);
        assert_eq!(payload(Response::Refuse(&without)), b"y552 5.0.0 too big\0");
        let success = Reply::new(250, 2, 0, "never");
        assert_eq!(payload(Response::Refuse(&success)), b"y451 4.0.0 never\0");
    }

    #[test]
    fn reply_text_is_ascii() {
        let reply = Reply::new(451, 4, 1, "Gerät aus");
        assert_eq!(payload(Response::Refuse(&reply)), b"y451 4.4.1 Ger?t aus\0");
    }

    #[test]
    fn a_field_folds_with_lf_and_keeps_or_drops_its_first_space() {
        let field = Header::written("X-Test", "a;\r\n\tb\0c");
        let prepend = |leading_space| payload(Response::PrependHeader { field: &field, leading_space });
        assert_eq!(prepend(true), b"i\0\0\0\0X-Test\0 a;\n\tb c\0");
        assert_eq!(prepend(false), b"i\0\0\0\0X-Test\0a;\n\tb c\0");
    }

    #[test]
    fn an_empty_value_deletes() {
        assert_eq!(payload(Response::DeleteHeader { ordinal: 2, name: b"X-Test" }), b"m\0\0\0\x02X-Test\0\0");
    }
}
