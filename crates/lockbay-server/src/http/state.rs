//! `/v1/state`, `/v1/state-rules`, `/v1/state-dependencies`: values with versions and tags, and what
//! follows from their changes.
//!
//! Keys may have any character; in a path they are percent-encoded, `/` as `%2F`.

use std::fmt;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lockbay::ErrorKind;
use lockbay::state::{
    Found, IfVersion, Invalidated, Invalidation, Rule, ServeStale, SetOptions, Written,
    parse_version,
};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{JsonBody, Name, Nothing, Query, Seconds, check_reason, seconds_of};
use super::openapi::{Conflict, NotFound, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;
use super::shape::{state as shape, text};

/// What page tokens of these lists are bound to.
const LIST: &str = "state";
const RULES: &str = "state-rules";
/// The key whose path is that of invalidation, too.
const INVALIDATE: &str = "invalidate";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        // POST invalidates; everything else there is about the key of this name.
        .routes(routes!(invalidate, show_invalidate, set_invalidate, delete_invalidate))
        .routes(routes!(show, set, delete))
        .routes(routes!(rules))
        .routes(routes!(rule, put_rule, delete_rule))
        .routes(routes!(dependencies, put_dependencies, delete_dependencies))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StateBody)]
struct SetBody {
    /// Any JSON, of 1 MiB and 32 levels at most.
    #[schema(value_type = Value)]
    value: lockbay::Json,
    /// How long it lives, ten years at most; for ever if nothing is said.
    #[schema(value_type = Option<f64>, exclusive_minimum = 0, maximum = 315_360_000)]
    ttl_seconds: Option<Seconds>,
    /// By what else it can be invalidated; at most 32.
    #[serde(default)]
    tags: Vec<String>,
    /// Where it comes from; for people.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    source: Option<String>,
    /// What must be there: a version as it was handed out, or `"0"` for no value. Left out, whatever
    /// is there is replaced.
    #[serde(default, deserialize_with = "given")]
    #[schema(schema_with = shape::version_wanted)]
    if_version: Option<Version>,
}

/// A member that may be left out, but is no null: that would set whatever is there.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Version>, D::Error> {
    Version::deserialize(deserializer).map(Some)
}

/// A version as it was handed out, in quotes or without them.
struct Version(IfVersion);

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VersionVisitor;
        impl Visitor<'_> for VersionVisitor {
            type Value = Version;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a version such as \"1795534190475202\", or \"0\" for no value")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Version, E> {
                parse_version(text).map(Version).map_err(E::custom)
            }
            fn visit_unit<E: serde::de::Error>(self) -> Result<Version, E> {
                Err(E::custom(
                    "if_version is null: leave it out to set whatever is there, or say \"0\" for \
                     no value",
                ))
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Version, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(VersionVisitor)
    }
}

/// Set a value
///
/// What depends on it is invalidated with it. With `if_version` only if that is what is there.
#[utoipa::path(
    put,
    path = "/v1/state/{key}",
    operation_id = "set_state",
    tag = "state",
    params(("key" = inline(text::StateKey), Path, description = "The key; `/` is written `%2F`.")),
    request_body = SetBody,
    responses((status = 200, body = shape::WrittenState, description = "It is set."), Conflict),
)]
async fn set(
    State(app): State<App>,
    Name(key): Name,
    JsonBody(body): JsonBody<SetBody>,
) -> Result<Json<Written>, Problem> {
    let options = SetOptions {
        ttl: body.ttl_seconds.map(|Seconds(ttl)| ttl),
        tags: body.tags,
        source: body.source,
        if_version: body.if_version.map_or(IfVersion::Any, |Version(wanted)| wanted),
    };
    Ok(Json(app.bay.state().set(&key, body.value, options).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Show {
    /// A value that may be so much older than promised will do.
    #[param(value_type = Option<f64>, minimum = 0)]
    max_stale_seconds: Option<String>,
}

/// A value, and whether it may be older than promised.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    entry: &'a lockbay::state::StateEntry,
    stale: bool,
}

/// Show a value
///
/// A value whose time has passed, or that was invalidated, is none.
#[utoipa::path(
    get,
    path = "/v1/state/{key}",
    operation_id = "get_state",
    tag = "state",
    params(("key" = inline(text::StateKey), Path, description = "The key; `/` is written `%2F`."), Show),
    responses((status = 200, body = shape::StateValue, description = "The value."), NotFound),
)]
async fn show(
    State(app): State<App>,
    Name(key): Name,
    Query(wish): Query<Show>,
) -> Result<Response, Problem> {
    let age = seconds_of("max_stale_seconds", wish.max_stale_seconds.as_deref())?;
    let stale = age.map_or(ServeStale::Never, ServeStale::UpTo);
    match app.bay.state().get_with(&key, stale).await? {
        Some(Found { entry, stale }) => Ok(Json(Shown { entry: &entry, stale }).into_response()),
        None => Err(Problem::new(ErrorKind::NotFound, format!("there is no state key {key:?}"))),
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = DeletedState)]
struct Deleted {
    key: String,
    deleted: bool,
}

