//! What the MTA says: a frame's payload as a typed command. Nothing is copied.

use nom::bytes::complete::{tag, take_till};
use nom::combinator::rest;
use nom::multi::many0;
use nom::number::complete::{be_u8, be_u16, be_u32};
use nom::sequence::terminated;
use nom::{IResult, Parser};

use super::macros::Stage;

/// A command of the MTA (`SMFIC_*` in Sendmail's `mfdef.h`). Strings are as sent, without their NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// `O`: what the MTA offers.
    Negotiate(Offer),
    /// `D`: macros for the command that follows, as alternating names and values, each ended by NUL.
    Macros {
        /// The command they belong to; `None` for one without macros of its own.
        stage: Option<Stage>,
        /// Names and values.
        list: &'a [u8],
    },
    /// `C`: a client connected to the MTA.
    Connect {
        /// Its verified name, or `unknown`, or its address in brackets.
        host: &'a [u8],
        /// What its address is.
        peer: Peer<'a>,
    },
    /// `H`: HELO or EHLO.
    Helo(&'a [u8]),
    /// `M`: MAIL FROM.
    Mail(Path<'a>),
    /// `R`: RCPT TO.
    Rcpt(Path<'a>),
    /// `T`: DATA (version 4 and later).
    Data,
    /// `L`: one header field.
    Header {
        /// Its name.
        name: &'a [u8],
        /// All after the colon, folded with LF; without its first space unless `SMFIP_HDR_LEADSPC` was agreed on.
        value: &'a [u8],
    },
    /// `N`: the header section is complete.
    EndOfHeaders,
    /// `B`: a piece of the body.
    Body(&'a [u8]),
    /// `E`: the message is complete. Sendmail may put the last piece of the body here.
    EndOfMessage(&'a [u8]),
    /// `U`: an SMTP command that the MTA does not know (version 3 and later).
    UnknownSmtp,
    /// `A`: the message is over.
    Abort,
    /// `Q`: the connection is over.
    Quit,
    /// `K`: the client has gone; the next one comes over the same connection (version 6).
    QuitNewConnection,
    /// A command of no known version.
    Other(u8),
}

/// What an MTA offers in option negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Protocol version.
    pub version: u32,
    /// `SMFIF_*` bits: what the MTA lets a milter do.
    pub actions: u32,
    /// `SMFIP_*` bits: what a milter may have left out or done differently.
    pub protocol: u32,
}

/// The address in a [`Command::Connect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer<'a> {
    /// Family `4` or `6`.
    Inet {
        /// The client's port; Postfix says 0 for mail that no client brought.
        port: u16,
        /// The address as text, perhaps with `IPv6:` before or brackets around it.
        address: &'a [u8],
    },
    /// Family `L`: a unix socket.
    Unix,
    /// Family `U` or one that we do not know: neither port nor address.
    Unknown,
}

/// Path and ESMTP parameters of MAIL and RCPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<'a> {
    /// The path, usually with its angle brackets.
    pub path: &'a [u8],
    parameters: &'a [u8],
}

impl Path<'_> {
    /// Whether this ESMTP parameter was given, in any letter case: `SMTPUTF8`, `BODY=8BITMIME`.
    pub fn has(&self, parameter: &str) -> bool {
        self.parameters.split(|&b| b == 0).any(|given| given.eq_ignore_ascii_case(parameter.as_bytes()))
    }
}

/// A payload that its command cannot have: a number cut short, a string without its NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("command {:?} with a malformed payload", char::from(*code))]
pub struct Malformed {
    /// The command.
    pub code: u8,
}

impl<'a> Command<'a> {
    /// Reads the payload of the command `code`. Payload where none belongs is passed over, as libmilter does.
    ///
    /// # Errors
    /// The payload is malformed; the two sides do not speak the same protocol and should part.
    pub fn parse(code: u8, payload: &'a [u8]) -> Result<Self, Malformed> {
        let parsed = match code {
            b'O' => (be_u32, be_u32, be_u32)
                .map(|(version, actions, protocol)| Command::Negotiate(Offer { version, actions, protocol }))
                .parse(payload),
            b'D' => (be_u8, rest).map(|(of, list)| Command::Macros { stage: Stage::of(of), list }).parse(payload),
            b'C' => connect(payload),
            b'H' => string.map(Command::Helo).parse(payload),
            b'M' => path.map(Command::Mail).parse(payload),
            b'R' => path.map(Command::Rcpt).parse(payload),
            b'L' => header(payload),
            b'T' => Ok((payload, Command::Data)),
            b'N' => Ok((payload, Command::EndOfHeaders)),
            b'B' => Ok((payload, Command::Body(payload))),
            b'E' => Ok((payload, Command::EndOfMessage(payload))),
            b'U' => Ok((payload, Command::UnknownSmtp)),
            b'A' => Ok((payload, Command::Abort)),
            b'Q' => Ok((payload, Command::Quit)),
            b'K' => Ok((payload, Command::QuitNewConnection)),
            other => Ok((payload, Command::Other(other))),
        };
        parsed.map(|(_, command)| command).map_err(|_| Malformed { code })
    }
}

