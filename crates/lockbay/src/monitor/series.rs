//! What was measured over time: tracks of one metric, one for each life of each instance, and what
//! a window over them comes to.
//!
//! The words that history, alerts and trends share, and pure functions over them. A counter begins
//! at zero when its instance is born, so its first increment is seen as one; it never goes back
//! within a life. Nothing here is guessed: where nothing was measured there is no value, and what
//! lies between two samples is not interpolated.
//!
//! A window holds what happened after `from` and up to `to`. A value at a moment is that of the last
//! sample at it or before, so a window is as exact as the samples are close.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::metrics::{BOUNDS, BUCKETS, Merge, quantile_of};

/// One metric in one life of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// Whose.
    pub instance: Arc<str>,
    /// When this life began. Counters and histograms were zero then.
    pub born: Timestamp,
    /// Its samples in the order of time.
    pub samples: Samples,
}

/// Samples by the type of the metric, each with the time it was taken at.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    /// Of a counter: how far it has come since the instance was born.
    Counter(Vec<(Timestamp, u64)>),
    /// Of a gauge: where it stands.
    Gauge(Vec<(Timestamp, f64)>),
    /// Of a histogram: how many observations since the birth fell into each bucket, the last of
    /// which has no upper bound, and the sum of all.
    Histogram(Vec<(Timestamp, Arc<Distribution>)>),
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Observations in each bucket, not those below it.
    pub buckets: Vec<u64>,
    /// The sum of all observations.
    pub sum: f64,
}

/// How gauges of several lives are read as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What they come to together; a row of the metrics' table says it.
    pub merge: Merge,
    /// How long a sample speaks for its instance. After that the instance is taken to be gone, and
    /// counts no more.
    pub stale: Duration,
}

/// How much a counter grew in the window, in all lives together; of a histogram, how many
/// observations there were. `None` if nothing is known of the window.
///
/// Exact but for one case: a life that was born before `from`, and of which the first sample known
/// is after it, counts only from that sample on. A life that was born inside the window counts from
/// zero. A restart is another life, so nothing that goes back has to be guessed at.
pub fn increase(tracks: &[Track], from: Timestamp, to: Timestamp) -> Option<f64> {
    let counted = tracks.iter().filter_map(|track| match &track.samples {
        Samples::Counter(samples) => grown(track.born, samples, from, to, |value| *value),
        Samples::Histogram(samples) => grown(track.born, samples, from, to, |at| at.count()),
        Samples::Gauge(_) => None,
    });
    total(counted).map(as_float)
}

/// [`increase`] per second of the window.
pub fn rate(tracks: &[Track], from: Timestamp, to: Timestamp) -> Option<f64> {
    let seconds = to.since(from).as_secs_f64();
    increase(tracks, from, to).filter(|_| seconds > 0.0).map(|increase| increase / seconds)
}

/// What was observed in the window, in all lives together; as exact as [`increase`]. `None` if
/// nothing is known of the window, or if these are no histograms.
pub fn distribution(tracks: &[Track], from: Timestamp, to: Timestamp) -> Option<Distribution> {
    let mut all: Option<Distribution> = None;
    for track in tracks {
        let Samples::Histogram(samples) = &track.samples else { continue };
        let Some((before, after)) = ends(track.born, samples, from, to) else { continue };
        // Another version may have had other buckets; they are told by other bounds.
        if after.buckets.len() == BUCKETS {
            let all = all.get_or_insert_with(|| Distribution::empty(BUCKETS));
            all.add(after, before.map(|before| &**before));
        }
    }
    all
}

/// The value below which this share of the observations of the window lies, as [`quantile_of`]
/// finds it. `None` if there were none.
pub fn quantile(tracks: &[Track], share: f64, from: Timestamp, to: Timestamp) -> Option<f64> {
    quantile_of(&distribution(tracks, from, to)?.buckets, &BOUNDS, share)
}

/// The average over the window: of a gauge over time, each value for as long as it stood, without
/// the times of which nothing is known; of a histogram over its observations.
pub fn average(tracks: &[Track], from: Timestamp, to: Timestamp, reading: Reading) -> Option<f64> {
    if let Some(found) = distribution(tracks, from, to) {
        return (found.count() > 0).then(|| found.sum / as_float(found.count()));
    }
    mean(&stretches(tracks, from, to, reading))
}

