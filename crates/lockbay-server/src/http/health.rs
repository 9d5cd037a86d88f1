//! Probes: is the process alive, may it get traffic, and is everything well.
//!
//! `/health/live` never touches the store: a restart does not mend a store. `/health/ready` makes
//! one round trip. The full judgement is the library's, shown at the guide's path.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lockbay::ErrorKind;
use lockbay::metrics::Format;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{Nothing, Query};
use super::openapi::Unavailable;
use super::problem::Problem;
use super::shape::health as shape;

/// How long the store may take to prove that it answers.
const READY_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(prometheus))
        .routes(routes!(health))
}

#[derive(Serialize, ToSchema)]
struct Live {
    live: bool,
}

#[derive(Serialize, ToSchema)]
struct Ready {
    ready: bool,
}

/// Tell whether the process lives
///
/// It never touches the store: a restart does not mend a store.
#[utoipa::path(
    get,
    path = "/health/live",
    operation_id = "probe_live",
    tag = "monitoring",
    responses((status = 200, body = Live, description = "It does.")),
)]
async fn live(_: Query<Nothing>) -> Json<Live> {
    Json(Live { live: true })
}

/// Tell whether traffic may come
///
/// One round trip to the store; not while the server shuts down.
#[utoipa::path(
    get,
    path = "/health/ready",
    operation_id = "probe_ready",
    tag = "monitoring",
    responses((status = 200, body = Ready, description = "It may."), Unavailable),
)]
async fn ready(State(app): State<App>, _: Query<Nothing>) -> Result<Json<Ready>, Problem> {
    if app.stopping.is_cancelled() {
        return Err(Problem::new(ErrorKind::Unavailable, "this instance is shutting down"));
    }
    match app.bay.clock().timeout(READY_WITHIN, app.bay.store().ping()).await {
        Some(pong) => {
            pong?;
            Ok(Json(Ready { ready: true }))
        }
        None => {
            let detail = format!("the store did not answer within {READY_WITHIN:?}");
            Err(Problem::new(ErrorKind::Unavailable, detail))
        }
    }
}

/// Show the health of this instance
///
/// Judged by what really happens, part by part, with reasons.
#[utoipa::path(
    get,
    path = "/api/advanced-state/health",
    operation_id = "get_health",
    tag = "monitoring",
    responses(
        (status = 200, body = shape::Health, description = "It is healthy."),
        (status = 503, body = shape::Health, description = "It is not, and `issues` says why."),
    ),
)]
async fn health(State(app): State<App>, _: Query<Nothing>) -> Response {
    let health = app.bay.health().await;
    let status =
        if health.overall_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

/// Show metrics for Prometheus
///
/// OpenMetrics text; the older text format for who accepts that alone.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "scrape_metrics",
    tag = "monitoring",
    responses((status = 200, description = "Every metric of this instance.", content(
        (String = "application/openmetrics-text"),
        (String = "text/plain"),
    ))),
)]
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
