//! One connection: the only part of the milter attachment with I/O and clocks.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout, timeout_at};
use tokio_util::codec::Decoder;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info_span, warn};

use super::command::{Command, Malformed};
use super::frame::{FrameDecoder, FrameError, announced};
use super::intake::Intake;
use super::response::Response;
use super::session::{Complete, Session, SessionError, Step};
use super::{SESSION_FREE, Service};
use super::{edits, negotiate};
use crate::mail::{Body, Disposition, Headers, Mail, Permit, Reply, Shortfall, Verdict};
use crate::pipeline::{Judge, Terms};

/// Octets asked for in one read while a message is under way (64 KiB): a body chunk.
const READ_MESSAGE: usize = 64 * 1024;
/// Octets asked for in one read between messages (4 KiB): all that an idle connection costs.
const READ_IDLE: usize = 4 * 1024;

/// Octets by which a session's share of [`LARGE_HEADERS`](super::LARGE_HEADERS) grows (64 KiB).
const LARGE_STEP: u64 = 64 * 1024;
/// How long a session waits before it asks for its share again (50 ms).
const LARGE_PAUSE: Duration = Duration::from_millis(50);

/// Why a conversation ended otherwise than by QUIT or a close between commands.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// What came is no frame, or the connection failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What came is no command.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// What came is no milter session, or not one that we can have.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The MTA closed the connection, or stopped sending, within a command.
    #[error("connection closed or stalled within a command")]
    Truncated,
    /// The MTA did not take our answer.
    #[error("the MTA did not take our answer for {} s", after.as_secs())]
    WriteTimeout {
        /// How long we waited.
        after: Duration,
    },
    /// The message at hand was not complete in time for our shutdown.
    #[error("shut down within a message that took too long")]
    Drained,
}

impl From<std::io::Error> for ConversationError {
    fn from(error: std::io::Error) -> Self {
        Self::Frame(FrameError::Io(error))
    }
}

/// When a connection is to end.
#[derive(Debug, Clone)]
pub struct Stop {
    /// A message under way is finished within [`Patience::drain`](super::Patience::drain) after this.
    pub told: CancellationToken,
    /// From then on it ends between messages.
    pub between: CancellationToken,
}

impl Stop {
    /// Ends at once between messages.
    pub fn at_once(told: CancellationToken) -> Self {
        Self { between: told.clone(), told }
    }
}

/// As [`converse_until`], and ends at once between messages when `shutdown` comes.
///
/// # Errors
/// As [`converse_until`].
pub async fn converse<S, J>(
    stream: S,
    peer: &str,
    service: &Service<J>,
    shutdown: &CancellationToken,
) -> Result<(), ConversationError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    J: Judge,
{
    converse_until(&Stop::at_once(shutdown.clone()), stream, peer, service).await
}

/// Serves one connection to its end. `peer` names it in the log.
///
/// After `stop` it ends between messages; a message under way is finished within [`Patience::drain`].
///
/// [`Patience::drain`]: super::Patience::drain
///
/// # Errors
/// The connection ended otherwise than by QUIT or a close between commands.
pub async fn converse_until<S, J>(
    stop: &Stop,
    stream: S,
    peer: &str,
    service: &Service<J>,
) -> Result<(), ConversationError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    J: Judge,
{
    let drained = pin!(async {
        stop.told.cancelled().await;
        sleep(service.patience.drain).await;
    });
    let judge = service.judge.load_full();
    let session = Session::new(**service.limits.load()).asking_recipients(judge.asks_recipients());
    let conversation = Conversation {
        stream,
        peer,
        judge,
        service,
        stop,
        drained,
        session,
        intake: None,
        incoming: BytesMut::new(),
        outgoing: BytesMut::new(),
        large: None,
        large_octets: 0,
    };
    conversation.run().await
}

