//! Tasks: actions of steps that workers do, in whatever language, by asking for them.
//!
//! A worker polls for the tasks of its handlers, gets some under a claim, and says how each ended.
//! This service owns tasks from the moment an executor asks for one until its outcome is in the
//! saga's log. Its state is one small record for each action in progress, what is asked beside it,
//! and a place in a queue while nobody has it. It refuses to know what becomes of a saga: that an
//! outcome is unknown is all it says of a worker that has gone.
//!
//! The way of a task through the files: [`ask`] is the step of such a handler, [`errand`] puts a
//! task and waits for its end, [`poll`] gives it to a worker, [`end`] takes what the worker says;
//! [`record`] is what is stored.
//!
//! # What holds
//! A task is given to one worker. What a worker says counts only while its claim holds, and then it
//! counts even if the executor that asked has died: the next one heeds it and does not ask again. A
//! claim that lapsed leaves the outcome unknown. A task that was never given to anybody had no
//! effect.
//!
//! # What does not
//! A worker whose claim is gone may still act. The next one gets the same idempotency key.

mod ask;
mod end;
mod errand;
mod leftover;
mod poll;
mod record;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::handler::PullStep;
use super::step::Action;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::metrics::Metrics;
use crate::name::check_name;
use crate::store::{Revision, Store};

use ask::TaskStep;

pub(super) use leftover::{orphaned_places, orphaned_tasks};

/// The most handlers that one poll names.
pub const MAX_POLLED_HANDLERS: usize = 64;
/// The most tasks that one poll is given.
pub const MAX_POLLED_TASKS: usize = 100;
/// The longest that a poll waits for a task.
pub const MAX_POLL_WAIT: Duration = Duration::from_secs(60);
/// How long a claim lasts between heartbeats, at least, at most, and unless a poll says otherwise.
pub const MIN_TASK_LEASE: Duration = Duration::from_secs(1);
/// See [`MIN_TASK_LEASE`].
pub const MAX_TASK_LEASE: Duration = Duration::from_secs(3_600);
/// See [`MIN_TASK_LEASE`].
pub const DEFAULT_TASK_LEASE: Duration = Duration::from_secs(30);

/// How many polls of an instance look into the queue at once.
const LOOKS_AT_ONCE: usize = 8;
/// How many ends are remembered after their tasks are gone.
const REMEMBERED_ENDS: u64 = 10_000;

/// A worker's wish for tasks.
#[derive(Debug, Clone)]
pub struct TaskPoll {
    /// For which handlers.
    pub handlers: Vec<String>,
    /// Who asks, for people.
    pub holder: String,
    /// How many tasks it takes.
    pub max: usize,
    /// How long it waits if there is none.
    pub wait: Duration,
    /// How long it may be silent about a task before its claim lapses.
    pub lease: Duration,
}

impl TaskPoll {
    /// A wish for one task of these handlers, without waiting.
    pub fn new(handlers: Vec<String>, holder: impl Into<String>) -> Self {
        let (wait, lease) = (Duration::ZERO, DEFAULT_TASK_LEASE);
        TaskPoll { handlers, holder: holder.into(), max: 1, wait, lease }
    }

    /// Refuses what is outside the limits.
    pub(crate) fn check(&self) -> Result<()> {
        let count = self.handlers.len();
        if count == 0 || count > MAX_POLLED_HANDLERS {
            return Err(Error::invalid(format!(
                "a poll names 1 to {MAX_POLLED_HANDLERS} handlers, this names {count}"
            )));
        }
        for handler in &self.handlers {
            check_name("handler", handler, 128)?;
        }
        check_name("holder", &self.holder, 256)?;
        if self.max == 0 || self.max > MAX_POLLED_TASKS {
            let max = self.max;
            return Err(Error::invalid(format!("max is 1 to {MAX_POLLED_TASKS}, not {max}")));
        }
        if self.wait > MAX_POLL_WAIT {
            let wait = self.wait;
            return Err(Error::invalid(format!(
                "a poll waits {MAX_POLL_WAIT:?} at most, not {wait:?}"
            )));
        }
        if !(MIN_TASK_LEASE..=MAX_TASK_LEASE).contains(&self.lease) {
            let lease = self.lease;
            return Err(Error::invalid(format!(
                "the claim of a task lasts from {MIN_TASK_LEASE:?} to {MAX_TASK_LEASE:?} between \
                 heartbeats, not {lease:?}"
            )));
        }
        Ok(())
    }
}

/// A task that was given to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedTask {
    /// Which action of which step of which saga: the same over all its attempts.
    pub task_id: String,
    /// What the worker shows to end it.
    pub task_token: String,
    /// Of which handler.
    pub handler: String,
    /// What is to be done.
    pub action: Action,
    /// Which saga.
    pub saga_id: String,
    /// What kind of saga.
    pub saga_name: String,
    /// Which step.
    pub step: String,
    /// What the step was given.
    pub parameters: Json,
    /// What the saga was given, with the results of steps that are done.
    pub context: Json,
    /// What the execution returned, for a compensation; `None` if it is not known to have completed.
    pub original_result: Option<Json>,
    /// Names the execution, the same over all attempts and actions.
    pub idempotency_key: String,
    /// Names the compensation, for a compensation.
    pub undo_key: Option<String>,
    /// When it was due, if a schedule asks and no saga.
    pub scheduled_time: Option<Timestamp>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Grows when another executor takes the saga over.
    pub fencing_token: Revision,
    /// When its outcome is no longer waited for, by the store's clock.
    pub deadline: Timestamp,
    /// When the claim lapses unless a heartbeat comes, by the store's clock.
    pub claim_expires_at: Timestamp,
}

/// What a failed task leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskEffect {
    /// Nothing, and nothing will come. Of a probe: the step was not done, and will not be.
    None,
    /// Nobody knows.
    #[default]
    Unknown,
}

/// How a task failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// Why.
    pub error: String,
    /// Whether there may be an effect.
    pub effect: TaskEffect,
    /// Whether another attempt may help, if there is no effect; the saga's own policies decide
    /// where the effect is unknown. Of a probe that does not know: whether to ask again.
    pub retryable: bool,
}

/// The tasks of a namespace. Cheap to clone.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Those who were woken together look one after the other, so that most find the queue empty
    /// instead of losing a race.
    looks: Semaphore,
    /// What was said here of tasks whose records may be gone, by task and token: a reply may have
    /// been lost.
    ends: Cache<(String, u64), [u8; 32]>,
    /// Fires when nothing more is given out.
    closing: CancellationToken,
}

impl Tasks {
    pub(crate) fn new(store: Arc<dyn Store>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Tasks(Arc::new(Inner {
            store,
            clock,
            metrics,
            looks: Semaphore::new(LOOKS_AT_ONCE),
            ends: Cache::new(REMEMBERED_ENDS),
            closing: CancellationToken::new(),
        }))
    }

    /// Makes the steps of handlers whose workers poll.
    pub(crate) fn steps(&self) -> PullStep {
        let tasks = self.clone();
        Arc::new(move |handler: &str| Arc::new(TaskStep::new(tasks.clone(), handler)))
    }

    /// Gives nothing more out. Polls that wait end with what they have, and later ones are refused
    /// with `Unavailable`; workers go on to end what they were given.
    pub fn close(&self) {
        self.0.closing.cancel();
    }
}

fn shutting_down() -> Error {
    Error::new(ErrorKind::Unavailable, "this instance shuts down and gives out no more tasks")
}
