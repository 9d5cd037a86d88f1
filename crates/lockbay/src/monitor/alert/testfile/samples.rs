//! Series in a few words, as test files write them.
//!
//! A word is the sample of one step: `5` a value, `+2` or `-2` more or less than the one before,
//! `_` none, `0.2*5` five more observations of 0.2 s in a histogram. `x6` behind a word repeats it.
//! `reset` is a restart of the instance: the next word is the first of another life.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::metrics::{self, BOUNDS, Type};
use crate::monitor::series::{Distribution, Samples, Track};

use super::MOST_STEPS;

/// A series as it was read.
pub(super) struct Read {
    pub(super) path: &'static str,
    pub(super) tracks: Vec<Track>,
    pub(super) steps: usize,
}

/// Reads a series that begins at a moment, in a life that began so long before, at an interval.
pub(super) fn read(
    path: &str,
    instance: &str,
    text: &str,
    (begin, before, interval): (Timestamp, Duration, Duration),
) -> Result<Read> {
    let series = metrics::find(path).ok_or_else(|| {
        let alike = metrics::alike(path).join(", ");
        Error::invalid(format!("metric_path names no metric: {path:?}; alike are {alike}"))
    })?;
    let life = |born: Timestamp| Track {
        instance: instance.into(),
        born,
        samples: match series.kind {
            Type::Counter => Samples::Counter(Vec::new()),
            Type::Gauge => Samples::Gauge(Vec::new()),
            Type::Histogram => Samples::Histogram(Vec::new()),
        },
    };
    let mut tracks = vec![life(begin - before)];
    let mut steps = 0;
    for word in text.split_whitespace() {
        if word == "reset" {
            tracks.push(life(begin + interval * count(steps)));
            continue;
        }
        let (what, times) = repeated(word)?;
        for _ in 0..times {
            let at = begin + interval * count(steps);
            steps += 1;
            if steps > MOST_STEPS {
                return Err(Error::invalid(format!("a series has {MOST_STEPS} samples at most")));
            }
            if what != "_"
                && let Some(track) = tracks.last_mut()
            {
                add(&mut track.samples, at, what)?;
            }
        }
    }
    Ok(Read { path: series.path, tracks, steps })
}

fn count(steps: usize) -> u32 {
    u32::try_from(steps).unwrap_or(u32::MAX)
}

fn repeated(word: &str) -> Result<(&str, usize)> {
    match word.rsplit_once('x') {
        None => Ok((word, 1)),
        Some((what, times)) => times.parse().map(|times| (what, times)).map_err(|_| odd(word)),
    }
}

fn add(samples: &mut Samples, at: Timestamp, what: &str) -> Result<()> {
    match samples {
        Samples::Counter(known) => {
            let last = known.last().map_or(0, |(_, value)| *value);
            let value = match what.strip_prefix('+') {
                Some(more) => more.parse().map(|more: u64| last.saturating_add(more)),
                None => what.parse(),
            };
            let value = value.map_err(|_| odd(what))?;
            if value < last {
                let message = format!("a counter does not go back; write reset before {what:?}");
                return Err(Error::invalid(message));
            }
            known.push((at, value));
        }
        Samples::Gauge(known) => {
            let last = known.last().map_or(0.0, |(_, value)| *value);
            let number: f64 = what.parse().map_err(|_| odd(what))?;
            let is_relative = what.starts_with(['+', '-']);
            known.push((at, if is_relative { last + number } else { number }));
        }
        Samples::Histogram(known) => {
            let empty = || Distribution { buckets: vec![0; BOUNDS.len() + 1], sum: 0.0 };
            let mut all = known.last().map_or_else(empty, |(_, last)| (**last).clone());
            let (seconds, times) = what.split_once('*').ok_or_else(|| odd(what))?;
            let seconds: f64 = seconds.parse().map_err(|_| odd(what))?;
            let times: u32 = times.parse().map_err(|_| odd(what))?;
            let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
            all.buckets[bucket] += u64::from(times);
            all.sum += seconds * f64::from(times);
            known.push((at, Arc::new(all)));
        }
    }
    Ok(())
}

fn odd(word: &str) -> Error {
    Error::invalid(format!("a sample is like 5, +2x10, _ or 0.2*5 for a histogram, not {word:?}"))
}
