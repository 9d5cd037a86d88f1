//! `/v1/state`, `/v1/state-rules`, `/v1/state-dependencies`: values with versions and tags, and what
//! follows from their changes.
//!
//! Keys may have any character; in a path they are percent-encoded, `/` as `%2F`.

use std::fmt;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lockbay::ErrorKind;
use lockbay::state::{
    Found, IfVersion, Invalidated, Invalidation, Rule, ServeStale, SetOptions, Written,
    parse_version,
};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

use super::App;
use super::extract::{JsonBody, Name, Nothing, Query, Seconds, check_reason, seconds_of};
use super::page::{self, Page};
use super::problem::Problem;

/// What page tokens of these lists are bound to.
const LIST: &str = "state";
const RULES: &str = "state-rules";
/// The key whose path is that of invalidation, too.
const INVALIDATE: &str = "invalidate";

pub(super) fn routes() -> Router<App> {
    // POST invalidates; everything else there is about the key of this name.
    let invalidation = post(invalidate)
        .get(|app, query| show(app, Name(INVALIDATE.into()), query))
        .put(|app, body| set(app, Name(INVALIDATE.into()), body))
        .delete(|app, query| delete(app, Name(INVALIDATE.into()), query));
    Router::new()
        .route("/v1/state", get(list))
        .route("/v1/state/invalidate", invalidation)
        .route("/v1/state/{key}", get(show).put(set).delete(delete))
        .route("/v1/state-rules", get(rules))
        .route("/v1/state-rules/{name}", get(rule).put(put_rule).delete(delete_rule))
        .route(
            "/v1/state-dependencies/{key}",
            get(dependencies).put(put_dependencies).delete(delete_dependencies),
        )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    value: lockbay::Json,
    ttl_seconds: Option<Seconds>,
    #[serde(default)]
    tags: Vec<String>,
    source: Option<String>,
    #[serde(default, deserialize_with = "given")]
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Show {
    max_stale_seconds: Option<String>,
}

/// A value, and whether it may be older than promised.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    entry: &'a lockbay::state::StateEntry,
    stale: bool,
}

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

#[derive(Serialize)]
struct Deleted {
    key: String,
    deleted: bool,
}

async fn delete(
    State(app): State<App>,
    Name(key): Name,
    _: Query<Nothing>,
) -> Result<Json<Deleted>, Problem> {
    let deleted = app.bay.state().delete(&key).await?;
    Ok(Json(Deleted { key, deleted }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InvalidateBody {
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
    pattern: Option<String>,
    updated_key: Option<String>,
    reason: Option<String>,
}

async fn invalidate(
    State(app): State<App>,
    JsonBody(body): JsonBody<InvalidateBody>,
) -> Result<Json<Invalidated>, Problem> {
    let InvalidateBody { keys, tags, pattern, updated_key, reason } = body;
    reason.as_deref().map(check_reason).transpose()?;
    let wish = Invalidation { keys, tags, pattern, updated_key, reason };
    Ok(Json(app.bay.state().invalidate(&wish).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    #[serde(default)]
    prefix: String,
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    // A token goes on in the list that it is from.
    let name = format!("{LIST}/{}", listing.prefix);
    let after = page::place(&name, listing.page_token.as_deref())?;
    let (items, next) = app.bay.state().list(&listing.prefix, after, limit).await?;
    Ok(Page::new(&name, items, next).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    page_size: Option<usize>,
    page_token: Option<String>,
}

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleBody {
    update_pattern: String,
    invalidate_patterns: Vec<String>,
}

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

#[derive(Serialize)]
struct DeletedRule {
    name: String,
    deleted: bool,
}

async fn delete_rule(
    State(app): State<App>,
    Name(name): Name,
    _: Query<Nothing>,
) -> Result<Json<DeletedRule>, Problem> {
    let deleted = app.bay.state().delete_rule(&name).await?;
    tracing::info!(rule = name, deleted, "state_rule_deleted");
    Ok(Json(DeletedRule { name, deleted }))
}

#[derive(Serialize)]
struct Dependencies {
    key: String,
    depends_on: Vec<String>,
}

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DependenciesBody {
    depends_on: Vec<String>,
}

async fn put_dependencies(
    State(app): State<App>,
    Name(key): Name,
    JsonBody(body): JsonBody<DependenciesBody>,
) -> Result<Json<Dependencies>, Problem> {
    let DependenciesBody { depends_on } = body;
    app.bay.state().set_depends_on(&key, &depends_on).await?;
    Ok(Json(Dependencies { key, depends_on }))
}

async fn delete_dependencies(
    State(app): State<App>,
    Name(key): Name,
    _: Query<Nothing>,
) -> Result<Json<Deleted>, Problem> {
    let deleted = app.bay.state().forget_depends_on(&key).await?;
    Ok(Json(Deleted { key, deleted }))
}
