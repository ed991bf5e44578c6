//! The milter attachment as an MTA meets it: a raw client plays Postfix's and Sendmail's side.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use deskmilter::attach::milter::conversation::converse;
use deskmilter::attach::milter::{Listener, Patience, Service, serve};
use deskmilter::config::Limits;
use deskmilter::mail::{Client, Envelope, Header, HeaderEdit, Mail, Reply, Spool, Verdict};
use deskmilter::pipeline::Judge;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What Postfix 3.7 offers.
const ACTIONS: u32 = 0x1ff;
const PROTOCOL: u32 = 0x1f_ffff;
const SKIP: u32 = 0x400;
const LEADING_SPACE: u32 = 0x10_0000;
const NO_REPLY_HEADER: u32 = 0x80;
/// The no-reply bits of MAIL and RCPT.
const NO_REPLY_ENVELOPE: u32 = 0xc000;

/// What the judge does with a message that concerns it.
#[derive(Clone)]
enum Act {
    Pass,
    Give(Verdict),
    Panic,
    Sleep(Duration),
}

/// A message as the judge saw it.
#[derive(Debug)]
struct Seen {
    judge: &'static str,
    wire: Vec<u8>,
    mail: Mail,
}

struct TestJudge {
    name: &'static str,
    act: Act,
    seen: mpsc::UnboundedSender<Seen>,
    asked: Arc<AtomicUsize>,
}

impl Judge for TestJudge {
    fn concerns(&self, envelope: &Envelope) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        envelope.recipients.iter().any(|recipient| recipient.as_str().to_lowercase().ends_with("@acme.example"))
    }

    async fn judge(&self, mail: &Mail) -> Verdict {
        let copy = Mail {
            connection: Arc::clone(&mail.connection),
            envelope: mail.envelope.clone(),
            headers: mail.headers.clone(),
            body: mail.body.clone(),
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

fn edit(edits: Vec<HeaderEdit>) -> Act {
    Act::Give(Verdict { edits, ..Verdict::pass() })
}

struct Daemon {
    directory: tempfile::TempDir,
    service: Arc<Service<TestJudge>>,
    judge: Arc<ArcSwap<TestJudge>>,
    seen: mpsc::UnboundedReceiver<Seen>,
    seen_by: mpsc::UnboundedSender<Seen>,
    asked: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

fn limits() -> Limits {
    Limits {
        message_size: 1 << 21,
        header_size: 1 << 21,
        memory: 1 << 26,
        milter_connections: 100,
        transport_connections: 1,
        hops: 50,
        addresses_per_domain: 50,
        domains: 4,
    }
}

impl Daemon {
    fn new(act: Act) -> Self {
        Self::with(act, limits(), Patience::default())
    }

    fn with(act: Act, limits: Limits, patience: Patience) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path());
        Self::spooling(act, limits, patience, directory, spool)
    }

    fn spooling(act: Act, limits: Limits, patience: Patience, directory: tempfile::TempDir, spool: Spool) -> Self {
        let (seen_by, seen) = mpsc::unbounded_channel();
        let asked = Arc::new(AtomicUsize::new(0));
        let judge = TestJudge { name: "first", act, seen: seen_by.clone(), asked: Arc::clone(&asked) };
        let judge = Arc::new(ArcSwap::from_pointee(judge));
        let service = Arc::new(Service::new(Arc::clone(&judge), spool, &limits).with_patience(patience));
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self { directory, service, judge, seen, seen_by, asked, shutdown, tasks }
    }

    fn listen(&self, listener: Listener) {
        tokio::spawn(serve(listener, Arc::clone(&self.service), self.shutdown.clone(), self.tasks.clone()));
    }

    async fn unix(&self) -> Mta<UnixStream> {
        let path = self.directory.path().join("milter.sock");
        if !path.exists() {
            self.listen(Listener::Unix(UnixListener::bind(&path).unwrap()));
        }
        Mta { stream: UnixStream::connect(&path).await.unwrap() }
    }

    async fn tcp(&self) -> Mta<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.listen(Listener::Tcp(listener));
        Mta { stream: TcpStream::connect(address).await.unwrap() }
    }

    /// A conversation over an in-memory stream, with a count of our writes. Its end can be waited for.
    fn converse(&self) -> (Mta<DuplexStream>, Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let writes = Arc::new(AtomicUsize::new(0));
        let ours = Counting { stream: ours, writes: Arc::clone(&writes) };
        let (service, shutdown) = (Arc::clone(&self.service), self.shutdown.clone());
        let conversation = tokio::spawn(async move {
            let _ = converse(ours, "test", &service, &shutdown).await;
        });
        (Mta { stream: theirs }, writes, conversation)
    }

    async fn seen(&mut self) -> Seen {
        timeout(Duration::from_secs(5), self.seen.recv()).await.expect("a message is judged").unwrap()
    }

    fn nothing_judged(&mut self) {
        assert!(self.seen.try_recv().is_err(), "nothing should have been judged");
    }
}

/// A stream that counts writes.
struct Counting {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
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

/// The MTA's side.
struct Mta<S> {
    stream: S,
}

fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32 + 1).to_be_bytes().to_vec();
    frame.push(code);
    frame.extend_from_slice(payload);
    frame
}

