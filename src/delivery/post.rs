//! A message by HTTP POST (RFC 9110, RFC 9112): one request on a connection of its own.
//!
//! A connection is not used again: on one that lay idle a request may be lost or taken without an answer, and a POST cannot be
//! repeated without making a second ticket. Redirections are not followed, for the proof is for one address; no proxy is asked.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, LOCATION, USER_AGENT};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::answer::{Answer, CONTENT_MAX, judge, tells_by_content};
use super::connect::{Stream, connect};
use super::form::Form;
use super::octets::Octets;
use super::outcome::Outcome;
use super::proof::Proof;
use crate::config::{LineEnding, Post, RtTarget, Shape, TicketSystem};
use crate::mail::Mail;

/// Header fields of an answer at most.
const FIELDS_MAX: usize = 100;
/// Octets of an answer's header section at most (64 KiB).
const HEAD_MAX: usize = 64 * 1024;
/// Blocks of a message that wait to be sent, each of at most 64 KiB or the header section.
const BLOCKS_WAITING: usize = 1;
/// How long the content of an answer is waited for whose status has told already what the message came to.
const CONTENT: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug)]
pub(super) struct Request<'r> {
    pub(super) name: &'r str,
    pub(super) post: &'r Post,
    pub(super) preset: Option<TicketSystem>,
    /// RT's queue.
    pub(super) target: Option<&'r RtTarget>,
}

impl Request<'_> {
    /// Posts `mail` and is done by `until`.
    pub(super) async fn send(
        &self,
        mail: &Mail,
        ending: LineEnding,
        tls: Option<&Arc<ClientConfig>>,
        until: Instant,
    ) -> Outcome {
        let course = Course { until, left: Arc::new(AtomicU64::new(u64::MAX)) };
        match timeout_at(until, self.send_at_leisure(mail, ending, tls, &course)).await {
            Ok(outcome) => outcome.unwrap_or_else(|outcome| outcome),
            Err(_) => {
                let how_far = if course.is_sent() {
                    ", unknown whether it was taken"
                } else {
                    " before the whole message was sent"
                };
                Outcome::later((4, 2), format!("{}: {}: timed out{how_far}", self.name, self.post.url.host), "timeout")
            }
        }
    }

    async fn send_at_leisure(
        &self,
        mail: &Mail,
        ending: LineEnding,
        tls: Option<&Arc<ClientConfig>>,
        course: &Course,
    ) -> Result<Outcome, Outcome> {
        let proof = Proof::make(&self.post.proof).await;
        let proof = proof.map_err(|error| Outcome::until_mended((3, 5), format!("{}: {error}", self.name), "-"))?;
        let content = Content::new(&self.post.shape, self.target, mail, ending).await.map_err(|error| spool(&error))?;
        match connect(self.name, &self.post.url, tls).await? {
            Stream::Plain(stream) => self.exchange(stream, proof.as_ref(), content, course).await,
            Stream::Tls(stream, parameters) => {
                let outcome = self.exchange(*stream, proof.as_ref(), content, course).await;
                let told = |outcome: Outcome| Outcome { tls: Some(parameters.clone()), ..outcome };
                outcome.map(told).map_err(told)
            }
        }
    }

    async fn exchange<S>(
        &self,
        stream: S,
        proof: Option<&Proof>,
        content: Content<'_>,
        course: &Course,
    ) -> Result<Outcome, Outcome>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (feed, blocks) = mpsc::channel(BLOCKS_WAITING);
        course.left.store(content.length, Ordering::Release);
        let body = Fed { blocks, left: Arc::clone(&course.left) };
        let request = self.request(proof, &content.content_type, body)?;
        let mut builder = http1::Builder::new();
        builder.max_headers(FIELDS_MAX).max_buf_size(HEAD_MAX);
        // As RFC 9112 sections 5.1 and 5.2 have it for who reads answers: a success is not undone by a field that is odd.
        builder.allow_obsolete_multiline_headers_in_responses(true);
        builder.allow_spaces_after_header_name_in_responses(true).ignore_invalid_headers_in_responses(true);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(&error, false))?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut feeding = pin!(content.feed(feed));
        let mut answering = pin!(sender.send_request(request));
        let mut fed = false;
        let response = loop {
            tokio::select! {
                result = &mut feeding, if !fed => match result {
                    Err(error) => return Err(spool(&error)),
                    Ok(()) => fed = true,
                },
                response = &mut answering => break response,
            }
        };
        let response = response.map_err(|error| self.broken(&error, course.is_sent()))?;
        let mut answer = Answer::begun(&response);
        {
            // The status has come: what it is worth without the rest is for the judgement.
            let mut reading = pin!(read(response.into_body(), &mut answer));
            loop {
                let soon = Instant::now().checked_add(CONTENT).unwrap_or(course.until);
                let enough = if tells_by_content(self.preset) { course.until } else { soon.min(course.until) };
                tokio::select! {
                    result = &mut feeding, if !fed => match result {
                        Err(error) => return Err(spool(&error)),
                        Ok(()) => fed = true,
                    },
                    () = &mut reading => break,
                    () = sleep_until(enough), if fed => break,
                }
            }
        }
        let whole = course.is_sent();
        let said = || {
            format!("{}{}", String::from_utf8_lossy(&answer.content), answer.location.as_deref().unwrap_or_default())
        };
        answer.unspeakable = proof.is_some_and(|proof| proof.is_in(&said()));
        let outcome = judge(self.name, self.preset, self.post.refused, &answer);
        // Who says that it has a message which it cannot have yet is somebody else.
        if outcome.reply.is_success() && !whole {
            let text = format!("{}: HTTP {} before the whole message was sent", self.name, answer.status);
            return Err(Outcome::until_mended((5, 0), text, outcome.status));
        }
        Ok(outcome)
    }

    fn request(&self, proof: Option<&Proof>, content_type: &str, body: Fed) -> Result<hyper::Request<Fed>, Outcome> {
        let Post { url, path, .. } = self.post;
        let target = format!("{}{path}", url.path);
        let mut request = hyper::Request::post(if target.is_empty() { "/" } else { &target })
            .header(HOST, url.authority())
            .header(USER_AGENT, concat!("deskmilter/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, content_type)
            .header(CONNECTION, HeaderValue::from_static("close"));
        if let Some(Proof { name, value, .. }) = proof {
            request = request.header(name, value);
        }
        request.body(body).map_err(|error| Outcome::until_mended((3, 5), format!("{}: {error}", self.name), "-"))
    }

    /// The exchange came to no answer.
    fn broken(&self, error: &hyper::Error, sent: bool) -> Outcome {
        let (name, host) = (self.name, &self.post.url.host);
        let nonsense = error.is_parse();
        let error =
            std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        let sent = if sent { ", after the whole message was sent, unknown whether it was taken" } else { "" };
        if nonsense {
            return Outcome::later((5, 0), format!("{name}: {host}: answered nonsense{sent}: {error}"), "-");
        }
        Outcome::later((4, 2), format!("{name}: {host}: lost connection{sent}: {error}"), "-")
    }
}

fn spool(error: &io::Error) -> Outcome {
    Outcome::later((3, 0), format!("the message cannot be read from our spool: {error}"), "-")
}

/// How far a request may go and has gone.
struct Course {
    until: Instant,
    /// Octets of its content that the connection has not taken yet; `u64::MAX` before there is a connection.
    left: Arc<AtomicU64>,
}

impl Course {
    fn is_sent(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }
}

impl Answer {
    /// One whose content is still to come.
    fn begun(response: &hyper::Response<Incoming>) -> Self {
        let location = response.headers().get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
        Self { status: response.status().as_u16(), location, ..Self::default() }
    }
}

/// Reads an answer's content, as much as is looked at, to its end or that of the connection.
async fn read(mut body: Incoming, answer: &mut Answer) {
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(frame) = frame else { return };
        let data = frame.into_data().unwrap_or_default();
        let room = CONTENT_MAX.saturating_sub(answer.content.len());
        answer.content.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        if data.len() > room {
            return;
        }
    }
    answer.whole = true;
}

