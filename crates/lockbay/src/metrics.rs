//! Every metric, in one table: name, type and help.
//!
//! A metric is a row of [`TABLE`]; counting is one atomic addition. The rows are exported in the
//! Prometheus text format and can be read back by [`Metric`], for health, reports and alerts.

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use std::time::Duration;

/// What is measured. The order is that of [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each row of TABLE says what it is
pub enum Metric {
    JobsClaimed,
    JobsCompleted,
    JobsFailed,
    JobsCancelled,
    JobsTakenOver,
    DuplicatesPrevented,
    CoordinationConflicts,
    ClaimsFenced,
    JobSeconds,
    IsLeader,
    LeaderElections,
    LeaderLosses,
    LeasesGranted,
    LeaseConflicts,
    Renewals,
    RenewalErrors,
    RightsLost,
    LedgerRefusals,
    LedgerUnbalanced,
    StoreSeconds,
    StoreErrors,
    StoreHalted,
    Healthy,
    SagasStarted,
    SagasCompleted,
    SagasFailed,
    SagasCompensated,
    SagasParked,
    SagasAbandoned,
    SagasTakenOver,
    SagasRunning,
    SessionsTakenOver,
    StepsExecuted,
    StepsCompensated,
    StepsUnknown,
    SagaSeconds,
    StepSeconds,
    TasksClaimed,
    TasksCompleted,
    TasksFailed,
    TasksLapsed,
    StateHits,
    StateMisses,
    StateWritten,
    StateInvalidated,
    StateConflicts,
    StateLoads,
    StateLoadsShared,
    StateStaleServed,
    StateIntentsFinished,
    CleanupCycles,
    CleanupKeysCleaned,
    CleanupErrors,
    CleanupBytesFreed,
    CleanupSeconds,
    HoldsLapsed,
    AuditEntriesSealed,
    AuditCheckpoints,
    AuditCheckpoint,
    AuditBroken,
    TicksBegun,
    TicksCompleted,
    TicksFailed,
    TicksSkipped,
    TicksMisfired,
    TickLateness,
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Only grows, within the life of a process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of seconds.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which.
    pub metric: Metric,
    /// As exported, without the `_total` that counters get.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Type,
    /// What it tells.
    pub help: &'static str,
}

const fn row(metric: Metric, name: &'static str, kind: Type, help: &'static str) -> Row {
    Row { metric, name, kind, help }
}