struct Conversation<'c, S, J, D> {
    stream: S,
    peer: &'c str,
    service: &'c Service<J>,
    /// The judge when the message at hand began.
    judge: Arc<J>,
    stop: &'c Stop,
    /// Ends when the time to finish the last message is over.
    drained: Pin<&'c mut D>,
    session: Session,
    /// The body of the message at hand, once there is some.
    intake: Option<Intake>,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Our share of what all sessions may keep of large header sections and frames, and its size in octets.
    large: Option<Permit>,
    large_octets: u64,
}

impl<S, J, D> Conversation<'_, S, J, D>
where
    S: AsyncRead + AsyncWrite + Unpin,
    J: Judge,
    D: Future<Output = ()>,
{
    async fn run(mut self) -> Result<(), ConversationError> {
        let mut decoder = FrameDecoder;
        let mut deadline = Instant::now() + self.service.patience.idle;
        let mut within_frame = false;
        loop {
            while let Some(frame) = decoder.decode(&mut self.incoming)? {
                within_frame = false;
                if self.act(Command::parse(frame.code, &frame.payload)?).await? == Flow::End {
                    return self.flush().await;
                }
                if !self.has_room(0) {
                    let text = "other messages with large header sections take all memory for them; try again later";
                    self.session.refuse(Reply::new(451, 3, 1, text));
                }
            }
            // All answers to what came together go out together.
            self.flush().await?;
            if !self.session.in_message() {
                self.intake = None;
                (self.large, self.large_octets) = (None, 0);
                if self.stop.between.is_cancelled() {
                    return Ok(());
                }
                if self.incoming.is_empty() {
                    // An idle connection keeps no large buffer.
                    self.incoming = BytesMut::new();
                }
            }
            if self.incoming.is_empty() {
                deadline = Instant::now() + self.service.patience.idle;
            } else if !within_frame {
                within_frame = true;
                deadline = Instant::now() + self.service.patience.frame;
            }
            // A frame that cannot be kept whole waits in the MTA's buffers, until others are done with theirs.
            while !self.has_room(announced(&self.incoming)) {
                if Instant::now() >= deadline {
                    return Err(ConversationError::Truncated);
                }
                sleep(LARGE_PAUSE).await;
            }
            match self.read(deadline).await? {
                Some(0) if self.incoming.is_empty() => return Ok(()),
                Some(0) => return Err(ConversationError::Truncated),
                Some(_) => {}
                None if self.stop.between.is_cancelled() && !self.session.in_message() => return Ok(()),
                None if self.incoming.is_empty() => {
                    debug!(peer = self.peer, "milter connection idle for too long; closed");
                    return Ok(());
                }
                None => return Err(ConversationError::Truncated),
            }
        }
    }

    /// Whether the header section at hand and `frame` octets of the next frame may be kept. Takes a share of what all sessions may
    /// keep where they are large.
    fn has_room(&mut self, frame: usize) -> bool {
        let kept = (self.session.header_octets() as u64).saturating_add(frame as u64);
        let more = kept.saturating_sub(SESSION_FREE).saturating_sub(self.large_octets);
        if more == 0 {
            return true;
        }
        // In steps, not for each field anew.
        let more = more.next_multiple_of(LARGE_STEP);
        let Some(permit) = self.service.large_headers.try_acquire(more) else { return false };
        self.large_octets = self.large_octets.saturating_add(more);
        match &mut self.large {
            Some(large) => large.merge(permit),
            None => self.large = Some(permit),
        }
        true
    }

    /// Reads what there is; `None` when the deadline passed or we are to stop between messages.
    async fn read(&mut self, deadline: Instant) -> Result<Option<usize>, ConversationError> {
        let in_message = self.session.in_message();
        self.incoming.reserve(if in_message { READ_MESSAGE } else { READ_IDLE });
        tokio::select! {
            biased;
            read = timeout_at(deadline, self.stream.read_buf(&mut self.incoming)) => match read {
                // An MTA that goes away without reading our last answer resets the connection: between messages a close like any.
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset && !in_message => Ok(Some(0)),
                Ok(read) => Ok(Some(read?)),
                Err(_) => Ok(None),
            },
            () = self.stop.between.cancelled(), if !in_message => Ok(None),
            () = self.drained.as_mut() => Err(ConversationError::Drained),
        }
    }

    async fn act(&mut self, command: Command<'_>) -> Result<Flow, ConversationError> {
        // MAIL begins a message, even where the one before was not brought to its end: nothing of that may be left.
        if matches!(command, Command::Mail(_)) {
            self.intake = None;
            self.judge = self.service.judge.load_full();
            self.session.set_limits(**self.service.limits.load());
        }
        let negotiating = matches!(command, Command::Negotiate(_));
        let judge = &self.judge;
        match self.session.handle(
            command,
            |connection, envelope| judge.concerns(connection, envelope),
            &mut self.outgoing,
        )? {
            Step::Next if negotiating => self.log_agreement(),
            Step::Next => {}
            Step::Ignored => debug!(peer = self.peer, "a milter command out of place was passed over"),
            Step::Recipient(path) => {
                let refusal = self
                    .session
                    .envelope()
                    .and_then(|(connection, envelope)| self.judge.recipient(&connection, envelope, &path));
                self.session.recipient(path, refusal, &mut self.outgoing);
            }
            Step::Store(chunk) => self.store(chunk).await,
            Step::Complete(chunk) => {
                self.store(chunk).await;
                self.finish_message().await?;
            }
            Step::Close => return Ok(Flow::End),
        }
        if self.stop.between.is_cancelled() && !self.session.in_message() { Ok(Flow::End) } else { Ok(Flow::Continue) }
    }

    fn log_agreement(&self) {
        if let Some(negotiate::Agreement { version, actions, protocol }) = self.session.agreement() {
            debug!(peer = self.peer, version, actions, protocol, "milter options agreed on");
        }
    }

    /// Appends to the body, where it is wanted at all.
    async fn store(&mut self, chunk: &[u8]) {
        if !self.session.is_storing() {
            self.intake = None;
            return;
        }
        if chunk.is_empty() {
            return;
        }
        let intake = self.intake.get_or_insert_with(|| Intake::new(&self.service.spool));
        if let Err(error) = intake.write(chunk).await {
            self.intake = None;
            self.spool_failed(self.session.queue_id().as_deref(), &error);
            self.session.fall_short(Shortfall::Spool);
        }
    }

    fn spool_failed(&self, queue_id: Option<&str>, error: &std::io::Error) {
        error!(
            peer = self.peer,
            queue_id,
            directory = %self.service.spool.directory().display(),
            %error,
            "cannot spool a message body: make room there, or check owner and mode"
        );
    }

    /// Has the complete message judged and answers it.
    async fn finish_message(&mut self) -> Result<(), ConversationError> {
        let Some(Complete { connection, envelope, headers, queue_id, mut shortfall, refusal }) =
            self.session.complete()
        else {
            return Ok(());
        };
        let mut body = Body::from_octets(Vec::new());
        if let Some(intake) = self.intake.take().filter(|_| shortfall.is_none()) {
            match intake.finish().await {
                Ok(whole) => body = whole,
                Err(error) => {
                    self.spool_failed(queue_id.as_deref(), &error);
                    shortfall = Some(Shortfall::Spool);
                }
            }
        }
        let leading_space = self.session.agreement().is_some_and(negotiate::Agreement::leading_space);
        let edits_recipients = self.session.agreement().is_some_and(negotiate::Agreement::recipients);
        let terms = Terms { complete: std::time::Instant::now(), edits_recipients, within: None, queue_relays: false };
        let only_observed = self.judge.only_observes(&connection, &envelope);
        let outcome = match refusal {
            Some(reply) => {
                warn!(
                    peer = self.peer,
                    queue_id,
                    sender = %envelope.sender,
                    recipients = envelope.recipients.len(),
                    %reply,
                    observed = only_observed.then_some("yes"),
                    "message refused before judging"
                );
                Err(reply)
            }
            None => {
                let mail = Mail { connection, envelope, headers, body, shortfall, queue_id };
                // In a box: what judging keeps in mind is several times what an idle connection may take.
                Box::pin(self.judge(mail, terms)).await?
            }
        };
        match outcome {
            // Whatever became of it.
            _ if only_observed => Response::Continue.write(&mut self.outgoing),
            Ok((Verdict { disposition: Disposition::Continue, edits, recipients }, headers)) => {
                if !recipients.is_empty() && !edits_recipients {
                    self.refuse_recipient_edits();
                    return Ok(());
                }
                edits::write(&edits, &headers, leading_space, &mut self.outgoing);
                edits::write_recipients(&recipients, &mut self.outgoing);
                Response::Continue.write(&mut self.outgoing);
            }
            Ok((Verdict { disposition: Disposition::Refuse(reply), .. }, _)) | Err(reply) => {
                Response::Refuse(&reply).write(&mut self.outgoing);
            }
        }
        Ok(())
    }

    /// Half a verdict is none: the message waits until the MTA lets us carry it out.
    fn refuse_recipient_edits(&mut self) {
        error!(
            peer = self.peer,
            "the MTA does not let milters edit recipients, as the verdict asks; the message is deferred"
        );
        Response::Refuse(&Reply::new(451, 3, 5, "this mail server does not let its filter edit recipients"))
            .write(&mut self.outgoing);
    }

    /// The judge's verdict, or our own reply when there is none. Tells the MTA from time to time that we are at work.
    ///
    /// Should the judge panic, this message is deferred and nothing else happens. It is not given a task of its own for that: to
    /// hand a message to another thread and back costs more than all our other work on it.
    async fn judge(
        &mut self,
        mail: Mail,
        terms: Terms,
    ) -> Result<Result<(Verdict, Headers), Reply>, ConversationError> {
        let queue_id = mail.queue_id.clone();
        let judge = Arc::clone(&self.judge);
        let mut verdict = pin!(unwound(
            async move {
                let verdict = judge.judge(&mail).await;
                let verdict = judge.deliver(&mail, verdict, terms).await;
                (verdict, mail.headers)
            }
            .instrument(info_span!("milter"))
        ));
        let patience = self.service.patience;
        let mut deadline = pin!(sleep(patience.judge));
        let mut progress = interval_at(Instant::now() + patience.progress, patience.progress);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                done = verdict.as_mut() => return Ok(done.map_err(|Panicked| {
                    error!(peer = self.peer, queue_id, "judging failed; the message is deferred");
                    Reply::new(451, 7, 1, "this message could not be judged; try again later")
                })),
                () = deadline.as_mut() => {
                    warn!(peer = self.peer, queue_id, seconds = patience.judge.as_secs(), "judging took too long; the message is deferred");
                    return Ok(Err(Reply::new(451, 7, 1, "judging this message took too long; try again later")));
                }
                // `drained` has ended with this and is not waited for again: the conversation ends after this answer.
                () = self.drained.as_mut() => {
                    warn!(peer = self.peer, queue_id, "shut down before the message was judged; it is deferred");
                    return Ok(Err(Reply::new(451, 3, 2, "shutting down; try again later")));
                }
                _ = progress.tick() => {
                    Response::Progress.write(&mut self.outgoing);
                    self.flush().await?;
                }
            }
        }
    }

    /// Sends all answers in one write.
    async fn flush(&mut self) -> Result<(), ConversationError> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let after = self.service.patience.write;
        match timeout(after, self.stream.write_all(&self.outgoing)).await {
            Ok(written) => written?,
            Err(_) => return Err(ConversationError::WriteTimeout { after }),
        }
        // As for what is read: an idle connection keeps no large buffer.
        if self.outgoing.capacity() > READ_IDLE {
            self.outgoing = BytesMut::new();
        } else {
            self.outgoing.clear();
        }
        Ok(())
    }
}

/// A future that panicked.
struct Panicked;

/// Stops a panic of `work` here. What `work` had in hand is gone with it; what it shares must bear a panic, as it must when
/// another thread panics.
async fn unwound<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut work = pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    End,
}
