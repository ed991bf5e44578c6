//! SPF (RFC 7208), DKIM (RFC 6376), ARC (RFC 8617) and DMARC (RFC 9989) of one message, by mail-auth, within bounds.

use std::net::{IpAddr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use base64::Engine;
use mail_auth::crypto::Algorithm;
use mail_auth::dkim::{DkimError, DomainKey, VerifySignature};
use mail_auth::dmarc::verify::DmarcParameters;
use mail_auth::{
    AuthenticatedMessage, DkimOutput, DkimResult, DmarcOutput, DmarcResult, DnsError, Error, MessageAuthenticator,
    Parameters, ResolverCache, SpfOutput, SpfResult, TxtRecord,
};
use tokio::time::{Instant, timeout_at};

use super::acceptable;
use super::authentication_results::{Builder, Outcome};
use super::author::Author;
use super::dmarc_record;
use super::dns::{self, Caches, Texts};
use super::spf::Check;
use crate::mail::{Budget, Domain, Header, Mail};

/// Octets of a message beyond which hashing it moves off the async threads.
const LARGE: usize = 256 * 1024;
/// Octets from which on the GNU C library always asks the system for memory and gives it back at once (32 MiB,
/// `M_MMAP_THRESHOLD` in mallopt(3)). Below that its threshold follows what was freed last: a few messages of 10 MiB later, each
/// thread's arena keeps tens of MiB for good.
const ALWAYS_GIVEN_BACK: usize = 32 * 1024 * 1024 + 4096;
/// The fields of an ARC set (RFC 8617 section 4.1).
const ARC_FIELDS: [&str; 3] = ["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"];
/// How long a message waits for its share of the memory budget.
const MEMORY_WAIT: Duration = Duration::from_secs(60);

/// Checks where messages come from. One for all sessions.
pub(super) struct Authenticator {
    resolver: MessageAuthenticator,
    texts: Texts,
    caches: Caches,
    budget: Budget,
    hostname: String,
    timeout: Duration,
    max_signatures: usize,
    /// Whether SPF is asked about a client on a loopback address.
    loopback_counts: bool,
}

/// What the methods found.
#[derive(Debug, Clone)]
pub(super) struct Findings {
    pub(super) spf: Spf,
    pub(super) dkim: Vec<Signature>,
    pub(super) arc: Outcome,
    pub(super) dmarc: Dmarc,
    pub(super) author: Author,
    /// The SASL login of the client, where the MTA saw one.
    pub(super) login: Option<String>,
}

/// SPF of the reverse-path, or of HELO for the null reverse-path.
#[derive(Debug, Clone)]
pub(super) struct Spf {
    pub(super) outcome: Outcome,
    /// The domain that was judged.
    pub(super) domain: String,
    mail_from: Option<String>,
    pub(super) reason: Option<&'static str>,
}

/// One DKIM signature.
#[derive(Debug, Clone)]
pub(super) struct Signature {
    pub(super) outcome: Outcome,
    /// `d=`, empty where the field cannot be read.
    pub(super) domain: String,
    pub(super) selector: String,
    /// `a=`, empty where the field cannot be read.
    pub(super) algorithm: &'static str,
    /// The beginning of `b=` (RFC 6008).
    fragment: String,
    pub(super) reason: Option<&'static str>,
}

/// DMARC of the author's domain.
#[derive(Debug, Clone)]
pub(super) struct Dmarc {
    pub(super) outcome: Outcome,
    pub(super) policy: Option<&'static str>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

/// What to reserve for a message of `size` octets. Pages that nobody writes to take no memory.
fn room_for(size: usize) -> usize {
    if size > LARGE { size.max(ALWAYS_GIVEN_BACK) } else { size }
}

impl Authenticator {
    /// # Errors
    /// The resolver cannot be set up.
    pub(super) fn new(
        name_servers: &[SocketAddr],
        hostname: &Domain,
        timeout: Duration,
        max_signatures: usize,
        budget: Budget,
    ) -> Result<Self, String> {
        let (resolver, texts) = dns::resolvers(name_servers)?;
        Ok(Self {
            resolver,
            texts,
            caches: Caches::default(),
            budget,
            hostname: hostname.to_string(),
            timeout,
            max_signatures,
            loopback_counts: false,
        })
    }

    /// The same, asking SPF about loopback addresses too: for rehearsals in which all servers are on one host, each on a loopback
    /// address of its own.
    pub(super) fn counting_loopback(mut self) -> Self {
        self.loopback_counts = true;
        self
    }

    /// Judges a message; `trusted_hop` says why SPF is not asked about the host that handed it over. All look-ups together end within the configured time; what is not known by then is a temporary error.
    ///
    /// # Errors
    /// The message could not be read back from the spool, or memory was short for too long: our own trouble.
    pub(super) async fn authenticate(
        &self,
        mail: &Mail,
        trusted_hop: Option<&'static str>,
    ) -> Result<Findings, String> {
        let memory = tokio::time::timeout(MEMORY_WAIT, self.budget.acquire(mail.size()))
            .await
            .map_err(|_| "no memory became free within 60 s".to_owned())?;
        let wire = self.wire(mail).await.map_err(|error| format!("spool: {error}"))?;
        let deadline = Instant::now() + self.timeout;
        let message =
            off_the_async_threads(wire.len() > LARGE, || AuthenticatedMessage::parse(&wire)).unwrap_or_default();
        let author = Author::of(&mail.headers, &message);

        let (spf, dkim, arc) = tokio::join!(
            self.spf(mail, trusted_hop, deadline),
            self.dkim(&message, deadline),
            self.arc(mail, &message, deadline)
        );
        let (mut judged, mut signatures) = (Vec::new(), Vec::new());
        let repeated = acceptable::repeated(&mail.headers);
        for output in dkim {
            let key = self.key_objection(&output, deadline).await;
            let (output, signature) = weighed(&message, output, key, &repeated);
            judged.push(output);
            signatures.push(signature);
        }
        let dmarc = self.dmarc(&judged, &spf.1, &author, deadline).await;
        let unread =
            mail.headers.named("DKIM-Signature").take(self.max_signatures).count().saturating_sub(signatures.len());
        signatures.extend((0..unread).map(|_| Signature::unreadable()));
        drop(memory);
        Ok(Findings { spf: spf.0, dkim: signatures, arc, dmarc, author, login: mail.connection.login.clone() })
    }

    /// The message as it is verified: of more DKIM signatures than the limit, the first ones count, and of those, the ones that can
    /// be verified in time.
    async fn wire(&self, mail: &Mail) -> std::io::Result<Vec<u8>> {
        let mut signatures = 0;
        let mut wire = Vec::with_capacity(room_for(usize::try_from(mail.size()).unwrap_or(0)));
        for field in mail.headers.iter() {
            let is_dkim = acceptable::is_dkim_signature(field);
            signatures += usize::from(is_dkim);
            if is_dkim && signatures > self.max_signatures
                || acceptable::is_signature(field) && !acceptable::is_bounded(field, mail.headers.len())
            {
                continue;
            }
            wire.extend_from_slice(field.raw());
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"\r\n");
        mail.body.append_to(&mut wire).await?;
        Ok(wire)
    }

    async fn spf(&self, mail: &Mail, trusted_hop: Option<&'static str>, deadline: Instant) -> (Spf, SpfOutput) {
        let helo = mail.connection.helo.as_deref().unwrap_or_default();
        let sender = mail.envelope.sender.as_str();
        let domain = sender.rsplit_once('@').map_or(helo, |(_, domain)| domain).to_owned();
        let mail_from = (!sender.is_empty()).then(|| sender.to_owned());
        let found = |output: SpfOutput, reason| {
            let outcome = spf_outcome(output.result());
            (Spf { outcome, domain: domain.clone(), mail_from: mail_from.clone(), reason }, output)
        };
        if trusted_hop.is_some() {
            return found(SpfOutput::new(domain.clone()), trusted_hop);
        }
        // Nobody publishes what this host itself may send.
        let counts = |ip: &IpAddr| self.loopback_counts || !ip.is_loopback();
        let Some(ip) = mail.connection.client.ip().map(|ip| ip.to_canonical()).filter(counts) else {
            return found(SpfOutput::new(domain.clone()), Some("client is this host"));
        };
        // RFC 7208 section 2.4: the null reverse-path is judged as postmaster@HELO; section 4.3: so is a missing local part.
        let sender = match sender.rsplit_once('@') {
            Some((local, _)) if !local.is_empty() => sender.to_owned(),
            _ => format!("postmaster@{domain}"),
        };
        let mut check = Check {
            resolver: &self.resolver,
            texts: &self.texts,
            cache: &self.caches.spf,
            ip,
            sender,
            helo,
            hostname: &self.hostname,
            lookups: 0,
            void_lookups: 0,
        };
        let judged = timeout_at(deadline, check.host(&domain)).await;
        match judged {
            Ok(result) => found(SpfOutput::new(domain.clone()).with_result(result), None),
            Err(_) => {
                found(SpfOutput::new(domain.clone()).with_result(SpfResult::TempError), Some("DNS took too long"))
            }
        }
    }

    async fn dkim<'m>(&'m self, message: &'m AuthenticatedMessage<'m>, deadline: Instant) -> Vec<DkimOutput<'m>> {
        self.fetch_keys(message, deadline).await;
        let verify = self.resolver.verify_dkim(Parameters::new(message).with_cache(&self.caches.dkim));
        match timeout_at(deadline, verify).await {
            Ok(outputs) => outputs,
            Err(_) => {
                let late = || DkimResult::TempError(Error::Dns(DnsError::Resolver("too late".to_owned())));
                message
                    .dkim_signatures()
                    .iter()
                    .map(|field| DkimOutput::from(late()).with_signature(&field.header))
                    .collect()
            }
        }
    }

    /// Looks up all keys side by side: the library asks for one after the other, so that a dead name server of one signer would
    /// use up the time of the next. What half of the time has not brought counts as failed for this message, and for others
    /// until its end (RFC 9520).
    async fn fetch_keys(&self, message: &AuthenticatedMessage<'_>, deadline: Instant) {
        let now = Instant::now();
        let half = now + deadline.saturating_duration_since(now) / 2;
        let keys = &self.caches.dkim.txt;
        let mut names: Vec<String> =
            message.dkim_signatures().iter().map(|field| field.header.domain_key().to_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        let look_ups = names.into_iter().map(|name| async move {
            let found = timeout_at(half, self.resolver.txt_lookup::<DomainKey>(name.as_str(), Some(keys))).await;
            if matches!(found, Err(_) | Ok(Err(Error::Dns(DnsError::Resolver(_))))) {
                let failed = Error::Dns(DnsError::Resolver("no answer in time".to_owned()));
                keys.insert(name.into(), TxtRecord::Error(failed), deadline.into_std());
            }
        });
        side_by_side(look_ups).await;
    }

    /// What the key of a signature that has passed is not for.
    async fn key_objection(
        &self,
        output: &DkimOutput<'_>,
        deadline: Instant,
    ) -> Option<(DkimResult, Outcome, &'static str)> {
        let name = output.signature().filter(|_| *output.result() == DkimResult::Pass)?.domain_key();
        match timeout_at(deadline, self.texts.key_objection(name)).await {
            Ok(Ok(objection)) => objection.map(|why| (DkimResult::PermError(Error::Parse), Outcome::PermError, why)),
            Ok(Err(_)) | Err(_) => {
                let error = Error::Dns(DnsError::Resolver("too late".to_owned()));
                Some((DkimResult::TempError(error), Outcome::TempError, "DNS did not answer"))
            }
        }
    }

    async fn arc(&self, mail: &Mail, message: &AuthenticatedMessage<'_>, deadline: Instant) -> Outcome {
        let sets = mail.headers.named("ARC-Seal").count();
        if sets > self.max_signatures {
            return Outcome::Policy;
        }
        let verify = self.resolver.verify_arc(Parameters::new(message).with_cache(&self.caches.dkim));
        let Ok(output) = timeout_at(deadline, verify).await else { return Outcome::TempError };
        match dkim_outcome(output.result()) {
            // Without an ARC-Message-Signature the library looks no further; half a set is a broken chain (RFC 8617 section 5.2).
            Outcome::None if mail.headers.iter().any(|field| ARC_FIELDS.iter().any(|name| field.is(name))) => {
                Outcome::Fail
            }
            outcome => outcome,
        }
    }

    async fn dmarc(&self, dkim: &[DkimOutput<'_>], spf: &SpfOutput, author: &Author, deadline: Instant) -> Dmarc {
        let Some(domain) = author.domain() else { return Dmarc { outcome: Outcome::None, policy: None } };
        let names = dmarc_record::names(domain.as_str());
        let fetch = side_by_side(
            names.iter().map(|name| self.texts.fetch_dmarc(name, &self.caches.dmarc, deadline.into_std())),
        );
        if timeout_at(deadline, fetch).await.is_err() {
            return Dmarc { outcome: Outcome::TempError, policy: None };
        }
        // The library takes the author from the message; it gets the one that we have read.
        let from = format!("From: <author@{domain}>\r\n\r\n");
        let message = AuthenticatedMessage::parse(from.as_bytes()).unwrap_or_default();
        let parameters = DmarcParameters::new(&message, dkim, spf.domain(), spf);
        let verify = self.resolver.verify_dmarc(Parameters::new(parameters).with_cache(&self.caches.dmarc));
        match timeout_at(deadline, verify).await {
            Ok(output) => Dmarc { outcome: dmarc_outcome(&output), policy: output.record().map(|_| policy(&output)) },
            Err(_) => Dmarc { outcome: Outcome::TempError, policy: None },
        }
    }
}

/// What a result of the library is worth, for DMARC and for the record; `key` says what speaks against the key, `repeated` what is
/// in the message more often than it may be.
fn weighed<'m>(
    message: &'m AuthenticatedMessage<'m>,
    output: DkimOutput<'m>,
    key: Option<(DkimResult, Outcome, &'static str)>,
    repeated: &[(&str, usize)],
) -> (DkimOutput<'m>, Signature) {
    let field = output.signature().and_then(|signature| {
        message.dkim_signatures().iter().find(|field| std::ptr::eq(&raw const field.header, signature))
    });
    let Some(field) = field else {
        let signature = Signature::from(&output);
        return (output, signature);
    };
    // The third-party permission of RFC 6541 is looked for once the signature itself has been verified, and whether it is
    // there does not change what the signature says of its own domain (section 4.2).
    let output = match output.is_atps() {
        true => DkimOutput::from(DkimResult::Pass).with_signature(&field.header),
        false => output,
    };
    let found = Signature::from(&output);
    let objection = acceptable::objection(field.value, &field.header, repeated)
        .map(|(outcome, why)| (DkimResult::PermError(Error::Parse), outcome, why));
    match objection.or(key) {
        None => (output, found),
        Some((result, outcome, reason)) => (
            DkimOutput::from(result).with_signature(&field.header),
            Signature { outcome, reason: Some(reason), ..found },
        ),
    }
}

/// Waits for all of them at a time.
async fn side_by_side(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut waiting: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        waiting.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Runs `work` where it does not hold up other sessions, if it is long and the runtime allows.
fn off_the_async_threads<T>(long: bool, work: impl FnOnce() -> T) -> T {
    let many_threads = tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread;
    if long && many_threads { tokio::task::block_in_place(work) } else { work() }
}

fn spf_outcome(result: SpfResult) -> Outcome {
    match result {
        SpfResult::Pass => Outcome::Pass,
        SpfResult::Fail => Outcome::Fail,
        SpfResult::SoftFail => Outcome::SoftFail,
        SpfResult::Neutral => Outcome::Neutral,
        SpfResult::TempError => Outcome::TempError,
        SpfResult::PermError => Outcome::PermError,
        SpfResult::None => Outcome::None,
    }
}

/// A changed body and an expired signature are failures (RFC 8601 section 2.7.1); the library calls them neutral. A signature
/// with `l=` leaves room for anything after it, so it is not acceptable (RFC 6376 section 8.2).
fn dkim_outcome(result: &DkimResult) -> Outcome {
    match result {
        DkimResult::Pass => Outcome::Pass,
        DkimResult::None => Outcome::None,
        DkimResult::TempError(_) => Outcome::TempError,
        DkimResult::PermError(_) => Outcome::PermError,
        DkimResult::Fail(_) => Outcome::Fail,
        DkimResult::Neutral(Error::Dkim(DkimError::BodyLengthTag)) => Outcome::Policy,
        DkimResult::Neutral(Error::Dkim(DkimError::BodyHashMismatch | DkimError::SignatureExpired)) => Outcome::Fail,
        DkimResult::Neutral(Error::Arc(_)) => Outcome::Fail,
        DkimResult::Neutral(_) => Outcome::Neutral,
    }
}

fn dkim_reason(result: &DkimResult) -> Option<&'static str> {
    let error = match result {
        DkimResult::Pass | DkimResult::None => return None,
        DkimResult::Fail(error)
        | DkimResult::Neutral(error)
        | DkimResult::PermError(error)
        | DkimResult::TempError(error) => error,
    };
    Some(match error {
        Error::Dkim(DkimError::BodyHashMismatch) => "body was changed",
        Error::Dkim(DkimError::SignatureExpired) => "signature expired",
        Error::Dkim(DkimError::BodyLengthTag) => "l= leaves the body open",
        Error::Dkim(DkimError::PublicKeyRevoked) => "key revoked",
        Error::Dkim(DkimError::AuidMismatch) => "i= is not in d=",
        Error::Dkim(_) => "version, algorithm or canonicalization not supported",
        Error::Dns(DnsError::RecordNotFound(_)) => "no key",
        Error::Dns(DnsError::InvalidRecordType) => "key record cannot be read",
        Error::Dns(DnsError::Resolver(_)) => "DNS did not answer",
        Error::Crypto(_) => "signed fields were changed or another key signed",
        _ => "signature or key cannot be read",
    })
}

fn dmarc_outcome(output: &DmarcOutput) -> Outcome {
    match output.result() {
        DmarcResult::Pass => Outcome::Pass,
        DmarcResult::Fail(_) => Outcome::Fail,
        DmarcResult::TempError(_) => Outcome::TempError,
        // Several records or none that can be read: DMARC does not apply (RFC 9989 section 4.10).
        DmarcResult::PermError(_) => Outcome::PermError,
        DmarcResult::None => Outcome::None,
    }
}

fn policy(output: &DmarcOutput) -> &'static str {
    use mail_auth::dmarc::Policy;
    match output.policy() {
        Policy::Reject => "reject",
        Policy::Quarantine => "quarantine",
        Policy::None | Policy::Unspecified => "none",
    }
}

impl From<&DkimOutput<'_>> for Signature {
    fn from(output: &DkimOutput<'_>) -> Self {
        let mut found =
            Self { outcome: dkim_outcome(output.result()), reason: dkim_reason(output.result()), ..Self::unreadable() };
        if let Some(signature) = output.signature() {
            found.domain = signature.d.clone();
            found.selector = signature.s.clone();
            found.algorithm = match signature.a {
                Algorithm::RsaSha1 => "rsa-sha1",
                Algorithm::RsaSha256 => "rsa-sha256",
                Algorithm::Ed25519Sha256 => "ed25519-sha256",
                Algorithm::MlDsa44 => "mldsa44",
            };
            found.fragment =
                signature.b.get(..6).map(|b| base64::engine::general_purpose::STANDARD.encode(b)).unwrap_or_default();
        }
        found
    }
}

