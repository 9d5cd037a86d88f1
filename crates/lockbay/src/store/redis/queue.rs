//! Group commit: pending commits wait in a bounded queue and go out many to a command.
//!
//! At most [`IN_FLIGHT`] batches are on their way. While they are, newcomers gather and form the
//! next batch; a lone commit goes at once. A batch without an answer is sent again, with the same
//! operations, until its commits have waited for [`BUDGET`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Space;
use super::link::{Failure, refused};
use super::sending::{Sending, Sendings};
use super::wire::{self, Answer, Judged};
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::store::operation::straggler;
use crate::store::witness::{Standing, rolled_back};
use crate::store::{Commit, CommitBody, Partition, Reply};

/// How long a commit is tried before its caller hears `Unavailable` or `Unknown`.
const BUDGET: Duration = Duration::from_secs(10);
/// Batches on their way at once: one at the server while the next is prepared.
const IN_FLIGHT: usize = 2;
/// The most commits, and about the most bytes, of one batch. The server does nothing else while it
/// runs one.
pub(super) const MAX_BATCH: usize = 512;
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The most groups that wait. Callers beyond that wait outside.
const MAX_WAITING: usize = 1_024;
/// How often the expiry of our answers is moved on while we commit. They live for an hour.
const REFRESH: Duration = Duration::from_secs(600);

/// For the whole process, as operations are.
static SENDINGS: Sendings = Sendings::new();
/// The highest sequence that was ever sent with an unknown outcome. Copies of such commits may
/// still be on their way. For the whole process, as operations are.
static DOUBTFUL: AtomicU64 = AtomicU64::new(0);

/// A commit that waits for its answer.
struct Pending {
    commit: Commit,
    encoded: Vec<u8>,
    answer: oneshot::Sender<Result<Reply>>,
    since: Tick,
    /// Whether it was sent and may have been applied.
    doubt: bool,
}

/// The way in.
pub(super) struct Queue {
    groups: mpsc::Sender<Vec<Pending>>,
    space: Arc<Space>,
}

impl Queue {
    /// A queue and the task that empties it until `closing`.
    pub(super) fn start(
        space: &Arc<Space>,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let (groups, waiting) = mpsc::channel(MAX_WAITING);
        tasks.spawn(feed(Arc::clone(space), waiting, closing));
        Queue { groups, space: Arc::clone(space) }
    }

    /// Commits these, which are of one partition and go out together.
    pub(super) async fn commit(&self, commits: &[Commit]) -> Vec<Result<Reply>> {
        let since = self.space.clock.tick();
        let mut answers = Vec::with_capacity(commits.len());
        let group = commits.iter().map(|commit| {
            let (answer, answered) = oneshot::channel();
            answers.push(answered);
            let encoded = wire::encode(commit);
            Pending { commit: commit.clone(), encoded, answer, since, doubt: false }
        });
        let group = group.collect();
        if let Err(unsent) = self.groups.try_send(group) {
            self.wait(unsent).await;
        }
        let mut replies = Vec::with_capacity(answers.len());
        for answer in answers {
            // Not sent, or the runtime is going down around us.
            replies.push(answer.await.unwrap_or_else(|_| Err(self.lost())));
        }
        replies
    }

    /// Waits for a place in the queue. A group that gets none is dropped, which answers it.
    async fn wait(&self, unsent: mpsc::error::TrySendError<Vec<Pending>>) {
        if let mpsc::error::TrySendError::Full(group) = unsent {
            let _ = self.space.clock.timeout(BUDGET, self.groups.send(group)).await;
        }
    }

    fn lost(&self) -> Error {
        match self.groups.is_closed() {
            true => super::closed(),
            false => Error::new(ErrorKind::Unavailable, "too many commits wait for redis"),
        }
    }
}

/// Takes groups from the queue and sends them, several batches at a time, until the store is
/// closed or dropped; then what waits is sent, and the connection let go.
async fn feed(
    space: Arc<Space>,
    mut waiting: mpsc::Receiver<Vec<Pending>>,
    closing: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let running = TaskTracker::new();
    let mut refreshed = space.clock.tick();
    let mut next = None;
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        if next.is_none() {
            next = match closing.run_until_cancelled(waiting.recv()).await {
                Some(group) => group,
                None => {
                    waiting.close();
                    waiting.recv().await
                }
            };
        }
        let Some(group) = next.take() else { break };
        let batch = gather(group, &mut waiting, &mut next);
        let refresh = space.clock.tick().since(refreshed) > REFRESH;
        if refresh {
            refreshed = space.clock.tick();
        }
        let space = Arc::clone(&space);
        running.spawn(async move {
            deliver(&space, batch, refresh).await;
            drop(place);
        });
    }
    running.close();
    running.wait().await;
    space.link.stop();
}

