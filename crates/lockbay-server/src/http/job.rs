//! `/v1/jobs/claim` and what a holder does with its claim: heartbeat, complete, fail.
//!
//! Parameters and results are kept as the text they came in.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use lockbay::clock::Timestamp;
use lockbay::job::{
    Claim, ClaimRequest, ClaimedJob, Identity, InProgress, OnFailed, OnInProgress, Replayed, Retry,
};
use lockbay::{Error, ErrorKind, LockBay, Placement};
use serde::{Deserialize, Serialize};

use super::abandoned::see_through;
use super::extract::{IdempotencyKey, JsonBody, Name, Seconds};
use super::problem::Problem;
use super::{App, REPLAYED};

/// How long a claim may wait for somebody else's outcome.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long it waits when it does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/jobs/claim", post(claim))
        .route("/v1/jobs/{job_id}/heartbeat", post(heartbeat))
        .route("/v1/jobs/{job_id}/complete", post(complete))
        .route("/v1/jobs/{job_id}/fail", post(fail))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimBody {
    job_type: String,
    job_key: String,
    parameters: lockbay::Json,
    scheduled_time: Option<Timestamp>,
    #[serde(default)]
    identity: Identity,
    claim_ttl_seconds: Option<Seconds>,
    max_retries: Option<u32>,
    #[serde(default)]
    on_in_progress: InProgressPolicy,
    wait_seconds: Option<Seconds>,
    #[serde(default)]
    on_failed: OnFailed,
    #[serde(default)]
    leader_only: bool,
    holder: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum InProgressPolicy {
    #[default]
    Reject,
    Wait,
}

impl ClaimBody {
    fn into_request(self) -> Result<(ClaimRequest, Placement), Problem> {
        let on_in_progress = match (self.on_in_progress, self.wait_seconds) {
            (InProgressPolicy::Reject, None) => OnInProgress::Reject,
            (InProgressPolicy::Reject, Some(_)) => {
                return Err(Problem::invalid(
                    "wait_seconds goes with \"on_in_progress\": \"wait\"",
                ));
            }
            (InProgressPolicy::Wait, None) => OnInProgress::Wait(DEFAULT_WAIT),
            (InProgressPolicy::Wait, Some(Seconds(wait))) if wait > MAX_WAIT => {
                return Err(Problem::invalid(format!(
                    "wait_seconds is at most {}, not {}",
                    MAX_WAIT.as_secs(),
                    wait.as_secs_f64()
                )));
            }
            (InProgressPolicy::Wait, Some(Seconds(wait))) => OnInProgress::Wait(wait),
        };
        let placement = if self.leader_only { Placement::LeaderOnly } else { Placement::Anywhere };
        let request = ClaimRequest {
            identity: self.identity,
            claim_ttl: self.claim_ttl_seconds.map(|Seconds(ttl)| ttl),
            max_retries: self.max_retries,
            on_in_progress,
            on_failed: self.on_failed,
            holder: self.holder,
            scheduled_time: self.scheduled_time,
            ..ClaimRequest::new(self.job_type, self.job_key, self.parameters)
        };
        Ok((request, placement))
    }
}

async fn claim(
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(body): JsonBody<ClaimBody>,
) -> Result<Response, Problem> {
    let (mut request, placement) = body.into_request()?;
    request.idempotency_key = key;
    let waiting = match request.on_in_progress {
        OnInProgress::Reject => None,
        OnInProgress::Wait(_) => Some(app.waiting_permit()?),
    };
    let repeatable = request.idempotency_key.is_some();
    let work = {
        let app = app.clone();
        async move {
            let claim = claim_until_the_end(&app, request, placement).await;
            drop(waiting);
            claim
        }
    };
    // A client that named its request will come back for it.
    let bay = app.bay.clone();
    let undo = move |claim| async move {
        if let (Ok(Ok(Claim::Claimed(job))), false) = (claim, repeatable) {
            give_back(&bay, &job).await;
        }
    };
    let claim = see_through(work, undo).await??;
    match claim {
        Ok(Claim::Claimed(job)) if job.replayed => {
            Ok((REPLAYED, Json(Claimed::from(job))).into_response())
        }
        Ok(Claim::Claimed(job)) => Ok(Json(Claimed::from(job)).into_response()),
        Ok(Claim::Replayed(job)) => Ok((REPLAYED, Json(Ended::from(job))).into_response()),
        Ok(Claim::InProgress(job)) => Err(in_progress(job)),
        Err(error) if placement == Placement::LeaderOnly => Err(led_elsewhere(&app, error).await),
        Err(error) => Err(error.into()),
    }
}

/// A claim does not wait past the end of this server.
async fn claim_until_the_end(
    app: &App,
    request: ClaimRequest,
    placement: Placement,
) -> Result<lockbay::Result<Claim>, Problem> {
    tokio::select! {
        claim = app.bay.claim(request, placement) => Ok(claim),
        () = app.stopping.cancelled() => Err(Problem::new(
            ErrorKind::Unknown,
            "this instance shuts down while the claim waits; ask another",
        )),
    }
}

async fn give_back(bay: &LockBay, job: &ClaimedJob) {
    if let Err(error) = bay.jobs().give_back(&job.job_id, &job.claim_token).await {
        tracing::warn!(job = %job.job_id, %error, "abandoned claim not given back, it lapses");
    }
}

fn in_progress(job: InProgress) -> Problem {
    let detail = format!("job {} is in progress, held by {:?}", job.job_id, job.holder);
    Problem::held(detail, job.holder, job.retry_after).job(job.job_id, job.attempt)
}

/// A claim for the leader alone was refused: says who leads.
async fn led_elsewhere(app: &App, error: Error) -> Problem {
    let held = error.kind() == ErrorKind::Held;
    let problem = Problem::from(error);
    if !held {
        return problem;
    }
    match app.bay.leadership().current().await {
        Ok(Some(leader)) if !leader.is_self => problem.holder(leader.instance_id),
        Ok(_) | Err(_) => problem,
    }
}

#[derive(Serialize)]
struct Claimed {
    outcome: &'static str,
    job_id: String,
    attempt: u32,
    claim_token: String,
    fencing_token: String,
    idempotency_token: String,
    claim_expires_at: Timestamp,
}

impl From<ClaimedJob> for Claimed {
    fn from(job: ClaimedJob) -> Self {
        Claimed {
            outcome: "claimed",
            job_id: job.job_id,
            attempt: job.attempt,
            claim_token: job.claim_token,
            fencing_token: job.fencing_token.to_string(),
            idempotency_token: job.idempotency_token,
            claim_expires_at: job.expires_at,
        }
    }
}

#[derive(Serialize)]
struct Ended {
    outcome: &'static str,
    status: &'static str,
    job_id: String,
    attempt: u32,
    result: Option<lockbay::Json>,
    result_kept: bool,
    error: Option<String>,
    completed_at: Option<Timestamp>,
}

impl From<Replayed> for Ended {
    fn from(job: Replayed) -> Self {
        Ended {
            outcome: "replayed",
            status: job.status.name(),
            job_id: job.job_id,
            attempt: job.attempt,
            result: job.result,
            result_kept: job.result_kept,
            error: job.error,
            completed_at: job.completed_at,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeartbeatBody {
    claim_token: String,
}

#[derive(Serialize)]
struct Renewed {
    job_id: String,
    claim_expires_at: Timestamp,
}

async fn heartbeat(
    State(app): State<App>,
    Name(job_id): Name,
    JsonBody(body): JsonBody<HeartbeatBody>,
) -> Result<Json<Renewed>, Problem> {
    let claim_expires_at = app.bay.jobs().heartbeat(&job_id, &body.claim_token).await?;
    Ok(Json(Renewed { job_id, claim_expires_at }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompleteBody {
    claim_token: String,
    result: lockbay::Json,
}

#[derive(Serialize)]
struct Completed {
    job_id: String,
    status: &'static str,
}

async fn complete(
    State(app): State<App>,
    Name(job_id): Name,
    JsonBody(body): JsonBody<CompleteBody>,
) -> Result<Json<Completed>, Problem> {
    app.bay.jobs().complete(&job_id, &body.claim_token, body.result).await?;
    Ok(Json(Completed { job_id, status: "completed" }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailBody {
    claim_token: String,
    error: String,
    #[serde(default = "yes")]
    retryable: bool,
}

fn yes() -> bool {
    true
}

#[derive(Serialize)]
struct AttemptFailed {
    job_id: String,
    status: &'static str,
    attempt: u32,
    will_retry: bool,
    retry_after_ms: Option<u64>,
}

async fn fail(
    State(app): State<App>,
    Name(job_id): Name,
    JsonBody(body): JsonBody<FailBody>,
) -> Result<Json<AttemptFailed>, Problem> {
    let retry = if body.retryable { Retry::Allowed } else { Retry::Never };
    let failed = app.bay.jobs().fail(&job_id, &body.claim_token, &body.error, retry).await?;
    let millis = |after: Duration| u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    Ok(Json(AttemptFailed {
        job_id,
        status: "failed",
        attempt: failed.attempt,
        will_retry: failed.retry_after.is_some(),
        retry_after_ms: failed.retry_after.map(millis),
    }))
}
