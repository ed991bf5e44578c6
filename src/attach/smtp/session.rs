//! One connection's dialogue: order of commands, envelope, bounds.

use bytes::{Buf, BytesMut};

use super::command::{self, Command, Hello, MailParameters};
use super::data::DataDecoder;
use super::login::{Exchange, Login, Step};
use crate::mail::{Envelope, Path, Reply};

/// Octets of a command line at most, CRLF included. RFC 5321 section 4.5.3.1.4 asks for 512 and the extensions' share more;
/// 2048 is what Postfix takes.
const LINE_MAX: usize = 2048;
/// Octets of an AUTH line at most (RFC 4954 section 4).
const AUTH_LINE_MAX: usize = 12_288;
/// Commands refused by the session before it closes the connection.
const BAD_COMMANDS_MAX: u32 = 20;
/// Logins refused before the session hears no more of them.
const LOGIN_FAILURES_MAX: u32 = 3;

/// Which protocol a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 2033: LHLO, and a reply per recipient after the data.
    Lmtp,
    /// RFC 5321: EHLO or HELO, and one reply after the data.
    Smtp,
}

/// What a session offers.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The protocol.
    pub protocol: Protocol,
    /// Our host name.
    pub hostname: String,
    /// Octets of a message at most; announced as SIZE (RFC 1870).
    pub message_size: u64,
    /// Recipients of a message at most; more get 452 (RFC 5321 section 4.5.3.1.10).
    pub recipients: usize,
    /// STARTTLS is offered, and nothing is heard before it but EHLO, NOOP and QUIT (RFC 3207 section 4).
    pub starttls: bool,
    /// AUTH PLAIN and LOGIN are offered, under TLS alone.
    pub auth: bool,
}

/// What happened, in the order of the client's octets.
#[derive(Debug)]
pub enum Event {
    /// To be written: the session answered by itself.
    Reply(Reply),
    /// To be written; then the connection is to be closed.
    Close(Reply),
    /// A recipient asks to be taken: call [`Session::take_recipient`] if so, and write a reply.
    Recipient(Path),
    /// The recipients are known and the data begins: write 354.
    Data,
    /// The next octets of the message, without dot-stuffing. CR and LF may still stand alone in it.
    Chunk(Vec<u8>),
    /// The data ended. Answer once (SMTP) or once per recipient, in order (LMTP).
    End(Envelope),
    /// To be written; then the TLS handshake, and [`Session::tls_established`].
    StartTls(Reply),
    /// Credentials to check: call [`Session::finish_login`] with the outcome, and write what it returns.
    Login(Login),
}

/// A connection's dialogue.
///
/// Give octets to [`Self::receive`] as they come, then call [`Self::poll`] until it returns `None`; carry out what an event
/// asks for before the next call.
#[derive(Debug)]
pub struct Session {
    profile: Profile,
    input: BytesMut,
    state: State,
    tls: bool,
    hello: Option<(Hello, String)>,
    user: Option<String>,
    transaction: Option<Envelope>,
    asking: Option<Path>,
    asking_user: Option<String>,
    just_reset: bool,
    bad_commands: u32,
    login_failures: u32,
}

#[derive(Debug)]
enum State {
    Command,
    /// Within a line that is too long: all is skipped up to its end.
    Skip,
    Auth(Exchange),
    Data(DataDecoder),
    /// The data ended; the owner has yet to hear.
    DataEnded,
    /// STARTTLS was answered; plain text counts no more.
    Handshake,
    Closed,
}

enum Line {
    Complete(Vec<u8>),
    TooLong,
    BareLf,
}

impl Session {
    /// A new connection; `tls` says whether it is under TLS from its first octet.
    pub fn new(profile: Profile, tls: bool) -> Self {
        Self {
            profile,
            input: BytesMut::new(),
            state: State::Command,
            tls,
            hello: None,
            user: None,
            transaction: None,
            asking: None,
            asking_user: None,
            just_reset: false,
            bad_commands: 0,
            login_failures: 0,
        }
    }

    /// The greeting to write first.
    pub fn greeting(&self) -> Reply {
        let protocol = match self.profile.protocol {
            Protocol::Lmtp => "LMTP",
            Protocol::Smtp => "ESMTP",
        };
        Reply::from_lines(220, None, [format!("{} {protocol} deskmilter", self.profile.hostname).as_str()])
    }

    /// Takes octets from the client.
    pub fn receive(&mut self, octets: &[u8]) {
        if !matches!(self.state, State::Closed | State::Handshake) {
            self.input.extend_from_slice(octets);
        }
    }

