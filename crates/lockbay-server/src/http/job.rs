//! `/v1/jobs/claim` and what a holder does with its claim: heartbeat, complete, fail.
//!
//! Parameters and results are kept as the text they came in.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use lockbay::clock::Timestamp;
use lockbay::job::{
    Claim, ClaimRequest, ClaimedJob, Identity, InProgress, JobStatus, OnFailed, OnInProgress,
    Replayed, Retry,
};
use lockbay::{Error, ErrorKind, LockBay, Placement};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::abandoned::see_through;
use super::extract::{IdempotencyKey, JsonBody, Name, Seconds};
use super::openapi::{Conflict, NotFound, Unprocessable};
use super::problem::Problem;
use super::shape;
use super::{App, REPLAYED};

/// How long a claim may wait for somebody else's outcome.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long it waits when it does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(claim))
        .routes(routes!(heartbeat))
        .routes(routes!(complete))
        .routes(routes!(fail))
}

/// A wish to do a job.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ClaimJob)]
struct ClaimBody {
    #[schema(value_type = shape::Name)]
    job_type: String,
    /// The business key: what the job is about, such as the id of an order.
    #[schema(min_length = 1, max_length = 512, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    job_key: String,
    /// What the job is given, at most 1 MiB. With `identity` `fingerprint` they are a part of what
    /// makes it the same job.
    #[schema(value_type = Value)]
    parameters: lockbay::Json,
    /// The time that it is for, if it is one of many.
    #[schema(value_type = Option<String>, format = DateTime)]
    scheduled_time: Option<Timestamp>,
    #[serde(default)]
    #[schema(value_type = shape::Identity)]
    identity: Identity,
    /// How long its holder may be silent before somebody else may take the job over; by default as
    /// the server is configured.
    #[schema(value_type = Option<f64>, minimum = 0.1, maximum = 86_400)]
    claim_ttl_seconds: Option<Seconds>,
    /// How often a failed job is run again; by default as the server is configured.
    #[schema(maximum = 1_000)]
    max_retries: Option<u32>,
    /// `wait` by default where `wait_seconds` is given, otherwise `reject`.
    on_in_progress: Option<InProgressPolicy>,
    /// How long to wait for the outcome; 30 by default. It does not go with `reject`.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 60)]
    wait_seconds: Option<Seconds>,
    #[serde(default)]
    #[schema(value_type = shape::OnFailed)]
    on_failed: OnFailed,
    /// Whether only the leader may run it.
    #[serde(default)]
    leader_only: bool,
    /// Who claims, for people.
    #[schema(value_type = Option<shape::LongName>)]
    holder: Option<String>,
}

/// What becomes of a claim while somebody else runs the job: it is refused, or it waits for the
/// outcome.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum InProgressPolicy {
    Reject,
    Wait,
}

impl ClaimBody {
    fn into_request(self) -> Result<(ClaimRequest, Placement), Problem> {
        let on_in_progress = match (self.on_in_progress, self.wait_seconds) {
            (None | Some(InProgressPolicy::Reject), None) => OnInProgress::Reject,
            (Some(InProgressPolicy::Reject), Some(_)) => {
                return Err(Problem::invalid(
                    "wait_seconds does not go with \"on_in_progress\": \"reject\"",
                ));
            }
            (Some(InProgressPolicy::Wait), None) => OnInProgress::Wait(DEFAULT_WAIT),
            (_, Some(Seconds(wait))) if wait > MAX_WAIT => {
                return Err(Problem::invalid(format!(
                    "wait_seconds is at most {}, not {}",
                    MAX_WAIT.as_secs(),
                    wait.as_secs_f64()
                )));
            }
            (_, Some(Seconds(wait))) => OnInProgress::Wait(wait),
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

/// Claim a job, or be told its outcome
///
/// Exactly one caller is told `claimed` and does the job; all others are told its outcome once there
/// is one. A claim lapses unless its holder sends heartbeats, and then somebody else may take the
/// job over with the next attempt. Repeated with its `Idempotency-Key`, it is given again.
#[utoipa::path(
    post,
    path = "/v1/jobs/claim",
    operation_id = "claim_job",
    tag = "jobs",
    request_body = ClaimBody,
    responses(
        (
            status = 200,
            description = "The job is yours to do, or this is its outcome.",
            body = ClaimAnswer,
            headers(("Idempotency-Replayed" = bool, description = "Whether it was answered before.")),
        ),
        Conflict,
        Unprocessable,
    ),
)]
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
            Ok((REPLAYED, Json(ClaimAnswer::from(job))).into_response())
        }
        Ok(Claim::Claimed(job)) => Ok(Json(ClaimAnswer::from(job)).into_response()),
        Ok(Claim::Replayed(job)) => Ok((REPLAYED, Json(ClaimAnswer::from(job))).into_response()),
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

/// What comes of a claim.
#[derive(Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum ClaimAnswer {
    Claimed(Claimed),
    Replayed(Ended),
}

/// The job is the caller's to do.
#[derive(Serialize, ToSchema)]
#[schema(as = ClaimedJob)]
struct Claimed {
    job_id: String,
    attempt: u32,
    /// Shows that the claim is yours, to whoever asks of it.
    claim_token: String,
    #[schema(value_type = shape::FencingToken)]
    fencing_token: String,
    /// The same for all attempts: show it to whoever does the work for you.
    idempotency_token: String,
    /// When the claim lapses unless a heartbeat comes, by the store's clock.
    #[schema(value_type = shape::Moment)]
    claim_expires_at: Timestamp,
}