impl<S: AsyncRead + AsyncWrite + Unpin> Mta<S> {
    async fn send(&mut self, code: u8, payload: &[u8]) {
        self.stream.write_all(&frame(code, payload)).await.unwrap();
    }

    async fn receive(&mut self) -> (char, Vec<u8>) {
        timeout(Duration::from_secs(10), async {
            let length = self.stream.read_u32().await.unwrap() as usize;
            let mut frame = vec![0; length];
            self.stream.read_exact(&mut frame).await.unwrap();
            (char::from(frame[0]), frame[1..].to_vec())
        })
        .await
        .expect("an answer comes")
    }

    /// A plain answer: nothing may trail it.
    async fn expect(&mut self, code: char) {
        let (found, payload) = self.receive().await;
        assert_eq!((found, payload.len()), (code, 0), "{}", String::from_utf8_lossy(&payload));
    }

    async fn expect_reply(&mut self, start: &str) {
        let (code, payload) = self.receive().await;
        let text = String::from_utf8_lossy(&payload).into_owned();
        assert!(code == 'y' && text.starts_with(start), "{code} {text}");
    }

    async fn expect_silence(&mut self) {
        let mut octet = [0];
        let read = timeout(Duration::from_millis(50), self.stream.read(&mut octet)).await;
        assert!(read.is_err(), "no answer is due, but got {read:?}");
    }

    async fn expect_close(&mut self) {
        let mut rest = Vec::new();
        let read = timeout(Duration::from_secs(5), self.stream.read_to_end(&mut rest)).await.expect("closed");
        assert!(read.is_err() || rest.is_empty(), "{rest:?}");
    }

    async fn negotiate(&mut self, version: u32, protocol: u32) -> u32 {
        let offer: Vec<u8> = [version, ACTIONS, protocol].iter().flat_map(|n| n.to_be_bytes()).collect();
        self.send(b'O', &offer).await;
        let (code, agreed) = self.receive().await;
        assert_eq!((code, agreed.len()), ('O', 12));
        let number = |at: usize| u32::from_be_bytes(agreed[at..at + 4].try_into().unwrap());
        assert_eq!(number(0), version.min(6));
        assert_eq!(number(4) & !ACTIONS, 0);
        assert_eq!(number(8) & !protocol, 0);
        number(8)
    }

    /// As Postfix does it today: everything is sent ahead.
    async fn begin(&mut self) {
        self.negotiate(6, PROTOCOL).await;
        self.send(b'D', b"Cj\0mx.acme.example\0{daemon_name}\0smtpd\0v\0Postfix 3.7.11\0").await;
        self.send(b'C', b"client.example\x004\x9c\x40192.0.2.7\0").await;
        self.send(b'D', b"H{tls_version}\0TLSv1.3\0{cipher}\0TLS_AES_256_GCM_SHA384\0").await;
        self.send(b'H', b"helo.example\0").await;
    }

    async fn envelope(&mut self, sender: &str, recipients: &[&str]) {
        self.send(b'M', format!("<{sender}>\0SIZE=100\0").as_bytes()).await;
        for recipient in recipients {
            self.send(b'R', format!("<{recipient}>\0").as_bytes()).await;
        }
        self.send(b'D', b"Ti\x004ABC123\0").await;
        self.send(b'T', b"").await;
    }

    /// An envelope to a support address, up to the answer to DATA.
    async fn support(&mut self) {
        self.envelope("a@client.example", &["support@acme.example"]).await;
        self.expect('c').await;
    }

    async fn content(&mut self, fields: &[(&str, &str)], body: &[u8]) {
        for (name, value) in fields {
            self.send(b'L', format!("{name}\0{value}\0").as_bytes()).await;
        }
        self.send(b'N', b"").await;
        for chunk in body.chunks(65_535) {
            self.send(b'B', chunk).await;
        }
        self.send(b'E', b"").await;
    }

    /// A whole small message to a support address.
    async fn message(&mut self) {
        self.support().await;
        self.content(&[("Subject", " hello")], b"body\r\n").await;
    }
}

// Negotiation

#[tokio::test]
async fn where_no_answer_was_agreed_on_none_is_given_and_the_judge_sees_the_message_exactly() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.envelope("A@client.example", &["Support@acme.example", "other@else.example"]).await;
    mta.expect('c').await;
    mta.content(&[("Received", " from x\n\tby y"), ("SUBJECT", "\ttab"), ("X-None", "none")], b"a\r\nb").await;
    mta.expect('c').await;
    mta.expect_silence().await;
    let seen = daemon.seen().await;
    assert_eq!(
        String::from_utf8_lossy(&seen.wire),
        "Received: from x\r\n\tby y\r\nSUBJECT:\ttab\r\nX-None:none\r\n\r\na\r\nb"
    );
    let connection = &seen.mail.connection;
    assert_eq!(connection.client, Client::Network("192.0.2.7".parse().unwrap()));
    assert_eq!(connection.client_name.as_deref(), Some("client.example"));
    assert_eq!(connection.helo.as_deref(), Some("helo.example"));
    assert_eq!(connection.mta_name.as_deref(), Some("mx.acme.example"));
    assert_eq!(connection.tls.as_ref().unwrap().version, "TLSv1.3");
    assert_eq!(connection.tls.as_ref().unwrap().cipher, "TLS_AES_256_GCM_SHA384");
    assert_eq!(connection.login, None);
    assert_eq!(seen.mail.queue_id.as_deref(), Some("4ABC123"));
    assert_eq!(seen.mail.envelope.sender.as_str(), "A@client.example");
    assert_eq!(seen.mail.envelope.recipients.len(), 2);
}

