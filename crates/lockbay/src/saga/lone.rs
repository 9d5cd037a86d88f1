//! A handler that is asked outside of any saga: one execution, without a compensation.
//!
//! Whoever asks records the outcome and decides what follows from it. The handler sees a step as
//! in a saga, with nothing done before it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::definition::Definition;
use super::step::{Action, SagaContext, Step, StepContext, StepError, StepOutput};
use super::{CANCEL_GRACE, Sagas};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::json::Json;
use crate::store::Revision;

/// What is asked of a handler outside of a saga.
pub(crate) struct LoneWish {
    /// What stands where a saga's id, name and step would.
    pub(crate) id: Arc<str>,
    pub(crate) name: String,
    pub(crate) step: String,
    pub(crate) parameters: Json,
    pub(crate) idempotency_key: String,
    pub(crate) attempt: u32,
    pub(crate) fencing_token: Revision,
    pub(crate) scheduled_time: Timestamp,
    /// How long it may take.
    pub(crate) limit: Duration,
    pub(crate) cancelled: CancellationToken,
}

/// An execution that was or is to be asked for, and by whom it is done.
pub(crate) struct LoneStep {
    step: Arc<dyn Step>,
    context: StepContext,
    sagas: Sagas,
}

impl Sagas {
    /// Whether somebody is known to be the handler of this name.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) async fn knows_handler(&self, name: &str) -> Result<bool> {
        Ok(self.0.handlers.find(name).await?.is_some())
    }

    /// The execution of a wish by the handler of this name; `None` if nobody is known to be it.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) async fn lone(&self, handler: &str, wish: LoneWish) -> Result<Option<LoneStep>> {
        self.learn_the_time().await?;
        let Some(step) = self.0.handlers.find(handler).await? else { return Ok(None) };
        let given = Json::parse("{}")?;
        let definition = Arc::new(Definition::of_done_steps(&wish.name, given, &[]));
        let context = StepContext {
            action: Action::Execute,
            saga_id: wish.id,
            step: wish.step,
            parameters: wish.parameters,
            context: SagaContext::new(definition, Arc::new([])),
            original_result: None,
            idempotency_key: wish.idempotency_key,
            attempt: wish.attempt,
            fencing_token: wish.fencing_token,
            deadline: self.0.clock.tick() + wish.limit,
            deadline_at: self.0.time.now() + wish.limit,
            scheduled_time: Some(wish.scheduled_time),
            cancelled: wish.cancelled,
        };
        Ok(Some(LoneStep { step, context, sagas: self.clone() }))
    }
}

impl LoneStep {
    /// Asks for it, and waits for its end.
    pub(crate) async fn execute(&self) -> Result<StepOutput, StepError> {
        self.step.execute(self.context.clone()).await
    }

    /// Says that its outcome is recorded, so that what is kept for it can go.
    pub(crate) async fn recorded(&self) {
        let clock = &self.sagas.0.clock;
        if clock.timeout(CANCEL_GRACE, self.step.recorded(&self.context)).await.is_none() {
            tracing::warn!(id = %self.context.saga_id, "what was kept for a handler was left over");
        }
    }
}
