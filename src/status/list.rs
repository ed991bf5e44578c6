//! The one list of metrics. docs/metrics.md, the alert rules and the dashboard are tested against it.

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// As Prometheus' conventions have it: unit last, `_total` for counters.
    pub name: &'static str,
    /// What may be done with its value.
    pub kind: Kind,
    /// Names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// What it means, in one sentence.
    pub help: &'static str,
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at each start of the process.
    Counter,
    /// What is at this moment.
    Gauge,
    /// Durations by buckets.
    Histogram,
}

impl Kind {
    /// The word in the text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Upper bounds of the buckets, in seconds: from what judging takes with everything cached to the deadline of a relay.
pub(super) const BUCKETS: [f64; 14] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*
        /// All of them.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    JUDGED: Counter "deskmilter_judged_total" ["attachment", "direction", "connector", "decision"]
        "Messages judged before the queue; one for two connectors, or for both directions, counts for each.";
    OBSERVED: Counter "deskmilter_observed_total" ["attachment", "direction", "connector", "decision"]
        "Messages of connectors that only observe, by what would have become of them.";
    VERDICTS: Counter "deskmilter_verdicts_total" ["connector", "status", "reason"]
        "Inbound messages by what is known of their sender, and why.";
    AUTHENTICATION: Counter "deskmilter_authentication_total" ["method", "result"]
        "Judged messages by result of SPF, DKIM, DMARC and ARC; temperror is DNS trouble.";
    JUDGE_SECONDS: Histogram "deskmilter_judge_seconds" ["attachment"]
        "Time from a complete message to its verdict, DNS included.";
    FORGED: Counter "deskmilter_forged_fields_total" []
        "Header fields removed because only this site may write them.";
    PRESERVED: Counter "deskmilter_preserved_breaches_total" ["connector", "outcome"]
        "Notifications with preserved fields changed or missing: restored, or lost where the value is not known.";
    SEALS_REFUSED: Counter "deskmilter_seals_refused_total" []
        "Messages whose seal is worth nothing: forged, too old, or not theirs.";

    RELAYED: Counter "deskmilter_relayed_total" ["connector", "mode", "decision"]
        "Messages handed to a ticket endpoint or company host, each attempt.";
    RELAY_SECONDS: Histogram "deskmilter_relay_seconds" ["connector"]
        "Time of an attempt to relay, from the complete message to the reply.";
    RELAY_REPLIES: Counter "deskmilter_relay_replies_total" ["connector", "class", "subject"]
        "Replies to attempts to relay by class of the code (2xx, 4xx, 5xx) and subject of the enhanced code (4.7).";
    RELAY_TROUBLE: Counter "deskmilter_relay_trouble_total" ["connector", "level", "cause"]
        "Attempts to relay that failed for a reason other than the message, by cause; level error wants somebody to act.";
    HANDED_BACK: Counter "deskmilter_handed_back_total" ["connector"]
        "Messages that the endpoint refused and rejected_to got instead of a bounce.";
    RELAY_CONNECTIONS: Gauge "deskmilter_relay_connections" ["connector", "state"]
        "Connections to the remote server, busy or idle.";
    RELAY_CONNECTIONS_LIMIT: Gauge "deskmilter_relay_connections_limit" ["connector"]
        "Connections to the remote server at most.";
    RELAY_WAITING: Gauge "deskmilter_relay_waiting" ["connector"]
        "Messages that wait for a connection to the remote server.";
    ENDPOINT_DOWN: Gauge "deskmilter_endpoint_down" ["connector"]
        "1 while mail for an inline endpoint is put off at RCPT because the endpoint does not answer.";
    INLINE_RELAYS: Gauge "deskmilter_inline_relays" []
        "Messages being relayed inline.";
    INLINE_RELAYS_LIMIT: Gauge "deskmilter_inline_relays_limit" []
        "Messages relayed inline at a time at most.";

