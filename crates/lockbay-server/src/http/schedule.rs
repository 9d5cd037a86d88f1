//! `/v1/schedules`: what is due when, and what a person may do about it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lockbay::schedule::{
    Asked, DEFAULT_GRACE, Misfire, Overlap, Put, Putting, Resume, ScheduleFilter, ScheduleInfo,
    ScheduleRequest, Standing, TickPlace, Upcoming,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{IdempotencyKey, JsonBody, Name, NoBody, Nothing, Query, Seconds};
use super::openapi::{NotFound, page_size, page_token};
use super::page::{self, Page};
use super::problem::Problem;
use super::shape;
use super::{App, REPLAYED};

/// What page tokens of this list are bound to.
const LIST: &str = "schedules";
/// How many due times are told when nobody says.
const DEFAULT_UPCOMING: usize = 10;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, put, forget))
        .routes(routes!(upcoming))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(run))
}

/// What a schedule is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PutSchedule)]
struct ScheduleBody {
    /// The type of its jobs.
    #[schema(value_type = shape::Name)]
    job_type: String,
    /// When it is due: five fields of cron or six with seconds in front, a
    /// nickname such as `@hourly`, or an interval such as `every 30s`.
    #[schema(
        min_length = 1,
        max_length = 256,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]+$",
        examples("*/15 * * * *", "@hourly", "every 30s")
    )]
    schedule_expression: String,
    /// Where the expression is read, an IANA name; `UTC` by default.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]+$",
        examples("Europe/Berlin")
    )]
    time_zone: Option<String>,
    /// What the handler is given, at most 64 KiB.
    #[schema(value_type = Value, required = false)]
    parameters: Option<lockbay::Json>,
    /// Who does it.
    #[schema(value_type = shape::Name)]
    handler: String,
    /// Whether ticks run on the leader alone, and are cut off when it leads no more; `true` by
    /// default.
    leader_only: Option<bool>,
    /// `run_once` by default.
    #[schema(value_type = Option<shape::Misfire>)]
    misfire: Option<Misfire>,
    /// How late a tick may be and still run as if it were not; 60 by default, and at least 1 with
    /// `misfire` `skip`.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 604_800)]
    misfire_grace_seconds: Option<Seconds>,
    /// By how much a tick may begin after it is due, less than the time between two ticks; 0 by
    /// default.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 604_800)]
    jitter_seconds: Option<Seconds>,
    /// `queue` by default.
    #[schema(value_type = Option<shape::Overlap>)]
    overlap: Option<Overlap>,
    /// How often a failed attempt of a tick is repeated; as jobs do if it is not said.
    #[schema(maximum = 1_000)]
    max_retries: Option<u32>,
    /// How long one attempt may take; as steps of sagas if it is not said.
    #[schema(value_type = Option<f64>, minimum = 0.001, maximum = 604_800)]
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

/// Create or replace a schedule
///
/// The same again changes nothing. With another expression or time zone it is due next as they say,
/// counted from now; ticks that were begun go on as they were, and a paused schedule stays paused.
#[utoipa::path(
    put,
    path = "/v1/schedules/{job_id}",
    operation_id = "put_schedule",
    tag = "schedules",
    params(("job_id" = shape::ScheduleId, Path, description = "The schedule.")),
    request_body = ScheduleBody,
    responses(
        (status = 200, description = "It was there, and is as asked.", body = shape::Schedule),
        (status = 201, description = "It is created.", body = shape::Schedule),
    ),
)]
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

/// Show a schedule
///
/// With its ticks in progress, the tick that ended last, and how often what became of ticks.
#[utoipa::path(
    get,
    path = "/v1/schedules/{job_id}",
    operation_id = "get_schedule",
    tag = "schedules",
    params(("job_id" = shape::ScheduleId, Path, description = "The schedule.")),
    responses(
        (status = 200, description = "The schedule as it stands.", body = shape::Schedule),
        NotFound,
    ),
)]
async fn show(
    State(app): State<App>,
    Name(job_id): Name,
    _: Query<Nothing>,
) -> Result<Json<ScheduleInfo>, Problem> {
    Ok(Json(app.bay.schedules().show(&job_id).await?))
}

/// A schedule that is deleted.
#[derive(Serialize, ToSchema)]
#[schema(as = DeletedSchedule)]
struct Deleted {
    job_id: String,
    deleted: bool,
}

