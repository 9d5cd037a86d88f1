//! State on real stores: what the model shows under a stepped clock holds on SQLite and on Redis,
//! where instances share nothing but the store.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::metrics::Metric;
use lockbay::state::{
    IfVersion, Invalidation, LoadOptions, ServeStale, SetOptions, State, parse_version,
};
use lockbay::store::memory::Memory;
use lockbay::store::redis::RedisStore;
use lockbay::store::sqlite::SqliteStore;
use lockbay::{Config, ErrorKind, Json, LockBay};
use support::redis::RedisServer;
use support::{eventually, now};
use tokio::sync::Semaphore;

/// What other instances may lag behind.
const LAG: Duration = Duration::from_secs(1);
/// What a busy machine may add to that here; `state.rs` allows nothing, under a stepped clock.
const SLACK: Duration = Duration::from_secs(3);

fn started(store: Arc<dyn lockbay::store::Store>) -> LockBay {
    let bay = LockBay::with_store(Config::default(), store, Clock::system());
    bay.start();
    bay
}

fn on_sqlite(dir: &Path) -> LockBay {
    let store = SqliteStore::open(&dir.join("s.db"), "state", Clock::system()).unwrap();
    started(Arc::new(store))
}

async fn on_redis(server: &RedisServer) -> LockBay {
    let store = RedisStore::open(&server.url(), "state", Clock::system()).await.unwrap();
    started(Arc::new(store))
}

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

fn tagged(tag: &str) -> SetOptions {
    SetOptions { tags: vec![tag.into()], ..SetOptions::default() }
}

async fn seen(state: &State, key: &str) -> Option<String> {
    state.get(key).await.unwrap().map(|found| found.value.text().to_owned())
}

/// Three instances on memory, SQLite and Redis, one after the other.
async fn everywhere(test: impl AsyncFn(&[LockBay; 3])) {
    let memory = Memory::new(Clock::system());
    let instance = || started(Arc::new(memory.client()));
    ended(&test, [instance(), instance(), instance()]).await;
    let dir = tempfile::tempdir().unwrap();
    let instance = || on_sqlite(dir.path());
    ended(&test, [instance(), instance(), instance()]).await;
    let server = RedisServer::start_with(&["appendonly no"]);
    let bays = [on_redis(&server).await, on_redis(&server).await, on_redis(&server).await];
    ended(&test, bays).await;
}