    DNS_LOOKUPS: Counter "deskmilter_dns_lookups_total" ["answered"]
        "DNS look-ups of sender authentication, answered from the cache or asked of a name server.";
    DNS_FAILURES: Counter "deskmilter_dns_failures_total" []
        "Queries for SPF, DKIM and DMARC records without an answer: timeouts and failing name servers.";

    LOGINS: Counter "deskmilter_logins_total" ["result", "reason"]
        "Logins checked for the MTA: accepted, refused, or unavailable where nobody can say.";
    ARGON2_RUNNING: Gauge "deskmilter_argon2_running" []
        "Password computations at this moment.";
    ARGON2_WAITING: Gauge "deskmilter_argon2_waiting" []
        "Logins in line for a password computation.";
    STORE_UP: Gauge "deskmilter_store_up" []
        "1 while the store of issued credentials answers.";
    CREDENTIALS_LIVE: Gauge "deskmilter_credentials_live" []
        "Issued credential sets that are not revoked.";
    CREDENTIALS_OVERLAPPING: Gauge "deskmilter_credentials_overlapping" []
        "Domains or addresses with two live sets for longer than credentials.overlap_warning.";
    CREDENTIAL_OLDEST: Gauge "deskmilter_credential_oldest_timestamp_seconds" []
        "When the oldest live set was issued.";
    PASSWORD_CHANGED: Gauge "deskmilter_password_changed_timestamp_seconds" ["connector", "set"]
        "When the password file of a credential set was written: 1 and 2 of an endpoint, host1 and on of a company host.";
    KEY_CHANGED: Gauge "deskmilter_key_changed_timestamp_seconds" ["domain", "selector"]
        "When a DKIM key's file was written.";
    CERTIFICATE_EXPIRY: Gauge "deskmilter_certificate_expiry_timestamp_seconds" ["connector"]
        "When the certificate expires that the remote server showed at the last connection.";

    SESSIONS: Gauge "deskmilter_sessions" ["service", "connector"]
        "Connections of the MTA: milter, exim, lmtp (by connector), auth, lookup.";
    SESSIONS_LIMIT: Gauge "deskmilter_sessions_limit" ["service", "connector"]
        "Connections of the MTA at most; further ones wait.";
    SOCKETS: Gauge "deskmilter_sockets" ["state"]
        "Sockets that are served, and those of them whose name is gone so that nobody finds them.";
    MEMORY_USED: Gauge "deskmilter_memory_used_bytes" []
        "Of limits.memory, what messages take that are being verified.";
    MEMORY_LIMIT: Gauge "deskmilter_memory_limit_bytes" []
        "limits.memory.";
    MEMORY_WAITING: Gauge "deskmilter_memory_waiting" []
        "Messages that wait for their share of limits.memory.";

    RELOADS: Counter "deskmilter_reloads_total" ["result"]
        "Reloads of the configuration by SIGHUP, good and bad.";
    CONFIGURATION_LOADED: Gauge "deskmilter_configuration_loaded_timestamp_seconds" []
        "When the configuration in force was read.";
    CONFIGURATION_FAILED: Gauge "deskmilter_configuration_failed" []
        "1 while the last reload was refused, so that an earlier configuration is in force.";
    FILES_REFUSED: Counter "deskmilter_files_refused_total" []
        "Keys, certificates and passwords that were replaced by something unusable; the earlier ones stay in force.";
    CONNECTORS: Gauge "deskmilter_connectors" []
        "Connectors in the configuration.";
    LOG_LINES: Counter "deskmilter_log_lines_total" ["level"]
        "Lines logged, by level.";
    LOG_LINES_DROPPED: Counter "deskmilter_log_lines_dropped_total" []
        "Lines that the log's target did not take.";
    BUILD_INFO: Gauge "deskmilter_build_info" ["version"]
        "1, with the version.";
    START_TIME: Gauge "process_start_time_seconds" []
        "When the process started.";
    RESIDENT_MEMORY: Gauge "process_resident_memory_bytes" []
        "Memory of the process.";
    OPEN_FDS: Gauge "process_open_fds" []
        "Open file descriptors.";
    MAX_FDS: Gauge "process_max_fds" []
        "Open file descriptors at most.";
}
