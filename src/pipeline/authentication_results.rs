//! The Authentication-Results field (RFC 8601): what we write, and whose one is that we read.

use std::fmt::Write;

use crate::mail::Header;

/// The field's name.
pub(super) const NAME: &str = "Authentication-Results";
/// Octets of a property value at most; longer ones are cut, so that lines stay below 998.
const VALUE_MAX: usize = 255;
/// Results that are read of one field at most.
const RESULTS_MAX: usize = 10;

/// The result of a method, with RFC 8601's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to judge: no record, no signature.
    None,
    /// Passed.
    Pass,
    /// Failed.
    Fail,
    /// SPF: probably not authorised.
    SoftFail,
    /// No statement, or not to be evaluated.
    Neutral,
    /// Not acceptable to us, whatever it proves.
    Policy,
    /// DNS trouble: another time the result may be another.
    TempError,
    /// The sender's records or fields cannot be used.
    PermError,
}

impl Outcome {
    /// The name in the header field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::Neutral => "neutral",
            Self::Policy => "policy",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// Builds the field's value, one method a line.
#[derive(Debug)]
pub(super) struct Builder {
    value: String,
}

impl Builder {
    pub(super) fn new(authserv_id: &str) -> Self {
        Self { value: authserv_id.to_owned() }
    }

    /// Adds a method's result with an optional reason in a comment and its properties.
    pub(super) fn method(&mut self, method: &str, outcome: Outcome, reason: Option<&str>, properties: &[(&str, &str)]) {
        // Writing to a String does not fail.
        let _ = write!(self.value, ";\r\n\t{method}={}", outcome.as_str());
        if let Some(reason) = reason {
            let plain: String =
                reason.chars().filter(|c| c.is_ascii_alphanumeric() || " .,:=-_/".contains(*c)).collect();
            let _ = write!(self.value, " ({plain})");
        }
        for (property, value) in properties {
            let _ = write!(self.value, "\r\n\t {property}={}", pvalue(value));
        }
    }

    pub(super) fn finish(self) -> Header {
        Header::written(NAME, &self.value)
    }
}

/// A property value as RFC 8601 section 2.2 allows it: a token, an address, or else a quoted string.
pub(super) fn pvalue(text: &str) -> String {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`{|}~@".contains(c);
    let mut value: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let mut end = value.len().min(VALUE_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value.truncate(end);
    if !value.is_empty() && value.chars().all(token) {
        return value;
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether an Authentication-Results field claims to be of `authserv_id` (lower case, no trailing dot).
///
/// The comparison is exact after lower-casing and dropping a trailing dot (RFC 8601 section 2.5), but read in every way that a
/// lenient reader might: with comments, quotes and folding taken out, and with the white space in it or not. What only looks
/// like ours to somebody further on is as bad as a forgery.
pub(super) fn claims(field: &Header, authserv_id: &str) -> bool {
    let plain = without_comments(&field.text().to_lowercase());
    let before_results = plain.split(';').next().unwrap_or_default();
    let joined: String = before_results.split_whitespace().collect();
    let mut readings = vec![joined.as_str()];
    readings.extend(before_results.split_whitespace().next());
    // The version may follow the identifier without a blank, and `/` or `=` cannot be in it.
    readings.push(joined.trim_end_matches(|c: char| c.is_ascii_digit()));
    readings.iter().any(|reading| {
        let reading = reading.trim_end_matches('.');
        reading == authserv_id
            || idna::domain_to_ascii(reading).is_ok_and(|ascii| ascii.trim_end_matches('.') == authserv_id)
    })
}

/// Methods and their results, `dkim=pass`, as a field says them; the first [`RESULTS_MAX`].
pub(super) fn results(field: &Header) -> Vec<String> {
    let bare = bare(&field.text().to_lowercase());
    let results = bare.split(';').skip(1).filter_map(|result| result.split_whitespace().next());
    let is_word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_/".contains(c));
    let whole = results.filter(|result| result.split_once('=').is_some_and(|(a, b)| is_word(a) && is_word(b)));
    whole.take(RESULTS_MAX).map(str::to_owned).collect()
}

/// `text` without comments and without what is quoted.
fn bare(text: &str) -> String {
    let (mut bare, mut depth, mut quoted) = (String::with_capacity(text.len()), 0usize, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth = depth.saturating_add(1),
            ')' if !quoted => depth = depth.saturating_sub(1),
            _ if depth == 0 && !quoted => bare.push(c),
            _ => {}
        }
    }
    bare
}

/// `text` without comments (nested too) and quotes (RFC 5322 section 3.2). An unclosed comment hides the rest, as it would in a
/// strict reader; a lenient one finds no result there.
fn without_comments(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut depth = 0usize;
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let escaped = chars.next();
                if depth == 0 {
                    plain.extend(escaped);
                }
            }
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth = depth.saturating_add(1),
            ')' if !quoted && depth > 0 => {
                depth -= 1;
                plain.push(' ');
            }
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_our_identifier_is_ours() {
        for value in [
            "mx.acme.example; spf=pass",
            "MX.Acme.EXAMPLE; spf=pass",
            "mx.acme.example.; spf=pass",
            "mx.acme.example 1; spf=pass",
            "mx.acme.example1; spf=pass",
            "\"mx.acme.example\"; spf=pass",
            "(a (nested \\) comment)) mx.acme.example (b) 1 ; spf=pass",
            "\r\n\tmx.acme.example\r\n ; spf=pass",
            "mx.acme.example",
            "mx.acme.\r\n example; spf=pass",
            "mx.(x)acme.example; spf=pass",
            "mx\\.acme.example; spf=pass",
            "mx\u{3002}acme\u{3002}example; spf=pass",
            ";mx.acme.example; spf=pass",
        ] {
            let expected = !value.starts_with(';');
            assert_eq!(
                claims(&Header::written("authentication-RESULTS", value), "mx.acme.example"),
                expected,
                "{value:?}"
            );
        }
    }

    #[test]
    fn what_others_wrote_is_not_ours() {
        for value in [
            "mx.other.example; spf=pass",
            "a.mx.acme.example; spf=pass",
            "mx.acme.example.org; dkim=pass",
            "(mx.acme.example) mx.other.example; x=y",
            "",
        ] {
            assert!(!claims(&Header::written(NAME, value), "mx.acme.example"), "{value:?}");
        }
    }

    #[test]
    fn no_value_breaks_out_of_its_place() {
        let mut results = Builder::new("mx.acme.example");
        let long = "x".repeat(5_000);
        results.method(
            "spf",
            Outcome::Pass,
            Some("a) ; dkim=pass (\r\nX: y"),
            &[("smtp.mailfrom", "a\"; dkim=pass\r\nX-Evil: y@b.example"), ("smtp.helo", &long)],
        );
        let field = results.finish();
        let text = String::from_utf8(field.raw().to_vec()).unwrap();
        assert!(text.split("\r\n").all(|line| line.len() < 998), "{text}");
        assert!(text.split("\r\n").skip(1).all(|line| line.starts_with('\t')), "{text}");
        assert!(
            text.contains("(a  dkim=pass X: y)") && text.contains("\"a\\\"; dkim=pass??X-Evil: y@b.example\""),
            "{text}"
        );
    }
}
