//! Log lines, ours and Postfix's, in the order that anybody can make them come in.

use time::UtcOffset;
use time::macros::datetime;

use crate::audit::{Audit, Clock, Scope};

pub(super) fn lines(octets: &[u8]) {
    let text = String::from_utf8_lossy(octets);
    let scope = Scope {
        since: datetime!(2026-01-01 0:00 UTC),
        until: None,
        supports: Box::new(|address| address == "support@acme.example"),
        sockets: Vec::new(),
    };
    let clock = Clock { now: datetime!(2026-11-22 12:00 UTC), zone: |_| UtcOffset::UTC };
    let mut audit = Audit::new(scope, clock);
    for line in text.lines() {
        assert!(audit.line(line).is_ok());
    }
    let _ = audit.report(None).is_good();
}
