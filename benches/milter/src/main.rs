//! `make bench`: deskmilter's milter beside its peers, in the same run, on the same machine.
//!
//! Each filter is a daemon of its own; this program plays Postfix's side against it ([`mta`], [`load`]) with the same mail
//! ([`mail`]), accounts what its process used ([`usage`]), and has a real Postfix take mail with each of them
//! ([`end_to_end`]). Machines are noisy, so filters take turns, round after round, and what counts is the ratio within a
//! round ([`table`]). docs/performance.md says how to read the result, and which variables change a run.

mod end_to_end;
mod filter;
mod idle_milter;
mod load;
mod mail;
mod mta;
mod table;
mod usage;

use std::process::ExitCode;
use std::time::Duration;

use support::{NameServer, Signer, Zone};

use end_to_end::EndToEnd;
use filter::{Filter, Transport};
use load::{Figures, Work};
use mta::Client;

/// Seconds that the sender's records may be kept: longer than a run.
const TTL: u32 = 3_600;
/// Connections at a time.
const CONNECTIONS: [usize; 3] = [1, 16, 200];
/// Rounds unless `BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 3;
/// Milliseconds that a filter is measured at a time, unless `BENCH_MILLISECONDS` says otherwise.
const MILLISECONDS: usize = 1_200;
/// Postfix is measured this many times as often: it is the noisiest of all.
const POSTFIX_ROUNDS: usize = 2;

/// Filters that do the same work for the same mail. The first one is ours.
struct Comparison {
    work: Vec<Work>,
    filters: Vec<Filter>,
}

/// One line of the table, all rounds: the figures of each filter.
struct Cell {
    work: &'static str,
    transport: Transport,
    connections: usize,
    figures: Vec<Vec<Figures>>,
}

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("bench: must be root, to start a private Postfix: run `sudo make bench`, or `make bench` as root");
        return ExitCode::FAILURE;
    }
    let (rounds, time) = (setting("BENCH_ROUNDS", ROUNDS), setting("BENCH_MILLISECONDS", MILLISECONDS));
    let time = Duration::from_millis(u64::try_from(time).unwrap_or(u64::MAX));
    let signer = Signer::new("customer.example", "mail");
    let names = NameServer::start(&world(&signer));
    describe_machine();

    let filters = [Transport::Unix, Transport::Tcp].map(|transport| {
        let mut filters = vec![
            Filter::deskmilter(&support::deskmilter(), transport, &names),
            Filter::opendkim_verifying(transport, &names),
        ];
        if let Some(program) = std::env::var_os("BENCH_AGAINST") {
            let mut other = Filter::deskmilter(program.as_ref(), transport, &names);
            other.name = format!("other {}", other.name);
            filters.push(other);
        }
        filters
    });
    let heads: Vec<String> = filters[0].iter().map(|filter| filter.name.clone()).collect();
    println!("{}; {rounds} rounds of {} ms each, filters in turn\n", heads.join(" beside "), time.as_millis());

    let comparisons = filters.map(|filters| Comparison { work: verification(&signer), filters });
    match measure(&comparisons, rounds, time) {
        Ok(cells) if cells.is_empty() => {}
        Ok(cells) => print_cells(&heads, &cells),
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::FAILURE;
        }
    }
    if "Postfix".contains(&only()) {
        print_end_to_end(&EndToEnd::start(&signer, &comparisons[0].filters), rounds * POSTFIX_ROUNDS);
    }
    ExitCode::SUCCESS
}

/// The verifier's work. A signer's would stand beside it: same mail without a signature, a trusted client, and "done" being a
/// DKIM-Signature that was added.
fn verification(signer: &Signer) -> Vec<Work> {
    let verified = |outcome: &mta::Outcome| outcome.added.iter().any(|(_, value)| value.contains("dkim=pass"));
    vec![
        // Of an unknown client neither has an SPF to judge, so that both do DKIM's work.
        Work {
            name: "verify",
            client: Client::Unknown,
            letters: mail::letters("support@acme.example", Some(signer)),
            done: verified,
        },
        Work {
            name: "verify, SPF too",
            client: Client::Ipv4("192.0.2.10"),
            letters: mail::letters("support@acme.example", Some(signer)),
            done: verified,
        },
        Work {
            name: "pass through",
            client: Client::Ipv4("192.0.2.10"),
            letters: mail::letters("someone@other.example", None),
            done: |outcome| outcome.added.is_empty(),
        },
    ]
}

