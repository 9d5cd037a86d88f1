//! What an operator decides about sagas: one, one of its steps, or many at once.
//!
//! Every decision has a reason and an actor, and both stand in the saga's history. Whether it can
//! be taken is the library's to say.

use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use lockbay::Caller;
use lockbay::saga::{Decision, SagaFilter, SagaStatus, Sagas};
use serde::{Deserialize, Deserializer, Serialize};

use super::App;
use super::abandoned::see_through;
use super::extract::{JsonBody, Name, Names, Seconds, check_reason};
use super::page;
use super::problem::Problem;
use super::saga::{Standing, list_name};

/// Who decided, while requests do not show who makes them.
const UNNAMED: &str = "http";
/// How many sagas one call decides upon unless it says otherwise.
const DEFAULT_LIMIT: usize = 100;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/sagas/bulk", post(bulk))
        .route("/v1/sagas/{saga_id}/cancel", post(cancel))
        .route("/v1/sagas/{saga_id}/resume", post(resume))
        .route("/v1/sagas/{saga_id}/abandon", post(abandon))
        .route("/v1/sagas/{saga_id}/steps/{step}/retry", post(retry))
        .route("/v1/sagas/{saga_id}/steps/{step}/skip", post(skip))
        .route("/v1/sagas/{saga_id}/steps/{step}/resolve", post(resolve))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasonBody {
    reason: String,
    actor: Option<String>,
}

async fn cancel(
    State(app): State<App>,
    Name(saga_id): Name,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Json<Standing>, Problem> {
    operate(&app, saga_id, Decision::Cancel, body).await
}

async fn resume(
    State(app): State<App>,
    Name(saga_id): Name,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Json<Standing>, Problem> {
    operate(&app, saga_id, Decision::Resume, body).await
}

async fn abandon(
    State(app): State<App>,
    Name(saga_id): Name,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Json<Standing>, Problem> {
    operate(&app, saga_id, Decision::Abandon, body).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryBody {
    reason: String,
    actor: Option<String>,
    #[serde(default, deserialize_with = "given")]
    parameters: Option<lockbay::Json>,
}

/// A member that is there, `null` included.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<lockbay::Json>, D::Error> {
    lockbay::Json::deserialize(deserializer).map(Some)
}

async fn retry(
    State(app): State<App>,
    Names(saga_id, step): Names,
    JsonBody(body): JsonBody<RetryBody>,
) -> Result<Json<Standing>, Problem> {
    let RetryBody { reason, actor, parameters } = body;
    operate(&app, saga_id, Decision::Retry { step, parameters }, ReasonBody { reason, actor }).await
}

async fn skip(
    State(app): State<App>,
    Names(saga_id, step): Names,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Json<Standing>, Problem> {
    operate(&app, saga_id, Decision::Skip { step }, body).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveBody {
    reason: String,
    actor: Option<String>,
    outcome: Outcome,
    #[serde(default, deserialize_with = "given")]
    result: Option<lockbay::Json>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Done,
    Undone,
}

async fn resolve(
    State(app): State<App>,
    Names(saga_id, step): Names,
    JsonBody(body): JsonBody<ResolveBody>,
) -> Result<Json<Standing>, Problem> {
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
    operate(&app, saga_id, decision, ReasonBody { reason, actor }).await
}

/// Who decides: by what they have shown to be, the body, and else the header.
fn actor(named: Option<String>) -> String {
    Caller::current().shown(named.as_deref()).unwrap_or_else(|| UNNAMED.to_owned())
}

async fn operate(
    app: &App,
    saga_id: String,
    decision: Decision,
    body: ReasonBody,
) -> Result<Json<Standing>, Problem> {
    check_reason(&body.reason)?;
    let sagas = app.bay.sagas().clone();
    let work = async move {
        let actor = actor(body.actor);
        sagas.operate(&saga_id, &decision, &actor, &body.reason).await
    };
    // What was decided holds, whoever is there to hear of it.
    let operated = see_through(work, |_| async {}).await??;
    Ok(Json(Standing { saga_id: operated.saga_id, status: operated.status }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkBody {
    decision: Verb,
    #[serde(default)]
    filter: FilterBody,
    step: Option<String>,
    reason: String,
    actor: Option<String>,
    limit: Option<usize>,
    page_token: Option<String>,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Cancel,
    Resume,
    Abandon,
    Retry,
    Skip,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterBody {
    status: Option<String>,
    saga_name: Option<String>,
    step: Option<String>,
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
        })
    }
}

/// What came of a decision about many.
#[derive(Serialize)]
struct Bulk {
    /// How many sagas this call has looked at.
    matched: usize,
    /// What a dry run would have decided upon.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_operate: Option<Vec<Standing>>,
    operated: Vec<Standing>,
    refused: Vec<RefusedOne>,
    /// Where the next call goes on, if there may be more.
    next_page_token: Option<String>,
}

#[derive(Serialize)]
struct RefusedOne {
    saga_id: String,
    detail: String,
}

async fn bulk(
    State(app): State<App>,
    JsonBody(body): JsonBody<BulkBody>,
) -> Result<Json<Bulk>, Problem> {
    check_reason(&body.reason)?;
    let (decision, filter) = (body.decision()?, body.filter()?);
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