/// What waits and fits into one batch with the first group. What does not fit is left in `next`.
fn gather(
    mut batch: Vec<Pending>,
    waiting: &mut mpsc::Receiver<Vec<Pending>>,
    next: &mut Option<Vec<Pending>>,
) -> Vec<Pending> {
    let home = |group: &[Pending]| {
        group.first().map(|first| (first.commit.partition, first.commit.operation.client))
    };
    let size = |group: &[Pending]| group.iter().map(Pending::bytes).sum::<usize>();
    let mut bytes = size(&batch);
    while let Ok(group) = waiting.try_recv() {
        bytes += size(&group);
        let full = batch.len() + group.len() > MAX_BATCH || bytes > MAX_BATCH_BYTES;
        if full || home(&group) != home(&batch) {
            *next = Some(group);
            break;
        }
        batch.extend(group);
    }
    batch
}

/// Sends a batch until every commit of it has its answer.
async fn deliver(space: &Space, mut batch: Vec<Pending>, refresh: bool) {
    loop {
        batch = drop_late(space, batch);
        let Some(first) = batch.first() else { return };
        let patience = BUDGET.saturating_sub(space.clock.tick().since(first.since));
        let mut up = match space.link.up(patience).await {
            Ok(up) => up,
            // Only a link that is closed, or a whole budget without one, comes to nothing.
            Err(error) => return give_up(batch, &error),
        };
        let partition = first.commit.partition;
        let call = call(space, &batch, partition, first.commit.operation.client, refresh);
        match up.run(&space.scripts.commit, &call).await {
            Ok(value) => match take_answer(space, partition, value) {
                Ok(Some(judged)) => return settle(space, batch, judged),
                Ok(None) => {} // send again under the generation that was adopted
                Err(error) => return give_up(batch, &error),
            },
            Err(Failure::Refused(error)) => return give_up(batch, &refused(error)),
            Err(Failure::NotRun(error)) => {
                tracing::warn!(%error, "redis did not run a commit, reconnecting");
                space.link.broken(up.epoch);
            }
            Err(Failure::Broken(error)) => {
                // The script failed half-way, which takes foreign data under our keys.
                doubt(&mut batch);
                return give_up(batch, &Error::new(ErrorKind::Unknown, error.to_string()));
            }
            Err(Failure::Unclear(error)) => {
                tracing::warn!(%error, "redis did not answer a commit, sending it again");
                doubt(&mut batch);
                space.link.broken(up.epoch);
            }
        }
    }
}

/// Answers a whole batch that will not be sent again.
fn give_up(batch: Vec<Pending>, error: &Error) {
    batch.into_iter().for_each(|pending| pending.give_up(error));
}

/// The command for a batch.
fn call(
    space: &Space,
    batch: &[Pending],
    partition: Partition,
    client: u64,
    refresh: bool,
) -> redis::Cmd {
    let bytes = batch.iter().map(Pending::bytes).sum();
    let mut packed = Vec::with_capacity(bytes);
    let sending = SENDINGS.begin();
    for pending in batch {
        packed.push(u8::from(sending.again(&pending.commit.operation)));
        packed.extend_from_slice(&pending.encoded);
    }
    let mut call = header(space, partition, client, refresh, &sending, bytes);
    drop(sending);
    call.arg(packed);
    for value in batch.iter().flat_map(|pending| wire::values(&pending.commit)) {
        call.arg(value);
    }
    call
}

/// The command for no commits at all, by which a client learns where it stands.
pub(super) fn question(space: &Space, partition: Partition, client: u64) -> redis::Cmd {
    header(space, partition, client, true, &SENDINGS.begin(), 0)
}

/// The command for a batch without its commits, which are added.
fn header(
    space: &Space,
    partition: Partition,
    client: u64,
    refresh: bool,
    sending: &Sending<'_>,
    bytes: usize,
) -> redis::Cmd {
    let (generation, floor) = space.witness.expectation(partition).unwrap_or_default();
    let applied = space.applied.lock();
    let proof = applied.as_ref().and_then(|last| last.proof(partition, client, &generation));
    let (slot, sequence) = proof.unwrap_or_default();
    let mut call = space.scripts.commit.call(&space.meta(partition), bytes);
    call.arg(generation)
        .arg(floor.number())
        .arg(space.clock.random_id())
        .arg(format!("{client:016x}"))
        .arg(sending.number)
        .arg(DOUBTFUL.load(Ordering::Acquire))
        .arg(u8::from(refresh))
        .arg(slot)
        .arg(sequence);
    call
}

