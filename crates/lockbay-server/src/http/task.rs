//! `/v1/tasks`: steps of sagas for workers that poll, and what they say of them.
//!
//! Parameters, contexts and results go through as the text they came in. A worker that has gone
//! before it could be told of its tasks was not given them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use lockbay::LockBay;
use lockbay::clock::Timestamp;
use lockbay::saga::{Action, ClaimedTask, TaskEffect, TaskFailure, TaskPoll};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::abandoned::see_through;
use super::extract::{JsonBody, Name, Seconds};
use super::openapi::{Conflict, Unprocessable};
use super::problem::Problem;
use super::shape;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(poll))
        .routes(routes!(heartbeat))
        .routes(routes!(complete))
        .routes(routes!(fail))
}

/// A worker's wish for tasks.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PollTasks)]
struct PollBody {
    /// For which handlers.
    #[schema(value_type = Vec<shape::Name>, min_items = 1, max_items = 64)]
    handlers: Vec<String>,
    /// Who asks, for people.
    #[schema(value_type = shape::LongName)]
    holder: String,
    /// How long to wait if there is none; not at all by default.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 60)]
    wait_seconds: Option<Seconds>,
    /// How many tasks it takes at once; 1 by default.
    #[schema(minimum = 1, maximum = 100)]
    max: Option<usize>,
    /// How long it may be silent about a task before its claim lapses; 30 by default.
    #[schema(value_type = Option<f64>, minimum = 1, maximum = 3_600)]
    lease_seconds: Option<Seconds>,
}

impl PollBody {
    fn into_wish(self) -> TaskPoll {
        let wish = TaskPoll::new(self.handlers, self.holder);
        TaskPoll {
            max: self.max.unwrap_or(wish.max),
            wait: self.wait_seconds.map_or(wish.wait, |Seconds(wait)| wait),
            lease: self.lease_seconds.map_or(wish.lease, |Seconds(lease)| lease),
            ..wish
        }
    }
}

/// Tasks for a worker, none if there are none.
#[derive(Serialize, ToSchema)]
struct Tasks {
    tasks: Vec<Task>,
}

/// A step of a saga, or a tick of a schedule, for a worker to do.
#[derive(Serialize, ToSchema)]
struct Task {
    task_id: String,
    /// Shows that the task is yours, to whoever asks of it.
    task_token: String,
    #[schema(value_type = shape::Name)]
    handler: String,
    #[schema(value_type = shape::Action)]
    action: Action,
    saga_id: String,
    saga_name: String,
    step: String,
    #[schema(value_type = Value)]
    parameters: lockbay::Json,
    /// What all steps are given, with the results of those before it.
    #[schema(value_type = Value)]
    context: lockbay::Json,
    /// What the step returned, if it is to be undone.
    #[schema(value_type = Value)]
    original_result: Option<lockbay::Json>,
    /// Whether the step is known to have completed, if it is to be undone. If not, look it up by its
    /// key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    is_completed: Option<bool>,
    /// The same for all attempts: show it to whoever does the work for you.
    idempotency_key: String,
    /// Names the undoing, the same over all its attempts, if the step is to be undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    undo_key: Option<String>,
    /// Of a tick: when it was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<shape::Moment>, nullable = false)]
    scheduled_time: Option<Timestamp>,
    attempt: u32,
    #[schema(value_type = shape::FencingToken)]
    fencing_token: String,
    /// When its outcome is no longer waited for, by the store's clock.
    #[schema(value_type = shape::Moment)]
    deadline: Timestamp,
    /// When the claim lapses unless a heartbeat comes, by the store's clock.
    #[schema(value_type = shape::Moment)]
    claim_expires_at: Timestamp,
}

impl From<ClaimedTask> for Task {
    fn from(task: ClaimedTask) -> Self {
        let undone = task.action == Action::Compensate;
        Task {
            task_id: task.task_id,
            task_token: task.task_token,
            handler: task.handler,
            action: task.action,
            saga_id: task.saga_id,
            saga_name: task.saga_name,
            step: task.step,
            parameters: task.parameters,
            context: task.context,
            is_completed: undone.then_some(task.original_result.is_some()),
            original_result: task.original_result,
            idempotency_key: task.idempotency_key,
            undo_key: task.undo_key,
            scheduled_time: task.scheduled_time,
            attempt: task.attempt,
            fencing_token: task.fencing_token.to_string(),
            deadline: task.deadline,
            claim_expires_at: task.claim_expires_at,
        }
    }
}

/// Poll for tasks
///
/// Each is given to one worker at a time, which sends heartbeats while it works. It can wait until
/// there is one.
#[utoipa::path(
    post,
    path = "/v1/tasks/poll",
    operation_id = "poll_tasks",
    tag = "tasks",
    request_body = PollBody,
    responses((status = 200, description = "Tasks, or none.", body = Tasks)),
)]
async fn poll(
    State(app): State<App>,
    JsonBody(body): JsonBody<PollBody>,
) -> Result<Json<Tasks>, Problem> {
    let wish = body.into_wish();
    let waiting = match wish.wait {
        Duration::ZERO => None,
        _ => Some(app.waiting_permit()?),
    };
    let bay = app.bay.clone();
    let work = async move {
        let tasks = poll_until_the_end(&app, &wish).await;
        drop(waiting);
        tasks
    };
    let undo = move |tasks: lockbay::Result<Vec<ClaimedTask>>| async move {
        for task in tasks.unwrap_or_default() {
            give_back(&bay, &task).await;
        }
    };
    let tasks = see_through(work, undo).await??;
    Ok(Json(Tasks { tasks: tasks.into_iter().map(Task::from).collect() }))
}

