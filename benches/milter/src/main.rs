//! `make bench`: deskmilter's milter beside its peers, in the same run, on the same machine.
//!
//! Each filter is a daemon of its own; this program plays Postfix's side against it ([`mta`], [`load`]) with the same mail
//! ([`mail`]), accounts what its process used ([`usage`]), and has a real Postfix take mail with each of them
//! ([`end_to_end`]) and bring it to its end ([`whole_way`]), and a real Exim with deskmilter and without ([`exim`]). Machines are noisy, so filters take turns, round after round, and what counts is the ratio within a
//! round ([`comparison`], [`table`]); what a signature costs by itself is measured between the turns ([`bare`]). Besides, a
//! daemon with ten thousand connectors ([`scale`]) and one that is sent many large messages at once ([`burst`]).
//! docs/performance.md says how to read the result, and which variables change a run.

mod bare;
mod burst;
mod comparison;
mod end_to_end;
mod exim;
mod filter;
mod idle_milter;
mod load;
mod mail;
mod mta;
mod scale;
mod source;
mod table;
mod usage;
mod whole_way;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use support::{NameServer, PrivateKey, Signer, Zone};

use comparison::{Comparison, Pace, is_wanted, measure};
use end_to_end::{EndToEnd, Figures, Filters, Kind};
use filter::{Filter, LOGIN, SUPPORT, Transport};
use load::Work;
use mta::Client;
use source::Session;
use whole_way::WholeWay;

/// Seconds that the sender's records may be kept: longer than a run.
const TTL: u32 = 3_600;
/// Rounds unless `BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 3;
/// Milliseconds that a filter is measured at a time, unless `BENCH_MILLISECONDS` says otherwise.
const MILLISECONDS: usize = 1_200;
/// Postfix is measured this many times as often: it is the noisiest of all.
const POSTFIX_ROUNDS: usize = 2;
/// Configurations are measured this many times as often against each other: what is looked for is a few percent.
const SCALE_ROUNDS: usize = 5;
/// Seconds that OpenSSL signs in each round and line.
const SIGNATURE_SECONDS: u32 = 1;
/// The lines that stand for what is not in the table: [`only`] chooses among these too.
const MEMORY: &str = "memory";
const POSTFIX: &str = "Postfix";
const EXIM: &str = "Exim";
const WHOLE_WAY: &str = "whole way";

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("bench: must be root, to start a private Postfix: run `sudo make bench`, or `make bench` as root");
        return ExitCode::FAILURE;
    }
    let (rounds, time) = (setting("BENCH_ROUNDS", ROUNDS), setting("BENCH_MILLISECONDS", MILLISECONDS));
    let pace = Pace { rounds, time: Duration::from_millis(u64::try_from(time).unwrap_or(u64::MAX)) };
    let signer = Signer::new("customer.example", "mail");
    let bench = Bench { pace, names: NameServer::start(&world(&signer)), signer };
    describe_machine();
    println!("{rounds} rounds of {time} ms each, filters in turn\n");
    match bench.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What all parts need.
struct Bench {
    pace: Pace,
    names: NameServer,
    signer: Signer,
}

impl Bench {
    fn run(&self) -> io::Result<()> {
        self.verify()?;
        self.sign()?;
        self.scale()?;
        self.memory()?;
        if POSTFIX.contains(&only()) {
            self.end_to_end();
        }
        if WHOLE_WAY.contains(&only()) {
            self.whole_way();
        }
        if EXIM.contains(&only()) {
            exim::run(&self.signer, self.pace.rounds);
        }
        Ok(())
    }

    fn verify(&self) -> io::Result<()> {
        const CONNECTIONS: &[usize] = &[1, 16, 200];
        let mut comparisons = Vec::new();
        for (transport, socket) in [(Transport::Unix, "unix"), (Transport::Tcp, "TCP")] {
            let work = verification(&self.signer);
            if is_wanted(&work.iter().map(|work| work.name).collect::<Vec<_>>(), socket, CONNECTIONS) {
                comparisons.push(Comparison {
                    work,
                    socket,
                    connections: CONNECTIONS,
                    filters: self.verifiers(transport),
                });
            }
        }
        comparison::print(&measure(&comparisons, self.pace, 0)?);
        Ok(())
    }

