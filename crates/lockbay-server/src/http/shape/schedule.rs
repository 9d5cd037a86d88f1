//! Schedules.

use utoipa::ToSchema;

use super::{Moment, Name, ScheduleId};

/// Whether a schedule begins ticks; one that is ending goes when its ticks have ended.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum ScheduleStatus {
    Active,
    Paused,
    Ending,
}

/// What becomes of ticks that are late by more than the grace: the latest runs, all run (the last
/// 1,000 at most), or none does.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum Misfire {
    RunOnce,
    RunAll,
    Skip,
}

/// What becomes of a tick that is due while the one before it still runs: it runs after it, not at
/// all, or beside it.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum Overlap {
    Queue,
    Skip,
    Allow,
}

/// A schedule as it stands.
#[derive(ToSchema)]
pub(in crate::http) struct Schedule {
    job_id: ScheduleId,
    /// The type of its jobs.
    job_type: Name,
    schedule_expression: String,
    /// Where its expression is read.
    time_zone: String,
    #[schema(value_type = Value)]
    parameters: (),
    handler: Name,
    leader_only: bool,
    misfire: Misfire,
    misfire_grace_seconds: f64,
    jitter_seconds: f64,
    overlap: Overlap,
    #[schema(required)]
    max_retries: Option<u32>,
    #[schema(required)]
    timeout_seconds: Option<f64>,
    status: ScheduleStatus,
    /// The next due time that is not decided; of a paused schedule the first that it passed over.
    #[schema(required)]
    next_due: Option<Moment>,
    /// Why it stands still, if its expression or zone cannot be read by this instance.
    #[schema(nullable = false)]
    problem: Option<String>,
    /// Ticks that were begun and are not known to have ended.
    in_progress: Vec<OpenTick>,
    #[schema(required)]
    last_run: Option<LastRun>,
    counts: TickCounts,
    created_at: Moment,
    /// When somebody last changed it.
    changed_at: Moment,
}

/// A tick that was begun and is not known to have ended.
#[derive(ToSchema)]
struct OpenTick {
    /// When it was due.
    scheduled_time: Moment,
    /// The key of its job.
    job_key: String,
    /// Its job, where it was looked up and found.
    #[schema(nullable = false)]
    job_id: Option<String>,
    /// The attempt in progress, or the last that failed.
    #[schema(nullable = false)]
    attempt: Option<u32>,
    /// Why the last attempt failed, if the next is waited for; or why there is none.
    #[schema(nullable = false)]
    error: Option<String>,
}

/// How a tick ended.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum TickOutcome {
    Completed,
    Failed,
    Cancelled,
}

/// The tick that ended last.
#[derive(ToSchema)]
#[schema(as = LastTick)]
struct LastRun {
    /// When it was due.
    scheduled_time: Moment,
    /// When it was found begun by the instance that saw its end.
    started_at: Moment,
    /// When its end was seen.
    ended_at: Moment,
    outcome: TickOutcome,
    /// Why it failed or was cancelled.
    #[schema(nullable = false)]
    error: Option<String>,
    /// The key of its job.
    job_key: String,
}

/// How often what became of ticks.
#[derive(ToSchema)]
struct TickCounts {
    /// Ticks that were begun, those that were asked for included.
    begun: u64,
    /// Ticks whose job was completed.
    completed: u64,
    /// Ticks whose job failed for good or was cancelled.
    failed: u64,
    /// Ticks that did not run because the one before them still did, or because the schedule was
    /// paused or deleted before they started.
    skipped: u64,
    /// Ticks that did not run because they were too late; where very many were passed over at once,
    /// at least so many.
    misfired: u64,
}

/// When a schedule is due next.
#[derive(ToSchema)]
pub(in crate::http) struct UpcomingTicks {
    /// In UTC, the first at its next due time.
    due: Vec<Moment>,
    /// Where its expression is read.
    time_zone: String,
}
