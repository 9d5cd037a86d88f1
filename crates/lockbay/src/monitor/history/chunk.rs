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

    pub(super) fn len(&self) -> usize {
        self.times.len()
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