    /// The next event, or `None` when more octets are needed.
    pub fn poll(&mut self) -> Option<Event> {
        self.asking = None;
        loop {
            match std::mem::replace(&mut self.state, State::Command) {
                State::Data(decoder) => return self.poll_data(decoder),
                State::DataEnded => return Some(Event::End(self.transaction.take().unwrap_or_default())),
                state @ (State::Handshake | State::Closed) => {
                    self.state = state;
                    return None;
                }
                State::Skip => {
                    if !self.skip_line() {
                        return None;
                    }
                    if matches!(self.state, State::Closed) {
                        return Some(Event::Close(bare_lf()));
                    }
                }
                State::Command => {
                    return match self.line(LINE_MAX)? {
                        Line::Complete(line) => Some(self.command(&line)),
                        other => Some(self.broken_line(other)),
                    };
                }
                State::Auth(exchange) => {
                    return match self.line(AUTH_LINE_MAX) {
                        None => {
                            self.state = State::Auth(exchange);
                            None
                        }
                        Some(Line::Complete(line)) => {
                            let step = match std::str::from_utf8(&line) {
                                Ok(response) => exchange.respond(response),
                                Err(_) => Err(Reply::new(501, 5, 2, "malformed authentication response")),
                            };
                            Some(self.login_step(step))
                        }
                        Some(other) => Some(self.broken_line(other)),
                    };
                }
            }
        }
    }

    /// Takes the recipient that [`Event::Recipient`] asked about into the envelope.
    pub fn take_recipient(&mut self) {
        if let (Some(transaction), Some(path)) = (self.transaction.as_mut(), self.asking.take()) {
            transaction.recipients.push(path);
        }
    }

    /// Says whether the credentials of [`Event::Login`] were right; returns the reply to write.
    pub fn finish_login(&mut self, accepted: bool) -> Reply {
        let user = self.asking_user.take();
        if accepted && user.is_some() {
            self.user = user;
            return Reply::new(235, 7, 0, "authentication successful");
        }
        self.login_failures = self.login_failures.saturating_add(1);
        Reply::new(535, 7, 8, "authentication credentials invalid")
    }

    /// The handshake is done: all that was said before counts no more (RFC 3207 section 4.2).
    pub fn tls_established(&mut self) {
        self.input.clear();
        self.state = State::Command;
        self.tls = true;
        self.hello = None;
        self.user = None;
        self.transaction = None;
    }

    /// Whether a transaction is under way, from MAIL to the end of the data.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether the client has just asked, by RSET, if the session can still be used; MAIL comes next.
    pub fn just_reset(&self) -> bool {
        self.just_reset
    }

    /// The transaction's recipients so far.
    pub fn recipients(&self) -> &[Path] {
        self.transaction.as_ref().map_or(&[], |transaction| transaction.recipients.as_slice())
    }

    /// What the client called itself in its greeting.
    pub fn client_name(&self) -> Option<&str> {
        self.hello.as_ref().map(|(_, name)| name.as_str())
    }

