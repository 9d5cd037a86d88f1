//! What was measured is there again: over restarts, for every instance, for as long as it is kept.
//!
//! Time is stepped, and every promise of the store is tested on memory and SQLite; Redis has its run
//! of the same functions where a server is there.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, clippy::cast_precision_loss)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lockbay::clock::{Clock, Timestamp};
use lockbay::config::Config;
use lockbay::metrics::Metric;
use lockbay::monitor::history::{Ask, Chart, Point, Value};
use lockbay::monitor::series::{Samples, Track, increase};
use lockbay::store::{
    Commit, Description, Hints, Key, Kind, Page, Partition, Pong, Range, Read, Reply, Store, Upkeep,
};
use lockbay::{ErrorKind, LockBay, Result};
use support::stepped::{Instance, World, seconds};

const SAGAS_FAILED: &str = "saga_metrics.sagas_failed";

fn named(name: &str) -> Config {
    Config {
        store: "memory:".into(),
        instance_name: Some(name.into()),
        // Long times elsewhere, so that steps may be long.
        leader_ttl: seconds(3_600),
        session_ttl: seconds(3_600),
        health_interval: seconds(3_600),
        cleanup_interval: seconds(3_600),
        ..Config::default()
    }
}

fn start(world: &World, name: &str) -> Instance {
    let instance = world.instance_with(named(name));
    instance.bay.start();
    instance
}

async fn pass(world: &World, time: u64) {
    world.pass_by(Duration::from_secs(1), Duration::from_secs(time)).await;
}

async fn tracks(bay: &LockBay, path: &str, from: Timestamp) -> Vec<Track> {
    let to = bay.clock().now();
    bay.history().tracks(path, from, to).await.unwrap()
}

fn times(track: &Track) -> Vec<Timestamp> {
    match &track.samples {
        Samples::Counter(samples) => samples.iter().map(|(at, _)| *at).collect(),
        Samples::Gauge(samples) => samples.iter().map(|(at, _)| *at).collect(),
        Samples::Histogram(samples) => samples.iter().map(|(at, _)| *at).collect(),
    }
}

#[tokio::test]
async fn each_interval_has_a_sample_and_every_increment_is_seen() {
    let world = World::new(1);
    let from = world.clock.now();
    let one = start(&world, "one");
    pass(&world, 25).await;
    one.bay.metrics().count(Metric::SagasFailed);
    pass(&world, 40).await;
    let found = tracks(&one.bay, SAGAS_FAILED, from).await;
    assert_eq!(found.len(), 1);
    assert_eq!(&*found[0].instance, "one");
    assert_eq!(found[0].born, from);
    let times = times(&found[0]);
    assert_eq!(times.len(), 7, "at 0, 10, … 60 s: {times:?}");
    assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) == Duration::from_secs(10)));
    assert_eq!(increase(&found, from, world.clock.now()), Some(1.0));
    let late = from + Duration::from_secs(30);
    assert_eq!(increase(&found, late, world.clock.now()), Some(0.0), "it was before");
    one.bay.shutdown().await;
}

#[tokio::test]
async fn the_first_sample_has_what_the_first_health_check_found() {
    let world = World::new(13);
    let from = world.clock.now();
    let one = start(&world, "one");
    pass(&world, 5).await;
    let found = tracks(&one.bay, "system_metrics.healthy", from).await;
    let Samples::Gauge(samples) = &found[0].samples else { panic!("{found:?}") };
    assert_eq!(samples[0].1, 1.0, "it is healthy, and never was otherwise");
    one.bay.shutdown().await;
}

#[tokio::test]
async fn a_crash_loses_what_came_after_the_last_sample_and_a_restart_is_another_life() {
    let world = World::new(2);
    let from = world.clock.now();
    let first = start(&world, "one");
    pass(&world, 15).await;
    first.bay.metrics().add(Metric::SagasFailed, 3);
    pass(&world, 10).await;
    first.bay.metrics().count(Metric::SagasFailed);
    first.store.die();
    pass(&world, 20).await;
    let second = start(&world, "one");
    pass(&world, 15).await;
    second.bay.metrics().count(Metric::SagasFailed);
    pass(&world, 10).await;
    let found = tracks(&second.bay, SAGAS_FAILED, from).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|track| &*track.instance == "one"));
    assert!(found[0].born < found[1].born);
    assert_eq!(increase(&found, from, world.clock.now()), Some(4.0));
    let gap = times(&found[1])[0].since(*times(&found[0]).last().unwrap());
    assert!(gap >= Duration::from_secs(20), "nothing is made up between the two lives: {gap:?}");
    second.bay.shutdown().await;
}

