//! One wait for one task: putting it there, looking at it, and taking it back.
//!
//! An outcome that no executor has recorded counts; a worker that is still at it is waited for; a
//! request that nobody has taken is replaced. Only what can no longer count is asked again. How
//! that is told is [`next`], a pure function.
//!
//! A wait ends with the worker's word, or with a commit that takes the task away: from then on
//! nobody is given it, and whoever had it is refused.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::Tasks;
use super::ask::TaskStep;
use super::record::{Asker, Found, Outcome, State, Task, place_of, remove, request_key, task_key};
use crate::clock::{Tick, Timestamp};
use crate::error::Result;
use crate::metrics::Metric;
use crate::saga::CANCEL_GRACE;
use crate::saga::log::Entry;
use crate::saga::record::{Logged, encode, log_page};
use crate::saga::step::{Action, StepContext};
use crate::store::{
    Commit, Deadline, Guard, Hint, Hints, Key, Range, Record, Reply, Revision, Write,
};

/// How often a task is looked at without a hint.
const POLL: Duration = Duration::from_millis(500);
/// The first pause after a hint that says too little, and the longest: many wait at once.
const CROWD: Duration = Duration::from_millis(20);
const LONGEST_CROWD: Duration = Duration::from_millis(320);
/// The first pause before the store is asked again, and the longest.
const AGAIN: Duration = Duration::from_millis(20);
const LONGEST_AGAIN: Duration = Duration::from_secs(1);
/// What is kept of an attempt's time for taking the task back; a tenth of it if that is less.
const LAST_MOMENT: Duration = Duration::from_millis(500);
/// How long a wait that is over still waits before it changes anything: an executor whose saga is
/// another's by now is dropped meanwhile, and must leave the task to the other.
const LINGER: Duration = Duration::from_millis(20);
/// How long a worker that is at it is waited for when the saga has turned around.
const PARTING: Duration = Duration::from_millis(1_000);
/// How many entries of a log are read at once, each of which may be large.
const LOG_PAGE: usize = 20;
/// How often a task that changes under our hands is removed again.
const REMOVALS: usize = 4;

const _: () = assert!(PARTING.as_millis() + LAST_MOMENT.as_millis() < CANCEL_GRACE.as_millis());

/// How a wait for a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waited {
    /// A worker has said how it ended.
    Ended(Outcome),
    /// No worker was ever given it, and none will be.
    NeverGiven(String),
    /// A worker had it, or may have had it, and nobody knows what came of it.
    Lost(String),
    /// There was nothing to wait for.
    Nothing,
}

/// What an errand is for.
#[derive(Clone, Copy)]
pub(super) enum Wish<'a> {
    /// To have this done.
    Ask(&'a [u8]),
    /// To learn what becomes of what was asked before.
    Heed,
}

/// One wait for one task.
pub(super) struct Errand<'a> {
    tasks: &'a Tasks,
    handler: &'a str,
    context: &'a StepContext,
    action: Action,
    key: Key,
    mine: Asker,
    /// When the task is taken back.
    until: Tick,
    /// How far our own request has come: see [`UNSENT`] and those after it.
    asked: AtomicU8,
}

/// Our request is not there, and will not come.
const UNSENT: u8 = 0;
/// It was sent, and may be there or come.
const SENT: u8 = 1;
/// It was there.
const ASKED: u8 = 2;

/// A task as the store told it, with the store's time.
struct View {
    found: Option<Found>,
    now: Timestamp,
}

impl View {
    fn of(record: Option<Record>, now: Timestamp) -> Result<Self> {
        Ok(View { found: record.as_ref().map(Found::of).transpose()?, now })
    }
}

/// What follows from a task as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// Put our own request there.
    Put,
    /// Look again, after this time at the latest.
    Wait(Duration),
    /// Take it away, as it is: nobody has it, or its claim has lapsed.
    Remove,
    /// It ended for an attempt before ours: that counts unless it was recorded.
    Check(Outcome),
    /// The wait is over.
    End(Waited),
}

/// What to do about a task as it was found.
fn next(found: Option<&Found>, wish: Wish<'_>, mine: Asker, now: Timestamp) -> Next {
    let asks = matches!(wish, Wish::Ask(_));
    let Some(found) = found else {
        return if asks { Next::Put } else { Next::End(Waited::Nothing) };
    };
    let by = found.task.by;
    if by.fencing_token > mine.fencing_token {
        return Next::End(Waited::Lost("another executor goes on with this saga".into()));
    }
    let ours = by == mine;
    match &found.task.state {
        State::Open if !asks => Next::Remove,
        State::Open if ours => Next::Wait(POLL),
        State::Open => Next::Put,
        State::Claimed { .. } if !found.lapsed(now) => {
            Next::Wait(POLL.min(found.left(now) + Duration::from_millis(1)))
        }
        // The attempt before ours has been counted as one whose outcome is unknown.
        State::Claimed { .. } if asks && !ours => Next::Put,
        State::Claimed { .. } => Next::Remove,
        State::Ended { outcome, .. } if ours => Next::End(Waited::Ended(outcome.clone())),
        State::Ended { outcome, .. } => Next::Check(outcome.clone()),
    }
}

