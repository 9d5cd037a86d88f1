//! The store in one SQLite file, which several processes of a machine may share.
//!
//! A call walks like this: [`SqliteStore`] puts a job into the `queue`; the `writer` thread
//! takes all that wait there into one `transaction`, one fsync, and answers them; reads go past
//! it on connections of their own (`reader`). The `schema` says what file is ours, the `turn`
//! keeps processes fair to each other, the `floor` file remembers what was acknowledged, and `pages`
//! measures the file and makes it shorter.
//!
//! Beside the database `x.db` lie SQLite's own `x.db-wal` and `x.db-shm`, and our `x.db-floor` and
//! `x.db-turn`. A copy of a live file is no backup: use [`SqliteStore::backup`]. Before a backup is
//! put back, every process that uses the file must have stopped, and `-wal` and `-shm` must go.

mod backup;
mod floor;
mod pages;
mod queue;
mod reader;
mod schema;
mod transaction;
mod turn;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::queue::{Job, MAX_BATCH, Queue};
use self::reader::Readers;
use self::writer::Writer;
use super::hint::Hub;
use super::witness::Witness;
use super::{
    Commit, Description, Footprint, Foreign, Hints, Key, Kind, Page, Partition, Pong, Range, Read,
    Reclaimed, Reply, Store, Upkeep, Volume,
};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// What the handle, the writer and the readers share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    namespace: String,
    clock: Clock,
    queue: Queue,
    readers: Readers,
    hub: Hub,
    witness: Witness,
    /// Counts the files that this path has led to: readers of an earlier one are not used again.
    epoch: AtomicU64,
}

impl Shared {
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

/// A namespace in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteStore {
    /// Opens a file, and makes it, readable by its owner only, if it is not there.
    ///
    /// Several processes, and several stores of one process, may open the same file. A file that
    /// has lost what was acknowledged opens too, but halted: see contract 6 of the
    /// [seam](crate::store).
    ///
    /// # Errors
    /// `Invalid` if the path is a directory, not a database, another program's, written by a newer
    /// version or not writable, or if a setting that durability rests on cannot be made;
    /// `Unavailable` if another process keeps it locked. The message names the path.
    pub fn open(path: &Path, namespace: &str, clock: Clock) -> Result<SqliteStore> {
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            namespace: namespace.to_owned(),
            clock,
            queue: Queue::new(),
            readers: Readers::new(),
            hub: Hub::default(),
            witness: Witness::default(),
            epoch: AtomicU64::new(0),
        });
        let writer = Writer::open(&shared)?;
        let thread = std::thread::Builder::new()
            .name("lockbay-sqlite".into())
            .spawn(move || writer.run())
            .map_err(|error| {
                Error::new(ErrorKind::Unavailable, "no thread for the writer").with_source(error)
            })?;
        Ok(SqliteStore { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Writes a consistent copy of the whole file, all namespaces, while it is in use.
    ///
    /// It is on disk when this returns. It blocks: call it from a blocking thread.
    ///
    /// # Errors
    /// As those of [`copy`](SqliteStore::copy).
    pub fn backup(&self, to: &Path) -> Result<()> {
        SqliteStore::copy(&self.shared.path, to).map(drop)
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (sender, answer) = oneshot::channel();
        self.shared.queue.send(job(sender)).await?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn commit_some(&self, commits: &[Commit]) -> Vec<Result<Reply>> {
        let (jobs, answers): (Vec<_>, Vec<_>) = commits
            .iter()
            .map(|commit| {
                let (sender, answer) = oneshot::channel();
                (Job::Commit(commit.clone(), sender), answer)
            })
            .unzip();
        if self.shared.queue.send_all(jobs).await.is_err() {
            return commits.iter().map(|_| Err(queue::closed())).collect();
        }
        let mut replies = Vec::with_capacity(answers.len());
        for answer in answers {
            replies.push(answer.await.unwrap_or_else(|_| Err(stopped())));
        }
        replies
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The thread finishes what it has and goes by itself; a drop waits for nobody.
        self.shared.queue.close();
        self.shared.readers.close();
    }
}

/// The answer of a writer that has gone. It never panics by intent, but nobody waits for ever.
fn stopped() -> Error {
    Error::new(ErrorKind::Unknown, "the writer stopped before it answered")
}

/// A number as SQLite stores it. Times and revisions stay below its limit for 290,000 years.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The path of a file that lies beside another.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, keys: &[Key]) -> Result<Read> {
        reader::get(&self.shared, keys).await
    }

    async fn scan(&self, range: &Range, limit: usize) -> Result<Page> {
        reader::scan(&self.shared, range, limit).await
    }

    async fn due(&self, partition: Partition, kind: Kind, limit: usize) -> Result<Page> {
        reader::due(&self.shared, partition, kind, limit).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply> {
        self.ask(|answer| Job::Commit(commit.clone(), answer)).await
    }

    async fn commit_all(&self, commits: &[Commit]) -> Vec<Result<Reply>> {
        let mut replies = Vec::with_capacity(commits.len());
        for some in commits.chunks(MAX_BATCH) {
            replies.extend(self.commit_some(some).await);
        }
        replies
    }

    async fn watch(&self, range: &Range) -> Result<Hints> {
        let hints = self.shared.hub.watch(range, None);
        // The writer may sleep without looking for other processes' commits.
        self.shared.queue.nudge();
        Ok(hints)
    }

    async fn ping(&self) -> Result<Pong> {
        self.ask(Job::Ping).await
    }

    fn upkeep(&self) -> &dyn Upkeep {
        self
    }

    fn describe(&self) -> Description {
        Description {
            backend: "sqlite",
            durability: "full".into(), // read back when the file was opened
            version: rusqlite::version().into(),
        }
    }

    async fn accept(&self) -> Result<()> {
        self.ask(Job::Accept).await
    }

    async fn close(&self) {
        self.shared.readers.close();
        self.shared.queue.close();
        let Some(thread) = self.thread.lock().take() else { return };
        // An error is a panic in the thread, or the runtime going away: both have been told.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

#[async_trait]
impl Upkeep for SqliteStore {
    async fn volume(&self) -> Result<Option<Volume>> {
        // The kernel knows this by heart; where it does not tell, nothing is judged.
        Ok(rustix::fs::statvfs(&self.shared.path).ok().map(|volume| Volume {
            free_bytes: volume.f_bavail.saturating_mul(volume.f_frsize),
            total_bytes: volume.f_blocks.saturating_mul(volume.f_frsize),
        }))
    }

    async fn count(&self, partition: Partition, kind: Kind) -> Result<u64> {
        pages::count(&self.shared, partition, kind).await
    }

    async fn weigh(&self, keys: &[Key]) -> Result<u64> {
        pages::weigh(&self.shared, keys).await
    }

    async fn footprint(&self) -> Result<Footprint> {
        pages::footprint(&self.shared).await
    }

    async fn reclaim(&self) -> Result<Reclaimed> {
        self.ask(Job::Reclaim).await
    }

    async fn advice(&self) -> Result<Vec<String>> {
        pages::advice(&self.shared).await
    }

    fn foreign(&self) -> Option<&dyn Foreign> {
        None
    }
}