impl From<ClaimedJob> for ClaimAnswer {
    fn from(job: ClaimedJob) -> Self {
        ClaimAnswer::Claimed(Claimed {
            job_id: job.job_id,
            attempt: job.attempt,
            claim_token: job.claim_token,
            fencing_token: job.fencing_token.to_string(),
            idempotency_token: job.idempotency_token,
            claim_expires_at: job.expires_at,
        })
    }
}

/// The job has ended, and this is its outcome.
#[derive(Serialize, ToSchema)]
#[schema(as = EndedJob)]
struct Ended {
    #[schema(value_type = shape::JobStatus)]
    status: JobStatus,
    job_id: String,
    attempt: u32,
    /// What it returned, as it was given, digit by digit.
    #[schema(value_type = Value)]
    result: Option<lockbay::Json>,
    /// Whether its result is kept still.
    result_kept: bool,
    /// Why it failed or was cancelled.
    #[schema(required)]
    error: Option<String>,
    #[schema(value_type = Option<shape::Moment>, required)]
    completed_at: Option<Timestamp>,
}

impl From<Replayed> for ClaimAnswer {
    fn from(job: Replayed) -> Self {
        ClaimAnswer::Replayed(Ended {
            status: job.status,
            job_id: job.job_id,
            attempt: job.attempt,
            result: job.result,
            result_kept: job.result_kept,
            error: job.error,
            completed_at: job.completed_at,
        })
    }
}

/// A holder is there still.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HeartbeatJob)]
struct HeartbeatBody {
    claim_token: String,
}

/// A claim that goes on.
#[derive(Serialize, ToSchema)]
#[schema(as = RenewedClaim)]
struct Renewed {
    job_id: String,
    /// When the claim lapses unless another heartbeat comes, by the store's clock.
    #[schema(value_type = shape::Moment)]
    claim_expires_at: Timestamp,
}

/// Keep a claim
///
/// Its holder is there still, and the claim lasts as long again.
#[utoipa::path(
    post,
    path = "/v1/jobs/{job_id}/heartbeat",
    operation_id = "heartbeat_job",
    tag = "jobs",
    params(("job_id" = shape::Name, Path, description = "The job.")),
    request_body = HeartbeatBody,
    responses((status = 200, description = "The claim goes on.", body = Renewed), NotFound, Conflict),
)]

async fn heartbeat(
    State(app): State<App>,
    Name(job_id): Name,
    JsonBody(body): JsonBody<HeartbeatBody>,
) -> Result<Json<Renewed>, Problem> {
    let claim_expires_at = app.bay.jobs().heartbeat(&job_id, &body.claim_token).await?;
    Ok(Json(Renewed { job_id, claim_expires_at }))
}

/// The job is done.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CompleteJob)]
struct CompleteBody {
    claim_token: String,
    /// What it returns, at most 1 MiB, as every later claim is told it.
    #[schema(value_type = Value)]
    result: lockbay::Json,
}

/// A job that is done.
#[derive(Serialize, ToSchema)]
#[schema(as = CompletedJob)]
struct Completed {
    job_id: String,
    #[schema(value_type = shape::JobStatus)]
    status: JobStatus,
}

/// Say that a job is done
///
/// Its result is what every later claim is told. Said twice with the same result, it succeeds
/// twice. A holder whose claim has lapsed is refused as fenced.
#[utoipa::path(
    post,
    path = "/v1/jobs/{job_id}/complete",
    operation_id = "complete_job",
    tag = "jobs",
    params(("job_id" = shape::Name, Path, description = "The job.")),
    request_body = CompleteBody,
    responses(
        (status = 200, description = "The job is done.", body = Completed),
        NotFound,
        Conflict,
        Unprocessable,
    ),
)]

async fn complete(
    State(app): State<App>,
    Name(job_id): Name,
    JsonBody(body): JsonBody<CompleteBody>,
) -> Result<Json<Completed>, Problem> {
    app.bay.jobs().complete(&job_id, &body.claim_token, body.result).await?;
    Ok(Json(Completed { job_id, status: JobStatus::Completed }))
}

/// An attempt failed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FailJob)]
struct FailBody {
    claim_token: String,
    /// Why; what is beyond 4,096 characters is not kept.
    error: String,
    /// Whether another attempt may help; `true` by default.
    #[serde(default = "yes")]
    retryable: bool,
}

fn yes() -> bool {
    true
}

/// An attempt that failed.
#[derive(Serialize, ToSchema)]
#[schema(as = FailedJob)]
struct AttemptFailed {
    job_id: String,
    #[schema(value_type = shape::JobStatus)]
    status: JobStatus,
    attempt: u32,
    /// Whether the next claim runs it again.
    will_retry: bool,
    /// After how many milliseconds it may.
    #[schema(required)]
    retry_after_ms: Option<u64>,
}

/// Say that an attempt failed
///
/// The job can be claimed again after a pause that grows with every failure, up to its
/// `max_retries`, unless another attempt cannot help.
#[utoipa::path(
    post,
    path = "/v1/jobs/{job_id}/fail",
    operation_id = "fail_job",
    tag = "jobs",
    params(("job_id" = shape::Name, Path, description = "The job.")),
    request_body = FailBody,
    responses(
        (status = 200, description = "The attempt has failed.", body = AttemptFailed),
        NotFound,
        Conflict,
        Unprocessable,
    ),
)]

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
        status: JobStatus::Failed,
        attempt: failed.attempt,
        will_retry: failed.retry_after.is_some(),
        retry_after_ms: failed.retry_after.map(millis),
    }))
}
