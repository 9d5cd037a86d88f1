//! History for people: one point each step, all instances together or one of them.
//!
//! A step in which no instance was heard of has a point without values, which is the gap in a chart.
//! Nothing is interpolated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::record::Grain;
use super::{History, read};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{BOUNDS, Part, Series, Type, quantile_of};
use crate::monitor::series::{Reading, Samples, Track, distribution, increase, mean, stretches};

/// The most points of an answer.
pub const MAX_POINTS: u64 = 1_500;
/// About as many points are given if no step is asked for, or fewer: a step has three samples then,
/// so that a rate does not waver with the moment at which they were taken.
const USUAL_POINTS: u64 = 240;
/// The longest window: as long as anything is kept.
pub const MAX_WINDOW: Duration = Duration::from_secs(30 * 86_400);
/// How long reading may take.
const WITHIN: Duration = Duration::from_secs(10);
/// Steps that people find natural, in seconds.
const STEPS: [u64; 14] = [1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400];

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The path of a metric or of a part of one.
    pub path: String,
    /// The beginning of the window.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
    /// The time from one point to the next; chosen to fit the window if there is none.
    pub step: Option<Duration>,
    /// Only this instance, by the name for people or by its identity.
    pub instance: Option<String>,
}

/// How a metric went.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What it is of.
    pub series: Series,
    /// The time between two points.
    pub step: Duration,
    /// The time between two samples that they are made of.
    pub resolution: Duration,
    /// Where the first step begins.
    pub from: Timestamp,
    /// Where the last step ends.
    pub to: Timestamp,
    /// One for each step, in order.
    pub points: Vec<Point>,
    /// Which instances were there in the window, whether they were asked for or not.
    pub instances: BTreeSet<Arc<str>>,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// The end of the step.
    pub at: Timestamp,
    /// By the type of the metric.
    #[serde(flatten)]
    pub value: Value,
}

/// The values of a point. In a gap there are none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Of a counter.
    Counter {
        /// How much it grew in the step.
        increase: Option<f64>,
        /// The same for each second.
        rate: Option<f64>,
    },
    /// Of a gauge.
    Gauge {
        /// The average over the step.
        value: Option<f64>,
        /// The lowest in the step.
        min: Option<f64>,
        /// The highest in the step.
        max: Option<f64>,
    },
    /// Of a histogram.
    Histogram {
        /// How many observations there were in the step.
        count: Option<f64>,
        /// Half of them were quicker.
        p50: Option<f64>,
        /// 95 of a hundred were quicker.
        p95: Option<f64>,
        /// 99 of a hundred were quicker.
        p99: Option<f64>,
    },
    /// Of a quantile of a histogram.
    Quantile {
        /// The quantile; none either if nothing was observed.
        value: Option<f64>,
    },
}

impl History {
    /// How a metric went through a window.
    ///
    /// # Errors
    /// `NotFound` if the path names nothing or the instance was not there; `Invalid` for a window
    /// that is empty or longer than 30 days, and for a step that makes more than [`MAX_POINTS`] or
    /// is shorter than the sampling interval, and if the instances are too many to be read at
    /// once; `Busy` while others are read; `Unavailable` if the store does not answer.
    pub async fn points(&self, ask: &Ask) -> Result<Chart> {
        let series = Self::series(&ask.path)?;
        let interval = self.0.settings.interval;
        let step = step(ask, interval)?;
        let kept = self.0.time.now() - Grain::Fine.kept();
        let fine = step < Grain::Coarse.every(interval) && ask.from >= kept;
        let grain = if fine { Grain::Fine } else { Grain::Coarse };
        let resolution = grain.every(interval);
        let step = step.max(resolution);
        // Whole steps: what is known of a part of one says little of a rate.
        let steps = ask.to.since(ask.from).as_micros().div_ceil(step.as_micros().max(1));
        let from = ask.to - step * u32::try_from(steps).unwrap_or(u32::MAX);
        let turn = self.turn().await?;
        let mut lives = read::lives(&self.0, from, ask.to).await?;
        let instances = lives.iter().map(|life| Arc::clone(&life.instance)).collect();
        if let Some(wanted) = &ask.instance {
            lives.retain(|life| [&*life.instance, &*life.id].contains(&wanted.as_str()));
            if lives.is_empty() {
                let wanted: String = wanted.chars().take(200).collect();
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("no instance of this name was there in the window: {wanted:?}"),
                ));
            }
        }
        let look = read::Look { series: &series, grain, from, to: ask.to, step: Some(step) };
        let tracks = self.0.clock.timeout(WITHIN, read::tracks(&self.0, &lives, look)).await;
        let tracks = tracks.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, format!("history was not read within {WITHIN:?}"))
        })??;
        let reading = Reading { merge: series.merge, stale: resolution * 5 / 2 };
        let to = ask.to;
        // Not beside requests: of many instances it takes a while.
        let points = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut points = Vec::new();
            let mut at = from;
            while at < to {
                let until = at + step;
                let value = point(&tracks, &series, at, until, reading);
                points.push(Point { at: until, value });
                at = until;
            }
            points
        });
        let points = points.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "history cannot be drawn").with_source(error)
        })?;
        Ok(Chart { series, step, resolution, from, to: ask.to, points, instances })
    }
}

