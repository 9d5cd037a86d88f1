//! State on a clock that the test steps: what is served, what is stored, and what follows from a
//! change.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockbay::config::Config;
use lockbay::lease::{Acquired, parse_token};
use lockbay::metrics::Metric;
use lockbay::state::{
    Found, IfVersion, Invalidation, LoadOptions, MAX_VALUE_BYTES, Rule, ServeStale, SetOptions,
    State, parse_version,
};
use lockbay::store::faulty::{Cut, Faults};
use lockbay::store::{Commit, Deadline, Fence, Key, Kind, Partition, Range, Store, Write};
use lockbay::{Error, ErrorKind, Json};
use support::stepped::{Instance, World};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

fn tagged(tags: &[&str]) -> SetOptions {
    SetOptions { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..SetOptions::default() }
}

fn living(ttl: Duration) -> SetOptions {
    SetOptions { ttl: Some(ttl), ..SetOptions::default() }
}

async fn set(state: &State, key: &str, value: &str) {
    state.set(key, json(value), SetOptions::default()).await.unwrap();
}

async fn seen(state: &State, key: &str) -> Option<String> {
    state.get(key).await.unwrap().map(|found| found.value.text().to_owned())
}

fn keys(keys: &[&str]) -> Invalidation {
    Invalidation {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..Invalidation::default()
    }
}

fn tag(tag: &str) -> Invalidation {
    Invalidation { tags: vec![tag.into()], ..Invalidation::default() }
}

fn pattern(glob: &str) -> Invalidation {
    Invalidation { pattern: Some(glob.into()), ..Invalidation::default() }
}

fn updated(key: &str) -> Invalidation {
    Invalidation { updated_key: Some(key.into()), ..Invalidation::default() }
}

/// A database with one number, and loaders that look and then wait to be let on.
#[derive(Clone)]
struct Database {
    number: Arc<AtomicU64>,
    loads: Arc<AtomicU64>,
    gate: Arc<Semaphore>,
}

impl Database {
    fn new() -> Self {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Database { number: Arc::default(), loads: Arc::default(), gate }
    }

    /// Loaders wait from now on.
    fn closed() -> Self {
        Database { gate: Arc::new(Semaphore::new(0)), ..Database::new() }
    }

    fn open(&self) {
        self.gate.add_permits(1_000);
    }

    fn write(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
    }

    fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }

    async fn read(self) -> lockbay::Result<Json> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let number = self.number.load(Ordering::SeqCst);
        let _turn = self.gate.acquire().await.unwrap();
        Json::from_value(&number)
    }

    async fn get(&self, state: &State, key: &str, tags: &[&str]) -> lockbay::Result<Found> {
        let options = LoadOptions {
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..LoadOptions::default()
        };
        self.get_with(state, key, options).await
    }

    async fn get_with(
        &self,
        state: &State,
        key: &str,
        options: LoadOptions,
    ) -> lockbay::Result<Found> {
        let database = self.clone();
        state.get_or_load(key, options, move || database.clone().read()).await
    }
}

fn watched(instance: &Instance) -> CancellationToken {
    let stop = CancellationToken::new();
    tokio::spawn(instance.bay.state().clone().watch_over(stop.clone()));
    stop
}

async fn right(instance: &Instance) -> Fence {
    let lease = instance.bay.leases().acquire("sweep", "s", SECOND * 3_600).await.unwrap();
    let Acquired::Granted(lease) = lease else { panic!("{lease:?}") };
    let key = Key::new(Partition::FIRST, Kind::new("lease"), "sweep");
    Fence { key, token: parse_token(&lease.fencing_token).unwrap() }
}

async fn records(store: &dyn Store, kind: &'static str) -> usize {
    let range = Range::new(Partition::FIRST, Kind::new(kind), "");
    store.scan(&range, 1_000).await.unwrap().records.len()
}

#[tokio::test]
async fn a_value_comes_back_to_the_last_digit_with_its_version_tags_source_and_times() {
    let world = World::new(1);
    let a = world.instance();
    let options = SetOptions {
        ttl: Some(SECOND * 60),
        tags: vec!["b".into(), "a".into(), "b".into()],
        source: Some("rates".into()),
        ..SetOptions::default()
    };
    let text = r#"{"rate":1.08370000000000000001,"n":9007199254740993}"#;
    let written = a.bay.state().set("rate:EUR/USD é", json(text), options).await.unwrap();
    let found = a.bay.state().get("rate:EUR/USD é").await.unwrap().unwrap();
    assert_eq!((found.value.text(), found.stale), (text, false));
    assert_eq!(
        (&found.version, &found.tags),
        (&written.version, &vec!["a".into(), "b".to_owned()])
    );
    assert_eq!(found.source.as_deref(), Some("rates"));
    assert_eq!(found.updated_at, world.clock.now());
    assert_eq!(found.expires_at, Some(world.clock.now() + SECOND * 60));
    assert_eq!(written.expires_at, found.expires_at);
    assert_eq!(seen(a.bay.state(), "other").await, None);
}

