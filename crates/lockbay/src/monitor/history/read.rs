//! From a path and a window to tracks.
//!
//! The slots of a life say which chunks to ask for, and the slot before the window as well, for the
//! sample with which the window begins. Coarse samples are made exact at their edges by fine ones.

use std::sync::Arc;

use super::record::{Grain, Life, chunk_key, slot_of};
use super::shelf::Wanted;
use super::{Shared, chunk::Chunk};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::metrics::{Part, Series};
use crate::monitor::series::{Samples, Track};

pub(super) async fn tracks(
    shared: &Shared,
    series: &Series,
    grain: Grain,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<Track>> {
    let lives = shared.shelf.lives(shared).await?;
    let mut tracks = Vec::new();
    for life in lives.iter().filter(|life| life.born <= to && life.until() >= from) {
        let mut samples = stretch(shared, life, grain, series.path, from, to).await?;
        if grain == Grain::Coarse {
            samples = sharpen(shared, life, series.path, samples, from, to).await?;
        }
        if let Some(samples) = samples.and_then(|samples| trim(samples, from, to)) {
            let samples = part(samples, series.part);
            let instance = Arc::clone(&life.instance);
            tracks.push(Track { instance, born: life.born, samples });
        }
    }
    // The oldest first, as time goes.
    tracks.reverse();
    Ok(tracks)
}

/// The samples of the slots that the window touches, and of the slot before them.
async fn stretch(
    shared: &Shared,
    life: &Life,
    grain: Grain,
    path: &str,
    from: Timestamp,
    to: Timestamp,
) -> Result<Option<Samples>> {
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
    let samples = chunks.iter().flatten().filter_map(|chunk| Chunk::samples(chunk, path));
    Ok(samples.reduce(join))
}

/// Adds finer samples where the coarse ones leave something open: where the window begins, and
/// behind the last one.
async fn sharpen(
    shared: &Shared,
    life: &Life,
    path: &str,
    coarse: Option<Samples>,
    from: Timestamp,
    to: Timestamp,
) -> Result<Option<Samples>> {
    let before = coarse.as_ref().and_then(|samples| last_at(samples, from));
    let behind = coarse.as_ref().and_then(|samples| last_at(samples, to));
    let head = stretch(shared, life, Grain::Fine, path, from, from).await?;
    let head = head.and_then(|samples| between(samples, before, from));
    let tail = match behind {
        Some(behind) => {
            let to = to.min(behind + Grain::Coarse.every(life.interval) * 2);
            stretch(shared, life, Grain::Fine, path, behind, to).await?
        }
        None => {
            stretch(shared, life, Grain::Fine, path, from, to.min(from + super::FINE_WINDOW))
                .await?
        }
    };
    let tail = tail.and_then(|samples| between(samples, behind.or(Some(from)), to));
    Ok([head, coarse, tail].into_iter().flatten().reduce(join))
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
