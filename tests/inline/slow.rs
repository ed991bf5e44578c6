//! An endpoint that is slow, and an MTA that would not wait without a word.

use std::time::Duration;

use support::endpoint::Action;

use super::{SUPPORT, message, on, scripted, submit, taken};

#[test]
fn a_slow_endpoint_is_waited_for_longer_than_the_mta_would_wait_without_a_word() {
    let slow = on("DOT", Action::Late(Duration::from_secs(16)));
    let milter = "smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail, content_timeout=12s }\n";
    let (site, _runtime, desk) = scripted("", milter, slow);
    let reply = submit(&site, &[SUPPORT], &message("patience"));
    assert_eq!(reply.code, 250, "{reply}\n{}", site.postfix.log());
    assert_eq!(taken(&desk), 1);
}
