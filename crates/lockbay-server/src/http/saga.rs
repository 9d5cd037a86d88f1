//! `/v1/sagas`: starting sagas and looking at them.
//!
//! Parameters, context and metadata are kept as the text they came in. A saga that was accepted
//! goes on whatever becomes of the request, so nothing here is undone when a client goes away.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use lockbay::clock::Timestamp;
use lockbay::saga::{HandlerCheck, SagaFilter, SagaInfo, SagaRequest, SagaStatus, StepSpec};
use lockbay::search::Look;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::abandoned::see_through;
use super::approval::refuse_payouts;
use super::extract::{IdempotencyKey, JsonBody, Name, Query, Seconds, seconds_of};
use super::openapi::{NotFound, Unprocessable, page_size, page_token};
use super::page::{self, Page, Sorting, order_of};
use super::problem::Problem;
use super::search::{self, Wish};
use super::shape;
use super::{App, REPLAYED};

/// How long a call may wait for the end of a saga.
const MAX_WAIT: Duration = Duration::from_secs(60);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(start, list)).routes(routes!(show)).routes(routes!(history))
}

/// A wish for a saga.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StartSaga)]
struct SagaBody {
    #[schema(value_type = shape::Name)]
    saga_name: String,
    /// What is done.
    #[schema(min_items = 1, max_items = 1_000)]
    steps: Vec<StepBody>,
    /// What every handler is given besides, at most 1 MiB; the results of steps are added to it.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    context: lockbay::Json,
    /// Kept and shown, and given to nobody, at most 1 MiB.
    #[serde(default)]
    #[schema(value_type = Value)]
    metadata: lockbay::Json,
    /// After how long it is rolled back unless it is done; by default as the server is configured.
    #[schema(value_type = Option<f64>, minimum = 0.001, maximum = 315_360_000)]
    timeout_seconds: Option<Seconds>,
    /// When it is rolled back unless it is done, by the store's clock; in place of a timeout.
    #[schema(value_type = Option<String>, format = DateTime)]
    deadline: Option<Timestamp>,
    /// Whether handlers may still be unknown when it starts, `true` by default: each is waited for
    /// as long as its step may take. With `false` a saga with an unknown handler is refused.
    #[serde(default = "yes")]
    defer_handlers: bool,
}

/// A step of a saga.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StartSagaStep)]
struct StepBody {
    /// No other step of the saga has it.
    #[schema(value_type = shape::Name)]
    name: String,
    /// Who does it.
    #[schema(value_type = shape::Name)]
    handler: String,
    /// Who undoes it, if that is not the handler itself.
    #[schema(value_type = Option<shape::Name>)]
    compensation_handler: Option<String>,
    /// What its handler is given, at most 1 MiB.
    #[schema(value_type = Value)]
    parameters: lockbay::Json,
    /// How often it is tried again.
    #[schema(maximum = 1_000)]
    max_retries: Option<u32>,
    /// How often undoing it is tried again.
    #[schema(maximum = 1_000)]
    compensation_max_retries: Option<u32>,
    /// How long an attempt may take, not longer than the saga.
    #[schema(value_type = Option<f64>, minimum = 0.001, maximum = 315_360_000)]
    timeout_seconds: Option<Seconds>,
    /// The steps that must be done before it. If no step of a saga says so, each follows the one
    /// before it; if any does, those that do not say begin at once.
    #[schema(value_type = Option<Vec<shape::Name>>)]
    depends_on: Option<Vec<String>>,
    /// Whether there is no way back once this step may have happened.
    #[serde(default)]
    pivot: bool,
    /// Whether it may be repeated when its outcome is unknown; `true` by default.
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
#[derive(Serialize, ToSchema)]
#[schema(as = SagaStanding)]
pub(super) struct Standing {
    pub(super) saga_id: String,
    #[schema(value_type = shape::SagaStatus)]
    pub(super) status: SagaStatus,
}

/// Start a saga
///
/// It is accepted once it is written down, and goes on whatever becomes of the request. Repeated
/// with its `Idempotency-Key`, it is the same saga.
#[utoipa::path(
    post,
    path = "/v1/sagas",
    operation_id = "start_saga",
    tag = "sagas",
    request_body = SagaBody,
    responses(
        (
            status = 202,
            description = "It is written down and goes on.",
            body = Standing,
            headers(
                ("Location" = String, description = "Where the saga is."),
                ("Idempotency-Replayed" = bool, description = "Whether it was answered before."),
            ),
        ),
        Unprocessable,
    ),
)]
async fn start(
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(body): JsonBody<SagaBody>,
) -> Result<Response, Problem> {
    let request = body.into_request(key);
    refuse_payouts(&app, request.steps.iter().map(|step| step.handler.as_str()))?;
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

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Showing {
    /// How long to wait until it comes to rest.
    #[param(value_type = Option<f64>, minimum = 0, maximum = 60)]
    wait_seconds: Option<String>,
}

/// Show a saga
///
/// With all its steps, their results and their errors. It can wait until the saga comes to rest.
#[utoipa::path(
    get,
    path = "/v1/sagas/{saga_id}",
    operation_id = "get_saga",
    tag = "sagas",
    params(("saga_id" = shape::Name, Path, description = "The saga."), Showing),
    responses((status = 200, description = "The saga as it stands.", body = shape::Saga), NotFound),
)]
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

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// Only sagas that stand so.
    #[param(value_type = Option<shape::SagaStatus>)]
    status: Option<String>,
    /// Only sagas of this name.
    saga_name: Option<String>,
    /// Only those where this step is running, being undone, in doubt or parked.
    step: Option<String>,
    /// Only those that were started at least so long ago.
    #[param(value_type = Option<f64>, minimum = 0)]
    older_than_seconds: Option<String>,
    /// Only those that have all of these words; see `/v1/search`.
    q: Option<String>,
    /// Only sagas of this business key: that of their start, or of their metadata.
    key: Option<String>,
    /// Only those that were created at this moment or later.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only those that were created before this moment.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
    /// Which of them come first.
    #[param(inline)]
    order: Option<Sorting>,
    /// How many sagas the page has at most.
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before, with the same filter.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// List sagas
///
/// With all their steps. A page may hold fewer sagas than there are and yet have a
/// `next_page_token`.
#[utoipa::path(
    get,
    path = "/v1/sagas",
    operation_id = "list_sagas",
    tag = "sagas",
    params(Listing),
    responses((status = 200, description = "A page of sagas.", body = Page<shape::Saga>)),
)]
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

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Past {
    /// How many entries the page has at most.
    #[param(schema_with = page_size)]
    page_size: Option<usize>,
    /// The `next_page_token` of the page before.
    #[param(schema_with = page_token)]
    page_token: Option<String>,
}

/// Show what happened to a saga
///
/// The earliest first, with who decided what and why.
#[utoipa::path(
    get,
    path = "/v1/sagas/{saga_id}/history",
    operation_id = "list_saga_history",
    tag = "sagas",
    params(("saga_id" = shape::Name, Path, description = "The saga."), Past),
    responses(
        (status = 200, description = "A page of its history.", body = Page<shape::HistoryEntry>),
        NotFound,
    ),
)]
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
