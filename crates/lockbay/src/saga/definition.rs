//! What a saga is to do, as its caller says it and as it is stored: the definition.
//!
//! A definition is checked once, at the start, and then kept with the saga: a deploy that changes
//! the code changes no saga in flight. Names become places here: dependencies are indices, and the
//! order in which steps can run is worked out once. Nothing here knows how far a saga has come.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Timestamp, micros};
use crate::error::{Error, Result};
use crate::json::Json;
use crate::name::check_name;

/// The most steps of a saga.
pub const MAX_STEPS: usize = 1_000;
/// The most retries of a step or a compensation.
pub const MAX_STEP_RETRIES: u32 = 1_000;
/// The longest time that a saga or a step may be given.
pub const MAX_SAGA_TIME: Duration = Duration::from_secs(3_650 * 86_400);
/// The largest parameters, context, metadata or result, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
/// The largest definition as a whole, in bytes.
const MAX_DEFINITION_BYTES: usize = 4 * 1024 * 1024;
/// How the key of a compensation ends.
pub(super) const UNDO: &str = "/undo";
/// How often a compensation is tried again unless its step says otherwise.
const DEFAULT_UNDO_RETRIES: u32 = 10;

/// One step of a saga, as its caller says it.
#[derive(Debug, Clone)]
pub struct StepSpec {
    /// Its name, unlike that of every other step. 1 to 128 bytes, no control characters.
    pub name: String,
    /// Who executes it.
    pub handler: String,
    /// Who compensates it, if that is not the handler itself.
    pub compensation_handler: Option<String>,
    /// What the handler gets.
    pub parameters: Json,
    /// How often it is tried again.
    pub max_retries: Option<u32>,
    /// How often its compensation is tried again; a budget of its own.
    pub compensation_max_retries: Option<u32>,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// The steps that must be done before it. If no step of a saga says so, each follows the one
    /// before it; if any does, those that do not say begin at once.
    pub depends_on: Option<Vec<String>>,
    /// Whether there is no way back once this step may have happened.
    pub pivot: bool,
    /// Whether it may be executed again, with the same key, when its outcome is not known.
    pub idempotent: bool,
}

impl StepSpec {
    /// A step with default policies.
    pub fn new(name: impl Into<String>, handler: impl Into<String>, parameters: Json) -> Self {
        StepSpec {
            name: name.into(),
            handler: handler.into(),
            compensation_handler: None,
            parameters,
            max_retries: None,
            compensation_max_retries: None,
            timeout: None,
            depends_on: None,
            pivot: false,
            idempotent: true,
        }
    }
}

/// When the handlers of a saga must be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HandlerCheck {
    /// When it starts; it is refused otherwise.
    #[default]
    AtStart,
    /// When they are needed; the saga waits for them, as long as it may.
    Deferred,
}

/// A wish to run a saga.
#[derive(Debug, Clone)]
pub struct SagaRequest {
    /// What kind of saga. 1 to 128 bytes, no control characters.
    pub saga_name: String,
    /// Its steps.
    pub steps: Vec<StepSpec>,
    /// What every handler gets: a JSON object, to which the results of steps are added.
    pub context: Json,
    /// What is kept with it for people: any JSON.
    pub metadata: Json,
    /// How long it may take before it is rolled back.
    pub timeout: Option<Duration>,
    /// When it is rolled back unless it is done, by the store's clock; in place of a timeout.
    pub deadline: Option<Timestamp>,
    /// Names this request: the same request with the same key gives the same saga.
    pub idempotency_key: Option<String>,
    /// When its handlers must be known.
    pub handlers: HandlerCheck,
}

impl SagaRequest {
    /// A request with default policies, without context.
    pub fn new(saga_name: impl Into<String>, steps: Vec<StepSpec>) -> Self {
        SagaRequest {
            saga_name: saga_name.into(),
            steps,
            context: Json::null(),
            metadata: Json::null(),
            timeout: None,
            deadline: None,
            idempotency_key: None,
            handlers: HandlerCheck::default(),
        }
    }