/// What the script said. `None`: the store was accepted as it is; send again.
///
/// The script judges the store's standing, where no other answer can overtake it. The witness
/// only remembers, and its own verdict on an answer that came late is of no use.
pub(super) fn take_answer(
    space: &Space,
    partition: Partition,
    value: Value,
) -> Result<Option<Judged>> {
    let (judged, generation, revision, accepted) = match wire::answer(value)? {
        Answer::Halted(reason) => return Err(rolled_back(&reason)),
        Answer::Adopt { revision, generation } => (None, generation, revision, true),
        Answer::Judged { judged, accepted } => {
            let (generation, revision) = (judged.generation.clone(), judged.revision);
            (Some(judged), generation, revision, accepted)
        }
    };
    let known = space.witness.expectation(partition);
    if known.is_none_or(|(known, _)| known != generation) {
        let standing = Standing { generation, revision, accepted, halted: None };
        let _ = space.witness.judge(partition, &standing);
    }
    if judged.is_some() {
        space.witness.acknowledge(partition, revision);
    }
    Ok(judged)
}

/// Gives every commit of a batch its answer, and remembers the last one that was applied.
fn settle(space: &Space, batch: Vec<Pending>, judged: Judged) {
    let mut replies = judged.replies.into_iter();
    for pending in batch {
        let value = replies.next().unwrap_or_default();
        let reply = wire::reply(&pending.commit, value, judged.now);
        if let Ok(Some(Reply::Committed { .. })) = &reply {
            let CommitBody { partition, operation, .. } = &*pending.commit;
            *space.applied.lock() = Some(Applied {
                generation: judged.generation.clone(),
                partition: *partition,
                client: operation.client,
                slot: operation.slot,
                sequence: operation.sequence,
            });
        }
        pending.tell(reply.and_then(|reply| reply.ok_or_else(straggler)));
    }
}

/// A commit of ours that the store has acknowledged, and so must still know.
#[derive(Debug)]
pub(super) struct Applied {
    generation: String,
    partition: Partition,
    client: u64,
    slot: u32,
    sequence: u64,
}

impl Applied {
    /// The slot and the sequence to be shown to the store, if this is a commit of that client in
    /// that generation.
    fn proof(&self, partition: Partition, client: u64, generation: &str) -> Option<(u32, u64)> {
        let same =
            self.partition == partition && self.client == client && self.generation == generation;
        same.then_some((self.slot, self.sequence))
    }
}

/// Answers those that have waited too long, and keeps the others.
fn drop_late(space: &Space, batch: Vec<Pending>) -> Vec<Pending> {
    let now = space.clock.tick();
    let late = |pending: &Pending| now.since(pending.since) >= BUDGET;
    let (late, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(late);
    let error = Error::new(ErrorKind::Unavailable, "redis did not take a commit in time");
    late.into_iter().for_each(|pending| pending.give_up(&error));
    batch
}

impl Pending {
    fn bytes(&self) -> usize {
        self.encoded.len() + wire::values(&self.commit).map(<[u8]>::len).sum::<usize>()
    }

    fn tell(self, reply: Result<Reply>) {
        let _ = self.answer.send(reply); // a caller that is gone has given up
    }

    /// Answers one that will not be sent again: perhaps it was applied, or it was not. That a store
    /// has lost data outweighs the doubt: whatever this commit did, everything has to halt.
    fn give_up(self, error: &Error) {
        let error = if self.doubt && error.kind() != ErrorKind::RolledBack {
            unknown(error)
        } else {
            Error::new(error.kind(), error.to_string())
        };
        self.tell(Err(error));
    }
}

/// From now on these count as perhaps applied, and perhaps still on their way.
fn doubt(batch: &mut [Pending]) {
    for pending in batch {
        DOUBTFUL.fetch_max(pending.commit.operation.sequence, Ordering::AcqRel);
        pending.doubt = true;
    }
}

/// What a commit gets that was sent and whose answer never came.
fn unknown(error: &dyn std::fmt::Display) -> Error {
    let message = format!("redis did not answer a commit; it may have been applied: {error}");
    Error::new(ErrorKind::Unknown, message)
}
