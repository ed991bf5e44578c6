//! One LMTP connection: moves octets between the socket and the [`Session`], and carries out what it asks for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::intake::Intake;
use super::queue_id::queue_id;
use super::{HandOver, HandedOver, Service};
use crate::attach::smtp::{Event, Profile, Protocol, Session};
use crate::mail::{Client, Connection, Envelope, Mail, Path, Reply};
use crate::relay::Record;

/// Octets read at a time.
const READ_SIZE: usize = 64 * 1024;
/// Octets of replies gathered before they are written (RFC 2920 section 3.2 asks to gather).
const REPLIES_MAX: usize = 16 * 1024;
/// Recipients of a message at most; RFC 5321 section 4.5.3.1.8 asks for at least 100.
const RECIPIENTS_MAX: usize = 1000;

pub(super) struct Conversation<H> {
    stream: UnixStream,
    replies: Vec<u8>,
    session: Session,
    current: Arc<ArcSwap<Service<H>>>,
    /// The snapshot of this transaction.
    service: Arc<Service<H>>,
    shutdown: CancellationToken,
    /// When the service was told to end and a transaction was still under way.
    draining_until: Option<Instant>,
    /// Until when a client that is about to begin may still do so, once the service was told to end.
    first_until: Option<Instant>,
    /// Whether a transaction was ever begun.
    begun: bool,
    message: Option<(Intake, Instant)>,
}

