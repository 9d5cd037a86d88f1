//! Building an instance: what each service is given of the configuration and of the others.

use std::sync::Arc;

use parking_lot::Mutex;

use super::retention::{self, Services};
use super::ticks::SagaHandlers;
use super::timed::Timed;
use super::trail;
use super::{Inner, Life};
use crate::access::Access;
use crate::approval::Approvals;
use crate::audit::{Audit, AuditSettings, Keys};
use crate::clock::Clock;
use crate::config::{Config, REQUIRED};
use crate::event::Bus;
use crate::finance::{Finance, Mischief, SimulatedProvider};
use crate::instance::Instances;
use crate::job::{JobDefaults, Jobs};
use crate::keeper::Keeper;
use crate::leader::{Candidate, LEADER, Leadership};
use crate::lease::Leases;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::monitor::alert::Alerts;
use crate::monitor::alert::Severity;
use crate::monitor::alert::service::Footing;
use crate::monitor::history::{History, HistorySettings};
use crate::monitor::notify::{Notifier, NotifySettings};
use crate::monitor::trend::Trends;
use crate::saga::{SagaDefaults, Sagas, Tasks};
use crate::schedule::{ScheduleDefaults, Schedules};
use crate::scribe::{Masks, Scribe};
use crate::search::{Refusal, Search, SearchSettings};
use crate::state::State;
use crate::store::Store;

/// Without a secret, masks can be compared within the life of this process alone.
fn scribe(config: &Config, instance: &str, clock: &Clock) -> Scribe {
    if !config.audit {
        return Scribe::silent();
    }
    let secret = config.audit_mask_secret.as_ref().map(|secret| secret.0.clone());
    let clock = clock.clone();
    let secret = move || secret.unwrap_or_else(|| clock.random_id());
    Scribe::new(instance, Masks::new(masked(config), secret))
}

/// A configuration that was not checked masks everything that it can be read to name.
fn masked(config: &Config) -> Vec<String> {
    config.masked_fields().unwrap_or_else(|_| {
        config.audit_masked_fields.split(',').map(|name| name.trim().to_owned()).collect()
    })
}

