//! One connection: one request, one reply, closed. The only part of the Exim attachment with I/O and clocks.
//!
//! Exim writes its request without any timeout of its own, so it is read whole whatever it says, and something is always
//! answered: a socket that stays open would keep an SMTP session waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::intake::{Content, Intake, Unfit};
use super::prefix::Prefix;
use super::request::{Facts, LINE_MAX, MessageId, Request};
use super::{Service, Settings, reply, scan_file};
use crate::mail::{Connection, Disposition, Envelope, Mail, Pass, Path, Reply, Verdict};
use crate::pipeline::{Judge, Terms};

/// For a whole request's line. It comes in one write.
const LINE_TIME: Duration = Duration::from_secs(5);
/// For a whole message on its last hop to come, and for the other end to take its header section.
const MESSAGE_TIME: Duration = Duration::from_secs(60);
/// For Exim to take a reply.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// For the message at hand once we are told to stop.
const DRAIN: Duration = Duration::from_secs(30);
/// Octets read at a time (64 KiB).
const BLOCK: usize = 64 * 1024;

/// Serves one connection to its end. `peer` names it in the log.
pub async fn converse<S, J>(mut stream: S, peer: &str, service: &Service<J>, shutdown: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
    J: Judge,
{
    let (settings, judge) = (service.settings.load_full(), service.judge.load_full());
    let conversation = Conversation { service, settings, judge, shutdown };
    let line = match timeout(LINE_TIME, read_line(&mut stream)).await {
        Ok(Ok(line)) => line,
        // Somebody looked whether we are here.
        Ok(Err(error)) => return debug!(peer, %error, "a connection without a request"),
        Err(_) => return warn!(peer, seconds = LINE_TIME.as_secs(), "no whole request came; closed"),
    };
    let answer = match Request::parse(&line.text) {
        Ok(request) => conversation.answer(request, line.rest, &mut stream).await,
        Err(reason) => {
            warn!(peer, %reason, "a request that is none; Exim goes on as if nobody were here");
            reply::error(&reason.to_string())
        }
    };
    let written = timeout(WRITE_TIME.max(MESSAGE_TIME), async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    });
    if let Ok(Err(error)) = written.await {
        debug!(peer, %error, "Exim did not take the reply");
    }
}

struct Line {
    text: Vec<u8>,
    /// What came after it.
    rest: Vec<u8>,
}

/// Reads up to the first line feed. Of what is longer than [`LINE_MAX`], which makes it no request, the rest is read and dropped: Exim
/// goes on writing.
async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Line> {
    let mut text = Vec::new();
    loop {
        let from = text.len();
        if stream.read_buf(&mut text).await? == 0 {
            return match text.is_empty() {
                true => Err(std::io::ErrorKind::UnexpectedEof.into()),
                false => Ok(Line { text, rest: Vec::new() }),
            };
        }
        let found = text.get(from..).and_then(|new| memchr::memchr(b'\n', new));
        if let Some(end) = found {
            let rest = text.split_off(from.saturating_add(end).saturating_add(1));
            return Ok(Line { text, rest });
        }
        if text.len() > LINE_MAX {
            let mut dropped = Vec::with_capacity(BLOCK);
            while stream.read_buf(&mut dropped).await? > 0 && !dropped.contains(&b'\n') {
                dropped.clear();
            }
            return Ok(Line { text, rest: Vec::new() });
        }
    }
}

struct Conversation<'c, J> {
    service: &'c Service<J>,
    settings: Arc<Settings>,
    judge: Arc<J>,
    shutdown: &'c CancellationToken,
}

