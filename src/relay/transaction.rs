//! One mail transaction (RFC 5321 section 3.3) over an authenticated session: MAIL, RCPT, DATA, and who got which reply.
//!
//! What the endpoint says of the message or of a recipient is its verdict and is passed back. What it says of our session
//! is a [`Failure`] and stays temporary: 530, 534, 535 and 538 (RFC 4954 section 6) mean that TLS or the login is not
//! to its taste, and so does an enhanced code from `5.7.8` to `5.7.13`; 500 to 504 that it does not understand us. Of those
//! an enhanced code `5.1.x` is a verdict again, for servers refuse addresses with `501 5.1.3` and the like. A verdict taken
//! for a quarrel costs time: the MTA gives the sender the endpoint's words when its queue lifetime ends. The reverse would
//! bounce good mail at once.

use super::clock::Step;
use super::content::Content;
use super::dialogue::{Dialogue, Stream};
use super::dot_stuffing::DotStuffing;
use super::failure::{Cause, Failure};
use super::login::Session;
use super::refusal::{Concerns, Refusal, quotes_another};
use super::reply::{Extensions, RemoteReply};
use super::route::Remote;
use crate::mail::{Envelope, Mail, Path, Reply};

/// Commands sent ahead of their replies at most: neither side's TCP buffers can fill up with both of them writing
/// (RFC 2920 section 3.1).
const PIPELINED_MAX: usize = 50;
/// Octets of the message encoded and written at a time.
const BLOCK: usize = 64 * 1024;

/// One transaction and the replies so far.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    mail: &'a Mail,
    envelope: &'a Envelope,
    size: u64,
    recipients: Vec<Recipient>,
    /// The endpoint may have got a part of the message.
    content_sent: bool,
    /// The remote server is a company host: what it says of the account is not said of the message.
    submits: bool,
    /// Something that must be logged although the transaction went on.
    pub trouble: Option<Failure>,
}

#[derive(Debug, Clone)]
enum Recipient {
    Undecided,
    /// RCPT was accepted; the reply to the message decides.
    Accepted,
    Decided(Reply),
}

/// The state of the session after a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Good for the next message.
    Reusable,
    /// To be dropped.
    Spent,
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Mail,
    Rcpt(usize),
}

impl<'a> Transaction<'a> {
    /// A transaction for a message.
    pub fn new(mail: &'a Mail, remote: Remote) -> Self {
        let recipients = vec![Recipient::Undecided; mail.envelope.recipients.len()];
        let submits = remote == Remote::Host;
        Self {
            mail,
            envelope: &mail.envelope,
            size: mail.size(),
            recipients,
            content_sent: false,
            submits,
            trouble: None,
        }
    }

    /// Whether all of it can be done again without a risk of a second copy.
    pub fn is_repeatable(&self) -> bool {
        !self.content_sent
    }

    /// One reply per recipient; `failure` speaks for those that are not decided.
    pub fn into_replies(self, failure: Option<&Failure>) -> Vec<Reply> {
        let own = match failure {
            Some(failure) => failure.reply(),
            None => Reply::new(451, 3, 0, "no reply from the endpoint"),
        };
        let reply = |recipient| match recipient {
            Recipient::Decided(reply) => reply,
            Recipient::Undecided | Recipient::Accepted => own.clone(),
        };
        self.recipients.into_iter().map(reply).collect()
    }

    /// Runs the transaction.
    ///
    /// # Errors
    /// The session is of no use any more; undecided recipients have no reply of their own.
    pub async fn run(&mut self, session: &mut Session) -> Result<After, Failure> {
        let Session { dialogue, extensions, .. } = session;
        self.run_over(dialogue, extensions).await
    }

