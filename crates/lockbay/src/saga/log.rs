//! The whole state machine of a saga, as pure functions over its log.
//!
//! A saga is its definition and its log. An [`Entry`] says what became of one attempt, or what
//! somebody decided; [`State::apply`] folds it into the state, [`State::todo`] says what is to be
//! done next, and [`State::judge`] turns the outcome of an attempt into the next entry. Recovery
//! is to fold the log again. Nothing here reads a clock, draws a number or does anything: time
//! comes in with each entry, as the store told it.
//!
//! # The rules
//! Forward, a step may run when all steps it depends on are done. The first one that fails for
//! good turns the saga around, and so do a cancellation and the saga's deadline. On the way back
//! every step whose effect is there, or may be, is compensated, after all steps that depend on it.
//! An attempt whose outcome is unknown leaves a *doubt*: unless it is known better later, the step
//! is compensated, even if a later attempt failed. Once a pivot may have happened there is no way
//! back, only forward. What cannot be done is *stuck*, and the saga is parked until a person says
//! what to do.

mod entry;
#[cfg(test)]
mod model;
mod plan;
mod status;

use std::time::Duration;

use super::definition::Definition;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;

pub(crate) use entry::{Cause, Entry, Moment, Verb};
pub(crate) use plan::{Outcome, Task};
pub use status::{SagaStatus, StepStatus};

/// How often a saga is taken over without getting on before it is parked: what kills its executor
/// every time must not go round for ever.
pub(crate) const MAX_TAKEOVERS: u32 = 10;

/// How far the moments of two executors may lie apart: both are the store's time, as each knows it.
/// An attempt that was to begin a little later may have begun already.
const CLOCKS_APART: Duration = Duration::from_secs(5);

/// How far a step's own effect has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Not begun, in progress, or to be tried again.
    Open,
    Done,
    Failed,
    Unknown,
    Undone,
    Skipped,
}

/// What the log says of one step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct StepState {
    pub(crate) phase: Phase,
    /// Attempts that ended, or were cut off by a takeover.
    pub(crate) attempts: u32,
    pub(crate) undo_attempts: u32,
    /// Attempts that count against the budget.
    failures: u32,
    undo_failures: u32,
    /// Whether an attempt may have had an effect that no later entry speaks of.
    pub(crate) doubt: bool,
    /// Whether an announced attempt is in progress.
    begun: bool,
    /// Whether an attempt was in progress, as far as the log tells, when the saga turned around
    /// or was parked.
    frozen: bool,
    /// Whether only a person can help.
    stuck: bool,
    pub(crate) retry_at: Option<Moment>,
    pub(crate) result: Option<JsonText>,
    pub(crate) undo_result: Option<JsonText>,
    /// The last error, forward or back.
    pub(crate) error: Option<String>,
    /// What a person gave instead of the definition's.
    pub(crate) parameters: Option<JsonText>,
    /// When its last entry was written.
    pub(crate) changed_at: Option<Moment>,
}

/// Exact JSON that can be compared and hashed by its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonText(pub(crate) Json);

impl std::hash::Hash for JsonText {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.text().hash(state);
    }
}

impl StepState {
    const NEW: StepState = StepState {
        phase: Phase::Open,
        attempts: 0,
        undo_attempts: 0,
        failures: 0,
        undo_failures: 0,
        doubt: false,
        begun: false,
        frozen: false,
        stuck: false,
        retry_at: None,
        result: None,
        undo_result: None,
        error: None,
        parameters: None,
        changed_at: None,
    };

    /// Whether those that depend on it may run.
    fn lets_others_run(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Skipped)
    }

    /// Whether an attempt may be in progress of which the log must hear before the saga ends.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.phase == Phase::Open && (self.begun || self.frozen)
    }

    /// Whether its effect is there, or may be.
    fn needs_undo(&self) -> bool {
        match self.phase {
            Phase::Done | Phase::Unknown => true,
            Phase::Open => self.doubt && !self.is_unsettled(),
            Phase::Failed => self.doubt,
            Phase::Undone | Phase::Skipped => false,
        }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.retry_at.is_none_or(|at| Timestamp::from(at) <= now)
    }
}

/// What the log says of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) steps: Vec<StepState>,
    /// Why it goes back, and since when.
    pub(crate) turned: Option<(Cause, Timestamp)>,
    /// Why it is parked as a whole, whatever its steps say.
    pub(crate) stuck: Option<String>,
    /// Who gave it up, and why.
    pub(crate) abandoned: Option<String>,
    /// Takeovers since a step last got on.
    takeovers: u32,
    /// When a person last decided something, which gives what is tried again its full time.
    operated: Option<Timestamp>,
    /// The executor's session, where a person gave it another than the first.
    pub(crate) session: Option<String>,
    /// When it began.
    started: Timestamp,
    /// When the last entry was written.
    pub(crate) changed: Timestamp,
}