    /// Says its deadline as the time that is left now.
    pub(crate) fn begin_at(&mut self, now: Timestamp) -> Result<()> {
        let Some(deadline) = self.deadline else { return Ok(()) };
        if self.timeout.is_some() {
            return Err(Error::invalid("a saga has a timeout or a deadline, and not both"));
        }
        if deadline <= now {
            return Err(Error::invalid(format!(
                "the deadline of a saga lies ahead, and this has passed: {deadline}, now {now}"
            )));
        }
        self.timeout = Some(deadline.since(now));
        Ok(())
    }
}

/// What a request leaves open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policies {
    pub(crate) timeout: Duration,
    pub(crate) step_timeout: Duration,
    pub(crate) max_retries: u32,
}

/// One step, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepDefinition {
    pub(crate) name: String,
    pub(crate) handler: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undo_handler: Option<String>,
    pub(crate) parameters: Json,
    pub(crate) retries: u32,
    pub(crate) undo_retries: u32,
    pub(crate) timeout_us: u64,
    /// The places of the steps that must be done before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) after: Vec<usize>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) pivot: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) once: bool,
}

impl StepDefinition {
    /// Who compensates it.
    pub(crate) fn compensated_by(&self) -> &str {
        self.undo_handler.as_ref().unwrap_or(&self.handler)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_micros(self.timeout_us)
    }

    /// Whether the log must say that an attempt begins before it does: a step that must not be
    /// repeated blindly, and one after which there is no way back.
    pub(crate) fn is_announced(&self) -> bool {
        self.once || self.pivot
    }
}

/// A whole saga, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) saga_name: String,
    pub(crate) steps: Vec<StepDefinition>,
    pub(crate) context: Json,
    pub(crate) metadata: Json,
    pub(crate) timeout_us: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) deferred: bool,
}

impl Definition {
    /// Checks a request, and fills in what it leaves open.
    pub(crate) fn of(request: &SagaRequest, policies: Policies) -> Result<Self> {
        check_name("saga_name", &request.saga_name, 128)?;
        if request.steps.is_empty() || request.steps.len() > MAX_STEPS {
            let count = request.steps.len();
            return Err(Error::invalid(format!("a saga has 1 to {MAX_STEPS} steps, not {count}")));
        }
        check_payload("context", &request.context)?;
        check_payload("metadata", &request.metadata)?;
        let given = request.context.text().trim_start();
        if !given.starts_with('{') && given != "null" {
            return Err(Error::invalid("the context of a saga is a JSON object"));
        }
        // Readers disagree about members that come twice.
        request.context.digest()?;
        let timeout = request.timeout.unwrap_or(policies.timeout);
        check_time("the timeout of a saga", timeout)?;
        let places = places(&request.steps)?;
        let ordered = request.steps.iter().all(|step| step.depends_on.is_none());
        let mut steps = Vec::with_capacity(request.steps.len());
        for (at, step) in request.steps.iter().enumerate() {
            let after = match &step.depends_on {
                None if ordered => at.checked_sub(1).into_iter().collect(),
                None => Vec::new(),
                Some(names) => dependencies(step, names, &places)?,
            };
            steps.push(StepDefinition::of(step, after, timeout, policies)?);
        }
        let definition = Definition {
            saga_name: request.saga_name.clone(),
            steps,
            context: if given == "null" { Json::empty_object() } else { request.context.clone() },
            metadata: request.metadata.clone(),
            timeout_us: micros(timeout),
            deferred: request.handlers == HandlerCheck::Deferred,
        };
        definition.check_graph()?;
        definition.check_size()?;
        Ok(definition)
    }