    /// The user that logged in.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    fn poll_data(&mut self, mut decoder: DataDecoder) -> Option<Event> {
        let mut message = Vec::with_capacity(self.input.len());
        let (used, ended) = decoder.decode(&self.input, &mut message);
        self.input.advance(used);
        self.state = if ended { State::DataEnded } else { State::Data(decoder) };
        match (message.is_empty(), ended) {
            (false, _) => Some(Event::Chunk(message)),
            (true, true) => self.poll(),
            (true, false) => None,
        }
    }

    /// The next line without its CRLF; `None` when there is no whole line yet.
    fn line(&mut self, limit: usize) -> Option<Line> {
        let end = self.input.iter().position(|&b| b == b'\n').map(|at| at + 1);
        let auth = self.input.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
        let limit = if auth { AUTH_LINE_MAX } else { limit };
        if end.unwrap_or(self.input.len()) > limit {
            return Some(Line::TooLong);
        }
        let line = self.input.split_to(end?);
        match line.strip_suffix(b"\r\n") {
            Some(line) => Some(Line::Complete(line.to_vec())),
            None => Some(Line::BareLf),
        }
    }

    fn broken_line(&mut self, line: Line) -> Event {
        match line {
            Line::BareLf | Line::Complete(_) => self.close(bare_lf()),
            Line::TooLong => {
                let event = self.refuse(Reply::new(500, 5, 2, "line too long"));
                if !matches!(self.state, State::Closed) {
                    self.state = State::Skip;
                }
                event
            }
        }
    }

    /// Skips to the end of the line; `false` when it has not come yet.
    fn skip_line(&mut self) -> bool {
        match self.input.iter().position(|&b| b == b'\n') {
            Some(at) => {
                let line = self.input.split_to(at + 1);
                self.state = if line.ends_with(b"\r\n") { State::Command } else { State::Closed };
                true
            }
            None => {
                // The last octet may be the CR of a CRLF.
                self.input.advance(self.input.len().saturating_sub(1));
                self.state = State::Skip;
                false
            }
        }
    }

    fn command(&mut self, line: &[u8]) -> Event {
        // A browser that was tricked into talking to us (cross-protocol attack) sends commands in its body.
        let verb = line.split(|&b| b == b' ').next().unwrap_or_default();
        if [b"GET".as_slice(), b"POST", b"PUT", b"CONNECT"].iter().any(|http| verb.eq_ignore_ascii_case(http)) {
            return self.close(Reply::new(421, 7, 0, "this is not an HTTP server"));
        }
        let command = match command::parse(line) {
            Ok(command) => command,
            Err(reply) => return self.refuse(reply),
        };
        if let Some(reply) = self.out_of_place(&command) {
            return self.refuse(reply);
        }
        self.just_reset = matches!(command, Command::Reset);
        match command {
            Command::Hello { verb, name } => self.hello(verb, name),
            Command::Mail { sender, parameters } => self.mail(sender, &parameters),
            Command::Recipient(path) => self.recipient(path),
            Command::Data => {
                self.state = State::Data(DataDecoder::default());
                Event::Data
            }
            Command::Reset => {
                self.transaction = None;
                Event::Reply(ok())
            }
            Command::Noop => Event::Reply(ok()),
            Command::Help => Event::Reply(Reply::new(214, 0, 0, "see RFC 5321 and RFC 2033")),
            Command::Verify => Event::Reply(Reply::new(252, 0, 0, "cannot verify, but will try")),
            Command::Quit => self.close(Reply::new(221, 0, 0, "bye")),
            Command::StartTls if !self.input.is_empty() => {
                // Commands sent ahead in plain text must never count as said under TLS (CVE-2011-0411).
                self.close(Reply::new(503, 5, 0, "nothing may follow STARTTLS before the handshake"))
            }
            Command::StartTls => {
                self.state = State::Handshake;
                Event::StartTls(Reply::new(220, 0, 0, "ready to start TLS"))
            }
            Command::Auth { .. } if self.login_failures >= LOGIN_FAILURES_MAX => {
                self.close(Reply::new(421, 7, 0, "too many failed logins"))
            }
            Command::Auth { mechanism, initial } => {
                let step = Exchange::begin(&mechanism, initial.as_deref());
                self.login_step(step)
            }
        }
    }

    /// The reply for a command that is right in itself but not here and now.
    fn out_of_place(&self, command: &Command) -> Option<Reply> {
        let wrong_order = |text: &str| Some(Reply::new(503, 5, 1, text));
        let extended = matches!(self.hello, Some((Hello::Ehlo | Hello::Lhlo, _)));
        match command {
            Command::Hello { verb, .. } => {
                let right = match self.profile.protocol {
                    Protocol::Lmtp => *verb == Hello::Lhlo,
                    Protocol::Smtp => *verb != Hello::Lhlo,
                };
                let text =
                    if self.profile.protocol == Protocol::Lmtp { "this is LMTP: LHLO" } else { "this is SMTP: EHLO" };
                (!right).then(|| Reply::new(500, 5, 1, text))
            }
            Command::StartTls if self.tls => wrong_order("already under TLS"),
            Command::StartTls if !self.profile.starttls => Some(Reply::new(502, 5, 1, "STARTTLS is not offered")),
            Command::StartTls if !extended => wrong_order("EHLO first"),
            Command::Auth { .. } if !self.profile.auth => Some(Reply::new(502, 5, 1, "AUTH is not offered")),
            Command::Auth { .. } if !self.tls => Some(Reply::new(538, 7, 11, "encryption is required: STARTTLS first")),
            Command::Auth { .. } if !extended => wrong_order("EHLO first"),
            Command::Auth { .. } if self.user.is_some() => wrong_order("already authenticated"),
            Command::Auth { .. } if self.transaction.is_some() => wrong_order("not within a transaction"),
            Command::Mail { .. } | Command::Recipient(_) | Command::Data | Command::Verify
                if self.profile.starttls && !self.tls =>
            {
                Some(Reply::new(530, 7, 0, "Must issue a STARTTLS command first"))
            }
            Command::Mail { .. } if self.hello.is_none() => wrong_order(match self.profile.protocol {
                Protocol::Lmtp => "LHLO first",
                Protocol::Smtp => "EHLO first",
            }),
            Command::Mail { .. } if self.transaction.is_some() => wrong_order("one MAIL at a time"),
            Command::Recipient(_) if self.transaction.is_none() => wrong_order("MAIL first"),
            Command::Data if self.recipients().is_empty() => wrong_order("no valid recipients"),
            _ => None,
        }
    }

    fn hello(&mut self, verb: Hello, name: String) -> Event {
        self.transaction = None;
        self.hello = Some((verb, name));
        let hostname = self.profile.hostname.as_str();
        if verb == Hello::Helo {
            return Event::Reply(Reply::from_lines(250, None, [hostname]));
        }
        let size = format!("SIZE {}", self.profile.message_size);
        let mut lines = vec![hostname, "PIPELINING", &size, "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
        if self.profile.starttls && !self.tls {
            lines.push("STARTTLS");
        }
        if self.profile.auth && self.tls {
            lines.push("AUTH PLAIN LOGIN");
        }
        Event::Reply(Reply::from_lines(250, None, lines))
    }

    fn mail(&mut self, sender: Path, parameters: &MailParameters) -> Event {
        if parameters.auth && !self.profile.auth {
            return self.refuse(Reply::new(555, 5, 4, "unsupported parameter: AUTH"));
        }
        if !parameters.smtputf8 && self.demands_smtputf8(&sender) {
            return self.refuse(command::needs_smtputf8());
        }
        if parameters.size.is_some_and(|size| size > self.profile.message_size) {
            return Event::Reply(too_large(self.profile.message_size));
        }
        self.transaction = Some(Envelope {
            sender,
            recipients: Vec::new(),
            smtputf8: parameters.smtputf8,
            eight_bit: parameters.eight_bit,
        });
        Event::Reply(Reply::new(250, 1, 0, "sender ok"))
    }

    fn recipient(&mut self, path: Path) -> Event {
        if self.recipients().len() >= self.profile.recipients {
            return Event::Reply(Reply::new(452, 5, 3, "too many recipients"));
        }
        if self.demands_smtputf8(&path) && !self.transaction.as_ref().is_some_and(|transaction| transaction.smtputf8) {
            return self.refuse(command::needs_smtputf8());
        }
        self.asking = Some(path.clone());
        Event::Recipient(path)
    }

    /// Whether the address may not come without SMTPUTF8 (RFC 6531 section 3.4). Over LMTP it may: Postfix takes such mail from
    /// clients that say nothing of SMTPUTF8 and hands it on in the same way; a refusal here would bounce what it delivers elsewhere.
    fn demands_smtputf8(&self, path: &Path) -> bool {
        self.profile.protocol == Protocol::Smtp && !path.as_str().is_ascii()
    }

    fn login_step(&mut self, step: Result<Step, Reply>) -> Event {
        match step {
            Ok(Step::Ask(exchange, challenge)) => {
                self.state = State::Auth(exchange);
                Event::Reply(challenge)
            }
            Ok(Step::Done(login)) => {
                self.asking_user = Some(login.user.clone());
                Event::Login(login)
            }
            Err(reply) => self.refuse(reply),
        }
    }

    /// A reply to a bad command; after too many the connection closes.
    fn refuse(&mut self, reply: Reply) -> Event {
        self.bad_commands = self.bad_commands.saturating_add(1);
        if self.bad_commands >= BAD_COMMANDS_MAX {
            return self.close(Reply::new(421, 7, 0, "too many bad commands"));
        }
        Event::Reply(reply)
    }

    fn close(&mut self, reply: Reply) -> Event {
        self.state = State::Closed;
        self.input.clear();
        Event::Close(reply)
    }
}

/// The reply for a message larger than `limit` octets.
pub fn too_large(limit: u64) -> Reply {
    Reply::new(552, 3, 4, format!("message larger than {limit} octets"))
}

fn ok() -> Reply {
    Reply::new(250, 0, 0, "ok")
}

fn bare_lf() -> Reply {
    Reply::new(500, 5, 2, "lines end with CRLF; a bare LF was received")
}

#[cfg(test)]
mod tests;
