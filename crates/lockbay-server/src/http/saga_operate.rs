//! What an operator decides about sagas: one, one of its steps, or many at once.
//!
//! Every decision has a reason and an actor, and both stand in the saga's history. Whether it can
//! be taken is the library's to say.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use lockbay::Caller;
use lockbay::saga::{Decision, SagaFilter, SagaStatus, Sagas};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::abandoned::see_through;
use super::access::Identity;
use super::approval::{Waiting, hold_decision, refuse_many};
use super::extract::{JsonBody, Name, Names, Seconds, check_reason};
use super::openapi::{Conflict, NotFound, Unprocessable, page_token};
use super::page;
use super::problem::Problem;
use super::saga::{Standing, list_name};
use super::shape;

/// Who decided, while requests do not show who makes them.
const UNNAMED: &str = "http";
/// How many sagas one call decides upon unless it says otherwise.
const DEFAULT_LIMIT: usize = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(bulk))
        .routes(routes!(cancel))
        .routes(routes!(resume))
        .routes(routes!(abandon))
        .routes(routes!(retry))
        .routes(routes!(skip))
        .routes(routes!(resolve))
}

/// What somebody decides about a saga, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecideSaga)]
struct ReasonBody {
    #[schema(value_type = shape::Reason)]
    reason: String,
    /// Who decides, if `X-Actor` does not say it.
    #[schema(value_type = Option<shape::LongName>)]
    actor: Option<String>,
}

/// Cancel a saga
///
/// It goes back: what was done is undone. One that goes back already refuses.
#[utoipa::path(
    post,
    path = "/v1/sagas/{saga_id}/cancel",
    operation_id = "cancel_saga",
    tag = "sagas",
    params(("saga_id" = shape::Name, Path, description = "The saga.")),
    request_body = ReasonBody,
    responses(
        (status = 200, description = "It is decided.", body = Standing),
        NotFound,
        Conflict,
        Unprocessable,
    ),
)]
async fn cancel(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Name(saga_id): Name,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Response, Problem> {
    operate(&app, &identity, saga_id, Decision::Cancel, body).await
}

/// Resume a parked saga
///
/// What is stuck is tried again.
#[utoipa::path(
    post,
    path = "/v1/sagas/{saga_id}/resume",
    operation_id = "resume_saga",
    tag = "sagas",
    params(("saga_id" = shape::Name, Path, description = "The saga.")),
    request_body = ReasonBody,
    responses(
        (status = 200, description = "It is decided.", body = Standing),
        NotFound,
        Conflict,
        Unprocessable,
    ),
)]
async fn resume(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Name(saga_id): Name,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Response, Problem> {
    operate(&app, &identity, saga_id, Decision::Resume, body).await
}

/// Abandon a saga
///
/// Nothing more is done, forward or back. What it has done stays as it is.
#[utoipa::path(
    post,
    path = "/v1/sagas/{saga_id}/abandon",
    operation_id = "abandon_saga",
    tag = "sagas",
    params(("saga_id" = shape::Name, Path, description = "The saga.")),
    request_body = ReasonBody,
    responses(
        (status = 200, description = "It is decided.", body = Standing),
        (status = 202, description = "It waits for the approval of a second person.", body = Waiting),
        NotFound,
        Conflict,
        Unprocessable,
    ),
)]
async fn abandon(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Name(saga_id): Name,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Response, Problem> {
    operate(&app, &identity, saga_id, Decision::Abandon, body).await
}

/// A step is tried again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetrySagaStep)]
struct RetryBody {
    #[schema(value_type = shape::Reason)]
    reason: String,
    /// Who decides, if `X-Actor` does not say it.
    #[schema(value_type = Option<shape::LongName>)]
    actor: Option<String>,
    /// What its handler is given from now on; as before if this is not there.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Value)]
    parameters: Option<lockbay::Json>,
}

/// A member that is there, `null` included.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<lockbay::Json>, D::Error> {
    lockbay::Json::deserialize(deserializer).map(Some)
}

