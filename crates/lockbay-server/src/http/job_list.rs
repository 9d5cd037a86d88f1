//! `/v1/jobs` for operators: list, show, cancel, retry.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lockbay::clock::Timestamp;
use lockbay::job::{JobFilter, JobInfo, JobStatus};
use lockbay::search::Look;
use serde::{Deserialize, Serialize};

use super::App;
use super::extract::{JsonBody, Name, Nothing, Query, check_reason};
use super::page::{self, Page, Sorting, order_of};
use super::problem::Problem;
use super::search::{self, Wish};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/jobs", get(list))
        .route("/v1/jobs/{job_id}", get(show))
        .route("/v1/jobs/{job_id}/cancel", post(cancel))
        .route("/v1/jobs/{job_id}/retry", post(retry))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    status: Option<String>,
    job_type: Option<String>,
    job_key: Option<String>,
    q: Option<String>,
    created_after: Option<Timestamp>,
    created_before: Option<Timestamp>,
    order: Option<Sorting>,
    page_size: Option<usize>,
    page_token: Option<String>,
}

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

async fn show(
    State(app): State<App>,
    Name(job_id): Name,
    _: Query<Nothing>,
) -> Result<Json<JobInfo>, Problem> {
    Ok(Json(app.bay.jobs().show(&job_id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasonBody {
    reason: String,
}

#[derive(Serialize)]
struct Cancelled {
    job_id: String,
    status: &'static str,
}

async fn cancel(
    State(app): State<App>,
    Name(job_id): Name,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Json<Cancelled>, Problem> {
    check_reason(&body.reason)?;
    app.bay.jobs().cancel(&job_id, &body.reason).await?;
    tracing::info!(job_id, reason = body.reason, "job_cancelled");
    Ok(Json(Cancelled { job_id, status: "cancelled" }))
}

/// The job stays `failed` until somebody claims it.
#[derive(Serialize)]
struct Reopened {
    job_id: String,
    status: &'static str,
    will_retry: bool,
}

async fn retry(
    State(app): State<App>,
    Name(job_id): Name,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Json<Reopened>, Problem> {
    check_reason(&body.reason)?;
    app.bay.jobs().retry(&job_id).await?;
    tracing::info!(job_id, reason = body.reason, "job_retried");
    Ok(Json(Reopened { job_id, status: "failed", will_retry: true }))
}
