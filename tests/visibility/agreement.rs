//! A thousand messages of all kinds: the log, the metrics and explain say the same of them, counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::{
    Client, Message, Numbers, OutboundSite, SUPPORT_LOGIN, SaslClient, SaslReply, Signer, Terms, Zone, deskmilter,
    free_address, notification,
};

/// Concurrent clients.
const CLIENTS: usize = 6;
/// Logins that are refused.
const LOGINS: usize = 12;
/// Of these messages one is explained.
const EXPLAIN_EVERY: usize = 20;
/// A queue of hundreds that is put off again and again, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    /// By its author's server.
    Authentic,
    /// By somebody else in its author's name.
    Spoofed,
    /// Nothing is known of its author.
    Unproven,
    /// With a flood of fields that only deskmilter may write.
    Forged,
    /// From the ticket system.
    Notification,
    /// From the ticket system, in the name of an address that its login is not for.
    Misused,
}

use Kind::{Authentic, Forged, Misused, Notification, Spoofed, Unproven};

const KINDS: [(Kind, usize); 6] =
    [(Authentic, 400), (Spoofed, 200), (Unproven, 150), (Forged, 50), (Notification, 150), (Misused, 50)];

fn count_of(kind: Kind) -> f64 {
    KINDS.iter().find(|(known, _)| *known == kind).map_or(0.0, |(_, count)| *count as f64)
}

fn world(signer: &Signer) -> Zone {
    let zone = Zone::new()
        .txt("customer.example", "v=spf1 ip4:192.0.2.10 -all")
        .txt("_dmarc.customer.example", "v=DMARC1; p=reject")
        .txt("acme.example", "v=spf1 ip4:203.0.113.25 -all");
    signer.publish(zone)
}

/// Sends one of its kind; its Message-ID, and the code of the reply.
fn send(site: &OutboundSite, kind: Kind, number: usize) -> (String, u16) {
    let support = ["support@acme.example"];
    let inbound = |from: &str| Message::new(from, support[0], &format!("number {number}"));
    let by = |client: Client, sender: &str, message: &Message| {
        site.postfix.submit_as(&client, sender, &support, &message.octets()).code
    };
    let (customer, stranger) =
        (Client::new("192.0.2.10", "mail.customer.example"), Client::new("198.51.100.66", "stranger.example"));
    let submitted = |from: &str| {
        let id = format!("<n{number}@desk.example>");
        let message = notification().set("Message-ID", &id).set("From", from);
        (id, message.octets())
    };
    let (id, code) = match kind {
        Authentic => {
            let message = inbound("jane@customer.example");
            (message.id().to_owned(), by(customer, "jane@customer.example", &message))
        }
        Spoofed => {
            let message = inbound("jane@customer.example");
            (message.id().to_owned(), by(stranger, "jane@customer.example", &message))
        }
        Unproven => {
            let message = inbound("who@nobody.example");
            (message.id().to_owned(), by(stranger, "who@nobody.example", &message))
        }
        Forged => {
            let message = inbound("jane@customer.example");
            let message = (0..101).fold(message, |message, _| message.field("X-Deskmilter-Sender-Auth", "pass"));
            (message.id().to_owned(), by(customer, "jane@customer.example", &message))
        }
        Notification => {
            let (id, octets) = submitted("Acme Support <support@acme.example>");
            (id, site.submit_as(SUPPORT_LOGIN, "support@acme.example", &["jane@customer.example"], &octets).code)
        }
        Misused => {
            let (id, octets) = submitted("Boss <boss@acme.example>");
            (id, site.submit_as(SUPPORT_LOGIN, "boss@acme.example", &["jane@customer.example"], &octets).code)
        }
    };
    (id.trim_start_matches('<').trim_end_matches('>').to_owned(), code)
}

/// The value of `key` in a log line.
fn field<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let (_, rest) = line.split_once(&format!(" {key}="))?;
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split(' ').next(),
    }
}

/// A metric and some of its labels.
type Series = (&'static str, Vec<(&'static str, String)>);

