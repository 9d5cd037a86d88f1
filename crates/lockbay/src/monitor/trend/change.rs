//! Moments at which a series went to another level and stayed there.
//!
//! The best division of the series into levels, found exactly by the recursion of Jackson and
//! others ("An algorithm for optimal partitioning of data on an interval", 2005): each change costs
//! a penalty, and each level the squares of what is left around it. It runs on normal scores of
//! ranks, so that no outlier buys a change, and what is left is weighed by the long-run variance,
//! so that noise with a memory does not.

use super::noise::Noise;
use super::sample::{Series, count, deviation, trimmed_mean};

/// What one change costs, in units of the long-run variance. Over all places where it could be,
/// chance reaches it in less than one series of a thousand.
const PENALTY: f64 = 22.0;
/// A level lasts at least so many points, and at least a twentieth of the series.
const SHORTEST: usize = 8;

/// A stretch of one level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    /// Its first point.
    pub(super) begin: usize,
    /// The point behind its last.
    pub(super) end: usize,
    /// The middle of its values.
    pub(super) value: f64,
}

/// The levels of a series, in the order of time: one if nothing changed.
pub(super) fn levels(series: &Series, scores: &[f64], noise: &Noise) -> Vec<Level> {
    let shortest = SHORTEST.max(series.len() / 20);
    let unit = noise.long_run_variance();
    let cuts = if unit > 0.0 { divide(scores, shortest, unit * PENALTY) } else { Vec::new() };
    let ends = cuts.iter().copied().chain([series.len()]);
    let mut begin = 0;
    let mut levels = Vec::new();
    for end in ends {
        levels.push(Level { begin, end, value: trimmed_mean(&series.values[begin..end]) });
        begin = end;
    }
    levels
}

/// The places of the changes in the cheapest division.
fn divide(scores: &[f64], shortest: usize, penalty: f64) -> Vec<usize> {
    let n = scores.len();
    let (mut sums, mut squares) = (vec![0.0], vec![0.0]);
    let (mut sum, mut square) = (0.0, 0.0);
    for score in scores {
        sum += score;
        square += score * score;
        sums.push(sum);
        squares.push(square);
    }
    let cost = |from: usize, to: usize| {
        let sum: f64 = sums[to] - sums[from];
        squares[to] - squares[from] - sum * sum / count(to - from)
    };
    // The cheapest division of the first so many points, and where its last level begins.
    let mut best = vec![(f64::INFINITY, 0); n + 1];
    best[0] = (-penalty, 0);
    for to in shortest..=n {
        for from in (0..=to - shortest).filter(|from| *from == 0 || *from >= shortest) {
            let price = best[from].0 + penalty + cost(from, to);
            if price < best[to].0 {
                best[to] = (price, from);
            }
        }
    }
    let mut cuts = Vec::new();
    let mut at = n;
    while best[at].1 > 0 {
        at = best[at].1;
        cuts.push(at);
    }
    cuts.reverse();
    cuts
}

/// What is left around the levels, as a standard deviation.
pub(super) fn left_around(series: &Series, levels: &[Level]) -> f64 {
    let rest: Vec<f64> = levels
        .iter()
        .flat_map(|level| series.values[level.begin..level.end].iter().map(|v| v - level.value))
        .collect();
    deviation(&rest, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_found_where_it_is_and_an_outlier_is_none() {
        let wobble = |n: usize| count(n * 7 % 5) / 10.0;
        let mut values: Vec<f64> =
            (0..100).map(|n| if n < 60 { 1.0 } else { 3.0 } + wobble(n)).collect();
        values[20] = 1e9;
        let series = Series {
            from: crate::clock::Timestamp::default(),
            hours: (0..100).map(count).collect(),
            values,
        };
        let scores = crate::monitor::trend::sample::normal_scores(&series.values);
        let found = levels(&series, &scores, &Noise::of(&scores));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].begin.abs_diff(60) <= 1, "{found:?}");
        assert!((found[1].value - found[0].value - 2.0).abs() < 0.1, "{found:?}");
    }
}
