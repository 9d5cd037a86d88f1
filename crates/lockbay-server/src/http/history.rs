//! `/v1/metrics/history`: how a metric went, and which there are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use lockbay::clock::Timestamp;
use lockbay::metrics::{PARTS, Part, Series, Type, Unit};
use lockbay::monitor::history::{Ask, History, Point};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{Nothing, Query, seconds_of};
use super::openapi::NotFound;
use super::problem::Problem;
use super::shape::{Moment, history as shape};

/// How far back is looked when nobody says.
const DEFAULT_MINUTES: u64 = 60;
/// As long as anything is kept: 30 days.
const MAX_MINUTES: u64 = 43_200;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(history)).routes(routes!(paths))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wish {
    /// The path of a metric, as `/v1/metrics/paths` lists them.
    path: String,
    /// How far back; an hour if nothing is said.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 43_200)]
    minutes: Option<String>,
    /// The length of a step; what makes a chart of it if nothing is said.
    #[param(value_type = Option<f64>, minimum = 0)]
    step_seconds: Option<String>,
    /// Only what this instance measured, by its id.
    instance: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MetricHistory)]
struct Told {
    path: String,
    #[serde(rename = "type")]
    #[schema(value_type = shape::MetricType)]
    kind: Type,
    #[schema(value_type = shape::MetricUnit)]
    unit: Unit,
    help: &'static str,
    /// How far apart the samples are that are kept of this time.
    resolution_seconds: f64,
    step_seconds: f64,
    #[schema(value_type = Moment)]
    from: Timestamp,
    #[schema(value_type = Moment)]
    to: Timestamp,
    /// The one that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    instance: Option<String>,
    /// Which instances were there in the window.
    #[schema(value_type = Vec<String>)]
    instances: BTreeSet<Arc<str>>,
    /// One for each step, in order.
    #[schema(value_type = Vec<shape::HistoryPoint>)]
    points: Vec<Point>,
}

/// Show how a metric went
///
/// By what all instances measured, as the store has it.
#[utoipa::path(
    get,
    path = "/v1/metrics/history",
    operation_id = "get_metric_history",
    tag = "monitoring",
    params(Wish),
    responses((status = 200, body = Told, description = "Its points."), NotFound),
)]
async fn history(State(app): State<App>, Query(wish): Query<Wish>) -> Result<Json<Told>, Problem> {
    let minutes = minutes_of(wish.minutes.as_deref())?;
    let step = seconds_of("step_seconds", wish.step_seconds.as_deref())?;
    // By the store's clock, as the samples are.
    let to = app.bay.history().now().await?;
    let from = to - Duration::from_secs(minutes * 60);
    let ask = Ask { path: wish.path, from, to, step, instance: wish.instance };
    let chart = app.bay.history().points(&ask).await?;
    Ok(Json(Told {
        path: ask.path,
        kind: chart.series.kind,
        unit: chart.series.unit,
        help: chart.series.help,
        resolution_seconds: chart.resolution.as_secs_f64(),
        step_seconds: chart.step.as_secs_f64(),
        from: chart.from,
        to: chart.to,
        instance: ask.instance,
        instances: chart.instances,
        points: chart.points,
    }))
}

fn minutes_of(text: Option<&str>) -> Result<u64, Problem> {
    let Some(text) = text else { return Ok(DEFAULT_MINUTES) };
    match text.parse() {
        Ok(minutes) if (1..=MAX_MINUTES).contains(&minutes) => Ok(minutes),
        Ok(_) | Err(_) => Err(Problem::invalid(format!(
            "the query: minutes is a whole number from 1 to {MAX_MINUTES}, not {text:?}"
        ))),
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = MetricPath)]
struct Named {
    path: String,
    #[serde(rename = "type")]
    #[schema(value_type = shape::MetricType)]
    kind: Type,
    #[schema(value_type = shape::MetricUnit)]
    unit: Unit,
    help: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MetricPaths)]
struct Paths {
    items: Vec<Named>,
}

/// List the paths of metrics
///
/// Every path, with those of the parts of histograms.
#[utoipa::path(
    get,
    path = "/v1/metrics/paths",
    operation_id = "list_metric_paths",
    tag = "monitoring",
    responses((status = 200, body = Paths, description = "All of them.")),
)]
async fn paths(_: Query<Nothing>) -> Json<Paths> {
    let mut items = Vec::new();
    for series in History::paths() {
        items.push(named(series.path.to_owned(), &series));
        let parts = PARTS.iter().filter(|_| series.kind == Type::Histogram);
        for (name, part) in parts {
            let unit = if *part == Part::Count { Unit::None } else { series.unit };
            let path = format!("{}.{name}", series.path);
            items.push(named(path, &Series { unit, ..series }));
        }
    }
    Json(Paths { items })
}

fn named(path: String, series: &Series) -> Named {
    Named { path, kind: series.kind, unit: series.unit, help: series.help }
}
