//! The SMTP service: moves octets between sockets and the [`Session`], and carries out what it asks for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::credentials::Credentials;
use super::fault::Faults;
use super::tickets::{Arrival, Filed, Incoming, Tickets, describe};
use super::verification::Verifications;
use crate::attach::smtp::{Event, Profile, Protocol, Session, too_large};
use crate::mail::{Domain, Envelope, Headers, HeadersBuilder, Path, Reply};

/// Octets of a message at most: 50 MiB.
pub(super) const MESSAGE_SIZE_MAX: u64 = 50 * 1024 * 1024;
/// Octets of a header section at most: 4 MiB.
const HEADER_SIZE_MAX: usize = 4 * 1024 * 1024;
/// Recipients of a message at most.
const RECIPIENTS_MAX: usize = 100;
/// Connections at a time, per listener; more wait in the backlog.
const CONNECTIONS_MAX: usize = 100;
/// Octets read at a time.
const READ_SIZE: usize = 64 * 1024;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may be silent, or not read its replies (RFC 5321 section 4.5.3.2.7).
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a message may take from its first octet to its last.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How long a transaction may take once the sandbox is told to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the listener rests after it could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What all sessions share.
pub(super) struct Endpoint {
    pub(super) hostname: String,
    pub(super) tls: TlsAcceptor,
    pub(super) domains: Vec<Domain>,
    pub(super) credentials: Credentials,
    pub(super) tickets: Arc<Tickets>,
    pub(super) verifications: Arc<Verifications>,
    pub(super) faults: Faults,
    pub(super) shutdown: CancellationToken,
}

