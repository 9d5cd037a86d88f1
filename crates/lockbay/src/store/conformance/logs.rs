//! Clause 9 of the contract, as functions over `&dyn Store`: logs keep their lines in the order of
//! revisions, each line once, in records of bounded size.

use super::{
    Commit, Guard, Key, Kind, Partition, Reply, Revision, Store, Write, committed, refused,
};
use crate::clock::Clock;
use crate::error::ErrorKind;
use crate::store::{MAX_VALUE_BYTES, Range, log};

const LOG: Kind = Kind::new("conformance-log");
/// Above the record size that backends aim at, and one commit.
const MAX_RECORD: usize = 2 * 512 * 1024;

fn log(id: &str) -> Key {
    Key::new(Partition::FIRST, LOG, id)
}

fn append(id: &str, line: impl Into<Vec<u8>>) -> Write {
    Write::Append { key: log(id), line: line.into() }
}

/// Every line of a log behind a revision, walked in pages.
pub(super) async fn walk(
    store: &dyn Store,
    log: &Key,
    after: Revision,
    limit: usize,
) -> Vec<(Revision, Vec<u8>)> {
    let (mut lines, mut range) = (Vec::new(), log::range(log, after));
    loop {
        let page = store.scan(&range, limit).await.unwrap();
        assert!(page.records.len() <= limit);
        for record in &page.records {
            assert!(record.value.len() < MAX_RECORD, "a record of {}", record.value.len());
            let read = log::lines(record).unwrap();
            lines.extend(read.iter().map(|line| (line.revision, line.text.to_vec())));
        }
        if !page.more {
            return lines;
        }
        range = range.after(page.records.last().map(|record| record.key.id.to_string()));
    }
}

/// A log of a differential run.
fn differential(space: &str, which: u64) -> Key {
    Key::new(Partition::FIRST, Kind::new("differential-log"), format!("{space}{which}"))
}

/// Lines that a round of a differential run appends: in most rounds none.
pub(super) fn some_lines(dice: &Clock, space: &str, round: usize) -> Vec<Write> {
    let line = |n| Write::Append {
        key: differential(space, dice.random() % 2),
        line: format!("{round}.{n}").into_bytes(),
    };
    (0..dice.random() % 6 / 3).map(line).collect()
}

/// Asserts that the logs of a differential run are the same in both stores, by the commits that
/// each knows its revisions of.
pub(super) async fn agree(
    (store, ours): (&dyn Store, &[Revision]),
    (oracle, theirs): (&dyn Store, &[Revision]),
    space: &str,
) {
    let numbered = |lines: Vec<(Revision, Vec<u8>)>, known: &[Revision]| -> Vec<_> {
        let number = |at| known.iter().position(|seen| *seen == at);
        lines.into_iter().map(|(at, text)| (number(at), text)).collect()
    };
    for which in 0..2 {
        let log = differential(space, which);
        let mine = numbered(walk(store, &log, Revision::ZERO, 7).await, ours);
        let oracles = numbered(walk(oracle, &log, Revision::ZERO, 7).await, theirs);
        assert_eq!(mine, oracles, "{log}");
    }
}

pub(super) async fn all(store: &dyn Store) {
    lines_are_kept_in_the_order_of_revisions(store).await;
    a_repeated_or_refused_commit_appends_no_second_line(store).await;
    lines_of_concurrent_writers_are_all_there_and_in_order(store).await;
    lines_of_one_batch_are_parted_at_the_size_of_a_record(store).await;
    logs_and_their_readers_do_not_mix(store).await;
    lines_that_cannot_be_kept_are_refused(store).await;
    a_scan_backwards_is_a_scan_turned_round(store).await;
}

