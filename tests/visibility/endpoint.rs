//! The endpoint as Prometheus and a service manager see it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use deskmilter::status::list::ALL;
use support::{Message, Numbers, SaslClient, SaslReply, Site, free_address, http_get, http_get_unix, promtool};

/// A company whose daemon tells its numbers and checks logins.
pub(crate) struct Watched {
    pub(crate) site: Site,
    pub(crate) address: SocketAddr,
    sockets: PathBuf,
}

impl Watched {
    pub(crate) fn start() -> Self {
        Self::over(Site::start())
    }

    fn over(mut site: Site) -> Self {
        let (address, sockets) = (free_address(), site.postfix.queue_directory().join("deskmilter"));
        let text = std::fs::read_to_string(site.configuration()).unwrap();
        let more = format!(
            "\n[metrics]\nlisten = [\"inet:{address}\", \"unix:{s}/metrics.sock\"]\n[auth]\nlisten = [\"unix:{s}/auth.sock\"]\n",
            s = sockets.display()
        );
        std::fs::write(site.configuration(), text + &more).unwrap();
        site.daemon.stop();
        site.daemon.resume();
        support::wait_until("metrics", || site.daemon.log(), || TcpStream::connect(address).is_ok());
        Self { site, address, sockets }
    }

    pub(crate) fn numbers(&self) -> Numbers {
        Numbers::at(self.address)
    }

    pub(crate) fn sasl(&self) -> SaslClient {
        SaslClient::connect(&self.sockets.join("auth.sock"))
    }

    fn reload(&mut self) {
        let ends = |log: &str| {
            log.matches("configuration reloaded").count() + log.matches("configuration not reloaded").count()
        };
        let before = ends(&self.site.daemon.log());
        self.site.daemon.reload();
        let daemon = &self.site.daemon;
        support::wait_until("the end of a reload", || daemon.log(), || ends(&daemon.log()) > before);
    }

    fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.site.configuration()).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(self.site.configuration(), text.replace(from, to)).unwrap();
    }
}

#[test]
fn what_the_endpoint_tells_is_in_the_list_and_to_the_liking_of_promtool() {
    let watched = Watched::start();
    let message = Message::new("jane@customer.example", "support@acme.example", "numbers").octets();
    let reply =
        watched.site.postfix.submit_as(&Site::customer(), "jane@customer.example", &["support@acme.example"], &message);
    assert_eq!(reply.code, 250, "{reply}");
    watched.site.desk.wait_for_tickets(1);
    watched.site.postfix.wait_for_empty_queue();
    assert!(matches!(watched.sasl().plain("ghost-user", "wrong", "192.0.2.1"), SaslReply::Fail(_)));

    let numbers = watched.numbers();
    let mut check = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(numbers.text().as_bytes()).unwrap();
    let checked = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && said.is_empty(), "{said}\n{}", numbers.text());

    for line in numbers.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(ALL.iter().any(|metric| metric.name == name && metric.kind.as_str() == kind), "{line}");
    }
    let acme = ("connector", "acme");
    for (name, labels, count) in [
        (
            "deskmilter_judged_total",
            &[acme, ("attachment", "milter"), ("direction", "inbound"), ("decision", "tagged")][..],
            1.0,
        ),
        ("deskmilter_verdicts_total", &[acme, ("status", "pass")], 1.0),
        ("deskmilter_relayed_total", &[acme, ("decision", "relayed"), ("mode", "transport")], 1.0),
        ("deskmilter_relay_replies_total", &[acme, ("class", "2xx")], 1.0),
        ("deskmilter_relay_seconds_count", &[acme], 1.0),
        ("deskmilter_judge_seconds_count", &[("attachment", "milter")], 1.0),
        ("deskmilter_relay_trouble_total", &[acme], 0.0),
        ("deskmilter_relay_connections", &[acme, ("state", "idle")], 1.0),
        ("deskmilter_relay_connections_limit", &[acme], 10.0),
        ("deskmilter_logins_total", &[("result", "refused"), ("reason", "unknown-user")], 1.0),
        ("deskmilter_store_up", &[], 1.0),
        ("deskmilter_sockets", &[("state", "open")], 5.0),
        ("deskmilter_connectors", &[], 1.0),
        ("deskmilter_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        ("deskmilter_configuration_failed", &[], 0.0),
    ] {
        assert_eq!(numbers.sum(name, labels), count, "{name} {labels:?}\n{}", numbers.text());
    }
    assert!(numbers.sum("deskmilter_dns_lookups_total", &[("answered", "server")]) > 0.0);
    assert!(numbers.sum("process_resident_memory_bytes", &[]) > 1e6);
    assert!(numbers.sum("process_open_fds", &[]) > 5.0);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let expires = numbers.sum("deskmilter_certificate_expiry_timestamp_seconds", &[acme]);
    assert!(expires > now, "{expires}");
    let changed = numbers.sum("deskmilter_password_changed_timestamp_seconds", &[acme, ("set", "1")]);
    assert!(changed > now - 600.0 && changed <= now, "{changed}");
    for secret in ["customer.example", "jane", "ghost-user", "support@"] {
        assert!(!numbers.text().contains(secret), "{secret} is nobody's business\n{}", numbers.text());
    }
}

