//! What once went wrong with state: each test is a row of `docs/reliability.md`.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::time::Duration;

use lockbay::lease::{Acquired, parse_token};
use lockbay::state::{Invalidation, LoadOptions, Rule, ServeStale, SetOptions, State};
use lockbay::store::faulty::Cut;
use lockbay::store::{Commit, Deadline, Fence, Key, Kind, Partition, Range, Store, Write};
use lockbay::{ErrorKind, Json};
use support::stepped::World;

const SECOND: Duration = Duration::from_secs(1);

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

async fn set(state: &State, key: &str, value: &str) {
    state.set(key, json(value), SetOptions::default()).await.unwrap();
}

async fn seen(state: &State, key: &str) -> Option<String> {
    state.get(key).await.unwrap().map(|found| found.value.text().to_owned())
}

fn pattern(glob: &str) -> Invalidation {
    Invalidation { pattern: Some(glob.into()), ..Invalidation::default() }
}

fn tag(tag: &str) -> Invalidation {
    Invalidation { tags: vec![tag.into()], ..Invalidation::default() }
}

/// Removes the value of a key and loads it again from what the store says of its source.
async fn make_again(state: &State, key: &str, source: &'static str) {
    state.delete(key).await.unwrap();
    let loader = state.clone();
    let load = move || {
        let state = loader.clone();
        async move {
            let source = state.get_latest(source).await?;
            Ok(source.map_or(json("\"new\""), |found| found.value.clone()))
        }
    };
    state.get_or_load(key, LoadOptions::default(), load).await.unwrap();
}

/// Puts a record of state that nobody can read.
async fn put_unreadable(store: &dyn Store, key: &str) {
    let key = Key::new(Partition::FIRST, Kind::new("state"), key);
    let value = br#"{"later":{}}"#.to_vec();
    let put = Write::Put { key, value, deadline: Deadline::Never };
    let commit = Commit::new(Partition::FIRST, vec![], vec![put], vec![]).unwrap();
    store.commit(&commit).await.unwrap();
}

#[tokio::test]
async fn a_caller_after_an_invalidation_does_not_take_a_stored_value_with_tags_that_its_load_has_not()
 {
    let world = World::new(1);
    let a = world.instance();
    a.store.deafen();
    let state = a.bay.state();
    let options = SetOptions { tags: vec!["t".into()], ..SetOptions::default() };
    state.set("k", json("1"), options).await.unwrap();
    assert_eq!(seen(state, "k").await.as_deref(), Some("1"));
    world.clock.advance(SECOND);
    let ask = || {
        let state = state.clone();
        tokio::spawn(async move {
            let load = || async { Json::parse("2") };
            state.get_or_load("k", LoadOptions::default(), load).await
        })
    };
    a.store.set_reply_delay(SECOND / 2);
    let first = ask();
    world.settle().await;
    a.store.set_reply_delay(Duration::ZERO);
    state.invalidate(&tag("t")).await.unwrap();
    let second = ask();
    world.pass(SECOND).await;
    first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap().unwrap().value.text(), "2");
}

#[tokio::test]
async fn one_who_finishes_an_invalidation_follows_dependencies_that_it_had_not_heard_of() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    set(b.bay.state(), "x", "1").await;
    a.bay.state().set_depends_on("report", &["order:1".into()]).await.unwrap();
    set(a.bay.state(), "order:1", "1").await;
    set(a.bay.state(), "report", "1").await;
    a.store.die_at(1, Cut::After);
    a.bay.state().invalidate(&pattern("order:*")).await.unwrap_err();
    world.clock.advance(SECOND * 6);
    assert_eq!(b.bay.state().finish_intents().await.unwrap(), 1);
    assert_eq!(seen(b.bay.state(), "order:1").await, None);
    assert_eq!(seen(b.bay.state(), "report").await, None);
}

#[tokio::test]
async fn nothing_that_is_loaded_while_a_pattern_is_applied_is_left_of_what_depends_on_it() {
    let mut kept = 0;
    for step in 0..40 {
        let world = World::new(1);
        let (a, b) = (world.instance(), world.instance());
        let state = b.bay.state();
        for (key, source) in [("report", "order:1"), ("all", "report")] {
            state.set_depends_on(key, &[source.into()]).await.unwrap();
        }
        for key in ["order:1", "report", "all"] {
            set(state, key, "\"old\"").await;
        }
        a.store.set_delay(SECOND / 10);
        let gone = {
            let state = a.bay.state().clone();
            tokio::spawn(async move { state.invalidate(&pattern("order:*")).await })
        };
        world.pass(SECOND / 20 * step).await;
        make_again(state, "report", "order:1").await;
        make_again(state, "all", "report").await;
        kept += usize::from(seen(state, "all").await.as_deref() == Some("\"old\""));
        world.pass(SECOND * 2).await;
        gone.await.unwrap().unwrap();
        world.pass(SECOND * 2).await;
        for key in ["report", "all"] {
            assert_ne!(seen(state, key).await.as_deref(), Some("\"old\""), "{key} at {step}");
        }
    }
    assert!((5..35).contains(&kept), "{kept} of 40 came before the end");
}

