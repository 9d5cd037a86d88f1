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
        let series = Self::series(path)?;
        read::tracks(&self.0, &series, self.grain(from, to), from, to).await
    }
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("History")
    }
}
