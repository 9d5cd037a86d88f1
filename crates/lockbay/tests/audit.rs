//! The audit trail: sealed by whoever leads, read, proved, let go of, and what is said after a
//! rollback.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/sealed.rs"]
mod sealed;
#[path = "support/stepped.rs"]
mod stepped;

use std::sync::Arc;
use std::time::Duration;

use lockbay::audit::{AuditQuery, PublicKey, Thoroughness};
use lockbay::clock::Clock;
use lockbay::config::Config;
use lockbay::store::faulty::Faults;
use lockbay::store::memory::Memory;
use lockbay::store::{Commit, Order, Partition, Store, Write};
use lockbay::{ErrorKind, LockBay};
use sealed::{CHECKPOINTS, ENTRIES, append, end, entry, lead, log, records, sealed, verdict};
use stepped::{World, seconds};

fn instance(memory: &Arc<Memory>, clock: &Clock, config: Config) -> LockBay {
    LockBay::with_store(config, Arc::new(memory.client()), clock.clone())
}

#[tokio::test]
async fn the_leader_seals_what_was_appended_within_the_interval() {
    let world = World::new(1);
    let one = world.instance_with(sealed::quiet());
    one.bay.start();
    world.pass(Duration::from_millis(100)).await;
    append(&world.memory.client(), 0, 50, 5).await;
    let unsealed = one.bay.audit().verify(Thoroughness::Log).await.unwrap();
    assert_eq!((unsealed.ok, unsealed.unsealed), (true, 50));
    world.pass_by(Duration::from_millis(100), Duration::from_secs(11)).await;
    let verdict = one.bay.audit().verify(Thoroughness::Log).await.unwrap();
    assert_eq!((verdict.ok, verdict.sealed, verdict.unsealed), (true, 50, 0));
    assert_eq!(verdict.checkpoints, 1);
    // Nothing new is no checkpoint.
    world.pass_by(Duration::from_millis(100), Duration::from_secs(40)).await;
    assert_eq!(one.bay.audit().checkpoints(0, 10).await.unwrap().0.len(), 1);
    end(&one.bay, &world.clock).await;
}

#[tokio::test]
async fn a_follower_seals_nothing_and_a_leader_that_ends_seals_first() {
    let world = World::new(2);
    let (one, two) = (world.instance_with(sealed::quiet()), world.instance_with(sealed::quiet()));
    one.bay.start();
    world.pass(Duration::from_millis(100)).await;
    two.bay.start();
    append(&world.memory.client(), 0, 10, 1).await;
    assert_eq!(two.bay.audit().seal_now().await.unwrap_err().kind(), ErrorKind::Held);
    end(&one.bay, &world.clock).await;
    let verdict = two.bay.audit().verify(Thoroughness::Log).await.unwrap();
    assert_eq!((verdict.ok, verdict.sealed), (true, 10));
}

/// Three instances, a store that refuses and loses replies, and leaders that die while they seal.
#[tokio::test]
async fn sealing_skips_and_repeats_nothing_while_leaders_die_and_replies_are_lost() {
    for seed in [11, 12, 13, Clock::system().random()] {
        println!("seed {seed:#x}");
        let world = World::new(seed);
        let config = Config { audit_seal_interval: seconds(1), ..sealed::quiet() };
        let all: Vec<_> = (0..3).map(|_| world.instance_with(config.clone())).collect();
        all.iter().for_each(|one| one.bay.start());
        let mut appended = 0;
        for round in 0..40 {
            let dice = |n: u64| world.clock.random() % n;
            let rate = |n: u64| u32::try_from(n).unwrap();
            for one in &all {
                one.store.set(Faults {
                    refused: rate(dice(100)),
                    reply_lost: rate(dice(100)),
                    request_lost: rate(dice(100)),
                });
                one.store.revive();
            }
            if round % 3 == 0
                && let Some(leader) = all.iter().find(|one| one.bay.is_leader())
            {
                let cut = match dice(2) {
                    0 => lockbay::store::faulty::Cut::Before,
                    _ => lockbay::store::faulty::Cut::After,
                };
                leader.store.die_at(1 + dice(4), cut);
            }
            let count = usize::try_from(dice(30)).unwrap();
            append(&world.memory.client(), appended, count, 3).await;
            appended += count;
            world
                .pass_by(Duration::from_millis(100), Duration::from_millis(200 + dice(3_000)))
                .await;
        }
        for one in &all {
            one.store.set(Faults::default());
            one.store.revive();
        }
        world.pass_by(Duration::from_millis(100), Duration::from_secs(20)).await;
        let verdict = verdict(&world.memory, &world.clock).await;
        assert!(verdict.ok, "seed {seed:#x}: {:?}", verdict.problems);
        assert_eq!(verdict.sealed, appended as u64, "seed {seed:#x}");
        assert_eq!(verdict.unsealed, 0, "seed {seed:#x}");
        assert!(verdict.checkpoints >= 5, "seed {seed:#x}: {}", verdict.checkpoints);
    }
}

