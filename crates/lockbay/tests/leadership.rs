//! What leadership and leases promise, under a clock that the test steps.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // a test fails by panicking

mod support {
    pub mod stepped;
}

use std::sync::Arc;
use std::time::Duration;

use lockbay::config::Config;
use lockbay::leader::{Edge, LossReason};
use lockbay::lease::Acquired;
use lockbay::store::faulty::Faults;
use lockbay::store::{
    Commit, Deadline, Fence, Guard, Key, Kind, Partition, Reply, Revision, Write,
};
use lockbay::{ErrorKind, LockBay};
use support::stepped::{Instance, World, seconds};

const TTL: Duration = Duration::from_secs(5);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn started(world: &World) -> Instance {
    let instance = world.instance();
    instance.bay.start();
    instance
}

fn cut_off(instance: &Instance) {
    instance.store.set(Faults { refused: 1_000, ..Faults::default() });
}

fn leaders(instances: &[Instance]) -> usize {
    instances.iter().filter(|instance| instance.bay.is_leader()).count()
}

/// A write of the application under a fence.
async fn fenced_write(bay: &LockBay, fence: Fence) -> lockbay::Result<Reply> {
    let key = Key::new(Partition::FIRST, Kind::new("application"), "x");
    let put = Write::Put { key, value: b"x".to_vec(), deadline: Deadline::Never };
    bay.store()
        .commit(&Commit::new(Partition::FIRST, vec![Guard::Held(fence)], vec![put], vec![])?)
        .await
}

#[tokio::test]
async fn a_lone_instance_leads_at_once_and_says_so_in_the_store() {
    let world = World::new(1);
    let a = started(&world);
    world.settle().await;
    assert!(a.bay.is_leader());
    let info = a.bay.leadership().current().await.unwrap().unwrap();
    assert!(info.is_self);
    assert_eq!((info.term, info.instance_id.as_str()), (1, a.bay.instance_id()));
    assert_eq!(info.last_heartbeat + TTL, info.expires_at);
    world.pass(TTL * 3).await;
    assert!(a.bay.is_leader(), "renewals keep it");
    let later = a.bay.leadership().current().await.unwrap().unwrap();
    assert_eq!((later.term, later.fencing_token), (1, info.fencing_token), "the token stays");
    assert!(later.last_heartbeat > info.last_heartbeat);
}

#[tokio::test]
async fn is_leader_ends_before_the_lease_can_lapse_however_slow_the_store_is() {
    let world = World::new(1);
    let a = started(&world);
    world.settle().await;
    // Every renewal now takes longer than the lease; they all succeed in the end.
    a.store.set_delay(TTL * 2);
    let expires = a.bay.leadership().current();
    assert!(world.clock.timeout(Duration::ZERO, expires).await.is_none());
    let lapse = world.clock.now() + TTL;
    while world.clock.now() < lapse {
        world.pass(ms(10)).await;
    }
    assert!(!a.bay.is_leader(), "trusted past the lapse");
    assert!(a.bay.leadership().fence().is_none());
}

#[tokio::test]
async fn a_slow_renewal_counts_from_its_start() {
    let world = World::new(1);
    let a = started(&world);
    world.settle().await;
    let started_at = world.clock.now();
    world.pass(ms(1_650)).await;
    a.store.set_delay(ms(2_500));
    world.pass(ms(2_550)).await;
    assert!(a.bay.is_leader(), "renewed at a third, answered before the end");
    cut_off(&a);
    a.store.set_delay(Duration::ZERO);
    // The renewal began at TTL/3, so trust ends before TTL/3 + TTL, not 2.5 s later.
    while world.clock.now() < started_at + TTL / 3 + TTL {
        world.pass(ms(10)).await;
    }
    assert!(!a.bay.is_leader(), "a slow answer stretched the trust");
}

#[tokio::test]
async fn the_cancellation_fires_before_the_lease_lapses() {
    let world = World::new(1);
    let a = started(&world);
    world.settle().await;
    let cancelled = a.bay.leadership().cancellation().unwrap();
    let lapse = world.clock.now() + TTL;
    cut_off(&a);
    while !cancelled.is_cancelled() {
        world.pass(ms(10)).await;
    }
    assert!(world.clock.now() < lapse, "told only after the lapse");
}

