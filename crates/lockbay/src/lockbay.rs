//! The handle that owns all services of one instance, and their life from start to shutdown.
//!
//! Siblings meet here: a job for the leader alone gets the leader's fence from this place, and
//! nowhere else do jobs and leadership know of each other.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Tick};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Bus, Event, Told};
use crate::job::{
    Claim, ClaimRequest, JobContext, JobDefaults, JobFailure, JobOutcome, Jobs, RunOptions,
};
use crate::json::Json;
use crate::keeper::Keeper;
use crate::leader::{Candidate, LEADER, Leadership};
use crate::lease::Leases;
use crate::metrics::Metrics;
use crate::monitor::health::{Examiner, Health};
use crate::store::{self, Store};

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
    bus: Bus,
    keeper: Keeper,
    leadership: Leadership,
    leases: Leases,
    jobs: Jobs,
    running: Mutex<Option<Running>>,
    health: tokio::sync::Mutex<Option<(Tick, Health)>>,
}

/// Background work of a started instance.
struct Running {
    since: Tick,
    /// Ends the elector and the health loop.
    stop: CancellationToken,
    elector: JoinHandle<()>,
    health: JoinHandle<()>,
    /// Ends renewals, last of all.
    stop_keeper: CancellationToken,
    keeper: JoinHandle<()>,
}

impl LockBay {
    /// Opens the store that the configuration names, and builds an instance on it.
    ///
    /// # Errors
    /// `Invalid` for a bad configuration, `Unavailable` if the store cannot be opened.
    pub async fn open(config: Config) -> Result<Self> {
        config.check()?;
        let clock = Clock::system();
        let store = store::open(&config.store, &clock).await?;
        Ok(Self::with_store(config, store, clock))
    }

    /// Builds an instance on a store that is open already.
    pub fn with_store(config: Config, store: Arc<dyn Store>, clock: Clock) -> Self {
        // Random, and never a name that somebody chose: two processes never share it.
        let instance_id = clock.random_id();
        let metrics = Arc::new(Metrics::default());
        let bus = Bus::default();
        let keeper = Keeper::new(Arc::clone(&store), clock.clone(), Arc::clone(&metrics));
        let candidate = Candidate {
            service: config.service.clone(),
            instance_id: instance_id.clone(),
            instance_name: config.instance_name.clone(),
            ttl: config.leader_ttl.0,
        };
        let leadership = Leadership::new(
            Arc::clone(&store),
            clock.clone(),
            keeper.clone(),
            Arc::clone(&metrics),
            bus.clone(),
            candidate,
        );
        let leases =
            Leases::new(Arc::clone(&store), clock.clone(), keeper.clone(), Arc::clone(&metrics));
        let defaults = JobDefaults {
            claim_ttl: config.claim_ttl.0,
            result_ttl: config.result_ttl.0,
            horizon: config.dedup_horizon.0,
            max_retries: config.max_retries,
            holder: config.instance_name.clone().unwrap_or_else(|| instance_id.clone()),
        };
        let jobs = Jobs::new(
            Arc::clone(&store),
            clock.clone(),
            keeper.clone(),
            Arc::clone(&metrics),
            bus.clone(),
            defaults,
            LEADER,
        );
        LockBay(Arc::new(Inner {
            opened: clock.tick(),
            config,
            instance_id,
            store,
            clock,
            metrics,
            bus,
            keeper,
            leadership,
            leases,
            jobs,
            running: Mutex::default(),
            health: tokio::sync::Mutex::default(),
        }))
    }

    /// Starts renewing, running for leadership, and watching health. Called twice, it does nothing
    /// the second time. Needs a Tokio runtime.
    pub fn start(&self) {
        let mut running = self.0.running.lock();
        if running.is_some() {
            return;
        }
        let stop = CancellationToken::new();
        let stop_keeper = CancellationToken::new();
        *running = Some(Running {
            since: self.0.clock.tick(),
            keeper: tokio::spawn(self.0.keeper.clone().run(stop_keeper.clone())),
            elector: tokio::spawn(self.0.leadership.clone().run(stop.clone())),
            health: tokio::spawn(self.clone().watch_health(stop.clone())),
            stop,
            stop_keeper,
        });
    }

    /// Ends in order: resign, let running jobs finish for the configured grace and release the
    /// rest, stop renewing, flush and close the store. Takes at most the grace and two seconds.
    pub async fn shutdown(&self) {
        let inner = &self.0;
        let running = inner.running.lock().take();
        if let Some(running) = running {
            running.stop.cancel();
            let grace = inner.config.shutdown_grace.0;
            let wait = async {
                let ended = tokio::join!(running.elector, running.health);
                drop(ended); // a background task that panicked has nothing left to hand over
                inner.jobs.drain(grace).await;
            };
            if inner.clock.timeout(grace + Duration::from_millis(1_500), wait).await.is_none() {
                tracing::warn!(
                    "shutdown went on without all claims released; they lapse by themselves"
                );
            }
            running.stop_keeper.cancel();
            drop(running.keeper.await);
        }
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

    /// Named leases.
    pub fn leases(&self) -> &Leases {
        &self.0.leases
    }

    /// Jobs. For one that only the leader may run, use [`claim`](LockBay::claim) or
    /// [`run_job`](LockBay::run_job) of this handle.
    pub fn jobs(&self) -> &Jobs {
        &self.0.jobs
    }

    /// What is measured.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The store underneath.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
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
        F: Future<Output = Result<Json, JobFailure>>,
    {
        self.0.jobs.run(self.place(request, placement)?, options, handler).await
    }

    fn place(&self, mut request: ClaimRequest, placement: Placement) -> Result<ClaimRequest> {
        if placement == Placement::LeaderOnly {
            let fence = self.0.leadership.fence().ok_or_else(|| {
                Error::new(
                    ErrorKind::Held,
                    "only the leader runs this job, and this instance does not lead",
                )
            })?;
            request.leader = Some(fence);
        }
        Ok(request)
    }

    /// Listens to events from now on.
    pub fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Told> {
        self.0.bus.subscribe()
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
        let mut last = self.0.health.lock().await;
        let now = self.0.clock.tick();
        if let Some((at, health)) = &*last
            && now.since(*at) < HEALTH_FRESH
        {
            return health.clone();
        }
        let started = self.0.running.lock().as_ref().map(|running| running.since);
        let examiner = Examiner {
            store: &*self.0.store,
            clock: &self.0.clock,
            keeper: &self.0.keeper,
            jobs: &self.0.jobs,
            leadership: &self.0.leadership,
            metrics: &self.0.metrics,
            leader_ttl: self.0.config.leader_ttl.0,
            started,
        };
        let health = examiner.examine().await;
        let was_healthy = last.as_ref().is_none_or(|(_, health)| health.overall_healthy);
        self.tell_change(was_healthy, &health);
        *last = Some((self.0.clock.tick(), health.clone()));
        health
    }

    fn tell_change(&self, was_healthy: bool, health: &Health) {
        let now = self.0.clock.now();
        if was_healthy && !health.overall_healthy {
            tracing::warn!(issues = ?health.issues, "system_unhealthy");
            self.0.bus.tell(now, Event::SystemUnhealthy { issues: health.issues.clone() });
        } else if !was_healthy && health.overall_healthy {
            tracing::info!("system_healthy");
            self.0.bus.tell(now, Event::SystemHealthy);
        }
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
