//! A client of the metrics endpoint, and what it reads.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use crate::postfix::peers;
use crate::process::PATIENCE;

/// Prometheus' own tool, where `tests/peers/install.sh` unpacked it.
///
/// # Panics
/// When it is not there.
pub fn promtool() -> PathBuf {
    let program = peers().join("prometheus/usr/bin/promtool");
    assert!(program.is_file(), "{program:?} is missing; run tests/peers/install.sh");
    program
}

/// One HTTP exchange.
///
/// # Panics
/// When there is no whole answer in time.
pub fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    exchange(stream, path)
}

/// As [`http_get`], over a unix socket.
///
/// # Panics
/// As [`http_get`].
pub fn http_get_unix(socket: &Path, path: &str) -> (u16, String) {
    let stream = std::os::unix::net::UnixStream::connect(socket).unwrap_or_else(|e| panic!("{socket:?}: {e}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    exchange(stream, path)
}

fn exchange(mut stream: impl Read + Write, path: &str) -> (u16, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("a whole answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {head}")), body.to_owned())
}

/// The numbers of one look at `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    text: String,
    samples: HashMap<String, f64>,
}

impl Numbers {
    /// Reads them.
    ///
    /// # Panics
    /// When they are not told.
    pub fn at(address: SocketAddr) -> Self {
        let (status, text) = http_get(address, "/metrics");
        assert_eq!(status, 200, "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self { samples: samples.collect(), text }
    }

    /// As they were told.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The sum of all samples of `name` that have each of `labels`; 0 where there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let matches = |sample: &str| {
            let (own, rest) = sample.split_once('{').unwrap_or((sample, ""));
            let has: Vec<&str> =
                rest.trim_end_matches('}').split("\",").map(|label| label.trim_end_matches('"')).collect();
            own == name && wanted.iter().all(|label| has.contains(&label.trim_end_matches('"')))
        };
        self.samples.iter().filter(|(sample, _)| matches(sample)).map(|(_, value)| value).sum()
    }

    /// Whether there is any sample of `name`.
    pub fn has(&self, name: &str) -> bool {
        self.samples.keys().any(|sample| sample.split('{').next() == Some(name))
    }
}
