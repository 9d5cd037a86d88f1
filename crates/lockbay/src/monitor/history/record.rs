//! What of history is stored under which key, and for how long.
//!
//! A life has a record that says whose it is; the newest lives come first. Its chunks lie in slots
//! of time, which are the same for all lives of one interval, so that whoever looks for a time knows
//! the keys. A sample is in the slot of its time.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Timestamp, micros};
use crate::store::{Key, Kind, Partition, Range, Record};

/// All records of history.
pub(crate) const HISTORY: Kind = Kind::new("history");

/// How long the samples of each interval are kept.
const FINE_KEPT: Duration = Duration::from_secs(72 * 3_600);
/// How long the coarser samples are kept.
const COARSE_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// The time between two of the coarser samples, or the sampling interval if that is longer.
const COARSE_EVERY: Duration = Duration::from_secs(300);
/// How many samples a full chunk of each grain has: half an hour of ten seconds, a day of five
/// minutes. One that is being filled is written with every sample, so it should not be large; each
/// column costs a few bytes for each chunk, so it should not be small.
const FINE_SAMPLES: u32 = 180;
const COARSE_SAMPLES: u32 = 288;

/// How close samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grain {
    /// One each interval.
    Fine,
    /// One each five minutes.
    Coarse,
}

impl Grain {
    fn name(self) -> &'static str {
        match self {
            Grain::Fine => "fine",
            Grain::Coarse => "coarse",
        }
    }

    /// How long its samples are kept.
    pub fn kept(self) -> Duration {
        match self {
            Grain::Fine => FINE_KEPT,
            Grain::Coarse => COARSE_KEPT,
        }
    }

    /// The time between two samples, where they are taken at this interval.
    pub fn every(self, interval: Duration) -> Duration {
        match self {
            Grain::Fine => interval,
            Grain::Coarse => interval.max(COARSE_EVERY),
        }
    }

    /// How long a slot is.
    pub(super) fn slot(self, interval: Duration) -> Duration {
        match self {
            Grain::Fine => self.every(interval) * FINE_SAMPLES,
            Grain::Coarse => self.every(interval) * COARSE_SAMPLES,
        }
    }
}

/// When the slot of a time begins.
pub(super) fn slot_of(at: Timestamp, slot: Duration) -> Timestamp {
    Timestamp::from_micros(at.as_micros() - at.as_micros() % micros(slot).max(1))
}

pub(super) fn chunk_key(id: &str, grain: Grain, slot: Timestamp) -> Key {
    let grain = grain.name();
    Key::new(Partition::FIRST, HISTORY, format!("{grain}/{id}/{:016x}", slot.as_micros()))
}

/// One life of an instance, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredLife {
    pub(super) instance_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) instance_name: Option<String>,
    pub(super) born: Timestamp,
    pub(super) interval_ms: u64,
}

impl StoredLife {
    pub(super) fn key(&self) -> Key {
        let born = u64::MAX - self.born.as_micros();
        Key::new(Partition::FIRST, HISTORY, format!("life/{born:016x}/{}", self.instance_id))
    }
}

/// All lives, the newest first.
pub(super) fn lives() -> Range {
    Range::new(Partition::FIRST, HISTORY, "life/")
}

/// One life of an instance.
#[derive(Debug, Clone)]
pub(super) struct Life {
    /// Its random identity.
    pub(super) id: Arc<str>,
    /// What people call the instance.
    pub(super) instance: Arc<str>,
    pub(super) born: Timestamp,
    pub(super) interval: Duration,
    /// It was there until then at least, and not for much longer than five minutes after.
    pub(super) seen: Timestamp,
}

impl Life {
    /// Nothing if the record cannot be read, as of a later version.
    pub(super) fn read(record: &Record) -> Option<Self> {
        let stored: StoredLife = serde_json::from_slice(&record.value).ok()?;
        let id: Arc<str> = stored.instance_id.into();
        let instance = stored.instance_name.map_or_else(|| Arc::clone(&id), Into::into);
        let interval = Duration::from_millis(stored.interval_ms.max(1));
        let seen = record.deadline.unwrap_or_default() - COARSE_KEPT;
        Some(Life { id, instance, born: stored.born, interval, seen })
    }

    /// Until when it may have been there.
    pub(super) fn until(&self) -> Timestamp {
        self.seen + Grain::Coarse.every(self.interval) + self.interval * 2
    }
}
