//! What was measured over time: tracks of one metric, one for each life of each instance, and what
//! a window over them comes to.
//!
//! The words that history, alerts and trends share, and pure functions over them. A counter begins
//! at zero when its instance is born, so its first increment is seen as one; it never goes back
//! within a life. Nothing here is guessed: where nothing was measured there is no value, and what
//! lies between two samples is not interpolated.
//!
//! A window holds what happened after `from` and up to `to`. A value at a moment is that of the last
//! sample at it or before, so a window is as exact as the samples are close.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::metrics::{BOUNDS, Merge, quantile_of};

/// One metric in one life of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// Whose.
    pub instance: Arc<str>,
    /// When this life began. Counters and histograms were zero then.
    pub born: Timestamp,
    /// Its samples in the order of time.
    pub samples: Samples,
}

/// Samples by the type of the metric, each with the time it was taken at.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    /// Of a counter: how far it has come since the instance was born.
    Counter(Vec<(Timestamp, u64)>),
    /// Of a gauge: where it stands.
    Gauge(Vec<(Timestamp, f64)>),
    /// Of a histogram: how many observations since the birth fell into each bucket, the last of
    /// which has no upper bound, and the sum of all.
    Histogram(Vec<(Timestamp, Arc<Distribution>)>),
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Observations in each bucket, not those below it.
    pub buckets: Vec<u64>,
    /// The sum of all observations.
    pub sum: f64,
}

/// How gauges of several lives are read as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What they come to together; a row of the metrics' table says it.
    pub merge: Merge,
    /// How long a sample speaks for its instance. After that the instance is taken to be gone, and
    /// counts no more.
    pub stale: Duration,
}

/// How much a counter grew in the window, in all lives together; of a histogram, how many
/// observations there were. `None` if nothing is known of the window.
///
/// Exact but for one case: a life that was born before `from`, and of which the first sample known
/// is after it, counts only from that sample on. A life that was born inside the window counts from
/// zero. A restart is another life, so nothing that goes back has to be guessed at.
pub fn increase(tracks: &[Track], from: Timestamp, to: Timestamp) -> Option<f64> {
    let counted = tracks.iter().filter_map(|track| match &track.samples {
        Samples::Counter(samples) => grown(track.born, samples, from, to, |value| *value),
        Samples::Histogram(samples) => grown(track.born, samples, from, to, |at| at.count()),
        Samples::Gauge(_) => None,
    });
    total(counted).map(as_float)
}

/// [`increase`] per second of the window.
pub fn rate(tracks: &[Track], from: Timestamp, to: Timestamp) -> Option<f64> {
    let seconds = to.since(from).as_secs_f64();
    increase(tracks, from, to).filter(|_| seconds > 0.0).map(|increase| increase / seconds)
}

/// What was observed in the window, in all lives together; as exact as [`increase`]. `None` if
/// nothing is known of the window, or if these are no histograms.
pub fn distribution(tracks: &[Track], from: Timestamp, to: Timestamp) -> Option<Distribution> {
    let mut all: Option<Distribution> = None;
    for track in tracks {
        let Samples::Histogram(samples) = &track.samples else { continue };
        let Some((before, after)) = ends(track.born, samples, from, to) else { continue };
        let all = all.get_or_insert_with(|| Distribution::empty(after.buckets.len()));
        // Another version may have had other buckets; they cannot be added up.
        if all.buckets.len() == after.buckets.len() {
            all.add(after, before.map(|before| &**before));
        }
    }
    all
}

/// The value below which this share of the observations of the window lies, as [`quantile_of`]
/// finds it. `None` if there were none.
pub fn quantile(tracks: &[Track], share: f64, from: Timestamp, to: Timestamp) -> Option<f64> {
    quantile_of(&distribution(tracks, from, to)?.buckets, &BOUNDS, share)
}

/// The average over the window: of a gauge over time, each value for as long as it stood, without
/// the times of which nothing is known; of a histogram over its observations.
pub fn average(tracks: &[Track], from: Timestamp, to: Timestamp, reading: Reading) -> Option<f64> {
    if let Some(found) = distribution(tracks, from, to) {
        return (found.count() > 0).then(|| found.sum / as_float(found.count()));
    }
    let (mut sum, mut seconds) = (0.0, 0.0);
    let stood = stretches(tracks, from, to, reading);
    for stretch in &stood {
        let long = stretch.until.since(stretch.from).as_secs_f64();
        sum += stretch.value * long;
        seconds += long;
    }
    match seconds > 0.0 {
        true => Some(sum / seconds),
        false => stood.last().map(|stretch| stretch.value),
    }
}

/// The highest value of a gauge in the window.
pub fn maximum(tracks: &[Track], from: Timestamp, to: Timestamp, reading: Reading) -> Option<f64> {
    let values = stretches(tracks, from, to, reading).into_iter().map(|stretch| stretch.value);
    values.reduce(f64::max)
}

