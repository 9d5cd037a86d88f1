//! A store that misbehaves on purpose: it delays, refuses, and loses replies, by a seed.
//!
//! A lost reply means that the commit was applied and the caller is told `Unknown`; a refused one
//! that nothing was done. What runs above it must survive both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{
    Commit, Description, Footprint, Foreign, Hints, Key, Kind, Page, Partition, Pong, Range, Read,
    Reclaimed, Reply, Store, Upkeep,
};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// How often, in a thousand calls, each fault happens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// The call is refused, nothing is done: `Unavailable`.
    pub refused: u32,
    /// The commit is applied and the reply is lost: `Unknown`.
    pub reply_lost: u32,
    /// The commit is neither applied nor answered properly: `Unknown`.
    pub request_lost: u32,
}

/// On which side of a commit its client dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cut {
    /// The commit is not applied.
    Before,
    /// The commit is applied, and its client does not hear of it.
    After,
}

/// When a client dies: it has so many commits left, and what becomes of the last one.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lives,
    Dies(u64, Cut),
    Dead,
}

/// A store behind which another does the work.
pub struct Faulty {
    inner: Arc<dyn Store>,
    clock: Clock,
    faults: [AtomicU32; 3],
    delay_us: AtomicU32,
    commit_delay_us: AtomicU32,
    reply_delay_us: AtomicU32,
    calls: AtomicU64,
    deaf: AtomicBool,
    full: AtomicBool,
    fate: Mutex<Fate>,
}

impl Faulty {
    /// Passes everything through until [`set`](Faulty::set).
    pub fn new(inner: Arc<dyn Store>, clock: Clock) -> Self {
        Faulty {
            inner,
            clock,
            faults: Default::default(),
            delay_us: AtomicU32::new(0),
            commit_delay_us: AtomicU32::new(0),
            reply_delay_us: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            deaf: AtomicBool::new(false),
            full: AtomicBool::new(false),
            fate: Mutex::new(Fate::Lives),
        }
    }

    /// From now on, these faults.
    pub fn set(&self, faults: Faults) {
        let rates = [faults.refused, faults.reply_lost, faults.request_lost];
        for (slot, rate) in self.faults.iter().zip(rates) {
            slot.store(rate, Ordering::Relaxed);
        }
    }

    /// From now on, every call takes this long more.
    pub fn set_delay(&self, delay: Duration) {
        self.delay_us.store(micros(delay), Ordering::Relaxed);
    }

    /// From now on, every commit takes this long more before it is applied, beside the delay of
    /// every call.
    pub fn set_commit_delay(&self, delay: Duration) {
        self.commit_delay_us.store(micros(delay), Ordering::Relaxed);
    }

    /// From now on, every answer is on its way for this long, while the world goes on.
    pub fn set_reply_delay(&self, delay: Duration) {
        self.reply_delay_us.store(micros(delay), Ordering::Relaxed);
    }

    /// The client dies at the commit of this number, counted from 1 for the next one: from then on
    /// it reaches nothing, and every call is `Unavailable`.
    pub fn die_at(&self, commit: u64, cut: Cut) {
        *self.fate.lock() = Fate::Dies(commit, cut);
    }

    /// The client dies now.
    pub fn die(&self) {
        *self.fate.lock() = Fate::Dead;
    }

    /// From now on, every commit is refused, as by a disk that is full; what is there is read.
    pub fn fill(&self) {
        self.full.store(true, Ordering::Relaxed);
    }

    /// The client reaches the store again, which has room again.
    pub fn revive(&self) {
        self.full.store(false, Ordering::Relaxed);
        *self.fate.lock() = Fate::Lives;
    }

    /// Whether the client is dead.
    pub fn is_dead(&self) -> bool {
        matches!(*self.fate.lock(), Fate::Dead)
    }

    /// From now on, nobody who subscribes hears a hint: all of them are lost.
    pub fn deafen(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// Whether its client dies at this commit, and on which side of it.
    fn dies_here(&self) -> Option<Cut> {
        let mut fate = self.fate.lock();
        match *fate {
            Fate::Lives | Fate::Dead => None,
            Fate::Dies(left, _) if left > 1 => {
                if let Fate::Dies(left, _) = &mut *fate {
                    *left -= 1;
                }
                None
            }
            Fate::Dies(_, cut) => {
                *fate = Fate::Dead;
                Some(cut)
            }
        }
    }

    /// How many calls were made: what would be round trips.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn happens(&self, fault: usize) -> bool {
        self.clock.random() % 1_000 < u64::from(self.faults[fault].load(Ordering::Relaxed))
    }