/// What the log says, as the metrics count it.
fn count_log(log: &str) -> BTreeMap<Series, f64> {
    let mut counts = BTreeMap::new();
    let mut add = |name, labels: &[(&'static str, &str)]| {
        let labels = labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        *counts.entry((name, labels)).or_insert(0.0) += 1.0;
    };
    for line in log.lines() {
        if line.contains(": judged ") {
            let decision = ("decision", field(line, "decision").unwrap());
            let connector = field(line, "connector").unwrap().trim_matches('"');
            let connector = Some(connector).filter(|name| !name.is_empty());
            for (direction, name) in [("inbound", connector), ("outbound", field(line, "notification"))] {
                if let Some(name) = name {
                    add("deskmilter_judged_total", &[("direction", direction), ("connector", name), decision]);
                }
            }
            if let (Some(connector), Some(auth)) = (connector, field(line, "auth")) {
                let mut words = auth.split("; ");
                let status = words.next().unwrap();
                let reason = words.next().unwrap().strip_prefix("reason=").unwrap();
                add("deskmilter_verdicts_total", &[("connector", connector), ("status", status), ("reason", reason)]);
            }
        } else if line.contains(": relay ") {
            let (connector, reply) = (field(line, "connector").unwrap(), field(line, "reply").unwrap());
            add(
                "deskmilter_relayed_total",
                &[("connector", connector), ("decision", field(line, "decision").unwrap())],
            );
            add("deskmilter_relay_seconds_count", &[("connector", connector)]);
            let class = format!("{}xx", &reply[..1]);
            add("deskmilter_relay_replies_total", &[("connector", connector), ("class", &class)]);
        } else if line.contains(" login refused ") {
            add("deskmilter_logins_total", &[("result", "refused"), ("reason", field(line, "reason").unwrap())]);
        }
        for (level, word) in [("error", " ERROR "), ("warn", " WARN "), ("info", " INFO ")] {
            if line.get(20..).is_some_and(|rest| rest.starts_with(word)) {
                add("deskmilter_log_lines_total", &[("level", level)]);
            }
        }
    }
    counts
}

#[test]
fn log_metrics_and_explain_agree_on_a_thousand_messages() {
    let address = free_address();
    let terms = Terms { records: Some(world), ..Terms::default() };
    let mut prepared = OutboundSite::prepare(&terms);
    let more = format!(
        "\n[metrics]\nlisten = [\"inet:{address}\"]\n[auth]\nlisten = [\"unix:{}/auth.sock\"]\n",
        prepared.keys().display()
    );
    let text = std::fs::read_to_string(&prepared.configuration).unwrap();
    std::fs::write(&prepared.configuration, text + &more).unwrap();
    prepared.desk_faults(&["--fault", "tempfail:6", "--fault", "reject:40"]);
    let site = prepared.start();
    support::wait_until("metrics", || site.logs(), || TcpStream::connect(address).is_ok());

    let plan: Vec<Kind> = KINDS.iter().flat_map(|(kind, count)| vec![*kind; *count]).collect();
    assert_eq!(plan.len(), 1_000);
    // Mixed, and the same each time.
    let order: Vec<usize> = (0..plan.len()).map(|n| n * 377 % plan.len()).collect();
    let next = AtomicUsize::new(0);
    let mut sent: HashMap<String, (Kind, u16)> = HashMap::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut sent = Vec::new();
                    while let Some(&number) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let (id, code) = send(&site, plan[number], number);
                        sent.push((id, (plan[number], code)));
                    }
                    sent
                })
            })
            .collect();
        clients.into_iter().for_each(|client| sent.extend(client.join().unwrap()));
    });
    assert_eq!(sent.len(), 1_000, "two messages had one Message-ID");
    let mut logins = SaslClient::connect(&site.keys().join("auth.sock"));
    for n in 0..LOGINS {
        assert!(matches!(logins.plain("nobody", "wrong", &format!("192.0.2.{n}")), SaslReply::Fail(_)));
    }
    let drained = || {
        site.postfix.flush();
        std::thread::sleep(Duration::from_millis(500));
        site.postfix.queue().is_empty()
    };
    support::wait_within(PATIENCE, "empty queue", || site.logs(), drained);

    // What each kind comes to.
    let numbers = Numbers::at(address);
    let log = site.daemon.log();
    let acme = ("connector", "acme");
    let judged = |direction, decision| {
        numbers.sum(
            "deskmilter_judged_total",
            &[acme, ("direction", direction), ("decision", decision), ("attachment", "milter")],
        )
    };
    let (authentic, spoofed, unproven) = (count_of(Authentic), count_of(Spoofed), count_of(Unproven));
    assert_eq!(judged("inbound", "tagged"), authentic + spoofed + unproven);
    assert_eq!(judged("inbound", "refused"), count_of(Forged));
    assert_eq!(judged("outbound", "signed"), count_of(Notification));
    assert_eq!(judged("outbound", "refused"), count_of(Misused));
    let verdicts =
        |status, reason| numbers.sum("deskmilter_verdicts_total", &[acme, ("status", status), ("reason", reason)]);
    assert_eq!(verdicts("pass", "dmarc"), authentic);
    assert_eq!(verdicts("fail", "dmarc"), spoofed);
    assert_eq!(verdicts("none", "nothing-aligned"), unproven);
    assert_eq!(numbers.sum("deskmilter_logins_total", &[("result", "refused")]), LOGINS as f64);
    let relayed = |decision| numbers.sum("deskmilter_relayed_total", &[acme, ("decision", decision)]);
    let tickets = site.desk.tickets();
    assert_eq!(relayed("relayed") + relayed("refused"), authentic + spoofed + unproven);
    assert!(relayed("deferred") > 50.0 && relayed("refused") > 5.0, "{}", numbers.text());

    // The log, line by line.
    let counts = count_log(&log);
    assert!(counts.len() > 15, "{counts:?}");
    for ((name, labels), count) in &counts {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert_eq!(numbers.sum(name, &labels), *count, "{name} {labels:?}");
    }
    for name in [
        "deskmilter_judged_total",
        "deskmilter_verdicts_total",
        "deskmilter_relayed_total",
        "deskmilter_relay_replies_total",
    ] {
        let logged: f64 = counts.iter().filter(|((known, _), _)| *known == name).map(|(_, count)| count).sum();
        assert_eq!(numbers.sum(name, &[]), logged, "{name} counts what the log does not have");
    }

    // Explain, message by message.
    let in_tickets: HashSet<String> = tickets
        .iter()
        .filter_map(|ticket| ticket.facts["message_id"].as_str())
        .map(|id| id.trim_start_matches('<').trim_end_matches('>').to_owned())
        .collect();
    assert_eq!(in_tickets.len() as f64, relayed("relayed"));
    let mut told: BTreeMap<(Kind, String), usize> = BTreeMap::new();
    let mut some: Vec<(&String, &(Kind, u16))> = sent.iter().collect();
    some.sort();
    for (id, (kind, code)) in some.into_iter().step_by(EXPLAIN_EVERY) {
        let mut command = Command::new(deskmilter());
        command
            .args(["explain", "--json", "--log"])
            .arg(site.postfix.log_file())
            .arg("--log")
            .arg(site.daemon.log_file());
        let output = command.arg(format!("<{id}>")).output().unwrap();
        assert!(output.status.success(), "{id}: {}", String::from_utf8_lossy(&output.stderr));
        let story: Value = serde_json::from_slice(&output.stdout).unwrap();
        let recipients = story["recipients"].as_array().unwrap();
        assert_eq!(recipients.len(), 1, "{story:#}");
        let state = recipients[0]["state"].as_str().unwrap();
        let expected = match kind {
            Authentic | Spoofed | Unproven if in_tickets.contains(id) => "relayed",
            Authentic | Spoofed | Unproven => "bounced",
            Forged | Misused => "refused",
            Notification => "delivered",
        };
        assert_eq!((state, *code < 400), (expected, !matches!(kind, Forged | Misused)), "{kind:?} {code}\n{story:#}");
        *told.entry((*kind, state.to_owned())).or_default() += 1;
        // Each attempt that the log has is told.
        let attempts =
            log.lines().filter(|line| line.contains(": relay ") && line.contains(&format!("<{id}>"))).count();
        let steps = story["steps"].as_array().unwrap().iter();
        let steps =
            steps.filter(|step| step["told"][0].as_str().is_some_and(|told| told.starts_with("deskmilter relayed it")));
        assert_eq!(steps.count(), attempts, "{story:#}");
    }
    assert!(told.len() >= 6, "{told:?}");
    println!("{told:?}");
}