/// The average of what stood, each value for as long as it did.
pub fn mean(stood: &[Stretch]) -> Option<f64> {
    let (mut sum, mut seconds) = (0.0, 0.0);
    for stretch in stood {
        let long = stretch.until.since(stretch.from).as_secs_f64();
        sum += stretch.value * long;
        seconds += long;
    }
    match seconds > 0.0 {
        true => Some(sum / seconds),
        false => stood.last().map(|stretch| stretch.value),
    }
}

/// The highest value of a gauge in the window.
pub fn maximum(tracks: &[Track], from: Timestamp, to: Timestamp, reading: Reading) -> Option<f64> {
    let values = stretches(tracks, from, to, reading).into_iter().map(|stretch| stretch.value);
    values.reduce(f64::max)
}

/// The lowest value of a gauge in the window.
pub fn minimum(tracks: &[Track], from: Timestamp, to: Timestamp, reading: Reading) -> Option<f64> {
    let values = stretches(tracks, from, to, reading).into_iter().map(|stretch| stretch.value);
    values.reduce(f64::min)
}

/// The value of a gauge at a moment, over all lives that had a sample not long before it. Of
/// counters, how far the lives have come that are there.
pub fn last(tracks: &[Track], at: Timestamp, reading: Reading) -> Option<f64> {
    let fresh = tracks.iter().filter_map(|track| standing(track, at, reading.stale));
    merged(fresh, reading.merge)
}

/// A time during which a merged gauge stood at one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    /// Since when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// What it was.
    pub value: f64,
}

/// How a gauge went through the window. Where no life had a fresh sample there is a gap between two
/// stretches. The last one may have no length: a sample at the very end.
pub fn stretches(
    tracks: &[Track],
    from: Timestamp,
    to: Timestamp,
    reading: Reading,
) -> Vec<Stretch> {
    let mut turns = vec![from, to];
    let spoken = reading.stale + Duration::from_micros(1);
    for track in tracks {
        each_time(&track.samples, (from - spoken, to), |at| {
            turns.push(at);
            turns.push(at + spoken);
        });
    }
    turns.retain(|at| (from..=to).contains(at));
    turns.sort_unstable();
    turns.dedup();
    let until = turns.iter().skip(1).copied().chain([to]);
    let stretch =
        |(at, until)| Some(Stretch { from: at, until, value: last(tracks, at, reading)? });
    turns.iter().copied().zip(until).filter_map(stretch).collect()
}

impl Distribution {
    /// One without observations.
    pub fn empty(buckets: usize) -> Self {
        Distribution { buckets: vec![0; buckets], sum: 0.0 }
    }

    /// How many observations it has.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds what was observed between two moments of one life.
    fn add(&mut self, after: &Distribution, before: Option<&Distribution>) {
        let before_sum = before.map_or(0.0, |before| before.sum);
        self.sum += (after.sum - before_sum).max(0.0);
        for (at, sum) in self.buckets.iter_mut().enumerate() {
            let earlier = before.and_then(|before| before.buckets.get(at)).copied().unwrap_or(0);
            *sum += after.buckets[at].saturating_sub(earlier);
        }
    }
}

/// The sample at which a life enters the window, if that is not its birth, and the last one of it
/// in the window. `None` if nothing of the life is known to lie in the window.
fn ends<T>(
    born: Timestamp,
    samples: &[(Timestamp, T)],
    from: Timestamp,
    to: Timestamp,
) -> Option<(Option<&T>, &T)> {
    let known = &samples[..samples.partition_point(|(at, _)| *at <= to)];
    let (last_at, last) = known.last()?;
    let before = known.partition_point(|(at, _)| *at <= from);
    // Its last word was spoken before the window.
    if *last_at <= from {
        return None;
    }
    let first = match before.checked_sub(1) {
        Some(at) => Some(&known[at].1),
        None if born >= from => None,
        None => known.first().map(|(_, first)| first),
    };
    Some((first, last))
}