#[tokio::test]
async fn without_leading_space_one_space_is_put_back_and_none_sent() {
    let mut daemon = Daemon::new(edit(vec![HeaderEdit::Prepend(Header::written("X-A", "one\r\n two"))]));
    let mut mta = daemon.unix().await;
    mta.negotiate(6, PROTOCOL & !LEADING_SPACE).await;
    mta.support().await;
    mta.content(&[("A", "x"), ("B", " y"), ("C", "\tz"), ("D", "")], b"").await;
    assert_eq!(mta.receive().await, ('i', b"\0\0\0\0X-A\0one\n two\0".to_vec()));
    mta.expect('c').await;
    assert_eq!(String::from_utf8_lossy(&daemon.seen().await.wire), "A: x\r\nB:  y\r\nC: \tz\r\nD: \r\n\r\n");
}

#[tokio::test]
async fn with_leading_space_the_space_is_ours_to_send_and_a_cr_is_never_sent() {
    let daemon = Daemon::new(edit(vec![HeaderEdit::Prepend(Header::written("X-A", "one\r\n two"))]));
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.message().await;
    assert_eq!(mta.receive().await, ('i', b"\0\0\0\0X-A\0 one\n two\0".to_vec()));
    mta.expect('c').await;
}

#[tokio::test]
async fn an_mta_that_does_not_let_us_edit_or_speaks_version_1_is_left() {
    let daemon = Daemon::new(Act::Pass);
    for offer in [[1u32, ACTIONS, PROTOCOL], [6, 0, PROTOCOL]] {
        let mut mta = daemon.unix().await;
        mta.send(b'O', &offer.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<_>>()).await;
        mta.expect_close().await;
    }
}

#[tokio::test]
async fn skip_is_said_only_where_offered_and_for_the_body_alone() {
    for (protocol, answer) in [(SKIP, 's'), (0, 'c')] {
        let daemon = Daemon::with(Act::Pass, Limits { message_size: 100, ..limits() }, Patience::default());
        let mut mta = daemon.unix().await;
        mta.negotiate(6, protocol).await;
        for (code, payload) in [
            (b'M', &b"<a@b.example>\0"[..]),
            (b'R', b"<support@acme.example>\0"),
            (b'T', b""),
            (b'L', b"A\0b\0"),
            (b'N', b""),
        ] {
            mta.send(code, payload).await;
            mta.expect('c').await;
        }
        mta.send(b'B', &[b'x'; 200]).await;
        mta.expect(answer).await;
        mta.send(b'E', b"").await;
        mta.expect_reply("552 5.3.4 message larger than 100 octets").await;
    }
}

/// One whole message with any set of bits offered: exactly as many answers as the MTA awaits, and the same message judged.
async fn a_message_with_bits(version: u32, protocol: u32) {
    let mut daemon = Daemon::new(Act::Pass);
    let (mut mta, _, conversation) = daemon.converse();
    let agreed = mta.negotiate(version, protocol).await;
    let subject: &[u8] = if agreed & LEADING_SPACE != 0 { b"Subject\0 x\0" } else { b"Subject\0x\0" };
    for (code, payload, no_reply) in [
        (b'C', &b"mx.example\x004\0\x19192.0.2.1\0"[..], 0x1000),
        (b'H', b"mx.example\0", 0x2000),
        (b'M', b"<a@b.example>\0", 0x4000),
        (b'R', b"<support@acme.example>\0", 0x8000),
        (b'T', b"", 0x1_0000),
        (b'L', subject, NO_REPLY_HEADER),
        (b'N', b"", 0x4_0000),
        (b'B', b"body\r\n", 0x8_0000),
        (b'E', b"tail\r\n", 0),
    ] {
        if code == b'T' && version < 4 {
            continue;
        }
        mta.send(code, payload).await;
        if agreed & no_reply == 0 {
            mta.expect('c').await;
        }
    }
    assert_eq!(String::from_utf8_lossy(&daemon.seen().await.wire), "Subject: x\r\n\r\nbody\r\ntail\r\n");
    mta.send(b'Q', b"").await;
    mta.expect_close().await;
    conversation.await.unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_set_of_offered_bits_works(version in 2u32..9, protocol in any::<u32>()) {
        runtime().block_on(a_message_with_bits(version, protocol));
    }
}

// Framing

#[tokio::test]
async fn garbage_closes_its_own_connection_and_no_other() {
    let daemon = Daemon::new(Act::Pass);
    let mut good = daemon.unix().await;
    good.begin().await;
    for octets in [
        &b"\0\0\0\0"[..],
        b"\xff\xff\xff\xffO",
        b"GET / HTTP/1.1\r\n\r\n",
        &frame(b'O', &[0; 11]),
        &frame(b'M', b"<a@b.example>\0"),
    ] {
        let mut bad = daemon.unix().await;
        bad.stream.write_all(octets).await.unwrap();
        bad.expect_close().await;
    }
    for (code, payload) in
        [(b'C', &b"no nul"[..]), (b'H', b"no nul"), (b'L', b"Subject\0no nul"), (b'M', b""), (b'R', b""), (b'D', b"")]
    {
        let mut bad = daemon.unix().await;
        bad.begin().await;
        bad.send(code, payload).await;
        bad.expect_close().await;
    }
    good.message().await;
    good.expect('c').await;
}