/// The step that was asked for, if it can be, or one that fits.
fn step(ask: &Ask, interval: Duration) -> Result<Duration> {
    let span = ask.to.since(ask.from);
    if span.is_zero() || span > MAX_WINDOW {
        return Err(Error::invalid(format!(
            "a window of history is longer than nothing and at most 30 days, not {span:?}"
        )));
    }
    let Some(step) = ask.step else {
        let least = (span.as_secs() / USUAL_POINTS).max(interval.as_secs() * 3);
        let natural = STEPS.iter().find(|step| **step >= least).copied().unwrap_or(least);
        return Ok(Duration::from_secs(natural));
    };
    if step > MAX_WINDOW {
        return Err(Error::invalid(format!("a step of history is at most 30 days, not {step:?}")));
    }
    let least = interval.max(span / u32::try_from(MAX_POINTS).unwrap_or(u32::MAX));
    if step < least {
        return Err(Error::invalid(format!(
            "a step of this window is {} s at least, not {} s",
            least.as_secs_f64().ceil(),
            step.as_secs_f64()
        )));
    }
    Ok(step)
}

fn point(
    tracks: &[Track],
    series: &Series,
    from: Timestamp,
    to: Timestamp,
    reading: Reading,
) -> Value {
    let tracks: Vec<Track> =
        tracks.iter().filter_map(|track| part_of(track, from, to, reading.stale)).collect();
    let tracks = &tracks[..];
    match (series.kind, series.part) {
        (Type::Histogram, Part::Quantile(share)) => {
            let found = distribution(tracks, from, to);
            let value = found.and_then(|found| quantile_of(&found.buckets, &BOUNDS, share));
            Value::Quantile { value }
        }
        (Type::Histogram, Part::Whole) => {
            let found = distribution(tracks, from, to);
            let quantile = |share| quantile_of(&found.as_ref()?.buckets, &BOUNDS, share);
            let count = grown(tracks, from, to, reading);
            Value::Histogram { count, p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99) }
        }
        (Type::Counter, _) | (Type::Histogram, Part::Count) => {
            let increase = grown(tracks, from, to, reading);
            let seconds = to.since(from).as_secs_f64();
            Value::Counter { increase, rate: increase.map(|increase| increase / seconds) }
        }
        (Type::Gauge, _) | (Type::Histogram, Part::Sum) => {
            let stood = stretches(tracks, from, to, reading);
            let values = || stood.iter().map(|stretch| stretch.value);
            Value::Gauge {
                value: mean(&stood),
                min: values().reduce(f64::min),
                max: values().reduce(f64::max),
            }
        }
    }
}

/// The increase, which is zero and not unknown if samples only fell into the steps beside this one.
fn grown(tracks: &[Track], from: Timestamp, to: Timestamp, reading: Reading) -> Option<f64> {
    let heard = |track: &Track| {
        read::last_at(&track.samples, to).is_some_and(|at| to.since(at) <= reading.stale)
    };
    increase(tracks, from, to).or_else(|| tracks.iter().any(heard).then_some(0.0))
}

/// What a step needs of a track: of a gauge the samples that are fresh in it, of what grows the
/// samples in it and the last one before. Nothing of a life that was over by then.
fn part_of(track: &Track, from: Timestamp, to: Timestamp, stale: Duration) -> Option<Track> {
    /// From the last sample at this time or before, to the end of the step.
    fn of<T: Clone>(
        samples: &[(Timestamp, T)],
        (since, from, to): (Timestamp, Timestamp, Timestamp),
    ) -> Vec<(Timestamp, T)> {
        let known = &samples[..samples.partition_point(|(at, _)| *at <= to)];
        if known.last().is_none_or(|(at, _)| *at < since) {
            return Vec::new();
        }
        known[known.partition_point(|(at, _)| *at <= from).saturating_sub(1)..].to_vec()
    }
    let since = from - stale;
    let samples = match &track.samples {
        Samples::Counter(samples) => Samples::Counter(of(samples, (since, from, to))),
        Samples::Gauge(samples) => Samples::Gauge(of(samples, (since, since, to))),
        Samples::Histogram(samples) => Samples::Histogram(of(samples, (since, from, to))),
    };
    let samples = read::some(samples)?;
    Some(Track { instance: Arc::clone(&track.instance), born: track.born, samples })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_looks_at_nothing_of_the_lives_that_were_over_by_then() {
        let at = |seconds: u64| Timestamp::from_micros(1_767_225_600_000_000 + seconds * 1_000_000);
        let times = || (0..100).map(|n| at(n * 10));
        let gauge = Samples::Gauge(times().map(|at| (at, 1.0)).collect());
        let counter = Samples::Counter(times().map(|at| (at, 1)).collect());
        for samples in [gauge, counter] {
            let track = Track { instance: "a".into(), born: at(0), samples };
            let part = |from, to| part_of(&track, at(from), at(to), Duration::from_secs(25));
            assert!(part(1_100, 1_200).is_none(), "it ended at 990 s");
            let few = match part(500, 520).unwrap().samples {
                Samples::Counter(samples) => samples.len(),
                Samples::Gauge(samples) => samples.len(),
                Samples::Histogram(samples) => samples.len(),
            };
            assert!((3..=6).contains(&few), "{few}");
        }
    }
}