/// All metrics.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row(Metric::JobsClaimed, "lockbay_jobs_claimed", Type::Counter, "Job claims granted"),
    row(Metric::JobsCompleted, "lockbay_jobs_completed", Type::Counter, "Jobs completed"),
    row(Metric::JobsFailed, "lockbay_jobs_failed", Type::Counter, "Job attempts that failed"),
    row(Metric::JobsCancelled, "lockbay_jobs_cancelled", Type::Counter, "Jobs cancelled"),
    row(Metric::JobsTakenOver, "lockbay_jobs_taken_over", Type::Counter, "Claims taken over after the holder's lapsed"),
    row(Metric::DuplicatesPrevented, "lockbay_duplicates_prevented", Type::Counter, "Claims answered with an earlier outcome"),
    row(Metric::CoordinationConflicts, "lockbay_coordination_conflicts", Type::Counter, "Claims refused because the job is in progress"),
    row(Metric::ClaimsFenced, "lockbay_claims_fenced", Type::Counter, "Heartbeats, completions and failures refused because the claim was gone"),
    row(Metric::JobSeconds, "lockbay_job_duration_seconds", Type::Histogram, "Time from claim to completion of jobs run by this instance"),
    row(Metric::IsLeader, "lockbay_is_leader", Type::Gauge, "1 while this instance leads"),
    row(Metric::LeaderElections, "lockbay_leader_elections", Type::Counter, "Elections won by this instance"),
    row(Metric::LeaderLosses, "lockbay_leader_losses", Type::Counter, "Leaderships of this instance that ended"),
    row(Metric::LeasesGranted, "lockbay_leases_granted", Type::Counter, "Named leases granted"),
    row(Metric::LeaseConflicts, "lockbay_lease_conflicts", Type::Counter, "Named leases refused because they are held"),
    row(Metric::Renewals, "lockbay_renewals", Type::Counter, "Leases and claims renewed by this instance for itself"),
    row(Metric::RenewalErrors, "lockbay_renewal_errors", Type::Counter, "Renewals that got no answer"),
    row(Metric::RightsLost, "lockbay_rights_lost", Type::Counter, "Leases and claims of this instance that were lost"),
    row(Metric::LedgerRefusals, "lockbay_ledger_refusals", Type::Counter, "Movements of money that the rules of the ledger forbade"),
    row(Metric::LedgerUnbalanced, "lockbay_ledger_unbalanced", Type::Gauge, "Currencies that did not come to zero in the last trial balance"),
    row(Metric::StoreSeconds, "lockbay_store_round_trip_seconds", Type::Histogram, "Round trip of the health check's ping"),
    row(Metric::StoreErrors, "lockbay_store_errors", Type::Counter, "Health check pings that failed"),
    row(Metric::StoreHalted, "lockbay_store_halted", Type::Gauge, "1 while the store is found rolled back"),
    row(Metric::Healthy, "lockbay_healthy", Type::Gauge, "1 while the last health check was good"),
    row(Metric::SagasStarted, "lockbay_sagas_started", Type::Counter, "Sagas accepted by this instance"),
    row(Metric::SagasCompleted, "lockbay_sagas_completed", Type::Counter, "Sagas whose last step was done by this instance"),
    row(Metric::SagasFailed, "lockbay_sagas_failed", Type::Counter, "Sagas that turned around because a step failed or the time was over"),
    row(Metric::SagasCompensated, "lockbay_sagas_compensated", Type::Counter, "Sagas whose last effect was undone by this instance"),
    row(Metric::SagasParked, "lockbay_sagas_parked", Type::Counter, "Times that a saga came to need a person"),
    row(Metric::SagasAbandoned, "lockbay_sagas_abandoned", Type::Counter, "Sagas that a person gave up"),
    row(Metric::SagasTakenOver, "lockbay_sagas_taken_over", Type::Counter, "Sagas that this instance went on with after their executor was gone"),
    row(Metric::SagasRunning, "lockbay_sagas_running", Type::Gauge, "Sagas that this instance executes"),
    row(Metric::SessionsTakenOver, "lockbay_sessions_taken_over", Type::Counter, "Sessions of other instances that were taken over"),
    row(Metric::StepsExecuted, "lockbay_steps_executed", Type::Counter, "Steps done"),
    row(Metric::StepsCompensated, "lockbay_steps_compensated", Type::Counter, "Steps undone"),
    row(Metric::StepsUnknown, "lockbay_steps_unknown", Type::Counter, "Attempts of steps whose outcome is unknown"),
    row(Metric::SagaSeconds, "lockbay_saga_duration_seconds", Type::Histogram, "Time from the start of a saga to its end"),
    row(Metric::StepSeconds, "lockbay_step_duration_seconds", Type::Histogram, "Time of an attempt of a step or a compensation"),
    row(Metric::TasksClaimed, "lockbay_tasks_claimed", Type::Counter, "Tasks given to workers that poll"),
    row(Metric::TasksCompleted, "lockbay_tasks_completed", Type::Counter, "Tasks that workers completed"),
    row(Metric::TasksFailed, "lockbay_tasks_failed", Type::Counter, "Tasks that workers reported as failed"),
    row(Metric::TasksLapsed, "lockbay_tasks_lapsed", Type::Counter, "Tasks whose claim lapsed, so that their outcome is unknown"),
    row(Metric::StateHits, "lockbay_state_hits", Type::Counter, "Reads of state answered by what is at hand"),
    row(Metric::StateMisses, "lockbay_state_misses", Type::Counter, "Reads of state that asked the store"),
    row(Metric::StateWritten, "lockbay_state_keys_written", Type::Counter, "Values set"),
    row(Metric::StateInvalidated, "lockbay_state_keys_invalidated", Type::Counter, "Values removed by an invalidation or deletion, and tags invalidated"),
    row(Metric::StateConflicts, "lockbay_state_conflicts", Type::Counter, "Values not set because another version was there"),
    row(Metric::StateLoads, "lockbay_state_loads", Type::Counter, "Calls of loaders"),
    row(Metric::StateLoadsShared, "lockbay_state_loads_shared", Type::Counter, "Callers that waited for the load of another"),
    row(Metric::StateStaleServed, "lockbay_state_stale_served", Type::Counter, "Older values served because the store or a loader failed"),
    row(Metric::StateIntentsFinished, "lockbay_state_intents_finished", Type::Counter, "Invalidations by pattern that this instance finished as the leader because their caller had not"),
    row(Metric::CleanupCycles, "lockbay_cleanup_cycles", Type::Counter, "Cleanup cycles that this instance finished as the leader"),
    row(Metric::CleanupKeysCleaned, "lockbay_cleanup_keys_cleaned", Type::Counter, "Records and keys that this instance cleaned up as the leader"),
    row(Metric::CleanupErrors, "lockbay_cleanup_errors", Type::Counter, "What cleanup could not read, judge or delete"),
    row(Metric::CleanupBytesFreed, "lockbay_cleanup_bytes_freed", Type::Counter, "Bytes that cleanup freed within the store, measured on samples"),
    row(Metric::CleanupSeconds, "lockbay_cleanup_duration_seconds", Type::Histogram, "Time of a cleanup cycle"),
    row(Metric::HoldsLapsed, "lockbay_holds_lapsed", Type::Counter, "Holds that this instance voided after their deadline"),
    row(Metric::AuditEntriesSealed, "lockbay_audit_entries_sealed", Type::Counter, "Entries of the audit trail that this instance sealed"),
    row(Metric::AuditCheckpoints, "lockbay_audit_checkpoints", Type::Counter, "Checkpoints of the audit trail that this instance made"),
    row(Metric::AuditCheckpoint, "lockbay_audit_newest_checkpoint", Type::Gauge, "Number of the newest checkpoint that this instance has seen"),
    row(Metric::AuditBroken, "lockbay_audit_broken", Type::Gauge, "Problems found in the audit trail; anything but zero needs a person"),
    row(Metric::TicksBegun, "lockbay_ticks_begun", Type::Counter, "Ticks of schedules that were begun because they were due"),
    row(Metric::TicksCompleted, "lockbay_ticks_completed", Type::Counter, "Ticks whose job was completed"),
    row(Metric::TicksFailed, "lockbay_ticks_failed", Type::Counter, "Ticks whose job failed for good or was cancelled"),
    row(Metric::TicksSkipped, "lockbay_ticks_skipped", Type::Counter, "Ticks that did not run because the one before them still did, or because the schedule was paused or deleted first"),
    row(Metric::TicksMisfired, "lockbay_ticks_misfired", Type::Counter, "Ticks that did not run because they were too late"),
    row(Metric::TickLateness, "lockbay_tick_lateness_seconds", Type::Histogram, "By how much ticks ran after they were due, jitter not counted"),
];

