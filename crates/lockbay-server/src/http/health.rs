//! Probes: is the process alive, may it get traffic, and is everything well.
//!
//! `/health/live` never touches the store: a restart does not mend a store. `/health/ready` makes
//! one round trip. The full judgement is the library's, shown at the guide's path.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lockbay::ErrorKind;
use lockbay::metrics::Format;
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

async fn prometheus(State(app): State<App>, headers: HeaderMap, _: Query<Nothing>) -> Response {
    app.bay.refresh_metrics();
    let format = format_for(headers.get_all(header::ACCEPT).iter());
    let text = app.bay.metrics().render_as(format);
    ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
}

/// The older format only for who asks for plain text and does not know the newer one.
fn format_for<'a>(accept: impl Iterator<Item = &'a HeaderValue>) -> Format {
    let mut plain = false;
    for value in accept.filter_map(|value| value.to_str().ok()) {
        for kind in value.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim()) {
            match kind {
                "application/openmetrics-text" | "*/*" | "application/*" => {
                    return Format::OpenMetrics;
                }
                "text/plain" | "text/*" => plain = true,
                _ => {}
            }
        }
    }
    if plain { Format::Prometheus } else { Format::OpenMetrics }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_newer_one_that_the_caller_reads() {
        let told = |accept: &'static str| format_for([HeaderValue::from_static(accept)].iter());
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2,*/*;q=0.1";
        assert_eq!(told(prometheus), Format::OpenMetrics);
        assert_eq!(told("text/plain;version=0.0.4"), Format::Prometheus);
        assert_eq!(told("text/html, */*;q=0.1"), Format::OpenMetrics);
        assert_eq!(told("application/json"), Format::OpenMetrics);
        assert_eq!(format_for([].iter()), Format::OpenMetrics);
    }
}
