//! `/v1/sagas`: starting sagas and looking at them.
//!
//! Parameters, context and metadata are kept as the text they came in. A saga that was accepted
//! goes on whatever becomes of the request, so nothing here is undone when a client goes away.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lockbay::clock::Timestamp;
use lockbay::saga::{HandlerCheck, SagaFilter, SagaInfo, SagaRequest, SagaStatus, StepSpec};
use lockbay::search::Look;
use serde::{Deserialize, Serialize};

use super::abandoned::see_through;
use super::extract::{IdempotencyKey, JsonBody, Name, Query, Seconds, seconds_of};
use super::page::{self, Page, Sorting, order_of};
use super::problem::Problem;
use super::search::{self, Wish};
use super::{App, REPLAYED};

/// How long a call may wait for the end of a saga.
const MAX_WAIT: Duration = Duration::from_secs(60);

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/sagas", post(start).get(list))
        .route("/v1/sagas/{saga_id}", get(show))
        .route("/v1/sagas/{saga_id}/history", get(history))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SagaBody {
    saga_name: String,
    steps: Vec<StepBody>,
    #[serde(default)]
    context: lockbay::Json,
    #[serde(default)]
    metadata: lockbay::Json,
    timeout_seconds: Option<Seconds>,
    deadline: Option<Timestamp>,
    #[serde(default)]
    defer_handlers: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepBody {
    name: String,
    handler: String,
    compensation_handler: Option<String>,
    parameters: lockbay::Json,
    max_retries: Option<u32>,
    compensation_max_retries: Option<u32>,
    timeout_seconds: Option<Seconds>,
    depends_on: Option<Vec<String>>,
    #[serde(default)]
    pivot: bool,
    #[serde(default = "yes")]
    idempotent: bool,
}

fn yes() -> bool {
    true
}

impl SagaBody {
    fn into_request(self, idempotency_key: Option<String>) -> SagaRequest {
        let steps = self.steps.into_iter().map(StepBody::into_spec).collect();
        SagaRequest {
            context: self.context,
            metadata: self.metadata,
            timeout: self.timeout_seconds.map(|Seconds(timeout)| timeout),
            deadline: self.deadline,
            idempotency_key,
            handlers: match self.defer_handlers {
                true => HandlerCheck::Deferred,
                false => HandlerCheck::AtStart,
            },
            ..SagaRequest::new(self.saga_name, steps)
        }
    }
}

impl StepBody {
    fn into_spec(self) -> StepSpec {
        StepSpec {
            compensation_handler: self.compensation_handler,
            max_retries: self.max_retries,
            compensation_max_retries: self.compensation_max_retries,
            timeout: self.timeout_seconds.map(|Seconds(timeout)| timeout),
            depends_on: self.depends_on,
            pivot: self.pivot,
            idempotent: self.idempotent,
            ..StepSpec::new(self.name, self.handler, self.parameters)
        }
    }
}

/// A saga and where it stands.
#[derive(Serialize)]
pub(super) struct Standing {
    pub(super) saga_id: String,
    pub(super) status: SagaStatus,
}

async fn start(
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(body): JsonBody<SagaBody>,
) -> Result<Response, Problem> {
    let request = body.into_request(key);
    let sagas = app.bay.sagas().clone();
    // A saga that nobody waits for any more was still asked for.
    let keep = |_| async {};
    let started = see_through(async move { sagas.start(request).await }, keep).await??;
    let place = [(header::LOCATION, format!("/v1/sagas/{}", started.saga_id))];
    let standing = Json(Standing { saga_id: started.saga_id, status: started.status });
    Ok(match started.replayed {
        true => (StatusCode::ACCEPTED, REPLAYED, place, standing).into_response(),
        false => (StatusCode::ACCEPTED, place, standing).into_response(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Showing {
    wait_seconds: Option<String>,
}

async fn show(
    State(app): State<App>,
    Name(saga_id): Name,
    Query(showing): Query<Showing>,
) -> Result<Json<SagaInfo>, Problem> {
    if let Some(wait) = seconds_of("wait_seconds", showing.wait_seconds.as_deref())? {
        wait_for_the_end(&app, &saga_id, wait).await?;
    }
    Ok(Json(app.bay.sagas().show(&saga_id).await?))
}

/// Waits until a saga comes to rest, for so long at most, and not past the end of this server.
async fn wait_for_the_end(app: &App, saga_id: &str, wait: Duration) -> Result<(), Problem> {
    if wait > MAX_WAIT {
        let (most, asked) = (MAX_WAIT.as_secs(), wait.as_secs_f64());
        return Err(Problem::invalid(format!("wait_seconds is at most {most}, not {asked}")));
    }
    let _permit = app.waiting_permit()?;
    tokio::select! {
        status = app.bay.sagas().wait(saga_id, wait) => status.map(drop).map_err(Problem::from),
        () = app.stopping.cancelled() => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    status: Option<String>,
    saga_name: Option<String>,
    step: Option<String>,
    older_than_seconds: Option<String>,
    q: Option<String>,
    key: Option<String>,
    created_after: Option<Timestamp>,
    created_before: Option<Timestamp>,
    order: Option<Sorting>,
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn list(State(app): State<App>, Query(listing): Query<Listing>) -> Result<Response, Problem> {
    let limit = page::size(listing.page_size)?;
    let status = listing.status.as_deref().map(SagaStatus::parse).transpose()?;
    let by_words = listing.q.is_some() || listing.key.is_some();
    let by_time = status.map(SagaStatus::is_terminal).filter(|_| !by_words);
    let filter = SagaFilter {
        status,
        saga_name: listing.saga_name,
        step: listing.step,
        older_than: seconds_of("older_than_seconds", listing.older_than_seconds.as_deref())?,
        created_after: listing.created_after,
        created_before: listing.created_before,
        key: listing.key,
        order: order_of(listing.order, by_time)?,
    };
    let list_name = format!("{} {:?}", list_name(&filter), listing.q);
    // Without search, a key is looked for by going through the list.
    let indexed = app.bay.config().search && app.bay.config().audit;
    if listing.q.is_some() || (filter.key.is_some() && indexed) {
        let text = listing.q.as_deref().unwrap_or_default();
        let (page_size, page_token) = (listing.page_size, listing.page_token.as_deref());
        let wish = Wish { text, look: Look::Sagas(filter), page_size, page_token };
        return search::list(&app, &list_name, wish).await;
    }
    let next = page::place(&list_name, listing.page_token.as_deref())?;
    let page = app.bay.sagas().list(&filter, next, limit).await?;
    Ok(Page::new(&list_name, page.items, page.next).into_response())
}

/// What page tokens are bound to: the list with its filter.
pub(super) fn list_name(filter: &SagaFilter) -> String {
    format!("sagas {filter:?}")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Past {
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn history(
    State(app): State<App>,
    Name(saga_id): Name,
    Query(past): Query<Past>,
) -> Result<Response, Problem> {
    let limit = page::size(past.page_size)?;
    let list_name = format!("history {saga_id}");
    let next = page::place(&list_name, past.page_token.as_deref())?;
    let page = app.bay.sagas().history(&saga_id, next.as_deref(), limit).await?;
    Ok(Page::new(&list_name, page.items, page.next).into_response())
}
