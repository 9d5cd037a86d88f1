//! Tampering with the audit trail in a store: every change is found, and its place is named.
//!
//! Each test changes the records behind the back of LockBay, and asks an instance that has seen
//! nothing before. What is changed back is whole again, so that it was this change that was found.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/sealed.rs"]
mod sealed;

use std::sync::Arc;
use std::time::Duration;

use lockbay::LockBay;
use lockbay::clock::Clock;
use lockbay::store::memory::{Memory, Snapshot};
use lockbay::store::sqlite::SqliteStore;
use lockbay::store::{Kind, Record, Revision, Store};
use rusqlite::{Connection, params};
use sealed::{CHECKPOINTS, ENTRIES, HEAD, KEYS, append, records, sealed, verdict};

/// Asserts that this change is found, and that something names its place.
async fn found(
    memory: &Arc<Memory>,
    clock: &Clock,
    whole: &Snapshot,
    what: &str,
    change: impl FnOnce(&mut Snapshot),
) {
    let mut changed = whole.clone();
    change(&mut changed);
    memory.restore(&changed);
    let verdict = verdict(memory, clock).await;
    assert!(!verdict.ok && !verdict.problems.is_empty(), "not found: {what}");
    let names = |problem: &lockbay::audit::Problem| {
        problem.revision.is_some()
            || problem.checkpoint.is_some()
            || ["head", "key", "record of a log"].iter().any(|it| problem.problem.contains(it))
    };
    assert!(verdict.problems.iter().any(names), "{what}: {:?}", verdict.problems);
    memory.restore(whole);
}

fn flipped(record: &Record, bit: usize) -> Record {
    let mut record = record.clone();
    record.value[bit / 8] ^= 1 << (bit % 8);
    record
}

#[tokio::test]
async fn every_flipped_bit_of_every_record_of_a_small_trail_is_found() {
    let (clock, memory) = sealed(12, 2, 3).await;
    let whole = memory.snapshot();
    assert!(verdict(&memory, &clock).await.ok);
    let mut flips = 0;
    for kind in [ENTRIES, CHECKPOINTS, HEAD, KEYS] {
        for record in records(&whole, kind) {
            for bit in 0..record.value.len() * 8 {
                let what = format!("bit {bit} of {}", record.key);
                let change = |changed: &mut Snapshot| changed.put(flipped(&record, bit));
                found(&memory, &clock, &whole, &what, change).await;
                flips += 1;
            }
        }
    }
    println!("{flips} flipped bits were found");
    assert!(verdict(&memory, &clock).await.ok);
}

#[tokio::test]
async fn a_flipped_bit_in_any_record_of_five_thousand_entries_is_found() {
    let (clock, memory) = sealed(5_000, 10, 25).await;
    let whole = memory.snapshot();
    let verdict = verdict(&memory, &clock).await;
    assert_eq!((verdict.ok, verdict.entries, verdict.sealed), (true, 5_000, 5_000));
    assert_eq!(verdict.checkpoints, 25);
    for kind in [ENTRIES, CHECKPOINTS, HEAD, KEYS] {
        for (n, record) in records(&whole, kind).into_iter().enumerate() {
            let bit = n * 7_919 % (record.value.len() * 8);
            let what = format!("bit {bit} of {}", record.key);
            found(&memory, &clock, &whole, &what, |changed| changed.put(flipped(&record, bit)))
                .await;
        }
    }
}

#[tokio::test]
async fn dropped_swapped_duplicated_inserted_and_moved_records_are_found() {
    let (clock, memory) = sealed(5_000, 50, 10).await;
    let whole = memory.snapshot();
    for kind in [ENTRIES, CHECKPOINTS, HEAD, KEYS] {
        let all = records(&whole, kind);
        for (n, record) in all.iter().enumerate() {
            let name = record.key.to_string();
            found(&memory, &clock, &whole, &format!("drop {name}"), |changed| {
                changed.remove(&record.key);
            })
            .await;
            let Some(next) = all.get(n + 1) else { continue };
            found(&memory, &clock, &whole, &format!("swap {name}"), |changed| {
                changed.put(Record { value: next.value.clone(), ..record.clone() });
                changed.put(Record { value: record.value.clone(), ..next.clone() });
            })
            .await;
            found(&memory, &clock, &whole, &format!("duplicate {name}"), |changed| {
                changed.put(Record { value: record.value.clone(), ..next.clone() });
            })
            .await;
            if kind == ENTRIES {
                found(&memory, &clock, &whole, &format!("insert behind {name}"), |changed| {
                    changed.put(copy_behind(record));
                })
                .await;
            }
            found(&memory, &clock, &whole, &format!("truncate behind {name}"), |changed| {
                all[n + 1..].iter().for_each(|record| changed.remove(&record.key));
            })
            .await;
        }
    }
}

