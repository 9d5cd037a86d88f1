//! Bringing one saga to its end.
//!
//! A driver owns its saga while this instance executes it. It goes round: ask the log what is to be
//! done, begin it, wait for an outcome, enter that in the log. Every entry is guarded by the
//! session, so that a driver whose session was taken over is refused, and by its place in the log,
//! so that it learns what a person has added meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, Tried};
use super::log::{Entry, Outcome, SagaStatus, Task};
use super::record::{Addition, Saga};
use super::session::Session;
use super::step::Action;
use super::tell::Before;
use super::{Live, Sagas};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::metrics::Metric;
use crate::store::{Commit, Effects, Reply};

/// The first pause before a commit without an answer is sent again, and the longest.
const RESEND_AFTER: Duration = Duration::from_millis(20);
const LONGEST_RESEND: Duration = Duration::from_secs(1);
/// How often an outcome is tried again whose effects others were faster to change.
const EFFECT_TRIES: u32 = 200;
/// The pause before that, which grows with the number of tries; at most this many are added up.
const EFFECT_PAUSE: Duration = Duration::from_millis(2);
/// Who waits less than this keeps its turn.
const SHORT_WAIT: Duration = Duration::from_millis(20);

/// Executes one saga.
pub(super) struct Driver {
    sagas: Sagas,
    live: Arc<Live>,
    session: Session,
    saga: Saga,
    running: FuturesUnordered<BoxFuture<'static, Tried>>,
    in_progress: Vec<Task>,
    turn: Option<OwnedSemaphorePermit>,
    /// The latest moment it has gone by: what it enters is never earlier, or the log would not show
    /// that an attempt was due.
    latest: Timestamp,
    /// Fires when attempts forward are no longer wanted.
    no_longer_forward: CancellationToken,
    /// Fires when no attempts are wanted at all.
    called_off: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// A driver must let go of its saga: it is another's, or this instance ends.
struct LetGo;

/// What became of an entry.
enum Entered {
    Yes,
    /// Somebody else has added to the log, which has been read.
    Moved,
    /// It may not come here.
    Refused(Error),
    /// What goes with it is nothing that a store takes.
    Unwritable(Error),
    /// Others were faster to change what its effects change.
    EffectsConflict,
}

impl Driver {
    /// Executes a saga that has just been started.
    pub(super) fn start(
        sagas: &Sagas,
        live: Arc<Live>,
        session: Session,
        place: OwnedSemaphorePermit,
        saga: Saga,
    ) {
        let driver = Driver::new(sagas, live, session, place, saga);
        sagas.0.drivers.spawn(driver.run());
    }

    /// Executes a saga that another has executed before.
    pub(super) fn resume(
        sagas: &Sagas,
        live: Arc<Live>,
        session: Session,
        place: OwnedSemaphorePermit,
        id: Arc<str>,
    ) {
        let (sagas, tracker) = (sagas.clone(), sagas.0.drivers.clone());
        tracker.spawn(async move {
            let turn = Arc::clone(&sagas.0.turns).acquire_owned().await.ok();
            let lost = session.right.lost().clone();
            let loaded = tokio::select! {
                saga = load(&sagas, &id) => saga,
                () = lost.cancelled() => None,
                () = sagas.0.closing.cancelled() => None,
            };
            let Some(saga) = loaded else {
                sagas.0.live.lock().remove(&id);
                live.end(SagaStatus::Pending);
                return;
            };
            let mut driver = Driver::new(&sagas, live, session, place, saga);
            driver.turn = turn;
            driver.take_over_and_run().await;
        });
    }

    fn new(
        sagas: &Sagas,
        live: Arc<Live>,
        session: Session,
        place: OwnedSemaphorePermit,
        saga: Saga,
    ) -> Self {
        let called_off = session.right.lost().child_token();
        let no_longer_forward = called_off.child_token();
        Driver {
            sagas: sagas.clone(),
            live,
            session,
            saga,
            running: FuturesUnordered::new(),
            in_progress: Vec::new(),
            turn: None,
            latest: Timestamp::default(),
            no_longer_forward,
            called_off,
            _place: place,
        }
    }

    async fn take_over_and_run(mut self) {
        let by = self.sagas.0.instance_id.clone();
        let entry = Entry::TakenOver { by };
        // Entered before anything else: what was in progress is in doubt, whatever was decided
        // meanwhile.
        while self.saga.session() == &*self.session.id && !self.is_at_rest() {
            match self.enter(&entry, &Effects::default()).await {
                Ok(Entered::Yes) => {
                    self.sagas.0.metrics.count(Metric::SagasTakenOver);
                    break;
                }
                Ok(Entered::Moved) => {}
                Ok(Entered::Refused(_) | Entered::Unwritable(_) | Entered::EffectsConflict) => {
                    break;
                }
                Err(LetGo) => return self.let_go(),
            }
        }
        self.run().await;
    }

