//! The world outside that sagas change, and what must hold of it: the model behind the simulation.
//!
//! It does an act once under a key, refuses what comes from a superseded executor or from before an
//! undo or a probe, as a good receiver does, and writes down whatever the engine does against its
//! promises.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockbay::clock::{Clock, Timestamp};
use lockbay::saga::{Probe, SagaInfo, SagaRequest, SagaStatus, Step, StepContext, StepError};
use lockbay::saga::{StepOutput, StepSpec};
use lockbay::store::Revision;
use lockbay::{Json, LockBay};
use parking_lot::Mutex;

/// What the world knows of one effect.
#[derive(Debug, Clone, Copy, Default)]
struct Effect {
    there: bool,
    /// Acts that were asked for before this call are refused.
    barrier: u64,
    skipped: bool,
}

/// What the world knows of one saga.
#[derive(Default)]
struct Seen {
    token: Revision,
    effects: HashMap<String, Effect>,
    calls: Vec<(Timestamp, String)>,
}

/// How a step is made, as far as its receiver cares.
#[derive(Debug, Clone)]
struct Shape {
    name: String,
    after: Vec<String>,
    once: bool,
    pivot: bool,
}

/// All that is outside.
#[derive(Clone)]
pub struct Outside(Arc<Inner>);

struct Inner {
    clock: Clock,
    healed: AtomicBool,
    number: Mutex<u64>,
    /// By the name of the saga, which is unlike every other in a simulation.
    shapes: Mutex<HashMap<String, Vec<Shape>>>,
    sagas: Mutex<HashMap<String, Seen>>,
    wrong: Mutex<Vec<String>>,
}

impl Outside {
    pub fn new(clock: &Clock) -> Self {
        Outside(Arc::new(Inner {
            clock: clock.clone(),
            healed: AtomicBool::new(false),
            number: Mutex::default(),
            shapes: Mutex::default(),
            sagas: Mutex::default(),
            wrong: Mutex::default(),
        }))
    }

    /// From now on every step succeeds.
    pub fn heal(&self) {
        self.0.healed.store(true, Ordering::Relaxed);
    }

    /// Registers the steps of an instance, which do nothing any more once it is not alive.
    pub fn register(&self, bay: &LockBay, alive: &Arc<AtomicBool>) {
        let step = SimStep { outside: self.clone(), alive: Arc::clone(alive) };
        bay.sagas().register("step", step).unwrap();
    }

    pub fn dice(&self, sides: u64) -> u64 {
        self.0.clock.random() % sides
    }

    /// A saga of a shape that chance decides.
    pub fn request(&self) -> SagaRequest {
        let number = {
            let mut number = self.0.number.lock();
            *number += 1;
            *number
        };
        let name = format!("saga {number}");
        let count = 1 + self.dice(5);
        let graph = self.dice(2) == 0;
        let pivot = if graph { count } else { self.dice(3 * count) };
        let steps = (0..count).map(|at| self.step(at, graph, at == pivot)).collect();
        let mut request = SagaRequest::new(&name, steps);
        request.idempotency_key = Some(name.clone());
        request.timeout = Some(Duration::from_secs(4 + self.dice(40)));
        let shape = |(at, step): (usize, &StepSpec)| Shape {
            name: step.name.clone(),
            after: match &step.depends_on {
                Some(after) => after.clone(),
                None => at.checked_sub(1).map(|at| format!("s{at}")).into_iter().collect(),
            },
            once: !step.idempotent,
            pivot: step.pivot,
        };
        let shapes = request.steps.iter().enumerate().map(shape).collect();
        self.0.shapes.lock().insert(name, shapes);
        request
    }

    fn step(&self, at: u64, graph: bool, pivot: bool) -> StepSpec {
        let mut step = StepSpec::new(format!("s{at}"), "step", Json::null());
        if graph {
            let before = (0..at).filter(|_| self.dice(2) == 0).map(|at| format!("s{at}"));
            step.depends_on = Some(before.collect());
        }
        step.pivot = pivot;
        step.idempotent = self.dice(4) != 0;
        step.max_retries = Some(u32::try_from(self.dice(3)).unwrap());
        step.compensation_max_retries = Some(2);
        step.timeout = Some(Duration::from_millis(500 + self.dice(2_500)));
        step
    }

