//! The store's contract as functions over `&dyn Store`, run on every backend.
//!
//! Each function states one clause and uses keys of its own, so that all may run on one store. A
//! backend that passes [`all`] and the [`differential`] run behaves like [`memory`](super::memory).
//! They panic with what was violated.

// A test kit: it fails by panicking.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod logs;

use std::sync::Arc;
use std::time::Duration;

use super::{
    Commit, Deadline, Fence, Guard, Hint, Key, Kind, MAX_PAGE_BYTES, MAX_VALUE_BYTES, Partition,
    Range, Record, Reply, Revision, Store, Write,
};
use crate::clock::{Clock, Timestamp};
use crate::error::ErrorKind;

const RECORD: Kind = Kind::new("conformance");
const INDEX: Kind = Kind::index("conformance-index");
const DIFFERENTIAL: Kind = Kind::new("differential");
const DIFFERENTIAL_INDEX: Kind = Kind::index("differential-index");
const LONG: Duration = Duration::from_secs(3600);

fn key(id: impl Into<Box<str>>) -> Key {
    Key::new(Partition::FIRST, RECORD, id)
}

fn put(id: &str, value: &str, deadline: Deadline) -> Write {
    Write::Put { key: key(id), value: value.into(), deadline }
}

fn commit(guards: Vec<Guard>, writes: Vec<Write>) -> Commit {
    Commit::new(Partition::FIRST, guards, writes, Vec::new()).unwrap()
}

async fn committed(
    store: &dyn Store,
    guards: Vec<Guard>,
    writes: Vec<Write>,
) -> (Revision, Timestamp) {
    match store.commit(&commit(guards, writes)).await.unwrap() {
        Reply::Committed { revision, now } => (revision, now),
        conflict @ Reply::Conflict { .. } => panic!("refused: {conflict:?}"),
    }
}

async fn refused(store: &dyn Store, guards: Vec<Guard>) -> (usize, Option<Record>) {
    let writes = vec![put("refused", "never", Deadline::Never)];
    match store.commit(&commit(guards, writes)).await.unwrap() {
        Reply::Conflict { guard, found, .. } => (guard, found),
        committed @ Reply::Committed { .. } => panic!("not refused: {committed:?}"),
    }
}

async fn read(store: &dyn Store, id: &str) -> Option<Record> {
    store.get(&[key(id)]).await.unwrap().records.remove(0)
}

