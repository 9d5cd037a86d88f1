//! Keys of the audit trail: how they change, and what nobody can do who has none of them.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/sealed.rs"]
mod sealed;

use std::sync::Arc;
use std::time::Duration;

use lockbay::audit::{AuditQuery, Thoroughness, Verdict, hash_of};
use lockbay::clock::Clock;
use lockbay::config::{Config, Hidden};
use lockbay::error::Result;
use lockbay::metrics::Metric;
use lockbay::store::memory::Memory;
use lockbay::store::{Kind, Record};
use lockbay::{ErrorKind, LockBay};
use sealed::{CHECKPOINTS, ENTRIES, HEAD, KEYS, append, end, lead, quiet, records, sealed};

/// The key of the operator, the one before it, and one that nobody gave.
const OWN: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const OLD: &str = "2222222222222222222222222222222222222222222222222222222222222222";
const STRANGE: &str = "3333333333333333333333333333333333333333333333333333333333333333";

fn instance(memory: &Arc<Memory>, clock: &Clock, key: &str) -> LockBay {
    let config = Config { audit_key: Some(Hidden(key.into())), ..quiet() };
    LockBay::with_store(config, Arc::new(memory.client()), clock.clone())
}

/// An instance with this setting leads, seals four more entries, and ends.
async fn seals(memory: &Arc<Memory>, clock: &Clock, key: &str) -> Result<u64> {
    clock.advance(Duration::from_secs(6));
    let bay = instance(memory, clock, key);
    lead(&bay, clock).await;
    append(&memory.client(), 500, 4, 4).await;
    let sealed = bay.audit().seal_now().await;
    if let Err(error) = &sealed {
        assert!(error.to_string().contains("nothing is sealed"), "{error}");
        assert!(bay.metrics().value(Metric::AuditBroken) > 0);
    }
    end(&bay, clock).await;
    sealed
}

async fn verdict(memory: &Arc<Memory>, clock: &Clock, key: &str) -> Verdict {
    instance(memory, clock, key).audit().verify(Thoroughness::Log).await.unwrap()
}

fn empty() -> (Clock, Arc<Memory>) {
    let clock = Clock::manual(9);
    let memory = Memory::new(clock.clone());
    (clock, memory)
}

#[tokio::test]
async fn a_trail_with_a_key_of_its_own_from_the_beginning_is_vouched_for_from_the_first_seal() {
    let (clock, memory) = empty();
    assert_eq!(seals(&memory, &clock, OWN).await.unwrap(), 4);
    let said = verdict(&memory, &clock, OWN).await;
    assert!(said.ok, "{:?}", said.problems);
    assert!(said.key_outside_of_store);
    assert_eq!((said.vouched_from, said.sealed), (Some(1), 4));
}

#[tokio::test]
async fn a_key_changes_on_one_instance_after_the_other() {
    let (clock, memory) = empty();
    assert_eq!(seals(&memory, &clock, OLD).await.unwrap(), 4);
    let (both, new_first) = (format!("{OLD},{OWN}"), format!("{OWN},{OLD}"));
    for key in [both.as_str(), &new_first, &both, &new_first, &both, &new_first, OWN, OWN] {
        assert_eq!(seals(&memory, &clock, key).await.unwrap(), 4, "{key}");
        let said = verdict(&memory, &clock, key).await;
        assert!(said.ok, "{key}: {:?}", said.problems);
        assert_eq!(said.unsealed, 0);
    }
    let said = verdict(&memory, &clock, OWN).await;
    assert_eq!(said.vouched_from, Some(3), "the hand-over is signed by the new key, too");
}

