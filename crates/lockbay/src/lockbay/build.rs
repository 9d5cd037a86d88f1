//! Building an instance: what each service is given of the configuration and of the others.

use std::sync::Arc;

use parking_lot::Mutex;

use super::retention::{self, Services};
use super::ticks::SagaHandlers;
use super::trail;
use super::{Inner, Life};
use crate::audit::{Audit, AuditSettings, Keys};
use crate::clock::Clock;
use crate::config::Config;
use crate::event::Bus;
use crate::finance::{Finance, Mischief, SimulatedProvider};
use crate::job::{JobDefaults, Jobs};
use crate::keeper::Keeper;
use crate::leader::{Candidate, LEADER, Leadership};
use crate::lease::Leases;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::saga::{SagaDefaults, Sagas, Tasks};
use crate::schedule::{ScheduleDefaults, Schedules};
use crate::scribe::Scribe;
use crate::state::State;
use crate::store::Store;

/// What every service stands on.
pub(super) struct Ground {
    config: Config,
    instance_id: String,
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    bus: Bus,
    keeper: Keeper,
    scribe: Scribe,
}

impl Ground {
    pub(super) fn new(config: Config, store: Arc<dyn Store>, clock: Clock) -> Self {
        // Random, and never a name that somebody chose: two processes never share it.
        let instance_id = clock.random_id();
        let metrics = Arc::new(Metrics::default());
        let keeper = Keeper::new(Arc::clone(&store), clock.clone(), Arc::clone(&metrics));
        let name = config.instance_name.as_ref().unwrap_or(&instance_id);
        let scribe = if config.audit { Scribe::new(name) } else { Scribe::silent() };
        Ground { config, instance_id, store, clock, metrics, bus: Bus::default(), keeper, scribe }
    }

    pub(super) fn build(self) -> Inner {
        let leadership = self.leadership();
        let leases =
            Leases::new(self.store(), self.clock.clone(), self.keeper.clone(), self.metrics());
        let jobs = self.jobs();
        let tasks = Tasks::new(self.store(), self.clock.clone(), self.metrics());
        let sagas = self.sagas(&tasks);
        let schedules = self.schedules(&jobs, &leadership, &sagas);
        let ledger = Ledger::new(self.store(), self.clock.clone(), self.metrics());
        let state = State::new(self.store(), self.clock.clone(), self.metrics());
        let finance = self.finance(&sagas, &ledger);
        let audit = self.audit(&leadership);
        let services = Services {
            store: &self.store,
            clock: &self.clock,
            metrics: &self.metrics,
            leadership: &leadership,
            jobs: &jobs,
            sagas: &sagas,
            ledger: &ledger,
            state: &state,
            audit: &audit,
        };
        let sweeper = retention::sweeper(&self.config, &services, &self.instance_id);
        Inner {
            opened: self.clock.tick(),
            config: self.config,
            instance_id: self.instance_id,
            store: self.store,
            clock: self.clock,
            metrics: self.metrics,
            bus: self.bus,
            keeper: self.keeper,
            leadership,
            leases,
            jobs,
            sagas,
            ledger,
            finance,
            tasks,
            state,
            audit,
            sweeper,
            schedules,
            life: Mutex::new(Life::Open),
            down: tokio::sync::OnceCell::new(),
            health: tokio::sync::Mutex::default(),
        }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    fn leadership(&self) -> Leadership {
        let candidate = Candidate {
            service: self.config.service.clone(),
            instance_id: self.instance_id.clone(),
            instance_name: self.config.instance_name.clone(),
            ttl: self.config.leader_ttl.0,
        };
        let (clock, keeper, bus) = (self.clock.clone(), self.keeper.clone(), self.bus.clone());
        Leadership::new(self.store(), clock, keeper, self.metrics(), bus, candidate)
    }

    fn jobs(&self) -> Jobs {
        let config = &self.config;
        let holder = config.instance_name.as_ref().unwrap_or(&self.instance_id).clone();
        let defaults = JobDefaults {
            claim_ttl: config.claim_ttl.0,
            result_ttl: config.result_ttl.0,
            horizon: config.dedup_horizon.0,
            max_retries: config.max_retries,
            holder,
        };
        let (clock, keeper, bus) = (self.clock.clone(), self.keeper.clone(), self.bus.clone());
        Jobs::new(self.store(), clock, keeper, self.metrics(), bus, defaults, LEADER)
    }

    fn sagas(&self, tasks: &Tasks) -> Sagas {
        let config = &self.config;
        let defaults = SagaDefaults {
            timeout: config.saga_timeout.0,
            step_timeout: config.saga_step_timeout.0,
            max_retries: config.max_retries,
            session_ttl: config.session_ttl.0,
            concurrency: usize::try_from(config.saga_concurrency).unwrap_or(usize::MAX),
            queue: usize::try_from(config.saga_queue).unwrap_or(usize::MAX),
            instance_id: self.instance_id.clone(),
            instance_name: config.instance_name.clone(),
        };
        let (clock, keeper, bus) = (self.clock.clone(), self.keeper.clone(), self.bus.clone());
        Sagas::new(self.store(), clock, keeper, self.metrics(), bus, defaults, tasks.steps())
    }

    fn schedules(&self, jobs: &Jobs, leadership: &Leadership, sagas: &Sagas) -> Schedules {
        let defaults = ScheduleDefaults {
            leader_ttl: self.config.leader_ttl.0,
            timeout: self.config.saga_step_timeout.0,
        };
        Schedules::new(
            (self.store(), self.clock.clone()),
            (self.metrics(), self.bus.clone()),
            (jobs.clone(), leadership.clone()),
            Arc::new(SagaHandlers(sagas.clone())),
            defaults,
        )
    }

    fn audit(&self, leadership: &Leadership) -> Audit {
        let config = &self.config;
        let given = config.audit_key.as_ref().map(|key| key.0.as_str());
        // A wrong one was refused with the other settings; of a handle that was built without that,
        // the trail is sealed with a key of the store.
        let keys = Keys::parse(given).unwrap_or_default();
        let settings = AuditSettings {
            interval: config.audit_seal_interval.0,
            retention: config.audit_retention.0,
            keys,
            instance: config.instance_name.as_ref().unwrap_or(&self.instance_id).clone(),
        };
        Audit::new(
            (self.store(), self.clock.clone()),
            (self.metrics(), self.bus.clone()),
            leadership.clone(),
            settings,
            trail::record_of,
        )
    }

    /// Pays nobody, until somebody says who pays.
    fn finance(&self, sagas: &Sagas, ledger: &Ledger) -> Finance {
        let provider =
            SimulatedProvider::new(self.store(), self.clock.clone(), Mischief::default());
        Finance::new(sagas.clone(), ledger.clone(), Arc::new(provider))
    }
}
