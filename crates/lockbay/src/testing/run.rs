//! One run after another: which faults there are to try, and how a run with one goes.
//!
//! The first run has no fault. What it was asked, and what it left, is what all others are measured
//! by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::inject::{Boundary, Call, Fault, Injector, Life, Wrapped};
use super::report::{Report, Run};
use super::{Build, SagaWorld, judge};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Result;
use crate::lockbay::LockBay;
use crate::saga::{Action, SagaInfo, SagaStatus, Step};
use crate::store::faulty::{Cut, Faulty};
use crate::store::memory::Memory;

/// How far the clock is stepped at first, and how often; then how far, and how often.
const STEP: Duration = Duration::from_millis(20);
const STEPS: u32 = 500;
const LONG_STEP: Duration = Duration::from_millis(250);
const LONG_STEPS: u32 = 3_000;
/// How often everything that can run is let run before the clock is stepped.
const YIELDS: u32 = 60;

/// A run with all that it is judged by.
pub(super) struct Ran {
    pub(super) run: Run,
    /// Whether the fault has happened.
    pub(super) happened: bool,
    /// What could be seen before the start, and at the end.
    pub(super) before: String,
    pub(super) after: String,
    /// What the world said of its end.
    pub(super) checked: Result<(), String>,
    /// The saga as it stood, and how many entries its log had.
    pub(super) saga: Option<SagaInfo>,
    entries: u64,
}

/// What the plain run shows of the saga's steps.
pub(super) struct Shape {
    pub(super) steps: Vec<Shown>,
}

/// A step, as far as the kit cares.
pub(super) struct Shown {
    pub(super) name: String,
    /// Itself, and the steps that depend on it, directly or through others.
    behind: Vec<String>,
    pub(super) pivot: bool,
}

impl Shape {
    fn of(saga: &SagaInfo) -> Self {
        let mut steps: Vec<Shown> = Vec::new();
        for own in &saga.steps {
            let mut behind = vec![own.name.clone()];
            // As often as there are steps, so that the order in which they were given is no matter.
            for _ in 0..saga.steps.len() {
                for other in &saga.steps {
                    let depends = other.depends_on.iter().any(|name| behind.contains(name));
                    if depends && !behind.contains(&other.name) {
                        behind.push(other.name.clone());
                    }
                }
            }
            steps.push(Shown { name: own.name.clone(), behind, pivot: own.pivot });
        }
        Shape { steps }
    }

    /// The step whose failure has the most to be undone: the pivot, or the last one behind which
    /// nothing comes.
    fn turning(&self) -> Option<&Shown> {
        let pivot = self.steps.iter().find(|step| step.pivot);
        pivot.or_else(|| self.steps.iter().rfind(|step| step.behind.len() == 1))
    }

    /// The steps that do not wait for this one.
    fn beside(&self, step: &Shown) -> Vec<String> {
        let names = self.steps.iter().map(|other| &other.name);
        names.filter(|name| !step.behind.contains(name)).cloned().collect()
    }

    /// Whether there is no way back once this step may have acted.
    pub(super) fn is_past_pivot(&self, name: &str) -> bool {
        let pivots = self.steps.iter().filter(|step| step.pivot);
        pivots.into_iter().any(|pivot| pivot.behind.iter().any(|behind| behind == name))
    }

    fn step_faults(&self) -> Vec<Fault> {
        let of = |step: &Shown| {
            let step = step.name.clone();
            [
                Fault::Fails { step: step.clone() },
                Fault::FailsForNow { step: step.clone() },
                Fault::UnknownBefore { step: step.clone() },
                Fault::UnknownAfter { step: step.clone() },
                Fault::UnheardThenFails { step: step.clone() },
                Fault::Repeated { step: step.clone() },
                Fault::Panics { step },
            ]
        };
        self.steps.iter().flat_map(of).collect()
    }