/// Serves `listener` until the shutdown; `implicit` means TLS from the first octet (RFC 8314).
pub(super) async fn serve(listener: TcpListener, endpoint: Arc<Endpoint>, implicit: bool, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await;
        let accepted = tokio::select! {
            () = endpoint.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let endpoint = Arc::clone(&endpoint);
                tasks.spawn(async move {
                    // A connection that ends in the middle ends: nothing was acknowledged that is not on disk.
                    if let Err(error) = attend(stream, &endpoint, implicit).await {
                        tracing::debug!(%peer, %error, "sandbox connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection to the sandbox");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn attend(stream: TcpStream, endpoint: &Endpoint, implicit: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let profile = Profile {
        protocol: Protocol::Smtp,
        hostname: endpoint.hostname.clone(),
        message_size: MESSAGE_SIZE_MAX,
        recipients: RECIPIENTS_MAX,
        starttls: true,
        auth: true,
    };
    let mut session = Session::new(profile, implicit);
    let greeting = session.greeting();
    if implicit {
        let (stream, version) = handshake(stream, endpoint).await?;
        let mut conversation = Conversation::new(stream, endpoint, version);
        conversation.say(&greeting).await;
        conversation.run(&mut session).await?;
        return Ok(());
    }
    let mut conversation = Conversation::new(stream, endpoint, String::new());
    conversation.say(&greeting).await;
    if conversation.run(&mut session).await? == After::StartTls {
        let (stream, version) = handshake(conversation.stream, endpoint).await?;
        session.tls_established();
        Conversation::new(stream, endpoint, version).run(&mut session).await?;
    }
    Ok(())
}

async fn handshake(stream: TcpStream, endpoint: &Endpoint) -> io::Result<(TlsStream<TcpStream>, String)> {
    let stream = tokio::select! {
        () = endpoint.shutdown.cancelled() => return Err(io::Error::other("the sandbox ends")),
        accepted = timeout(HANDSHAKE_TIMEOUT, endpoint.tls.accept(stream)) => accepted??,
    };
    let version = match stream.get_ref().1.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    };
    Ok((stream, version.to_owned()))
}

/// What follows a conversation.
#[derive(Debug, PartialEq, Eq)]
enum After {
    Closed,
    StartTls,
}

struct Conversation<'a, S> {
    stream: S,
    endpoint: &'a Endpoint,
    /// The TLS version; empty in plain text.
    tls: String,
    replies: Vec<u8>,
    message: Option<Message>,
    draining_until: Option<Instant>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Conversation<'a, S> {
    fn new(stream: S, endpoint: &'a Endpoint, tls: String) -> Self {
        Self { stream, endpoint, tls, replies: Vec::new(), message: None, draining_until: None }
    }

    async fn run(&mut self, session: &mut Session) -> io::Result<After> {
        let mut buffer = vec![0; READ_SIZE];
        loop {
            while let Some(event) = session.poll() {
                match event {
                    Event::Reply(reply) => self.say(&reply).await,
                    Event::Close(reply) => return self.close(&reply).await,
                    Event::StartTls(reply) => {
                        self.say(&reply).await;
                        self.flush().await?;
                        return Ok(After::StartTls);
                    }
                    Event::Login(login) => {
                        let right = self.endpoint.credentials.check(login).await.is_some();
                        let accepted = right && !self.endpoint.faults.auth();
                        let reply = session.finish_login(accepted);
                        self.say(&reply).await;
                    }
                    Event::Recipient(path) => {
                        let reply = self.recipient(session, &path);
                        self.say(&reply).await;
                    }
                    Event::Data => {
                        self.message = Some(Message::begin(self.endpoint).await);
                        self.say(&Reply::from_lines(354, None, ["end data with <CR><LF>.<CR><LF>"])).await;
                    }
                    Event::Chunk(octets) => match &mut self.message {
                        Some(message) if message.dropped => return Ok(After::Closed),
                        Some(message) => message.take(octets).await,
                        None => {}
                    },
                    Event::End(envelope) => {
                        if let Some(message) = self.message.take() {
                            let reply = self.file(message, envelope, session.user()).await;
                            self.say(&reply).await;
                        }
                    }
                }
            }
            self.flush().await?;
            match self.read(&mut buffer, session.in_transaction()).await? {
                Some(0) => return Ok(After::Closed),
                Some(count) => session.receive(buffer.get(..count).unwrap_or_default()),
                None if self.draining_until.is_some() => {
                    return self.close(&Reply::new(421, 3, 2, "service is ending")).await;
                }
                None => return self.close(&Reply::new(421, 4, 2, "timeout")).await,
            }
        }
    }

    /// Who logged in sends to the domain of the credentials, whoever did not to the domains that are served: a forwarder.
    fn recipient(&self, session: &mut Session, path: &Path) -> Reply {
        let domain = path.address().map(|address| address.domain().clone());
        let credentials = &self.endpoint.credentials;
        let refusal = match (domain, session.user()) {
            (None, _) => Some(Reply::new(550, 1, 1, format!("{path} is no address here"))),
            (Some(domain), Some(user)) if credentials.domain_of(user) != Some(&domain) => {
                Some(Reply::new(550, 7, 1, format!("the credentials of {user} are not good for {domain}")))
            }
            (Some(domain), None) if !self.endpoint.domains.contains(&domain) => {
                Some(Reply::new(550, 7, 1, format!("relaying to {domain} denied")))
            }
            _ => None,
        };
        refusal.unwrap_or_else(|| {
            session.take_recipient();
            Reply::new(250, 1, 5, "recipient ok")
        })
    }

    async fn file(&self, message: Message, envelope: Envelope, user: Option<&str>) -> Reply {
        let faults = &self.endpoint.faults;
        if faults.tempfail() {
            return Reply::new(451, 3, 0, "temporary failure (rehearsal)");
        }
        if faults.reject() {
            return Reply::new(550, 7, 1, "message refused (rehearsal)");
        }
        let (incoming, headers) = match message.finish().await {
            Ok(whole) => whole,
            Err(reply) => return reply,
        };
        let arrival = Arrival {
            sender: envelope.sender,
            recipients: envelope.recipients,
            headers,
            tls: self.tls.clone(),
            credential: user.map(str::to_owned),
        };
        let tickets = Arc::clone(&self.endpoint.tickets);
        let verifications = Arc::clone(&self.endpoint.verifications);
        let file = move || {
            let verified = verifications.take(&arrival, &describe(&arrival).1, &incoming.path());
            match verified.unwrap_or_else(|error| {
                tracing::error!(%error, "cannot tell whether this is verification mail; it becomes a ticket");
                None
            }) {
                Some(address) => Ok(Kept::Verification(address)),
                None => tickets.file(incoming, &arrival).map(Kept::Ticket),
            }
        };
        let filed = tokio::task::spawn_blocking(file).await;
        match filed.map_err(io::Error::other).flatten() {
            Ok(Kept::Verification(address)) => Reply::new(250, 0, 0, format!("{address} verified")),
            Ok(Kept::Ticket(filed)) => {
                tracing::info!(ticket = filed.ticket, update = filed.update, credential = user, "ticket filed");
                let text = match filed.update {
                    Some(number) => format!("ticket {} updated, update {number}", filed.ticket),
                    None => format!("ticket {} created", filed.ticket),
                };
                Reply::new(250, 0, 0, text)
            }
            Err(error) => cannot_store(&error),
        }
    }

    /// Octets from the client; `None` when it was silent for too long, or the sandbox ends.
    async fn read(&mut self, buffer: &mut [u8], in_transaction: bool) -> io::Result<Option<usize>> {
        let wait = match &self.message {
            Some(message) => IDLE_TIMEOUT.min(MESSAGE_TIMEOUT.saturating_sub(message.begun.elapsed())),
            None => IDLE_TIMEOUT,
        };
        if self.draining_until.is_none() {
            tokio::select! {
                biased;
                () = self.endpoint.shutdown.cancelled() => {}
                read = timeout(wait, self.stream.read(buffer)) => return read.ok().transpose(),
            }
        }
        let until = *self.draining_until.get_or_insert_with(|| Instant::now() + DRAIN_TIMEOUT);
        if !in_transaction {
            return Ok(None);
        }
        tokio::time::timeout_at(until, self.stream.read(buffer)).await.ok().transpose()
    }

    async fn say(&mut self, reply: &Reply) {
        let slow = self.endpoint.faults.slow();
        if !slow.is_zero() {
            // The rehearsal ends with the sandbox.
            tokio::select! {
                () = self.endpoint.shutdown.cancelled() => {}
                () = tokio::time::sleep(slow) => {}
            }
        }
        self.replies.extend_from_slice(&reply.to_wire());
    }

    async fn close(&mut self, reply: &Reply) -> io::Result<After> {
        self.say(reply).await;
        self.flush().await?;
        self.stream.shutdown().await?;
        Ok(After::Closed)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.replies.is_empty() {
            return Ok(());
        }
        timeout(IDLE_TIMEOUT, async {
            self.stream.write_all(&self.replies).await?;
            self.stream.flush().await
        })
        .await??;
        self.replies.clear();
        Ok(())
    }
}

/// What became of a message.
enum Kept {
    Ticket(Filed),
    /// It was verification mail of this address, came as it must, and has done its work.
    Verification(String),
}

/// A message that is being received: octets go to disk as they came, the header section is read on the way.
struct Message {
    state: Result<Incoming, Reply>,
    head: Head,
    size: u64,
    begun: Instant,
    /// The connection is to close amid the data.
    dropped: bool,
}

enum Head {
    Open(HeadersBuilder),
    Complete(Headers),
}

impl Message {
    async fn begin(endpoint: &Endpoint) -> Self {
        let tickets = Arc::clone(&endpoint.tickets);
        let begun = tokio::task::spawn_blocking(move || tickets.begin()).await;
        Self {
            state: begun.map_err(io::Error::other).flatten().map_err(|error| cannot_store(&error)),
            head: Head::Open(HeadersBuilder::new(HEADER_SIZE_MAX)),
            size: 0,
            begun: Instant::now(),
            dropped: endpoint.faults.drop(),
        }
    }

    /// Takes the next octets. Once the message cannot be kept the rest is thrown away: the reply comes after the data.
    async fn take(&mut self, octets: Vec<u8>) {
        self.size = self.size.saturating_add(octets.len() as u64);
        if self.size > MESSAGE_SIZE_MAX && self.state.is_ok() {
            self.state = Err(too_large(MESSAGE_SIZE_MAX));
        }
        let Ok(incoming) = &self.state else { return };
        if let Head::Open(builder) = &mut self.head {
            match builder.push(&octets) {
                Ok(Some(block)) => self.head = Head::Complete(block.headers),
                Ok(None) => {}
                Err(error) => {
                    self.state = Err(Reply::new(552, 3, 4, error.to_string()));
                    return;
                }
            }
        }
        let written = match incoming.file.try_clone() {
            Ok(mut file) => tokio::task::spawn_blocking(move || io::Write::write_all(&mut file, &octets)).await,
            Err(error) => Ok(Err(error)),
        };
        if let Err(error) = written.map_err(io::Error::other).flatten() {
            self.state = Err(cannot_store(&error));
        }
    }

    async fn finish(self) -> Result<(Incoming, Headers), Reply> {
        let headers = match self.head {
            Head::Complete(headers) => headers,
            Head::Open(builder) => builder.finish().headers,
        };
        self.state.map(|incoming| (incoming, headers))
    }
}

fn cannot_store(error: &io::Error) -> Reply {
    tracing::error!(%error, "cannot store a ticket; check room and permissions of the sandbox's folder");
    Reply::new(452, 3, 1, "no room to store the message")
}