#[tokio::test]
async fn every_entry_of_logs_of_up_to_64_entries_is_proved_and_any_change_is_refused() {
    for count in 1..=64 {
        let (clock, memory) = sealed(count, 3, 1).await;
        append(&memory.client(), count, 2, 1).await;
        let bay = instance(&memory, &clock, sealed::quiet());
        lead(&bay, &clock).await;
        bay.audit().seal_now().await.unwrap();
        let key = bay.audit().public_key().await.unwrap().unwrap();
        let query = AuditQuery { order: Order::Forwards, ..AuditQuery::default() };
        let entries = bay.audit().entries(&query, 1_000).await.unwrap().items;
        assert_eq!(entries.len(), count + 2);
        for entry in &entries {
            let (revision, index) = (entry.revision, entry.index);
            let proof = bay.audit().proof(revision, index, Some(2)).await.unwrap();
            let proved = proof.check(Some(key), None).unwrap();
            assert_eq!(Some(proved.checkpoint), entry.sealed_by);
            assert_eq!(proved.trusted, 2);
            let text = serde_json::to_string(&proof).unwrap();
            if count % 16 == 1 && entry.index == 0 {
                for at in 0..text.len() {
                    let mut changed = text.clone().into_bytes();
                    changed[at] ^= 1;
                    let Ok(changed) = serde_json::from_slice::<lockbay::audit::Proof>(&changed)
                    else {
                        continue;
                    };
                    assert!(changed.check(Some(key), None).is_err(), "byte {at} of {text}");
                }
            }
            let mut moved = proof.clone();
            moved.leaf += 1;
            assert!(moved.check(Some(key), None).is_err());
            let mut other = proof.clone();
            other.entry.push(' ');
            assert!(other.check(Some(key), None).is_err());
            let stranger = PublicKey::parse(&"ab".repeat(32)).unwrap();
            assert!(proof.check(Some(stranger), None).is_err());
            assert!(proof.check(None, Some([1; 32])).is_err());
        }
        let missing = bay.audit().proof(entries[0].revision, 9, None).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        end(&bay, &clock).await;
    }
}