#[tokio::test]
async fn a_value_is_gone_when_its_time_is_over_also_where_it_is_at_hand() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    a.bay.state().set("k", json("1"), living(Duration::from_millis(500))).await.unwrap();
    world.clock.advance(Duration::from_millis(300));
    for instance in [&a, &b] {
        assert_eq!(seen(instance.bay.state(), "k").await.as_deref(), Some("1"));
    }
    // Well within the time for which a read is trusted.
    world.clock.advance(Duration::from_millis(200));
    for instance in [&a, &b] {
        assert_eq!(seen(instance.bay.state(), "k").await, None);
    }
}

#[tokio::test]
async fn a_write_during_an_invalidation_never_survives_it() {
    let ways = [
        keys(&["user:1:profile"]),
        tag("profiles"),
        pattern("user:*:profile"),
        updated("user:1"),
        keys(&["source"]),
        pattern("sour[c]e"),
    ];
    for (at, way) in ways.into_iter().enumerate() {
        for elsewhere in [false, true] {
            let world = World::new(1);
            let (a, b) = (world.instance(), world.instance());
            let other = if elsewhere { b.bay.state() } else { a.bay.state() };
            other.set_depends_on("user:1:profile", &["source".into()]).await.unwrap();
            let database = Database::closed();
            let load = tokio::spawn({
                let (database, state) = (database.clone(), a.bay.state().clone());
                async move { database.get(&state, "user:1:profile", &["profiles"]).await }
            });
            world.settle().await;
            assert_eq!(database.loads(), 1);
            database.write();
            other.invalidate(&way).await.unwrap();
            assert_eq!(seen(other, "user:1:profile").await, None, "way {at}");
            database.open();
            let found = load.await.unwrap().unwrap();
            assert_eq!(found.value.text(), "1", "way {at}: loaded again");
            assert_eq!(database.loads(), 2, "way {at}");
            for state in [a.bay.state(), b.bay.state()] {
                assert_eq!(seen(state, "user:1:profile").await.as_deref(), Some("1"), "way {at}");
            }
        }
    }
}

#[tokio::test]
async fn a_set_during_a_load_stays_and_is_what_the_load_brings() {
    let world = World::new(1);
    let a = world.instance();
    let database = Database::closed();
    let load = tokio::spawn({
        let (database, state) = (database.clone(), a.bay.state().clone());
        async move { database.get(&state, "k", &[]).await }
    });
    world.settle().await;
    let absent = SetOptions { if_version: IfVersion::Absent, ..SetOptions::default() };
    a.bay.state().set("k", json("77"), absent).await.unwrap();
    database.open();
    assert_eq!(load.await.unwrap().unwrap().value.text(), "77");
    assert_eq!(seen(a.bay.state(), "k").await.as_deref(), Some("77"));
}

#[tokio::test]
async fn a_caller_that_comes_after_an_invalidation_joins_no_load_from_before() {
    let world = World::new(1);
    let a = world.instance();
    let old = Database::closed();
    let load = tokio::spawn({
        let (old, state) = (old.clone(), a.bay.state().clone());
        async move { old.get(&state, "k", &["t"]).await }
    });
    world.settle().await;
    for way in [keys(&["k"]), tag("t"), pattern("k*")] {
        a.bay.state().invalidate(&way).await.unwrap();
        let new = Database::new();
        new.number.store(9, Ordering::SeqCst);
        let found = new.get(a.bay.state(), "k", &["t"]).await.unwrap();
        assert_eq!((found.value.text(), new.loads()), ("9", 1), "{way:?}");
    }
    old.open();
    assert_eq!(load.await.unwrap().unwrap().value.text(), "9");
}

#[tokio::test]
async fn a_caller_does_not_take_what_a_load_saw_more_than_a_second_before_it_called() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    a.store.deafen();
    set(b.bay.state(), "k", "1").await;
    let ask = || {
        let state = a.bay.state().clone();
        tokio::spawn(async move { Database::new().get(&state, "k", &[]).await })
    };
    // The answer of the store is on its way for three seconds.
    a.store.set_reply_delay(SECOND * 3);
    let first = ask();
    world.settle().await;
    a.store.set_reply_delay(Duration::ZERO);
    set(b.bay.state(), "k", "2").await;
    world.pass_by(SECOND, SECOND * 2).await;
    let second = ask();
    world.pass_by(SECOND, SECOND * 2).await;
    assert_eq!(first.await.unwrap().unwrap().value.text(), "1", "it called before the change");
    assert_eq!(second.await.unwrap().unwrap().value.text(), "2");
    assert_eq!(a.bay.metrics().value(Metric::StateLoadsShared), 1);
}