    /// A definition that says no more than the names of its steps; never stored.
    pub(crate) fn of_done_steps(saga_name: &str, context: Json, done: &[(&str, Json)]) -> Self {
        let step = |(name, _): &(&str, Json)| StepDefinition {
            name: (*name).to_owned(),
            handler: String::new(),
            undo_handler: None,
            parameters: Json::null(),
            retries: 0,
            undo_retries: 0,
            timeout_us: 0,
            after: Vec::new(),
            pivot: false,
            once: false,
        };
        Definition {
            saga_name: saga_name.to_owned(),
            steps: done.iter().map(step).collect(),
            context,
            metadata: Json::null(),
            timeout_us: 0,
            deferred: false,
        }
    }

    fn check_size(&self) -> Result<()> {
        let payloads = self.steps.iter().map(|step| step.parameters.text().len()).sum::<usize>();
        let bytes = payloads + self.context.text().len() + self.metadata.text().len();
        if bytes <= MAX_DEFINITION_BYTES {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the parameters, context and metadata of a saga have {bytes} bytes together, at most \
             {MAX_DEFINITION_BYTES} are taken"
        )))
    }

    /// Refuses circles, and a pivot beside which another step could run: with two branches, one
    /// could not go back and the other could not go on.
    fn check_graph(&self) -> Result<()> {
        let order = self.order();
        if order.len() < self.steps.len() {
            let name = &self.steps[self.in_circle(&order)].name;
            return Err(Error::invalid(format!(
                "steps depend on each other in a circle: {name:?}"
            )));
        }
        for pivot in (0..self.steps.len()).filter(|at| self.steps[*at].pivot) {
            let (before, after) = (self.reach(pivot, &order), self.reached_by(pivot, &order));
            let beside =
                (0..self.steps.len()).find(|at| *at != pivot && !before[*at] && !after[*at]);
            if let Some(beside) = beside {
                let (pivot, beside) = (&self.steps[pivot].name, &self.steps[beside].name);
                return Err(Error::invalid(format!(
                    "step {beside:?} can run beside the pivot {pivot:?}: make one depend on the \
                     other"
                )));
            }
        }
        Ok(())
    }

    /// A step of a circle. Steps that only stand behind one are missing in the order, too; but
    /// whoever is missing waits for another that is, and so does a way back end in the circle.
    fn in_circle(&self, order: &[usize]) -> usize {
        let mut missing = vec![true; self.steps.len()];
        order.iter().for_each(|at| missing[*at] = false);
        let before = |at: usize| self.steps[at].after.iter().copied().find(|at| missing[*at]);
        let first = missing.iter().position(|missing| *missing).unwrap_or_default();
        (0..self.steps.len()).fold(first, |at, _| before(at).unwrap_or(at))
    }

    /// The steps in an order in which each comes behind those it depends on; steps in a circle are
    /// left out.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut missing: Vec<usize> = self.steps.iter().map(|step| step.after.len()).collect();
        let mut followers: Vec<Vec<usize>> = vec![Vec::new(); self.steps.len()];
        for (at, step) in self.steps.iter().enumerate() {
            step.after.iter().for_each(|before| followers[*before].push(at));
        }
        let mut order: Vec<usize> = (0..missing.len()).filter(|at| missing[*at] == 0).collect();
        let mut next = 0;
        while let Some(at) = order.get(next).copied() {
            next += 1;
            for follower in &followers[at] {
                missing[*follower] -= 1;
                if missing[*follower] == 0 {
                    order.push(*follower);
                }
            }
        }
        order
    }

    /// For each step, whether this one depends on it, directly or through others.
    fn reach(&self, step: usize, order: &[usize]) -> Vec<bool> {
        let mut reached = vec![false; self.steps.len()];
        self.steps[step].after.iter().for_each(|before| reached[*before] = true);
        for at in order.iter().rev() {
            if reached[*at] {
                self.steps[*at].after.iter().for_each(|before| reached[*before] = true);
            }
        }
        reached
    }

    /// For each step, whether it depends on this one, directly or through others.
    fn reached_by(&self, step: usize, order: &[usize]) -> Vec<bool> {
        let mut reached = vec![false; self.steps.len()];
        for at in order {
            let after = &self.steps[*at].after;
            reached[*at] = after.iter().any(|before| *before == step || reached[*before]);
        }
        reached
    }

    /// The place of a step.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.name == name)
    }

    /// Every handler that it needs.
    pub(crate) fn handlers(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().flat_map(|step| {
            std::iter::once(step.handler.as_str()).chain(step.undo_handler.as_deref())
        })
    }
}

