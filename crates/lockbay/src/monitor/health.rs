//! Health, judged by what happened.
//!
//! Nothing here is a flag that somebody set. A check makes a round trip to the store, reads who
//! leads, looks for renewals that are overdue, and finds the oldest work that nobody serves. It
//! tells for each part since when it has been as it is.

mod check;
mod surroundings;

use std::time::Duration;

use serde::Serialize;

use crate::audit::Audit;
use crate::clock::{Clock, Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::job::Jobs;
use crate::keeper::Keeper;
use crate::leader::Leadership;
use crate::metrics::{Metric, Metrics};
use crate::monitor::alert::Alerts;
use crate::monitor::history::History;
use crate::monitor::notify::Notifier;
use crate::saga::Sagas;
use crate::schedule::Schedules;
use crate::store::{Pong, Store, Volume};
use crate::sweep::Sweeper;

pub use self::check::{Check, Status};
pub(crate) use self::check::{Finding, Past};
pub use self::surroundings::MAX_SKEW;

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
    /// All in one word: unhealthy with an issue, degraded with a warning.
    pub status: Status,
    /// Part by part, with reasons and since when.
    pub checks: Vec<Check>,
}

pub(crate) struct Examiner<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) clock: &'a Clock,
    pub(crate) keeper: &'a Keeper,
    pub(crate) jobs: &'a Jobs,
    pub(crate) sagas: &'a Sagas,
    pub(crate) sweeper: &'a Sweeper,
    pub(crate) alerts: &'a Alerts,
    pub(crate) notifier: &'a Notifier,
    pub(crate) schedules: &'a Schedules,
    pub(crate) audit: &'a Audit,
    pub(crate) history: &'a History,
    pub(crate) leadership: &'a Leadership,
    pub(crate) metrics: &'a Metrics,
    pub(crate) leader_ttl: Duration,
    pub(crate) session_ttl: Duration,
    pub(crate) started: Option<Tick>,
}

/// What is said of parts that cannot be judged.
const NOT_JUDGED: &str = "not judged while the store does not answer";

/// What a ping told.
struct Answer {
    found: Finding,
    /// The store's time, when it was asked for by ours, and how long that took.
    times: Option<(Timestamp, Timestamp, Duration)>,
    rolled_back: Option<String>,
}

