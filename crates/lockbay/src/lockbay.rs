//! The handle that owns all services of one instance, and their life from start to shutdown.
//!
//! Siblings meet here: a job for the leader alone gets the leader's fence from this place, and
//! nowhere else do jobs and leadership know of each other.

mod books;
mod build;
mod gauges;
pub(crate) mod overview;
mod report;
mod retention;
mod ticks;
mod timed;
mod trail;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::approval::Approvals;
use crate::audit::{Audit, Keys};
use crate::clock::{Clock, Tick};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Bus, Event, Tail, Told};
use crate::finance::{Finance, Mischief, SimulatedProvider};
use crate::instance::Instances;
use crate::job::{
    Claim, ClaimRequest, JobContext, JobFailure, JobOutcome, JobSuccess, Jobs, RunOptions,
};
use crate::json::Json;
use crate::keeper::Keeper;
use crate::leader::Leadership;
use crate::lease::Leases;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::monitor::alert::Alerts;
use crate::monitor::health::{Examiner, Health, Past};
use crate::monitor::history::History;
use crate::monitor::notify::Notifier;
use crate::monitor::trend::Trends;
use crate::saga::{ClaimedTask, Sagas, TaskPoll, Tasks};
use crate::schedule::Schedules;
use crate::scribe::{Entry, Scribe};
use crate::search::Search;
use crate::state::State;
use crate::store::{self, Commit, Partition, Store};
use crate::sweep::Sweeper;

use build::Ground;

/// How long a health check is good for; asked again within it, the same answer is given.
const HEALTH_FRESH: Duration = Duration::from_secs(1);

/// Where a job may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// On any instance.
    #[default]
    Anywhere,
    /// On the leader alone: claimed and completed under its fence.
    LeaderOnly,
}

/// One instance. Cheap to clone; all clones are the same instance.
#[derive(Clone)]
pub struct LockBay(Arc<Inner>);

struct Inner {
    config: Config,
    instance_id: String,
    store: Arc<dyn Store>,
    clock: Clock,
    opened: Tick,
    metrics: Arc<Metrics>,
    history: History,
    trends: Trends,
    bus: Bus,
    keeper: Keeper,
    scribe: Scribe,
    instances: Instances,
    leadership: Leadership,
    leases: Leases,
    jobs: Jobs,
    sagas: Sagas,
    ledger: Ledger,
    approvals: Approvals,
    finance: Finance,
    tasks: Tasks,
    state: State,
    audit: Audit,
    access: Access,
    search: Search,
    sweeper: Sweeper,
    schedules: Schedules,
    alerts: Alerts,
    notifier: Notifier,
    life: Mutex<Life>,
    /// Set by the first shutdown, for which others wait.
    down: tokio::sync::OnceCell<()>,
    health: tokio::sync::Mutex<Looks>,
}

/// What health checks have found.
#[derive(Default)]
struct Looks {
    last: Option<(Tick, Health)>,
    past: Past,
}

/// Where an instance is in its life.
enum Life {
    /// Built: calls work, and rights are renewed, but it does not run for leadership.
    Open,
    Running(Running),
    ShutDown,
}

/// Background work of a started instance.
struct Running {
    since: Tick,
    /// Ends the elector and the health loop.
    stop: CancellationToken,
    elector: JoinHandle<()>,
    health: JoinHandle<()>,
    sagas: JoinHandle<()>,
    state: JoinHandle<()>,
    audit: JoinHandle<()>,
    search: JoinHandle<()>,
    sweeper: JoinHandle<()>,
    schedules: JoinHandle<()>,
    sampler: Option<Sampler>,
    alerts: Vec<JoinHandle<()>>,
    notifier: JoinHandle<()>,
    announcer: JoinHandle<()>,
}

/// Samples until the very end, so that what ends in order is seen.
struct Sampler {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl LockBay {
    /// Opens the store that the configuration names, and builds an instance on it.
    ///
    /// # Errors
    /// `Invalid` for a bad configuration, `Unavailable` if the store cannot be opened.
    pub async fn open(config: Config) -> Result<Self> {
        config.check()?;
        Keys::parse(config.audit_key.as_ref().map(|key| key.0.as_str()))?;
        let clock = Clock::system();
        let store = store::open(&config.store, &clock).await?;
        Ok(Self::with_store(config, store, clock))
    }

