//! The table of all metrics.
//!
//! A row says how a metric is called in Prometheus and by its path, how it behaves, in which unit
//! it is, and what several instances come to together. The paths are those of the guide's metrics
//! document, so that a number read there is what an alert rule of that path judges.

use serde::Serialize;

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
    TicksBegun,
    TicksCompleted,
    TicksFailed,
    TicksSkipped,
    TicksMisfired,
    TickLateness,
    CommitSeconds,
    RenewalSeconds,
    StoreRoundTrip,
    SagaHandlers,
    StateEntries,
    StateBytes,
    CleanupLast,
    CleanupFreed,
    CleanupEfficiency,
    ActiveKeys,
    RequestsInFlight,
    MaxInFlight,
    Uptime,
    ProcessMemory,
    ProcessThreads,
    ProcessFiles,
    ProcessStart,
    ProcessCpu,
    AlertsFiring,
    SagasWaiting,
    SagasOrphaned,
    ClaimsUnserved,
    LeaderVacant,
    StoreWarnings,
    SchedulesStuck,
    NotificationsDelivered,
    NotificationFailures,
    NotificationsDead,
    AuditEntriesSealed,
    AuditCheckpoints,
    AuditCheckpoint,
    AuditBroken,
    SearchEntriesIndexed,
    SearchLag,
    SearchSeconds,
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// Only grows, within the life of a process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of seconds.
    Histogram,
}

/// What a value is in, at its path. Prometheus has seconds for milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A number of things.
    None,
    /// Seconds.
    Seconds,
    /// Thousandths of a second.
    Milliseconds,
    /// Bytes.
    Bytes,
    /// Units of 1,048,576 bytes.
    Mebibytes,
    /// Hundredths.
    Percent,
}

/// What gauges of several instances come to together. Counters and histograms add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// All together.
    Sum,
    /// The highest.
    Max,
    /// The lowest.
    Min,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which.
    pub metric: Metric,
    /// As exported, without the `_total` that counters get.
    pub name: &'static str,
    /// Where it stands in the guide's metrics document.
    pub path: &'static str,
    /// How it behaves.
    pub kind: Type,
    /// What its value is in.
    pub unit: Unit,
    /// What several instances come to.
    pub merge: Merge,
    /// What it tells.
    pub help: &'static str,
}

const fn counter(
    metric: Metric,
    name: &'static str,
    path: &'static str,
    unit: Unit,
    help: &'static str,
) -> Row {
    Row { metric, name, path, kind: Type::Counter, unit, merge: Merge::Sum, help }
}

const fn gauge(
    metric: Metric,
    name: &'static str,
    path: &'static str,
    unit: Unit,
    merge: Merge,
    help: &'static str,
) -> Row {
    Row { metric, name, path, kind: Type::Gauge, unit, merge, help }
}

const fn histogram(
    metric: Metric,
    name: &'static str,
    path: &'static str,
    help: &'static str,
) -> Row {
    let (kind, unit) = (Type::Histogram, Unit::Seconds);
    Row { metric, name, path, kind, unit, merge: Merge::Sum, help }
}