#[tokio::test]
async fn a_follower_bids_at_the_exact_lapse() {
    let world = World::new(1);
    let a = started(&world);
    world.settle().await;
    let b = started(&world);
    world.pass(ms(20)).await;
    let token = a.bay.leadership().fence().unwrap().token;
    cut_off(&a);
    let lapse = world.clock.now() - ms(20) + TTL;
    while !b.bay.is_leader() {
        assert!(world.clock.now() < lapse + ms(200), "no failover within TTL + 0.2 s");
        world.pass(ms(5)).await;
    }
    assert!(world.clock.now() >= lapse, "bid before the lapse");
    let fence = b.bay.leadership().fence().unwrap();
    assert!(fence.token > token);
    assert_eq!(b.bay.leadership().term(), Some(2));
    let info = b.bay.leadership().current().await.unwrap().unwrap();
    assert!(info.is_self);
}

#[tokio::test]
async fn a_paused_leaders_writes_are_refused_when_it_wakes() {
    let world = World::new(1);
    let a = started(&world);
    world.settle().await;
    let b = started(&world);
    world.pass(ms(20)).await;
    let old = a.bay.leadership().fence().unwrap();
    // The pause: none of a's tasks sees time pass until it is over.
    cut_off(&a);
    world.pass(TTL + ms(200)).await;
    a.store.set(Faults::default());
    assert!(!a.bay.is_leader());
    assert!(b.bay.is_leader());
    let late = fenced_write(&a.bay, old).await.unwrap();
    assert!(matches!(late, Reply::Conflict { .. }), "a zombie wrote: {late:?}");
    let new = b.bay.leadership().fence().unwrap();
    assert!(matches!(fenced_write(&b.bay, new).await.unwrap(), Reply::Committed { .. }));
}

#[tokio::test]
async fn a_lapsed_lease_fences_even_if_nobody_took_it() {
    let world = World::new(1);
    let a = started(&world);
    world.settle().await;
    let fence = a.bay.leadership().fence().unwrap();
    cut_off(&a);
    world.pass(TTL).await;
    a.store.set(Faults::default());
    let late = fenced_write(&a.bay, fence).await.unwrap();
    assert!(matches!(late, Reply::Conflict { .. }), "{late:?}");
}

#[tokio::test]
async fn resigning_hands_over_within_50_ms_and_lets_the_others_first() {
    for seed in 0..20 {
        let world = World::new(seed);
        let a = started(&world);
        world.settle().await;
        let b = started(&world);
        world.pass(ms(20)).await;
        a.bay.leadership().resign().await.unwrap();
        assert!(!a.bay.is_leader(), "believes after resigning");
        world.pass(ms(50)).await;
        assert!(b.bay.is_leader(), "seed {seed}: not handed over");
        let again = a.bay.leadership().resign().await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Held);
        world.pass(TTL * 2).await;
        assert_eq!(b.bay.leadership().term(), Some(2), "the old one did not interfere");
    }
}

#[tokio::test]
async fn a_lone_instance_that_resigned_leads_again() {
    let world = World::new(1);
    let a = started(&world);
    world.settle().await;
    a.bay.leadership().resign().await.unwrap();
    world.pass(ms(1_000)).await;
    assert_eq!(a.bay.leadership().term(), Some(2));
}

#[tokio::test]
async fn two_instances_with_one_name_never_both_lead() {
    let world = World::new(1);
    let config = Config { instance_name: Some("web".into()), ..Config::default() };
    let instances: Vec<Instance> = (0..2).map(|_| world.instance_with(config.clone())).collect();
    instances.iter().for_each(|instance| instance.bay.start());
    for _ in 0..100 {
        world.pass(ms(100)).await;
        assert_eq!(leaders(&instances), 1);
    }
    assert_ne!(instances[0].bay.instance_id(), instances[1].bay.instance_id());
}

#[tokio::test]
async fn other_services_have_other_leaders() {
    let world = World::new(1);
    let config = Config { service: "other".into(), leader_ttl: seconds(9), ..Config::default() };
    let instances = [world.instance(), world.instance_with(config)];
    instances.iter().for_each(|instance| instance.bay.start());
    world.settle().await;
    assert_eq!(leaders(&instances), 2);
}

