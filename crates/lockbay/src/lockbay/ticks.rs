//! Who does the ticks of schedules: the same handlers that do the steps of sagas.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::job::{JobFailure, JobSuccess};
use crate::saga::{LoneStep, LoneWish, Sagas, StepError};
use crate::schedule::{Tick, TickAttempt, TickHandlers};

/// Lets whoever does steps of sagas do ticks of schedules as well.
pub(super) struct SagaHandlers(pub(super) Sagas);

#[async_trait]
impl TickHandlers for SagaHandlers {
    async fn find(&self, name: &str, tick: Tick) -> Result<Option<Arc<dyn TickAttempt>>> {
        let wish = LoneWish {
            id: tick.job_id.into(),
            name: tick.schedule,
            step: tick.job_type,
            parameters: tick.parameters,
            idempotency_key: tick.idempotency_token,
            attempt: tick.attempt,
            fencing_token: tick.fencing_token,
            scheduled_time: tick.scheduled_time,
            limit: tick.limit,
            cancelled: tick.cancelled,
        };
        let found = self.0.lone(name, wish).await?;
        Ok(found.map(|step| Arc::new(step) as Arc<dyn TickAttempt>))
    }

    async fn knows(&self, name: &str) -> Result<bool> {
        self.0.knows_handler(name).await
    }
}

#[async_trait]
impl TickAttempt for LoneStep {
    async fn make(&self) -> std::result::Result<JobSuccess, JobFailure> {
        match self.execute().await {
            Ok(output) => Ok(JobSuccess { result: output.result, effects: output.effects }),
            Err(StepError::Failed { error, retryable: false }) => Err(JobFailure::permanent(error)),
            Err(StepError::Failed { error, retryable: true })
            | Err(StepError::Unknown { error })
            | Err(StepError::Missing { what: error }) => Err(JobFailure::retryable(error)),
        }
    }

    async fn recorded(&self) {
        LoneStep::recorded(self).await;
    }
}