    /// Builds an instance on a store that is open already.
    pub fn with_store(config: Config, store: Arc<dyn Store>, clock: Clock) -> Self {
        LockBay(Arc::new(Ground::new(config, store, clock).build()))
    }

    /// Starts to run for leadership and to watch health. Called twice, or after a shutdown, it does
    /// nothing. Needs a Tokio runtime.
    pub fn start(&self) {
        let mut life = self.0.life.lock();
        if !matches!(*life, Life::Open) {
            return;
        }
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(self.clone().sample(end.clone()));
        *life = Life::Running(Running {
            sampler: Some(Sampler { stop: end, task }),
            since: self.0.clock.tick(),
            elector: tokio::spawn(self.0.leadership.clone().run(stop.clone())),
            health: tokio::spawn(self.clone().watch_health(stop.clone())),
            sagas: tokio::spawn(self.0.sagas.clone().watch_over()),
            state: tokio::spawn(self.0.state.clone().watch_over(stop.clone())),
            audit: tokio::spawn(self.0.audit.clone().watch_over(stop.clone())),
            search: tokio::spawn(self.0.search.clone().watch_over(stop.clone())),
            sweeper: tokio::spawn(self.0.sweeper.clone().watch()),
            schedules: tokio::spawn(self.0.schedules.clone().watch_over(stop.clone())),
            alerts: self.watch_alerts(&stop),
            notifier: tokio::spawn(self.0.notifier.clone().watch_over(stop.clone())),
            announcer: self.announce(&stop),
            stop,
        });
    }

    /// Ends in order: take no new claims and begin no ticks, let ticks that run finish, resign, let
    /// running jobs finish for the configured grace and release the rest, stop renewing, flush and
    /// close the store. Takes at most the grace and two seconds, whatever the store does; what could
    /// not be released by then lapses.
    pub async fn shutdown(&self) {
        self.0.down.get_or_init(|| self.shut_down()).await;
    }

    async fn shut_down(&self) {
        let inner = &self.0;
        let mut life = std::mem::replace(&mut *inner.life.lock(), Life::ShutDown);
        let sampler = match &mut life {
            Life::Running(running) => running.sampler.take(),
            Life::Open | Life::ShutDown => None,
        };
        let grace = inner.config.shutdown_grace.0;
        inner.tasks.close();
        inner.sweeper.stop();
        let hand_over = async {
            // Ticks that run are fenced when leadership is given up.
            inner.schedules.drain(grace).await;
            if let Life::Running(running) = life {
                inner.audit.seal_last().await;
                running.stop.cancel();
                // A background task that panicked has nothing left to hand over.
                let services = (running.sagas, running.schedules, running.state, running.sweeper);
                drop(tokio::join!(running.elector, running.health));
                drop(tokio::join!(running.notifier, running.announcer));
                drop(futures_util::future::join_all(running.alerts).await);
                drop(tokio::join!(running.audit, running.search));
                drop(tokio::join!(services.0, services.1, services.2, services.3));
            }
        };
        let drained = async { tokio::join!(inner.jobs.drain(grace), inner.sagas.drain(grace)) };
        let work = async { tokio::join!(hand_over, drained) };
        if inner.clock.timeout(grace + Duration::from_millis(1_200), work).await.is_none() {
            tracing::warn!("shutdown went on before everything was released; the rest lapses");
        }
        if let Some(Sampler { stop, task }) = sampler {
            stop.cancel();
            // It says by itself if the store did not take the last sample.
            drop(inner.clock.timeout(Duration::from_millis(300), task).await);
        }
        inner.keeper.stop();
        let closed = inner.clock.timeout(Duration::from_millis(500), inner.store.close()).await;
        if closed.is_none() {
            tracing::warn!("shutdown went on before the store was closed");
        }
    }

