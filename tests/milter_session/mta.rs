//! The MTA's side, octet by octet.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// What Postfix 3.7 offers.
pub const ACTIONS: u32 = 0x1ff;
/// What Postfix 3.7 offers.
pub const PROTOCOL: u32 = 0x1f_ffff;
pub const SKIP: u32 = 0x400;
pub const LEADING_SPACE: u32 = 0x10_0000;
pub const NO_REPLY_HEADER: u32 = 0x80;
/// The no-reply bits of MAIL and RCPT.
pub const NO_REPLY_ENVELOPE: u32 = 0xc000;

/// The MTA's side.
pub struct Mta<S> {
    pub stream: S,
}

pub fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32 + 1).to_be_bytes().to_vec();
    frame.push(code);
    frame.extend_from_slice(payload);
    frame
}

impl<S: AsyncRead + AsyncWrite + Unpin> Mta<S> {
    pub async fn send(&mut self, code: u8, payload: &[u8]) {
        self.stream.write_all(&frame(code, payload)).await.unwrap();
    }

    pub async fn receive(&mut self) -> (char, Vec<u8>) {
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
    pub async fn expect(&mut self, code: char) {
        let (found, payload) = self.receive().await;
        assert_eq!((found, payload.len()), (code, 0), "{}", String::from_utf8_lossy(&payload));
    }

    pub async fn expect_reply(&mut self, start: &str) {
        let (code, payload) = self.receive().await;
        let text = String::from_utf8_lossy(&payload).into_owned();
        assert!(code == 'y' && text.starts_with(start), "{code} {text}");
    }

    pub async fn expect_silence(&mut self) {
        let mut octet = [0];
        let read = timeout(Duration::from_millis(50), self.stream.read(&mut octet)).await;
        assert!(read.is_err(), "no answer is due, but got {read:?}");
    }

    pub async fn expect_close(&mut self) {
        let mut rest = Vec::new();
        let read = timeout(Duration::from_secs(5), self.stream.read_to_end(&mut rest)).await.expect("closed");
        assert!(read.is_err() || rest.is_empty(), "{rest:?}");
    }

    pub async fn negotiate(&mut self, version: u32, protocol: u32) -> u32 {
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
    pub async fn begin(&mut self) {
        self.negotiate(6, PROTOCOL).await;
        self.send(b'D', b"Cj\0mx.acme.example\0{daemon_name}\0smtpd\0v\0Postfix 3.7.11\0").await;
        self.send(b'C', b"client.example\x004\x9c\x40192.0.2.7\0").await;
        self.send(b'D', b"H{tls_version}\0TLSv1.3\0{cipher}\0TLS_AES_256_GCM_SHA384\0").await;
        self.send(b'H', b"helo.example\0").await;
    }

    pub async fn envelope(&mut self, sender: &str, recipients: &[&str]) {
        self.send(b'M', format!("<{sender}>\0SIZE=100\0").as_bytes()).await;
        for recipient in recipients {
            self.send(b'R', format!("<{recipient}>\0").as_bytes()).await;
        }
        self.send(b'D', b"Ti\x004ABC123\0").await;
        self.send(b'T', b"").await;
    }

    /// An envelope to a support address, up to the answer to DATA.
    pub async fn support(&mut self) {
        self.envelope("a@client.example", &["support@acme.example"]).await;
        self.expect('c').await;
    }

    pub async fn content(&mut self, fields: &[(&str, &str)], body: &[u8]) {
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
    pub async fn message(&mut self) {
        self.support().await;
        self.content(&[("Subject", " hello")], b"body\r\n").await;
    }
}
