//! From nothing to a verified TLS session: address, TCP, greeting, EHLO, STARTTLS, handshake, EHLO. No credential is in
//! reach of this code, and what it returns is encrypted by its type.

use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use rustls::CertificateError;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Trace;
use super::clock::{Clock, Elapsed, Step};
use super::dialogue::{Dialogue, Stream};
use super::failure::{Cause, Failure};
use super::reply::Extensions;
use super::route::Route;
use crate::config::Tls;

/// Addresses of the endpoint tried at most.
const ADDRESSES_MAX: usize = 8;

/// A TLS session with the endpoint, whose certificate was verified, after EHLO.
#[derive(Debug)]
pub(super) struct Secured {
    pub dialogue: Dialogue<TlsStream<TcpStream>>,
    pub extensions: Extensions,
    /// Protocol and cipher.
    pub tls: String,
}

/// Connects. Fails rather than going on without TLS.
pub(super) async fn connect(route: &Route, clock: Clock, trace: &mut Trace) -> Result<Secured, Failure> {
    let (stream, peer) = dial(route, clock, trace).await?;
    let stream = match route.encryption {
        Tls::Implicit => stream,
        Tls::Starttls => starttls(route, stream, &peer, clock).await?,
    };
    let stream = handshake(route, stream, &peer, clock).await?;
    let tls = parameters(&stream);
    trace.tls = Some(tls.clone());
    route.expiry.note(stream.get_ref().1.peer_certificates());
    let mut dialogue = Dialogue::new(stream, peer, clock);
    if route.encryption == Tls::Implicit {
        dialogue.expect(Step::Greeting, 220).await?;
    }
    // RFC 3207 section 4.2: what was offered in plain text is forgotten.
    let extensions = ehlo(route, &mut dialogue).await?;
    Ok(Secured { dialogue, extensions, tls })
}

/// A TCP connection to the first address that answers, and its `host[address]`.
async fn dial(route: &Route, clock: Clock, trace: &mut Trace) -> Result<(TcpStream, Arc<str>), Failure> {
    let fail = |cause| Failure::new(&route.host, cause);
    let found = match clock.within(Step::Resolve, lookup_host((&*route.host, route.port))).await {
        Ok(Ok(found)) => found,
        // The system's resolver does not always say that this was the reason.
        Ok(Err(_)) if is_out_of_descriptors() => return Err(fail(Cause::Descriptors)),
        Ok(Err(error)) => return Err(fail(Cause::Resolve(error.to_string()))),
        Err(elapsed) => return Err(fail(Cause::Timeout(elapsed.0))),
    };
    let mut errors = Vec::new();
    let attempts = clock.within(Step::Connect, async {
        for address in found.take(ADDRESSES_MAX) {
            let error = match timeout(clock.bounds().connect_one, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Some((stream, address)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "timed out".to_owned(),
            };
            errors.push(format!("[{}]:{}: {error}", address.ip(), address.port()));
        }
        None
    });
    match attempts.await {
        Ok(Some((stream, address))) => {
            // A command waits for its reply: waiting for more to fill a segment would only cost time.
            let _best_effort: io::Result<()> = stream.set_nodelay(true);
            let peer: Arc<str> = format!("{}[{}]", route.host, address.ip()).into();
            trace.remote = Some(format!("{peer}:{}", address.port()));
            Ok((stream, peer))
        }
        Ok(None) if is_out_of_descriptors() => Err(fail(Cause::Descriptors)),
        Ok(None) if errors.is_empty() => Err(fail(Cause::Resolve("the name has no address".to_owned()))),
        Ok(None) => Err(fail(Cause::Connect(errors.join(", ")))),
        Err(Elapsed(step)) => Err(fail(Cause::Timeout(step))),
    }
}

/// Whether there is no file descriptor left for a socket: then it is not the endpoint that failed.
pub(crate) fn is_out_of_descriptors() -> bool {
    let lacking = [Errno::EMFILE, Errno::ENFILE].map(|errno| Some(errno as i32));
    TcpSocket::new_v4().is_err_and(|error| lacking.contains(&error.raw_os_error()))
}

/// The plain-text part of the session (RFC 3207). Ours and not a library's because no octet that came before the
/// handshake may be taken for a reply after it, and because nothing but these three commands may ever go out in plain text.
async fn starttls(route: &Route, stream: TcpStream, peer: &Arc<str>, clock: Clock) -> Result<TcpStream, Failure> {
    let mut plain = Dialogue::new(stream, Arc::clone(peer), clock);
    plain.expect(Step::Greeting, 220).await?;
    if !ehlo(route, &mut plain).await?.starttls {
        return Err(plain.failure(Cause::NoStarttls));
    }
    plain.send(Step::Starttls, b"STARTTLS\r\n").await?;
    plain.expect(Step::Starttls, 220).await?;
    plain.into_stream().ok_or_else(|| Failure::new(peer, Cause::Injection))
}

async fn ehlo<S: Stream>(route: &Route, dialogue: &mut Dialogue<S>) -> Result<Extensions, Failure> {
    dialogue.send(Step::Ehlo, format!("EHLO {}\r\n", route.hello).as_bytes()).await?;
    dialogue.expect(Step::Ehlo, 250).await.map(|reply| Extensions::read(&reply))
}

async fn handshake(
    route: &Route,
    stream: TcpStream,
    peer: &Arc<str>,
    clock: Clock,
) -> Result<TlsStream<TcpStream>, Failure> {
    let connector = TlsConnector::from(Arc::clone(&route.tls));
    match clock.within(Step::Handshake, connector.connect(route.server_name.clone(), stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Failure::new(peer, Cause::Handshake(reason(&error, &route.host)))),
        Err(elapsed) => Err(Failure::timeout(peer, elapsed)),
    }
}

/// Why a handshake failed, in the words of a postmaster.
pub(crate) fn reason(error: &io::Error, host: &str) -> String {
    use rustls::Error as TlsError;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        Some(TlsError::InvalidCertificate(certificate)) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate expired".to_owned(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "certificate not valid yet".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("certificate not valid for the name {host}")
            }
            CertificateError::UnknownIssuer => {
                "certificate self-signed or from an unknown issuer; is ca_file right?".to_owned()
            }
            other => format!("certificate not acceptable: {other}"),
        },
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

/// Protocol and cipher, for example `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
pub(crate) fn parameters(stream: &TlsStream<TcpStream>) -> String {
    let (_, session) = stream.get_ref();
    let protocol = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLS",
    };
    let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown cipher");
    format!("{protocol} {cipher}")
}