    /// As [`Self::run`], over any stream.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_over<S: Stream>(
        &mut self,
        dialogue: &mut Dialogue<S>,
        extensions: &Extensions,
    ) -> Result<After, Failure> {
        self.refuse_what_cannot_pass(dialogue, extensions);
        if self.recipients.iter().all(|recipient| matches!(recipient, Recipient::Decided(_))) {
            return Ok(After::Reusable);
        }
        let ascii = from_spool(dialogue, Content::is_ascii(self.mail)).await?;
        self.send_envelope(dialogue, extensions, !ascii).await?;
        if !self.has_accepted() || !self.go_ahead(dialogue).await? {
            return Ok(reset(dialogue).await);
        }
        self.content_sent = true;
        match send_message(dialogue, self.mail).await {
            Ok(()) => {
                let reply = dialogue.reply(Step::FinalReply).await?;
                self.decide(dialogue, Step::FinalReply, reply)?;
                Ok(After::Reusable)
            }
            // The lone dot must not follow half a message: the connection ends instead.
            Err(failure) if failure.is_ours() => Err(failure),
            Err(lost) => {
                // Without the final dot the message is not taken; perhaps the endpoint told why it left.
                let Ok(reply) = dialogue.reply(Step::Quit).await else { return Err(lost) };
                if reply.code < 400 {
                    return Err(lost);
                }
                self.decide(dialogue, Step::Message, reply)?;
                Ok(After::Spent)
            }
        }
    }

    /// Runs the transaction by LMTP (RFC 2033): after the message there is a reply for each accepted recipient, in order
    /// (section 4.2).
    ///
    /// # Errors
    /// The session is of no use any more; undecided recipients have no reply of their own.
    pub async fn run_lmtp<S: Stream>(
        &mut self,
        dialogue: &mut Dialogue<S>,
        extensions: &Extensions,
    ) -> Result<(), Failure> {
        self.refuse_what_cannot_pass(dialogue, extensions);
        if self.recipients.iter().all(|recipient| matches!(recipient, Recipient::Decided(_))) {
            return Ok(());
        }
        let ascii = from_spool(dialogue, Content::is_ascii(self.mail)).await?;
        self.send_envelope(dialogue, extensions, !ascii).await?;
        if !self.has_accepted() || !self.go_ahead(dialogue).await? {
            return Ok(());
        }
        self.content_sent = true;
        send_message(dialogue, self.mail).await?;
        for index in 0..self.recipients.len() {
            if !matches!(self.recipients.get(index), Some(Recipient::Accepted)) {
                continue;
            }
            let reply = dialogue.reply(Step::FinalReply).await?;
            let reply = match reply.is_success() {
                true => reply.passed_back(dialogue.peer()),
                // A quarrel about one recipient says nothing of the others: their replies are still to come.
                false if (400..=599).contains(&reply.code) => {
                    self.verdict(dialogue, Step::FinalReply, reply).unwrap_or_else(|failure| failure.reply())
                }
                false => return Err(dialogue.out_of_place(Step::FinalReply, &reply)),
            };
            if let Some(recipient) = self.recipients.get_mut(index) {
                *recipient = Recipient::Decided(reply);
            }
        }
        Ok(())
    }

    /// Decides without asking what the endpoint has said in its EHLO that it does not take.
    fn refuse_what_cannot_pass<S: Stream>(&mut self, dialogue: &Dialogue<S>, extensions: &Extensions) {
        let peer = dialogue.peer();
        if let Some(limit) = extensions.size_limit.filter(|&limit| self.size > limit) {
            let text = format!("{peer} takes messages of at most {limit} octets, this one has {}", self.size);
            self.decide_all(&Reply::new(552, 3, 4, text));
        }
        if !extensions.smtputf8 {
            let reply = Reply::new(553, 6, 7, format!("{peer} does not offer SMTPUTF8, which this address needs"));
            if !self.envelope.sender.as_str().is_ascii() {
                self.decide_all(&reply);
            }
            for (recipient, path) in self.recipients.iter_mut().zip(&self.envelope.recipients) {
                if matches!(recipient, Recipient::Undecided) && !path.as_str().is_ascii() {
                    *recipient = Recipient::Decided(reply.clone());
                }
            }
        }
    }

    /// MAIL and RCPT, several ahead of their replies where the endpoint offers PIPELINING.
    ///
    /// DATA is not sent ahead, though RFC 2920 section 3.1 allows it: an endpoint that took it after refusing the envelope
    /// would have to be told a lone dot, which some would file as an empty message. One round trip is the smaller harm.
    async fn send_envelope<S: Stream>(
        &mut self,
        dialogue: &mut Dialogue<S>,
        extensions: &Extensions,
        eight_bit: bool,
    ) -> Result<(), Failure> {
        let mut commands = vec![Command::Mail];
        let asked = self.recipients.iter().enumerate().filter(|(_, r)| matches!(r, Recipient::Undecided));
        commands.extend(asked.map(|(index, _)| Command::Rcpt(index)));
        for group in commands.chunks(if extensions.pipelining { PIPELINED_MAX } else { 1 }) {
            let lines: String = group.iter().map(|command| self.line(*command, extensions, eight_bit)).collect();
            let step = if let Some(Command::Mail) = group.first() { Step::Mail } else { Step::Rcpt };
            dialogue.send(step, lines.as_bytes()).await?;
            for command in group {
                match command {
                    Command::Mail => self.mail_reply(dialogue).await?,
                    Command::Rcpt(index) => self.rcpt_reply(dialogue, *index).await?,
                }
            }
            if self.recipients.iter().all(|recipient| matches!(recipient, Recipient::Decided(_))) {
                break;
            }
        }
        Ok(())
    }

    fn line(&self, command: Command, extensions: &Extensions, eight_bit: bool) -> String {
        let null = Path::null();
        match command {
            Command::Mail => mail_line(self.envelope, self.size, extensions, eight_bit),
            Command::Rcpt(index) => format!("RCPT TO:{}\r\n", self.envelope.recipients.get(index).unwrap_or(&null)),
        }
    }

    async fn mail_reply<S: Stream>(&mut self, dialogue: &mut Dialogue<S>) -> Result<(), Failure> {
        let reply = dialogue.reply(Step::Mail).await?;
        if reply.is_success() {
            return Ok(());
        }
        let verdict = self.verdict(dialogue, Step::Mail, reply)?;
        self.decide_all(&verdict);
        Ok(())
    }

    async fn rcpt_reply<S: Stream>(&mut self, dialogue: &mut Dialogue<S>, index: usize) -> Result<(), Failure> {
        let reply = dialogue.reply(Step::Rcpt).await?;
        if reply.code / 100 == 3 {
            return Err(dialogue.out_of_place(Step::Rcpt, &reply));
        }
        if let Some(Recipient::Decided(_)) | None = self.recipients.get(index) {
            // MAIL was refused; what is said to the RCPT sent ahead does not matter.
            return Ok(());
        }
        let outcome = if reply.is_success() {
            Recipient::Accepted
        } else if self.has_accepted() && is_too_many_recipients(&reply) {
            // RFC 5321 section 4.5.3.1.10: temporary. The others go, and this one the next time, with fewer beside it.
            let text = format!("{} said: {}", dialogue.peer(), reply.as_reply());
            Recipient::Decided(Reply::new(452, 5, 3, text))
        } else if is_misunderstanding(&reply) || self.is_about_account(&reply) {
            // The others may yet pass.
            let failure = dialogue.failure(Cause::Session(Step::Rcpt, reply));
            Recipient::Decided(self.trouble.insert(failure).reply())
        } else {
            Recipient::Decided(self.verdict(dialogue, Step::Rcpt, reply)?)
        };
        if let Some(recipient) = self.recipients.get_mut(index) {
            *recipient = outcome;
        }
        Ok(())
    }

    /// DATA. Whether the endpoint waits for the message now.
    async fn go_ahead<S: Stream>(&mut self, dialogue: &mut Dialogue<S>) -> Result<bool, Failure> {
        let reply = dialogue.command(Step::Data, b"DATA\r\n").await?;
        match reply.code {
            354 => Ok(true),
            400..=599 => self.decide(dialogue, Step::Data, reply).map(|()| false),
            _ => Err(dialogue.out_of_place(Step::Data, &reply)),
        }
    }

    /// The reply that counts for all accepted recipients.
    fn decide<S: Stream>(&mut self, dialogue: &Dialogue<S>, step: Step, reply: RemoteReply) -> Result<(), Failure> {
        let reply = match reply.is_success() {
            true => reply.passed_back(dialogue.peer()),
            false => self.verdict(dialogue, step, reply)?,
        };
        self.decide_all(&reply);
        Ok(())
    }

    fn decide_all(&mut self, reply: &Reply) {
        for recipient in &mut self.recipients {
            if !matches!(recipient, Recipient::Decided(_)) {
                *recipient = Recipient::Decided(reply.clone());
            }
        }
    }

    /// A negative reply as the verdict on the message.
    ///
    /// # Errors
    /// It is about our session, or it is none.
    fn verdict<S: Stream>(&self, dialogue: &Dialogue<S>, step: Step, reply: RemoteReply) -> Result<Reply, Failure> {
        match reply.code {
            530 | 534 | 535 | 538 => Err(dialogue.failure(Cause::Session(step, reply))),
            500..=599 if self.is_about_account(&reply) => Err(dialogue.failure(Cause::Session(step, reply))),
            _ if is_misunderstanding(&reply) => Err(dialogue.failure(Cause::Session(step, reply))),
            400..=599 => Ok(reply.passed_back(dialogue.peer())),
            _ => Err(dialogue.out_of_place(step, &reply)),
        }
    }

    /// Whether a 5xx is about the account that we logged in with: its login, what it may do, how much of it. Its administrator
    /// must act, or time must pass; then the message is as good as before.
    fn is_about_account(&self, reply: &RemoteReply) -> bool {
        let known = || Refusal::of(reply).is_some_and(|refusal| refusal.concerns != Concerns::Message);
        // A recipient's own server must not make a refusal for good last for days.
        let foreign = self.submits && quotes_another(&reply.as_reply());
        !foreign && (is_about_login(reply) || (self.submits && known()))
    }

    fn has_accepted(&self) -> bool {
        self.recipients.iter().any(|recipient| matches!(recipient, Recipient::Accepted))
    }
}

