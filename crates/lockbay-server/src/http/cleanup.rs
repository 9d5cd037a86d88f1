//! `/v1/cleanup`: retention rules, runs now, and giving memory back; on any instance, for the
//! leader carries it out.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lockbay::ErrorKind;
use lockbay::sweep::{Expiring, Mode, OptimizeReport, Report, Rule, RunRequest, Scope, Strategy};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{JsonBody, JsonOrNothing, Name, NoBody, Nothing, Query, Seconds};
use super::openapi::{NotFound, Unprocessable, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;
use super::shape::{cleanup as shape, text};

/// What page tokens of this list are bound to.
const LIST: &str = "cleanup rules";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, set, forget))
        .routes(routes!(run))
        .routes(routes!(optimize))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List retention rules
///
/// The built-in ones and those that were put.
#[utoipa::path(
    get,
    path = "/v1/cleanup/rules",
    operation_id = "list_cleanup_rules",
    tag = "cleanup",
    params(Listing),
    responses((status = 200, body = Page<shape::CleanupRule>, description = "A page of rules.")),
)]
async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let rules = app.bay.sweeper().rules().await?;
    let page = page::of_all(LIST, rules, listing.page_size, listing.page_token.as_deref())?;
    Ok(page.into_response())
}

/// Show a retention rule
///
/// As it is listed, with what it is about.
#[utoipa::path(
    get,
    path = "/v1/cleanup/rules/{name}",
    operation_id = "get_cleanup_rule",
    tag = "cleanup",
    params(("name" = inline(text::RuleName), Path, description = "The name of the rule.")),
    responses((status = 200, body = shape::CleanupRule, description = "The rule."), NotFound),
)]
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
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CleanupRuleBody)]
struct RuleBody {
    /// That of the path, if it is said at all.
    #[schema(min_length = 1, max_length = 64)]
    name: Option<String>,
    /// Which things, by their name: `*` is any text, `?` any character.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f\[\]\\{}]*$")]
    pattern: String,
    /// How long they are kept; 100 years at most.
    #[schema(value_type = f64, minimum = 0, maximum = 3_162_240_000u64)]
    ttl_seconds: Seconds,
    /// `batch` if nothing is said.
    #[schema(value_type = Option<shape::CleanupStrategy>)]
    strategy: Option<Strategy>,
    /// The most that one commit deletes; 100 if nothing is said.
    #[schema(minimum = 1, maximum = 1_000)]
    batch_size: Option<u32>,
    /// Within a cycle, rules with a higher one come first.
    priority: Option<i32>,
    /// Time between two cycles of the rule; a year at most.
    #[schema(value_type = Option<f64>, minimum = 1, maximum = 31_622_400)]
    interval_seconds: Option<Seconds>,
    /// What it is about; what the built-in rule of its name is about if nothing is said, or else
    /// state keys and keys of others.
    #[schema(value_type = Option<Vec<shape::CleanupScope>>, min_items = 1)]
    applies_to: Option<BTreeSet<Scope>>,
    /// `leave` if nothing is said.
    #[schema(value_type = Option<shape::Expiring>)]
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

/// Put a retention rule
///
/// What `GET` shows can be put again. A rule of the same name is replaced, a built-in one too.
#[utoipa::path(
    put,
    path = "/v1/cleanup/rules/{name}",
    operation_id = "put_cleanup_rule",
    tag = "cleanup",
    params(("name" = inline(text::RuleName), Path, description = "The name of the rule.")),
    request_body = RuleBody,
    responses((status = 200, body = shape::CleanupRule, description = "The rule as it is now.")),
)]
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

#[derive(Serialize, ToSchema)]
#[schema(as = DeletedCleanupRule)]
struct Deleted {
    name: String,
    deleted: bool,
}

/// Delete a retention rule
///
/// What it let go stays from then on. A built-in rule stays deleted until somebody puts one of its
/// name.
#[utoipa::path(
    delete,
    path = "/v1/cleanup/rules/{name}",
    operation_id = "delete_cleanup_rule",
    tag = "cleanup",
    params(("name" = inline(text::RuleName), Path, description = "The name of the rule.")),
    responses((status = 200, body = Deleted, description = "It is gone."), NotFound),
)]
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
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CleanupRun)]
struct RunBody {
    /// Only this rule.
    #[serde(rename = "type")]
    rule: Option<String>,
    /// Only what this matches as well as the rule's own pattern.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f\[\]\\{}]*$")]
    pattern: Option<String>,
    /// Counts and measures what would go, and deletes nothing.
    #[serde(default)]
    dry_run: bool,
    /// In place of the rules' own.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 3_162_240_000u64)]
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

/// Run the cleanup now
///
/// The leader carries it out, whichever instance is asked, and the call waits for the end.
#[utoipa::path(
    post,
    path = "/v1/cleanup/run",
    operation_id = "run_cleanup",
    tag = "cleanup",
    request_body = Option<RunBody>,
    responses(
        (status = 200, body = shape::CleanupReport, description = "What it came to."),
        Unprocessable,
    ),
)]
async fn run(
    State(app): State<App>,
    JsonOrNothing(body): JsonOrNothing<RunBody>,
) -> Result<Json<Report>, Problem> {
    let request = RunRequest::from(body);
    until_the_end(&app, app.bay.sweeper().run(request)).await.map(Json)
}

/// Give memory back
///
/// Runs the lazy rules, and has the store give back what it no longer needs.
#[utoipa::path(
    post,
    path = "/v1/cleanup/optimize-memory",
    operation_id = "optimize_memory",
    tag = "cleanup",
    responses((status = 200, body = shape::OptimizeReport, description = "What it came to.")),
)]
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
