//! A chunk: all metrics of one life of one instance over a stretch of time, in columns.
//!
//! One that is being filled is [`Open`], and holds numbers; one that was stored is a [`Chunk`], and
//! holds bytes, of which it unpacks the column that is asked for. Columns are told apart by a hash
//! of their path and not by their place, so that versions with other metrics read each other's
//! chunks. Counters and counts of buckets are kept exactly, gauges to a thousandth, and sums of
//! histograms to a microsecond.

use std::sync::Arc;

use super::pack::{self, MAX_VALUES};
use crate::clock::Timestamp;
use crate::metrics::{Row, Sampled};
use crate::monitor::series::{Distribution, Samples};

/// The first byte of every chunk. Another version of the format has another.
const FORMAT: u8 = 1;
const COUNTER: u8 = 0;
const GAUGE: u8 = 1;
const HISTOGRAM: u8 = 2;
/// What is kept of a gauge is a whole number of these.
const THOUSANDTH: f64 = 1e-3;
/// No histogram has more buckets: what is read may be damaged.
const MAX_BUCKETS: u64 = 1_024;

/// A chunk that is being filled.
pub(super) struct Open {
    times: Vec<Timestamp>,
    columns: Vec<Column>,
}

/// One metric in an open chunk.
struct Column {
    hash: u64,
    kind: u8,
    /// One series of numbers, or of a histogram the sum and then each bucket.
    numbers: Vec<Vec<i64>>,
}

impl Open {
    /// An empty one for these metrics.
    pub(super) fn new<'a>(rows: impl Iterator<Item = (&'a str, &'a Sampled)>) -> Self {
        let column = |(path, sampled): (&str, &Sampled)| {
            let (kind, count) = match sampled {
                Sampled::Counter(_) => (COUNTER, 1),
                Sampled::Gauge(_) => (GAUGE, 1),
                Sampled::Histogram(buckets, _) => (HISTOGRAM, buckets.len() + 1),
            };
            Column { hash: hash(path), kind, numbers: vec![Vec::new(); count] }
        };
        Open { times: Vec::new(), columns: rows.map(column).collect() }
    }

    /// Adds a sample, which is of the same metrics as all before it.
    pub(super) fn push(&mut self, at: Timestamp, sample: &[Sampled]) {
        debug_assert!(self.times.last().is_none_or(|last| *last < at), "samples are in order");
        self.times.push(at);
        for (column, sampled) in self.columns.iter_mut().zip(sample) {
            match sampled {
                Sampled::Counter(value) => column.numbers[0].push(value.cast_signed()),
                // A cast keeps within the range, and makes nothing of what is not a number.
                #[allow(clippy::cast_possible_truncation)]
                Sampled::Gauge(value) => {
                    column.numbers[0].push((value / THOUSANDTH).round() as i64);
                }
                Sampled::Histogram(buckets, sum) => {
                    let micros = i64::try_from(sum.as_micros()).unwrap_or(i64::MAX);
                    let counts = buckets.iter().map(|count| count.cast_signed());
                    let numbers = std::iter::once(micros).chain(counts);
                    column.numbers.iter_mut().zip(numbers).for_each(|(to, number)| to.push(number));
                }
            }
        }
    }

    /// As it is stored. `last` says whether nothing will be added to it.
    pub(super) fn encode(&self, last: Ending) -> Vec<u8> {
        let mut to = vec![FORMAT, last as u8];
        pack::write(self.times.len() as u64, &mut to);
        let millis = |time: &Timestamp| (time.as_micros() / 1_000).cast_signed();
        pack::pack(&self.times.iter().map(millis).collect::<Vec<_>>(), &mut to);
        let mut packed = Vec::new();
        for column in &self.columns {
            packed.clear();
            if column.kind == HISTOGRAM {
                pack::write(column.numbers.len() as u64 - 1, &mut packed);
            }
            column.numbers.iter().for_each(|numbers| pack::pack(numbers, &mut packed));
            to.extend(column.hash.to_le_bytes());
            to.push(column.kind);
            pack::write(packed.len() as u64, &mut to);
            to.extend(&packed);
        }
        to
    }
}

/// Whether more will be added to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Open = 0,
    Closed = 1,
}

/// A chunk as it was stored.
pub(super) struct Chunk {
    bytes: Vec<u8>,
    times: Vec<Timestamp>,
    /// Each column: the hash of its path, its kind, and where it lies.
    columns: Vec<(u64, u8, std::ops::Range<usize>)>,
    pub(super) closed: bool,
}