#[tokio::test]
async fn a_slow_subscriber_misses_no_edge() {
    let world = World::new(1);
    let a = started(&world);
    let mut edges = a.bay.leadership().subscribe();
    for _ in 0..200 {
        world.settle().await;
        a.bay.leadership().resign().await.unwrap();
        world.pass(ms(600)).await;
    }
    // Only now does the subscriber look.
    let mut last = Revision::ZERO;
    for expected in 1..=200 {
        let Some(Edge::Elected { term, token }) = edges.next().await.unwrap() else { panic!() };
        assert_eq!(term, expected);
        assert!(token > last, "tokens only grow");
        last = token;
        let lost = edges.next().await.unwrap();
        assert_eq!(lost, Some(Edge::Lost { term, reason: LossReason::Resigned }));
    }
}

#[tokio::test]
async fn callbacks_tell_who_leads_and_outlive_a_panic() {
    let world = World::new(1);
    let a = world.instance();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    for name in ["leader_elected", "leader_lost"] {
        let seen = Arc::clone(&seen);
        let callback = move |told: &lockbay::event::Told| {
            seen.lock().unwrap().push(told.event.name());
            assert!(told.sequence > 0, "the first callback panics");
        };
        a.bay.on(name, callback).unwrap();
    }
    assert_eq!(a.bay.on("leader_elect", |_| {}).unwrap_err().kind(), ErrorKind::Invalid);
    a.bay.start();
    world.settle().await;
    a.bay.leadership().resign().await.unwrap();
    world.pass(ms(600)).await;
    let seen = seen.lock().unwrap();
    assert_eq!(*seen, ["leader_elected", "leader_lost", "leader_elected"]);
}

#[tokio::test]
async fn shutdown_hands_leadership_over() {
    let world = World::new(1);
    let (a, b) = (started(&world), world.instance());
    world.settle().await;
    b.bay.start();
    world.pass(ms(20)).await;
    let bay = a.bay.clone();
    let shutdown = tokio::spawn(async move { bay.shutdown().await });
    world.pass(ms(60)).await;
    assert!(b.bay.is_leader());
    world.pass(ms(2_000)).await;
    shutdown.await.unwrap();
}