    #[tracing::instrument(level = "debug", name = "saga", skip_all, fields(saga_id = %self.saga.id))]
    async fn run(mut self) {
        loop {
            let drove = self.drive().await;
            // Under the lock: who adds to the log either finds us and is heard, or finds nobody.
            let mut all = self.sagas.0.live.lock();
            if drove.is_ok() && self.live.nudged.load(Ordering::Acquire) {
                continue;
            }
            all.remove(&self.saga.id);
            break;
        }
        self.tell_end();
    }

    fn let_go(self) {
        self.sagas.0.live.lock().remove(&self.saga.id);
        self.tell_end();
    }

    fn tell_end(&self) {
        self.live.end(self.saga.status());
        self.sagas.count_live();
    }

    /// Goes on until the saga has come to rest, or must be let go of.
    async fn drive(&mut self) -> Result<(), LetGo> {
        loop {
            if self.live.nudged.swap(false, Ordering::AcqRel) {
                self.reload().await?;
            }
            self.is_still_ours()?;
            if self.saga.state.abandoned.is_some() {
                self.call_off().await;
                return Ok(());
            }
            let definition = Arc::clone(&self.saga.head.definition);
            if self.saga.state.goes_back(&definition) {
                self.no_longer_forward.cancel();
            }
            let now = self.now();
            let todo = self.saga.state.todo(&definition, now);
            let mut entered = false;
            for task in todo.tasks {
                // What stands behind it may no longer be what is to be done.
                if self.begin(task).await? {
                    entered = true;
                    break;
                }
            }
            if entered {
                continue;
            }
            if self.running.is_empty() {
                if self.is_at_rest() {
                    return Ok(());
                }
                if self.sagas.0.closing.is_cancelled() {
                    return Err(LetGo);
                }
                if self.settle_what_was_not_begun().await? {
                    continue;
                }
            }
            if let Some(tried) = self.next(todo.wake_at).await? {
                self.settle(tried).await?;
            }
        }
    }

    /// The store's time, never earlier than it was before, or than what the log says.
    fn now(&mut self) -> Timestamp {
        let now = self.sagas.0.time.now().max(self.saga.state.changed);
        self.latest = self.latest.max(now);
        self.latest
    }

    /// A saga that was parked may have been given to another executor, by a person, while this one
    /// still waited for an attempt: nothing more is entered then, though our session is good.
    fn is_still_ours(&self) -> Result<(), LetGo> {
        if self.saga.session() == &*self.session.id {
            return Ok(());
        }
        // Whose it is now may be a session of ours, too.
        self.sagas.look_for_lost();
        Err(LetGo)
    }

