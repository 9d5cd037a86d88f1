//! Windows over tracks, case by case: what counts, and what nobody can know.

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
    let lives = [counter("a", 0, &[(10, 100), (20, 110)]), counter("a", 25, &[(30, 2), (40, 4)])];
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
    let both = [histogram(0, &[(10, 4)]), other];
    assert_eq!(distribution(&both, at(0), at(20)).unwrap().count(), 4);
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