#[tokio::test]
async fn a_named_lease_is_a_lock_with_a_token_that_grows() {
    let world = World::new(1);
    let (a, b) = (world.instance().bay, world.instance().bay);
    let Acquired::Granted(first) = a.leases().acquire("l/1", "a", ms(1_000)).await.unwrap() else {
        panic!()
    };
    let held = b.leases().acquire("l/1", "a", ms(1_000)).await.unwrap();
    let expected = Acquired::Held { holder: "a".into(), retry_after: ms(1_000) };
    assert_eq!(held, expected, "a name is no proof of identity");
    let token = lockbay::lease::parse_token(&first.fencing_token).unwrap();
    world.clock.advance(ms(900));
    let renewed = b.leases().renew("l/1", "a", token, ms(1_000)).await.unwrap();
    assert_eq!(renewed.fencing_token, first.fencing_token);
    let wrong = Revision::new(token.number() + 1);
    for result in [
        a.leases().renew("l/1", "a", wrong, ms(1_000)).await.map(drop),
        a.leases().release("l/1", wrong).await,
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Fenced);
    }
    let (held, next) = b.leases().list(None, 10).await.unwrap();
    assert_eq!((held.len(), next), (1, None));
    a.leases().release("l/1", token).await.unwrap();
    assert_eq!(b.leases().show("l/1").await.unwrap(), None);
    let Acquired::Granted(second) = b.leases().acquire("l/1", "b", ms(1_000)).await.unwrap() else {
        panic!()
    };
    assert!(lockbay::lease::parse_token(&second.fencing_token).unwrap() > token);
    world.clock.advance(ms(1_000));
    assert_eq!(a.leases().show("l/1").await.unwrap(), None, "a lapsed lease is not shown as held");
    let late = a.leases().renew("l/1", "b", token, ms(1_000)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn lease_requests_outside_the_limits_are_refused() {
    let world = World::new(1);
    let leases = world.instance().bay.leases().clone();
    let long = "x".repeat(300);
    for (name, holder, ttl) in [
        ("", "h", TTL),
        ("n", "", TTL),
        ("n\u{0}", "h", TTL),
        (long.as_str(), "h", TTL),
        ("n", long.as_str(), TTL),
        ("n", "h", Duration::ZERO),
        ("n", "h", Duration::from_secs(u64::MAX)),
    ] {
        let refused = leases.acquire(name, holder, ttl).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
    assert!(lockbay::lease::parse_token("-1").is_err());
}

#[tokio::test]
async fn a_held_lease_is_renewed_until_it_is_released_or_dropped() {
    let world = World::new(1);
    let (a, b) = (world.instance(), world.instance());
    let lease = a.bay.leases().hold("l", "a", ms(1_000)).await.unwrap();
    world.pass(ms(5_000)).await;
    assert!(lease.right().is_held(), "renewed without anybody having started anything");
    let refused = b.bay.leases().hold("l", "b", ms(1_000)).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Held);
    let right = lease.right().clone();
    lease.release().await.unwrap();
    assert!(!right.is_held() && right.lost().is_cancelled());
    let lease = b.bay.leases().hold("l", "b", ms(1_000)).await.unwrap();
    drop(lease);
    world.pass(ms(1_000)).await;
    a.bay.leases().hold("l", "a", ms(1_000)).await.unwrap();
}

/// Who keeps rights sleeps until the first is due, and is woken only for one that is due sooner.
#[tokio::test]
async fn a_short_lease_that_comes_after_long_ones_is_renewed_in_its_own_time() {
    let world = World::new(1);
    let a = world.instance();
    let long = a.bay.leases().hold("long", "a", ms(3_600_000)).await.unwrap();
    world.pass(ms(500)).await;
    let ttls = [60_000, 900, 10_000, 300];
    let mut short = Vec::new();
    for ttl in ttls {
        let name = ttl.to_string();
        short.push(a.bay.leases().hold(&name, "a", ms(ttl)).await.unwrap());
        world.pass(ms(ttl.min(1_000))).await;
    }
    world.pass(ms(120_000)).await;
    assert!(short.iter().chain([&long]).all(|lease| lease.right().is_held()));
}

#[tokio::test]
async fn all_rights_of_a_process_are_renewed_in_one_round_trip() {
    let world = World::new(1);
    let config = Config { health_interval: seconds(3_600), ..Config::default() };
    let a = world.instance_with(config);
    a.bay.start();
    world.settle().await;
    // What it does once at its election.
    world.pass(TTL * 2).await;
    let before = a.store.calls();
    world.pass(TTL * 10).await;
    // Thirty periods of TTL/3 for the leadership, and what an instance looks at every second.
    let alone = a.store.calls() - before;
    let mut rights = Vec::new();
    for n in 0..50 {
        rights.push(a.bay.leases().hold(&format!("l{n}"), "a", TTL).await.unwrap());
    }
    world.pass(TTL).await;
    let before = a.store.calls();
    world.pass(TTL * 10).await;
    let together = a.store.calls() - before;
    // A call for each would make fifteen hundred more.
    assert!(together.abs_diff(alone) <= 4, "{alone} calls without leases, {together} with fifty");
    assert!(a.bay.is_leader() && rights.iter().all(|right| right.right().is_held()));
}

/// Instances over stores that refuse, delay and lose replies, cut off and coming back at random.
/// At every moment one at most believes that it leads, tokens only grow, and when the faults end
/// there is a leader again.
#[tokio::test]
async fn no_two_instances_believe_that_they_lead_whatever_the_store_does() {
    for seed in [1, 2, 3, 4, 5, lockbay::clock::Clock::system().random()] {
        let world = World::new(seed);
        let instances: Vec<Instance> = (0..4).map(|_| started(&world)).collect();
        let mut last = Revision::ZERO;
        for round in 0..600 {
            disturb(&world, &instances);
            world.pass(ms(50)).await;
            assert!(leaders(&instances) <= 1, "seed {seed}, round {round}: two leaders");
            let fences = instances.iter().filter_map(|instance| instance.bay.leadership().fence());
            for fence in fences {
                assert!(fence.token >= last, "seed {seed}, round {round}: a token went back");
                last = fence.token;
            }
        }
        for instance in &instances {
            instance.store.set(Faults::default());
            instance.store.set_delay(Duration::ZERO);
        }
        world.pass(TTL * 2).await;
        assert_eq!(leaders(&instances), 1, "seed {seed}: nobody leads after the faults");
    }
}

fn disturb(world: &World, instances: &[Instance]) {
    let dice = |n: u64| world.clock.random() % n;
    if dice(10) != 0 {
        return;
    }
    let instance = &instances[usize::try_from(dice(4)).unwrap()];
    match dice(4) {
        0 => cut_off(instance),
        1 => instance.store.set(Faults { refused: 200, reply_lost: 300, request_lost: 200 }),
        2 => instance.store.set_delay(ms(dice(4_000))),
        _ => {
            instance.store.set(Faults::default());
            instance.store.set_delay(Duration::ZERO);
        }
    }
}
