//! Giving tasks out: from the queue of a handler to a worker that asks for it.
//!
//! A claim is one commit under the condition that the task is still open and waited for. Whoever is
//! too late for one takes the next. A poll that finds nothing waits for hints about the queue, and
//! looks now and then without.

use std::collections::HashSet;
use std::time::Duration;

use super::record::{
    Found, Request, State, TASK_QUEUE, Task, place_of, queue, queue_of, request_key, task_at,
};
use super::{ClaimedTask, TaskPoll, Tasks, shutting_down};
use crate::clock::{Timestamp, micros};
use crate::error::{ErrorKind, Result};
use crate::metrics::Metric;
use crate::saga::record::{decode, encode};
use crate::store::{
    Commit, Deadline, Fence, Guard, Hint, Hints, Key, Page, Partition, Range, Reply, Revision,
    Write,
};

/// How often a waiting poll looks without having got a hint.
const POLL: Duration = Duration::from_millis(500);
/// How long those who wait spread out after a hint that says too little.
const CROWD: Duration = Duration::from_millis(30);
/// How many places of a queue are read beyond what is wanted, for those that others are faster to
/// take.
const SPARE_PLACES: usize = 16;
/// How many pages of a queue one look reads; what nobody waits for any more is cleared away.
const MAX_PAGES: usize = 32;
/// How many bytes of requests one poll is given, unless a single one is larger.
const MAX_POLL_BYTES: usize = 8 * 1024 * 1024;

/// What a poll may still be given.
struct Room {
    tasks: usize,
    bytes: usize,
}

/// A task that can be claimed, with what is asked in it.
struct Candidate {
    key: Key,
    found: Found,
    request: Request,
}

impl Tasks {
    /// Gives a worker tasks of the handlers it names, or none if there are none until its wait is
    /// over. Each is claimed until the lease is over, and longer with heartbeats.
    ///
    /// Workers are best asked through [`LockBay::poll`](crate::LockBay::poll), which also makes
    /// their handlers known. If the reply is lost, the claims lapse, and the outcome is unknown.
    ///
    /// # Errors
    /// `Invalid` for a wish outside the limits.
    pub async fn poll(&self, wish: &TaskPoll) -> Result<Vec<ClaimedTask>> {
        wish.check()?;
        if self.0.closing.is_cancelled() {
            return Err(shutting_down());
        }
        let clock = &self.0.clock;
        let until = clock.tick() + wish.wait;
        let (mut hints, mut subscribed) = (None, false);
        loop {
            let tasks = self.look(wish).await?;
            let left = until.since(clock.tick());
            if !tasks.is_empty() || left.is_zero() {
                return Ok(tasks);
            }
            // Subscribed before the next look, so that a task is not slept through.
            if !subscribed {
                subscribed = true;
                let range = watched(wish);
                let watch = clock.timeout(left, self.0.store.watch(&range)).await;
                hints = watch.and_then(Result::ok); // without hints it polls
                continue;
            }
            let pause = self.pause(left.min(POLL), &mut hints, wish);
            if self.0.closing.run_until_cancelled(pause).await.is_none() {
                return Ok(Vec::new());
            }
        }
    }

    /// Waits for a hint about one of the queues, or for this long.
    async fn pause(&self, pause: Duration, hints: &mut Option<Hints>, wish: &TaskPoll) {
        let clock = &self.0.clock;
        let Some(hints) = hints else { return clock.sleep(pause).await };
        let hint = async {
            loop {
                match hints.next().await {
                    Hint::Anything => return Hint::Anything,
                    Hint::Key(key) if concerns(wish, &key) => return Hint::Key(key),
                    Hint::Key(_) => {}
                }
            }
        };
        if clock.timeout(pause, hint).await == Some(Hint::Anything) {
            // Most likely something else has changed: not everybody needs to look at once.
            clock.sleep(clock.jitter(CROWD)).await;
        }
    }

