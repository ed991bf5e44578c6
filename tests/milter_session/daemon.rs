//! The daemon's side: a milter service whose judge gives the verdict that a test asks for, and tells what it saw.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use deskmilter::attach::milter::conversation::converse;
use deskmilter::attach::milter::{Listener, Patience, Service, serve};
use deskmilter::config::Limits;
use deskmilter::mail::{Connection, Envelope, HeaderEdit, Mail, Spool, Verdict};
use deskmilter::pipeline::Judge;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::mta::Mta;

/// What the judge does with a message that concerns it.
#[derive(Clone)]
pub enum Act {
    Pass,
    Give(Verdict),
    Panic,
    Sleep(Duration),
}

/// A message as the judge saw it.
#[derive(Debug)]
pub struct Seen {
    pub judge: &'static str,
    pub wire: Vec<u8>,
    pub mail: Mail,
}

pub struct TestJudge {
    pub name: &'static str,
    pub act: Act,
    pub seen: mpsc::UnboundedSender<Seen>,
    pub asked: Arc<AtomicUsize>,
}

impl Judge for TestJudge {
    fn concerns(&self, _connection: &Connection, envelope: &Envelope) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        envelope.recipients.iter().any(|recipient| recipient.as_str().to_lowercase().ends_with("@acme.example"))
    }

    async fn judge(&self, mail: &Mail) -> Verdict {
        let copy = Mail {
            connection: Arc::clone(&mail.connection),
            envelope: mail.envelope.clone(),
            headers: mail.headers.clone(),
            body: mail.body.clone(),
            shortfall: mail.shortfall,
            queue_id: mail.queue_id.clone(),
        };
        let _ = self.seen.send(Seen { judge: self.name, wire: mail.assemble().await.unwrap(), mail: copy });
        match &self.act {
            Act::Pass => Verdict::pass(),
            Act::Give(verdict) => verdict.clone(),
            Act::Panic => panic!("a judge that panics"),
            Act::Sleep(duration) => {
                sleep(*duration).await;
                Verdict::pass()
            }
        }
    }
}

pub fn edit(edits: Vec<HeaderEdit>) -> Act {
    Act::Give(Verdict { edits, ..Verdict::pass() })
}

pub struct Daemon {
    pub directory: tempfile::TempDir,
    pub service: Arc<Service<TestJudge>>,
    pub judge: Arc<ArcSwap<TestJudge>>,
    pub seen: mpsc::UnboundedReceiver<Seen>,
    pub seen_by: mpsc::UnboundedSender<Seen>,
    pub asked: Arc<AtomicUsize>,
    pub shutdown: CancellationToken,
    pub tasks: TaskTracker,
}

pub fn limits() -> Limits {
    Limits {
        message_size: 1 << 21,
        header_size: 1 << 21,
        memory: 1 << 26,
        milter_connections: 100,
        transport_connections: 1,
        hops: 50,
        addresses_per_domain: 50,
        domains: 4,
        inline_relays: 20,
    }
}

impl Daemon {
    pub fn new(act: Act) -> Self {
        Self::with(act, limits(), Patience::default())
    }

    pub fn with(act: Act, limits: Limits, patience: Patience) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path());
        Self::spooling(act, limits, patience, directory, spool)
    }

    pub fn spooling(act: Act, limits: Limits, patience: Patience, directory: tempfile::TempDir, spool: Spool) -> Self {
        let (seen_by, seen) = mpsc::unbounded_channel();
        let asked = Arc::new(AtomicUsize::new(0));
        let judge = TestJudge { name: "first", act, seen: seen_by.clone(), asked: Arc::clone(&asked) };
        let judge = Arc::new(ArcSwap::from_pointee(judge));
        let service = Arc::new(Service::new(Arc::clone(&judge), spool, &limits).with_patience(patience));
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self { directory, service, judge, seen, seen_by, asked, shutdown, tasks }
    }

    pub fn listen(&self, listener: Listener) {
        tokio::spawn(serve(listener, Arc::clone(&self.service), self.shutdown.clone(), self.tasks.clone()));
    }

    pub async fn unix(&self) -> Mta<UnixStream> {
        let path = self.directory.path().join("milter.sock");
        if !path.exists() {
            self.listen(Listener::Unix(UnixListener::bind(&path).unwrap()));
        }
        Mta { stream: UnixStream::connect(&path).await.unwrap() }
    }

    pub async fn tcp(&self) -> Mta<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.listen(Listener::Tcp(listener));
        Mta { stream: TcpStream::connect(address).await.unwrap() }
    }

    /// A conversation over an in-memory stream, with a count of our writes. Its end can be waited for.
    pub fn converse(&self) -> (Mta<DuplexStream>, Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let writes = Arc::new(AtomicUsize::new(0));
        let ours = Counting { stream: ours, writes: Arc::clone(&writes) };
        let (service, shutdown) = (Arc::clone(&self.service), self.shutdown.clone());
        let conversation = tokio::spawn(async move {
            let _ = converse(ours, "test", &service, &shutdown).await;
        });
        (Mta { stream: theirs }, writes, conversation)
    }

    pub async fn seen(&mut self) -> Seen {
        timeout(Duration::from_secs(5), self.seen.recv()).await.expect("a message is judged").unwrap()
    }

    pub fn nothing_judged(&mut self) {
        assert!(self.seen.try_recv().is_err(), "nothing should have been judged");
    }
}

/// A stream that counts writes.
pub struct Counting {
    pub stream: DuplexStream,
    pub writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<std::io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// For property tests, which are not async themselves.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
