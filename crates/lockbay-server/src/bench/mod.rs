//! `lockbay bench`: what the services reach on this machine, beside what the bare store reaches
//! doing the same writes in the same run.
//!
//! The two are measured in turns, several times each, so that a noisy machine is noisy for both.
//! Nothing here is a test: it prints figures and judges none. It opens the store by itself and
//! works in a namespace of its own, which it empties at the end.

mod http;
mod idle;
mod job;
mod lease;
mod load;
mod namespace;
mod saga;
mod state;

use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use lockbay::LockBay;
use lockbay::clock::Clock;
use lockbay::config::Config;
use lockbay::store::{self, Store};

use crate::cli::client::{Client, Failure};
use crate::cli::output;
use crate::serve::raise_file_limit;
use load::Measured;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// Claim and complete jobs that nobody has claimed before.
    Job,
    /// Run such jobs with a handler that does nothing: each claim is kept until that has ended.
    Run,
    /// Acquire and release leases; and how long is_leader() takes.
    Lease,
    /// Run sagas of trivial steps to their end.
    Saga,
    /// Read values at hand and from the store, set them, and load them for many at once.
    State,
    /// Do nothing with everything on, and see what that costs.
    Idle,
    /// Claim and complete jobs over HTTP, by many clients at once.
    Http,
}

/// What is measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Job,
    Run,
    Lease,
    Saga,
    StateCached,
    StateRead,
    StateSet,
    StateLoad,
}

impl Subject {
    fn works(self) -> &'static [Work] {
        match self {
            Subject::Job => &[Work::Job],
            Subject::Run => &[Work::Run],
            Subject::Lease => &[Work::Lease],
            Subject::Saga => &[Work::Saga],
            Subject::State => {
                &[Work::StateCached, Work::StateRead, Work::StateSet, Work::StateLoad]
            }
            Subject::Idle | Subject::Http => &[],
        }
    }
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Work::Job => "job",
            Work::Run => "run",
            Work::Lease => "lease",
            Work::Saga => "saga",
            Work::StateCached => "state-cached-get",
            Work::StateRead => "state-get",
            Work::StateSet => "state-set",
            Work::StateLoad => "state-load",
        }
    }

    /// Which benchmark it is of, and which operation, where that has several.
    fn told(self) -> (&'static str, Option<&'static str>) {
        match self {
            Work::Job | Work::Run | Work::Lease | Work::Saga => (self.name(), None),
            Work::StateCached => ("state", Some("cached-get")),
            Work::StateRead => ("state", Some("get")),
            Work::StateSet => ("state", Some("set")),
            Work::StateLoad => ("state", Some("load")),
        }
    }

    async fn ours(self, bay: &LockBay, load: Load) -> anyhow::Result<Measured> {
        let Load { concurrency, count, steps } = load;
        match self {
            Work::Job => job::ours(bay, concurrency, count).await,
            Work::Run => job::run(bay, concurrency, count).await,
            Work::Lease => lease::ours(bay, concurrency, count).await,
            Work::Saga => saga::ours(bay, concurrency, count, steps).await,
            Work::StateCached => state::cached(bay, concurrency, count).await,
            Work::StateRead => state::read(bay, concurrency, count).await,
            Work::StateSet => state::set(bay, concurrency, count).await,
            Work::StateLoad => state::stampede(bay, concurrency, count).await,
        }
    }

    /// The bare store doing the same, where it can.
    async fn raw(self, bay: &LockBay, load: Load) -> anyhow::Result<Option<Measured>> {
        let Load { concurrency, count, steps } = load;
        Ok(match self {
            Work::Job => Some(job::raw(bay, concurrency, count).await?),
            Work::Lease => Some(lease::raw(bay, concurrency, count).await?),
            Work::Saga => Some(saga::raw(bay, concurrency, count, steps).await?),
            Work::StateRead => Some(state::raw_read(bay, concurrency, count).await?),
            Work::StateSet => Some(state::raw_set(bay, concurrency, count).await?),
            Work::Run | Work::StateCached | Work::StateLoad => None,
        })
    }
}

/// Arguments of `lockbay bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    subject: Subject,
    /// The store; by default an SQLite file in the current directory, removed afterwards.
    #[arg(long)]
    store: Option<String>,
    /// Operations in flight; may be given several times [default: 1, 64 and 1024].
    #[arg(long, value_parser = parse_concurrency)]
    concurrency: Vec<usize>,
    /// Operations of each measurement [default: by concurrency].
    #[arg(long)]
    count: Option<usize>,
    /// Steps of each saga.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    steps: u16,
    /// Measure the bare store doing the same writes, too.
    #[arg(long)]
    raw: bool,
    /// Measure an instance without monitoring and audit, too; for idle, in place of one with them.
    #[arg(long)]
    no_monitoring: bool,
    /// Clients at once, each with a connection of its own, for http.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    clients: u16,
    /// Load the running server of --url, for http, in place of one that is started for it.
    #[arg(long, conflicts_with = "store")]
    running: bool,
    /// How long nothing is done, for idle, or how long it is loaded, for http.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=3_600))]
    seconds: u16,
}