/// MAIL with the parameters that the endpoint offers and the message needs.
///
/// A message with 8-bit octets for an endpoint without 8BITMIME goes as it is, and so does one that was declared SMTPUTF8
/// for its header fields alone: converting would break signatures, refusing would lose mail that in practice arrives.
fn mail_line(envelope: &Envelope, size: u64, extensions: &Extensions, eight_bit: bool) -> String {
    let mut line = format!("MAIL FROM:{}", envelope.sender);
    if extensions.size {
        line.push_str(&format!(" SIZE={size}"));
    }
    if extensions.eight_bit_mime && (eight_bit || envelope.eight_bit) {
        line.push_str(" BODY=8BITMIME");
    }
    let mut paths = std::iter::once(&envelope.sender).chain(&envelope.recipients);
    if extensions.smtputf8 && (envelope.smtputf8 || paths.any(|path| !path.as_str().is_ascii())) {
        line.push_str(" SMTPUTF8");
    }
    line.push_str("\r\n");
    line
}

/// What reads the spool, within the deadline.
async fn from_spool<S: Stream, T>(
    dialogue: &Dialogue<S>,
    reading: impl Future<Output = std::io::Result<T>>,
) -> Result<T, Failure> {
    match dialogue.clock().within(Step::Spool, reading).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err(dialogue.failure(Cause::Spool(error.to_string()))),
        Err(elapsed) => Err(Failure::timeout(dialogue.peer(), elapsed)),
    }
}

