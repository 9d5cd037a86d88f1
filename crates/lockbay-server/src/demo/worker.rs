//! A worker as it could be written in any language: it polls for tasks of one handler and says how
//! each ended. Both sagas of the tour that need one are made here, too.

use anyhow::Context;
use serde_json::{Value, json};

use super::money::{BUYER, CURRENCY, SELLER};
use super::stage::{Answered, Stage};
use super::tell::short;

/// What the worker does.
const HANDLER: &str = "ship_parcel";
/// How long a poll waits for a task, and how long the worker may take over it.
const WAIT_SECONDS: u64 = 15;
const LEASE_SECONDS: u64 = 60;

/// A task that the worker was given.
pub(super) struct Task {
    id: String,
    token: String,
}

/// Makes the worker known: what nobody does cannot be asked for.
pub(super) async fn turn_up(stage: &Stage, at: usize) -> anyhow::Result<()> {
    let reply = stage.post(at, &["v1", "tasks", "poll"], poll_body(0)).await?;
    anyhow::ensure!(reply.status == 200, "the worker was not let in: {}", reply.refusal());
    Ok(())
}

/// Asks at once for another task, and gives how many there were.
pub(super) async fn more(stage: &Stage, at: usize) -> anyhow::Result<Option<usize>> {
    let path = ["v1", "tasks", "poll"];
    let reply = stage.send(at, &path, None, poll_body(0), "another worker asks for work").await?;
    let given = reply.body["tasks"].as_array().map(Vec::len);
    let count = given.map_or_else(|| reply.refusal(), |given| format!("{given} tasks"));
    stage.tell.answered(reply.status, &count);
    Ok(given)
}

/// Waits for a task, and takes it.
pub(super) async fn take(stage: &Stage, at: usize) -> anyhow::Result<Task> {
    let path = ["v1", "tasks", "poll"];
    let what = format!("the worker asks for work: {HANDLER}");
    let reply = stage.send(at, &path, None, poll_body(WAIT_SECONDS), &what).await?;
    let task = &reply.body["tasks"][0];
    let member = |name: &str| task[name].as_str().map(str::to_owned);
    let given = || Some(Task { id: member("task_id")?, token: member("task_token")? });
    let given = given().context("the worker was given no task")?;
    let what = format!("task {}: {}", short(&given.id), member("step").unwrap_or_default());
    stage.tell.answered(reply.status, &what);
    Ok(given)
}

/// Says that a task failed, and left nothing behind.
pub(super) async fn fail(stage: &Stage, at: usize, task: &Task, error: &str) -> Answered {
    let body =
        json!({ "task_token": task.token, "error": error, "effect": "none", "retryable": false });
    stage.send(at, &["v1", "tasks", &task.id, "fail"], None, body, error).await
}

/// Says that a task is done.
pub(super) async fn complete(stage: &Stage, at: usize, task: &Task, result: Value) -> Answered {
    let what = format!("done: {result}");
    let body = json!({ "task_token": task.token, "result": result });
    stage.send(at, &["v1", "tasks", &task.id, "complete"], None, body, &what).await
}

fn poll_body(wait_seconds: u64) -> Value {
    json!({ "handlers": [HANDLER], "holder": "parcel-worker", "wait_seconds": wait_seconds,
        "max": 1, "lease_seconds": LEASE_SECONDS })
}

/// A saga of steps on the ledger and one of the worker, in the order of their handlers.
pub(super) fn order(name: &str, amount: &str, handlers: &[&str]) -> Value {
    let order =
        json!({ "user_id": BUYER, "seller_id": SELLER, "amount": amount, "currency": CURRENCY });
    let step = |handler: &&str| {
        let name = handler.rsplit('.').next().unwrap_or(handler);
        json!({ "name": name, "handler": handler, "parameters": order })
    };
    json!({ "saga_name": name, "steps": handlers.iter().map(step).collect::<Vec<_>>() })
}

/// The handlers that the sagas of the tour are made of.
pub(super) const CHECK: &str = "finance.validate_participants";
pub(super) const LOCK: &str = "finance.lock_funds";
pub(super) const ESCROW: &str = "finance.create_escrow";
pub(super) const SHIP: &str = HANDLER;