/// The most callers.
const MAX_CONCURRENCY: usize = 131_072;

fn parse_concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MAX_CONCURRENCY).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!("a number from 1 to {MAX_CONCURRENCY}")),
    }
}

/// In turns: raw, unmonitored, ours, and so on.
const TURNS: usize = 4;

/// Runs the benchmark; one line of JSON per measurement, or of text.
///
/// A client talks to the server that the command line names.
pub(crate) async fn run(
    args: BenchArgs,
    json: bool,
    client: &dyn Fn() -> Result<Client, Failure>,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        !args.no_monitoring || matches!(args.subject, Subject::Job | Subject::Saga | Subject::Idle),
        "--no-monitoring is for job, saga and idle"
    );
    let load = http::Load { clients: args.clients, seconds: args.seconds };
    if args.subject == Subject::Http {
        raise_file_limit();
    }
    if args.subject == Subject::Http && args.running {
        return http::running(client, load, json).await;
    }
    let (url, scratch) = match &args.store {
        Some(url) => (namespace::own(url), None),
        None => {
            let dir = tempdir().context("cannot make a directory for the benchmark's file")?;
            (format!("sqlite:{}/bench.db", dir.0.display()), Some(dir))
        }
    };
    let clock = Clock::system();
    let done = if args.subject == Subject::Http {
        let logs = tempdir().context("cannot make a directory for the server's log")?;
        http::own(&url, &logs.0, load, json).await
    } else {
        run_in(store::open(&url, &clock).await?, &clock, args, json).await
    };
    // Also after a failure; and only now that nobody writes there any more.
    if scratch.is_none() && !url.starts_with("memory:") {
        namespace::empty(&url, &clock).await.context("cannot empty the benchmark's namespace")?;
    }
    done
}

/// Runs it in this store, which is closed then.
async fn run_in(
    store: Arc<dyn Store>,
    clock: &Clock,
    args: BenchArgs,
    json: bool,
) -> anyhow::Result<()> {
    if args.subject == Subject::Idle {
        let config = if args.no_monitoring { unmonitored() } else { Config::default() };
        return idle::run(store, config, args.seconds, json).await;
    }
    let bays = Bays::build(&store, clock, args.subject, args.no_monitoring)?;
    let done = measure_all(&bays, &store.describe(), args, json).await;
    bays.shut_down().await;
    done
}

