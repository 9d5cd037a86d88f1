//! Health is judged by what happened: each check turns bad when its part really fails, says why and
//! since when, and turns good again.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::sync::Arc;
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::job::ClaimRequest;
use lockbay::monitor::health::{Check, Health, Status};
use lockbay::schedule::ScheduleRequest;
use lockbay::store::memory::MemoryStore;
use lockbay::store::{Commit, Deadline, Key, Kind, Partition, Store, Write};
use lockbay::{Config, Json, LockBay};
use support::stepped::{Instance, World};

const SECOND: Duration = Duration::from_secs(1);

async fn started(world: &World) -> Instance {
    let instance = world.instance();
    instance.bay.start();
    world.pass(SECOND * 2).await;
    instance
}

fn check<'a>(health: &'a Health, name: &str) -> &'a Check {
    let found = health.checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no check {name} in {health:?}"))
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_unhealthy_since_then_until_it_does() {
    let world = World::new(1);
    let one = started(&world).await;
    let before = one.bay.health().await;
    assert_eq!((before.status, before.overall_healthy), (Status::Healthy, true), "{before:?}");
    let good = check(&before, "store").last_good.unwrap();
    one.store.die();
    world.pass(SECOND * 30).await;
    let bad = one.bay.health().await;
    assert_eq!((bad.status, bad.state_manager_healthy), (Status::Unhealthy, false));
    let store = check(&bad, "store");
    assert!(store.reasons[0].starts_with("store: "), "{store:?}");
    assert!(store.last_good.unwrap() >= good && store.last_good < store.since, "{store:?}");
    let seconds = store.bad_for_seconds.unwrap();
    assert!((20.0..=30.0).contains(&seconds), "{seconds}");
    assert!(check(&bad, "job_coordination").reasons[0].contains("not judged"));
    assert!(!bad.job_coordination_healthy && !bad.leader_election_healthy);
    one.store.revive();
    world.pass(SECOND * 30).await;
    let good = one.bay.health().await;
    assert_eq!(good.status, Status::Healthy, "{good:?}");
    assert_eq!(check(&good, "store").bad_for_seconds, None);
}

#[tokio::test]
async fn a_service_that_nobody_leads_is_unhealthy_until_somebody_does() {
    let world = World::new(2);
    let one = started(&world).await;
    assert!(one.bay.health().await.leader_election_healthy);
    // An instance that could lead, and does not come to the store to do so.
    let watcher = world.instance();
    watcher.bay.start();
    world.pass(SECOND * 2).await;
    one.store.die();
    watcher.store.set(lockbay::store::faulty::Faults::default());
    world.pass(SECOND * 20).await;
    let health = watcher.bay.health().await;
    assert!(health.leader_election_healthy, "the other took over: {health:?}");
}

#[tokio::test]
async fn a_claim_that_nobody_serves_is_unhealthy_until_somebody_does() {
    let world = World::new(3);
    let one = started(&world).await;
    let request = ClaimRequest::new("t", "k", Json::null());
    one.bay.jobs().claim(request.clone()).await.unwrap();
    world.clock.advance(SECOND * 1_200);
    world.pass(SECOND * 10).await;
    let health = one.bay.health().await;
    let jobs = check(&health, "job_coordination");
    assert!(!health.job_coordination_healthy && jobs.reasons[0].contains("lapsed"), "{jobs:?}");
    one.bay.jobs().claim(request).await.unwrap();
    world.pass(SECOND * 2).await;
    assert!(one.bay.health().await.job_coordination_healthy);
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_degrades_health_until_it_is_put_again() {
    let world = World::new(4);
    let one = started(&world).await;
    let request = ScheduleRequest::new("tidy", "t", "@yearly", "nobody");
    one.bay.schedules().put(&request).await.unwrap();
    world.pass(SECOND * 61).await;
    assert_eq!(check(&one.bay.health().await, "schedules").status, Status::Healthy);
    let key = Key::new(Partition::FIRST, Kind::new("schedule"), "tidy");
    let found = one.store.get(std::slice::from_ref(&key)).await.unwrap().records.remove(0);
    let text = String::from_utf8(found.unwrap().value).unwrap();
    let value = text.replace("\"UTC\"", "\"Mars/Olympus\"").into_bytes();
    let put = Write::Put { key, value, deadline: Deadline::Never };
    one.store
        .commit(&Commit::new(Partition::FIRST, vec![], vec![put], vec![]).unwrap())
        .await
        .unwrap();
    world.pass(SECOND * 61).await;
    let health = one.bay.health().await;
    let schedules = check(&health, "schedules");
    assert!(schedules.reasons[0].contains("tidy stands still"), "{schedules:?}");
    assert_eq!((health.status, health.overall_healthy), (Status::Degraded, true), "{health:?}");
    one.bay.schedules().put(&request).await.unwrap();
    world.pass(SECOND * 61).await;
    assert_eq!(check(&one.bay.health().await, "schedules").status, Status::Healthy);
}

/// The memory store's clock is its own: stepped apart from the instance's, it is another machine's.
#[tokio::test]
async fn clocks_that_are_apart_degrade_health_until_they_agree() {
    let (ours, stores) = (Clock::manual(1), Clock::manual(2));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(stores.clone()));
    let config = Config { store: "memory:".into(), ..Config::default() };
    let bay = LockBay::with_store(config, store, ours.clone());
    assert_eq!(check(&bay.health().await, "clock").status, Status::Healthy);
    stores.advance(SECOND * 3);
    ours.advance(SECOND * 2 - Duration::from_millis(500));
    let health = bay.health().await;
    let clock = check(&health, "clock");
    assert!(clock.reasons[0].contains("1.5 s behind"), "{clock:?}");
    assert_eq!(health.status, Status::Degraded);
    stores.advance(SECOND);
    ours.advance(SECOND * 3 - Duration::from_millis(500));
    assert_eq!(check(&bay.health().await, "clock").status, Status::Healthy);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_file_tells_the_room_of_its_volume_and_memory_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lockbay.db");
    let store =
        lockbay::store::sqlite::SqliteStore::open(&path, "lockbay", Clock::system()).unwrap();
    let volume = store.upkeep().volume().await.unwrap().unwrap();
    assert!(volume.total_bytes > 1 << 20 && volume.free_bytes <= volume.total_bytes, "{volume:?}");
    store.close().await;
    let memory = MemoryStore::new(Clock::system());
    assert_eq!(memory.upkeep().volume().await.unwrap(), None);
}
