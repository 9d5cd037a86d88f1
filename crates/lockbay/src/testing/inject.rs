//! The faults, and the step around a user's step that brings them about.
//!
//! Every run has one fault. The wrapper counts the calls of all instances of the run, keeps the
//! trace, and says whether the fault has happened.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::SagaWorld;
use crate::lockbay::LockBay;
use crate::saga::{Action, Probe, Step, StepContext, StepError, StepOutput, StepStatus};
use crate::store::Revision;
use crate::store::faulty::Faulty;

/// Where an executor dies. Calls and entries are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boundary {
    /// Before the call of this number reaches its step.
    BeforeCall(usize),
    /// After the step has acted on this call, and before anything else hears of it.
    AfterCall(usize),
    /// After the entry of this number is in the saga's log.
    AfterEntry(u64),
}

/// What goes wrong in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the step is the one that it happens to
pub enum Fault {
    /// Nothing.
    Nothing,
    /// A step fails for good without having acted, when all others are done.
    Fails { step: String },
    /// The first attempt of a step fails without having acted.
    FailsForNow { step: String },
    /// The outcome of a step's first attempt is not known; it has not acted.
    UnknownBefore { step: String },
    /// The outcome of a step's first attempt is not known; it has acted.
    UnknownAfter { step: String },
    /// The outcome of a step's first attempt is not known, it has acted, and every later attempt
    /// fails for good: it must be undone without its result.
    UnheardThenFails { step: String },
    /// A step is executed twice under the same key.
    Repeated { step: String },
    /// The first attempt of a step panics without having acted.
    Panics { step: String },
    /// The first attempt to compensate a step fails without having acted.
    UndoFailsForNow { step: String },
    /// The outcome of the first attempt to compensate a step is not known; it has acted.
    UndoUnknownAfter { step: String },
    /// A step is compensated twice under the same key.
    UndoRepeated { step: String },
    /// The executor dies on the way forward, and another instance takes over.
    Crash { at: Boundary },
    /// The same on the way back.
    CrashGoingBack { at: Boundary },
}

impl Fault {
    /// The step that it happens to, if it is one step's.
    pub fn step(&self) -> Option<&str> {
        match self {
            Fault::Nothing | Fault::Crash { .. } | Fault::CrashGoingBack { .. } => None,
            Fault::Fails { step }
            | Fault::FailsForNow { step }
            | Fault::UnknownBefore { step }
            | Fault::UnknownAfter { step }
            | Fault::UnheardThenFails { step }
            | Fault::Repeated { step }
            | Fault::Panics { step }
            | Fault::UndoFailsForNow { step }
            | Fault::UndoUnknownAfter { step }
            | Fault::UndoRepeated { step } => Some(step),
        }
    }

    /// Where its executor dies.
    pub(super) fn boundary(&self) -> Option<&Boundary> {
        match self {
            Fault::Crash { at } | Fault::CrashGoingBack { at } => Some(at),
            Fault::Nothing
            | Fault::Fails { .. }
            | Fault::FailsForNow { .. }
            | Fault::UnknownBefore { .. }
            | Fault::UnknownAfter { .. }
            | Fault::UnheardThenFails { .. }
            | Fault::Repeated { .. }
            | Fault::Panics { .. }
            | Fault::UndoFailsForNow { .. }
            | Fault::UndoUnknownAfter { .. }
            | Fault::UndoRepeated { .. } => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Nothing => write!(f, "no fault"),
            Fault::Fails { step } => write!(f, "step {step:?} fails for good"),
            Fault::FailsForNow { step } => write!(f, "step {step:?} fails once"),
            Fault::UnknownBefore { step } => {
                write!(f, "the outcome of step {step:?} is unknown, it has not acted")
            }
            Fault::UnknownAfter { step } => {
                write!(f, "the outcome of step {step:?} is unknown, it has acted")
            }
            Fault::UnheardThenFails { step } => {
                write!(f, "step {step:?} acts unheard, and then fails for good")
            }
            Fault::Repeated { step } => write!(f, "step {step:?} is executed twice"),
            Fault::Panics { step } => write!(f, "step {step:?} panics once"),
            Fault::UndoFailsForNow { step } => {
                write!(f, "the compensation of step {step:?} fails once")
            }
            Fault::UndoUnknownAfter { step } => {
                write!(f, "the outcome of the compensation of step {step:?} is unknown")
            }
            Fault::UndoRepeated { step } => write!(f, "step {step:?} is compensated twice"),
            Fault::Crash { at } => write!(f, "the executor dies {at}"),
            Fault::CrashGoingBack { at } => write!(f, "on the way back, the executor dies {at}"),
        }
    }
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Boundary::BeforeCall(call) => write!(f, "before call {call}"),
            Boundary::AfterCall(call) => write!(f, "after call {call}"),
            Boundary::AfterEntry(entry) => write!(f, "after entry {entry} of the log"),
        }
    }
}