/// Delete a schedule
///
/// It begins no more ticks, and is gone when those that have started have ended.
#[utoipa::path(
    delete,
    path = "/v1/schedules/{job_id}",
    operation_id = "delete_schedule",
    tag = "schedules",
    params(("job_id" = shape::ScheduleId, Path, description = "The schedule.")),
    responses((status = 200, description = "It is deleted.", body = Deleted), NotFound),
)]
async fn forget(
    State(app): State<App>,
    Name(job_id): Name,
    _: Query<Nothing>,
) -> Result<Json<Deleted>, Problem> {
    app.bay.schedules().delete(&job_id).await?;
    Ok(Json(Deleted { job_id, deleted: true }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// Only schedules that stand so.
    #[param(value_type = Option<shape::ScheduleStatus>)]
    status: Option<Standing>,
    /// Only those of this job type.
    job_type: Option<String>,
    /// Only those with this handler.
    handler: Option<String>,
    /// How many schedules the page has at most.
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List schedules
///
/// In the order of their names. A page may hold fewer schedules than there are and yet have a
/// `next_page_token`.
#[utoipa::path(
    get,
    path = "/v1/schedules",
    operation_id = "list_schedules",
    tag = "schedules",
    params(Listing),
    responses((status = 200, description = "A page of schedules.", body = Page<shape::Schedule>)),
)]
async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let next = page::place(LIST, listing.page_token.as_deref())?;
    let Listing { status, job_type, handler, .. } = listing;
    let filter = ScheduleFilter { status, job_type, handler };
    let page = app.bay.schedules().list(&filter, next, limit).await?;
    Ok(Page::new(LIST, page.items, page.next).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HowMany {
    /// How many due times to tell.
    #[param(minimum = 1, maximum = 1_000, default = 10)]
    count: Option<usize>,
}

/// Tell when a schedule is due next
///
/// The next due times, the first of them not decided yet. A paused schedule is told as if it were
/// resumed now.
#[utoipa::path(
    get,
    path = "/v1/schedules/{job_id}/upcoming",
    operation_id = "list_upcoming_ticks",
    tag = "schedules",
    params(("job_id" = shape::ScheduleId, Path, description = "The schedule."), HowMany),
    responses(
        (status = 200, description = "When it is due.", body = shape::UpcomingTicks),
        NotFound,
    ),
)]
async fn upcoming(
    State(app): State<App>,
    Name(job_id): Name,
    Query(HowMany { count }): Query<HowMany>,
) -> Result<Json<Upcoming>, Problem> {
    let count = count.unwrap_or(DEFAULT_UPCOMING);
    Ok(Json(app.bay.schedules().upcoming(&job_id, count).await?))
}

/// Pause a schedule
///
/// It begins no ticks until it is resumed. Ticks that have started go on.
#[utoipa::path(
    post,
    path = "/v1/schedules/{job_id}/pause",
    operation_id = "pause_schedule",
    tag = "schedules",
    params(("job_id" = shape::ScheduleId, Path, description = "The schedule.")),
    responses(
        (status = 200, description = "The schedule as it stands.", body = shape::Schedule),
        NotFound,
    ),
)]
async fn pause(
    State(app): State<App>,
    Name(job_id): Name,
    _: NoBody,
) -> Result<Json<ScheduleInfo>, Problem> {
    Ok(Json(app.bay.schedules().pause(&job_id).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ResumeQuery {
    /// What is done about ticks that were due meanwhile; `skip` by default.
    #[param(inline)]
    missed: Option<Missed>,
}

/// What is done about ticks that were due while a schedule was paused.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = MissedTicks)]
enum Missed {
    Skip,
    CatchUp,
}

/// Resume a schedule
///
/// It begins ticks again, those that it missed by its `misfire` if they are to be caught up with.
#[utoipa::path(
    post,
    path = "/v1/schedules/{job_id}/resume",
    operation_id = "resume_schedule",
    tag = "schedules",
    params(("job_id" = shape::ScheduleId, Path, description = "The schedule."), ResumeQuery),
    responses(
        (status = 200, description = "The schedule as it stands.", body = shape::Schedule),
        NotFound,
    ),
)]
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

/// A tick that was asked for.
#[derive(Serialize, ToSchema)]
#[schema(as = AskedTick)]
struct Running {
    job_id: String,
    /// The key of its job.
    job_key: String,
    /// The name under which it was asked for; asked again under it, it is the same tick.
    idempotency_key: String,
}

/// Run a schedule now
///
/// One tick more, whether or not it is paused. Repeated with its `Idempotency-Key`, it is the same
/// tick.
#[utoipa::path(
    post,
    path = "/v1/schedules/{job_id}/run",
    operation_id = "run_schedule",
    tag = "schedules",
    params(("job_id" = shape::ScheduleId, Path, description = "The schedule.")),
    responses(
        (
            status = 202,
            description = "A tick is begun by the leader.",
            body = Running,
            headers(("Idempotency-Replayed" = bool, description = "Whether it was answered before.")),
        ),
        NotFound,
    ),
)]
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
