//! A ticket system's mail intake by HTTP or HTTPS: answers as osTicket, RT, Action Mailbox or GitLab document it, or misbehaves, and
//! keeps what it was asked.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::endpoint::{Certificate, Script, authority, tls};

/// osTicket's key, the password of Action Mailbox and, in base64, the secret of GitLab.
pub const TICKET_SECRET: &str = "S3CRETKEY4711S3CRETKEY4711";

/// A request, whole.
#[derive(Debug, Clone, Default)]
pub struct HttpRequest {
    /// `POST`.
    pub method: String,
    /// As in the request line.
    pub target: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The content, as long as `Content-Length` says.
    pub content: Vec<u8>,
}

/// What is answered.
#[derive(Debug, Clone)]
pub enum HttpAnswer {
    /// What osTicket answers to who shows [`TICKET_SECRET`].
    OsTicket,
    /// What RT answers.
    Rt,
    /// What Rails answers to who knows [`TICKET_SECRET`].
    ActionMailbox,
    /// What GitLab answers to a token made with [`TICKET_SECRET`].
    GitLab,
    /// This status, header lines and content.
    Say(u16, &'static str, &'static str),
    /// These octets and the end, whatever they are.
    Octets(&'static [u8]),
    /// These octets as soon as the header section has come.
    Early(&'static [u8]),
    /// The connection is closed after the request.
    Close,
    /// The connection is closed amid the request.
    CloseAmid,
    /// Nothing, for ever.
    Hang,
    /// An answer that never ends.
    Endless,
    /// These octets, and the connection stays open.
    Unfinished(&'static [u8]),
    /// Nothing is read beyond the header section.
    Deaf,
}

/// The intake. Ends when dropped.
#[derive(Debug)]
pub struct TicketHttp {
    port: u16,
    https: bool,
    ca: String,
    answer: Arc<Mutex<HttpAnswer>>,
    requests: Arc<Mutex<Vec<HttpRequest>>>,
    connections: Arc<Mutex<usize>>,
    _runtime: Runtime,
}

impl TicketHttp {
    /// Over plain HTTP, on 127.0.0.1.
    ///
    /// # Panics
    /// When it does not start.
    pub fn plain(answer: HttpAnswer) -> Self {
        Self::start(answer, None)
    }

    /// Over TLS, as `localhost`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn https(answer: HttpAnswer, certificate: Certificate) -> Self {
        Self::start(answer, Some(certificate))
    }

    fn start(answer: HttpAnswer, certificate: Option<Certificate>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let authority = authority("Ticket CA");
        let acceptor = certificate.map(|certificate| tls(&Script { certificate, ..Script::default() }, &authority));
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let answer = Arc::new(Mutex::new(answer));
        let (requests, connections): (Arc<Mutex<Vec<HttpRequest>>>, Arc<Mutex<usize>>) = Default::default();
        let told = (Arc::clone(&answer), Arc::clone(&requests), Arc::clone(&connections));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, requests, connections) = told.clone();
                *connections.lock().expect("the count") += 1;
                let acceptor: Option<TlsAcceptor> = acceptor.clone();
                tokio::spawn(async move {
                    // What a client breaks off is its own affair.
                    let _ = match acceptor {
                        None => serve(stream, &answer, &requests).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => serve(stream, &answer, &requests).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        let https = certificate.is_some();
        Self { port, https, ca: authority.pem(), answer, requests, connections, _runtime: runtime }
    }

    /// Its address, without a path.
    pub fn url(&self) -> String {
        if self.https { format!("https://localhost:{}", self.port) } else { format!("http://127.0.0.1:{}", self.port) }
    }

    /// The authority that vouches for it.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Answers differently from now on.
    ///
    /// # Panics
    /// When it died.
    pub fn answer(&self, answer: HttpAnswer) {
        *self.answer.lock().expect("the answer") = answer;
    }

    /// The requests that came whole, oldest first.
    ///
    /// # Panics
    /// When it died.
    pub fn requests(&self) -> Vec<HttpRequest> {
        self.requests.lock().expect("the requests").clone()
    }

    /// Connections so far.
    ///
    /// # Panics
    /// When it died.
    pub fn connections(&self) -> usize {
        *self.connections.lock().expect("the count")
    }
}

impl HttpRequest {
    /// A header field, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The fields of a form as RT reads them: `multipart/form-data` with `Content-Disposition: form-data; name="..."`.
    pub fn form(&self) -> BTreeMap<String, Vec<u8>> {
        let boundary = self.header("content-type").split("boundary=").nth(1).unwrap_or_default().trim_matches('"');
        let mut fields = BTreeMap::new();
        // The first boundary has no line before it.
        let content = [b"\r\n", self.content.as_slice()].concat();
        let mut rest = content.as_slice();
        let delimiter = format!("\r\n--{boundary}");
        while let Some(at) = find(rest, delimiter.as_bytes()) {
            let part = rest.get(..at).unwrap_or_default();
            if let Some(end) = find(part, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(part.get(..end).unwrap_or_default()).into_owned();
                let name = head.split("name=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
                fields.insert(name.to_owned(), part.get(end + 4..).unwrap_or_default().to_vec());
            }
            rest = rest.get(at + delimiter.len()..).unwrap_or_default();
        }
        fields
    }

    fn os_ticket(&self) -> (u16, String) {
        let known = self.header("x-api-key") == TICKET_SECRET;
        let says = |status, text: &str| (status, text.to_owned());
        match (self.method.as_str(), self.target.as_str()) {
            ("POST", "/api/tickets.email") if !known => says(401, "Valid API key required"),
            ("POST", "/api/tickets.email") if self.content.is_empty() => says(400, "Unable to read data"),
            ("POST", "/api/tickets.email") if self.header("content-type") != "message/rfc822" => {
                says(415, "Unsupported data format")
            }
            ("POST", "/api/tickets.email") => says(201, "471100"),
            (_, "/api/tickets.email") => says(405, "Method not allowed"),
            _ => says(404, "<html>osTicket</html>"),
        }
    }

    fn rt(&self) -> (u16, String) {
        let form = self.form();
        let text =
            |name: &str| String::from_utf8_lossy(form.get(name).map(Vec::as_slice).unwrap_or_default()).into_owned();
        let (queue, message) = (text("queue"), text("message"));
        let says = |text: &str| (200, text.to_owned());
        match (self.method.as_str(), self.target.as_str()) {
            ("POST", "/REST/1.0/NoAuth/mail-gateway") if queue == "Missing" => {
                says("temporary failure - RT couldn't find the queue: Missing")
            }
            ("POST", "/REST/1.0/NoAuth/mail-gateway") if message.contains("X-RT-Loop-Prevention") => {
                says("not ok - RT Recieved mail from itself")
            }
            ("POST", "/REST/1.0/NoAuth/mail-gateway") if message.is_empty() => says("not ok - no message"),
            ("POST", "/REST/1.0/NoAuth/mail-gateway") => says("ok\nTicket: 1\nQueue: General\n"),
            _ => (200, "<html>Login</html>".to_owned()),
        }
    }

    fn action_mailbox(&self) -> (u16, String) {
        let basic = format!("Basic {}", STANDARD.encode(format!("actionmailbox:{TICKET_SECRET}")));
        match (self.method.as_str(), self.target.as_str()) {
            ("POST", "/rails/action_mailbox/relay/inbound_emails") if self.header("authorization") != basic => {
                (401, "HTTP Basic: Access denied.\n".to_owned())
            }
            ("POST", "/rails/action_mailbox/relay/inbound_emails")
                if self.header("content-type") != "message/rfc822" =>
            {
                (415, String::new())
            }
            ("POST", "/rails/action_mailbox/relay/inbound_emails") => (204, String::new()),
            _ => (404, "<html>".to_owned()),
        }
    }

    fn gitlab(&self) -> (u16, String) {
        let unauthorized = (401, "{\"message\":\"401 Unauthorized\"}".to_owned());
        if !self.gitlab_token_is_good() || !self.target.starts_with("/api/v4/internal/mail_room/") {
            return unauthorized;
        }
        match self.header("content-type") {
            "text/plain" => (200, "{\"success\":true}".to_owned()),
            _ => (406, "{\"error\":\"The requested format is not supported\"}".to_owned()),
        }
    }

    /// As `Gitlab::MailRoom::Authenticator` does: HS256, the issuer, `iat` within five minutes.
    fn gitlab_token_is_good(&self) -> bool {
        let parts: Vec<&str> = self.header("gitlab-mailroom-api-request").split('.').collect();
        let [head, claims, tag] = parts.as_slice() else { return false };
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
        let json = |part: &str| serde_json::from_slice::<serde_json::Value>(&decoded(part)).unwrap_or_default();
        let key = STANDARD.decode(TICKET_SECRET_BASE64).expect("base64");
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
        let signed = aws_lc_rs::hmac::verify(&key, format!("{head}.{claims}").as_bytes(), &decoded(tag)).is_ok();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let claims = json(claims);
        let recent = claims["iat"].as_u64().is_some_and(|iat| iat + 300 > now && iat <= now);
        signed && json(head)["alg"] == "HS256" && claims["iss"] == "gitlab-mailroom" && recent
    }
}

/// [`TICKET_SECRET`] as GitLab keeps its own.
pub const TICKET_SECRET_BASE64: &str = "UzNDUkVUS0VZNDcxMVMzQ1JFVEtFWTQ3MTE=";

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    answer: &Mutex<HttpAnswer>,
    requests: &Mutex<Vec<HttpRequest>>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = read_head(&mut stream).await?;
    let answer = answer.lock().expect("the answer").clone();
    if let HttpAnswer::Early(octets) = answer {
        stream.write_all(octets).await?;
        stream.flush().await?;
        // The client may still be writing.
        tokio::time::sleep(Duration::from_millis(500)).await;
        return stream.shutdown().await;
    }
    let length = request.header("content-length").parse().unwrap_or(0);
    if matches!(answer, HttpAnswer::CloseAmid) {
        return Ok(());
    }
    if matches!(answer, HttpAnswer::Deaf) {
        tokio::time::sleep(Duration::from_secs(600)).await;
        return Ok(());
    }
    request.content = vec![0; length];
    stream.read_exact(&mut request.content).await?;
    requests.lock().expect("the requests").push(request.clone());
    let (status, content) = match answer {
        HttpAnswer::OsTicket => request.os_ticket(),
        HttpAnswer::Rt => request.rt(),
        HttpAnswer::ActionMailbox => request.action_mailbox(),
        HttpAnswer::GitLab => request.gitlab(),
        HttpAnswer::Say(status, fields, content) => {
            let answer = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n{content}", content.len());
            stream.write_all(answer.as_bytes()).await?;
            return stream.shutdown().await;
        }
        HttpAnswer::Octets(octets) => {
            stream.write_all(octets).await?;
            return stream.shutdown().await;
        }
        HttpAnswer::Close | HttpAnswer::CloseAmid | HttpAnswer::Early(_) | HttpAnswer::Deaf => return Ok(()),
        HttpAnswer::Unfinished(octets) => {
            stream.write_all(octets).await?;
            stream.flush().await?;
            tokio::time::sleep(Duration::from_secs(600)).await;
            return Ok(());
        }
        HttpAnswer::Hang => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            return Ok(());
        }
        HttpAnswer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            loop {
                stream.write_all(b"1000\r\n").await?;
                stream.write_all(&[b'o'; 4096]).await?;
                stream.write_all(b"\r\n").await?;
            }
        }
    };
    let content_type = if content.starts_with('{') { "application/json" } else { "text/plain; charset=utf-8" };
    let head = match status {
        204 => "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_owned(),
        _ => format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            content.len()
        ),
    };
    stream.write_all(format!("{head}{content}").as_bytes()).await?;
    stream.shutdown().await
}

async fn read_head<S: AsyncBufRead + Unpin>(stream: &mut S) -> io::Result<HttpRequest> {
    let mut request = HttpRequest::default();
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split(' ').map(str::to_owned);
    request.method = words.next().unwrap_or_default();
    request.target = words.next().unwrap_or_default();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 || line.trim_end().is_empty() {
            return Ok(request);
        }
        if let Some((name, value)) = line.split_once(':') {
            request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}
