//! What a step is to those who write one: the trait, what it gets, and what it may answer.
//!
//! # The contract of a step
//! Report [`StepError::Failed`] only if there was no effect, and none will come. Everything else
//! that is not success is [`StepError::Unknown`], and any other error becomes that by `?`. An
//! execution may come again with the same idempotency key; a compensation may come although the
//! execution had no effect, and may come again. Whoever can refuse duplicates gets the key; whoever
//! can refuse the past gets the fencing token.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::definition::{Definition, UNDO};
use crate::clock::{Clock, Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::json::Json;
use crate::store::{Effects, Revision};

/// What a handler is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Do it.
    Execute,
    /// Undo it.
    Compensate,
    /// Say whether it was done.
    Probe,
}

impl Action {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Action::Execute => "execute",
            Action::Compensate => "compensate",
            Action::Probe => "probe",
        }
    }
}

/// What a handler gets. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StepContext {
    /// What it is asked to do.
    pub action: Action,
    /// Which saga.
    pub saga_id: Arc<str>,
    /// Which step.
    pub step: String,
    /// What the step was given.
    pub parameters: Json,
    /// The saga's context, and the results of its steps so far.
    pub context: SagaContext,
    /// What the execution returned, for a compensation; `None` if that is not known.
    pub original_result: Option<Json>,
    /// Names the execution, the same over all attempts and actions: hand it to whoever can refuse
    /// duplicates, and find the execution by it when it is to be undone.
    pub idempotency_key: String,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Grows when another executor takes the saga over: hand it to what the step writes to.
    pub fencing_token: Revision,
    /// When the attempt is cut off, on this process's monotonic clock.
    pub deadline: Tick,
    /// The same by the store's clock, for others.
    pub deadline_at: Timestamp,
    /// When it was due, if a schedule asks and no saga.
    pub scheduled_time: Option<Timestamp>,
    /// Fires when the outcome is no longer waited for. Stop then; nothing is recorded any more.
    pub cancelled: CancellationToken,
}

impl StepContext {
    /// Names the compensation, the same over all its attempts: for whoever refuses duplicates and
    /// must not take it for the execution.
    pub fn undo_key(&self) -> String {
        format!("{}{UNDO}", self.idempotency_key)
    }

    /// What kind of saga it is.
    pub fn saga_name(&self) -> &str {
        self.context.saga_name()
    }

    /// How long the attempt may still take.
    pub fn time_left(&self, clock: &Clock) -> Duration {
        self.deadline.since(clock.tick())
    }
}

/// The context of a saga: what it was given, and the results of its steps.
#[derive(Debug, Clone)]
pub struct SagaContext {
    definition: Arc<Definition>,
    results: Arc<[Option<Json>]>,
}

impl SagaContext {
    pub(crate) fn new(definition: Arc<Definition>, results: Arc<[Option<Json>]>) -> Self {
        SagaContext { definition, results }
    }

    /// A context as a saga of this name would hand it to a step, for tests of steps: what the saga
    /// was given, and the results of the steps that are done.
    pub fn for_tests(saga_name: &str, given: Json, done: &[(&str, Json)]) -> Self {
        let definition = Definition::of_done_steps(saga_name, given, done);
        let results = done.iter().map(|(_, result)| Some(result.clone()));
        SagaContext::new(Arc::new(definition), results.collect())
    }

    /// What kind of saga it is.
    pub fn saga_name(&self) -> &str {
        &self.definition.saga_name
    }

    /// The result of a step that is done.
    pub fn result(&self, step: &str) -> Option<&Json> {
        self.results.get(self.definition.place(step)?)?.as_ref()
    }

    /// The place of a step in its saga.
    pub(crate) fn place(&self, step: &str) -> Option<usize> {
        self.definition.place(step)
    }

    /// What the saga was given: a JSON object.
    pub fn given(&self) -> &Json {
        &self.definition.context
    }

    /// What the saga was given, with the result of each step that is done as `{step}_result`.
    ///
    /// # Errors
    /// `Internal` if the context is not an object, which is checked when a saga starts.
    pub fn to_json(&self) -> Result<Json> {
        let mut members: BTreeMap<String, &RawValue> =
            serde_json::from_str(self.definition.context.text()).map_err(|error| {
                let message = "a saga's context is not an object";
                Error::new(ErrorKind::Internal, message).with_source(error)
            })?;
        for (step, result) in self.definition.steps.iter().zip(self.results.iter()) {
            if let Some(result) = result {
                members.insert(format!("{}_result", step.name), result.raw());
            }
        }
        Json::from_value(&members)
    }
}

/// What a step that is done returns.
#[derive(Debug, Clone, Default)]
pub struct StepOutput {
    /// Kept, and shown to later steps and to the compensation.
    pub result: Json,
    /// Written in the same commit as the outcome, so that they happen exactly once. If a guard of
    /// theirs does not hold, nothing is written and the step runs again.
    pub effects: Effects,
}