    /// Whether this instance may believe that it leads; see [`Leadership::is_leader`].
    #[inline]
    pub fn is_leader(&self) -> bool {
        self.0.leadership.is_leader()
    }

    /// Leadership of this instance's service.
    pub fn leadership(&self) -> &Leadership {
        &self.0.leadership
    }

    /// Which instances there are.
    pub fn instances(&self) -> &Instances {
        &self.0.instances
    }

    /// Named leases.
    pub fn leases(&self) -> &Leases {
        &self.0.leases
    }

    /// Jobs. For one that only the leader may run, use [`claim`](LockBay::claim) or
    /// [`run_job`](LockBay::run_job) of this handle.
    pub fn jobs(&self) -> &Jobs {
        &self.0.jobs
    }

    /// Sagas.
    pub fn sagas(&self) -> &Sagas {
        &self.0.sagas
    }

    /// Accounts, and the money in them.
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// The financial sagas: escrow, release, refund, cash-out. Pays out through a provider that
    /// only pretends, unless told [otherwise](Finance::pay_through).
    pub fn finance(&self) -> &Finance {
        &self.0.finance
    }

    /// Values with versions, tags and times to live, and what is at hand of them.
    pub fn state(&self) -> &State {
        &self.0.state
    }

    /// What was changed, by whom and when; sealed, so that tampering shows.
    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// Who may do what: tokens, and the sessions that they begin.
    pub fn access(&self) -> &Access {
        &self.0.access
    }

    /// Jobs and sagas by the words in them.
    pub fn search(&self) -> &Search {
        &self.0.search
    }

    /// Tasks of sagas, as workers end them. Workers ask for them by [`poll`](LockBay::poll) of
    /// this handle.
    pub fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    /// Retention: what has ended goes, by rule.
    pub fn sweeper(&self) -> &Sweeper {
        &self.0.sweeper
    }

    /// Schedules.
    pub fn schedules(&self) -> &Schedules {
        &self.0.schedules
    }

    /// What one person asks for and another must allow.
    pub fn approvals(&self) -> &Approvals {
        &self.0.approvals
    }

    /// Alerts: what is judged, what fires, and the rules.
    pub fn alerts(&self) -> &Alerts {
        &self.0.alerts
    }

    /// Who is told of alerts, and what is kept quiet.
    pub fn notifications(&self) -> &Notifier {
        &self.0.notifier
    }

    /// What is measured. Gauges that are read from elsewhere are as of the last sample; see
    /// [`refresh_metrics`](LockBay::refresh_metrics).
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Whether what is measured gets better or worse, since when, and how sure that is.
    pub fn trends(&self) -> &Trends {
        &self.0.trends
    }