#[tokio::test]
async fn a_thousand_callers_on_three_instances_are_one_load() {
    let world = World::new(1);
    let instances = [world.instance(), world.instance(), world.instance()];
    let stops: Vec<_> = instances.iter().map(watched).collect();
    world.settle().await;
    let database = Database::closed();
    let callers: Vec<_> = (0..1_000)
        .map(|n| {
            let (database, state) = (database.clone(), instances[n % 3].bay.state().clone());
            tokio::spawn(async move { database.get(&state, "k", &["t"]).await })
        })
        .collect();
    world.settle().await;
    database.open();
    world.settle().await;
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().value.text(), "0");
    }
    assert_eq!(database.loads(), 1);
    let shared: i64 =
        instances.iter().map(|i| i.bay.metrics().value(Metric::StateLoadsShared)).sum();
    assert_eq!(shared, 997);
    stops.iter().for_each(CancellationToken::cancel);
}

#[tokio::test]
async fn a_loader_that_fails_or_panics_is_told_to_all_who_wait_and_the_next_call_loads_anew() {
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state();
    for panics in [false, true] {
        let failing = move || async move {
            tokio::task::yield_now().await;
            assert!(!panics, "on purpose");
            Err(Error::new(ErrorKind::Refused, "the database says no"))
        };
        let callers = (0..10).map(|_| state.get_or_load("k", LoadOptions::default(), failing));
        for outcome in futures_util::future::join_all(callers).await {
            let kind = if panics { ErrorKind::Internal } else { ErrorKind::Refused };
            assert_eq!(outcome.unwrap_err().kind(), kind);
        }
        assert_eq!(records(&*a.store, "state").await, 0, "the lease was given up");
        let found = Database::new().get(state, "k", &[]).await.unwrap();
        assert_eq!(found.value.text(), "0");
        assert!(state.delete("k").await.unwrap());
    }
    assert_eq!(a.bay.metrics().value(Metric::StateLoads), 4);
}

