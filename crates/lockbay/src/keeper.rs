//! Rights of this process, kept alive: one task renews them all, together.
//!
//! A right is a record with a deadline and a fencing token: a lease, or the claim of a job. The
//! keeper owns the *trust window*: how long this process may believe that it still holds the right.
//! The window opens at the start of the attempt that renewed it and closes a margin before the
//! record can lapse, however long the answer took. It knows nothing of leaders or jobs.
//!
//! Guaranteed: `is_held` is never true past the window, and [`Right::lost`] fires before the record
//! can lapse, unless this process is paused; that is what the fence is for. When the keeper is
//! stopped, all rights are given up. Not guaranteed: that a holder that was told has stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{COARSE_LAG, Clock, Tick};
use crate::metrics::{Metric, Metrics};
use crate::store::{Commit, Fence, Guard, Reply, Store, Write};

/// What is taken off a record's lifetime, so that this process stops trusting it before it lapses.
pub(crate) fn margin(ttl: Duration) -> Duration {
    (ttl / 10).clamp(Duration::from_millis(10), Duration::from_millis(500)) + COARSE_LAG
}

/// A right that this process holds until it is told otherwise. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Right(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fence: Fence,
    ttl: Duration,
    clock: Clock,
    /// The tick at which trust ends; zero once it is lost or given up.
    trusted_until: Arc<AtomicU64>,
    lost: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How it ended, if it has. The first end counts.
    end: Option<End>,
    renew_at: Tick,
    failures: u32,
}

/// How a right ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its holder let it go.
    GivenUp,
    /// It could not be renewed in time, or was found taken.
    Lapsed,
}

impl Right {
    /// Whether this process may believe that it holds the right: two atomic loads and a compare.
    #[inline]
    pub fn is_held(&self) -> bool {
        // The window may be that of a later right by now, as of a leadership that was won again.
        !self.0.lost.is_cancelled()
            && self.0.clock.coarse_tick().as_nanos() < self.0.trusted_until.load(Ordering::Acquire)
    }

    /// The guard to commit under. The store checks it, whatever this process believes.
    pub fn fence(&self) -> &Fence {
        &self.0.fence
    }

    /// Fires when the right is lost or given up, before the record can lapse.
    pub fn lost(&self) -> &CancellationToken {
        &self.0.lost
    }

    /// When trust ends unless the right is renewed before.
    pub fn trusted_until(&self) -> Tick {
        Tick::from_nanos(self.0.trusted_until.load(Ordering::Acquire))
    }

    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.0.state.lock().end
    }

    /// Stops believing, and stops renewing. Returns whether it was still held.
    fn finish(&self, end: End) -> bool {
        let mut state = self.0.state.lock();
        // The window may be shown in a place that a later right uses by now: it is only cleared
        // by the end that ends this right.
        if state.end.is_some() {
            return false;
        }
        state.end = Some(end);
        self.0.trusted_until.store(0, Ordering::Release);
        self.0.lost.cancel();
        true
    }

    /// Opens the window anew. Returns whether the right is still wanted.
    fn renewed(&self, attempt: Tick) -> bool {
        let mut state = self.0.state.lock();
        if state.end.is_some() {
            return false;
        }
        let until = attempt + self.0.ttl.saturating_sub(margin(self.0.ttl));
        self.0.trusted_until.fetch_max(until.as_nanos(), Ordering::AcqRel);
        state.renew_at = attempt + self.0.ttl / 3;
        state.failures = 0;
        true
    }

    /// Tries again soon: often enough that several tries fit into what is left of the window.
    fn renewal_failed(&self, now: Tick) {
        let mut state = self.0.state.lock();
        state.failures += 1;
        let pause = (self.0.ttl / 30).clamp(Duration::from_millis(10), Duration::from_millis(500));
        state.renew_at = now + pause * state.failures.min(4);
    }

    fn renew_at(&self) -> Tick {
        self.0.state.lock().renew_at
    }

    /// Whether its renewal should have succeeded long ago.
    fn is_overdue(&self, now: Tick) -> bool {
        let state = self.0.state.lock();
        state.end.is_none() && (state.failures > 1 || now > state.renew_at + self.0.ttl / 6)
    }
}

