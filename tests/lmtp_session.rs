//! The LMTP listener, heard from outside: a raw client over a real unix socket, any hand-over behind it.

#![cfg(test)]

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use deskmilter::attach::lmtp::{HandOver, HandedOver, Service, Timeouts, serve};
use deskmilter::config::{Connector, Environment, Limits, Mode, Preserve, System};
use deskmilter::mail::{Address, Domain, Mail, Reply, Spool};
use deskmilter::relay::{Delivery, Trace};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// No step of these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A hand-over that keeps what it is given, and refuses the recipient `second@`.
#[derive(Debug, Default, Clone)]
struct Desk {
    messages: Arc<Mutex<Vec<String>>>,
    delay: Duration,
}

impl HandOver for Desk {
    async fn hand_over(&self, _connector: &Connector, mail: Mail) -> HandedOver {
        tokio::time::sleep(self.delay).await;
        let message = String::from_utf8_lossy(&mail.assemble().await.unwrap()).into_owned();
        self.messages.lock().unwrap().push(message);
        let replies = mail.envelope.recipients.iter().map(|path| match path.as_str().starts_with("second") {
            true => Reply::new(550, 1, 1, "no such desk"),
            false => Reply::new(250, 0, 0, "taken"),
        });
        let delivery = Delivery { replies: replies.collect(), trace: Trace::default() };
        HandedOver { auth: Some("authenticated".to_owned()), delivery, rejected_to: None }
    }
}

struct Listener {
    directory: tempfile::TempDir,
    desk: Desk,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    service: Arc<ArcSwap<Service<Desk>>>,
}

impl Listener {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut Service<Desk>)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let uid = std::fs::metadata(directory.path()).unwrap().uid();
        let mut service = Service {
            connector: Arc::new(Connector {
                name: "acme".to_owned(),
                system: System::Zendesk,
                native_domain: None,
                domain: Domain::parse("acme.example").unwrap(),
                recipient_delimiter: Some('+'),
                mode: Mode::TwoWay,
                observe: false,
                environment: Environment::Sandbox,
                addresses: ["support", "second", "büro"]
                    .map(|local| Address::parse(&format!("{local}@acme.example")).unwrap())
                    .to_vec(),
                endpoint: None,
                host: None,
                desk: None,
                delivery: None,
                submission: None,
                preserve: Preserve::default(),
                dkim: Vec::new(),
            }),
            hand_over: Desk::default(),
            limits: Limits {
                message_size: 100_000,
                header_size: 1000,
                memory: 1 << 20,
                milter_connections: 1,
                transport_connections: 3,
                hops: 50,
                addresses_per_domain: 50,
                domains: 4,
                inline_relays: 20,
            },
            spool: Spool::new(directory.path()),
            hostname: Domain::parse("mx.acme.example").unwrap(),
            peers: vec![uid],
            timeouts: Timeouts::default(),
        };
        change(&mut service);
        let listener = Self {
            desk: service.hand_over.clone(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            service: Arc::new(ArcSwap::from_pointee(service)),
            directory,
        };
        let socket = UnixListener::bind(listener.directory.path().join("acme.sock")).unwrap();
        listener.tasks.spawn(serve(
            socket,
            Arc::clone(&listener.service),
            listener.shutdown.clone(),
            listener.tasks.clone(),
        ));
        listener.tasks.close();
        listener
    }

    async fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.directory.path().join("acme.sock")).await.unwrap();
        Client(BufReader::new(stream))
    }

    /// A client that has said LHLO.
    async fn client(&self) -> Client {
        let mut client = self.connect().await;
        assert_eq!(client.reply().await, "220 mx.acme.example LMTP deskmilter");
        client.say("LHLO mx").await;
        client
    }

    fn messages(&self) -> Vec<String> {
        self.desk.messages.lock().unwrap().clone()
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    /// The next reply, its last line.
    async fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a reply in time").unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }

    async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(octets.as_ref()).await.unwrap();
    }

    async fn say(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n")).await;
        self.reply().await
    }

    /// All that comes until the server closes.
    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        timeout(PATIENCE, self.0.read_to_string(&mut rest)).await.expect("a close in time").unwrap();
        rest
    }
}