#[tokio::test]
async fn when_the_one_who_loads_dies_another_loads_after_its_time_and_the_dead_ones_value_is_refused()
 {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let (first, second) = (Database::closed(), Database::new());
    second.write();
    let options = LoadOptions { load_timeout: SECOND * 5, ..LoadOptions::default() };
    let load = tokio::spawn({
        let (first, state, options) = (first.clone(), a.bay.state().clone(), options.clone());
        async move { first.get_with(&state, "k", options).await }
    });
    world.settle().await;
    a.store.die();
    let taken = tokio::spawn({
        let (second, state, options) = (second.clone(), b.bay.state().clone(), options.clone());
        async move { second.get_with(&state, "k", options).await }
    });
    world.pass_by(Duration::from_millis(100), Duration::from_millis(4_900)).await;
    assert!(!taken.is_finished());
    world.pass_by(Duration::from_millis(100), Duration::from_millis(200)).await;
    assert_eq!(taken.await.unwrap().unwrap().value.text(), "1");
    a.store.revive();
    first.open();
    // Its loader took too long.
    assert_eq!(load.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(seen(b.bay.state(), "k").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn when_the_store_is_away_nothing_older_than_a_second_is_served_unless_that_is_wanted() {
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state();
    set(state, "k", "1").await;
    state.set("lapsing", json("2"), living(SECOND * 2)).await.unwrap();
    for key in ["k", "lapsing"] {
        state.get(key).await.unwrap().unwrap();
    }
    a.store.die();
    world.clock.advance(Duration::from_millis(899));
    assert!(!state.get("k").await.unwrap().unwrap().stale);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(state.get("k").await.unwrap_err().kind(), ErrorKind::Unavailable);
    world.clock.advance(SECOND * 2);
    let minute = ServeStale::UpTo(SECOND * 60);
    for (key, value) in [("k", "1"), ("lapsing", "2")] {
        let found = state.get_with(key, minute).await.unwrap().unwrap();
        assert_eq!((found.value.text(), found.stale), (value, true));
    }
    let too_old = state.get_with("k", ServeStale::UpTo(SECOND * 2)).await.unwrap_err();
    assert_eq!(too_old.kind(), ErrorKind::Unavailable);
    assert_eq!(a.bay.metrics().value(Metric::StateStaleServed), 2);
    // A loader that fails is an outage, too.
    a.store.revive();
    let options = LoadOptions { stale: minute, ..LoadOptions::default() };
    let failing = || async { Err(Error::new(ErrorKind::Unavailable, "no database")) };
    let found = state.get_or_load("lapsing", options.clone(), failing).await.unwrap();
    assert_eq!((found.value.text(), found.stale), ("2", true));
    // What is known to be invalidated is never served.
    state.invalidate(&keys(&["lapsing"])).await.unwrap();
    assert!(state.get_or_load("lapsing", options, failing).await.is_err());
}

#[tokio::test]
async fn what_a_loader_says_is_given_even_if_the_store_goes_away_meanwhile() {
    let world = World::new(1);
    let a = world.instance();
    let database = Database::closed();
    let load = tokio::spawn({
        let (database, state) = (database.clone(), a.bay.state().clone());
        async move { database.get(&state, "k", &[]).await }
    });
    world.settle().await;
    a.store.die();
    database.open();
    let found = load.await.unwrap().unwrap();
    assert_eq!((found.value.text(), found.version.as_str()), ("0", "0"));
}

#[tokio::test]
async fn another_instance_sees_a_change_at_once_by_a_hint_and_within_a_second_without() {
    for hears in [true, false] {
        let world = World::new(1);
        let (a, b) = (world.instance(), world.instance());
        if !hears {
            b.store.deafen();
        }
        let stop = watched(&b);
        a.bay.state().set("k", json("1"), tagged(&["t"])).await.unwrap();
        for way in [keys(&["k"]), tag("t"), pattern("*")] {
            a.bay.state().set("k", json("1"), tagged(&["t"])).await.unwrap();
            world.pass(SECOND).await;
            assert_eq!(seen(b.bay.state(), "k").await.as_deref(), Some("1"));
            a.bay.state().invalidate(&way).await.unwrap();
            assert_eq!(seen(a.bay.state(), "k").await, None, "{way:?}");
            world.settle().await;
            let at_once = seen(b.bay.state(), "k").await;
            assert_eq!(at_once.is_none(), hears, "{way:?}");
            world.clock.advance(SECOND);
            assert_eq!(seen(b.bay.state(), "k").await, None, "{way:?}");
        }
        stop.cancel();
    }
}

#[tokio::test]
async fn what_is_at_hand_is_verified_once_hints_are_heard_again() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    set(b.bay.state(), "k", "1").await;
    assert_eq!(seen(a.bay.state(), "k").await.as_deref(), Some("1"));
    // The hint of this is missed.
    set(b.bay.state(), "k", "2").await;
    assert_eq!(seen(a.bay.state(), "k").await.as_deref(), Some("1"), "within a second it may");
    let stop = watched(&a);
    world.settle().await;
    assert_eq!(seen(a.bay.state(), "k").await.as_deref(), Some("2"));
    stop.cancel();
}

#[tokio::test]
async fn a_key_that_is_used_stays_at_hand_and_one_that_is_not_costs_nothing() {
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state();
    let stop = watched(&a);
    world.settle().await;
    for n in 0..100 {
        state.set(&format!("k{n}"), json("1"), tagged(&["t"])).await.unwrap();
    }
    world.settle().await;
    for n in 0..100 {
        seen(state, &format!("k{n}")).await.unwrap();
    }
    let (misses, calls) = (a.bay.metrics().value(Metric::StateMisses), a.store.calls());
    for _ in 0..50 {
        for n in 0..100 {
            seen(state, &format!("k{n}")).await.unwrap();
        }
        world.pass_by(Duration::from_millis(10), Duration::from_millis(100)).await;
    }
    assert_eq!(a.bay.metrics().value(Metric::StateMisses), misses, "no caller waited");
    let verified = a.store.calls() - calls;
    assert!((10..=13).contains(&verified), "100 keys for 5 s by {verified} reads");
    let calls = a.store.calls();
    world.pass(SECOND * 5).await;
    assert!(a.store.calls() - calls <= 1, "nobody reads them any more");
    stop.cancel();
}

#[tokio::test]
async fn a_verification_that_was_under_way_brings_nothing_back() {
    let world = World::new(1);
    let a = world.instance();
    let stop = watched(&a);
    world.settle().await;
    let state = a.bay.state();
    set(state, "k", "1").await;
    for _ in 0..3 {
        seen(state, "k").await.unwrap();
        world.settle().await;
    }
    // The verification reads, and its answer is on its way while the key is deleted.
    a.store.set_reply_delay(Duration::from_millis(50));
    world.pass_by(Duration::from_millis(10), Duration::from_millis(410)).await;
    a.store.set_reply_delay(Duration::ZERO);
    assert!(state.delete("k").await.unwrap());
    assert_eq!(seen(state, "k").await, None);
    world.pass_by(Duration::from_millis(5), Duration::from_millis(60)).await;
    assert_eq!(seen(state, "k").await, None);
    stop.cancel();
}

#[tokio::test]
async fn a_read_that_was_under_way_when_its_key_was_set_is_not_served_afterwards() {
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state().clone();
    set(&state, "k", "1").await;
    a.store.set_reply_delay(Duration::from_millis(50));
    let slow = tokio::spawn({
        let state = state.clone();
        async move { seen(&state, "k").await }
    });
    world.settle().await;
    a.store.set_reply_delay(Duration::ZERO);
    set(&state, "k", "2").await;
    world.pass(Duration::from_millis(60)).await;
    assert_eq!(slow.await.unwrap().as_deref(), Some("1"), "it began before");
    assert_eq!(seen(&state, "k").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_version_is_set_by_one_and_refused_to_all_others_with_the_one_that_is_there() {
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state();
    let with = |if_version| SetOptions { if_version, ..SetOptions::default() };
    let first = state.set("k", json("1"), with(IfVersion::Absent)).await.unwrap();
    let version = parse_version(&first.version).unwrap();
    let sets = (0..20).map(|n| state.set("k", json(&n.to_string()), with(version)));
    let outcomes = futures_util::future::join_all(sets).await;
    let won: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    assert_eq!(won.len(), 1);
    for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!(refused.kind(), ErrorKind::Fenced);
        assert!(refused.message().ends_with(&won[0].version), "{refused}");
    }
    assert_eq!(a.bay.metrics().value(Metric::StateConflicts), 19);
    assert!(state.set("k", json("1"), with(IfVersion::Absent)).await.is_err());
    assert!(parse_version("x").is_err() && parse_version("-1").is_err());
    assert_eq!(parse_version("0").unwrap(), IfVersion::Absent);
}

#[tokio::test]
async fn a_value_that_lapsed_or_whose_tag_was_invalidated_counts_as_absent() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let state = a.bay.state();
    let with = |if_version| SetOptions { if_version, tags: vec!["t".into()], ..living(SECOND) };
    let first = state.set("k", json("1"), with(IfVersion::Absent)).await.unwrap();
    world.clock.advance(SECOND);
    let first = parse_version(&first.version).unwrap();
    assert!(state.set("k", json("1"), with(first)).await.is_err(), "it lapsed");
    let second = state.set("k", json("2"), with(IfVersion::Absent)).await.unwrap();
    state.get("k").await.unwrap().unwrap();
    b.bay.state().invalidate(&tag("t")).await.unwrap();
    let second = parse_version(&second.version).unwrap();
    let refused = state.set("k", json("3"), with(second)).await.unwrap_err();
    assert!(refused.message().ends_with("version is 0"), "{refused}");
    assert!(!state.delete("k").await.unwrap(), "there is no value to delete");
    state.set("k", json("4"), with(IfVersion::Absent)).await.unwrap();
    // Of a version that is not at hand the tags are read first.
    let third = state.set("k", json("5"), with(IfVersion::Any)).await.unwrap();
    let third = parse_version(&third.version).unwrap();
    b.bay.state().set("k", json("6"), with(third)).await.unwrap();
}

#[tokio::test]
async fn of_many_who_delete_a_value_one_is_told_that_it_was_there() {
    let world = World::new(1);
    let a = world.instance();
    set(a.bay.state(), "k", "1").await;
    let deletes = (0..10).map(|_| a.bay.state().delete("k"));
    let outcomes = futures_util::future::join_all(deletes).await;
    assert_eq!(outcomes.into_iter().filter(|outcome| *outcome.as_ref().unwrap()).count(), 1);
}

#[tokio::test]
async fn setting_a_key_invalidates_what_rules_and_dependencies_say() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let (state, other) = (a.bay.state(), b.bay.state());
    state.set_depends_on("report", &["user_cache:7".into(), "rate:EUR".into()]).await.unwrap();
    state.set_depends_on("summary", &["report".into()]).await.unwrap();
    let follow = ["user:7:profile", "user_cache:7", "user_cache:7:x", "report", "summary"];
    let stay = ["user:77:profile", "user_cache:77", "rate:EUR"];
    for way in ["set", "delete", "updated"] {
        for key in follow.iter().chain(&stay) {
            set(other, key, "1").await;
            // Setting what others depend on invalidates those.
        }
        for key in ["report", "summary"] {
            set(other, key, "1").await;
        }
        for key in follow {
            assert!(seen(other, key).await.is_some() && seen(state, key).await.is_some(), "{key}");
        }
        match way {
            "set" => set(state, "user:7", "2").await,
            "delete" => drop(state.delete("user:7").await.unwrap()),
            _ => {
                let done = state.invalidate(&updated("user:7")).await.unwrap();
                assert_eq!((done.keys, done.patterns, done.invalidated), (5, 2, 5));
            }
        }
        for key in follow {
            assert_eq!(seen(state, key).await, None, "{way} {key}");
        }
        for key in stay {
            assert!(seen(state, key).await.is_some(), "{way} {key}");
        }
        world.clock.advance(SECOND);
    }
    assert_eq!(records(&*a.store, "state-intent").await, 0);
}

#[tokio::test]
async fn a_rule_that_is_put_anywhere_is_followed_by_the_next_write_everywhere() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let rule = |invalidate: &str| Rule {
        name: "orders".into(),
        update_pattern: "order:{id}".into(),
        invalidate_patterns: vec![invalidate.into()],
    };
    set(b.bay.state(), "order:1", "1").await;
    for (round, pattern) in ["list:*", "list:{id}", "lists"].into_iter().enumerate() {
        set(b.bay.state(), "list:1", "1").await;
        a.bay.state().put_rule(rule(pattern)).await.unwrap();
        set(b.bay.state(), "order:1", "2").await;
        assert_eq!(seen(b.bay.state(), "list:1").await.is_none(), round < 2, "{pattern}");
    }
    assert_eq!(b.bay.state().rule("orders").await.unwrap(), Some(rule("lists")));
    a.bay.state().set_depends_on("sum", &["order:1".into()]).await.unwrap();
    set(b.bay.state(), "sum", "1").await;
    set(b.bay.state(), "order:1", "2").await;
    assert_eq!(seen(b.bay.state(), "sum").await, None);
    assert!(a.bay.state().forget_depends_on("sum").await.unwrap());
    assert_eq!(b.bay.state().depends_on("sum").await.unwrap(), None);
}