async fn lines_are_kept_in_the_order_of_revisions(store: &dyn Store) {
    let mut expected = Vec::new();
    for n in 0..20 {
        let writes = (0..=n % 3).map(|part| append("order", format!("{n}.{part}"))).collect();
        let (revision, _) = committed(store, vec![], writes).await;
        expected.extend((0..=n % 3).map(|part| (revision, format!("{n}.{part}").into_bytes())));
        assert_eq!(walk(store, &log("order"), Revision::ZERO, 3).await, expected);
    }
    let (middle, _) = expected[20];
    let behind: Vec<_> = expected.iter().filter(|(at, _)| *at > middle).cloned().collect();
    assert_eq!(walk(store, &log("order"), middle, 100).await, behind);
    assert_eq!(store.get(&[log("order")]).await.unwrap().records, vec![None]);
}

async fn a_repeated_or_refused_commit_appends_no_second_line(store: &dyn Store) {
    let once = Commit::new(Partition::FIRST, vec![], vec![append("once", "x")], vec![]).unwrap();
    let first = store.commit(&once).await.unwrap();
    committed(store, vec![], vec![append("once", "y")]).await;
    assert_eq!(store.commit(&once).await.unwrap(), first);
    let there = super::key("once/guard");
    let put = super::put("once/guard", "x", super::Deadline::Never);
    committed(store, vec![], vec![put]).await;
    let guards = vec![Guard::Absent(there)];
    let late = Commit::new(Partition::FIRST, guards.clone(), vec![append("once", "z")], vec![]);
    let reply = store.commit(&late.unwrap()).await.unwrap();
    assert!(matches!(reply, Reply::Conflict { .. }), "{reply:?}");
    refused(store, guards).await;
    let texts: Vec<_> = walk(store, &log("once"), Revision::ZERO, 10).await;
    assert_eq!(texts.iter().map(|(_, text)| &**text).collect::<Vec<_>>(), [b"x", b"y"]);
}

async fn lines_of_concurrent_writers_are_all_there_and_in_order(store: &dyn Store) {
    const WRITERS: usize = 8;
    const EACH: usize = 40;
    let writers = (0..WRITERS).map(|writer| async move {
        let mut acknowledged = Vec::new();
        for n in 0..EACH {
            let line = format!("{writer}/{n}");
            let (revision, _) = committed(store, vec![], vec![append("many", line.clone())]).await;
            acknowledged.push((revision, line.into_bytes()));
        }
        acknowledged
    });
    let reader = async {
        let mut before: Vec<(Revision, Vec<u8>)> = Vec::new();
        while before.len() < WRITERS * EACH {
            let now = walk(store, &log("many"), Revision::ZERO, 50).await;
            assert!(now.starts_with(&before), "a line stood before what was read");
            before = now;
        }
    };
    let (acknowledged, ()) = futures_util::join!(futures_util::future::join_all(writers), reader);
    let mut expected: Vec<_> = acknowledged.into_iter().flatten().collect();
    expected.sort();
    assert_eq!(walk(store, &log("many"), Revision::ZERO, 100).await, expected);
}

async fn lines_of_one_batch_are_parted_at_the_size_of_a_record(store: &dyn Store) {
    let text = |n: u8| vec![b'a' + n % 26; log::MAX_LINE_BYTES];
    let commits: Vec<Commit> = (0..40)
        .map(|n| {
            let writes = vec![append("large", text(n)), append("large", text(n))];
            Commit::new(Partition::FIRST, vec![], writes, vec![]).unwrap()
        })
        .collect();
    for reply in store.commit_all(&commits).await {
        assert!(matches!(reply, Ok(Reply::Committed { .. })), "{reply:?}");
    }
    let lines = walk(store, &log("large"), Revision::ZERO, 100).await;
    assert_eq!(lines.len(), 80);
    for pair in lines.chunks(2) {
        assert_eq!(pair[0], pair[1], "the lines of a commit are together");
    }
    let most = log::MAX_COMMIT_BYTES / (log::MAX_LINE_BYTES + 18);
    let writes = (0..most).map(|_| append("huge", text(0))).collect();
    committed(store, vec![], writes).await;
    let page = store.scan(&log::range(&log("huge"), Revision::ZERO), 10).await.unwrap();
    assert_eq!(page.records.len(), 1, "the lines of a commit are never parted");
    assert_eq!(log::lines(&page.records[0]).unwrap().len(), most);
    let key = page.records[0].key.clone();
    committed(store, vec![], vec![Write::Delete { key }]).await;
}

