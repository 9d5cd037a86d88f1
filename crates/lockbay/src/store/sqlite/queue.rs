//! The queue between the many that commit and the one thread that writes.
//!
//! It is bounded: who finds it full waits. Its second job is to make large batches, because one
//! fsync serves a whole batch: after a batch of n has been answered, its n callers are about to
//! come back, so the writer is woken when n jobs are there, or after a short while, and not by
//! the first.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Commit, Pong, Reclaimed, Reply};

/// Jobs that wait before senders do.
const CAPACITY: usize = 8_192;
/// Jobs that share one transaction.
pub(super) const MAX_BATCH: usize = 1_024;

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Job {
    /// Apply this.
    Commit(Commit, oneshot::Sender<Result<Reply>>),
    /// Show that you are there.
    Ping(oneshot::Sender<Result<Pong>>),
    /// Begin a new generation.
    Accept(oneshot::Sender<Result<()>>),
    /// Give some free pages back, in a transaction of its own.
    Reclaim(oneshot::Sender<Result<Reclaimed>>),
}

/// Why [`Queue::gather`] returned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// There are jobs.
    Jobs,
    /// Nothing came for a while, or somebody [nudged](Queue::nudge).
    Nothing,
    /// It was closed, and all jobs are done.
    Closed,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    room: Semaphore,
}

#[derive(Debug)]
struct State {
    jobs: Vec<Job>,
    /// How many jobs the writer waits for; `usize::MAX` when it does not wait.
    wanted: usize,
    nudged: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        let state = State { jobs: Vec::new(), wanted: usize::MAX, nudged: false, closed: false };
        Queue { state: Mutex::new(state), changed: Condvar::new(), room: Semaphore::new(CAPACITY) }
    }

    /// Puts a job in, waiting for room.
    pub(super) async fn send(&self, job: Job) -> Result<()> {
        self.room.acquire().await.map_err(|_| closed())?.forget();
        self.push(std::iter::once(job))
    }

    /// Puts in at most [`MAX_BATCH`] jobs at once, waiting for room for them all.
    pub(super) async fn send_all(&self, jobs: Vec<Job>) -> Result<()> {
        let count = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        self.room.acquire_many(count).await.map_err(|_| closed())?.forget();
        self.push(jobs.into_iter())
    }

    fn push(&self, jobs: impl Iterator<Item = Job>) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(closed());
        }
        state.jobs.extend(jobs);
        let enough = state.jobs.len() >= state.wanted;
        if enough {
            state.wanted = usize::MAX;
        }
        drop(state);
        if enough {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Wakes the writer though there is no job.
    pub(super) fn nudge(&self) {
        self.state.lock().nudged = true;
        self.changed.notify_one();
    }

    /// Lets nobody in any more; what is there is still done.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.room.close();
        self.changed.notify_one();
    }

    /// For the writer: waits up to `linger` for as many as `expected` jobs, and if there is none
    /// up to `idle` for the first; then takes up to [`MAX_BATCH`] into the empty `batch`.
    pub(super) fn gather(
        &self,
        batch: &mut Vec<Job>,
        expected: usize,
        linger: Duration,
        idle: Option<Duration>,
    ) -> Gathered {
        let mut state = self.state.lock();
        if expected > 1 && state.jobs.len() < expected {
            state.wanted = expected;
            let waits = |state: &mut State| state.jobs.len() < expected && !state.closed;
            self.changed.wait_while_for(&mut state, waits, linger);
        }
        if state.jobs.is_empty() {
            state.wanted = 1;
            let waits = |state: &mut State| state.jobs.is_empty() && !state.closed && !state.nudged;
            match idle {
                Some(idle) => drop(self.changed.wait_while_for(&mut state, waits, idle)),
                None => self.changed.wait_while(&mut state, waits),
            }
        }
        state.wanted = usize::MAX;
        state.nudged = false;
        if state.jobs.is_empty() {
            return if state.closed { Gathered::Closed } else { Gathered::Nothing };
        }
        if state.jobs.len() <= MAX_BATCH {
            std::mem::swap(&mut state.jobs, batch);
        } else {
            batch.extend(state.jobs.drain(..MAX_BATCH));
        }
        drop(state);
        self.room.add_permits(batch.len());
        Gathered::Jobs
    }
}

/// The answer to whoever comes after [`Queue::close`].
pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the store is closed")
}
