//! From a path and a window to tracks.
//!
//! The slots of a life say which chunks to ask for, and the slot before the window as well, for the
//! sample with which the window begins. Coarse samples are made exact at their edges by fine ones.

use std::sync::Arc;
use std::time::Duration;

use super::record::{Grain, Life, chunk_key, slot_of};
use super::shelf::Wanted;
use super::{Shared, chunk::Chunk};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::metrics::{BUCKETS, Part, Series};
use crate::monitor::series::{Samples, Track};

/// The most numbers that one question takes into memory, which is 64 MiB: 30 days of a gauge of 480
/// instances.
const MAX_NUMBERS: usize = 8 << 20;

/// What is looked at.
pub(super) struct Look<'a> {
    pub(super) series: &'a Series,
    pub(super) grain: Grain,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    /// If only steps of this length are asked about, samples within one can be left out.
    pub(super) step: Option<Duration>,
}

/// The lives that may have been there in a window, the newest first.
pub(super) async fn lives(shared: &Shared, from: Timestamp, to: Timestamp) -> Result<Vec<Life>> {
    let lives = shared.shelf.lives(shared).await?;
    Ok(lives.iter().filter(|life| life.born <= to && life.until() >= from).cloned().collect())
}

pub(super) async fn tracks(shared: &Shared, lives: &[Life], look: Look<'_>) -> Result<Vec<Track>> {
    let Look { series, grain, from, to, step } = look;
    let reader = Reader { shared, path: series.path, from, step };
    let mut tracks = Vec::new();
    let mut numbers = 0;
    for life in lives {
        let mut samples = reader.stretch(life, grain, from, to).await?;
        if grain == Grain::Coarse {
            samples = reader.sharpen(life, samples, from, to).await?;
        }
        if let Some(samples) = samples.and_then(|samples| trim(samples, from, to)) {
            let samples = part(samples, series.part);
            numbers += weight(&samples);
            let instance = Arc::clone(&life.instance);
            tracks.push(Track { instance, born: life.born, samples });
        }
        if step.is_some() && numbers > MAX_NUMBERS {
            return Err(Error::invalid(format!(
                "history of so many instances is too much to be read at once: ask for one \
                 instance, longer steps or a shorter window of {}",
                series.path
            )));
        }
        // Unpacking takes a moment, and there may be thousands of lives.
        tokio::task::yield_now().await;
    }
    // The oldest first, as time goes.
    tracks.reverse();
    Ok(tracks)
}

struct Reader<'a> {
    shared: &'a Shared,
    path: &'a str,
    /// Where steps begin.
    from: Timestamp,
    step: Option<Duration>,
}