/// Try a step again
///
/// One that is stuck, perhaps with other parameters.
#[utoipa::path(
    post,
    path = "/v1/sagas/{saga_id}/steps/{step}/retry",
    operation_id = "retry_saga_step",
    tag = "sagas",
    params(
        ("saga_id" = shape::Name, Path, description = "The saga."),
        ("step" = shape::Name, Path, description = "The step."),
    ),
    request_body = RetryBody,
    responses(
        (status = 200, description = "It is decided.", body = Standing),
        (status = 202, description = "It waits for the approval of a second person.", body = Waiting),
        NotFound,
        Conflict,
        Unprocessable,
    ),
)]
async fn retry(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Names(saga_id, step): Names,
    JsonBody(body): JsonBody<RetryBody>,
) -> Result<Response, Problem> {
    let RetryBody { reason, actor, parameters } = body;
    operate(
        &app,
        &identity,
        saga_id,
        Decision::Retry { step, parameters },
        ReasonBody { reason, actor },
    )
    .await
}

/// Go on without a step
///
/// One that is stuck, forward or back: it is neither done nor undone.
#[utoipa::path(
    post,
    path = "/v1/sagas/{saga_id}/steps/{step}/skip",
    operation_id = "skip_saga_step",
    tag = "sagas",
    params(
        ("saga_id" = shape::Name, Path, description = "The saga."),
        ("step" = shape::Name, Path, description = "The step."),
    ),
    request_body = ReasonBody,
    responses(
        (status = 200, description = "It is decided.", body = Standing),
        (status = 202, description = "It waits for the approval of a second person.", body = Waiting),
        NotFound,
        Conflict,
        Unprocessable,
    ),
)]
async fn skip(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Names(saga_id, step): Names,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Response, Problem> {
    operate(&app, &identity, saga_id, Decision::Skip { step }, body).await
}

/// What a person has found out about a step.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResolveSagaStep)]
struct ResolveBody {
    #[schema(value_type = shape::Reason)]
    reason: String,
    /// Who decides, if `X-Actor` does not say it.
    #[schema(value_type = Option<shape::LongName>)]
    actor: Option<String>,
    outcome: Outcome,
    /// What the step returned, with `outcome` `done`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Value)]
    result: Option<lockbay::Json>,
}

/// Whether the effect of a step is there.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StepFinding)]
enum Outcome {
    Done,
    Undone,
}

/// Say whether a step was done
///
/// For a step whose outcome nobody knew until a person looked.
#[utoipa::path(
    post,
    path = "/v1/sagas/{saga_id}/steps/{step}/resolve",
    operation_id = "resolve_saga_step",
    tag = "sagas",
    params(
        ("saga_id" = shape::Name, Path, description = "The saga."),
        ("step" = shape::Name, Path, description = "The step."),
    ),
    request_body = ResolveBody,
    responses(
        (status = 200, description = "It is decided.", body = Standing),
        (status = 202, description = "It waits for the approval of a second person.", body = Waiting),
        NotFound,
        Conflict,
        Unprocessable,
    ),
)]
async fn resolve(
    State(app): State<App>,
    Extension(identity): Extension<Identity>,
    Names(saga_id, step): Names,
    JsonBody(body): JsonBody<ResolveBody>,
) -> Result<Response, Problem> {
    let ResolveBody { reason, actor, outcome, result } = body;
    let decision = match (outcome, result) {
        (Outcome::Done, result) => {
            Decision::ResolveDone { step, result: result.unwrap_or_default() }
        }
        (Outcome::Undone, None) => Decision::ResolveUndone { step },
        (Outcome::Undone, Some(_)) => {
            return Err(Problem::invalid("a result goes with \"outcome\": \"done\""));
        }
    };
    operate(&app, &identity, saga_id, decision, ReasonBody { reason, actor }).await
}