/// A request's content: the message, with what its shape puts around it.
struct Content<'m> {
    content_type: String,
    before: Vec<u8>,
    octets: Octets<'m>,
    after: Vec<u8>,
    /// Octets in all.
    length: u64,
}

impl<'m> Content<'m> {
    async fn new(shape: &Shape, target: Option<&RtTarget>, mail: &'m Mail, ending: LineEnding) -> io::Result<Self> {
        let (content_type, before, after) = match shape {
            Shape::Message { content_type } => ((*content_type).to_owned(), Vec::new(), Vec::new()),
            Shape::RtForm { target: usual, .. } => {
                let mut unique = [0; 16];
                aws_lc_rs::rand::fill(&mut unique).map_err(|_| io::Error::other("no randomness from the system"))?;
                let Form { content_type, before, after } = Form::new(target.unwrap_or(usual), unique);
                (content_type, before, after)
            }
        };
        let around = (before.len() as u64).saturating_add(after.len() as u64);
        let length = Octets::count(mail, ending).await?.saturating_add(around);
        Ok(Self { content_type, before, octets: Octets::of(mail, ending), after, length })
    }

    /// Gives all of it to `feed`, block by block, as long as somebody wants it.
    async fn feed(self, feed: mpsc::Sender<Bytes>) -> io::Result<()> {
        let Self { before, mut octets, after, .. } = self;
        if feed.send(before.into()).await.is_err() {
            return Ok(());
        }
        while let Some(block) = octets.next().await? {
            if feed.send(block.into()).await.is_err() {
                return Ok(());
            }
        }
        // Who does not want it has gone, which the exchange tells.
        let _ = feed.send(after.into()).await;
        Ok(())
    }
}

/// A request's content on its way to the connection. Where it ends early the connection breaks, and the request with it.
struct Fed {
    blocks: mpsc::Receiver<Bytes>,
    /// Octets that the connection has not taken yet.
    left: Arc<AtomicU64>,
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            let block = match self.blocks.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(block)) => block,
            };
            if !block.is_empty() {
                let left = self.left.load(Ordering::Acquire).saturating_sub(block.len() as u64);
                self.left.store(left, Ordering::Release);
                return Poll::Ready(Some(Ok(Frame::data(block))));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.load(Ordering::Acquire))
    }
}
