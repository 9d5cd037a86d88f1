//! What services give the sweeper to do: the one place where it is known what goes with which rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::config::Config;
use crate::error::Result;
use crate::finance::SIMULATED_PAYOUT;
use crate::job::Jobs;
use crate::leader::Leadership;
use crate::lease::LEASE;
use crate::ledger::Ledger;
use crate::metrics::{Metric, Metrics};
use crate::retire::{Errand, Retire, Worked};
use crate::saga::Sagas;
use crate::store::{Fence, Store};
use crate::sweep::{
    Chores, Grace, Lapsed, Retentions, STATE, Scope, StateKeys, SweepSettings, Sweeper,
};

/// What the sweeper stands on.
pub(super) struct Ground<'a> {
    pub(super) store: &'a Arc<dyn Store>,
    pub(super) clock: &'a Clock,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) leads: &'a Leadership,
}

pub(super) fn sweeper(
    config: &Config,
    instance_id: &str,
    ground: &Ground<'_>,
    jobs: &Jobs,
    sagas: &Sagas,
    ledger: &Ledger,
) -> Sweeper {
    let store = ground.store;
    let lapsed = |kind, grace| -> Arc<dyn Retire> {
        Arc::new(Lapsed { store: Arc::clone(store), kind, grace })
    };
    let state_keys = StateKeys { store: Arc::clone(store), kind: STATE };
    let retire: BTreeMap<Scope, Arc<dyn Retire>> = [
        (Scope::ExpiredState, lapsed(STATE, Grace::None)),
        (Scope::Leftovers, sagas.leftovers()),
        (Scope::JobResults, jobs.old_results()),
        (Scope::Jobs, jobs.forgotten()),
        (Scope::Sagas, sagas.forgotten(vec![SIMULATED_PAYOUT])),
        (Scope::Leases, lapsed(LEASE, Grace::Ttl)),
        (Scope::StateKeys, Arc::new(state_keys)),
    ]
    .into();
    let holds: Arc<dyn Errand> = Arc::new(LapsedHolds(ledger.clone()));
    let chores = Chores {
        retire,
        // Values that are older than one of their tags: whoever knows tags.
        stale_state: None,
        each_second: vec![(Metric::HoldsLapsed, holds)],
    };
    let settings = SweepSettings {
        retentions: Retentions {
            result_ttl: config.result_ttl.0,
            dedup_horizon: config.dedup_horizon.0,
        },
        interval: config.cleanup_interval.0,
        foreign_keys: config.cleanup_foreign_keys,
        instance_id: instance_id.to_owned(),
    };
    Sweeper::new(
        Arc::clone(store),
        ground.clock.clone(),
        Arc::clone(ground.metrics),
        ground.leads.clone(),
        settings,
        chores,
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