    /// Whether the effect of a step is there.
    pub fn is_there(&self, saga: &str, step: &str) -> bool {
        let sagas = self.0.sagas.lock();
        let effect = sagas.get(saga).and_then(|seen| seen.effects.get(step));
        effect.is_some_and(|effect| effect.there)
    }

    /// A person decided about this step, having stopped whatever was on its way to it.
    pub fn stop(&self, saga: &str, step: &str) {
        let number = self.next();
        self.effect(saga, step, |effect| effect.barrier = number);
    }

    /// A person passed over this step.
    pub fn skip(&self, saga: &str, step: &str) {
        self.effect(saga, step, |effect| effect.skipped = true);
    }

    fn effect<T>(&self, saga: &str, step: &str, change: impl FnOnce(&mut Effect) -> T) -> T {
        let mut sagas = self.0.sagas.lock();
        let seen = sagas.entry(saga.to_owned()).or_default();
        change(seen.effects.entry(step.to_owned()).or_default())
    }

    fn next(&self) -> u64 {
        let mut number = self.0.number.lock();
        *number += 1;
        *number
    }

    /// A call begins. Returns its number, which orders it among all others.
    fn begin(&self, context: &StepContext) -> u64 {
        let what = format!("{} {}", context.action.name(), context.step);
        let number = self.next();
        let at = self.0.clock.now();
        let shapes = self.0.shapes.lock().get(context.saga_name()).cloned().unwrap();
        let mut sagas = self.0.sagas.lock();
        let seen = sagas.entry(context.saga_id.to_string()).or_default();
        let mut wrong = Vec::new();
        if context.fencing_token < seen.token {
            wrong.push("has a token that went back".to_owned());
        }
        seen.token = seen.token.max(context.fencing_token);
        let there = |step: &str| seen.effects.get(step).is_some_and(|effect| effect.there);
        let skipped = |step: &str| seen.effects.get(step).is_some_and(|effect| effect.skipped);
        let own = shapes.iter().find(|shape| shape.name == context.step).unwrap();
        match context.action {
            lockbay::saga::Action::Execute => {
                let missing = own.after.iter().find(|step| !there(step) && !skipped(step));
                wrong.extend(missing.map(|step| format!("before {step} is there")));
                if own.once && there(&own.name) {
                    wrong.push("is repeated blindly".into());
                }
            }
            lockbay::saga::Action::Compensate => {
                let above = shapes.iter().filter(|shape| shape.after.contains(&own.name));
                let above = above.filter(|shape| there(&shape.name) && !skipped(&shape.name));
                wrong.extend(above.map(|shape| format!("while {} is there", shape.name)));
                let pivots = shapes.iter().filter(|shape| shape.pivot && there(&shape.name));
                let pivots = pivots.filter(|shape| !skipped(&shape.name));
                wrong.extend(pivots.map(|shape| format!("past the pivot {}", shape.name)));
            }
            lockbay::saga::Action::Probe => {}
        }
        seen.calls.push((at, what.clone()));
        let saga = &context.saga_id;
        self.0.wrong.lock().extend(wrong.iter().map(|why| format!("{saga}: {what} {why}")));
        number
    }

    /// The act of a call, unless it comes too late.
    fn act(&self, context: &StepContext, number: u64) -> Result<(), StepError> {
        let mut sagas = self.0.sagas.lock();
        let seen = sagas.entry(context.saga_id.to_string()).or_default();
        if context.fencing_token < seen.token {
            return Err(StepError::retryable("superseded"));
        }
        let effect = seen.effects.entry(context.step.clone()).or_default();
        if number <= effect.barrier {
            return Err(StepError::retryable("too late"));
        }
        effect.there = true;
        Ok(())
    }

    fn undo(&self, context: &StepContext, number: u64) -> Result<(), StepError> {
        let mut sagas = self.0.sagas.lock();
        let seen = sagas.entry(context.saga_id.to_string()).or_default();
        if context.fencing_token < seen.token {
            return Err(StepError::retryable("superseded"));
        }
        let effect = seen.effects.entry(context.step.clone()).or_default();
        effect.barrier = effect.barrier.max(number);
        effect.there = false;
        Ok(())
    }