/// Who decides: by what they have shown to be, the body, and else the header.
fn actor(named: Option<String>) -> String {
    Caller::current().shown(named.as_deref()).unwrap_or_else(|| UNNAMED.to_owned())
}

async fn operate(
    app: &App,
    identity: &Identity,
    saga_id: String,
    decision: Decision,
    body: ReasonBody,
) -> Result<Response, Problem> {
    check_reason(&body.reason)?;
    let held = hold_decision(app, identity, &saga_id, &decision, &body.reason).await?;
    if let Some(waits) = held {
        return Ok(waits);
    }
    let sagas = app.bay.sagas().clone();
    let actor = actor(body.actor);
    let work = async move { sagas.operate(&saga_id, &decision, &actor, &body.reason).await };
    // What was decided holds, whoever is there to hear of it.
    let operated = see_through(work, |_| async {}).await??;
    Ok(Json(Standing { saga_id: operated.saga_id, status: operated.status }).into_response())
}

/// A decision about many sagas.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecideSagas)]
struct BulkBody {
    decision: Verb,
    /// Which sagas; one that chooses none by anything goes with `all`.
    #[serde(default)]
    filter: FilterBody,
    /// Which step of theirs is tried again or passed over, and only with such a decision.
    #[schema(value_type = Option<shape::Name>)]
    step: Option<String>,
    #[schema(value_type = shape::Reason)]
    reason: String,
    /// Who decides, if `X-Actor` does not say it.
    #[schema(value_type = Option<shape::LongName>)]
    actor: Option<String>,
    /// How many sagas one call decides upon; 100 by default.
    #[schema(minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
    /// The `next_page_token` of the call before, with the same filter.
    #[schema(schema_with = page_token)]
    page_token: Option<String>,
    /// Whether every saga is meant.
    #[serde(default)]
    all: bool,
    /// Whether to tell only what would be decided upon.
    #[serde(default)]
    dry_run: bool,
}

/// A decision about sagas, or about a step of each.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SagaDecision)]
enum Verb {
    Cancel,
    Resume,
    Abandon,
    Retry,
    Skip,
}

/// Which sagas: those that all of this is true of.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChooseSagas)]
struct FilterBody {
    #[schema(value_type = Option<shape::SagaStatus>)]
    status: Option<String>,
    saga_name: Option<String>,
    /// Where this step is running, being undone, in doubt or parked.
    step: Option<String>,
    /// Which were started at least so long ago.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 1_000_000_000)]
    older_than_seconds: Option<Seconds>,
}

impl BulkBody {
    fn decision(&self) -> Result<Decision, Problem> {
        match (self.decision, self.step.clone()) {
            (Verb::Cancel, None) => Ok(Decision::Cancel),
            (Verb::Resume, None) => Ok(Decision::Resume),
            (Verb::Abandon, None) => Ok(Decision::Abandon),
            (Verb::Retry, Some(step)) => Ok(Decision::Retry { step, parameters: None }),
            (Verb::Skip, Some(step)) => Ok(Decision::Skip { step }),
            (Verb::Retry | Verb::Skip, None) => {
                Err(Problem::invalid("to retry or skip names the step with \"step\""))
            }
            (Verb::Cancel | Verb::Resume | Verb::Abandon, Some(_)) => {
                let advice = "this decision is about whole sagas and takes no \"step\"; to choose \
                              sagas by a step, name it in the filter";
                Err(Problem::invalid(advice))
            }
        }
    }

