//! The export for Prometheus, made by its client library.
//!
//! Names end in the unit where they have one, as OpenMetrics asks. Milliseconds are exported as
//! seconds, the only unit of time there.

use std::fmt;
use std::fmt::Write as _;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{self, Registry};

use super::histogram::Histogram;
use super::table::{Row, Type, Unit};
use super::{Counter, Gauge, Instrument};

/// A text format that Prometheus reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older Prometheus format 0.0.4, for those who read no other.
    Prometheus,
}

impl Format {
    /// Its content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

pub(super) fn register(row: &Row, registry: &mut Registry) -> Instrument {
    let instrument = match row.kind {
        Type::Counter => Instrument::Counter(Counter::default()),
        Type::Gauge => Instrument::Gauge(Gauge::default()),
        Type::Histogram => Instrument::Histogram(Histogram::default()),
    };
    let exported = Exported { instrument: instrument.clone(), unit: row.unit };
    // The library adds the unit to the name and says it in a line of its own.
    match row.name.rsplit_once('_') {
        Some((name, "seconds")) => {
            registry.register_with_unit(name, row.help, registry::Unit::Seconds, exported);
        }
        Some((name, "bytes")) => {
            registry.register_with_unit(name, row.help, registry::Unit::Bytes, exported);
        }
        _ => registry.register(row.name, row.help, exported),
    }
    instrument
}

pub(super) fn render(registry: &Registry, format: Format) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, registry);
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => as_prometheus(&text),
    }
}

/// The older format has no units and no end mark, and its counters are described by the name that
/// their samples have.
fn as_prometheus(text: &str) -> String {
    let is_counter = |name: &str| text.contains(&format!("# TYPE {name} counter\n"));
    let mut told = String::with_capacity(text.len());
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let (hash, what) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (name, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        // Writing to a String cannot fail.
        let _ = match (hash, what) {
            ("#", "UNIT" | "EOF") => Ok(()),
            ("#", "HELP" | "TYPE") if is_counter(name) => {
                writeln!(told, "# {what} {name}_total {rest}")
            }
            _ => writeln!(told, "{line}"),
        };
    }
    told
}

/// An instrument as it is exported.
struct Exported {
    instrument: Instrument,
    unit: Unit,
}

impl Exported {
    fn scaled(&self, value: f64) -> f64 {
        match self.unit {
            Unit::Milliseconds => value / 1e3,
            Unit::None | Unit::Seconds | Unit::Bytes | Unit::Mebibytes | Unit::Percent => value,
        }
    }
}

impl fmt::Debug for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exported")
    }
}

impl EncodeMetric for Exported {
    #[allow(clippy::cast_precision_loss)] // milliseconds stay far below 2^53
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match &self.instrument {
            Instrument::Counter(counter) if self.unit == Unit::Milliseconds => {
                let seconds = self.scaled(counter.get() as f64);
                encoder.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)
            }
            Instrument::Counter(counter) => {
                encoder.encode_counter::<NoLabelSet, u64, f64>(&counter.get(), None)
            }
            Instrument::Gauge(gauge) => encode_gauge(&mut encoder, self.scaled(gauge.get())),
            Instrument::Histogram(histogram) => histogram.encode(encoder),
        }
    }

    fn metric_type(&self) -> MetricType {
        match self.instrument {
            Instrument::Counter(_) => MetricType::Counter,
            Instrument::Gauge(_) => MetricType::Gauge,
            Instrument::Histogram(_) => MetricType::Histogram,
        }
    }
}

/// A whole number is written as one.
fn encode_gauge(encoder: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        #[allow(clippy::cast_possible_truncation)] // it is whole and fits
        return encoder.encode_gauge(&(value as i64));
    }
    encoder.encode_gauge(&value)
}

#[cfg(test)]
mod tests {
    use super::super::{Metric, Metrics, TABLE};
    use super::*;

    #[test]
    fn the_export_is_valid_openmetrics() {
        let metrics = Metrics::default();
        metrics.set(Metric::IsLeader, 1);
        metrics.reach(Metric::ProcessCpu, 1_500);
        metrics.observe(Metric::CommitSeconds, std::time::Duration::from_millis(2));
        let text = metrics.render();
        assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
        assert!(text.contains("\nlockbay_is_leader 1\n"));
        assert!(text.contains("\nprocess_cpu_seconds_total 1.5\n"));
        assert!(text.contains("lockbay_commit_seconds_bucket{le=\"+Inf\"} 1\n"));
        let mut described = Vec::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            match line.strip_prefix("# ").map(|line| line.split(' ').collect::<Vec<_>>()) {
                Some(words) if words[0] == "TYPE" => described.push(words[1].to_owned()),
                Some(words) if words[0] == "UNIT" => {
                    assert!(words[1].ends_with(&format!("_{}", words[2])), "{line}");
                }
                Some(words) => assert_eq!(words[0], "HELP", "{line}"),
                None => {
                    let name = line.split([' ', '{']).next().unwrap();
                    let family = described.last().unwrap();
                    assert!(name.starts_with(family.as_str()), "{line} behind {family}");
                }
            }
        }
        let names: Vec<_> = TABLE.iter().map(|row| row.name.to_owned()).collect();
        assert_eq!(described, names);
    }

    #[test]
    fn the_older_format_describes_counters_by_the_name_of_their_samples() {
        let text = Metrics::default().render_as(Format::Prometheus);
        assert!(text.contains("# TYPE lockbay_jobs_claimed_total counter\n"));
        assert!(text.contains("# HELP lockbay_jobs_claimed_total Job claims granted"));
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
        assert!(text.contains("# TYPE lockbay_job_duration_seconds histogram\n"));
    }
}
