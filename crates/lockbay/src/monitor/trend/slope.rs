//! Whether a series goes up or down, and how fast: Mann-Kendall and Theil-Sen.
//!
//! The test is that of Mann (1945) and Kendall (1975) with the correction for ties. Neighbours that
//! resemble each other make chance look like a trend, so its variance is widened as Hamed and Rao
//! ("A modified Mann-Kendall trend test for autocorrelated data", 1998) have it, by whichever is
//! wider: the autocorrelation that is seen in the ranks of what is left without the trend, or that
//! of the autoregressive process which [`noise`](super::noise) estimates. The slope is the median
//! of all slopes between two points (Theil 1950, Sen 1968), its interval the one of Sen by the same
//! widened variance.

use super::noise::Noise;
use super::sample::{Series, count, median, normal_scores, ranks, two_sided};

/// 95 % of a normal distribution lie within so many standard deviations.
const Z_95: f64 = 1.959_964;
/// The variance of the test is never widened by more than this: beyond it there is nothing to tell.
const MAX_WIDENING: f64 = 200.0;

/// A straight line through a series, and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    /// Per hour.
    pub(super) slope: f64,
    /// The interval in which it lies with 95 %.
    pub(super) low: f64,
    pub(super) high: f64,
    /// The value at the first point.
    pub(super) start: f64,
    /// How probable so much up or down is without any trend.
    pub(super) p: f64,
}

/// A curve without noise is worth so many independent points: enough if it goes one way all the
/// time, and not if it goes up and down.
const CURVE: f64 = 10.0;

/// The line through a series of at least three points, and the noise that it was held against. A
/// drift makes neighbours look alike, so the noise of what is left without it counts if that has
/// less of a memory.
pub(super) fn line(series: &Series, whole: &Noise) -> (Line, Noise) {
    let (mut slopes, s) = pairs(series);
    let slope = median(&mut slopes);
    let rest: Vec<f64> =
        series.hours.iter().zip(&series.values).map(|(hour, value)| value - slope * hour).collect();
    let n = series.len();
    let left = Noise::of(&normal_scores(&rest));
    let noise = if left.persistence < whole.persistence { left } else { *whole };
    let (_, ties) = ranks(&series.values);
    let variance = untied_variance(n, &ties) * widening(&rest, &noise, left.smooth);
    let p = if variance > 0.0 {
        // One step towards zero, because S moves in steps.
        two_sided((s.abs() - 1.0).max(0.0) / variance.sqrt())
    } else {
        1.0
    };
    let (low, high) = interval(&mut slopes, Z_95 * variance.sqrt());
    (Line { slope, low, high, start: median(&mut rest.clone()), p }, noise)
}

/// The slopes between all pairs of points at different times, and Kendall's S.
fn pairs(series: &Series) -> (Vec<f64>, f64) {
    let n = series.len();
    let mut slopes = Vec::with_capacity(n * n.saturating_sub(1) / 2);
    let mut s = 0_i64;
    for (later, (hour, value)) in series.hours.iter().zip(&series.values).enumerate() {
        for (before, earlier) in series.hours[..later].iter().zip(&series.values[..later]) {
            let step = value - earlier;
            s += i64::from(step > 0.0) - i64::from(step < 0.0);
            if hour > before {
                slopes.push(step / (hour - before));
            }
        }
    }
    let s = i32::try_from(s).map(f64::from).unwrap_or(f64::MAX);
    (slopes, s)
}

fn untied_variance(n: usize, ties: &[usize]) -> f64 {
    let term = |n: usize| {
        let n = count(n);
        n * (n - 1.0) * (2.0 * n + 5.0)
    };
    (term(n) - ties.iter().map(|size| term(*size)).sum::<f64>()).max(0.0) / 18.0
}

/// By how much the variance of S is larger than that of independent values.
fn widening(rest: &[f64], noise: &Noise, smooth: bool) -> f64 {
    let modelled = widened(rest.len(), |lag| {
        // What an autocorrelation of values is among ranks (Pearson 1907).
        let correlation = noise.persistence.powi(i32::try_from(lag).unwrap_or(i32::MAX));
        6.0 / std::f64::consts::PI * (correlation / 2.0).asin()
    });
    let (ranked, _) = ranks(rest);
    let seen = seen_autocorrelation(&ranked);
    let seen = widened(rest.len(), |lag| seen.get(lag - 1).copied().unwrap_or_default());
    let most = if smooth { (count(rest.len()) / CURVE).max(1.0) } else { MAX_WIDENING };
    modelled.max(seen).clamp(1.0, most)
}

