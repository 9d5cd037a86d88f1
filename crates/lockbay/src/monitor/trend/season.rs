//! What is usual at this hour of the week: median and spread of the same hour in other weeks.
//!
//! Hours are those of UTC. A drift over the weeks is taken out first, by the median of the changes
//! from each hour to the same hour a week later (the seasonal slope of Hirsch, Slack and Smith,
//! 1982), so that it is neither taken for a season nor lost when the season is removed.

use serde::Serialize;

use super::sample::{Point, count, deviation, median, ranks};
use crate::clock::Timestamp;

/// Hours in a week.
const WEEK: usize = 168;
/// A baseline needs so many weeks of history.
const WEEKS: usize = 2;
/// An hour of the week counts if it was seen in so many weeks, and so many hours must count.
const HOURS_NEEDED: usize = 126;
/// A season is one if the hours of even weeks are ordered as those of odd weeks, by Spearman's
/// coefficient.
const ALIKE: f64 = 0.5;
/// A score is not told beyond this: where nothing ever moved, the first move is infinitely unusual.
const MAX_SCORE: f64 = 99.0;
/// From this score on a value is called unusual.
const UNUSUAL: f64 = 6.0;

/// What is usual, by hour of the week.
#[derive(Debug, Clone)]
pub(super) struct Season {
    /// The usual value of each hour without the drift, less the middle of all.
    offsets: Vec<f64>,
    middle: f64,
    /// The spread of each hour.
    spreads: Vec<f64>,
    /// Per hour, over the weeks.
    drift: f64,
    begin: Timestamp,
    /// Whether the hours differ by more than chance.
    pub(super) is_seasonal: bool,
    weeks: usize,
}

/// What is usual now, and how far off the last hour is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Baseline {
    /// The average of the last hour.
    pub value: f64,
    /// The usual value at this hour of the week.
    pub expected: f64,
    /// How much it usually varies, as a standard deviation.
    pub spread: f64,
    /// Weeks of history behind it.
    pub weeks: usize,
    /// By how many spreads the value lies above it; at most 99.
    pub anomaly: f64,
    /// Whether that is far: 6 spreads or more.
    pub unusual: bool,
}

impl Season {
    /// What was usual in these points, if they span two weeks or more.
    pub(super) fn of(points: &[Point]) -> Option<Season> {
        let hours = by_hour(points);
        let (first, last) = (hours.first()?.0, hours.last()?.0);
        let weeks = (last + 1 - first) / WEEK;
        if weeks < WEEKS {
            return None;
        }
        let drift = weekly_drift(&hours);
        let flat: Vec<(usize, f64)> = hours
            .iter()
            .map(|(hour, value)| (*hour, value - drift * count(hour - first)))
            .collect();
        let slots = by_slot(&flat);
        if slots.iter().filter(|slot| slot.len() >= WEEKS).count() < HOURS_NEEDED {
            return None;
        }
        let middle = median(&mut flat.iter().map(|(_, value)| *value).collect::<Vec<_>>());
        let usual: Vec<f64> = slots
            .iter()
            .map(|slot| if slot.is_empty() { middle } else { median(&mut slot.clone()) })
            .collect();
        let rest: Vec<f64> = flat.iter().map(|(hour, value)| value - usual[hour % WEEK]).collect();
        // Of two or three values the spread is hardly known; that of all hours together is.
        let pooled = deviation(&rest, 0.0) * correction(weeks);
        let spreads = slots
            .iter()
            .zip(&usual)
            .map(|(slot, usual)| (deviation(slot, *usual) * correction(weeks)).max(pooled))
            .collect();
        Some(Season {
            offsets: usual.iter().map(|usual| usual - middle).collect(),
            middle,
            spreads,
            drift,
            begin: hour_start(first),
            is_seasonal: is_seasonal(&flat),
            weeks,
        })
    }

    /// The points without the season. What drifts goes on drifting.
    pub(super) fn removed_from(&self, points: &[Point]) -> Vec<Point> {
        points.iter().map(|(at, value)| (*at, value - self.offsets[hour_of(*at) % WEEK])).collect()
    }

    /// How far a value is from what is usual at its hour.
    pub(super) fn compare(&self, (at, value): Point) -> Baseline {
        let slot = hour_of(at) % WEEK;
        let since = count(hour_of(at) - hour_of(self.begin).min(hour_of(at)));
        let expected = self.middle + self.offsets[slot] + self.drift * since;
        let spread = self.spreads[slot];
        let off = value - expected;
        let anomaly = if off == 0.0 { 0.0 } else { (off / spread).clamp(-MAX_SCORE, MAX_SCORE) };
        let unusual = anomaly.abs() >= UNUSUAL;
        Baseline { value, expected, spread, weeks: self.weeks, anomaly, unusual }
    }
}

/// Deviations from the median of a few values are smaller than those from the true middle.
fn correction(weeks: usize) -> f64 {
    (count(weeks) / (count(weeks) - 1.0)).sqrt()
}

fn hour_of(at: Timestamp) -> usize {
    usize::try_from(at.as_micros() / 3_600_000_000).unwrap_or(usize::MAX)
}

fn hour_start(hour: usize) -> Timestamp {
    Timestamp::from_micros(u64::try_from(hour).unwrap_or_default() * 3_600_000_000)
}

/// The median of each hour, in the order of time.
fn by_hour(points: &[Point]) -> Vec<(usize, f64)> {
    points
        .chunk_by(|a, b| hour_of(a.0) == hour_of(b.0))
        .map(|hour| {
            let value = median(&mut hour.iter().map(|(_, value)| *value).collect::<Vec<_>>());
            (hour_of(hour[0].0), value)
        })
        .collect()
}

fn by_slot(hours: &[(usize, f64)]) -> Vec<Vec<f64>> {
    let mut slots = vec![Vec::new(); WEEK];
    for (hour, value) in hours {
        slots[hour % WEEK].push(*value);
    }
    slots
}

/// The median change from an hour to the same hour a week later, per hour.
fn weekly_drift(hours: &[(usize, f64)]) -> f64 {
    let mut later = hours.iter().peekable();
    let mut changes = Vec::new();
    for (hour, value) in hours {
        while later.next_if(|(next, _)| *next < hour + WEEK).is_some() {}
        if let Some((_, next)) = later.peek().filter(|(next, _)| *next == hour + WEEK) {
            changes.push((next - value) / count(WEEK));
        }
    }
    median(&mut changes)
}

/// Whether even weeks are shaped as odd ones.
fn is_seasonal(hours: &[(usize, f64)]) -> bool {
    let of = |parity: usize| {
        let half: Vec<_> =
            hours.iter().copied().filter(|(hour, _)| hour / WEEK % 2 == parity).collect();
        by_slot(&half)
    };
    let both: Vec<(f64, f64)> = of(0)
        .into_iter()
        .zip(of(1))
        .filter(|(a, b)| !a.is_empty() && !b.is_empty())
        .map(|(mut a, mut b)| (median(&mut a), median(&mut b)))
        .collect();
    let (a, _) = ranks(&both.iter().map(|(a, _)| *a).collect::<Vec<_>>());
    let (b, _) = ranks(&both.iter().map(|(_, b)| *b).collect::<Vec<_>>());
    let mean = f64::midpoint(1.0, count(both.len()));
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let power = (product(&a, &a) * product(&b, &b)).sqrt();
    both.len() >= HOURS_NEEDED && power > 0.0 && product(&a, &b) / power > ALIKE
}