fn grown<T>(
    born: Timestamp,
    samples: &[(Timestamp, T)],
    from: Timestamp,
    to: Timestamp,
    value: impl Fn(&T) -> u64,
) -> Option<u64> {
    let (first, last) = ends(born, samples, from, to)?;
    Some(value(last).saturating_sub(first.map_or(0, &value)))
}

fn total(values: impl Iterator<Item = u64>) -> Option<u64> {
    values.reduce(u64::saturating_add)
}

/// What a life says of a moment: its last sample, if that is not stale.
fn standing(track: &Track, at: Timestamp, stale: Duration) -> Option<f64> {
    match &track.samples {
        Samples::Counter(samples) => fresh(samples, at, stale).map(|value| as_float(*value)),
        Samples::Gauge(samples) => fresh(samples, at, stale).copied(),
        Samples::Histogram(_) => None,
    }
}

fn fresh<T>(samples: &[(Timestamp, T)], at: Timestamp, stale: Duration) -> Option<&T> {
    let before = samples.partition_point(|(sampled, _)| *sampled <= at).checked_sub(1)?;
    let (sampled, value) = &samples[before];
    (at.since(*sampled) <= stale).then_some(value)
}

/// What values of several lives come to.
pub fn merged(values: impl Iterator<Item = f64>, merge: Merge) -> Option<f64> {
    values.reduce(|all, value| match merge {
        Merge::Sum => all + value,
        Merge::Max => all.max(value),
        Merge::Min => all.min(value),
    })
}

/// Tells the times of the samples in a window; others are not looked at.
fn each_time(samples: &Samples, window: (Timestamp, Timestamp), mut tell: impl FnMut(Timestamp)) {
    match samples {
        Samples::Counter(samples) => within(samples, window).iter().for_each(|(at, _)| tell(*at)),
        Samples::Gauge(samples) => within(samples, window).iter().for_each(|(at, _)| tell(*at)),
        Samples::Histogram(samples) => within(samples, window).iter().for_each(|(at, _)| tell(*at)),
    }
}

fn within<T>(samples: &[(Timestamp, T)], (from, to): (Timestamp, Timestamp)) -> &[(Timestamp, T)] {
    let first = samples.partition_point(|(at, _)| *at < from);
    let behind = samples.partition_point(|(at, _)| *at <= to);
    &samples[first..behind.max(first)]
}