    /// Ends the attempts in progress, whose outcome is not entered any more.
    async fn call_off(&mut self) {
        self.called_off.cancel();
        loop {
            tokio::select! {
                biased;
                tried = self.running.next() => match tried.map(|tried| tried.by) {
                    Some(Some((step, context))) => step.recorded(&context).await,
                    Some(None) => {}
                    None => return,
                },
                () = self.session.right.lost().cancelled() => return,
                () = self.sagas.0.cut_off.cancelled() => return,
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        let status = self.saga.status();
        status.is_terminal() || status == SagaStatus::Parked
    }

    /// Begins a task that is not in progress. Returns whether it was entered in the log instead,
    /// so that there is something new to ask.
    async fn begin(&mut self, task: Task) -> Result<bool, LetGo> {
        if self.in_progress.contains(&task) || self.sagas.0.closing.is_cancelled() {
            return Ok(false);
        }
        if self.take_turn().await? {
            return Ok(true);
        }
        let definition = Arc::clone(&self.saga.head.definition);
        match task {
            Task::TimeOut | Task::GiveUp => {
                let (now, nothing) = (self.now(), Outcome::NotDone);
                let entry = self.saga.state.judge(&definition, task, nothing, now, 0);
                self.enter(&entry, &Effects::default()).await?;
                return Ok(true);
            }
            Task::Execute(step) if definition.steps[step].is_announced() => {
                let began = Entry::Began { step };
                if !matches!(self.enter(&began, &Effects::default()).await?, Entered::Yes) {
                    return Ok(true);
                }
            }
            Task::Execute(_) | Task::Probe(_) | Task::Undo(_) => {}
        }
        if !self.session.right.is_held() {
            // The store took so long to answer that another may execute it by now.
            return Err(LetGo);
        }
        self.in_progress.push(task);
        self.attempt(task, 0, Duration::ZERO);
        Ok(false)
    }

    /// Takes a turn, unless it has one. Returns whether it had to wait for it, or was told meanwhile
    /// that somebody has added to the log: what was to be done is then to be asked again.
    async fn take_turn(&mut self) -> Result<bool, LetGo> {
        let turns = &self.sagas.0.turns;
        let mut waited = false;
        if self.turn.is_none() {
            self.turn = Arc::clone(turns).try_acquire_owned().ok();
        }
        if self.turn.is_none() {
            waited = true;
            self.turn = tokio::select! {
                turn = Arc::clone(turns).acquire_owned() => turn.ok(),
                () = self.live.nudge.notified() => return Ok(true),
                () = self.session.right.lost().cancelled() => return Err(LetGo),
                () = self.sagas.0.closing.cancelled() => return Err(LetGo),
            };
        }
        self.live.begin();
        Ok(waited)
    }

    /// Makes an attempt at a task, after a pause.
    fn attempt(&mut self, task: Task, conflicts: u32, pause: Duration) {
        let Some(attempt) = self.plan(task, conflicts) else { return };
        let sagas = self.sagas.clone();
        self.running.push(
            async move {
                if !pause.is_zero() {
                    sagas.0.clock.sleep(pause).await;
                }
                attempt.make(sagas).await
            }
            .boxed(),
        );
    }

    /// What an attempt needs.
    fn plan(&self, task: Task, conflicts: u32) -> Option<Attempt> {
        let definition = &self.saga.head.definition;
        let (step, action) = match task {
            Task::Execute(step) => (step, Action::Execute),
            Task::Probe(step) => (step, Action::Probe),
            Task::Undo(step) => (step, Action::Compensate),
            Task::TimeOut | Task::GiveUp => return None,
        };
        let defined = &definition.steps[step];
        let back = action == Action::Compensate;
        let cancelled = match back {
            true => self.called_off.child_token(),
            false => self.no_longer_forward.child_token(),
        };
        let context = self.sagas.context_of(&self.saga, step, action, cancelled);
        let handler = if back { defined.compensated_by() } else { &defined.handler };
        let (handler, limit) = (handler.to_owned(), defined.timeout());
        let waits_for_handler = definition.deferred;
        Some(Attempt { task, handler, context, limit, waits_for_handler, conflicts })
    }

    /// Steps that the log takes for begun when the saga turned around, and that we had not begun:
    /// we are the only executor, so they had no effect through us.
    async fn settle_what_was_not_begun(&mut self) -> Result<bool, LetGo> {
        let unsettled = self.saga.state.steps.iter().position(|step| step.is_unsettled());
        let Some(step) = unsettled else { return Ok(false) };
        let error = "it was not begun".into();
        let entry = Entry::Failed { step, error, sure: false, retry_at: None };
        self.enter(&entry, &Effects::default()).await?;
        Ok(true)
    }

    /// Waits for an attempt's end, until a moment, or until somebody has added to the log.
    async fn next(&mut self, wake_at: Option<Timestamp>) -> Result<Option<Tried>, LetGo> {
        let wait = wake_at.map(|at| at.since(self.sagas.0.time.now()));
        if self.running.is_empty() && wait.is_none_or(|wait| wait > SHORT_WAIT) {
            self.turn = None;
        }
        let sagas = &self.sagas.0;
        let idle = self.running.is_empty();
        let wake = async {
            match wait {
                Some(wait) => sagas.clock.sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(tried) = self.running.next() => {
                self.in_progress.retain(|task| *task != tried.task);
                Ok(Some(tried))
            }
            () = self.session.right.lost().cancelled() => Err(LetGo),
            () = sagas.cut_off.cancelled() => Err(LetGo),
            () = sagas.closing.cancelled(), if idle => Err(LetGo),
            () = self.live.nudge.notified() => Ok(None),
            () = wake => Ok(None),
        }
    }

    /// Enters what came of an attempt.
    async fn settle(&mut self, tried: Tried) -> Result<(), LetGo> {
        let Tried { task, mut outcome, mut effects, conflicts, by } = tried;
        let definition = Arc::clone(&self.saga.head.definition);
        loop {
            let (now, chance) = (self.now(), self.chance(&outcome));
            let entry = self.saga.state.judge(&definition, task, outcome.clone(), now, chance);
            match self.enter(&entry, &effects).await? {
                Entered::Yes => break,
                Entered::Moved => {}
                Entered::Refused(error) => {
                    tracing::warn!(saga = %self.saga.id, %error, "an outcome came too late");
                    break;
                }
                // Nothing else that it did is known to have been undone.
                Entered::Unwritable(error) if !effects.is_empty() => {
                    let error = format!("its outcome cannot be recorded: {error}");
                    outcome = Outcome::Unknown { error };
                    effects = Effects::default();
                }
                Entered::Unwritable(error) => {
                    tracing::error!(saga = %self.saga.id, %error, "an entry cannot be recorded");
                    break;
                }
                // Its effects are worked out anew, under the same key.
                Entered::EffectsConflict if conflicts < EFFECT_TRIES => {
                    let pause = EFFECT_PAUSE * conflicts.min(16);
                    self.in_progress.push(task);
                    self.attempt(task, conflicts + 1, self.sagas.0.clock.jitter(pause));
                    return Ok(());
                }
                Entered::EffectsConflict => {
                    // It has run, and may have done more than these.
                    let error = "others changed what it changes, again and again".into();
                    outcome = Outcome::Unknown { error };
                    effects = Effects::default();
                }
            }
        }
        if let Some((step, context)) = by {
            step.recorded(&context).await;
        }
        Ok(())
    }

    /// What spreads those that try again; the others need no chance.
    fn chance(&self, outcome: &Outcome) -> u32 {
        match outcome {
            Outcome::Done(_) | Outcome::Missing(_) | Outcome::NoProbe => 0,
            Outcome::Failed { .. } | Outcome::Unknown { .. } | Outcome::NotDone => {
                u32::try_from(self.sagas.0.clock.random() >> 32).unwrap_or(0)
            }
        }
    }

    /// Adds an entry to the log, with the effects that go with it.
    async fn enter(&mut self, entry: &Entry, effects: &Effects) -> Result<Entered, LetGo> {
        let before = Before::of(&self.saga);
        let kept = (!effects.is_empty()).then(|| self.saga.state.clone());
        let at = self.now();
        let executor = Some(self.session.guard());
        let addition = Addition { entry, at, effects: effects.clone(), executor };
        let adding = self.saga.add(addition, &self.sagas.0.scribe);
        let adding = match adding {
            Ok(adding) => adding,
            Err(error) if error.kind() == ErrorKind::Refused => {
                return Ok(Entered::Refused(error));
            }
            Err(error) => {
                self.reload().await?;
                return Ok(Entered::Unwritable(error));
            }
        };
        let asked = self.sagas.0.clock.tick();
        match self.commit(&adding.commit).await? {
            Reply::Committed { revision, now } => {
                self.sagas.0.time.told(now, asked);
                self.saga.added(entry, revision);
                self.sagas.tell(&self.saga, entry, &before);
                Ok(Entered::Yes)
            }
            Reply::Conflict { guard: 0, .. } => {
                self.sagas.0.sessions.lost(&self.session);
                Err(LetGo)
            }
            Reply::Conflict { guard, .. } if guard >= adding.own_guards => {
                if let Some(kept) = kept {
                    self.saga.state = kept;
                }
                Ok(Entered::EffectsConflict)
            }
            Reply::Conflict { .. } => {
                self.reload().await?;
                Ok(Entered::Moved)
            }
        }
    }

    /// Commits, however long the store takes to answer clearly, unless we must let go.
    async fn commit(&mut self, commit: &Commit) -> Result<Reply, LetGo> {
        let mut pause = RESEND_AFTER;
        loop {
            match self.sagas.0.store.commit(commit).await {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    tracing::warn!(saga = %self.saga.id, %error, "an entry was not recorded yet");
                    self.pause(&mut pause).await?;
                }
            }
        }
    }

    /// Reads the saga anew.
    async fn reload(&mut self) -> Result<(), LetGo> {
        let mut pause = RESEND_AFTER;
        loop {
            match Saga::load(&*self.sagas.0.store, &self.saga.id).await {
                Ok(saga) => {
                    self.saga = saga;
                    return self.is_still_ours();
                }
                Err(error) => {
                    tracing::warn!(saga = %self.saga.id, %error, "a saga could not be read");
                    self.pause(&mut pause).await?;
                }
            }
        }
    }

    async fn pause(&mut self, pause: &mut Duration) -> Result<(), LetGo> {
        tokio::select! {
            () = self.session.right.lost().cancelled() => Err(LetGo),
            () = self.sagas.0.cut_off.cancelled() => Err(LetGo),
            () = self.sagas.0.clock.sleep(*pause) => {
                *pause = (*pause * 2).min(LONGEST_RESEND);
                Ok(())
            }
        }
    }
}

impl Drop for Driver {
    /// A handler's own words may panic where its calls do not: then the saga is looked for and
    /// taken up again, and must not stay in sight of a driver that is gone.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.sagas.0.live.lock().remove(&self.saga.id);
            self.live.end(SagaStatus::Pending);
            self.sagas.look_for_lost();
        }
    }
}

/// Reads a saga that is to be resumed, however long that takes; `None` if it cannot be.
async fn load(sagas: &Sagas, id: &str) -> Option<Saga> {
    let mut pause = RESEND_AFTER;
    loop {
        match Saga::load(&*sagas.0.store, id).await {
            Ok(saga) => return Some(saga),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(saga = %id, %error, "a saga could not be read");
                sagas.0.clock.sleep(pause).await;
                pause = (pause * 2).min(LONGEST_RESEND);
            }
        }
    }
}
