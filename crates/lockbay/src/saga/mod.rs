//! Sagas: several steps, each with a compensation, that go on or go back after any crash.

mod definition;
mod log;
mod step;

pub use definition::{
    HandlerCheck, MAX_PAYLOAD_BYTES, MAX_SAGA_TIME, MAX_STEP_RETRIES, MAX_STEPS, SagaRequest,
    StepSpec,
};
pub use log::{SagaStatus, StepStatus};
pub use step::{
    Action, Probe, ReadOnly, SagaContext, Step, StepContext, StepError, StepFn, StepOutput,
    read_only, step_fn,
};
