//! A histogram of times: counts in buckets, without a lock.
//!
//! The buckets are those of [`BOUNDS`] for every histogram, so that any two can be added up. It is
//! exported by the Prometheus library; counting and reading back are done here, because that
//! library's histogram takes a lock to count and does not tell what it counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The upper bounds of the buckets in seconds, from 10 µs to almost two hours, six to each power of
/// ten. What is longer goes into one more bucket without an upper bound.
#[rustfmt::skip]
pub const BOUNDS: [f64; 54] = [
    0.000_01, 0.000_015, 0.000_022, 0.000_033, 0.000_047, 0.000_068,
    0.000_1, 0.000_15, 0.000_22, 0.000_33, 0.000_47, 0.000_68,
    0.001, 0.001_5, 0.002_2, 0.003_3, 0.004_7, 0.006_8,
    0.01, 0.015, 0.022, 0.033, 0.047, 0.068,
    0.1, 0.15, 0.22, 0.33, 0.47, 0.68,
    1.0, 1.5, 2.2, 3.3, 4.7, 6.8,
    10.0, 15.0, 22.0, 33.0, 47.0, 68.0,
    100.0, 150.0, 220.0, 330.0, 470.0, 680.0,
    1_000.0, 1_500.0, 2_200.0, 3_300.0, 4_700.0, 6_800.0,
];

/// How many buckets a histogram has.
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// The value below which this share of the observations lies; `None` if there are none.
///
/// It is interpolated linearly within its bucket, as Prometheus does. So it and the true value lie
/// in the same bucket, the upper bound of which is at most half as large again as the lower: the
/// error is below 50 %, and where observations spread evenly over a bucket far smaller. What lies
/// above the last bound is told as that bound.
pub fn quantile_of(buckets: &[u64], bounds: &[f64], share: f64) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
    let float = |count: u64| count as f64;
    let count: u64 = buckets.iter().sum();
    if count == 0 || bounds.is_empty() {
        return None;
    }
    let rank = share.clamp(0.0, 1.0) * float(count);
    let mut below = 0;
    for (at, within) in buckets.iter().enumerate().filter(|(_, within)| **within > 0) {
        if float(below + within) >= rank {
            let lower = at.checked_sub(1).and_then(|at| bounds.get(at)).copied();
            let Some(upper) = bounds.get(at) else { return lower };
            let lower = lower.unwrap_or(0.0);
            return Some(lower + (upper - lower) * ((rank - float(below)) / float(*within)));
        }
        below += within;
    }
    bounds.last().copied()
}

/// Counts times. Cheap to clone; all clones count together.
#[derive(Clone)]
pub(super) struct Histogram(Arc<Counts>);

struct Counts {
    buckets: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = std::array::from_fn(|_| AtomicU64::new(0));
        Histogram(Arc::new(Counts { buckets, sum_nanos: AtomicU64::new(0) }))
    }
}

impl Histogram {
    pub(super) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        // Five hundred years of waiting fit.
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The observations in each bucket, and their sum. One that is made meanwhile may be in only
    /// one of the two.
    pub(super) fn read(&self) -> ([u64; BUCKETS], Duration) {
        let buckets = std::array::from_fn(|at| self.0.buckets[at].load(Ordering::Relaxed));
        (buckets, Duration::from_nanos(self.0.sum_nanos.load(Ordering::Relaxed)))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Histogram")
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let (counts, sum) = self.read();
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = counts.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_at_most_half_as_large_again_as_the_one_below() {
        for pair in BOUNDS.windows(2) {
            assert!(pair[0] < pair[1] && pair[1] <= pair[0] * 1.500_001, "{pair:?}");
        }
    }

    #[test]
    fn a_time_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for (at, bound) in BOUNDS.iter().enumerate() {
            histogram.observe(Duration::from_secs_f64(*bound));
            assert_eq!(histogram.read().0[at], 1, "{bound}");
        }
        histogram.observe(Duration::from_secs(1_000_000));
        assert_eq!(histogram.read().0[BUCKETS - 1], 1);
    }

    #[test]
    fn an_interpolated_quantile_lies_in_the_bucket_of_the_true_one() {
        let histogram = Histogram::default();
        let mut times: Vec<f64> = (1..=1_000).map(|n| f64::from(n * n) * 1e-5).collect();
        times.sort_by(f64::total_cmp);
        times.iter().for_each(|time| histogram.observe(Duration::from_secs_f64(*time)));
        let buckets = histogram.read().0;
        for (share, rank) in [(0.5, 499), (0.95, 949), (0.99, 989)] {
            let found = quantile_of(&buckets, &BOUNDS, share).unwrap();
            let error = (found / times[rank] - 1.0).abs();
            assert!(error < 0.05, "p{share}: {found} for {}", times[rank]);
        }
    }

    #[test]
    fn quantiles_of_nothing_and_of_the_last_bucket_are_told_as_what_is_known() {
        assert_eq!(quantile_of(&[0; BUCKETS], &BOUNDS, 0.5), None);
        let mut beyond = [0; BUCKETS];
        beyond[BUCKETS - 1] = 3;
        assert_eq!(quantile_of(&beyond, &BOUNDS, 0.5), Some(6_800.0));
        let mut one = [0; BUCKETS];
        one[0] = 1;
        assert_eq!(quantile_of(&one, &BOUNDS, 0.5), Some(0.000_005));
    }
}
