//! What a rule sees in what was measured.
//!
//! Pure: from tracks and a moment follows whether the condition holds. Where the tracks come from,
//! and what becomes of the alert, is the business of others.

use std::time::Duration;

use super::decide::Seen;
use super::rule::{Aggregation, Rule};
use crate::clock::Timestamp;
use crate::metrics::{self, Part, Series, Type};
use crate::monitor::series::{self, Reading, Samples, Track};

/// The longest span that history keeps in fine steps; longer ones are asked for in coarse steps.
pub(super) const FINE: Duration = Duration::from_secs(7_200);

/// Of the least that is to divide by, a window that confirms needs this part.
const CONFIRMS: f64 = 4.0;

/// Whoever knows the tracks of a metric: those of a path over at least this span until the moment
/// that is judged.
pub trait Tracks {
    /// The tracks, or why they could not be read.
    fn of(&self, path: &str, span: Duration) -> Result<&[Track], String>;

    /// How long a sample of them speaks for its instance.
    fn stale(&self, span: Duration) -> Duration;
}

/// What a window came to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Came {
    To(f64),
    /// There was nothing to measure: no observations, or nothing to divide by.
    Nothing,
    /// Nobody measured.
    Missing,
}

/// What the rule sees at this moment.
pub fn judge(rule: &Rule, tracks: &dyn Tracks, at: Timestamp) -> Seen {
    let wide = match value(rule, tracks, rule.window(), at) {
        Ok(came) => came,
        Err(error) => return Seen::Failed(error),
    };
    let value_seen = match wide {
        Came::To(value) => value,
        Came::Nothing => return Seen::Fails(None),
        Came::Missing => return Seen::Missing,
    };
    if !rule.operator.holds(value_seen, rule.threshold) {
        return Seen::Fails(Some(value_seen));
    }
    let Some(window) = rule.confirm_window() else { return Seen::Holds(value_seen) };
    match value(rule, tracks, window, at) {
        Err(error) => Seen::Failed(error),
        Ok(Came::To(close)) if rule.operator.holds(close, rule.threshold) => {
            Seen::Holds(value_seen)
        }
        Ok(Came::To(_) | Came::Nothing) => Seen::Fails(Some(value_seen)),
        Ok(Came::Missing) => Seen::Missing,
    }
}

fn value(
    rule: &Rule,
    tracks: &dyn Tracks,
    window: Duration,
    at: Timestamp,
) -> Result<Came, String> {
    let of = come_to(rule, &rule.metric_path, tracks, window, at)?;
    let Some(by) = &rule.divide_by else { return Ok(of) };
    let divisor = come_to(rule, &by.metric_path, tracks, window, at)?;
    // A short window that confirms has less of everything.
    let enough = if window == rule.window() { by.minimum } else { by.minimum / CONFIRMS };
    Ok(match (of, divisor) {
        (Came::Missing, _) | (_, Came::Missing) => Came::Missing,
        (Came::Nothing, _) | (_, Came::Nothing) => Came::Nothing,
        (Came::To(_), Came::To(0.0)) => Came::Nothing,
        (Came::To(_), Came::To(divisor)) if divisor < enough => Came::Nothing,
        (Came::To(of), Came::To(divisor)) => number(of / divisor),
    })
}

fn come_to(
    rule: &Rule,
    path: &str,
    tracks: &dyn Tracks,
    window: Duration,
    at: Timestamp,
) -> Result<Came, String> {
    let series = metrics::find(path).ok_or_else(|| format!("there is no metric {path:?}"))?;
    let stale = tracks.stale(window);
    let tracks = tracks.of(series.path, window)?;
    if !tracks.iter().any(|track| is_fresh(track, at, stale)) {
        return Ok(Came::Missing);
    }
    Ok(aggregate(rule, &series, tracks, (at - window, at), stale))
}

fn aggregate(
    rule: &Rule,
    of: &Series,
    tracks: &[Track],
    (from, to): (Timestamp, Timestamp),
    stale: Duration,
) -> Came {
    let reading = Reading { merge: of.merge, stale };
    let usual = match (of.kind, of.part) {
        (Type::Histogram, Part::Count) => Some(Aggregation::Increase),
        _ => None,
    };
    let came = match rule.aggregation.or(usual).or(rule.aggregation()) {
        Some(Aggregation::Increase) => series::increase(tracks, from, to),
        Some(Aggregation::Rate) => series::rate(tracks, from, to),
        Some(Aggregation::Avg) => series::average(tracks, from, to, reading),
        Some(Aggregation::Max) => series::maximum(tracks, from, to, reading),
        Some(Aggregation::Min) => series::minimum(tracks, from, to, reading),
        Some(Aggregation::Last) => series::last(tracks, to, reading),
        Some(Aggregation::Quantile) => series::quantile(tracks, rule.share(of), from, to),
        None => None,
    };
    came.map_or(Came::Nothing, number)
}

/// No number is nothing measured; what is too large to be one is the largest.
fn number(value: f64) -> Came {
    if value.is_nan() { Came::Missing } else { Came::To(value.clamp(f64::MIN, f64::MAX)) }
}

fn is_fresh(track: &Track, at: Timestamp, stale: Duration) -> bool {
    fn last<T>(samples: &[(Timestamp, T)], at: Timestamp) -> Option<Timestamp> {
        let known = samples.partition_point(|(time, _)| *time <= at);
        samples[..known].last().map(|(time, _)| *time)
    }
    let last = match &track.samples {
        Samples::Counter(samples) => last(samples, at),
        Samples::Gauge(samples) => last(samples, at),
        Samples::Histogram(samples) => last(samples, at),
    };
    last.is_some_and(|last| at.since(last) < stale)
}