impl Chunk {
    /// Reads the times and where the columns are; nothing if it is damaged or of another format.
    pub(super) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut from = &bytes[..];
        if pack::byte(&mut from)? != FORMAT {
            return None;
        }
        let closed = pack::byte(&mut from)? == Ending::Closed as u8;
        let length = usize::try_from(pack::read(&mut from)?).ok()?;
        let times = pack::unpack(&mut from, length.min(MAX_VALUES + 1))?;
        let micros = |millis: i64| u64::try_from(millis).ok()?.checked_mul(1_000);
        let times: Option<Vec<_>> =
            times.into_iter().map(|time| micros(time).map(Timestamp::from_micros)).collect();
        let times = times?;
        let mut columns = Vec::new();
        while let Some((head, rest)) = from.split_first_chunk::<8>() {
            from = rest;
            let kind = pack::byte(&mut from)?;
            let packed = usize::try_from(pack::read(&mut from)?).ok()?;
            let at = bytes.len() - from.len();
            from = from.split_at_checked(packed)?.1;
            columns.push((u64::from_le_bytes(*head), kind, at..at + packed));
        }
        Some(Chunk { times, columns, closed, bytes })
    }

    /// What it occupies in this process, about.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len() + self.times.len() * 8 + self.columns.len() * 32 + 128
    }

    /// The samples of a path; nothing if it was not measured then, or is damaged.
    pub(super) fn samples(&self, path: &str) -> Option<Samples> {
        let wanted = hash(path);
        let (_, kind, place) = self.columns.iter().find(|(hash, _, _)| *hash == wanted)?;
        let mut from = &self.bytes[place.clone()];
        let length = self.times.len();
        let times = self.times.iter().copied();
        match *kind {
            COUNTER => {
                let values = pack::unpack(&mut from, length)?;
                let values = values.into_iter().map(i64::cast_unsigned);
                Some(Samples::Counter(times.zip(values).collect()))
            }
            #[allow(clippy::cast_precision_loss)] // a gauge was a float to begin with
            GAUGE => {
                let values = pack::unpack(&mut from, length)?;
                // By division, so that whole numbers come back as they were.
                let values = values.into_iter().map(|value| value as f64 / 1e3);
                Some(Samples::Gauge(times.zip(values).collect()))
            }
            HISTOGRAM => {
                let count = pack::read(&mut from).filter(|count| *count <= MAX_BUCKETS)?;
                let sums = pack::unpack(&mut from, length)?;
                let buckets: Option<Vec<Vec<i64>>> =
                    (0..count).map(|_| pack::unpack(&mut from, length)).collect();
                Some(Samples::Histogram(times.zip(distributions(&sums, &buckets?)).collect()))
            }
            _ => None,
        }
    }
}

#[allow(clippy::cast_precision_loss)] // microseconds stay far below 2^53
fn distributions(sums: &[i64], buckets: &[Vec<i64>]) -> Vec<Arc<Distribution>> {
    let distribution = |(at, micros): (usize, &i64)| {
        let counts = buckets.iter().map(|bucket| bucket[at].cast_unsigned()).collect();
        Arc::new(Distribution { buckets: counts, sum: *micros as f64 / 1e6 })
    };
    sums.iter().enumerate().map(distribution).collect()
}