#[tokio::test]
async fn a_field_of_one_mebibyte_and_ten_thousand_fields_pass() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    let long = " x".repeat(1 << 19);
    mta.support().await;
    mta.content(&[("Subject", &long)], b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.mail.headers.first("subject").unwrap().value().len(), 1 << 20);
    mta.support().await;
    mta.content(&vec![("X-Many", " 1"); 10_000], b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.mail.headers.len(), 10_000);
}

#[tokio::test]
async fn a_body_may_hold_nul_and_end_within_the_last_command() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.send(b'L', b"A\0 b\0").await;
    mta.send(b'N', b"").await;
    mta.send(b'B', b"a\0b\r\n").await;
    mta.send(b'E', b"\0tail\r\n").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"A: b\r\n\r\na\0b\r\n\0tail\r\n");
}

#[tokio::test]
async fn a_message_without_fields_or_body_and_with_the_null_sender_passes() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.envelope("", &["support@acme.example"]).await;
    mta.expect('c').await;
    mta.content(&[], b"").await;
    mta.expect('c').await;
    let seen = daemon.seen().await;
    assert_eq!(seen.wire, b"\r\n");
    assert!(seen.mail.envelope.sender.is_null());
}

#[tokio::test]
async fn commands_may_come_in_any_pieces() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    let mut octets = frame(b'M', b"<a@b.example>\0");
    octets.extend(frame(b'R', b"<support@acme.example>\0"));
    octets.extend(frame(b'T', b""));
    octets.extend(frame(b'L', b"Subject\0 in pieces\0"));
    for octet in octets {
        mta.stream.write_all(&[octet]).await.unwrap();
        tokio::task::yield_now().await;
    }
    mta.expect('c').await;
    mta.content(&[], b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"Subject: in pieces\r\n\r\n");
}

#[tokio::test]
async fn a_command_that_never_ends_is_not_waited_for() {
    let patience = Patience { frame: Duration::from_millis(100), ..Patience::default() };
    let daemon = Daemon::with(Act::Pass, limits(), patience);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.stream.write_all(&frame(b'M', b"<a@b.example>\0")[..7]).await.unwrap();
    mta.expect_close().await;
}

#[tokio::test]
async fn between_commands_we_wait_at_least_as_long_as_libmilter() {
    assert!(Patience::default().idle >= Duration::from_secs(7210));
    let patience = Patience { frame: Duration::from_millis(50), ..Patience::default() };
    let daemon = Daemon::with(Act::Pass, limits(), patience);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    sleep(Duration::from_millis(150)).await;
    mta.message().await;
    mta.expect('c').await;
}

#[tokio::test]
async fn all_edits_and_the_final_answer_go_out_in_one_write() {
    let edits = (0..50).map(|n| HeaderEdit::Prepend(Header::written("X-Edit", &n.to_string()))).collect();
    let daemon = Daemon::new(edit(edits));
    let (mut mta, writes, _conversation) = daemon.converse();
    mta.begin().await;
    mta.support().await;
    let before = writes.load(Ordering::Relaxed);
    mta.content(&[("A", " b")], b"body\r\n").await;
    for _ in 0..50 {
        assert_eq!(mta.receive().await.0, 'i');
    }
    mta.expect('c').await;
    assert_eq!(writes.load(Ordering::Relaxed), before + 1);
}

#[tokio::test]
async fn over_tcp_no_answer_waits_for_a_delayed_acknowledgement() {
    let daemon = Daemon::new(edit(vec![HeaderEdit::Prepend(Header::written("X-Edit", "1"))]));
    let mut mta = daemon.tcp().await;
    mta.stream.set_nodelay(true).unwrap();
    mta.begin().await;
    let start = Instant::now();
    for _ in 0..100 {
        mta.message().await;
        assert_eq!(mta.receive().await.0, 'i');
        mta.expect('c').await;
        mta.send(b'A', b"").await;
    }
    // With Nagle's algorithm and delayed acknowledgements: 40 ms a message, 4 s and more.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

// State

#[tokio::test]
async fn many_messages_come_over_one_connection_and_an_abort_may_come_at_any_time() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'A', b"").await;
    for _ in 0..3 {
        mta.message().await;
        mta.expect('c').await;
        daemon.seen().await;
        mta.send(b'A', b"").await;
    }
    let commands = [
        (b'M', &b"<a@b.example>\0"[..]),
        (b'R', b"<support@acme.example>\0"),
        (b'T', b""),
        (b'L', b"A\0 b\0"),
        (b'N', b""),
        (b'B', b"x"),
    ];
    for end in 1..=commands.len() {
        for (code, payload) in &commands[..end] {
            mta.send(*code, payload).await;
        }
        if end >= 3 {
            mta.expect('c').await;
        }
        mta.send(b'A', b"").await;
    }
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"Subject: hello\r\n\r\nbody\r\n");
    daemon.nothing_judged();
}