    /// What was measured over time, by all instances.
    pub fn history(&self) -> &History {
        &self.0.history
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The store underneath.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// Accepts the store as it is after it was found rolled back, and enters who did; see
    /// [`Store::accept`].
    ///
    /// # Errors
    /// As the store has them. If it was accepted and that could not be entered, the error says so;
    /// accepting it again is harmless.
    pub async fn accept_store(&self) -> Result<()> {
        let inner = &self.0;
        inner.store.accept().await?;
        let entry = Entry::new("store", inner.store.describe().backend, "accepted");
        let Some(entered) = inner.scribe.enter(&entry) else { return Ok(()) };
        let commit = Commit::new(Partition::FIRST, Vec::new(), vec![entered], Vec::new())?;
        inner.store.commit(&commit).await.map(drop).map_err(|error| {
            let message = "the store was accepted, and that could not be entered: accept it again";
            Error::new(error.kind(), message).with_source(error)
        })
    }

    /// A payout provider that only pretends, and misbehaves so; for
    /// [`Finance::pay_through`].
    pub fn simulated_provider(&self, mischief: Mischief) -> SimulatedProvider {
        let (store, clock) = (Arc::clone(&self.0.store), self.0.clock.clone());
        SimulatedProvider::new(store, clock, self.0.scribe.clone(), mischief)
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The random identity of this instance.
    pub fn instance_id(&self) -> &str {
        &self.0.instance_id
    }

    /// How long this instance has been open.
    pub fn uptime(&self) -> Duration {
        self.0.clock.tick().since(self.0.opened)
    }

    /// Claims a job; one for the leader alone is claimed under the leader's fence.
    ///
    /// # Errors
    /// `Held` if only the leader may run it and this instance does not lead; others as
    /// [`Jobs::claim`].
    pub async fn claim(&self, request: ClaimRequest, placement: Placement) -> Result<Claim> {
        self.0.jobs.claim(self.place(request, placement)?).await
    }

    /// Runs a job once, wherever and however often this is called; see [`Jobs::run`].
    ///
    /// # Errors
    /// As [`claim`](LockBay::claim), and `Fenced` if the claim or the leadership was lost.
    pub async fn run_job<H, F>(
        &self,
        request: ClaimRequest,
        placement: Placement,
        options: RunOptions,
        handler: H,
    ) -> Result<JobOutcome>
    where
        H: Fn(JobContext) -> F,
        F: Future<Output = std::result::Result<Json, JobFailure>>,
    {
        self.0.jobs.run(self.place(request, placement)?, options, handler).await
    }

    /// As [`run_job`](LockBay::run_job), for a handler whose effects inside of LockBay are to happen
    /// exactly once; see [`Jobs::run_with_effects`].
    ///
    /// # Errors
    /// As [`run_job`](LockBay::run_job).
    pub async fn run_job_with_effects<H, F>(
        &self,
        request: ClaimRequest,
        placement: Placement,
        options: RunOptions,
        handler: H,
    ) -> Result<JobOutcome>
    where
        H: Fn(JobContext) -> F,
        F: Future<Output = std::result::Result<JobSuccess, JobFailure>>,
    {
        self.0.jobs.run_with_effects(self.place(request, placement)?, options, handler).await
    }

    fn place(&self, mut request: ClaimRequest, placement: Placement) -> Result<ClaimRequest> {
        if placement == Placement::LeaderOnly {
            let right = self.0.leadership.right().ok_or_else(|| {
                Error::new(
                    ErrorKind::Held,
                    "only the leader runs this job, and this instance does not lead",
                )
                // Leadership may move by then.
                .with_retry_after(self.0.config.leader_ttl.0)
            })?;
            request.leader = Some(right);
        }
        Ok(request)
    }

    /// Gives a worker tasks of the handlers it names; see [`Tasks::poll`]. From then on every
    /// instance knows that somebody polls for them, and accepts sagas whose steps they do.
    ///
    /// # Errors
    /// As [`Tasks::poll`].
    pub async fn poll(&self, wish: &TaskPoll) -> Result<Vec<ClaimedTask>> {
        wish.check()?;
        for handler in &wish.handlers {
            self.0.sagas.polled(handler).await?;
        }
        self.0.tasks.poll(wish).await
    }

    /// Listens to events from now on.
    pub fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Told> {
        self.0.bus.subscribe()
    }

    /// Follows events, from now on or behind the one of this number, as far as they are kept: the
    /// latest 8,192, and 8 MiB of them.
    pub fn follow(&self, after: Option<u64>) -> Tail {
        self.0.bus.follow(after)
    }

    /// Calls back on every event of this name (see [`Event::NAMES`]), in order, one at a time.
    /// Needs a Tokio runtime. A callback that panics is logged and called again next time.
    ///
    /// # Errors
    /// `Invalid` if there is no such event.
    pub fn on(&self, name: &str, callback: impl Fn(&Told) + Send + 'static) -> Result<()> {
        if !Event::NAMES.contains(&name) {
            let names = Event::NAMES.join(", ");
            return Err(Error::invalid(format!("there is no event {name:?}; there are {names}")));
        }
        let name = name.to_owned();
        let mut events = self.subscribe();
        tokio::spawn(async move {
            use tokio::sync::broadcast::error::RecvError;
            loop {
                match events.recv().await {
                    Ok(told) if told.event.name() == name => {
                        let call = std::panic::AssertUnwindSafe(|| callback(&told));
                        if std::panic::catch_unwind(call).is_err() {
                            tracing::error!(event = %name, "a callback panicked");
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, event = %name, "events missed by a slow callback");
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Ok(())
    }

    /// Health as of now, at most a second old.
    pub async fn health(&self) -> Health {
        let mut looks = self.0.health.lock().await;
        let now = self.0.clock.tick();
        if let Some((at, health)) = &looks.last
            && now.since(*at) < HEALTH_FRESH
        {
            return health.clone();
        }
        let started = match &*self.0.life.lock() {
            Life::Running(running) => Some(running.since),
            Life::Open | Life::ShutDown => None,
        };
        let examiner = Examiner {
            store: &*self.0.store,
            clock: &self.0.clock,
            keeper: &self.0.keeper,
            jobs: &self.0.jobs,
            sagas: &self.0.sagas,
            sweeper: &self.0.sweeper,
            alerts: &self.0.alerts,
            notifier: &self.0.notifier,
            schedules: &self.0.schedules,
            audit: &self.0.audit,
            history: &self.0.history,
            leadership: &self.0.leadership,
            metrics: &self.0.metrics,
            leader_ttl: self.0.config.leader_ttl.0,
            session_ttl: self.0.config.session_ttl.0,
            started,
        };
        let health = examiner.examine(&mut looks.past).await;
        self.tell_change(looks.last.as_ref().map(|(_, health)| health), &health);
        looks.last = Some((self.0.clock.tick(), health.clone()));
        health
    }

    fn tell_change(&self, before: Option<&Health>, health: &Health) {
        let now = self.0.clock.now();
        let was_healthy = before.is_none_or(|before| before.overall_healthy);
        let was_rolled_back = before.is_some_and(|before| before.rolled_back.is_some());
        if let Some(reason) = health.rolled_back.clone().filter(|_| !was_rolled_back) {
            tracing::error!(reason, "store_rolled_back");
            self.0.bus.tell(now, Event::StoreRolledBack { reason });
        }
        if was_healthy && !health.overall_healthy {
            tracing::warn!(issues = ?health.issues, "system_unhealthy");
            self.0.bus.tell(now, Event::SystemUnhealthy { issues: health.issues.clone() });
        } else if !was_healthy && health.overall_healthy {
            tracing::info!("system_healthy");
            self.0.bus.tell(now, Event::SystemHealthy);
        }
    }

    /// Samples the metrics, if they are to be.
    async fn sample(self, stop: CancellationToken) {
        if self.0.config.monitoring {
            // Gauges that nobody has set yet say nothing of what they are about.
            stop.run_until_cancelled(self.health()).await;
            let bay = self.clone();
            let refresh = move || bay.refresh_metrics();
            self.0.history.clone().record(self.0.opened, refresh, stop).await;
        }
    }

    /// Tells others that this instance is alive, if monitoring is on: without it nobody looks.
    fn announce(&self, stop: &CancellationToken) -> JoinHandle<()> {
        let (instances, stop) = (self.0.instances.clone(), stop.clone());
        if !self.0.config.monitoring {
            return tokio::spawn(async {});
        }
        tokio::spawn(async move { instances.announce(stop).await })
    }

    /// Judges alerts while this instance leads, and tells of them, and takes the trial balance that
    /// one of them is about, if monitoring is on.
    fn watch_alerts(&self, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        if !self.0.config.monitoring {
            return Vec::new();
        }
        let judged = self.0.alerts.clone().watch_over(stop.clone());
        let told = self.0.alerts.clone().tell_events(stop.clone());
        let balanced = self.clone().watch_ledger(stop.clone());
        vec![tokio::spawn(judged), tokio::spawn(told), tokio::spawn(balanced)]
    }

    async fn watch_health(self, stop: CancellationToken) {
        let interval = self.0.config.health_interval.0;
        while !stop.is_cancelled() {
            let check = async {
                self.health().await;
                self.0.clock.sleep(interval).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = check => {}
            }
        }
    }
}
