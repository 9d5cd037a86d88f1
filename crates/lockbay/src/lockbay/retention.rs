//! What services give the sweeper to do: the one place where it is known what goes with which rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::access::{Access, SESSION};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Result;
use crate::finance::SIMULATED_PAYOUT;
use crate::job::Jobs;
use crate::leader::Leadership;
use crate::lease::LEASE;
use crate::ledger::Ledger;
use crate::metrics::{Metric, Metrics};
use crate::monitor::history::HISTORY;
use crate::monitor::notify::{Letters, NoticeStatus};
use crate::retire::{Errand, Retire, Worked};
use crate::saga::Sagas;
use crate::scribe::Scribe;
use crate::state::{STATE, State};
use crate::store::{Fence, Store};
use crate::sweep::{Chores, Grace, Lapsed, Retentions, Scope, StateKeys, SweepSettings, Sweeper};

/// Whom the sweeper works for.
pub(super) struct Services<'a> {
    pub(super) store: &'a Arc<dyn Store>,
    pub(super) clock: &'a Clock,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) leadership: &'a Leadership,
    pub(super) jobs: &'a Jobs,
    pub(super) sagas: &'a Sagas,
    pub(super) ledger: &'a Ledger,
    pub(super) state: &'a State,
    pub(super) scribe: &'a Scribe,
    pub(super) audit: &'a Audit,
    pub(super) access: &'a Access,
}

pub(super) fn sweeper(config: &Config, services: &Services<'_>, instance_id: &str) -> Sweeper {
    let store = services.store;
    let lapsed = |kind, grace| -> Arc<dyn Retire> {
        Arc::new(Lapsed { store: Arc::clone(store), kind, grace })
    };
    let letters =
        |status| -> Arc<dyn Retire> { Arc::new(Letters { store: Arc::clone(store), status }) };
    let state_keys = StateKeys { store: Arc::clone(store), kind: STATE };
    let retire: BTreeMap<Scope, Arc<dyn Retire>> = [
        (Scope::ExpiredState, lapsed(STATE, Grace::None)),
        (Scope::Leftovers, services.sagas.leftovers()),
        (Scope::JobResults, services.jobs.old_results()),
        (Scope::Jobs, services.jobs.forgotten()),
        (Scope::Sagas, services.sagas.forgotten(vec![SIMULATED_PAYOUT])),
        (Scope::Leases, lapsed(LEASE, Grace::Ttl)),
        (Scope::History, lapsed(HISTORY, Grace::None)),
        (Scope::Audit, services.audit.beginning()),
        (Scope::StateKeys, Arc::new(state_keys)),
        (Scope::Notices, letters(NoticeStatus::Delivered)),
        (Scope::DeadNotices, letters(NoticeStatus::Dead)),
        (Scope::Tokens, services.access.ended_tokens()),
        (Scope::AccessSessions, lapsed(SESSION, Grace::None)),
    ]
    .into();
    let holds: Arc<dyn Errand> = Arc::new(LapsedHolds(services.ledger.clone()));
    let intents: Arc<dyn Errand> = Arc::new(OpenIntents(services.state.clone()));
    let chores = Chores {
        retire,
        stale_state: Some(Arc::new(StaleValues(services.state.clone()))),
        each_second: vec![(Metric::HoldsLapsed, holds), (Metric::StateIntentsFinished, intents)],
    };
    let settings = SweepSettings {
        retentions: Retentions {
            result_ttl: config.result_ttl.0,
            dedup_horizon: config.dedup_horizon.0,
            audit: config.audit_retention.0,
        },
        interval: config.cleanup_interval.0,
        foreign_keys: config.cleanup_foreign_keys,
        active: STATE,
        instance_id: instance_id.to_owned(),
    };
    Sweeper::new(
        Arc::clone(store),
        services.clock.clone(),
        Arc::clone(services.metrics),
        services.leadership.clone(),
        settings,
        chores,
        services.scribe.clone(),
    )
}

/// Holds whose deadline has passed are voided, which gives the money back. It needs no fence: each
/// is voided once, whoever comes first.
struct LapsedHolds(Ledger);

#[async_trait]
impl Errand for LapsedHolds {
    async fn work(&self, _fence: &Fence, budget: usize) -> Result<Worked> {
        let lapsed = self.0.lapse_due(budget).await?;
        let voided = lapsed.voided as u64;
        // What could not be voided now is tried again in a second.
        let more = lapsed.more && voided > 0;
        Ok(Worked { scanned: voided, cleaned: voided, bytes: 0, more })
    }
}

/// Values that are older than one of their tags, and then the tags.
struct StaleValues(State);

#[async_trait]
impl Errand for StaleValues {
    async fn work(&self, fence: &Fence, budget: usize) -> Result<Worked> {
        let swept = self.0.sweep_stale(fence, budget).await?;
        let cleaned = swept.removed.len() as u64;
        let (scanned, bytes, more) = (swept.scanned, swept.bytes, !swept.finished);
        Ok(Worked { scanned, cleaned, bytes, more })
    }
}

/// Invalidations by pattern whose caller died before they were through. They need no fence: what
/// they remove is from before they began, whoever removes it.
struct OpenIntents(State);

#[async_trait]
impl Errand for OpenIntents {
    async fn work(&self, _fence: &Fence, _budget: usize) -> Result<Worked> {
        let finished = self.0.finish_intents().await?;
        Ok(Worked { scanned: finished, cleaned: finished, bytes: 0, more: false })
    }
}