#[tokio::test]
async fn a_close_may_be_the_only_event_and_quit_ends_the_connection() {
    let mut daemon = Daemon::new(Act::Pass);
    drop(daemon.unix().await);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    drop(mta);
    let mut mta = daemon.unix().await;
    mta.send(b'Q', b"").await;
    mta.expect_close().await;
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.send(b'Q', b"").await;
    mta.expect_close().await;
    daemon.nothing_judged();
}

#[tokio::test]
async fn after_quit_nc_the_next_client_comes_over_the_same_connection_and_inherits_nothing() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.send(b'K', b"").await;
    mta.send(b'C', b"unknown\x006\0\x19IPv6:2001:db8::9\0").await;
    mta.message().await;
    mta.expect('c').await;
    let connection = Arc::clone(&daemon.seen().await.mail.connection);
    assert_eq!(connection.client, Client::Network("2001:db8::9".parse::<IpAddr>().unwrap()));
    assert_eq!((&connection.client_name, &connection.helo), (&None, &None));
    assert_eq!((&connection.tls, &connection.mta_name), (&None, &None));
}

#[tokio::test]
async fn a_command_out_of_place_ends_the_message_and_is_tried_as_if_between_messages() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    // Without a message these mean nothing, and an answer would put both sides out of step.
    for (code, payload) in [
        (b'R', &b"<support@acme.example>\0"[..]),
        (b'T', b""),
        (b'L', b"A\0 b\0"),
        (b'N', b""),
        (b'B', b"x"),
        (b'E', b""),
    ] {
        mta.send(code, payload).await;
    }
    mta.expect_silence().await;
    // After the end of the header section these end the message.
    for (code, payload) in [(b'L', &b"A\0 b\0"[..]), (b'R', b"<support@acme.example>\0"), (b'T', b""), (b'N', b"")] {
        mta.support().await;
        mta.send(b'N', b"").await;
        mta.send(code, payload).await;
        mta.send(b'E', b"").await;
        mta.expect_silence().await;
    }
    // HELO and MAIL within a message begin anew.
    mta.envelope("first@b.example", &["support@acme.example"]).await;
    mta.expect('c').await;
    mta.send(b'L', b"A\0 first\0").await;
    mta.send(b'H', b"again.example\0").await;
    mta.send(b'M', b"<second@b.example>\0").await;
    mta.message().await;
    mta.expect('c').await;
    let seen = daemon.seen().await;
    assert_eq!(seen.mail.envelope.sender.as_str(), "a@client.example");
    assert_eq!(seen.mail.envelope.recipients.len(), 1);
    assert_eq!(seen.wire, b"Subject: hello\r\n\r\nbody\r\n");
    assert_eq!(seen.mail.connection.helo.as_deref(), Some("again.example"));
    daemon.nothing_judged();
}

#[tokio::test]
async fn a_body_before_the_fields_and_unknown_commands_do_no_harm() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'!', b"whatever").await;
    mta.send(b'M', b"<a@b.example>\0").await;
    mta.send(b'z', b"").await;
    mta.send(b'R', b"<support@acme.example>\0").await;
    mta.send(b'B', b"body\r\n").await;
    mta.send(b'E', b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"\r\nbody\r\n");
    mta.support().await;
    mta.send(b'B', b"body\r\n").await;
    mta.send(b'L', b"A\0 b\0").await;
    mta.send(b'E', b"").await;
    mta.expect_silence().await;
    daemon.nothing_judged();
}

#[tokio::test]
async fn an_smtp_command_that_the_mta_does_not_know_is_answered_where_an_answer_is_due() {
    let daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.negotiate(6, 0).await;
    mta.send(b'U', b"XYZZY\0").await;
    mta.expect('c').await;
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'U', b"XYZZY\0").await;
    mta.expect_silence().await;
}

#[tokio::test]
async fn negotiating_again_begins_anew() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'M', b"<a@b.example>\0").await;
    mta.begin().await;
    mta.message().await;
    mta.expect('c').await;
    daemon.seen().await;
}

// Macros and the client

#[tokio::test]
async fn the_login_of_one_message_is_not_that_of_the_next() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'D', b"M{auth_type}\0PLAIN\0{auth_authen}\0alice\0{mail_addr}\0a@b.example\0").await;
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.mail.connection.login.as_deref(), Some("alice"));
    mta.message().await;
    mta.expect('c').await;
    let seen = daemon.seen().await;
    assert_eq!(seen.mail.connection.login, None);
    assert!(seen.mail.connection.tls.is_some(), "facts of the connection stay");
    mta.send(b'D', b"M{auth_authen}\0\0").await;
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.mail.connection.login, None);
}

