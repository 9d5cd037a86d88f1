//! Points made fewer, and what is asked of a handful of numbers: medians, ranks, scores.
//!
//! It knows nothing of trends. Everything takes a number of steps that is bounded by [`MAX_POINTS`]
//! or grows with `n log n`.

use std::time::Duration;

use crate::clock::Timestamp;

/// One value and when it was measured.
pub type Point = (Timestamp, f64);

/// More points than these are made fewer before anything is asked that costs their square.
pub const MAX_POINTS: usize = 300;

/// Scales the median absolute deviation to the standard deviation of normal noise.
pub(super) const NORMAL_MAD: f64 = 1.482_6;

/// A series ready to be judged: hours since its first point, and values. Finite, in the order of
/// time, at most [`MAX_POINTS`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) from: Timestamp,
    pub(super) hours: Vec<f64>,
    pub(super) values: Vec<f64>,
}

impl Series {
    /// Makes the points fewer: each group of as many neighbours as needed becomes its median value
    /// at its median time. Values that are not finite are passed over.
    pub(super) fn of(points: &[Point]) -> Series {
        let finite: Vec<Point> =
            points.iter().copied().filter(|(_, value)| value.is_finite()).collect();
        let from = finite.first().map(|(at, _)| *at).unwrap_or_default();
        let group = finite.len().div_ceil(MAX_POINTS).max(1);
        let (mut hours, mut values) = (Vec::new(), Vec::new());
        for chunk in finite.chunks(group) {
            hours.push(hours_between(from, chunk[chunk.len() / 2].0));
            values.push(median(&mut chunk.iter().map(|(_, value)| *value).collect::<Vec<_>>()));
        }
        Series { from, hours, values }
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Hours from the first point to the last.
    pub(super) fn span(&self) -> f64 {
        self.hours.last().copied().unwrap_or_default()
    }

    /// When a point was measured.
    pub(super) fn time(&self, at: usize) -> Timestamp {
        let hours = self.hours.get(at).copied().unwrap_or_default();
        self.from + Duration::from_secs_f64(hours * 3_600.0)
    }
}

/// Hours from one moment to a later one.
pub(super) fn hours_between(from: Timestamp, to: Timestamp) -> f64 {
    to.since(from).as_secs_f64() / 3_600.0
}

/// The median; zero of nothing. The order of the values is lost.
pub(super) fn median(values: &mut [f64]) -> f64 {
    let n = values.len();
    if n == 0 {
        return 0.0;
    }
    let (below, upper, _) = values.select_nth_unstable_by(n / 2, f64::total_cmp);
    let upper = *upper;
    if n % 2 == 1 {
        return upper;
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    f64::midpoint(lower, upper)
}

/// The middle of the values without the lowest and the highest fifth: as steady as a median, and
/// not blind to counts that are mostly zero.
pub(super) fn trimmed_mean(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let cut = sorted.len() / 5;
    let kept = &sorted[cut..sorted.len() - cut];
    if kept.is_empty() { 0.0 } else { kept.iter().sum::<f64>() / count(kept.len()) }
}

/// The median absolute deviation from a centre, scaled to a standard deviation.
pub(super) fn deviation(values: &[f64], centre: f64) -> f64 {
    NORMAL_MAD * median(&mut values.iter().map(|value| (value - centre).abs()).collect::<Vec<_>>())
}

/// The rank of each value, the lowest being 1; equal ones share the mean of theirs. Also the sizes
/// of the groups of equal values that have more than one.
pub(super) fn ranks(values: &[f64]) -> (Vec<f64>, Vec<usize>) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let (mut ties, mut first) = (Vec::new(), 0);
    for group in order.chunk_by(|a, b| values[*a].total_cmp(&values[*b]).is_eq()) {
        let shared = count(first) + f64::midpoint(1.0, count(group.len()));
        for at in group {
            ranks[*at] = shared;
        }
        first += group.len();
        if group.len() > 1 {
            ties.push(group.len());
        }
    }
    (ranks, ties)
}

/// Each value as the normal score of its rank (van der Waerden): no value, however far out, weighs
/// more than its place in the order.
pub(super) fn normal_scores(values: &[f64]) -> Vec<f64> {
    let n = count(values.len());
    ranks(values).0.into_iter().map(|rank| quantile_of_normal(rank / (n + 1.0))).collect()
}

/// The quantile of the standard normal distribution; Abramowitz and Stegun 26.2.23, off by less
/// than 0.00045.
fn quantile_of_normal(share: f64) -> f64 {
    let tail = share.min(1.0 - share).max(1e-300);
    let t = (-2.0 * tail.ln()).sqrt();
    let above = (2.515_517 + t * (0.802_853 + t * 0.010_328))
        / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)));
    if share < 0.5 { above - t } else { t - above }
}

/// How probable it is that normal noise lies at least so many standard deviations off its mean, on
/// either side. By the series of the error function near zero and its continued fraction farther
/// out (Abramowitz and Stegun 7.1.5 and 7.1.14).
pub(super) fn two_sided(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    if x > 26.0 {
        return 0.0;
    }
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for k in 1..40_u32 {
            let k = f64::from(k);
            term *= -x * x / k;
            sum += term / (2.0 * k + 1.0);
        }
        return (1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI).clamp(0.0, 1.0);
    }
    let mut fraction = 0.0;
    for k in (1..60_u32).rev() {
        fraction = f64::from(k) / 2.0 / (x + fraction);
    }
    (-x * x).exp() / ((x + fraction) * std::f64::consts::PI.sqrt())
}

/// A count as a number to reckon with; those here are far below the 2^53 up to which that is exact.
pub(super) fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_ranks_and_scores_are_those_of_the_books() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(ranks(&[10.0, 5.0, 10.0, 7.0]), (vec![3.5, 1.0, 3.5, 2.0], vec![2]));
        for (share, quantile) in [(0.5, 0.0), (0.975, 1.959_964), (0.001, -3.090_232)] {
            assert!((quantile_of_normal(share) - quantile).abs() < 5e-4, "{share}");
        }
        for (z, p) in [(0.0, 1.0), (1.959_964, 0.05), (3.290_527, 0.001), (6.0, 1.973_175e-9)] {
            assert!((two_sided(z) / p - 1.0).abs() < 1e-4, "{z}: {}", two_sided(z));
        }
    }

    #[test]
    fn many_points_become_few_medians() {
        let at = |n: u64| Timestamp::from_micros(n * 10_000_000);
        let points: Vec<Point> =
            (0..1_000).map(|n| (at(n), if n % 4 == 0 { 1e9 } else { 7.0 })).collect();
        let series = Series::of(&points);
        assert!(series.len() <= MAX_POINTS);
        assert!(series.values.iter().all(|value| *value == 7.0));
    }
}
