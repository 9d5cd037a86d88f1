//! `/v1/alerts`: what is judged and what fires, the rules, and what a rule would have done; on any
//! instance.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lockbay::monitor::alert::backtest::Backtest;
use lockbay::monitor::alert::decide::Phase;
use lockbay::monitor::alert::rule::Rule;
use serde::{Deserialize, Serialize};

use super::App;
use super::extract::{JsonBody, JsonOrNothing, Name, Nothing, Query};
use super::page::{self, Page};
use super::problem::Problem;

/// What page tokens of these lists are bound to.
const ALERTS: &str = "alerts";
const RULES: &str = "alert rules";
/// How far a test goes back if nobody says: a day.
const USUAL_MINUTES: u32 = 1_440;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/alerts", get(list))
        .route("/v1/alerts/rules", get(rules))
        .route("/v1/alerts/rules/{name}", get(show).put(set).delete(forget))
        .route("/v1/alerts/rules/{name}/test", post(test))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    state: Option<Phase>,
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let alerts = app.bay.alerts().list(listing.state).await?;
    paged(ALERTS, alerts, listing.page_size, listing.page_token.as_deref())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleListing {
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn rules(
    State(app): State<App>,
    Query(listing): Query<RuleListing>,
) -> Result<Response, Problem> {
    let rules = app.bay.alerts().rules().await?;
    paged(RULES, rules, listing.page_size, listing.page_token.as_deref())
}

/// All of them fit into memory; a page goes on behind so many.
fn paged<T: Serialize>(
    list: &'static str,
    mut items: Vec<T>,
    size: Option<usize>,
    token: Option<&str>,
) -> Result<Response, Problem> {
    let limit = page::size(size)?;
    let passed = page::place(list, token)?.and_then(|place| place.parse().ok()).unwrap_or(0usize);
    let next = (items.len() > passed.saturating_add(limit)).then(|| (passed + limit).to_string());
    items.truncate(passed.saturating_add(limit));
    items.drain(..passed.min(items.len()));
    Ok(Page::new(list, items, next).into_response())
}

async fn show(
    State(app): State<App>,
    Name(name): Name,
    _: Query<Nothing>,
) -> Result<Json<Rule>, Problem> {
    Ok(Json(app.bay.alerts().rule(&name).await?))
}

/// What `GET` shows can be put again.
async fn set(
    State(app): State<App>,
    Name(name): Name,
    JsonBody(rule): JsonBody<Rule>,
) -> Result<Json<Rule>, Problem> {
    let rule = app.bay.alerts().put_rule(named(rule, name)?).await?;
    tracing::info!(rule = rule.name, path = rule.metric_path, "alert_rule_put");
    Ok(Json(rule))
}

fn named(mut rule: Rule, name: String) -> Result<Rule, Problem> {
    if !rule.name.is_empty() && rule.name != name {
        let other = rule.name;
        return Err(Problem::invalid(format!(
            "the body names the rule {other:?}, and the path names {name:?}"
        )));
    }
    rule.name = name;
    Ok(rule)
}

#[derive(Serialize)]
struct Deleted {
    name: String,
    deleted: bool,
}

async fn forget(
    State(app): State<App>,
    Name(name): Name,
    _: Query<Nothing>,
) -> Result<Json<Deleted>, Problem> {
    app.bay.alerts().delete_rule(&name).await?;
    tracing::info!(rule = name, "alert_rule_deleted");
    Ok(Json(Deleted { name, deleted: true }))
}

/// What is to be tested: the rule as it is stored, or this one, over so many minutes.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TestBody {
    minutes: Option<u32>,
    rule: Option<Rule>,
}

async fn test(
    State(app): State<App>,
    Name(name): Name,
    JsonOrNothing(body): JsonOrNothing<TestBody>,
) -> Result<Json<Backtest>, Problem> {
    let _permit = app.waiting_permit()?;
    let alerts = app.bay.alerts();
    let rule = match body.rule {
        Some(rule) => named(rule, name)?,
        None => alerts.rule(&name).await?,
    };
    Ok(Json(alerts.test(rule, body.minutes.unwrap_or(USUAL_MINUTES)).await?))
}