impl Reader<'_> {
    /// The samples of the slots that the window touches, and of the slot before them.
    async fn stretch(
        &self,
        life: &Life,
        grain: Grain,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Option<Samples>> {
        let shared = self.shared;
        let slot = grain.slot(life.interval);
        // Nothing is older than what is kept, nor than the life; nothing is newer than its end.
        let oldest = life.born.max(shared.time.now() - grain.kept() - slot);
        let newest = to.min(life.until());
        let mut at = slot_of((from - slot).max(oldest), slot);
        let mut wanted = Vec::new();
        while at <= newest {
            let over = at + slot;
            wanted.push(Wanted { key: chunk_key(&life.id, grain, at), over });
            at = over;
        }
        let chunks = shared.shelf.chunks(shared, &wanted).await?;
        let samples = chunks.iter().flatten().filter_map(|chunk| Chunk::samples(chunk, self.path));
        Ok(samples.map(|samples| self.thin(samples)).reduce(join))
    }

    /// Adds finer samples where the coarse ones leave something open: where the window begins, and
    /// behind the last one.
    async fn sharpen(
        &self,
        life: &Life,
        coarse: Option<Samples>,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Option<Samples>> {
        let before = coarse.as_ref().and_then(|samples| last_at(samples, from));
        let behind = coarse.as_ref().and_then(|samples| last_at(samples, to));
        let head = self.stretch(life, Grain::Fine, from, from).await?;
        let head = head.and_then(|samples| between(samples, before, from));
        let tail = match behind {
            Some(behind) => {
                let to = to.min(behind + Grain::Coarse.every(life.interval) * 2);
                self.stretch(life, Grain::Fine, behind, to).await?
            }
            None => {
                self.stretch(life, Grain::Fine, from, to.min(from + super::FINE_WINDOW)).await?
            }
        };
        let tail = tail.and_then(|samples| between(samples, behind.or(Some(from)), to));
        Ok([head, coarse, tail].into_iter().flatten().reduce(join))
    }

    /// What grows is known by where it stands at the end of each step. A gauge keeps what it was.
    fn thin(&self, samples: Samples) -> Samples {
        let Some(step) = self.step else { return samples };
        let step_of =
            |at: Timestamp| at.since(self.from).as_micros().div_ceil(step.as_micros().max(1));
        match samples {
            Samples::Counter(samples) => Samples::Counter(last_of_each(samples, step_of)),
            Samples::Gauge(samples) => Samples::Gauge(samples),
            Samples::Histogram(samples) => Samples::Histogram(last_of_each(samples, step_of)),
        }
    }
}

/// The last sample of each step, and the very first one, from which on a life may count.
fn last_of_each<T>(
    samples: Vec<(Timestamp, T)>,
    step_of: impl Fn(Timestamp) -> u128,
) -> Vec<(Timestamp, T)> {
    let mut kept: Vec<(Timestamp, T)> = Vec::new();
    for sample in samples {
        if kept.len() > 1 && kept.last().is_some_and(|(at, _)| step_of(*at) == step_of(sample.0)) {
            kept.pop();
        }
        kept.push(sample);
    }
    kept.shrink_to_fit();
    kept
}

/// How many numbers samples have, about.
fn weight(samples: &Samples) -> usize {
    match samples {
        Samples::Counter(samples) => samples.len() * 2,
        Samples::Gauge(samples) => samples.len() * 2,
        Samples::Histogram(samples) => samples.len() * (BUCKETS + 9),
    }
}

/// The time of the last sample at this moment or before.
pub(super) fn last_at(samples: &Samples, at: Timestamp) -> Option<Timestamp> {
    fn of<T>(samples: &[(Timestamp, T)], at: Timestamp) -> Option<Timestamp> {
        let before = samples.partition_point(|(sampled, _)| *sampled <= at);
        Some(samples[before.checked_sub(1)?].0)
    }
    match samples {
        Samples::Counter(samples) => of(samples, at),
        Samples::Gauge(samples) => of(samples, at),
        Samples::Histogram(samples) => of(samples, at),
    }
}

/// The samples after one moment and up to another.
fn between(samples: Samples, after: Option<Timestamp>, to: Timestamp) -> Option<Samples> {
    fn of<T>(
        mut samples: Vec<(Timestamp, T)>,
        after: Option<Timestamp>,
        to: Timestamp,
    ) -> Vec<(Timestamp, T)> {
        samples.retain(|(at, _)| after.is_none_or(|after| *at > after) && *at <= to);
        samples
    }
    some(match samples {
        Samples::Counter(samples) => Samples::Counter(of(samples, after, to)),
        Samples::Gauge(samples) => Samples::Gauge(of(samples, after, to)),
        Samples::Histogram(samples) => Samples::Histogram(of(samples, after, to)),
    })
}

/// Only what the window needs: from the last sample at its beginning or before, to its end.
fn trim(samples: Samples, from: Timestamp, to: Timestamp) -> Option<Samples> {
    fn of<T>(
        mut samples: Vec<(Timestamp, T)>,
        from: Timestamp,
        to: Timestamp,
    ) -> Vec<(Timestamp, T)> {
        samples.truncate(samples.partition_point(|(at, _)| *at <= to));
        let before = samples.partition_point(|(at, _)| *at <= from);
        samples.drain(..before.saturating_sub(1));
        samples
    }
    some(match samples {
        Samples::Counter(samples) => Samples::Counter(of(samples, from, to)),
        Samples::Gauge(samples) => Samples::Gauge(of(samples, from, to)),
        Samples::Histogram(samples) => Samples::Histogram(of(samples, from, to)),
    })
}

pub(super) fn some(samples: Samples) -> Option<Samples> {
    let empty = match &samples {
        Samples::Counter(samples) => samples.is_empty(),
        Samples::Gauge(samples) => samples.is_empty(),
        Samples::Histogram(samples) => samples.is_empty(),
    };
    (!empty).then_some(samples)
}

/// What comes first and what comes then, in the order of time. A metric that changed its type
/// between two versions is taken as it is now.
fn join(first: Samples, then: Samples) -> Samples {
    fn both<T>(mut first: Vec<(Timestamp, T)>, then: Vec<(Timestamp, T)>) -> Vec<(Timestamp, T)> {
        first.extend(then);
        first.sort_by_key(|(at, _)| *at);
        first.dedup_by_key(|(at, _)| *at);
        first
    }
    match (first, then) {
        (Samples::Counter(first), Samples::Counter(then)) => Samples::Counter(both(first, then)),
        (Samples::Gauge(first), Samples::Gauge(then)) => Samples::Gauge(both(first, then)),
        (Samples::Histogram(first), Samples::Histogram(then)) => {
            Samples::Histogram(both(first, then))
        }
        (_, then) => then,
    }
}

/// What a part of a histogram is, as samples.
fn part(samples: Samples, part: Part) -> Samples {
    match (samples, part) {
        (Samples::Histogram(samples), Part::Count) => {
            let count = samples.into_iter().map(|(at, found)| (at, found.count()));
            Samples::Counter(count.collect())
        }
        (Samples::Histogram(samples), Part::Sum) => {
            Samples::Gauge(samples.into_iter().map(|(at, found)| (at, found.sum)).collect())
        }
        (samples, Part::Whole | Part::Quantile(_) | Part::Count | Part::Sum) => samples,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_kept_once_for_each_step() {
        let samples: Vec<_> = (0..1_000).map(|n| (Timestamp::from_micros(n), n)).collect();
        let kept = last_of_each(samples, |at| u128::from(at.as_micros()).div_ceil(100));
        let kept: Vec<u64> = kept.into_iter().map(|(_, value)| value).collect();
        assert_eq!(kept, [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999]);
    }
}
