//! `/v1/alerts/silences` and `/v1/alerts/notifications`: what is not told, what was told, and what
//! could not be; on any instance.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lockbay::Caller;
use lockbay::clock::Timestamp;
use lockbay::monitor::alert::Severity;
use lockbay::monitor::notify::{
    Held, Kept, NoticeStatus, Silence, SilenceRequest, SilenceState, Tested, Window,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{
    IdempotencyKey, JsonBody, JsonOrNothing, Name, NoBody, Nothing, Query, Seconds,
};
use super::openapi::{NotFound, Unprocessable, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;
use super::shape::alert::Severity as SeverityShape;
use super::shape::{Moment, notify as shape};
use super::{App, REPLAYED};

/// What page tokens of these lists are bound to.
const SILENCES: &str = "silences";
const NOTICES: &str = "notifications";
/// Who ends a silence if nobody says who.
const SOMEBODY: &str = "api";

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create, end_named))
        .routes(routes!(show, end))
        .routes(routes!(notices))
        .routes(routes!(test))
        .routes(routes!(notice))
        .routes(routes!(retry))
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
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "rules": "saga_*", "duration_seconds": 3600, "actor": "anna", "reason": "the bank is away"
})))]
struct SilenceBody {
    /// Which rules, as a glob; all if nothing is said.
    #[schema(min_length = 1, max_length = 512)]
    rules: Option<String>,
    /// Only of these severities; all if it is empty.
    #[serde(default)]
    #[schema(value_type = Vec<SeverityShape>)]
    severities: Vec<Severity>,
    /// From now on if nothing is said.
    #[schema(value_type = Option<Moment>)]
    from: Option<Timestamp>,
    /// Until when, a year at most. A silence has this, or `duration_seconds`, or a `window`.
    #[schema(value_type = Option<Moment>)]
    until: Option<Timestamp>,
    /// In place of `until`.
    #[schema(value_type = Option<f64>, exclusive_minimum = 0, maximum = 31_622_400)]
    duration_seconds: Option<Seconds>,
    /// Only at these times in between; it may be without end.
    #[schema(value_type = Option<shape::MaintenanceWindow>)]
    window: Option<Window>,
    /// Who says so.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    actor: String,
    /// Why.
    #[schema(min_length = 1, max_length = 1_024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    reason: String,
}

/// Silence alerts
///
/// What it covers is judged as before, and nobody is told.
#[utoipa::path(
    post,
    path = "/v1/alerts/silences",
    operation_id = "create_silence",
    tag = "alerts",
    request_body = SilenceBody,
    responses(
        (status = 201, body = shape::Silence, description = "The silence."),
        Unprocessable,
    ),
)]
async fn create(
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(body): JsonBody<SilenceBody>,
) -> Result<Response, Problem> {
    let request = SilenceRequest {
        rules: body.rules.unwrap_or_else(|| "*".into()),
        severities: body.severities,
        from: body.from,
        until: body.until,
        lasts: body.duration_seconds.map(|Seconds(length)| length),
        window: body.window,
        actor: Caller::current().shown(Some(&body.actor)).unwrap_or(body.actor),
        reason: body.reason,
    };
    let notifications = app.bay.notifications();
    let (silence, replayed) = match key {
        Some(key) => notifications.silence_once(&key, request).await?,
        None => (notifications.silence(request).await?, false),
    };
    let shown = Shown::from(notifications.silence_of(&silence.id).await?);
    Ok(match replayed {
        true => (StatusCode::CREATED, REPLAYED, Json(shown)).into_response(),
        false => (StatusCode::CREATED, Json(shown)).into_response(),
    })
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

/// List silences
///
/// Those that ended not long ago are among them.
#[utoipa::path(
    get,
    path = "/v1/alerts/silences",
    operation_id = "list_silences",
    tag = "alerts",
    params(Listing),
    responses((status = 200, body = Page<shape::Silence>, description = "A page of silences.")),
)]
async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let silences = app.bay.notifications().silences().await?;
    let shown: Vec<Shown> = silences.into_iter().map(Shown::from).collect();
    let page = page::of_all(SILENCES, shown, listing.page_size, listing.page_token.as_deref())?;
    Ok(page.into_response())
}