#[tokio::test]
async fn macros_of_suppressed_events_empty_sets_and_odd_counts_are_taken_as_they_come() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'D', b"H").await;
    mta.send(b'H', b"plain.example\0").await;
    mta.send(b'D', b"U{x}\0y\0").await;
    mta.send(b'D', b"M{auth_authen}").await;
    mta.send(b'M', b"<a@b.example>\0").await;
    mta.send(b'D', b"R{rcpt_addr}\0support@acme.example\0{rcpt_mailer}\0").await;
    mta.send(b'R', b"<support@acme.example>\0").await;
    mta.send(b'T', b"").await;
    mta.expect('c').await;
    // Postfix sends macros with every field.
    for value in ["1", "2"] {
        mta.send(b'D', b"Li\0QUEUE1\0").await;
        mta.send(b'L', format!("A\0 {value}\0").as_bytes()).await;
    }
    mta.send(b'D', b"Ni\0QUEUE1\0").await;
    mta.send(b'N', b"").await;
    mta.send(b'D', b"Ei\0QUEUE1\0").await;
    mta.send(b'E', b"").await;
    mta.expect('c').await;
    let seen = daemon.seen().await;
    assert_eq!(seen.mail.connection.tls, None, "a HELO without TLS macros is one without TLS");
    assert_eq!(seen.mail.connection.login, None);
    assert_eq!(seen.mail.queue_id.as_deref(), Some("QUEUE1"));
}

#[tokio::test]
async fn mail_by_sendmail_and_pickup_is_local_and_no_recipient_is_ever_refused() {
    let mut daemon = Daemon::new(Act::Pass);
    for connect in [&b"localhost\x004\0\x00127.0.0.1\0"[..], b"localhost\0U", b"localhost\0L\0\0/run/x\0"] {
        let mut mta = daemon.unix().await;
        mta.negotiate(6, 0).await;
        for (code, payload) in [
            (b'C', connect),
            (b'M', b"<a@b.example>\0"),
            (b'R', b"<nonsense\0"),
            (b'R', b"<support@acme.example>\0"),
            (b'T', b""),
            (b'E', b""),
        ] {
            mta.send(code, payload).await;
            mta.expect('c').await;
        }
        let seen = daemon.seen().await;
        assert_eq!(seen.mail.connection.client, Client::Local);
        assert_eq!(seen.mail.envelope.recipients.len(), 1);
    }
}

#[tokio::test]
async fn a_recipient_that_the_mta_refused_is_none() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'M', b"<a@b.example>\0").await;
    mta.send(b'D', b"R{rcpt_mailer}\0error\0{rcpt_host}\x005.1.1\0{rcpt_addr}\0550 no such user\0").await;
    mta.send(b'R', b"<nobody@acme.example>\0").await;
    mta.send(b'D', b"R{rcpt_mailer}\0local\0").await;
    mta.send(b'R', b"<other@else.example>\0").await;
    mta.send(b'T', b"").await;
    mta.expect('a').await;
    daemon.nothing_judged();
}

#[tokio::test]
async fn esmtp_parameters_reach_the_envelope() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.send(b'M', "<jürgen@b.example>\0BODY=8BITMIME\0SMTPUTF8\0".as_bytes()).await;
    mta.send(b'R', b"<support@acme.example>\0NOTIFY=NEVER\0").await;
    mta.send(b'E', b"").await;
    mta.expect('c').await;
    let envelope = daemon.seen().await.mail.envelope;
    assert!(envelope.smtputf8 && envelope.eight_bit);
    assert_eq!(envelope.sender.as_str(), "jürgen@b.example");
}

// Mail that is none of our business

#[tokio::test]
async fn mail_of_no_connector_is_let_go_at_data_and_the_judge_is_asked_once() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    for n in 1..=3 {
        mta.envelope("a@b.example", &["x@else.example", "y@else.example"]).await;
        mta.expect('a').await;
        assert_eq!(daemon.asked.load(Ordering::Relaxed), n);
        mta.send(b'A', b"").await;
    }
    mta.message().await;
    mta.expect('c').await;
    daemon.seen().await;
    daemon.nothing_judged();
}

#[tokio::test]
async fn without_data_it_is_let_go_at_the_first_answer_after_the_recipients() {
    let daemon = Daemon::new(Act::Pass);
    let field = (b'L', &b"A\0b\0"[..]);
    for (version, protocol, content) in [
        (2, 0, &[field][..]),
        (3, NO_REPLY_HEADER, &[field, field, (b'N', b"")]),
        (3, PROTOCOL, &[field, (b'N', b"")]),
        (6, PROTOCOL, &[field, (b'E', b"")]),
    ] {
        let mut mta = daemon.unix().await;
        let agreed = mta.negotiate(version, protocol).await;
        for (code, payload) in [(b'M', &b"<a@b.example>\0"[..]), (b'R', b"<x@else.example>\0")] {
            mta.send(code, payload).await;
            if agreed & NO_REPLY_ENVELOPE == 0 {
                mta.expect('c').await;
            }
        }
        for (code, payload) in content {
            mta.send(*code, payload).await;
        }
        mta.expect('a').await;
        mta.expect_silence().await;
    }
}

#[tokio::test]
async fn mail_of_no_connector_passes_whatever_its_size_and_sender() {
    let tight = Limits { message_size: 100, header_size: 50, ..limits() };
    let mut daemon = Daemon::with(Act::Pass, tight, Patience::default());
    let mut mta = daemon.unix().await;
    mta.negotiate(6, PROTOCOL).await;
    mta.send(b'M', b"<a b@c>\0").await;
    mta.send(b'R', b"<x@else.example>\0").await;
    let long = "x".repeat(1000);
    mta.content(&[("Subject", &long)], long.as_bytes()).await;
    mta.expect('a').await;
    daemon.nothing_judged();
}