#[tokio::test]
async fn a_leader_without_the_key_that_follows_seals_nothing_and_entries_wait() {
    let (clock, memory) = empty();
    seals(&memory, &clock, OLD).await.unwrap();
    seals(&memory, &clock, &format!("{OWN},{OLD}")).await.unwrap();
    let whole = records(&memory.snapshot(), CHECKPOINTS);
    let without = [OLD.to_owned(), STRANGE.into(), format!("{STRANGE},{OLD}"), "no key".into()];
    for key in &without {
        assert_eq!(seals(&memory, &clock, key).await.unwrap_err().kind(), ErrorKind::Internal);
    }
    assert_eq!(records(&memory.snapshot(), CHECKPOINTS), whole);
    let waiting = 4 * without.len() as u64;
    assert_eq!(verdict(&memory, &clock, OWN).await.unsealed, waiting);
    assert_eq!(seals(&memory, &clock, OWN).await.unwrap(), waiting + 4);
    let said = verdict(&memory, &clock, OWN).await;
    assert!(said.ok, "{:?}", said.problems);
}

#[tokio::test]
async fn a_setting_that_is_no_key_does_not_mean_the_key_of_the_store() {
    let (clock, memory) = empty();
    seals(&memory, &clock, "hush").await.unwrap_err();
    assert!(records(&memory.snapshot(), KEYS).is_empty());
    assert!(records(&memory.snapshot(), CHECKPOINTS).is_empty());
}

#[tokio::test]
async fn the_key_of_the_store_gives_way_only_if_the_setting_says_so() {
    let (clock, memory) = sealed(20, 4, 2).await;
    let refused = seals(&memory, &clock, OWN).await.unwrap_err().to_string();
    assert!(refused.contains("`store`"), "{refused}");
    assert_eq!(seals(&memory, &clock, &format!("{OWN},store")).await.unwrap(), 8);
    assert_eq!(seals(&memory, &clock, OWN).await.unwrap(), 4);
    let said = verdict(&memory, &clock, OWN).await;
    assert!(said.ok, "{:?}", said.problems);
    assert_eq!(said.vouched_from, Some(3), "not before the key of the store gave way");
}

#[tokio::test]
async fn a_damaged_key_of_the_store_is_told_and_nothing_is_sealed_with_another() {
    let (clock, memory) = sealed(20, 4, 2).await;
    let mut changed = memory.snapshot();
    for mut record in records(&changed, KEYS) {
        if &*record.key.id == "made" {
            record.value = b"?".to_vec();
            changed.put(record);
        }
    }
    memory.restore(&changed);
    let bay = LockBay::with_store(quiet(), Arc::new(memory.client()), clock.clone());
    clock.advance(Duration::from_secs(6));
    lead(&bay, &clock).await;
    append(&memory.client(), 40, 4, 4).await;
    let refused = bay.audit().seal_now().await.unwrap_err().to_string();
    assert!(refused.contains("key in the store is damaged"), "{refused}");
    assert!(bay.metrics().value(Metric::AuditBroken) > 0);
    assert_eq!(records(&memory.snapshot(), CHECKPOINTS).len(), 2);
}

/// A trail that somebody made with a key of their own, as far as it goes, in place of another.
async fn forge(memory: &Arc<Memory>, clock: &Clock, key: &str) {
    let mut snapshot = memory.snapshot();
    for kind in [CHECKPOINTS, HEAD, ENTRIES, KEYS, Kind::new("lease")] {
        records(&snapshot, kind).iter().for_each(|record| snapshot.remove(&record.key));
    }
    memory.restore(&snapshot);
    seals(memory, clock, key).await.unwrap();
}