    fn filter(&self) -> Result<SagaFilter, Problem> {
        let FilterBody { status, saga_name, step, older_than_seconds } = &self.filter;
        let older_than: Option<Duration> = older_than_seconds.map(|Seconds(age)| age);
        let chooses =
            status.is_some() || saga_name.is_some() || step.is_some() || older_than.is_some();
        if !chooses && !self.all {
            return Err(Problem::invalid(
                "the filter is empty: name what to choose by, or say \"all\": true if every saga \
                 is meant",
            ));
        }
        Ok(SagaFilter {
            status: status.as_deref().map(SagaStatus::parse).transpose()?,
            saga_name: saga_name.clone(),
            step: step.clone(),
            older_than,
            ..SagaFilter::default()
        })
    }
}

/// What came of a decision about many.
#[derive(Serialize, ToSchema)]
#[schema(as = DecidedSagas)]
struct Bulk {
    /// How many sagas this call has looked at.
    matched: usize,
    /// What a dry run would have decided upon.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    would_operate: Option<Vec<Standing>>,
    /// Of which it was decided, and how they stand.
    operated: Vec<Standing>,
    refused: Vec<RefusedOne>,
    /// Where the next call goes on, if there may be more.
    #[schema(required)]
    next_page_token: Option<String>,
}

/// A saga of which it could not be decided so.
#[derive(Serialize, ToSchema)]
#[schema(as = RefusedSaga)]
struct RefusedOne {
    saga_id: String,
    /// Why.
    detail: String,
}

/// Decide about many sagas
///
/// Each is decided upon by itself, page by page: those of which it cannot be decided so are told,
/// and the others go on. A dry run tells which it would be.
#[utoipa::path(
    post,
    path = "/v1/sagas/bulk",
    operation_id = "decide_sagas",
    tag = "sagas",
    request_body = BulkBody,
    responses((status = 200, description = "What came of it.", body = Bulk)),
)]
async fn bulk(
    State(app): State<App>,
    JsonBody(body): JsonBody<BulkBody>,
) -> Result<Json<Bulk>, Problem> {
    check_reason(&body.reason)?;
    let (decision, filter) = (body.decision()?, body.filter()?);
    if !body.dry_run {
        refuse_many(&app, &decision)?;
    }
    let limit = body.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=page::MAX_PAGE_SIZE).contains(&limit) {
        let most = page::MAX_PAGE_SIZE;
        return Err(Problem::invalid(format!("limit is from 1 to {most}, not {limit}")));
    }
    let list_name = list_name(&filter);
    let next = page::place(&list_name, body.page_token.as_deref())?;
    let sagas = app.bay.sagas();
    let bulk = match body.dry_run {
        true => would_operate(sagas, &filter, next, limit).await?,
        false => {
            let actor = actor(body.actor);
            let many = sagas.operate_all(&filter, next, limit, &decision, &actor, &body.reason);
            let many = many.await?;
            let mut bulk = Bulk::of(many.items.len(), many.next);
            for (saga_id, outcome) in many.items {
                match outcome {
                    Ok(done) => bulk.operated.push(Standing { saga_id, status: done.status }),
                    Err(error) => {
                        bulk.refused.push(RefusedOne { saga_id, detail: error.to_string() });
                    }
                }
            }
            bulk
        }
    };
    Ok(Json(bulk.with_token(&list_name)))
}

async fn would_operate(
    sagas: &Sagas,
    filter: &SagaFilter,
    next: Option<String>,
    limit: usize,
) -> Result<Bulk, Problem> {
    let page = sagas.list(filter, next, limit).await?;
    let mut bulk = Bulk::of(page.items.len(), page.next);
    let standing =
        page.items.into_iter().map(|saga| Standing { saga_id: saga.saga_id, status: saga.status });
    bulk.would_operate = Some(standing.collect());
    Ok(bulk)
}

impl Bulk {
    fn of(matched: usize, next: Option<String>) -> Self {
        Bulk {
            matched,
            would_operate: None,
            operated: Vec::new(),
            refused: Vec::new(),
            next_page_token: next,
        }
    }

    fn with_token(mut self, list_name: &str) -> Self {
        self.next_page_token = self.next_page_token.map(|place| page::token_of(list_name, &place));
        self
    }
}