#[tokio::test]
async fn what_was_set_while_a_pattern_is_applied_stays_though_it_depends_on_it() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    b.bay.state().set_depends_on("report", &["order:1".into()]).await.unwrap();
    set(b.bay.state(), "order:1", "1").await;
    a.store.die_at(1, Cut::After);
    a.bay.state().invalidate(&pattern("order:*")).await.unwrap_err();
    set(b.bay.state(), "report", "2").await;
    world.clock.advance(SECOND * 6);
    assert_eq!(b.bay.state().finish_intents().await.unwrap(), 1);
    assert_eq!(seen(b.bay.state(), "order:1").await, None);
    assert_eq!(seen(b.bay.state(), "report").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn of_more_keys_than_one_commit_takes_sources_go_before_what_depends_on_them() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let state = b.bay.state();
    for n in 0..600 {
        for (letter, source) in [("a", "y"), ("b", "z")] {
            let key = format!("{letter}{n:03}");
            state.set_depends_on(&key, &[source.into()]).await.unwrap();
        }
    }
    for key in ["y", "z", "a000", "b599"] {
        set(state, key, "\"old\"").await;
    }
    a.store.set_commit_delay(SECOND);
    let gone = {
        let state = a.bay.state().clone();
        let keys = vec!["y".into(), "z".into()];
        let wish = Invalidation { keys, ..Invalidation::default() };
        tokio::spawn(async move { state.invalidate(&wish).await })
    };
    world.pass(SECOND + SECOND / 2).await;
    assert!(!gone.is_finished());
    make_again(state, "a000", "y").await;
    make_again(state, "b599", "z").await;
    world.pass(SECOND * 3).await;
    gone.await.unwrap().unwrap();
    world.pass(SECOND * 2).await;
    for key in ["a000", "b599"] {
        assert_ne!(seen(state, key).await.as_deref(), Some("\"old\""), "{key}");
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_stops_no_invalidation_and_no_set() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let state = b.bay.state();
    put_unreadable(&*b.store, "rate_list:new-kind").await;
    set(a.bay.state(), "rate:EUR", "1").await;
    let range = Range::new(Partition::FIRST, Kind::new("state"), "rate_list:");
    let left = b.store.scan(&range, 10).await.unwrap().records;
    assert!(left.is_empty(), "it is older than what invalidates it");
    for n in 0..9 {
        set(state, &format!("k:{n}"), "1").await;
        let dies = world.instance();
        dies.store.die_at(1, Cut::After);
        dies.bay.state().invalidate(&pattern(&format!("k:{n}*"))).await.unwrap_err();
        // Younger than the intent.
        put_unreadable(&*b.store, &format!("k:{n}:new-kind")).await;
    }
    world.clock.advance(SECOND * 10);
    assert_eq!(state.finish_intents().await.unwrap(), 9);
    for n in 0..9 {
        assert_eq!(seen(state, &format!("k:{n}")).await, None, "{n}");
        let error = state.get(&format!("k:{n}:new-kind")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "what was written later stays");
    }
}

#[tokio::test]
async fn an_intent_that_cannot_be_read_stops_no_other_and_is_told() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let state = b.bay.state();
    for id in ["", "zzzz"] {
        let key = Key::new(Partition::FIRST, Kind::new("state-intent"), format!("{id}0"));
        let put = Write::Put { key, value: b"{}".to_vec(), deadline: Deadline::Never };
        let commit = Commit::new(Partition::FIRST, vec![], vec![put], vec![]).unwrap();
        b.store.commit(&commit).await.unwrap();
    }
    set(state, "k:1", "1").await;
    a.store.die_at(1, Cut::After);
    a.bay.state().invalidate(&pattern("k:*")).await.unwrap_err();
    world.clock.advance(SECOND * 10);
    let error = state.finish_intents().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    let range = Range::new(Partition::FIRST, Kind::new("state-intent"), "");
    assert_eq!(b.store.scan(&range, 10).await.unwrap().records.len(), 2);
    assert_eq!(seen(state, "k:1").await, None);
}

#[tokio::test]
async fn what_a_loader_makes_of_the_latest_value_of_a_source_is_not_made_of_an_older_one() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    // Nobody tells b, which keeps the source at hand.
    b.store.deafen();
    let state = b.bay.state();
    a.bay.state().set_depends_on("report", &["order:1".into()]).await.unwrap();
    set(a.bay.state(), "order:1", "\"old\"").await;
    assert_eq!(seen(state, "order:1").await.as_deref(), Some("\"old\""));
    set(a.bay.state(), "order:1", "\"new\"").await;
    assert_eq!(seen(state, "order:1").await.as_deref(), Some("\"old\""), "at hand still");
    make_again(state, "report", "order:1").await;
    world.pass(SECOND * 5).await;
    assert_eq!(seen(a.bay.state(), "report").await.as_deref(), Some("\"new\""));
}