    /// What must hold of a saga that has ended, by the commit of its last entry.
    pub fn check_end(&self, saga: &SagaInfo, ended: Timestamp) {
        let mut wrong = Vec::new();
        let mut sagas = self.0.sagas.lock();
        let seen = sagas.entry(saga.saga_id.clone()).or_default();
        let wanted = match saga.status {
            SagaStatus::Completed => Some(true),
            SagaStatus::Compensated => Some(false),
            SagaStatus::Abandoned => None,
            SagaStatus::Pending
            | SagaStatus::Running
            | SagaStatus::Compensating
            | SagaStatus::Parked => {
                wrong.push("it has not ended".to_owned());
                None
            }
        };
        for step in &saga.steps {
            let effect = seen.effects.get(&step.name).copied().unwrap_or_default();
            if wanted.is_some_and(|wanted| wanted != effect.there && !effect.skipped) {
                let name = &step.name;
                wrong.push(format!("effect of {name} is there: {}", effect.there));
            }
        }
        let late = seen.calls.iter().filter(|(at, _)| wanted.is_some() && *at > ended);
        wrong.extend(late.map(|(_, what)| format!("{what} after the end")));
        if !wrong.is_empty() {
            wrong.push(format!("calls {:?}", seen.calls));
        }
        let (id, status) = (&saga.saga_id, saga.status.name());
        self.0.wrong.lock().extend(wrong.iter().map(|why| format!("{id} is {status}: {why}")));
    }

    /// What went against the promises so far.
    pub fn wrong(&self) -> Vec<String> {
        self.0.wrong.lock().clone()
    }
}

/// A step that does what chance says, on an instance that may be dead.
struct SimStep {
    outside: Outside,
    alive: Arc<AtomicBool>,
}

impl SimStep {
    /// The dead do nothing.
    async fn live(&self) {
        if !self.alive.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    async fn takes_time(&self) {
        let outside = &self.outside.0;
        if self.outside.dice(3) == 0 && !outside.healed.load(Ordering::Relaxed) {
            let limit = Duration::from_millis(800);
            outside.clock.sleep(outside.clock.jitter(limit)).await;
        }
        self.live().await;
    }

    fn chance(&self) -> u64 {
        if self.outside.0.healed.load(Ordering::Relaxed) { 99 } else { self.outside.dice(100) }
    }
}

#[async_trait::async_trait]
impl Step for SimStep {
    async fn execute(&self, context: StepContext) -> Result<StepOutput, StepError> {
        self.live().await;
        let number = self.outside.begin(&context);
        self.takes_time().await;
        let chance = self.chance();
        match chance {
            0..8 => return Err(StepError::retryable("chance")),
            8..14 => return Err(StepError::failed("chance")),
            14..18 => return Err(StepError::unknown("chance, before the act")),
            18..20 => std::future::pending::<()>().await,
            _ => {}
        }
        self.outside.act(&context, number)?;
        match chance {
            20..26 => return Err(StepError::unknown("chance, after the act")),
            26..29 => std::future::pending::<()>().await,
            _ => {}
        }
        self.takes_time().await;
        Ok(Json::from_value(&context.step)?.into())
    }

    async fn compensate(&self, context: StepContext) -> Result<StepOutput, StepError> {
        self.live().await;
        let number = self.outside.begin(&context);
        self.takes_time().await;
        let chance = self.chance();
        match chance {
            0..10 => return Err(StepError::retryable("chance")),
            10..12 => return Err(StepError::failed("chance")),
            _ => {}
        }
        self.outside.undo(&context, number)?;
        match chance {
            12..20 => return Err(StepError::unknown("chance, after the undo")),
            20..22 => std::future::pending::<()>().await,
            _ => {}
        }
        Ok(StepOutput::default())
    }

    async fn probe(&self, context: StepContext) -> Result<Probe, StepError> {
        self.live().await;
        let number = self.outside.begin(&context);
        self.takes_time().await;
        match self.chance() {
            0..10 => return Err(StepError::unknown("chance")),
            10..13 => std::future::pending::<()>().await,
            _ => {}
        }
        let there = self.outside.effect(&context.saga_id, &context.step, |effect| {
            effect.barrier = effect.barrier.max(number);
            effect.there
        });
        Ok(if there { Probe::Done(Json::from_value(&context.step)?) } else { Probe::NotDone })
    }
}
