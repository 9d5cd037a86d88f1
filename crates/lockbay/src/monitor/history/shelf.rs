//! Chunks and lives at hand, so that many rules over the same time read the store once.
//!
//! A chunk that is closed does not change, and is kept for as long as there is room. One that is
//! being filled is good for half a second, which is enough for all rules of one judgement. The room
//! is bounded by bytes, and the number of lives by count.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use parking_lot::Mutex;

use super::Shared;
use super::chunk::Chunk;
use super::record::{Life, lives};
use crate::clock::{Tick, Timestamp};
use crate::error::Result;
use crate::store::{Key, MAX_PAGE};

/// What the chunks at hand may occupy: two hours of twenty instances.
const MAX_BYTES: u64 = 12 * 1024 * 1024;
/// How long what may be changing is good for.
const FRESH: Duration = Duration::from_millis(500);
/// How long something is good for that changes only if its writer had lost the store.
const RARELY: Duration = Duration::from_secs(10);
/// After so long nobody has anything left to add; see the limit of chunks that are kept for a store
/// that is away.
const SETTLED: Duration = Duration::from_secs(6 * 3_600);
/// Chunks that are read in one call.
const BATCH: usize = 16;
/// The most lives that are looked at, the newest first: as many restarts within 30 days. What is
/// older than that many is not shown.
const MAX_LIVES: usize = 4_096;

/// What is at hand.
pub(super) struct Shelf {
    chunks: Cache<Key, Arc<Held>>,
    lives: Mutex<Option<(Tick, Arc<Vec<Life>>)>>,
}

/// What was read under the key of a chunk.
struct Held {
    /// Nothing if there is none, or none that can be read.
    chunk: Option<Arc<Chunk>>,
    until: Option<Tick>,
}

/// A chunk that is asked for, and when its slot is over.
pub(super) struct Wanted {
    pub(super) key: Key,
    pub(super) over: Timestamp,
}

impl Shelf {
    pub(super) fn new() -> Self {
        let weigh = |key: &Key, held: &Arc<Held>| {
            let bytes = key.id.len() + 200 + held.chunk.as_ref().map_or(0, |chunk| chunk.weight());
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let chunks = Cache::builder().max_capacity(MAX_BYTES).weigher(weigh).build();
        Shelf { chunks, lives: Mutex::default() }
    }

    /// This was written just now.
    pub(super) fn forget(&self, key: &Key) {
        self.chunks.invalidate(key);
        *self.lives.lock() = None;
    }

    /// All lives, the newest first.
    pub(super) async fn lives(&self, shared: &Shared) -> Result<Arc<Vec<Life>>> {
        let asked = shared.clock.tick();
        if let Some((at, lives)) = &*self.lives.lock()
            && asked.since(*at) < FRESH
        {
            return Ok(Arc::clone(lives));
        }
        let (mut found, mut after) = (Vec::new(), None);
        while found.len() < MAX_LIVES {
            let page = shared.store.scan(&lives().after(after), MAX_PAGE).await?;
            shared.time.told(page.now, asked);
            after = page.records.last().map(|record| record.key.id.to_string());
            found.extend(page.records.iter().filter_map(Life::read));
            if !page.more {
                break;
            }
        }
        let found = Arc::new(found);
        *self.lives.lock() = Some((asked, Arc::clone(&found)));
        Ok(found)
    }

    /// These chunks, in their order; nothing where there is none.
    pub(super) async fn chunks(
        &self,
        shared: &Shared,
        wanted: &[Wanted],
    ) -> Result<Vec<Option<Arc<Chunk>>>> {
        let now = shared.clock.tick();
        let at_hand = |wanted: &Wanted| {
            let held = self.chunks.get(&wanted.key)?;
            held.until.is_none_or(|until| now < until).then(|| held.chunk.clone())
        };
        let mut found: Vec<Option<Option<Arc<Chunk>>>> = wanted.iter().map(at_hand).collect();
        let missing: Vec<usize> = (0..wanted.len()).filter(|at| found[*at].is_none()).collect();
        for batch in missing.chunks(BATCH) {
            let keys: Vec<Key> = batch.iter().map(|at| wanted[*at].key.clone()).collect();
            let read = shared.store.get(&keys).await?;
            for (at, record) in batch.iter().zip(read.records) {
                let chunk = record.and_then(|record| Chunk::parse(record.value)).map(Arc::new);
                let until = good_until(chunk.as_deref(), wanted[*at].over, read.now, now);
                let held = Held { chunk: chunk.clone(), until };
                self.chunks.insert(wanted[*at].key.clone(), Arc::new(held));
                found[*at] = Some(chunk);
            }
        }
        Ok(found.into_iter().map(Option::flatten).collect())
    }
}

/// For how long what was read is taken to be what is there; nothing if it does not change.
fn good_until(chunk: Option<&Chunk>, over: Timestamp, now: Timestamp, asked: Tick) -> Option<Tick> {
    if chunk.is_some_and(|chunk| chunk.closed) || over + SETTLED < now {
        return None;
    }
    let being_filled = now < over + RARELY;
    Some(asked + if being_filled { FRESH } else { RARELY })
}