// Verdicts

#[tokio::test]
async fn fields_are_deleted_from_the_last_to_the_first_before_any_is_inserted() {
    let daemon = Daemon::new(edit(vec![
        HeaderEdit::Prepend(Header::written("Authentication-Results", "mx; none")),
        HeaderEdit::Remove { index: 0 },
        HeaderEdit::Remove { index: 2 },
        HeaderEdit::Prepend(Header::written("X-Top", "1")),
    ]));
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    let fields = [("Authentication-Results", " mx; a"), ("From", " a"), ("AUTHENTICATION-results", " mx;\n b")];
    mta.content(&fields, b"").await;
    for (code, payload) in [
        ('m', &b"\0\0\0\x02AUTHENTICATION-results\0\0"[..]),
        ('m', b"\0\0\0\x01Authentication-Results\0\0"),
        ('i', b"\0\0\0\0Authentication-Results\0 mx; none\0"),
        ('i', b"\0\0\0\0X-Top\0 1\0"),
    ] {
        assert_eq!(mta.receive().await, (code, payload.to_vec()));
    }
    mta.expect('c').await;
}

#[tokio::test]
async fn a_refusal_is_one_well_formed_reply_and_the_edits_do_not_matter() {
    let reply = Reply::from_remote(550, ["5.7.1 100% sure", "5.7.1 not"]);
    let edits = vec![HeaderEdit::Remove { index: 0 }];
    let daemon = Daemon::new(Act::Give(Verdict { edits, ..Verdict::refuse(reply) }));
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.message().await;
    assert_eq!(mta.receive().await, ('y', b"550-5.7.1 100%% sure\r\n550 5.7.1 not\0".to_vec()));
    mta.expect_silence().await;
    mta.message().await;
    mta.expect_reply("550-5.7.1").await;
}

#[tokio::test]
async fn while_judging_takes_long_the_mta_hears_from_us() {
    let patience = Patience { progress: Duration::from_millis(50), ..Patience::default() };
    let daemon = Daemon::with(Act::Sleep(Duration::from_millis(180)), limits(), patience);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.message().await;
    mta.expect('p').await;
    mta.expect('p').await;
    loop {
        match mta.receive().await {
            ('p', _) => {}
            answer => break assert_eq!(answer, ('c', vec![])),
        }
    }
    assert!(Patience::default().progress <= Duration::from_secs(10));
}

#[tokio::test]
async fn a_judge_that_panics_or_takes_too_long_defers_its_message_alone() {
    let patience = Patience { judge: Duration::from_millis(50), ..Patience::default() };
    for act in [Act::Panic, Act::Sleep(Duration::from_secs(60))] {
        let daemon = Daemon::with(act, limits(), patience);
        let mut mta = daemon.unix().await;
        mta.begin().await;
        for _ in 0..2 {
            mta.message().await;
            mta.expect_reply("451 4.7.1 ").await;
        }
    }
    assert!(Patience::default().judge < Duration::from_secs(300));
}

#[tokio::test]
async fn what_is_judged_has_no_stray_line_endings() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.send(b'L', b"Subject\0 a\rb\nc\n d\0").await;
    mta.send(b'N', b"").await;
    mta.send(b'B', b"a\nb\r").await;
    mta.send(b'B', b"\n.\r").await;
    mta.send(b'E', b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"Subject: a b c\r\n d\r\n\r\na b\r\n. ");
}

#[tokio::test]
async fn a_judge_that_is_replaced_finishes_the_message_it_began() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    let (seen, asked) = (daemon.seen_by.clone(), Arc::clone(&daemon.asked));
    daemon.judge.store(Arc::new(TestJudge { name: "second", act: Act::Pass, seen, asked }));
    mta.content(&[], b"").await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.judge, "first");
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.judge, "second");
}

// Limits

#[tokio::test]
async fn support_mail_over_a_limit_is_refused_with_the_limit_and_the_next_message_passes() {
    let tight = Limits { message_size: 100_000, header_size: 1000, ..limits() };
    let mut daemon = Daemon::with(Act::Pass, tight, Patience::default());
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.content(&[("Subject", &"x".repeat(1000))], b"body\r\n").await;
    mta.expect_reply("552 5.3.4 header section larger than 1000 octets").await;
    mta.support().await;
    mta.content(&[("Subject", " x")], &vec![b'x'; 1_000_000]).await;
    mta.expect_reply("552 5.3.4 message larger than 100000 octets").await;
    mta.envelope("a b@c", &["support@acme.example"]).await;
    mta.expect('c').await;
    mta.content(&[], b"").await;
    mta.expect_reply("553 5.1.7 ").await;
    daemon.nothing_judged();
    mta.message().await;
    mta.expect('c').await;
    daemon.seen().await;
}

#[tokio::test]
async fn very_many_tiny_fields_are_a_header_section_too_large() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.content(&vec![("a", ""); 20_001], b"").await;
    mta.expect_reply("552 5.3.4 ").await;
    daemon.nothing_judged();
}

