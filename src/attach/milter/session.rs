//! The session as a pure state machine: commands in, responses and steps out. No I/O, no clock.

use std::sync::Arc;

use bytes::BytesMut;

use super::client::ClientFacts;
use super::command::{self, Command};
use super::macros::{Macros, Stage};
use super::negotiate::{Agreement, Event, NegotiateError};
use super::response::Response;
use crate::mail::{Connection, Envelope, Header, Headers, Path, Reply, Shortfall};

/// Recipients kept of a message, at most. Postfix takes 1,000 in a transaction. A message with more is judged by these;
/// what belongs to a later one is treated as if it had come past us.
pub const RECIPIENTS_MAX: usize = 10_000;
/// Header fields kept of a message, at most: a section of many tiny fields would cost far more memory than its octets.
pub const FIELDS_MAX: usize = 20_000;
/// Octets of macros for one command, at most (64 KiB). A larger set is taken for an empty one.
pub const MACROS_MAX: usize = 64 * 1024;

/// Bounds on one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// Octets of the message.
    pub message_size: u64,
    /// Octets of its header section.
    pub header_size: usize,
}

/// One connection from an MTA, over which many messages come, one after the other.
///
/// A command out of place ends the message at hand and is then taken as if it had come between messages; if it has no
/// meaning there, it is passed over without an answer. This is what libmilter does (`engine.c`), and MTAs count on it.
#[derive(Debug)]
pub struct Session {
    limits: MessageLimits,
    asks_recipients: bool,
    agreement: Option<Agreement>,
    macros: Macros,
    client: ClientFacts,
    message: Option<Message>,
    /// A header value with its first space put back; used again for each.
    value: Vec<u8>,
}

