//! One run of a saga: the log's state, what is in flight, and the world as it really is.
//!
//! # What an executor owes to the machine
//! It starts only what `todo` names, once at a time, and enters `Began` before an attempt that is
//! announced. It enters the outcome of everything that it started, whatever was entered meanwhile.
//! On the way back it enters `Failed` for an unsettled step that it has not started. The deadline
//! and giving up are entered at once. A run here does just that; in a wide scope it starts things
//! one by one and in any order.
//!
//! # The world
//! An execution acts at most once for each step. One that was cut off, or whose outcome is
//! unknown, is *late*: it may have acted, or still will. A compensation and a probe settle that,
//! as their contracts say.

use std::time::Duration;

use super::super::{
    Entry, MAX_TAKEOVERS, Outcome, Phase, SagaStatus, State, StepState, Task, Verb,
};
use super::sagas::Saga;
use crate::clock::Timestamp;
use crate::json::Json;

/// What is so, or which law is broken.
pub(super) type Lawful<T = ()> = Result<T, String>;

/// What is really there of a step's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Effect {
    pub(super) present: bool,
    /// Whether an attempt that nobody waits for may have acted, or may still.
    pub(super) late: bool,
}

impl Effect {
    pub(super) const ABSENT: Effect = Effect { present: false, late: false };
    pub(super) const PRESENT: Effect = Effect { present: true, late: false };

    fn may_be_there(self) -> bool {
        self.present || self.late
    }

    fn lost(self) -> Effect {
        Effect { late: !self.present, ..self }
    }
}

/// How an attempt can end, what that costs of the faults, and what is there then.
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) cost: u8,
    pub(super) effect: Effect,
}

#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) state: State,
    pub(super) now: Timestamp,
    pub(super) world: Vec<Effect>,
    pub(super) flight: Vec<Option<Task>>,
    /// Faults that may still happen.
    pub(super) faults: u8,
    /// Whether a person may still come unasked.
    pub(super) visit: bool,
    /// What was entered since the run was looked at last.
    pub(super) entered: Vec<(Entry, Timestamp)>,
}

impl Run {
    pub(super) fn new(saga: &Saga) -> Self {
        let now = Timestamp::from_micros(1_000_000_000);
        let mut state = State::new(&saga.definition, now);
        if saga.scope.taken_over_often {
            state.takeovers = MAX_TAKEOVERS;
        }
        let steps = saga.definition.steps.len();
        Run {
            state,
            now,
            world: vec![Effect::ABSENT; steps],
            flight: vec![None; steps],
            faults: saga.scope.faults,
            visit: true,
            entered: Vec::new(),
        }
    }

    pub(super) fn status(&self, saga: &Saga) -> SagaStatus {
        self.state.status(&saga.definition)
    }

    /// Offers an entry, and says whether it was taken.
    pub(super) fn offer(&mut self, saga: &Saga, entry: Entry) -> Lawful<bool> {
        // In larger sagas this would only cost time: the entries are the same.
        let before = (self.flight.len() <= 3).then(|| self.state.clone());
        let ended = self.status(saga).is_terminal();
        if self.state.apply(&saga.definition, &entry, self.now).is_err() {
            let kept = before.is_none_or(|before| self.state == before);
            law(kept, || format!("a refused {entry:?} changed the state"))?;
            return Ok(false);
        }
        law(!ended, || format!("{entry:?} was taken after the end"))?;
        if let Some(before) = before {
            budgets_apart(&before, &self.state, &entry)?;
        }
        self.entered.push((entry, self.now));
        Ok(true)
    }

    /// Enters what must be taken.
    pub(super) fn enter(&mut self, saga: &Saga, entry: Entry) -> Lawful {
        let taken = self.offer(saga, entry.clone())?;
        law(taken, || format!("{entry:?} was refused after {:?}", self.entered))
    }

    /// Does what an executor does at once, until there is nothing of it left.
    pub(super) fn settle(&mut self, saga: &Saga) -> Lawful {
        let definition = &saga.definition;
        loop {
            let open = (0..self.flight.len()).find(|at| {
                let state = &self.state.steps[*at];
                state.is_unsettled() && self.flight[*at].is_none()
            });
            let ended = self.status(saga).is_terminal();
            if let Some(step) = open.filter(|_| self.state.goes_back(definition) && !ended) {
                let outcome = Outcome::Failed { error: "not begun".into(), may_retry: false };
                self.enter(saga, self.judge(saga, Task::Execute(step), outcome))?;
                continue;
            }
            let tasks = self.state.todo(definition, self.now).tasks;
            let next = tasks.into_iter().find(|task| match step_of(*task) {
                None => true,
                Some(step) => !saga.scope.wide && self.flight[step].is_none(),
            });
            match next {
                Some(task) if step_of(task).is_some() => self.start(saga, task)?,
                Some(task) => {
                    let entry = self.judge(saga, task, Outcome::NotDone);
                    self.enter(saga, entry)?;
                }
                None => return self.holds(saga),
            }
        }
    }