    async fn before(&self) -> Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.pause(&self.delay_us).await;
        if self.is_dead() || self.happens(0) {
            return Err(not_reached());
        }
        Ok(())
    }
}

impl Faulty {
    async fn pause(&self, micros: &AtomicU32) {
        let delay = Duration::from_micros(u64::from(micros.load(Ordering::Relaxed)));
        self.clock.sleep(delay).await;
    }

    async fn pass_on(&self, commit: &Commit) -> Result<Reply> {
        self.pause(&self.commit_delay_us).await;
        let cut = self.dies_here();
        if cut == Some(Cut::Before) {
            return Err(not_reached());
        }
        if self.happens(2) {
            return Err(lost());
        }
        let reply = self.inner.commit(commit).await?;
        self.pause(&self.reply_delay_us).await;
        if cut == Some(Cut::After) || self.happens(1) {
            return Err(lost());
        }
        Ok(reply)
    }
}

fn micros(delay: Duration) -> u32 {
    u32::try_from(delay.as_micros()).unwrap_or(u32::MAX)
}

fn not_reached() -> Error {
    Error::new(ErrorKind::Unavailable, "a fault: the store was not reached")
}

fn lost() -> Error {
    Error::new(ErrorKind::Unknown, "a fault: the connection broke before the reply")
}

#[async_trait]
impl Store for Faulty {
    async fn get(&self, keys: &[Key]) -> Result<Read> {
        self.before().await?;
        let read = self.inner.get(keys).await;
        self.pause(&self.reply_delay_us).await;
        read
    }

    async fn scan(&self, range: &Range, limit: usize) -> Result<Page> {
        self.before().await?;
        let page = self.inner.scan(range, limit).await;
        self.pause(&self.reply_delay_us).await;
        page
    }

    async fn due(&self, partition: Partition, kind: Kind, limit: usize) -> Result<Page> {
        self.before().await?;
        self.inner.due(partition, kind, limit).await
    }

    async fn commit(&self, commit: &Commit) -> Result<Reply> {
        self.before().await?;
        if self.full.load(Ordering::Relaxed) {
            return Err(not_reached());
        }
        self.pass_on(commit).await
    }

    async fn commit_all(&self, commits: &[Commit]) -> Vec<Result<Reply>> {
        let mut replies = Vec::with_capacity(commits.len());
        let reached = self.before().await;
        for commit in commits {
            replies.push(match &reached {
                Ok(()) => self.pass_on(commit).await,
                Err(error) => Err(Error::new(error.kind(), error.message().to_owned())),
            });
        }
        replies
    }

    async fn watch(&self, range: &Range) -> Result<Hints> {
        self.before().await?;
        if self.deaf.load(Ordering::Relaxed) {
            return Err(not_reached());
        }
        self.inner.watch(range).await
    }

    async fn ping(&self) -> Result<Pong> {
        self.before().await?;
        self.inner.ping().await
    }

    fn upkeep(&self) -> &dyn Upkeep {
        self
    }

    fn describe(&self) -> Description {
        self.inner.describe()
    }

    async fn accept(&self) -> Result<()> {
        self.inner.accept().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Upkeep for Faulty {
    async fn count(&self, partition: Partition, kind: Kind) -> Result<u64> {
        self.before().await?;
        self.inner.upkeep().count(partition, kind).await
    }

    async fn volume(&self) -> Result<Option<super::Volume>> {
        self.before().await?;
        self.inner.upkeep().volume().await
    }

    async fn weigh(&self, keys: &[Key]) -> Result<u64> {
        self.before().await?;
        self.inner.upkeep().weigh(keys).await
    }

    async fn footprint(&self) -> Result<Footprint> {
        self.before().await?;
        self.inner.upkeep().footprint().await
    }

    async fn reclaim(&self) -> Result<Reclaimed> {
        self.before().await?;
        self.inner.upkeep().reclaim().await
    }

    async fn advice(&self) -> Result<Vec<String>> {
        self.before().await?;
        self.inner.upkeep().advice().await
    }

    fn foreign(&self) -> Option<&dyn Foreign> {
        self.inner.upkeep().foreign()
    }
}
