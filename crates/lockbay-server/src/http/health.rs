//! Probes: is the process alive, may it get traffic, and is everything well.
//!
//! `/health/live` never touches the store: a restart does not mend a store. `/health/ready` makes
//! one round trip. The full judgement is the library's, shown at the guide's path.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lockbay::ErrorKind;
use serde_json::json;

use super::App;
use super::extract::{Nothing, Query};
use super::problem::Problem;

/// How long the store may take to prove that it answers.
const READY_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(prometheus))
        .route("/api/advanced-state/health", get(health))
}

async fn live(_: Query<Nothing>) -> Response {
    Json(json!({ "live": true })).into_response()
}

async fn ready(State(app): State<App>, _: Query<Nothing>) -> Result<Response, Problem> {
    if app.stopping.is_cancelled() {
        return Err(Problem::new(ErrorKind::Unavailable, "this instance is shutting down"));
    }
    match app.bay.clock().timeout(READY_WITHIN, app.bay.store().ping()).await {
        Some(pong) => {
            pong?;
            Ok(Json(json!({ "ready": true })).into_response())
        }
        None => {
            let detail = format!("the store did not answer within {READY_WITHIN:?}");
            Err(Problem::new(ErrorKind::Unavailable, detail))
        }
    }
}

async fn health(State(app): State<App>, _: Query<Nothing>) -> Response {
    let health = app.bay.health().await;
    let status =
        if health.overall_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

async fn prometheus(State(app): State<App>, _: Query<Nothing>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.bay.metrics().render()).into_response()
}
