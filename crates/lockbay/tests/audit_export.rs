//! Exports prove themselves: whatever is changed in the file is found without a store.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "support/sealed.rs"]
mod sealed;

use std::sync::Arc;
use std::time::Duration;

use lockbay::LockBay;
use lockbay::audit::{FileCheck, FileVerdict, PublicKey};
use sealed::{append, sealed};

fn check<'a>(lines: impl IntoIterator<Item = &'a [u8]>, key: Option<PublicKey>) -> FileVerdict {
    let mut check = FileCheck::new(key);
    lines.into_iter().for_each(|line| check.line(line));
    check.finish()
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// An export of so many sealed entries and some that are not sealed, and the key.
async fn exported(entries: usize, seals: usize) -> (Vec<u8>, PublicKey) {
    let (clock, memory) = sealed(entries, 5, seals).await;
    append(&memory.client(), entries, 3, 2).await;
    let bay = LockBay::with_store(sealed::quiet(), Arc::new(memory.client()), clock);
    let mut export = bay.audit().export(None, None).await.unwrap();
    let mut text = Vec::new();
    while let Some(piece) = export.next().await.unwrap() {
        text.extend(piece);
    }
    (text, bay.audit().public_key().await.unwrap().unwrap())
}

#[tokio::test]
async fn every_flipped_bit_of_a_small_export_is_found() {
    let (text, key) = exported(4, 2).await;
    let whole = check(lines(&text), Some(key));
    assert!(whole.verdict.ok, "{:?}", whole.verdict.problems);
    assert_eq!((whole.verdict.entries, whole.verdict.sealed), (7, 4));
    let own = check(lines(&text), None);
    assert!(own.verdict.ok && own.key_is_from_the_file);
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut changed = text.clone();
            changed[at] ^= 1 << bit;
            let verdict = check(lines(&changed), Some(key)).verdict;
            assert!(!verdict.ok, "bit {bit} of byte {at} was not found");
            if bit == at % 8 {
                // By the key that the file names itself, too.
                assert!(!check(lines(&changed), None).verdict.ok, "bit {bit} of byte {at}");
            }
        }
        let cut = check(lines(&text[..at]), Some(key)).verdict;
        assert!(!cut.ok, "cut off behind byte {at}");
    }
    let stranger = PublicKey::parse(&"ab".repeat(32)).unwrap();
    assert!(!check(lines(&text), Some(stranger)).verdict.ok);
}

#[tokio::test]
async fn dropped_swapped_duplicated_inserted_and_missing_lines_of_a_large_export_are_found() {
    let (text, key) = exported(5_000, 10).await;
    let lines = lines(&text);
    let whole = check(lines.iter().copied(), Some(key)).verdict;
    assert_eq!((whole.ok, whole.entries, whole.checkpoints), (true, 5_003, 10));
    // A look over the file for each: LOCKBAY_AUDIT_STEP=1 takes every line, in some minutes.
    let step = std::env::var("LOCKBAY_AUDIT_STEP").ok().and_then(|it| it.parse().ok());
    let step = step.unwrap_or(97);
    let found = |what: &str, n: usize, changed: Vec<&[u8]>| {
        let verdict = check(changed, Some(key)).verdict;
        assert!(!verdict.ok, "{what} line {n} was not found");
        assert!(verdict.problems.iter().any(|it| {
            it.revision.is_some() || it.checkpoint.is_some() || it.problem.starts_with("line ")
        }));
    };
    let seals = (0..lines.len()).filter(|n| lines[*n].starts_with(b"{\"checkpoint\""));
    let ends = [0, 1, lines.len() - 2, lines.len() - 1];
    for n in (0..lines.len()).step_by(step).chain(seals).chain(ends) {
        let mut changed = lines.clone();
        changed.remove(n);
        found("drop", n, changed);
        let mut changed = lines.clone();
        changed.insert(n, lines[n]);
        found("duplicate", n, changed);
        let mut changed = lines.clone();
        changed.swap(n, (n + 1) % lines.len());
        found("swap", n, changed);
        let mut changed = lines.clone();
        changed.insert(n, b"{\"revision\":\"1767225600000009\",\"entry\":{}}\n");
        found("insert", n, changed);
        found("truncate", n, lines[..n].to_vec());
    }
    for n in 0..lines.len() {
        // A file that is cut off has no end, wherever that is.
        assert!(!lines[..n].iter().any(|line| line.starts_with(b"{\"end\":")), "{n}");
    }
}

