//! The one word that a ticket gets about its sender, and the reasons for it.

use std::fmt;

use super::authenticate::Findings;
use super::authentication_results::Outcome;
use super::author::Author;
use crate::mail::Domain;

/// Whether the author of a message is who the From field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Proven by a domain that answers for the author's.
    Pass,
    /// Disproven: the author's domain says that this is not its mail, or the From field cannot be trusted.
    Fail,
    /// Neither.
    None,
}

/// The status with all that it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderAuth {
    /// The word.
    pub status: Status,
    /// What kept us from a better answer: another time it may be another.
    pub doubt: Option<Doubt>,
    reason: &'static str,
    summary: String,
}

/// Trouble that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The sender's name servers.
    Dns,
    /// Ourselves: spool, memory.
    Local,
}

impl Status {
    /// `pass`, `fail` or `none`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::None => "none",
        }
    }
}

impl SenderAuth {
    /// Weighs the findings; `own` is the domain of the connector that the message is for.
    pub(super) fn weigh(findings: &Findings, own: Option<&Domain>) -> Self {
        let (status, reason) = status(findings, own);
        let dns_trouble = status == Status::None
            && (findings.dmarc.outcome == Outcome::TempError
                || findings.spf.outcome == Outcome::TempError
                || findings.dkim_outcome() == Outcome::TempError);
        let from = findings.author.domain().map_or("-", Domain::as_str);
        let summary = format!(
            "dmarc={}; spf={}; dkim={}; arc={}; from={from}",
            findings.dmarc.outcome.as_str(),
            findings.spf.outcome.as_str(),
            findings.dkim_outcome().as_str(),
            findings.arc.as_str(),
        );
        Self { status, doubt: dns_trouble.then_some(Doubt::Dns), reason, summary }
    }

    /// Nothing is known of the sender, for a reason of ours.
    pub(super) fn unknown(reason: &'static str, doubt: Option<Doubt>) -> Self {
        Self { status: Status::None, doubt, reason, summary: String::new() }
    }

    /// Why the status is what it is, one token.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

/// The value of `X-Deskmilter-Sender-Auth`: `pass; reason=dmarc; dmarc=pass; spf=pass; ...`.
impl fmt::Display for SenderAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; reason={}", self.status.as_str(), self.reason)?;
        if self.summary.is_empty() { Ok(()) } else { write!(f, "; {}", self.summary) }
    }
}

fn status(findings: &Findings, own: Option<&Domain>) -> (Status, &'static str) {
    let author = match &findings.author {
        Author::Missing => return (Status::None, "from-missing"),
        Author::Ambiguous => return (Status::Fail, "from-ambiguous"),
        Author::Domain(domain) => domain,
    };
    // The company's own people on its own submission service: the MTA knows them better than any record does.
    if findings.login.is_some() && own == Some(author) {
        return (Status::Pass, "smtp-auth");
    }
    match findings.dmarc.outcome {
        Outcome::Pass => (Status::Pass, "dmarc"),
        Outcome::Fail => (Status::Fail, "dmarc"),
        Outcome::TempError => (Status::None, "dns-temporary"),
        _ => without_dmarc(findings, author),
    }
}

/// The author's domain publishes no DMARC policy: alignment is judged as DMARC's relaxed mode would, without its records. A
/// domain answers for itself and for those below it.
fn without_dmarc(findings: &Findings, author: &Domain) -> (Status, &'static str) {
    let answers = |domain: &str| Domain::parse(domain).is_ok_and(|domain| is_at_or_below(author, &domain));
    let signed =
        |outcome| findings.dkim.iter().any(|signature| signature.outcome == outcome && answers(&signature.domain));
    let spf_answers = answers(&findings.spf.domain);
    if signed(Outcome::Pass) {
        return (Status::Pass, "dkim-aligned");
    }
    match findings.spf.outcome {
        Outcome::Pass if spf_answers => (Status::Pass, "spf-aligned"),
        _ if signed(Outcome::TempError) => (Status::None, "dns-temporary"),
        Outcome::TempError if spf_answers => (Status::None, "dns-temporary"),
        Outcome::Fail if spf_answers => (Status::Fail, "spf"),
        _ => (Status::None, "nothing-aligned"),
    }
}

/// Whether `name` is `domain` or a name below it; a top-level domain answers for nobody.
fn is_at_or_below(name: &Domain, domain: &Domain) -> bool {
    let below = name.as_str().strip_suffix(domain.as_str());
    domain.as_str().contains('.') && below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_answers_for_itself_and_below_but_not_beside() {
        let domain = |name| Domain::parse(name).unwrap();
        assert!(is_at_or_below(&domain("a.example"), &domain("a.example")));
        assert!(is_at_or_below(&domain("mail.a.example"), &domain("a.example")));
        assert!(!is_at_or_below(&domain("a.example"), &domain("mail.a.example")));
        assert!(!is_at_or_below(&domain("nota.example"), &domain("a.example")));
        assert!(!is_at_or_below(&domain("a.example"), &domain("example")));
    }
}
