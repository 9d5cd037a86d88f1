//! The guide's metrics document: one JSON object with what this instance has done and how it is.
//!
//! Counters of parts that do not run are zero. It counts nothing itself; the numbers are the
//! library's, and the process's as the kernel tells them.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use lockbay::leader::LeaderInfo;
use lockbay::metrics::Metric;
use lockbay::monitor::health::Health;
use serde::Serialize;
use serde_json::{Value, json};

use super::App;
use super::extract::{Nothing, Query};
use super::page::MAX_PAGE_SIZE;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/api/advanced-state/metrics", get(metrics))
}

#[derive(Serialize)]
struct Document {
    instance_id: String,
    uptime_seconds: f64,
    is_leader: bool,
    leader_info: Option<LeaderInfo>,
    health_status: Health,
    system_metrics: Value,
    job_idempotency_metrics: Value,
    saga_metrics: Value,
    cleanup_metrics: Value,
    state_manager_metrics: Value,
}

async fn metrics(State(app): State<App>, _: Query<Nothing>) -> Json<Document> {
    let bay = &app.bay;
    let health_status = bay.health().await;
    // With a store that does not answer, nobody is known to lead; health says why.
    let answers = health_status.state_manager_healthy;
    let leader_info = if answers { bay.leadership().current().await.ok().flatten() } else { None };
    Json(Document {
        instance_id: bay.instance_id().to_owned(),
        uptime_seconds: bay.uptime().as_secs_f64(),
        is_leader: bay.is_leader(),
        leader_info,
        system_metrics: system(&app, &health_status),
        health_status,
        job_idempotency_metrics: jobs(&app),
        saga_metrics: sagas(&app, answers).await,
        cleanup_metrics: json!(bay.sweeper().stats()),
        state_manager_metrics: state(&app),
    })
}

fn system(app: &App, health: &Health) -> Value {
    let store = app.bay.store().describe();
    let value = |metric| app.bay.metrics().value(metric);
    json!({
        "process_memory_bytes": resident_bytes(),
        "process_threads": status_line("Threads:"),
        "requests_in_flight": app.max_in_flight - app.in_flight.available_permits(),
        "max_in_flight": app.max_in_flight,
        "store": {
            "backend": store.backend,
            "durability": store.durability,
            "version": store.version,
        },
        "store_round_trip_ms": health.store_round_trip_ms,
        "store_errors": value(Metric::StoreErrors),
        "leader_elections": value(Metric::LeaderElections),
        "leader_losses": value(Metric::LeaderLosses),
        "leases_granted": value(Metric::LeasesGranted),
        "lease_conflicts": value(Metric::LeaseConflicts),
        "renewals": value(Metric::Renewals),
        "renewal_errors": value(Metric::RenewalErrors),
        "rights_lost": value(Metric::RightsLost),
    })
}

fn jobs(app: &App) -> Value {
    let value = |metric| app.bay.metrics().value(metric);
    json!({
        "jobs_completed": value(Metric::JobsCompleted),
        "jobs_failed": value(Metric::JobsFailed),
        "jobs_claimed": value(Metric::JobsClaimed),
        "duplicates_prevented": value(Metric::DuplicatesPrevented),
        "coordination_conflicts": value(Metric::CoordinationConflicts),
        "jobs_cancelled": value(Metric::JobsCancelled),
        "jobs_taken_over": value(Metric::JobsTakenOver),
        "claims_fenced": value(Metric::ClaimsFenced),
    })
}

async fn sagas(app: &App, answers: bool) -> Value {
    let (sagas, value) = (app.bay.sagas(), |metric| app.bay.metrics().value(metric));
    // Those of this process at least, if the store does not tell of others.
    let handlers = match answers {
        true => sagas.handlers(None, MAX_PAGE_SIZE).await.ok().map(|(handlers, _)| handlers.len()),
        false => None,
    };
    json!({
        "sagas_started": value(Metric::SagasStarted),
        "sagas_completed": value(Metric::SagasCompleted),
        "sagas_failed": value(Metric::SagasFailed),
        "sagas_compensated": value(Metric::SagasCompensated),
        "sagas_parked": value(Metric::SagasParked),
        "sagas_abandoned": value(Metric::SagasAbandoned),
        "sagas_taken_over": value(Metric::SagasTakenOver),
        "steps_executed": value(Metric::StepsExecuted),
        "steps_compensated": value(Metric::StepsCompensated),
        "steps_unknown": value(Metric::StepsUnknown),
        "running_sagas": sagas.running(),
        "registered_handlers": handlers.unwrap_or_else(|| sagas.registered_handlers()),
    })
}

fn state(app: &App) -> Value {
    let value = |metric| app.bay.metrics().value(metric);
    let (entries, bytes) = app.bay.state().at_hand();
    json!({
        "cache_hits": value(Metric::StateHits),
        "cache_misses": value(Metric::StateMisses),
        "keys_written": value(Metric::StateWritten),
        "keys_invalidated": value(Metric::StateInvalidated),
        "conflicts": value(Metric::StateConflicts),
        "loads": value(Metric::StateLoads),
        "loads_shared": value(Metric::StateLoadsShared),
        "stale_served": value(Metric::StateStaleServed),
        "cached_entries": entries,
        "cached_bytes": bytes,
    })
}

/// The memory that this process occupies; `None` where the kernel does not tell.
fn resident_bytes() -> Option<u64> {
    Some(status_line("VmRSS:")? * 1_024)
}

/// The number on a line of the kernel's status of this process.
fn status_line(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