/// The lowest value of a gauge in the window.
pub fn minimum(tracks: &[Track], from: Timestamp, to: Timestamp, reading: Reading) -> Option<f64> {
    let values = stretches(tracks, from, to, reading).into_iter().map(|stretch| stretch.value);
    values.reduce(f64::min)
}

/// The value of a gauge at a moment, over all lives that had a sample not long before it. Of
/// counters, how far the lives have come that are there.
pub fn last(tracks: &[Track], at: Timestamp, reading: Reading) -> Option<f64> {
    let fresh = tracks.iter().filter_map(|track| standing(track, at, reading.stale));
    merged(fresh, reading.merge)
}

/// A time during which a merged gauge stood at one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    /// Since when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// What it was.
    pub value: f64,
}

/// How a gauge went through the window. Where no life had a fresh sample there is a gap between two
/// stretches. The last one may have no length: a sample at the very end.
pub fn stretches(
    tracks: &[Track],
    from: Timestamp,
    to: Timestamp,
    reading: Reading,
) -> Vec<Stretch> {
    let mut turns = vec![from, to];
    for track in tracks {
        each_time(&track.samples, |at| {
            turns.push(at);
            turns.push(at + reading.stale + Duration::from_micros(1));
        });
    }
    turns.retain(|at| (from..=to).contains(at));
    turns.sort_unstable();
    turns.dedup();
    let until = turns.iter().skip(1).copied().chain([to]);
    let stretch =
        |(at, until)| Some(Stretch { from: at, until, value: last(tracks, at, reading)? });
    turns.iter().copied().zip(until).filter_map(stretch).collect()
}

impl Distribution {
    /// One without observations.
    pub fn empty(buckets: usize) -> Self {
        Distribution { buckets: vec![0; buckets], sum: 0.0 }
    }

    /// How many observations it has.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds what was observed between two moments of one life.
    fn add(&mut self, after: &Distribution, before: Option<&Distribution>) {
        let before_sum = before.map_or(0.0, |before| before.sum);
        self.sum += (after.sum - before_sum).max(0.0);
        for (at, sum) in self.buckets.iter_mut().enumerate() {
            let earlier = before.and_then(|before| before.buckets.get(at)).copied().unwrap_or(0);
            *sum += after.buckets[at].saturating_sub(earlier);
        }
    }
}

/// The sample at which a life enters the window, if that is not its birth, and the last one of it
/// in the window. `None` if nothing of the life is known to lie in the window.
fn ends<T>(
    born: Timestamp,
    samples: &[(Timestamp, T)],
    from: Timestamp,
    to: Timestamp,
) -> Option<(Option<&T>, &T)> {
    let known = &samples[..samples.partition_point(|(at, _)| *at <= to)];
    let (last_at, last) = known.last()?;
    let before = known.partition_point(|(at, _)| *at <= from);
    // Its last word was spoken before the window.
    if *last_at <= from {
        return None;
    }
    let first = match before.checked_sub(1) {
        Some(at) => Some(&known[at].1),
        None if born >= from => None,
        None => known.first().map(|(_, first)| first),
    };
    Some((first, last))
}

fn grown<T>(
    born: Timestamp,
    samples: &[(Timestamp, T)],
    from: Timestamp,
    to: Timestamp,
    value: impl Fn(&T) -> u64,
) -> Option<u64> {
    let (first, last) = ends(born, samples, from, to)?;
    Some(value(last).saturating_sub(first.map_or(0, &value)))
}

fn total(values: impl Iterator<Item = u64>) -> Option<u64> {
    values.reduce(u64::saturating_add)
}

/// What a life says of a moment: its last sample, if that is not stale.
fn standing(track: &Track, at: Timestamp, stale: Duration) -> Option<f64> {
    match &track.samples {
        Samples::Counter(samples) => fresh(samples, at, stale).map(|value| as_float(*value)),
        Samples::Gauge(samples) => fresh(samples, at, stale).copied(),
        Samples::Histogram(_) => None,
    }
}

fn fresh<T>(samples: &[(Timestamp, T)], at: Timestamp, stale: Duration) -> Option<&T> {
    let before = samples.partition_point(|(sampled, _)| *sampled <= at).checked_sub(1)?;
    let (sampled, value) = &samples[before];
    (at.since(*sampled) <= stale).then_some(value)
}

/// What values of several lives come to.
pub fn merged(values: impl Iterator<Item = f64>, merge: Merge) -> Option<f64> {
    values.reduce(|all, value| match merge {
        Merge::Sum => all + value,
        Merge::Max => all.max(value),
        Merge::Min => all.min(value),
    })
}

fn each_time(samples: &Samples, mut tell: impl FnMut(Timestamp)) {
    match samples {
        Samples::Counter(samples) => samples.iter().for_each(|(at, _)| tell(*at)),
        Samples::Gauge(samples) => samples.iter().for_each(|(at, _)| tell(*at)),
        Samples::Histogram(samples) => samples.iter().for_each(|(at, _)| tell(*at)),
    }
}

#[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
