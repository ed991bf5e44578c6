//! Option negotiation: of what the MTA offers, what we take.
//!
//! We ask for no macro lists of our own: the MTAs' default lists hold all that we read (`i`, `j`, `{auth_authen}`,
//! `{tls_version}`, `{cipher}`), and a requested list would replace what the administrator wrote.

use super::command::Offer;

/// The oldest version that any MTA of the last twenty years offers.
pub const VERSION_MIN: u32 = 2;
/// The newest version there is.
pub const VERSION_MAX: u32 = 6;
/// From this version on the MTA reports DATA.
const VERSION_DATA: u32 = 4;

/// `SMFIF_ADDHDRS`: add and insert header fields.
pub const ADD_HEADERS: u32 = 0x01;
/// `SMFIF_CHGHDRS`: change and delete header fields.
pub const CHANGE_HEADERS: u32 = 0x10;

/// `SMFIP_NOUNKNOWN`: leave out SMTP commands that the MTA does not know.
pub const NO_UNKNOWN: u32 = 0x100;
/// `SMFIP_SKIP`: the milter may ask for no more events of a kind.
pub const SKIP: u32 = 0x400;
/// `SMFIP_HDR_LEADSPC`: header values come and go with the white space after the colon.
pub const LEADING_SPACE: u32 = 0x10_0000;
/// `SMFIP_NR_HDR` (`SMFIP_NOHREPL` before version 6).
pub const NO_REPLY_HEADER: u32 = 0x80;
/// `SMFIP_NR_CONN`.
pub const NO_REPLY_CONNECT: u32 = 0x1000;
/// `SMFIP_NR_HELO`.
pub const NO_REPLY_HELO: u32 = 0x2000;
/// `SMFIP_NR_MAIL`.
pub const NO_REPLY_MAIL: u32 = 0x4000;
/// `SMFIP_NR_RCPT`.
pub const NO_REPLY_RCPT: u32 = 0x8000;
/// `SMFIP_NR_UNKN`.
pub const NO_REPLY_UNKNOWN: u32 = 0x2_0000;
/// `SMFIP_NR_EOH`.
pub const NO_REPLY_END_OF_HEADERS: u32 = 0x4_0000;
/// `SMFIP_NR_BODY`.
pub const NO_REPLY_BODY: u32 = 0x8_0000;

/// `SMFIF_ADDRCPT`: add recipients.
pub const ADD_RECIPIENTS: u32 = 0x04;
/// `SMFIF_DELRCPT`: remove recipients.
pub const REMOVE_RECIPIENTS: u32 = 0x08;

/// What we cannot do without.
const ACTIONS: u32 = ADD_HEADERS | CHANGE_HEADERS;
/// What we take where it is offered.
const RECIPIENTS: u32 = ADD_RECIPIENTS | REMOVE_RECIPIENTS;

/// What both sides agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// Protocol version.
    pub version: u32,
    /// `SMFIF_*` bits.
    pub actions: u32,
    /// `SMFIP_*` bits.
    pub protocol: u32,
}

/// The events that an MTA may await an answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// CONNECT.
    Connect,
    /// HELO.
    Helo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA. Always answered: here mail that is none of our business is let go, before its content is sent to us.
    Data,
    /// A header field.
    Header,
    /// The end of the header section.
    EndOfHeaders,
    /// A piece of the body.
    Body,
    /// An SMTP command that the MTA does not know.
    Unknown,
}

/// Why no agreement is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NegotiateError {
    /// Version 0 or 1.
    #[error("the MTA speaks milter version {version}; {VERSION_MIN} or newer is needed")]
    Version {
        /// The version offered.
        version: u32,
    },
    /// Header edits are not allowed.
    #[error("the MTA does not let milters edit header fields (actions {actions:#x} offered)")]
    Actions {
        /// The actions offered.
        actions: u32,
    },
}

impl Agreement {
    /// What we take of `offer`: never a bit that is not in it, or the MTA would drop us.
    ///
    /// We ask for no answers wherever we never have one to give, so that the MTA can send ahead. Exempt are DATA and,
    /// where an old version has no DATA, the end of the header section. `SMFIP_RCPT_REJ` is left alone: recipients
    /// that the MTA refused are no recipients. The undocumented size bits (`0x10000000`, `0x20000000`) are libmilter's own.
    ///
    /// # Errors
    /// As [`NegotiateError`] says.
    pub fn reach(offer: Offer) -> Result<Self, NegotiateError> {
        let Offer { version, actions, protocol } = offer;
        if version < VERSION_MIN {
            return Err(NegotiateError::Version { version });
        }
        if actions & ACTIONS != ACTIONS {
            return Err(NegotiateError::Actions { actions });
        }
        let version = version.min(VERSION_MAX);
        let mut wanted = NO_UNKNOWN
            | SKIP
            | LEADING_SPACE
            | NO_REPLY_CONNECT
            | NO_REPLY_HELO
            | NO_REPLY_MAIL
            | NO_REPLY_RCPT
            | NO_REPLY_HEADER
            | NO_REPLY_BODY
            | NO_REPLY_UNKNOWN;
        if version >= VERSION_DATA {
            wanted |= NO_REPLY_END_OF_HEADERS;
        }
        let actions = ACTIONS | (actions & RECIPIENTS);
        Ok(Self { version, actions, protocol: protocol & wanted })
    }