/// The whole message after DATA, the lone dot included.
async fn send_message<S: Stream>(dialogue: &mut Dialogue<S>, mail: &Mail) -> Result<(), Failure> {
    let mut stuffing = DotStuffing::new();
    let mut block = Vec::with_capacity(BLOCK.saturating_add(BLOCK / 16));
    let mut content = Content::of(mail);
    while let Some(octets) = from_spool(dialogue, content.next()).await? {
        for piece in octets.chunks(BLOCK) {
            block.clear();
            stuffing.push(piece, &mut block);
            dialogue.send(Step::Message, &block).await?;
        }
    }
    block.clear();
    let replaced = stuffing.finish(&mut block);
    if replaced > 0 {
        tracing::warn!(remote = %dialogue.peer(), replaced, "stray CR or LF in a message replaced by spaces");
    }
    // What was said before the end of the message is no reply to it: a 250 among it would take the message for delivered.
    if !dialogue.is_quiet().await {
        let text = "a reply before the end of the message".to_owned();
        return Err(dialogue.failure(Cause::Nonsense(Step::Message, text)));
    }
    dialogue.send(Step::Message, &block).await
}

/// 500 to 504: a quarrel about commands, unless the enhanced code says that it is about an address.
fn is_misunderstanding(reply: &RemoteReply) -> bool {
    let about_address = reply.as_reply().enhanced().is_some_and(|code| code.starts_with("5.1."));
    (500..=504).contains(&reply.code) && !about_address
}

