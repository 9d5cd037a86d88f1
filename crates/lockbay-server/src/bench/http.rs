//! What a server bears: many clients that keep their connections, each claiming and completing jobs
//! that nobody has claimed before, one request after the other.
//!
//! Clients and server share this machine, so the figures are of both together. A request counts as
//! an error if its answer is not the one that a lone client would get, and whatever the reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use hdrhistogram::Histogram;
use lockbay::clock::{Clock, Tick};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::child::Process;
use crate::cli::client::{Address, Client, Failure};
use crate::cli::output;

/// While caches are cold, nothing counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long it may take until every client is connected.
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);

/// How much, and for how long.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) clients: u16,
    pub(super) seconds: u16,
}

/// Loads a server that is started for it on this store, and ends it.
pub(super) async fn own(
    store: &str,
    directory: &std::path::Path,
    load: Load,
    json: bool,
) -> anyhow::Result<()> {
    let clock = Clock::system();
    let log = directory.join("server.log");
    let mut server = Process::serve(&["--store", store], &[], directory, log)?;
    let (address, _) = server.listening(&clock).await?;
    let url = format!("http://{address}");
    let start_mib = memory_mib(server.id(), "VmRSS:");
    let result = run(&|| Client::of(&url), load, &clock).await;
    let result = result.with_context(|| format!("the server said: {}", server.logged()))?;
    let memory = (start_mib, memory_mib(server.id(), "VmHWM:"));
    output::data(&result.told(load, memory, json));
    Ok(())
}

/// Loads the server that these clients talk to.
pub(super) async fn running(
    client: &dyn Fn() -> Result<Client, Failure>,
    load: Load,
    json: bool,
) -> anyhow::Result<()> {
    let result = run(client, load, &Clock::system()).await?;
    output::data(&result.told(load, (None, None), json));
    Ok(())
}

/// What one client saw.
struct Seen {
    micros: Vec<u32>,
    errors: u64,
    first_error: Option<String>,
}

/// What all saw.
struct Outcome {
    micros: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

async fn run(
    client: &dyn Fn() -> Result<Client, Failure>,
    load: Load,
    clock: &Clock,
) -> anyhow::Result<Outcome> {
    let run = &clock.random_id()[..12];
    let number = Arc::new(AtomicU64::new(0));
    let all_there = Arc::new(Barrier::new(usize::from(load.clients)));
    let mut callers = JoinSet::new();
    for _ in 0..load.clients {
        let client = client().map_err(|failure| anyhow!(failure.line()))?;
        let caller = Caller {
            client,
            run: run.to_owned(),
            number: Arc::clone(&number),
            clock: clock.clone(),
            counts_from: clock.tick(),
            seen: Seen { micros: Vec::new(), errors: 0, first_error: None },
        };
        callers.spawn(caller.call(Arc::clone(&all_there), load.seconds));
    }
    // Three digits from 1 µs to a minute are always valid bounds.
    let mut all = Outcome {
        micros: Histogram::new_with_bounds(1, 60_000_000, 3).context("a histogram")?,
        errors: 0,
        first_error: None,
    };
    while let Some(seen) = callers.join_next().await {
        let seen = seen.context("a client failed")?;
        for micros in seen.micros {
            all.micros.saturating_record(u64::from(micros));
        }
        all.errors += seen.errors;
        all.first_error = all.first_error.or(seen.first_error);
    }
    ensure!(!all.micros.is_empty(), "no request was answered: {:?}", all.first_error);
    Ok(all)
}

/// One client with a connection of its own.
struct Caller {
    client: Client,
    run: String,
    number: Arc<AtomicU64>,
    clock: Clock,
    counts_from: Tick,
    seen: Seen,
}

#[derive(Deserialize)]
struct Claim {
    job_id: String,
    claim_token: Value,
}

impl Caller {
    async fn call(mut self, all_there: Arc<Barrier>, seconds: u16) -> Seen {
        self.connect().await;
        all_there.wait().await;
        self.counts_from = self.clock.tick() + WARM_UP;
        let until = self.counts_from + Duration::from_secs(u64::from(seconds));
        let claim = self.client.address(&["v1", "jobs", "claim"], &[]);
        while self.clock.tick() < until {
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let key = format!("{}-{number}", self.run);
            let job = json!({ "job_type": "bench", "job_key": key, "parameters": { "n": number } });
            let Some(claimed) = self.post::<Claim>(claim.clone(), job).await else { continue };
            let path = ["v1", "jobs", &claimed.job_id, "complete"];
            let done = json!({ "claim_token": claimed.claim_token, "result": number });
            let complete = self.client.address(&path, &[]);
            self.post::<Value>(complete, done).await;
        }
        self.seen
    }

