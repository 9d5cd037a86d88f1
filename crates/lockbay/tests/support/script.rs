//! Steps that do what a test tells them, and tell what they were asked.

#![allow(dead_code)] // every test binary uses its own part of it

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use lockbay::clock::{Clock, Tick};
use lockbay::saga::{Action, Step, StepContext, StepError, StepOutput, StepSpec};
use lockbay::{Json, LockBay};
use parking_lot::Mutex;

/// What a step does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    Succeed,
    Fail,
    FailForNow,
    /// It does not know.
    Wonder,
    Hang,
    Missing,
}

/// What a step was asked.
#[derive(Debug, Clone)]
pub struct Call {
    pub at: Tick,
    pub context: StepContext,
}

impl Call {
    /// The action and the step.
    pub fn what(&self) -> String {
        format!("{} {}", self.context.action.name(), self.context.step)
    }
}

/// What is planned, and what was asked. Steps that are not planned succeed.
#[derive(Clone)]
pub struct Script(Arc<Inner>);

struct Inner {
    clock: Clock,
    planned: Mutex<HashMap<String, (VecDeque<Does>, Does)>>,
    calls: Mutex<Vec<Call>>,
}

impl Script {
    pub fn new(clock: &Clock) -> Self {
        let (planned, calls) = (Mutex::default(), Mutex::default());
        Script(Arc::new(Inner { clock: clock.clone(), planned, calls }))
    }

    /// What `"execute s1"` or `"compensate s1"` does the next times, and ever after.
    pub fn plan(&self, what: &str, next: &[Does], after: Does) {
        let next = next.iter().copied().collect();
        self.0.planned.lock().insert(what.into(), (next, after));
    }

    /// Registers steps that follow this script, as the handler `step`.
    pub fn register(&self, bay: &LockBay) {
        self.register_as(bay, "step");
    }

    /// The same under another name.
    pub fn register_as(&self, bay: &LockBay, handler: &str) {
        bay.sagas().register(handler, self.clone()).unwrap();
    }

    /// What was asked until now, and is forgotten by this.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.calls.lock()).iter().map(Call::what).collect()
    }

    /// The same, of one saga alone.
    pub fn take_of(&self, saga: &str) -> Vec<String> {
        let calls = std::mem::take(&mut *self.0.calls.lock());
        calls.iter().filter(|call| *call.context.saga_id == *saga).map(Call::what).collect()
    }

    /// Every call of one action of one step.
    pub fn calls(&self, what: &str) -> Vec<Call> {
        self.0.calls.lock().iter().filter(|call| call.what() == what).cloned().collect()
    }

    async fn play(&self, context: StepContext) -> Result<StepOutput, StepError> {
        let call = Call { at: self.0.clock.tick(), context: context.clone() };
        let what = call.what();
        self.0.calls.lock().push(call);
        let does = match self.0.planned.lock().get_mut(&what) {
            Some((next, after)) => next.pop_front().unwrap_or(*after),
            None => Does::Succeed,
        };
        match does {
            Does::Succeed => Ok(Json::from_value(&what)?.into()),
            Does::Fail => Err(StepError::failed("told to fail")),
            Does::FailForNow => Err(StepError::retryable("told to fail for now")),
            Does::Wonder => Err(StepError::unknown("told to wonder")),
            Does::Hang => std::future::pending().await,
            Does::Missing => Err(StepError::missing("told to be missing")),
        }
    }
}

#[async_trait::async_trait]
impl Step for Script {
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError> {
        assert_eq!(context.action, Action::Execute);
        self.play(context).await
    }

    async fn compensate(&self, context: StepContext) -> Result<StepOutput, StepError> {
        assert_eq!(context.action, Action::Compensate);
        self.play(context).await
    }
}

/// Steps `s0`, `s1`, …, each after the one before it.
pub fn steps(count: usize) -> Vec<StepSpec> {
    (0..count).map(|at| StepSpec::new(format!("s{at}"), "step", Json::null())).collect()
}

/// One step that depends on these.
pub fn step_after(name: &str, before: &[&str]) -> StepSpec {
    let mut step = StepSpec::new(name, "step", Json::null());
    step.depends_on = Some(before.iter().map(|name| (*name).to_owned()).collect());
    step
}