/// FNV-1a, which is the same in every version and on every machine.
fn hash(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The rows of the metrics' table beside what was read of them.
pub(super) fn with_paths<'a>(
    rows: &'a [Row],
    sample: &'a [Sampled],
) -> impl Iterator<Item = (&'a str, &'a Sampled)> {
    rows.iter().map(|row| row.path).zip(sample)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small numbers
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::metrics::{BUCKETS, TABLE};
    use crate::monitor::history::record::Grain;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(1_767_225_600_000_000 + millis * 1_000)
    }

    fn buckets(first: u64) -> Box<[u64; BUCKETS]> {
        let mut buckets = [0; BUCKETS];
        buckets[0] = first;
        buckets[BUCKETS - 1] = u64::MAX;
        Box::new(buckets)
    }

    #[test]
    fn what_was_sampled_is_read_back() {
        let sample = |n: u64, gauge| {
            [
                Sampled::Counter(u64::MAX - 1 + n),
                Sampled::Gauge(gauge),
                Sampled::Histogram(buckets(n), Duration::from_micros(n * 7)),
            ]
        };
        let first = sample(0, -0.125);
        let mut open = Open::new(["c", "g", "h"].into_iter().zip(&first));
        open.push(at(0), &first);
        open.push(at(10_003), &sample(1, 4_503_599_627_370.5));
        let chunk = Chunk::parse(open.encode(Ending::Closed)).unwrap();
        assert!(chunk.closed);
        let times = [at(0), at(10_003)];
        let counter = vec![(times[0], u64::MAX - 1), (times[1], u64::MAX)];
        assert_eq!(chunk.samples("c"), Some(Samples::Counter(counter)));
        let gauge = vec![(times[0], -0.125), (times[1], 4_503_599_627_370.5)];
        assert_eq!(chunk.samples("g"), Some(Samples::Gauge(gauge)));
        let Some(Samples::Histogram(found)) = chunk.samples("h") else { panic!("no histogram") };
        assert_eq!(found[1].1.buckets, *buckets(1));
        assert!((found[1].1.sum - 7e-6).abs() < 1e-12);
        assert_eq!(chunk.samples("x"), None);
        assert!(!Chunk::parse(open.encode(Ending::Open)).unwrap().closed);
    }

    #[test]
    fn a_damaged_chunk_is_no_chunk_and_no_panic() {
        let sample = [Sampled::Counter(7), Sampled::Histogram(buckets(3), Duration::ZERO)];
        let mut open = Open::new(["c", "h"].into_iter().zip(&sample));
        (0..40).for_each(|n| open.push(at(n * 9_999), &sample));
        let whole = open.encode(Ending::Closed);
        for cut in 0..whole.len() {
            if let Some(chunk) = Chunk::parse(whole[..cut].to_vec()) {
                let _ = (chunk.samples("c"), chunk.samples("h"));
            }
        }
        for flipped in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[flipped / 8] ^= 1 << (flipped % 8);
            if let Some(chunk) = Chunk::parse(bytes) {
                let _ = (chunk.samples("c"), chunk.samples("h"));
            }
        }
    }

    #[test]
    fn every_path_has_a_hash_of_its_own() {
        let hashes: std::collections::BTreeSet<u64> =
            TABLE.iter().map(|row| hash(row.path)).collect();
        assert_eq!(hashes.len(), TABLE.len());
    }

    /// Metrics that move as metrics do, by their number: some stand still, some count in steps of
    /// chance, some waver.
    struct World {
        clock: Clock,
        values: Vec<f64>,
        noisy: bool,
    }

    impl World {
        fn below(&self, limit: u64) -> f64 {
            (self.clock.random() % limit) as f64
        }

        fn sample(&mut self) -> Vec<Sampled> {
            for at in 0..self.values.len() {
                let kind = if self.noisy { 7 } else { at % 8 };
                self.values[at] = match kind {
                    0 | 1 => 1_000_000.0,
                    2 | 3 => self.values[at] + self.below(20),
                    4 => self.values[at] + self.below(2_000),
                    // Pages of memory, requests in flight, percents with their fractions.
                    5 => 4_096.0 * (20_000.0 + self.below(500)),
                    6 => self.below(64),
                    _ => 40.0 + self.below(16_384) / 1e3,
                };
            }
            let is_counter = |at: usize| !self.noisy && (2..5).contains(&(at % 8));
            let sampled = |(at, value): (usize, &f64)| match is_counter(at) {
                true => Sampled::Counter(*value as u64),
                false => Sampled::Gauge(*value),
            };
            self.values.iter().enumerate().map(sampled).collect()
        }
    }

    /// The bytes of everything that is kept of 500 metrics, of both grains: all chunks are made, or
    /// one in so many, where they are all alike.
    fn kept_bytes(noisy: bool, one_in: u64) -> usize {
        let mut world = World { clock: Clock::manual(7), values: vec![0.0; 500], noisy };
        let names: Vec<String> = (0..500).map(|n| format!("group_metrics.metric_{n}")).collect();
        let interval = Duration::from_secs(10);
        let mut bytes = 0;
        for grain in [Grain::Fine, Grain::Coarse] {
            let every = grain.every(interval).as_millis() as u64;
            // One chunk more than is kept: the oldest goes when its last sample may.
            let chunks = grain.kept().as_secs().div_ceil(grain.slot(interval).as_secs()) + 1;
            let (mut made, mut length) = (0, 0);
            for chunk in (0..chunks).step_by(one_in as usize) {
                let mut time = chunk * grain.slot(interval).as_millis() as u64;
                let end = time + grain.slot(interval).as_millis() as u64;
                let first = world.sample();
                let mut open = Open::new(names.iter().map(String::as_str).zip(&first));
                while time < end {
                    open.push(at(time + world.clock.random() % 4), &world.sample());
                    time += every;
                }
                let encoded = open.encode(Ending::Closed);
                (made, length) = (made + 1, length + encoded.len() + 100); // and its key
                assert!(Chunk::parse(encoded).unwrap().samples(&names[7]).is_some());
            }
            bytes += length * chunks as usize / made;
        }
        bytes
    }

    #[test]
    fn five_hundred_metrics_are_kept_for_30_days_in_32_mebibytes() {
        for (noisy, one_in, what) in
            [(false, 1, "a usual mix"), (true, 5, "nothing but noise of 14 bits")]
        {
            let mebibytes = kept_bytes(noisy, one_in) as f64 / 1_048_576.0;
            println!("500 metrics over the whole retention, {what}: {mebibytes:.1} MiB");
            assert!(mebibytes <= 32.0, "{what}: {mebibytes:.1} MiB");
        }
    }
}
