//! Driving schedules where this instance leads: what is due is begun, what has ended is let go.
//!
//! One task looks for schedules and for changes of them, once a second and at a hint. One task
//! drives each schedule. It decides what is due, commits the decision under the leader's fence and
//! the revision of the schedule, and only then runs what was begun. So two leaders never both begin
//! a tick, and what one of them began, the next finds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{Id, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::decide::{Overlap, Plan, plan};
use super::expression::Expression;
use super::lacking::Lacking;
use super::record::{self, Content, Found, LastRun, Open, SCHEDULE, Standing, TickId, TickOutcome};
use super::stuck::Due;
use super::tick::{Ended, Run};
use super::{Schedules, trail};
use crate::clock::{Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::keeper::Right;
use crate::metrics::Metric;
use crate::store::{Guard, Hints, Partition, Range, Reply, Revision};

/// How often the leader looks whether a schedule was changed, without a hint.
const POLL: Duration = Duration::from_secs(1);
/// How soon it looks again after a hint, however many there are.
const CROWD: Duration = Duration::from_millis(20);
/// Schedules read at once.
const PAGE: usize = 100;
/// The pause before the store is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often one commit is sent while it is not known what became of it.
const MAX_SENDS: usize = 16;
/// How often at most it is told that a schedule stands still.
const COMPLAIN: Duration = Duration::from_secs(60);
/// The longest sleep for a due time, so that a clock that was set is noticed.
const NAP: Duration = Duration::from_secs(30);

/// A driver, as the task that looks for changes sees it.
struct Driven {
    /// What it knows of its record.
    known: Arc<AtomicU64>,
    nudge: Arc<Notify>,
    task: JoinHandle<()>,
}

/// What the task that looks for changes has seen.
#[derive(Default)]
struct Heard {
    /// The bell at the last look.
    rung: Option<Option<Revision>>,
    /// When it was told that there are schedules that cannot be read.
    passed_over: Option<Tick>,
}

impl Schedules {
    /// Drives all schedules whenever this instance leads, until stopped.
    pub(crate) async fn watch_over(self, stop: CancellationToken) {
        let mut edges = self.0.leadership.subscribe();
        while !stop.is_cancelled() && !self.0.closing.is_cancelled() {
            if let Some(right) = self.0.leadership.right() {
                self.lead(right).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.closing.cancelled() => return,
                // Missed edges change nothing: who leads is asked, not counted.
                edge = edges.next() => if matches!(edge, Ok(None)) { return },
            }
        }
    }

    /// Drives all schedules until leadership is lost or nothing more is to be begun.
    async fn lead(&self, right: Right) {
        let bell = record::bell();
        let range = Range::new(bell.partition, bell.kind, String::from(bell.id));
        let mut hints = None;
        let mut heard = Heard::default();
        let mut drivers: HashMap<Box<str>, Driven> = HashMap::new();
        while right.is_held() && !self.0.closing.is_cancelled() {
            let round = async {
                if hints.is_none() {
                    hints = self.0.store.watch(&range).await.ok(); // without hints it polls
                }
                if let Err(error) = self.look(&right, &mut heard, &mut drivers).await {
                    tracing::warn!(%error, "schedules could not be looked at");
                }
                self.rest(&mut hints).await;
            };
            tokio::select! {
                () = right.lost().cancelled() => {}
                () = self.0.closing.cancelled() => {}
                () = round => {}
            }
        }
        for (job_id, driven) in drivers {
            // They end by themselves, for the same reason.
            if driven.task.await.is_err() {
                tracing::error!(schedule = %job_id, "the driver of a schedule panicked");
            }
        }
    }

    async fn rest(&self, hints: &mut Option<Hints>) {
        let clock = &self.0.clock;
        match hints {
            Some(hints) => {
                clock.timeout(POLL, hints.next()).await;
                clock.sleep(CROWD).await;
            }
            None => clock.sleep(POLL).await,
        }
    }

    /// Looks for schedules that nobody drives, and for those that were changed.
    async fn look(
        &self,
        right: &Right,
        heard: &mut Heard,
        drivers: &mut HashMap<Box<str>, Driven>,
    ) -> Result<()> {
        let asked = self.0.clock.tick();
        let read = self.0.store.get(&[record::bell()]).await?;
        self.0.time.told(read.now, asked);
        let rung = read.records.into_iter().flatten().next().map(|record| record.revision);
        let ended = drivers.values().any(|driven| driven.task.is_finished());
        let tells = heard.passed_over.is_none_or(|at| asked.since(at) >= COMPLAIN);
        if heard.rung == Some(rung) && !ended && (heard.passed_over.is_none() || !tells) {
            return Ok(());
        }
        let mut passed_over = None;
        drivers.retain(|_, driven| !driven.task.is_finished());
        let mut gone: Vec<Box<str>> = drivers.keys().cloned().collect();
        let mut after = None;
        loop {
            let range = Range::new(Partition::FIRST, SCHEDULE, "").after(after);
            let page = self.0.store.scan(&range, PAGE).await?;
            for found in &page.records {
                gone.retain(|id| *id != found.key.id);
                match drivers.get(&found.key.id) {
                    Some(driven) => {
                        if driven.known.load(Ordering::Acquire) != found.revision.number() {
                            driven.nudge.notify_one();
                        }
                    }
                    None => match Found::of(found) {
                        Ok(read) => {
                            let driven = self.drive(&found.key.id, read, right.clone());
                            drivers.insert(found.key.id.clone(), driven);
                        }
                        Err(error) => {
                            passed_over = heard.passed_over.filter(|_| !tells).or(Some(asked));
                            if tells {
                                tracing::error!(%error, "a schedule is passed over");
                            }
                        }
                    },
                }
            }
            after = page.records.last().map(|record| record.key.id.to_string());
            if !page.more {
                break;
            }
        }
        for id in gone {
            drivers.get(&id).inspect(|driven| driven.nudge.notify_one());
        }
        *heard = Heard { rung: Some(rung), passed_over };
        Ok(())
    }

    fn drive(&self, job_id: &str, found: Found, right: Right) -> Driven {
        let (known, nudge) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let driver = Driver {
            schedules: self.clone(),
            job_id: job_id.to_owned(),
            right,
            known: Arc::clone(&known),
            nudge: Arc::clone(&nudge),
            due: self.0.stuck.due(),
            lacking: Lacking::default(),
            runs: JoinSet::new(),
            running: HashMap::new(),
            ended: Vec::new(),
            complained: None,
        };
        let task = tokio::spawn(self.0.work.track_future(driver.run(found)));
        Driven { known, nudge, task }
    }
}

/// Drives one schedule under one leadership.
struct Driver {
    schedules: Schedules,
    job_id: String,
    right: Right,
    known: Arc<AtomicU64>,
    nudge: Arc<Notify>,
    due: Due,
    lacking: Lacking,
    runs: JoinSet<Option<Ended>>,
    running: HashMap<Id, TickId>,
    /// Ticks that have ended, as far as that is not recorded.
    ended: Vec<(TickId, Ended)>,
    /// When it was told that the schedule stands still.
    complained: Option<Tick>,
}

/// What to do after a round.
enum Next {
    /// Go on with what is known of the schedule.
    GoOn(Box<Found>),
    /// Read it anew.
    Read,
    /// There is nothing more to do.
    Done,
}

impl Driver {
    async fn run(mut self, found: Found) {
        let mut next = Next::GoOn(Box::new(found));
        while !self.is_over() {
            let lost = self.right.lost().clone();
            let step = async {
                match next {
                    Next::GoOn(found) => self.round(*found).await,
                    Next::Read => self.read().await,
                    Next::Done => Next::Done,
                }
            };
            // Whatever it was about to write is refused by then.
            match lost.run_until_cancelled(step).await {
                Some(Next::Done) | None => break,
                Some(after) => next = after,
            }
        }
        // Ticks of a leader that was deposed are cut off by themselves, and give their claims back.
        self.runs.detach_all();
    }

    fn is_over(&self) -> bool {
        let idle = self.running.is_empty() && self.ended.is_empty();
        !self.right.is_held() || (self.schedules.0.closing.is_cancelled() && idle)
    }

    async fn read(&mut self) -> Next {
        let inner = Arc::clone(&self.schedules.0);
        let asked = inner.clock.tick();
        match inner.store.get(&[record::key(&self.job_id)]).await {
            Ok(read) => {
                inner.time.told(read.now, asked);
                match read.records.into_iter().flatten().next().map(|record| Found::of(&record)) {
                    None => Next::Done,
                    Some(Ok(found)) => Next::GoOn(Box::new(found)),
                    Some(Err(error)) => {
                        self.complain(&error);
                        self.again().await
                    }
                }
            }
            Err(error) => {
                tracing::debug!(schedule = %self.job_id, %error, "a schedule was not read");
                self.again().await
            }
        }
    }

    /// Says that the schedule stands still, but not each time.
    fn complain(&mut self, error: &Error) {
        let now = self.schedules.0.clock.tick();
        if self.complained.is_none_or(|at| now.since(at) >= COMPLAIN) {
            tracing::error!(schedule = %self.job_id, %error, "a schedule stands still");
            self.complained = Some(now);
        }
    }

    /// Waits a moment before the store is asked again.
    async fn again(&self) -> Next {
        let clock = &self.schedules.0.clock;
        let pause = clock.sleep(AGAIN + clock.jitter(AGAIN));
        self.right.lost().run_until_cancelled(pause).await;
        Next::Read
    }

    /// Decides, commits, starts what was begun, and waits for the next thing to happen.
    async fn round(&mut self, mut found: Found) -> Next {
        self.known.store(found.revision.number(), Ordering::Release);
        while let Some(joined) = self.runs.try_join_next_with_id() {
            self.joined(joined);
        }
        let not_started = match self.not_started(&found.content).await {
            Ok(not_started) => not_started,
            Err(error) => {
                tracing::debug!(schedule = %self.job_id, %error, "jobs were not looked up");
                return self.again().await;
            }
        };
        let now = self.schedules.0.time.now();
        let expression = self.expression(&found.content);
        if !not_started.is_empty() || self.has_to_commit(&found.content, expression.as_ref(), now) {
            let mut content = found.content.clone();
            let dropped = content.let_go(&not_started);
            let mut told = self.decide(&mut content, expression.as_ref(), now);
            told.plan.skipped += dropped;
            let is_left = content.standing == Standing::Ending && content.open.is_empty();
            let left = (!is_left).then_some(&content);
            match self.commit(found.revision, left, &told).await {
                Some(revision) => {
                    self.ended.clear();
                    self.tell(&told);
                    if is_left {
                        return Next::Done;
                    }
                    self.known.store(revision.number(), Ordering::Release);
                    found = Found { revision, content };
                }
                None => return self.again().await,
            }
        }
        self.start(&found.content).await;
        match self.wait(&found.content).await {
            Woken::ByItself => Next::GoOn(Box::new(found)),
            Woken::ByChange => Next::Read,
        }
    }

    /// Ticks that are to be let go unless they have started, and have not.
    async fn not_started(&self, content: &Content) -> Result<Vec<TickId>> {
        let mut not_started = Vec::new();
        for tick in content.unwanted().filter(|tick| !self.is_started(tick)) {
            // A leader before this one may have begun it; a job that cannot be read is there.
            match self.schedules.has_job(&tick.job_key(&self.job_id)).await {
                Ok(false) => not_started.push(tick.clone()),
                Ok(true) => {}
                Err(error) if error.kind() == ErrorKind::Internal => {}
                Err(error) => return Err(error),
            }
        }
        Ok(not_started)
    }

    /// Whether it was started here and is not recorded as ended.
    fn is_started(&self, tick: &TickId) -> bool {
        self.running.values().any(|running| running == tick)
            || self.ended.iter().any(|(ended, _)| ended == tick)
    }

    fn has_to_commit(
        &self,
        content: &Content,
        expression: Option<&Expression>,
        now: Timestamp,
    ) -> bool {
        let begins = expression.is_some() && self.can_begin(content, now);
        let is_left = content.standing == Standing::Ending && content.open.is_empty();
        begins || is_left || !self.ended.is_empty()
    }

    /// Whether something is due that can be decided.
    fn can_begin(&self, content: &Content, now: Timestamp) -> bool {
        content.standing == Standing::Active
            && content.next_due.is_some_and(|due| due <= now)
            && (self.room(content) > 0 || content.current().definition.overlap == Overlap::Skip)
            && !self.schedules.0.closing.is_cancelled()
    }

    /// How many more ticks may be open: where they run one after another, what waits is not begun.
    fn room(&self, content: &Content) -> usize {
        let due = content.open.iter().filter(|open| matches!(open.tick, TickId::Due(_)));
        content.at_once().saturating_sub(due.count())
    }

    /// Folds what has ended and what is due into a schedule.
    fn decide(
        &self,
        content: &mut Content,
        expression: Option<&Expression>,
        now: Timestamp,
    ) -> Told {
        let mut told = Told::default();
        for (tick, ended) in &self.ended {
            let before = content.open.len();
            content.open.retain(|open| open.tick != *tick);
            if content.open.len() == before {
                continue; // it was let go before, by a commit whose reply was lost
            }
            match ended.outcome {
                TickOutcome::Completed => content.counts.completed += 1,
                TickOutcome::Failed | TickOutcome::Cancelled => content.counts.failed += 1,
            }
            let last = LastRun {
                scheduled_time: tick.at(),
                started_at: ended.started_at,
                ended_at: now,
                outcome: ended.outcome,
                error: ended.error.clone(),
                job_key: tick.job_key(&self.job_id),
            };
            told.ended.push(last.clone());
            content.last_run = Some(last);
        }
        if let Some(expression) = expression
            && self.can_begin(content, now)
        {
            let rules = content.current().definition.rules();
            let (open, room) = (content.open.len(), self.room(content));
            let plan = plan(expression, rules, content.next_due, now, open, room);
            let version = content.current().version;
            let begun = plan.begin.iter().map(|due| TickId::Due(due.as_micros()));
            content.open.extend(begun.map(|tick| Open { tick, version }));
            content.next_due = plan.next_due;
            content.counts.begun += u64::try_from(plan.begin.len()).unwrap_or(u64::MAX);
            content.counts.skipped += plan.skipped;
            content.counts.misfired += plan.misfired;
            told.plan = plan;
        }
        content.forget_unused();
        told
    }

    /// When it is due, unless that cannot be read.
    fn expression(&mut self, content: &Content) -> Option<Expression> {
        let read = self.due.read(&content.current().definition);
        read.inspect_err(|error| self.complain(error)).ok()
    }

    /// Commits a change under the leader's fence; `None` if it is not known to be committed. It is
    /// sent again while its outcome is unknown, or what it did would be told to nobody.
    async fn commit(
        &mut self,
        from: Revision,
        content: Option<&Content>,
        told: &Told,
    ) -> Option<Revision> {
        let inner = Arc::clone(&self.schedules.0);
        let done = (&told.plan, &*told.ended);
        let entered = trail::advance(&inner.scribe, &self.job_id, from, done, content);
        let leader = Guard::Held(self.right.fence().clone());
        let mut asked = inner.clock.tick();
        let commit = match record::advance(&self.job_id, from, leader, content, entered) {
            Ok(commit) => commit,
            Err(error) => {
                self.complain(&error);
                return None;
            }
        };
        let mut reply = inner.store.commit(&commit).await;
        let is_unknown = reply.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unknown);
        let mut sends = 1;
        while is_unknown && reply.is_err() && sends < MAX_SENDS {
            inner.clock.sleep(AGAIN + inner.clock.jitter(AGAIN)).await;
            asked = inner.clock.tick();
            reply = inner.store.commit(&commit).await;
            sends += 1;
        }
        match reply {
            Ok(Reply::Committed { revision, now }) => {
                inner.time.told(now, asked);
                Some(revision)
            }
            Ok(Reply::Conflict { now, .. }) => {
                inner.time.told(now, asked);
                None
            }
            Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Internal) => {
                self.complain(&error);
                None
            }
            Err(error) => {
                // Leadership is lost soon if this goes on, and that is told.
                tracing::debug!(schedule = %self.job_id, %error, "a schedule did not go on");
                None
            }
        }
    }

    /// Counts and tells what was committed.
    fn tell(&self, told: &Told) {
        let inner = &self.schedules.0;
        let Told { plan, ended } = told;
        inner.metrics.add(Metric::TicksBegun, plan.begin.len() as u64);
        inner.metrics.add(Metric::TicksSkipped, plan.skipped);
        inner.metrics.add(Metric::TicksMisfired, plan.misfired);
        if plan.misfired > 0 {
            let (job_id, count) = (self.job_id.clone(), plan.misfired);
            tracing::warn!(schedule = %job_id, count, "ticks were too late and do not run");
            inner.bus.tell(inner.clock.now(), Event::ScheduleMisfired { job_id, count });
        }
        for last in ended {
            match last.outcome {
                TickOutcome::Completed => inner.metrics.count(Metric::TicksCompleted),
                TickOutcome::Failed | TickOutcome::Cancelled => {
                    inner.metrics.count(Metric::TicksFailed);
                    let job_id = self.job_id.clone();
                    let error = last.error.clone().unwrap_or_default();
                    let scheduled_time = last.scheduled_time;
                    tracing::warn!(schedule = %job_id, %scheduled_time, error, "a tick failed");
                    let event = Event::ScheduleTickFailed { job_id, scheduled_time, error };
                    inner.bus.tell(inner.clock.now(), event);
                }
            }
        }
    }

    /// Starts ticks that are open, in order, as many at once as the schedule allows. One that waits
    /// for its moment, or for a handler, takes nobody's place.
    async fn start(&mut self, content: &Content) {
        self.lacking.forget_all_but(&content.open);
        let now = self.schedules.0.time.now();
        for open in &content.open {
            let enough = self.running.len() >= content.at_once();
            if enough || self.schedules.0.closing.is_cancelled() || !self.right.is_held() {
                return;
            }
            let moment = content.moment(&self.job_id, open);
            if moment > now || self.is_started(&open.tick) {
                continue;
            }
            let definition = content.definition_of(open);
            let asked = (&open.tick, definition);
            if self.lacking.waits(&self.schedules, &self.job_id, asked).await {
                continue;
            }
            let run = Run {
                schedules: self.schedules.clone(),
                job_id: self.job_id.clone(),
                open: open.clone(),
                definition: definition.clone(),
                late: now.since(moment),
                right: self.right.clone(),
                made: Mutex::default(),
            };
            let run = self.schedules.0.work.track_future(run.run());
            let id = self.runs.spawn(run).id();
            self.running.insert(id, open.tick.clone());
        }
    }

    /// Waits for a tick to end, for the next to be due, or for a change.
    async fn wait(&mut self, content: &Content) -> Woken {
        if self.is_over() {
            return Woken::ByItself; // nothing is left that would wake it
        }
        let inner = Arc::clone(&self.schedules.0);
        let now = inner.time.now();
        let due = content.next_due.filter(|_| content.standing == Standing::Active);
        let moments = content.open.iter().map(|open| content.moment(&self.job_id, open));
        let next = due.into_iter().chain(moments).filter(|at| *at > now).min();
        let nap = match next {
            // More was due than is decided at once.
            Some(_) | None if self.due.is_read() && self.can_begin(content, now) => Duration::ZERO,
            // Half the way first: the store's time may be learnt anew meanwhile.
            Some(next) => {
                let left = next.since(now);
                if left <= POLL * 2 { left } else { (left / 2).min(NAP) }
            }
            // There is no room, or nothing to wait for.
            None => NAP,
        };
        let nap = if self.lacking.has_any_waiting() { nap.min(POLL) } else { nap };
        let closing = async {
            match inner.closing.is_cancelled() {
                false => inner.closing.cancelled().await,
                true => std::future::pending().await, // it was heard of
            }
        };
        tokio::select! {
            () = self.right.lost().cancelled() => Woken::ByItself,
            () = closing => Woken::ByItself,
            () = self.nudge.notified() => Woken::ByChange,
            Some(joined) = self.runs.join_next_with_id() => {
                self.joined(joined);
                Woken::ByItself
            }
            () = inner.clock.sleep(nap) => Woken::ByItself,
        }
    }

    fn joined(&mut self, joined: Result<(Id, Option<Ended>), tokio::task::JoinError>) {
        let (id, ended) = match joined {
            Ok((id, ended)) => (id, ended),
            Err(error) => {
                tracing::error!(schedule = %self.job_id, %error, "the run of a tick panicked");
                (error.id(), None)
            }
        };
        // One that ended without an outcome stays open, and is started again or by the next leader.
        if let (Some(tick), Some(ended)) = (self.running.remove(&id), ended) {
            self.ended.push((tick, ended));
        }
    }
}

/// What a commit of the driver has settled.
#[derive(Default)]
struct Told {
    plan: Plan,
    ended: Vec<LastRun>,
}

enum Woken {
    ByItself,
    ByChange,
}
