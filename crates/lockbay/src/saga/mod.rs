//! Sagas: several steps, each with a compensation, that go on or go back after any crash.
//!
//! The service owns sagas from their start to their end. Its state is the saga's head, its log and
//! its place in the lists, each written in one commit with what it records. It refuses to know what
//! steps do, and how handlers elsewhere are called.
//!
//! The way of a saga through the files: [`definition`] checks what is asked for, [`start`] makes it
//! durable, [`driver`] brings it to its end by asking [`log`] what is next and [`attempt`] to do
//! it; [`takeover`] goes on where another instance died; [`operate`] is what a person may decide;
//! [`list`] looks at it. [`lone`] asks a handler outside of any saga. [`task`] gives steps to workers
//! that poll. [`retire`] and [`leftover`] say what may go.
//!
//! # What holds
//! A saga that was acknowledged comes to an end or is parked, whatever dies. A saga of N steps
//! costs N + 1 commits. What an executor enters after another took over is refused. What a step
//! returns as effects happens exactly once, with its outcome.
//!
//! # What does not
//! Any other effect of a step may happen again, under the same idempotency key.

mod attempt;
mod context;
mod definition;
mod driver;
mod handler;
mod leftover;
mod list;
mod log;
mod lone;
mod machine;
mod operate;
mod record;
mod retire;
mod session;
mod start;
mod step;
mod takeover;
mod task;
mod tell;
mod trail;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SetOnce};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Bus;
use crate::keeper::Keeper;
use crate::metrics::{Metric, Metrics};
use crate::scribe::Scribe;
use crate::store::Store;
use crate::store::time::StoreTime;

pub use definition::{
    HandlerCheck, MAX_PAYLOAD_BYTES, MAX_SAGA_TIME, MAX_STEP_RETRIES, MAX_STEPS, SagaRequest,
    StepSpec,
};
pub use handler::{Caller, Endpoint, HandlerInfo, Route};
pub(crate) use list::matches;
pub use list::{HistoryEntry, HistoryPage, SagaFilter, SagaInfo, SagaPage, StepInfo};
pub use log::{SagaStatus, StepStatus};
pub(crate) use lone::{LoneStep, LoneWish};
pub use operate::{Decision, Operated, OperatedPage};
pub(crate) use record::SAGA_LOG;
pub use start::Started;
pub(crate) use start::id_of;
pub use step::{
    Action, Probe, ReadOnly, SagaContext, Settled, Step, StepContext, StepError, StepFn,
    StepOutput, read_only, step_fn,
};
pub use task::{
    ClaimedTask, DEFAULT_TASK_LEASE, MAX_POLL_WAIT, MAX_POLLED_HANDLERS, MAX_POLLED_TASKS,
    MAX_TASK_LEASE, MIN_TASK_LEASE, TaskEffect, TaskFailure, TaskPoll, Tasks,
};

use definition::Policies;
use handler::{Handlers, PullStep};
use session::Sessions;

/// How long an attempt may go on after its saga has turned around, or its executor must end.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// How sagas of an instance behave unless a request says otherwise, and its limits.
#[derive(Debug, Clone)]
pub(crate) struct SagaDefaults {
    pub(crate) timeout: Duration,
    pub(crate) step_timeout: Duration,
    pub(crate) max_retries: u32,
    pub(crate) session_ttl: Duration,
    /// How many sagas are worked on at once.
    pub(crate) concurrency: usize,
    /// How many more are accepted and wait.
    pub(crate) queue: usize,
    pub(crate) instance_id: String,
    pub(crate) instance_name: Option<String>,
}

/// All sagas of a namespace, as one instance sees them. Cheap to clone.
#[derive(Clone)]
pub struct Sagas(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    bus: Bus,
    scribe: Scribe,
    policies: Policies,
    instance_id: String,
    handlers: Handlers,
    sessions: Sessions,
    time: StoreTime,
    /// The sagas that this instance executes.
    live: Mutex<HashMap<Arc<str>, Arc<Live>>>,
    /// One for each saga that is accepted here and has not ended.
    places: Arc<Semaphore>,
    /// One for each saga that is worked on. A saga that waits for a time gives its turn away.
    turns: Arc<Semaphore>,
    drivers: TaskTracker,
    /// Set when a saga may be durable and executed by nobody.
    out_of_sight: AtomicBool,
    /// Fires when nothing new is to be begun.
    closing: CancellationToken,
    /// Fires when attempts that still run must be cut off.
    cut_off: CancellationToken,
}

/// A saga that this instance executes, as others in the process see it.
struct Live {
    /// Whether it is or was worked on, and does not wait for its first turn.
    begun: AtomicBool,
    /// Somebody else has added to its log: the flag says so, and this wakes its driver.
    nudged: AtomicBool,
    nudge: Notify,
    /// Where it stood when its driver let go of it.
    ended: SetOnce<SagaStatus>,
}

impl Live {
    fn new() -> Arc<Self> {
        Arc::new(Live {
            begun: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            nudge: Notify::new(),
            ended: SetOnce::new(),
        })
    }

    /// Waits until its driver lets go of it.
    async fn ended(&self) -> SagaStatus {
        *self.ended.wait().await
    }