/// All metrics.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    counter(Metric::JobsClaimed, "lockbay_jobs_claimed", "job_idempotency_metrics.jobs_claimed", Unit::None, "Job claims granted"),
    counter(Metric::JobsCompleted, "lockbay_jobs_completed", "job_idempotency_metrics.jobs_completed", Unit::None, "Jobs completed"),
    counter(Metric::JobsFailed, "lockbay_jobs_failed", "job_idempotency_metrics.jobs_failed", Unit::None, "Job attempts that failed"),
    counter(Metric::JobsCancelled, "lockbay_jobs_cancelled", "job_idempotency_metrics.jobs_cancelled", Unit::None, "Jobs cancelled"),
    counter(Metric::JobsTakenOver, "lockbay_jobs_taken_over", "job_idempotency_metrics.jobs_taken_over", Unit::None, "Claims taken over after the holder's lapsed"),
    counter(Metric::DuplicatesPrevented, "lockbay_duplicates_prevented", "job_idempotency_metrics.duplicates_prevented", Unit::None, "Claims answered with an earlier outcome"),
    counter(Metric::CoordinationConflicts, "lockbay_coordination_conflicts", "job_idempotency_metrics.coordination_conflicts", Unit::None, "Claims refused because the job is in progress"),
    counter(Metric::ClaimsFenced, "lockbay_claims_fenced", "job_idempotency_metrics.claims_fenced", Unit::None, "Heartbeats, completions and failures refused because the claim was gone"),
    histogram(Metric::JobSeconds, "lockbay_job_duration_seconds", "job_idempotency_metrics.job_seconds", "Time from claim to completion of jobs run by this instance"),
    gauge(Metric::IsLeader, "lockbay_is_leader", "system_metrics.is_leader", Unit::None, Merge::Sum, "1 while this instance leads"),
    counter(Metric::LeaderElections, "lockbay_leader_elections", "system_metrics.leader_elections", Unit::None, "Elections won by this instance"),
    counter(Metric::LeaderLosses, "lockbay_leader_losses", "system_metrics.leader_losses", Unit::None, "Leaderships of this instance that ended"),
    counter(Metric::LeasesGranted, "lockbay_leases_granted", "system_metrics.leases_granted", Unit::None, "Named leases granted"),
    counter(Metric::LeaseConflicts, "lockbay_lease_conflicts", "system_metrics.lease_conflicts", Unit::None, "Named leases refused because they are held"),
    counter(Metric::Renewals, "lockbay_renewals", "system_metrics.renewals", Unit::None, "Leases and claims renewed by this instance for itself"),
    counter(Metric::RenewalErrors, "lockbay_renewal_errors", "system_metrics.renewal_errors", Unit::None, "Renewals that got no answer"),
    counter(Metric::RightsLost, "lockbay_rights_lost", "system_metrics.rights_lost", Unit::None, "Leases and claims of this instance that were lost"),
    counter(Metric::LedgerRefusals, "lockbay_ledger_refusals", "system_metrics.ledger_refusals", Unit::None, "Movements of money that the rules of the ledger forbade"),
    gauge(Metric::LedgerUnbalanced, "lockbay_ledger_unbalanced", "system_metrics.ledger_unbalanced", Unit::None, Merge::Max, "Currencies that did not come to zero in the last trial balance"),
    histogram(Metric::StoreSeconds, "lockbay_store_round_trip_seconds", "system_metrics.store_round_trip_seconds", "Round trip of the health check's ping"),
    counter(Metric::StoreErrors, "lockbay_store_errors", "system_metrics.store_errors", Unit::None, "Health check pings that failed"),
    gauge(Metric::StoreHalted, "lockbay_store_halted", "system_metrics.store_halted", Unit::None, Merge::Max, "1 while the store is found rolled back"),
    gauge(Metric::Healthy, "lockbay_healthy", "system_metrics.healthy", Unit::None, Merge::Min, "1 while the last health check was good"),
    counter(Metric::SagasStarted, "lockbay_sagas_started", "saga_metrics.sagas_started", Unit::None, "Sagas accepted by this instance"),
    counter(Metric::SagasCompleted, "lockbay_sagas_completed", "saga_metrics.sagas_completed", Unit::None, "Sagas whose last step was done by this instance"),
    counter(Metric::SagasFailed, "lockbay_sagas_failed", "saga_metrics.sagas_failed", Unit::None, "Sagas that turned around because a step failed or the time was over"),
    counter(Metric::SagasCompensated, "lockbay_sagas_compensated", "saga_metrics.sagas_compensated", Unit::None, "Sagas whose last effect was undone by this instance"),
    counter(Metric::SagasParked, "lockbay_sagas_parked", "saga_metrics.sagas_parked", Unit::None, "Times that a saga came to need a person"),
    counter(Metric::SagasAbandoned, "lockbay_sagas_abandoned", "saga_metrics.sagas_abandoned", Unit::None, "Sagas that a person gave up"),
    counter(Metric::SagasTakenOver, "lockbay_sagas_taken_over", "saga_metrics.sagas_taken_over", Unit::None, "Sagas that this instance went on with after their executor was gone"),
    gauge(Metric::SagasRunning, "lockbay_sagas_running", "saga_metrics.running_sagas", Unit::None, Merge::Sum, "Sagas that this instance executes"),
    counter(Metric::SessionsTakenOver, "lockbay_sessions_taken_over", "saga_metrics.sessions_taken_over", Unit::None, "Sessions of other instances that were taken over"),
    counter(Metric::StepsExecuted, "lockbay_steps_executed", "saga_metrics.steps_executed", Unit::None, "Steps done"),
    counter(Metric::StepsCompensated, "lockbay_steps_compensated", "saga_metrics.steps_compensated", Unit::None, "Steps undone"),
    counter(Metric::StepsUnknown, "lockbay_steps_unknown", "saga_metrics.steps_unknown", Unit::None, "Attempts of steps whose outcome is unknown"),
    histogram(Metric::SagaSeconds, "lockbay_saga_duration_seconds", "saga_metrics.saga_seconds", "Time from the start of a saga to its end"),
    histogram(Metric::StepSeconds, "lockbay_step_duration_seconds", "saga_metrics.step_seconds", "Time of an attempt of a step or a compensation"),
    counter(Metric::TasksClaimed, "lockbay_tasks_claimed", "saga_metrics.tasks_claimed", Unit::None, "Tasks given to workers that poll"),
    counter(Metric::TasksCompleted, "lockbay_tasks_completed", "saga_metrics.tasks_completed", Unit::None, "Tasks that workers completed"),
    counter(Metric::TasksFailed, "lockbay_tasks_failed", "saga_metrics.tasks_failed", Unit::None, "Tasks that workers reported as failed"),
    counter(Metric::TasksLapsed, "lockbay_tasks_lapsed", "saga_metrics.tasks_lapsed", Unit::None, "Tasks whose claim lapsed, so that their outcome is unknown"),
    counter(Metric::StateHits, "lockbay_state_hits", "state_manager_metrics.cache_hits", Unit::None, "Reads of state answered by what is at hand"),
    counter(Metric::StateMisses, "lockbay_state_misses", "state_manager_metrics.cache_misses", Unit::None, "Reads of state that asked the store"),
    counter(Metric::StateWritten, "lockbay_state_keys_written", "state_manager_metrics.keys_written", Unit::None, "Values set"),
    counter(Metric::StateInvalidated, "lockbay_state_keys_invalidated", "state_manager_metrics.keys_invalidated", Unit::None, "Values removed by an invalidation or deletion, and tags invalidated"),
    counter(Metric::StateConflicts, "lockbay_state_conflicts", "state_manager_metrics.conflicts", Unit::None, "Values not set because another version was there"),
    counter(Metric::StateLoads, "lockbay_state_loads", "state_manager_metrics.loads", Unit::None, "Calls of loaders"),
    counter(Metric::StateLoadsShared, "lockbay_state_loads_shared", "state_manager_metrics.loads_shared", Unit::None, "Callers that waited for the load of another"),
    counter(Metric::StateStaleServed, "lockbay_state_stale_served", "state_manager_metrics.stale_served", Unit::None, "Older values served because the store or a loader failed"),
    counter(Metric::StateIntentsFinished, "lockbay_state_intents_finished", "state_manager_metrics.intents_finished", Unit::None, "Invalidations by pattern that this instance finished as the leader because their caller had not"),
    counter(Metric::CleanupCycles, "lockbay_cleanup_cycles", "cleanup_metrics.cleanup_cycles", Unit::None, "Cleanup cycles that this instance finished as the leader"),
    counter(Metric::CleanupKeysCleaned, "lockbay_cleanup_keys_cleaned", "cleanup_metrics.total_keys_cleaned", Unit::None, "Records and keys that this instance cleaned up as the leader"),
    counter(Metric::CleanupErrors, "lockbay_cleanup_errors", "cleanup_metrics.total_errors", Unit::None, "What cleanup could not read, judge or delete"),
    counter(Metric::CleanupBytesFreed, "lockbay_cleanup_bytes_freed", "cleanup_metrics.bytes_freed", Unit::Bytes, "Bytes that cleanup freed within the store, measured on samples"),
    histogram(Metric::CleanupSeconds, "lockbay_cleanup_duration_seconds", "cleanup_metrics.cleanup_seconds", "Time of a cleanup cycle"),
    counter(Metric::HoldsLapsed, "lockbay_holds_lapsed", "system_metrics.holds_lapsed", Unit::None, "Holds that this instance voided after their deadline"),
    counter(Metric::TicksBegun, "lockbay_ticks_begun", "schedule_metrics.ticks_begun", Unit::None, "Ticks of schedules that were begun because they were due"),
    counter(Metric::TicksCompleted, "lockbay_ticks_completed", "schedule_metrics.ticks_completed", Unit::None, "Ticks whose job was completed"),
    counter(Metric::TicksFailed, "lockbay_ticks_failed", "schedule_metrics.ticks_failed", Unit::None, "Ticks whose job failed for good or was cancelled"),
    counter(Metric::TicksSkipped, "lockbay_ticks_skipped", "schedule_metrics.ticks_skipped", Unit::None, "Ticks that did not run because the one before them still did, or because the schedule was paused or deleted first"),
    counter(Metric::TicksMisfired, "lockbay_ticks_misfired", "schedule_metrics.ticks_misfired", Unit::None, "Ticks that did not run because they were too late"),
    histogram(Metric::TickLateness, "lockbay_tick_lateness_seconds", "schedule_metrics.tick_lateness_seconds", "By how much ticks ran after they were due, jitter not counted"),
    histogram(Metric::CommitSeconds, "lockbay_commit_seconds", "system_metrics.commit_seconds", "Time of a commit to the store, from the call to its answer"),
    histogram(Metric::RenewalSeconds, "lockbay_renewal_seconds", "system_metrics.renewal_seconds", "Time of a renewal of rights, all that were due together"),
    gauge(Metric::StoreRoundTrip, "lockbay_store_last_round_trip_seconds", "system_metrics.store_round_trip_ms", Unit::Milliseconds, Merge::Max, "Round trip of the last health check's ping"),
    gauge(Metric::SagaHandlers, "lockbay_saga_handlers", "saga_metrics.registered_handlers", Unit::None, Merge::Max, "Handlers of steps that this instance has itself"),
    gauge(Metric::StateEntries, "lockbay_state_cached_entries", "state_manager_metrics.cached_entries", Unit::None, Merge::Sum, "Values of state at hand"),
    gauge(Metric::StateBytes, "lockbay_state_cached_bytes", "state_manager_metrics.cached_bytes", Unit::Bytes, Merge::Sum, "What the values of state at hand occupy"),
    gauge(Metric::CleanupLast, "lockbay_cleanup_last_seconds", "cleanup_metrics.last_cleanup_time_ms", Unit::Milliseconds, Merge::Max, "Time of the last cleanup cycle of this instance"),
    gauge(Metric::CleanupFreed, "lockbay_cleanup_freed_mebibytes", "cleanup_metrics.memory_freed_total_mb", Unit::Mebibytes, Merge::Sum, "What cleanup by this instance freed"),
    gauge(Metric::CleanupEfficiency, "lockbay_cleanup_efficiency_percent", "cleanup_metrics.cleanup_efficiency", Unit::Percent, Merge::Max, "Share of what cleanup looked at that was cleaned"),
    gauge(Metric::ActiveKeys, "lockbay_state_keys", "cleanup_metrics.active_keys_count", Unit::None, Merge::Max, "State values there were at the last cleanup cycle of this instance"),
    gauge(Metric::RequestsInFlight, "lockbay_http_requests_in_flight", "system_metrics.requests_in_flight", Unit::None, Merge::Sum, "HTTP requests that are being served"),
    gauge(Metric::MaxInFlight, "lockbay_http_requests_in_flight_limit", "system_metrics.max_in_flight", Unit::None, Merge::Sum, "HTTP requests that may be served at once"),
    gauge(Metric::Uptime, "lockbay_uptime_seconds", "uptime_seconds", Unit::Seconds, Merge::Min, "How long this instance has been open"),
    gauge(Metric::ProcessMemory, "process_resident_memory_bytes", "system_metrics.process_memory_bytes", Unit::Bytes, Merge::Sum, "Memory that the process occupies"),
    gauge(Metric::ProcessThreads, "process_threads", "system_metrics.process_threads", Unit::None, Merge::Sum, "Threads of the process"),
    gauge(Metric::ProcessFiles, "process_open_fds", "system_metrics.process_open_fds", Unit::None, Merge::Sum, "Files and connections that the process has open"),
    gauge(Metric::ProcessStart, "process_start_time_seconds", "system_metrics.process_start_time_seconds", Unit::Seconds, Merge::Max, "When the process started, in seconds since 1970"),
    counter(Metric::ProcessCpu, "process_cpu_seconds", "system_metrics.process_cpu_ms", Unit::Milliseconds, "Time that the processors spent on the process"),
    gauge(Metric::AlertsFiring, "lockbay_alerts_firing", "system_metrics.alerts_firing", Unit::None, Merge::Max, "Alerts that fire, as the leader judges them; 0 elsewhere"),
    gauge(Metric::SagasWaiting, "lockbay_sagas_waiting", "saga_metrics.waiting_sagas", Unit::None, Merge::Max, "Parked sagas that wait for a person, as the last health check found them; counted up to a thousand"),
    gauge(Metric::SagasOrphaned, "lockbay_sagas_orphaned_seconds", "saga_metrics.orphaned_seconds", Unit::Seconds, Merge::Max, "How long sagas whose executor is gone have waited for another"),
    gauge(Metric::ClaimsUnserved, "lockbay_claims_unserved_seconds", "job_idempotency_metrics.unserved_seconds", Unit::Seconds, Merge::Max, "How long the oldest lapsed claim of a job has waited to be taken over"),
    gauge(Metric::LeaderVacant, "lockbay_leader_vacant_seconds", "system_metrics.leader_vacant_seconds", Unit::Seconds, Merge::Max, "How long nobody has led"),
    gauge(Metric::StoreWarnings, "lockbay_store_warnings", "system_metrics.store_warnings", Unit::None, Merge::Max, "Settings of the store that weaken a promise, as the last health check found them"),
    gauge(Metric::SchedulesStuck, "lockbay_schedules_stuck", "schedule_metrics.schedules_stuck", Unit::None, Merge::Max, "Schedules that this instance drives as the leader and that stand still because their expression or zone cannot be read"),
    counter(Metric::NotificationsDelivered, "lockbay_notifications_delivered", "system_metrics.notifications_delivered", Unit::None, "Notices of alerts that a channel delivered"),
    counter(Metric::NotificationFailures, "lockbay_notification_failures", "system_metrics.notification_failures", Unit::None, "Attempts to deliver a notice of alerts that failed"),
    gauge(Metric::NotificationsDead, "lockbay_notifications_dead", "system_metrics.notifications_dead", Unit::None, Merge::Max, "Dead letters among the notices, counted by the leader up to a thousand"),
    counter(Metric::AuditEntriesSealed, "lockbay_audit_entries_sealed", "audit_metrics.entries_sealed", Unit::None, "Entries of the audit trail that this instance sealed"),
    counter(Metric::AuditCheckpoints, "lockbay_audit_checkpoints", "audit_metrics.checkpoints_made", Unit::None, "Checkpoints of the audit trail that this instance made"),
    gauge(Metric::AuditCheckpoint, "lockbay_audit_newest_checkpoint", "audit_metrics.newest_checkpoint", Unit::None, Merge::Max, "Number of the newest checkpoint that this instance has seen"),
    gauge(Metric::AuditBroken, "lockbay_audit_broken", "audit_metrics.audit_broken", Unit::None, Merge::Max, "Problems found in the audit trail; anything but zero needs a person"),
    counter(Metric::SearchEntriesIndexed, "lockbay_search_entries_indexed", "search_metrics.entries_indexed", Unit::None, "Entries of the audit trail that this instance indexed as the leader"),
    gauge(Metric::SearchLag, "lockbay_search_lag_seconds", "search_metrics.lag_seconds", Unit::Seconds, Merge::Max, "How far the search index is behind the audit trail, as the leader sees it; 0 elsewhere"),
    histogram(Metric::SearchSeconds, "lockbay_search_duration_seconds", "search_metrics.search_seconds", "Time of a search for words"),
];
