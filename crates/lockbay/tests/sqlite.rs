//! What the SQLite store promises beyond the common contract: one file shared by many, settings
//! that are as they should be, and no loss that goes unnoticed.
//!
//! Two stores of one process on one file are to SQLite what two processes are, so most tests of
//! sharing use those. The crash test kills a real process.

#![cfg(feature = "sqlite")]
#![allow(clippy::cast_possible_truncation)] // indices drawn by dice

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::store::memory::MemoryStore;
use lockbay::store::sqlite::SqliteStore;
use lockbay::store::{
    Commit, Deadline, Fence, Guard, Hint, Key, Kind, Partition, Range, Record, Reply, Revision,
    Store, Write,
};
use lockbay::{Error, ErrorKind};
use rusqlite::Connection;
use tempfile::TempDir;

const LEASE: Kind = Kind::new("lease");
const INDEX: Kind = Kind::index("index");
/// Longer than anything here takes; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

fn lease(id: &str) -> Key {
    Key::new(Partition::FIRST, LEASE, id)
}

fn put(id: &str, value: &str) -> Write {
    Write::Put { key: lease(id), value: value.into(), deadline: Deadline::Never }
}

fn commit(guards: Vec<Guard>, writes: Vec<Write>) -> Commit {
    let hints = writes.iter().map(|write| write.key().clone()).collect();
    Commit::new(Partition::FIRST, guards, writes, hints).expect("within the limits")
}

async fn committed(store: &SqliteStore, commit: &Commit) -> Revision {
    match store.commit(commit).await.expect("a reply") {
        Reply::Committed { revision, .. } => revision,
        conflict @ Reply::Conflict { .. } => panic!("{conflict:?}"),
    }
}

async fn refused(store: &SqliteStore) -> Error {
    let one = commit(vec![], vec![put("refused", "x")]);
    let error = store.commit(&one).await.expect_err("effects must be halted");
    assert_eq!(error.kind(), ErrorKind::RolledBack, "{error}");
    error
}

async fn read(store: &SqliteStore, id: &str) -> Option<Record> {
    store.get(&[lease(id)]).await.expect("a read").records.remove(0)
}

/// A directory with a store's file in it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Place { directory: TempDir::new().expect("a directory") }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("deep/er/lockbay.db")
    }

    fn open(&self) -> SqliteStore {
        self.open_at(Clock::system())
    }

    fn open_at(&self, clock: Clock) -> SqliteStore {
        SqliteStore::open(&self.path(), "test", clock).expect("a store")
    }

    /// Removes the database and leaves the floor file.
    fn remove(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", self.path().display()));
        }
    }
}

fn opening(path: &Path) -> Error {
    SqliteStore::open(path, "test", Clock::system()).expect_err("must be refused")
}

#[tokio::test]
async fn a_commit_is_there_for_whoever_opens_the_file_next() {
    let place = Place::new();
    let store = place.open();
    let revision = committed(&store, &commit(vec![], vec![put("a", "1")])).await;
    store.close().await;
    assert_eq!(store.ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.get(&[lease("a")]).await.unwrap_err().kind(), ErrorKind::Unavailable);
    store.close().await;

    let store = place.open();
    let found = read(&store, "a").await.unwrap();
    assert_eq!((found.value, found.revision, found.deadline), (b"1".to_vec(), revision, None));
    assert_eq!(read(&store, "b").await, None);
    let other = SqliteStore::open(&place.path(), "other", Clock::system()).unwrap();
    assert_eq!(read(&other, "a").await, None, "a namespace sees only its own");
    assert!(store.ping().await.unwrap().revision >= revision);
}

#[tokio::test]
async fn a_guard_that_fails_writes_nothing_and_tells_what_is_there() {
    let place = Place::new();
    let store = place.open();
    let first = committed(&store, &commit(vec![], vec![put("a", "1")])).await;
    let both = vec![Guard::Absent(lease("b")), Guard::Absent(lease("a"))];
    let reply = store.commit(&commit(both, vec![put("b", "2"), put("a", "2")])).await.unwrap();
    let Reply::Conflict { guard: 1, found: Some(found), .. } = reply else { panic!("{reply:?}") };
    assert_eq!((found.value.as_slice(), found.revision), (b"1".as_slice(), first));
    assert_eq!(read(&store, "b").await, None);

    let stale = Guard::Held(Fence { key: lease("a"), token: Revision::new(1) });
    let reply = store.commit(&commit(vec![stale], vec![put("a", "3")])).await.unwrap();
    assert!(matches!(reply, Reply::Conflict { guard: 0, .. }), "{reply:?}");
}

