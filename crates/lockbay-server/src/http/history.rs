//! `/v1/metrics/history`: how a metric went, and which there are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use lockbay::clock::Timestamp;
use lockbay::metrics::{PARTS, Part, Series, Type, Unit};
use lockbay::monitor::history::{Ask, History, Point};
use serde::{Deserialize, Serialize};

use super::App;
use super::extract::{Nothing, Query, seconds_of};
use super::problem::Problem;

/// How far back is looked when nobody says.
const DEFAULT_MINUTES: u64 = 60;
/// As long as anything is kept: 30 days.
const MAX_MINUTES: u64 = 43_200;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/metrics/history", get(history)).route("/v1/metrics/paths", get(paths))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    path: String,
    minutes: Option<String>,
    step_seconds: Option<String>,
    instance: Option<String>,
}

#[derive(Serialize)]
struct Told {
    path: String,
    #[serde(rename = "type")]
    kind: Type,
    unit: Unit,
    help: &'static str,
    resolution_seconds: f64,
    step_seconds: f64,
    from: Timestamp,
    to: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    instances: BTreeSet<Arc<str>>,
    points: Vec<Point>,
}

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

#[derive(Serialize)]
struct Named {
    path: String,
    #[serde(rename = "type")]
    kind: Type,
    unit: Unit,
    help: &'static str,
}

/// Every path, with those of the parts of histograms.
async fn paths(_: Query<Nothing>) -> Json<serde_json::Value> {
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
    Json(serde_json::json!({ "items": items }))
}

fn named(path: String, series: &Series) -> Named {
    Named { path, kind: series.kind, unit: series.unit, help: series.help }
}
