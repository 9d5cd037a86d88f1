//! The one thread that writes: it drains the queue into transactions, one fsync for each.
//!
//! It owns the writing connection, what it remembers of this process's operations, and the floor
//! file. It refuses to panic: whatever fails is answered, and the next batch is tried afresh. It
//! also keeps house when there is nothing to do: looks for the commits of other processes while
//! somebody watches, and gives freed pages back.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::Shared;
use super::floor::FloorFile;
use super::pages;
use super::queue::{Gathered, Job};
use super::schema::{self, Identity};
use super::transaction::{self, Applied, Outcome};
use super::turn::{self, Turns};
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::store::operation::Answers;
use crate::store::witness::{Standing, rolled_back};
use crate::store::{Partition, Reclaimed, Reply, Revision};

/// How long another process may hold the file before we give up.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often the commits of other processes are looked for, while somebody watches.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often the floor file is written, when it changed.
const FLOOR_EVERY: Duration = Duration::from_secs(1);
/// How long to wait at most for the callers of the last batch to come back.
const LONGEST_LINGER: Duration = Duration::from_millis(2);
/// How often a piece of spare pages is given back, while nothing else is to be done.
const SHRINK_EVERY: Duration = Duration::from_millis(100);
/// Free pages that are kept for the next records, unless somebody asks for them.
const FREE_PAGES_KEPT: u64 = 4_096;

/// Why a whole batch failed. Every caller of it gets a copy.
#[derive(Debug)]
struct Failure {
    kind: ErrorKind,
    message: String,
}

impl Failure {
    fn to_error(&self) -> Error {
        Error::new(self.kind, self.message.clone())
    }
}

/// Who waits for pages to be given back.
type Chore = oneshot::Sender<Result<Reclaimed>>;

/// The state of the thread.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    connection: Connection,
    identity: Identity,
    turns: Turns,
    answers: Answers<Reply>,
    floor: FloorFile,
    floor_written: Tick,
    /// `PRAGMA data_version` when we last looked. On this connection it moves only through others.
    version: i64,
    replaced: bool,
    /// Whether there are pages to give back.
    shrinking: bool,
    shrunk_at: Option<Tick>,
    /// Whether pages were given back that the file still has, because the log is not copied.
    file_is_long: bool,
}

impl Writer {
    /// Opens the file, and compares it with what was acknowledged before.
    pub(super) fn open(shared: &Arc<Shared>) -> Result<Self> {
        let (connection, identity) = schema::open_writer(&shared.path, &shared.clock)?;
        let floor = FloorFile::beside(&shared.path, &shared.namespace);
        let mut partitions = vec![Partition::FIRST];
        for known in floor.recall() {
            let partition = Partition(known.partition);
            let (generation, revision) = (known.generation, Revision::new(known.revision));
            // The witness takes the floor for what it has seen, and judges the file by it.
            let seen = Standing { generation, revision, accepted: false, halted: None };
            shared.witness.judge(partition, &seen);
            if partition != Partition::FIRST {
                partitions.push(partition);
            }
        }
        let mut writer = Writer {
            shared: Arc::clone(shared),
            connection,
            identity,
            turns: Turns::beside(&shared.path),
            answers: Answers::default(),
            floor,
            floor_written: shared.clock.tick(),
            version: 0,
            replaced: false,
            shrinking: false,
            shrunk_at: None,
            file_is_long: false,
        };
        writer.version = writer.data_version().unwrap_or(0);
        writer.judge(&partitions).map_err(|failure| failure.to_error())?;
        Ok(writer)
    }