/// The lines of a record once more, under the next revision: well formed.
fn copy_behind(record: &Record) -> Record {
    let revision = record.revision.number() + 1;
    let mut copy = record.clone();
    copy.revision = Revision::new(revision);
    copy.key.id = format!("all/{revision:016x}").into();
    let text = String::from_utf8(record.value.clone()).unwrap();
    let lines = text.lines().map(|line| format!("{revision:016x}{}\n", &line[16..]));
    copy.value = lines.collect::<String>().into_bytes();
    copy
}

#[tokio::test]
async fn dropped_swapped_duplicated_and_inserted_lines_within_a_record_are_found() {
    let (clock, memory) = sealed(600, 6, 3).await;
    let whole = memory.snapshot();
    for record in records(&whole, ENTRIES) {
        let text = String::from_utf8(record.value.clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for n in 0..lines.len() {
            let mut changes: Vec<(&str, Vec<&str>)> = Vec::new();
            let mut fewer = lines.clone();
            fewer.remove(n);
            changes.push(("drop", fewer));
            let mut more = lines.clone();
            more.insert(n, lines[n]);
            changes.push(("duplicate", more));
            let mut swapped = lines.clone();
            swapped.swap(n, (n + 1) % lines.len());
            changes.push(("swap", swapped));
            changes.push(("truncate", lines[..n].to_vec()));
            for (what, lines) in changes {
                let value: String = lines.iter().map(|line| format!("{line}\n")).collect();
                let what = format!("{what} line {n} of {}", record.key);
                found(&memory, &clock, &whole, &what, |changed| {
                    changed.put(Record { value: value.into_bytes(), ..record.clone() });
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn without_its_checkpoints_and_head_a_sealed_trail_does_not_pass_for_a_new_one() {
    let (clock, memory) = sealed(100, 5, 4).await;
    let whole = memory.snapshot();
    found(&memory, &clock, &whole, "all checkpoints and the head", |changed| {
        for kind in [CHECKPOINTS, HEAD] {
            records(&whole, kind).iter().for_each(|record| changed.remove(&record.key));
        }
    })
    .await;
    found(&memory, &clock, &whole, "everything but the key", |changed| {
        for kind in [CHECKPOINTS, HEAD, ENTRIES] {
            records(&whole, kind).iter().for_each(|record| changed.remove(&record.key));
        }
    })
    .await;
}

#[tokio::test]
async fn a_trail_set_back_as_a_whole_is_found_by_who_has_seen_more() {
    let (clock, memory) = sealed(100, 5, 4).await;
    let witness = LockBay::with_store(sealed::quiet(), Arc::new(memory.client()), clock.clone());
    assert!(witness.audit().verify(lockbay::audit::Thoroughness::Log).await.unwrap().ok);
    let mut set_back = memory.snapshot();
    // The last checkpoint and its entries go, and the head is as it was before it.
    let seals = records(&set_back, CHECKPOINTS);
    let head = records(&set_back, HEAD).remove(0);
    let before = &seals[2];
    let hash = lockbay::audit::hash_of(&before.value);
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let value = format!("{{\"number\":3,\"hash\":\"{digits}\"}}").into_bytes();
    set_back.put(Record { value, ..head });
    set_back.remove(&seals[3].key);
    for record in records(&set_back, ENTRIES).iter().skip(15) {
        set_back.remove(&record.key);
    }
    memory.restore(&set_back);
    assert!(verdict(&memory, &clock).await.ok, "it is of one piece for who has seen nothing");
    let verdict = witness.audit().verify(lockbay::audit::Thoroughness::Log).await.unwrap();
    assert!(verdict.problems.iter().any(|it| it.problem.contains("seen before")), "{verdict:?}");
    let health = witness.health().await;
    assert!(health.issues.iter().any(|issue| issue.starts_with("audit: ")), "{:?}", health.issues);
    assert!(!health.overall_healthy);
}

/// Seals with the system clock, on a file that nobody has open afterwards.
async fn sqlite_trail(path: &std::path::Path, entries: usize) {
    let clock = Clock::system();
    let store = Arc::new(SqliteStore::open(path, "lockbay", clock.clone()).unwrap());
    let bay = LockBay::with_store(sealed::quiet(), store.clone(), clock.clone());
    bay.start();
    while !bay.is_leader() {
        clock.sleep(Duration::from_millis(5)).await;
    }
    for part in 0..10 {
        append(&*store, part * entries / 10, entries / 10, 25).await;
        bay.audit().seal_now().await.unwrap();
    }
    bay.shutdown().await;
    store.close().await;
}

async fn verdict_of_file(path: &std::path::Path) -> lockbay::audit::Verdict {
    let clock = Clock::system();
    let store = Arc::new(SqliteStore::open(path, "lockbay", clock.clone()).unwrap());
    let bay = LockBay::with_store(sealed::quiet(), store.clone(), clock);
    let verdict = bay.audit().verify(lockbay::audit::Thoroughness::Log).await.unwrap();
    bay.shutdown().await;
    store.close().await;
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn tampering_with_the_tables_of_a_sqlite_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    sqlite_trail(&path, 5_000).await;
    let verdict = verdict_of_file(&path).await;
    assert!(verdict.ok, "{:?}", verdict.problems);
    assert_eq!(verdict.entries, 5_000);
    let edit = |sql: &str, kind: Kind| {
        let file = Connection::open(&path).unwrap();
        let changed = file.execute(sql, params![kind.name()]).unwrap();
        assert!(changed > 0, "{sql}");
    };
    let any = "(SELECT number FROM record WHERE kind = ?1 ORDER BY id LIMIT 1)";
    let copies = "CREATE TABLE IF NOT EXISTS kept AS SELECT * FROM record; \
                  CREATE TABLE IF NOT EXISTS kept_keys AS SELECT * FROM key;";
    Connection::open(&path).unwrap().execute_batch(copies).unwrap();
    let back = "DELETE FROM record; INSERT INTO record SELECT * FROM kept; \
                DELETE FROM key; INSERT INTO key SELECT * FROM kept_keys;";
    let flip = "value = CAST(replace(CAST(value AS TEXT), '1', '0') AS BLOB)";
    // A key is 64 random digits of 16, and one in sixty has no 1.
    let first = "CASE substr(CAST(value AS TEXT), 1, 1) WHEN '0' THEN '1' ELSE '0' END";
    let flip_key = format!("value = CAST({first} || substr(CAST(value AS TEXT), 2) AS BLOB)");
    for kind in [ENTRIES, CHECKPOINTS, HEAD, KEYS] {
        let flip = if kind == KEYS { &flip_key } else { flip };
        for sql in [
            format!("UPDATE record SET {flip} WHERE number = {any}"),
            format!(
                "UPDATE record SET value = substr(value, 1, length(value) - 1) WHERE number = {any}"
            ),
            format!("DELETE FROM key WHERE record = {any}"),
        ] {
            edit(&sql, kind);
            let verdict = verdict_of_file(&path).await;
            assert!(!verdict.ok, "not found: {sql} of {}", kind.name());
            Connection::open(&path).unwrap().execute_batch(back).unwrap();
        }
    }
    for sql in [
        format!("UPDATE record SET revision = revision + 1 WHERE number = {any}"),
        format!("UPDATE record SET deadline = 1 WHERE number = {any}"),
        "UPDATE record SET value = (SELECT value FROM kept WHERE kind = ?1 ORDER BY id DESC LIMIT 1) \
         WHERE kind = ?1"
            .into(),
    ] {
        edit(&sql, ENTRIES);
        assert!(!verdict_of_file(&path).await.ok, "not found: {sql}");
        Connection::open(&path).unwrap().execute_batch(back).unwrap();
    }
    assert!(verdict_of_file(&path).await.ok, "put back, it is whole again");
}