/// `5.5.3` (RFC 3463 section 3.6), or the 552 that RFC 821 had for it.
fn is_too_many_recipients(reply: &RemoteReply) -> bool {
    let said = reply.as_reply();
    match said.enhanced() {
        Some(code) => code == "5.5.3",
        None => reply.code == 552 && said.text().to_lowercase().contains("too many recipients"),
    }
}

/// X.7.8 to X.7.13: credentials, mechanism, encryption, password, account (RFC 4954 section 6, RFC 5248 section 2.4). An
/// endpoint that says so with a 550 has nothing against the message.
fn is_about_login(reply: &RemoteReply) -> bool {
    let code = reply.as_reply().enhanced();
    let detail = code.as_deref().and_then(|code| code.strip_prefix("5.7.")?.parse::<u16>().ok());
    detail.is_some_and(|detail| (8..=13).contains(&detail))
}

/// Leaves the transaction, so that the session can serve the next message.
async fn reset<S: Stream>(dialogue: &mut Dialogue<S>) -> After {
    match dialogue.command(Step::Reset, b"RSET\r\n").await {
        Ok(reply) if reply.is_success() => After::Reusable,
        _ => After::Spent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16, text: &str) -> RemoteReply {
        RemoteReply { code, lines: vec![text.to_owned()] }
    }

    #[test]
    fn a_quarrel_about_commands_is_not_a_verdict_on_an_address() {
        assert!(is_misunderstanding(&reply(503, "5.5.1 need MAIL")));
        assert!(is_misunderstanding(&reply(501, "what?")));
        assert!(!is_misunderstanding(&reply(501, "5.1.3 bad recipient address syntax")));
        assert!(!is_misunderstanding(&reply(550, "5.1.1 no such user")));
    }

    #[test]
    fn what_a_recipients_server_says_through_the_company_host_is_not_about_our_account() {
        let mail = crate::mail::Mail {
            connection: std::sync::Arc::default(),
            envelope: Envelope::default(),
            headers: crate::mail::Headers::default(),
            body: crate::mail::Body::from_octets(Vec::new()),
            shortfall: None,
            queue_id: None,
        };
        let submits = Transaction::new(&mail, Remote::Host);
        for code in ["5.7.8", "5.7.60", "5.7.232", "5.1.1"] {
            let words = "Client does not have permissions to send as this sender";
            let own = submits.is_about_account(&reply(550, &format!("{code} {words}")));
            assert!(own, "{code}");
            let quoted =
                format!("{code} <x@y.example>: undeliverable: host mx.y.example[192.0.2.1] said: 550 {code} {words}");
            assert!(!submits.is_about_account(&reply(550, &quoted)), "{code}");
        }
    }

    #[test]
    fn mail_has_the_parameters_that_are_offered_and_needed() {
        let path = |text: &str| Path::parse(text.as_bytes()).unwrap();
        let plain =
            Envelope { sender: path("<a@b.example>"), recipients: vec![path("c@d.example")], ..Envelope::default() };
        let null = Envelope { sender: Path::null(), ..plain.clone() };
        let unicode = Envelope { recipients: vec![path("jürgen@d.example")], ..plain.clone() };
        let nothing = Extensions::default();
        let all = Extensions { eight_bit_mime: true, size: true, smtputf8: true, ..Extensions::default() };
        for (envelope, extensions, eight_bit, expected) in [
            (&plain, &nothing, true, "MAIL FROM:<a@b.example>\r\n"),
            (&plain, &all, false, "MAIL FROM:<a@b.example> SIZE=9\r\n"),
            (&plain, &all, true, "MAIL FROM:<a@b.example> SIZE=9 BODY=8BITMIME\r\n"),
            (&null, &nothing, false, "MAIL FROM:<>\r\n"),
            (&unicode, &all, false, "MAIL FROM:<a@b.example> SIZE=9 SMTPUTF8\r\n"),
        ] {
            assert_eq!(mail_line(envelope, 9, extensions, eight_bit), expected);
        }
    }
}