/// The factor of Hamed and Rao for an autocorrelation by lag.
fn widened(n: usize, autocorrelation: impl Fn(usize) -> f64) -> f64 {
    let size = count(n);
    let mut sum = 0.0;
    for lag in 1..n.saturating_sub(2) {
        let left = size - count(lag);
        let correlation = autocorrelation(lag);
        if correlation.abs() < 1e-4 {
            break;
        }
        sum += left * (left - 1.0) * (left - 2.0) * correlation;
    }
    1.0 + 2.0 * sum / (size * (size - 1.0) * (size - 2.0))
}

/// The autocorrelation of the first lags, up to the first that may be chance.
fn seen_autocorrelation(ranked: &[f64]) -> Vec<f64> {
    let n = ranked.len();
    let mean = f64::midpoint(1.0, count(n));
    let power: f64 = ranked.iter().map(|rank| (rank - mean).powi(2)).sum();
    let chance = Z_95 / count(n).sqrt();
    let mut found = Vec::new();
    if power <= 0.0 {
        return found;
    }
    for lag in 1..=n / 4 {
        let common: f64 =
            ranked[lag..].iter().zip(ranked).map(|(a, b)| (a - mean) * (b - mean)).sum();
        let correlation = common / power;
        if correlation < chance {
            break;
        }
        found.push(correlation);
    }
    found
}

/// The interval of Sen: the slopes at a distance of `width` steps around the middle.
fn interval(slopes: &mut [f64], width: f64) -> (f64, f64) {
    let n = slopes.len();
    if n == 0 {
        return (0.0, 0.0);
    }
    let last = count(n - 1);
    let pick = |place: f64| place.clamp(0.0, last);
    let low = nth(slopes, pick((count(n) - width) / 2.0));
    let high = nth(slopes, pick((count(n) + width) / 2.0));
    (low, high)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the place lies within
fn nth(values: &mut [f64], place: f64) -> f64 {
    *values.select_nth_unstable_by(place as usize, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    const NONE: Noise = Noise { persistence: 0.0, variance: 1.0, smooth: false };

    fn series(values: &[f64]) -> Series {
        Series {
            from: Timestamp::default(),
            hours: (0..values.len()).map(count).collect(),
            values: values.to_vec(),
        }
    }

    /// S = 8 of 10 pairs, no ties: variance 5·4·15/18, Z = 7/√(50/3).
    #[test]
    fn a_small_example_gives_what_a_person_reckons() {
        let rising = series(&[1.0, 2.0, 4.0, 3.0, 5.0]);
        let (line, _) = line(&rising, &NONE);
        assert!((line.slope - 1.0).abs() < 1e-12, "{line:?}");
        assert!((line.p - two_sided(7.0 / (50.0_f64 / 3.0).sqrt())).abs() < 1e-12, "{line:?}");
        assert!(line.low <= line.slope && line.slope <= line.high);
        assert!((line.start - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_wild_value_does_not_move_the_slope() {
        let mut values: Vec<f64> = (0..50).map(|n| 10.0 + 0.5 * f64::from(n)).collect();
        values[49] = -1e12;
        let (line, _) = line(&series(&values), &NONE);
        assert!((line.slope - 0.5).abs() < 1e-9);
    }

    #[test]
    fn equal_values_are_no_trend() {
        let (line, _) = line(&series(&[0.0; 40]), &NONE);
        assert_eq!((line.slope, line.low, line.high, line.p), (0.0, 0.0, 0.0, 1.0));
    }

    #[test]
    fn resemblance_of_neighbours_widens_the_test() {
        let values: Vec<f64> = (0..60).map(|n| f64::from(n % 7)).collect();
        let of = |persistence| widening(&values, &Noise { persistence, ..NONE }, false);
        assert!(of(0.7) > of(0.3) && of(0.3) > of(0.0) && of(0.0) >= 1.0);
    }

    /// A drift or a curve with hardly any noise is no noise with a long memory.
    #[test]
    fn what_goes_one_way_all_the_time_is_a_trend_however_smooth() {
        for power in [1, 2, 3] {
            let values: Vec<f64> =
                (0..120).map(|n| 5.0 + (f64::from(n) / 120.0).powi(power)).collect();
            let whole = Noise::of(&normal_scores(&values));
            let (line, _) = line(&series(&values), &whole);
            assert!(line.p < 1e-3, "power {power}: {line:?}");
        }
        let wave: Vec<f64> = (0..120).map(|n| (f64::from(n) / 19.0).sin()).collect();
        let (line, _) = line(&series(&wave), &Noise::of(&normal_scores(&wave)));
        assert!(line.p > 1e-3, "{line:?}");
    }
}
