//! How a metric went.

use utoipa::ToSchema;

use super::Moment;

/// How a metric behaves: it only grows, it goes up and down, or it is a distribution.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum MetricType {
    Counter,
    Gauge,
    Histogram,
}

/// What a value is in. `none` is a number of things; a mebibyte has 1,048,576 bytes.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum MetricUnit {
    None,
    Seconds,
    Milliseconds,
    Bytes,
    Mebibytes,
    Percent,
}

/// What a counter came to in a step. In a gap there are nulls.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct CounterPoint {
    /// The end of the step.
    at: Moment,
    /// How much it grew in the step.
    #[schema(required)]
    increase: Option<f64>,
    /// The same for each second.
    #[schema(required)]
    rate: Option<f64>,
}

/// What a gauge came to in a step. In a gap there are nulls.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct GaugePoint {
    /// The end of the step.
    at: Moment,
    /// The average over the step.
    #[schema(required)]
    value: Option<f64>,
    #[schema(required)]
    min: Option<f64>,
    #[schema(required)]
    max: Option<f64>,
}

/// What a histogram came to in a step. In a gap there are nulls.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct HistogramPoint {
    /// The end of the step.
    at: Moment,
    /// How many observations there were.
    #[schema(required)]
    count: Option<f64>,
    #[schema(required)]
    p50: Option<f64>,
    #[schema(required)]
    p95: Option<f64>,
    #[schema(required)]
    p99: Option<f64>,
}

/// What a quantile of a histogram came to in a step. In a gap there is null.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct QuantilePoint {
    /// The end of the step.
    at: Moment,
    #[schema(required)]
    value: Option<f64>,
}

/// What a step came to, by the type of the metric.
#[derive(ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum HistoryPoint {
    Counter(CounterPoint),
    Gauge(GaugePoint),
    Histogram(HistogramPoint),
    Quantile(QuantilePoint),
}

/// A histogram in a few numbers; times in seconds.
#[derive(ToSchema)]
pub(in crate::http) struct HistogramSummary {
    count: u64,
    sum: f64,
    #[schema(required)]
    p50: Option<f64>,
    #[schema(required)]
    p95: Option<f64>,
    #[schema(required)]
    p99: Option<f64>,
}
