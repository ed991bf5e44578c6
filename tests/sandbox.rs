//! The embedded ticket endpoint, heard from outside by a client with real TLS.

#![cfg(test)]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deskmilter::mail::Domain;
use deskmilter::sandbox::{Account, AuthStatus, Fault, Sandbox, SandboxOptions, Ticket};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// No step of these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

const MESSAGE: &str = "Message-ID: <one@user.example>\r\nFrom: =?utf-8?q?J=C3=B6rg?= <joerg@user.example>\r\n\
     Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX-Deskmilter-Sender-Auth: pass; dmarc=pass\r\n\r\nHelp\r\n";

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn options(directory: &Path) -> SandboxOptions {
    let account = |name: &str| Account { domain: domain(name), username: format!("desk@{name}"), password_file: None };
    SandboxOptions {
        directory: directory.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        listen_tls: Some("127.0.0.1:0".parse().unwrap()),
        hostname: domain("desk.example"),
        accounts: vec![account("acme.example"), account("other.example")],
        faults: Vec::new(),
    }
}

struct Desk {
    directory: tempfile::TempDir,
    sandbox: Sandbox,
    password: String,
}

impl Desk {
    async fn start(faults: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let faults: Vec<Fault> = faults.iter().map(|fault| fault.parse().unwrap()).collect();
        let sandbox = Sandbox::start(SandboxOptions { faults, ..options(directory.path()) }).await.unwrap();
        let password = sandbox.accounts()[0].1.as_ref().unwrap().expose().to_vec();
        Self { directory, sandbox, password: String::from_utf8(password).unwrap() }
    }

    async fn restart(self) -> Self {
        self.sandbox.stop().await;
        let sandbox = Sandbox::start(options(self.directory.path())).await.unwrap();
        assert!(sandbox.accounts().iter().all(|(_, password)| password.is_none()), "a password is shown once");
        Self { sandbox, ..self }
    }

    /// In plain text, greeting read.
    async fn plain(&self) -> Client {
        let mut client = Client::over(TcpStream::connect(self.sandbox.address()).await.unwrap());
        assert!(client.reply().await.starts_with("220 desk.example ESMTP"));
        client
    }

    /// Under TLS, EHLO said.
    async fn tls(&self) -> Client {
        let mut stream = TcpStream::connect(self.sandbox.address()).await.unwrap();
        stream.write_all(b"EHLO mx\r\nSTARTTLS\r\n").await.unwrap();
        let mut said = String::new();
        while !said.contains("220 2.0.0") {
            let mut octet = [0];
            timeout(PATIENCE, stream.read_exact(&mut octet)).await.unwrap().unwrap();
            said.push(char::from(octet[0]));
            assert!(!said.contains("221") && !said.contains("503"), "{said}");
        }
        while !said.ends_with('\n') {
            said.push(char::from(stream.read_u8().await.unwrap()));
        }
        let mut client = Client::over(self.handshake(stream, "localhost").await.unwrap());
        assert!(client.say("EHLO mx").await.starts_with("250"));
        client
    }

    async fn handshake(&self, stream: TcpStream, name: &str) -> io::Result<impl AsyncRead + AsyncWrite + use<>> {
        self.handshake_with(stream, name, rustls::ALL_VERSIONS).await
    }

    async fn handshake_with(
        &self,
        stream: TcpStream,
        name: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> io::Result<impl AsyncRead + AsyncWrite + use<>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.sandbox.ca_file()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
    }

    /// Under TLS and logged in for acme.example.
    async fn logged_in(&self) -> Client {
        let mut client = self.tls().await;
        let reply = client.say(&plain("desk@acme.example", &self.password)).await;
        assert_eq!(reply, "235 2.7.0 authentication successful");
        client
    }