#[tokio::test]
async fn each_recipient_gets_its_own_reply_in_order() {
    let listener = Listener::start();
    let mut client = listener.client().await;
    client
        .send("MAIL FROM:<u@user.example>\r\nRCPT TO:<support@acme.example>\r\nRCPT TO:<second@acme.example>\r\n")
        .await;
    client.send("RCPT TO:<Support+tag@ACME.example>\r\nDATA\r\n").await;
    for expected in ["250 2.1.0", "250 2.1.5", "250 2.1.5", "250 2.1.5", "354 "] {
        assert!(client.reply().await.starts_with(expected));
    }
    client.send("Subject: a\r\n\r\n..dot\r\n.\r\nNOOP\r\n").await;
    for expected in ["250 2.0.0 taken", "550 5.1.1 no such desk", "250 2.0.0 taken", "250 2.0.0 ok"] {
        assert_eq!(client.reply().await, expected);
    }
    assert_eq!(listener.messages(), ["Subject: a\r\n\r\n.dot\r\n"]);
}

#[tokio::test]
async fn pipelined_messages_are_answered_in_order() {
    let listener = Listener::start();
    let mut client = listener.client().await;
    let one = "MAIL FROM:<>\r\nRCPT TO:<support@acme.example>\r\nDATA\r\nSubject: a\r\n\r\n\r\n.\r\n";
    client.send(format!("{}QUIT\r\n", one.repeat(3))).await;
    let replies = client.rest().await;
    let codes: Vec<&str> = replies.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(codes.join(" "), format!("{}221", "250 250 354 250 ".repeat(3)));
    assert_eq!(listener.messages().len(), 3);
}

#[tokio::test]
async fn capabilities_are_announced() {
    let listener = Listener::start();
    let mut client = listener.connect().await;
    client.send("LHLO mx\r\nQUIT\r\n").await;
    let all = client.rest().await;
    for capability in ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 100000"] {
        assert!(all.contains(capability), "{all}");
    }
    assert!(!all.contains("CHUNKING") && !all.contains("STARTTLS") && !all.contains("AUTH"), "{all}");
}

#[tokio::test]
async fn bad_input_gets_its_reply_and_the_connection_goes_on() {
    let listener = Listener::start();
    let long = format!("RCPT TO:<{}@acme.example>", "a".repeat(3000));
    let header = format!("X: {}\r\n\r\nbody\r\n.", "a".repeat(2000));
    let body = format!("X: a\r\n\r\n{}.", "0123456789\r\n".repeat(10_000));
    for (commands, expected) in [
        (&["EHLO mx"][..], "500 5.5.1"),
        (&["HELO mx"], "500 5.5.1"),
        (&["WHAT"], "500 5.5.1"),
        (&["NOOP \u{1}"], "500 5.5.2"),
        (&["BDAT 3 LAST"], "502 5.5.1"),
        (&["STARTTLS"], "502 5.5.1"),
        (&["AUTH PLAIN AGEAYg=="], "502 5.5.1"),
        (&["DATA"], "503 5.5.1"),
        (&["RCPT TO:<support@acme.example>"], "503 5.5.1"),
        (&["MAIL FROM:<u@user.example> SIZE=100001"], "552 5.3.4"),
        (&["MAIL FROM:<u@user.example> RET=HDRS"], "555 5.5.4"),
        (&["MAIL FROM:<ü@user.example>"], "250 2.1.0"),
        (&["MAIL FROM:<>", &long], "500 5.5.2"),
        (&["MAIL FROM:<>", "RCPT TO:<>"], "501 5.1.3"),
        (&["MAIL FROM:<>", "RCPT TO:<postmaster>"], "451 4.3.5"),
        (&["MAIL FROM:<>", "RCPT TO:<boss@acme.example>"], "451 4.3.5"),
        (&["MAIL FROM:<>", "RCPT TO:<support@other.example>"], "451 4.3.5"),
        (&["MAIL FROM:<>", "RCPT TO:<büro@acme.example>"], "250 2.1.5"),
        (&["MAIL FROM:<> SMTPUTF8", "RCPT TO:<büro@acme.example>"], "250 2.1.5"),
        (&["MAIL FROM:<>", "RCPT TO:<boss@acme.example>", "DATA"], "503 5.5.1"),
        (&["MAIL FROM:<>", "RCPT TO:<support@acme.example>", "DATA", &header], "552 5.3.4"),
        (&["MAIL FROM:<>", "RCPT TO:<support@acme.example>", "DATA", &body], "552 5.3.4"),
    ] {
        let mut client = listener.client().await;
        let mut reply = String::new();
        for command in commands {
            reply = client.say(command).await;
        }
        assert!(reply.starts_with(expected), "{commands:.60?}: {reply}");
        assert_eq!(client.say("RSET").await, "250 2.0.0 ok");
        assert_eq!(client.say("QUIT").await, "221 2.0.0 bye");
    }
    assert!(listener.messages().is_empty());
}