#[tokio::test]
async fn a_built_in_rule_that_was_deleted_stays_deleted_until_it_is_put_again() {
    let world = World::new(1);
    let a = world.instance();
    let names = async |instance: &Instance| {
        let rules = instance.bay.state().rules().await.unwrap();
        rules.into_iter().map(|rule| rule.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&a).await, ["balance", "job", "rate", "user"]);
    let job = a.bay.state().rule("job").await.unwrap().unwrap();
    assert!(a.bay.state().delete_rule("job").await.unwrap());
    assert!(!a.bay.state().delete_rule("job").await.unwrap());
    let b = world.instance();
    assert_eq!(names(&b).await, ["balance", "rate", "user"]);
    set(b.bay.state(), "job_list:all", "1").await;
    set(b.bay.state(), "job:1", "1").await;
    assert!(seen(b.bay.state(), "job_list:all").await.is_some());
    b.bay.state().put_rule(job).await.unwrap();
    assert_eq!(names(&a).await, ["balance", "job", "rate", "user"]);
}

#[tokio::test]
async fn an_invalidation_whose_caller_died_is_finished_by_another() {
    for way in ["pattern", "rule"] {
        let world = World::new(1);
        let (a, b) = (world.instance(), world.instance());
        for n in 0..300 {
            set(a.bay.state(), &format!("user:1:{n}"), "1").await;
        }
        // It dies after the intent is committed, before anything of it is applied.
        a.store.die_at(1, Cut::After);
        let outcome = match way {
            "pattern" => a.bay.state().invalidate(&pattern("user:1:*")).await.map(drop),
            _ => a.bay.state().set("user:1", json("2"), SetOptions::default()).await.map(drop),
        };
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unknown, "it was begun");
        world.clock.advance(SECOND);
        assert_eq!(b.bay.state().finish_intents().await.unwrap(), 0, "it may be at work still");
        world.clock.advance(SECOND * 5);
        set(b.bay.state(), "user:1:new", "2").await;
        assert!(b.bay.state().finish_intents().await.unwrap() >= 1);
        for n in 0..300 {
            assert_eq!(seen(b.bay.state(), &format!("user:1:{n}")).await, None);
        }
        assert_eq!(seen(b.bay.state(), "user:1:new").await.as_deref(), Some("2"), "set afterwards");
        assert_eq!(records(&*b.store, "state-intent").await, 0);
    }
}

