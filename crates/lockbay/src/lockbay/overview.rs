//! Everything that an instance counts and measures, in one document by groups.
//!
//! Nothing is counted here: the numbers are those of [`metrics`](crate::metrics) and of the services.
//! The path of a number in this document is the path by which history and alert rules know it.

use serde::Serialize;
use serde_json::{Value, json};

use super::LockBay;
use crate::leader::LeaderInfo;
use crate::metrics::{Metric, TABLE, Type};
use crate::monitor::health::Health;
use crate::store::MAX_PAGE;

/// What an instance has done, and how it is.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)] // groups are named as in the paths of metrics
pub struct Overview {
    pub instance_id: String,
    pub uptime_seconds: f64,
    pub is_leader: bool,
    /// Who leads, if that is known.
    pub leader_info: Option<LeaderInfo>,
    pub health_status: Health,
    pub system_metrics: Value,
    pub job_idempotency_metrics: Value,
    pub saga_metrics: Value,
    pub cleanup_metrics: Value,
    pub state_manager_metrics: Value,
    pub schedule_metrics: Value,
    pub audit_metrics: Value,
    pub search_metrics: Value,
}

impl LockBay {
    /// What this instance has done, who leads, and its health. Counters of parts that do not run are
    /// zero.
    pub async fn overview(&self) -> Overview {
        self.refresh_metrics();
        let health_status = self.health().await;
        // With a store that does not answer, nobody is known to lead; health says why.
        let answers = health_status.state_manager_healthy;
        let leader_info =
            if answers { self.leadership().current().await.ok().flatten() } else { None };
        Overview {
            instance_id: self.instance_id().to_owned(),
            uptime_seconds: self.uptime().as_secs_f64(),
            is_leader: self.is_leader(),
            leader_info,
            system_metrics: self.system_numbers(&health_status),
            health_status,
            job_idempotency_metrics: self.job_numbers(),
            saga_metrics: self.saga_numbers(self.known_handlers(answers).await),
            cleanup_metrics: self.cleanup_numbers(),
            state_manager_metrics: self.state_numbers(),
            schedule_metrics: self.with_the_rest("schedule_metrics", json!({})),
            audit_metrics: self.with_the_rest("audit_metrics", json!({})),
            search_metrics: self.with_the_rest("search_metrics", json!({})),
        }
    }

    /// What this instance has counted and measured of one group of the overview, without asking the
    /// store; nothing for a group that is not there.
    pub fn counted(&self, group: &str) -> Option<Value> {
        self.refresh_metrics();
        match group {
            "job_idempotency_metrics" => Some(self.job_numbers()),
            "saga_metrics" => Some(self.saga_numbers(self.sagas().registered_handlers())),
            "cleanup_metrics" => Some(self.cleanup_numbers()),
            "state_manager_metrics" => Some(self.state_numbers()),
            "schedule_metrics" | "audit_metrics" | "search_metrics" => {
                Some(self.with_the_rest(group, json!({})))
            }
            _ => None,
        }
    }

    /// Adds every metric of a group that is not named yet, and of histograms a few numbers.
    fn with_the_rest(&self, group: &str, mut document: Value) -> Value {
        let metrics = self.metrics();
        for row in TABLE {
            let name = row.path.strip_prefix(group).and_then(|rest| rest.strip_prefix('.'));
            let Some(name) = name.filter(|name| document.get(name).is_none()) else { continue };
            document[name] = match row.kind {
                Type::Histogram => json!(metrics.summary(row.metric)),
                Type::Counter => json!(metrics.value(row.metric)),
                Type::Gauge => json!(metrics.read(row.path)),
            };
        }
        document
    }

    fn system_numbers(&self, health: &Health) -> Value {
        let store = self.store().describe();
        let value = |metric| self.metrics().value(metric);
        let document = json!({
            "process_memory_bytes": value(Metric::ProcessMemory),
            "process_threads": value(Metric::ProcessThreads),
            "store": {
                "backend": store.backend,
                "durability": store.durability,
                "version": store.version,
            },
            "store_round_trip_ms": health.store_round_trip_ms,
            "store_errors": value(Metric::StoreErrors),
            "leader_elections": value(Metric::LeaderElections),
            "leader_losses": value(Metric::LeaderLosses),
            "leases_granted": value(Metric::LeasesGranted),
            "lease_conflicts": value(Metric::LeaseConflicts),
            "renewals": value(Metric::Renewals),
            "renewal_errors": value(Metric::RenewalErrors),
            "rights_lost": value(Metric::RightsLost),
        });
        self.with_the_rest("system_metrics", document)
    }

    fn job_numbers(&self) -> Value {
        let value = |metric| self.metrics().value(metric);
        let document = json!({
            "jobs_completed": value(Metric::JobsCompleted),
            "jobs_failed": value(Metric::JobsFailed),
            "jobs_claimed": value(Metric::JobsClaimed),
            "duplicates_prevented": value(Metric::DuplicatesPrevented),
            "coordination_conflicts": value(Metric::CoordinationConflicts),
            "jobs_cancelled": value(Metric::JobsCancelled),
            "jobs_taken_over": value(Metric::JobsTakenOver),
            "claims_fenced": value(Metric::ClaimsFenced),
        });
        self.with_the_rest("job_idempotency_metrics", document)
    }

    /// How many handlers of sagas there are; those of this process, if the store does not tell of
    /// others.
    async fn known_handlers(&self, answers: bool) -> usize {
        let all = match answers {
            true => self.sagas().handlers(None, MAX_PAGE).await.ok(),
            false => None,
        };
        all.map_or_else(|| self.sagas().registered_handlers(), |(handlers, _)| handlers.len())
    }

    fn cleanup_numbers(&self) -> Value {
        self.with_the_rest("cleanup_metrics", json!(self.sweeper().stats()))
    }

    fn saga_numbers(&self, handlers: usize) -> Value {
        let value = |metric| self.metrics().value(metric);
        let document = json!({
            "sagas_started": value(Metric::SagasStarted),
            "sagas_completed": value(Metric::SagasCompleted),
            "sagas_failed": value(Metric::SagasFailed),
            "sagas_compensated": value(Metric::SagasCompensated),
            "sagas_parked": value(Metric::SagasParked),
            "sagas_abandoned": value(Metric::SagasAbandoned),
            "sagas_taken_over": value(Metric::SagasTakenOver),
            "steps_executed": value(Metric::StepsExecuted),
            "steps_compensated": value(Metric::StepsCompensated),
            "steps_unknown": value(Metric::StepsUnknown),
            "running_sagas": self.sagas().running(),
            "registered_handlers": handlers,
        });
        self.with_the_rest("saga_metrics", document)
    }

    fn state_numbers(&self) -> Value {
        let value = |metric| self.metrics().value(metric);
        let (entries, bytes) = self.state().at_hand();
        let document = json!({
            "cache_hits": value(Metric::StateHits),
            "cache_misses": value(Metric::StateMisses),
            "keys_written": value(Metric::StateWritten),
            "keys_invalidated": value(Metric::StateInvalidated),
            "conflicts": value(Metric::StateConflicts),
            "loads": value(Metric::StateLoads),
            "loads_shared": value(Metric::StateLoadsShared),
            "stale_served": value(Metric::StateStaleServed),
            "cached_entries": entries,
            "cached_bytes": bytes,
        });
        self.with_the_rest("state_manager_metrics", document)
    }
}
