//! Where a saga and its steps stand, in the words that people read.

use serde::{Deserialize, Serialize};

use super::{Cause, Phase, State, StepState};
use crate::error::{Error, Result};
use crate::saga::definition::Definition;

/// Where a saga stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SagaStatus {
    /// Accepted, and not begun.
    Pending,
    /// On its way forward.
    Running,
    /// Every step is done.
    Completed,
    /// On its way back.
    Compensating,
    /// Every effect is undone.
    Compensated,
    /// It needs a person.
    Parked,
    /// A person decided that nothing more is done.
    Abandoned,
}

impl SagaStatus {
    /// Every status.
    pub const ALL: [SagaStatus; 7] = [
        SagaStatus::Pending,
        SagaStatus::Running,
        SagaStatus::Completed,
        SagaStatus::Compensating,
        SagaStatus::Compensated,
        SagaStatus::Parked,
        SagaStatus::Abandoned,
    ];

    /// Its name in JSON and in listings.
    pub fn name(self) -> &'static str {
        match self {
            SagaStatus::Pending => "pending",
            SagaStatus::Running => "running",
            SagaStatus::Completed => "completed",
            SagaStatus::Compensating => "compensating",
            SagaStatus::Compensated => "compensated",
            SagaStatus::Parked => "parked",
            SagaStatus::Abandoned => "abandoned",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// `Invalid` for any other word.
    pub fn parse(name: &str) -> Result<Self> {
        SagaStatus::ALL.into_iter().find(|status| status.name() == name).ok_or_else(|| {
            let names = SagaStatus::ALL.map(SagaStatus::name).join(", ");
            Error::invalid(format!("a saga is one of {names}; not {name:?}"))
        })
    }

    /// Whether nothing will happen to it any more.
    pub fn is_terminal(self) -> bool {
        match self {
            SagaStatus::Completed | SagaStatus::Compensated | SagaStatus::Abandoned => true,
            SagaStatus::Pending
            | SagaStatus::Running
            | SagaStatus::Compensating
            | SagaStatus::Parked => false,
        }
    }
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Not begun.
    Pending,
    /// Begun, or to be tried again.
    Running,
    /// Done.
    Completed,
    /// Failed for good, without effect.
    Failed,
    /// It may have had its effect, and nobody knows.
    Unknown,
    /// Being undone.
    Compensating,
    /// Undone.
    Compensated,
    /// Passed over by a person.
    Skipped,
    /// It needs a person.
    Parked,
}

impl State {
    /// Where the saga stands.
    pub(crate) fn status(&self, definition: &Definition) -> SagaStatus {
        if self.abandoned.is_some() {
            return SagaStatus::Abandoned;
        }
        if self.is_parked() {
            return SagaStatus::Parked;
        }
        if !self.goes_back(definition) {
            let done = self.steps.iter().all(StepState::lets_others_run);
            return if done { SagaStatus::Completed } else { SagaStatus::Running };
        }
        let open = self.steps.iter().any(|step| step.needs_undo() || step.is_unsettled());
        if open { SagaStatus::Compensating } else { SagaStatus::Compensated }
    }

    /// Where a step stands.
    pub(crate) fn step_status(&self, definition: &Definition, step: usize) -> StepStatus {
        let state = &self.steps[step];
        let back = self.goes_back(definition);
        if state.stuck {
            return StepStatus::Parked;
        }
        if back && state.needs_undo() && !self.undo_waits(definition)[step] {
            return StepStatus::Compensating;
        }
        match state.phase {
            Phase::Open if state.doubt => StepStatus::Unknown,
            Phase::Open if state.attempts > 0 || state.is_unsettled() => StepStatus::Running,
            Phase::Open if !back && self.is_ready(definition, step) => StepStatus::Running,
            Phase::Open => StepStatus::Pending,
            Phase::Done => StepStatus::Completed,
            Phase::Failed if state.doubt => StepStatus::Unknown,
            Phase::Failed => StepStatus::Failed,
            Phase::Unknown => StepStatus::Unknown,
            Phase::Undone => StepStatus::Compensated,
            Phase::Skipped => StepStatus::Skipped,
        }
    }

    /// Why it stands as it does, if it is not simply on its way or done.
    pub(crate) fn reason(&self, definition: &Definition) -> Option<String> {
        if self.abandoned.is_some() {
            return self.abandoned.clone();
        }
        if self.stuck.is_some() {
            return self.stuck.clone();
        }
        let stuck = self.steps.iter().position(|step| step.stuck);
        if let Some(step) = stuck {
            let (name, error) = (&definition.steps[step].name, &self.steps[step].error);
            let what = if self.goes_back(definition) { "compensating step" } else { "step" };
            return Some(format!("{what} {name:?}: {}", error.as_deref().unwrap_or("stuck")));
        }
        let (cause, _) = self.turned.as_ref()?;
        Some(match cause {
            Cause::Failed { step, error } => {
                format!("failed: step {:?}: {error}", definition.steps[*step].name)
            }
            Cause::TimedOut => "timeout: the saga's time was over".into(),
            Cause::Cancelled { actor, reason } => format!("cancelled by {actor}: {reason}"),
        })
    }
}
