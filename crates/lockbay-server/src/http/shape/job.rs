//! Jobs.

use utoipa::ToSchema;

use super::{FencingToken, LongName, Moment, Name};

/// Where a job stands.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum JobStatus {
    Claimed,
    Completed,
    Failed,
    Cancelled,
}

/// What counts as the same job: type, key and parameters, or type and key alone.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum Identity {
    Fingerprint,
    Key,
}

/// What a failed job means to the next claim: run it again, or answer with the failure.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum OnFailed {
    Rerun,
    Replay,
}

/// A job as it stands.
#[derive(ToSchema)]
pub(in crate::http) struct Job {
    job_id: String,
    job_type: Name,
    /// The business key.
    job_key: String,
    identity: Identity,
    /// As they were given, digit by digit.
    #[schema(value_type = Value)]
    parameters: (),
    status: JobStatus,
    /// Whether a claimed job's claim has lapsed, so that the next claim takes it over.
    lapsed: bool,
    /// How many attempts there were.
    attempt: u32,
    /// How many of them failed.
    failures: u32,
    max_retries: u32,
    /// Who has claimed it last, by their own word.
    holder: LongName,
    /// Of the last change of the job: while it is claimed, that of the claim.
    fencing_token: FencingToken,
    /// The same for all attempts: show it to whoever does the work for you.
    idempotency_token: String,
    created_at: Moment,
    claimed_at: Moment,
    /// When the claim lapses, if it is claimed.
    #[schema(required)]
    claim_expires_at: Option<Moment>,
    /// The time that it was claimed for.
    #[schema(required)]
    scheduled_time: Option<Moment>,
    /// Whether it runs on the leader alone.
    leader_only: bool,
    /// When the last attempt ended, or the job was reopened.
    #[schema(required)]
    completed_at: Option<Moment>,
    /// What it returned, as it was given, digit by digit.
    #[schema(value_type = Value)]
    result: (),
    /// Whether its result is kept still.
    result_kept: bool,
    /// Why it failed or was cancelled.
    #[schema(required)]
    error: Option<String>,
    /// When the next attempt may begin, after a failure that may be tried again.
    #[schema(required)]
    next_retry_at: Option<Moment>,
}