/// Renews the rights of this process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keeper(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    rights: Mutex<Vec<Right>>,
    /// The tick at which the task looks again by itself, written while `rights` is locked.
    looks_at: AtomicU64,
    nudge: Notify,
    running: AtomicBool,
    stop: CancellationToken,
}

/// At most this many rights are renewed in one go, which is what one command to Redis carries; the
/// others follow in the next.
const BATCH: usize = 512;

impl Keeper {
    pub(crate) fn new(store: Arc<dyn Store>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Keeper(Arc::new(Shared {
            store,
            clock,
            metrics,
            rights: Mutex::default(),
            looks_at: AtomicU64::new(u64::MAX),
            nudge: Notify::new(),
            running: AtomicBool::new(false),
            stop: CancellationToken::new(),
        }))
    }

    /// Takes a right into keeping. `attempt` is when the call that granted it began.
    pub(crate) fn keep(&self, fence: Fence, ttl: Duration, attempt: Tick) -> Right {
        self.keep_as(fence, ttl, attempt, Arc::default())
    }

    /// As [`keep`](Keeper::keep), with the trust window shown in a place of the caller's.
    pub(crate) fn keep_as(
        &self,
        fence: Fence,
        ttl: Duration,
        attempt: Tick,
        window: Arc<AtomicU64>,
    ) -> Right {
        window.store(0, Ordering::Release);
        let right = Right(Arc::new(Inner {
            fence,
            ttl,
            clock: self.0.clock.clone(),
            trusted_until: window,
            lost: CancellationToken::new(),
            state: Mutex::new(State { end: None, renew_at: attempt, failures: 0 }),
        }));
        right.renewed(attempt);
        let mut rights = self.0.rights.lock();
        rights.push(right.clone());
        // Nearly always it looks sooner anyway: the right it looks for was granted before this one.
        let is_next = right.renew_at().as_nanos() < self.0.looks_at.load(Ordering::Relaxed);
        drop(rights);
        if self.0.stop.is_cancelled() {
            self.let_go(&right);
        } else if !self.0.running.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().run());
        }
        if is_next {
            self.0.nudge.notify_one();
        }
        right
    }

    /// Stops renewing a right and stops believing in it. Returns whether it was still held.
    pub(crate) fn let_go(&self, right: &Right) -> bool {
        let held = right.finish(End::GivenUp);
        self.0.rights.lock().retain(|other| !Arc::ptr_eq(&other.0, &right.0));
        held
    }

    /// Rights whose renewal should have succeeded long ago.
    pub(crate) fn overdue(&self) -> usize {
        let now = self.0.clock.tick();
        self.0.rights.lock().iter().filter(|right| right.is_overdue(now)).count()
    }

    /// Stops renewing, and gives up whatever is still held; the records lapse by themselves.
    pub(crate) fn stop(&self) {
        self.0.stop.cancel();
        for right in self.0.rights.lock().drain(..) {
            right.finish(End::GivenUp);
        }
    }

    /// Renews until stopped. Runs from the first right on.
    async fn run(self) {
        let shared = &self.0;
        let mut renewing = None;
        loop {
            let now = shared.clock.tick();
            self.drop_lapsed(now);
            if renewing.is_none() {
                let due = self.due(now);
                if !due.is_empty() {
                    renewing = Some(Box::pin(self.renew(due)));
                }
            }
            let next = self.next_wake(renewing.is_some());
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = shared.nudge.notified() => {}
                () = wait_until(&shared.clock, next) => {}
                () = poll_option(&mut renewing) => renewing = None,
            }
        }
    }

    /// Ends trust in what could not be renewed in time.
    fn drop_lapsed(&self, now: Tick) {
        self.0.rights.lock().retain(|right| {
            if right.end().is_some() {
                return false;
            }
            if now < right.trusted_until() {
                return true;
            }
            tracing::warn!(right = %right.fence().key, token = %right.fence().token, "right lost: not renewed in time");
            self.0.metrics.count(Metric::RightsLost);
            right.finish(End::Lapsed);
            false
        });
    }

    /// What to renew now, together with what would be due soon: one round trip for all.
    fn due(&self, now: Tick) -> Vec<Right> {
        let rights = self.0.rights.lock();
        if !rights.iter().any(|right| right.renew_at() <= now) {
            return Vec::new();
        }
        let soon = |right: &&Right| right.renew_at() <= now + right.0.ttl / 12;
        rights.iter().filter(soon).take(BATCH).cloned().collect()
    }

    fn next_wake(&self, renewing: bool) -> Option<Tick> {
        let rights = self.0.rights.lock();
        let next = rights.iter().map(|right| {
            let trusted = right.trusted_until();
            if renewing { trusted } else { trusted.min(right.renew_at()) }
        });
        let next = next.min();
        self.0.looks_at.store(next.map_or(u64::MAX, Tick::as_nanos), Ordering::Relaxed);
        next
    }

    async fn renew(&self, rights: Vec<Right>) {
        let shared = &self.0;
        let attempt = shared.clock.tick();
        let ready = rights.iter().filter_map(|right| Some((right, touch(right, right.0.ttl)?)));
        let (rights, commits): (Vec<&Right>, Vec<Commit>) = ready.unzip();
        let answers = shared.store.commit_all(&commits).await;
        if answers.iter().any(Result::is_ok) {
            shared.metrics.observe(Metric::RenewalSeconds, shared.clock.tick().since(attempt));
        }
        for (right, answer) in rights.into_iter().zip(answers) {
            let fence = right.fence();
            match answer {
                Ok(Reply::Committed { .. }) => {
                    shared.metrics.count(Metric::Renewals);
                    if !right.renewed(attempt) && right.end() == Some(End::Lapsed) {
                        self.undo_late_renewal(right);
                    }
                }
                Ok(Reply::Conflict { .. }) => {
                    if right.finish(End::Lapsed) {
                        tracing::warn!(right = %fence.key, token = %fence.token, "right lost: taken or lapsed");
                        shared.metrics.count(Metric::RightsLost);
                    }
                }
                Err(error) => {
                    shared.metrics.count(Metric::RenewalErrors);
                    tracing::warn!(right = %fence.key, %error, "renewal failed");
                    right.renewal_failed(shared.clock.tick());
                }
            }
        }
    }

    /// A renewal that was answered after its right was lost has prolonged it for nobody: let the
    /// record lapse now, so that the others need not wait.
    fn undo_late_renewal(&self, right: &Right) {
        let (store, right) = (Arc::clone(&self.0.store), right.clone());
        tokio::spawn(async move {
            let Some(commit) = touch(&right, Duration::ZERO) else { return };
            if let Err(error) = store.commit(&commit).await {
                tracing::debug!(%error, "late renewal not undone, it lapses by itself");
            }
        });
    }
}

/// Moves the deadline of a right that is still held, and wakes who waits for its end.
fn touch(right: &Right, ttl: Duration) -> Option<Commit> {
    let fence = right.fence().clone();
    let touch = Write::Touch { key: fence.key.clone(), ttl };
    let hints = if ttl.is_zero() { vec![fence.key.clone()] } else { Vec::new() };
    // The key was in a commit before, so it is within the limits.
    Commit::new(fence.key.partition, vec![Guard::Held(fence)], vec![touch], hints).ok()
}

async fn wait_until(clock: &Clock, tick: Option<Tick>) {
    match tick {
        Some(tick) => clock.sleep_until(tick).await,
        None => std::future::pending().await,
    }
}

async fn poll_option<F: Future<Output = ()> + Unpin>(future: &mut Option<F>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