    /// Takes what there is now, beginning with a handler by chance, so that none is always last.
    async fn look(&self, wish: &TaskPoll) -> Result<Vec<ClaimedTask>> {
        let Ok(_turn) = self.0.looks.acquire().await else { return Err(shutting_down()) };
        let count = u64::try_from(wish.handlers.len()).unwrap_or(1).max(1);
        let first = usize::try_from(self.0.clock.random() % count).unwrap_or(0);
        let (behind, ahead) = wish.handlers.split_at(first);
        let mut seen = HashSet::new();
        let mut room = Room { tasks: wish.max, bytes: MAX_POLL_BYTES };
        let mut taken = Vec::new();
        for handler in ahead.iter().chain(behind).filter(|handler| seen.insert(*handler)) {
            match self.take(handler, wish, &mut room, &mut taken).await {
                Ok(()) => {}
                Err(error) if taken.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, handler, "a queue could not be looked through");
                    break;
                }
            }
            if room.tasks == 0 || room.bytes == 0 {
                break;
            }
        }
        Ok(taken)
    }

    /// Takes tasks of one handler while there is room.
    async fn take(
        &self,
        handler: &str,
        wish: &TaskPoll,
        room: &mut Room,
        taken: &mut Vec<ClaimedTask>,
    ) -> Result<()> {
        let mut after = None;
        for _ in 0..MAX_PAGES {
            let range = queue(handler).after(after);
            let page = self.0.store.scan(&range, room.tasks + SPARE_PLACES).await?;
            let mut open = self.open(&page).await?;
            while room.tasks > 0 && room.bytes > 0 && !open.is_empty() {
                let candidates = self.candidates(&mut open, room).await?;
                self.claim(candidates, wish, room, taken).await?;
            }
            if !page.more || room.tasks == 0 || room.bytes == 0 {
                return Ok(());
            }
            after = page.records.last().map(|place| place.key.id.to_string());
        }
        Ok(())
    }

    /// The tasks at these places that can be had, and how large they are. Places at which nothing
    /// is to be had any more are cleared.
    async fn open(&self, page: &Page) -> Result<Vec<(Key, usize)>> {
        if page.records.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<Key> = page.records.iter().map(|place| task_at(&place.key)).collect();
        let read = self.0.store.get(&keys).await?;
        let (mut open, mut stale) = (Vec::new(), Vec::new());
        for ((place, key), record) in page.records.iter().zip(keys).zip(read.records) {
            match record {
                None => stale.push(clear(&place.key, Guard::Absent(key))?),
                Some(record) => {
                    let Some(found) = readable(Found::of(&record)) else { continue };
                    if found.task.state == State::Open && !found.lapsed(read.now) {
                        open.push((key, found.task.bytes));
                    } else if place_of(&key, &found.task) != place.key || found.lapsed(read.now) {
                        let guard = Guard::RevisionIs(key, found.revision);
                        stale.push(clear(&place.key, guard)?);
                    }
                }
            }
        }
        if !stale.is_empty() {
            // What is not cleared now is cleared by the next who looks.
            drop(self.0.store.commit_all(&stale).await);
        }
        open.reverse();
        Ok(open)
    }

    /// Takes as many from the end of the list as there is room for, and reads what is asked.
    async fn candidates(
        &self,
        open: &mut Vec<(Key, usize)>,
        room: &Room,
    ) -> Result<Vec<Candidate>> {
        let (mut keys, mut bytes) = (Vec::new(), 0usize);
        while keys.len() < room.tasks * 2
            && let Some((key, size)) = open.last()
            && (keys.is_empty() || bytes + size <= room.bytes)
        {
            bytes += size;
            keys.push(key.clone());
            keys.push(request_key(key));
            open.pop();
        }
        let read = self.0.store.get(&keys).await?;
        let mut records = read.records.into_iter();
        let mut candidates = Vec::new();
        while let (Some(task), Some(request)) = (records.next(), records.next()) {
            let (Some(task), Some(request)) = (task, request) else { continue };
            let found = readable(Found::of(&task)).zip(readable(decode(&request)));
            let Some((found, request)) = found else { continue };
            if found.task.state == State::Open && !found.lapsed(read.now) {
                candidates.push(Candidate { key: task.key, found, request });
            }
        }
        Ok(candidates)
    }

    /// Claims these tasks, as far as nobody was faster.
    async fn claim(
        &self,
        candidates: Vec<Candidate>,
        wish: &TaskPoll,
        room: &mut Room,
        taken: &mut Vec<ClaimedTask>,
    ) -> Result<()> {
        let commits: Vec<Commit> =
            candidates.iter().map(|candidate| claiming(candidate, wish)).collect::<Result<_>>()?;
        if commits.is_empty() {
            return Ok(());
        }
        let replies = self.0.store.commit_all(&commits).await;
        for (candidate, reply) in candidates.into_iter().zip(replies) {
            match reply {
                Ok(Reply::Committed { revision, now }) => {
                    room.tasks = room.tasks.saturating_sub(1);
                    room.bytes = room.bytes.saturating_sub(candidate.found.task.bytes);
                    self.0.metrics.count(Metric::TasksClaimed);
                    taken.push(candidate.claimed(revision.to_string(), now + wish.lease));
                }
                Ok(Reply::Conflict { .. }) => {} // somebody was faster, or it was withdrawn
                // One that was granted without our knowing lapses.
                Err(error) if taken.is_empty() && error.kind() != ErrorKind::Unknown => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(task = %candidate.key.id, %error, "a task was not claimed");
                }
            }
        }
        Ok(())
    }
}

