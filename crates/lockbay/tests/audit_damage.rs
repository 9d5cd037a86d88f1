//! Damage that a leader meets while it seals: it is told, and no seal covers it up.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/sealed.rs"]
mod sealed;

use std::sync::Arc;
use std::time::Duration;

use lockbay::LockBay;
use lockbay::audit::{AuditQuery, Thoroughness, hash_of};
use lockbay::clock::Clock;
use lockbay::metrics::Metric;
use lockbay::store::memory::{Memory, Snapshot};
use lockbay::store::{Record, Revision};
use sealed::{CHECKPOINTS, ENTRIES, HEAD, append, end, lead, quiet, records, sealed, verdict};

fn instance(memory: &Arc<Memory>, clock: &Clock) -> LockBay {
    LockBay::with_store(quiet(), Arc::new(memory.client()), clock.clone())
}

fn head_at(snapshot: &Snapshot, number: usize) -> Record {
    let digits = hash_of(&records(snapshot, CHECKPOINTS)[number - 1].value);
    let digits: String = digits.iter().map(|byte| format!("{byte:02x}")).collect();
    let value = format!("{{\"number\":{number},\"hash\":\"{digits}\"}}").into_bytes();
    Record { value, ..records(snapshot, HEAD).remove(0) }
}

/// Changes the text of an entry that is sealed.
fn edit(snapshot: &mut Snapshot) {
    let mut record = records(snapshot, ENTRIES).pop().unwrap();
    let text = String::from_utf8(record.value).unwrap();
    record.value = text.replace("step_done", "step_null").into_bytes();
    snapshot.put(record);
}

/// What a leader that has seen nothing and one that has seen everything make of this damage: both
/// seal on, and every verification from then on says what was found.
async fn is_said_for_good(what: &str, damage: impl Fn(&mut Snapshot)) {
    for witness in [false, true] {
        let (clock, memory) = sealed(100, 5, 5).await;
        let bay = instance(&memory, &clock);
        if witness {
            assert!(bay.audit().verify(Thoroughness::Log).await.unwrap().ok);
        }
        let before = records(&memory.snapshot(), CHECKPOINTS);
        let mut changed = memory.snapshot();
        damage(&mut changed);
        memory.restore(&changed);
        let left = records(&changed, CHECKPOINTS);
        clock.advance(Duration::from_secs(6));
        lead(&bay, &clock).await;
        append(&memory.client(), 100, 10, 5).await;
        bay.audit().seal_now().await.unwrap();
        assert!(bay.metrics().value(Metric::AuditBroken) > 0, "{what}: it is noticed");
        append(&memory.client(), 110, 10, 5).await;
        assert_eq!(bay.audit().seal_now().await.unwrap(), 11, "{what}: it enters what it found");
        let after = records(&memory.snapshot(), CHECKPOINTS);
        for kept in &left {
            assert!(after.contains(kept), "{what}: {} was overwritten", kept.key);
        }
        assert!(before.len() >= left.len());
        let query = AuditQuery { action: Some("broken".into()), ..AuditQuery::default() };
        let entered = bay.audit().entries(&query, 10).await.unwrap().items;
        assert_eq!(entered.len(), 1, "{what}: {entered:?}");
        for said in
            [verdict(&memory, &clock).await, bay.audit().verify(Thoroughness::Log).await.unwrap()]
        {
            let marked = said.problems.iter().any(|it| it.problem.contains("made after damage"));
            assert!(!said.ok && marked, "{what}: {:?}", said.problems);
        }
        assert!(bay.metrics().value(Metric::AuditBroken) > 0, "{what}");
        end(&bay, &clock).await;
    }
}

#[tokio::test]
async fn a_head_that_was_set_back_is_said_for_good_and_overwrites_nothing() {
    is_said_for_good("head set back", |changed| {
        changed.put(head_at(changed, 3));
    })
    .await;
}

#[tokio::test]
async fn a_trail_without_its_checkpoints_and_head_is_not_sealed_anew_as_if_nothing_were() {
    is_said_for_good("no checkpoints, no head", |changed| {
        edit(changed);
        for kind in [CHECKPOINTS, HEAD] {
            records(changed, kind).iter().for_each(|record| changed.remove(&record.key));
        }
    })
    .await;
}

#[tokio::test]
async fn a_trail_without_its_last_checkpoints_and_head_is_not_sealed_anew_as_if_nothing_were() {
    is_said_for_good("the last two checkpoints and the head", |changed| {
        edit(changed);
        let seals = records(changed, CHECKPOINTS);
        seals[3..].iter().for_each(|record| changed.remove(&record.key));
        records(changed, HEAD).iter().for_each(|record| changed.remove(&record.key));
    })
    .await;
}

#[tokio::test]
async fn a_newest_checkpoint_that_was_changed_is_said_for_good() {
    is_said_for_good("the newest was changed", |changed| {
        let mut last = records(changed, CHECKPOINTS).pop().unwrap();
        last.value.pop();
        changed.put(last);
    })
    .await;
}

#[tokio::test]
async fn a_trail_set_back_as_a_whole_is_said_for_good_by_a_leader_that_has_seen_more() {
    let (clock, memory) = sealed(100, 5, 5).await;
    let bay = instance(&memory, &clock);
    assert!(bay.audit().verify(Thoroughness::Log).await.unwrap().ok);
    let mut changed = memory.snapshot();
    changed.put(head_at(&changed, 3));
    let seals = records(&changed, CHECKPOINTS);
    seals[3..].iter().for_each(|record| changed.remove(&record.key));
    memory.restore(&changed);
    clock.advance(Duration::from_secs(6));
    lead(&bay, &clock).await;
    bay.audit().seal_now().await.unwrap();
    let said = verdict(&memory, &clock).await;
    assert!(said.problems.iter().any(|it| it.problem.contains("seen before")), "{said:?}");
    end(&bay, &clock).await;
}

/// A line as somebody plants it: well formed, with a revision that the store never gave.
fn planted(record: &Record, revision: u64) -> Record {
    let mut planted = record.clone();
    planted.revision = Revision::new(revision);
    planted.key.id = format!("all/{revision:016x}").into();
    let text = String::from_utf8(record.value.clone()).unwrap();
    let line = text.lines().next().unwrap();
    planted.value = format!("{revision:016x}{}\n", &line[16..]).into_bytes();
    planted
}

#[tokio::test]
async fn a_line_from_the_future_is_told_and_does_not_stop_the_sealing_of_others() {
    let (clock, memory) = sealed(20, 5, 2).await;
    let mut changed = memory.snapshot();
    let last = records(&changed, ENTRIES).pop().unwrap();
    let revision = last.revision.number() + 86_400_000_000;
    changed.put(planted(&last, revision));
    memory.restore(&changed);
    let bay = instance(&memory, &clock);
    clock.advance(Duration::from_secs(6));
    lead(&bay, &clock).await;
    for round in 1..4 {
        append(&memory.client(), 20, 10, 5).await;
        clock.advance(Duration::from_secs(1));
        assert_eq!(bay.audit().seal_now().await.unwrap(), 10, "round {round}");
    }
    assert!(bay.metrics().value(Metric::AuditBroken) > 0);
    let said = verdict(&memory, &clock).await;
    let ahead = |it: &lockbay::audit::Problem| it.problem.contains("ahead of the store");
    assert_eq!(said.problems.iter().filter(|it| ahead(it)).count(), 1, "{said:?}");
    assert_eq!((said.sealed, said.unsealed), (50, 1));
    end(&bay, &clock).await;
}
