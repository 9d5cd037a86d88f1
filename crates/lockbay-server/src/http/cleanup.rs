//! `/v1/cleanup`: retention rules, runs now, and giving memory back; on any instance, for the
//! leader carries it out.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lockbay::ErrorKind;
use lockbay::sweep::{Expiring, Mode, OptimizeReport, Report, Rule, RunRequest, Scope, Strategy};
use serde::{Deserialize, Serialize};

use super::App;
use super::extract::{JsonBody, JsonOrNothing, Name, NoBody, Nothing, Query, Seconds};
use super::page::{self, Page};
use super::problem::Problem;

/// What page tokens of this list are bound to.
const LIST: &str = "cleanup rules";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/cleanup/rules", get(list))
        .route("/v1/cleanup/rules/{name}", get(show).put(set).delete(forget))
        .route("/v1/cleanup/run", post(run))
        .route("/v1/cleanup/optimize-memory", post(optimize))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    page_size: Option<usize>,
    page_token: Option<String>,
}

/// All rules fit into memory; a page goes on behind so many of them.
async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let place = page::place(LIST, listing.page_token.as_deref())?;
    let passed = place.and_then(|place| place.parse().ok()).unwrap_or(0usize);
    let mut rules = app.bay.sweeper().rules().await?;
    let next = (rules.len() > passed + limit).then(|| (passed + limit).to_string());
    rules.truncate(passed + limit);
    rules.drain(..passed.min(rules.len()));
    Ok(Page::new(LIST, rules, next).into_response())
}

async fn show(
    State(app): State<App>,
    Name(name): Name,
    _: Query<Nothing>,
) -> Result<Json<Rule>, Problem> {
    let rules = app.bay.sweeper().rules().await?;
    match rules.into_iter().find(|rule| rule.name == name) {
        Some(rule) => Ok(Json(rule)),
        None => Err(Problem::new(ErrorKind::NotFound, format!("there is no rule {name:?}"))),
    }
}

/// A rule as it is put. What `GET` shows can be put again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleBody {
    name: Option<String>,
    pattern: String,
    ttl_seconds: Seconds,
    strategy: Option<Strategy>,
    batch_size: Option<u32>,
    priority: Option<i32>,
    interval_seconds: Option<Seconds>,
    applies_to: Option<BTreeSet<Scope>>,
    expiring: Option<Expiring>,
    /// Taken and not heeded: what was put is put.
    #[serde(rename = "origin")]
    _origin: Option<String>,
}

impl RuleBody {
    fn into_rule(self, name: String) -> Result<Rule, Problem> {
        if let Some(other) = self.name.filter(|other| *other != name) {
            return Err(Problem::invalid(format!(
                "the body names the rule {other:?}, and the path names {name:?}"
            )));
        }
        let usual = Rule::new(name, self.pattern, self.ttl_seconds.0);
        Ok(Rule {
            strategy: self.strategy.unwrap_or(usual.strategy),
            batch_size: self.batch_size.unwrap_or(usual.batch_size),
            priority: self.priority.unwrap_or(usual.priority),
            interval: self.interval_seconds.map(|Seconds(interval)| interval),
            applies_to: self.applies_to,
            expiring: self.expiring.unwrap_or(usual.expiring),
            ..usual
        })
    }
}

async fn set(
    State(app): State<App>,
    Name(name): Name,
    JsonBody(body): JsonBody<RuleBody>,
) -> Result<Json<Rule>, Problem> {
    let rule = body.into_rule(name)?;
    app.bay.sweeper().put_rule(rule.clone()).await?;
    tracing::info!(rule = rule.name, pattern = rule.pattern, "cleanup_rule_put");
    // As it is listed: with what it is about, also where that was left to its name.
    Ok(Json(Rule { applies_to: Some(rule.scopes()), ..rule }))
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
    app.bay.sweeper().delete_rule(&name).await?;
    tracing::info!(rule = name, "cleanup_rule_deleted");
    Ok(Json(Deleted { name, deleted: true }))
}

/// What shall be cleaned up; everything, if nothing is said.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RunBody {
    #[serde(rename = "type")]
    rule: Option<String>,
    pattern: Option<String>,
    dry_run: bool,
    ttl_seconds: Option<Seconds>,
}

impl From<RunBody> for RunRequest {
    fn from(body: RunBody) -> Self {
        RunRequest {
            rule: body.rule,
            pattern: body.pattern,
            mode: if body.dry_run { Mode::DryRun } else { Mode::Delete },
            ttl: body.ttl_seconds.map(|Seconds(ttl)| ttl),
        }
    }
}

async fn run(
    State(app): State<App>,
    JsonOrNothing(body): JsonOrNothing<RunBody>,
) -> Result<Json<Report>, Problem> {
    let request = RunRequest::from(body);
    until_the_end(&app, app.bay.sweeper().run(request)).await.map(Json)
}

async fn optimize(State(app): State<App>, _: NoBody) -> Result<Json<OptimizeReport>, Problem> {
    until_the_end(&app, app.bay.sweeper().optimize_memory()).await.map(Json)
}

/// A run takes its time, so it counts among the calls that wait; and nobody waits for it past the
/// end of this server.
async fn until_the_end<T>(
    app: &App,
    work: impl Future<Output = lockbay::Result<T>>,
) -> Result<T, Problem> {
    let _permit = app.waiting_permit()?;
    tokio::select! {
        done = work => Ok(done?),
        () = app.stopping.cancelled() => Err(Problem::new(
            ErrorKind::Unknown,
            "this instance shuts down while the run goes on; ask another what became of it",
        )),
    }
}