#[tokio::test]
async fn a_started_instance_that_leads_finishes_what_others_began() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance_with(Config::default()));
    b.bay.start();
    set(a.bay.state(), "k:1", "1").await;
    a.store.die_at(1, Cut::After);
    a.bay.state().invalidate(&pattern("k:*")).await.unwrap_err();
    assert_eq!(records(&*b.store, "state-intent").await, 1);
    world.pass_by(Duration::from_millis(50), SECOND * 12).await;
    assert_eq!(records(&*b.store, "state-intent").await, 0);
    assert_eq!(seen(b.bay.state(), "k:1").await, None);
}

#[tokio::test]
async fn nothing_stale_comes_back_when_the_record_of_a_tag_goes() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let fence = right(&a).await;
    let (state, other) = (a.bay.state(), b.bay.state());
    for n in 0..250 {
        other.set(&format!("k{n:03}"), json("1"), tagged(&["t"])).await.unwrap();
    }
    // A load from before the invalidation, and a value that has lapsed.
    let database = Database::closed();
    let load = tokio::spawn({
        let (database, state) = (database.clone(), other.clone());
        async move { database.get(&state, "loading", &["t"]).await }
    });
    other
        .set("lapsed", json("1"), SetOptions { ttl: Some(SECOND), ..tagged(&["t"]) })
        .await
        .unwrap();
    world.settle().await;
    world.clock.advance(SECOND);
    database.write();
    // Where no tag was invalidated there is nothing to look for.
    assert_eq!(state.sweep_stale(&fence, 1).await.unwrap().scanned, 0);
    state.invalidate(&tag("another")).await.unwrap();
    // A pass that began before the invalidation does not count.
    let swept = state.sweep_stale(&fence, 1).await.unwrap();
    assert_eq!((swept.scanned, swept.removed.len(), swept.finished), (100, 0, false));
    state.invalidate(&tag("t")).await.unwrap();
    other.set("k007", json("2"), tagged(&["t"])).await.unwrap();
    let swept = state.sweep_stale(&fence, 1_000).await.unwrap();
    assert!(swept.finished && swept.removed.len() < 250);
    assert_eq!(records(&*a.store, "state-tag").await, 1);
    let swept = state.sweep_stale(&fence, 1_000).await.unwrap();
    assert!(swept.finished);
    assert_eq!((records(&*a.store, "state-tag").await, records(&*a.store, "state").await), (0, 1));
    database.open();
    assert_eq!(
        load.await.unwrap().unwrap().value.text(),
        "1",
        "what was loaded from before is gone"
    );
    for n in 0..250 {
        let value = seen(other, &format!("k{n:03}")).await;
        assert_eq!(value.as_deref(), (n == 7).then_some("2"), "{n}");
    }
    a.bay.leases().release("sweep", fence.token).await.unwrap();
    state.invalidate(&tag("t")).await.unwrap();
    let error = state.sweep_stale(&fence, 1_000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(records(&*a.store, "state").await, 2, "nothing was removed without the right");
}

