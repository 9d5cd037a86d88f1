//! What is measured: counting, reading back by path, and the export for Prometheus.
//!
//! A metric is a row of [`TABLE`]; counting is one atomic addition. The rows are exported in the
//! OpenMetrics and in the older Prometheus text format, and can be read back by [`Metric`] and by
//! the guide's dotted paths, for health, reports, history and alerts.

mod histogram;
mod path;
mod process;
mod table;
mod text;

use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde::Serialize;
use std::sync::atomic::AtomicU64;

pub use histogram::{BOUNDS, BUCKETS, quantile_of};
pub use path::{PARTS, Part, Series, alike, find, paths};
pub(crate) use process::Process;
pub use table::{Merge, Metric, Row, TABLE, Type, Unit};
pub use text::Format;

use histogram::Histogram;

type Counter = prometheus_client::metrics::counter::Counter;
type Gauge = prometheus_client::metrics::gauge::Gauge<f64, AtomicU64>;

#[derive(Clone)]
enum Instrument {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// What a metric says at one moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampled {
    /// Of a counter.
    Counter(u64),
    /// Of a gauge.
    Gauge(f64),
    /// Of a histogram: the observations in each bucket, and their sum.
    Histogram(Box<[u64; BUCKETS]>, Duration),
}

/// A histogram in a few numbers; times in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many observations there were.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Half of them were quicker. See [`quantile_of`] for how exact that is.
    pub p50: Option<f64>,
    /// 95 of a hundred were quicker.
    pub p95: Option<f64>,
    /// 99 of a hundred were quicker.
    pub p99: Option<f64>,
}

/// The metrics of one instance.
pub struct Metrics {
    registry: Mutex<Registry>,
    instruments: Vec<Instrument>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let instruments = TABLE.iter().map(|row| text::register(row, &mut registry)).collect();
        Metrics { registry: Mutex::new(registry), instruments }
    }
}

impl Metrics {
    /// Adds one to a counter.
    pub fn count(&self, metric: Metric) {
        self.add(metric, 1);
    }

    /// Adds so many to a counter.
    pub fn add(&self, metric: Metric, times: u64) {
        if let Some(Instrument::Counter(counter)) = self.instruments.get(metric as usize) {
            counter.inc_by(times);
        }
    }

