//! History: every metric of every instance, each ten seconds for 72 hours and each five minutes for
//! 30 days.
//!
//! Each instance samples itself and keeps its samples in the store, compressed and in chunks, so
//! they outlive it and everybody can read them. Nothing of it is needed for anything else: a lost
//! sample is a gap, which is shown as one.
//!
//! It knows what was measured and when. What it means is the business of alerts and trends; what a
//! window comes to is in [`series`](super::series).

mod chunk;
mod pack;
mod points;
mod read;
mod record;
mod recorder;
mod shelf;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Tick, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{self, Metrics, Series};
use crate::monitor::series::{Reading, Track};
use crate::store::Store;
use crate::store::time::StoreTime;

pub use points::{Ask, Chart, MAX_POINTS, MAX_WINDOW, Point, Value};
pub use record::Grain;
pub(crate) use record::HISTORY;

use recorder::Recorder;
use shelf::Shelf;

/// A window longer than this is read from the coarser samples.
pub const FINE_WINDOW: Duration = Duration::from_secs(2 * 3_600);

/// So many charts and reports are made at once, because each may take memory and time on a
/// processor; others wait a little.
const READERS: usize = 2;
/// How long that is. Whoever has not got a turn by then is told to come again.
const TURN_WITHIN: Duration = Duration::from_secs(2);

/// Sampling stands still once so many samples in a row were not stored.
const STANDS_STILL: u32 = 6;

/// What was measured, over time and over all instances. Cheap to clone.
#[derive(Clone)]
pub struct History(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    clock: Clock,
    metrics: Arc<Metrics>,
    time: StoreTime,
    shelf: Shelf,
    settings: HistorySettings,
    readers: Arc<Semaphore>,
    /// The tick at which a sample was last stored, or sampling began; zero before that.
    stored: AtomicU64,
}

/// What an instance says of itself in its samples.
pub(crate) struct HistorySettings {
    pub(crate) instance_id: String,
    pub(crate) instance_name: Option<String>,
    pub(crate) interval: Duration,
}

impl Shared {
    /// A sample is in the store.
    fn stored(&self) {
        self.stored.store(self.clock.tick().as_nanos().max(1), Ordering::Relaxed);
    }

    fn grain(&self, from: Timestamp, to: Timestamp) -> Grain {
        let kept = self.time.now() - Grain::Fine.kept();
        if to.since(from) <= FINE_WINDOW && from >= kept { Grain::Fine } else { Grain::Coarse }
    }
}