#[allow(clippy::cast_precision_loss)] // counts stay far below 2^53
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::BUCKETS;

    const STALE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(1_767_225_600_000_000 + seconds * 1_000_000)
    }

    fn counter(instance: &str, born: u64, samples: &[(u64, u64)]) -> Track {
        let samples = samples.iter().map(|(second, value)| (at(*second), *value)).collect();
        Track { instance: instance.into(), born: at(born), samples: Samples::Counter(samples) }
    }

    fn gauge(instance: &str, born: u64, samples: &[(u64, f64)]) -> Track {
        let samples = samples.iter().map(|(second, value)| (at(*second), *value)).collect();
        Track { instance: instance.into(), born: at(born), samples: Samples::Gauge(samples) }
    }

    /// Observations of 1.2 seconds, of which there were so many at each second.
    fn histogram(born: u64, samples: &[(u64, u64)]) -> Track {
        let bucket = BOUNDS.iter().position(|bound| *bound >= 1.2).unwrap();
        let sample = |(second, count): &(u64, u64)| {
            let mut distribution = Distribution::empty(BUCKETS);
            distribution.buckets[bucket] = *count;
            distribution.sum = *count as f64 * 1.2;
            (at(*second), Arc::new(distribution))
        };
        let samples = Samples::Histogram(samples.iter().map(sample).collect());
        Track { instance: "a".into(), born: at(born), samples }
    }

    fn reading(merge: Merge) -> Reading {
        Reading { merge, stale: STALE }
    }

    #[test]
    fn a_counter_grows_by_what_lies_between_the_edges_of_the_window() {
        let track = [counter("a", 0, &[(10, 5), (20, 7), (30, 7), (40, 12)])];
        for (from, to, grown) in [(10, 40, 7.0), (20, 30, 0.0), (15, 25, 2.0), (30, 39, 0.0)] {
            let expected = if (from, to) == (30, 39) { None } else { Some(grown) };
            assert_eq!(increase(&track, at(from), at(to)), expected, "{from} to {to}");
        }
    }

    #[test]
    fn the_first_increment_of_a_life_counts() {
        let track = [counter("a", 100, &[(105, 1), (115, 1)])];
        assert_eq!(increase(&track, at(0), at(200)), Some(1.0));
        assert_eq!(increase(&track, at(100), at(200)), Some(1.0), "born with the window");
    }

    #[test]
    fn a_life_from_before_the_window_counts_only_from_what_is_known() {
        let track = [counter("a", 0, &[(120, 40), (130, 43)])];
        assert_eq!(increase(&track, at(100), at(200)), Some(3.0));
        assert_eq!(increase(&track, at(0), at(200)), Some(43.0));
    }

    #[test]
    fn a_sample_at_the_edge_belongs_to_what_is_before_it() {
        let track = [counter("a", 0, &[(10, 1), (20, 3), (30, 9)])];
        assert_eq!(increase(&track, at(10), at(20)), Some(2.0));
        assert_eq!(increase(&track, at(20), at(30)), Some(6.0));
        assert_eq!(increase(&track, at(10), at(30)), Some(8.0), "two windows make one");
    }

    #[test]
    fn a_restart_loses_nothing_and_counts_nothing_twice() {
        let lives =
            [counter("a", 0, &[(10, 100), (20, 110)]), counter("a", 25, &[(30, 2), (40, 4)])];
        assert_eq!(increase(&lives, at(10), at(40)), Some(14.0));
        assert_eq!(increase(&lives, at(20), at(40)), Some(4.0));
        assert_eq!(increase(&lives, at(0), at(40)), Some(114.0));
    }

    #[test]
    fn two_instances_add_up_and_one_that_is_gone_adds_nothing() {
        let both = [
            counter("a", 0, &[(10, 1), (20, 2)]),
            counter("b", 0, &[(11, 10), (21, 30)]),
            counter("gone", 0, &[(5, 999)]),
        ];
        assert_eq!(increase(&both, at(12), at(30)), Some(21.0));
        assert_eq!(increase(&both[2..], at(12), at(30)), None, "nothing is known of the window");
    }

    #[test]
    fn what_happened_in_a_gap_counts_when_it_is_over() {
        let track = [counter("a", 0, &[(10, 5), (500, 25)])];
        assert_eq!(increase(&track, at(100), at(600)), Some(20.0));
        assert_eq!(increase(&track, at(100), at(400)), None);
    }

    #[test]
    fn nothing_measured_is_no_value_and_not_zero() {
        assert_eq!(increase(&[], at(0), at(10)), None);
        assert_eq!(rate(&[], at(0), at(10)), None);
        assert_eq!(quantile(&[], 0.5, at(0), at(10)), None);
        assert_eq!(average(&[], at(0), at(10), reading(Merge::Sum)), None);
        assert_eq!(last(&[], at(0), reading(Merge::Sum)), None);
        assert_eq!(increase(&[gauge("a", 0, &[(1, 1.0)])], at(0), at(10)), None, "a gauge");
        assert_eq!(increase(&[counter("a", 0, &[(5, 1)])], at(10), at(0)), None, "no window");
    }

    #[test]
    fn a_rate_is_the_increase_per_second_of_the_window() {
        let track = [counter("a", 0, &[(10, 5), (20, 7), (60, 35)])];
        assert_eq!(rate(&track, at(10), at(60)), Some(0.6));
        assert_eq!(rate(&track, at(10), at(10)), None);
    }

    #[test]
    fn observations_of_the_window_alone_make_its_quantile() {
        let slow = BOUNDS.iter().position(|bound| *bound >= 60.0).unwrap();
        let mut track = histogram(0, &[(10, 100), (20, 100), (30, 110)]);
        let Samples::Histogram(samples) = &mut track.samples else { unreachable!() };
        let mut later = Distribution::clone(&samples[2].1);
        later.buckets[slow] = 10;
        later.sum += 600.0;
        samples.push((at(40), Arc::new(later)));
        let track = [track];
        let p50 = quantile(&track, 0.5, at(20), at(40)).unwrap();
        assert!((1.0..=1.5).contains(&p50), "{p50}");
        let p95 = quantile(&track, 0.95, at(20), at(40)).unwrap();
        assert!((47.0..=68.0).contains(&p95), "{p95}");
        assert_eq!(quantile(&track, 0.5, at(10), at(20)), None, "none were observed");
        assert_eq!(increase(&track, at(20), at(40)), Some(20.0));
        let mean = average(&track, at(20), at(40), reading(Merge::Sum)).unwrap();
        assert!((mean - 612.0 / 20.0).abs() < 1e-9, "{mean}");
    }

    #[test]
    fn buckets_of_another_version_are_not_added_up() {
        let mut other = histogram(0, &[(10, 1)]);
        let Samples::Histogram(samples) = &mut other.samples else { unreachable!() };
        samples[0].1 = Arc::new(Distribution { buckets: vec![7; 3], sum: 1.0 });
        let mut both = [histogram(0, &[(10, 4)]), other];
        assert_eq!(distribution(&both, at(0), at(20)).unwrap().count(), 4);
        both.reverse();
        assert_eq!(distribution(&both, at(0), at(20)).unwrap().count(), 4, "whoever is first");
    }

    #[test]
    fn the_last_value_is_of_those_who_spoke_lately() {
        let both = [gauge("a", 0, &[(10, 1.0), (20, 3.0)]), gauge("b", 0, &[(15, 4.0)])];
        assert_eq!(last(&both, at(20), reading(Merge::Sum)), Some(7.0));
        assert_eq!(last(&both, at(20), reading(Merge::Max)), Some(4.0));
        assert_eq!(last(&both, at(20), reading(Merge::Min)), Some(3.0));
        assert_eq!(last(&both, at(45), reading(Merge::Sum)), Some(7.0), "at the limit");
        assert_eq!(last(&both, at(46), reading(Merge::Sum)), Some(3.0), "b is gone");
        assert_eq!(last(&both, at(51), reading(Merge::Sum)), None);
        assert_eq!(last(&both, at(9), reading(Merge::Sum)), None, "before the first");
    }

    #[test]
    fn a_restart_does_not_count_a_gauge_twice_for_longer_than_it_is_fresh() {
        let lives = [gauge("a", 0, &[(10, 5.0)]), gauge("a", 12, &[(15, 2.0), (45, 2.0)])];
        assert_eq!(last(&lives, at(15), reading(Merge::Max)), Some(5.0));
        assert_eq!(last(&lives, at(45), reading(Merge::Sum)), Some(2.0));
    }

    #[test]
    fn an_average_weighs_each_value_by_how_long_it_stood() {
        let track = [gauge("a", 0, &[(0, 10.0), (10, 0.0), (40, 0.0)])];
        let reading = reading(Merge::Sum);
        assert_eq!(average(&track, at(0), at(40), reading), Some(2.5));
        assert_eq!(maximum(&track, at(0), at(40), reading), Some(10.0));
        assert_eq!(maximum(&track, at(10), at(40), reading), Some(0.0));
        assert_eq!(minimum(&track, at(0), at(9), reading), Some(10.0));
    }

    #[test]
    fn a_gap_is_neither_averaged_nor_bridged() {
        let track = [gauge("a", 0, &[(0, 10.0), (100, 20.0), (110, 20.0)])];
        let stood = stretches(&track, at(0), at(110), reading(Merge::Sum));
        let gap = stood.windows(2).find(|pair| pair[0].until < pair[1].from).unwrap();
        assert_eq!(gap[0].until, at(30) + Duration::from_micros(1));
        assert_eq!(gap[1].from, at(100));
        let mean = average(&track, at(0), at(110), reading(Merge::Sum)).unwrap();
        assert!((mean - 12.5).abs() < 1e-4, "30 s of 10 and 10 s of 20: {mean}");
    }

    #[test]
    fn a_window_without_length_has_the_value_of_its_moment() {
        let track = [gauge("a", 0, &[(0, 10.0)])];
        assert_eq!(average(&track, at(5), at(5), reading(Merge::Sum)), Some(10.0));
        assert_eq!(maximum(&track, at(5), at(5), reading(Merge::Sum)), Some(10.0));
    }
}