impl State {
    /// A saga that has just started.
    pub(crate) fn new(definition: &Definition, started: Timestamp) -> Self {
        State {
            steps: vec![StepState::NEW; definition.steps.len()],
            turned: None,
            stuck: None,
            abandoned: None,
            takeovers: 0,
            operated: None,
            session: None,
            started,
            changed: started,
        }
    }

    /// Whether a person is needed.
    pub(crate) fn is_parked(&self) -> bool {
        self.stuck.is_some() || self.steps.iter().any(|step| step.stuck)
    }

    /// Whether the way leads back: it was turned around, and no pivot stands behind it.
    pub(crate) fn goes_back(&self, definition: &Definition) -> bool {
        self.turned.is_some() && !self.is_past_pivot(definition)
    }

    /// Whether a pivot has happened, or may have.
    pub(crate) fn is_past_pivot(&self, definition: &Definition) -> bool {
        let pivots = definition.steps.iter().zip(&self.steps).filter(|(step, _)| step.pivot);
        pivots.into_iter().any(|(_, state)| match state.phase {
            Phase::Done | Phase::Unknown => true,
            Phase::Open | Phase::Failed => state.doubt || state.begun,
            // Whoever passes over a pivot in doubt goes on; that it did not happen is not said.
            Phase::Skipped => state.doubt,
            Phase::Undone => false,
        })
    }

    fn is_ready(&self, definition: &Definition, step: usize) -> bool {
        let before = &definition.steps[step].after;
        before.iter().all(|before| self.steps[*before].lets_others_run())
    }

    /// For each step, whether its compensation waits for that of a step which depends on it.
    fn undo_waits(&self, definition: &Definition) -> Vec<bool> {
        let mut waits = vec![false; self.steps.len()];
        for step in definition.order().into_iter().rev() {
            let state = &self.steps[step];
            if waits[step] || state.needs_undo() || state.is_unsettled() {
                definition.steps[step].after.iter().for_each(|before| waits[*before] = true);
            }
        }
        waits
    }

    /// Folds an entry into the state, or leaves it as it is and says why the entry may not come
    /// here.
    pub(crate) fn apply(
        &mut self,
        definition: &Definition,
        entry: &Entry,
        at: Timestamp,
    ) -> Result<()> {
        self.check(definition, entry)?;
        match entry {
            Entry::Began { step } => self.steps[*step].begun = true,
            Entry::Done { step, result } => {
                self.end_attempt(*step);
                let state = &mut self.steps[*step];
                (state.phase, state.doubt) = (Phase::Done, false);
                state.result = Some(JsonText(result.clone()));
                self.takeovers = 0;
            }
            Entry::Failed { step, error, sure, retry_at } => {
                self.end_attempt(*step);
                self.steps[*step].doubt &= !sure;
                self.failed(definition, *step, Phase::Failed, error, *retry_at, at);
            }
            Entry::Unknown { step, error, retry_at } => {
                self.end_attempt(*step);
                self.steps[*step].doubt = true;
                self.failed(definition, *step, Phase::Unknown, error, *retry_at, at);
            }
            Entry::Undone { step, result } => {
                let state = &mut self.steps[*step];
                state.undo_attempts += 1;
                (state.phase, state.retry_at, state.doubt) = (Phase::Undone, None, false);
                state.undo_result = Some(JsonText(result.clone()));
                self.takeovers = 0;
            }
            Entry::UndoFailed { step, error, retry_at } => {
                let state = &mut self.steps[*step];
                state.undo_attempts += 1;
                state.undo_failures += 1;
                state.error = Some(error.clone());
                state.retry_at = *retry_at;
                state.stuck = retry_at.is_none();
            }
            Entry::TakenOver { .. } => self.take_over(definition, at),
            Entry::TimedOut => self.turn(definition, Cause::TimedOut, at),
            Entry::Stuck { step, why } => {
                self.freeze(definition, at);
                match step {
                    None => self.stuck = Some(why.clone()),
                    Some(step) => {
                        let state = &mut self.steps[*step];
                        // What nobody could do was not begun.
                        (state.frozen, state.begun, state.stuck) = (false, false, true);
                        state.error = Some(why.clone());
                    }
                }
            }
            Entry::Operated { verb, actor, reason, session } => {
                if session.is_some() {
                    self.session.clone_from(session);
                    self.take_over(definition, at);
                    self.takeovers = 0;
                }
                self.operate(definition, verb, actor, reason, at);
            }
        }
        self.changed = at;
        if let Some(step) = entry.step() {
            self.steps[step].changed_at = Some(at.into());
        }
        Ok(())
    }