impl<'a> Errand<'a> {
    pub(super) fn new(step: &'a TaskStep, context: &'a StepContext, action: Action) -> Self {
        let clock = &step.tasks.0.clock;
        let left = context.time_left(clock);
        let last_moment = LAST_MOMENT.min(left / 10);
        Errand {
            tasks: &step.tasks,
            handler: &step.handler,
            context,
            action,
            key: task_key(&context.saga_id, &context.step, action),
            mine: Asker::of(context),
            until: clock.tick() + left.saturating_sub(last_moment),
            asked: AtomicU8::new(UNSENT),
        }
    }

    /// Waits until the task has ended, or takes it back when its outcome is no longer waited for.
    pub(super) async fn wait(&self, wish: Wish<'_>) -> Result<Waited> {
        let clock = &self.tasks.0.clock;
        let cancelled = tokio::select! {
            biased;
            waited = self.work(wish) => return waited,
            () = self.context.cancelled.cancelled() => true,
            () = clock.sleep_until(self.until) => false,
        };
        clock.sleep(LINGER).await;
        if cancelled {
            // What nobody has is taken back at once; who is at it gets a moment to end it.
            let parting = clock.timeout(PARTING, self.work(Wish::Heed)).await.transpose()?;
            match parting {
                Some(Waited::Nothing) => return Ok(self.nothing_there()),
                Some(waited) => return Ok(waited),
                None => {}
            }
        }
        clock.timeout(LAST_MOMENT, self.take_back()).await.unwrap_or_else(|| {
            Ok(Waited::Lost("its time was over, and its task could not be withdrawn".into()))
        })
    }

    /// Looks at the task again and again until the wait is over.
    async fn work(&self, wish: Wish<'_>) -> Result<Waited> {
        let range = Range::new(self.key.partition, self.key.kind, &*self.key.id);
        let mut hints = self.tasks.0.store.watch(&range).await.ok(); // without hints it polls
        let mut crowd = CROWD;
        let mut view = match wish {
            // Most likely it is new, and then one commit is enough.
            Wish::Ask(_) => View { found: None, now: Timestamp::default() },
            Wish::Heed => self.look().await?,
        };
        loop {
            let found = view.found.as_ref();
            match (next(found, wish, self.mine, view.now), wish) {
                (Next::End(waited), _) => return Ok(waited),
                (Next::Wait(pause), _) => self.pause(pause, &mut hints, &mut crowd).await,
                (Next::Remove, _) => {
                    if let Some(waited) = self.remove(found, Removal::Lapsed).await? {
                        return Ok(waited);
                    }
                }
                (Next::Check(outcome), _) if !self.is_recorded(found).await? => {
                    return Ok(Waited::Ended(outcome));
                }
                (Next::Put | Next::Check(_), Wish::Heed) => return Ok(Waited::Nothing),
                (Next::Put | Next::Check(_), Wish::Ask(request)) => {
                    if found.is_none() && self.asked.load(Ordering::Relaxed) != UNSENT {
                        return Ok(self.nothing_there());
                    }
                    if let Some(other) = self.put(request, found).await? {
                        view = other;
                        continue;
                    }
                    self.pause(POLL, &mut hints, &mut crowd).await;
                }
            }
            view = self.look().await?;
        }
    }

    /// Takes the task away, whoever has it, unless it has ended.
    async fn take_back(&self) -> Result<Waited> {
        for _ in 0..REMOVALS {
            let view = self.look().await?;
            let found = view.found.as_ref();
            match next(found, Wish::Heed, self.mine, view.now) {
                Next::End(Waited::Nothing) => return Ok(self.nothing_there()),
                Next::End(waited) => return Ok(waited),
                Next::Check(outcome) if !self.is_recorded(found).await? => {
                    return Ok(Waited::Ended(outcome));
                }
                Next::Check(_) | Next::Put => return Ok(self.nothing_there()),
                Next::Wait(_) | Next::Remove => {
                    if let Some(waited) = self.remove(found, Removal::Anyway).await? {
                        return Ok(waited);
                    }
                }
            }
        }
        Ok(Waited::Lost("its task changed too fast to be withdrawn".into()))
    }