impl Signature {
    /// A field that the library could make nothing of.
    fn unreadable() -> Self {
        Self {
            outcome: Outcome::Neutral,
            domain: String::new(),
            selector: String::new(),
            algorithm: "",
            fragment: String::new(),
            reason: Some("field cannot be read"),
        }
    }
}

impl Findings {
    /// The best that any signature gives, for the summary.
    pub(super) fn dkim_outcome(&self) -> Outcome {
        use Outcome::{Fail, Neutral, Pass, PermError, Policy, TempError};
        [Pass, TempError, Fail, Policy, PermError, Neutral]
            .into_iter()
            .find(|outcome| self.dkim.iter().any(|signature| signature.outcome == *outcome))
            .unwrap_or(Outcome::None)
    }

    /// The Authentication-Results field.
    pub(super) fn field(&self, authserv_id: &str) -> Header {
        let mut results = Builder::new(authserv_id);
        if let Some(login) = &self.login {
            results.method("auth", Outcome::Pass, None, &[("smtp.auth", login)]);
        }
        let identity = match &self.spf.mail_from {
            Some(mail_from) => ("smtp.mailfrom", mail_from.as_str()),
            None => ("smtp.helo", self.spf.domain.as_str()),
        };
        results.method("spf", self.spf.outcome, self.spf.reason, &[identity]);
        if self.dkim.is_empty() {
            results.method("dkim", Outcome::None, Some("not signed"), &[]);
        }
        for signature in &self.dkim {
            let all = [
                ("header.d", signature.domain.as_str()),
                ("header.s", &signature.selector),
                ("header.b", &signature.fragment),
            ];
            let known: Vec<_> = all.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            results.method("dkim", signature.outcome, signature.reason, &known);
        }
        let policy = self.dmarc.policy.map(|policy| format!("p={policy}"));
        let from = self.author.domain().map(|domain| ("header.from", domain.as_str()));
        results.method("dmarc", self.dmarc.outcome, policy.as_deref(), from.as_slice());
        results.method("arc", self.arc, None, &[]);
        results.finish()
    }
}
