//! What can stand in a saga's log.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::json::Json;

/// What turned a saga around.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    Failed { step: usize, error: String },
    TimedOut,
    Cancelled { actor: String, reason: String },
}

/// What a person decides about a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verb {
    /// Go back.
    Cancel,
    /// Try again what is stuck.
    Resume,
    /// Try one step again, perhaps with other parameters.
    Retry { step: usize, parameters: Option<Json> },
    /// Go on without one step, forward or back.
    Skip { step: usize },
    /// The effect of a step is there, with this result.
    ResolveDone { step: usize, result: Json },
    /// The effect of a step is not there.
    ResolveUndone { step: usize },
    /// Do nothing more.
    Abandon,
}

/// One entry of a saga's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    /// An attempt begins, of a step whose attempts are announced.
    Began { step: usize },
    /// A step is done.
    Done { step: usize, result: Json },
    /// An attempt failed without effect; a `sure` one says so of all attempts before it, too.
    Failed {
        step: usize,
        error: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        sure: bool,
        retry_at: Option<Moment>,
    },
    /// An attempt ended, and its effect is unknown.
    Unknown { step: usize, error: String, retry_at: Option<Moment> },
    /// The effect of a step is undone.
    Undone { step: usize, result: Json },
    /// A compensation failed, or its outcome is unknown, which is the same to it.
    UndoFailed { step: usize, error: String, retry_at: Option<Moment> },
    /// Another executor goes on; what ran before may have had its effect.
    TakenOver { by: String },
    /// The deadline has passed.
    TimedOut,
    /// A step cannot go on, or (without a step) the whole saga cannot.
    Stuck { step: Option<usize>, why: String },
    /// A person decided. A saga that nobody executed gets an executor with it.
    Operated { verb: Verb, actor: String, reason: String, session: Option<String> },
}

/// A moment in microseconds since 1970, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Moment(u64);

impl From<Timestamp> for Moment {
    fn from(time: Timestamp) -> Self {
        Moment(time.as_micros())
    }
}

impl From<Moment> for Timestamp {
    fn from(moment: Moment) -> Self {
        Timestamp::from_micros(moment.0)
    }
}

impl Entry {
    /// Whether another executor goes on from here.
    pub(crate) fn changes_executor(&self) -> bool {
        match self {
            Entry::TakenOver { .. } | Entry::Operated { session: Some(_), .. } => true,
            Entry::Began { .. }
            | Entry::Done { .. }
            | Entry::Failed { .. }
            | Entry::Unknown { .. }
            | Entry::Undone { .. }
            | Entry::UndoFailed { .. }
            | Entry::TimedOut
            | Entry::Stuck { .. }
            | Entry::Operated { session: None, .. } => false,
        }
    }

    /// The step that it speaks of.
    pub(crate) fn step(&self) -> Option<usize> {
        match self {
            Entry::Began { step }
            | Entry::Done { step, .. }
            | Entry::Failed { step, .. }
            | Entry::Unknown { step, .. }
            | Entry::Undone { step, .. }
            | Entry::UndoFailed { step, .. } => Some(*step),
            Entry::Stuck { step, .. } => *step,
            Entry::Operated { verb, .. } => match verb {
                Verb::Retry { step, .. }
                | Verb::Skip { step }
                | Verb::ResolveDone { step, .. }
                | Verb::ResolveUndone { step } => Some(*step),
                Verb::Cancel | Verb::Resume | Verb::Abandon => None,
            },
            Entry::TakenOver { .. } | Entry::TimedOut => None,
        }
    }
}
