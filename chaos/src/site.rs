//! The company that all this happens to.

use support::Site;

use crate::Mode;

/// The milter line alone, as `deskmilter postfix --apply` writes it for inline relay.
const MILTER_ALONE: &str = "\
smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail, content_timeout=150s }
non_smtpd_milters = $smtpd_milters
transport_maps =
";

/// A Postfix that does not leave an endpoint alone because of trouble: what days bring is pressed into minutes.
const IMPATIENT: &str = "\
lmtp_destination_concurrency_failed_cohort_limit = 100000
lmtp_destination_concurrency_negative_feedback = 0
";

/// Few connections to the endpoint: each start of deskmilter logs in anew, which costs the sandbox a slow hash by connection.
const FEW: &str = "max_connections = 3\n";

/// Everything running.
pub(crate) fn company(mode: Mode) -> Site {
    match mode {
        Mode::Transport => Site::with("", FEW, IMPATIENT),
        Mode::Inline => Site::with("", &format!("relay = \"inline\"\n{FEW}"), MILTER_ALONE),
    }
}