    /// An attempt of a step is over; its entry says how.
    fn end_attempt(&mut self, step: usize) {
        let state = &mut self.steps[step];
        state.attempts += 1;
        (state.begun, state.frozen, state.retry_at) = (false, false, None);
    }

    /// An attempt did not get its step done.
    fn failed(
        &mut self,
        definition: &Definition,
        step: usize,
        last: Phase,
        error: &str,
        retry_at: Option<Moment>,
        at: Timestamp,
    ) {
        let state = &mut self.steps[step];
        state.failures += 1;
        state.error = Some(error.to_owned());
        state.retry_at = retry_at;
        if retry_at.is_some() {
            return;
        }
        state.phase = last;
        if self.is_past_pivot(definition) {
            self.freeze(definition, at);
            self.steps[step].stuck = true;
        } else if self.turned.is_none() {
            self.turn(definition, Cause::Failed { step, error: error.to_owned() }, at);
        }
    }

    fn turn(&mut self, definition: &Definition, cause: Cause, at: Timestamp) {
        self.freeze(definition, at);
        self.turned = Some((cause, at));
        self.stuck = None;
        for state in &mut self.steps {
            state.stuck = false;
            state.retry_at = None;
        }
    }

    /// Remembers which attempts are in progress, as far as the log can tell, because from here on
    /// it no longer follows from the state. Once is enough: later nothing begins.
    fn freeze(&mut self, definition: &Definition, at: Timestamp) {
        if self.turned.is_some() || self.is_parked() {
            return;
        }
        for step in 0..self.steps.len() {
            self.steps[step].frozen = self.may_be_running(definition, step, at);
        }
    }

    /// Whether the next attempt of a step asks what became of the last one.
    fn is_probed(&self, definition: &Definition, step: usize) -> bool {
        definition.steps[step].once && self.steps[step].doubt
    }

    /// Whether an attempt may be in progress that was not announced: an execution, or a probe.
    fn may_be_running(&self, definition: &Definition, step: usize, at: Timestamp) -> bool {
        let state = &self.steps[step];
        let announced = definition.steps[step].is_announced() && !self.is_probed(definition, step);
        // After too many takeovers nothing begins.
        self.takeovers <= MAX_TAKEOVERS
            && state.phase == Phase::Open
            && !announced
            && state.is_due(at + CLOCKS_APART)
            && self.is_ready(definition, step)
    }

    /// Another executor goes on: what was in progress is in doubt.
    fn take_over(&mut self, definition: &Definition, at: Timestamp) {
        let forward = self.turned.is_none() && !self.is_parked();
        for step in 0..self.steps.len() {
            let running = forward && self.may_be_running(definition, step, at);
            let state = &mut self.steps[step];
            if running || state.is_unsettled() {
                state.attempts += 1;
                state.doubt = true;
                (state.begun, state.frozen) = (false, false);
            }
        }
        self.takeovers += 1;
    }

    fn operate(
        &mut self,
        definition: &Definition,
        verb: &Verb,
        actor: &str,
        reason: &str,
        at: Timestamp,
    ) {
        self.operated = Some(at);
        match verb {
            Verb::Cancel => {
                let (actor, reason) = (actor.to_owned(), reason.to_owned());
                self.takeovers = 0;
                self.turn(definition, Cause::Cancelled { actor, reason }, at);
            }
            Verb::Abandon => self.abandoned = Some(format!("{reason} ({actor})")),
            Verb::Resume => {
                self.stuck = None;
                self.takeovers = 0;
                for step in 0..self.steps.len() {
                    if self.steps[step].stuck {
                        self.try_again(definition, step);
                    }
                }
            }
            Verb::Retry { step, parameters } => {
                self.try_again(definition, *step);
                if let Some(parameters) = parameters {
                    self.steps[*step].parameters = Some(JsonText(parameters.clone()));
                }
            }
            Verb::Skip { step } => {
                self.steps[*step].phase = Phase::Skipped;
                self.free(*step);
            }
            Verb::ResolveDone { step, result } => {
                self.steps[*step].phase = Phase::Done;
                self.steps[*step].result = Some(JsonText(result.clone()));
                self.steps[*step].doubt = false;
                self.free(*step);
            }
            Verb::ResolveUndone { step } => {
                let back = self.goes_back(definition);
                self.steps[*step].doubt = false;
                self.steps[*step].phase = if back { Phase::Undone } else { Phase::Failed };
                if !back && self.is_past_pivot(definition) {
                    self.steps[*step].phase = Phase::Open;
                } else if self.turned.is_none() {
                    let error = format!("resolved as undone by {actor}: {reason}");
                    self.turn(definition, Cause::Failed { step: *step, error }, at);
                }
                // Only now: while it is parked, what is in progress is known already.
                self.free(*step);
            }
        }
    }

