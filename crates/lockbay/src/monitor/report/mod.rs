//! The report: what a person at night, or a program, should know of the service, in one document.
//!
//! The fields that the guide names are there as it has them. Numbers over a window are those of all
//! instances together, as history has them; what this instance did since it was opened stands
//! beside them. What could not be found out is said in `notes`, and makes the report no error.
//!
//! It only puts together what others found; [`write`] turns it into text.

mod write;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::leader::LeaderInfo;
use crate::metrics::Metrics;
use crate::monitor::alert::Severity;
use crate::monitor::health::{Check, Health, Status};
use crate::monitor::history::History;
use crate::monitor::series;
use crate::monitor::trend::{Baseline, Label, Named};

pub use self::write::Format;

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// When it was made.
    pub timestamp: Timestamp,
    /// By which instance.
    pub instance_id: String,
    /// Its name, if it has one.
    pub instance_name: Option<String>,
    /// `healthy`, `degraded`, `unhealthy`.
    pub overall_status: Status,
    /// Seconds since this instance was opened.
    pub system_uptime: f64,
    /// Who leads.
    pub leader_status: LeaderStatus,
    /// What was done in the window.
    pub performance_summary: PerformanceSummary,
    /// What this instance uses.
    pub system_load: SystemLoad,
    /// What is wrong.
    pub health_issues: Vec<String>,
    /// What breaks no promise now.
    pub warnings: Vec<String>,
    /// Part by part, with reasons and since when.
    pub checks: Vec<Check>,
    /// How the important series move.
    pub trends: Vec<Named>,
    /// What is usual at this hour of the week, by path.
    pub baselines: BTreeMap<String, Baseline>,
    /// Alerts that fire.
    pub active_alerts: Vec<ActiveAlert>,
    /// What to do, the most urgent first.
    pub next_steps: Vec<String>,
    /// What could not be found out, and why.
    pub notes: Vec<String>,
}

/// Who leads.
#[derive(Debug, Clone, Serialize)]
pub struct LeaderStatus {
    /// Whether this instance does.
    pub is_leader: bool,
    /// Who does, if that is known.
    pub leader: Option<LeaderInfo>,
}

/// What was done in the window.
#[derive(Debug, Clone, Serialize)]
pub struct PerformanceSummary {
    /// Hours of the window.
    pub window_hours: u32,
    /// Jobs.
    pub job_processing: Work,
    /// Sagas.
    pub saga_processing: Work,
    /// The part of what this instance's cleanup looked at that was cleaned, 0 to 1; none
    /// if it has looked at nothing.
    pub cleanup_efficiency: Option<f64>,
}

/// What was done of one kind of work, by all instances.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Work {
    /// Ended well in the window; none if history does not know.
    pub completed: Option<f64>,
    /// Failed in the window: attempts of jobs, and sagas that turned around.
    pub failed: Option<f64>,
    /// The part that ended well, 0 to 1; none if nothing ended.
    pub success_rate: Option<f64>,
    /// Completed each second, over the last ten minutes.
    pub per_second: Option<f64>,
    /// What is usual at this hour of the week.
    pub usual_per_second: Option<f64>,
    /// Half of them took at most so many milliseconds.
    pub p50_ms: Option<f64>,
    /// 95 of a hundred.
    pub p95_ms: Option<f64>,
    /// 99 of a hundred.
    pub p99_ms: Option<f64>,
    /// By this instance since it was opened.
    pub this_instance: OwnWork,
}

/// What this instance did since it was opened.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct OwnWork {
    /// Ended well.
    pub completed: f64,
    /// Failed.
    pub failed: f64,
    /// 95 of a hundred took at most so many milliseconds.
    pub p95_ms: Option<f64>,
}

/// What this instance uses.
#[derive(Debug, Clone, Serialize)]
pub struct SystemLoad {
    /// Memory of the process.
    pub process_memory_bytes: Option<f64>,
    /// Its threads.
    pub process_threads: Option<f64>,
    /// Its open files.
    pub process_open_fds: Option<f64>,
    /// Requests that are served now.
    pub requests_in_flight: Option<f64>,
    /// As many as are served at most.
    pub max_in_flight: u32,
    /// Sagas that this instance executes.
    pub running_sagas: f64,
    /// The round trip to the store.
    pub store_round_trip_ms: Option<f64>,
}

/// An alert that fires.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActiveAlert {
    /// Which rule.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// Since when.
    pub since: Timestamp,
    /// The value that was judged last.
    pub value: Option<f64>,
    /// In words.
    pub summary: String,
}

/// The paths of one kind of work.
pub(crate) struct Paths {
    completed: &'static str,
    failed: &'static str,
    seconds: &'static str,
}

pub(crate) const JOBS: Paths = Paths {
    completed: "job_idempotency_metrics.jobs_completed",
    failed: "job_idempotency_metrics.jobs_failed",
    seconds: "job_idempotency_metrics.job_seconds",
};

pub(crate) const SAGAS: Paths = Paths {
    completed: "saga_metrics.sagas_completed",
    failed: "saga_metrics.sagas_failed",
    seconds: "saga_metrics.saga_seconds",
};

