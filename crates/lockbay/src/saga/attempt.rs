//! One attempt: finding the handler, calling it, and what its answer comes to.
//!
//! A panic, a timeout and a cancellation leave the outcome unknown. What certainly was not begun
//! has failed without effect.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::definition::MAX_PAYLOAD_BYTES;
use super::log::{Outcome, Task};
use super::step::{Action, Probe, Settled, Step, StepContext, StepError, StepOutput};
use super::{CANCEL_GRACE, Sagas};
use crate::clock::Tick;
use crate::json::Json;
use crate::metrics::Metric;
use crate::store::Effects;

/// How often a handler that is not known yet is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How much of an error message is kept.
const MAX_ERROR_CHARS: usize = 4_096;

/// What is to be tried.
pub(super) struct Attempt {
    pub(super) task: Task,
    pub(super) handler: String,
    pub(super) context: StepContext,
    pub(super) limit: Duration,
    /// Whether a handler that nobody knows is waited for.
    pub(super) waits_for_handler: bool,
    /// How often its effects came too late.
    pub(super) conflicts: u32,
}

/// What came of it.
pub(super) struct Tried {
    pub(super) task: Task,
    pub(super) outcome: Outcome,
    pub(super) effects: Effects,
    pub(super) conflicts: u32,
    /// Who did it, to be told when the outcome is recorded.
    pub(super) by: Option<(Arc<dyn Step>, StepContext)>,
}

impl Attempt {
    /// Tries it.
    #[tracing::instrument(
        level = "debug",
        name = "step",
        skip_all,
        fields(
            saga_id = %self.context.saga_id,
            step = %self.context.step,
            attempt = self.context.attempt,
            action = ?self.context.action,
        )
    )]
    pub(super) async fn make(self, sagas: Sagas) -> Tried {
        let Attempt { task, conflicts, ref context, .. } = self;
        let began = sagas.0.clock.tick();
        let step = match self.find(&sagas, began).await {
            Ok(step) => step,
            Err(outcome) => {
                let effects = Effects::default();
                return Tried { task, outcome, effects, conflicts, by: None };
            }
        };
        let (context, cancelled) = (context.clone(), context.cancelled.clone());
        if cancelled.is_cancelled() {
            let outcome = self.cut_off_before();
            return Tried { task, outcome, effects: Effects::default(), conflicts, by: None };
        }
        let answer = {
            // Called inside the future, so that a panic of the call itself is caught as well.
            let call = async { call(&*step, context.clone()).await };
            let guarded = AssertUnwindSafe(call).catch_unwind();
            let cut = async {
                cancelled.cancelled().await;
                sagas.0.clock.sleep(CANCEL_GRACE).await;
            };
            tokio::select! {
                biased;
                answer = guarded => answer.unwrap_or_else(|panic| Err(panicked(&*panic))),
                () = sagas.0.clock.sleep(self.limit) => {
                    let limit = self.limit;
                    Err(StepError::unknown(format!("no answer within its time, {limit:?}")))
                }
                () = cut => Err(StepError::unknown("cut off, as its outcome is not waited for")),
            }
        };
        // Tasks that it may have started need to know.
        cancelled.cancel();
        sagas.0.metrics.observe(Metric::StepSeconds, sagas.0.clock.tick().since(began));
        let (outcome, effects) = judge(task, answer);
        Tried { task, outcome, effects, conflicts, by: Some((step, context)) }
    }

    async fn find(&self, sagas: &Sagas, began: Tick) -> Result<Arc<dyn Step>, Outcome> {
        let name = &self.handler;
        loop {
            let late = sagas.0.clock.tick().since(began) >= self.limit;
            match sagas.0.handlers.find(name).await {
                Ok(Some(step)) => return Ok(step),
                Ok(None) if late || !self.waits_for_handler => {
                    return Err(Outcome::Missing(format!(
                        "nobody is known to handle {name:?}: put the handler back, then resume"
                    )));
                }
                Err(error) if late => {
                    let error = format!("handler {name:?} could not be looked up: {error}");
                    return Err(Outcome::Failed { error, may_retry: true });
                }
                Ok(None) | Err(_) => {}
            }
            let pause = sagas.0.clock.sleep(LOOK_EVERY);
            if self.context.cancelled.run_until_cancelled(pause).await.is_none() {
                return Err(self.cut_off_before());
            }
        }
    }
}

impl Attempt {
    /// It has not begun, unless it has run before and its effects came too late.
    fn cut_off_before(&self) -> Outcome {
        let error = "cut off before it began".into();
        match self.conflicts {
            0 => Outcome::Failed { error, may_retry: true },
            _ => Outcome::Unknown { error },
        }
    }
}

/// What a handler answered: the output, or what a probe found.
enum Answer {
    Output(StepOutput),
    NotDone,
}

async fn call(step: &dyn Step, context: StepContext) -> Result<Answer, StepError> {
    match context.action {
        Action::Execute => step.execute(context).await.map(Answer::Output),
        Action::Compensate => step.compensate(context).await.map(Answer::Output),
        Action::Probe => match step.probe(context.clone()).await? {
            Probe::Done(result) => {
                let effects = step.settle(&context, Settled::Done).await?;
                Ok(Answer::Output(StepOutput { result, effects }))
            }
            Probe::NotDone => Ok(Answer::NotDone),
        },
    }
}

fn judge(task: Task, answer: Result<Answer, StepError>) -> (Outcome, Effects) {
    let outcome = match answer {
        Ok(Answer::Output(StepOutput { result, effects })) => match too_large(&result) {
            None => return (Outcome::Done(result), effects),
            Some(error) => Outcome::Unknown { error },
        },
        Ok(Answer::NotDone) => Outcome::NotDone,
        // A probe that fails says nothing of the step.
        Err(StepError::Failed { error, .. }) if matches!(task, Task::Probe(_)) => {
            Outcome::Unknown { error: cut(&error) }
        }
        Err(StepError::Failed { error, retryable }) => {
            Outcome::Failed { error: cut(&error), may_retry: retryable }
        }
        Err(StepError::Unknown { error }) => Outcome::Unknown { error: cut(&error) },
        Err(StepError::Missing { .. }) if matches!(task, Task::Probe(_)) => Outcome::NoProbe,
        Err(StepError::Missing { what }) => Outcome::Missing(cut(&what)),
    };
    (outcome, Effects::default())
}

/// Why a result cannot be kept.
fn too_large(result: &Json) -> Option<String> {
    let length = result.text().len();
    (length > MAX_PAYLOAD_BYTES).then(|| {
        format!("its result has {length} bytes, and at most {MAX_PAYLOAD_BYTES} can be kept")
    })
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> StepError {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "no message".into());
    StepError::unknown(format!("the handler panicked: {text}"))
}

fn cut(error: &str) -> String {
    error.chars().take(MAX_ERROR_CHARS).collect()
}