    pub(super) fn judge(&self, saga: &Saga, task: Task, outcome: Outcome) -> Entry {
        self.state.judge(&saga.definition, task, outcome, self.now, 0)
    }

    /// Starts an attempt, if that is lawful.
    pub(super) fn start(&mut self, saga: &Saga, task: Task) -> Lawful {
        let step = step_of(task).expect("an attempt is of a step");
        let state = &self.state.steps[step];
        let definition = &saga.definition.steps[step];
        match task {
            Task::Undo(_) => {
                law(state.undo_failures <= definition.undo_retries, || "undone too often".into())?;
                for follower in &saga.followers[step] {
                    let skipped = self.state.steps[*follower].phase == Phase::Skipped;
                    law(skipped || !self.may_have_acted(*follower), || {
                        format!("{step} is undone before {follower}, which depends on it")
                    })?;
                }
                let steps = saga.definition.steps.iter().enumerate();
                for (pivot, _) in steps.filter(|(_, step)| step.pivot) {
                    law(!self.may_have_acted(pivot), || format!("{step} is undone past a pivot"))?;
                }
            }
            Task::Execute(_) => {
                law(state.failures <= definition.retries, || "executed too often".into())?;
                law(!definition.once || !self.world[step].may_be_there(), || {
                    format!("{step} is executed again, in doubt")
                })?;
                if definition.is_announced() {
                    self.enter(saga, Entry::Began { step })?;
                }
            }
            Task::Probe(_) | Task::TimeOut | Task::GiveUp => {}
        }
        self.flight[step] = Some(task);
        Ok(())
    }

    fn may_have_acted(&self, step: usize) -> bool {
        self.world[step].may_be_there() || matches!(self.flight[step], Some(Task::Execute(_)))
    }

    /// How an attempt that is in flight can end.
    pub(super) fn ends(&self, saga: &Saga, task: Task) -> Vec<End> {
        let step = step_of(task).expect("an attempt is of a step");
        let effect = self.world[step];
        let done = || Outcome::Done(Json::null());
        let end = |outcome, cost, effect| End { outcome, cost, effect };
        let failed = |may_retry| Outcome::Failed { error: "failed".into(), may_retry };
        let unknown = || Outcome::Unknown { error: "unknown".into() };
        let mut ends = vec![
            end(failed(true), 1, effect),
            end(failed(false), 1, effect),
            end(Outcome::Missing("missing".into()), 1, effect),
        ];
        match task {
            Task::Execute(_) => {
                ends.push(end(done(), 0, Effect::PRESENT));
                ends.push(end(unknown(), 1, effect.lost()));
            }
            Task::Undo(_) => {
                ends.push(end(done(), 0, Effect::ABSENT));
                ends.push(end(unknown(), 1, effect));
                ends.push(end(unknown(), 1, Effect::ABSENT));
            }
            Task::Probe(_) if saga.has_probe => {
                ends.push(end(unknown(), 1, effect));
                if effect.may_be_there() {
                    ends.push(end(done(), 0, Effect::PRESENT));
                }
                if !effect.present {
                    ends.push(end(Outcome::NotDone, 0, Effect::ABSENT));
                }
            }
            Task::Probe(_) => ends.push(end(Outcome::NoProbe, 0, effect)),
            Task::TimeOut | Task::GiveUp => {}
        }
        ends.retain(|end| end.cost <= self.faults);
        ends
    }

    /// Everything that was in flight is lost; `undone` says of which steps the undo had acted.
    pub(super) fn lose_flight(&mut self, undone: &[usize]) {
        for step in 0..self.flight.len() {
            match self.flight[step].take() {
                Some(Task::Execute(_)) => self.world[step] = self.world[step].lost(),
                Some(Task::Undo(_)) if undone.contains(&step) => self.world[step] = Effect::ABSENT,
                Some(Task::Undo(_) | Task::Probe(_) | Task::TimeOut | Task::GiveUp) | None => {}
            }
        }
    }

    /// What a person may truthfully decide, with what is there then.
    pub(super) fn verbs(&self) -> Vec<(Verb, Option<(usize, Effect)>)> {
        let mut verbs = vec![(Verb::Cancel, None), (Verb::Resume, None), (Verb::Abandon, None)];
        for (step, effect) in self.world.iter().copied().enumerate() {
            verbs.push((Verb::Retry { step, parameters: None }, None));
            verbs.push((Verb::Skip { step }, None));
            if effect.may_be_there() {
                let verb = Verb::ResolveDone { step, result: Json::null() };
                verbs.push((verb, Some((step, Effect::PRESENT))));
            }
            if !effect.present {
                verbs.push((Verb::ResolveUndone { step }, Some((step, Effect::ABSENT))));
            }
        }
        verbs
    }

    /// The moment at which the deadline passes, if that is still ahead and matters.
    pub(super) fn deadline(&self, saga: &Saga) -> Option<Timestamp> {
        let at = self.state.started + Duration::from_micros(saga.definition.timeout_us);
        (at > self.now && self.state.turned.is_none()).then_some(at)
    }