/// What is to be done after a command, besides sending the responses.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Wait for the next command.
    Next,
    /// The command had no meaning where it came; as `Next`.
    Ignored,
    /// The MTA waits to hear whether this recipient can be in the message. Call [`Session::recipient`].
    Recipient(Path),
    /// Append this to the body.
    Store(&'a [u8]),
    /// Append this to the body; then the message is complete. Call [`Session::complete`] and answer.
    Complete(&'a [u8]),
    /// Close the connection.
    Close,
}

/// Why a session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The first command was not option negotiation.
    #[error("a command before option negotiation")]
    NotNegotiated,
    /// No agreement.
    #[error(transparent)]
    Negotiate(#[from] NegotiateError),
}

/// A complete message, but for its body.
#[derive(Debug)]
pub struct Complete {
    /// Who handed the message to the MTA.
    pub connection: Arc<Connection>,
    /// Sender and recipients.
    pub envelope: Envelope,
    /// The header section.
    pub headers: Headers,
    /// The MTA's queue id.
    pub queue_id: Option<String>,
    /// Why its body is not all there.
    pub shortfall: Option<Shortfall>,
    /// The reply for a message whose header section could not be taken whole.
    pub refusal: Option<Reply>,
}

#[derive(Debug)]
struct Message {
    part: Part,
    envelope: Envelope,
    /// Whether it is any of our business; `None` until all recipients are known.
    ours: Option<bool>,
    fields: Vec<Header>,
    header_octets: usize,
    body_octets: u64,
    /// The first reason why its body is not all there. No more of the body is kept then.
    shortfall: Option<Shortfall>,
    /// Why it cannot be judged at all. Nothing more of it is kept then.
    refusal: Option<Reply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Envelope,
    Headers,
    Body,
}

impl Session {
    /// A session at its beginning.
    pub fn new(limits: MessageLimits) -> Self {
        Self {
            limits,
            asks_recipients: false,
            agreement: None,
            macros: Macros::default(),
            client: ClientFacts::default(),
            message: None,
            value: Vec::new(),
        }
    }

    /// Other bounds, from the next message on. Between messages only.
    pub fn set_limits(&mut self, limits: MessageLimits) {
        self.limits = limits;
    }

    /// The same session, which lets the MTA wait for an answer to each recipient: [`Step::Recipient`].
    #[must_use]
    pub fn asking_recipients(mut self, asks: bool) -> Self {
        self.asks_recipients = asks;
        self
    }

    /// What was negotiated.
    pub fn agreement(&self) -> Option<Agreement> {
        self.agreement
    }

    /// Whether a message is under way.
    pub fn in_message(&self) -> bool {
        self.message.is_some()
    }

    /// Whether body octets are to be kept.
    pub fn is_storing(&self) -> bool {
        self.message.as_ref().is_some_and(Message::is_storing)
    }

    /// Takes the next command and appends what is to be answered to `replies`. `concerns` says whether mail of such a
    /// client with such an envelope is any of our business; it is asked once for each message, when all recipients are known.
    ///
    /// # Errors
    /// The connection is to be closed, as [`SessionError`] says.
    pub fn handle<'a>(
        &mut self,
        command: Command<'a>,
        concerns: impl Fn(&Connection, &Envelope) -> bool,
        replies: &mut BytesMut,
    ) -> Result<Step<'a>, SessionError> {
        if let Command::Negotiate(offer) = command {
            let mut agreement = Agreement::reach(offer)?;
            if self.asks_recipients {
                agreement = agreement.answering_recipients();
            }
            self.reset();
            self.agreement = Some(agreement);
            Response::Agree(agreement).write(replies);
            return Ok(Step::Next);
        }
        let Some(agreement) = self.agreement else {
            return if command == Command::Quit { Ok(Step::Close) } else { Err(SessionError::NotNegotiated) };
        };
        let answer = match command {
            Command::Macros { stage, list } => {
                if let Some(stage) = stage {
                    self.macros.define(stage, if list.len() > MACROS_MAX { &[] } else { list });
                }
                return Ok(Step::Next);
            }
            Command::Connect { host, peer } => {
                self.message = None;
                self.macros.enter(Stage::Connect);
                self.client = ClientFacts::connected(host, peer);
                Event::Connect
            }
            Command::Helo(helo) => {
                self.message = None;
                self.macros.enter(Stage::Helo);
                self.client.greeted(helo);
                Event::Helo
            }
            Command::Mail(path) => {
                self.macros.enter(Stage::Mail);
                self.message = Some(Message::from(path));
                Event::Mail
            }
            Command::Rcpt(path) => {
                let Some(message) = self.message_within(Part::Envelope) else { return Ok(Step::Ignored) };
                message.part = Part::Envelope;
                self.macros.enter(Stage::Rcpt);
                if let Some(path) = self.new_recipient(path) {
                    if self.asks_recipients && agreement.answers(Event::Rcpt) {
                        return Ok(Step::Recipient(path));
                    }
                    self.add_recipient(path);
                }
                Event::Rcpt
            }
            Command::Data => {
                let Some(message) = self.message_within(Part::Envelope) else { return Ok(Step::Ignored) };
                message.part = Part::Headers;
                self.macros.enter(Stage::Data);
                self.recipients_known(concerns);
                Event::Data
            }
            Command::Header { name, value } => {
                let Some(message) = self.message_within(Part::Headers) else { return Ok(Step::Ignored) };
                message.part = Part::Headers;
                self.recipients_known(concerns);
                self.add_field(name, value, agreement.leading_space());
                Event::Header
            }
            Command::EndOfHeaders => {
                let Some(message) = self.message_within(Part::Headers) else { return Ok(Step::Ignored) };
                message.part = Part::Body;
                self.macros.enter(Stage::Headers);
                self.recipients_known(concerns);
                Event::EndOfHeaders
            }
            Command::Body(chunk) => {
                let limits = self.limits;
                if self.message_within(Part::Body).is_none() {
                    return Ok(Step::Ignored);
                }
                self.recipients_known(concerns);
                let Some(message) = &mut self.message else { return Ok(Step::Ignored) };
                message.part = Part::Body;
                message.count_body(chunk, limits);
                let store = message.is_storing();
                self.answer(agreement, Event::Body, replies);
                return Ok(if store { Step::Store(chunk) } else { Step::Next });
            }
            Command::EndOfMessage(chunk) => {
                let limits = self.limits;
                if self.message_within(Part::Body).is_none() {
                    return Ok(Step::Ignored);
                }
                self.recipients_known(concerns);
                let Some(message) = &mut self.message else { return Ok(Step::Ignored) };
                message.part = Part::Body;
                message.count_body(chunk, limits);
                if message.ours == Some(false) {
                    Response::Accept.write(replies);
                    self.end_message();
                    return Ok(Step::Next);
                }
                self.macros.enter(Stage::Message);
                return Ok(Step::Complete(chunk));
            }
            Command::UnknownSmtp => Event::Unknown,
            Command::Abort => {
                self.end_message();
                return Ok(Step::Next);
            }
            Command::Quit => return Ok(Step::Close),
            Command::QuitNewConnection => {
                self.reset();
                return Ok(Step::Next);
            }
            Command::Negotiate(_) | Command::Other(_) => return Ok(Step::Ignored),
        };
        self.answer(agreement, answer, replies);
        Ok(Step::Next)
    }

    /// The client and the envelope so far of the message at hand.
    pub fn envelope(&self) -> Option<(Connection, &Envelope)> {
        let message = self.message.as_ref()?;
        Some((self.client.connection(&self.macros), &message.envelope))
    }

    /// The MTA's queue id of the message at hand, as far as it is known.
    pub fn queue_id(&self) -> Option<String> {
        self.macros.text("i")
    }

    /// Answers a recipient, after [`Step::Recipient`]: with `refusal`, which concerns this recipient alone, or by taking it.
    pub fn recipient(&mut self, path: Path, refusal: Option<Reply>, replies: &mut BytesMut) {
        match refusal {
            Some(reply) => Response::Refuse(&reply).write(replies),
            None => {
                self.add_recipient(path);
                Response::Continue.write(replies);
            }
        }
    }

    /// Takes the complete message out of the session, after [`Step::Complete`]. `None` when there is none.
    pub fn complete(&mut self) -> Option<Complete> {
        let message = self.message.take()?;
        let complete = Complete {
            connection: Arc::new(self.client.connection(&self.macros)),
            envelope: message.envelope,
            headers: Headers::new(message.fields),
            queue_id: self.macros.text("i"),
            shortfall: message.shortfall,
            refusal: message.refusal,
        };
        self.end_message();
        Some(complete)
    }

    /// Octets kept of the header section of the message at hand.
    pub fn header_octets(&self) -> usize {
        let kept = self.message.as_ref().filter(|message| message.refusal.is_none());
        kept.map_or(0, |message| message.header_octets)
    }

    /// The message at hand cannot be kept; it is answered with `reply` at its end. The first reason counts.
    pub fn refuse(&mut self, reply: Reply) {
        if let Some(message) = &mut self.message {
            message.refuse(reply);
        }
    }

    /// The body of the message at hand cannot be taken whole. The first reason counts.
    pub fn fall_short(&mut self, shortfall: Shortfall) {
        if let Some(message) = &mut self.message {
            message.shortfall.get_or_insert(shortfall);
        }
    }

    /// The recipients of the message at hand are all known now.
    fn recipients_known(&mut self, concerns: impl Fn(&Connection, &Envelope) -> bool) {
        if let Some(message) = self.message.as_mut().filter(|message| message.ours.is_none()) {
            message.ours = Some(concerns(&self.client.connection(&self.macros), &message.envelope));
        }
    }

    /// The message at hand if it has not gone beyond `part`. If it has, it is over.
    fn message_within(&mut self, part: Part) -> Option<&mut Message> {
        if self.message.as_ref().is_some_and(|message| message.part > part) {
            self.end_message();
        }
        self.message.as_mut()
    }

    /// Answers an event where the MTA awaits it. Mail that is none of our business is let go with the first answer after its
    /// recipients are known: we owe it no edits, and the MTA need not send its content.
    fn answer(&mut self, agreement: Agreement, event: Event, replies: &mut BytesMut) {
        if !agreement.answers(event) {
            return;
        }
        let response = match &self.message {
            Some(message) if message.ours == Some(false) && event != Event::Unknown => Response::Accept,
            // Sendmail takes SKIP for the body alone.
            Some(message) if event == Event::Body && agreement.skip() && !message.is_storing() => Response::Skip,
            _ => Response::Continue,
        };
        if matches!(response, Response::Accept) {
            self.end_message();
        }
        response.write(replies);
    }

    /// The path of one more recipient; `None` for one that the MTA has refused already.
    fn new_recipient(&self, path: command::Path<'_>) -> Option<Path> {
        // Recipients that the MTA refuses are shown only on request, and then with this mailer.
        let refused = self.macros.get("rcpt_mailer") == Some(b"error");
        (!refused).then(|| Path::lenient(path.path))
    }

    fn add_recipient(&mut self, path: Path) {
        if let Some(message) = &mut self.message
            && message.envelope.recipients.len() < RECIPIENTS_MAX
        {
            message.envelope.recipients.push(path);
        }
    }

    fn add_field(&mut self, name: &[u8], value: &[u8], leading_space: bool) {
        let limit = self.limits.header_size;
        let Some(message) = self.message.as_mut().filter(|message| message.is_storing()) else { return };
        let value = if leading_space {
            value
        } else {
            self.value.clear();
            self.value.push(b' ');
            self.value.extend_from_slice(value);
            &self.value
        };
        // Colon and CRLF.
        message.header_octets = message.header_octets.saturating_add(name.len() + value.len() + 3);
        if message.header_octets > limit || message.fields.len() >= FIELDS_MAX {
            message.refuse(Reply::new(
                552,
                3,
                4,
                format!("header section larger than {limit} octets or {FIELDS_MAX} fields, the limit here"),
            ));
        } else {
            message.fields.push(Header::new(name, value));
        }
    }

    fn end_message(&mut self) {
        self.message = None;
        self.macros.clear_from(Stage::Mail);
    }

    fn reset(&mut self) {
        self.message = None;
        self.macros.clear_from(Stage::Connect);
        self.client = ClientFacts::default();
    }
}