    fn verifiers(&self, transport: Transport) -> Vec<Filter> {
        let mut filters = vec![Filter::opendkim_verifying(transport, &self.names)];
        for (n, program) in programs().into_iter().enumerate() {
            let mut filter = Filter::deskmilter(&program, transport, &self.names);
            filter.name = format!("{}{}", ["", "other "][n], filter.name);
            filters.insert(n * 2, filter);
        }
        filters.extend(Filter::rspamd_verifying(transport, &self.names));
        filters
    }

    fn sign(&self) -> io::Result<()> {
        const CONNECTIONS: &[usize] = &[1, 16];
        let (rsa, ed25519) = (PrivateKey::rsa(), PrivateKey::ed25519());
        let (rsa_key, ed25519_key) = (("rsa2026", rsa.clone()), ("ed2026", ed25519.clone()));
        let ours = |keys: &[(&str, PrivateKey)], cover: &str, transport| {
            let of = |(n, program): (usize, PathBuf)| {
                let mut filter = Filter::deskmilter_signing(&program, transport, &self.names, keys, cover);
                filter.name = format!("{}deskmilter {transport}", ["", "other "][n]);
                filter
            };
            programs().into_iter().enumerate().map(of).collect::<Vec<_>>()
        };
        let theirs = |key, algorithm| {
            let mut filter = Filter::opendkim_signing(Transport::Unix, &self.names, key, algorithm);
            filter.name = format!("OpenDKIM {}", Transport::Unix);
            filter
        };
        let mut comparisons = Vec::new();
        let mut compare = |name, signatures, filters: &dyn Fn() -> Vec<Filter>| {
            if is_wanted(&[name], "unix", CONNECTIONS) {
                let work = vec![signing(name, signatures)];
                comparisons.push(Comparison { work, socket: "unix", connections: CONNECTIONS, filters: filters() });
            }
        };
        compare("sign RSA-2048", 1, &|| {
            let keys = std::slice::from_ref(&rsa_key);
            let mut filters = ours(keys, "core", Transport::Unix);
            filters.push(theirs(("rsa2026", &rsa), "rsa-sha256"));
            filters.extend(ours(keys, "core", Transport::Tcp).into_iter().take(1));
            filters
        });
        compare("sign Ed25519", 1, &|| {
            let mut filters = ours(std::slice::from_ref(&ed25519_key), "core", Transport::Unix);
            filters.push(theirs(("ed2026", &ed25519), "ed25519-sha256"));
            filters
        });
        compare("sign RSA-2048 and Ed25519", 2, &|| {
            ours(&[rsa_key.clone(), ed25519_key.clone()], "core", Transport::Unix)
        });
        compare("sign RSA-2048, core and preserved", 2, &|| {
            ours(std::slice::from_ref(&rsa_key), "preserved", Transport::Unix)
        });
        comparison::print(&measure(&comparisons, self.pace, SIGNATURE_SECONDS)?);
        Ok(())
    }