impl Examiner<'_> {
    /// Makes a check, as a sequel to earlier ones.
    pub(crate) async fn examine(&self, past: &mut Past) -> Health {
        let store = self.examine_store().await;
        let answers = store.times.is_some();
        let round_trip = store.times.map(|(_, _, took)| took.as_secs_f64() * 1e3);
        let mut parts = vec![("store", store.found)];
        if let Some((asked, told, took)) = store.times {
            parts.push(("leader_election", self.examine_leader().await));
            parts.push(("job_coordination", self.examine_jobs().await));
            parts.push(("saga_coordination", self.examine_sagas().await));
            let (issues, warnings) = self.sweeper.examine();
            parts.push(("cleanup", Finding { issues, warnings }));
            let schedules = surroundings::schedules(self.schedules, self.clock, past, SLOW_STORE);
            parts.push(("schedules", schedules.await));
            let issues = self.alerts.examine();
            parts.push(("history", surroundings::history(self.history.stands_still())));
            parts.push(("alerts", Finding { issues, warnings: Vec::new() }));
            let (issues, warnings) = self.notifier.examine();
            parts.push(("notifications", Finding { issues, warnings }));
            parts.push(("clock", surroundings::clocks(asked, told, took)));
            parts.push(("audit", Finding { issues: self.audit.examine(), warnings: Vec::new() }));
            parts.push(("disk", surroundings::disk(self.volume().await)));
        }
        let checks: Vec<Check> =
            parts.iter().map(|(name, found)| past.follow(name, found, self.clock)).collect();
        let well = |name: &str| {
            checks.iter().any(|check| check.name == name && check.status != Status::Unhealthy)
        };
        let all = |of: fn(&Finding) -> &Vec<String>| -> Vec<String> {
            parts.iter().flat_map(|(_, found)| of(found)).cloned().collect()
        };
        let issues = all(|found| &found.issues);
        let health = Health {
            leader_election_healthy: well("leader_election"),
            job_coordination_healthy: well("job_coordination"),
            saga_coordination_healthy: well("saga_coordination"),
            cleanup_service_healthy: well("cleanup"),
            state_manager_healthy: answers,
            overall_healthy: issues.is_empty(),
            last_check: self.clock.now(),
            issues,
            warnings: all(|found| &found.warnings),
            store_round_trip_ms: round_trip,
            rolled_back: store.rolled_back,
            status: checks.iter().map(|check| check.status).max().unwrap_or(Status::Healthy),
            checks: self.with_unjudged(checks, past),
        };
        self.metrics.set(Metric::Healthy, i64::from(health.overall_healthy));
        health
    }

    /// Nothing is known of most parts while the store does not answer; that is said of each.
    fn with_unjudged(&self, mut checks: Vec<Check>, past: &mut Past) -> Vec<Check> {
        const JUDGED_BY_THE_STORE: [&str; 4] =
            ["leader_election", "job_coordination", "saga_coordination", "cleanup"];
        if checks.len() == 1 {
            let unknown = Finding::issue(NOT_JUDGED.into());
            let of = |name| past.follow(name, &unknown, self.clock);
            checks.extend(JUDGED_BY_THE_STORE.map(of));
        }
        checks
    }

    async fn volume(&self) -> Option<Volume> {
        self.in_time(self.store.upkeep().volume()).await.ok().flatten()
    }

    async fn examine_store(&self) -> Answer {
        let (asked, begun) = (self.clock.now(), self.clock.tick());
        let answer = self.in_time(self.store.ping()).await;
        let took = self.clock.tick().since(begun);
        match answer {
            Ok(Pong { now, warnings, .. }) => {
                self.metrics.observe(Metric::StoreSeconds, took);
                self.metrics.set_real(Metric::StoreRoundTrip, took.as_secs_f64() * 1e3);
                self.metrics.set(Metric::StoreHalted, 0);
                let weak = i64::try_from(warnings.len()).unwrap_or(i64::MAX);
                self.metrics.set(Metric::StoreWarnings, weak);
                let found = Finding { issues: Vec::new(), warnings };
                Answer { found, times: Some((asked, now, took)), rolled_back: None }
            }
            Err(error) => {
                let halted = error.kind() == ErrorKind::RolledBack;
                self.metrics.count(Metric::StoreErrors);
                self.metrics.set(Metric::StoreHalted, i64::from(halted));
                let rolled_back = halted.then(|| error.message().to_owned());
                let found = Finding::issue(format!("store: {error}"));
                Answer { found, times: None, rolled_back }
            }
        }
    }

    async fn examine_leader(&self) -> Finding {
        // An instance that was never started does not run for leadership.
        let Some(started) = self.started else { return Finding::default() };
        match self.in_time(self.leadership.current()).await {
            Ok(Some(_)) => {
                self.metrics.set(Metric::LeaderVacant, 0);
                Finding::default()
            }
            Ok(None) => {
                let running = self.clock.tick().since(started);
                let vacant = self.leadership.vacant_for().unwrap_or(running);
                self.metrics.set_real(Metric::LeaderVacant, vacant.as_secs_f64());
                // An election takes its time.
                if vacant < self.leader_ttl * 2 {
                    return Finding::default();
                }
                Finding::issue(format!(
                    "leader election: nobody has led for {} s",
                    vacant.as_secs()
                ))
            }
            Err(error) => Finding::issue(format!("leader election: {error}")),
        }
    }

    async fn examine_jobs(&self) -> Finding {
        let mut finding = Finding::default();
        let overdue = self.keeper.overdue();
        if overdue > 0 {
            finding
                .issues
                .push(format!("renewals: {overdue} leases or claims could not be renewed in time"));
        }
        let oldest = self.in_time(self.jobs.oldest_lapse()).await;
        if let Ok(age) = &oldest {
            let unserved = age.unwrap_or_default().as_secs_f64();
            self.metrics.set_real(Metric::ClaimsUnserved, unserved);
        }
        match oldest {
            Ok(Some(age)) if age > UNSERVED => finding.issues.push(format!(
                "jobs: a lapsed claim has waited for {} s; see `lockbay job list --status claimed`",
                age.as_secs()
            )),
            Ok(_) => {}
            Err(error) => finding.issues.push(format!("jobs: {error}")),
        }
        finding
    }

    async fn examine_sagas(&self) -> Finding {
        let waiting = match self.in_time(self.sagas.waiting()).await {
            Ok(waiting) => waiting,
            Err(error) => return Finding::issue(format!("sagas: {error}")),
        };
        self.metrics.set(Metric::SagasWaiting, i64::try_from(waiting.parked).unwrap_or(i64::MAX));
        let mut finding = Finding::default();
        if waiting.parked > 0 {
            let (parked, more) =
                (waiting.parked, if waiting.more_parked { " or more" } else { "" });
            finding.warnings.push(format!(
                "sagas: {parked}{more} parked, see `lockbay saga list --status parked`"
            ));
        }
        // One that has just been started takes over what it finds.
        let running = self.started.map(|started| self.clock.tick().since(started));
        let waited = waiting.orphaned.zip(running).map(|(lapsed, running)| lapsed.min(running));
        self.metrics.set_real(Metric::SagasOrphaned, waited.unwrap_or_default().as_secs_f64());
        if let Some(waited) = waited.filter(|waited| *waited > self.session_ttl + ORPHANED) {
            finding.issues.push(format!(
                "sagas: an executor is gone, and nobody has taken over its sagas for {} s; see the \
                 log of each instance",
                waited.as_secs()
            ));
        }
        finding
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        self.clock.timeout(SLOW_STORE, answer).await.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Unavailable, format!("no answer within {SLOW_STORE:?}")))
        })
    }
}
