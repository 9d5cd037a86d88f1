//! What a server tells of itself at one moment, and how fast its counters move.

use futures_util::future::join_all;
use lockbay::clock::Tick;
use serde_json::{Value, json};

use crate::cli::client::{Client, Failure, Page};

/// How many sagas, jobs and alerts are looked at.
const SHOWN: &str = "50";

/// Counters whose speed is shown, by their path in the metrics document.
pub(super) const RATES: [(&str, &str); 8] = [
    ("jobs claimed", "/job_idempotency_metrics/jobs_claimed"),
    ("jobs completed", "/job_idempotency_metrics/jobs_completed"),
    ("jobs failed", "/job_idempotency_metrics/jobs_failed"),
    ("duplicates", "/job_idempotency_metrics/duplicates_prevented"),
    ("sagas started", "/saga_metrics/sagas_started"),
    ("sagas completed", "/saga_metrics/sagas_completed"),
    ("sagas compensated", "/saga_metrics/sagas_compensated"),
    ("commits", "/system_metrics/commit_seconds/count"),
];

/// Times whose quantiles are shown.
pub(super) const LATENCIES: [(&str, &str); 5] = [
    ("job", "/job_idempotency_metrics/job_seconds"),
    ("saga", "/saga_metrics/saga_seconds"),
    ("step", "/saga_metrics/step_seconds"),
    ("commit", "/system_metrics/commit_seconds"),
    ("store", "/system_metrics/store_round_trip_seconds"),
];

/// One look at a server.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) taken: Tick,
    pub(super) metrics: Value,
    pub(super) parked: Vec<Value>,
    pub(super) running: Vec<Value>,
    pub(super) jobs: Vec<Value>,
    pub(super) alerts: Vec<Value>,
}

impl Snapshot {
    /// Asks for everything at once.
    pub(super) async fn take(client: &Client, now: Tick) -> Result<Snapshot, Failure> {
        let list = |path: &'static [&'static str], name: &'static str, value: &'static str| {
            let query = [(name, Some(value.to_owned())), ("page_size", Some(SHOWN.to_owned()))];
            let url = client.address(path, &query);
            async move {
                let page: Page<Value> = client.get("watch the server", url).await?.read()?;
                Ok::<_, Failure>(page.items)
            }
        };
        let url = client.address(&["api", "advanced-state", "metrics"], &[]);
        let metrics = async { client.get("watch the server", url).await?.read::<Value>() };
        let lists = join_all([
            list(&["v1", "sagas"], "status", "parked"),
            list(&["v1", "sagas"], "status", "running"),
            list(&["v1", "jobs"], "status", "claimed"),
            list(&["v1", "alerts"], "state", "firing"),
        ]);
        let (metrics, lists) = futures_util::future::join(metrics, lists).await;
        let metrics = metrics?;
        let mut lists = lists.into_iter();
        let mut next = || lists.next().unwrap_or_else(|| Ok(Vec::new()));
        Ok(Snapshot {
            taken: now,
            metrics,
            parked: next()?,
            running: next()?,
            jobs: next()?,
            alerts: next()?,
        })
    }

    /// A number of the metrics document.
    pub(super) fn number(&self, path: &str) -> Option<f64> {
        self.metrics.pointer(path).and_then(Value::as_f64)
    }

    /// A text of the metrics document.
    pub(super) fn text(&self, path: &str) -> &str {
        self.metrics.pointer(path).and_then(Value::as_str).unwrap_or("-")
    }

    pub(super) fn is(&self, path: &str) -> bool {
        self.metrics.pointer(path).and_then(Value::as_bool) == Some(true)
    }

    /// How fast a counter has moved since an earlier look; `None` if it began anew meanwhile.
    pub(super) fn rate(&self, before: &Snapshot, path: &str) -> Option<f64> {
        let seconds = self.taken.since(before.taken).as_secs_f64();
        let moved = self.number(path)? - before.number(path)?;
        let same = self.text("/instance_id") == before.text("/instance_id");
        (same && moved >= 0.0 && seconds > 0.0).then(|| moved / seconds)
    }

    /// All of it as one object.
    pub(super) fn json(&self, before: Option<&Snapshot>, url: &str) -> Value {
        let name = |words: &str| words.replace(' ', "_");
        let rate = |(words, path): &(&str, &str)| {
            let rate = before.and_then(|before| self.rate(before, path));
            (name(words), json!(rate))
        };
        let latency = |(words, path): &(&str, &str)| {
            let of = |part| self.number(&format!("{path}/{part}"));
            (name(words), json!({ "p50": of("p50"), "p95": of("p95"), "p99": of("p99") }))
        };
        json!({
            "url": url,
            "at": self.metrics.pointer("/health_status/last_check"),
            "instance_id": self.metrics.get("instance_id"),
            "uptime_seconds": self.metrics.get("uptime_seconds"),
            "healthy": self.is("/health_status/overall_healthy"),
            "issues": self.metrics.pointer("/health_status/issues"),
            "is_leader": self.is("/is_leader"),
            "leader": self.metrics.get("leader_info"),
            "per_second": RATES.iter().map(rate).collect::<serde_json::Map<_, _>>(),
            "seconds": LATENCIES.iter().map(latency).collect::<serde_json::Map<_, _>>(),
            "running_sagas": self.number("/saga_metrics/running_sagas"),
            "parked_sagas": self.parked.len(),
            "claimed_jobs": self.jobs.len(),
            "alerts_firing": self.alerts.iter().map(|alert| &alert["rule"]).collect::<Vec<_>>(),
        })
    }
}