    /// The next moment at which something may be tried again.
    pub(super) fn next_retry(&self) -> Option<Timestamp> {
        let moments = self.state.steps.iter().filter_map(|step| step.retry_at);
        moments.map(Timestamp::from).filter(|at| *at > self.now).min()
    }

    /// The laws of a state in which the executor waits.
    fn holds(&self, saga: &Saga) -> Lawful {
        let todo = self.state.todo(&saga.definition, self.now);
        for task in &todo.tasks {
            let Some(step) = step_of(*task) else { continue };
            let other = self.flight[step].filter(|flying| flying != task);
            law(other.is_none(), || format!("{task:?} is to be done beside {other:?}"))?;
        }
        let flying = self.flight.iter().any(Option::is_some);
        let status = self.status(saga);
        match status {
            SagaStatus::Completed | SagaStatus::Compensated => {
                law(!flying && todo.tasks.is_empty(), || "it runs on".into())?;
            }
            SagaStatus::Abandoned | SagaStatus::Parked => {
                law(todo.tasks.is_empty(), || "there is work for nobody".into())?;
            }
            SagaStatus::Pending | SagaStatus::Running | SagaStatus::Compensating => {
                let waits = todo.wake_at.is_some_and(|at| at > self.now);
                law(flying || !todo.tasks.is_empty() || waits, || "it hangs".into())?;
            }
        }
        for (step, effect) in self.world.iter().enumerate() {
            let skipped = self.state.steps[step].phase == Phase::Skipped;
            let right = match status {
                SagaStatus::Completed => effect.present,
                SagaStatus::Compensated => !effect.may_be_there(),
                SagaStatus::Abandoned
                | SagaStatus::Parked
                | SagaStatus::Pending
                | SagaStatus::Running
                | SagaStatus::Compensating => true,
            };
            law(skipped || right, || {
                format!("{status:?}, and the effect of {step} is {effect:?}")
            })?;
        }
        Ok(())
    }

    /// What its future depends on.
    pub(super) fn key(&self, saga: &Saga) -> Vec<u8> {
        if self.state.abandoned.is_some() {
            return Vec::new();
        }
        let mut key = Vec::with_capacity(8 * self.flight.len() + 8);
        for (step, state) in self.state.steps.iter().enumerate() {
            let wait = state.retry_at.map_or(0, |at| {
                1 + u8::try_from(Timestamp::from(at).since(self.now).as_millis() / 10).unwrap_or(99)
            });
            let world = self.world[step];
            let flags =
                [state.doubt, state.begun, state.frozen, state.stuck, world.present, world.late];
            let flags = flags.iter().fold(0, |bits, flag| bits << 1 | u8::from(*flag));
            let flight = match self.flight[step] {
                None | Some(Task::TimeOut | Task::GiveUp) => 0,
                Some(Task::Execute(_)) => 1,
                Some(Task::Probe(_)) => 2,
                Some(Task::Undo(_)) => 3,
            };
            key.extend([phase_number(state), small(state.failures), small(state.undo_failures)]);
            key.extend([flags, wait, flight]);
        }
        let turned = self.state.turned.is_some();
        let late = self.deadline(saga).is_none();
        let flags = [turned, self.state.stuck.is_some(), self.visit, late];
        key.push(flags.iter().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
        key.extend([small(self.state.takeovers), self.faults]);
        key
    }
}

fn small(count: u32) -> u8 {
    u8::try_from(count).expect("few faults, few attempts")
}

fn phase_number(state: &StepState) -> u8 {
    match state.phase {
        Phase::Open => 0,
        Phase::Done => 1,
        Phase::Failed => 2,
        Phase::Unknown => 3,
        Phase::Undone => 4,
        Phase::Skipped => 5,
    }
}

/// Attempts are counted up, and neither direction uses what the other may.
fn budgets_apart(before: &State, after: &State, entry: &Entry) -> Lawful {
    for (before, after) in before.steps.iter().zip(&after.steps) {
        let forward = (before.attempts, before.failures) == (after.attempts, after.failures);
        let back = (before.undo_attempts, before.undo_failures)
            == (after.undo_attempts, after.undo_failures);
        let kept = match entry {
            Entry::Done { .. } | Entry::Failed { .. } | Entry::Unknown { .. } => back,
            Entry::Undone { .. } | Entry::UndoFailed { .. } => forward,
            Entry::Began { .. } | Entry::TimedOut | Entry::Stuck { .. } => forward && back,
            Entry::TakenOver { .. } => before.failures == after.failures && back,
            Entry::Operated { .. } => true,
        };
        let grows = before.attempts <= after.attempts;
        law(kept && grows && before.undo_attempts <= after.undo_attempts, || {
            format!("{entry:?} changed another's budget")
        })?;
    }
    Ok(())
}

pub(super) fn step_of(task: Task) -> Option<usize> {
    match task {
        Task::Execute(step) | Task::Probe(step) | Task::Undo(step) => Some(step),
        Task::TimeOut | Task::GiveUp => None,
    }
}

fn law(holds: bool, broken: impl FnOnce() -> String) -> Lawful {
    if holds { Ok(()) } else { Err(broken()) }
}