#[tokio::test]
async fn a_load_under_a_tag_whose_record_goes_meanwhile_is_made_again_at_once() {
    let world = World::new(1);
    let a = world.instance();
    let fence = right(&a).await;
    let state = a.bay.state();
    state.invalidate(&tag("t")).await.unwrap();
    let database = Database::closed();
    let load = tokio::spawn({
        let (database, state) = (database.clone(), state.clone());
        async move { database.get(&state, "k", &["t"]).await }
    });
    world.settle().await;
    for _ in 0..3 {
        state.sweep_stale(&fence, 1_000).await.unwrap();
    }
    assert_eq!(records(&*a.store, "state-tag").await, 0);
    database.open();
    world.settle().await;
    assert!(load.is_finished(), "it waits for no lease of its own");
    assert_eq!((load.await.unwrap().unwrap().value.text(), database.loads()), ("0", 2));
    assert_eq!(seen(state, "k").await.as_deref(), Some("0"));
}

#[tokio::test]
async fn bad_keys_values_tags_times_and_patterns_are_refused_before_anything_is_written() {
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state();
    let (long, many) = ("k".repeat(513), vec!["t".to_owned(); 2]);
    let large = json(&format!("{:?}", "x".repeat(10 * MAX_VALUE_BYTES)));
    let with = |options: SetOptions| state.set("k", json("1"), options);
    let tags: Vec<String> = (0..33).map(|n| n.to_string()).collect();
    for error in [
        state.set("", json("1"), SetOptions::default()).await.unwrap_err(),
        state.set(&long, json("1"), SetOptions::default()).await.unwrap_err(),
        state.set("a\nb", json("1"), SetOptions::default()).await.unwrap_err(),
        state.set("k", large.clone(), SetOptions::default()).await.unwrap_err(),
        with(living(Duration::ZERO)).await.unwrap_err(),
        with(living(SECOND * 3_651 * 86_400)).await.unwrap_err(),
        with(SetOptions { tags, ..SetOptions::default() }).await.unwrap_err(),
        with(tagged(&[""])).await.unwrap_err(),
        with(tagged(&[&"t".repeat(129)])).await.unwrap_err(),
        state.get("").await.unwrap_err(),
        state.invalidate(&Invalidation::default()).await.unwrap_err(),
        state.invalidate(&pattern("a[")).await.unwrap_err(),
        state.invalidate(&pattern("user:{id}")).await.unwrap_err(),
        state.invalidate(&keys(&vec!["k"; 1_001])).await.unwrap_err(),
        state.set_depends_on("k", &[]).await.unwrap_err(),
        state.set_depends_on("k", &["k".into()]).await.unwrap_err(),
        state
            .get_or_load(
                "k",
                LoadOptions { load_timeout: Duration::ZERO, ..LoadOptions::default() },
                || async { Ok(Json::null()) },
            )
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().len() < 400, "{}", error.message().len());
    }
    assert_eq!(world.memory.snapshot().records().count(), 0);
    state.set("k", json("1"), SetOptions { tags: many, ..SetOptions::default() }).await.unwrap();
    // What a loader brings is held to the same limits, and leaves no lease behind.
    let too_large = move || {
        let large = large.clone();
        async move { Ok(large) }
    };
    let error = state.get_or_load("big", LoadOptions::default(), too_large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(records(&*a.store, "state").await, 1);
}