impl Message {
    fn from(mail: command::Path<'_>) -> Self {
        let sender = Path::lenient(mail.path);
        let smtputf8 = mail.has("SMTPUTF8");
        let eight_bit = mail.has("BODY=8BITMIME");
        Self {
            part: Part::Envelope,
            envelope: Envelope { sender, recipients: Vec::new(), smtputf8, eight_bit },
            ours: None,
            fields: Vec::new(),
            header_octets: 0,
            body_octets: 0,
            shortfall: None,
            refusal: None,
        }
    }

    fn count_body(&mut self, chunk: &[u8], limits: MessageLimits) {
        self.body_octets = self.body_octets.saturating_add(chunk.len() as u64);
        let size = self.body_octets.saturating_add(self.header_octets as u64);
        if size > limits.message_size {
            self.shortfall.get_or_insert(Shortfall::TooLarge);
        }
    }

    fn is_storing(&self) -> bool {
        self.ours == Some(true) && self.refusal.is_none() && self.shortfall.is_none()
    }

    fn refuse(&mut self, reply: Reply) {
        self.refusal.get_or_insert(reply);
        self.fields = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::milter::command::Offer;

    struct Talk {
        session: Session,
        replies: BytesMut,
    }

    impl Talk {
        fn new(protocol: u32) -> Self {
            let limits = MessageLimits { message_size: 1000, header_size: 1000 };
            let mut talk = Self { session: Session::new(limits), replies: BytesMut::new() };
            talk.say(b'O', &[&[0, 0, 0, 6, 0, 0, 0, 0x3f][..], &protocol.to_be_bytes()].concat());
            talk.replies.clear();
            talk
        }

        fn say<'a>(&mut self, code: u8, payload: &'a [u8]) -> Step<'a> {
            let command = Command::parse(code, payload).unwrap();
            self.session.handle(command, |_, envelope| !envelope.recipients.is_empty(), &mut self.replies).unwrap()
        }
    }

    #[test]
    fn what_is_kept_of_an_endless_envelope_is_bounded() {
        let mut talk = Talk::new(u32::MAX);
        talk.say(b'M', b"<a@b.example>\0");
        for _ in 0..RECIPIENTS_MAX + 5 {
            talk.say(b'R', b"<c@d.example>\0");
        }
        talk.say(b'D', &[&b"Ei\0"[..], &vec![b'x'; MACROS_MAX], b"\0"].concat());
        assert_eq!(talk.say(b'E', b""), Step::Complete(b""));
        let complete = talk.session.complete().unwrap();
        assert_eq!(complete.envelope.recipients.len(), RECIPIENTS_MAX);
        assert_eq!(complete.queue_id, None);
    }

    #[test]
    fn no_more_is_kept_of_a_body_that_is_too_large() {
        let mut talk = Talk::new(u32::MAX);
        talk.say(b'M', b"<a@b.example>\0");
        talk.say(b'R', b"<c@d.example>\0");
        talk.say(b'L', b"A\0 b\0");
        assert_eq!(talk.say(b'B', b"fits"), Step::Store(b"fits"));
        assert_eq!(talk.say(b'B', &[b'x'; 1000]), Step::Next);
        assert_eq!(talk.say(b'B', b"fits"), Step::Next);
        talk.say(b'E', b"");
        let complete = talk.session.complete().unwrap();
        assert_eq!((complete.headers.len(), complete.refusal), (1, None));
        assert_eq!(complete.shortfall, Some(Shortfall::TooLarge));
    }

    #[test]
    fn whether_mail_concerns_us_is_asked_once_with_login_tls_and_all_recipients() {
        let mut talk = Talk::new(u32::MAX);
        let asked = std::cell::RefCell::new(Vec::new());
        let steps: [(u8, &[u8]); 9] = [
            (b'D', b"H{tls_version}\0TLSv1.3\0"),
            (b'H', b"desk.example\0"),
            (b'D', b"M{auth_authen}\0zendesk-support\0"),
            (b'M', b"<a@b.example>\0"),
            (b'R', b"<c@d.example>\0"),
            (b'R', b"<e@f.example>\0"),
            (b'T', b""),
            (b'L', b"A\0 b\0"),
            (b'N', b""),
        ];
        for (code, payload) in steps {
            let concerns = |connection: &Connection, envelope: &Envelope| {
                let tls = connection.tls.is_some();
                asked.borrow_mut().push((connection.login.clone(), tls, envelope.recipients.len()));
                true
            };
            talk.session.handle(Command::parse(code, payload).unwrap(), concerns, &mut talk.replies).unwrap();
        }
        assert_eq!(asked.into_inner(), [(Some("zendesk-support".to_owned()), true, 2)]);
    }

    #[test]
    fn nothing_of_one_message_or_connection_is_left_for_the_next() {
        let last = std::cell::RefCell::new(None);
        let mut talk = Talk::new(u32::MAX);
        let mut say = |code: u8, payload: &[u8]| {
            let concerns = |connection: &Connection, envelope: &Envelope| {
                let sender = envelope.sender.as_str().to_owned();
                *last.borrow_mut() = Some((
                    connection.login.clone(),
                    connection.tls.is_some(),
                    connection.client.ip().is_some(),
                    sender,
                ));
                true
            };
            talk.session.handle(Command::parse(code, payload).unwrap(), concerns, &mut talk.replies).unwrap();
            if code == b'E' {
                talk.session.complete();
            }
        };
        let rest: [(u8, &[u8]); 4] = [(b'R', b"<c@d.example>\0"), (b'T', b""), (b'N', b""), (b'E', b"")];
        let first: [(u8, &[u8]); 6] = [
            (b'D', b"C{tls_version}\0TLSv1.3\0j\0mx\0"),
            (b'C', b"desk.example\x004\x12\x34192.0.2.7\0"),
            (b'D', b"H{tls_version}\0TLSv1.3\0"),
            (b'H', b"desk.example\0"),
            (b'D', b"M{auth_authen}\0zendesk-support\0"),
            (b'M', b"<a@b.example>\0"),
        ];
        for between in [&b""[..], b"A", b"K", b"C", b"H"] {
            for (code, payload) in first.into_iter().chain(rest).chain(first) {
                say(code, payload);
            }
            assert_eq!(last.borrow().as_ref().unwrap().0.as_deref(), Some("zendesk-support"));
            for &code in between {
                say(code, if code == b'C' { b"other.example\0U" } else { b"other.example\0" });
            }
            say(b'M', b"<>\0");
            rest.into_iter().for_each(|(code, payload)| say(code, payload));
            let (login, tls, address, sender) = last.borrow_mut().take().unwrap();
            assert_eq!((login, sender.as_str()), (None, ""), "{between:?}");
            // A client's TLS and address last as long as its connection.
            assert_eq!((tls, address), (matches!(between, b"" | b"A" | b"H"), matches!(between, b"" | b"A" | b"H")));
        }
    }

    #[test]
    fn a_recipient_that_is_refused_is_none_of_the_message_and_the_mta_waits_for_each_answer() {
        let mut talk = Talk::new(u32::MAX);
        talk.session = Session::new(talk.session.limits).asking_recipients(true);
        let offer = [&[0, 0, 0, 6, 0, 0, 0, 0x3f][..], &u32::MAX.to_be_bytes()].concat();
        talk.say(b'O', &offer);
        assert!(talk.session.agreement().unwrap().answers(Event::Rcpt));
        talk.say(b'M', b"<a@b.example>\0");
        talk.replies.clear();
        for (to, refusal) in [("c@d.example", None), ("e@f.example", Some(Reply::new(452, 5, 3, "next time")))] {
            let payload = format!("<{to}>\0");
            let Step::Recipient(path) = talk.say(b'R', payload.as_bytes()) else { panic!("nobody asked") };
            assert_eq!((path.as_str(), talk.replies.len()), (to, 0), "no answer before the question");
            talk.session.recipient(path, refusal, &mut talk.replies);
            talk.replies.clear();
        }
        // What the MTA refused itself needs no question, but its answer.
        talk.say(b'D', b"R{rcpt_mailer}\0error\0");
        assert_eq!(talk.say(b'R', b"<g@h.example>\0"), Step::Next);
        assert_eq!(&talk.replies[..], b"\0\0\0\x01c");
        talk.say(b'E', b"");
        let recipients = talk.session.complete().unwrap().envelope.recipients;
        assert_eq!(recipients, [Path::parse(b"c@d.example").unwrap()]);
    }

    #[test]
    fn before_negotiation_nothing_but_quit_has_a_meaning() {
        let limits = MessageLimits { message_size: 1000, header_size: 1000 };
        let mut replies = BytesMut::new();
        for code in *b"DCHMRTLNBEUAK!" {
            let command = Command::parse(code, b"C\0\x004\0\0\0").unwrap();
            let mut session = Session::new(limits);
            assert_eq!(session.handle(command, |_, _| true, &mut replies), Err(SessionError::NotNegotiated), "{code}");
        }
        assert_eq!(Session::new(limits).handle(Command::Quit, |_, _| true, &mut replies), Ok(Step::Close));
        let offer = Offer { version: 6, actions: 0, protocol: 0 };
        assert!(Session::new(limits).handle(Command::Negotiate(offer), |_, _| true, &mut replies).is_err());
        assert!(replies.is_empty());
    }
}