/// Waits until the store's clock has passed a deadline; a manual clock is stepped there.
async fn pass(store: &dyn Store, clock: &Clock, deadline: Timestamp) {
    while store.ping().await.unwrap().now <= deadline {
        match format!("{clock:?}").as_str() {
            "Clock::Manual" => clock.advance(Duration::from_millis(1)),
            _ => clock.sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Every clause.
pub async fn all(store: &dyn Store, clock: &Clock) {
    a_put_is_read_back_with_its_revision_and_deadline(store).await;
    revisions_grow_and_follow_the_clock(store).await;
    a_refused_commit_writes_nothing_and_shows_what_is_there(store).await;
    every_guard_judges_by_the_stores_clock(store, clock).await;
    a_touch_moves_the_deadline_and_keeps_the_revision(store).await;
    values_are_bytes_and_ids_are_any_text(store).await;
    a_scan_walks_a_prefix_in_byte_order(store).await;
    index_entries_are_seen_by_scans_only(store).await;
    a_page_of_large_values_ends_early(store, clock).await;
    due_gives_the_longest_passed_first(store, clock).await;
    a_passed_deadline_hides_nothing(store, clock).await;
    a_repeated_commit_is_applied_once(store).await;
    several_commits_are_answered_one_by_one(store).await;
    bad_commits_are_refused_before_they_are_sent(store).await;
    a_hint_wakes_the_watcher(store).await;
    upkeep_counts_and_weighs_what_is_there(store).await;
    upkeep_gives_back_until_there_is_no_more(store).await;
    logs::all(store).await;
}

async fn a_put_is_read_back_with_its_revision_and_deadline(store: &dyn Store) {
    let writes =
        vec![put("put/1", "one", Deadline::Never), put("put/2", "two", Deadline::After(LONG))];
    let (revision, now) = committed(store, vec![], writes).await;
    let one = read(store, "put/1").await.unwrap();
    assert_eq!((one.value.as_slice(), one.revision, one.deadline), (&b"one"[..], revision, None));
    let two = read(store, "put/2").await.unwrap();
    assert_eq!((two.revision, two.deadline), (revision, Some(now + LONG)));
    assert_eq!(two.key, key("put/2"));
    committed(store, vec![], vec![put("put/2", "three", Deadline::Never)]).await;
    let two = read(store, "put/2").await.unwrap();
    assert_eq!((two.value.as_slice(), two.deadline), (&b"three"[..], None), "a put replaces all");
    committed(store, vec![], vec![Write::Delete { key: key("put/2") }]).await;
    assert_eq!(read(store, "put/2").await, None);
    assert_eq!(read(store, "put/never").await, None);
}

async fn revisions_grow_and_follow_the_clock(store: &dyn Store) {
    let mut last = Revision::ZERO;
    for _ in 0..50 {
        let (revision, now) =
            committed(store, vec![], vec![put("revision", "x", Deadline::Never)]).await;
        assert!(revision > last, "{revision} after {last}");
        assert!(
            revision.number() >= now.as_micros(),
            "{revision} is before the store's time {now:?}"
        );
        last = revision;
    }
}

async fn a_refused_commit_writes_nothing_and_shows_what_is_there(store: &dyn Store) {
    committed(store, vec![], vec![put("guard", "there", Deadline::Never)]).await;
    let holds = Guard::Absent(key("nothing"));
    let (at, found) = refused(store, vec![holds, Guard::Absent(key("guard"))]).await;
    assert_eq!(at, 1, "the second guard was the one");
    assert_eq!(found, read(store, "guard").await, "the conflict shows the record as it is");
    let (at, found) =
        refused(store, vec![Guard::RevisionIs(key("nothing"), Revision::new(5))]).await;
    assert_eq!((at, found), (0, None));
    assert_eq!(read(store, "refused").await, None, "a refused commit wrote something");
}

async fn every_guard_judges_by_the_stores_clock(store: &dyn Store, clock: &Clock) {
    let lease = key("clock");
    let fence = |token| Guard::Held(Fence { key: key("clock"), token });
    let ttl = Deadline::After(Duration::from_millis(40));
    let writes = vec![put("clock", "lease", ttl)];
    let (token, now) = committed(store, vec![Guard::Lapsed(lease.clone())], writes).await;
    committed(store, vec![Guard::RevisionIs(lease.clone(), token)], vec![]).await;
    let other = Revision::new(token.number() + 1);
    assert_eq!(refused(store, vec![fence(other)]).await.0, 0);
    pass(store, clock, now + Duration::from_millis(40)).await;
    refused(store, vec![fence(token)]).await;
    committed(store, vec![Guard::RevisionIs(lease.clone(), token)], vec![]).await;
    committed(
        store,
        vec![Guard::Lapsed(lease.clone())],
        vec![put("clock", "next", Deadline::After(LONG))],
    )
    .await;
    refused(store, vec![fence(token)]).await;
    refused(store, vec![Guard::Lapsed(lease.clone())]).await;
    committed(store, vec![], vec![put("clock", "for ever", Deadline::Never)]).await;
    refused(store, vec![Guard::Lapsed(lease)]).await;
}

async fn a_touch_moves_the_deadline_and_keeps_the_revision(store: &dyn Store) {
    let writes = vec![put("touch", "x", Deadline::After(LONG))];
    let (token, _) = committed(store, vec![], writes).await;
    let touch = |id: &str, ttl| Write::Touch { key: key(id), ttl };
    let held = Guard::Held(Fence { key: key("touch"), token });
    let (_, now) = committed(store, vec![held.clone()], vec![touch("touch", LONG * 2)]).await;
    let record = read(store, "touch").await.unwrap();
    assert_eq!((record.revision, record.deadline), (token, Some(now + LONG * 2)));
    assert_eq!(record.value, b"x");
    committed(store, vec![held], vec![touch("touch/nothing", LONG)]).await;
    assert_eq!(read(store, "touch/nothing").await, None, "a touch created something");
}

async fn values_are_bytes_and_ids_are_any_text(store: &dyn Store) {
    let all: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for id in ["text/ü €/\u{1f600}", "text/{braces}*?[x]", "text/%_'\";--", "text/\n\t\u{1}"] {
        let write = Write::Put { key: key(id), value: all.clone(), deadline: Deadline::Never };
        committed(store, vec![Guard::Absent(key(id))], vec![write]).await;
        assert_eq!(read(store, id).await.unwrap().value, all, "{id:?}");
    }
    let page = store.scan(&Range::new(Partition::FIRST, RECORD, "text/%"), 10).await.unwrap();
    assert_eq!(page.records.len(), 1, "a prefix is no pattern");
}

async fn a_scan_walks_a_prefix_in_byte_order(store: &dyn Store) {
    let ids = ["scan/a", "scan/a/b", "scan/b", "scan/ü", "scan/\u{10ffff}", "scan/~", "scan"];
    let writes = ids.iter().map(|id| put(id, "x", Deadline::Never)).collect();
    committed(store, vec![], writes).await;
    let mut expected: Vec<&str> = ids[..6].to_vec();
    expected.sort_unstable();
    let mut walked = Vec::new();
    let mut after = None;
    loop {
        let range = Range::new(Partition::FIRST, RECORD, "scan/").after(after);
        let page = store.scan(&range, 2).await.unwrap();
        assert!(page.records.len() <= 2);
        walked.extend(page.records.iter().map(|record| record.key.id.to_string()));
        assert!(page.records.iter().all(|record| record.value == b"x"));
        if !page.more {
            break;
        }
        after = walked.last().cloned();
    }
    assert_eq!(walked, expected);
}

async fn index_entries_are_seen_by_scans_only(store: &dyn Store) {
    let entry = Key::new(Partition::FIRST, INDEX, "entry");
    committed(store, vec![], vec![Write::Mark { key: entry.clone() }]).await;
    committed(store, vec![], vec![Write::Mark { key: entry.clone() }]).await;
    let page = store.scan(&Range::new(Partition::FIRST, INDEX, ""), 10).await.unwrap();
    let expected =
        Record { key: entry.clone(), value: Vec::new(), revision: Revision::ZERO, deadline: None };
    assert_eq!(page.records, vec![expected]);
    assert_eq!(store.get(std::slice::from_ref(&entry)).await.unwrap().records, vec![None]);
    committed(store, vec![Guard::Absent(entry.clone())], vec![Write::Delete { key: entry }]).await;
    let page = store.scan(&Range::new(Partition::FIRST, INDEX, ""), 10).await.unwrap();
    assert_eq!(page.records, vec![]);
    let (record, entry) = (key("mixed"), Key::new(Partition::FIRST, INDEX, "mixed"));
    let value = b"x".to_vec();
    for mixed in [
        Write::Mark { key: record },
        Write::Put { key: entry.clone(), value, deadline: Deadline::Never },
        Write::Touch { key: entry.clone(), ttl: LONG },
        Write::Append { key: entry, line: b"x".to_vec() },
    ] {
        let error = Commit::new(Partition::FIRST, vec![], vec![mixed], vec![]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

async fn a_page_of_large_values_ends_early(store: &dyn Store, clock: &Clock) {
    const LARGE: Kind = Kind::new("conformance-large");
    let at = |n: u32| Key::new(Partition::FIRST, LARGE, n.to_string());
    let third = MAX_PAGE_BYTES / 3 + 1;
    // Six that fill two pages of three, and one that fills a page alone.
    let sizes = [third, third, third, third, third, third, MAX_VALUE_BYTES, 1];
    let mut last = Timestamp::from_micros(0);
    for (n, size) in (0..).zip(sizes) {
        let deadline = Deadline::After(Duration::from_millis(1));
        let write = Write::Put { key: at(n), value: vec![b'x'; size], deadline };
        last = committed(store, vec![], vec![write]).await.1;
    }
    let (mut lengths, mut after) = (Vec::new(), None);
    loop {
        let range = Range::new(Partition::FIRST, LARGE, "").after(after);
        let page = store.scan(&range, 100).await.unwrap();
        lengths.push(page.records.len());
        after = page.records.last().map(|record| record.key.id.to_string());
        if !page.more {
            break;
        }
    }
    assert_eq!(lengths, [3, 3, 1, 1], "a page ends with the record that fills it");
    pass(store, clock, last + Duration::from_millis(1)).await;
    let mut lengths = Vec::new();
    loop {
        let page = store.due(Partition::FIRST, LARGE, 100).await.unwrap();
        lengths.push(page.records.len());
        let writes = page.records.into_iter().map(|record| Write::Delete { key: record.key });
        committed(store, vec![], writes.collect()).await;
        if !page.more {
            break;
        }
    }
    assert_eq!(lengths, [3, 3, 1, 1], "what is due comes in pages of the same size");
    for n in 0..3 {
        let write = Write::Put { key: at(n), value: vec![b'x'; third], deadline: Deadline::Never };
        committed(store, vec![], vec![write]).await;
    }
    let page = store.scan(&Range::new(Partition::FIRST, LARGE, ""), 3).await.unwrap();
    assert_eq!((page.records.len(), page.more), (3, false), "full, and there is no more");
    committed(store, vec![], (0..3).map(|n| Write::Delete { key: at(n) }).collect()).await;
}

async fn due_gives_the_longest_passed_first(store: &dyn Store, clock: &Clock) {
    const DUE: Kind = Kind::new("conformance-due");
    let due = |id: &str, ttl: u64| Write::Put {
        key: Key::new(Partition::FIRST, DUE, id),
        value: b"x".to_vec(),
        deadline: Deadline::After(Duration::from_millis(ttl)),
    };
    let writes = vec![due("b", 20), due("a", 20), due("c", 10), due("later", 3_600_000)];
    let (_, now) = committed(store, vec![], writes).await;
    pass(store, clock, now + Duration::from_millis(20)).await;
    let ids = |records: &[Record]| -> Vec<String> {
        records.iter().map(|record| record.key.id.to_string()).collect()
    };
    let page = store.due(Partition::FIRST, DUE, 10).await.unwrap();
    assert_eq!((ids(&page.records), page.more), (vec!["c".into(), "a".into(), "b".into()], false));
    let page = store.due(Partition::FIRST, DUE, 2).await.unwrap();
    assert_eq!((page.records.len(), page.more), (2, true));
    let touch = Write::Touch { key: Key::new(Partition::FIRST, DUE, "c"), ttl: LONG };
    let delete = Write::Delete { key: Key::new(Partition::FIRST, DUE, "a") };
    committed(store, vec![], vec![touch, delete]).await;
    let page = store.due(Partition::FIRST, DUE, 10).await.unwrap();
    assert_eq!(ids(&page.records), vec!["b".to_string()]);
}

async fn a_passed_deadline_hides_nothing(store: &dyn Store, clock: &Clock) {
    let ttl = Duration::from_millis(5);
    let (_, now) = committed(store, vec![], vec![put("passed", "x", Deadline::After(ttl))]).await;
    pass(store, clock, now + ttl).await;
    assert!(read(store, "passed").await.is_some(), "unfinished work never expires");
    refused(store, vec![Guard::Absent(key("passed"))]).await;
}

async fn a_repeated_commit_is_applied_once(store: &dyn Store) {
    committed(store, vec![], vec![put("repeat", "0", Deadline::Never)]).await;
    let blind = commit(vec![], vec![put("repeat", "1", Deadline::Never)]);
    let first = store.commit(&blind).await.unwrap();
    committed(store, vec![], vec![put("repeat", "2", Deadline::Never)]).await;
    assert_eq!(store.commit(&blind).await.unwrap(), first, "the first answer is given again");
    assert_eq!(read(store, "repeat").await.unwrap().value, b"2", "it was applied twice");
    let guarded = commit(
        vec![Guard::Absent(key("repeat/new"))],
        vec![put("repeat/new", "x", Deadline::Never)],
    );
    let first = store.commit(&guarded).await.unwrap();
    assert_eq!(store.commit(&guarded).await.unwrap(), first);
}

async fn several_commits_are_answered_one_by_one(store: &dyn Store) {
    let absent =
        |id: &str| commit(vec![Guard::Absent(key(id))], vec![put(id, "x", Deadline::Never)]);
    let commits = [absent("many/1"), absent("many/1"), absent("many/2")];
    let replies = store.commit_all(&commits).await;
    assert!(matches!(replies[0], Ok(Reply::Committed { .. })), "{replies:?}");
    assert!(matches!(replies[1], Ok(Reply::Conflict { .. })), "{replies:?}");
    assert!(matches!(replies[2], Ok(Reply::Committed { .. })), "{replies:?}");
    assert!(store.commit_all(&[]).await.is_empty());
}

async fn bad_commits_are_refused_before_they_are_sent(store: &dyn Store) {
    let long = "x".repeat(super::MAX_KEY_BYTES + 1);
    let writes = [
        put("", "x", Deadline::Never),
        put(&long, "x", Deadline::Never),
        put("empty", "", Deadline::Never),
        Write::Mark { key: Key::new(Partition(7), INDEX, "elsewhere") },
    ];
    for write in writes {
        let refused = Commit::new(Partition::FIRST, vec![], vec![write], vec![]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
    let longest = "y".repeat(super::MAX_KEY_BYTES);
    committed(store, vec![], vec![put(&longest, "x", Deadline::Never)]).await;
    assert!(read(store, &longest).await.is_some());
}

async fn a_hint_wakes_the_watcher(store: &dyn Store) {
    let mut hints = store.watch(&Range::new(Partition::FIRST, RECORD, "hint/")).await.unwrap();
    for round in 0..3 {
        let id = format!("hint/{round}");
        let writes = vec![put(&id, "x", Deadline::Never)];
        let commit = Commit::new(Partition::FIRST, vec![], writes, vec![key(id.as_str())]).unwrap();
        store.commit(&commit).await.unwrap();
        match hints.next().await {
            Hint::Key(hinted) => assert!(hinted.id.starts_with("hint/"), "{hinted}"),
            Hint::Anything => {}
        }
    }
}

async fn upkeep_counts_and_weighs_what_is_there(store: &dyn Store) {
    const UPKEEP: Kind = Kind::new("conformance-upkeep");
    const ENTRIES: Kind = Kind::index("conformance-upkeep-list");
    let upkeep = store.upkeep();
    let at = |id: &str| {
        let kind = if id == "entry" { ENTRIES } else { UPKEEP };
        Key::new(Partition::FIRST, kind, id)
    };
    let put = |id: &str, bytes: usize| Write::Put {
        key: at(id),
        value: vec![b'x'; bytes],
        deadline: Deadline::After(LONG),
    };
    assert_eq!(upkeep.count(Partition::FIRST, UPKEEP).await.unwrap(), 0);
    let writes = vec![put("small", 1), put("large", 50_000), Write::Mark { key: at("entry") }];
    committed(store, vec![], writes).await;
    assert_eq!(upkeep.count(Partition::FIRST, UPKEEP).await.unwrap(), 2);
    assert_eq!(upkeep.count(Partition::FIRST, ENTRIES).await.unwrap(), 1, "entries count too");
    assert_eq!(upkeep.count(Partition(9), UPKEEP).await.unwrap(), 0);
    let weigh = async |ids: &[&str]| {
        let keys: Vec<Key> = ids.iter().map(|id| at(id)).collect();
        upkeep.weigh(&keys).await.unwrap()
    };
    let (small, large, entry) =
        (weigh(&["small"]).await, weigh(&["large"]).await, weigh(&["entry"]).await);
    assert!((1..1_000).contains(&small), "{small}");
    assert!((50_000..75_000).contains(&large), "{large}");
    assert!((1..=small).contains(&entry), "{entry}");
    let together = weigh(&["small", "nothing", "large", "entry"]).await;
    assert!(together.abs_diff(small + large + entry) <= 3, "rounded: {together}");
    assert_eq!(weigh(&["nothing"]).await, 0);
    assert_eq!(weigh(&[]).await, 0);
    assert!(upkeep.footprint().await.unwrap().used_bytes >= large);
    let delete = |id: &str| Write::Delete { key: at(id) };
    committed(store, vec![], vec![delete("small"), delete("large"), delete("entry")]).await;
    assert_eq!(upkeep.count(Partition::FIRST, UPKEEP).await.unwrap(), 0);
    assert_eq!(weigh(&["small", "large", "entry"]).await, 0);
}

async fn upkeep_gives_back_until_there_is_no_more(store: &dyn Store) {
    for _ in 0..10_000 {
        if !store.upkeep().reclaim().await.unwrap().more {
            return;
        }
    }
    panic!("there is always more to give back");
}

/// What a client of a shared store must do when the store loses data. `lose` empties it or sets it
/// back; `fresh` opens another client of it.
pub async fn a_store_that_loses_data_is_found_out(
    store: &dyn Store,
    lose: impl AsyncFnOnce(),
    fresh: impl AsyncFnOnce() -> Arc<dyn Store>,
) {
    let (before, _) =
        committed(store, vec![], vec![put("lost", "acknowledged", Deadline::Never)]).await;
    lose().await;
    let write = || commit(vec![], vec![put("effect", "x", Deadline::Never)]);
    let error = store.commit(&write()).await.expect_err("an effect on a store that lost data");
    assert_eq!(error.kind(), ErrorKind::RolledBack, "{error}");
    assert_eq!(store.ping().await.unwrap_err().kind(), ErrorKind::RolledBack);
    let newcomer = fresh().await;
    let error = newcomer.commit(&write()).await.expect_err("halted for a newcomer too");
    assert_eq!(error.kind(), ErrorKind::RolledBack, "{error}");
    newcomer.accept().await.unwrap();
    for client in [&*newcomer, store] {
        let reply = client.commit(&write()).await.unwrap();
        let Reply::Committed { revision, .. } = reply else { panic!("{reply:?}") };
        assert!(revision > before, "tokens went back: {revision} after {before}");
        client.ping().await.unwrap();
    }
}

/// Runs the same random commits, reads and scans on a store and on the oracle, and compares every
/// answer but for times and revisions, which are compared by order.
pub async fn differential(store: &dyn Store, oracle: &dyn Store, seed: u64, rounds: usize) {
    let dice = Clock::manual(seed);
    let kind = DIFFERENTIAL;
    let space = format!("{seed:x}/");
    let pick = |n: u64| dice.random() % n;
    let any_key = || Key::new(Partition::FIRST, kind, format!("{space}{}", pick(12)));
    // Revisions differ between the stores; each is known by the round that made it.
    let mut ours: Vec<Revision> = vec![Revision::ZERO];
    let mut theirs: Vec<Revision> = vec![Revision::ZERO];
    for round in 0..rounds {
        let context = || format!("seed {seed:#x}, round {round}");
        let place = usize::try_from(pick(u64::try_from(ours.len()).unwrap())).unwrap();
        let recent = pick(2) == 0;
        let place = if recent { ours.len() - 1 } else { place };
        let plan: Vec<(u64, Key)> = (0..pick(3)).map(|_| (pick(4), any_key())).collect();
        let guards = |revisions: &[Revision]| -> Vec<Guard> {
            plan.iter()
                .map(|(which, key)| match which {
                    0 => Guard::Absent(key.clone()),
                    1 => Guard::Lapsed(key.clone()),
                    2 => Guard::RevisionIs(key.clone(), revisions[place]),
                    _ => Guard::Held(Fence { key: key.clone(), token: revisions[place] }),
                })
                .collect()
        };
        let mut writes: Vec<Write> =
            (0..1 + pick(3)).map(|_| random_write(&dice, any_key())).collect();
        writes.extend(logs::some_lines(&dice, &space, round));
        let build = |guards| Commit::new(Partition::FIRST, guards, writes.clone(), vec![]).unwrap();
        let (mine, oracles) = (build(guards(&ours)), build(guards(&theirs)));
        let repeats = 1 + pick(8) / 7;
        for _ in 0..repeats {
            let a = store.commit(&mine).await.unwrap();
            let b = oracle.commit(&oracles).await.unwrap();
            match (&a, &b) {
                (Reply::Committed { revision: a, .. }, Reply::Committed { revision: b, .. }) => {
                    ours.push(*a);
                    theirs.push(*b);
                }
                (
                    Reply::Conflict { guard: a, found: found_a, .. },
                    Reply::Conflict { guard: b, found: found_b, .. },
                ) => {
                    assert_eq!(a, b, "{}", context());
                    let a = found_a.as_ref().map(|found| shape(found, &ours));
                    let b = found_b.as_ref().map(|found| shape(found, &theirs));
                    assert_eq!(a, b, "{}", context());
                }
                (a, b) => panic!("{}: {a:?}, but the oracle says {b:?}", context()),
            }
        }
        if pick(8) == 0 {
            let limit = usize::try_from(1 + pick(12)).unwrap();
            let scanned = if pick(2) == 0 { kind } else { DIFFERENTIAL_INDEX };
            let range = Range::new(Partition::FIRST, scanned, space.as_str());
            let a = store.scan(&range, limit).await.unwrap();
            let b = oracle.scan(&range, limit).await.unwrap();
            let list = |page: &super::Page, revisions: &[Revision]| -> Vec<_> {
                page.records.iter().map(|record| shape(record, revisions)).collect()
            };
            assert_eq!((list(&a, &ours), a.more), (list(&b, &theirs), b.more), "{}", context());
        }
    }
    logs::agree((store, &ours), (oracle, &theirs), &space).await;
}

/// Deadlines in a differential run are far away or long gone, so that the clocks cannot disagree.
fn random_write(dice: &Clock, key: Key) -> Write {
    let entry = |key: Key| Key::new(key.partition, DIFFERENTIAL_INDEX, key.id);
    match dice.random() % 9 {
        7 => Write::Put { key, value: vec![b'x'; 1_000], deadline: Deadline::Never },
        0 => Write::Delete { key },
        1 => Write::Touch { key, ttl: LONG },
        2 => Write::Mark { key: entry(key) },
        6 => Write::Delete { key: entry(key) },
        3 => Write::Put { key, value: b"gone".to_vec(), deadline: Deadline::After(Duration::ZERO) },
        4 => Write::Put { key, value: b"long".to_vec(), deadline: Deadline::After(LONG) },
        _ => Write::Put {
            key,
            value: dice.random().to_be_bytes().to_vec(),
            deadline: Deadline::Never,
        },
    }
}

/// A record without what differs between two stores: when it was written becomes which commit did.
fn shape(record: &Record, revisions: &[Revision]) -> (String, Vec<u8>, Option<usize>, bool) {
    let by = revisions.iter().position(|revision| *revision == record.revision);
    (record.key.to_string(), record.value.clone(), by, record.deadline.is_some())
}