#[tokio::test]
async fn what_is_old_enough_goes_and_the_rest_verifies() {
    let world = World::new(3);
    let config = Config {
        audit_seal_interval: seconds(1),
        audit_retention: seconds(60),
        cleanup_interval: seconds(5),
        ..sealed::quiet()
    };
    let one = world.instance_with(config);
    one.bay.start();
    let mut n = 0;
    for _ in 0..60 {
        append(&world.memory.client(), n, 10, 5).await;
        n += 10;
        world.pass_by(Duration::from_millis(250), Duration::from_secs(2)).await;
        let verdict = one.bay.audit().verify(Thoroughness::Log).await.unwrap();
        assert!(verdict.ok, "{:?}", verdict.problems);
    }
    let verdict = verdict(&world.memory, &world.clock).await;
    assert!(verdict.ok, "{:?}", verdict.problems);
    let trimmed = verdict.trimmed.unwrap();
    assert!(trimmed >= 20, "{trimmed}");
    let kept = records(&world.memory.snapshot(), ENTRIES);
    assert!((50..100).contains(&kept.len()), "{} records are left", kept.len());
    let seals = records(&world.memory.snapshot(), CHECKPOINTS);
    assert!(seals.len() < 45, "{} checkpoints are left", seals.len());
    assert!(one.bay.sweeper().stats().total_keys_cleaned > 60);
    let query = AuditQuery { action: Some("trimmed".into()), ..AuditQuery::default() };
    assert!(!one.bay.audit().entries(&query, 10).await.unwrap().items.is_empty());
    // Beyond what a checkpoint says nothing may be missing.
    let mut snapshot = world.memory.snapshot();
    snapshot.remove(&kept[kept.len() / 2].key);
    world.memory.restore(&snapshot);
    assert!(!sealed::verdict(&world.memory, &world.clock).await.ok);
}

#[tokio::test]
async fn after_a_rollback_that_was_accepted_the_trail_verifies_and_witnesses_say_what_is_gone() {
    let (clock, memory) = sealed(40, 4, 2).await;
    let witness = instance(&memory, &clock, sealed::quiet());
    let old = memory.snapshot();
    lead(&witness, &clock).await;
    append(&memory.client(), 40, 20, 4).await;
    witness.audit().seal_now().await.unwrap();
    assert!(witness.audit().verify(Thoroughness::Log).await.unwrap().ok);
    memory.restore(&old);
    let said = witness.audit().verify(Thoroughness::Log).await.unwrap();
    assert!(said.problems.iter().any(|it| it.problem.contains("gone")), "{:?}", said.problems);
    assert!(witness.metrics().value(lockbay::metrics::Metric::AuditBroken) > 0);
    assert_eq!(witness.store().ping().await.unwrap_err().kind(), ErrorKind::RolledBack);
    witness.store().accept().await.unwrap();
    end(&witness, &clock).await;
    // Who has seen nothing finds it of one piece, and it goes on.
    let next = instance(&memory, &clock, sealed::quiet());
    assert!(next.audit().verify(Thoroughness::Log).await.unwrap().ok);
    append(&memory.client(), 60, 8, 4).await;
    clock.advance(Duration::from_secs(6));
    lead(&next, &clock).await;
    next.audit().seal_now().await.unwrap();
    let verdict = verdict(&memory, &clock).await;
    assert_eq!((verdict.ok, verdict.entries, verdict.sealed), (true, 48, 48));
}