impl History {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        metrics: Arc<Metrics>,
        settings: HistorySettings,
    ) -> Self {
        let time = StoreTime::new(clock.clone());
        History(Arc::new(Shared {
            store,
            clock,
            metrics,
            time,
            shelf: Shelf::new(),
            settings,
            readers: Arc::new(Semaphore::new(READERS)),
            stored: AtomicU64::default(),
        }))
    }

    /// For how long no sample of this instance has been stored, once that is so long that several
    /// are missing; `None` while all is well, and if it does not sample.
    pub fn stands_still(&self) -> Option<Duration> {
        let stored = self.0.stored.load(Ordering::Relaxed);
        let idle = self.0.clock.tick().since(Tick::from_nanos(stored));
        (stored > 0 && idle > self.0.settings.interval * STANDS_STILL).then_some(idle)
    }

    /// Samples this instance until told to stop. `refresh` brings gauges up to date first.
    pub(crate) async fn record(
        self,
        opened: Tick,
        refresh: impl Fn() + Send,
        stop: CancellationToken,
    ) {
        Recorder::run(self.0, opened, refresh, stop).await;
    }

    /// The time by the store's clock, which is that of the samples.
    ///
    /// # Errors
    /// `Unavailable` if the store has not told its time yet and does not answer.
    pub async fn now(&self) -> Result<Timestamp> {
        if !self.0.time.is_known() {
            let asked = self.0.clock.tick();
            self.0.time.told(self.0.store.ping().await?.now, asked);
        }
        Ok(self.0.time.now())
    }

    /// Every metric of which there is a history, by its path. A histogram has parts, which have
    /// paths of their own: `.count`, `.sum`, `.p50`, `.p95`, `.p99`.
    pub fn paths() -> impl Iterator<Item = Series> {
        metrics::paths()
    }

    /// What a path names.
    ///
    /// # Errors
    /// `NotFound` if it names nothing, with the names that it may have meant.
    pub fn series(path: &str) -> Result<Series> {
        metrics::find(path).ok_or_else(|| {
            let alike = metrics::alike(path);
            let meant = match alike.is_empty() {
                true => String::new(),
                false => format!("; did you mean {}?", alike.join(", ")),
            };
            // What somebody sent may be long.
            let path: String = path.chars().take(200).collect();
            Error::new(ErrorKind::NotFound, format!("there is no metric at {path:?}{meant}"))
        })
    }

    /// How close the samples are that a window is read from.
    pub fn grain(&self, from: Timestamp, to: Timestamp) -> Grain {
        self.0.grain(from, to)
    }

    /// The time between two samples of a window.
    pub fn resolution(&self, from: Timestamp, to: Timestamp) -> Duration {
        self.grain(from, to).every(self.0.settings.interval)
    }

    /// How gauges of this series are read as one in a window: by the rule of its row, each sample
    /// good for two and a half intervals.
    pub fn reading(&self, series: &Series, from: Timestamp, to: Timestamp) -> Reading {
        Reading { merge: series.merge, stale: self.resolution(from, to) * 5 / 2 }
    }

    /// The tracks of a path, one for each life of each instance that was there in the window.
    ///
    /// Each begins with the last sample before `from`, if there is one within half an hour (a day,
    /// for a window that is read from coarser samples), so that an increase over the window is
    /// exact. A window of more than two hours, or from before the last 72, has a sample each five
    /// minutes, and each interval at its edges and at the ends of lives, where they are still kept.
    /// A path of a quantile gives the whole histogram; `.count` a counter; `.sum` a gauge.
    ///
    /// # Errors
    /// `NotFound` if the path names nothing; `Unavailable` if the store does not answer.
    pub async fn tracks(&self, path: &str, from: Timestamp, to: Timestamp) -> Result<Vec<Track>> {
        self.look(path, from, to, None).await
    }

    /// The same for somebody who asks only about steps of this length from `from` on: of counters
    /// and histograms there is no more than a sample for each.
    ///
    /// # Errors
    /// `Invalid` too, if the instances of the window are so many that memory would not do.
    pub(crate) async fn tracks_by(
        &self,
        path: &str,
        from: Timestamp,
        to: Timestamp,
        step: Duration,
    ) -> Result<Vec<Track>> {
        self.look(path, from, to, Some(step)).await
    }

    async fn look(
        &self,
        path: &str,
        from: Timestamp,
        to: Timestamp,
        step: Option<Duration>,
    ) -> Result<Vec<Track>> {
        let (series, grain) = (Self::series(path)?, self.grain(from, to));
        let lives = read::lives(&self.0, from, to).await?;
        read::tracks(&self.0, &lives, read::Look { series: &series, grain, from, to, step }).await
    }

    /// A turn to read much of it.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.0.readers).acquire_owned();
        let turn = self.0.clock.timeout(TURN_WITHIN, turn).await;
        turn.and_then(std::result::Result::ok).ok_or_else(|| {
            Error::new(
                ErrorKind::Busy,
                format!("history is read by others, {READERS} at once; try again in a moment"),
            )
        })
    }
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("History")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::Memory;

    #[tokio::test]
    async fn no_more_than_two_read_much_of_history_at_once() {
        let clock = Clock::manual(1);
        let settings = HistorySettings {
            instance_id: "a".into(),
            instance_name: None,
            interval: Duration::from_secs(10),
        };
        let store = Arc::new(Memory::new(clock.clone()).client());
        let history = History::new(store, clock.clone(), Arc::default(), settings);
        let to = history.now().await.unwrap();
        let from = to - Duration::from_secs(3_600);
        let ask = Ask { path: "is_leader".into(), from, to, step: None, instance: None };
        let (one, _other) = (history.turn().await.unwrap(), history.turn().await.unwrap());
        let late = async {
            tokio::task::yield_now().await;
            clock.advance(TURN_WITHIN);
        };
        let (refused, ()) = tokio::join!(history.points(&ask), late);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy);
        drop(one);
        assert!(history.points(&ask).await.is_ok());
    }
}