    fn ticket(&self, id: u64) -> Ticket {
        let file = self.sandbox.tickets().join(format!("{id:06}/ticket.json"));
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    /// What is in the tickets' folder, unfinished things included.
    fn folders(&self) -> Vec<String> {
        let entries = fs::read_dir(self.sandbox.tickets()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

struct Client(BufReader<Box<dyn Stream>>);

impl Client {
    fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self(BufReader::new(Box::new(Box::pin(stream))))
    }

    async fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a reply in time").unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }

    async fn send(&mut self, octets: &[u8]) {
        self.0.write_all(octets).await.unwrap();
        self.0.flush().await.unwrap();
    }

    async fn say(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes()).await;
        self.reply().await
    }

    /// Sends a message; the reply after the data, or the first refusal.
    async fn mail(&mut self, recipients: &[&str], message: &str) -> String {
        let mut commands = vec!["MAIL FROM:<joerg@user.example>".to_owned()];
        commands.extend(recipients.iter().map(|to| format!("RCPT TO:<{to}>")));
        commands.push("DATA".to_owned());
        for command in commands {
            let reply = self.say(&command).await;
            if !reply.starts_with(['2', '3']) {
                return reply;
            }
        }
        self.say(&format!("{message}.")).await
    }

    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("a close in time");
        String::from_utf8(rest).unwrap()
    }
}

fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}")))
}

fn answer(id: &str, to: &str) -> String {
    format!("Message-ID: <{id}>\r\nIn-Reply-To: {to}\r\nSubject: Re\r\n\r\nAnswer\r\n")
}

#[tokio::test]
async fn nothing_is_taken_in_plain_text() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.plain().await;
    client.send(b"EHLO mx\r\n").await;
    let mut capabilities = String::new();
    while !capabilities.contains("250 ") {
        client.0.read_line(&mut capabilities).await.unwrap();
    }
    for capability in ["STARTTLS", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "PIPELINING", "ENHANCEDSTATUSCODES"] {
        assert!(capabilities.contains(capability), "{capabilities}");
    }
    assert!(!capabilities.contains("AUTH") && !capabilities.contains("CHUNKING"), "{capabilities}");
    assert_eq!(client.say("MAIL FROM:<a@b.example>").await, "530 5.7.0 Must issue a STARTTLS command first");
    assert!(client.say(&plain("desk@acme.example", &desk.password)).await.starts_with("538 5.7.11"));
    assert!(client.say("LHLO mx").await.starts_with("500"));
    assert_eq!(client.say("QUIT").await, "221 2.0.0 bye");
}

#[tokio::test]
async fn commands_injected_behind_starttls_never_count() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.plain().await;
    client.send(b"EHLO mx\r\nSTARTTLS\r\nMAIL FROM:<evil@user.example>\r\n").await;
    assert!(client.rest().await.contains("503 5.5.0"));
}

#[tokio::test]
async fn the_certificate_holds_for_its_names_alone() {
    let desk = Desk::start(&[]).await;
    let address = desk.sandbox.tls_address().unwrap();
    for (name, right) in
        [("localhost", true), ("127.0.0.1", true), ("::1", true), ("desk.example", true), ("evil.example", false)]
    {
        let stream = TcpStream::connect(address).await.unwrap();
        let outcome = desk.handshake(stream, name).await;
        assert_eq!(outcome.is_ok(), right, "{name}");
        if let Ok(stream) = outcome {
            assert!(Client::over(stream).reply().await.starts_with("220 "));
        }
    }
}

#[tokio::test]
async fn mail_over_the_authenticated_path_becomes_an_authenticated_ticket() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.logged_in().await;
    let reply = client.mail(&["support@acme.example", "billing@acme.example"], MESSAGE).await;
    assert_eq!(reply, "250 2.0.0 ticket 1 created");
    assert_eq!(desk.folders(), ["000001"]);
    let ticket = desk.ticket(1);
    assert_eq!(ticket.subject, "Grüße");
    assert_eq!(ticket.tags, ["system_authenticated_email_ticket"]);
    assert_eq!(ticket.passage.from, "Jörg <joerg@user.example>");
    assert_eq!(ticket.passage.sender, "joerg@user.example");
    assert_eq!(ticket.passage.recipients, ["support@acme.example", "billing@acme.example"]);
    assert_eq!(ticket.passage.message_id.as_deref(), Some("one@user.example"));
    assert_eq!(ticket.passage.auth_status, AuthStatus::Authenticated);
    assert_eq!(ticket.passage.credential.as_deref(), Some("desk@acme.example"));
    assert_eq!((ticket.passage.sender_auth.as_str(), ticket.passage.tls.as_str()), ("pass", "TLSv1.3"));
    assert_eq!(ticket.passage.sender_auth_reasons, "dmarc=pass");
    assert_eq!(fs::read(desk.sandbox.tickets().join("000001/message.eml")).unwrap(), MESSAGE.as_bytes());
}