impl From<Json> for StepOutput {
    fn from(result: Json) -> Self {
        StepOutput { result, effects: Effects::default() }
    }
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The step was done, with this result.
    Done(Json),
    /// It was not done, and no attempt made so far will do it.
    NotDone,
}

/// How the execution of a step was settled without having answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It was done.
    Done,
    /// It is passed over.
    Skipped,
}

/// How a step does not get done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepError {
    /// There was no effect, and none will come.
    Failed {
        /// Why.
        error: String,
        /// Whether another attempt may help.
        retryable: bool,
    },
    /// There may have been an effect.
    Unknown {
        /// What happened.
        error: String,
    },
    /// Nobody can do what was asked: no handler, no compensation, no probe.
    Missing {
        /// What is missing.
        what: String,
    },
}

impl StepError {
    /// Without effect, and another attempt would only repeat it.
    pub fn failed(error: impl Into<String>) -> Self {
        StepError::Failed { error: error.into(), retryable: false }
    }

    /// Without effect, and another attempt may help.
    pub fn retryable(error: impl Into<String>) -> Self {
        StepError::Failed { error: error.into(), retryable: true }
    }

    /// The effect may be there or still come.
    pub fn unknown(error: impl Into<String>) -> Self {
        StepError::Unknown { error: error.into() }
    }

    /// Nobody can do it.
    pub fn missing(what: impl Into<String>) -> Self {
        StepError::Missing { what: what.into() }
    }
}

/// An error that says nothing of effects may have had one.
impl<E: std::error::Error> From<E> for StepError {
    fn from(error: E) -> Self {
        StepError::unknown(error.to_string())
    }
}

/// Who does a step and undoes it.
#[async_trait]
pub trait Step: Send + Sync + 'static {
    /// Does it. May come again with the same idempotency key.
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError>;

    /// Undoes it. May come again, and also when it is not known whether the execution had any
    /// effect; with nothing to undo it succeeds.
    ///
    /// A step that has no compensation parks the saga that needs it.
    async fn compensate(&self, context: StepContext) -> Result<StepOutput, StepError> {
        Err(StepError::missing(format!("step {:?} has no compensation", context.step)))
    }

    /// What is to be written when it was found out, or decided by a person, that the execution was
    /// done, or that the saga goes on without it: what the execution would have returned as
    /// effects. An error refuses that it is passed over.
    async fn settle(&self, context: &StepContext, settled: Settled) -> Result<Effects, StepError> {
        let _ = (context, settled);
        Ok(Effects::default())
    }

    /// Hears that the outcome of an attempt was recorded, so that what was kept for it can go.
    async fn recorded(&self, context: &StepContext) {
        let _ = context;
    }

    /// Finds out whether it was done: for steps that must not be repeated blindly.
    async fn probe(&self, context: StepContext) -> Result<Probe, StepError> {
        Err(StepError::missing(format!("step {:?} has no probe", context.step)))
    }
}

/// A step made of two closures.
pub struct StepFn<E, C> {
    execute: E,
    compensate: C,
}

/// A step that `execute` does and `compensate` undoes.
pub fn step_fn<E, EF, C, CF>(execute: E, compensate: C) -> StepFn<E, C>
where
    E: Fn(StepContext) -> EF + Send + Sync + 'static,
    EF: Future<Output = Result<StepOutput, StepError>> + Send,
    C: Fn(StepContext) -> CF + Send + Sync + 'static,
    CF: Future<Output = Result<StepOutput, StepError>> + Send,
{
    StepFn { execute, compensate }
}

#[async_trait]
impl<E, EF, C, CF> Step for StepFn<E, C>
where
    E: Fn(StepContext) -> EF + Send + Sync + 'static,
    EF: Future<Output = Result<StepOutput, StepError>> + Send,
    C: Fn(StepContext) -> CF + Send + Sync + 'static,
    CF: Future<Output = Result<StepOutput, StepError>> + Send,
{
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError> {
        (self.execute)(context).await
    }

    async fn compensate(&self, context: StepContext) -> Result<StepOutput, StepError> {
        (self.compensate)(context).await
    }
}

/// A step made of one closure, whose execution leaves nothing to undo.
pub struct ReadOnly<E>(E);

/// A step without effect: a check, or a question. Its compensation does nothing.
pub fn read_only<E, EF>(execute: E) -> ReadOnly<E>
where
    E: Fn(StepContext) -> EF + Send + Sync + 'static,
    EF: Future<Output = Result<StepOutput, StepError>> + Send,
{
    ReadOnly(execute)
}

#[async_trait]
impl<E, EF> Step for ReadOnly<E>
where
    E: Fn(StepContext) -> EF + Send + Sync + 'static,
    EF: Future<Output = Result<StepOutput, StepError>> + Send,
{
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError> {
        (self.0)(context).await
    }

    async fn compensate(&self, _: StepContext) -> Result<StepOutput, StepError> {
        Ok(StepOutput::default())
    }
}
