//! How the daemon is: numbers for Prometheus, and whether it is alive and ready.
//!
//! In: the log's events, of which [`Counting`] makes counters, and what a [`Source`] tells of the moment: connections, memory, ages.
//! Out: `/metrics` in Prometheus' text format, `/health` and `/ready`, over HTTP. It must not know mail, protocols of mail or who
//! may see what: whoever reaches the socket sees numbers, names of connectors, and nothing else.
//!
//! [`list`] is the one list of metrics. What happens to a message is counted where it is logged and nowhere else, so that a counter
//! never says other than the log. Labels have values of the configuration and of short lists in the code: never an address, a login
//! or a domain from outside, so that no stranger can make the numbers many.

mod board;
mod counting;
mod http;
pub mod list;
mod process;
#[cfg(test)]
mod tests;

pub use board::Board;
pub use counting::Counting;
pub use http::{CONNECTIONS_MAX, Status, serve};
pub use list::{Kind, Metric};

/// Who knows how things are at this moment.
pub trait Source: std::fmt::Debug + Send + Sync + 'static {
    /// Sets the gauges. All that were set before are gone. May look at files: it is called where that holds up nobody.
    fn measure(&self, board: &Board);

    /// Whether the daemon does what its configuration says.
    fn readiness(&self) -> Readiness;
}

/// How ready the daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readiness {
    /// What keeps mail from being served.
    pub failed: Vec<String>,
    /// What is not as it should be while mail is served.
    pub degraded: Vec<String>,
}
