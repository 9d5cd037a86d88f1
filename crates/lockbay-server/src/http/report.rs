//! The report and the trends behind it.
//!
//! A report is an answer also when the service is unwell: it is then that it is asked for. So its
//! status says that it was made, and never how the service is; that is what health is for.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lockbay::monitor::report::Format;
use lockbay::monitor::trend::DEFAULT_HOURS;
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::extract::Query;
use super::problem::Problem;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/api/advanced-state/report", get(report)).route("/v1/trends", get(trends))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    format: Option<String>,
    hours: Option<u32>,
}

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    path: Option<String>,
    hours: Option<u32>,
}

async fn trends(State(app): State<App>, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let (trends, hours) = (app.bay.trends(), asked.hours.unwrap_or(DEFAULT_HOURS));
    let items = match asked.path {
        Some(path) => vec![trends.of(&path, hours).await?],
        None => trends.important(hours).await?,
    };
    Ok(Json(json!({ "window_hours": hours, "items": items })).into_response())
}