#[tokio::test]
async fn two_instances_are_read_together_and_one_by_one() {
    let world = World::new(3);
    let from = world.clock.now();
    let (one, two) = (start(&world, "one"), start(&world, "two"));
    pass(&world, 65).await;
    one.bay.metrics().add(Metric::SagasFailed, 2);
    two.bay.metrics().add(Metric::SagasFailed, 3);
    pass(&world, 65).await;
    let found = tracks(&one.bay, SAGAS_FAILED, from).await;
    assert_eq!(increase(&found, from, world.clock.now()), Some(5.0));
    let chart = points(&one.bay, SAGAS_FAILED, 120, None).await.unwrap();
    assert_eq!(chart.instances.iter().map(|name| &**name).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(total(&chart), 5.0);
    let chart = points(&one.bay, SAGAS_FAILED, 120, Some("two")).await.unwrap();
    assert_eq!(total(&chart), 3.0);
    let refused = points(&one.bay, SAGAS_FAILED, 120, Some("three")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    // Gauges by the rule of their row: each of the two is healthy.
    let chart = points(&one.bay, "system_metrics.healthy", 60, None).await.unwrap();
    let Value::Gauge { value, .. } = chart.points.last().unwrap().value else { panic!() };
    assert_eq!(value, Some(1.0));
    one.bay.shutdown().await;
    two.bay.shutdown().await;
}

async fn points(bay: &LockBay, path: &str, window: u64, instance: Option<&str>) -> Result<Chart> {
    let to = bay.clock().now();
    let from = to - Duration::from_secs(window);
    let instance = instance.map(str::to_owned);
    bay.history().points(&Ask { path: path.into(), from, to, step: None, instance }).await
}

fn total(chart: &Chart) -> f64 {
    let increase = |point: &Point| match point.value {
        Value::Counter { increase, .. } => increase.unwrap_or(0.0),
        other => panic!("no counter: {other:?}"),
    };
    chart.points.iter().map(increase).sum()
}

#[tokio::test]
async fn time_without_an_instance_is_a_gap_in_the_chart() {
    let world = World::new(4);
    let one = start(&world, "one");
    pass(&world, 120).await;
    one.store.die();
    pass(&world, 300).await;
    let two = start(&world, "one");
    pass(&world, 120).await;
    for path in [SAGAS_FAILED, "system_metrics.healthy", "system_metrics.commit_seconds"] {
        let chart = points(&two.bay, path, 540, None).await.unwrap();
        let empty = |point: &&Point| match point.value {
            Value::Counter { increase, .. } => increase.is_none(),
            Value::Gauge { value, .. } | Value::Quantile { value } => value.is_none(),
            Value::Histogram { count, .. } => count.is_none(),
        };
        let gap = chart.points.iter().filter(empty).count();
        assert!((8..=10).contains(&gap), "{path}: {gap} of {} steps", chart.points.len());
        assert!(chart.points.first().is_some_and(|point| !empty(&point)));
        assert!(chart.points.last().is_some_and(|point| !empty(&point)));
    }
    two.bay.shutdown().await;
}

#[tokio::test]
async fn the_last_sample_is_taken_at_the_end_in_both_grains() {
    let world = World::new(5);
    let from = world.clock.now();
    let one = start(&world, "one");
    pass(&world, 13).await;
    one.bay.metrics().add(Metric::SagasFailed, 7);
    let ending = tokio::spawn({
        let bay = one.bay.clone();
        async move { bay.shutdown().await }
    });
    pass(&world, 1).await;
    ending.await.unwrap();
    let reader = world.instance_with(named("reader"));
    let found = tracks(&reader.bay, SAGAS_FAILED, from).await;
    assert_eq!(increase(&found, from, world.clock.now()), Some(7.0));
    let times = times(&found[0]);
    assert_eq!(times.len(), 3, "at 0, at 10 s, and at the end: {times:?}");
    // Long after, only the coarser samples are read.
    world.clock.advance(Duration::from_secs(80 * 3_600));
    let to = from + Duration::from_secs(60);
    let found = reader.bay.history().tracks(SAGAS_FAILED, from, to).await.unwrap();
    assert_eq!(increase(&found, from, to), Some(7.0), "{found:?}");
}

#[tokio::test]
async fn long_windows_are_exact_at_both_edges() {
    let world = World::new(6);
    let one = start(&world, "one");
    let begun = world.clock.now();
    // One failure in each minute, for three hours and a half.
    for _ in 0..210 {
        world.pass_by(Duration::from_secs(10), Duration::from_secs(30)).await;
        one.bay.metrics().count(Metric::SagasFailed);
        world.pass_by(Duration::from_secs(10), Duration::from_secs(30)).await;
    }
    let to = world.clock.now();
    for minutes in [1, 5, 119, 121, 150, 187] {
        let from = to - Duration::from_secs(minutes * 60);
        let found = tracks(&one.bay, SAGAS_FAILED, from).await;
        assert_eq!(increase(&found, from, to), Some(minutes as f64), "{minutes} minutes");
        let Samples::Counter(samples) = &found[0].samples else { panic!() };
        assert!(samples.len() < 800, "{minutes} minutes have {} samples", samples.len());
    }
    let all = tracks(&one.bay, SAGAS_FAILED, begun - Duration::from_secs(60)).await;
    assert_eq!(increase(&all, begun - Duration::from_secs(60), to), Some(210.0));
    let chart = points(&one.bay, SAGAS_FAILED, 3 * 3_600, None).await.unwrap();
    assert_eq!(total(&chart), 180.0);
    one.bay.shutdown().await;
}

#[tokio::test]
async fn an_outage_of_the_store_loses_no_sample_of_the_time_within_it() {
    let world = World::new(7);
    let from = world.clock.now();
    let one = start(&world, "one");
    world.pass_by(Duration::from_secs(10), Duration::from_secs(1_200)).await;
    one.store.die();
    world.pass_by(Duration::from_secs(10), Duration::from_secs(3_600)).await;
    one.store.revive();
    world.pass_by(Duration::from_secs(10), Duration::from_secs(60)).await;
    let found = tracks(&one.bay, SAGAS_FAILED, from).await;
    let times = times(&found[0]);
    let widest = times.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap();
    assert!(widest <= Duration::from_secs(20), "{widest:?}");
    assert!(times.len() > 470, "{}", times.len());
}

#[tokio::test]
async fn nothing_is_sampled_or_stored_without_monitoring() {
    let world = World::new(8);
    let from = world.clock.now();
    let one = world.instance_with(Config { monitoring: false, ..named("one") });
    one.bay.start();
    pass(&world, 60).await;
    assert!(tracks(&one.bay, SAGAS_FAILED, from).await.is_empty());
    let snapshot = world.memory.snapshot();
    assert!(snapshot.keys().all(|key| key.kind.name() != "history"));
    one.bay.shutdown().await;
}

#[tokio::test]
async fn what_is_no_longer_kept_is_swept_and_the_rest_stays() {
    let world = World::new(9);
    let one = start(&world, "one");
    pass(&world, 20).await;
    one.bay.shutdown().await;
    let count = |kind: &str| {
        let snapshot = world.memory.snapshot();
        let ours = snapshot.keys().filter(|key| key.kind.name() == "history");
        ours.filter(|key| key.id.starts_with(kind)).count()
    };
    assert_eq!((count("fine/"), count("coarse/"), count("life/")), (1, 1, 1));
    let sweeper = world.instance_with(Config { monitoring: false, ..named("sweeper") });
    sweeper.bay.start();
    pass(&world, 5).await;
    assert!(sweeper.bay.is_leader());
    world.clock.advance(Duration::from_secs(71 * 3_600));
    world.pass_by(Duration::from_secs(10), Duration::from_secs(3_500)).await;
    assert_eq!((count("fine/"), count("coarse/"), count("life/")), (1, 1, 1), "still kept");
    world.pass_by(Duration::from_secs(10), Duration::from_secs(7_300)).await;
    assert_eq!((count("fine/"), count("coarse/"), count("life/")), (0, 1, 1));
    world.clock.advance(Duration::from_secs(27 * 86_400));
    world.pass_by(Duration::from_secs(10), Duration::from_secs(7_300)).await;
    assert_eq!((count("fine/"), count("coarse/"), count("life/")), (0, 0, 0));
    sweeper.bay.shutdown().await;
}

#[tokio::test]
async fn a_path_that_names_nothing_is_refused_with_what_was_meant() {
    let world = World::new(10);
    let one = world.instance_with(named("one"));
    let refused = points(&one.bay, "saga_metrics.saga_failed", 60, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert!(refused.to_string().contains("saga_metrics.sagas_failed"), "{refused}");
    let refused = points(&one.bay, SAGAS_FAILED, 0, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let refused = points(&one.bay, SAGAS_FAILED, 31 * 86_400, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn samples_stay_in_order_when_the_stores_clock_goes_back() {
    let world = World::new(11);
    let behind =
        Arc::new(Skewed { inner: Arc::new(world.memory.client()), back: AtomicU64::new(0) });
    let bay = LockBay::with_store(named("one"), behind.clone(), world.clock.clone());
    bay.start();
    let from = world.clock.now();
    pass(&world, 60).await;
    behind.back.store(35_000_000, Ordering::Relaxed);
    pass(&world, 90).await;
    let found = tracks(&bay, SAGAS_FAILED, from).await;
    let times = times(&found[0]);
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    let widest = times.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap();
    assert!(widest <= Duration::from_secs(20), "it goes on where it was: {times:?}");
    assert!(times.len() <= 13, "three or four were dropped: {}", times.len());
    bay.shutdown().await;
}

#[tokio::test]
async fn samples_that_are_dropped_because_a_clock_went_back_are_an_issue_of_health() {
    let world = World::new(12);
    let behind =
        Arc::new(Skewed { inner: Arc::new(world.memory.client()), back: AtomicU64::new(0) });
    let bay = LockBay::with_store(named("one"), behind.clone(), world.clock.clone());
    bay.start();
    pass(&world, 60).await;
    assert!(bay.history().stands_still().is_none());
    behind.back.store(3_600_000_000, Ordering::Relaxed);
    pass(&world, 90).await;
    assert!(bay.history().stands_still().is_some(), "nothing was sampled for 90 s");
    behind.back.store(0, Ordering::Relaxed);
    pass(&world, 30).await;
    assert!(bay.history().stands_still().is_none());
    bay.shutdown().await;
}

/// A store whose clock can be set back.
struct Skewed {
    inner: Arc<dyn Store>,
    back: AtomicU64,
}

impl Skewed {
    fn told(&self, now: Timestamp) -> Timestamp {
        now - Duration::from_micros(self.back.load(Ordering::Relaxed))
    }
}

#[async_trait]
impl Store for Skewed {
    async fn get(&self, keys: &[Key]) -> Result<Read> {
        let read = self.inner.get(keys).await?;
        Ok(Read { now: self.told(read.now), ..read })
    }

    async fn scan(&self, range: &Range, limit: usize) -> Result<Page> {
        let page = self.inner.scan(range, limit).await?;
        Ok(Page { now: self.told(page.now), ..page })
    }

    async fn due(&self, partition: Partition, kind: Kind, limit: usize) -> Result<Page> {
        self.inner.due(partition, kind, limit).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply> {
        Ok(match self.inner.commit(commit).await? {
            Reply::Committed { revision, now } => {
                Reply::Committed { revision, now: self.told(now) }
            }
            Reply::Conflict { guard, found, now } => {
                Reply::Conflict { guard, found, now: self.told(now) }
            }
        })
    }

    async fn watch(&self, range: &Range) -> Result<Hints> {
        self.inner.watch(range).await
    }

    async fn ping(&self) -> Result<Pong> {
        let pong = self.inner.ping().await?;
        Ok(Pong { now: self.told(pong.now), ..pong })
    }

    fn describe(&self) -> Description {
        self.inner.describe()
    }

    fn upkeep(&self) -> &dyn Upkeep {
        self.inner.upkeep()
    }

    async fn accept(&self) -> Result<()> {
        self.inner.accept().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[tokio::test]
async fn forty_rules_over_three_instances_read_the_store_as_often_as_one() {
    let world = World::new(12);
    let instances = ["one", "two", "three"].map(|name| start(&world, name));
    world.pass_by(Duration::from_secs(10), Duration::from_secs(7 * 3_600)).await;
    let reader = world.instance_with(named("reader"));
    let paths: Vec<_> = lockbay::metrics::paths().take(40).collect();
    let judge = async || {
        let (calls, to, begun) = (reader.store.calls(), world.clock.now(), Clock::system().tick());
        for (at, series) in paths.iter().enumerate() {
            let minutes = [5, 10, 30, 60, 120, 360][at % 6];
            let from = to - Duration::from_secs(minutes * 60);
            let found = reader.bay.history().tracks(series.path, from, to).await.unwrap();
            assert_eq!(found.len(), 3, "{}", series.path);
            if series.kind == lockbay::metrics::Type::Counter {
                assert!(increase(&found, from, to).is_some(), "{}", series.path);
            }
        }
        let took = Clock::system().tick().since(begun);
        let calls = reader.store.calls() - calls;
        println!("40 rules over 3 instances: {took:?}, {calls} calls of the store");
        calls
    };
    // For each life one call for each of: fine chunks, more of them, coarse ones.
    assert!(judge().await <= 40);
    world.pass_by(Duration::from_secs(10), Duration::from_secs(10)).await;
    let again = judge().await;
    assert!(again <= 13, "closed chunks are at hand: {again}");
    assert_eq!(judge().await, 0, "all of them, for a moment");
    for instance in instances {
        instance.bay.shutdown().await;
    }
}