/// Delete a value
///
/// It is no mistake if there is none.
#[utoipa::path(
    delete,
    path = "/v1/state/{key}",
    operation_id = "delete_state",
    tag = "state",
    params(("key" = inline(text::StateKey), Path, description = "The key; `/` is written `%2F`.")),
    responses((status = 200, body = Deleted, description = "Whether there was one.")),
)]
async fn delete(
    State(app): State<App>,
    Name(key): Name,
    _: Query<Nothing>,
) -> Result<Json<Deleted>, Problem> {
    let deleted = app.bay.state().delete(&key).await?;
    Ok(Json(Deleted { key, deleted }))
}

/// Set the value of the key `invalidate`
///
/// As any other key; only POST means something else here.
#[utoipa::path(
    put,
    path = "/v1/state/invalidate",
    operation_id = "set_state_invalidate",
    tag = "state",
    request_body = SetBody,
    responses((status = 200, body = shape::WrittenState, description = "It is set."), Conflict),
)]
async fn set_invalidate(
    app: State<App>,
    body: JsonBody<SetBody>,
) -> Result<Json<Written>, Problem> {
    set(app, Name(INVALIDATE.into()), body).await
}

/// Show the value of the key `invalidate`
///
/// As any other key; only POST means something else here.
#[utoipa::path(
    get,
    path = "/v1/state/invalidate",
    operation_id = "get_state_invalidate",
    tag = "state",
    params(Show),
    responses((status = 200, body = shape::StateValue, description = "The value."), NotFound),
)]
async fn show_invalidate(app: State<App>, query: Query<Show>) -> Result<Response, Problem> {
    show(app, Name(INVALIDATE.into()), query).await
}

/// Delete the value of the key `invalidate`
///
/// As any other key; only POST means something else here.
#[utoipa::path(
    delete,
    path = "/v1/state/invalidate",
    operation_id = "delete_state_invalidate",
    tag = "state",
    responses((status = 200, body = Deleted, description = "Whether there was one.")),
)]
async fn delete_invalidate(
    app: State<App>,
    query: Query<Nothing>,
) -> Result<Json<Deleted>, Problem> {
    delete(app, Name(INVALIDATE.into()), query).await
}

/// What shall be invalidated: everything that is named, and at least one thing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Invalidation)]
struct InvalidateBody {
    /// These keys, and what depends on them.
    #[serde(default)]
    keys: Vec<String>,
    /// Every value that has one of these tags.
    #[serde(default)]
    tags: Vec<String>,
    /// Every key that this glob means, and what depends on it.
    pattern: Option<String>,
    /// What follows by rules and dependencies when this changes, and the value of that key itself.
    updated_key: Option<String>,
    /// Why, for the audit trail.
    reason: Option<String>,
}