impl<J: Judge> Conversation<'_, J> {
    async fn answer(&self, request: Request, rest: Vec<u8>, stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        match request {
            Request::Ask(facts) if self.judge.concerns(&facts.connection, &facts.envelope) => reply::LOOK.to_vec(),
            Request::Ask(_) => reply::PASS.to_vec(),
            Request::Recipient { facts, to } => self.recipient(&facts, &to),
            Request::Judge(facts) => {
                let only_observed = self.judge.only_observes(&facts.connection, &facts.envelope);
                let answer = self.judge(facts).await;
                // Whatever became of it.
                if only_observed { reply::PASS.to_vec() } else { answer }
            }
            Request::Sign { id, size } => {
                let received = timeout(MESSAGE_TIME, self.receive(&id, size, rest, stream)).await;
                match received.unwrap_or_else(|_| Err(Reply::new(451, 4, 2, "the message did not come in time"))) {
                    Ok(mail) => self.sign(mail).await,
                    Err(refusal) => refused(id.as_str(), &refusal),
                }
            }
        }
    }

    /// Whether one more recipient can be in the message.
    fn recipient(&self, facts: &Facts, to: &Path) -> Vec<u8> {
        match self.judge.recipient(&facts.connection, &facts.envelope, to) {
            Some(refusal) => {
                info!(sender = %facts.envelope.sender, recipient = %to, reply = %refusal, "recipient put off");
                reply::refusal(&refusal)
            }
            None => reply::PASS.to_vec(),
        }
    }

    /// Judges the message in the scan file.
    async fn judge(&self, facts: Facts) -> Vec<u8> {
        let Settings { deadline, queue_relays, .. } = *self.settings;
        // Exim's patience is counted from its request.
        let terms = Terms {
            complete: Instant::now(),
            edits_recipients: facts.edits_recipients,
            within: Some(deadline),
            queue_relays,
        };
        let Some(id) = facts.id.clone() else { return reply::error("no id") };
        let id = id.as_str();
        let content = match self.scanned(&facts).await {
            Ok(content) => content,
            Err(refusal) => return refused(id, &refusal),
        };
        let mail = Mail {
            connection: Arc::new(facts.connection),
            envelope: facts.envelope,
            headers: without_own_received(content.headers, id),
            body: content.body,
            shortfall: content.shortfall,
            queue_id: Some(id.to_owned()),
        };
        match self.verdict(&mail, Some(terms)).await {
            Ok(verdict) => reply::verdict(&verdict, &mail.headers),
            Err(refusal) => reply::refusal(&refusal),
        }
    }

    /// The content of the scan file, which is what Exim received or nothing at all.
    async fn scanned(&self, facts: &Facts) -> Result<Content, Reply> {
        let Settings { spool_directory, message_size, header_size, .. } = self.settings.as_ref();
        let Some(id) = facts.id.clone() else { return Err(local_trouble("no id")) };
        let shown = format!("{}/scan/{id}/{id}.eml", spool_directory.display(), id = id.as_str());
        let trouble = |reason: &dyn std::fmt::Display| local_trouble(&format!("{shown}: {reason}"));
        let (directory, queue_id, name) = (spool_directory.clone(), id.as_str().to_owned(), id);
        let opened = tokio::task::spawn_blocking(move || scan_file::open(&directory, &name)).await;
        let file = opened.map_err(std::io::Error::other).flatten().map_err(|error| {
            trouble(&format!("{error}; is exim.spool_directory right, and deskmilter's user a member of Exim's group?"))
        })?;
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(BLOCK);
        let mut prefix = Prefix::new(&facts.envelope.sender);
        let mut intake = Intake::new(&queue_id, &self.service.spool, *message_size, *header_size);
        let mut block = vec![0; BLOCK];
        loop {
            let count = file.read(&mut block).await.map_err(|error| trouble(&error))?;
            if count == 0 {
                break;
            }
            let message = prefix.strip(block.get(..count).unwrap_or_default()).map_err(|error| trouble(&error))?;
            intake.take(message).await.map_err(unfit_to_judge)?;
        }
        if !prefix.is_complete() {
            return Err(trouble(&"it ends too early"));
        }
        let content = intake.finish().await.map_err(unfit_to_judge)?;
        match facts.body_size {
            Some(size) if size != content.body_size => Err(altered()),
            _ => Ok(content),
        }
    }

    /// The message that follows the request, on its last hop.
    async fn receive(
        &self,
        id: &MessageId,
        size: u64,
        rest: Vec<u8>,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<Mail, Reply> {
        let Settings { message_size, header_size, .. } = *self.settings;
        let mut intake = Intake::new(id.as_str(), &self.service.spool, message_size, header_size);
        let mut block = rest;
        let mut left = size;
        loop {
            left = left
                .checked_sub(block.len() as u64)
                .ok_or_else(|| Reply::new(451, 3, 5, "more than the message was sent"))?;
            intake.take(&block).await.map_err(unfit_to_sign)?;
            if left == 0 {
                break;
            }
            block.clear();
            block.reserve(BLOCK);
            match stream.read_buf(&mut block).await {
                Ok(1..) => {}
                _ => return Err(Reply::new(451, 4, 2, "the message did not come whole")),
            }
        }
        let content = intake.finish().await.map_err(unfit_to_sign)?;
        Ok(Mail {
            connection: Arc::new(Connection { pass: Pass::Last, ..Connection::default() }),
            envelope: Envelope::default(),
            headers: content.headers,
            body: content.body,
            shortfall: content.shortfall,
            queue_id: Some(id.as_str().to_owned()),
        })
    }

    /// The header section of a message on its last hop, as it is to leave.
    async fn sign(&self, mail: Mail) -> Vec<u8> {
        let refusal = match self.verdict(&mail, None).await {
            Ok(Verdict { disposition: Disposition::Continue, edits, recipients }) if recipients.is_empty() => {
                let mut headers = mail.headers;
                headers.apply(&edits);
                let mut section = Vec::with_capacity(headers.wire_len());
                headers.write_to(&mut section);
                section.retain(|&octet| octet != b'\r');
                let mut answer = reply::signed(section.len());
                answer.extend_from_slice(&section);
                return answer;
            }
            Ok(Verdict { disposition: Disposition::Refuse(refusal), .. }) | Err(refusal) => refusal,
            Ok(_) => Reply::new(451, 3, 5, "recipients cannot be changed on the last hop"),
        };
        reply::refusal(&refusal)
    }

    /// The judge's verdict, and with `terms` what must be done before it is told; or our own reply when there is none in time.
    async fn verdict(&self, mail: &Mail, terms: Option<Terms>) -> Result<Verdict, Reply> {
        let queue_id = mail.queue_id.as_deref();
        let drained = async {
            self.shutdown.cancelled().await;
            sleep(DRAIN).await;
        };
        let verdict = async {
            let verdict = self.judge.judge(mail).await;
            match terms {
                Some(terms) => self.judge.deliver(mail, verdict, terms).await,
                None => verdict,
            }
        };
        tokio::select! {
            biased;
            verdict = verdict.instrument(info_span!("exim")) => Ok(verdict),
            () = sleep(self.settings.deadline) => {
                warn!(queue_id, seconds = self.settings.deadline.as_secs(), "judging took too long; the message is deferred");
                Err(Reply::new(451, 7, 1, "judging this message took too long; try again later"))
            }
            () = drained => {
                warn!(queue_id, "shut down before the message was judged; it is deferred");
                Err(Reply::new(451, 3, 2, "shutting down; try again later"))
            }
        }
    }
}

