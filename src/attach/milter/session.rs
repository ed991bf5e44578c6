//! The session as a pure state machine: commands in, responses and steps out. No I/O, no clock.

use std::sync::Arc;

use bytes::BytesMut;

use super::client::ClientFacts;
use super::command::{self, Command};
use super::macros::{Macros, Stage};
use super::message::{Message, MessageLimits, Part};
use super::negotiate::{Agreement, Event, NegotiateError};
use super::response::Response;
use crate::mail::{Connection, Envelope, Headers, Path, Reply, Shortfall};

/// Octets of macros for one command, at most (64 KiB). A larger set is taken for an empty one.
pub const MACROS_MAX: usize = 64 * 1024;
/// Octets of the buffer for header values that a session keeps, at most (4 KiB): an idle connection costs little.
const VALUE_KEPT: usize = 4 * 1024;

/// One connection from an MTA, over which many messages come, one after the other.
///
/// A command out of place ends the message at hand and is then taken as if it had come between messages; if it has no
/// meaning there, it is passed over without an answer. This is what libmilter does (`engine.c`), and MTAs count on it. But content
/// that comes although its message was let go (Stalwart takes `ACCEPT` for `CONTINUE`) is answered once more where an answer is due.
#[derive(Debug)]
pub struct Session {
    limits: MessageLimits,
    asks_recipients: bool,
    agreement: Option<Agreement>,
    macros: Macros,
    client: ClientFacts,
    message: Option<Message>,
    /// The message was let go, and nothing has come since that begins or ends one.
    let_go: bool,
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
            let_go: false,
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
                (self.message, self.let_go) = (None, false);
                self.macros.enter(Stage::Connect);
                self.client = ClientFacts::connected(host, peer);
                Event::Connect
            }
            Command::Helo(helo) => {
                (self.message, self.let_go) = (None, false);
                self.macros.enter(Stage::Helo);
                self.client.greeted(helo);
                Event::Helo
            }
            Command::Mail(path) => {
                self.macros.enter(Stage::Mail);
                (self.message, self.let_go) = (Some(Message::begun(path, self.limits)), false);
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
                let Some(message) = self.message_within(Part::Headers) else {
                    return Ok(self.after_all(agreement, Some(Event::Header), replies));
                };
                message.part = Part::Headers;
                self.recipients_known(concerns);
                self.add_field(name, value, agreement.leading_space());
                Event::Header
            }
            Command::EndOfHeaders => {
                let Some(message) = self.message_within(Part::Headers) else {
                    return Ok(self.after_all(agreement, Some(Event::EndOfHeaders), replies));
                };
                message.part = Part::Body;
                self.macros.enter(Stage::Headers);
                self.recipients_known(concerns);
                Event::EndOfHeaders
            }
            Command::Body(chunk) => {
                if self.message_within(Part::Body).is_none() {
                    return Ok(self.after_all(agreement, Some(Event::Body), replies));
                }
                self.recipients_known(concerns);
                let Some(message) = &mut self.message else { return Ok(Step::Ignored) };
                message.part = Part::Body;
                message.count_body(chunk);
                let store = message.is_storing();
                self.answer(agreement, Event::Body, replies);
                return Ok(if store { Step::Store(chunk) } else { Step::Next });
            }
            Command::EndOfMessage(chunk) => {
                if self.message_within(Part::Body).is_none() {
                    return Ok(self.after_all(agreement, None, replies));
                }
                self.recipients_known(concerns);
                let Some(message) = &mut self.message else { return Ok(Step::Ignored) };
                message.part = Part::Body;
                message.count_body(chunk);
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
        self.message.as_ref().map_or(0, Message::header_octets)
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
            self.let_go = true;
        }
        response.write(replies);
    }

    /// Content without a message, of which `None` is the end. Where the message was let go, the MTA may wait for an answer.
    fn after_all(&mut self, agreement: Agreement, event: Option<Event>, replies: &mut BytesMut) -> Step<'static> {
        if !self.let_go {
            return Step::Ignored;
        }
        if event.is_none_or(|event| agreement.answers(event)) {
            Response::Accept.write(replies);
        }
        self.let_go = event.is_some();
        Step::Next
    }

    /// The path of one more recipient; `None` for one that the MTA has refused already.
    fn new_recipient(&self, path: command::Path<'_>) -> Option<Path> {
        // Recipients that the MTA refuses are shown only on request, and then with this mailer.
        let refused = self.macros.get("rcpt_mailer") == Some(b"error");
        (!refused).then(|| Path::lenient(path.path))
    }

    fn add_recipient(&mut self, path: Path) {
        if let Some(message) = &mut self.message {
            message.add_recipient(path);
        }
    }

    fn add_field(&mut self, name: &[u8], value: &[u8], leading_space: bool) {
        let Some(message) = self.message.as_mut().filter(|message| message.is_storing()) else { return };
        if leading_space {
            message.add_field(name, value);
            return;
        }
        self.value.clear();
        self.value.push(b' ');
        self.value.extend_from_slice(value);
        message.add_field(name, &self.value);
        if self.value.capacity() > VALUE_KEPT {
            self.value = Vec::new();
        }
    }

    fn end_message(&mut self) {
        (self.message, self.let_go) = (None, false);
        self.macros.clear_from(Stage::Mail);
    }

    fn reset(&mut self) {
        (self.message, self.let_go) = (None, false);
        self.macros.clear_from(Stage::Connect);
        self.client = ClientFacts::default();
    }
}

#[cfg(test)]
mod tests;