/// A record that cannot be read is passed over: it must not keep workers from those behind it.
fn readable<T>(read: Result<T>) -> Option<T> {
    read.inspect_err(|error| tracing::error!(%error, "a task is passed over")).ok()
}

/// The commit that gives a task to a worker.
fn claiming(candidate: &Candidate, wish: &TaskPoll) -> Result<Commit> {
    let Candidate { key, found, .. } = candidate;
    let state = State::Claimed { holder: wish.holder.clone(), lease_us: micros(wish.lease) };
    let claimed = Task { state, ..found.task.clone() };
    // Open, and still waited for.
    let guard = Guard::Held(Fence { key: key.clone(), token: found.revision });
    let deadline = Deadline::After(wish.lease);
    let writes = vec![
        Write::Put { key: key.clone(), value: encode(&claimed)?, deadline },
        Write::Delete { key: place_of(key, &found.task) },
    ];
    Commit::new(key.partition, vec![guard], writes, Vec::new())
}

impl Candidate {
    fn claimed(self, task_token: String, claim_expires_at: Timestamp) -> ClaimedTask {
        let Candidate { key, found: Found { task, .. }, request } = self;
        ClaimedTask {
            task_id: key.id.into(),
            task_token,
            handler: task.handler,
            action: request.action,
            saga_id: request.saga_id,
            saga_name: request.saga_name,
            step: request.step,
            parameters: request.parameters,
            context: request.context,
            original_result: request.original_result,
            idempotency_key: request.idempotency_key,
            undo_key: request.undo_key,
            scheduled_time: request.scheduled_time,
            attempt: task.by.attempt,
            fencing_token: Revision::new(task.by.fencing_token),
            deadline: Timestamp::from_micros(task.deadline_us),
            claim_expires_at,
        }
    }
}

/// Removes a place in the queue if the task is still as it was seen.
fn clear(place: &Key, unchanged: Guard) -> Result<Commit> {
    let delete = Write::Delete { key: place.clone() };
    Commit::new(place.partition, vec![unchanged], vec![delete], Vec::new())
}

/// What a poll waits for: one subscription, whatever the number of handlers.
fn watched(wish: &TaskPoll) -> Range {
    match wish.handlers.as_slice() {
        [handler] => queue(handler),
        _ => Range::new(Partition::FIRST, TASK_QUEUE, ""),
    }
}

fn concerns(wish: &TaskPoll, place: &Key) -> bool {
    wish.handlers.iter().any(|handler| place.id.starts_with(&queue_of(handler)))
}
