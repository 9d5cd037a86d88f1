//! Answers of the store at hand, for less than a second each.
//!
//! Of each name that is asked for there is one slot. While its answer is fresh nobody asks the
//! store; when it gets old, one caller has it read anew beside its own work; when it is too old, one
//! reads and the others wait for that. What is not there is remembered apart from what is, so that
//! whoever tries names at random pushes out nothing but other tries.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use parking_lot::RwLock;
use tokio::sync::Mutex;

use crate::clock::{Clock, Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};

/// How long an answer counts, from when it was asked for.
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// From when on it is read anew ahead of need.
const AGING: Duration = Duration::from_millis(500);
/// How many are remembered that are there, and that are not.
const MOST_KNOWN: u64 = 10_000;
const MOST_UNKNOWN: u64 = 1_000;

/// What the store said, and when.
#[derive(Debug)]
pub(super) struct Seen<T> {
    begun: Tick,
    now: Timestamp,
    pub(super) found: Option<Arc<T>>,
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Seen { begun: self.begun, now: self.now, found: self.found.clone() }
    }
}

impl<T> Seen<T> {
    /// The store's time at this tick; rather too late than too early.
    pub(super) fn store_time(&self, tick: Tick) -> Timestamp {
        self.now + tick.since(self.begun)
    }

    /// How long ago it was asked for.
    pub(super) fn age(&self, tick: Tick) -> Duration {
        tick.since(self.begun)
    }
}

/// What a reader finds: the thing, if it is there, and the store's time.
pub(super) type Answer<T> = Result<(Option<T>, Timestamp)>;

/// One name.
pub(super) struct Slot<T> {
    seen: RwLock<Option<Seen<T>>>,
    /// Whoever holds it reads. It keeps when a reading failed last, and why, for those who waited.
    gate: Arc<Mutex<Option<(Tick, ErrorKind, String)>>>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot { seen: RwLock::new(None), gate: Arc::default() }
    }
}

impl<T: Send + Sync + 'static> Slot<T> {
    /// Whatever was seen last, however old it is.
    pub(super) fn last(&self) -> Option<Seen<T>> {
        self.seen.read().clone()
    }

    fn fresh(&self, tick: Tick) -> Option<Seen<T>> {
        self.last().filter(|seen| seen.age(tick) < FRESH)
    }

    /// A fresh answer, from here or by this reading.
    ///
    /// # Errors
    /// As the reading has them.
    pub(super) async fn ask<R>(
        self: &Arc<Self>,
        clock: &Clock,
        read: impl FnOnce() -> R,
    ) -> Result<Seen<T>>
    where
        R: Future<Output = Answer<T>> + Send + 'static,
    {
        let asked = clock.tick();
        if let Some(seen) = self.fresh(asked) {
            if seen.age(asked) >= AGING
                && let Ok(mut gate) = Arc::clone(&self.gate).try_lock_owned()
            {
                let (slot, clock, reading) = (Arc::clone(self), clock.clone(), read());
                tokio::spawn(async move {
                    // One that fails leaves what there is, for as long as that is fresh.
                    drop(slot.read(&clock, &mut gate, reading).await);
                });
            }
            return Ok(seen);
        }
        let mut gate = self.gate.lock().await;
        if let Some(seen) = self.fresh(clock.tick()) {
            return Ok(seen);
        }
        if let Some((failed, kind, message)) = &*gate
            && *failed > asked
        {
            return Err(Error::new(*kind, message.clone()));
        }
        self.read(clock, &mut gate, read()).await
    }

    async fn read(
        &self,
        clock: &Clock,
        gate: &mut Option<(Tick, ErrorKind, String)>,
        reading: impl Future<Output = Answer<T>>,
    ) -> Result<Seen<T>> {
        let begun = clock.tick();
        match reading.await {
            Ok((found, now)) => {
                let seen = Seen { begun, now, found: found.map(Arc::new) };
                *self.seen.write() = Some(seen.clone());
                *gate = None;
                Ok(seen)
            }
            Err(error) => {
                *gate = Some((clock.tick(), error.kind(), error.to_string()));
                Err(error)
            }
        }
    }
}

/// Slots by name, as many as there may be.
pub(super) struct Memory<T> {
    known: Cache<String, Arc<Slot<T>>>,
    unknown: Cache<String, Arc<Slot<T>>>,
}