/// Invalidate values
///
/// Everything that is named, and what depends on it, is gone when this answers.
#[utoipa::path(
    post,
    path = "/v1/state/invalidate",
    operation_id = "invalidate_state",
    tag = "state",
    request_body = InvalidateBody,
    responses((status = 200, body = shape::Invalidated, description = "What was invalidated.")),
)]
async fn invalidate(
    State(app): State<App>,
    JsonBody(body): JsonBody<InvalidateBody>,
) -> Result<Json<Invalidated>, Problem> {
    let InvalidateBody { keys, tags, pattern, updated_key, reason } = body;
    reason.as_deref().map(check_reason).transpose()?;
    let wish = Invalidation { keys, tags, pattern, updated_key, reason };
    Ok(Json(app.bay.state().invalidate(&wish).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// Only keys that begin so.
    #[serde(default)]
    prefix: String,
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List keys
///
/// Keys with a value, in order, without the values.
#[utoipa::path(
    get,
    path = "/v1/state",
    operation_id = "list_state",
    tag = "state",
    params(Listing),
    responses((status = 200, body = Page<shape::ListedState>, description = "A page of keys.")),
)]
async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    // A token goes on in the list that it is from.
    let name = format!("{LIST}/{}", listing.prefix);
    let after = page::place(&name, listing.page_token.as_deref())?;
    let (items, next) = app.bay.state().list(&listing.prefix, after, limit).await?;
    Ok(Page::new(&name, items, next).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Rules {
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List invalidation rules
///
/// The built-in ones and those that were put, by name.
#[utoipa::path(
    get,
    path = "/v1/state-rules",
    operation_id = "list_state_rules",
    tag = "state",
    params(Rules),
    responses((status = 200, body = Page<shape::StateRule>, description = "A page of rules.")),
)]
async fn rules(State(app): State<App>, Query(listing): Query<Rules>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let after = page::place(RULES, listing.page_token.as_deref())?;
    let mut rules = app.bay.state().rules().await?;
    rules.retain(|rule| after.as_ref().is_none_or(|after| rule.name > *after));
    let more = rules.len() > limit;
    rules.truncate(limit);
    let next = rules.last().filter(|_| more).map(|rule| rule.name.clone());
    Ok(Page::new(RULES, rules, next).into_response())
}

/// Show an invalidation rule
///
/// Which keys go when a key of some name changes.
#[utoipa::path(
    get,
    path = "/v1/state-rules/{name}",
    operation_id = "get_state_rule",
    tag = "state",
    params(("name" = inline(text::Name), Path, description = "The name of the rule.")),
    responses((status = 200, body = shape::StateRule, description = "The rule."), NotFound),
)]
async fn rule(
    State(app): State<App>,
    Name(name): Name,
    _: Query<Nothing>,
) -> Result<Json<Rule>, Problem> {
    match app.bay.state().rule(&name).await? {
        Some(rule) => Ok(Json(rule)),
        None => Err(Problem::new(ErrorKind::NotFound, format!("there is no state rule {name:?}"))),
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StateRuleBody, examples(json!({
    "update_pattern": "order:{id}", "invalidate_patterns": ["order:{id}:*", "order_list:*"]
})))]
struct RuleBody {
    /// Which keys, as a glob. `{id}` and the like stand for one part of the key.
    #[schema(min_length = 1, max_length = 512)]
    update_pattern: String,
    /// What is invalidated then; parts of the key may be put in.
    #[schema(min_items = 1, max_items = 32)]
    invalidate_patterns: Vec<String>,
}

/// Put an invalidation rule
///
/// A rule of the same name is replaced, a built-in one too.
#[utoipa::path(
    put,
    path = "/v1/state-rules/{name}",
    operation_id = "put_state_rule",
    tag = "state",
    params(("name" = inline(text::Name), Path, description = "The name of the rule.")),
    request_body = RuleBody,
    responses((status = 200, body = shape::StateRule, description = "The rule as it is now.")),
)]
async fn put_rule(
    State(app): State<App>,
    Name(name): Name,
    JsonBody(body): JsonBody<RuleBody>,
) -> Result<Json<Rule>, Problem> {
    let RuleBody { update_pattern, invalidate_patterns } = body;
    let rule = Rule { name, update_pattern, invalidate_patterns };
    app.bay.state().put_rule(rule.clone()).await?;
    tracing::info!(rule = rule.name, "state_rule_put");
    Ok(Json(rule))
}