#[tokio::test]
async fn a_lapsed_lease_is_due_and_may_be_taken_and_a_touch_keeps_its_token() {
    let place = Place::new();
    let clock = Clock::manual(1);
    let store = place.open_at(clock.clone());
    let key = lease("a");
    let ttl = Deadline::After(Duration::from_secs(5));
    let take = |value: &str| {
        let write = Write::Put { key: key.clone(), value: value.into(), deadline: ttl };
        commit(vec![Guard::Lapsed(key.clone())], vec![write])
    };
    let token = committed(&store, &take("me")).await;
    assert!(matches!(store.commit(&take("you")).await.unwrap(), Reply::Conflict { .. }));
    clock.advance(Duration::from_secs(4));
    let held = Guard::Held(Fence { key: key.clone(), token });
    let touch = Write::Touch { key: key.clone(), ttl: Duration::from_secs(5) };
    committed(&store, &commit(vec![held.clone()], vec![touch])).await;
    assert_eq!(read(&store, "a").await.unwrap().revision, token);
    clock.advance(Duration::from_secs(4));
    assert!(store.due(Partition::FIRST, LEASE, 10).await.unwrap().records.is_empty());
    clock.advance(Duration::from_secs(1));
    assert_eq!(store.due(Partition::FIRST, LEASE, 10).await.unwrap().records.len(), 1);
    let late = store.commit(&commit(vec![held], vec![put("b", "x")])).await.unwrap();
    assert!(matches!(late, Reply::Conflict { .. }), "{late:?}");
    assert!(committed(&store, &take("you")).await > token);
}

#[tokio::test]
async fn a_scan_gives_the_prefix_in_byte_order_page_by_page_with_index_entries() {
    let place = Place::new();
    let store = place.open();
    let mark = |id: &str| Write::Mark { key: Key::new(Partition::FIRST, INDEX, id) };
    let ids = ["a", "b/1", "b/2", "b/ä", "b/\u{10ffff}", "b0", "c"];
    committed(&store, &commit(vec![], ids.iter().map(|id| mark(id)).collect())).await;
    let names = |records: &[Record]| -> Vec<String> {
        records.iter().map(|record| record.key.id.to_string()).collect()
    };
    let range = Range::new(Partition::FIRST, INDEX, "b/");
    let first = store.scan(&range, 2).await.unwrap();
    assert_eq!((names(&first.records), first.more), (vec!["b/1".into(), "b/2".into()], true));
    assert!(first.records.iter().all(|r| r.value.is_empty() && r.revision == Revision::ZERO));
    let rest = store.scan(&range.after(Some("b/2".into())), 2).await.unwrap();
    assert_eq!((names(&rest.records), rest.more), (vec![ids[3].into(), ids[4].into()], false));
    let all = store.scan(&Range::new(Partition::FIRST, INDEX, ""), 1_000_000).await.unwrap();
    assert_eq!(names(&all.records), ids);
    let entry = store.get(&[Key::new(Partition::FIRST, INDEX, "a")]).await.unwrap();
    assert_eq!(entry.records, [None], "an index entry is seen by scans only");
}

#[tokio::test]
async fn a_repeated_commit_is_applied_once() {
    let place = Place::new();
    let store = place.open();
    let one = commit(vec![Guard::Absent(lease("a"))], vec![put("a", "1")]);
    let replies = store.commit_all(&[one.clone(), one.clone()]).await;
    let replies: Vec<Reply> = replies.into_iter().map(Result::unwrap).collect();
    assert!(matches!(replies[0], Reply::Committed { .. }));
    assert_eq!(replies[0], replies[1]);
    assert_eq!(store.commit(&one).await.unwrap(), replies[0]);
}