    /// Connects, and counts an error if that takes too long.
    async fn connect(&mut self) {
        let began = self.clock.tick();
        loop {
            let live = self.client.address(&["health", "live"], &[]);
            match self.client.ask_under(None, Method::GET, live, None).await {
                Ok(_) => return,
                Err(failure) if self.clock.tick().since(began) > CONNECTED_WITHIN => {
                    self.seen.errors += 1;
                    self.seen.first_error.get_or_insert_with(|| failure.line());
                    return;
                }
                Err(_) => {}
            }
        }
    }

    /// One request, measured; none if it was not answered as it should be.
    async fn post<T: serde::de::DeserializeOwned>(
        &mut self,
        url: Address,
        body: Value,
    ) -> Option<T> {
        let began = self.clock.tick();
        let answer = self.client.ask_under(None, Method::POST, url, Some(body)).await;
        let took = self.clock.tick().since(began);
        let read = match answer {
            Ok(answer) if answer.status == StatusCode::OK => answer.read::<T>(),
            Ok(answer) => Err(Failure::Unreachable(format!("answered {}", answer.status))),
            Err(failure) => Err(failure),
        };
        match read {
            Ok(read) => {
                if began >= self.counts_from {
                    let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
                    self.seen.micros.push(micros.max(1));
                }
                Some(read)
            }
            Err(failure) => {
                self.seen.errors += 1;
                self.seen.first_error.get_or_insert_with(|| failure.line());
                None
            }
        }
    }
}

impl Outcome {
    fn told(&self, load: Load, memory: (Option<u64>, Option<u64>), json: bool) -> String {
        let Load { clients, seconds } = load;
        let millis = |percentile| self.micros.value_at_percentile(percentile) as f64 / 1e3;
        let (requests, errors) = (self.micros.len(), self.errors);
        let per_second = (requests as f64 / f64::from(seconds)).round();
        let (p50, p99) = (millis(50.0), millis(99.0));
        let ratio = (p99 / p50 * 100.0).round() / 100.0;
        let most = self.micros.max() as f64 / 1e3;
        if json {
            return json!({
                "bench": "http", "clients": clients, "seconds": seconds, "requests": requests,
                "per_second": per_second, "p50_ms": p50, "p99_ms": p99, "ratio": ratio,
                "max_ms": most, "errors": errors, "first_error": self.first_error,
                "start_rss_mib": memory.0, "peak_rss_mib": memory.1,
            })
            .to_string();
        }
        let mut line = format!(
            "http: {clients} clients, {requests} requests in {seconds} s, {per_second:.0}/s, p50 \
             {p50:.3} ms, p99 {p99:.3} ms (ratio {ratio}), {errors} errors"
        );
        if let (Some(start), Some(peak)) = memory {
            line += &format!(", {start} MiB at the start and {peak} MiB at most");
        }
        if let Some(error) = &self.first_error {
            line += &format!("\nthe first error: {error}");
        }
        line
    }
}

/// A line of what the kernel tells of a process, in MiB; none where it does not tell.
fn memory_mib(process: u32, what: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()?.div_ceil(1_024))
}
