//! `/v1/jobs` for operators: list, show, cancel, retry.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lockbay::clock::Timestamp;
use lockbay::job::{JobFilter, JobInfo, JobStatus};
use lockbay::search::Look;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::extract::{JsonBody, Name, Nothing, Query, check_reason};
use super::openapi::{Conflict, NotFound, page_size, page_token};
use super::page::{self, Page, Sorting, order_of};
use super::problem::Problem;
use super::search::{self, Wish};
use super::shape;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(cancel))
        .routes(routes!(retry))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// Only jobs that stand so.
    #[param(value_type = Option<shape::JobStatus>)]
    status: Option<String>,
    /// Only jobs of this type.
    job_type: Option<String>,
    /// Only jobs with this business key.
    job_key: Option<String>,
    /// Only those that have all of these words; see `/v1/search`.
    q: Option<String>,
    /// Only those that were created at this moment or later.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only those that were created before this moment.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// Which of them come first.
    #[param(inline)]
    order: Option<Sorting>,
    /// How many jobs the page has at most.
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before, with the same filter.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List jobs
///
/// With one `status`, what is claimed comes with the oldest first and what has ended with the newest
/// first, unless `order` says otherwise; without, jobs come in no order of time. A page may hold
/// fewer jobs than there are and yet have a `next_page_token`.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    tag = "jobs",
    params(Listing),
    responses((status = 200, description = "A page of jobs.", body = Page<shape::Job>)),
)]
async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let status = listing.status.as_deref().map(JobStatus::parse).transpose()?;
    let newest_first = status.map(|status| status != JobStatus::Claimed);
    let by_time = newest_first.filter(|_| listing.job_key.is_none() && listing.q.is_none());
    let filter = JobFilter {
        status,
        job_type: listing.job_type,
        job_key: listing.job_key,
        created_after: listing.created_after,
        created_before: listing.created_before,
        order: order_of(listing.order, by_time)?,
    };
    // What page tokens are bound to: the list with its filter.
    let list_name = format!("jobs {filter:?} {:?}", listing.q);
    if let Some(text) = &listing.q {
        let (page_size, page_token) = (listing.page_size, listing.page_token.as_deref());
        let wish = Wish { text, look: Look::Jobs(filter), page_size, page_token };
        return search::list(&app, &list_name, wish).await;
    }
    let next = page::place(&list_name, listing.page_token.as_deref())?;
    let page = app.bay.jobs().list(&filter, next, limit).await?;
    Ok(Page::new(&list_name, page.items, page.next).into_response())
}

/// Show a job
///
/// With its parameters and its result, digit by digit.
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}",
    operation_id = "get_job",
    tag = "jobs",
    params(("job_id" = shape::Name, Path, description = "The job.")),
    responses((status = 200, description = "The job as it stands.", body = shape::Job), NotFound),
)]
async fn show(
    State(app): State<App>,
    Name(job_id): Name,
    _: Query<Nothing>,
) -> Result<Json<JobInfo>, Problem> {
    Ok(Json(app.bay.jobs().show(&job_id).await?))
}

/// What somebody decides about a job, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecideJob)]
struct ReasonBody {
    #[schema(value_type = shape::Reason)]
    reason: String,
}

/// A job that will not run.
#[derive(Serialize, ToSchema)]
#[schema(as = CancelledJob)]
struct Cancelled {
    job_id: String,
    #[schema(value_type = shape::JobStatus)]
    status: JobStatus,
}

/// Cancel a job
///
/// It does not run any more, and its holder is fenced. A job that has completed cannot be
/// cancelled. Cancelled twice, it succeeds twice.
#[utoipa::path(
    post,
    path = "/v1/jobs/{job_id}/cancel",
    operation_id = "cancel_job",
    tag = "jobs",
    params(("job_id" = shape::Name, Path, description = "The job.")),
    request_body = ReasonBody,
    responses((status = 200, description = "It is cancelled.", body = Cancelled), NotFound, Conflict),
)]
async fn cancel(
    State(app): State<App>,
    Name(job_id): Name,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Json<Cancelled>, Problem> {
    check_reason(&body.reason)?;
    app.bay.jobs().cancel(&job_id, &body.reason).await?;
    tracing::info!(job_id, reason = body.reason, "job_cancelled");
    Ok(Json(Cancelled { job_id, status: JobStatus::Cancelled }))
}

/// The job stays `failed` until somebody claims it.
#[derive(Serialize, ToSchema)]
#[schema(as = ReopenedJob)]
struct Reopened {
    job_id: String,
    #[schema(value_type = shape::JobStatus)]
    status: JobStatus,
    will_retry: bool,
}

/// Let a job be tried again
///
/// A job that failed for good or was cancelled is run by the next claim. It stays `failed` until
/// then.
#[utoipa::path(
    post,
    path = "/v1/jobs/{job_id}/retry",
    operation_id = "retry_job",
    tag = "jobs",
    params(("job_id" = shape::Name, Path, description = "The job.")),
    request_body = ReasonBody,
    responses((status = 200, description = "It may run again.", body = Reopened), NotFound, Conflict),
)]
async fn retry(
    State(app): State<App>,
    Name(job_id): Name,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Json<Reopened>, Problem> {
    check_reason(&body.reason)?;
    app.bay.jobs().retry(&job_id, &body.reason).await?;
    tracing::info!(job_id, reason = body.reason, "job_retried");
    Ok(Json(Reopened { job_id, status: JobStatus::Failed, will_retry: true }))
}
