//! `/v1/tasks`: steps of sagas for workers that poll, and what they say of them.
//!
//! Parameters, contexts and results go through as the text they came in. A worker that has gone
//! before it could be told of its tasks was not given them.

use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use lockbay::LockBay;
use lockbay::clock::Timestamp;
use lockbay::saga::{Action, ClaimedTask, TaskEffect, TaskFailure, TaskPoll};
use serde::{Deserialize, Serialize};

use super::App;
use super::abandoned::see_through;
use super::extract::{JsonBody, Name, Seconds};
use super::problem::Problem;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/tasks/poll", post(poll))
        .route("/v1/tasks/{task_id}/heartbeat", post(heartbeat))
        .route("/v1/tasks/{task_id}/complete", post(complete))
        .route("/v1/tasks/{task_id}/fail", post(fail))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PollBody {
    handlers: Vec<String>,
    holder: String,
    wait_seconds: Option<Seconds>,
    max: Option<usize>,
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

#[derive(Serialize)]
struct Tasks {
    tasks: Vec<Task>,
}

#[derive(Serialize)]
struct Task {
    task_id: String,
    task_token: String,
    handler: String,
    action: Action,
    saga_id: String,
    saga_name: String,
    step: String,
    parameters: lockbay::Json,
    context: lockbay::Json,
    original_result: Option<lockbay::Json>,
    idempotency_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    undo_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_time: Option<Timestamp>,
    attempt: u32,
    fencing_token: String,
    deadline: Timestamp,
    claim_expires_at: Timestamp,
}

impl From<ClaimedTask> for Task {
    fn from(task: ClaimedTask) -> Self {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeartbeatBody {
    task_token: String,
}

#[derive(Serialize)]
struct Renewed {
    task_id: String,
    claim_expires_at: Timestamp,
}

async fn heartbeat(
    State(app): State<App>,
    Name(task_id): Name,
    JsonBody(body): JsonBody<HeartbeatBody>,
) -> Result<Json<Renewed>, Problem> {
    let claim_expires_at = app.bay.tasks().heartbeat(&task_id, &body.task_token).await?;
    Ok(Json(Renewed { task_id, claim_expires_at }))
}

#[derive(Serialize)]
struct Ended {
    task_id: String,
    status: &'static str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompleteBody {
    task_token: String,
    result: lockbay::Json,
}

async fn complete(
    State(app): State<App>,
    Name(task_id): Name,
    JsonBody(body): JsonBody<CompleteBody>,
) -> Result<Json<Ended>, Problem> {
    app.bay.tasks().complete(&task_id, &body.task_token, body.result).await?;
    Ok(Json(Ended { task_id, status: "completed" }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailBody {
    task_token: String,
    error: String,
    /// Whoever does not say has not ruled an effect out.
    #[serde(default)]
    effect: TaskEffect,
    #[serde(default = "yes")]
    retryable: bool,
}

fn yes() -> bool {
    true
}

async fn fail(
    State(app): State<App>,
    Name(task_id): Name,
    JsonBody(body): JsonBody<FailBody>,
) -> Result<Json<Ended>, Problem> {
    let FailBody { task_token, error, effect, retryable } = body;
    let failure = TaskFailure { error, effect, retryable };
    app.bay.tasks().fail(&task_id, &task_token, failure).await?;
    Ok(Json(Ended { task_id, status: "failed" }))
}
