//! The guide's metrics document: one JSON object with what this instance has done and how it is.
//!
//! The library puts it together; only the requests that are being served are known here.

use axum::Json;
use axum::extract::State;
use lockbay::leader::LeaderInfo;
use lockbay::monitor::health::Health;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{Nothing, Query};
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
    let mut seen = app.bay.overview().await;
    seen.system_metrics["requests_in_flight"] = json!(app.requests_in_flight());
    seen.system_metrics["max_in_flight"] = json!(app.max_in_flight);
    Json(Document {
        instance_id: seen.instance_id,
        uptime_seconds: seen.uptime_seconds,
        is_leader: seen.is_leader,
        leader_info: seen.leader_info,
        health_status: seen.health_status,
        system_metrics: seen.system_metrics,
        job_idempotency_metrics: seen.job_idempotency_metrics,
        saga_metrics: seen.saga_metrics,
        cleanup_metrics: seen.cleanup_metrics,
        state_manager_metrics: seen.state_manager_metrics,
        schedule_metrics: seen.schedule_metrics,
        audit_metrics: seen.audit_metrics,
        search_metrics: seen.search_metrics,
    })
}
