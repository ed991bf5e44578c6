//! The whole way of a message through a real Exim: smtp-source, reception, queue, delivery; with deskmilter in its ACLs and its
//! transport filter, and without.

use std::process::Command;
use std::time::{Duration, Instant};

use support::{EximSite, EximTerms, PrivateKey, Signer, Terms, Zone, postfix_program};

use crate::filter::EMPLOYEE;
use crate::{TTL, mail, table, usage};

/// Messages a run.
const COUNT: usize = 400;
/// SMTP sessions at a time.
const SESSIONS: usize = 16;
/// Exim's ACL asks nobody about mail of a client that greets by this name.
const WITHOUT: &str = "past.acme.example";
/// Mail for the others is thrown away after the queue, by a router at the end.
const ROUTER: &str = "discarded:
  driver = redirect
  domains = acme.example : other.example
  local_parts = discard
  data = :blackhole:
";

/// What is sent, and what is seen of deskmilter's work.
struct Kind {
    name: &'static str,
    sender: &'static str,
    /// Whose mail is measured.
    recipient: &'static str,
    /// Whose mail is looked at.
    witness: &'static str,
    /// In the header section of what deskmilter had in hand.
    mark: Option<&'static str>,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "none of our business",
        sender: mail::CUSTOMER,
        recipient: "discard@other.example",
        witness: "someone@other.example",
        mark: None,
    },
    Kind {
        name: "verified and tagged",
        sender: mail::CUSTOMER,
        recipient: "discard@acme.example",
        witness: "sales@acme.example",
        mark: Some("dkim=pass"),
    },
    Kind {
        name: "signed on the last hop",
        sender: EMPLOYEE,
        recipient: "discard@customer.example",
        witness: "witness@customer.example",
        mark: Some("DKIM-Signature:"),
    },
];

/// What a run gave.
#[derive(Clone, Copy)]
struct Figures {
    /// Messages a second, received and delivered.
    rate: f64,
    /// Milliseconds of deskmilter's CPU time for a message.
    cpu: f64,
}

/// Measures and prints.
///
/// # Panics
/// When something does not start, or deskmilter's work is not to be seen.
pub fn run(signer: &Signer, rounds: usize) {
    let tables = "[[signing]]\ndomain = \"acme.example\"\nselector = \"mail2026\"\nkey_file = \"mail2026.pem\"\n";
    let terms = Terms { tables, records: Some(records), ..Terms::default() };
    let mut site = EximSite::start(EximTerms { router: ROUTER, terms, ..EximTerms::default() });
    let daemon = site.daemon.pid();
    for kind in &KINDS {
        check(&site, signer, kind);
    }
    let mut figures = vec![[Vec::new(), Vec::new()]; KINDS.len()];
    for round in 0..rounds {
        for (kind, figures) in KINDS.iter().zip(&mut figures) {
            // In turn, the other one first each time.
            for turn in 0..2 {
                let with = (turn + round) % 2 == 0;
                figures[usize::from(with)].push(measure(&site, signer, kind, with, daemon));
            }
        }
        eprintln!("bench: Exim, round {} of {rounds} done", round + 1);
    }
    println!(
        "Through Exim: smtp-source, {SESSIONS} sessions at a time, one message each; from the first connection until the queue is \
         empty.\n"
    );
    let rows = KINDS.iter().zip(&figures).flat_map(|(kind, [without, with])| {
        let rate = |figures: &[Figures]| figures.iter().map(|one| one.rate).collect::<Vec<_>>();
        let cpu: Vec<f64> = with.iter().map(|one| one.cpu).collect();
        let row = |mail: &str, way: &str, figures: &[Figures], cpu: String| {
            let (own, bare) = (rate(figures), rate(without));
            vec![mail.to_owned(), way.to_owned(), table::number(table::median(&own)), table::ratio(&own, &bare), cpu]
        };
        [
            row(kind.name, "Exim alone", without, String::new()),
            row("", "with deskmilter", with, table::number(table::median(&cpu))),
        ]
    });
    table::print(&["mail", "way", "messages/s", "rate ratio", "CPU ms: deskmilter"], &rows.collect::<Vec<_>>());
}

fn measure(site: &EximSite, signer: &Signer, kind: &Kind, with: bool, daemon: u32) -> Figures {
    let before = usage::cpu(daemon);
    let start = Instant::now();
    send(site, signer, kind, with, kind.recipient, COUNT);
    while !site.exim.queue().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let elapsed = start.elapsed();
    let cpu = usage::cpu(daemon).saturating_sub(before);
    Figures { rate: COUNT as f64 / elapsed.as_secs_f64(), cpu: cpu.as_secs_f64() * 1000.0 / COUNT as f64 }
}

/// One message each way, on which deskmilter's work is to be seen, or not.
fn check(site: &EximSite, signer: &Signer, kind: &Kind) {
    let Some(mark) = kind.mark else { return };
    for (n, with) in [true, false].into_iter().enumerate() {
        send(site, signer, kind, with, kind.witness, 1);
        let mail = match kind.witness.ends_with("@customer.example") {
            true => site.customer.wait_for(n + 1, || site.logs()).remove(n).message,
            false => site.exim.wait_for_mail(kind.witness, n + 1).remove(n),
        };
        let mail = String::from_utf8_lossy(&mail).replace("\r\n", "\n");
        let head = mail.split("\n\n").next().unwrap_or_default();
        assert_eq!(head.contains(mark), with, "{}: what deskmilter did: {head}", kind.name);
        site.exim.wait_for_empty_queue();
    }
}

fn send(site: &EximSite, signer: &Signer, kind: &Kind, with: bool, recipient: &str, count: usize) {
    let message = match kind.sender {
        EMPLOYEE => mail::plain(0, EMPLOYEE, recipient),
        _ => mail::octets(0, recipient, Some(signer)),
    };
    // smtp-source ends each line by CRLF of its own; a bare CR would be a line end to Exim.
    let message: Vec<u8> = message.into_iter().filter(|&octet| octet != b'\r').collect();
    let file = site.keys().join("message");
    std::fs::write(&file, message).expect("a file for the message");
    let address = site.exim.address();
    let output = Command::new(postfix_program("smtp-source"))
        .args(["-s", &SESSIONS.min(count).to_string(), "-m", &count.to_string(), "-f", kind.sender, "-t", recipient])
        .args(["-M", if with { "mail.customer.example" } else { WITHOUT }, "-F"])
        .arg(file)
        .arg(format!("inet:{}:{}", address.ip(), address.port()))
        .output()
        .expect("smtp-source");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "smtp-source: {} {said}\n{}", output.status, site.exim.log());
}

/// As for the milter: the sender's records, kept for the whole run.
fn records(_zendesk: &Signer) -> Zone {
    let zone = Zone::new()
        .ttl(TTL)
        .txt("customer.example", "v=spf1 ip4:192.0.2.10 -all")
        .txt("_dmarc.customer.example", "v=DMARC1; p=none")
        .txt("_dmarc.example", "v=DMARC1; psd=y; p=none")
        .txt("mail2026._domainkey.acme.example", PrivateKey::rsa().record());
    Signer::new("customer.example", "mail").publish(zone)
}