#[tokio::test]
async fn implicit_tls_and_tls_1_2_work_and_commands_may_be_pipelined() {
    let desk = Desk::start(&[]).await;
    let stream = TcpStream::connect(desk.sandbox.tls_address().unwrap()).await.unwrap();
    let stream = desk.handshake_with(stream, "localhost", &[&rustls::version::TLS12]).await.unwrap();
    let mut client = Client::over(stream);
    let login = plain("desk@acme.example", &desk.password);
    let one = "MAIL FROM:<>\r\nRCPT TO:<support@acme.example>\r\nDATA\r\nSubject: a\r\n\r\n.\r\n";
    client.send(format!("EHLO mx\r\n{login}\r\n{}QUIT\r\n", one.repeat(2)).as_bytes()).await;
    let said = client.rest().await;
    assert!(!said.contains("STARTTLS") && said.contains("AUTH PLAIN LOGIN"), "{said}");
    assert!(said.contains("ticket 1 created") && said.contains("ticket 2 created") && said.contains("221 "), "{said}");
    assert_eq!(desk.ticket(2).passage.tls, "TLSv1.2");
}

#[tokio::test]
async fn forwarded_mail_becomes_an_unauthenticated_ticket_that_claims_nothing() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.tls().await;
    assert!(client.mail(&["support@acme.example"], MESSAGE).await.starts_with("250"));
    let ticket = desk.ticket(1);
    assert!(ticket.tags.is_empty());
    assert_eq!(ticket.passage.auth_status, AuthStatus::Unauthenticated);
    assert_eq!((ticket.passage.sender_auth.as_str(), ticket.passage.credential), ("none", None));
}

#[tokio::test]
async fn each_session_reaches_its_own_domains_alone() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.logged_in().await;
    assert!(client.mail(&["support@other.example"], MESSAGE).await.starts_with("550 5.7.1"));
    assert!(client.say("RSET").await.starts_with("250"));
    assert!(client.mail(&["support@else.example"], MESSAGE).await.starts_with("550 5.7.1"));
    let mut forwarder = desk.tls().await;
    assert!(forwarder.mail(&["support@else.example"], MESSAGE).await.starts_with("550 5.7.1 relaying"));
    assert!(forwarder.say("RSET").await.starts_with("250"));
    assert!(forwarder.mail(&["support@other.example"], MESSAGE).await.starts_with("250"));
}

#[tokio::test]
async fn wrong_credentials_are_refused_three_times_and_then_not_heard() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.tls().await;
    let acting_as_another =
        format!("AUTH PLAIN {}", STANDARD.encode(format!("desk@other.example\0desk@acme.example\0{}", desk.password)));
    for attempt in [plain("desk@acme.example", "wrong"), plain("desk@other.example", &desk.password), acting_as_another]
    {
        assert_eq!(client.say(&attempt).await, "535 5.7.8 authentication credentials invalid");
    }
    let right = plain("desk@acme.example", &desk.password);
    assert_eq!(client.say(&right).await, "421 4.7.0 too many failed logins");
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn auth_login_works_too() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.tls().await;
    assert_eq!(client.say("AUTH LOGIN").await, "334 VXNlcm5hbWU6");
    assert_eq!(client.say(&STANDARD.encode("desk@acme.example")).await, "334 UGFzc3dvcmQ6");
    assert!(client.say(&STANDARD.encode(&desk.password)).await.starts_with("235"));
}