async fn ended(test: &impl AsyncFn(&[LockBay; 3]), bays: [LockBay; 3]) {
    test(&bays).await;
    for bay in bays {
        bay.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_of_three_instances_load_once_on_every_store() {
    everywhere(async |bays| {
        let loads = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let callers: Vec<_> = (0..1_000)
            .map(|n| {
                let (state, loads) = (bays[n % 3].state().clone(), Arc::clone(&loads));
                let gate = Arc::clone(&gate);
                let loader = move || {
                    let (loads, gate) = (Arc::clone(&loads), Arc::clone(&gate));
                    async move {
                        loads.fetch_add(1, Ordering::SeqCst);
                        let _turn = gate.acquire().await;
                        Json::parse("7")
                    }
                };
                let options = LoadOptions { tags: vec!["t".into()], ..LoadOptions::default() };
                tokio::spawn(async move { state.get_or_load("k", options, loader).await })
            })
            .collect();
        eventually("a load", || async { (loads.load(Ordering::SeqCst) > 0).then_some(()) }).await;
        gate.add_permits(1_000);
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap().value.text(), "7");
        }
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_set_one_version_one_wins_on_every_store() {
    everywhere(async |bays| {
        let mut version = IfVersion::Absent;
        for round in 0..10 {
            let sets: Vec<_> = (0..30)
                .map(|n| {
                    let state = bays[n % 3].state().clone();
                    let options = SetOptions { if_version: version, ..tagged("t") };
                    let value = json(&format!("{}", 100 * round + n));
                    tokio::spawn(async move { state.set("k", value, options).await })
                })
                .collect();
            let mut won = Vec::new();
            for set in sets {
                match set.await.unwrap() {
                    Ok(written) => won.push(written.version),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Fenced, "{error}"),
                }
            }
            assert_eq!(won.len(), 1, "round {round}");
            version = parse_version(&won[0]).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_seen_at_once_where_it_was_made_and_within_a_second_elsewhere_on_every_store() {
    everywhere(async |bays| {
        let [a, b, c] = bays;
        for way in 0..4 {
            a.state().set("user:1:x", json("1"), tagged("t")).await.unwrap();
            for bay in bays {
                eventually("the value everywhere", || async {
                    seen(bay.state(), "user:1:x").await
                })
                .await;
            }
            let by = [a, b, c][way % 3].state();
            let mut wish = Invalidation::default();
            match way {
                0 => wish.keys = vec!["user:1:x".into()],
                1 => wish.tags = vec!["t".into()],
                2 => wish.pattern = Some("user:*".into()),
                _ => wish.updated_key = Some("user:1".into()),
            }
            by.invalidate(&wish).await.unwrap();
            assert_eq!(seen(by, "user:1:x").await, None, "{wish:?}");
            let since = now();
            for bay in bays {
                eventually("its end everywhere", || async {
                    seen(bay.state(), "user:1:x").await.is_none().then_some(())
                })
                .await;
            }
            assert!(since.elapsed() < LAG + SLACK, "{wish:?} {:?}", since.elapsed());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_from_before_an_invalidation_is_never_stored_on_any_store() {
    everywhere(async |bays| {
        let [a, b, c] = bays;
        let database = Arc::new(AtomicU64::new(0));
        for way in 0..3u64 {
            let key = format!("k:{way}");
            let gate = Arc::new(Semaphore::new(0));
            let looked = Arc::new(AtomicU64::new(0));
            let load = tokio::spawn({
                let (state, key, gate) = (a.state().clone(), key.clone(), Arc::clone(&gate));
                let (database, looked) = (Arc::clone(&database), Arc::clone(&looked));
                let options = LoadOptions { tags: vec!["t".into()], ..LoadOptions::default() };
                async move {
                    let loader = move || {
                        let (gate, looked) = (Arc::clone(&gate), Arc::clone(&looked));
                        let database = Arc::clone(&database);
                        async move {
                            let value = database.load(Ordering::SeqCst);
                            looked.fetch_add(1, Ordering::SeqCst);
                            let _turn = gate.acquire().await;
                            Json::from_value(&value)
                        }
                    };
                    state.get_or_load(&key, options, loader).await
                }
            });
            eventually("the load", || async { (looked.load(Ordering::SeqCst) == 1).then_some(()) })
                .await;
            let value = 1 + database.fetch_add(1, Ordering::SeqCst);
            let mut wish = Invalidation::default();
            match way {
                0 => wish.keys = vec![key.clone()],
                1 => wish.tags = vec!["t".into()],
                _ => wish.pattern = Some("k:*".into()),
            }
            b.state().invalidate(&wish).await.unwrap();
            gate.add_permits(10);
            assert_eq!(load.await.unwrap().unwrap().value.text(), value.to_string(), "{wish:?}");
            // One more where what sweeps takes the record of the tag in between.
            assert!((2..=4).contains(&looked.load(Ordering::SeqCst)), "{wish:?}");
            assert_eq!(seen(c.state(), &key).await, Some(value.to_string()));
        }
    })
    .await;
}

/// Redisson #4731: entries that were cached before a reconnect were served for ever.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_stale_when_the_hint_channel_breaks() {
    let server = RedisServer::start_with(&["appendonly no"]);
    let (a, b) = (on_redis(&server).await, on_redis(&server).await);
    let set = async |n: u32| {
        a.state().set("k", json(&n.to_string()), SetOptions::default()).await.unwrap();
    };
    set(0).await;
    for round in 1..6u32 {
        // In use on the other side, so that it is at hand there and verified again and again.
        for _ in 0..20 {
            seen(b.state(), "k").await.unwrap();
        }
        server.command(&["client", "kill", "type", "pubsub"]);
        set(round).await;
        assert_eq!(seen(a.state(), "k").await, Some(round.to_string()));
        let since = now();
        eventually("the new value", || async {
            (seen(b.state(), "k").await == Some(round.to_string())).then_some(())
        })
        .await;
        assert!(since.elapsed() < LAG + SLACK, "{:?}", since.elapsed());
    }
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_is_told_or_covered_by_what_was_seen_before() {
    let mut server = RedisServer::start_with(&["appendonly yes"]);
    let bay = on_redis(&server).await;
    let state = bay.state();
    state.set("k", json("1"), SetOptions::default()).await.unwrap();
    // At hand, and the hint of the set has come.
    let hits = || bay.metrics().value(Metric::StateHits);
    eventually("the value at hand", || async {
        seen(state, "k").await.unwrap();
        (hits() > 20).then_some(())
    })
    .await;
    server.kill9();
    let error = eventually("an error", || async { state.get("k").await.err() }).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let covered = ServeStale::UpTo(Duration::from_secs(600));
    let found = state.get_with("k", covered).await.unwrap().unwrap();
    assert_eq!((found.value.text(), found.stale), ("1", true));
    server.restart();
    eventually("the store again", || async { state.get("k").await.ok().flatten() }).await;
    state.set("k", json("2"), SetOptions::default()).await.unwrap();
    assert_eq!(seen(state, "k").await.as_deref(), Some("2"));
    bay.shutdown().await;
}
