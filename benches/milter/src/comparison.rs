//! Filters that do the same work for the same mail, measured in turn, and the table of the results.

use std::io;
use std::time::Duration;

use crate::filter::Filter;
use crate::load::{self, Figures, Work};
use crate::{bare, only, table};

/// Filters that do the same work for the same mail. The first one is ours.
pub struct Comparison {
    /// What is sent.
    pub work: Vec<Work>,
    /// How the filters are reached.
    pub socket: &'static str,
    /// Connections at a time.
    pub connections: &'static [usize],
    /// The filters.
    pub filters: Vec<Filter>,
}

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How often each filter has its turn.
    pub rounds: usize,
    /// How long a turn is.
    pub time: Duration,
}

/// One line of the table, all rounds: the figures of each filter.
pub struct Cell {
    line: String,
    names: Vec<String>,
    figures: Vec<Vec<Figures>>,
    /// Milliseconds of a bare signature in each round.
    bare: Vec<f64>,
}

/// What a line of the table is called: [`only`] chooses among these.
pub fn line(work: &str, socket: &str, connections: usize) -> String {
    format!("{work}, {socket}, {connections}")
}

/// Whether any of the lines is asked for.
pub fn is_wanted(work: &[&str], socket: &str, connections: &[usize]) -> bool {
    let mut lines = work.iter().flat_map(|work| connections.iter().map(|&n| line(work, socket, n)));
    lines.any(|line| line.contains(&only()))
}

/// Measures the lines that are asked for. `signature_seconds`, unless 0, is how long OpenSSL signs in each round, for comparison.
///
/// # Errors
/// A filter broke the protocol, took too long or went away.
pub fn measure(comparisons: &[Comparison], pace: Pace, signature_seconds: u32) -> io::Result<Vec<Cell>> {
    let mut cells: Vec<Cell> = Vec::new();
    for round in 0..pace.rounds {
        let mut at = 0;
        for Comparison { work, socket, connections, filters } in comparisons {
            for (work, &connections) in work.iter().flat_map(|work| connections.iter().map(move |n| (work, n))) {
                let line = line(work.name, socket, connections);
                if !line.contains(&only()) {
                    continue;
                }
                if round == 0 {
                    let names = filters.iter().map(|filter| filter.name.clone()).collect();
                    cells.push(Cell { line, names, figures: vec![Vec::new(); filters.len()], bare: Vec::new() });
                }
                let cell = &mut cells[at];
                at += 1;
                if signature_seconds > 0 {
                    cell.bare.push(bare::rsa2048(signature_seconds));
                }
                for turn in 0..filters.len() {
                    // Who goes first changes from round to round.
                    let n = (turn + round) % filters.len();
                    let filter = &filters[n];
                    let figures = load::run(&filter.address, filter.pid(), work, n, connections, pace.time);
                    cell.figures[n]
                        .push(figures.map_err(|e| io::Error::other(format!("{}, {}: {e}", filter.name, cell.line)))?);
                }
            }
        }
        eprintln!("bench: round {} of {} done", round + 1, pace.rounds);
    }
    Ok(cells)
}

/// Prints the table.
pub fn print(cells: &[Cell]) {
    if cells.is_empty() {
        return;
    }
    let signing = cells.iter().any(|cell| !cell.bare.is_empty());
    let mut rows = Vec::new();
    for cell in cells {
        let all = |n: usize, figure: fn(&Figures) -> f64| -> Vec<f64> { cell.figures[n].iter().map(figure).collect() };
        for (n, name) in cell.names.iter().enumerate() {
            let value = |figure: fn(&Figures) -> f64| table::number(table::median(&all(n, figure)));
            let compared = |figure: fn(&Figures) -> f64| {
                if n == 0 { String::new() } else { table::ratio(&all(0, figure), &all(n, figure)) }
            };
            let megabytes = |figure: fn(&Figures) -> f64| table::number(table::median(&all(n, figure)) / 1024.0);
            let mut row = vec![
                if n == 0 { cell.line.clone() } else { String::new() },
                name.clone(),
                value(|figures| figures.rate),
                value(|figures| figures.p50),
                value(|figures| figures.p99),
                value(|figures| figures.cpu),
                format!("{} / {}", megabytes(|figures| figures.peak), megabytes(|figures| figures.anonymous)),
                compared(|figures| figures.rate),
                compared(|figures| figures.p50),
                compared(|figures| figures.cpu),
                value(|figures| figures.undone),
            ];
            if signing {
                row.push(table::ratio(&all(n, |figures| figures.cpu), &cell.bare));
            }
            rows.push(row);
        }
    }
    println!(
        "10 KiB messages. Ratios are the first filter's figure over the other's: median (least..most) of the rounds.\n"
    );
    let mut head = vec![
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
    if signing {
        head.push("CPU / bare RSA-2048");
    }
    table::print(&head, &rows);
}