/// Octets up to a NUL.
fn string(input: &[u8]) -> IResult<&[u8], &[u8]> {
    terminated(take_till(|b| b == 0), tag(&[0][..])).parse(input)
}

fn connect(input: &[u8]) -> IResult<&[u8], Command<'_>> {
    let (input, (host, family)) = (string, be_u8).parse(input)?;
    let (input, peer) = match family {
        b'4' | b'6' => (be_u16, string).map(|(port, address)| Peer::Inet { port, address }).parse(input)?,
        b'L' => (input, Peer::Unix),
        _ => (input, Peer::Unknown),
    };
    Ok((input, Command::Connect { host, peer }))
}

fn path(input: &[u8]) -> IResult<&[u8], Path<'_>> {
    let (parameters, path) = string(input)?;
    // Every parameter ends with its NUL, too.
    let (left, _) = many0(string).parse(parameters)?;
    if left.is_empty() {
        Ok((left, Path { path, parameters }))
    } else {
        Err(nom::Err::Error(nom::error::Error::new(left, nom::error::ErrorKind::Eof)))
    }
}

/// The value reaches to the last NUL: a NUL within, which no MTA sends, does not cost the connection.
fn header(input: &[u8]) -> IResult<&[u8], Command<'_>> {
    let (value, name) = string(input)?;
    match value.split_last() {
        Some((0, value)) if !name.is_empty() => Ok((&[], Command::Header { name, value })),
        _ => Err(nom::Err::Error(nom::error::Error::new(value, nom::error::ErrorKind::Eof))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn connect_is_read_in_every_family() {
        let inet = |port, address| Peer::Inet { port, address };
        for (payload, peer) in [
            (&b"mx.example\x004\x12\x34192.0.2.1\0"[..], inet(0x1234, &b"192.0.2.1"[..])),
            (b"mx.example\x006\0\x19IPv6:2001:db8::1\0", inet(25, b"IPv6:2001:db8::1")),
            (b"mx.example\0L\0\0/var/run/x\0", Peer::Unix),
            (b"mx.example\0U", Peer::Unknown),
        ] {
            assert_eq!(Command::parse(b'C', payload), Ok(Command::Connect { host: b"mx.example", peer }));
        }
    }

    #[test]
    fn parameters_of_mail_are_found_in_any_letter_case() {
        let Ok(Command::Mail(mail)) = Command::parse(b'M', b"<a@b.example>\0size=1\0smtpUTF8\0Body=8bitMIME\0") else {
            panic!("no MAIL");
        };
        assert_eq!(mail.path, b"<a@b.example>");
        assert!(mail.has("SMTPUTF8") && mail.has("BODY=8BITMIME") && !mail.has("BODY=BINARYMIME"));
    }

    #[test]
    fn a_truncated_payload_or_a_missing_nul_is_malformed() {
        for (code, payload) in [
            (b'O', &[0u8; 11][..]),
            (b'D', b""),
            (b'C', b"no nul"),
            (b'C', b"host\0"),
            (b'C', b"host\x004\x12"),
            (b'C', b"host\x004\x12\x34192.0.2.1"),
            (b'H', b"helo"),
            (b'M', b"<a@b.example>"),
            (b'M', b"<a@b.example>\0SIZE=1"),
            (b'R', b""),
            (b'L', b"Subject\0no nul"),
            (b'L', b"Subject\0"),
            (b'L', b"\0value\0"),
            (b'L', b""),
        ] {
            assert_eq!(Command::parse(code, payload), Err(Malformed { code }), "{payload:?}");
        }
    }

    #[test]
    fn a_body_may_hold_nul_and_the_end_of_message_may_hold_body() {
        assert_eq!(Command::parse(b'B', b"a\0b"), Ok(Command::Body(b"a\0b")));
        assert_eq!(Command::parse(b'E', b"tail\r\n"), Ok(Command::EndOfMessage(b"tail\r\n")));
    }

    proptest! {
        #[test]
        fn no_payload_makes_the_reader_panic(code in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Command::parse(code, &payload);
        }
    }
}
