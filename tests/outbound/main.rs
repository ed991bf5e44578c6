//! Notifications on their way out, on a real Postfix and a real Exim with TLS, SASL by Dovecot and, where a test says so, a
//! content filter: what reaches the end user is what the ticket system sent, signed by the company, and nothing else gets that
//! signature.

#![cfg(test)]

mod delivered;
mod filtered;
mod ordinary;
mod refused;
mod shapes;
mod trouble;

use support::{Client, Company, NameServer, OutboundSite, Verdicts, fields};

const SUPPORT: &str = "support@acme.example";
const JANE: &str = "jane@customer.example";

/// The fields that must reach the end user as they were sent.
const PRESERVED: [&str; 5] =
    ["Auto-Submitted", "X-Auto-Response-Suppress", "X-Mailer", "X-Zendesk-From-Account-Id", "X-Zendesk-Email-Id"];

/// The fields that nobody may rewrite.
const GUARDED: [&str; 7] = ["To", "From", "Cc", "Reply-To", "Message-ID", "In-Reply-To", "References"];

/// Preserved and guarded fields are there octet by octet, and only once.
fn assert_preserved(sent: &[u8], received: &[u8]) {
    for name in PRESERVED.iter().chain(&GUARDED) {
        let shown = String::from_utf8_lossy(received);
        assert_eq!(fields(received, name), fields(sent, name), "{name}:\n{shown}");
    }
}

/// Where a message comes from.
trait Place {
    fn names(&self) -> &NameServer;
    fn logs(&self) -> String;
}

impl Place for Company {
    fn names(&self) -> &NameServer {
        self.names()
    }

    fn logs(&self) -> String {
        self.logs()
    }
}

impl Place for OutboundSite {
    fn names(&self) -> &NameServer {
        &self.names
    }

    fn logs(&self) -> String {
        self.logs()
    }
}

/// What the end user's server thinks of a message that came from an address that SPF does not know: DMARC then rests on DKIM.
fn verdicts(site: &impl Place, message: &[u8]) -> Verdicts {
    Verdicts::of(message, &Client::new("198.51.100.66", "forwarder.example"), SUPPORT, site.names())
}

/// Every verifier finds the company's signature valid.
fn assert_signed(site: &impl Place, message: &[u8]) -> Verdicts {
    let verdicts = verdicts(site, message);
    let shown = String::from_utf8_lossy(message);
    assert!(verdicts.all_valid("acme.example", "desk2026"), "{verdicts:?}\n{shown}\n{}", site.logs());
    assert!(verdicts.dmarc_passes(), "{verdicts:?}\n{shown}");
    verdicts
}

/// How many signatures carry the selector.
fn signatures(message: &[u8], selector: &str) -> usize {
    let all = fields(message, "DKIM-Signature");
    let tag = format!("s={selector};");
    all.iter().filter(|field| String::from_utf8_lossy(field).replace(char::is_whitespace, "").contains(&tag)).count()
}

/// The message with `line`s put above it.
fn under(line: &str, message: &[u8]) -> Vec<u8> {
    [line.as_bytes(), message].concat()
}

/// The message with the first `from` replaced by `to`.
fn replaced(message: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = message.windows(from.len()).position(|part| part == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("no {from:?} in {}", String::from_utf8_lossy(message)));
    [&message[..at], to.as_bytes(), &message[at + from.len()..]].concat()
}
