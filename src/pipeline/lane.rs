//! Connectors that act and connectors that only observe (`observe = true`), apart. Each kind judges a message as if the other were
//! not in the configuration; what the second kind decides is logged and goes no further, so that nothing of it can reach a
//! message.

use super::classify::Classifier;
use super::outbound::Outbound;
use super::{acceptable, authentication_results};
use crate::config::Config;
use crate::mail::{Connection, Envelope, Mail};

/// Signatures of a message that are named beside ours, at most.
const SIGNATURES_MAX: usize = 5;

/// The connectors of one kind, and what is decided for them.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) classifier: Classifier,
    pub(super) outbound: Outbound,
    pub(super) observes: bool,
}

impl Lane {
    /// What is done.
    pub(super) fn acting(config: &Config) -> Self {
        let config = config.acting();
        Self { classifier: Classifier::new(&config.connectors), outbound: Outbound::new(&config), observes: false }
    }

    /// What would be done, where a connector observes.
    pub(super) fn observing(config: &Config) -> Option<Self> {
        let config = config.observing()?;
        Some(Self {
            classifier: Classifier::new(&config.connectors),
            outbound: Outbound::observing(&config),
            observes: true,
        })
    }

    /// Whether such mail is its business.
    pub(super) fn concerns(&self, connection: &Connection, envelope: &Envelope) -> bool {
        self.classifier.concerns(envelope) || self.outbound.concerns(connection, envelope)
    }
}

/// What the programs that do the work today made of a message that is observed: for comparison.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Beside {
    /// `dkim=pass; spf=pass`, of the topmost Authentication-Results of this host: OpenDKIM's, if it verifies before us.
    pub(super) results: Option<String>,
    /// `selector/domain` of the signatures on the message as it came to us.
    pub(super) signed_by: Option<String>,
}

impl Beside {
    pub(super) fn of(mail: &Mail, authserv_id: &str) -> Self {
        let mut fields = mail.headers.named(authentication_results::NAME);
        let results = fields.find(|field| authentication_results::claims(field, authserv_id));
        let results = results.map(|field| authentication_results::results(field).join("; "));
        let signed_by: Vec<String> = mail
            .headers
            .named("DKIM-Signature")
            .take(SIGNATURES_MAX)
            .map(|field| {
                let unfolded = field.unfolded();
                let tags = acceptable::tags(&unfolded);
                let value = |name: &[u8]| {
                    let found = tags.iter().find(|(tag, _)| *tag == name);
                    found.map_or_else(String::new, |(_, value)| String::from_utf8_lossy(value).into_owned())
                };
                format!("{}/{}", value(b"s"), value(b"d"))
            })
            .collect();
        let said = |text: String| (!text.is_empty()).then_some(text);
        Self { results: results.and_then(said), signed_by: said(signed_by.join(",")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Body, Header, Headers};

    #[test]
    fn what_others_on_this_host_found_and_signed_is_named_and_what_strangers_claim_is_not() {
        let field = |name: &str, value: &str| Header::written(name, value);
        let headers = Headers::new(vec![
            field("Authentication-Results", "mx.other.example; dkim=pass"),
            field(
                "Authentication-Results",
                "mx.acme.example;\r\n\tdkim=fail reason=\"x; spf=pass\" (2048-bit (key)) header.d=a.example;\r\n\tdkim-atps=neutral",
            ),
            field("Authentication-Results", "mx.acme.example; dkim=pass"),
            field("DKIM-Signature", "v=1; a=rsa-sha256; d=acme.example;\r\n\ts=mail2026; b=x"),
            field("DKIM-Signature", "nonsense"),
        ]);
        let mail = Mail {
            connection: std::sync::Arc::default(),
            envelope: Envelope::default(),
            headers,
            body: Body::from_octets(Vec::new()),
            shortfall: None,
            queue_id: None,
        };
        let beside = Beside::of(&mail, "mx.acme.example");
        assert_eq!(beside.results.as_deref(), Some("dkim=fail; dkim-atps=neutral"));
        assert_eq!(beside.signed_by.as_deref(), Some("mail2026/acme.example,/"));
        let nothing = Beside::of(&mail.with_headers(Headers::new(Vec::new())), "mx.acme.example");
        assert_eq!(nothing, Beside { results: None, signed_by: None });
    }
}