#[tokio::test]
async fn a_trail_forged_with_a_throwaway_key_is_neither_believed_nor_gone_on_from() {
    let (clock, memory) = empty();
    seals(&memory, &clock, OWN).await.unwrap();
    let real = instance(&memory, &clock, OWN).audit().public_key().await.unwrap().unwrap();
    forge(&memory, &clock, STRANGE).await;
    assert!(!verdict(&memory, &clock, OWN).await.ok);
    seals(&memory, &clock, OWN).await.unwrap_err();
    // The forger names the real key to follow. Without that key's agreement it is worth nothing:
    // another key's signature takes its place.
    forge(&memory, &clock, &format!("{OLD},{STRANGE}")).await;
    seals(&memory, &clock, STRANGE).await.unwrap_err();
    forge(&memory, &clock, STRANGE).await;
    seals(&memory, &clock, &format!("{OLD},{STRANGE}")).await.unwrap();
    let mut snapshot = memory.snapshot();
    let mut last = records(&snapshot, CHECKPOINTS).pop().unwrap();
    let text = String::from_utf8(last.value.clone()).unwrap();
    let old = instance(&memory, &clock, OLD).audit().public_key().await.unwrap().unwrap();
    last.value = text.replace(&old.to_string(), &real.to_string()).into_bytes();
    put_last(&mut snapshot, last);
    memory.restore(&snapshot);
    let said = verdict(&memory, &clock, OWN).await;
    assert!(said.problems.iter().any(|it| it.problem.contains("nothing is signed by key")));
    assert!(said.problems.iter().any(|it| it.problem.contains("its signature")), "{said:?}");
    assert_eq!(said.vouched_from, None);
}

fn put_last(snapshot: &mut lockbay::store::memory::Snapshot, last: Record) {
    let digits: String = hash_of(&last.value).iter().map(|it| format!("{it:02x}")).collect();
    let mut head = records(snapshot, HEAD).remove(0);
    head.value = format!("{{\"number\":2,\"hash\":\"{digits}\"}}").into_bytes();
    snapshot.put(head);
    snapshot.put(last);
}

#[tokio::test]
async fn a_checkpoint_that_names_a_key_without_its_agreement_is_not_signed() {
    let (clock, memory) = empty();
    seals(&memory, &clock, OLD).await.unwrap();
    seals(&memory, &clock, &format!("{OWN},{OLD}")).await.unwrap();
    let text =
        String::from_utf8(records(&memory.snapshot(), CHECKPOINTS)[1].value.clone()).unwrap();
    let decode = |text: &str| lockbay::audit::Checkpoint::decode(text.as_bytes()).unwrap();
    assert!(decode(&text).is_signed());
    let (before, rest) = text.split_once(",\"next_signature\":\"").unwrap();
    let (signature, rest) = rest.split_once('"').unwrap();
    assert!(!decode(&format!("{before}{rest}")).is_signed());
    let zeros = "0".repeat(signature.len());
    assert!(!decode(&text.replace(signature, &zeros)).is_signed());
}

#[tokio::test]
async fn a_key_that_is_put_into_the_store_does_not_sign_for_a_key_of_ones_own() {
    let (clock, memory) = empty();
    seals(&memory, &clock, OWN).await.unwrap();
    // Somebody forges a trail, and leaves the key of it where the one of the store stands.
    let mut snapshot = memory.snapshot();
    for kind in [CHECKPOINTS, HEAD, ENTRIES, KEYS, Kind::new("lease")] {
        records(&snapshot, kind).iter().for_each(|record| snapshot.remove(&record.key));
    }
    memory.restore(&snapshot);
    clock.advance(Duration::from_secs(6));
    let forger = LockBay::with_store(quiet(), Arc::new(memory.client()), clock.clone());
    lead(&forger, &clock).await;
    append(&memory.client(), 0, 12, 3).await;
    forger.audit().seal_now().await.unwrap();
    end(&forger, &clock).await;
    let whole = records(&memory.snapshot(), CHECKPOINTS);
    seals(&memory, &clock, OWN).await.unwrap_err();
    assert_eq!(records(&memory.snapshot(), CHECKPOINTS), whole, "no real key goes on behind it");
    let said = verdict(&memory, &clock, OWN).await;
    assert!(!said.ok && said.vouched_from.is_none(), "{said:?}");
    let entries = instance(&memory, &clock, OWN).audit().entries(&AuditQuery::default(), 99).await;
    assert_eq!(entries.unwrap().items.len(), 16, "it is still shown");
}
