use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use super::counting::messages;
use super::list::{ALL, Kind};
use super::{Board, Counting, Readiness, Source, Status};

/// The numbers after `log` has logged.
fn counted(log: impl FnOnce()) -> String {
    let board = Arc::new(Board::new().unwrap());
    let counting = Counting::new(Arc::clone(&board)).with_filter(Counting::targets());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(counting), log);
    board.text().unwrap()
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
}

#[test]
fn names_follow_prometheus_conventions_and_are_unique() {
    let mut names = HashSet::new();
    for metric in ALL {
        assert!(names.insert(metric.name), "{} twice", metric.name);
        assert!(metric.name.starts_with("deskmilter_") || metric.name.starts_with("process_"), "{}", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        assert_eq!(metric.kind == Kind::Histogram, metric.name.ends_with("_seconds") && !metric.name.contains("time"));
        assert!(metric.help.ends_with('.'), "{}", metric.name);
    }
}

#[test]
fn every_event_that_is_counted_is_one_that_the_code_logs() {
    let mut sources = String::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("status") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    for message in messages::ALL {
        let found = sources.contains(&format!("{message}\""));
        assert!(found, "nobody logs {message:?}");
    }
}

#[test]
fn a_message_counts_once_for_each_of_its_connectors_and_directions() {
    let text = counted(|| {
        let _span = tracing::info_span!(target: "deskmilter", "milter").entered();
        let judged = |connector: &str, notification: Option<&str>, domain: Option<&str>, decision: &str| {
            tracing::info!(
                target: "deskmilter::pipeline",
                decision,
                connector,
                domain,
                notification,
                auth = domain.map(|_| "pass; reason=dmarc; dmarc=pass; spf=softfail; dkim=pass; arc=none; from=x.example"),
                forged = 2_u64,
                delay_ms = 4_u64,
                "judged"
            );
        };
        judged("acme,beta", None, Some("acme.example"), "tagged");
        judged("", Some("acme"), None, "signed");
        judged("acme", Some("acme"), Some("acme.example"), "signed");
        judged("", None, None, "passed");
    });
    let line = |direction: &str, connector: &str, decision: &str, count: u64| {
        has(
            &text,
            &format!(
                "deskmilter_judged_total{{attachment=\"milter\",connector=\"{connector}\",decision=\"{decision}\",direction=\"{direction}\"}} {count}"
            ),
        );
    };
    line("inbound", "acme", "tagged", 1);
    line("inbound", "beta", "tagged", 1);
    line("outbound", "acme", "signed", 2);
    line("inbound", "acme", "signed", 1);
    line("none", "", "passed", 1);
    has(&text, "deskmilter_verdicts_total{connector=\"acme\",reason=\"dmarc\",status=\"pass\"} 2");
    has(&text, "deskmilter_authentication_total{method=\"spf\",result=\"softfail\"} 2");
    has(&text, "deskmilter_forged_fields_total 8");
    has(&text, "deskmilter_judge_seconds_bucket{attachment=\"milter\",le=\"0.005\"} 4");
}

#[test]
fn what_is_only_observed_counts_apart_from_what_is_done() {
    let text = counted(|| {
        let _span = tracing::info_span!(target: "deskmilter", "milter").entered();
        for observed in [None, Some("yes")] {
            let auth = "fail; reason=spf; dmarc=none; spf=fail; dkim=none; arc=none; from=x.example";
            tracing::info!(
                target: "deskmilter::pipeline",
                decision = "refused", observed, connector = "acme", domain = "acme.example", auth, forged = 1_u64, "judged"
            );
        }
    });
    let labels = "{attachment=\"milter\",connector=\"acme\",decision=\"refused\",direction=\"inbound\"} 1";
    has(&text, &format!("deskmilter_judged_total{labels}"));
    has(&text, &format!("deskmilter_observed_total{labels}"));
    has(&text, "deskmilter_authentication_total{method=\"spf\",result=\"fail\"} 1");
    has(&text, "deskmilter_verdicts_total{connector=\"acme\",reason=\"spf\",status=\"fail\"} 2");
    has(&text, "deskmilter_forged_fields_total 1");
}

#[test]
fn an_attempt_to_relay_counts_with_its_replies_and_its_trouble() {
    let text = counted(|| {
        let relay = |decision: &str, reply: &str, note: Option<&str>| {
            tracing::info!(target: "deskmilter::relay", connector = "acme", decision, reply, note, delay_ms = 30_u64, "relay");
        };
        relay("relayed", "250 2.0.0 taken", None);
        relay("mixed", "<a@x.example> 250 2.0.0 ok; <b; <c@x.example> 550 5.1.1 no", Some("inline"));
        relay("deferred", "451 4.7.8 refused the credentials", None);
        relay("refused", "550 no enhanced code", None);
        for (cause, reply) in [
            (None, "451 4.7.8 endpoint: refused the credentials"),
            (Some("rate_limited"), "421 4.7.0 slow"),
            (None, "451 4.4.1 host[192.0.2.1] said: 451 4.4.1 busy"),
            (None, "451 4.9.9 what"),
        ] {
            let remote = "endpoint";
            tracing::warn!(target: "deskmilter::relay", connector = "acme", cause, %reply, "{remote}: cannot relay now");
        }
    });
    has(&text, "deskmilter_relayed_total{connector=\"acme\",decision=\"relayed\",mode=\"transport\"} 1");
    has(&text, "deskmilter_relayed_total{connector=\"acme\",decision=\"mixed\",mode=\"inline\"} 1");
    has(&text, "deskmilter_relay_replies_total{class=\"2xx\",connector=\"acme\",subject=\"2.0\"} 2");
    has(&text, "deskmilter_relay_replies_total{class=\"5xx\",connector=\"acme\",subject=\"\"} 1");
    has(&text, "deskmilter_relay_seconds_count{connector=\"acme\"} 4");
    for cause in ["credentials", "rate_limited", "remote", "other"] {
        has(&text, &format!("deskmilter_relay_trouble_total{{cause=\"{cause}\",connector=\"acme\",level=\"warn\"}} 1"));
    }
}

#[test]
fn what_wants_somebody_to_act_is_there_before_it_happens_whatever_its_cause() {
    // Prometheus sees no increase in a number that begins with 1, and nobody would be woken.
    let board = Board::new().unwrap();
    Counting::expect(&board, "acme", "transport", &["milter"]);
    let text = board.text().unwrap();
    for cause in ["credentials", "certificate", "password_file", "send_as_denied", "other"] {
        has(
            &text,
            &format!("deskmilter_relay_trouble_total{{cause=\"{cause}\",connector=\"acme\",level=\"error\"}} 0"),
        );
    }
}

#[test]
fn what_strangers_choose_never_becomes_a_label() {
    let text = counted(|| {
        for n in 0..50 {
            let stranger = format!("s{n}");
            tracing::info!(target: "deskmilter::attach", login = stranger, reason = stranger, "login refused");
            let auth = format!("{stranger}; reason={stranger}; spf={stranger}; {stranger}=pass");
            tracing::info!(target: "deskmilter::pipeline", decision = stranger, connector = "", auth, domain = "a.example", "judged");
            let reply = format!("{n}99 9.9.{n} {stranger}");
            tracing::info!(target: "deskmilter::relay", decision = stranger, connector = "acme", reply, "relay");
        }
    });
    assert!(text.lines().count() < 400, "{text}");
    assert!(!text.contains("s49"), "{text}");
}

#[test]
fn a_lower_level_of_the_log_does_not_stop_the_counting() {
    let text = counted(|| {
        tracing::info!(target: "deskmilter::x", "a line");
        tracing::event!(target: "hickory", tracing::Level::WARN, "another");
        tracing::info!(target: "hickory", "not ours");
        tracing::debug!(target: "deskmilter::x", "not counted");
    });
    has(&text, "deskmilter_log_lines_total{level=\"info\"} 1");
    has(&text, "deskmilter_log_lines_total{level=\"warn\"} 1");
}

/// A source on a file system that hangs.
#[derive(Debug, Default)]
struct Hanging {
    begun: AtomicUsize,
    goes_on: AtomicBool,
}

impl Hanging {
    fn hang(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        while !self.goes_on.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Source for Hanging {
    fn measure(&self, _: &Board) {
        self.hang();
    }

    fn readiness(&self) -> Readiness {
        Readiness::default()
    }
}

#[tokio::test]
async fn however_often_a_file_system_that_hangs_is_asked_for_one_thread_waits_for_it() {
    let source = Arc::new(Hanging::default());
    let status = Status::new(Arc::new(Board::new().unwrap()), Arc::clone(&source) as Arc<dyn Source>);
    for _ in 0..5 {
        assert!(timeout(Duration::from_millis(100), status.metrics()).await.is_err());
    }
    assert_eq!(source.begun.load(Ordering::SeqCst), 1);
    source.goes_on.store(true, Ordering::SeqCst);
    assert!(status.metrics().await.unwrap().contains("process_start_time_seconds"));
}