/// What a step was asked, and what came of it.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it was asked to do.
    pub action: Action,
    /// Which step.
    pub step: String,
    /// Under which key.
    pub idempotency_key: String,
    /// Which attempt it was.
    pub attempt: u32,
    /// Under which fencing token.
    pub fencing_token: Revision,
    /// What the executor was told, and whether the step itself was called.
    pub outcome: String,
    /// What could be seen of the world before it.
    pub(super) before: String,
    /// Whether it reported failure although the world had changed.
    pub(super) failed_after_acting: bool,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { step, attempt, idempotency_key, fencing_token, outcome, .. } = self;
        let action = self.action.name();
        write!(
            f,
            "{action} {step} attempt={attempt} key={idempotency_key} token={fencing_token}: \
             {outcome}"
        )
    }
}

/// What the wrappers of a run share.
pub(super) struct Injector {
    pub(super) fault: Fault,
    /// The step whose failure turns the saga around, if the fault lies on the way back.
    pub(super) turns: Option<String>,
    /// The steps that must be done before it fails.
    pub(super) wait_for: Vec<String>,
    pub(super) world: Arc<dyn SagaWorld>,
    /// An instance that only looks.
    pub(super) observer: LockBay,
    /// Whether the saga on trial begins; before that, sagas only make what it starts from.
    pub(super) armed: AtomicBool,
    pub(super) happened: AtomicBool,
    pub(super) calls: Mutex<Vec<Call>>,
    pub(super) in_progress: Mutex<usize>,
}

/// An instance, as the wrappers of its steps know it.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) store: Arc<Faulty>,
}

impl Life {
    /// What is dead does nothing more.
    async fn live(&self) {
        if self.store.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}

/// What happens instead of, or around, one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twist {
    Straight,
    Fail,
    FailForNow,
    UnknownBefore,
    UnknownAfter,
    Twice,
    Panic,
}

impl Injector {
    /// What could be seen of the world now.
    pub(super) async fn observe(&self) -> String {
        let seen = self.world.observe(&self.observer).await;
        seen.unwrap_or_else(|error| format!("it could not be observed: {error}"))
    }

    fn has_happened(&self) {
        self.happened.store(true, Ordering::Release);
    }

    /// How often this was asked before.
    fn asked_before(&self, context: &StepContext) -> usize {
        let calls = self.calls.lock();
        let same = |call: &&Call| call.action == context.action && call.step == context.step;
        calls.iter().filter(same).count()
    }

    fn twist(&self, context: &StepContext, asked_before: usize) -> Twist {
        let first = asked_before == 0;
        if context.action == Action::Execute && self.turns.as_ref() == Some(&context.step) {
            return self.turn(first);
        }
        if self.fault.step() != Some(context.step.as_str()) {
            return Twist::Straight;
        }
        let (forward, twist) = match &self.fault {
            Fault::Fails { .. } => (true, Twist::Fail),
            Fault::UnheardThenFails { .. } => (true, self.turn(first)),
            Fault::FailsForNow { .. } => (true, Twist::FailForNow),
            Fault::UnknownBefore { .. } => (true, Twist::UnknownBefore),
            Fault::UnknownAfter { .. } => (true, Twist::UnknownAfter),
            Fault::Repeated { .. } => (true, Twist::Twice),
            Fault::Panics { .. } => (true, Twist::Panic),
            Fault::UndoFailsForNow { .. } => (false, Twist::FailForNow),
            Fault::UndoUnknownAfter { .. } => (false, Twist::UnknownAfter),
            Fault::UndoRepeated { .. } => (false, Twist::Twice),
            Fault::Nothing | Fault::Crash { .. } | Fault::CrashGoingBack { .. } => {
                return Twist::Straight;
            }
        };
        let wanted = if forward { Action::Execute } else { Action::Compensate };
        let goes_on = matches!(self.fault, Fault::Fails { .. } | Fault::UnheardThenFails { .. });
        if context.action != wanted || !first && !goes_on {
            return Twist::Straight;
        }
        self.has_happened();
        twist
    }

    /// How the step that turns the saga around does so: when its own compensation is tried, it acts
    /// first.
    fn turn(&self, first: bool) -> Twist {
        let acts = self.fault.step() == self.turns.as_deref() || self.turns.is_none();
        if acts && first { Twist::UnknownAfter } else { Twist::Fail }
    }

