//! What a SQLite file says of its size, and that it becomes smaller on disk when much was deleted.

#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used)] // in helpers too: whatever is not there fails the test

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lockbay::clock::Clock;
use lockbay::store::sqlite::SqliteStore;
use lockbay::store::{Commit, Deadline, Footprint, Key, Kind, Partition, Reply, Store, Write};
use rusqlite::Connection;
use tempfile::TempDir;

const KIND: Kind = Kind::new("thing");

fn key(n: u32) -> Key {
    // As ids of jobs and sagas: spread over the whole order of keys.
    Key::new(Partition::FIRST, KIND, format!("{:08x}{n:024x}", n.wrapping_mul(2_654_435_761)))
}

fn put(n: u32, bytes: usize) -> Write {
    let deadline = Deadline::After(Duration::from_secs(3_600));
    Write::Put { key: key(n), value: vec![b'x'; bytes], deadline }
}

async fn apply(store: &SqliteStore, writes: Vec<Write>) {
    for some in writes.chunks(500) {
        let commit = Commit::new(Partition::FIRST, vec![], some.to_vec(), vec![]).unwrap();
        let reply = store.commit(&commit).await.unwrap();
        assert!(matches!(reply, Reply::Committed { .. }), "{reply:?}");
    }
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, "test", Clock::system()).unwrap()
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lockbay.db");
    (directory, path)
}

/// The file and its log, as the file system has them.
fn on_disk(path: &Path) -> u64 {
    let log = path.with_extension("db-wal");
    [path, &log].iter().map(|path| std::fs::metadata(path).map_or(0, |found| found.len())).sum()
}

async fn footprint(store: &SqliteStore) -> Footprint {
    store.upkeep().footprint().await.unwrap()
}

