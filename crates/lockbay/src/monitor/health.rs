//! Health, judged by what happened.
//!
//! Nothing here is a flag that somebody set. A check makes a round trip to the store, reads who
//! leads, looks for renewals that are overdue, and finds the oldest work that nobody serves.

use std::time::Duration;

use serde::Serialize;

use crate::audit::Audit;
use crate::clock::{Clock, Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::job::Jobs;
use crate::keeper::Keeper;
use crate::leader::Leadership;
use crate::metrics::{Metric, Metrics};
use crate::saga::Sagas;
use crate::store::Store;
use crate::sweep::Sweeper;

/// A round trip longer than this is an issue.
const SLOW_STORE: Duration = Duration::from_secs(2);
/// A lapsed claim that nobody took over for this long is an issue.
const UNSERVED: Duration = Duration::from_secs(900);
/// Sagas whose executor is gone, and that nobody has taken over for a session's TTL and this long,
/// are an issue.
const ORPHANED: Duration = Duration::from_secs(5);

/// The health of one instance, as of its last check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// There is a leader, or an election is under way within its time.
    pub leader_election_healthy: bool,
    /// Claims can be made and renewed, and none is left lying.
    pub job_coordination_healthy: bool,
    /// Sagas can be recorded, and none has lost its executor and found no other.
    pub saga_coordination_healthy: bool,
    /// Retention works: if this instance leads, its last cycle came to its end in time and without
    /// errors.
    pub cleanup_service_healthy: bool,
    /// The store answers in time and has lost nothing.
    pub state_manager_healthy: bool,
    /// All of them.
    pub overall_healthy: bool,
    /// When this was found out.
    pub last_check: Timestamp,
    /// What is wrong, and what to do.
    pub issues: Vec<String>,
    /// What breaks no promise now: settings of the store that weaken one, and sagas that wait for a
    /// person.
    pub warnings: Vec<String>,
    /// The round trip to the store.
    pub store_round_trip_ms: Option<f64>,
    /// Why effects are halted, if the store was found rolled back.
    pub rolled_back: Option<String>,
}

pub(crate) struct Examiner<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) clock: &'a Clock,
    pub(crate) keeper: &'a Keeper,
    pub(crate) jobs: &'a Jobs,
    pub(crate) sagas: &'a Sagas,
    pub(crate) sweeper: &'a Sweeper,
    pub(crate) audit: &'a Audit,
    pub(crate) leadership: &'a Leadership,
    pub(crate) metrics: &'a Metrics,
    pub(crate) leader_ttl: Duration,
    pub(crate) session_ttl: Duration,
    pub(crate) started: Option<Tick>,
}

/// What was found about one part: what is wrong, if anything.
type Finding = Vec<String>;

impl Examiner<'_> {
    /// Makes a check.
    pub(crate) async fn examine(&self) -> Health {
        let begun = self.clock.tick();
        let (store, mut warnings, rolled_back) = self.examine_store().await;
        let round_trip = store.is_empty().then(|| self.clock.tick().since(begun));
        let answers = store.is_empty();
        let (mut leader, mut jobs, mut sagas) = (Vec::new(), Vec::new(), Vec::new());
        if answers {
            leader = self.examine_leader().await;
            jobs = self.examine_jobs().await;
            sagas = self.examine_sagas(&mut warnings).await;
        }
        let (cleanup, noted) = self.sweeper.examine();
        let cleanup = if answers { cleanup } else { Vec::new() };
        warnings.extend(noted);
        let audit = self.audit.examine();
        let parts = [&store, &leader, &jobs, &sagas, &cleanup, &audit];
        let issues: Vec<String> = parts.into_iter().flatten().cloned().collect();
        let health = Health {
            leader_election_healthy: answers && leader.is_empty(),
            job_coordination_healthy: answers && jobs.is_empty(),
            saga_coordination_healthy: answers && sagas.is_empty(),
            cleanup_service_healthy: answers && cleanup.is_empty(),
            state_manager_healthy: answers,
            overall_healthy: issues.is_empty(),
            last_check: self.clock.now(),
            issues,
            warnings,
            store_round_trip_ms: round_trip.map(|time| time.as_secs_f64() * 1e3),
            rolled_back,
        };
        self.metrics.set(Metric::Healthy, i64::from(health.overall_healthy));
        health
    }

    async fn examine_store(&self) -> (Finding, Vec<String>, Option<String>) {
        let begun = self.clock.tick();
        let answer = self.in_time(self.store.ping()).await;
        let took = self.clock.tick().since(begun);
        match answer {
            Ok(pong) => {
                self.metrics.observe(Metric::StoreSeconds, took);
                self.metrics.set(Metric::StoreHalted, 0);
                (Vec::new(), pong.warnings, None)
            }
            Err(error) => {
                let halted = error.kind() == ErrorKind::RolledBack;
                self.metrics.count(Metric::StoreErrors);
                self.metrics.set(Metric::StoreHalted, i64::from(halted));
                let reason = halted.then(|| error.message().to_owned());
                (vec![format!("store: {error}")], Vec::new(), reason)
            }
        }
    }

    async fn examine_leader(&self) -> Finding {
        // An instance that was never started does not run for leadership.
        let Some(started) = self.started else { return Vec::new() };
        match self.in_time(self.leadership.current()).await {
            Ok(Some(_)) => Vec::new(),
            Ok(None) => {
                let running = self.clock.tick().since(started);
                let vacant = self.leadership.vacant_for().unwrap_or(running);
                // An election takes its time.
                if vacant < self.leader_ttl * 2 {
                    return Vec::new();
                }
                vec![format!("leader election: nobody has led for {} s", vacant.as_secs())]
            }
            Err(error) => vec![format!("leader election: {error}")],
        }
    }

    async fn examine_jobs(&self) -> Finding {
        let mut finding = Vec::new();
        let overdue = self.keeper.overdue();
        if overdue > 0 {
            finding
                .push(format!("renewals: {overdue} leases or claims could not be renewed in time"));
        }
        match self.in_time(self.jobs.oldest_lapse()).await {
            Ok(Some(age)) if age > UNSERVED => finding.push(format!(
                "jobs: a lapsed claim has waited for {} s; see `lockbay job list --status claimed`",
                age.as_secs()
            )),
            Ok(_) => {}
            Err(error) => finding.push(format!("jobs: {error}")),
        }
        finding
    }

    async fn examine_sagas(&self, warnings: &mut Vec<String>) -> Finding {
        let waiting = match self.in_time(self.sagas.waiting()).await {
            Ok(waiting) => waiting,
            Err(error) => return vec![format!("sagas: {error}")],
        };
        if waiting.parked > 0 {
            let (parked, more) =
                (waiting.parked, if waiting.more_parked { " or more" } else { "" });
            warnings.push(format!(
                "sagas: {parked}{more} parked, see `lockbay saga list --status parked`"
            ));
        }
        // One that has just been started takes over what it finds.
        let running = self.started.map(|started| self.clock.tick().since(started));
        let waited = waiting.orphaned.zip(running).map(|(lapsed, running)| lapsed.min(running));
        match waited.filter(|waited| *waited > self.session_ttl + ORPHANED) {
            Some(waited) => vec![format!(
                "sagas: an executor is gone, and nobody has taken over its sagas for {} s; see the \
                 log of each instance",
                waited.as_secs()
            )],
            None => Vec::new(),
        }
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        self.clock.timeout(SLOW_STORE, answer).await.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Unavailable, format!("no answer within {SLOW_STORE:?}")))
        })
    }
}