    /// Ten thousand connectors beside one.
    fn scale(&self) -> io::Result<()> {
        const CONNECTIONS: &[usize] = &[16];
        const NAME: &str = "sign with 10,000 connectors";
        if !is_wanted(&[NAME], "unix", CONNECTIONS) {
            return Ok(());
        }
        let program = support::deskmilter();
        let sockets = scale::socket_folder();
        let mut filters =
            [scale::CONNECTORS, 1].map(|count| scale::deskmilter(&program, &self.names, count, sockets.path()));
        let mut starts = vec![scale::start_cost(&filters[0])];
        for _ in 1..self.pace.rounds {
            filters[0].restart();
            starts.push(scale::start_cost(&filters[0]));
        }
        let letters = [scale::CONNECTORS, 1].map(scale::letters).to_vec();
        let work = Work { letters, ..signing(NAME, 1) };
        for (n, filter) in filters.iter().enumerate() {
            load::send_each(&filter.address, &work, n)?;
        }
        let filters = Vec::from(filters);
        let comparison = Comparison { work: vec![work], socket: "unix", connections: CONNECTIONS, filters };
        let pace = Pace { rounds: self.pace.rounds * SCALE_ROUNDS, ..self.pace };
        comparison::print(&measure(std::slice::from_ref(&comparison), pace, 0)?);
        let reloads: Vec<_> = (0..self.pace.rounds).map(|_| scale::reload_cost(&comparison.filters[0])).collect();
        println!("{} connectors, each with a key file, median (least..most) of {}.\n", scale::CONNECTORS, starts.len());
        let row = |name: &str, costs: &[scale::Cost]| {
            let of = |figure: fn(&scale::Cost) -> Duration| {
                table::spread(&costs.iter().map(|cost| figure(cost).as_secs_f64()).collect::<Vec<_>>())
            };
            vec![name.to_owned(), of(|cost| cost.elapsed), of(|cost| cost.cpu)]
        };
        let rows = [row("start to the first answer", &starts), row("reload, no key replaced", &reloads)];
        table::print(&["", "seconds", "CPU seconds"], &rows);
        Ok(())
    }

    fn end_to_end(&self) {
        let (selector, key) = ("rsa2026", PrivateKey::rsa());
        let mut signing: Vec<_> = programs()
            .iter()
            .map(|program| Filter::deskmilter_signing_own(program, &self.names, (selector, &key)))
            .collect();
        signing.push(Filter::opendkim_signing(Transport::Unix, &self.names, (selector, &key), "rsa-sha256"));
        let filters = Filters { verifying: self.verifiers(Transport::Unix), signing };
        let end_to_end = EndToEnd::start(&self.signer, &filters);
        for (session, title) in [
            (Session::OneMessage, "one message a session, so that each has a connection to the milter of its own"),
            (Session::Many, "as many messages a session as come"),
        ] {
            println!("Through Postfix: smtp-source, 16 sessions at a time, {title}; discarded after the queue.\n");
            let ways: Vec<_> = end_to_end.ways.iter().map(|way| (way.kind, way.name.as_str())).collect();
            take_turns(&ways, self.pace.rounds * POSTFIX_ROUNDS, |n| end_to_end.run(&end_to_end.ways[n], session));
        }
    }

    /// Until the mail has arrived.
    fn whole_way(&self) {
        let whole_way = WholeWay::start(&self.signer, &self.names);
        println!(
            "The whole way: smtp-source, Postfix, and on to a mailbox, or over TLS with AUTH to the next server; 16 sessions at \
             a time, one message each.\n"
        );
        let ways: Vec<_> = whole_way.ways.iter().map(|way| (way.kind, way.name.as_str())).collect();
        take_turns(&ways, self.pace.rounds * POSTFIX_ROUNDS, |n| whole_way.run(&whole_way.ways[n]));
    }

    fn memory(&self) -> io::Result<()> {
        if !MEMORY.contains(&only()) {
            return Ok(());
        }
        let key = [("rsa2026", PrivateKey::rsa())];
        let filter = Filter::deskmilter_signing(&support::deskmilter(), Transport::Unix, &self.names, &key, "core");
        let seen = burst::run(&filter, (SUPPORT.to_owned(), LOGIN.to_owned()))?;
        let above = |kilobytes: u64| table::number(kilobytes.saturating_sub(seen.idle) as f64 / 1024.0);
        println!(
            "{} messages of {} MiB at once, signed: {} MiB of anonymous and shared memory above the {} MiB at rest, {} MiB a \
             second after the last one.\n",
            burst::MESSAGES,
            burst::MEBIBYTES,
            above(seen.peak),
            table::number(seen.idle as f64 / 1024.0),
            above(seen.after),
        );
        Ok(())
    }
}