    /// A step is no longer stuck, and its budgets are fresh.
    fn free(&mut self, step: usize) {
        let state = &mut self.steps[step];
        (state.stuck, state.retry_at) = (false, None);
        (state.failures, state.undo_failures) = (0, 0);
    }

    fn try_again(&mut self, definition: &Definition, step: usize) {
        self.free(step);
        let forward = !self.goes_back(definition);
        let state = &mut self.steps[step];
        if forward && matches!(state.phase, Phase::Failed | Phase::Unknown) {
            state.phase = Phase::Open;
        }
    }

    /// Whether an entry may come here.
    fn check(&self, definition: &Definition, entry: &Entry) -> Result<()> {
        let refuse = |why: &str| {
            let kind = ErrorKind::Refused;
            Err(Error::new(kind, format!("{why}; the saga is {}", self.status(definition).name())))
        };
        if entry.step().is_some_and(|step| step >= self.steps.len()) {
            return refuse("there is no such step");
        }
        if self.status(definition).is_terminal() {
            return refuse("it has ended");
        }
        let halted = self.goes_back(definition) || self.is_parked();
        match entry {
            Entry::Began { step } => {
                let state = &self.steps[*step];
                let may = definition.steps[*step].is_announced()
                    && state.phase == Phase::Open
                    && !state.begun
                    && !halted
                    && self.is_ready(definition, *step);
                if may { Ok(()) } else { refuse("no attempt may begin") }
            }
            Entry::Done { step, .. } | Entry::Failed { step, .. } | Entry::Unknown { step, .. } => {
                let may = self.may_end(definition, *step);
                if may { Ok(()) } else { refuse("no attempt of this step is in progress") }
            }
            Entry::Undone { step, .. } | Entry::UndoFailed { step, .. } => {
                let may = self.may_be_undone(definition, *step);
                if may { Ok(()) } else { refuse("this step is not being compensated") }
            }
            Entry::Stuck { step: Some(step), .. } => {
                let may = self.may_end(definition, *step) || self.may_be_undone(definition, *step);
                if may { Ok(()) } else { refuse("nothing is done about this step") }
            }
            Entry::TakenOver { .. } | Entry::Stuck { step: None, .. } => Ok(()),
            Entry::TimedOut if self.turned.is_none() && !self.is_past_pivot(definition) => Ok(()),
            Entry::TimedOut => refuse("its deadline no longer matters"),
            Entry::Operated { verb, .. } => self.check_verb(definition, verb),
        }
    }

    /// Whether the log may hear how an attempt of a step ended.
    fn may_end(&self, definition: &Definition, step: usize) -> bool {
        let state = &self.steps[step];
        let halted = self.goes_back(definition) || self.is_parked();
        state.phase == Phase::Open
            && (state.is_unsettled() || !halted)
            && self.is_ready(definition, step)
    }

    /// Whether a step may be compensated now.
    fn may_be_undone(&self, definition: &Definition, step: usize) -> bool {
        self.goes_back(definition)
            && self.steps[step].needs_undo()
            && !self.undo_waits(definition)[step]
    }

    /// Whether a person may decide this now; the error says what may be done instead.
    fn check_verb(&self, definition: &Definition, verb: &Verb) -> Result<()> {
        let refuse = |why: String| Err(Error::new(ErrorKind::Refused, why));
        let status = self.status(definition).name();
        match verb {
            Verb::Cancel if self.is_past_pivot(definition) => refuse(
                "its pivot has happened or may have, and there is no way back: retry, resolve or \
                 skip what is stuck, or abandon it"
                    .into(),
            ),
            Verb::Cancel if self.turned.is_some() => {
                refuse(format!("it goes back already; it is {status}"))
            }
            Verb::Cancel | Verb::Abandon => Ok(()),
            Verb::Resume if self.is_parked() => Ok(()),
            Verb::Resume => refuse(format!("only a parked saga is resumed; this is {status}")),
            Verb::Retry { step, .. } => {
                let state = &self.steps[*step];
                if state.stuck || state.retry_at.is_some() {
                    return Ok(());
                }
                refuse("this step is neither stuck nor waiting to be tried again".into())
            }
            Verb::Skip { step } | Verb::ResolveDone { step, .. } | Verb::ResolveUndone { step } => {
                if self.steps[*step].stuck {
                    return Ok(());
                }
                let step = &definition.steps[*step].name;
                refuse(format!("step {step:?} is not parked: only a parked step is decided upon"))
            }
        }
    }
}
