//! What any receiving provider finds out about a message: the methods alone, without a connector's rules.

use std::net::SocketAddr;
use std::time::Duration;

use super::authenticate::Authenticator;
use super::authentication_results::Outcome;
use crate::mail::{Budget, Domain, Mail};

/// How long the look-ups for one message may take in all.
const DNS_TIMEOUT: Duration = Duration::from_secs(20);
/// Signatures looked at, at most.
const SIGNATURES_MAX: usize = 20;

/// Judges messages as a provider does that knows neither their sender nor deskmilter.
#[derive(Debug)]
pub struct Examiner(Authenticator);

/// What the methods found.
#[derive(Debug, Clone)]
pub struct Examination {
    /// SPF of the address that handed the message over.
    pub spf: Outcome,
    /// The domain that SPF judged.
    pub spf_domain: String,
    /// Why SPF says so, where that is known.
    pub spf_reason: Option<&'static str>,
    /// The DKIM signatures, topmost first.
    pub dkim: Vec<SeenSignature>,
    /// ARC; `None` without an ARC set.
    pub arc: Outcome,
    /// DMARC of the From field's domain.
    pub dmarc: Outcome,
    /// The policy that the domain publishes.
    pub dmarc_policy: Option<&'static str>,
    /// The From field's domain, where all readers see the same one.
    pub author: Option<Domain>,
}

/// One DKIM signature.
#[derive(Debug, Clone)]
pub struct SeenSignature {
    /// The result.
    pub outcome: Outcome,
    /// `d=`, empty where the field cannot be read.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// `a=`.
    pub algorithm: &'static str,
    /// Why it did not pass.
    pub reason: Option<&'static str>,
}

impl Examiner {
    /// An examiner that asks `name_servers`, or the system's where there are none, and calls itself `hostname`. SPF is asked about
    /// loopback addresses too.
    ///
    /// # Errors
    /// The resolver cannot be set up.
    pub fn new(name_servers: &[SocketAddr], hostname: &Domain, budget: Budget) -> Result<Self, String> {
        Authenticator::new(name_servers, hostname, DNS_TIMEOUT, SIGNATURES_MAX, budget)
            .map(|authenticator| Self(authenticator.counting_loopback()))
    }

    /// Examines a message that has just come in.
    ///
    /// # Errors
    /// Our own trouble: the message cannot be read back, or memory is short.
    pub async fn examine(&self, mail: &Mail) -> Result<Examination, String> {
        let found = self.0.authenticate(mail, None).await?;
        let signature = |signature: &super::authenticate::Signature| SeenSignature {
            outcome: signature.outcome,
            domain: signature.domain.clone(),
            selector: signature.selector.clone(),
            algorithm: signature.algorithm,
            reason: signature.reason,
        };
        Ok(Examination {
            spf: found.spf.outcome,
            spf_domain: found.spf.domain.clone(),
            spf_reason: found.spf.reason,
            dkim: found.dkim.iter().map(signature).collect(),
            arc: found.arc,
            dmarc: found.dmarc.outcome,
            dmarc_policy: found.dmarc.policy,
            author: found.author.domain().cloned(),
        })
    }
}
