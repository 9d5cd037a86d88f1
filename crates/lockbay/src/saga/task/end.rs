//! What a worker says of a task that it has: still at it, done, failed.
//!
//! Every end is a commit under the claim, so that one which lapsed or was withdrawn is refused.
//! What was already recorded under the same token is confirmed: the first reply may have been lost.

use std::time::Duration;

use super::record::{Found, Outcome, State, Task, key_of, place_of};
use super::{TaskFailure, Tasks};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::metrics::Metric;
use crate::saga::definition::check_payload;
use crate::saga::record::encode;
use crate::store::{Commit, Deadline, Fence, Guard, Key, Reply, Revision, Write};

/// How much of an error message is kept.
const MAX_ERROR_CHARS: usize = 4_096;

/// What a worker's token is worth.
enum Standing {
    Holds(Held),
    /// Its task has ended under this token, like this.
    Ended(Outcome),
    Gone,
}

/// A claim that was there at `now`; whether it has lapsed is for the commit's guard to say.
struct Held {
    key: Key,
    fence: Fence,
    task: Task,
    now: Timestamp,
}

impl Tasks {
    /// Extends the claim of a task to its full length from now, and returns when it lapses. Two
    /// round trips.
    ///
    /// # Errors
    /// `Fenced` if the claim has lapsed, or the task has ended or was withdrawn: stop then.
    pub async fn heartbeat(&self, task_id: &str, task_token: &str) -> Result<Timestamp> {
        let Standing::Holds(held) = self.standing(task_id, task_token).await? else {
            return Err(fenced(task_id));
        };
        let Held { key, fence, task, .. } = held;
        let lease = lease_of(&task);
        let touch = Write::Touch { key: key.clone(), ttl: lease };
        let commit = Commit::new(key.partition, vec![Guard::Held(fence)], vec![touch], Vec::new())?;
        match self.0.store.commit(&commit).await? {
            Reply::Committed { now, .. } => Ok(now + lease),
            Reply::Conflict { .. } => Err(fenced(task_id)),
        }
    }

    /// Records that a task is done, with its result. Two round trips. For a probe it says that the
    /// step was done, with that result.
    ///
    /// Said again with the same token and result, it succeeds again, through any instance until
    /// the saga has gone on, and later through this one.
    ///
    /// # Errors
    /// `Fenced` if the claim has lapsed or the task was withdrawn. `KeyReused` if it ended under
    /// this token with something else, which stays. `Invalid` if the result is over its limit, or
    /// readers would disagree about it.
    pub async fn complete(&self, task_id: &str, task_token: &str, result: Json) -> Result<()> {
        check_payload("result", &result)?;
        self.end(task_id, task_token, Outcome::Done { result }).await
    }

    /// Records that a task failed. Two round trips. As [`complete`](Tasks::complete) if it is said
    /// again.
    ///
    /// # Errors
    /// As [`complete`](Tasks::complete).
    pub async fn fail(&self, task_id: &str, task_token: &str, failure: TaskFailure) -> Result<()> {
        let error = failure.error.chars().take(MAX_ERROR_CHARS).collect();
        self.end(task_id, task_token, TaskFailure { error, ..failure }.into()).await
    }

    /// Puts a task back into the queue that its worker was never told of, so that another gets it.
    ///
    /// # Errors
    /// `Fenced` if the claim is gone.
    pub async fn give_back(&self, task_id: &str, task_token: &str) -> Result<()> {
        let Standing::Holds(held) = self.standing(task_id, task_token).await? else {
            return Err(fenced(task_id));
        };
        let Held { key, fence, task, now } = held;
        let place = place_of(&key, &task);
        let deadline = Deadline::After(Timestamp::from_micros(task.deadline_us).since(now));
        let open = Task { state: State::Open, ..task };
        let writes = vec![
            Write::Put { key: key.clone(), value: encode(&open)?, deadline },
            Write::Mark { key: place.clone() },
        ];
        let commit = Commit::new(key.partition, vec![Guard::Held(fence)], writes, vec![place])?;
        match self.0.store.commit(&commit).await? {
            Reply::Committed { .. } => Ok(()),
            Reply::Conflict { .. } => Err(fenced(task_id)),
        }
    }

    async fn end(&self, task_id: &str, task_token: &str, outcome: Outcome) -> Result<()> {
        let digest = outcome.digest()?;
        let end = (task_id.to_owned(), token_of(task_token)?.number());
        if let Some(said) = self.0.ends.get(&end) {
            return confirm(task_id, said == digest);
        }
        let Held { key, fence, task, .. } = match self.standing(task_id, task_token).await? {
            Standing::Holds(held) => held,
            Standing::Ended(kept) => return confirm(task_id, kept.digest()? == digest),
            Standing::Gone => return Err(fenced(task_id)),
        };
        let metric = match outcome {
            Outcome::Done { .. } => Metric::TasksCompleted,
            Outcome::Failed { .. } => Metric::TasksFailed,
        };
        let ended = Task { state: State::Ended { token: end.1, outcome }, ..task };
        let value = encode(&ended)?;
        let put = Write::Put { key: key.clone(), value, deadline: Deadline::Never };
        let guards = vec![Guard::Held(fence)];
        let commit = Commit::new(key.partition, guards, vec![put], vec![key])?;
        match self.0.store.commit(&commit).await? {
            Reply::Committed { .. } => {
                self.0.metrics.count(metric);
                self.0.ends.insert(end, digest);
                Ok(())
            }
            Reply::Conflict { found, .. } => {
                // A copy of this very call may have been faster.
                match found.map(|record| Found::of(&record)).transpose()?.map(|found| found.task) {
                    Some(Task { state: State::Ended { token, outcome }, .. }) if token == end.1 => {
                        confirm(task_id, outcome.digest()? == digest)
                    }
                    Some(_) | None => Err(fenced(task_id)),
                }
            }
        }
    }

    async fn standing(&self, task_id: &str, task_token: &str) -> Result<Standing> {
        let (key, token) = (key_of(task_id)?, token_of(task_token)?);
        let read = self.0.store.get(std::slice::from_ref(&key)).await?;
        let Some(record) = read.records.into_iter().flatten().next() else {
            return Ok(Standing::Gone);
        };
        let Found { revision, task, .. } = Found::of(&record)?;
        Ok(match &task.state {
            State::Claimed { .. } if revision == token => {
                let fence = Fence { key: key.clone(), token };
                Standing::Holds(Held { key, fence, task, now: read.now })
            }
            State::Ended { token: ended, outcome } if *ended == token.number() => {
                Standing::Ended(outcome.clone())
            }
            State::Open | State::Claimed { .. } | State::Ended { .. } => Standing::Gone,
        })
    }
}

fn lease_of(task: &Task) -> Duration {
    match task.state {
        State::Claimed { lease_us, .. } => Duration::from_micros(lease_us),
        State::Open | State::Ended { .. } => Duration::ZERO,
    }
}

fn token_of(text: &str) -> Result<Revision> {
    let number = text.parse().ok().filter(|number: &u64| number.to_string() == text);
    number
        .map(Revision::new)
        .ok_or_else(|| Error::invalid("a task_token is given back as it was received"))
}

fn confirm(task_id: &str, same: bool) -> Result<()> {
    if same {
        return Ok(());
    }
    let message = format!("task {task_id} ended before with something else, which stays");
    Err(Error::new(ErrorKind::KeyReused, message))
}

fn fenced(task_id: &str) -> Error {
    let message = format!(
        "the claim of task {task_id} is gone: it lapsed, the task was withdrawn, or it ended"
    );
    Error::new(ErrorKind::Fenced, message)
}
