//! `/metrics`, `/health` and `/ready` over HTTP/1: one request a connection, everything bounded.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Board, Readiness, Source, process};
use crate::attach::accept::{self, Listener, Stream};
use crate::attach::slots::Slots;

/// Connections at a time: a few Prometheus servers and a service manager's probes. Further ones wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 16;
/// A request's head has come by then.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// The answer is read by then; as long as Prometheus itself waits.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Octets of a request's head at most, and header fields.
const HEAD_MAX: usize = 16 * 1024;
const FIELDS_MAX: usize = 64;
/// Prometheus' text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What the endpoint tells.
#[derive(Debug)]
pub struct Status {
    board: Arc<Board>,
    source: Arc<dyn Source>,
    /// One look at a time: gauges are taken away and set anew. It is held until the look has ended, however long whoever asked for
    /// it waits: no number of questions to a file system that hangs makes more than one thread wait for it.
    look: Arc<Mutex<()>>,
    /// The same for `/ready`, which looks at other files.
    look_at_sockets: Arc<Mutex<()>>,
}

impl Status {
    /// Tells what `board` has and `source` knows.
    pub fn new(board: Arc<Board>, source: Arc<dyn Source>) -> Self {
        process::begin();
        Self { board, source, look: Arc::default(), look_at_sockets: Arc::default() }
    }

    /// Everything for `/metrics`.
    ///
    /// # Errors
    /// As [`Board::text`], or the measurement failed.
    pub async fn metrics(&self) -> Result<String, String> {
        let alone = Arc::clone(&self.look).lock_owned().await;
        let (board, source) = (Arc::clone(&self.board), Arc::clone(&self.source));
        let measure = move || {
            board.clear_gauges();
            process::measure(&board);
            source.measure(&board);
            let text = board.text();
            drop(alone);
            text
        };
        tokio::task::spawn_blocking(measure).await.map_err(|error| error.to_string())?
    }

    /// What a request gets.
    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".to_owned());
            response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => match self.metrics().await {
                Ok(text) => respond(StatusCode::OK, TEXT_FORMAT, text),
                Err(error) => {
                    tracing::error!(error, "the metrics cannot be told");
                    respond(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n"))
                }
            },
            "/health" => respond(StatusCode::OK, PLAIN, "alive\n".to_owned()),
            "/ready" => {
                let (source, alone) = (Arc::clone(&self.source), Arc::clone(&self.look_at_sockets).lock_owned().await);
                let look = move || (source.readiness(), alone).0;
                let readiness = tokio::task::spawn_blocking(look)
                    .await
                    .unwrap_or_else(|error| Readiness { failed: vec![error.to_string()], degraded: Vec::new() });
                let ready = readiness.failed.is_empty();
                let mut text = String::from(if ready { "ready\n" } else { "not ready\n" });
                readiness.failed.iter().for_each(|reason| text.push_str(&format!("failed: {reason}\n")));
                readiness.degraded.iter().for_each(|reason| text.push_str(&format!("degraded: {reason}\n")));
                respond(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, PLAIN, text)
            }
            _ => respond(StatusCode::NOT_FOUND, PLAIN, "/metrics, /health or /ready\n".to_owned()),
        }
    }
}

/// Serves `listener` until `shutdown`.
pub async fn serve(
    listener: Listener,
    slots: Slots,
    status: Arc<Status>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    accept::serve(listener, slots, shutdown, tasks, move |stream, shutdown| {
        converse(stream, Arc::clone(&status), shutdown)
    })
    .await;
}

async fn converse(stream: Stream, status: Arc<Status>, shutdown: CancellationToken) {
    let answer = |request: Request<Incoming>| {
        let status = Arc::clone(&status);
        async move { Ok::<_, Infallible>(status.answer(request.method(), request.uri().path()).await) }
    };
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_MAX)
        .max_headers(FIELDS_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    let ended = tokio::select! {
        ended = timeout(CONNECTION_TIME, connection) => ended,
        // Nobody waits for numbers when the process ends.
        () = shutdown.cancelled() => return,
    };
    match ended {
        Ok(Ok(())) => {}
        // Whoever speaks no HTTP, or goes away, has harmed himself alone.
        Ok(Err(error)) => tracing::debug!(%error, "connection of the metrics service closed"),
        Err(_) => tracing::debug!("connection of the metrics service took too long; closed"),
    }
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static;
    response.headers_mut().insert(CONTENT_TYPE, value(content_type));
    response.headers_mut().insert(CACHE_CONTROL, value("no-store"));
    response
}