/// Reclaims until there is no more; returns the bytes, and the longest piece.
async fn reclaim_all(store: &SqliteStore) -> (u64, Duration) {
    let (mut bytes, mut longest) = (0, Duration::ZERO);
    loop {
        let began = support::now();
        let piece = store.upkeep().reclaim().await.unwrap();
        longest = longest.max(began.elapsed());
        bytes += piece.bytes;
        if !piece.more {
            return (bytes, longest);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_has_its_space_again_after_many_records_were_deleted() {
    let (_directory, path) = place();
    let store = open(&path);
    apply(&store, (0..20_000).map(|n| put(n, 4_000)).collect()).await;
    let full = footprint(&store).await;
    let delete = |n| Write::Delete { key: key(n) };
    apply(&store, (0..20_000).filter(|n| n % 10 > 0).map(delete).collect()).await;
    let before = footprint(&store).await;
    assert!(before.free_bytes > 60_000_000, "{before:?}");
    let disk_before = on_disk(&path);

    let (given, longest) = reclaim_all(&store).await;
    let (after, disk_after) = (footprint(&store).await, on_disk(&path));
    println!(
        "full {full:?}, deleted {before:?} with {disk_before} on disk, reclaimed {given} \
         in pieces of at most {longest:?}, now {after:?} with {disk_after} on disk"
    );
    let whole = |footprint: Footprint| footprint.used_bytes + footprint.free_bytes;
    assert_eq!(given, whole(before) - whole(after), "what was given is what is missing now");
    assert_eq!(after.free_bytes, 0);
    assert_eq!(disk_after, after.used_bytes, "the file is what is in use, and the log is empty");
    assert!(disk_before - disk_after > 60_000_000);
    for n in (0..20_000).step_by(10) {
        let read = store.get(&[key(n)]).await.unwrap();
        assert_eq!(read.records[0].as_ref().unwrap().value.len(), 4_000, "{n} was to stay");
    }
    store.close().await;
    let verdict: String = Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_at_rest_gives_the_disk_its_space_back_by_itself_and_keeps_a_little() {
    let (_directory, path) = place();
    let store = open(&path);
    apply(&store, (0..10_000).map(|n| put(n, 4_000)).collect()).await;
    apply(&store, (0..10_000).map(|n| Write::Delete { key: key(n) }).collect()).await;
    let most = on_disk(&path);
    support::eventually("the file is short", async || (on_disk(&path) < 20_000_000).then_some(()))
        .await;
    let kept = footprint(&store).await.free_bytes;
    assert!((10_000_000..18_000_000).contains(&kept), "{kept} of {most} are kept for new records");
    store.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_answered_between_the_pieces_of_a_reclaim() {
    let (_directory, path) = place();
    let store = std::sync::Arc::new(open(&path));
    apply(&store, (0..20_000).map(|n| put(n, 4_000)).collect()).await;
    apply(&store, (0..20_000).map(|n| Write::Delete { key: key(n) }).collect()).await;
    let reclaiming = tokio::spawn({
        let store = std::sync::Arc::clone(&store);
        async move { reclaim_all(&store).await }
    });
    let mut during = 0;
    while !reclaiming.is_finished() {
        apply(&store, vec![put(100_000 + during, 100)]).await;
        during += 1;
    }
    let (bytes, _) = reclaiming.await.unwrap();
    println!("{during} commits while {bytes} bytes were given back");
    assert!(during >= 10, "{during} commits only");
    for n in 0..during {
        let read = store.get(&[key(100_000 + n)]).await.unwrap();
        assert!(read.records[0].is_some(), "{n} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_weigh_about_what_the_file_grows_by() {
    for (count, bytes) in [(20_000, 60), (5_000, 1_500), (1_000, 20_000)] {
        let (_directory, path) = place();
        let store = open(&path);
        apply(&store, vec![put(u32::MAX, 1)]).await;
        let before = footprint(&store).await.used_bytes;
        apply(&store, (0..count).map(|n| put(n, bytes)).collect()).await;
        let grown = footprint(&store).await.used_bytes - before;
        let keys: Vec<Key> = (0..count).map(key).collect();
        let weighed = store.upkeep().weigh(&keys).await.unwrap();
        let percent = weighed * 100 / grown;
        println!("{count} records of {bytes} bytes: grown by {grown}, weighed {weighed}");
        // Pages are not quite full, so the file grows by somewhat more than its records weigh.
        assert!((65..=102).contains(&percent), "{percent} % of {grown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stays_makes_nobody_wait_and_the_file_shrinks_when_it_is_gone() {
    let (_directory, path) = place();
    let store = open(&path);
    apply(&store, (0..5_000).map(|n| put(n, 4_000)).collect()).await;
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM record").unwrap();
    reader.query_row("SELECT count(*) FROM record", [], |row| row.get::<_, i64>(0)).unwrap();
    apply(&store, (0..5_000).map(|n| Write::Delete { key: key(n) }).collect()).await;
    let (given, longest) = reclaim_all(&store).await;
    assert!(given > 15_000_000, "{given}");
    assert!(longest < Duration::from_secs(5), "a commit would have waited for {longest:?}");
    let long = on_disk(&path);
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(reclaim_all(&store).await.0, 0, "there are no free pages");
    assert!(on_disk(&path) < long - 15_000_000, "the file is cut by the next call");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_shrink_says_so_and_gives_nothing_back() {
    let (_directory, path) = place();
    open(&path).close().await;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA auto_vacuum=NONE; VACUUM").unwrap();
    drop(other);
    let store = open(&path);
    apply(&store, (0..1_000).map(|n| put(n, 4_000)).collect()).await;
    apply(&store, (0..1_000).map(|n| Write::Delete { key: key(n) }).collect()).await;
    assert!(footprint(&store).await.free_bytes > 3_000_000);
    let piece = store.upkeep().reclaim().await.unwrap();
    assert_eq!((piece.bytes, piece.more), (0, false));
    let [advice] = &store.upkeep().advice().await.unwrap()[..] else { panic!("one advice") };
    assert!(advice.contains("PRAGMA auto_vacuum=INCREMENTAL; VACUUM;"), "{advice}");
    store.close().await;

    // What the advice says helps.
    let other = Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA auto_vacuum=INCREMENTAL; VACUUM;").unwrap();
    drop(other);
    let store = open(&path);
    assert_eq!(store.upkeep().advice().await.unwrap(), Vec::<String>::new());
    apply(&store, (0..1_000).map(|n| put(n, 4_000)).collect()).await;
    apply(&store, (0..1_000).map(|n| Write::Delete { key: key(n) }).collect()).await;
    assert!(reclaim_all(&store).await.0 > 3_000_000);
}