#[tokio::test]
async fn pages_give_every_entry_once_in_either_order_and_filters_hold() {
    let (clock, memory) = sealed(500, 7, 5).await;
    append(&memory.client(), 500, 60, 7).await;
    let bay = instance(&memory, &clock, sealed::quiet());
    let mut both = Vec::new();
    for order in [Order::Forwards, Order::Backwards] {
        let mut query = AuditQuery { order, ..AuditQuery::default() };
        let mut all = Vec::new();
        loop {
            let page = bay.audit().entries(&query, 13).await.unwrap();
            assert!(page.items.len() <= 13);
            all.extend(page.items);
            query.place = page.next;
            if query.place.is_none() {
                break;
            }
        }
        both.push(all);
    }
    assert_eq!(both[0].len(), 560);
    both[1].reverse();
    assert_eq!(both[0], both[1]);
    assert!(both[0][..500].iter().all(|entry| entry.sealed_by.is_some()));
    assert!(both[0][500..].iter().all(|entry| entry.sealed_by.is_none()));
    let (from, until) = (both[0][100].at, both[0][300].at);
    for order in [Order::Forwards, Order::Backwards] {
        let filters = AuditQuery {
            entity: Some("saga/0003".into()),
            actor: Some("web-1".into()),
            action: Some("step_done".into()),
            from: Some(from),
            until: Some(until),
            order,
            place: None,
        };
        let found = bay.audit().entries(&filters, 1_000).await.unwrap().items;
        let expected = both[0].iter().filter(|entry| {
            entry.entity == "saga/0003"
                && entry.actor == "web-1"
                && entry.at >= from
                && entry.at < until
        });
        assert_eq!(found.len(), expected.count());
        assert!(!found.is_empty());
    }
    let prefix = AuditQuery { entity: Some("saga/*".into()), ..AuditQuery::default() };
    assert_eq!(bay.audit().entries(&prefix, 1_000).await.unwrap().items.len(), 560);
    let none = AuditQuery { place: Some("x".into()), ..AuditQuery::default() };
    assert_eq!(bay.audit().entries(&none, 1).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn the_history_of_an_entity_follows_its_links() {
    let clock = Clock::manual(5);
    let memory = Memory::new(clock.clone());
    let store = memory.client();
    let mut previous = None;
    for n in 0..50 {
        append(&store, n, 20, 1).await;
        let link = previous.map(|it| format!(",\"previous\":\"{it}\"")).unwrap_or_default();
        let line = format!("{{\"entity\":\"job/x\",\"action\":\"a{n}\",\"actor\":\"w\"{link}}}");
        let write = Write::Append { key: log(), line: line.into_bytes() };
        let commit = Commit::new(Partition::FIRST, vec![], vec![entry(n), write], vec![]).unwrap();
        if let lockbay::store::Reply::Committed { revision, .. } =
            store.commit(&commit).await.unwrap()
        {
            previous = Some(revision);
        }
    }
    let bay = instance(&memory, &clock, sealed::quiet());
    let (first, next) = bay.audit().history("job/x", None, 30).await.unwrap();
    let (rest, end) = bay.audit().history("job/x", next, 30).await.unwrap();
    let actions: Vec<_> = first.iter().chain(&rest).map(|it| it.action.clone()).collect();
    let expected: Vec<_> = (0..50).rev().map(|n| format!("a{n}")).collect();
    assert_eq!((actions, end), (expected, None));
    let missing = bay.audit().history("job/x", Some(lockbay::store::Revision::new(5)), 3).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(bay.audit().history("job/none", None, 3).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn records_that_entries_tell_of_are_compared_and_a_changed_one_is_found() {
    use lockbay::ledger::{Amount, Currency, UserId};
    let clock = Clock::system();
    let memory = Memory::new(clock.clone());
    let bay = instance(&memory, &clock, Config::default());
    bay.start();
    while !bay.is_leader() {
        clock.sleep(Duration::from_millis(5)).await;
    }
    let usd = Currency::parse("USD").unwrap();
    let (ann, bob) = (UserId::parse("ann").unwrap(), UserId::parse("bob").unwrap());
    let amount = |text: &str| Amount::parse(text, usd).unwrap();
    bay.ledger().deposit(&ann, &amount("50.00"), "first").await.unwrap();
    let started = bay.finance().escrow(&ann, &bob, &amount("20.00"), None).await.unwrap();
    bay.sagas().wait(&started.saga_id, Duration::from_secs(20)).await.unwrap();
    let said = bay.audit().verify(Thoroughness::Records).await.unwrap();
    assert!(said.ok, "{:?}", said.problems);
    assert!(said.records_compared >= 6, "{said:?}");
    let snapshot = memory.snapshot();
    for kind in ["posting", "saga-log"] {
        for record in records(&snapshot, lockbay::store::Kind::new(kind)) {
            let mut changed = snapshot.clone();
            let mut other = record.clone();
            other.value.push(b' ');
            changed.put(other);
            memory.restore(&changed);
            let said = bay.audit().verify(Thoroughness::Records).await.unwrap();
            assert!(!said.ok, "{} was changed unnoticed", record.key);
            memory.restore(&snapshot);
        }
    }
    bay.shutdown().await;
}