#[tokio::test]
async fn an_export_of_some_time_begins_and_ends_with_whole_checkpoints() {
    let (clock, memory) = sealed(200, 5, 10).await;
    let bay = LockBay::with_store(sealed::quiet(), Arc::new(memory.client()), clock);
    let all = bay.audit().checkpoints(0, 100).await.unwrap().0;
    let at = |n: usize| lockbay::audit::Checkpoint::decode(&all[n].text).unwrap().first.time();
    let mut export = bay.audit().export(Some(at(3)), Some(at(6))).await.unwrap();
    let mut text = Vec::new();
    while let Some(piece) = export.next().await.unwrap() {
        text.extend(piece);
    }
    let key = bay.audit().public_key().await.unwrap();
    let verdict = check(lines(&text), key).verdict;
    assert!(verdict.ok, "{:?}", verdict.problems);
    assert_eq!((verdict.entries, verdict.checkpoints, verdict.unsealed), (80, 4, 0));
}

/// What an export of this time has, after its check.
async fn of_time(
    bay: &LockBay,
    from: Option<lockbay::clock::Timestamp>,
    until: Option<lockbay::clock::Timestamp>,
) -> (u64, u64, u64) {
    let mut export = bay.audit().export(from, until).await.unwrap();
    let mut text = Vec::new();
    while let Some(piece) = export.next().await.unwrap() {
        text.extend(piece);
    }
    let verdict = check(lines(&text), None).verdict;
    assert!(verdict.ok, "{:?}", verdict.problems);
    (verdict.entries, verdict.sealed, verdict.checkpoints)
}

#[tokio::test]
async fn an_export_from_or_until_beyond_the_last_seal_has_what_lies_there_and_no_more() {
    let (clock, memory) = sealed(100, 5, 5).await;
    let bay = LockBay::with_store(sealed::quiet(), Arc::new(memory.client()), clock.clone());
    clock.advance(Duration::from_secs(60));
    let later = clock.now();
    assert_eq!(of_time(&bay, Some(later), None).await, (0, 0, 0), "nothing is that late");
    append(&memory.client(), 100, 6, 3).await;
    let past = clock.now() + Duration::from_secs(60);
    assert_eq!(of_time(&bay, Some(later), None).await, (6, 0, 0));
    assert_eq!(of_time(&bay, Some(later), Some(past)).await, (0, 0, 0));
    assert_eq!(of_time(&bay, None, Some(past)).await, (100, 100, 5), "only what is sealed");
    assert_eq!(of_time(&bay, None, None).await, (106, 100, 5));
}

#[tokio::test]
async fn an_export_ends_although_a_record_stands_among_checkpoints_that_is_none() {
    let (clock, memory) = sealed(100, 5, 5).await;
    let bay = LockBay::with_store(sealed::quiet(), Arc::new(memory.client()), clock.clone());
    let whole = memory.snapshot();
    let stray = |id: &str| {
        let mut changed = whole.clone();
        let mut record = sealed::records(&whole, sealed::CHECKPOINTS).remove(0);
        record.key.id = id.into();
        changed.put(record);
        changed
    };
    memory.restore(&stray("000000000003x"));
    assert_eq!(of_time(&bay, None, None).await, (100, 100, 5));
    // One that is gone is an error, and no end.
    let mut changed = stray("000000000003x");
    changed.remove(&sealed::records(&whole, sealed::CHECKPOINTS)[2].key);
    memory.restore(&changed);
    let mut export = bay.audit().export(None, None).await.unwrap();
    export.next().await.unwrap_err();
}