impl<T: Send + Sync + 'static> Memory<T> {
    pub(super) fn new() -> Self {
        let cache = |most| Cache::builder().max_capacity(most).build();
        Memory { known: cache(MOST_KNOWN), unknown: cache(MOST_UNKNOWN) }
    }

    /// A fresh answer; see [`Slot::ask`].
    ///
    /// # Errors
    /// As the reading has them.
    pub(super) async fn ask<R>(
        &self,
        clock: &Clock,
        name: &str,
        read: impl FnOnce() -> R,
    ) -> Result<Seen<T>>
    where
        R: Future<Output = Answer<T>> + Send + 'static,
    {
        if let Some(slot) = self.known.get(name) {
            return slot.ask(clock, read).await;
        }
        let slot = self.unknown.get_with_by_ref(name, Arc::default);
        let seen = slot.ask(clock, read).await?;
        if seen.found.is_some() {
            self.known.insert(name.to_owned(), slot);
            self.unknown.invalidate(name);
        }
        Ok(seen)
    }

    /// Whatever was seen last, however old it is.
    pub(super) fn last(&self, name: &str) -> Option<Seen<T>> {
        self.known.get(name).and_then(|slot| slot.last())
    }

    /// The next who asks for it gets an answer of the store.
    pub(super) fn forget(&self, name: &str) {
        self.known.invalidate(name);
        self.unknown.invalidate(name);
    }

    /// How many slots there are.
    #[cfg(test)]
    fn slots(&self) -> (u64, u64) {
        self.known.run_pending_tasks();
        self.unknown.run_pending_tasks();
        (self.known.entry_count(), self.unknown.entry_count())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    type Reading = futures_util::future::BoxFuture<'static, Answer<u32>>;

    /// A reading that counts itself.
    fn reading(clock: &Clock, reads: &Arc<AtomicUsize>, found: Option<u32>) -> Reading {
        let (now, reads) = (clock.now(), Arc::clone(reads));
        Box::pin(async move {
            reads.fetch_add(1, Ordering::SeqCst);
            Ok((found, now))
        })
    }

    #[tokio::test]
    async fn a_fresh_answer_costs_nothing_and_an_old_one_is_asked_for_again() {
        let (clock, reads) = (Clock::manual(1), Arc::new(AtomicUsize::new(0)));
        let memory = Memory::new();
        for _ in 0..100 {
            memory.ask(&clock, "a", || reading(&clock, &reads, Some(1))).await.unwrap();
        }
        assert_eq!(reads.load(Ordering::SeqCst), 1);
        clock.advance(FRESH);
        memory.ask(&clock, "a", || reading(&clock, &reads, Some(1))).await.unwrap();
        assert_eq!(reads.load(Ordering::SeqCst), 2);
        memory.forget("a");
        memory.ask(&clock, "a", || reading(&clock, &reads, None)).await.unwrap();
        assert_eq!(reads.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn an_answer_in_use_is_renewed_by_one_before_it_is_too_old() {
        let (clock, reads) = (Clock::manual(1), Arc::new(AtomicUsize::new(0)));
        let memory = Memory::new();
        memory.ask(&clock, "a", || reading(&clock, &reads, Some(1))).await.unwrap();
        clock.advance(AGING);
        for _ in 0..10 {
            let seen = memory.ask(&clock, "a", || reading(&clock, &reads, Some(2))).await.unwrap();
            assert_eq!(seen.found.as_deref(), Some(&1), "nobody waits for it");
        }
        while reads.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        clock.advance(AGING);
        let seen = memory.ask(&clock, "a", || reading(&clock, &reads, Some(3))).await.unwrap();
        assert_eq!(seen.found.as_deref(), Some(&2));
    }

    #[tokio::test]
    async fn those_who_wait_for_a_reading_that_fails_do_not_all_try_it_again() {
        let (clock, reads) = (Clock::manual(1), Arc::new(AtomicUsize::new(0)));
        let slot: Arc<Slot<u32>> = Arc::default();
        let failing = || {
            let (clock, reads) = (clock.clone(), Arc::clone(&reads));
            async move {
                reads.fetch_add(1, Ordering::SeqCst);
                clock.sleep(Duration::from_secs(2)).await;
                Err(Error::new(ErrorKind::Unavailable, "gone"))
            }
        };
        let asking: Vec<_> = (0..50)
            .map(|_| {
                let (slot, clock, failing) = (Arc::clone(&slot), clock.clone(), failing());
                tokio::spawn(async move { slot.ask(&clock, move || failing).await.map(drop) })
            })
            .collect();
        while reads.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..60 {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(2));
        for asked in asking {
            assert_eq!(asked.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        }
        assert_eq!(reads.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn tries_at_random_push_out_nothing_that_is_known_and_are_bounded() {
        let (clock, reads) = (Clock::manual(1), Arc::new(AtomicUsize::new(0)));
        let memory = Memory::new();
        memory.ask(&clock, "known", || reading(&clock, &reads, Some(1))).await.unwrap();
        for n in 0..20_000 {
            let name = format!("try-{n}");
            memory.ask(&clock, &name, || reading(&clock, &reads, None)).await.unwrap();
        }
        let (known, unknown) = memory.slots();
        assert_eq!(known, 1);
        assert!(unknown <= MOST_UNKNOWN, "{unknown}");
        let before = reads.load(Ordering::SeqCst);
        memory.ask(&clock, "known", || reading(&clock, &reads, Some(1))).await.unwrap();
        assert_eq!(reads.load(Ordering::SeqCst), before);
    }
}