    /// Waits until every other step that can be done is.
    async fn others_are_done(&self, context: &StepContext) {
        loop {
            let saga = self.observer.sagas().show(&context.saga_id).await;
            let open = saga.is_ok_and(|saga| {
                let waited_for =
                    saga.steps.iter().filter(|step| self.wait_for.contains(&step.name));
                waited_for.into_iter().any(|step| step.status != StepStatus::Completed)
            });
            if !open {
                return;
            }
            self.observer.clock().sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A user's step, and the fault around it.
pub(super) struct Wrapped {
    pub(super) inner: Arc<dyn Step>,
    pub(super) injector: Arc<Injector>,
    pub(super) life: Life,
}

/// What a step answered, to any action.
enum Answer {
    Output(StepOutput),
    Probe(Probe),
}

impl Wrapped {
    async fn call(&self, context: StepContext) -> Result<Answer, StepError> {
        let injector = &self.injector;
        if !injector.armed.load(Ordering::Acquire) {
            return self.ask(context).await;
        }
        self.life.live().await;
        let number = self.note(&context).await;
        let boundary = injector.fault.boundary();
        if boundary == Some(&Boundary::BeforeCall(number)) {
            injector.has_happened();
            self.life.store.die();
            self.told(number, "the executor died before it");
        }
        self.life.live().await;
        let answer = self.twisted(&context, number).await;
        if boundary == Some(&Boundary::AfterCall(number)) {
            injector.has_happened();
            self.life.store.die();
            self.told(number, "the executor died after it");
        }
        self.life.live().await;
        answer
    }

    /// Writes a call down. Returns its number.
    async fn note(&self, context: &StepContext) -> usize {
        let before = self.injector.observe().await;
        let mut calls = self.injector.calls.lock();
        calls.push(Call {
            action: context.action,
            step: context.step.clone(),
            idempotency_key: match context.action {
                Action::Execute | Action::Probe => context.idempotency_key.clone(),
                Action::Compensate => context.undo_key(),
            },
            attempt: context.attempt,
            fencing_token: context.fencing_token,
            outcome: "no answer".into(),
            before,
            failed_after_acting: false,
        });
        calls.len()
    }

    fn told(&self, number: usize, outcome: &str) {
        if let Some(call) = self.injector.calls.lock().get_mut(number - 1) {
            outcome.clone_into(&mut call.outcome);
        }
    }

    async fn twisted(&self, context: &StepContext, number: usize) -> Result<Answer, StepError> {
        let asked_before = self.injector.asked_before(context) - 1;
        let twist = self.injector.twist(context, asked_before);
        let answer = match twist {
            Twist::Straight => self.really(context, number).await,
            Twist::Fail => {
                self.injector.others_are_done(context).await;
                Err(StepError::failed("the kit has it fail"))
            }
            Twist::FailForNow => Err(StepError::retryable("the kit has it fail once")),
            Twist::UnknownBefore => Err(StepError::unknown("the kit has it not answer")),
            Twist::UnknownAfter => {
                self.injector.others_are_done(context).await;
                drop(self.really(context, number).await);
                Err(StepError::unknown("the kit has it act and not answer"))
            }
            Twist::Twice => match self.really(context, number).await {
                Ok(_) => self.really(context, number).await,
                failed => failed,
            },
            Twist::Panic => {
                self.told(number, "the kit has it panic");
                // Not by a message on standard error, which would look like a failing test.
                std::panic::resume_unwind(Box::new("the kit has it panic"));
            }
        };
        let twice = if twist == Twist::Twice { ", called twice" } else { "" };
        self.told(number, &format!("{}{twice}", words(&answer)));
        answer
    }

    async fn ask(&self, context: StepContext) -> Result<Answer, StepError> {
        match context.action {
            Action::Execute => self.inner.execute(context).await.map(Answer::Output),
            Action::Compensate => self.inner.compensate(context).await.map(Answer::Output),
            Action::Probe => self.inner.probe(context).await.map(Answer::Probe),
        }
    }

    /// Calls the user's step, and sees whether it keeps its word if it says that it failed.
    async fn really(&self, context: &StepContext, number: usize) -> Result<Answer, StepError> {
        let injector = &self.injector;
        let before = injector.observe().await;
        *injector.in_progress.lock() += 1;
        let answer = self.ask(context.clone()).await;
        let alone = {
            let mut in_progress = injector.in_progress.lock();
            *in_progress -= 1;
            *in_progress == 0
        };
        let failed = matches!(answer, Err(StepError::Failed { .. }));
        if failed
            && alone
            && injector.observe().await != before
            && let Some(call) = injector.calls.lock().get_mut(number - 1)
        {
            call.failed_after_acting = true;
        }
        answer
    }
}

fn words(answer: &Result<Answer, StepError>) -> String {
    match answer {
        Ok(Answer::Output(output)) => format!("done, {}", output.result.text()),
        Ok(Answer::Probe(Probe::Done(result))) => format!("it was done, {}", result.text()),
        Ok(Answer::Probe(Probe::NotDone)) => "it was not done".into(),
        Err(StepError::Failed { error, .. }) => format!("failed, {error}"),
        Err(StepError::Unknown { error }) => format!("unknown, {error}"),
        Err(StepError::Missing { what }) => format!("missing, {what}"),
    }
}

#[async_trait]
impl Step for Wrapped {
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError> {
        output(self.call(context).await)
    }

    async fn compensate(&self, context: StepContext) -> Result<StepOutput, StepError> {
        output(self.call(context).await)
    }

    async fn probe(&self, context: StepContext) -> Result<Probe, StepError> {
        match self.call(context).await? {
            Answer::Probe(probe) => Ok(probe),
            Answer::Output(output) => Ok(Probe::Done(output.result)),
        }
    }

    async fn recorded(&self, context: &StepContext) {
        self.inner.recorded(context).await;
    }
}

fn output(answer: Result<Answer, StepError>) -> Result<StepOutput, StepError> {
    match answer? {
        Answer::Output(output) => Ok(output),
        Answer::Probe(_) => Ok(StepOutput::default()),
    }
}
