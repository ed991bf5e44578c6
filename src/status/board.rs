//! Where the numbers stand, and how they are written.

use std::collections::HashMap;
use std::fmt;

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

use super::list::{ALL, BUCKETS, Kind, Metric};

/// All metrics of [`ALL`]. Counters and histograms keep what they have for as long as the process lives.
pub struct Board {
    registry: Registry,
    counters: HashMap<&'static str, IntCounterVec>,
    gauges: HashMap<&'static str, GaugeVec>,
    histograms: HashMap<&'static str, HistogramVec>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Board {
    /// With every number at nothing.
    ///
    /// # Errors
    /// The list is not one that Prometheus takes: two metrics of one name, a name that is none.
    pub fn new() -> Result<Self, String> {
        let mut board = Self {
            registry: Registry::new(),
            counters: HashMap::new(),
            gauges: HashMap::new(),
            histograms: HashMap::new(),
        };
        for metric in ALL {
            board.register(metric).map_err(|error| format!("{}: {error}", metric.name))?;
        }
        Ok(board)
    }

    fn register(&mut self, metric: &Metric) -> prometheus::Result<()> {
        let Metric { name, kind, labels, help } = *metric;
        match kind {
            Kind::Counter => {
                let family = IntCounterVec::new(Opts::new(name, help), labels)?;
                self.registry.register(Box::new(family.clone()))?;
                self.counters.insert(name, family);
            }
            Kind::Gauge => {
                let family = GaugeVec::new(Opts::new(name, help), labels)?;
                self.registry.register(Box::new(family.clone()))?;
                self.gauges.insert(name, family);
            }
            Kind::Histogram => {
                let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
                let family = HistogramVec::new(options, labels)?;
                self.registry.register(Box::new(family.clone()))?;
                self.histograms.insert(name, family);
            }
        }
        // Without labels there is one number, which is there from the beginning.
        if labels.is_empty() {
            self.add(metric, &[], 0);
        }
        Ok(())
    }

    /// Adds to a counter; adding 0 makes it appear.
    pub fn add(&self, metric: &Metric, labels: &[&str], count: u64) {
        let counter = self.counters.get(metric.name).map(|family| family.get_metric_with_label_values(labels));
        debug_assert!(!matches!(counter, Some(Err(_))), "{}: labels {labels:?}", metric.name);
        if let Some(Ok(counter)) = counter {
            counter.inc_by(count);
        }
    }

    /// Adds one duration to a histogram.
    pub fn observe(&self, metric: &Metric, labels: &[&str], seconds: f64) {
        let histogram = self.histograms.get(metric.name).map(|family| family.get_metric_with_label_values(labels));
        debug_assert!(!matches!(histogram, Some(Err(_))), "{}: labels {labels:?}", metric.name);
        if let Some(Ok(histogram)) = histogram {
            histogram.observe(seconds);
        }
    }

    /// Sets a gauge.
    pub fn set(&self, metric: &Metric, labels: &[&str], value: f64) {
        let gauge = self.gauges.get(metric.name).map(|family| family.get_metric_with_label_values(labels));
        debug_assert!(!matches!(gauge, Some(Err(_))), "{}: labels {labels:?}", metric.name);
        if let Some(Ok(gauge)) = gauge {
            gauge.set(value);
        }
    }

    /// Takes all gauges away: what is not there any more is not told any more.
    pub(super) fn clear_gauges(&self) {
        self.gauges.values().for_each(GaugeVec::reset);
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// The library's own.
    pub fn text(&self) -> Result<String, String> {
        let mut text = String::new();
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }
}