#[test]
fn counters_go_on_over_reloads_and_a_refused_one_shows() {
    let mut watched = Watched::start();
    let send = |watched: &Watched, n: usize| {
        let message = Message::new("jane@customer.example", "support@acme.example", "again").octets();
        watched.site.postfix.submit("jane@customer.example", &["support@acme.example"], &message);
        watched.site.desk.wait_for_tickets(n);
    };
    send(&watched, 1);

    watched.reload();
    send(&watched, 2);
    let numbers = watched.numbers();
    assert_eq!(numbers.sum("deskmilter_judged_total", &[("connector", "acme")]), 2.0);
    assert_eq!(numbers.sum("deskmilter_reloads_total", &[("result", "good")]), 1.0);
    assert_eq!(http_get(watched.address, "/ready"), (200, "ready\n".to_owned()));
    let loaded = numbers.sum("deskmilter_configuration_loaded_timestamp_seconds", &[]);

    watched.edit("dns_timeout", "dns_timeuot");
    watched.reload();
    let numbers = watched.numbers();
    assert_eq!(numbers.sum("deskmilter_reloads_total", &[("result", "bad")]), 1.0);
    assert_eq!(numbers.sum("deskmilter_configuration_failed", &[]), 1.0);
    assert_eq!(numbers.sum("deskmilter_configuration_loaded_timestamp_seconds", &[]), loaded);
    let (status, text) = http_get(watched.address, "/ready");
    assert!(status == 200 && text.contains("degraded: the last reload was refused"), "{status} {text}");

    let socket = watched.sockets.join("transport/acme.sock");
    std::fs::remove_file(&socket).unwrap();
    assert_eq!(watched.numbers().sum("deskmilter_sockets", &[("state", "lost")]), 1.0);
    let (status, text) = http_get_unix(&watched.sockets.join("metrics.sock"), "/ready");
    assert!(status == 503 && text.contains("acme.sock is gone"), "{status} {text}");
    assert_eq!(http_get(watched.address, "/health"), (200, "alive\n".to_owned()));

    watched.edit("dns_timeuot", "dns_timeout");
    watched.reload();
    assert_eq!(http_get(watched.address, "/ready"), (200, "ready\n".to_owned()));
    assert_eq!(watched.numbers().sum("deskmilter_judged_total", &[("connector", "acme")]), 2.0);
}

#[test]
fn who_speaks_no_http_or_too_slowly_is_cut_off_and_holds_up_nobody() {
    let mut watched = Watched::start();
    let mut silent: Vec<TcpStream> = (0..15).map(|_| TcpStream::connect(watched.address).unwrap()).collect();
    assert_eq!(http_get(watched.address, "/health").0, 200);
    assert_eq!(http_get(watched.address, "/").0, 404);
    for nonsense in [
        "EHLO x\r\n\r\n",
        &format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)),
        "POST /metrics HTTP/1.0\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(watched.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.write_all(nonsense.as_bytes());
        let mut answer = Vec::new();
        // A reset is an answer as well.
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200") && !answer.starts_with(b"HTTP/1.0 200"), "{nonsense:.40}");
    }
    let begun = Instant::now();
    let mut one = silent.pop().unwrap();
    one.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut rest = Vec::new();
    let _ = one.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // Connections that are open do not hold up the end.
    let _open: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(watched.address).unwrap()).collect();
    let begun = Instant::now();
    assert!(watched.site.daemon.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn an_endpoint_that_is_down_and_what_it_costs_show_while_mail_is_relayed_inline() {
    let milter_alone = "smtpd_milters = { unix:deskmilter/milter.sock, default_action=tempfail }\ntransport_maps =\n";
    let mut watched = Watched::over(Site::with("", "relay = \"inline\"\n", milter_alone));
    let send = |watched: &Watched| {
        let message = Message::new("jane@customer.example", "support@acme.example", "inline").octets();
        watched.site.postfix.submit("jane@customer.example", &["support@acme.example"], &message).code
    };
    assert_eq!(send(&watched), 250);
    let acme = ("connector", "acme");
    let relayed = |watched: &Watched, decision| {
        watched.numbers().sum("deskmilter_relayed_total", &[acme, ("mode", "inline"), ("decision", decision)])
    };
    assert_eq!((relayed(&watched, "relayed"), relayed(&watched, "deferred")), (1.0, 0.0));
    assert_eq!(watched.numbers().sum("deskmilter_inline_relays_limit", &[]), 20.0);
    watched.site.desk.stop();
    for _ in 0..3 {
        assert_eq!(send(&watched), 451);
    }
    let numbers = watched.numbers();
    assert_eq!(numbers.sum("deskmilter_endpoint_down", &[acme]), 1.0);
    assert_eq!(numbers.sum("deskmilter_relay_trouble_total", &[acme, ("level", "warn"), ("cause", "connect")]), 3.0);
    assert_eq!(relayed(&watched, "deferred"), 3.0);
    let (status, text) = http_get(watched.address, "/ready");
    assert!(
        status == 200 && text.contains("degraded: connector acme: its endpoint does not answer"),
        "{status} {text}"
    );
}

#[test]
fn issued_credentials_show_by_their_number_and_age_alone() {
    let watched = Watched::start();
    for _ in 0..2 {
        let mut command = Command::new(support::deskmilter());
        let output =
            command.args(["credential", "issue", "--domain", "acme.example", "-c"]).arg(watched.site.configuration());
        let output = output.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let live = || watched.numbers().sum("deskmilter_credentials_live", &[]) == 2.0;
    support::wait_until("two live sets", || watched.numbers().text().to_owned(), live);
    let numbers = watched.numbers();
    assert_eq!(numbers.sum("deskmilter_credentials_overlapping", &[]), 0.0, "not for longer than they should");
    let age = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
        - numbers.sum("deskmilter_credential_oldest_timestamp_seconds", &[]);
    assert!((-1.0..600.0).contains(&age), "{age}");
}