/// Exim's own Received stands on top by then. It is none of the message's, and no milter is shown it.
fn without_own_received(headers: crate::mail::Headers, id: &str) -> crate::mail::Headers {
    let mut headers = headers;
    let own = |field: &crate::mail::Header| {
        field.is("Received")
            && field.text().split(['\t', ' ', ';']).collect::<Vec<_>>().windows(2).any(|pair| pair == ["id", id])
    };
    if headers.iter().next().is_some_and(own) {
        headers.apply(&[crate::mail::HeaderEdit::Remove { index: 0 }]);
    }
    headers
}

/// Trouble on this host: the log says what, the client does not hear it.
fn local_trouble(reason: &str) -> Reply {
    error!(reason, "a message for content scanning cannot be read");
    Reply::new(451, 3, 0, "local trouble, this message cannot be judged now; try again later")
}

/// Of what the filter is told Exim logs no word.
fn refused(id: &str, refusal: &Reply) -> Vec<u8> {
    warn!(queue_id = id, reply = %refusal, "message refused before judging");
    reply::refusal(refusal)
}

fn unfit_to_judge(unfit: Unfit) -> Reply {
    match unfit {
        Unfit::Headers(error) => Reply::new(552, 3, 4, error.to_string()),
        Unfit::CarriageReturn => altered(),
        // Its sender's to mend: it will be no other message next time.
        Unfit::NoField => Reply::new(550, 6, 0, unfit.to_string()),
    }
}

/// Exim keeps the message: what is wrong with it came of its configuration, for the ACL has let it in.
fn unfit_to_sign(unfit: Unfit) -> Reply {
    match unfit {
        Unfit::Headers(error) => Reply::new(552, 3, 4, error.to_string()),
        Unfit::CarriageReturn => Reply::new(451, 3, 5, "the message has CRs before the last hop's filter"),
        Unfit::NoField => Reply::new(451, 3, 5, format!("{unfit}; look at headers_add of routers and transports")),
    }
}

/// The file is not the message: Exim's function that writes it joins all lines of a spool file in wire format.
fn altered() -> Reply {
    Reply::new(451, 3, 5, "the message in Exim's scan file is not the one received; spool_wireformat must be off")
}