#[tokio::test]
async fn a_recipient_that_is_none_names_the_connector_and_the_remedy() {
    let listener = Listener::start();
    let mut client = listener.client().await;
    client.say("MAIL FROM:<>").await;
    assert_eq!(
        client.say("RCPT TO:<boss@acme.example>").await,
        "451 4.3.5 <boss@acme.example> is not a support address of connector acme; correct transport_maps or the \
         connector's addresses"
    );
}

#[tokio::test]
async fn a_support_address_with_a_long_token_behind_its_delimiter_is_one() {
    let listener = Listener::start();
    let mut client = listener.client().await;
    client.say("MAIL FROM:<>").await;
    let long = format!("RCPT TO:<support+{}@acme.example>", "a1".repeat(60));
    assert_eq!(client.say(&long).await, "250 2.1.5 recipient ok");
}

#[tokio::test]
async fn a_probe_contacts_nobody() {
    let listener = Listener::start();
    for end in ["RSET", "QUIT"] {
        let mut client = listener.client().await;
        client.say("MAIL FROM:<>").await;
        assert!(client.say("RCPT TO:<support@acme.example>").await.starts_with("250"));
        assert!(client.say(end).await.starts_with('2'));
    }
    assert!(listener.messages().is_empty());
}

#[tokio::test]
async fn a_bare_lf_ends_the_connection_and_no_smuggled_message_passes() {
    let listener = Listener::start();
    let mut client = listener.client().await;
    client.send("NOOP\nNOOP\r\n").await;
    assert!(client.rest().await.starts_with("500 5.5.2"));

    let smuggled = "MAIL FROM:<ceo@acme.example>\r\nRCPT TO:<second@acme.example>\r\nDATA\r\nSubject: evil\r\n";
    for ending in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r\n\0.\r\n"] {
        let mut client = listener.client().await;
        client.send("MAIL FROM:<>\r\nRCPT TO:<support@acme.example>\r\nDATA\r\n").await;
        client.send(format!("Subject: a\r\n\r\nbody{ending}{smuggled}\r\n.\r\nQUIT\r\n")).await;
        let replies = client.rest().await;
        assert_eq!(replies.lines().count(), 5, "{ending:?}: {replies}");
    }
    let messages = listener.messages();
    assert_eq!(messages.len(), 6);
    for message in messages {
        assert!(!message.replace("\r\n", "").contains(['\r', '\n']), "{message:?}");
    }
}

#[tokio::test]
async fn a_client_that_vanishes_amid_the_data_relays_nothing() {
    let listener = Listener::start();
    let mut client = listener.client().await;
    client.send("MAIL FROM:<>\r\nRCPT TO:<support@acme.example>\r\nDATA\r\nSubject: a\r\n\r\nbody\r\n").await;
    drop(client);
    listener.shutdown.cancel();
    timeout(PATIENCE, listener.tasks.wait()).await.unwrap();
    assert!(listener.messages().is_empty());
}

