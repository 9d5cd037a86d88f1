//! Sagas, their steps, and how steps reach those who do them.

use utoipa::ToSchema;

use super::{FencingToken, Moment, Name};

/// Where a saga stands.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum SagaStatus {
    Pending,
    Running,
    Completed,
    Compensating,
    Compensated,
    Parked,
    Abandoned,
}

/// Where a step stands.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum StepStatus {
    Pending,
    Running,
    Completed,
    Failed,
    Unknown,
    Compensating,
    Compensated,
    Skipped,
    Parked,
}

/// A saga as it stands, with all its steps.
#[derive(ToSchema)]
pub(in crate::http) struct Saga {
    saga_id: String,
    saga_name: Name,
    status: SagaStatus,
    /// Why it stands so: what failed, timed out, was cancelled, or needs a person.
    #[schema(required)]
    reason: Option<String>,
    steps: Vec<Step>,
    /// As it was given, digit by digit.
    #[schema(value_type = Value)]
    context: (),
    /// As it was given, digit by digit.
    #[schema(value_type = Value)]
    metadata: (),
    created_at: Moment,
    updated_at: Moment,
    /// When it is rolled back unless it is done.
    deadline: Moment,
    #[schema(required)]
    ended_at: Option<Moment>,
    /// Of its present executor.
    fencing_token: FencingToken,
    /// The session under which it is executed.
    session: String,
}

/// A step as it stands.
#[derive(ToSchema)]
#[schema(as = SagaStep)]
struct Step {
    name: Name,
    handler: Name,
    #[schema(required)]
    compensation_handler: Option<Name>,
    status: StepStatus,
    /// The steps that are done before it.
    depends_on: Vec<Name>,
    #[schema(value_type = Value)]
    parameters: (),
    /// Attempts that ended.
    attempts: u32,
    compensation_attempts: u32,
    max_retries: u32,
    compensation_max_retries: u32,
    timeout_seconds: f64,
    /// Whether there is no way back once this step may have happened.
    pivot: bool,
    /// Whether it may be repeated when its outcome is unknown.
    idempotent: bool,
    /// The same for all attempts.
    idempotency_key: String,
    /// What it returned.
    #[schema(value_type = Value)]
    result: (),
    /// What undoing it returned.
    #[schema(value_type = Value)]
    compensation_result: (),
    /// Whether an attempt may have had an effect of which nothing is known.
    in_doubt: bool,
    /// The last error, forward or back.
    #[schema(required)]
    error: Option<String>,
    #[schema(required)]
    next_retry_at: Option<Moment>,
    #[schema(required)]
    updated_at: Option<Moment>,
}

/// What happened to a saga.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum SagaEvent {
    StepBegan,
    StepCompleted,
    StepFailed,
    StepUnknown,
    StepCompensated,
    CompensationFailed,
    TakenOver,
    TimedOut,
    Parked,
    Cancelled,
    Resumed,
    StepRetried,
    StepSkipped,
    StepResolvedDone,
    StepResolvedUndone,
    Abandoned,
}

/// Something that happened to a saga.
#[derive(ToSchema)]
#[schema(as = SagaHistoryEntry)]
pub(in crate::http) struct HistoryEntry {
    /// Its number, from 1: the start is 0 and is not listed.
    #[schema(minimum = 1)]
    number: u64,
    /// When, by the store's clock as its executor knew it.
    at: Moment,
    /// The commit that entered it.
    revision: FencingToken,
    /// What happened.
    event: SagaEvent,
    /// To which step.
    #[schema(nullable = false)]
    step: Option<String>,
    /// What it returned.
    #[schema(value_type = Value, required = false)]
    result: (),
    /// What went wrong.
    #[schema(nullable = false)]
    error: Option<String>,
    /// When it is tried again.
    #[schema(nullable = false)]
    next_retry_at: Option<Moment>,
    /// Who decided, or who took over.
    #[schema(nullable = false)]
    actor: Option<String>,
    /// Why.
    #[schema(nullable = false)]
    reason: Option<String>,
}

/// How a handler is reached: in the server itself, by a call to it, or by its polls.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum HandlerKind {
    Local,
    Push,
    Pull,
}

/// A handler. Its secret is never shown.
#[derive(ToSchema)]
pub(in crate::http) struct Handler {
    name: Name,
    kind: HandlerKind,
    /// Where it is called.
    #[schema(nullable = false)]
    url: Option<String>,
    /// Whether calls are signed.
    signed: bool,
    /// How long one call may take.
    #[schema(nullable = false)]
    timeout_seconds: Option<f64>,
}

/// What a handler is asked to do: the step, undoing it, or saying whether it was done.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum Action {
    Execute,
    Compensate,
    Probe,
}

/// What a failed task leaves behind: nothing for certain, or nobody knows.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum TaskEffect {
    None,
    Unknown,
}
