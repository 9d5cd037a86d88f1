//! Rights of this process, kept alive: one task renews them all, together.
//!
//! A right is a record with a deadline and a fencing token: a lease, or the claim of a job. The
//! keeper owns the *trust window*: how long this process may believe that it still holds the right.
//! The window opens at the start of the attempt that renewed it and closes a margin before the
//! record can lapse, however long the answer took. It knows nothing of leaders or jobs.
//!
//! Guaranteed: `is_held` is never true past the window, and [`Right::lost`] fires before the record
//! can lapse, unless this process is paused; that is what the fence is for. Not guaranteed: that a
//! holder that was told has stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    over: bool,
    renew_at: Tick,
    failures: u32,
}

impl Right {
    /// Whether this process may believe that it holds the right: an atomic load and a compare.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.0.clock.coarse_tick().as_nanos() < self.0.trusted_until.load(Ordering::Acquire)
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

    /// Stops believing, and stops renewing. Returns whether it was still held.
    pub(crate) fn give_up(&self) -> bool {
        let mut state = self.0.state.lock();
        let held = !state.over;
        state.over = true;
        self.0.trusted_until.store(0, Ordering::Release);
        self.0.lost.cancel();
        held
    }

    fn renewed(&self, attempt: Tick) -> bool {
        let mut state = self.0.state.lock();
        if state.over {
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

    fn is_over(&self) -> bool {
        self.0.state.lock().over
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
    nudge: Notify,
    /// The attempt that last renewed something, for health.
    last_renewal: AtomicU64,
}

/// At most this many rights are renewed in one go; the others follow in the next.
const BATCH: usize = 1_024;

impl Keeper {
    pub(crate) fn new(store: Arc<dyn Store>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Keeper(Arc::new(Shared {
            store,
            clock,
            metrics,
            rights: Mutex::default(),
            nudge: Notify::new(),
            last_renewal: AtomicU64::new(0),
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
            state: Mutex::new(State { over: false, renew_at: attempt, failures: 0 }),
        }));
        right.renewed(attempt);
        self.0.rights.lock().push(right.clone());
        self.0.nudge.notify_one();
        right
    }

    /// Stops renewing a right and stops believing in it. Returns whether it was still held.
    pub(crate) fn let_go(&self, right: &Right) -> bool {
        let held = right.give_up();
        self.0.rights.lock().retain(|other| !Arc::ptr_eq(&other.0, &right.0));
        held
    }

    /// How many rights are kept.
    pub(crate) fn kept(&self) -> usize {
        self.0.rights.lock().len()
    }

    /// When a renewal last succeeded, if one has.
    pub(crate) fn last_renewal(&self) -> Option<Tick> {
        match self.0.last_renewal.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(Tick::from_nanos(nanos)),
        }
    }

    /// How long ago the last renewal may be while all is well: the shortest lifetime that is kept.
    pub(crate) fn longest_renewal_gap(&self) -> Duration {
        let rights = self.0.rights.lock();
        rights.iter().map(|right| right.0.ttl).min().unwrap_or(Duration::MAX)
    }

    /// Renews until stopped. Rights that are still held then are left as they are.
    pub(crate) async fn run(self, stop: CancellationToken) {
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
                () = stop.cancelled() => return,
                () = shared.nudge.notified() => {}
                () = wait_until(&shared.clock, next) => {}
                () = poll_option(&mut renewing) => renewing = None,
            }
        }
    }

    /// Ends trust in what could not be renewed in time.
    fn drop_lapsed(&self, now: Tick) {
        self.0.rights.lock().retain(|right| {
            if right.is_over() {
                return false;
            }
            // A window that ends within the lag of the coarse clock is over: nobody sees it longer.
            if now < right.trusted_until() {
                return true;
            }
            tracing::warn!(right = %right.fence().key, token = %right.fence().token, "right lost: not renewed in time");
            self.0.metrics.count(Metric::RightsLost);
            right.give_up();
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
        rights
            .iter()
            .map(|right| {
                let trusted = right.trusted_until();
                if renewing { trusted } else { trusted.min(right.renew_at()) }
            })
            .min()
    }

    async fn renew(&self, rights: Vec<Right>) {
        let shared = &self.0;
        let attempt = shared.clock.tick();
        let commits: Vec<Commit> = rights.iter().filter_map(|right| renewal(right).ok()).collect();
        let answers = shared.store.commit_all(&commits).await;
        for (right, answer) in rights.iter().zip(answers) {
            match answer {
                Ok(Reply::Committed { .. }) => {
                    shared.metrics.count(Metric::Renewals);
                    shared.last_renewal.store(attempt.as_nanos(), Ordering::Release);
                    right.renewed(attempt);
                }
                Ok(Reply::Conflict { .. }) => {
                    let fence = right.fence();
                    tracing::warn!(right = %fence.key, token = %fence.token, "right lost: taken or lapsed");
                    shared.metrics.count(Metric::RightsLost);
                    self.let_go(right);
                }
                Err(error) => {
                    shared.metrics.count(Metric::RenewalErrors);
                    tracing::warn!(right = %right.fence().key, %error, "renewal failed");
                    right.renewal_failed(shared.clock.tick());
                }
            }
        }
    }
}

fn renewal(right: &Right) -> crate::Result<Commit> {
    let fence = right.fence().clone();
    let touch = Write::Touch { key: fence.key.clone(), ttl: right.0.ttl };
    Commit::new(fence.key.partition, vec![Guard::Held(fence)], vec![touch], Vec::new())
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