/// Show a silence
///
/// With how it stands at the moment.
#[utoipa::path(
    get,
    path = "/v1/alerts/silences/{id}",
    operation_id = "get_silence",
    tag = "alerts",
    params(("id" = String, Path, description = "The id of the silence.")),
    responses((status = 200, body = shape::Silence, description = "The silence."), NotFound),
)]
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

/// End a silence
///
/// What it covered is told from now on, if it fires.
#[utoipa::path(
    delete,
    path = "/v1/alerts/silences/{id}",
    operation_id = "end_silence",
    tag = "alerts",
    params(
        ("id" = String, Path, description = "The id of the silence."),
        ("id" = Option<String>, Query, description = "The same, if it is said again."),
        ("actor" = Option<String>, Query, description = "Who ends it; `api` if nothing is said."),
    ),
    responses((status = 200, body = shape::Silence, description = "It is over."), NotFound),
)]
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

/// End the silence of an id in the query
///
/// What it covered is told from now on, if it fires.
#[utoipa::path(
    delete,
    path = "/v1/alerts/silences",
    operation_id = "end_silence_by_query",
    tag = "alerts",
    params(
        ("id" = String, Query, description = "The id of the silence."),
        ("actor" = Option<String>, Query, description = "Who ends it; `api` if nothing is said."),
    ),
    responses((status = 200, body = shape::Silence, description = "It is over."), NotFound),
)]
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
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = NoticesAsked)]
enum Which {
    #[default]
    Pending,
    Delivered,
    Dead,
    /// What fires and is not told.
    Held,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct NoticeListing {
    /// `pending` if nothing is said; `held` are alerts that fire and are not told.
    #[serde(default)]
    #[param(inline)]
    status: Which,
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// What fires and is not told, and why.
#[derive(Serialize)]
struct HeldBack {
    rule: String,
    #[serde(flatten)]
    held: Held,
}

/// List notices
///
/// What was told or is to be told, by how it stands.
#[utoipa::path(
    get,
    path = "/v1/alerts/notifications",
    operation_id = "list_notices",
    tag = "alerts",
    params(NoticeListing),
    responses((status = 200, body = Page<shape::NoticeOrHeld>, description = "A page of notices.")),
)]
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

/// Show a notice
///
/// With how far it has come on each channel.
#[utoipa::path(
    get,
    path = "/v1/alerts/notifications/{id}",
    operation_id = "get_notice",
    tag = "alerts",
    params(("id" = String, Path, description = "The id of the notice.")),
    responses((status = 200, body = shape::Notice, description = "The notice."), NotFound),
)]
async fn notice(
    State(app): State<App>,
    Name(id): Name,
    _: Query<Nothing>,
) -> Result<Json<Kept>, Problem> {
    Ok(Json(app.bay.notifications().notice(&id).await?))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NoticeRetry)]
struct RetryBody {
    /// Who asks for it.
    actor: Option<String>,
}

/// Try again to deliver a notice
///
/// On the channels that gave it up.
#[utoipa::path(
    post,
    path = "/v1/alerts/notifications/{id}/retry",
    operation_id = "retry_notice",
    tag = "alerts",
    params(("id" = String, Path, description = "The id of the notice.")),
    request_body = Option<RetryBody>,
    responses(
        (status = 200, body = shape::Notice, description = "It is tried again."),
        NotFound,
        Unprocessable,
    ),
)]
async fn retry(
    State(app): State<App>,
    Name(id): Name,
    JsonOrNothing(body): JsonOrNothing<RetryBody>,
) -> Result<Json<Kept>, Problem> {
    let actor = Caller::current().shown(body.actor.as_deref());
    Ok(Json(app.bay.notifications().retry(&id, actor.as_deref()).await?))
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChannelTests)]
struct Tests {
    #[schema(value_type = Vec<shape::TestedChannel>)]
    channels: Vec<Tested>,
}

/// Test the channels
///
/// Sends a test notice through every channel of this instance.
#[utoipa::path(
    post,
    path = "/v1/alerts/notifications/test",
    operation_id = "test_channels",
    tag = "alerts",
    responses((status = 200, body = Tests, description = "What it came to on each.")),
)]
async fn test(State(app): State<App>, _: NoBody) -> Result<Json<Tests>, Problem> {
    let _permit = app.waiting_permit()?;
    Ok(Json(Tests { channels: app.bay.notifications().test().await }))
}