#[tokio::test]
async fn a_spool_that_cannot_be_written_defers_support_mail_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::new(directory.path().join("missing"));
    let mut daemon = Daemon::spooling(Act::Pass, limits(), Patience::default(), directory, spool);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    mta.support().await;
    mta.content(&[("Subject", " large")], &vec![b'x'; 200_000]).await;
    mta.expect_reply("452 4.3.1 ").await;
    mta.envelope("a@b.example", &["x@else.example"]).await;
    mta.expect('a').await;
    mta.message().await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire, b"Subject: hello\r\n\r\nbody\r\n");
}

#[tokio::test]
async fn a_large_body_comes_back_exact() {
    let mut daemon = Daemon::new(Act::Pass);
    let mut mta = daemon.unix().await;
    mta.begin().await;
    let body: Vec<u8> = (0..40_000).flat_map(|n| format!("line {n}\r\n").into_bytes()).collect();
    mta.support().await;
    mta.content(&[], &body).await;
    mta.expect('c').await;
    assert_eq!(daemon.seen().await.wire[2..], body);
}

#[tokio::test]
async fn beyond_the_connection_limit_one_waits_for_another_to_end() {
    let daemon = Daemon::with(Act::Pass, Limits { milter_connections: 2, ..limits() }, Patience::default());
    let (mut first, mut second) = (daemon.unix().await, daemon.unix().await);
    first.begin().await;
    second.begin().await;
    let mut third = daemon.unix().await;
    third.send(b'O', &[0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0x1f, 0xff, 0xff]).await;
    third.expect_silence().await;
    drop(first);
    assert_eq!(third.receive().await.0, 'O');
    second.message().await;
    second.expect('c').await;
}

// Shutdown

#[tokio::test]
async fn on_shutdown_idle_connections_end_and_a_message_under_way_is_finished() {
    let mut daemon = Daemon::new(Act::Sleep(Duration::from_millis(100)));
    let (mut idle, mut busy, mut judged) = (daemon.unix().await, daemon.unix().await, daemon.unix().await);
    idle.begin().await;
    busy.begin().await;
    busy.support().await;
    judged.begin().await;
    judged.message().await;
    daemon.seen().await;
    daemon.shutdown.cancel();
    idle.expect_close().await;
    judged.expect('c').await;
    judged.expect_close().await;
    busy.content(&[("Subject", " last")], b"body\r\n").await;
    busy.expect('c').await;
    busy.expect_close().await;
    daemon.tasks.close();
    timeout(Duration::from_secs(5), daemon.tasks.wait()).await.expect("all sessions have ended");
    assert_eq!(daemon.seen().await.wire, b"Subject: last\r\n\r\nbody\r\n");
}

#[tokio::test]
async fn on_shutdown_no_message_is_waited_for_without_end() {
    let patience = Patience { drain: Duration::from_millis(100), ..Patience::default() };
    let mut daemon = Daemon::with(Act::Sleep(Duration::from_secs(60)), limits(), patience);
    let (mut stalled, mut judged) = (daemon.unix().await, daemon.unix().await);
    stalled.begin().await;
    stalled.support().await;
    judged.begin().await;
    judged.message().await;
    daemon.seen().await;
    daemon.shutdown.cancel();
    judged.expect_reply("451 4.3.2 ").await;
    judged.expect_close().await;
    stalled.expect_close().await;
    daemon.tasks.close();
    timeout(Duration::from_secs(5), daemon.tasks.wait()).await.expect("all sessions have ended");
}

// Anything at all

/// Sends octets and closes: the conversation ends by itself, and whatever it says is whole frames.
async fn anything(octets: Vec<u8>) {
    let daemon = Daemon::new(Act::Pass);
    let (mta, _, conversation) = daemon.converse();
    let (mut from, mut to) = tokio::io::split(mta.stream);
    let reading = tokio::spawn(async move {
        let mut answers = Vec::new();
        let _ = from.read_to_end(&mut answers).await;
        answers
    });
    let _ = to.write_all(&octets).await;
    let _ = to.shutdown().await;
    timeout(Duration::from_secs(10), conversation).await.expect("the conversation ends").expect("no panic");
    let answers = reading.await.unwrap();
    let mut rest = &answers[..];
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        rest = tail.get(u32::from_be_bytes(*length) as usize..).expect("a whole frame");
    }
    assert!(rest.is_empty());
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let codes = prop_oneof![
        9 => prop::sample::select(&b"ODCHMRTLNBEUAK"[..]),
        1 => any::<u8>(),
    ];
    let payloads = prop_oneof![
        Just(b"<support@acme.example>\0".to_vec()),
        Just(b"Subject\0 value\n folded\0".to_vec()),
        Just(b"host\x004\x00\x19192.0.2.1\0".to_vec()),
        Just(b"M{auth_authen}\0alice\0".to_vec()),
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..60),
    ];
    (codes, payloads).prop_map(|(code, payload)| frame(code, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_octets_never_panic_or_hang(octets in prop::collection::vec(any::<u8>(), 0..400)) {
        runtime().block_on(anything(octets));
    }

    #[test]
    fn random_commands_never_panic_or_hang(
        version in 2u8..8,
        protocol in any::<u32>(),
        frames in prop::collection::vec(any_frame(), 0..60),
    ) {
        let mut octets = frame(b'O', &[&[0, 0, 0, version, 0, 0, 1, 0xff][..], &protocol.to_be_bytes()].concat());
        octets.extend(frames.concat());
        runtime().block_on(anything(octets));
    }
}