impl StepDefinition {
    fn of(
        step: &StepSpec,
        after: Vec<usize>,
        saga_timeout: Duration,
        policies: Policies,
    ) -> Result<Self> {
        check_name("handler", &step.handler, 128)?;
        if let Some(handler) = &step.compensation_handler {
            check_name("compensation_handler", handler, 128)?;
        }
        check_payload(&format!("the parameters of step {:?}", step.name), &step.parameters)?;
        let retries = step.max_retries.unwrap_or(policies.max_retries);
        let undo_retries = step.compensation_max_retries.unwrap_or(DEFAULT_UNDO_RETRIES);
        if retries > MAX_STEP_RETRIES || undo_retries > MAX_STEP_RETRIES {
            let name = &step.name;
            let given = retries.max(undo_retries);
            return Err(Error::invalid(format!(
                "a step has at most {MAX_STEP_RETRIES} retries, step {name:?} has {given}"
            )));
        }
        let timeout = step.timeout.unwrap_or(policies.step_timeout.min(saga_timeout));
        check_time(&format!("the timeout of step {:?}", step.name), timeout)?;
        if timeout > saga_timeout {
            let name = &step.name;
            return Err(Error::invalid(format!(
                "step {name:?} may take longer than the whole saga: {timeout:?}, {saga_timeout:?}"
            )));
        }
        Ok(StepDefinition {
            name: step.name.clone(),
            handler: step.handler.clone(),
            undo_handler: step.compensation_handler.clone(),
            parameters: step.parameters.clone(),
            retries,
            undo_retries,
            timeout_us: micros(timeout),
            after,
            pivot: step.pivot,
            once: !step.idempotent,
        })
    }
}

fn places(steps: &[StepSpec]) -> Result<HashMap<&str, usize>> {
    let mut places = HashMap::with_capacity(steps.len());
    for (at, step) in steps.iter().enumerate() {
        check_name("step name", &step.name, 128)?;
        if step.name.ends_with(UNDO) {
            let name = &step.name;
            return Err(Error::invalid(format!(
                "the name of a step does not end with {UNDO:?}, as keys of compensations do: {name:?}"
            )));
        }
        if places.insert(step.name.as_str(), at).is_some() {
            return Err(Error::invalid(format!("two steps have the name {:?}", step.name)));
        }
    }
    Ok(places)
}

fn dependencies(
    step: &StepSpec,
    names: &[String],
    places: &HashMap<&str, usize>,
) -> Result<Vec<usize>> {
    let mut after = Vec::with_capacity(names.len());
    for name in names {
        let place = places.get(name.as_str()).copied().ok_or_else(|| {
            let step = &step.name;
            Error::invalid(format!("step {step:?} depends on {name:?}, and there is no such step"))
        })?;
        if !after.contains(&place) {
            after.push(place);
        }
    }
    Ok(after)
}

pub(crate) fn check_payload(what: &str, payload: &Json) -> Result<()> {
    let length = payload.text().len();
    if length <= MAX_PAYLOAD_BYTES {
        return Ok(());
    }
    Err(Error::invalid(format!("{what} has {length} bytes, at most {MAX_PAYLOAD_BYTES} are taken")))
}

pub(crate) fn check_time(what: &str, time: Duration) -> Result<()> {
    if (Duration::from_millis(1)..=MAX_SAGA_TIME).contains(&time) {
        return Ok(());
    }
    Err(Error::invalid(format!("{what} lies between 1 ms and ten years, it is {time:?}")))
}