/// A poll does not wait past the end of this server, and loses nothing that it was given by then.
async fn poll_until_the_end(app: &App, wish: &TaskPoll) -> lockbay::Result<Vec<ClaimedTask>> {
    let mut poll = std::pin::pin!(app.bay.poll(wish));
    tokio::select! {
        biased;
        tasks = &mut poll => return tasks,
        () = app.stopping.cancelled() => app.bay.tasks().close(),
    }
    poll.await
}

async fn give_back(bay: &LockBay, task: &ClaimedTask) {
    if let Err(error) = bay.tasks().give_back(&task.task_id, &task.task_token).await {
        tracing::warn!(task = %task.task_id, %error, "abandoned task not given back, it lapses");
    }
}

/// A worker is at it still.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HeartbeatTask)]
struct HeartbeatBody {
    /// As it was received.
    #[schema(pattern = "^(0|[1-9][0-9]{0,18})$")]
    task_token: String,
}

/// A task that its worker keeps.
#[derive(Serialize, ToSchema)]
#[schema(as = RenewedTask)]
struct Renewed {
    task_id: String,
    /// When the claim lapses unless another heartbeat comes, by the store's clock.
    #[schema(value_type = shape::Moment)]
    claim_expires_at: Timestamp,
}

/// Keep a task
///
/// Its worker is at it still, and the claim lasts as long again.
#[utoipa::path(
    post,
    path = "/v1/tasks/{task_id}/heartbeat",
    operation_id = "heartbeat_task",
    tag = "tasks",
    params(("task_id" = inline(shape::TaskId), Path, description = "The task.")),
    request_body = HeartbeatBody,
    responses((status = 200, description = "The task is yours still.", body = Renewed), Conflict, Unprocessable),
)]
async fn heartbeat(
    State(app): State<App>,
    Name(task_id): Name,
    JsonBody(body): JsonBody<HeartbeatBody>,
) -> Result<Json<Renewed>, Problem> {
    let claim_expires_at = app.bay.tasks().heartbeat(&task_id, &body.task_token).await?;
    Ok(Json(Renewed { task_id, claim_expires_at }))
}

/// How a task ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TaskStatus)]
enum Outcome {
    Completed,
    Failed,
}

/// A task that has ended.
#[derive(Serialize, ToSchema)]
#[schema(as = EndedTask)]
struct Ended {
    task_id: String,
    status: Outcome,
}

/// A task is done.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CompleteTask)]
struct CompleteBody {
    /// As it was received.
    #[schema(pattern = "^(0|[1-9][0-9]{0,18})$")]
    task_token: String,
    /// What it returns, at most 1 MiB.
    #[schema(value_type = Value)]
    result: lockbay::Json,
}

/// Say that a task is done
///
/// The saga goes on with its result. Said twice with the same result, it succeeds twice.
#[utoipa::path(
    post,
    path = "/v1/tasks/{task_id}/complete",
    operation_id = "complete_task",
    tag = "tasks",
    params(("task_id" = inline(shape::TaskId), Path, description = "The task.")),
    request_body = CompleteBody,
    responses((status = 200, description = "The task is done.", body = Ended), Conflict, Unprocessable),
)]
async fn complete(
    State(app): State<App>,
    Name(task_id): Name,
    JsonBody(body): JsonBody<CompleteBody>,
) -> Result<Json<Ended>, Problem> {
    app.bay.tasks().complete(&task_id, &body.task_token, body.result).await?;
    Ok(Json(Ended { task_id, status: Outcome::Completed }))
}

/// A task failed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FailTask)]
struct FailBody {
    /// As it was received.
    #[schema(pattern = "^(0|[1-9][0-9]{0,18})$")]
    task_token: String,
    /// Why; what is beyond 4,096 characters is not kept.
    error: String,
    /// Whoever does not say has not ruled an effect out.
    #[serde(default)]
    #[schema(value_type = shape::TaskEffect)]
    effect: TaskEffect,
    /// Whether another attempt may help, if there is no effect; `true` by default.
    #[serde(default = "yes")]
    retryable: bool,
}

fn yes() -> bool {
    true
}

/// Say that a task failed
///
/// What becomes of it is the saga's to decide: it is tried again, looked into, or the saga goes
/// back.
#[utoipa::path(
    post,
    path = "/v1/tasks/{task_id}/fail",
    operation_id = "fail_task",
    tag = "tasks",
    params(("task_id" = inline(shape::TaskId), Path, description = "The task.")),
    request_body = FailBody,
    responses((status = 200, description = "The task has failed.", body = Ended), Conflict, Unprocessable),
)]
async fn fail(
    State(app): State<App>,
    Name(task_id): Name,
    JsonBody(body): JsonBody<FailBody>,
) -> Result<Json<Ended>, Problem> {
    let FailBody { task_token, error, effect, retryable } = body;
    let failure = TaskFailure { error, effect, retryable };
    app.bay.tasks().fail(&task_id, &task_token, failure).await?;
    Ok(Json(Ended { task_id, status: Outcome::Failed }))
}
