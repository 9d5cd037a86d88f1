//! The guide's metrics document: one JSON object with what this instance has done and how it is.
//!
//! Counters of parts that do not run are zero. It counts nothing itself; the numbers are the
//! library's, and the process's as the kernel tells them. The path of a number in this document is
//! the path by which history and alert rules know it.

use axum::Json;
use axum::extract::State;
use lockbay::leader::LeaderInfo;
use lockbay::metrics::{Metric, TABLE, Type};
use lockbay::monitor::health::Health;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{Nothing, Query};
use super::page::MAX_PAGE_SIZE;
use super::shape::Leader;
use super::shape::metrics as shape;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metrics))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Metrics)]
struct Document {
    instance_id: String,
    uptime_seconds: f64,
    is_leader: bool,
    /// Who leads, if that is known.
    #[schema(required, value_type = Option<Leader>)]
    leader_info: Option<LeaderInfo>,
    #[schema(value_type = super::shape::health::Health)]
    health_status: Health,
    #[schema(schema_with = shape::system)]
    system_metrics: Value,
    #[schema(schema_with = shape::jobs)]
    job_idempotency_metrics: Value,
    #[schema(schema_with = shape::sagas)]
    saga_metrics: Value,
    #[schema(schema_with = shape::cleanup)]
    cleanup_metrics: Value,
    #[schema(schema_with = shape::state)]
    state_manager_metrics: Value,
    #[schema(schema_with = shape::schedules)]
    schedule_metrics: Value,
    #[schema(schema_with = shape::audit)]
    audit_metrics: Value,
    #[schema(schema_with = shape::search)]
    search_metrics: Value,
}

/// Show what this instance has done
///
/// Its counters, gauges and histograms, who leads, and its health. The path of a number in this
/// document is the path by which history and alert rules know it.
#[utoipa::path(
    get,
    path = "/api/advanced-state/metrics",
    operation_id = "get_metrics",
    tag = "monitoring",
    responses((status = 200, body = Document, description = "The metrics of this instance.")),
)]
async fn metrics(State(app): State<App>, _: Query<Nothing>) -> Json<Document> {
    let bay = &app.bay;
    bay.refresh_metrics();
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
        cleanup_metrics: cleanup(&app),
        state_manager_metrics: state(&app),
        schedule_metrics: with_the_rest(&app, "schedule_metrics", json!({})),
        audit_metrics: with_the_rest(&app, "audit_metrics", json!({})),
        search_metrics: with_the_rest(&app, "search_metrics", json!({})),
    })
}

/// Adds every metric of a group that is not named yet, and of histograms a few numbers.
fn with_the_rest(app: &App, group: &str, mut document: Value) -> Value {
    let metrics = app.bay.metrics();
    for row in TABLE {
        let name = row.path.strip_prefix(group).and_then(|rest| rest.strip_prefix('.'));
        let Some(name) = name.filter(|name| document.get(name).is_none()) else { continue };
        document[name] = match row.kind {
            Type::Histogram => json!(metrics.summary(row.metric)),
            Type::Counter => json!(metrics.value(row.metric)),
            Type::Gauge => json!(metrics.read(row.path)),
        };
    }
    document
}

fn cleanup(app: &App) -> Value {
    with_the_rest(app, "cleanup_metrics", json!(app.bay.sweeper().stats()))
}

fn system(app: &App, health: &Health) -> Value {
    let store = app.bay.store().describe();
    let value = |metric| app.bay.metrics().value(metric);
    let document = json!({
        "process_memory_bytes": value(Metric::ProcessMemory),
        "process_threads": value(Metric::ProcessThreads),
        "requests_in_flight": app.requests_in_flight(),
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
    });
    with_the_rest(app, "system_metrics", document)
}

fn jobs(app: &App) -> Value {
    let value = |metric| app.bay.metrics().value(metric);
    let document = json!({
        "jobs_completed": value(Metric::JobsCompleted),
        "jobs_failed": value(Metric::JobsFailed),
        "jobs_claimed": value(Metric::JobsClaimed),
        "duplicates_prevented": value(Metric::DuplicatesPrevented),
        "coordination_conflicts": value(Metric::CoordinationConflicts),
        "jobs_cancelled": value(Metric::JobsCancelled),
        "jobs_taken_over": value(Metric::JobsTakenOver),
        "claims_fenced": value(Metric::ClaimsFenced),
    });
    with_the_rest(app, "job_idempotency_metrics", document)
}

async fn sagas(app: &App, answers: bool) -> Value {
    let (sagas, value) = (app.bay.sagas(), |metric| app.bay.metrics().value(metric));
    // Those of this process at least, if the store does not tell of others.
    let handlers = match answers {
        true => sagas.handlers(None, MAX_PAGE_SIZE).await.ok().map(|(handlers, _)| handlers.len()),
        false => None,
    };
    let document = json!({
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
    });
    with_the_rest(app, "saga_metrics", document)
}

fn state(app: &App) -> Value {
    let value = |metric| app.bay.metrics().value(metric);
    let (entries, bytes) = app.bay.state().at_hand();
    let document = json!({
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
    });
    with_the_rest(app, "state_manager_metrics", document)
}
