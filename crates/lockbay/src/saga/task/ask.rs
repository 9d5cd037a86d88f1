//! A step whose handler is whoever polls: what it asks for, and what an end comes to.
//!
//! What is there already from an attempt before is heeded first. Nothing is undone, and nobody is
//! asked whether it was done, while a worker is still at it.

use async_trait::async_trait;

use super::errand::{Errand, Waited, Wish};
use super::record::{Outcome, Request};
use super::{TaskEffect, Tasks};
use crate::error::Error;
use crate::saga::record::encode;
use crate::saga::step::{Action, Probe, Step, StepContext, StepError, StepOutput};

/// A step whose handler polls.
pub(super) struct TaskStep {
    pub(super) tasks: Tasks,
    pub(super) handler: String,
}

impl TaskStep {
    pub(super) fn new(tasks: Tasks, handler: &str) -> Self {
        TaskStep { tasks, handler: handler.to_owned() }
    }

    /// Asks for what the context says, and waits for its end.
    async fn ask(&self, context: &StepContext) -> Result<Waited, StepError> {
        let unsaid = |error: Error| {
            StepError::failed(format!("handler {:?} could not be asked: {error}", self.handler))
        };
        let request = Request::of(context).and_then(|request| encode(&request)).map_err(unsaid)?;
        let errand = Errand::new(self, context, context.action);
        errand.wait(Wish::Ask(&request)).await.map_err(unsaid)
    }

    /// Waits for the end of the execution if one is in progress, and asks for nothing.
    async fn execution(&self, context: &StepContext) -> Waited {
        let errand = Errand::new(self, context, Action::Execute);
        errand.wait(Wish::Heed).await.unwrap_or_else(|error| Waited::Lost(error.to_string()))
    }

    async fn act(&self, context: &StepContext) -> Result<StepOutput, StepError> {
        match self.ask(context).await? {
            Waited::Ended(Outcome::Done { result }) => Ok(result.into()),
            Waited::Ended(Outcome::Failed { error, effect: TaskEffect::None, retryable }) => {
                Err(StepError::Failed { error, retryable })
            }
            Waited::Ended(Outcome::Failed { error, effect: TaskEffect::Unknown, .. })
            | Waited::Lost(error) => Err(StepError::unknown(error)),
            Waited::NeverGiven(why) => Err(StepError::retryable(why)),
            Waited::Nothing => Err(StepError::unknown("its task is gone")),
        }
    }
}

#[async_trait]
impl Step for TaskStep {
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError> {
        self.act(&context).await
    }

    /// A worker that is still at the execution is waited for, so that nothing is undone while it
    /// is being done.
    async fn compensate(&self, mut context: StepContext) -> Result<StepOutput, StepError> {
        let execution = self.execution(&context).await;
        if let Waited::Ended(Outcome::Done { result }) = &execution
            && context.original_result.is_none()
        {
            context.original_result = Some(result.clone());
        }
        let output = self.act(&context).await?;
        // Kept until here for the next attempt to undo it.
        Errand::new(self, &context, Action::Execute).clear().await;
        Ok(output)
    }

    /// The worker that was asked to do it knows better than one that is asked whether it was done.
    async fn probe(&self, context: StepContext) -> Result<Probe, StepError> {
        match self.execution(&context).await {
            Waited::Ended(Outcome::Done { result }) => return Ok(Probe::Done(result)),
            Waited::Ended(Outcome::Failed { effect: TaskEffect::None, .. })
            | Waited::NeverGiven(_) => return Ok(Probe::NotDone),
            Waited::Ended(Outcome::Failed { effect: TaskEffect::Unknown, .. })
            | Waited::Lost(_)
            | Waited::Nothing => {}
        }
        match self.ask(&context).await? {
            Waited::Ended(Outcome::Done { result }) => Ok(Probe::Done(result)),
            Waited::Ended(Outcome::Failed { effect: TaskEffect::None, .. }) => Ok(Probe::NotDone),
            Waited::Ended(Outcome::Failed { error, retryable: false, .. }) => {
                Err(StepError::missing(error))
            }
            Waited::Ended(Outcome::Failed { error, .. })
            | Waited::Lost(error)
            | Waited::NeverGiven(error) => Err(StepError::unknown(error)),
            Waited::Nothing => Err(StepError::unknown("its task is gone")),
        }
    }

    async fn recorded(&self, context: &StepContext) {
        Errand::new(self, context, context.action).clear().await;
        if context.action == Action::Probe {
            Errand::new(self, context, Action::Execute).clear().await;
        }
    }
}