    fn undo_faults(&self, turning: &Shown) -> Vec<Fault> {
        let mut undone = self.beside(turning);
        if !turning.pivot {
            undone.push(turning.name.clone());
        }
        let of = |step: String| {
            [
                Fault::UndoFailsForNow { step: step.clone() },
                Fault::UndoUnknownAfter { step: step.clone() },
                Fault::UndoRepeated { step },
            ]
        };
        undone.into_iter().flat_map(of).collect()
    }
}

fn boundaries(ran: &Ran) -> Vec<Boundary> {
    let calls = 1..=ran.run.trace.len();
    let calls = calls.flat_map(|call| [Boundary::BeforeCall(call), Boundary::AfterCall(call)]);
    calls.chain((1..=ran.entries).map(Boundary::AfterEntry)).collect()
}

/// Every run, judged.
pub(super) async fn all(build: &Build) -> Report {
    let plain = one(build, Fault::Nothing, None).await;
    let mut runs = vec![judge::plain(&plain)];
    let shape = plain.saga.as_ref().map(Shape::of);
    let Some((shape, true)) = shape.map(|shape| (shape, runs[0].violations.is_empty())) else {
        return Report { runs };
    };
    let Some(turning) = shape.turning() else { return Report { runs } };
    let mut faults = shape.step_faults();
    faults.extend(shape.undo_faults(turning));
    faults.extend(boundaries(&plain).into_iter().map(|at| Fault::Crash { at }));
    let rollback = Fault::Fails { step: turning.name.clone() };
    let rollback = one(build, rollback, Some(&shape)).await;
    faults.extend(boundaries(&rollback).into_iter().map(|at| Fault::CrashGoingBack { at }));
    for fault in faults {
        let ran = one(build, fault, Some(&shape)).await;
        runs.push(judge::under_fault(ran, &plain, &shape));
    }
    Report { runs }
}

/// An instance of a run.
struct Instance {
    bay: LockBay,
    life: Life,
}

/// The place of one run.
struct Stage {
    clock: Clock,
    memory: Arc<Memory>,
    injector: Arc<Injector>,
}

impl Stage {
    fn new(world: Arc<dyn SagaWorld>, fault: Fault, shape: Option<&Shape>) -> Self {
        let clock = Clock::manual(1);
        let memory = Memory::new(clock.clone());
        let store = Arc::new(memory.client());
        let observer = LockBay::with_store(Config::default(), store, clock.clone());
        let turning = shape.and_then(Shape::turning);
        let turns = match &fault {
            Fault::UndoFailsForNow { .. }
            | Fault::UndoUnknownAfter { .. }
            | Fault::UndoRepeated { .. }
            | Fault::CrashGoingBack { .. } => turning.map(|step| step.name.clone()),
            Fault::Nothing
            | Fault::Fails { .. }
            | Fault::FailsForNow { .. }
            | Fault::UnknownBefore { .. }
            | Fault::UnknownAfter { .. }
            | Fault::UnheardThenFails { .. }
            | Fault::Repeated { .. }
            | Fault::Panics { .. }
            | Fault::Crash { .. } => None,
        };
        let fails = turns.as_deref().or(fault.step());
        let fails = shape
            .and_then(|shape| shape.steps.iter().find(|step| Some(step.name.as_str()) == fails));
        let wait_for = shape.zip(fails).map(|(shape, step)| shape.beside(step));
        let injector = Arc::new(Injector {
            fault,
            turns,
            wait_for: wait_for.unwrap_or_default(),
            world,
            observer,
            armed: AtomicBool::new(false),
            happened: AtomicBool::new(false),
            calls: Mutex::default(),
            in_progress: Mutex::default(),
        });
        Stage { clock, memory, injector }
    }

