//! What a handler gets, from what the log says.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Sagas;
use super::record::Saga;
use super::step::{Action, SagaContext, StepContext};
use crate::json::Json;

impl Sagas {
    /// What the handler of a step gets when it is asked to do this now.
    pub(super) fn context_of(
        &self,
        saga: &Saga,
        step: usize,
        action: Action,
        cancelled: CancellationToken,
    ) -> StepContext {
        let definition = &saga.head.definition;
        let (defined, state) = (&definition.steps[step], &saga.state.steps[step]);
        let back = action == Action::Compensate;
        let given = state.parameters.as_ref().map_or(&defined.parameters, |given| &given.0);
        let result =
            |result: &Option<super::log::JsonText>| result.as_ref().map(|result| result.0.clone());
        let results: Arc<[Option<Json>]> =
            saga.state.steps.iter().map(|state| result(&state.result)).collect();
        let limit = defined.timeout();
        StepContext {
            action,
            saga_id: Arc::clone(&saga.id),
            step: defined.name.clone(),
            parameters: given.clone(),
            context: SagaContext::new(Arc::clone(definition), results),
            original_result: result(&state.result).filter(|_| back),
            idempotency_key: format!("{}/{}", saga.id, defined.name),
            attempt: 1 + if back { state.undo_attempts } else { state.attempts },
            fencing_token: saga.token,
            deadline: self.0.clock.tick() + limit,
            deadline_at: self.0.time.now() + limit,
            scheduled_time: None,
            cancelled,
        }
    }
}