    /// Works until the queue is closed and empty, then lets go of everything.
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        let (mut expected, mut linger) = (1, Duration::ZERO);
        loop {
            let idle = self.idle();
            match self.shared.queue.gather(&mut batch, expected, linger, idle) {
                Gathered::Jobs => {
                    let chores = take_chores(&mut batch);
                    let began = self.shared.clock.tick();
                    expected = batch.len();
                    self.serve(&mut batch);
                    let took = self.shared.clock.tick().since(began);
                    linger = (took / 16).min(LONGEST_LINGER);
                    // When all others have their answers.
                    chores.into_iter().for_each(|chore| self.reclaim(chore));
                }
                Gathered::Nothing => {
                    expected = 1;
                    self.keep_house();
                }
                Gathered::Closed => break,
            }
            self.look_for_others();
            if self.floor_is_due() {
                self.write_floor();
            }
        }
        self.finish();
    }

    /// How long to sleep without a job.
    fn idle(&self) -> Option<Duration> {
        if self.shared.hub.is_watched() {
            Some(LOOK_EVERY)
        } else if self.shrinking {
            Some(SHRINK_EVERY)
        } else if self.floor.changed() {
            Some(FLOOR_EVERY)
        } else {
            None
        }
    }

    fn serve(&mut self, batch: &mut Vec<Job>) {
        if batch.is_empty() {
            return;
        }
        match self.transact(batch) {
            Ok(applied) => self.acknowledge(batch, applied),
            Err(failure) => {
                tracing::warn!(error = failure.message, jobs = batch.len(), "transaction failed");
                batch.drain(..).for_each(|job| refuse(job, &failure));
            }
        }
    }

    /// Applies a batch durably, or says why nothing of it happened (or may have).
    fn transact(&mut self, batch: &[Job]) -> Result<Applied, Failure> {
        if batch.iter().any(|job| matches!(job, Job::Accept(_))) {
            self.reopen_if_replaced()?;
        }
        self.begin()?;
        let applied = transaction::apply(&self.connection, &self.shared, &self.answers, batch);
        let applied = applied.map_err(|error| self.abandon(&error))?;
        self.commit(&applied)?;
        self.check_identity()?;
        Ok(applied)
    }

    /// Takes SQLite's write lock, in our turn.
    fn begin(&self) -> Result<(), Failure> {
        let _turn = self.turns.take(&self.shared.clock);
        let mut waited = Duration::ZERO;
        loop {
            let begun = self
                .connection
                .prepare_cached("BEGIN IMMEDIATE")
                .and_then(|mut begin| begin.execute([]));
            match begun {
                Ok(_) => return Ok(()),
                Err(error) if schema::is_busy(&error) && waited < LOCK_WAIT => {
                    waited += turn::pause(&self.shared.clock);
                }
                Err(error) => return Err(self.failure(ErrorKind::Unavailable, &error)),
            }
        }
    }

    fn commit(&self, applied: &Applied) -> Result<(), Failure> {
        let committed =
            self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        let Err(error) = committed else { return Ok(()) };
        // The log may hold the whole transaction without being synced, and would be found by
        // whoever recovers it. A later commit writes over it, and only then is it surely gone.
        self.rollback();
        if !applied.wrote() || self.overwrite(applied).is_ok_and(|partitions| partitions > 0) {
            return Err(self.failure(ErrorKind::Unavailable, &error));
        }
        Err(self.failure(ErrorKind::Unknown, &error))
    }

    /// Commits the revisions of a failed transaction, so that nobody gets them again, and nothing
    /// else of it.
    fn overwrite(&self, applied: &Applied) -> rusqlite::Result<usize> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let done = applied.keep_revisions(&self.connection);
        let done = done.and_then(|kept| self.connection.execute_batch("COMMIT").map(|()| kept));
        if done.is_err() {
            self.rollback();
        }
        done
    }

    fn abandon(&self, error: &rusqlite::Error) -> Failure {
        self.rollback();
        self.failure(ErrorKind::Unavailable, error)
    }

    fn rollback(&self) {
        // SQLite rolls back by itself after some errors.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "rollback failed");
        }
    }

    fn failure(&self, kind: ErrorKind, error: &rusqlite::Error) -> Failure {
        let path = self.shared.path.display();
        Failure { kind, message: format!("{}: {path}", schema::explain(error)) }
    }

    /// Refuses to acknowledge what was written into a file that nobody will find again.
    fn check_identity(&mut self) -> Result<(), Failure> {
        let found = Identity::of(&self.shared.path);
        self.replaced = found != Some(self.identity);
        if !self.replaced {
            return Ok(());
        }
        let path = self.shared.path.display();
        let what = if found.is_some() { "replaced by another" } else { "removed" };
        let error = rolled_back(&format!("the file was {what} while it was open: {path}"));
        Err(Failure { kind: error.kind(), message: error.message().to_owned() })
    }

    /// For an operator who accepts the store as it is: takes the file that is there now.
    fn reopen_if_replaced(&mut self) -> Result<(), Failure> {
        if self.check_identity().is_ok() {
            return Ok(());
        }
        let opened = schema::open_writer(&self.shared.path, &self.shared.clock);
        let (connection, identity) = opened.map_err(|error| Failure {
            kind: ErrorKind::Unavailable,
            message: error.message().to_owned(),
        })?;
        self.connection = connection;
        self.identity = identity;
        self.replaced = false;
        self.shared.begin_epoch();
        Ok(())
    }

    /// Remembers, tells and answers, in this order.
    fn acknowledge(&mut self, batch: &mut Vec<Job>, applied: Applied) {
        for space in applied.spaces.iter().filter(|space| space.fine()) {
            if applied.accepted {
                self.shared.witness.judge(space.partition, &space.accepted());
            }
            self.shared.witness.acknowledge(space.partition, space.revision());
            self.floor.note(space.partition, &space.generation, space.revision());
        }
        let watched = self.shared.hub.is_watched();
        for (job, outcome) in batch.iter().zip(&applied.outcomes) {
            if let (Job::Commit(commit, _), Outcome::Reply(Ok(reply))) = (job, outcome)
                && matches!(reply, Reply::Committed { .. })
            {
                self.answers.remember(&commit.operation, reply.clone());
                if watched {
                    commit.hints.iter().for_each(|key| self.shared.hub.tell(key));
                }
            }
        }
        if applied.accepted {
            self.write_floor();
        }
        for (job, outcome) in batch.drain(..).zip(applied.outcomes) {
            // A caller that has gone needs no answer.
            match (job, outcome) {
                (Job::Commit(_, answer), Outcome::Reply(reply)) => drop(answer.send(reply)),
                (Job::Ping(answer), Outcome::Pong(pong)) => drop(answer.send(pong)),
                (Job::Accept(answer), Outcome::Accepted) => drop(answer.send(Ok(()))),
                (
                    job,
                    Outcome::Reply(_) | Outcome::Pong(_) | Outcome::Accepted | Outcome::Chore,
                ) => {
                    let message = "an answer of another kind".into();
                    refuse(job, &Failure { kind: ErrorKind::Internal, message });
                }
            }
        }
    }

    /// Halts effects if the file is behind what was acknowledged, before anybody commits.
    fn judge(&mut self, partitions: &[Partition]) -> Result<(), Failure> {
        self.begin()?;
        let judged = transaction::judge(&self.connection, &self.shared, partitions);
        let applied = judged.map_err(|error| self.abandon(&error))?;
        self.commit(&applied)?;
        for space in applied.spaces.iter().filter(|space| space.fine()) {
            self.floor.note(space.partition, &space.generation, space.revision());
        }
        Ok(())
    }

    fn data_version(&self) -> rusqlite::Result<i64> {
        let mut look = self.connection.prepare_cached("PRAGMA data_version")?;
        look.query_row([], |row| row.get(0))
    }

    /// Wakes everybody if another process has committed. Every batch, and the idle sleep, ends here.
    fn look_for_others(&mut self) {
        if !self.shared.hub.is_watched() {
            return;
        }
        match self.data_version() {
            Ok(version) if version != self.version => {
                self.version = version;
                self.shared.hub.tell_all();
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "data_version not read"),
        }
    }

    fn floor_is_due(&self) -> bool {
        self.floor.changed() && self.shared.clock.tick().since(self.floor_written) >= FLOOR_EVERY
    }

    fn write_floor(&mut self) {
        self.floor_written = self.shared.clock.tick();
        if self.replaced {
            return; // it must go on to tell what the other file lacks
        }
        // Two processes that write it at once would lose what one of them knows.
        let _turn = self.turns.take(&self.shared.clock);
        self.floor.write();
    }

    /// Nothing came for a while.
    fn keep_house(&mut self) {
        let rested = !self.shared.hub.is_watched()
            || self.shared.clock.tick().since(self.floor_written) >= FLOOR_EVERY;
        if rested && self.floor.changed() {
            self.write_floor();
            // What was written since may have left pages behind.
            self.shrinking = true;
        }
        let now = self.shared.clock.tick();
        if self.shrinking && self.shrunk_at.is_none_or(|at| now.since(at) >= SHRINK_EVERY) {
            self.shrunk_at = Some(now);
            self.shrinking = self.give_spare_pages_back().unwrap_or_else(|failure| {
                // Another process is writing.
                tracing::debug!(error = failure.message, "no pages given back");
                false
            });
            if !self.shrinking {
                self.cut_file();
            }
        }
    }

    /// Gives back some of the free pages above what is kept, and says whether there may be more.
    fn give_spare_pages_back(&mut self) -> Result<bool, Failure> {
        let failed = |error| self.failure(ErrorKind::Unavailable, &error);
        let spare = pages::free(&self.connection).map_err(failed)? > FREE_PAGES_KEPT;
        Ok(spare && self.give_pages_back()? > 0)
    }

    /// Takes a piece of free pages off the database, and returns its bytes.
    fn give_pages_back(&mut self) -> Result<u64, Failure> {
        self.begin()?;
        let given = pages::give_back(&self.connection, &self.shared.clock);
        let given = given.map_err(|error| self.abandon(&error))?;
        let committed = self.connection.execute_batch("COMMIT");
        committed.map_err(|error| self.abandon(&error))?;
        self.file_is_long |= given > 0;
        Ok(given)
    }

    /// Has the file end with its last page, if it does not.
    fn cut_file(&mut self) {
        if self.file_is_long {
            match pages::empty_log(&self.connection) {
                Ok(emptied) => self.file_is_long = !emptied,
                Err(error) => tracing::debug!(%error, "log not emptied"),
            }
        }
    }

    /// Answers who wants pages to be given back: with a piece of them, or, when there are none any
    /// more, by cutting the file.
    fn reclaim(&mut self, chore: Chore) {
        let reclaimed = self.give_pages_back().map_err(|failure| failure.to_error());
        if matches!(reclaimed, Ok(0)) {
            self.cut_file();
        }
        // A caller that has gone needs no answer.
        drop(chore.send(reclaimed.map(|bytes| Reclaimed { bytes, more: bytes > 0 })));
    }

    fn finish(mut self) {
        if self.floor.changed() {
            self.write_floor();
        }
        if self.replaced {
            return;
        }
        // With the log copied into it, the file alone is the store. Others may still use the log.
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        if let Err(error) = self.connection.query_row(checkpoint, [], |row| row.get::<_, i64>(0)) {
            tracing::debug!(%error, "log not truncated");
        }
    }
}

/// The jobs of a batch that are not part of its transaction.
fn take_chores(batch: &mut Vec<Job>) -> Vec<Chore> {
    let mut chores = Vec::new();
    if batch.iter().any(|job| matches!(job, Job::Reclaim(_))) {
        for job in std::mem::take(batch) {
            match job {
                Job::Reclaim(answer) => chores.push(answer),
                job @ (Job::Commit(..) | Job::Ping(_) | Job::Accept(_)) => batch.push(job),
            }
        }
    }
    chores
}

/// Answers a job with the failure of its batch.
fn refuse(job: Job, failure: &Failure) {
    fn answer<T>(to: oneshot::Sender<Result<T>>, failure: &Failure) {
        drop(to.send(Err(failure.to_error())));
    }
    match job {
        Job::Commit(_, to) => answer(to, failure),
        Job::Ping(to) => answer(to, failure),
        Job::Accept(to) => answer(to, failure),
        Job::Reclaim(to) => answer(to, failure),
    }
}