    fn instance(&self) -> Result<Instance> {
        let store = Arc::new(Faulty::new(Arc::new(self.memory.client()), self.clock.clone()));
        let shared: Arc<dyn crate::store::Store> = Arc::<Faulty>::clone(&store);
        let bay = LockBay::with_store(Config::default(), shared, self.clock.clone());
        let life = Life { store };
        let (injector, alive) = (Arc::clone(&self.injector), life.clone());
        bay.sagas().wrap_steps(Arc::new(move |inner| {
            let (injector, life) = (Arc::clone(&injector), alive.clone());
            Arc::new(Wrapped { inner, injector, life }) as Arc<dyn Step>
        }));
        self.injector.world.register(&bay)?;
        Ok(Instance { bay, life })
    }

    /// Lets everything run that can, here and where the world asks its steps.
    async fn settle(&self) {
        loop {
            for _ in 0..YIELDS {
                tokio::task::yield_now().await;
            }
            if !self.injector.world.answered().await {
                return;
            }
        }
    }

    /// Steps the clock until the saga has come to rest. Once its executor has died, another
    /// instance is there.
    async fn come_to_rest(&self, first: &Instance, id: &str) -> Result<SagaInfo> {
        let mut second = None;
        for step in 0..STEPS + LONG_STEPS {
            self.settle().await;
            if second.is_none() && first.life.store.is_dead() {
                let instance = self.instance()?;
                instance.bay.start();
                second = Some(instance);
            }
            let saga = self.injector.observer.sagas().show(id).await?;
            if saga.status.is_terminal() || saga.status == SagaStatus::Parked {
                return Ok(saga);
            }
            self.clock.advance(if step < STEPS { STEP } else { LONG_STEP });
        }
        self.injector.observer.sagas().show(id).await
    }
}

/// One run, as it went.
async fn one(build: &Build, fault: Fault, shape: Option<&Shape>) -> Ran {
    let stage = Stage::new(build(), fault, shape);
    let mut ran = Ran {
        run: Run {
            fault: stage.injector.fault.clone(),
            trace: Vec::new(),
            status: None,
            reason: None,
            violations: Vec::new(),
        },
        happened: false,
        before: String::new(),
        after: String::new(),
        checked: Ok(()),
        saga: None,
        entries: 0,
    };
    if let Err(error) = play(&stage, &mut ran).await {
        ran.run.violations.push(format!("the run could not be carried out: {error}"));
    }
    ran.run.trace.clone_from(&*stage.injector.calls.lock());
    ran
}

async fn play(stage: &Stage, ran: &mut Ran) -> Result<()> {
    let injector = &stage.injector;
    let first = stage.instance()?;
    injector.world.prepare(&first.bay).await?;
    // For its renewals; and so that what it commits at first is not taken for the saga's.
    first.bay.start();
    stage.settle().await;
    ran.before = injector.observe().await;
    injector.armed.store(true, Ordering::Release);
    let id = injector.world.start(&first.bay).await?.saga_id;
    if let Some(Boundary::AfterEntry(entry)) = injector.fault.boundary() {
        first.life.store.die_at(*entry, Cut::After);
    }
    let saga = stage.come_to_rest(&first, &id).await?;
    ran.after = injector.observe().await;
    ran.checked = injector.world.check(&injector.observer, saga.status).await;
    ran.happened = match injector.fault.boundary() {
        Some(_) => first.life.store.is_dead(),
        None => injector.fault == Fault::Nothing || injector.happened.load(Ordering::Acquire),
    };
    let mut next = None::<String>;
    loop {
        let page = injector.observer.sagas().history(&id, next.as_deref(), 1_000).await?;
        ran.entries += u64::try_from(page.items.len()).unwrap_or(u64::MAX);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    (ran.run.status, ran.run.reason) = (Some(saga.status), saga.reason.clone());
    ran.saga = Some(saga);
    Ok(())
}

/// The calls of a step for one action.
pub(super) fn calls_of<'a>(
    trace: &'a [Call],
    action: Action,
    step: &'a str,
) -> impl DoubleEndedIterator<Item = (usize, &'a Call)> {
    trace.iter().enumerate().filter(move |(_, call)| call.action == action && call.step == step)
}