/// What every service stands on.
pub(super) struct Ground {
    config: Config,
    instance_id: String,
    /// As it was given.
    bare: Arc<dyn Store>,
    /// The same, with its commits timed: what the services stand on.
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
        let bare = store;
        let timed = Timed::new(Arc::clone(&bare), clock.clone(), Arc::clone(&metrics));
        let store: Arc<dyn Store> = Arc::new(timed);
        let keeper = Keeper::new(Arc::clone(&store), clock.clone(), Arc::clone(&metrics));
        let name = config.instance_name.as_ref().unwrap_or(&instance_id);
        let scribe = scribe(&config, name, &clock);
        Ground {
            config,
            instance_id,
            bare,
            store,
            clock,
            metrics,
            bus: Bus::default(),
            keeper,
            scribe,
        }
    }

    pub(super) fn build(self) -> Inner {
        let leadership = self.leadership();
        let scribe = || self.scribe.clone();
        let (clock, keeper) = (self.clock.clone(), self.keeper.clone());
        let leases = Leases::new(self.store(), clock, keeper, self.metrics(), scribe());
        let jobs = self.jobs();
        let tasks = Tasks::new(self.store(), self.clock.clone(), self.metrics());
        let sagas = self.sagas(&tasks);
        let schedules = self.schedules(&jobs, &leadership, &sagas);
        let ledger = Ledger::new(self.store(), self.clock.clone(), self.metrics(), scribe());
        let state = State::new(self.store(), self.clock.clone(), self.metrics(), scribe());
        let finance = self.finance(&sagas, &ledger);
        let notifier = self.notifier(&leadership);
        let history = self.history();
        let alerts = self.alerts(&leadership, &history, &notifier);
        let audit = self.audit(&leadership);
        let approvals = Approvals::new(self.store(), self.clock.clone(), scribe());
        let (search, access) = (self.search(&leadership, &jobs, &sagas), self.access());
        let services = Services {
            store: &self.store,
            clock: &self.clock,
            metrics: &self.metrics,
            leadership: &leadership,
            jobs: &jobs,
            sagas: &sagas,
            ledger: &ledger,
            state: &state,
            scribe: &self.scribe,
            audit: &audit,
            access: &access,
        };
        let name = (self.instance_id.as_str(), self.config.instance_name.as_deref());
        let clock = self.clock.clone();
        let instances = Instances::new(self.store(), clock, name, &self.config.service);
        let trends = Trends::new(history.clone(), self.clock.clone());
        let sweeper = retention::sweeper(&self.config, &services, &self.instance_id);
        Inner {
            opened: self.clock.tick(),
            config: self.config,
            instance_id: self.instance_id,
            store: self.bare,
            clock: self.clock,
            metrics: self.metrics,
            trends,
            history,
            bus: self.bus,
            keeper: self.keeper,
            scribe: self.scribe,
            instances,
            leadership,
            leases,
            jobs,
            sagas,
            ledger,
            approvals,
            finance,
            tasks,
            state,
            audit,
            search,
            access,
            sweeper,
            schedules,
            alerts,
            notifier,
            life: Mutex::new(Life::Open),
            down: tokio::sync::OnceCell::new(),
            health: tokio::sync::Mutex::default(),
        }
    }

    fn alerts(&self, leadership: &Leadership, history: &History, notifier: &Notifier) -> Alerts {
        let footing = Footing {
            store: self.store(),
            clock: self.clock.clone(),
            metrics: self.metrics(),
            bus: self.bus.clone(),
            leadership: leadership.clone(),
            scribe: self.scribe.clone(),
        };
        let interval = self.config.alert_interval.0;
        let (source, audience) = (Arc::new(history.clone()), Arc::new(notifier.clone()));
        Alerts::new(footing, source, audience, interval)
    }

    fn access(&self) -> Access {
        let required = self.config.auth == REQUIRED;
        Access::new(self.store(), self.clock.clone(), self.scribe.clone(), required)
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
        let scribe = self.scribe.clone();
        Leadership::new(self.store(), clock, keeper, self.metrics(), bus, scribe, candidate)
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
        let scribe = self.scribe.clone();
        Jobs::new(self.store(), clock, keeper, self.metrics(), bus, defaults, LEADER, scribe)
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
        let (metrics, scribe) = (self.metrics(), self.scribe.clone());
        Sagas::new(self.store(), clock, keeper, metrics, bus, defaults, tasks.steps(), scribe)
    }

    fn schedules(&self, jobs: &Jobs, leadership: &Leadership, sagas: &Sagas) -> Schedules {
        let defaults = ScheduleDefaults {
            leader_ttl: self.config.leader_ttl.0,
            timeout: self.config.saga_step_timeout.0,
        };
        Schedules::new(
            (self.store(), self.clock.clone(), self.scribe.clone()),
            (self.metrics(), self.bus.clone()),
            (jobs.clone(), leadership.clone()),
            Arc::new(SagaHandlers(sagas.clone())),
            defaults,
        )
    }

    fn history(&self) -> History {
        let settings = HistorySettings {
            instance_id: self.instance_id.clone(),
            instance_name: self.config.instance_name.clone(),
            interval: self.config.monitoring_interval.0,
        };
        History::new(self.store(), self.clock.clone(), self.metrics(), settings)
    }

    fn notifier(&self, leadership: &Leadership) -> Notifier {
        let config = &self.config;
        let least = |severity: &&Severity| severity.name() == config.alert_min_severity;
        let settings = NotifySettings {
            // Checked with the configuration.
            least: *Severity::ALL.iter().find(least).unwrap_or(&Severity::Warning),
            group_wait: config.alert_group_wait.0,
            instance: config.instance_name.as_ref().unwrap_or(&self.instance_id).clone(),
        };
        Notifier::new(
            (self.store(), self.clock.clone()),
            (self.metrics(), self.bus.clone()),
            leadership.clone(),
            self.scribe.clone(),
            settings,
        )
    }

    fn audit(&self, leadership: &Leadership) -> Audit {
        let config = &self.config;
        let given = config.audit_key.as_ref().map(|key| key.0.as_str());
        // A wrong one was refused with the other settings; of a handle that was built without that,
        // nothing is sealed.
        let keys = Keys::parse(given).unwrap_or(Keys::Unreadable);
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

    fn search(&self, leadership: &Leadership, jobs: &Jobs, sagas: &Sagas) -> Search {
        let refusal = match (self.config.search, self.config.audit) {
            (true, true) => None,
            (true, false) => Some(Refusal::NoAudit),
            (false, _) => Some(Refusal::Off),
        };
        Search::new(
            (self.store(), self.clock.clone(), self.metrics()),
            leadership.clone(),
            (jobs.clone(), sagas.clone()),
            SearchSettings { refusal, masked: masked(&self.config) },
        )
    }

    /// Pays nobody, until somebody says who pays.
    fn finance(&self, sagas: &Sagas, ledger: &Ledger) -> Finance {
        let (clock, scribe) = (self.clock.clone(), self.scribe.clone());
        let provider = SimulatedProvider::new(self.store(), clock, scribe, Mischief::default());
        Finance::new(sagas.clone(), ledger.clone(), Arc::new(provider))
    }
}