#[tokio::test]
async fn answers_become_updates_and_unauthenticated_ones_are_tagged() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.logged_in().await;
    client.mail(&["support@acme.example"], MESSAGE).await;
    let reply = client.mail(&["support@acme.example"], &answer("two@user.example", "<one@user.example>")).await;
    assert_eq!(reply, "250 2.0.0 ticket 1 updated, update 1");
    assert_eq!(desk.ticket(1).tags, ["system_authenticated_email_ticket"]);

    // To the update, by a second id in the field, unauthenticated, after a restart.
    let desk = desk.restart().await;
    let mut forwarder = desk.tls().await;
    let message = answer("three@user.example", "<unknown@x.example> <two@user.example>");
    assert_eq!(forwarder.mail(&["support@acme.example"], &message).await, "250 2.0.0 ticket 1 updated, update 2");
    let ticket = desk.ticket(1);
    assert_eq!(ticket.tags, ["system_authenticated_email_ticket", "system_unauthenticated_email_update"]);
    assert_eq!(ticket.updates.len(), 2);
    assert!(ticket.updates[0].tags.is_empty());
    assert_eq!(ticket.updates[1].tags, ["system_unauthenticated_email_update"]);
    assert_eq!(fs::read(desk.sandbox.tickets().join("000001/update-002.eml")).unwrap(), message.as_bytes());

    // An answer from another domain's side is none.
    let reply = forwarder.mail(&["support@other.example"], &answer("x@y.example", "<one@user.example>")).await;
    assert_eq!(reply, "250 2.0.0 ticket 2 created");
    assert_eq!(desk.folders(), ["000001", "000002"]);
}

#[tokio::test]
async fn secrets_survive_a_restart_as_hashes_in_private_files() {
    let desk = Desk::start(&[]).await;
    let ca = fs::read(desk.sandbox.ca_file()).unwrap();
    let desk = desk.restart().await;
    assert_eq!(fs::read(desk.sandbox.ca_file()).unwrap(), ca);
    desk.logged_in().await;
    for name in ["credentials.json", "server.key"] {
        let file = desk.directory.path().join(name);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        assert!(!fs::read_to_string(&file).unwrap().contains(&desk.password));
    }
    let stored = fs::read_to_string(desk.directory.path().join("credentials.json")).unwrap();
    assert!(stored.contains("$argon2id$"), "{stored}");
}

#[tokio::test]
async fn a_password_file_is_written_once_and_taken_when_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("acme.password");
    let state = directory.path().join("state");
    let start = || {
        let mut options = options(&state);
        options.accounts.truncate(1);
        options.accounts[0].password_file = Some(file.clone());
        Sandbox::start(options)
    };
    let sandbox = start().await.unwrap();
    let (account, password) = &sandbox.accounts()[0];
    let password = String::from_utf8(password.as_ref().unwrap().expose().to_vec()).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap().trim_end(), password);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let endpoint: toml::Table = sandbox.connector_endpoint(account).parse().unwrap();
    let endpoint = endpoint["connector"]["endpoint"].as_table().unwrap();
    assert_eq!(endpoint["host"].as_str(), Some("localhost"));
    assert_eq!(endpoint["port"].as_integer(), Some(sandbox.address().port().into()));
    assert_eq!(endpoint["credentials"][0]["password_file"].as_str(), file.to_str());
    sandbox.stop().await;

    fs::remove_dir_all(&state).unwrap();
    let again = start().await.unwrap();
    assert_eq!(again.accounts()[0].1.as_ref().unwrap().expose(), password.as_bytes());
    again.stop().await;
    fs::remove_file(&file).unwrap();
    let message = start().await.unwrap_err().to_string();
    assert!(message.contains("acme.password") && message.contains("credentials.json"), "{message}");
}

#[tokio::test]
async fn faults_strike_as_told_and_leave_no_ticket() {
    for (fault, expected) in [("tempfail", "451 4.3.0"), ("reject", "550 5.7.1"), ("drop", "")] {
        let desk = Desk::start(&[fault]).await;
        let mut client = desk.logged_in().await;
        let reply = match fault {
            "drop" => {
                client.send(b"MAIL FROM:<>\r\nRCPT TO:<a@acme.example>\r\nDATA\r\nSubject: a\r\n").await;
                let said = client.rest().await;
                assert!(said.lines().count() <= 3, "{said}");
                String::new()
            }
            _ => client.mail(&["support@acme.example"], MESSAGE).await,
        };
        assert!(reply.starts_with(expected), "{fault}: {reply}");
        drop(client);
        let desk = desk.restart().await;
        assert!(desk.folders().is_empty(), "{fault}");
    }
    let desk = Desk::start(&["auth"]).await;
    let mut client = desk.tls().await;
    assert!(client.say(&plain("desk@acme.example", &desk.password)).await.starts_with("535 5.7.8"));
    let desk = Desk::start(&["tempfail:2"]).await;
    let mut client = desk.logged_in().await;
    for expected in ["250", "451", "250", "451"] {
        assert!(client.mail(&["support@acme.example"], MESSAGE).await.starts_with(expected));
    }
    let desk = Desk::start(&["slow:1"]).await;
    let started = Instant::now();
    desk.plain().await;
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn an_unfinished_message_leaves_nothing_behind() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.tls().await;
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<a@acme.example>\r\nDATA\r\nSubject: a\r\n").await;
    drop(client);
    // As a kill would leave it.
    fs::create_dir(desk.sandbox.tickets().join(".incoming-x1")).unwrap();
    let desk = desk.restart().await;
    assert!(desk.folders().is_empty());
}

