//! What was measured over time: tracks of one metric, one for each life of each instance.
//!
//! The words that history, alerts and trends share. A counter begins at zero when its instance is
//! born, so its first increment is seen as one; it never goes back within a life.

use std::sync::Arc;

use crate::clock::Timestamp;

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