    /// The same, but for RCPT: there we will answer. Not to ask for silence is always allowed.
    #[must_use]
    pub fn answering_recipients(self) -> Self {
        Self { protocol: self.protocol & !NO_REPLY_RCPT, ..self }
    }

    /// Whether the MTA awaits an answer to this event. An answer too many or one too few leaves the two sides out of step.
    pub fn answers(self, event: Event) -> bool {
        let flag = match event {
            Event::Connect => NO_REPLY_CONNECT,
            Event::Helo => NO_REPLY_HELO,
            Event::Mail => NO_REPLY_MAIL,
            Event::Rcpt => NO_REPLY_RCPT,
            Event::Data => 0,
            Event::Header => NO_REPLY_HEADER,
            Event::EndOfHeaders => NO_REPLY_END_OF_HEADERS,
            Event::Body => NO_REPLY_BODY,
            Event::Unknown => NO_REPLY_UNKNOWN,
        };
        self.protocol & flag == 0
    }

    /// Whether header values come and go with the white space after the colon.
    pub fn leading_space(self) -> bool {
        self.protocol & LEADING_SPACE != 0
    }

    /// Whether recipients may be added and removed.
    pub fn recipients(self) -> bool {
        self.actions & RECIPIENTS == RECIPIENTS
    }

    /// Whether we may ask for no more events of a kind.
    pub fn skip(self) -> bool {
        self.protocol & SKIP != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RCPT_REJ: u32 = 0x800;
    const NO_REPLY_DATA: u32 = 0x1_0000;
    const EVENTS_LEFT_OUT: u32 = 0x7f | 0x200;
    const SIZES: u32 = 0x3000_0000;

    #[test]
    fn of_what_todays_mtas_offer_we_take_what_spares_round_trips() {
        let agreed = Agreement::reach(Offer { version: 6, actions: 0x1ff, protocol: 0x301f_ffff }).unwrap();
        assert_eq!(agreed.version, 6);
        assert_eq!(agreed.actions, ADD_HEADERS | CHANGE_HEADERS | ADD_RECIPIENTS | REMOVE_RECIPIENTS);
        assert!(agreed.recipients());
        assert!(agreed.leading_space() && agreed.skip() && agreed.answers(Event::Data));
        for event in
            [Event::Connect, Event::Helo, Event::Mail, Event::Rcpt, Event::Header, Event::EndOfHeaders, Event::Body]
        {
            assert!(!agreed.answers(event), "{event:?}");
        }
    }

    #[test]
    fn without_data_the_end_of_the_header_section_is_answered() {
        for version in [2, 3] {
            let agreed = Agreement::reach(Offer { version, actions: 0x3f, protocol: 0x1f_ffff }).unwrap();
            assert_eq!(agreed.version, version);
            assert!(agreed.answers(Event::EndOfHeaders));
        }
    }

    #[test]
    fn a_version_or_actions_that_we_cannot_work_with_end_the_talk() {
        assert_eq!(
            Agreement::reach(Offer { version: 1, actions: 0x1ff, protocol: 0 }),
            Err(NegotiateError::Version { version: 1 })
        );
        for actions in [0, ADD_HEADERS, CHANGE_HEADERS, 0x1ee] {
            assert!(Agreement::reach(Offer { version: 6, actions, protocol: 0 }).is_err(), "{actions:#x}");
        }
    }

    proptest! {
        #[test]
        fn the_answer_is_a_subset_of_any_offer(version in any::<u32>(), actions in any::<u32>(), protocol in any::<u32>()) {
            if let Ok(agreed) = Agreement::reach(Offer { version, actions: actions | ACTIONS, protocol }) {
                prop_assert!((VERSION_MIN..=VERSION_MAX).contains(&agreed.version) && agreed.version <= version);
                prop_assert_eq!(agreed.protocol & !protocol, 0);
                prop_assert_eq!(agreed.actions & !(actions | ACTIONS), 0);
                prop_assert_eq!(agreed.protocol & (RCPT_REJ | NO_REPLY_DATA | EVENTS_LEFT_OUT | SIZES), 0);
                prop_assert_eq!(agreed.leading_space(), protocol & LEADING_SPACE != 0);
            } else {
                prop_assert!(version < VERSION_MIN);
            }
        }
    }
}
