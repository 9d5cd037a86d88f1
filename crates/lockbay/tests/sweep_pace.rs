//! Sweeping much at once on real stores, with somebody at work in the foreground.
//!
//! The tests that always run assert what was deleted. The figures are printed by
//! `cargo test --release -p lockbay --test sweep_pace -- --ignored --nocapture`, which removes a
//! million values on each store; `LOCKBAY_SWEEP_COUNT` says how many instead.

#![cfg(all(feature = "sqlite", feature = "redis"))]
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::store::{
    Commit, Deadline, Guard, Key, Kind, MAX_PAGE, Partition, Range, Store, Write,
};
use lockbay::{Config, LockBay};
use support::redis::RedisServer;

const STATE: Kind = Kind::new("state");
const PROBE: Kind = Kind::new("probe");
const BATCH: usize = 500;

fn ids(count: usize) -> impl Iterator<Item = String> {
    // Spread over the index, as keys of an application are.
    (0..count).map(|n| {
        format!("temp_state:{:08x}", u32::try_from(n).unwrap().wrapping_mul(2_654_435_761))
    })
}

/// Values of which all but one in a hundred expire at once.
async fn fill(store: &dyn Store, count: usize) {
    let all: Vec<String> = ids(count).collect();
    for ids in all.chunks(BATCH) {
        let put = |(at, id): (usize, &String)| {
            let ttl = Duration::from_millis(if at % 100 == 7 { 86_400_000 } else { 1 });
            let (key, value) = (Key::new(Partition::FIRST, STATE, id.as_str()), vec![b'v'; 100]);
            Write::Put { key, value, deadline: Deadline::After(ttl) }
        };
        let writes = ids.iter().enumerate().map(put).collect();
        let commit = Commit::new(Partition::FIRST, vec![], writes, vec![]).unwrap();
        store.commit(&commit).await.unwrap();
    }
}

/// How many of `count` values stay.
fn staying(count: usize) -> u64 {
    (0..count).filter(|n| n % BATCH % 100 == 7).count() as u64
}

/// Commits a small record again and again, as somebody in the foreground does, until told to stop;
/// returns how long each took, sorted.
async fn probe(store: Arc<dyn Store>, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let clock = Clock::system();
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let key = Key::new(Partition::FIRST, PROBE, "p");
        let put = Write::Put { key: key.clone(), value: vec![1], deadline: Deadline::Never };
        let guards = vec![Guard::Lapsed(Key::new(Partition::FIRST, PROBE, "never"))];
        let commit = Commit::new(Partition::FIRST, guards, vec![put], vec![]).unwrap();
        let began = clock.tick();
        store.commit(&commit).await.unwrap();
        times.push(clock.tick().since(began));
        clock.sleep(Duration::from_millis(5)).await;
    }
    times.sort();
    times
}

fn share(times: &[Duration], per_mille: usize) -> f64 {
    let at = (times.len() * per_mille / 1_000).min(times.len() - 1);
    times[at].as_secs_f64() * 1e3
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

async fn left(store: &dyn Store) -> u64 {
    let mut range = Range::new(Partition::FIRST, STATE, "");
    let mut left = 0;
    loop {
        let page = store.scan(&range, MAX_PAGE).await.unwrap();
        left += page.records.len() as u64;
        range.after = page.records.last().map(|record| record.key.id.to_string());
        if !page.more {
            return left;
        }
    }
}

struct Figures {
    took: Duration,
    alone: Vec<Duration>,
    during: Vec<Duration>,
    grown_kb: u64,
    swept: lockbay::sweep::SweepStats,
}

/// Fills a store, sweeps it, and checks that exactly what expired has gone.
async fn sweep(url: &str, count: usize, alone: Duration) -> Figures {
    let clock = Clock::system();
    let bay = LockBay::open(Config { store: url.into(), ..Config::default() }).await.unwrap();
    fill(&**bay.store(), count).await;
    let stop = Arc::new(AtomicBool::new(false));
    let probing = tokio::spawn(probe(Arc::clone(bay.store()), Arc::clone(&stop)));
    clock.sleep(alone).await;
    stop.store(true, Ordering::Relaxed);
    let alone = probing.await.unwrap();
    stop.store(false, Ordering::Relaxed);
    let probing = tokio::spawn(probe(Arc::clone(bay.store()), Arc::clone(&stop)));
    let (before, began) = (resident_kb(), clock.tick());
    bay.start();
    let (expired, mut most) = (count as u64 - staying(count), before);
    let limit = Duration::from_secs(60) + Duration::from_millis(count as u64);
    // A value that stands first in what is due goes last only if everything has gone.
    loop {
        most = most.max(resident_kb());
        let due = bay.store().due(Partition::FIRST, STATE, 1).await.unwrap();
        let told = bay.sweeper().stats().total_keys_cleaned;
        if due.records.is_empty() && told >= expired {
            break;
        }
        assert!(clock.tick().since(began) < limit, "{told} of {expired} after {limit:?}");
        clock.sleep(Duration::from_millis(100)).await;
    }
    let took = clock.tick().since(began);
    stop.store(true, Ordering::Relaxed);
    let during = probing.await.unwrap();
    let swept = bay.sweeper().stats();
    assert_eq!(swept.total_keys_cleaned, expired, "what is counted is what went");
    assert_eq!(swept.total_errors, 0);
    assert_eq!(left(&**bay.store()).await, staying(count), "what has not expired stays");
    bay.shutdown().await;
    Figures { took, alone, during, grown_kb: most - before, swept }
}

#[allow(clippy::print_stdout)] // figures are what it is for
fn tell(store: &str, count: usize, figures: &Figures) {
    let Figures { took, alone, during, grown_kb, swept } = figures;
    let seconds = took.as_secs_f64();
    println!("{store}: {count} values, {} swept in {seconds:.1} s", swept.total_keys_cleaned);
    for (when, times) in [("alone", alone), ("during the sweep", during)] {
        let (p50, p99, most) = (share(times, 500), share(times, 990), share(times, 1_000));
        let many = times.len();
        println!(
            "  probe {when}: p50 {p50:.2} ms, p99 {p99:.2} ms, most {most:.2} ms, {many} times"
        );
    }
    println!("  p99 grew by {:.2} ms", share(during, 990) - share(alone, 990));
    println!("  memory of the process grew by {grown_kb} kB");
    println!("  measured as freed: {:.1} MB", swept.memory_freed_total_mb);
}

fn sqlite() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("lockbay.db").display());
    (folder, url)
}

fn count() -> usize {
    let given = std::env::var("LOCKBAY_SWEEP_COUNT").ok();
    given.map_or(1_000_000, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_expired_values_go_from_a_file_and_no_other() {
    let (_folder, url) = sqlite();
    sweep(&url, 20_000, Duration::from_millis(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_expired_values_go_from_redis_and_no_other() {
    let server = RedisServer::start();
    sweep(&server.url(), 20_000, Duration::from_millis(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; prints figures of SQLite"]
async fn a_million_expired_values_on_sqlite() {
    let (_folder, url) = sqlite();
    tell("sqlite", count(), &sweep(&url, count(), Duration::from_secs(20)).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; prints figures of Redis"]
async fn a_million_expired_values_on_redis() {
    let server = RedisServer::start();
    tell("redis", count(), &sweep(&server.url(), count(), Duration::from_secs(20)).await);
}