/// The window that `per_second` looks at.
const NOW: std::time::Duration = std::time::Duration::from_secs(600);

impl Work {
    /// What this instance did, which needs no history.
    pub(crate) fn own(paths: &Paths, metrics: &Metrics) -> Work {
        let read = |path: &str| metrics.read(path);
        let p95 = read(&format!("{}.p95", paths.seconds));
        let this_instance = OwnWork {
            completed: read(paths.completed).unwrap_or_default(),
            failed: read(paths.failed).unwrap_or_default(),
            p95_ms: p95.map(|seconds| seconds * 1e3),
        };
        Work { this_instance, ..Work::default() }
    }

    /// Adds what all instances did in the window.
    pub(crate) async fn look_up(
        &mut self,
        paths: &Paths,
        history: &History,
        (from, to): (Timestamp, Timestamp),
    ) -> crate::Result<()> {
        let completed = history.tracks_by(paths.completed, from, to, to.since(from)).await?;
        self.completed = series::increase(&completed, from, to);
        let failed = history.tracks_by(paths.failed, from, to, to.since(from)).await?;
        self.failed = series::increase(&failed, from, to);
        let ended = self.completed.zip(self.failed).filter(|(done, failed)| done + failed > 0.0);
        self.success_rate = ended.map(|(done, failed)| done / (done + failed));
        let seconds = history.tracks_by(paths.seconds, from, to, to.since(from)).await?;
        let quantile = |share| series::quantile(&seconds, share, from, to).map(|time| time * 1e3);
        (self.p50_ms, self.p95_ms, self.p99_ms) = (quantile(0.5), quantile(0.95), quantile(0.99));
        let since = (to - NOW).max(from);
        let recent = history.tracks(paths.completed, since, to).await?;
        self.per_second = series::rate(&recent, since, to);
        Ok(())
    }

    /// Adds what is usual, where a trend knows it.
    pub(crate) fn compare(&mut self, paths: &Paths, baselines: &BTreeMap<String, Baseline>) {
        self.usual_per_second = baselines.get(paths.completed).map(|usual| usual.expected);
    }
}

impl SystemLoad {
    pub(crate) fn of(metrics: &Metrics, health: &Health, max_in_flight: u32) -> SystemLoad {
        let read = |path: &str| metrics.read(path);
        // A gauge that nobody has set yet tells nothing.
        let set = |path: &str| read(path).filter(|value| *value > 0.0);
        SystemLoad {
            process_memory_bytes: set("system_metrics.process_memory_bytes"),
            process_threads: set("system_metrics.process_threads"),
            process_open_fds: set("system_metrics.process_open_fds"),
            requests_in_flight: read("system_metrics.requests_in_flight"),
            max_in_flight,
            running_sagas: read("saga_metrics.running_sagas").unwrap_or_default(),
            store_round_trip_ms: health.store_round_trip_ms,
        }
    }
}

/// What is usual, of the trends that know it.
pub(crate) fn baselines(trends: &[Named]) -> BTreeMap<String, Baseline> {
    trends.iter().filter_map(|named| Some((named.path.clone(), named.trend.baseline?))).collect()
}

/// What a person should do, the most urgent first.
pub(crate) fn next_steps(health: &Health, trends: &[Named], alerts: &[ActiveAlert]) -> Vec<String> {
    let mut steps = Vec::new();
    if health.rolled_back.is_some() {
        steps.push(
            "stop: the store has lost acknowledged data; read \"When the store has lost data\" in \
             docs/operations.md before anything else"
                .to_owned(),
        );
    }
    let mut bad: Vec<&Check> =
        health.checks.iter().filter(|check| check.status != Status::Healthy).collect();
    bad.sort_by_key(|check| std::cmp::Reverse(check.status));
    steps.extend(bad.iter().filter_map(|check| step_for(check.name)).map(str::to_owned));
    if !alerts.is_empty() {
        steps.push("see each alert's heading in docs/operations.md: `lockbay alerts list`".into());
    }
    for named in trends.iter().filter(|named| named.trend.label == Label::Degrading) {
        let path = &named.path;
        steps.push(format!("look what changed when {path} began to degrade"));
    }
    steps
}

fn step_for(check: &str) -> Option<&'static str> {
    Some(match check {
        "store" => "check the store: `lockbay doctor`",
        "leader_election" => "see that an instance runs for leadership: `lockbay leader status`",
        "job_coordination" => "see who should run the jobs: `lockbay job list --status claimed`",
        "saga_coordination" => "look at the sagas that wait: `lockbay saga list --status parked`",
        "cleanup" => "see what cleanup cannot do: `lockbay cleanup run --dry-run`",
        "schedules" => "put the schedules again that cannot be read: `lockbay schedule list`",
        "clock" => "set the clocks of this machine and of the store by NTP",
        "disk" => "make room on the volume of the store's file",
        "alerts" => "see the log of the leader: alerts are not judged",
        "notifications" => "see which channel takes no notices: `lockbay alerts notifications`",
        "audit" => "see why nothing is entered or sealed: `lockbay audit verify`",
        "history" => "see the log of the instances: nothing is sampled",
        _ => return None,
    })
}