#[tokio::test]
async fn a_lease_to_load_whose_answer_was_lost_keeps_nobody_waiting() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let load = |state: &State| {
        let state = state.clone();
        tokio::spawn(async move {
            state.get_or_load("k", LoadOptions::default(), || async { Json::parse("1") }).await
        })
    };
    a.store.die_at(1, Cut::After);
    let error = load(a.bay.state()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    a.store.revive();
    let other = load(b.bay.state());
    world.pass(SECOND * 2).await;
    assert!(other.is_finished(), "a load may take 30 s");
    assert_eq!(other.await.unwrap().unwrap().value.text(), "1");
}

#[tokio::test]
async fn a_load_that_ends_while_the_store_is_away_keeps_nobody_waiting() {
    for loads in [true, false] {
        let world = World::new(1);
        let (a, b) = (world.instance(), world.instance());
        let load = |state: &State, slow: Duration, loads: bool| {
            let (state, clock) = (state.clone(), world.clock.clone());
            let read = move || {
                let clock = clock.clone();
                async move {
                    clock.sleep(slow).await;
                    Json::parse(if loads { "1" } else { "nothing" })
                }
            };
            tokio::spawn(async move { state.get_or_load("k", LoadOptions::default(), read).await })
        };
        let one = load(a.bay.state(), SECOND, loads);
        world.settle().await;
        a.store.die();
        world.pass(SECOND).await;
        assert_eq!(one.await.unwrap().is_ok(), loads);
        let other = load(b.bay.state(), Duration::ZERO, true);
        world.settle().await;
        assert!(!other.is_finished(), "the lease is there still");
        a.store.revive();
        world.pass(SECOND * 2).await;
        assert!(other.is_finished(), "a load may take 30 s");
        assert_eq!(other.await.unwrap().unwrap().value.text(), "1");
    }
}

#[tokio::test]
async fn more_patterns_than_may_follow_from_a_key_are_refused_and_nothing_is_written() {
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state();
    for n in 0..9 {
        let pattern = |m: usize| format!("view:{n}:{m}:*");
        let rule = Rule {
            name: format!("r{n}"),
            update_pattern: "order:{id}".into(),
            invalidate_patterns: (0..32).map(pattern).collect(),
        };
        state.put_rule(rule).await.unwrap();
        let set = state.set("order:1", json("1"), SetOptions::default()).await;
        assert_eq!(set.is_ok(), n < 8, "{n}: {set:?}");
        if let Err(error) = set {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains("256"), "{error}");
        }
    }
    set(state, "other:1", "1").await;
}

#[tokio::test]
async fn nothing_older_than_a_day_is_served_in_place_of_an_error() {
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state();
    set(state, "k", "1").await;
    assert_eq!(seen(state, "k").await.as_deref(), Some("1"));
    a.store.die();
    let month = ServeStale::UpTo(SECOND * 3_600 * 24 * 30);
    world.clock.advance(SECOND * 3_600 * 24);
    assert!(state.get_with("k", month).await.unwrap().unwrap().stale);
    world.clock.advance(SECOND);
    let error = state.get_with("k", month).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_sweep_that_could_not_read_a_record_forgets_no_tag() {
    let world = World::new(1);
    let a = world.instance();
    let state = a.bay.state();
    let lease = a.bay.leases().acquire("sweep", "s", SECOND * 3_600).await.unwrap();
    let Acquired::Granted(lease) = lease else { panic!("{lease:?}") };
    let key = Key::new(Partition::FIRST, Kind::new("lease"), "sweep");
    let fence = Fence { key, token: parse_token(&lease.fencing_token).unwrap() };
    put_unreadable(&*a.store, "new-kind").await;
    let options = SetOptions { tags: vec!["t".into()], ..SetOptions::default() };
    state.set("k", json("1"), options).await.unwrap();
    state.invalidate(&tag("t")).await.unwrap();
    let range = Range::new(Partition::FIRST, Kind::new("state-tag"), "");
    let swept = state.sweep_stale(&fence, 1_000).await.unwrap();
    assert!(swept.finished && swept.removed.len() == 1, "the stale value goes all the same");
    assert_eq!(a.store.scan(&range, 10).await.unwrap().records.len(), 1);
    state.delete("new-kind").await.unwrap_err();
    state.invalidate(&pattern("new-kind*")).await.unwrap();
    assert!(state.sweep_stale(&fence, 1_000).await.unwrap().finished);
    assert_eq!(a.store.scan(&range, 10).await.unwrap().records.len(), 0);
}
