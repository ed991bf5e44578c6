//! A scripted ticket endpoint: a real SMTP service with real TLS that misbehaves where its rules say so, and records
//! everything that it was told.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// A name that its certificates are good for besides `localhost`.
pub const ENDPOINT_NAME: &str = "endpoint.desk.example";

/// What the endpoint does instead of its duty.
#[derive(Debug, Clone)]
pub enum Action {
    /// Says this, CRLF included, or anything else.
    Say(&'static str),
    /// Says this and closes.
    SayAndClose(&'static str),
    /// Closes without a word.
    Close,
    /// After the final dot: takes the message, and closes without a word.
    TakeAndClose,
    /// Says nothing more and keeps the connection.
    Hang,
    /// Does its duty, late.
    Late(Duration),
    /// Says a reply's beginning again and again, without a line feed.
    Endless,
    /// One octet at a time, for ever.
    Trickle,
}

/// Where: `GREETING`, `PLAIN EHLO`, `HANDSHAKE`, or the beginning of a line inside TLS; `CONTENT` is after 354 is said,
/// `DOT 1` after the first whole message was read, and so on.
#[derive(Debug, Clone)]
pub struct Rule {
    pub on: &'static str,
    /// On this connection only, counted from 1.
    pub connection: Option<usize>,
    pub action: Action,
}

/// The certificate that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    Good,
    Expired,
    NotYet,
    OtherName,
    SelfSigned,
    OtherCa,
}

#[derive(Debug, Clone)]
pub struct Script {
    /// Nobody listens.
    pub down: bool,
    pub implicit: bool,
    pub tls12_only: bool,
    pub certificate: Certificate,
    /// Extensions in plain text.
    pub plain: Vec<&'static str>,
    /// Extensions inside TLS.
    pub secure: Vec<&'static str>,
    /// Passwords and tokens that are taken at first.
    pub passwords: Vec<&'static str>,
    pub rules: Vec<Rule>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            down: false,
            implicit: false,
            tls12_only: false,
            certificate: Certificate::Good,
            plain: vec!["STARTTLS", "PIPELINING"],
            secure: vec!["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 10000000", "AUTH PLAIN LOGIN"],
            passwords: vec!["s3cret-one"],
            rules: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `user/password` of the session that it came by.
    pub login: String,
    pub envelope: Vec<String>,
    pub content: Vec<u8>,
}

/// What the endpoint saw.
#[derive(Debug, Default)]
pub struct Record {
    pub connections: usize,
    pub open: usize,
    pub most_open: usize,
    pub handshakes: usize,
    /// Lines outside TLS.
    pub plain: Vec<String>,
    /// Lines inside TLS, AUTH left out.
    pub lines: Vec<String>,
    /// `user/password` of each AUTH.
    pub logins: Vec<String>,
    /// Messages answered with 250.
    pub taken: Vec<Message>,
    /// Messages read whole, whatever was answered.
    pub read: usize,
}

pub struct Endpoint {
    pub port: u16,
    pub ca: String,
    record: Arc<Mutex<Record>>,
    passwords: Arc<Mutex<Vec<String>>>,
    duty: Arc<Mutex<Duty>>,
    authority: CertifiedIssuer<'static, KeyPair>,
    /// Rung for the listener, and for the sessions that are open.
    up: Arc<Notify>,
    mended: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

/// What each new connection meets.
#[derive(Clone)]
struct Duty {
    script: Script,
    tls: TlsAcceptor,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoint {
    pub async fn start(script: Script) -> Self {
        // A port that nobody else takes while it is down; otherwise any.
        let port = if script.down { crate::free_port() } else { 0 };
        Self::start_at(Ipv4Addr::LOCALHOST, port, script).await
    }

    /// At a place of the caller's choice; port 0 is any.
    pub async fn start_at(ip: Ipv4Addr, port: u16, script: Script) -> Self {
        let authority = authority("Test CA");
        let record: Arc<Mutex<Record>> = Arc::default();
        let shared = Arc::clone(&record);
        let passwords: Vec<String> = script.passwords.iter().map(|&password| password.to_owned()).collect();
        let passwords = Arc::new(Mutex::new(passwords));
        let known = Arc::clone(&passwords);
        let tls = tls(&script, &authority);
        let mut listener = if script.down { None } else { Some(TcpListener::bind((ip, port)).await.unwrap()) };
        let port = listener.as_ref().map_or(port, |open| open.local_addr().unwrap().port());
        let duty = Arc::new(Mutex::new(Duty { script, tls }));
        let at_hand = Arc::clone(&duty);
        let (up, mended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (waiting, over) = (Arc::clone(&up), Arc::clone(&mended));
        let task = tokio::spawn(async move {
            loop {
                let Some(open) = &listener else {
                    waiting.notified().await;
                    listener = Some(TcpListener::bind((ip, port)).await.unwrap());
                    continue;
                };
                let (stream, _) = open.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let number = {
                    let mut record = shared.lock().unwrap();
                    record.connections += 1;
                    record.open += 1;
                    record.most_open = record.most_open.max(record.open);
                    record.connections
                };
                let Duty { script, tls } = at_hand.lock().unwrap().clone();
                let (record, passwords) = (Arc::clone(&shared), Arc::clone(&known));
                let session = Peer { script, record, passwords, number, login: Mutex::default() };
                let over = Arc::clone(&over);
                tokio::spawn(async move {
                    tokio::select! {
                        _ = session.serve(stream, tls) => {}
                        () = over.notified() => {}
                    }
                    session.record.lock().unwrap().open -= 1;
                });
            }
        });
        Self { port, ca: authority.pem(), record, passwords, duty, authority, up, mended, task }
    }

    /// Begins anew: closes all connections, and does its duty on every one that comes from now on, with a good certificate of
    /// the same authority.
    pub fn mend(&self) {
        self.follow(Script::default());
    }

    /// Begins anew with another script: closes all connections, and follows it on every one that comes from now on.
    pub fn follow(&self, script: Script) {
        self.set_passwords(&script.passwords);
        let was_down = {
            let mut duty = self.duty.lock().unwrap();
            let was_down = duty.script.down;
            *duty = Duty { tls: tls(&script, &self.authority), script };
            was_down
        };
        if was_down {
            self.up.notify_one();
        }
        self.mended.notify_waiters();
    }

    /// Takes these passwords and tokens from now on, and no others.
    pub fn set_passwords(&self, passwords: &[&str]) {
        *self.passwords.lock().unwrap() = passwords.iter().map(|&password| password.to_owned()).collect();
    }

    pub fn see<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.record.lock().unwrap())
    }
}

/// An authority of that name.
pub(crate) fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server whose certificate is what the script says.
pub(crate) fn tls(script: &Script, ca: &CertifiedIssuer<'static, KeyPair>) -> TlsAcceptor {
    let names = match script.certificate {
        Certificate::OtherName => vec!["other.example".to_owned()],
        _ => vec!["localhost".to_owned(), ENDPOINT_NAME.to_owned()],
    };
    let mut params = CertificateParams::new(names).unwrap();
    match script.certificate {
        Certificate::Expired => {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        Certificate::NotYet => {
            params.not_before = date_time_ymd(2090, 1, 1);
            params.not_after = date_time_ymd(2091, 1, 1);
        }
        _ => {}
    }
    let key = KeyPair::generate().unwrap();
    let leaf = match script.certificate {
        Certificate::SelfSigned => params.self_signed(&key).unwrap(),
        Certificate::OtherCa => params.signed_by(&key, &authority("Other CA")).unwrap(),
        _ => params.signed_by(&key, ca).unwrap(),
    };
    let versions: &[&rustls::SupportedProtocolVersion] =
        if script.tls12_only { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

struct Peer {
    script: Script,
    record: Arc<Mutex<Record>>,
    passwords: Arc<Mutex<Vec<String>>>,
    number: usize,
    login: Mutex<String>,
}

/// The session goes on, or is over.
type Going = Option<()>;

impl Peer {
    async fn serve(&self, stream: TcpStream, tls: TlsAcceptor) -> Going {
        let mut stream = if self.script.implicit {
            stream
        } else {
            let mut plain = BufReader::new(stream);
            self.say(&mut plain, "GREETING", "220 endpoint.example ESMTP\r\n").await?;
            loop {
                let line = read_line(&mut plain).await?;
                self.record.lock().unwrap().plain.push(line.clone());
                match line.split(' ').next()? {
                    "EHLO" => self.say(&mut plain, "PLAIN EHLO", &extensions(&self.script.plain)).await?,
                    "STARTTLS" => {
                        self.say(&mut plain, "STARTTLS", "220 go\r\n").await?;
                        break;
                    }
                    _ => self.say(&mut plain, "PLAIN", "500 not here\r\n").await?,
                };
            }
            plain.into_inner()
        };
        if self.rule("HANDSHAKE").is_some() {
            // After the client's first words: before them it would be plain text after the reply to STARTTLS.
            tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await.ok()?;
            return self.say(&mut BufReader::new(stream), "HANDSHAKE", "").await.map(|_| ());
        }
        let stream = tls.accept(stream).await.ok()?;
        self.record.lock().unwrap().handshakes += 1;
        let mut stream = BufReader::new(stream);
        if self.script.implicit {
            self.say(&mut stream, "GREETING", "220 endpoint.example ESMTP\r\n").await?;
        }
        self.session(&mut stream).await
    }

    async fn session<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut BufReader<S>) -> Going {
        let mut envelope: Vec<String> = Vec::new();
        let mut recipients = 0;
        loop {
            let line = read_line(stream).await?;
            if !line.starts_with("AUTH") {
                self.record.lock().unwrap().lines.push(line.clone());
            }
            match line.split([' ', ':']).next()? {
                "EHLO" => self.say(stream, &line, &extensions(&self.script.secure)).await?,
                "AUTH" => self.auth(stream, &line).await?,
                "MAIL" => {
                    envelope = vec![line.clone()];
                    recipients = 0;
                    self.say(stream, &line, "250 2.1.0 ok\r\n").await?
                }
                "RCPT" => {
                    envelope.push(line.clone());
                    if self.say(stream, &line, "250 2.1.5 ok\r\n").await? {
                        recipients += 1;
                    }
                    true
                }
                "DATA" => {
                    let duty = if recipients == 0 { "554 5.5.1 no valid recipients\r\n" } else { "354 go ahead\r\n" };
                    let told = self.rule(&line).is_some();
                    let done = self.say(stream, &line, duty).await?;
                    if (recipients == 0 && !told) || (told && !done && !self.says_354(&line)) {
                        continue;
                    }
                    self.content(stream, &envelope).await?;
                    true
                }
                "RSET" => self.say(stream, &line, "250 2.0.0 ok\r\n").await?,
                "QUIT" => {
                    self.say(stream, &line, "221 2.0.0 bye\r\n").await?;
                    return None;
                }
                _ => self.say(stream, &line, "500 5.5.1 what?\r\n").await?,
            };
        }
    }

    async fn content<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut BufReader<S>,
        envelope: &[String],
    ) -> Going {
        if self.rule("CONTENT").is_some() {
            let mut some = [0; 1024];
            tokio::io::AsyncReadExt::read(stream, &mut some).await.ok()?;
            self.say(stream, "CONTENT", "").await?;
        }
        let mut content = Vec::new();
        loop {
            let mut line = Vec::new();
            // A line ends with CRLF and nothing else.
            while !line.ends_with(b"\r\n") {
                if stream.read_until(b'\n', &mut line).await.ok()? == 0 {
                    return None;
                }
            }
            if line == b".\r\n" {
                break;
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        let dot = {
            let mut record = self.record.lock().unwrap();
            record.read += 1;
            format!("DOT {}", record.read)
        };
        let taken = self.rule(&dot).is_none_or(|rule| matches!(rule, Action::Late(_) | Action::TakeAndClose));
        if taken {
            let login = self.login.lock().unwrap().clone();
            self.record.lock().unwrap().taken.push(Message { login, envelope: envelope.to_vec(), content });
        }
        self.say(stream, &dot, "250 2.0.0 ticket 4711\r\n").await.map(|_| ())
    }

    async fn auth<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut BufReader<S>, line: &str) -> Option<bool> {
        let mut words = line.split(' ').skip(1);
        let login = match (words.next()?, words.next()) {
            ("PLAIN", Some(response)) => plain(response),
            ("PLAIN", None) => {
                self.say(stream, "CHALLENGE", "334 \r\n").await?;
                plain(&read_line(stream).await?)
            }
            ("XOAUTH2", Some(response)) => bearer(response),
            ("XOAUTH2", None) => {
                self.say(stream, "CHALLENGE", "334 \r\n").await?;
                bearer(&read_line(stream).await?)
            }
            _ => {
                self.say(stream, "CHALLENGE", "334 VXNlcm5hbWU6\r\n").await?;
                let user = decode(&read_line(stream).await?);
                self.say(stream, "CHALLENGE", "334 UGFzc3dvcmQ6\r\n").await?;
                format!("{user}/{}", decode(&read_line(stream).await?))
            }
        };
        let good = self.passwords.lock().unwrap().iter().any(|password| login.ends_with(&format!("/{password}")));
        *self.login.lock().unwrap() = login.clone();
        self.record.lock().unwrap().logins.push(login);
        if !good && line.starts_with("AUTH XOAUTH2") && self.rule(line).is_none() {
            let explanation =
                STANDARD.encode(r#"{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}"#);
            self.say(stream, "CHALLENGE", &format!("334 {explanation}\r\n")).await?;
            if !read_line(stream).await?.is_empty() {
                return self.say(stream, line, "501 5.5.2 an empty line, please\r\n").await;
            }
        }
        let duty = if good { "235 2.7.0 welcome\r\n" } else { "535 5.7.8 bad credentials\r\n" };
        self.say(stream, line, duty).await
    }

    fn rule(&self, at: &str) -> Option<Action> {
        let fits = |rule: &&Rule| at.starts_with(rule.on) && rule.connection.is_none_or(|n| n == self.number);
        self.script.rules.iter().find(fits).map(|rule| rule.action.clone())
    }

    fn says_354(&self, at: &str) -> bool {
        matches!(self.rule(at), Some(Action::Say(text)) if text.starts_with("354"))
    }

    /// Does its duty (true) or what the rule says (false); `None` ends the session.
    async fn say<S: AsyncWrite + Unpin>(&self, stream: &mut S, at: &str, duty: &str) -> Option<bool> {
        let write = async |stream: &mut S, text: &str| {
            stream.write_all(text.as_bytes()).await.ok()?;
            stream.flush().await.ok()
        };
        match self.rule(at) {
            None => write(stream, duty).await.map(|()| true),
            Some(Action::Late(delay)) => {
                tokio::time::sleep(delay).await;
                write(stream, duty).await.map(|()| true)
            }
            Some(Action::Say(text)) => write(stream, text).await.map(|()| false),
            Some(Action::SayAndClose(text)) => {
                write(stream, text).await?;
                let _ = stream.shutdown().await;
                None
            }
            Some(Action::Close | Action::TakeAndClose) => None,
            Some(Action::Hang) => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                None
            }
            Some(Action::Endless) => loop {
                write(stream, &"250-".repeat(4096)).await?;
            },
            Some(Action::Trickle) => loop {
                write(stream, "2").await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            },
        }
    }
}

fn extensions(list: &[&str]) -> String {
    let mut lines = vec!["endpoint.example"];
    lines.extend(list);
    let last = lines.len() - 1;
    lines.iter().enumerate().map(|(n, line)| format!("250{}{line}\r\n", if n == last { ' ' } else { '-' })).collect()
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok()?;
    let line = String::from_utf8(line).unwrap();
    line.strip_suffix("\r\n").map(str::to_owned)
}

fn decode(text: &str) -> String {
    String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
}

fn bearer(text: &str) -> String {
    let text = decode(text);
    let text = text.strip_prefix("user=").and_then(|text| text.strip_suffix("\u{1}\u{1}")).unwrap();
    text.replace("\u{1}auth=Bearer ", "/")
}

fn plain(text: &str) -> String {
    let text = decode(text);
    let mut parts = text.split('\0').skip(1);
    format!("{}/{}", parts.next().unwrap(), parts.next().unwrap())
}
