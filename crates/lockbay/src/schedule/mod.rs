//! Schedules: work that is due at times, of which no tick is lost and none runs twice.
//!
//! The service owns schedules and drives them where this instance leads. It refuses to know who a
//! handler is, and what a tick does. Its state is one record for each schedule; that a tick is done
//! is the state of its job.
//!
//! The way of a tick through the files: [`expression`] says when it is due, [`decide`] whether it
//! runs, [`driver`] commits that it was begun and later that it has ended, and [`tick`] runs it as a
//! job whose key is the due time, by a handler that [`handler`] finds and [`lacking`]
//! waits for. [`definition`] checks what is asked for, [`operate`] is what a person may change,
//! [`list`] looks.
//!
//! # What holds
//! Every tick that is due is begun, skipped or counted as misfired, once. One that was begun is run
//! by whoever leads until its job has ended, and the job ends once. A leader that was deposed
//! commits nothing more. What a handler returns as effects happens exactly once.
//!
//! # What does not
//! Any other effect of a handler that was cut off may happen again, under the same idempotency
//! token.

mod decide;
mod definition;
mod driver;
mod expression;
mod handler;
mod lacking;
mod list;
mod operate;
mod record;
mod stuck;
mod tick;
mod trail;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Bus;
use crate::job::{JobFailure, JobSuccess, Jobs};
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::scribe::Scribe;
use crate::store::Store;
use crate::store::time::StoreTime;

pub use decide::{MAX_KEPT, Misfire, Overlap};
pub use definition::{
    DEFAULT_GRACE, MAX_PARAMETERS_BYTES, MAX_TICK_TIME, ScheduleRequest, TickPlace,
};
pub use expression::{Expression, MAX_EXPRESSION_BYTES, MAX_INTERVAL, MIN_INTERVAL};
pub use handler::Tick;
pub(crate) use handler::{TickAttempt, TickHandlers};
pub use list::{MAX_UPCOMING, OpenTick, ScheduleFilter, ScheduleInfo, SchedulePage, Upcoming};
pub use operate::{Asked, Put, Putting, Resume};
pub use record::{Counts, LastRun, Standing, TickOutcome};

use handler::Handlers;

/// How many schedules a namespace may have.
pub const MAX_SCHEDULES: usize = 1_000;
/// How many ticks of one schedule may be begun and not ended where they may overlap, those aside
/// that were asked for; where they do not, it is one.
pub const MAX_OPEN: usize = 16;
/// How many ticks of one schedule may be asked for and not ended.
pub const MAX_ASKED: usize = 100;
/// How many ticks an instance runs at once; the others wait.
pub const MAX_TICKS_AT_ONCE: usize = 256;

/// The longest claim of a tick between heartbeats, so that a crash is noticed soon.
const LONGEST_CLAIM: Duration = Duration::from_secs(5);

/// How schedules of an instance behave unless a request says otherwise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScheduleDefaults {
    /// How long leadership lasts between renewals: a claim of a tick lasts no longer, so that it has
    /// lapsed about when the next leader is there.
    pub(crate) leader_ttl: Duration,
    /// How long an attempt may take.
    pub(crate) timeout: Duration,
}

/// All schedules of a namespace, as one instance sees them. Cheap to clone.
#[derive(Clone)]
pub struct Schedules(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    bus: Bus,
    jobs: Jobs,
    leadership: Leadership,
    handlers: Handlers,
    defaults: ScheduleDefaults,
    time: StoreTime,
    scribe: Scribe,
    /// One for each tick that runs here.
    turns: Semaphore,
    /// Why ticks that are open do not get on here, by the keys of their jobs.
    troubles: Mutex<HashMap<String, String>>,
    /// Schedules driven here that stand still because their expression or zone cannot be read.
    stuck: stuck::Stuck,
    /// Drivers, and ticks that run.
    work: TaskTracker,
    /// Fires when no more ticks are to be begun.
    closing: CancellationToken,
}

impl Schedules {
    pub(crate) fn new(
        (store, clock, scribe): (Arc<dyn Store>, Clock, Scribe),
        (metrics, bus): (Arc<Metrics>, Bus),
        (jobs, leadership): (Jobs, Leadership),
        handlers: Arc<dyn TickHandlers>,
        defaults: ScheduleDefaults,
    ) -> Self {
        let stuck = stuck::Stuck::new(Arc::clone(&metrics));
        Schedules(Arc::new(Inner {
            time: StoreTime::new(clock.clone()),
            store,
            clock,
            scribe,
            metrics,
            bus,
            jobs,
            leadership,
            handlers: Handlers::new(handlers),
            defaults,
            turns: Semaphore::new(MAX_TICKS_AT_ONCE),
            troubles: Mutex::default(),
            stuck,
            work: TaskTracker::new(),
            closing: CancellationToken::new(),
        }))
    }

    /// Registers who does the ticks of schedules that name this handler, in this process, in place
    /// of whoever did. Register on every instance, before it starts: any of them may lead.
    ///
    /// What it returns as [`effects`](JobSuccess) is committed with the completion of the tick, and
    /// so happens exactly once.
    ///
    /// # Errors
    /// `Invalid` for a name outside the limits.
    pub fn register<F, A, T>(&self, name: &str, handler: F) -> Result<()>
    where
        F: Fn(Tick) -> A + Send + Sync + 'static,
        A: Future<Output = Result<T, JobFailure>> + Send + 'static,
        T: Into<JobSuccess>,
    {
        self.0.handlers.register(name, handler)
    }

    /// Begins no more ticks, and waits until those that run have ended, at most for `grace`. What
    /// has not is cut off when leadership and claims are given up, and run again by the next leader.
    pub(crate) async fn drain(&self, grace: Duration) {
        self.0.closing.cancel();
        self.0.work.close();
        self.0.clock.timeout(grace, self.0.work.wait()).await;
    }
}

fn not_found(job_id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no schedule {job_id:?}"))
}
