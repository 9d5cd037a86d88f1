//! What is looked at: which series, read how, and which way is good.
//!
//! The one table of goodness. A path that is not in it has neither a good nor a bad way: it is still
//! told whether and how fast it moves.

use super::Goodness;
use crate::error::{Error, Result};
use crate::metrics::{Part, Series, Type, Unit};
use crate::monitor::history::History;

/// How a series of points is made from what was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Source {
    /// How much a counter grew, per second.
    Rate(&'static str),
    /// The part that the first counter has in what both count.
    Share(&'static str, &'static str),
    /// Where a gauge stands.
    Value(&'static str),
    /// A quantile of a histogram.
    Quantile(&'static str, f64),
}

/// One series that is judged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Watched {
    /// As it is asked for.
    pub(crate) name: String,
    pub(crate) source: Source,
    pub(crate) goodness: Goodness,
    /// Such as `per second`.
    pub(crate) unit: &'static str,
    /// A change below this does not matter.
    pub(crate) floor: f64,
    /// The gauge that it must not reach.
    pub(crate) limit: Option<&'static str>,
}

use Goodness::{HigherIsBetter, LowerIsBetter, Neither};

const JOBS: &str = "job_idempotency_metrics.jobs_completed";
const JOBS_FAILED: &str = "job_idempotency_metrics.jobs_failed";
const SAGAS: &str = "saga_metrics.sagas_completed";
const SAGAS_FAILED: &str = "saga_metrics.sagas_failed";

const IN_FLIGHT: &str = "system_metrics.requests_in_flight";

/// The series by which one sees how the service does, with their names, and the least change that
/// matters.
#[rustfmt::skip]
const IMPORTANT: &[(&str, Source, f64)] = &[
    (JOBS, Source::Rate(JOBS), 0.0),
    ("job_error_ratio", Source::Share(JOBS_FAILED, JOBS), 0.005),
    ("job_idempotency_metrics.job_seconds.p95", Source::Quantile("job_idempotency_metrics.job_seconds", 0.95), 0.001),
    (SAGAS, Source::Rate(SAGAS), 0.0),
    ("saga_error_ratio", Source::Share(SAGAS_FAILED, SAGAS), 0.005),
    ("saga_metrics.saga_seconds.p95", Source::Quantile("saga_metrics.saga_seconds", 0.95), 0.001),
    ("saga_metrics.step_seconds.p95", Source::Quantile("saga_metrics.step_seconds", 0.95), 0.001),
    ("saga_metrics.running_sagas", Source::Value("saga_metrics.running_sagas"), 10.0),
    (IN_FLIGHT, Source::Value(IN_FLIGHT), 10.0),
    ("system_metrics.commit_seconds.p95", Source::Quantile("system_metrics.commit_seconds", 0.95), 0.001),
    ("system_metrics.store_round_trip_ms", Source::Value("system_metrics.store_round_trip_ms"), 1.0),
    ("system_metrics.process_memory_bytes", Source::Value("system_metrics.process_memory_bytes"), 8_388_608.0),
    ("system_metrics.process_open_fds", Source::Value("system_metrics.process_open_fds"), 20.0),
    ("cleanup_metrics.cleanup_efficiency", Source::Value("cleanup_metrics.cleanup_efficiency"), 5.0),
];

/// Which way is good; of a histogram, of its durations.
#[rustfmt::skip]
const GOODNESS: &[(&str, Goodness)] = &[
    ("job_idempotency_metrics.jobs_completed", HigherIsBetter),
    ("job_idempotency_metrics.jobs_failed", LowerIsBetter),
    ("job_idempotency_metrics.jobs_taken_over", LowerIsBetter),
    ("job_idempotency_metrics.coordination_conflicts", LowerIsBetter),
    ("job_idempotency_metrics.claims_fenced", LowerIsBetter),
    ("job_idempotency_metrics.job_seconds", LowerIsBetter),
    ("job_error_ratio", LowerIsBetter),
    ("saga_metrics.sagas_completed", HigherIsBetter),
    ("saga_metrics.sagas_failed", LowerIsBetter),
    ("saga_metrics.sagas_compensated", LowerIsBetter),
    ("saga_metrics.sagas_parked", LowerIsBetter),
    ("saga_metrics.sagas_abandoned", LowerIsBetter),
    ("saga_metrics.sagas_taken_over", LowerIsBetter),
    ("saga_metrics.running_sagas", LowerIsBetter),
    ("saga_metrics.steps_unknown", LowerIsBetter),
    ("saga_metrics.saga_seconds", LowerIsBetter),
    ("saga_metrics.step_seconds", LowerIsBetter),
    ("saga_metrics.tasks_failed", LowerIsBetter),
    ("saga_metrics.tasks_lapsed", LowerIsBetter),
    ("saga_error_ratio", LowerIsBetter),
    ("system_metrics.leader_losses", LowerIsBetter),
    ("system_metrics.lease_conflicts", LowerIsBetter),
    ("system_metrics.renewal_errors", LowerIsBetter),
    ("system_metrics.renewal_seconds", LowerIsBetter),
    ("system_metrics.rights_lost", LowerIsBetter),
    ("system_metrics.store_errors", LowerIsBetter),
    ("system_metrics.store_round_trip_seconds", LowerIsBetter),
    ("system_metrics.store_round_trip_ms", LowerIsBetter),
    ("system_metrics.commit_seconds", LowerIsBetter),
    ("system_metrics.requests_in_flight", LowerIsBetter),
    ("system_metrics.process_memory_bytes", LowerIsBetter),
    ("system_metrics.process_open_fds", LowerIsBetter),
    ("system_metrics.process_threads", LowerIsBetter),
    ("state_manager_metrics.stale_served", LowerIsBetter),
    ("schedule_metrics.ticks_failed", LowerIsBetter),
    ("schedule_metrics.ticks_misfired", LowerIsBetter),
    ("schedule_metrics.tick_lateness_seconds", LowerIsBetter),
    ("cleanup_metrics.total_errors", LowerIsBetter),
    ("cleanup_metrics.cleanup_seconds", LowerIsBetter),
    ("cleanup_metrics.cleanup_efficiency", HigherIsBetter),
];

/// What is looked at when nothing is asked for by name.
pub(crate) fn important() -> impl Iterator<Item = Watched> {
    IMPORTANT.iter().map(|(name, source, floor)| watched(name, *source, *floor))
}

/// What a path names: one of the important series, or any of which there is a history. A counter is
/// read as a rate, a histogram without a part as its 95th percentile.
///
/// # Errors
/// `NotFound` if it names nothing, `Invalid` for the sum of a histogram.
pub(crate) fn find(path: &str) -> Result<Watched> {
    if let Some((name, source, floor)) = IMPORTANT.iter().find(|(name, ..)| *name == path) {
        return Ok(watched(name, *source, *floor));
    }
    let Series { path: whole, part, kind, .. } = History::series(path)?;
    let source = match (part, kind) {
        (Part::Quantile(share), _) => Source::Quantile(whole, share),
        (Part::Whole, Type::Histogram) => Source::Quantile(whole, 0.95),
        (Part::Whole, Type::Gauge) => Source::Value(whole),
        (Part::Whole, Type::Counter) => Source::Rate(whole),
        // More of it is no more of what it measures.
        (Part::Count, _) => {
            let watched = watched(path, Source::Rate(whole), 0.0);
            return Ok(Watched { goodness: Neither, ..watched });
        }
        (Part::Sum, _) => {
            return Err(Error::invalid(format!(
                "a sum has no trend; ask for {whole}.count, or a quantile such as {whole}.p95"
            )));
        }
    };
    Ok(watched(path, source, 0.0))
}

fn watched(name: &str, source: Source, floor: f64) -> Watched {
    let path = match source {
        Source::Share(..) => name,
        Source::Rate(path) | Source::Value(path) | Source::Quantile(path, _) => path,
    };
    let goodness =
        GOODNESS.iter().find(|(known, _)| *known == path).map_or(Neither, |(_, way)| *way);
    let limit = (name == IN_FLIGHT).then_some("system_metrics.max_in_flight");
    Watched { name: name.to_owned(), source, goodness, unit: unit(source), floor, limit }
}

fn unit(source: Source) -> &'static str {
    let of = |path: &str| History::series(path).map(|series| series.unit);
    match source {
        Source::Rate(_) => "per second",
        Source::Share(..) => "ratio",
        Source::Value(path) | Source::Quantile(path, _) => match of(path) {
            Ok(Unit::Seconds) => "seconds",
            Ok(Unit::Milliseconds) => "milliseconds",
            Ok(Unit::Bytes) => "bytes",
            Ok(Unit::Mebibytes) => "mebibytes",
            Ok(Unit::Percent) => "percent",
            Ok(Unit::None) | Err(_) => "count",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that was renamed would silently be judged as nothing.
    #[test]
    fn everything_that_is_watched_is_measured() {
        for (path, _) in GOODNESS.iter().filter(|(path, _)| path.contains('.')) {
            assert!(History::series(path).is_ok(), "{path}");
        }
        for watched in important() {
            let paths = match watched.source {
                Source::Rate(path) | Source::Value(path) | Source::Quantile(path, _) => vec![path],
                Source::Share(bad, good) => vec![bad, good],
            };
            for path in paths {
                assert!(History::series(path).is_ok(), "{path} of {}", watched.name);
            }
            assert_ne!(watched.goodness, Neither, "{}", watched.name);
        }
        assert_eq!(find("saga_metrics.saga_seconds").unwrap().unit, "seconds");
        assert_eq!(find("state_manager_metrics.cache_hits").unwrap().goodness, Neither);
        assert!(find("nothing.at_all").is_err());
    }

    #[test]
    fn how_often_something_was_measured_is_not_how_long_it_took() {
        let count = find("saga_metrics.saga_seconds.count").unwrap();
        assert_eq!((count.goodness, count.unit), (Neither, "per second"));
        let refused = find("saga_metrics.saga_seconds.sum").unwrap_err();
        assert!(refused.to_string().contains("saga_metrics.saga_seconds.p95"), "{refused}");
    }
}