#[tokio::test]
async fn odd_messages_are_kept_exactly() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.tls().await;
    let header = format!("X-Long: {}\r\n\r\nbody\r\n", "a".repeat(1 << 20));
    let many = format!("{}\r\nbody\r\n", "X-Many: a\r\n".repeat(10_000));
    for (message, kept) in [
        ("", ""),
        ("no header at all\r\n", "no header at all\r\n"),
        ("\r\nbody\r\n", "\r\nbody\r\n"),
        ("Subject: stray\r\n\r\na\rb\nc\0d\r\n", "Subject: stray\r\n\r\na\rb\nc\0d\r\n"),
        ("..\r\n", ".\r\n"),
        (&header, &header),
        (&many, &many),
    ] {
        let reply = client.mail(&["support@acme.example"], message).await;
        let number: u64 = reply.split(' ').nth(3).unwrap().parse().unwrap();
        let file = desk.sandbox.tickets().join(format!("{number:06}/message.eml"));
        assert_eq!(fs::read_to_string(file).unwrap(), kept);
    }
}

#[tokio::test]
async fn messages_that_are_too_large_are_refused() {
    let desk = Desk::start(&[]).await;
    let mut client = desk.tls().await;
    assert!(client.say("MAIL FROM:<> SIZE=52428801").await.starts_with("552 5.3.4"));
    let header = format!("X-Long: {}\r\n\r\n", "a".repeat(5 << 20));
    assert!(client.mail(&["support@acme.example"], &header).await.starts_with("552 5.3.4"));
    assert!(desk.folders().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tickets_from_many_connections() {
    let desk = Arc::new(Desk::start(&[]).await);
    let started = Instant::now();
    let senders = (0..10).map(|sender| {
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            let mut client = desk.tls().await;
            for n in 0..100 {
                let message = format!("Message-ID: <{sender}.{n}@user.example>\r\n\r\nHelp\r\n");
                assert!(client.mail(&["support@acme.example"], &message).await.starts_with("250"));
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    assert_eq!(desk.folders().len(), 1000);
    let ids: std::collections::HashSet<_> = (1..=1000).map(|id| desk.ticket(id).passage.message_id.unwrap()).collect();
    assert_eq!(ids.len(), 1000);
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
}

/// lettre, a mail library that knows nothing of us, as a ticket system's neighbours use it.
#[tokio::test]
async fn an_ordinary_mail_library_delivers_over_starttls_and_over_implicit_tls() {
    use lettre::transport::smtp::authentication::Credentials;
    use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
    use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

    let desk = Desk::start(&[]).await;
    let ca = Certificate::from_pem(&fs::read(desk.sandbox.ca_file()).unwrap()).unwrap();
    let tls = TlsParameters::builder("localhost".to_owned()).add_root_certificate(ca).build().unwrap();
    let message = Message::builder()
        .from("Ann <ann@customer.example>".parse().unwrap())
        .to("support@acme.example".parse().unwrap())
        .subject("Grüße")
        .body("Hello\r\n".to_owned())
        .unwrap();
    for (port, tls) in [
        (desk.sandbox.address().port(), Tls::Required(tls.clone())),
        (desk.sandbox.tls_address().unwrap().port(), Tls::Wrapper(tls)),
    ] {
        let mailer = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("localhost")
            .port(port)
            .tls(tls)
            .credentials(Credentials::new("desk@acme.example".to_owned(), desk.password.clone()))
            .build();
        mailer.send(message.clone()).await.unwrap();
    }
    assert_eq!(desk.folders().len(), 2);
    assert_eq!(desk.ticket(2).passage.auth_status, AuthStatus::Authenticated);
    assert_eq!(desk.ticket(2).subject, "Grüße");
}
