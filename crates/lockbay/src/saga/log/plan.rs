//! What is to be done next, and what the outcome of an attempt comes to.

use std::time::Duration;

use super::entry::{Entry, Moment};
use super::{MAX_TAKEOVERS, Phase, State, StepState};
use crate::clock::Timestamp;
use crate::json::Json;
use crate::saga::definition::Definition;

/// The first pause before another attempt; it doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause before another attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Something to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Task {
    Execute(usize),
    Probe(usize),
    Undo(usize),
    /// Enter that the deadline has passed.
    TimeOut,
    /// Enter that the saga was taken over too often.
    GiveUp,
}

/// What is to be done now, and when to ask again if nothing happens before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Todo {
    pub(crate) tasks: Vec<Task>,
    pub(crate) wake_at: Option<Timestamp>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done(Json),
    /// Without effect.
    Failed {
        error: String,
        may_retry: bool,
    },
    Unknown {
        error: String,
    },
    /// A probe found that there is no effect.
    NotDone,
    /// There is nobody who could tell.
    NoProbe,
    /// Nobody can do it.
    Missing(String),
}

impl State {
    /// What is to be done now. What is in progress already is named again.
    pub(crate) fn todo(&self, definition: &Definition, now: Timestamp) -> Todo {
        let mut todo = Todo::default();
        if self.status(definition).is_terminal() || self.is_parked() {
            return todo;
        }
        if self.takeovers > MAX_TAKEOVERS {
            todo.tasks.push(Task::GiveUp);
            return todo;
        }
        if self.goes_back(definition) {
            let waits = self.undo_waits(definition);
            for (step, state) in self.steps.iter().enumerate() {
                if state.needs_undo() && !waits[step] {
                    todo.add(Task::Undo(step), state, now);
                }
            }
            return todo;
        }
        if self.turned.is_none() && !self.is_past_pivot(definition) {
            let deadline = self.started + Duration::from_micros(definition.timeout_us);
            if deadline <= now {
                todo.tasks.push(Task::TimeOut);
                return todo;
            }
            todo.wake_at = Some(deadline);
        }
        for (step, state) in self.steps.iter().enumerate() {
            if state.phase == Phase::Open && self.is_ready(definition, step) {
                let probed = self.is_probed(definition, step);
                todo.add(if probed { Task::Probe(step) } else { Task::Execute(step) }, state, now);
            }
        }
        todo
    }

    /// The entry that an attempt's outcome comes to. `chance` is a random number below 2^32, which
    /// spreads those that try again.
    pub(crate) fn judge(
        &self,
        definition: &Definition,
        task: Task,
        outcome: Outcome,
        now: Timestamp,
        chance: u32,
    ) -> Entry {
        let (step, back) = match task {
            Task::Execute(step) | Task::Probe(step) => (step, false),
            Task::Undo(step) => (step, true),
            Task::TimeOut => return Entry::TimedOut,
            Task::GiveUp => {
                let why = format!("taken over {} times without getting on", self.takeovers);
                return Entry::Stuck { step: None, why };
            }
        };
        match outcome {
            Outcome::Missing(why) => Entry::Stuck { step: Some(step), why },
            Outcome::Done(result) if back => Entry::Undone { step, result },
            Outcome::Done(result) => Entry::Done { step, result },
            Outcome::Failed { error, may_retry } if back => {
                let retry_at = self.undo_again(definition, step, now, chance);
                Entry::UndoFailed { step, error, retry_at: retry_at.filter(|_| may_retry) }
            }
            Outcome::Unknown { error } if back => {
                let retry_at = self.undo_again(definition, step, now, chance);
                Entry::UndoFailed { step, error, retry_at }
            }
            Outcome::Failed { error, may_retry } => {
                let retry_at = self.again(definition, step, now, chance).filter(|_| may_retry);
                Entry::Failed { step, error, sure: false, retry_at }
            }
            Outcome::Unknown { error } => {
                let retry_at = self.again(definition, step, now, chance);
                Entry::Unknown { step, error, retry_at }
            }
            Outcome::NotDone => {
                let error = "a probe found no effect".into();
                let retry_at = self.again(definition, step, now, chance);
                Entry::Failed { step, error, sure: true, retry_at }
            }
            Outcome::NoProbe => {
                let error = "its outcome is unknown, and it can neither be repeated nor probed";
                Entry::Unknown { step, error: error.into(), retry_at: None }
            }
        }
    }

    /// When a step is to be tried again, if its budget allows it.
    fn again(
        &self,
        definition: &Definition,
        step: usize,
        now: Timestamp,
        chance: u32,
    ) -> Option<Moment> {
        let failures = self.steps[step].failures;
        let may = !self.goes_back(definition) && failures < definition.steps[step].retries;
        may.then(|| (now + pause(failures, chance)).into())
    }

    /// When a compensation is to be tried again, if its own budget allows it, in number and time.
    fn undo_again(
        &self,
        definition: &Definition,
        step: usize,
        now: Timestamp,
        chance: u32,
    ) -> Option<Moment> {
        let failures = self.steps[step].undo_failures;
        let at = now + pause(failures, chance);
        let since = self.turned.as_ref().map_or(now, |(_, since)| *since);
        let since = self.operated.map_or(since, |operated| since.max(operated));
        let until = since + Duration::from_micros(definition.timeout_us);
        let may = failures < definition.steps[step].undo_retries && at <= until;
        may.then(|| at.into())
    }
}

impl Todo {
    /// Adds a task if it is due, or the moment when it will be.
    fn add(&mut self, task: Task, state: &StepState, now: Timestamp) {
        match state.retry_at.map(Timestamp::from).filter(|at| *at > now) {
            None => self.tasks.push(task),
            Some(at) => self.wake_at = Some(self.wake_at.map_or(at, |wake| wake.min(at))),
        }
    }
}

/// The pause after so many failures: doubling up to a limit, of which half is chance.
fn pause(failures: u32, chance: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    full / 2 + (full / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}
