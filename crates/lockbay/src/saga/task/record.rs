//! What is stored of a task: where it stands, what is asked, and its place in the queue.
//!
//! Where it stands is small, because executors look at it again and again; what is asked may be
//! large and is written once, in the same commit, and read by the worker that gets it. The place in
//! the queue is there while nobody has the task.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use super::{TaskEffect, TaskFailure};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::hex::hex;
use crate::json::Json;
use crate::saga::record::decode;
use crate::saga::step::{Action, StepContext};
use crate::store::{Key, Kind, Partition, Range, Record, Revision, Write};

/// An action of a step that is in progress. Key: the task id.
pub(crate) const TASK: Kind = Kind::new("task");
/// What is asked in it. Key: the task id.
pub(crate) const TASK_REQUEST: Kind = Kind::new("task-request");
/// Tasks that nobody has yet. Key: handler, time, task id. No value.
pub(crate) const TASK_QUEUE: Kind = Kind::index("task-queue");

/// Who asks: an attempt, under an executor. Both only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asker {
    pub(super) attempt: u32,
    pub(super) fencing_token: u64,
}

impl Asker {
    pub(super) fn of(context: &StepContext) -> Self {
        Asker { attempt: context.attempt, fencing_token: context.fencing_token.number() }
    }
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) handler: String,
    pub(super) by: Asker,
    /// When it was asked, for its place in the queue.
    pub(super) asked_us: u64,
    /// When its outcome is no longer waited for, by the store's clock.
    pub(super) deadline_us: u64,
    /// How large the request is, in bytes.
    pub(super) bytes: usize,
    pub(super) state: State,
}

impl Task {
    pub(super) fn is_claimed(&self) -> bool {
        matches!(self.state, State::Claimed { .. })
    }
}

/// Who has a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// Nobody has it. The record lapses when the attempt is over.
    Open,
    /// A worker has it; the token is the record's revision. Lapses with the claim.
    Claimed { holder: String, lease_us: u64 },
    /// A worker has said how it ended, under this token. Does not lapse.
    Ended { token: u64, outcome: Outcome },
}

/// How a worker says that a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Done { result: Json },
    Failed { error: String, effect: TaskEffect, retryable: bool },
}

impl From<TaskFailure> for Outcome {
    fn from(failure: TaskFailure) -> Self {
        let TaskFailure { error, effect, retryable } = failure;
        Outcome::Failed { error, effect, retryable }
    }
}

impl Outcome {
    /// By which a repetition is told from something else.
    ///
    /// # Errors
    /// `Invalid` for a result that readers would disagree about.
    pub(super) fn digest(&self) -> Result<[u8; 32]> {
        match self {
            Outcome::Done { result } => result.digest(),
            Outcome::Failed { error, effect, retryable } => {
                let text = format!("failed {effect:?} {retryable} {error}");
                Ok(Sha256::digest(text.as_bytes()).into())
            }
        }
    }
}

/// What is asked of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) action: Action,
    pub(super) saga_id: String,
    pub(super) saga_name: String,
    pub(super) step: String,
    pub(super) parameters: Json,
    pub(super) context: Json,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub(super) original_result: Option<Json>,
    pub(super) idempotency_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) undo_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scheduled_time: Option<Timestamp>,
}

/// What stands there is known, also if it is `null`.
fn known<'de, D: Deserializer<'de>>(written: D) -> std::result::Result<Option<Json>, D::Error> {
    Json::deserialize(written).map(Some)
}

impl Request {
    /// # Errors
    /// `Internal` if the saga's context is not an object.
    pub(super) fn of(context: &StepContext) -> Result<Self> {
        Ok(Request {
            action: context.action,
            saga_id: context.saga_id.to_string(),
            saga_name: context.saga_name().to_owned(),
            step: context.step.clone(),
            parameters: context.parameters.clone(),
            context: context.context.to_json()?,
            original_result: context.original_result.clone(),
            idempotency_key: context.idempotency_key.clone(),
            undo_key: (context.action == Action::Compensate).then(|| context.undo_key()),
            scheduled_time: context.scheduled_time,
        })
    }
}

/// A task as it was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) revision: Revision,
    pub(super) deadline: Option<Timestamp>,
    pub(super) task: Task,
}

impl Found {
    pub(super) fn of(record: &Record) -> Result<Self> {
        Ok(Found { revision: record.revision, deadline: record.deadline, task: decode(record)? })
    }

    pub(super) fn lapsed(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// How long until it lapses.
    pub(super) fn left(&self, now: Timestamp) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| deadline.since(now))
    }
}

/// The key of a task, which is known to whoever knows the step and the action.
pub(super) fn task_key(saga_id: &str, step: &str, action: Action) -> Key {
    let mut digest = Sha256::new();
    for part in [saga_id, step, action.name()] {
        // None of them has control characters, so this cannot be read in two ways.
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let id = hex(&digest.finalize()[..16]);
    Key::new(Partition::of(&id), TASK, id)
}

/// The key of a task by the id that a worker shows.
///
/// # Errors
/// `Invalid` if it cannot be one.
pub(super) fn key_of(task_id: &str) -> Result<Key> {
    if task_id.len() != 32 || !task_id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::invalid(format!("a task id has 32 hexadecimal digits: {task_id:?}")));
    }
    Ok(Key::new(Partition::of(task_id), TASK, task_id))
}

/// Where what is asked in a task is stored.
pub(super) fn request_key(task: &Key) -> Key {
    Key::new(task.partition, TASK_REQUEST, task.id.clone())
}

/// The place of a task in the queue.
pub(super) fn place_of(key: &Key, task: &Task) -> Key {
    let id = format!("{}{:016x}/{}", queue_of(&task.handler), task.asked_us, key.id);
    Key::new(key.partition, TASK_QUEUE, id)
}

/// The queue of a handler.
pub(super) fn queue(handler: &str) -> Range {
    Range::new(Partition::FIRST, TASK_QUEUE, queue_of(handler))
}

/// How places in the queue of a handler begin: no name is the beginning of another's.
pub(super) fn queue_of(handler: &str) -> String {
    format!("{}/", handler.replace('%', "%25").replace('/', "%2F"))
}

/// The task that stands at a place of the queue.
pub(super) fn task_at(place: &Key) -> Key {
    let id = place.id.rsplit('/').next().unwrap_or(&place.id);
    Key::new(place.partition, TASK, id)
}

/// Removes all that is stored of a task.
pub(super) fn remove(key: &Key, task: &Task) -> Vec<Write> {
    vec![
        Write::Delete { key: key.clone() },
        Write::Delete { key: request_key(key) },
        Write::Delete { key: place_of(key, task) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_queue_is_part_of_another() {
        let names = ["a", "a/b", "a%2Fb", "a%", "ab", "a/"];
        for one in names {
            for other in names.iter().filter(|other| **other != one) {
                assert!(!queue_of(other).starts_with(&queue_of(one)), "{one} and {other}");
            }
        }
    }

    #[test]
    fn a_task_is_found_by_its_place() {
        let key = task_key("s1", "charge", Action::Execute);
        let by = Asker { attempt: 1, fencing_token: 2 };
        let handler = "pay/out".into();
        let task = Task { handler, by, asked_us: 3, deadline_us: 4, bytes: 5, state: State::Open };
        assert_eq!(task_at(&place_of(&key, &task)), key);
        assert_eq!(key_of(&key.id).unwrap(), key);
        assert_ne!(task_key("s1", "charge", Action::Probe), key);
        assert!(key_of("../x").is_err());
    }
}