/// The program that is measured, and an earlier build to compare with where `BENCH_AGAINST` names one.
fn programs() -> Vec<PathBuf> {
    let against = std::env::var_os("BENCH_AGAINST").map(PathBuf::from);
    std::iter::once(support::deskmilter()).chain(against).collect()
}

/// Notifications that are submitted and leave with so many more signatures.
fn signing(name: &'static str, signatures: usize) -> Work {
    fn fields(outcome: &mta::Outcome) -> usize {
        outcome.added.iter().filter(|(name, _)| name.eq_ignore_ascii_case("DKIM-Signature")).count()
    }
    Work {
        name,
        client: Client::Ipv4Tls("192.0.2.10"),
        letters: vec![mail::notifications(&[(SUPPORT.to_owned(), LOGIN.to_owned())])],
        done: if signatures == 1 { |outcome| fields(outcome) == 1 } else { |outcome| fields(outcome) == 2 },
    }
}

fn verification(signer: &Signer) -> Vec<Work> {
    let verified = |outcome: &mta::Outcome| outcome.added.iter().any(|(_, value)| value.contains("dkim=pass"));
    vec![
        // Of an unknown client neither has an SPF to judge, so that both do DKIM's work.
        Work {
            name: "verify",
            client: Client::Unknown,
            letters: vec![mail::letters(SUPPORT, Some(signer))],
            done: verified,
        },
        Work {
            name: "verify, SPF too",
            client: Client::Ipv4("192.0.2.10"),
            letters: vec![mail::letters(SUPPORT, Some(signer))],
            done: verified,
        },
        Work {
            name: "pass through",
            client: Client::Ipv4("192.0.2.10"),
            letters: vec![mail::letters("someone@other.example", None)],
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

/// Measures each way of Postfix's in turn, and prints them beside the first one of their kind, which has no milter.
fn take_turns(ways: &[(Kind, &str)], rounds: usize, run: impl Fn(usize) -> Figures) {
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); ways.len()];
    for round in 0..rounds {
        for n in order(ways.len(), round) {
            figures[n].push(run(n));
        }
        eprintln!("bench: Postfix, round {} of {rounds} done", round + 1);
    }
    let of = |n: usize, figure: fn(&Figures) -> f64| -> Vec<f64> { figures[n].iter().map(figure).collect() };
    let rows = ways.iter().enumerate().map(|(n, (kind, name))| {
        let without = ways.iter().position(|(other, _)| other == kind).unwrap_or(n);
        let rate = |n| of(n, |one| one.rate);
        let cpu = |n| of(n, |one| one.postfix + one.filter);
        let value = |figure| table::number(table::median(&of(n, figure)));
        vec![
            if n == without { kind.name().to_owned() } else { String::new() },
            (*name).to_owned(),
            table::number(table::median(&rate(n))),
            table::ratio(&rate(n), &rate(without)),
            value(|one| one.postfix),
            value(|one| one.filter),
            table::ratio(&cpu(n), &cpu(without)),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let head = ["mail", "milter", "messages/s", "rate ratio", "CPU ms: Postfix", "filter", "CPU ratio, both"];
    table::print(&head, &rows);
}

/// In which order `count` ways take their turns: each round begins with another one, and who comes after whom changes too, for
/// what one leaves behind (idle processes, a full page cache) is found by the next.
fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    let divides_both = |step: usize| (2..=step).any(|n| count.is_multiple_of(n) && step.is_multiple_of(n));
    let steps: Vec<_> = (1..count).filter(|&step| !divides_both(step)).collect();
    let step = steps.get(round % steps.len().max(1)).copied().unwrap_or(1);
    (0..count).map(move |turn| (round + turn * step) % count)
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

/// Lines of the table that hold this text are measured, and `memory`, `Postfix`, `whole way` and `Exim`; all of them unless told.
fn only() -> String {
    std::env::var("BENCH_ONLY").unwrap_or_default()
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default).max(1)
}