    fn end(&self, status: SagaStatus) {
        // It ends once; the first word counts.
        let _ = self.ended.set(status);
    }
}

impl Sagas {
    #[allow(clippy::too_many_arguments)] // built once, by LockBay
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        keeper: Keeper,
        metrics: Arc<Metrics>,
        bus: Bus,
        defaults: SagaDefaults,
        pull: PullStep,
        scribe: Scribe,
    ) -> Self {
        let sessions = Sessions::new(
            Arc::clone(&store),
            clock.clone(),
            keeper,
            defaults.session_ttl,
            (defaults.instance_id.clone(), defaults.instance_name),
            scribe.clone(),
        );
        let places = defaults.concurrency.saturating_add(defaults.queue);
        Sagas(Arc::new(Inner {
            handlers: Handlers::new(Arc::clone(&store), clock.clone(), pull, scribe.clone()),
            sessions,
            time: StoreTime::new(clock.clone()),
            policies: Policies {
                timeout: defaults.timeout,
                step_timeout: defaults.step_timeout,
                max_retries: defaults.max_retries,
            },
            instance_id: defaults.instance_id,
            live: Mutex::default(),
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            turns: Arc::new(Semaphore::new(defaults.concurrency.min(Semaphore::MAX_PERMITS))),
            drivers: TaskTracker::new(),
            out_of_sight: AtomicBool::new(false),
            closing: CancellationToken::new(),
            cut_off: CancellationToken::new(),
            store,
            clock,
            metrics,
            bus,
            scribe,
        }))
    }

    /// Registers who does the steps of this name in this process, in place of whoever did. Register
    /// before the instance starts, so that what it takes over finds its handlers.
    ///
    /// # Errors
    /// `Invalid` for a name outside the limits.
    pub fn register(&self, name: &str, step: impl Step) -> Result<()> {
        self.0.handlers.register(name, Arc::new(step))
    }

    /// Puts something around every step that is executed here, for tests of steps.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn wrap_steps(&self, wrap: handler::Wrap) {
        self.0.handlers.wrap(wrap);
    }

    /// Says how handlers at addresses are called.
    pub fn call_with(&self, caller: Arc<dyn Caller>) {
        self.0.handlers.call_with(caller);
    }

    /// Says how a handler is reached, for every instance. Instances that know it otherwise learn
    /// of it within a second.
    ///
    /// # Errors
    /// `Invalid` for a name or address outside the limits; `Refused` if this process has a handler
    /// of that name itself.
    pub async fn put_handler(&self, name: &str, route: &Route) -> Result<()> {
        self.0.handlers.put(name, route).await
    }

    /// Forgets a handler that was put. Sagas that need it park.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn delete_handler(&self, name: &str) -> Result<()> {
        self.0.handlers.delete(name).await
    }

    /// A page of all handlers that this instance knows, going on after `next` of an earlier page.
    pub async fn handlers(
        &self,
        next: Option<String>,
        limit: usize,
    ) -> Result<(Vec<HandlerInfo>, Option<String>)> {
        self.0.handlers.list(next, limit).await
    }

    /// Notes that somebody polls for the steps of this name.
    pub(crate) async fn polled(&self, name: &str) -> Result<()> {
        self.0.handlers.polled(name).await
    }

    /// How many sagas this instance executes now.
    pub fn running(&self) -> usize {
        self.0.live.lock().len()
    }

    /// How many handlers this process has registered.
    pub fn registered_handlers(&self) -> usize {
        self.0.handlers.registered()
    }

    /// Begins nothing new, lets attempts in progress end for `grace`, cuts the rest off, and lets
    /// its sessions go, so that others take over what is left.
    pub(crate) async fn drain(&self, grace: Duration) {
        let inner = &self.0;
        inner.closing.cancel();
        inner.drivers.close();
        if inner.clock.timeout(grace, inner.drivers.wait()).await.is_none() {
            inner.cut_off.cancel();
            inner.drivers.wait().await;
        }
        for session in inner.sessions.held() {
            let released = match self.executes_nothing(&session).await {
                Ok(true) => inner.sessions.remove(&session).await,
                Ok(false) | Err(_) => inner.sessions.release(&session).await,
            };
            if let Err(error) = released {
                tracing::warn!(session = %session.id, %error, "session not released, it lapses");
            }
        }
    }

    /// Asks the store for its time, unless it has told it before: what is entered in a log by the
    /// clock of a machine that is wrong would turn sagas around, or hide what is in progress.
    async fn learn_the_time(&self) -> Result<()> {
        if !self.0.time.is_known() {
            let asked = self.0.clock.tick();
            let pong = self.0.store.ping().await?;
            self.0.time.told(pong.now, asked);
        }
        Ok(())
    }

    fn live(&self, id: &str) -> Option<Arc<Live>> {
        self.0.live.lock().get(id).cloned()
    }

    fn count_live(&self) {
        let count = i64::try_from(self.running()).unwrap_or(i64::MAX);
        self.0.metrics.set(Metric::SagasRunning, count);
    }
}

impl Live {
    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }
}

fn shutting_down() -> Error {
    Error::new(ErrorKind::Unavailable, "this instance shuts down and executes no more sagas")
}