async fn measure_all(
    bays: &Bays,
    store: &store::Description,
    args: BenchArgs,
    json: bool,
) -> anyhow::Result<()> {
    let levels = if args.concurrency.is_empty() { vec![1, 64, 1_024] } else { args.concurrency };
    for concurrency in levels {
        let count = args.count.unwrap_or(match concurrency {
            0..=1 => 4_000,
            2..=255 => 80_000,
            _ => 160_000,
        });
        let load = Load { concurrency, count, steps: usize::from(args.steps) };
        for work in args.subject.works() {
            let line = measure(*work, bays, load, args.raw).await?;
            output::data(&if json { line.json(store) } else { line.text(store) });
        }
    }
    if args.subject == Subject::Lease {
        let nanos = lease::is_leader_nanos(&bays.ours).await;
        output::data(&if json {
            format!(r#"{{"bench":"is_leader","nanoseconds":{nanos:.2}}}"#)
        } else {
            format!("is_leader()  {nanos:.2} ns")
        });
    }
    Ok(())
}

/// Who does the work.
struct Bays {
    /// With the settings of a server: monitoring and audit are on.
    ours: LockBay,
    /// The same without them, on the same store.
    unmonitored: Option<LockBay>,
}

impl Bays {
    fn build(
        store: &Arc<dyn Store>,
        clock: &Clock,
        subject: Subject,
        no_monitoring: bool,
    ) -> anyhow::Result<Self> {
        let build = |config| {
            let bay = LockBay::with_store(config, Arc::clone(store), clock.clone());
            if subject == Subject::Saga {
                saga::register(&bay)?;
            }
            // With everything on that a server has on. Leases are measured without an election.
            if subject != Subject::Lease {
                bay.start();
            }
            anyhow::Ok(bay)
        };
        let ours = build(config())?;
        let unmonitored = no_monitoring.then(|| build(unmonitored())).transpose()?;
        Ok(Bays { ours, unmonitored })
    }

    /// The store is closed by the first; the others have nothing left to write.
    async fn shut_down(&self) {
        if let Some(bay) = &self.unmonitored {
            bay.shutdown().await;
        }
        self.ours.shutdown().await;
    }
}

/// Settings that do not limit what is measured.
fn config() -> Config {
    let sagas = u32::try_from(MAX_CONCURRENCY).unwrap_or(u32::MAX);
    Config { saga_concurrency: sagas, ..Config::default() }
}

/// The same without monitoring and audit. It leads another service, so that both lead.
fn unmonitored() -> Config {
    Config { monitoring: false, audit: false, service: "unmonitored".into(), ..config() }
}

/// What is to be done at each measurement.
#[derive(Clone, Copy)]
struct Load {
    concurrency: usize,
    count: usize,
    /// Of a saga.
    steps: usize,
}

/// One row of the result.
struct Line {
    work: Work,
    load: Load,
    ours: Measured,
    raw: Option<Measured>,
    unmonitored: Option<Measured>,
}

async fn measure(work: Work, bays: &Bays, load: Load, with_raw: bool) -> anyhow::Result<Line> {
    let mut ours = Measured::default();
    let (mut raw, mut unmonitored): (Option<Measured>, Option<Measured>) = (None, None);
    let part = load.count.div_ceil(TURNS);
    let what = format!("{} with {} in flight", work.name(), load.concurrency);
    let progress = output::Progress::parts(&what, TURNS as u64 + 1);
    for turn in 0..=TURNS {
        // The first turn warms up caches, connections and prepared statements, and does not count.
        let (count, counts) = if turn == 0 { (part / 8 + 1, false) } else { (part, true) };
        let load = Load { count, ..load };
        if with_raw
            && let Some(bare) = work.raw(&bays.ours, load).await?
            && counts
        {
            raw.get_or_insert_default().add(bare);
        }
        if let Some(bay) = &bays.unmonitored {
            let without = work.ours(bay, load).await?;
            if counts {
                unmonitored.get_or_insert_default().add(without);
            }
        }
        let own = work.ours(&bays.ours, load).await?;
        if counts {
            ours.add(own);
        }
        progress.add(1);
    }
    let load = Load { count: part * TURNS, ..load };
    Ok(Line { work, load, ours, raw, unmonitored })
}

impl Line {
    fn json(&self, store: &store::Description) -> String {
        let (bench, operation) = self.work.told();
        let mut line = serde_json::json!({
            "bench": bench,
            "store": store.backend,
            "fsync": store.durability,
            "concurrency": self.load.concurrency,
            "count": self.load.count,
            "per_second": self.ours.per_second().round(),
            "p50_ms": self.ours.millis(50.0),
            "p99_ms": self.ours.millis(99.0),
        });
        if let Some(peak) = peak_mib() {
            line["peak_rss_mib"] = peak.into();
        }
        if let Some(operation) = operation {
            line["operation"] = operation.into();
        }
        if self.work == Work::Saga {
            line["steps"] = self.load.steps.into();
        }
        if let Some(raw) = &self.raw {
            line["raw_per_second"] = raw.per_second().round().into();
            line["ratio_to_raw"] = self.ratio(raw).into();
        }
        if let Some(unmonitored) = &self.unmonitored {
            line["unmonitored_per_second"] = unmonitored.per_second().round().into();
            line["ratio_to_unmonitored"] = self.ratio(unmonitored).into();
        }
        line.to_string()
    }

    fn ratio(&self, raw: &Measured) -> f64 {
        (self.ours.per_second() / raw.per_second() * 1_000.0).round() / 1_000.0
    }

    fn text(&self, store: &store::Description) -> String {
        let mut line = format!(
            "{:<6} {} ({})  {:>5} in flight  {:>8.0}/s  p50 {:.3} ms  p99 {:.3} ms",
            self.work.name(),
            store.backend,
            store.durability,
            self.load.concurrency,
            self.ours.per_second(),
            self.ours.millis(50.0),
            self.ours.millis(99.0),
        );
        if let Some(raw) = &self.raw {
            line +=
                &format!("  bare store {:.0}/s  ratio {:.3}", raw.per_second(), self.ratio(raw));
        }
        if let Some(unmonitored) = &self.unmonitored {
            let (rate, ratio) = (unmonitored.per_second(), self.ratio(unmonitored));
            line += &format!("  without monitoring {rate:.0}/s  ratio {ratio:.3}");
        }
        line
    }
}

/// The most memory that this process has occupied so far; `None` where the kernel does not tell.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()?.div_ceil(1_024))
}

/// A directory that is removed when dropped.
struct Scratch(std::path::PathBuf);

fn tempdir() -> std::io::Result<Scratch> {
    let path =
        std::env::current_dir()?.join(format!("lockbay-bench-{}", Clock::system().random_id()));
    std::fs::create_dir(&path)?;
    Ok(Scratch(path))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "benchmark directory left behind");
        }
    }
}