/// The connection ended, for better or worse.
struct Ended;

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl<H: HandOver> Conversation<H> {
    pub(super) fn new(stream: UnixStream, current: Arc<ArcSwap<Service<H>>>, shutdown: CancellationToken) -> Self {
        let service = current.load_full();
        let profile = Profile {
            protocol: Protocol::Lmtp,
            hostname: service.hostname.to_string(),
            message_size: service.limits.message_size,
            recipients: RECIPIENTS_MAX,
            starttls: false,
            auth: false,
        };
        let session = Session::new(profile, false);
        let replies = session.greeting().to_wire();
        Self {
            stream,
            replies,
            session,
            current,
            service,
            shutdown,
            draining_until: None,
            first_until: None,
            begun: false,
            message: None,
        }
    }

    pub(super) async fn run(mut self) {
        // Whatever ended the connection, nothing was relayed that was not answered.
        let Err(Ended) = self.converse().await;
        if self.message.is_some() {
            let connector = self.service.connector.name.as_str();
            tracing::info!(connector, "LMTP client went away amid a message; nothing was relayed");
        }
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, Ended> {
        let mut buffer = vec![0; READ_SIZE];
        loop {
            while let Some(event) = self.session.poll() {
                self.carry_out(event).await?;
                if self.replies.len() > REPLIES_MAX {
                    self.flush().await?;
                }
            }
            self.flush().await?;
            let count = self.read(&mut buffer).await?;
            self.session.receive(buffer.get(..count).unwrap_or_default());
        }
    }

    async fn carry_out(&mut self, event: Event) -> Result<(), Ended> {
        match event {
            Event::Reply(reply) => self.say(&reply),
            Event::Close(reply) => return self.close(&reply).await,
            Event::Recipient(path) => {
                let reply = self.recipient(&path);
                self.say(&reply);
            }
            Event::Data => {
                let until = Instant::now() + self.service.timeouts.message;
                self.message = Some((Intake::new(&self.service.limits, &self.service.spool), until));
                self.say(&Reply::from_lines(354, None, ["end data with <CR><LF>.<CR><LF>"]));
            }
            Event::Chunk(octets) => {
                if let Some((intake, _)) = &mut self.message {
                    intake.take(&octets).await;
                }
            }
            Event::End(envelope) => {
                if let Some((intake, _)) = self.message.take() {
                    self.hand_over(intake, envelope).await;
                }
            }
            Event::StartTls(_) | Event::Login(_) => self.say(&Reply::new(502, 5, 1, "not offered")),
        }
        Ok(())
    }

    /// Answers RCPT. Only support addresses are relayed; that another one comes this way is a mistake in somebody's
    /// configuration, which must never bounce mail.
    fn recipient(&mut self, path: &Path) -> Reply {
        if self.session.recipients().is_empty() {
            self.service = self.current.load_full();
        }
        self.begun = true;
        let connector = Arc::clone(&self.service.connector);
        if connector.observe {
            tracing::error!(
                connector = connector.name,
                to = %path,
                "mail came to a connector that only observes; take observe out of it, or its addresses out of transport_maps"
            );
            let text =
                format!("connector {} only observes (observe = true) and relays nothing; see the log", connector.name);
            return Reply::new(451, 3, 5, text);
        }
        if self.service.hand_over.takes(&connector, path) {
            self.session.take_recipient();
            return Reply::new(250, 1, 5, "recipient ok");
        }
        tracing::error!(
            connector = connector.name,
            to = %path,
            "not a support address of this connector; correct transport_maps or the connector's addresses"
        );
        let text = format!(
            "{path} is not a support address of connector {}; correct transport_maps or the connector's addresses",
            connector.name
        );
        Reply::new(451, 3, 5, text)
    }

    async fn hand_over(&mut self, intake: Intake, envelope: Envelope) {
        let started = Instant::now();
        let service = Arc::clone(&self.service);
        let (sender, recipients) = (envelope.sender.clone(), envelope.recipients.clone());
        let mut size = intake.size();
        let finished = intake.finish().await;
        let headers = match &finished {
            Ok((headers, _)) => headers,
            Err(refused) => &refused.headers,
        };
        let queue = queue_id(headers);
        let message_id = headers.first("Message-ID").map(crate::mail::Header::text);
        let outcome = match finished {
            Err(refused) => HandedOver::refused(&refused.reply, recipients.len()),
            Ok((headers, body)) => {
                let connection = Connection {
                    client: Client::Local,
                    helo: self.session.client_name().map(str::to_owned),
                    ..Connection::default()
                };
                let mail = Mail {
                    connection: Arc::new(connection),
                    envelope,
                    headers,
                    body,
                    shortfall: None,
                    queue_id: queue.clone(),
                };
                size = mail.size();
                let handed_over = service.hand_over.hand_over(&service.connector, mail);
                tokio::select! {
                    biased;
                    outcome = handed_over => outcome,
                    () = self.drained() => {
                        let text = "service is ending before the message was handed over; try again later";
                        HandedOver::refused(&Reply::new(451, 3, 2, text), recipients.len())
                    }
                }
            }
        };
        let mut replies = outcome.delivery.replies;
        // One reply each, whatever happens: an answer too few would shift those of later recipients.
        replies.resize(recipients.len(), Reply::new(451, 3, 0, "no reply for this recipient"));
        Record {
            connector: &service.connector.name,
            queue_id: queue.as_deref(),
            message_id: message_id.as_deref(),
            sender: &sender,
            recipients: &recipients,
            size,
            auth: outcome.auth.as_deref(),
            trace: &outcome.delivery.trace,
            replies: &replies,
            delay: started.elapsed(),
            note: None,
            rejected_to: outcome.rejected_to.as_deref(),
        }
        .write();
        for reply in &replies {
            self.say(reply);
        }
    }

    /// Ends when the time to finish the transaction at hand is over.
    async fn drained(&self) {
        match self.draining_until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => {
                self.shutdown.cancelled().await;
                tokio::time::sleep(self.service.timeouts.drain).await;
            }
        }
    }

    /// Waits for octets: as long as a command or data may take, and no longer than to the end of the transaction once the
    /// service is told to end.
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Ended> {
        let timeouts = self.service.timeouts;
        let mut wait = match &self.message {
            Some((_, until)) => timeouts.data.min(until.saturating_duration_since(Instant::now())),
            None => timeouts.command,
        };
        if self.draining_until.is_none() {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {}
                read = timeout(wait, self.stream.read(buffer)) => return self.heard(read).await,
            }
            let now = Instant::now();
            self.draining_until = Some(now + timeouts.drain);
            self.first_until = Some(now + timeouts.first);
        }
        self.begun |= self.session.in_transaction();
        let until = match (self.session.in_transaction(), self.begun) {
            (true, _) => self.draining_until,
            (false, begun) if !begun || self.session.just_reset() => self.first_until,
            (false, _) => None,
        };
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return self.farewell("service is ending").await;
        }
        wait = wait.min(left);
        let read = timeout(wait, self.stream.read(buffer)).await;
        self.heard(read).await
    }

    async fn heard(&mut self, read: Result<io::Result<usize>, tokio::time::error::Elapsed>) -> Result<usize, Ended> {
        match read {
            Ok(Ok(0)) => Err(Ended),
            Ok(count) => Ok(count?),
            Err(_) if self.draining_until.is_some() => self.farewell("service is ending").await,
            Err(_) => {
                self.close(&Reply::new(421, 4, 2, "timeout")).await?;
                Err(Ended)
            }
        }
    }

    async fn farewell<T>(&mut self, text: &str) -> Result<T, Ended> {
        self.close(&Reply::new(421, 3, 2, text)).await?;
        Err(Ended)
    }

    async fn close(&mut self, reply: &Reply) -> Result<(), Ended> {
        self.say(reply);
        self.flush().await?;
        self.stream.shutdown().await?;
        Err(Ended)
    }

    fn say(&mut self, reply: &Reply) {
        self.replies.extend_from_slice(&reply.to_wire());
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let written = timeout(self.service.timeouts.command, self.stream.write_all(&self.replies)).await;
        self.replies.clear();
        Ok(written.map_err(|_| Ended)??)
    }
}

/// Answers a peer that may not speak to us.
pub(super) async fn send_away(mut stream: UnixStream, reply: &Reply, wait: Duration) {
    // A peer that does not read its refusal loses nothing.
    let _ = timeout(wait, async {
        stream.write_all(&reply.to_wire()).await?;
        stream.shutdown().await
    })
    .await;
}
