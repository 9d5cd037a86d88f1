//! `/v1/schedules`: what is due when, and what a person may do about it.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lockbay::schedule::{
    Asked, DEFAULT_GRACE, Misfire, Overlap, Put, Putting, Resume, ScheduleFilter, ScheduleInfo,
    ScheduleRequest, Standing, TickPlace, Upcoming,
};
use serde::{Deserialize, Serialize};

use super::extract::{IdempotencyKey, JsonBody, Name, NoBody, Nothing, Query, Seconds};
use super::page::{self, Page};
use super::problem::Problem;
use super::{App, REPLAYED};

/// What page tokens of this list are bound to.
const LIST: &str = "schedules";
/// How many due times are told when nobody says.
const DEFAULT_UPCOMING: usize = 10;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/schedules", get(list))
        .route("/v1/schedules/{job_id}", get(show).put(put).delete(forget))
        .route("/v1/schedules/{job_id}/upcoming", get(upcoming))
        .route("/v1/schedules/{job_id}/pause", post(pause))
        .route("/v1/schedules/{job_id}/resume", post(resume))
        .route("/v1/schedules/{job_id}/run", post(run))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleBody {
    job_type: String,
    schedule_expression: String,
    time_zone: Option<String>,
    parameters: Option<lockbay::Json>,
    handler: String,
    leader_only: Option<bool>,
    misfire: Option<Misfire>,
    misfire_grace_seconds: Option<Seconds>,
    jitter_seconds: Option<Seconds>,
    overlap: Option<Overlap>,
    max_retries: Option<u32>,
    timeout_seconds: Option<Seconds>,
}

impl ScheduleBody {
    fn into_request(self, job_id: String) -> ScheduleRequest {
        let seconds = |Seconds(time): Seconds| time;
        ScheduleRequest {
            job_id,
            job_type: self.job_type,
            schedule_expression: self.schedule_expression,
            time_zone: self.time_zone.unwrap_or_else(|| "UTC".into()),
            parameters: self.parameters.unwrap_or_default(),
            handler: self.handler,
            place: match self.leader_only {
                Some(false) => TickPlace::WhereBegun,
                Some(true) | None => TickPlace::LeaderOnly,
            },
            misfire: self.misfire.unwrap_or_default(),
            misfire_grace: self.misfire_grace_seconds.map_or(DEFAULT_GRACE, seconds),
            jitter: self.jitter_seconds.map_or(Duration::ZERO, seconds),
            overlap: self.overlap.unwrap_or_default(),
            max_retries: self.max_retries,
            timeout: self.timeout_seconds.map(seconds),
        }
    }
}

async fn put(
    State(app): State<App>,
    Name(job_id): Name,
    JsonBody(body): JsonBody<ScheduleBody>,
) -> Result<Response, Problem> {
    let Put { putting, schedule } = app.bay.schedules().put(&body.into_request(job_id)).await?;
    let status = match putting {
        Putting::Created => StatusCode::CREATED,
        Putting::Replaced | Putting::Unchanged => StatusCode::OK,
    };
    Ok((status, Json(schedule)).into_response())
}

async fn show(
    State(app): State<App>,
    Name(job_id): Name,
    _: Query<Nothing>,
) -> Result<Json<ScheduleInfo>, Problem> {
    Ok(Json(app.bay.schedules().show(&job_id).await?))
}

#[derive(Serialize)]
struct Deleted {
    job_id: String,
    deleted: bool,
}

async fn forget(
    State(app): State<App>,
    Name(job_id): Name,
    _: Query<Nothing>,
) -> Result<Json<Deleted>, Problem> {
    app.bay.schedules().delete(&job_id).await?;
    Ok(Json(Deleted { job_id, deleted: true }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    status: Option<Standing>,
    job_type: Option<String>,
    handler: Option<String>,
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let next = page::place(LIST, listing.page_token.as_deref())?;
    let Listing { status, job_type, handler, .. } = listing;
    let filter = ScheduleFilter { status, job_type, handler };
    let page = app.bay.schedules().list(&filter, next, limit).await?;
    Ok(Page::new(LIST, page.items, page.next).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HowMany {
    count: Option<usize>,
}

async fn upcoming(
    State(app): State<App>,
    Name(job_id): Name,
    Query(HowMany { count }): Query<HowMany>,
) -> Result<Json<Upcoming>, Problem> {
    let count = count.unwrap_or(DEFAULT_UPCOMING);
    Ok(Json(app.bay.schedules().upcoming(&job_id, count).await?))
}

async fn pause(
    State(app): State<App>,
    Name(job_id): Name,
    _: NoBody,
) -> Result<Json<ScheduleInfo>, Problem> {
    Ok(Json(app.bay.schedules().pause(&job_id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResumeQuery {
    missed: Option<Missed>,
}

/// What is done about ticks that were due while a schedule was paused.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Missed {
    Skip,
    CatchUp,
}

async fn resume(
    State(app): State<App>,
    Name(job_id): Name,
    Query(ResumeQuery { missed }): Query<ResumeQuery>,
) -> Result<Json<ScheduleInfo>, Problem> {
    let resume = match missed {
        Some(Missed::CatchUp) => Resume::CatchUp,
        Some(Missed::Skip) | None => Resume::FromNow,
    };
    Ok(Json(app.bay.schedules().resume(&job_id, resume).await?))
}

#[derive(Serialize)]
struct Running {
    job_id: String,
    job_key: String,
    /// The name under which it was asked for; asked again under it, it is the same tick.
    idempotency_key: String,
}

async fn run(
    State(app): State<App>,
    Name(job_id): Name,
    IdempotencyKey(key): IdempotencyKey,
    _: NoBody,
) -> Result<Response, Problem> {
    let asked = app.bay.schedules().run_now(&job_id, key.as_deref()).await?;
    let Asked { name, job_key, replayed } = asked;
    let running = Json(Running { job_id, job_key, idempotency_key: name });
    Ok(match replayed {
        true => (StatusCode::ACCEPTED, REPLAYED, running).into_response(),
        false => (StatusCode::ACCEPTED, running).into_response(),
    })
}
