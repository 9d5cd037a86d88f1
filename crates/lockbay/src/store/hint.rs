//! Hints: who waits for which keys inside this process.
//!
//! A hint wakes; it never carries a truth. A watcher that is too slow to take its hints is told
//! that it missed some ([`Hint::Anything`]) and reads again, so nothing queues without bound.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Key, Range};

/// Hints that wait for one watcher before it is told [`Hint::Anything`] instead.
const MAX_WAITING: usize = 256;

/// What a watcher learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// This key was named by a commit.
    Key(Key),
    /// Anything in the range may have changed: hints were missed, or the backend tells no more.
    Anything,
}

/// A subscription. Dropping it ends it.
#[derive(Debug)]
pub struct Hints {
    watcher: Arc<Watcher>,
    /// Keeps a backend's own subscription for this range alive.
    _backend: Option<Box<dyn std::any::Any + Send + Sync>>,
}

impl Hints {
    /// Waits for the next hint.
    pub async fn next(&mut self) -> Hint {
        loop {
            // Registered before looking, so that a hint in between is not slept through.
            let notified = self.watcher.wake.notified();
            if let Some(hint) = self.watcher.take() {
                return hint;
            }
            notified.await;
        }
    }
}

#[derive(Debug)]
struct Watcher {
    range: Range,
    waiting: Mutex<Vec<Key>>,
    missed: std::sync::atomic::AtomicBool,
    wake: Notify,
}

impl Watcher {
    fn take(&self) -> Option<Hint> {
        use std::sync::atomic::Ordering::AcqRel;
        let mut waiting = self.waiting.lock();
        if self.missed.swap(false, AcqRel) {
            waiting.clear();
            return Some(Hint::Anything);
        }
        if waiting.is_empty() { None } else { Some(Hint::Key(waiting.remove(0))) }
    }

    fn give(&self, key: Option<&Key>) {
        {
            let mut waiting = self.waiting.lock();
            match key {
                Some(key) if waiting.len() < MAX_WAITING => {
                    if waiting.last() != Some(key) {
                        waiting.push(key.clone());
                    }
                }
                Some(_) | None => self.missed.store(true, std::sync::atomic::Ordering::Release),
            }
        }
        self.wake.notify_one();
    }
}

/// The watchers of one store in this process.
#[derive(Debug, Default)]
pub(super) struct Hub(Mutex<Vec<Weak<Watcher>>>);

impl Hub {
    /// A new subscription; `backend` lives as long as it does.
    pub(super) fn watch(
        &self,
        range: &Range,
        backend: Option<Box<dyn std::any::Any + Send + Sync>>,
    ) -> Hints {
        let watcher = Arc::new(Watcher {
            range: range.clone(),
            waiting: Mutex::default(),
            missed: false.into(),
            wake: Notify::new(),
        });
        let mut watchers = self.0.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(&watcher));
        Hints { watcher, _backend: backend }
    }

    /// Whether anybody watches.
    #[cfg(feature = "sqlite")]
    pub(super) fn is_watched(&self) -> bool {
        self.0.lock().iter().any(|watcher| watcher.strong_count() > 0)
    }

    /// Wakes the watchers of this key.
    pub(super) fn tell(&self, key: &Key) {
        for watcher in self.0.lock().iter().filter_map(Weak::upgrade) {
            let range = &watcher.range;
            if range.partition == key.partition
                && range.kind == key.kind
                && key.id.starts_with(&range.prefix)
            {
                watcher.give(Some(key));
            }
        }
    }

    /// Wakes everybody: what changed is not known.
    #[cfg(any(feature = "sqlite", feature = "redis"))]
    pub(super) fn tell_all(&self) {
        for watcher in self.0.lock().iter().filter_map(Weak::upgrade) {
            watcher.give(None);
        }
    }
}