    /// Puts our request there if the task is still as it was found, or says what is there now.
    async fn put(&self, request: &[u8], found: Option<&Found>) -> Result<Option<View>> {
        let commit = self.asking(request, found)?;
        let before = self.asked.swap(SENT, Ordering::Relaxed);
        match self.insist(|| self.tasks.0.store.commit(&commit)).await {
            Reply::Committed { .. } => {
                self.asked.store(ASKED, Ordering::Relaxed);
                Ok(None)
            }
            Reply::Conflict { found, now, .. } => {
                self.asked.store(before, Ordering::Relaxed);
                View::of(found, now).map(Some)
            }
        }
    }

    fn asking(&self, request: &[u8], found: Option<&Found>) -> Result<Commit> {
        let (clock, key) = (&self.tasks.0.clock, &self.key);
        let task = Task {
            handler: self.handler.to_owned(),
            by: self.mine,
            asked_us: clock.now().as_micros(),
            deadline_us: self.context.deadline_at.as_micros(),
            bytes: request.len(),
            state: State::Open,
        };
        let (mut guards, mut writes) = (Vec::new(), Vec::new());
        match found {
            None => guards.push(Guard::Absent(key.clone())),
            Some(found) => {
                guards.push(Guard::RevisionIs(key.clone(), found.revision));
                // Heartbeats move the deadline and leave the revision.
                guards.extend(found.task.is_claimed().then(|| Guard::Lapsed(key.clone())));
                writes.push(Write::Delete { key: place_of(key, &found.task) });
            }
        }
        let place = place_of(key, &task);
        let deadline = Deadline::After(self.context.time_left(clock));
        let request = Write::Put {
            key: request_key(key),
            value: request.to_vec(),
            deadline: Deadline::Never,
        };
        writes.extend([
            Write::Put { key: key.clone(), value: encode(&task)?, deadline },
            request,
            Write::Mark { key: place.clone() },
        ]);
        Commit::new(key.partition, guards, writes, vec![place])
    }

    /// Removes the task if it is still as it was found, and says what that comes to.
    async fn remove(&self, found: Option<&Found>, removal: Removal) -> Result<Option<Waited>> {
        let Some(found) = found else { return Ok(None) };
        let mut guards = vec![Guard::RevisionIs(self.key.clone(), found.revision)];
        if removal == Removal::Lapsed && found.task.is_claimed() {
            guards.push(Guard::Lapsed(self.key.clone()));
        }
        let writes = remove(&self.key, &found.task);
        let commit = Commit::new(self.key.partition, guards, writes, Vec::new())?;
        match self.insist(|| self.tasks.0.store.commit(&commit)).await {
            Reply::Conflict { .. } => Ok(None),
            Reply::Committed { .. } => Ok(Some(self.removed(&found.task, removal))),
        }
    }

    fn removed(&self, task: &Task, removal: Removal) -> Waited {
        match (&task.state, removal) {
            (State::Claimed { holder, .. }, Removal::Lapsed) => {
                self.tasks.0.metrics.count(Metric::TasksLapsed);
                Waited::Lost(format!("its claim lapsed; the worker was {holder:?}"))
            }
            (State::Claimed { holder, .. }, Removal::Anyway) => {
                Waited::Lost(format!("its time was over; the worker is {holder:?}"))
            }
            // Ours may still come.
            (State::Open | State::Ended { .. }, _)
                if task.by != self.mine && self.asked.load(Ordering::Relaxed) == SENT =>
            {
                self.nothing_there()
            }
            (State::Open | State::Ended { .. }, _) => self.never_given(),
        }
    }

    fn never_given(&self) -> Waited {
        Waited::NeverGiven(format!("no worker took it; they poll for {:?}", self.handler))
    }

    /// There is no task: it was never put, or who removed it knows more than we.
    fn nothing_there(&self) -> Waited {
        match self.asked.load(Ordering::Relaxed) {
            UNSENT => self.never_given(),
            _ => Waited::Lost("its task is gone".into()),
        }
    }

    /// Whether the log knows better than a worker's word of this revision.
    async fn is_recorded(&self, found: Option<&Found>) -> Result<bool> {
        let Some(found) = found else { return Ok(false) };
        let step = self.context.context.place(&self.context.step);
        let mut from = 0;
        loop {
            let saga_id = &self.context.saga_id;
            let store = &*self.tasks.0.store;
            let (entries, more) = self.insist(|| log_page(store, saga_id, from, LOG_PAGE)).await;
            from += u64::try_from(entries.len()).unwrap_or(u64::MAX);
            let later = |(_, revision): &&(_, Revision)| *revision > found.revision;
            let about_it = |logged: &Logged| {
                logged.entry.step() == step && speaks_of(&logged.entry, self.action)
            };
            if entries.iter().filter(later).any(|(logged, _)| about_it(logged)) {
                return Ok(true);
            }
            if !more {
                return Ok(false);
            }
        }
    }

    /// Removes what is stored of a task whose outcome is recorded. What cannot be removed now is
    /// told from an outcome that counts by the log.
    pub(super) async fn clear(&self) {
        let clock = &self.tasks.0.clock;
        match clock.timeout(LAST_MOMENT, self.clear_away()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(task = %self.key.id, %error, "a task was left over"),
            None => tracing::warn!(task = %self.key.id, "a task was left over"),
        }
    }

