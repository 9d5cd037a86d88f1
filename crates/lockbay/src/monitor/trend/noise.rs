//! How noisy a series is, and how much neighbours resemble each other.
//!
//! Both are read off differences between neighbours, which a drift or a step hardly touches: for
//! an autoregressive process of first order with persistence φ and variance σ², differences over
//! one step have the mean square 2σ²(1−φ), and those over two steps 2σ²(1−φ²). So their ratio less
//! one is φ (von Neumann's ratio of 1941, taken twice).

use super::sample::count;

/// What is left of a series without its trend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Noise {
    /// The autocorrelation of neighbours: 0 for independent values; below 1.
    pub(super) persistence: f64,
    /// The variance of one value.
    pub(super) variance: f64,
    /// Differences go on in their direction, which those of such noise never do: it is a curve.
    pub(super) smooth: bool,
}

/// The most that the ratio less one may be is 1 for noise with a memory, and 3 for a curve without
/// noise.
const SMOOTH: f64 = 1.3;
/// Values that remember more than this are a walk, about which little can be said.
const MAX_PERSISTENCE: f64 = 0.97;

impl Noise {
    /// The noise in these scores. The persistence errs on the high side by its own standard error,
    /// so that chance is not taken for a trend.
    pub(super) fn of(scores: &[f64]) -> Noise {
        let (one, two) = (mean_square(scores, 1), mean_square(scores, 2));
        if one <= 0.0 {
            return Noise { persistence: 0.0, variance: 0.0, smooth: false };
        }
        let seen = two / one - 1.0;
        let persistence = (seen + 1.0 / count(scores.len()).sqrt()).clamp(0.0, MAX_PERSISTENCE);
        let variance = one / (2.0 * (1.0 - seen.clamp(0.0, persistence)));
        Noise { persistence, variance, smooth: seen > SMOOTH }
    }

    /// The variance of one value as it counts in a mean over many: larger than that of one value,
    /// because neighbours repeat each other.
    pub(super) fn long_run_variance(&self) -> f64 {
        self.variance * (1.0 + self.persistence) / (1.0 - self.persistence)
    }
}

/// The mean square of the differences over `lag` steps.
fn mean_square(scores: &[f64], lag: usize) -> f64 {
    if scores.len() <= lag {
        return 0.0;
    }
    let sum: f64 = scores[lag..].iter().zip(scores).map(|(a, b)| (a - b).powi(2)).sum();
    sum / count(scores.len() - lag)
}