#[tokio::test]
async fn a_peer_with_another_uid_is_sent_away() {
    let listener = Listener::start_with(|service| service.peers = vec![u32::MAX - 7]);
    assert!(listener.connect().await.rest().await.starts_with("421 4.7.0 uid "));
}

#[tokio::test]
async fn no_more_than_a_thousand_recipients() {
    let listener = Listener::start();
    let mut client = listener.client().await;
    client.say("MAIL FROM:<>").await;
    for n in 1..=1001 {
        let reply = client.say(&format!("RCPT TO:<support+{n}@acme.example>")).await;
        assert!(reply.starts_with(if n <= 1000 { "250 2.1.5" } else { "452 4.5.3" }), "{n}: {reply}");
    }
}

#[tokio::test]
async fn a_spool_without_room_defers() {
    let listener = Listener::start_with(|service| {
        service.spool = Spool::new("/nonexistent");
    });
    let mut client = listener.client().await;
    client.say("MAIL FROM:<>").await;
    client.say("RCPT TO:<support@acme.example>").await;
    client.say("DATA").await;
    let message = format!("X: a\r\n\r\n{}.", "0123456789\r\n".repeat(7000));
    assert!(client.say(&message).await.starts_with("452 4.3.1"));
}

#[tokio::test]
async fn silence_is_bounded() {
    let short = Duration::from_millis(400);
    let listener = Listener::start_with(|service| {
        service.timeouts = Timeouts { command: short, data: short, message: short, drain: short, first: short };
    });
    let mut idle = listener.client().await;
    assert_eq!(idle.rest().await, "421 4.4.2 timeout\r\n");
    let mut stalled = listener.client().await;
    stalled.send("MAIL FROM:<>\r\nRCPT TO:<support@acme.example>\r\nDATA\r\nSubject: a\r\n").await;
    assert!(stalled.rest().await.ends_with("421 4.4.2 timeout\r\n"));
}

#[tokio::test]
async fn at_the_end_idle_sessions_are_sent_away_and_a_transaction_finishes() {
    let listener = Listener::start_with(|service| service.hand_over.delay = Duration::from_millis(200));
    let mut idle = listener.client().await;
    let mut busy = listener.client().await;
    busy.say("MAIL FROM:<>").await;
    busy.say("RCPT TO:<support@acme.example>").await;
    busy.say("DATA").await;
    listener.shutdown.cancel();
    assert_eq!(idle.rest().await, "421 4.3.2 service is ending\r\n");
    assert_eq!(busy.say("Subject: a\r\n\r\n.").await, "250 2.0.0 taken");
    assert_eq!(busy.rest().await, "421 4.3.2 service is ending\r\n");
    timeout(PATIENCE, listener.tasks.wait()).await.unwrap();
    assert_eq!(listener.messages().len(), 1);
}