#[derive(Serialize, ToSchema)]
#[schema(as = DeletedStateRule)]
struct DeletedRule {
    name: String,
    deleted: bool,
}

/// Delete an invalidation rule
///
/// It is no mistake if there is none.
#[utoipa::path(
    delete,
    path = "/v1/state-rules/{name}",
    operation_id = "delete_state_rule",
    tag = "state",
    params(("name" = inline(text::Name), Path, description = "The name of the rule.")),
    responses((status = 200, body = DeletedRule, description = "Whether there was one.")),
)]
async fn delete_rule(
    State(app): State<App>,
    Name(name): Name,
    _: Query<Nothing>,
) -> Result<Json<DeletedRule>, Problem> {
    let deleted = app.bay.state().delete_rule(&name).await?;
    tracing::info!(rule = name, deleted, "state_rule_deleted");
    Ok(Json(DeletedRule { name, deleted }))
}

#[derive(Serialize, ToSchema)]
#[schema(as = StateDependencies)]
struct Dependencies {
    key: String,
    depends_on: Vec<String>,
}

/// Show what a key was made of
///
/// The keys that were said of it last.
#[utoipa::path(
    get,
    path = "/v1/state-dependencies/{key}",
    operation_id = "get_state_dependencies",
    tag = "state",
    params(("key" = inline(text::StateKey), Path, description = "The key; `/` is written `%2F`.")),
    responses((status = 200, body = Dependencies, description = "The keys it was made of."), NotFound),
)]
async fn dependencies(
    State(app): State<App>,
    Name(key): Name,
    _: Query<Nothing>,
) -> Result<Json<Dependencies>, Problem> {
    match app.bay.state().depends_on(&key).await? {
        Some(depends_on) => Ok(Json(Dependencies { key, depends_on })),
        None => {
            let detail = format!("nobody said on what state key {key:?} depends");
            Err(Problem::new(ErrorKind::NotFound, detail))
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StateDependenciesBody)]
struct DependenciesBody {
    /// When one of these changes or is invalidated, so is what was made of it.
    depends_on: Vec<String>,
}

/// Say what a key was made of
///
/// It replaces what was said before.
#[utoipa::path(
    put,
    path = "/v1/state-dependencies/{key}",
    operation_id = "put_state_dependencies",
    tag = "state",
    params(("key" = inline(text::StateKey), Path, description = "The key; `/` is written `%2F`.")),
    request_body = DependenciesBody,
    responses((status = 200, body = Dependencies, description = "As it is now.")),
)]
async fn put_dependencies(
    State(app): State<App>,
    Name(key): Name,
    JsonBody(body): JsonBody<DependenciesBody>,
) -> Result<Json<Dependencies>, Problem> {
    let DependenciesBody { depends_on } = body;
    app.bay.state().set_depends_on(&key, &depends_on).await?;
    Ok(Json(Dependencies { key, depends_on }))
}

/// Forget what a key was made of
///
/// It is no mistake if nobody said so.
#[utoipa::path(
    delete,
    path = "/v1/state-dependencies/{key}",
    operation_id = "delete_state_dependencies",
    tag = "state",
    params(("key" = inline(text::StateKey), Path, description = "The key; `/` is written `%2F`.")),
    responses((status = 200, body = Deleted, description = "Whether it was known.")),
)]
async fn delete_dependencies(
    State(app): State<App>,
    Name(key): Name,
    _: Query<Nothing>,
) -> Result<Json<Deleted>, Problem> {
    let deleted = app.bay.state().forget_depends_on(&key).await?;
    Ok(Json(Deleted { key, deleted }))
}
