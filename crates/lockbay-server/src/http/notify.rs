//! `/v1/alerts/silences` and `/v1/alerts/notifications`: what is not told, what was told, and what
//! could not be; on any instance.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lockbay::Caller;
use lockbay::clock::Timestamp;
use lockbay::monitor::alert::Severity;
use lockbay::monitor::notify::{
    Held, Kept, NoticeStatus, Silence, SilenceRequest, SilenceState, Tested, Window,
};
use serde::{Deserialize, Serialize};

use super::App;
use super::extract::{JsonBody, JsonOrNothing, Name, NoBody, Nothing, Query, Seconds};
use super::page::{self, Page};
use super::problem::Problem;

/// What page tokens of these lists are bound to.
const SILENCES: &str = "silences";
const NOTICES: &str = "notifications";
/// Who ends a silence if nobody says who.
const SOMEBODY: &str = "api";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/alerts/silences", get(list).post(create).delete(end_named))
        .route("/v1/alerts/silences/{id}", get(show).delete(end))
        .route("/v1/alerts/notifications", get(notices))
        .route("/v1/alerts/notifications/test", post(test))
        .route("/v1/alerts/notifications/{id}", get(notice))
        .route("/v1/alerts/notifications/{id}/retry", post(retry))
}

/// A silence with how it stands.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    silence: Silence,
    state: SilenceState,
}

impl From<(Silence, SilenceState)> for Shown {
    fn from((silence, state): (Silence, SilenceState)) -> Self {
        Shown { silence, state }
    }
}

/// A silence as it is asked for: it ends at a moment, or after so many seconds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SilenceBody {
    rules: Option<String>,
    #[serde(default)]
    severities: Vec<Severity>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    duration_seconds: Option<Seconds>,
    window: Option<Window>,
    actor: String,
    reason: String,
}

async fn create(
    State(app): State<App>,
    JsonBody(body): JsonBody<SilenceBody>,
) -> Result<Response, Problem> {
    let until = match (body.until, body.duration_seconds) {
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "a silence has either until or duration_seconds, not both; nothing was done",
            ));
        }
        (until, None) => until,
        (None, Some(Seconds(length))) => {
            // By the store's clock, as it is judged.
            let from = match body.from {
                Some(from) => from,
                None => app.bay.history().now().await?,
            };
            Some(from + length)
        }
    };
    let request = SilenceRequest {
        rules: body.rules.unwrap_or_else(|| "*".into()),
        severities: body.severities,
        from: body.from,
        until,
        window: body.window,
        actor: Caller::current().shown(Some(&body.actor)).unwrap_or(body.actor),
        reason: body.reason,
    };
    let silence = app.bay.notifications().silence(request).await?;
    let shown = Shown::from(app.bay.notifications().silence_of(&silence.id).await?);
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    page_size: Option<usize>,
    page_token: Option<String>,
}

/// All silences fit into memory; a page goes on behind so many of them.
async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let place = page::place(SILENCES, listing.page_token.as_deref())?;
    let passed = place.and_then(|place| place.parse().ok()).unwrap_or(0usize);
    let silences = app.bay.notifications().silences().await?;
    let next = (silences.len() > passed + limit).then(|| (passed + limit).to_string());
    let shown = silences.into_iter().skip(passed).take(limit).map(Shown::from).collect();
    Ok(Page::new(SILENCES, shown, next).into_response())
}

async fn show(
    State(app): State<App>,
    Name(id): Name,
    _: Query<Nothing>,
) -> Result<Json<Shown>, Problem> {
    Ok(Json(app.bay.notifications().silence_of(&id).await?.into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ending {
    id: Option<String>,
    actor: Option<String>,
}

async fn end(
    State(app): State<App>,
    Name(id): Name,
    Query(ending): Query<Ending>,
) -> Result<Json<Shown>, Problem> {
    if ending.id.is_some_and(|other| other != id) {
        return Err(Problem::invalid("the path and the query name different silences"));
    }
    let actor = Caller::current().shown(ending.actor.as_deref());
    let actor = actor.unwrap_or_else(|| SOMEBODY.to_owned());
    let silence = app.bay.notifications().unsilence(&id, &actor).await?;
    Ok(Json(Shown { silence, state: SilenceState::Ended }))
}

async fn end_named(
    State(app): State<App>,
    Query(ending): Query<Ending>,
) -> Result<Json<Shown>, Problem> {
    let Some(id) = ending.id else {
        return Err(Problem::invalid("which silence ends is said by ?id= or in the path"));
    };
    let ending = Ending { id: None, actor: ending.actor };
    end(State(app), Name(id), Query(ending)).await
}

/// Which notices are asked for.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Which {
    #[default]
    Pending,
    Delivered,
    Dead,
    /// What fires and is not told.
    Held,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoticeListing {
    #[serde(default)]
    status: Which,
    page_size: Option<usize>,
    page_token: Option<String>,
}

/// What fires and is not told, and why.
#[derive(Serialize)]
struct HeldBack {
    rule: String,
    #[serde(flatten)]
    held: Held,
}

async fn notices(
    State(app): State<App>,
    Query(listing): Query<NoticeListing>,
) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let status = match listing.status {
        Which::Pending => NoticeStatus::Pending,
        Which::Delivered => NoticeStatus::Delivered,
        Which::Dead => NoticeStatus::Dead,
        Which::Held => {
            let held = app.bay.notifications().held().await?.into_iter();
            let items = held.map(|(rule, held)| HeldBack { rule, held }).collect();
            return Ok(Page::new(NOTICES, items, None).into_response());
        }
    };
    let list = format!("{NOTICES} {}", status.name());
    let place = page::place(&list, listing.page_token.as_deref())?;
    let page = app.bay.notifications().notices(status, place, limit).await?;
    Ok(Page::new(&list, page.items, page.next).into_response())
}

async fn notice(
    State(app): State<App>,
    Name(id): Name,
    _: Query<Nothing>,
) -> Result<Json<Kept>, Problem> {
    Ok(Json(app.bay.notifications().notice(&id).await?))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RetryBody {
    actor: Option<String>,
}

async fn retry(
    State(app): State<App>,
    Name(id): Name,
    JsonOrNothing(body): JsonOrNothing<RetryBody>,
) -> Result<Json<Kept>, Problem> {
    let actor = Caller::current().shown(body.actor.as_deref());
    Ok(Json(app.bay.notifications().retry(&id, actor.as_deref()).await?))
}

#[derive(Serialize)]
struct Tests {
    channels: Vec<Tested>,
}

async fn test(State(app): State<App>, _: NoBody) -> Result<Json<Tests>, Problem> {
    let _permit = app.waiting_permit()?;
    Ok(Json(Tests { channels: app.bay.notifications().test().await }))
}