#[tokio::test]
async fn a_catastrophic_pattern_over_long_keys_is_applied_in_no_time() {
    let world = World::new(1);
    let a = world.instance();
    for n in 0..100 {
        set(a.bay.state(), &format!("{}{n}", "a".repeat(500)), "1").await;
    }
    let evil = format!("{}b", "*a".repeat(200));
    let began = lockbay::clock::Clock::system();
    let tick = began.tick();
    a.bay.state().invalidate(&pattern(&evil)).await.unwrap();
    assert!(began.tick().since(tick) < SECOND * 10);
    assert_eq!(records(&*a.store, "state").await, 100);
}

#[tokio::test]
async fn keys_are_listed_in_order_without_those_that_cannot_be_seen() {
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state();
    for n in 0..250 {
        state
            .set(&format!("k:{n:03}"), json("[1,2]"), tagged(&[["odd", "even"][(n + 1) % 2]]))
            .await
            .unwrap();
    }
    state.set("k:short", json("1"), living(SECOND)).await.unwrap();
    set(state, "other", "1").await;
    state.invalidate(&tag("odd")).await.unwrap();
    world.clock.advance(SECOND);
    let (mut after, mut found) = (None, Vec::new());
    loop {
        let (items, next) = state.list("k:", after, 70).await.unwrap();
        assert!(items.len() <= 70);
        found.extend(items);
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 125);
    assert!(found.windows(2).all(|pair| pair[0].key < pair[1].key));
    assert!(found.iter().all(|item| item.bytes == 5 && item.tags == ["even"]));
}

#[tokio::test]
async fn lost_replies_set_a_value_once_and_a_dead_store_is_told() {
    let world = World::new(3);
    let a = world.instance();
    let state = a.bay.state();
    a.store.set(Faults { reply_lost: 300, ..Faults::default() });
    let mut version = IfVersion::Absent;
    let mut done = 0;
    for n in 0..50 {
        let options = SetOptions { if_version: version, ..SetOptions::default() };
        match state.set("k", json(&n.to_string()), options).await {
            Ok(written) => {
                version = parse_version(&written.version).unwrap();
                done += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
                let found = state.get("k").await.unwrap();
                version =
                    found.map_or(IfVersion::Absent, |found| parse_version(&found.version).unwrap());
            }
        }
    }
    assert!(done > 40, "{done}");
    a.store.set(Faults { refused: 1_000, ..Faults::default() });
    let error = state.set("k", json("1"), SetOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// Sets so many values of one tag by bare commits, many at once, for speed.
async fn fill(instance: &Instance, count: usize) {
    let body = br#"{"value":{"json":1,"tags":["crowd"]}}"#;
    for batch in (0..count).collect::<Vec<_>>().chunks(5_000) {
        let put = |n: &usize| Write::Put {
            key: Key::new(Partition::FIRST, Kind::new("state"), format!("member:{n:07}")),
            value: body.to_vec(),
            deadline: Deadline::Never,
        };
        let writes = batch.iter().map(put).collect();
        let commit = Commit::new(Partition::FIRST, vec![], writes, vec![]).unwrap();
        instance.store.commit(&commit).await.unwrap();
    }
}

#[tokio::test]
async fn a_tag_of_a_million_values_is_invalidated_in_one_round_trip_and_one_record() {
    let count = 1_000_000;
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state();
    fill(&a, count).await;
    state.set("member:x", json("1"), tagged(&["crowd"])).await.unwrap();
    for n in [0, count / 2, count - 1] {
        assert!(seen(state, &format!("member:{n:07}")).await.is_some(), "{n}");
    }
    for _ in 0..3 {
        let calls = a.store.calls();
        let done = state.invalidate(&tag("crowd")).await.unwrap();
        assert_eq!((a.store.calls() - calls, done.invalidated), (1, 1));
        assert_eq!(records(&*a.store, "state-tag").await, 1);
    }
    for n in [0, 1, count / 2, count - 1] {
        assert_eq!(seen(state, &format!("member:{n:07}")).await, None, "{n}");
    }
    state.set("member:x", json("2"), tagged(&["crowd"])).await.unwrap();
    assert_eq!(seen(state, "member:x").await.as_deref(), Some("2"));
}