async fn logs_and_their_readers_do_not_mix(store: &dyn Store) {
    let writes = vec![append("two", "a"), append("two/b", "b"), append("twofold", "c")];
    let (revision, _) = committed(store, vec![], writes).await;
    for (id, text) in [("two/b", "b"), ("twofold", "c")] {
        let lines = walk(store, &log(id), Revision::ZERO, 10).await;
        assert_eq!(lines, [(revision, text.as_bytes().to_vec())], "{id}");
    }
    let elsewhere = Key::new(Partition(3), LOG, "two");
    let write = Write::Append { key: elsewhere.clone(), line: b"d".to_vec() };
    let commit = Commit::new(Partition(3), vec![], vec![write], vec![]).unwrap();
    store.commit(&commit).await.unwrap();
    let lines = walk(store, &elsewhere, Revision::ZERO, 10).await;
    assert_eq!(lines.len(), 1, "partitions have logs of their own");
    assert_eq!(lines[0].1, b"d");
}

async fn lines_that_cannot_be_kept_are_refused(store: &dyn Store) {
    let too_long = "x".repeat(log::MAX_LINE_BYTES + 1);
    let long_name = "n".repeat(1_024);
    let bad = [append("bad", ""), append("bad", "a\nb"), append("bad", too_long)];
    let bad = bad.map(|write| vec![write]);
    let much = (0..65).map(|_| append("bad", vec![b'x'; log::MAX_LINE_BYTES])).collect();
    for writes in bad.into_iter().chain([much, vec![append(&long_name, "x")]]) {
        let error = Commit::new(Partition::FIRST, vec![], writes, vec![]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    const { assert!(log::MAX_COMMIT_BYTES + MAX_RECORD < MAX_VALUE_BYTES) };
    assert!(walk(store, &log("bad"), Revision::ZERO, 10).await.is_empty());
    let odd = "é \u{7f}\0 \r\t {\"a\":1}".as_bytes().to_vec();
    let (revision, _) = committed(store, vec![], vec![append("odd", odd.clone())]).await;
    assert_eq!(walk(store, &log("odd"), Revision::ZERO, 10).await, [(revision, odd)]);
}

async fn a_scan_backwards_is_a_scan_turned_round(store: &dyn Store) {
    const BACK: Kind = Kind::index("conformance-back");
    let ids = ["b/1", "b/2", "b/3", "b/\u{10ffff}", "b", "c", "b0", "b/", "a"];
    let at = |id: &str| Key::new(Partition::FIRST, BACK, id);
    committed(store, vec![], ids.map(|id| Write::Mark { key: at(id) }).to_vec()).await;
    for prefix in ["", "b", "b/", "c", "nothing"] {
        let range = Range::new(Partition::FIRST, BACK, prefix);
        let mut forwards = store.scan(&range, 100).await.unwrap().records;
        forwards.reverse();
        let (mut walked, mut range) = (Vec::new(), range.backwards());
        loop {
            let page = store.scan(&range, 2).await.unwrap();
            walked.extend(page.records);
            if !page.more {
                break;
            }
            range = range.after(walked.last().map(|record| record.key.id.to_string()));
        }
        assert_eq!(walked, forwards, "{prefix:?}");
        for outside in ["zzz", "b/2", "\u{0}"] {
            let range = Range::new(Partition::FIRST, BACK, prefix).backwards();
            let found = store.scan(&range.after(Some(outside.into())), 100).await.unwrap().records;
            let expected: Vec<_> =
                forwards.iter().filter(|record| &*record.key.id < outside).cloned().collect();
            assert_eq!(found, expected, "{prefix:?} before {outside:?}");
        }
    }
}
