//! `/v1/alerts`: what is judged and what fires, the rules, and what a rule would have done; on any
//! instance.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lockbay::monitor::alert::backtest::Backtest;
use lockbay::monitor::alert::decide::Phase;
use lockbay::monitor::alert::rule::Rule;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{JsonBody, JsonOrNothing, Name, Nothing, Query};
use super::openapi::{NotFound, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;
use super::shape::{alert as shape, text};

/// What page tokens of these lists are bound to.
const ALERTS: &str = "alerts";
const RULES: &str = "alert rules";
/// How far a test goes back if nobody says: a day.
const USUAL_MINUTES: u32 = 1_440;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(rules))
        .routes(routes!(show, set, forget))
        .routes(routes!(test))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// Only those that stand there.
    #[param(value_type = Option<shape::AlertState>)]
    state: Option<Phase>,
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List alerts
///
/// What is judged: every rule that is enabled with where its alert stands, on any instance.
#[utoipa::path(
    get,
    path = "/v1/alerts",
    operation_id = "list_alerts",
    tag = "alerts",
    params(Listing),
    responses((status = 200, body = Page<shape::Alert>, description = "A page of alerts.")),
)]
async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let alerts = app.bay.alerts().list(listing.state).await?;
    let page = page::of_all(ALERTS, alerts, listing.page_size, listing.page_token.as_deref())?;
    Ok(page.into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RuleListing {
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List alert rules
///
/// The built-in ones and those that were put, by name.
#[utoipa::path(
    get,
    path = "/v1/alerts/rules",
    operation_id = "list_alert_rules",
    tag = "alerts",
    params(RuleListing),
    responses((status = 200, body = Page<shape::AlertRule>, description = "A page of rules.")),
)]
async fn rules(
    State(app): State<App>,
    Query(listing): Query<RuleListing>,
) -> Result<Response, Problem> {
    let rules = app.bay.alerts().rules().await?;
    let page = page::of_all(RULES, rules, listing.page_size, listing.page_token.as_deref())?;
    Ok(page.into_response())
}

/// Show an alert rule
///
/// As it is judged, on any instance.
#[utoipa::path(
    get,
    path = "/v1/alerts/rules/{name}",
    operation_id = "get_alert_rule",
    tag = "alerts",
    params(("name" = inline(text::RuleName), Path, description = "The name of the rule.")),
    responses((status = 200, body = shape::AlertRule, description = "The rule."), NotFound),
)]
async fn show(
    State(app): State<App>,
    Name(name): Name,
    _: Query<Nothing>,
) -> Result<Json<Rule>, Problem> {
    Ok(Json(app.bay.alerts().rule(&name).await?))
}

/// Put an alert rule
///
/// What `GET` shows can be put again. A rule of the same name is replaced, a built-in one too.
#[utoipa::path(
    put,
    path = "/v1/alerts/rules/{name}",
    operation_id = "put_alert_rule",
    tag = "alerts",
    params(("name" = inline(text::RuleName), Path, description = "The name of the rule.")),
    request_body = shape::AlertRuleBody,
    responses((status = 200, body = shape::AlertRule, description = "The rule as it is now.")),
)]
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

#[derive(Serialize, ToSchema)]
#[schema(as = DeletedAlertRule)]
struct Deleted {
    name: String,
    deleted: bool,
}

/// Delete an alert rule
///
/// Its alert is over. A built-in rule stays deleted until somebody puts one of its name.
#[utoipa::path(
    delete,
    path = "/v1/alerts/rules/{name}",
    operation_id = "delete_alert_rule",
    tag = "alerts",
    params(("name" = inline(text::RuleName), Path, description = "The name of the rule.")),
    responses((status = 200, body = Deleted, description = "It is gone."), NotFound),
)]
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
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AlertRuleTest)]
struct TestBody {
    /// How far back; a day if nothing is said.
    #[schema(minimum = 1, maximum = 43_200)]
    minutes: Option<u32>,
    /// This rule in place of the one that is stored.
    #[schema(value_type = Option<shape::AlertRuleBody>)]
    rule: Option<Rule>,
}

/// Test an alert rule on the past
///
/// What it would have done over the last minutes, as history has them. Nothing is told to anybody.
#[utoipa::path(
    post,
    path = "/v1/alerts/rules/{name}/test",
    operation_id = "test_alert_rule",
    tag = "alerts",
    params(("name" = inline(text::RuleName), Path, description = "The name of the rule.")),
    request_body = Option<TestBody>,
    responses(
        (status = 200, body = shape::Backtest, description = "What it would have done."),
        NotFound,
    ),
)]
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