fn world(signer: &Signer) -> Zone {
    let zone = Zone::new()
        .ttl(TTL)
        .txt("customer.example", "v=spf1 ip4:192.0.2.10 -all")
        .txt("_dmarc.customer.example", "v=DMARC1; p=none")
        // The tree walk (RFC 9989 section 4.10) asks here too. As for a name that does not exist, dnsmasq's answer could not be
        // kept: it comes without an SOA record.
        .txt("_dmarc.example", "v=DMARC1; psd=y; p=none");
    signer.publish(zone)
}

fn measure(comparisons: &[Comparison], rounds: usize, time: Duration) -> std::io::Result<Vec<Cell>> {
    let only = only();
    let mut cells: Vec<Cell> = Vec::new();
    for round in 0..rounds {
        let mut at = 0;
        for (comparison, transport) in comparisons.iter().zip([Transport::Unix, Transport::Tcp]) {
            for work in &comparison.work {
                for connections in CONNECTIONS {
                    if !format!("{}, {transport}, {connections}", work.name).contains(&only) {
                        continue;
                    }
                    if round == 0 {
                        let figures = comparison.filters.iter().map(|_| Vec::new()).collect();
                        cells.push(Cell { work: work.name, transport, connections, figures });
                    }
                    for turn in 0..comparison.filters.len() {
                        // Who goes first changes from round to round.
                        let n = (turn + round) % comparison.filters.len();
                        let filter = &comparison.filters[n];
                        let figures =
                            load::run(&filter.address, filter.pid(), work, connections, time).map_err(|e| {
                                std::io::Error::other(format!(
                                    "{}, {}, {connections} connections: {e}",
                                    filter.name, work.name
                                ))
                            })?;
                        cells[at].figures[n].push(figures);
                    }
                    at += 1;
                }
            }
        }
        eprintln!("bench: round {} of {rounds} done", round + 1);
    }
    Ok(cells)
}

fn print_cells(names: &[String], cells: &[Cell]) {
    let mut rows = Vec::new();
    for cell in cells {
        let all = |n: usize, figure: fn(&Figures) -> f64| -> Vec<f64> { cell.figures[n].iter().map(figure).collect() };
        for (n, name) in names.iter().enumerate() {
            let value = |figure: fn(&Figures) -> f64| table::number(table::median(&all(n, figure)));
            let compared = |figure: fn(&Figures) -> f64| {
                if n == 0 { String::new() } else { table::ratio(&all(0, figure), &all(n, figure)) }
            };
            let megabytes = |figure: fn(&Figures) -> f64| table::number(table::median(&all(n, figure)) / 1024.0);
            rows.push(vec![
                if n == 0 { format!("{}, {}, {}", cell.work, cell.transport, cell.connections) } else { String::new() },
                name.split(' ').next().unwrap_or_default().to_owned(),
                value(|figures| figures.rate),
                value(|figures| figures.p50),
                value(|figures| figures.p99),
                value(|figures| figures.cpu),
                format!("{} / {}", megabytes(|figures| figures.peak), megabytes(|figures| figures.anonymous)),
                compared(|figures| figures.rate),
                compared(|figures| figures.p50),
                compared(|figures| figures.cpu),
                value(|figures| figures.undone),
            ]);
        }
    }
    println!("10 KiB messages. Ratios are deskmilter's figure over the other's: median (least..most) of the rounds.\n");
    let head = [
        "work, socket, connections",
        "filter",
        "messages/s",
        "p50 ms",
        "p99 ms",
        "CPU ms a message",
        "MiB peak / anonymous",
        "rate ratio",
        "p50 ratio",
        "CPU ratio",
        "% undone",
    ];
    table::print(&head, &rows);
}

fn print_end_to_end(end_to_end: &EndToEnd, rounds: usize) {
    let mut rates = vec![Vec::new(); end_to_end.len()];
    for round in 0..rounds {
        for turn in 0..rates.len() {
            let way = (turn + round) % rates.len();
            rates[way].push(end_to_end.rate(way));
        }
        eprintln!("bench: Postfix, round {} of {rounds} done", round + 1);
    }
    let rows = rates.iter().enumerate().map(|(way, rate)| {
        vec![end_to_end.name(way).to_owned(), table::number(table::median(rate)), table::ratio(rate, &rates[0])]
    });
    let rows: Vec<_> = rows.collect();
    println!(
        "The same message through Postfix (smtp-source, 16 sessions, a connection a message, discarded after the queue).\n"
    );
    table::print(&["milter", "messages/s", "of the rate without a milter"], &rows);
}

fn describe_machine() {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{cpus} CPUs ({}), load before the start {}",
        model.trim_start_matches([' ', '\t', ':']),
        load.split(' ').next().unwrap_or_default()
    );
}

/// Lines of the table that hold this text are measured, and `Postfix`; all of them unless told.
fn only() -> String {
    std::env::var("BENCH_ONLY").unwrap_or_default()
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default).max(1)
}
