//! What the endpoint refuses for good, of a sender who is not proven: a bounce would reach somebody who never wrote
//! (backscatter). The message goes to a mailbox of the company instead, and only when that hand-over is answered with 250 is
//! the MTA's duty ended.
//!
//! The way is plain SMTP within this host, from the null sender: should the mailbox refuse, nobody else hears of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::clock::{Bounds, Clock, Step};
use super::dialogue::Dialogue;
use super::failure::{Cause, Failure};
use super::reply::Extensions;
use super::route::Remote;
use super::transaction::Transaction;
use crate::config::Rejected;
use crate::mail::{Domain, Envelope, Header, HeaderEdit, Mail, Path, Reply};

/// The field that tells the mailbox why it gets the message. For people: nothing believes it, anybody may write one.
pub const FIELD: &str = "X-Refused-By-Ticket-System";

/// How long the hand-over may take. The endpoint's deadline (540 s at most) is over by then: both together lie within the
/// 600 s that Postfix waits for the reply to a message by LMTP (`lmtp_data_done_timeout`).
const DEADLINE: Duration = Duration::from_secs(50);
/// Octets of the endpoint's words that are quoted in [`FIELD`]; a line has 998 at most (RFC 5322 section 2.1.1).
const WORDS_MAX: usize = 400;

/// The way to the company's mailbox for refused mail.
#[derive(Debug)]
pub struct HandBack {
    to: Path,
    via: SocketAddr,
    hello: Domain,
}

impl HandBack {
    /// By what is configured; `hello` is this host's name.
    pub fn new(rejected: &Rejected, hello: &Domain) -> Self {
        // An address is a path.
        let to = Path::parse(rejected.to.to_string().as_bytes()).unwrap_or_default();
        Self { to, via: rejected.via, hello: hello.clone() }
    }

    /// Hands the message over for those recipients that were refused for good, and puts our reply in the place of theirs: 250
    /// where the company's MTA took it, otherwise 451, so that the message stays where it is. Returns the mailbox if it took it.
    pub async fn instead_of_a_bounce(&self, connector: &str, mail: &Mail, replies: &mut [Reply]) -> Option<String> {
        let refused: Vec<(Path, Reply)> = mail
            .envelope
            .recipients
            .iter()
            .zip(replies.iter())
            .filter(|(_, reply)| reply.is_permanent())
            .map(|(path, reply)| (path.clone(), reply.clone()))
            .collect();
        if refused.is_empty() {
            return None;
        }
        let outcome = self.hand_over(connector, mail, &refused).await;
        for reply in replies.iter_mut().filter(|reply| reply.is_permanent()) {
            *reply = match &outcome {
                Ok(()) => Reply::new(250, 0, 0, format!("handed to {} instead; {reply}", self.to)),
                Err(trouble) => {
                    Reply::new(451, 3, 0, format!("not handed to {}: {trouble}; refused with {reply}", self.to))
                }
            };
        }
        match outcome {
            Ok(()) => Some(self.to.to_string()),
            Err(trouble) => {
                tracing::error!(
                    connector,
                    queue_id = mail.queue_id,
                    to = %self.to,
                    via = %self.via,
                    reason = trouble,
                    "refused mail cannot be handed to rejected_to; it stays in the queue"
                );
                None
            }
        }
    }

    /// What was handed back and comes again has come to a support address by an alias or a forward. A bounce of it goes to
    /// nobody, so it must wait until somebody has looked.
    pub fn keep_what_came_back(mail: &Mail, reply: Reply) -> Reply {
        if !reply.is_permanent() || mail.headers.first(FIELD).is_none() {
            return reply;
        }
        tracing::error!(
            queue_id = mail.queue_id,
            to = mail.envelope.recipients.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            %reply,
            "mail that was handed to rejected_to came back to a support address; correct rejected_to or its alias"
        );
        Reply::new(451, 4, 6, format!("handed to rejected_to and come back; {reply}"))
    }

    async fn hand_over(&self, connector: &str, mail: &Mail, refused: &[(Path, Reply)]) -> Result<(), String> {
        let mut headers = mail.headers.clone();
        headers.apply(&[HeaderEdit::Prepend(refused_field(connector, refused))]);
        let mut mail = mail.with_headers(headers);
        mail.envelope = Envelope { sender: Path::null(), recipients: vec![self.to.clone()], ..mail.envelope };
        let clock = Clock::start(DEADLINE, Bounds::default());
        let mut transaction = Transaction::new(&mail, Remote::Endpoint);
        let failure = self.send(clock, &mut transaction).await.err();
        match transaction.into_replies(failure.as_ref()).into_iter().next() {
            Some(reply) if reply.is_success() => Ok(()),
            Some(reply) => Err(format!("the company's mail server did not take it: {reply}")),
            None => Err("no reply".to_owned()),
        }
    }

    async fn send(&self, clock: Clock, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        let peer: Arc<str> = self.via.to_string().into();
        let stream = match clock.within(Step::Connect, TcpStream::connect(self.via)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Failure::new(&peer, Cause::Connect(error.to_string()))),
            Err(elapsed) => return Err(Failure::timeout(&peer, elapsed)),
        };
        let mut dialogue = Dialogue::new(stream, peer, clock);
        dialogue.expect(Step::Greeting, 220).await?;
        dialogue.send(Step::Ehlo, format!("EHLO {}\r\n", self.hello).as_bytes()).await?;
        let extensions = dialogue.expect(Step::Ehlo, 250).await.map(|reply| Extensions::read(&reply))?;
        transaction.run_over(&mut dialogue, &extensions).await?;
        tokio::spawn(dialogue.quit());
        Ok(())
    }
}

/// The field that says who was refused, and with which words.
pub fn refused_field(connector: &str, refused: &[(Path, Reply)]) -> Header {
    let one = |(to, reply): &(Path, Reply)| {
        let said = reply.to_string();
        let words = said.get(..said.floor_char_boundary(WORDS_MAX)).unwrap_or(&said).replace('"', "'");
        format!(";\r\n\tto={to}; reply=\"{words}\"")
    };
    let each: String = refused.iter().take(REFUSALS_MAX).map(one).collect();
    Header::written(FIELD, &format!("connector={connector}{each}"))
}

/// Refusals told in [`FIELD`] at most; all of a message mostly have the same words.
const REFUSALS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_the_field_is_too_long_whatever_was_said_to_whom() {
        let to = Path::parse(format!("{}@acme.example", "a".repeat(300)).as_bytes()).unwrap();
        for letter in ["a", "\u{fc}", "\u{3042}", "\""] {
            let line = letter.repeat(200);
            let reply = Reply::from_lines(550, None, vec![line.as_str(); 20]);
            let field = refused_field("acme", &vec![(to.clone(), reply); 2 * REFUSALS_MAX]);
            assert!(field.raw().split(|&octet| octet == b'\n').all(|line| line.len() <= 998), "{letter}");
            assert_eq!(field.raw().iter().filter(|&&octet| octet == b'"').count(), 2 * REFUSALS_MAX, "{letter}");
        }
    }
}
