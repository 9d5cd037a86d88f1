//! Fills a store with a million sagas, lets the leader index them, and searches: how long that
//! takes, and the most memory that it occupied.
//!
//! `cargo run --release -p lockbay --example search_million --all-features -- sqlite:search.db 1000000`

#![allow(clippy::print_stdout)] // it prints what it measured

use std::time::Duration;

use futures_util::{StreamExt, stream};
use lockbay::clock::Clock;
use lockbay::config::Span;
use lockbay::saga::{SagaRequest, StepOutput, StepSpec, read_only};
use lockbay::search::Look;
use lockbay::{Config, ErrorKind, Json, LockBay};

/// Sagas that are started at once, and searches of each sort.
const AT_ONCE: usize = 1_024;
const SEARCHES: usize = 1_000;
const CITIES: [&str; 16] = [
    "berlin", "lagos", "paris", "madrid", "rome", "oslo", "quito", "lima", "cairo", "delhi",
    "tokyo", "seoul", "sydney", "boston", "austin", "accra",
];

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let store = args.next().unwrap_or_else(|| "memory:".into());
    let sagas: usize = args.next().as_deref().unwrap_or("1000000").parse()?;
    let config = Config {
        store: store.clone(),
        monitoring: false,
        shutdown_grace: Span(Duration::from_secs(600)),
        ..Config::default()
    };
    let ids = fill(Config { search: false, ..config.clone() }, sagas).await?;
    let bay = LockBay::open(config).await?;
    let clock = bay.clock().clone();
    bay.start();
    while !bay.is_leader() {
        clock.sleep(Duration::from_millis(10)).await;
    }
    let began = clock.tick();
    let entries = bay.search().index_now().await?;
    let took = clock.tick().since(began).as_secs_f64();
    println!(
        "indexed {entries} entries of {sagas} sagas in {took:.1} s, {:.0} a second, {} MiB at most",
        entries as f64 / took,
        resident("VmHWM:")
    );
    let sample = |n: usize| (n.wrapping_mul(7_919)) % sagas;
    measure(&bay, "id", |n| ids[sample(n) % ids.len()].clone()).await?;
    measure(&bay, "beginning of an id", |n| ids[sample(n) % ids.len()][..18].to_owned()).await?;
    measure(&bay, "rare word", |n| reference(sample(n))).await?;
    measure(&bay, "no such word", |n| format!("nowhere{n}")).await?;
    measure(&bay, "two words", |n| format!("{} user{}", city(sample(n)), sample(n) % 50_000))
        .await?;
    measure(&bay, "beginning of a word", |n| reference(sample(n))[..7].to_owned()).await?;
    measure(&bay, "short beginning", |n| reference(sample(n))[..3].to_owned()).await?;
    measure(&bay, "common word", |n| city(n).to_owned()).await?;
    measure(&bay, "word of all", |_| "payout".to_owned()).await?;
    measure(&bay, "two common, never together", |n| format!("{} {}", city(n), city(n + 1))).await?;
    bay.shutdown().await;
    Ok(())
}

fn city(n: usize) -> &'static str {
    CITIES[n % CITIES.len()]
}

/// A word that one saga has.
fn reference(n: usize) -> String {
    format!("inv{:08x}", n.wrapping_mul(2_654_435_761) & 0xffff_ffff)
}

/// Runs sagas through the service, and returns the ids of some of them.
async fn fill(config: Config, sagas: usize) -> Result<Vec<String>, Failure> {
    let bay = LockBay::open(config).await?;
    let clock = bay.clock().clone();
    bay.sagas().register("pay", read_only(|_| async { Ok(StepOutput::default()) }))?;
    bay.start();
    let began = clock.tick();
    let starts = stream::iter(0..sagas).map(|n| start(&bay, n)).buffer_unordered(AT_ONCE);
    let ids: Vec<String> = starts
        .enumerate()
        .filter_map(|(n, id)| async move { (n % 100 == 0).then_some(id) })
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    println!("started {sagas} sagas in {:.1} s", clock.tick().since(began).as_secs_f64());
    bay.shutdown().await;
    Ok(ids)
}

async fn start(bay: &LockBay, n: usize) -> lockbay::Result<String> {
    let parameters = format!(
        r#"{{"user":"user{}","amount":"{}.50","city":"{}"}}"#,
        n % 50_000,
        n % 997,
        city(n)
    );
    let metadata = format!(r#"{{"reference":"{}","channel":"mobile"}}"#, reference(n));
    loop {
        let step = StepSpec::new("pay", "pay", Json::parse(parameters.as_str())?);
        let request = SagaRequest {
            metadata: Json::parse(metadata.as_str())?,
            ..SagaRequest::new("payout", vec![step])
        };
        match bay.sagas().start(request).await {
            Ok(started) => return Ok(started.saga_id),
            Err(error) if error.kind() == ErrorKind::Busy => {
                bay.clock().sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Searches, one after the other, and prints how long each took.
async fn measure(
    bay: &LockBay,
    name: &str,
    query: impl Fn(usize) -> String,
) -> Result<(), Failure> {
    let clock: &Clock = bay.clock();
    let (mut times, mut found, mut truncated) = (Vec::with_capacity(SEARCHES), 0, 0);
    for n in 0..SEARCHES {
        let query = query(n);
        let began = clock.tick();
        let page = bay.search().find(&query, &Look::Any, None, 20).await?;
        times.push(clock.tick().since(began));
        found += page.items.len();
        truncated += usize::from(page.truncated);
    }
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1_000.0;
    println!(
        "{name:<28} p50 {:>8.2} ms  p99 {:>8.2} ms  most {:>8.2} ms  found {:.1}{}",
        at(50),
        at(99),
        at(100),
        found as f64 / SEARCHES as f64,
        if truncated > 0 { format!("  truncated {truncated}") } else { String::new() }
    );
    Ok(())
}

/// A figure of the kernel about this process, in MiB; zero where it does not tell.
fn resident(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1_024
}
