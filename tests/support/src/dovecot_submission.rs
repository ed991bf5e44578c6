//! Dovecot's submission service with XOAUTH2, and the authorization server that it asks about tokens.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::process::{Process, folder};
use crate::{SmtpSink, TlsIdentity, free_port};

/// A submission service on `localhost` that passes mail on to a sink. Ends when dropped.
#[derive(Debug)]
pub struct DovecotSubmission {
    process: Process,
    port: u16,
    identity: TlsIdentity,
    tokens: Tokens,
    /// Where its mail goes.
    pub sink: SmtpSink,
    _folder: TempDir,
}

type Tokens = Arc<Mutex<Vec<(String, String)>>>;

impl DovecotSubmission {
    /// Starts one that knows no token yet.
    ///
    /// # Panics
    /// When not root, when Dovecot is missing, or when it does not start; shows its log.
    pub fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a private Dovecot must be started as root");
        let (folder, identity, sink, port) =
            (folder("submission"), TlsIdentity::new("localhost"), SmtpSink::modern(), free_port());
        let at = |name: &str| folder.path().join(name);
        let tokens = Tokens::default();
        let introspection = authorization_server(Arc::clone(&tokens));
        identity.write_chain(&at("chain.pem"));
        fs::create_dir(at("mail")).expect("a folder for mailboxes");
        fs::set_permissions(at("mail"), PermissionsExt::from_mode(0o777)).expect("its mode");
        let oauth2 = format!(
            "introspection_mode = post\nintrospection_url = http://{introspection}/introspect\n\
             username_attribute = username\nactive_attribute = active\nactive_value = true\n"
        );
        fs::write(at("oauth2.conf"), oauth2).expect("oauth2.conf");
        fs::write(at("dovecot.conf"), configuration(folder.path(), port, sink.address())).expect("dovecot.conf");
        let mut command = Command::new("/usr/sbin/dovecot");
        command.arg("-F").arg("-c").arg(at("dovecot.conf"));
        let mut process = Process::start("Dovecot", &mut command, &at("log"));
        process.wait_until("an open port", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { process, port, identity, tokens, sink, _folder: folder }
    }

    /// Its port on `localhost`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its certificate.
    pub fn identity(&self) -> &TlsIdentity {
        &self.identity
    }

    /// The tokens that are good from now on, each with its user.
    ///
    /// # Panics
    /// When the authorization server has.
    pub fn set_tokens(&self, tokens: &[(&str, &str)]) {
        let tokens = tokens.iter().map(|&(token, user)| (token.to_owned(), user.to_owned())).collect();
        *self.tokens.lock().expect("the tokens") = tokens;
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Token introspection (RFC 7662): one answer a connection.
fn authorization_server(tokens: Tokens) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            let tokens = Arc::clone(&tokens);
            std::thread::spawn(move || answer(stream, &tokens));
        }
    });
    address
}

fn answer(mut stream: TcpStream, tokens: &Tokens) -> Option<()> {
    let mut request = Vec::new();
    let mut block = [0; 4096];
    loop {
        let count = stream.read(&mut block).ok().filter(|&count| count > 0)?;
        request.extend_from_slice(&block[..count]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() < length.unwrap_or(0) {
            continue;
        }
        let found = tokens.lock().ok()?.iter().find(|(token, _)| body.starts_with(&format!("token={token}&"))).cloned();
        let json = match found {
            Some((_, user)) => format!("{{\"active\":\"true\",\"username\":\"{user}\"}}"),
            None => "{\"active\":\"false\"}".to_owned(),
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
        stream.write_all(format!("{head} {}\r\n\r\n{json}", json.len()).as_bytes()).ok()?;
        return Some(());
    }
}

fn configuration(folder: &Path, port: u16, sink: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "base_dir = {folder}/run\n\
         state_dir = {folder}/state\n\
         log_path = /dev/stderr\n\
         auth_verbose = yes\n\
         protocols = submission\n\
         listen = 127.0.0.1\n\
         hostname = localhost\n\
         ssl = required\n\
         ssl_cert = <{folder}/chain.pem\n\
         ssl_key = <{folder}/chain.pem\n\
         auth_mechanisms = xoauth2\n\
         auth_failure_delay = 0\n\
         first_valid_uid = 1\n\
         mail_location = maildir:{folder}/mail/%u\n\
         passdb {{\n  driver = oauth2\n  mechanisms = xoauth2\n  args = {folder}/oauth2.conf\n}}\n\
         userdb {{\n  driver = static\n  args = uid=nobody gid=nogroup home={folder}/mail\n}}\n\
         submission_relay_host = {ip}\nsubmission_relay_port = {sink_port}\n\
         service submission-login {{\n  inet_listener submission {{\n    port = {port}\n  }}\n}}\n",
        ip = sink.ip(),
        sink_port = sink.port(),
    )
}