    /// Brings a counter that somebody else keeps to where it stands. It does not go back.
    pub fn reach(&self, metric: Metric, value: u64) {
        if let Some(Instrument::Counter(counter)) = self.instruments.get(metric as usize) {
            counter.inner().fetch_max(value, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Sets a gauge.
    #[allow(clippy::cast_precision_loss)] // gauges stay far below 2^53
    pub fn set(&self, metric: Metric, value: i64) {
        self.set_real(metric, value as f64);
    }

    /// Sets a gauge to a number that need not be whole.
    pub fn set_real(&self, metric: Metric, value: f64) {
        if let Some(Instrument::Gauge(gauge)) = self.instruments.get(metric as usize) {
            gauge.set(value);
        }
    }

    /// Adds an observation to a histogram.
    pub fn observe(&self, metric: Metric, duration: Duration) {
        if let Some(Instrument::Histogram(histogram)) = self.instruments.get(metric as usize) {
            histogram.observe(duration);
        }
    }

    /// The value of a counter or gauge, without what is behind the point; zero for a histogram.
    pub fn value(&self, metric: Metric) -> i64 {
        match self.instruments.get(metric as usize) {
            Some(Instrument::Counter(counter)) => i64::try_from(counter.get()).unwrap_or(i64::MAX),
            #[allow(clippy::cast_possible_truncation)] // meant
            Some(Instrument::Gauge(gauge)) => gauge.get() as i64,
            Some(Instrument::Histogram(_)) | None => 0,
        }
    }

    /// A histogram in a few numbers; nothing of a counter or gauge.
    pub fn summary(&self, metric: Metric) -> Option<Summary> {
        let Instrument::Histogram(histogram) = self.instruments.get(metric as usize)? else {
            return None;
        };
        let (buckets, sum) = histogram.read();
        let quantile = |share| quantile_of(&buckets, &BOUNDS, share);
        Some(Summary {
            count: buckets.iter().sum(),
            sum: sum.as_secs_f64(),
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
        })
    }

    /// The number at a path of the guide's metrics document, such as `saga_metrics.sagas_failed` or
    /// `saga_metrics.step_seconds.p95`; a counter's is its lifetime total. `None` if the path names
    /// nothing or a whole histogram, and for a quantile of no observations.
    #[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
    pub fn read(&self, path: &str) -> Option<f64> {
        let (row, part) = path::locate(path)?;
        match (&self.instruments[row.metric as usize], part) {
            (Instrument::Counter(counter), _) => Some(counter.get() as f64),
            (Instrument::Gauge(gauge), _) => Some(gauge.get()),
            (Instrument::Histogram(_), Part::Whole) => None,
            (Instrument::Histogram(histogram), Part::Quantile(share)) => {
                quantile_of(&histogram.read().0, &BOUNDS, share)
            }
            (Instrument::Histogram(histogram), Part::Count) => {
                Some(histogram.read().0.iter().sum::<u64>() as f64)
            }
            (Instrument::Histogram(histogram), Part::Sum) => Some(histogram.read().1.as_secs_f64()),
        }
    }

    /// All metrics as they are now, in the order of [`TABLE`].
    pub fn sample(&self) -> Vec<Sampled> {
        let sampled = |instrument: &Instrument| match instrument {
            Instrument::Counter(counter) => Sampled::Counter(counter.get()),
            Instrument::Gauge(gauge) => Sampled::Gauge(gauge.get()),
            Instrument::Histogram(histogram) => {
                let (buckets, sum) = histogram.read();
                Sampled::Histogram(Box::new(buckets), sum)
            }
        };
        self.instruments.iter().map(sampled).collect()
    }

    /// All of them in the OpenMetrics text format.
    pub fn render(&self) -> String {
        self.render_as(Format::OpenMetrics)
    }

    /// All of them in a text format that Prometheus reads.
    pub fn render_as(&self, format: Format) -> String {
        text::render(&self.registry.lock(), format)
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_metrics() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.metric as usize, at, "{}", row.name);
        }
    }

    #[test]
    fn what_was_counted_is_read_back_and_exported() {
        let metrics = Metrics::default();
        metrics.count(Metric::JobsCompleted);
        metrics.count(Metric::JobsCompleted);
        assert_eq!(metrics.value(Metric::JobsCompleted), 2);
        assert_eq!(metrics.read("job_idempotency_metrics.jobs_completed"), Some(2.0));
        assert!(metrics.render().contains("lockbay_jobs_completed_total 2"));
    }

    #[test]
    fn quantiles_are_read_by_path() {
        let metrics = Metrics::default();
        assert_eq!(metrics.read("saga_metrics.step_seconds.p95"), None);
        for millis in 1..=100 {
            metrics.observe(Metric::StepSeconds, Duration::from_millis(millis));
        }
        let p95 = metrics.read("saga_metrics.step_seconds.p95").unwrap();
        assert!((0.09..0.1).contains(&p95), "{p95}");
        assert_eq!(metrics.read("saga_metrics.step_seconds.count"), Some(100.0));
        assert_eq!(metrics.read("saga_metrics.step_seconds.sum"), Some(5.05));
        assert_eq!(metrics.read("saga_metrics.step_seconds"), None);
        assert_eq!(metrics.summary(Metric::StepSeconds).unwrap().p95, Some(p95));
    }

    #[test]
    fn a_counter_that_somebody_else_keeps_does_not_go_back() {
        let metrics = Metrics::default();
        metrics.reach(Metric::ProcessCpu, 30);
        metrics.reach(Metric::ProcessCpu, 20);
        assert_eq!(metrics.value(Metric::ProcessCpu), 30);
    }
}