#[tokio::test]
async fn a_hint_reaches_watchers_of_the_same_and_of_another_process() {
    let place = Place::new();
    let (here, there) = (place.open(), place.open());
    let range = Range::new(Partition::FIRST, LEASE, "w");
    let mut near = here.watch(&range).await.unwrap();
    let mut far = there.watch(&range).await.unwrap();
    let clock = Clock::system();
    // What the opening of the other store changed may be hinted at first.
    committed(&here, &commit(vec![], vec![put("w1", "x")])).await;
    loop {
        let hint = clock.timeout(PATIENCE, near.next()).await.expect("a hint in one process");
        if hint == Hint::Key(lease("w1")) {
            break;
        }
    }
    let hint = clock.timeout(PATIENCE, far.next()).await.expect("a hint across processes");
    assert_eq!(hint, Hint::Anything);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_increment_is_lost_when_four_share_a_file() {
    const EACH: usize = 5;
    let place = Place::new();
    let stores: Vec<_> = (0..4).map(|_| Arc::new(place.open())).collect();
    committed(&stores[0], &commit(vec![], vec![put("count", "0")])).await;
    let tasks = (0..64).map(|task| {
        let store = Arc::clone(&stores[task % 4]);
        tokio::spawn(async move {
            for _ in 0..EACH {
                loop {
                    let found = read(&store, "count").await.unwrap();
                    let count: usize = String::from_utf8(found.value).unwrap().parse().unwrap();
                    let guard = Guard::RevisionIs(lease("count"), found.revision);
                    let next = commit(vec![guard], vec![put("count", &(count + 1).to_string())]);
                    if matches!(store.commit(&next).await.unwrap(), Reply::Committed { .. }) {
                        break;
                    }
                }
            }
        })
    });
    for done in tasks.collect::<Vec<_>>() {
        done.await.unwrap();
    }
    let found = read(&stores[3], "count").await.unwrap();
    assert_eq!(found.value, (64 * EACH).to_string().into_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_never_pauses_does_not_starve_the_others() {
    let place = Place::new();
    let greedy: Vec<_> = (0..3).map(|_| Arc::new(place.open())).collect();
    let modest = place.open();
    let stop = tokio_util::sync::CancellationToken::new();
    let tasks: Vec<_> = (0..192)
        .map(|task| {
            let (greedy, stop) = (Arc::clone(&greedy[task % 3]), stop.clone());
            tokio::spawn(async move {
                let id = format!("greedy/{task}");
                let mut done = 0_u32;
                while !stop.is_cancelled() {
                    committed(&greedy, &commit(vec![], vec![put(&id, "x")])).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let clock = Clock::system();
    let mut waits = Vec::new();
    for _ in 0..100 {
        let began = clock.tick();
        committed(&modest, &commit(vec![], vec![put("modest", "x")])).await;
        waits.push(clock.tick().since(began));
    }
    stop.cancel();
    let mut done = [0; 3];
    for (task, ended) in tasks.into_iter().enumerate() {
        done[task % 3] += ended.await.unwrap();
    }
    waits.sort();
    println!("commits of the greedy {done:?}; the modest waited {:?}, {:?}", waits[50], waits[99]);
    assert!(waits[50] < Duration::from_millis(500), "starved: {waits:?}");
    let most = done.iter().max().copied().unwrap_or(0);
    assert!(done.iter().all(|done| *done > most / 10), "{done:?}");
}

#[tokio::test]
async fn the_file_has_the_settings_that_its_promises_rest_on() {
    let place = Place::new();
    let store = place.open();
    let other = Connection::open(place.path()).unwrap();
    let pragma = |name: &str| {
        let value = other
            .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
            .unwrap();
        format!("{value:?}")
    };
    assert_eq!(pragma("journal_mode"), r#"Text("wal")"#);
    assert_eq!(pragma("auto_vacuum"), "Integer(2)", "incremental");
    assert_eq!(pragma("user_version"), "Integer(1)");
    let described = store.describe();
    assert_eq!((described.backend, described.durability.as_str()), ("sqlite", "full"));
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_newer_schema_is_refused() {
    let place = Place::new();
    drop(place.open());
    let newer = Connection::open(place.path()).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let error = opening(&place.path());
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("version 99"), "{error}");
    assert!(error.message().contains("lockbay.db"), "{error}");
}

#[test]
fn what_is_not_ours_is_refused_and_left_as_it_is() {
    let directory = TempDir::new().unwrap();
    let text = directory.path().join("notes.txt");
    fs::write(&text, "these are notes, and not a database at all\n".repeat(40)).unwrap();
    let before = fs::read(&text).unwrap();
    let error = opening(&text);
    assert!(error.message().contains("not a database"), "{error}");
    assert_eq!(fs::read(&text).unwrap(), before);

    let foreign = directory.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(&foreign).unwrap();
    let error = opening(&foreign);
    assert!(error.message().contains("another program"), "{error}");
    assert_eq!(fs::read(&foreign).unwrap(), before);

    let error = opening(directory.path());
    assert!(error.message().contains("directory"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn an_old_backup_restored_while_closed_halts_effects_until_it_is_accepted() {
    let place = Place::new();
    let store = place.open();
    committed(&store, &commit(vec![], vec![put("a", "1")])).await;
    let backup = place.directory.path().join("backup.db");
    store.backup(&backup).unwrap();
    assert_eq!(store.backup(&backup).unwrap_err().kind(), ErrorKind::Invalid);
    let lost = committed(&store, &commit(vec![], vec![put("a", "2")])).await;
    store.close().await;
    place.remove();
    fs::copy(&backup, place.path()).unwrap();

    let (store, other) = (place.open(), place.open());
    assert!(refused(&store).await.message().contains("went back"));
    refused(&other).await;
    assert_eq!(store.ping().await.unwrap_err().kind(), ErrorKind::RolledBack);
    assert_eq!(read(&store, "a").await.unwrap().value, b"1", "it may still be looked at");
    store.accept().await.unwrap();
    let revision = committed(&store, &commit(vec![], vec![put("a", "3")])).await;
    assert!(revision > lost, "tokens grow on: {revision} after {lost}");
    committed(&other, &commit(vec![], vec![put("b", "3")])).await;
    store.close().await;
    other.close().await;

    let store = place.open();
    committed(&store, &commit(vec![], vec![put("a", "4")])).await;
}

#[tokio::test]
async fn an_emptied_store_halts_effects_until_it_is_accepted() {
    for how in ["removed", "truncated"] {
        let place = Place::new();
        let store = place.open();
        let lost = committed(&store, &commit(vec![], vec![put("a", "1")])).await;
        store.close().await;
        place.remove();
        if how == "truncated" {
            fs::File::create(place.path()).unwrap();
        }
        let store = place.open();
        assert!(refused(&store).await.message().contains("emptied"), "{how}");
        store.accept().await.unwrap();
        assert!(committed(&store, &commit(vec![], vec![put("a", "2")])).await > lost);
    }
}

#[tokio::test]
async fn rows_deleted_behind_our_back_halt_effects() {
    let place = Place::new();
    let store = place.open();
    committed(&store, &commit(vec![], vec![put("a", "1")])).await;
    let vandal = Connection::open(place.path()).unwrap();
    vandal.execute_batch("DELETE FROM record; DELETE FROM key; DELETE FROM space").unwrap();
    assert!(refused(&store).await.message().contains("emptied"));
    refused(&place.open()).await;
}

#[tokio::test]
async fn a_file_replaced_under_a_running_store_takes_no_more_commits() {
    let place = Place::new();
    let store = place.open();
    committed(&store, &commit(vec![], vec![put("a", "1")])).await;
    let backup = place.directory.path().join("backup.db");
    store.backup(&backup).unwrap();
    let lost = committed(&store, &commit(vec![], vec![put("a", "2")])).await;
    place.remove();
    assert!(store.ping().await.unwrap_err().message().contains("removed"));
    fs::rename(&backup, place.path()).unwrap();
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RolledBack);
    assert!(error.message().contains("replaced"), "{error}");
    refused(&store).await;
    store.accept().await.unwrap();
    assert_eq!(read(&store, "a").await.unwrap().value, b"1", "it reads the file that is there");
    assert!(committed(&store, &commit(vec![], vec![put("a", "3")])).await > lost);
    store.ping().await.unwrap();
}

#[tokio::test]
async fn a_store_dropped_without_close_has_kept_what_it_acknowledged() {
    let place = Place::new();
    let store = place.open();
    let writes = (0..10).map(|n| commit(vec![], vec![put(&n.to_string(), "x")]));
    for reply in store.commit_all(&writes.collect::<Vec<_>>()).await {
        reply.unwrap();
    }
    drop(store);
    assert!(read(&place.open(), "9").await.is_some());
}

/// A commit of random guards and writes on a few keys, of which some are index entries.
fn random_commit(dice: &Clock, seen: &[Revision]) -> Commit {
    let below = |limit: u64| dice.random() % limit;
    let key = || lease(&format!("{}{}", ["a", "b/", "ä"][(below(3)) as usize], below(4)));
    let ttl = || Duration::from_micros(below(5_000));
    let revision = || seen.get(below(seen.len() as u64 + 1) as usize).copied().unwrap_or_default();
    let guards = (0..below(3)).map(|_| match below(4) {
        0 => Guard::Absent(key()),
        1 => Guard::Lapsed(key()),
        2 => Guard::RevisionIs(key(), revision()),
        _ => Guard::Held(Fence { key: key(), token: revision() }),
    });
    let entry = || Key { kind: INDEX, ..key() };
    let writes = (0..below(4)).map(|_| match below(7) {
        0 => Write::Delete { key: key() },
        1 => Write::Touch { key: key(), ttl: ttl() },
        2 => Write::Mark { key: entry() },
        6 => Write::Delete { key: entry() },
        3 => Write::Put { key: key(), value: b"kept".to_vec(), deadline: Deadline::Never },
        _ => Write::Put { key: key(), value: b"due".to_vec(), deadline: Deadline::After(ttl()) },
    });
    commit(guards.collect(), writes.collect())
}

#[tokio::test]
async fn it_answers_as_the_store_in_memory_does() {
    let seed = Clock::system().random();
    println!("seed {seed}");
    let (dice, clock) = (Clock::manual(seed), Clock::manual(0));
    let place = Place::new();
    let (file, memory) = (place.open_at(clock.clone()), MemoryStore::new(clock.clone()));
    let mut seen = Vec::new();
    for step in 0..1_500 {
        clock.advance(Duration::from_micros(dice.random() % 1_000));
        let next = random_commit(&dice, &seen);
        let reply = file.commit(&next).await.unwrap();
        assert_eq!(reply, memory.commit(&next).await.unwrap(), "step {step}: {next:?}");
        if let Reply::Committed { revision, .. } = reply {
            seen.push(revision);
            seen.drain(..seen.len().saturating_sub(8));
        }
        let keys: Vec<Key> = next.writes.iter().map(|write| write.key().clone()).collect();
        assert_eq!(file.get(&keys).await.unwrap(), memory.get(&keys).await.unwrap());
        let prefix = ["", "a", "b/", "ä"][dice.random() as usize % 4];
        let after =
            [None, Some("a2".into()), Some("b/1".into())][dice.random() as usize % 3].clone();
        let kind = [LEASE, INDEX][dice.random() as usize % 2];
        let range = Range::new(Partition::FIRST, kind, prefix).after(after);
        let limit = 1 + dice.random() as usize % 6;
        let pages = (file.scan(&range, limit).await, memory.scan(&range, limit).await);
        assert_eq!(pages.0.unwrap(), pages.1.unwrap(), "{range:?}");
        let due = (
            file.due(Partition::FIRST, LEASE, limit).await,
            memory.due(Partition::FIRST, LEASE, limit).await,
        );
        assert_eq!(due.0.unwrap(), due.1.unwrap(), "step {step}");
    }
    let strays = "SELECT (SELECT count(*) FROM record) - count(number) + count(record) - \
         count(number) FROM key LEFT JOIN record ON number = record AND record.id = key.id";
    let other = Connection::open(place.path()).unwrap();
    let strays: i64 = other.query_row(strays, [], |row| row.get(0)).unwrap();
    assert_eq!(strays, 0, "every record has its key, and every key that leads to one has it");
}

const CHILD_FILE: &str = "LOCKBAY_TEST_CHILD_FILE";

/// Not a test of its own: the process that the next one kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as the child of the next test"]
async fn child_that_commits_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD_FILE) else { return };
    let store = Arc::new(SqliteStore::open(Path::new(&path), "test", Clock::system()).unwrap());
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for round in 0.. {
                    let id = format!("{}-{task}-{round}", std::process::id());
                    committed(&store, &commit(vec![], vec![put(&id, "x")])).await;
                    // One write for each line, so that a kill cuts off none but the last.
                    let line = format!("acknowledged {id}.\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_process_killed_in_the_middle_of_commits_has_lost_nothing_it_acknowledged() {
    let place = Place::new();
    let mut acknowledged = HashSet::new();
    for kill_after in [50, 400, 1_500] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_commits_until_it_is_killed", "--ignored", "--nocapture"])
            .env(CHILD_FILE, place.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            let acknowledgement = line.split_once("acknowledged ");
            if let Some(id) = acknowledgement.and_then(|(_, id)| id.strip_suffix('.')) {
                acknowledged.insert(id.to_owned());
                seen += 1;
                if seen == kill_after {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(seen >= kill_after, "the child died by itself after {seen}");
    }
    let store = place.open();
    let mut found = HashSet::new();
    let mut range = Range::new(Partition::FIRST, LEASE, "");
    loop {
        let page = store.scan(&range, 1_000).await.unwrap();
        found.extend(page.records.iter().map(|record| record.key.id.to_string()));
        range = range.after(page.records.last().map(|record| record.key.id.to_string()));
        if !page.more {
            break;
        }
    }
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), acknowledged.len());
    committed(&store, &commit(vec![], vec![put("after", "x")])).await;
}

/// Not a test of its own: the process whose files the next one keeps small.
#[tokio::test]
#[ignore = "runs as the child of the next test"]
async fn child_that_commits_until_the_disk_is_full() {
    let Ok(path) = std::env::var(CHILD_FILE) else { return };
    let store = SqliteStore::open(Path::new(&path), "test", Clock::system()).unwrap();
    let large = "x".repeat(64 * 1024);
    for n in 0..10_000 {
        let id = n.to_string();
        match store.commit(&commit(vec![], vec![put(&id, &large)])).await {
            Ok(_) => println!("acknowledged {id}."),
            Err(error) => {
                println!("failed {error}");
                let sure = error.kind() == ErrorKind::Unavailable;
                assert!(sure || error.kind() == ErrorKind::Unknown, "{error}");
                assert_eq!(read(&store, &id).await, None, "what failed is not seen");
                // The writer is still there, and says so without writing.
                let again = commit(vec![Guard::Absent(lease("0"))], vec![put("0", "x")]);
                assert!(matches!(store.commit(&again).await.unwrap(), Reply::Conflict { .. }));
                store.ping().await.unwrap();
                println!("survived.");
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_costs_nothing_that_was_acknowledged() {
    let place = Place::new();
    let script = r#"trap '' XFSZ; ulimit -f 8192; exec "$0" "$@""#;
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_commits_until_the_disk_is_full", "--ignored", "--nocapture"])
        .env(CHILD_FILE, place.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    assert!(told.contains("survived."), "{told}{}", String::from_utf8_lossy(&child.stderr));
    let store = place.open();
    let mut acknowledged = 0;
    for line in told.lines() {
        if let Some((_, id)) = line.split_once("acknowledged ") {
            let id = id.trim_end_matches('.');
            assert!(read(&store, id).await.is_some(), "{id} was lost");
            acknowledged += 1;
        }
    }
    assert!(acknowledged > 10, "{told}");
    committed(&store, &commit(vec![], vec![put("after", "x")])).await;
}

#[tokio::test]
async fn a_commit_waits_while_another_process_writes_and_reads_do_not() {
    let place = Place::new();
    let store = Arc::new(place.open());
    let other = Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { committed(&store, &commit(vec![], vec![put("a", "1")])).await }
    });
    for _ in 0..10 {
        assert_eq!(read(&store, "a").await, None);
    }
    assert!(!waiting.is_finished());
    other.execute_batch("COMMIT").unwrap();
    waiting.await.unwrap();
    assert!(read(&store, "a").await.is_some());
}

#[tokio::test]
async fn pages_of_deleted_records_are_given_back_to_the_file_system() {
    let place = Place::new();
    let store = place.open();
    let large = "x".repeat(256 * 1024);
    let ids: Vec<String> = (0..120).map(|n| n.to_string()).collect();
    committed(&store, &commit(vec![], ids.iter().map(|id| put(id, &large)).collect())).await;
    let delete = |id: &String| Write::Delete { key: lease(id) };
    committed(&store, &commit(vec![], ids.iter().map(delete).collect())).await;
    let other = Connection::open(place.path()).unwrap();
    let pages =
        || -> i64 { other.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap() };
    let (clock, most) = (Clock::system(), pages());
    let shrunk = async {
        while pages() > most - 1_000 {
            clock.sleep(Duration::from_millis(5)).await;
        }
    };
    clock.timeout(PATIENCE, shrunk).await.expect("the file never shrank");
}