#[tokio::test]
async fn at_the_end_a_client_that_has_just_come_may_hand_over_its_first_message() {
    let listener = Listener::start();
    let mut client = listener.connect().await;
    assert!(client.reply().await.starts_with("220 "));
    listener.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.say("LHLO mx").await;
    client.say("MAIL FROM:<>").await;
    client.say("RCPT TO:<support@acme.example>").await;
    client.say("DATA").await;
    assert_eq!(client.say("Subject: a\r\n\r\n.").await, "250 2.0.0 taken");
    assert_eq!(client.rest().await, "421 4.3.2 service is ending\r\n");
    timeout(PATIENCE, listener.tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn at_the_end_a_client_that_was_told_that_we_are_there_may_hand_over_one_more_message() {
    let listener = Listener::start();
    let mut client = listener.client().await;
    client.say("MAIL FROM:<>").await;
    client.say("RCPT TO:<support@acme.example>").await;
    assert!(client.say("RSET").await.starts_with("250"));
    listener.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(client.say("MAIL FROM:<>").await.starts_with("250"));
    client.say("RCPT TO:<support@acme.example>").await;
    client.say("DATA").await;
    assert_eq!(client.say("Subject: a\r\n\r\n.").await, "250 2.0.0 taken");
    assert_eq!(client.rest().await, "421 4.3.2 service is ending\r\n");
    timeout(PATIENCE, listener.tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn at_the_end_an_endpoint_that_does_not_answer_is_not_waited_for_without_end() {
    let listener = Listener::start_with(|service| {
        service.hand_over.delay = Duration::from_secs(60);
        service.timeouts.drain = Duration::from_millis(200);
    });
    let mut busy = listener.client().await;
    busy.say("MAIL FROM:<>").await;
    busy.say("RCPT TO:<support@acme.example>").await;
    busy.say("DATA").await;
    busy.send("Subject: a\r\n\r\n.\r\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    listener.shutdown.cancel();
    let rest = busy.rest().await;
    assert!(rest.starts_with("451 4.3.2 ") && rest.contains("\r\n421 4.3.2 "), "{rest}");
    timeout(PATIENCE, listener.tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn a_connection_too_many_waits_its_turn_with_no_bad_greeting() {
    let listener = Listener::start();
    let clients = [listener.client().await, listener.client().await, listener.client().await];
    let mut waiting = listener.connect().await;
    let early = timeout(Duration::from_millis(50), waiting.reply()).await;
    assert!(early.is_err(), "{early:?}");
    drop(clients);
    assert!(waiting.reply().await.starts_with("220 "));
}

#[tokio::test]
async fn a_reload_counts_from_the_next_transaction() {
    let listener = Listener::start();
    let mut client = listener.client().await;
    client.say("MAIL FROM:<>").await;
    assert!(client.say("RCPT TO:<support@acme.example>").await.starts_with("250"));
    let old = listener.service.load_full();
    let connector =
        Connector { addresses: vec![Address::parse("new@acme.example").unwrap()], ..(*old.connector).clone() };
    listener.service.store(Arc::new(Service {
        connector: Arc::new(connector),
        hand_over: old.hand_over.clone(),
        limits: old.limits.clone(),
        spool: old.spool.clone(),
        hostname: old.hostname.clone(),
        peers: old.peers.clone(),
        timeouts: old.timeouts,
    }));
    assert!(client.say("RCPT TO:<second@acme.example>").await.starts_with("250"));
    client.say("RSET").await;
    client.say("MAIL FROM:<>").await;
    assert!(client.say("RCPT TO:<support@acme.example>").await.starts_with("451"));
    assert!(client.say("RCPT TO:<new@acme.example>").await.starts_with("250"));
}

/// Writes down each event's level and fields.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                self.0 += &format!(" {}={value:?}", field.name());
            }
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

#[tokio::test]
async fn one_line_tells_a_message_s_whole_way() {
    let journal = Journal::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(journal.clone()));
    let listener = Listener::start();
    let mut client = listener.client().await;
    client.say("MAIL FROM:<u@user.example>").await;
    client.say("RCPT TO:<support@acme.example>").await;
    client.say("RCPT TO:<second@acme.example>").await;
    client.say("DATA").await;
    let received = "Received: from c (c [192.0.2.1])\r\n\tby mx (Postfix) with ESMTP id 4XyZ;\r\n\tdate\r\n";
    let message = format!("{received}Message-ID: <a@user.example>\r\n\r\n");
    client.say(&format!("{message}.")).await;
    let lines: Vec<String> =
        journal.0.lock().unwrap().iter().filter(|line| line.starts_with("INFO")).cloned().collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in [
        "queue_id=\"4XyZ\"",
        "message_id=\"<a@user.example>\"",
        "connector=\"acme\"",
        "from=<u@user.example>",
        "to=\"<support@acme.example>,<second@acme.example>\"",
        &format!("size={}", message.len()),
        "auth=\"authenticated\"",
        "remote=\"-\"",
        "reply=\"<support@acme.example> 250 2.0.0 taken; <second@acme.example> 550 5.1.1 no such desk\"",
        "delay_ms=",
        "decision=\"mixed\"",
    ] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
}