enum Instrument {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// The metrics of one instance.
pub struct Metrics {
    registry: Mutex<Registry>,
    instruments: Vec<Instrument>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let instruments = TABLE.iter().map(|row| register(row, &mut registry)).collect();
        Metrics { registry: Mutex::new(registry), instruments }
    }
}

fn register(row: &Row, registry: &mut Registry) -> Instrument {
    match row.kind {
        Type::Counter => {
            let counter = Counter::default();
            registry.register(row.name, row.help, counter.clone());
            Instrument::Counter(counter)
        }
        Type::Gauge => {
            let gauge = Gauge::default();
            registry.register(row.name, row.help, gauge.clone());
            Instrument::Gauge(gauge)
        }
        Type::Histogram => {
            let histogram = Histogram::new(exponential_buckets(0.000_1, 4.0, 12));
            registry.register(row.name, row.help, histogram.clone());
            Instrument::Histogram(histogram)
        }
    }
}

impl Metrics {
    /// Adds one to a counter.
    pub fn count(&self, metric: Metric) {
        if let Some(Instrument::Counter(counter)) = self.instruments.get(metric as usize) {
            counter.inc();
        }
    }

    /// Adds so many to a counter.
    pub fn add(&self, metric: Metric, times: u64) {
        if let Some(Instrument::Counter(counter)) = self.instruments.get(metric as usize) {
            counter.inc_by(times);
        }
    }

    /// Sets a gauge.
    pub fn set(&self, metric: Metric, value: i64) {
        if let Some(Instrument::Gauge(gauge)) = self.instruments.get(metric as usize) {
            gauge.set(value);
        }
    }

    /// Adds an observation to a histogram.
    pub fn observe(&self, metric: Metric, duration: Duration) {
        if let Some(Instrument::Histogram(histogram)) = self.instruments.get(metric as usize) {
            histogram.observe(duration.as_secs_f64());
        }
    }

    /// The value of a counter or gauge; zero for a histogram.
    pub fn value(&self, metric: Metric) -> i64 {
        match self.instruments.get(metric as usize) {
            Some(Instrument::Counter(counter)) => i64::try_from(counter.get()).unwrap_or(i64::MAX),
            Some(Instrument::Gauge(gauge)) => gauge.get(),
            Some(Instrument::Histogram(_)) | None => 0,
        }
    }

    /// All of them in the Prometheus text format (OpenMetrics).
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
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
        assert!(metrics.render().contains("lockbay_jobs_completed_total 2"));
    }
}