    async fn clear_away(&self) -> Result<()> {
        for _ in 0..REMOVALS {
            let view = self.look().await?;
            let Some(found) = view.found.as_ref() else { return Ok(()) };
            let theirs = found.task.by.fencing_token > self.mine.fencing_token;
            if theirs || self.remove(Some(found), Removal::Anyway).await?.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn look(&self) -> Result<View> {
        let keys = std::slice::from_ref(&self.key);
        let read = self.insist(|| self.tasks.0.store.get(keys)).await;
        View::of(read.records.into_iter().flatten().next(), read.now)
    }

    /// Asks the store until it answers; whoever calls this limits its time.
    async fn insist<T, F>(&self, ask: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T>>,
    {
        let mut pause = AGAIN;
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => {
                    tracing::debug!(task = %self.key.id, %error, "the store did not answer");
                    self.tasks.0.clock.sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_AGAIN);
                }
            }
        }
    }

    /// Waits for a hint, or for this long.
    async fn pause(&self, pause: Duration, hints: &mut Option<Hints>, crowd: &mut Duration) {
        let clock = &self.tasks.0.clock;
        let Some(hints) = hints else { return clock.sleep(pause).await };
        if clock.timeout(pause, hints.next()).await == Some(Hint::Anything) {
            // Most likely something else has changed, again and again.
            clock.sleep(clock.jitter(*crowd)).await;
            *crowd = (*crowd * 2).min(LONGEST_CROWD);
        }
    }
}

/// Under which condition a task is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// If it was claimed, the claim must have lapsed.
    Lapsed,
    /// Whoever has it.
    Anyway,
}

/// Whether an entry settles attempts at this action, whatever a worker said before it.
fn speaks_of(entry: &Entry, action: Action) -> bool {
    match entry {
        Entry::Done { .. } | Entry::Failed { .. } | Entry::Unknown { .. } => {
            action != Action::Compensate
        }
        Entry::Undone { .. } | Entry::UndoFailed { .. } => action == Action::Compensate,
        Entry::Operated { .. } | Entry::Stuck { .. } => true,
        Entry::Began { .. } | Entry::TakenOver { .. } | Entry::TimedOut => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;

    const NOW: Timestamp = Timestamp::from_micros(1_000);
    const MINE: Asker = Asker { attempt: 2, fencing_token: 20 };

    fn found(by: Asker, state: State, deadline: u64) -> Found {
        let deadline = Some(Timestamp::from_micros(deadline));
        let handler = "h".into();
        let task = Task { handler, by, asked_us: 1, deadline_us: 1, bytes: 1, state };
        Found { revision: Revision::new(7), deadline, task }
    }

    #[test]
    fn what_follows_from_a_task_is_decided_by_whose_it_is_and_where_it_stands() {
        let ask = Wish::Ask(b"");
        let claimed = || State::Claimed { holder: "w".into(), lease_us: 1 };
        let outcome = Outcome::Done { result: Json::null() };
        let ended = || State::Ended { token: 6, outcome: outcome.clone() };
        let before = Asker { attempt: 1, fencing_token: 10 };
        let after = Asker { attempt: 3, fencing_token: 30 };
        let stale = Waited::Lost("another executor goes on with this saga".into());
        let soon = Next::Wait(Duration::from_millis(1) + Duration::from_micros(500));
        assert_eq!(next(None, ask, MINE, NOW), Next::Put);
        assert_eq!(next(None, Wish::Heed, MINE, NOW), Next::End(Waited::Nothing));
        for (by, state, deadline, asking, heeding) in [
            (MINE, State::Open, 2_000, Next::Wait(POLL), Next::Remove),
            (before, State::Open, 2_000, Next::Put, Next::Remove),
            (MINE, claimed(), 1_500, soon.clone(), soon.clone()),
            (before, claimed(), 1_500, soon.clone(), soon),
            (MINE, claimed(), 1_000, Next::Remove, Next::Remove),
            (before, claimed(), 1_000, Next::Put, Next::Remove),
            (before, ended(), 0, Next::Check(outcome.clone()), Next::Check(outcome.clone())),
            (after, claimed(), 1_000, Next::End(stale.clone()), Next::End(stale)),
        ] {
            let found = found(by, state, deadline);
            assert_eq!(next(Some(&found), ask, MINE, NOW), asking, "{found:?}");
            assert_eq!(next(Some(&found), Wish::Heed, MINE, NOW), heeding, "{found:?}");
        }
        let ours = found(MINE, ended(), 0);
        assert_eq!(next(Some(&ours), ask, MINE, NOW), Next::End(Waited::Ended(outcome)));
    }
}
