//! What was measured is there again: over restarts, for every instance, for as long as it is kept.
//!
//! Time is stepped, and every promise of the store is tested on memory and SQLite; Redis has its run
//! of the same functions where a server is there.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::time::Duration;

use lockbay::LockBay;
use lockbay::clock::Timestamp;
use lockbay::config::Config;
use lockbay::metrics::Metric;
use lockbay::monitor::series::{Samples, Track, increase};
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
