//! The report and the trends behind it.
//!
//! A report is an answer also when the service is unwell: it is then that it is asked for. So its
//! status says that it was made, and never how the service is; that is what health is for.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use lockbay::monitor::report::Format;
use lockbay::monitor::trend::DEFAULT_HOURS;
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::Query;
use super::openapi::NotFound;
use super::problem::Problem;
use super::shape::report as shape;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(report)).routes(routes!(trends))
}

/// How a report is written.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)] // described, never made
enum ReportFormat {
    Text,
    Markdown,
    Html,
    Json,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wish {
    /// `json` if nothing is said.
    #[param(value_type = Option<ReportFormat>, inline)]
    format: Option<String>,
    /// Over the last so many hours; a day if nothing is said.
    #[param(minimum = 1, maximum = 720)]
    hours: Option<u32>,
}

/// Report on the service
///
/// What a person at night, or a program, should know, in one document. It is an answer also when the
/// service is unwell.
#[utoipa::path(
    get,
    path = "/api/advanced-state/report",
    operation_id = "get_report",
    tag = "monitoring",
    params(Wish),
    responses((
        status = 200,
        description = "The report.",
        content(
            (shape::Report = "application/json"),
            (String = "text/plain"),
            (String = "text/markdown"),
            (String = "text/html"),
        ),
        headers(("Content-Security-Policy" = String)),
    )),
)]
async fn report(State(app): State<App>, Query(wish): Query<Wish>) -> Result<Response, Problem> {
    let format: Format = wish.format.as_deref().unwrap_or("json").parse()?;
    let report = app.bay.report(wish.hours.unwrap_or(DEFAULT_HOURS)).await?;
    let kind = match format {
        Format::Text => "text/plain; charset=utf-8",
        Format::Markdown => "text/markdown; charset=utf-8",
        Format::Html => "text/html; charset=utf-8",
        Format::Json => "application/json",
    };
    // Nothing in the page may run or be fetched, whatever stands in it.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                  form-action 'none'; frame-ancestors 'none'";
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, policy)];
    Ok((headers, report.write(format)?).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Only this metric, by its path.
    path: Option<String>,
    /// Over the last so many hours; a day if nothing is said.
    #[param(minimum = 1, maximum = 720)]
    hours: Option<u32>,
}

/// Show how metrics move
///
/// Those that matter most, or the one that is asked for.
#[utoipa::path(
    get,
    path = "/v1/trends",
    operation_id = "get_trends",
    tag = "monitoring",
    params(Asked),
    responses((status = 200, body = shape::Trends, description = "Their trends."), NotFound),
)]
async fn trends(State(app): State<App>, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let (trends, hours) = (app.bay.trends(), asked.hours.unwrap_or(DEFAULT_HOURS));
    let items = match asked.path {
        Some(path) => vec![trends.of(&path, hours).await?],
        None => trends.important(hours).await?,
    };
    Ok(Json(json!({ "window_hours": hours, "items": items })).into_response())
}
