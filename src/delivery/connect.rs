//! From a base address to a connection: over TLS with a verified certificate, or within this host.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::outcome::Outcome;
use crate::config::BaseUrl;
use crate::relay::{handshake_reason, is_out_of_descriptors, tls_parameters};

/// Addresses tried at most.
const ADDRESSES_MAX: usize = 8;
/// Looking up the addresses.
const RESOLVE: Duration = Duration::from_secs(20);
/// A TCP connection to one address.
const CONNECT: Duration = Duration::from_secs(10);
/// The TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// A connection.
pub(super) enum Stream {
    /// Within this host.
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>, String),
}

/// Connects. `tls` is there where the address says https.
///
/// # Errors
/// The reply that says why not.
pub(super) async fn connect(name: &str, url: &BaseUrl, tls: Option<&Arc<ClientConfig>>) -> Result<Stream, Outcome> {
    let host = &url.host;
    let stream = dial(name, url).await?;
    // What is written is complete: waiting for more to fill a segment would only cost time.
    let _best_effort: std::io::Result<()> = stream.set_nodelay(true);
    let (true, Some(tls)) = (url.https, tls) else {
        return if url.https { Err(untrusted(name, host, "TLS is not set up")) } else { Ok(Stream::Plain(stream)) };
    };
    let server = ServerName::try_from(host.clone()).map_err(|error| untrusted(name, host, &error.to_string()))?;
    match timeout(HANDSHAKE, TlsConnector::from(Arc::clone(tls)).connect(server, stream)).await {
        Ok(Ok(stream)) => {
            let parameters = tls_parameters(&stream);
            Ok(Stream::Tls(Box::new(stream), parameters))
        }
        Ok(Err(error)) => Err(untrusted(name, host, &handshake_reason(&error, host))),
        Err(_) => Err(Outcome::later((4, 2), format!("{name}: {host}: timed out (the TLS handshake)"), "-")),
    }
}

fn untrusted(name: &str, host: &str, reason: &str) -> Outcome {
    Outcome::until_mended((7, 5), format!("{name}: {host}: no trusted TLS connection: {reason}"), "-")
}

async fn dial(name: &str, url: &BaseUrl) -> Result<TcpStream, Outcome> {
    let host = &url.host;
    let no_address = |error: &str| Outcome::later((4, 3), format!("{name}: {host}: no address found: {error}"), "-");
    let found = match timeout(RESOLVE, lookup_host((host.as_str(), url.port))).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) if is_out_of_descriptors() => return Err(no_descriptors(name, host)),
        Ok(Err(error)) => return Err(no_address(&error.to_string())),
        Err(_) => return Err(no_address("timed out")),
    };
    let mut errors = Vec::new();
    // Nothing leaves this host in plain text, whatever a name server or /etc/hosts says of localhost.
    for address in found.filter(|address| url.https || is_loopback(address.ip())).take(ADDRESSES_MAX) {
        let error = match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "timed out".to_owned(),
        };
        errors.push(format!("[{}]:{}: {error}", address.ip(), address.port()));
    }
    if is_out_of_descriptors() {
        return Err(no_descriptors(name, host));
    }
    if errors.is_empty() {
        return Err(no_address(if url.https { "the name has no address" } else { "the name has no loopback address" }));
    }
    Err(Outcome::later((4, 1), format!("{name}: {host}: cannot connect: {}", errors.join(", ")), "-"))
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn no_descriptors(name: &str, host: &str) -> Outcome {
    let text = format!("{name}: {host}: not contacted: Too many open files on our side; raise LimitNOFILE");
    Outcome::until_mended((3, 2), text, "-")
}
