//! Alerts, their rules, and what a rule would have done.

use std::collections::BTreeMap;

use utoipa::ToSchema;

use super::Moment;

/// How bad it is: worth knowing, to be looked at in working hours, to be looked at today, to be
/// acted on now.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Severity {
    Info,
    Warning,
    Error,
    Critical,
}

/// Where an alert is. Inactive: the condition does not hold. Pending: it does, and not for long
/// enough. Firing: for long enough. Recovering: it does not hold, and not for long enough. Resolved:
/// it fired not long ago.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum AlertState {
    Inactive,
    Pending,
    Firing,
    Recovering,
    Resolved,
}

/// How a value is held against the threshold.
#[derive(ToSchema)]
pub(in crate::http) enum AlertOperator {
    #[serde(rename = ">")]
    Above,
    #[serde(rename = ">=")]
    AtLeast,
    #[serde(rename = "<")]
    Below,
    #[serde(rename = "<=")]
    AtMost,
    #[serde(rename = "==")]
    Equal,
    #[serde(rename = "!=")]
    Unequal,
}

/// What a window over a metric comes to.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Aggregation {
    Increase,
    Rate,
    Avg,
    Max,
    Min,
    Last,
    Quantile,
}

/// What becomes of an alert while nothing is measured.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum OnNoData {
    Ignore,
    Fire,
    Resolve,
    Keep,
}

/// Whose rule it is: it came with LockBay, or somebody put it.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Origin {
    BuiltIn,
    Put,
}

/// Why an alert is not where its condition alone would have it.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum AlertReason {
    /// Nothing is measured.
    NoData,
    /// What was measured could not be read.
    Error(String),
    /// It would fire, but resolved not long ago.
    Cooldown,
    /// Its rule is not enabled.
    Disabled,
}

/// An alert as it stands.
#[derive(ToSchema)]
pub(in crate::http) struct Alert {
    /// Its rule.
    rule: String,
    severity: Severity,
    state: AlertState,
    /// Since when; null if it has rested ever since.
    #[schema(required)]
    since: Option<Moment>,
    /// The number of the last firing; zero before the first.
    episode: u64,
    /// The value that was judged last.
    #[schema(required)]
    value: Option<f64>,
    operator: AlertOperator,
    threshold: f64,
    #[schema(required)]
    reason: Option<AlertReason>,
    /// In words.
    summary: String,
    /// When it was judged last.
    #[schema(required)]
    evaluated_at: Option<Moment>,
    /// When the last firing began.
    #[schema(required)]
    fired_at: Option<Moment>,
    /// When the last firing was over.
    #[schema(required)]
    resolved_at: Option<Moment>,
    /// Words about it.
    labels: BTreeMap<String, String>,
    /// Where to read what to do.
    #[schema(required)]
    runbook: Option<String>,
}

/// What a value is divided by before it is held against the threshold.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct DivideBy {
    /// A metric of the same type, over the same window.
    #[schema(min_length = 1)]
    metric_path: String,
    /// If it comes to less than this, the condition does not hold.
    #[serde(default)]
    #[schema(minimum = 0, default = 0)]
    minimum: f64,
}

/// An alert rule as it is shown; it can be put again.
#[derive(ToSchema)]
pub(in crate::http) struct AlertRule {
    name: String,
    /// What is measured: a dotted path of the metrics document.
    metric_path: String,
    operator: AlertOperator,
    threshold: f64,
    /// Over the last so many minutes.
    window_minutes: u32,
    severity: Severity,
    /// So long the condition holds before the alert fires.
    for_seconds: u32,
    /// So long it does not hold before the alert resolves.
    keep_firing_for_seconds: u32,
    /// For so long after it resolved the alert does not fire again.
    cooldown_minutes: u32,
    /// Left out if it is what is usual for the type of the metric.
    #[schema(required = false)]
    aggregation: Aggregation,
    /// Which share of the observations.
    #[schema(required = false)]
    quantile: f64,
    on_no_data: OnNoData,
    #[schema(required = false)]
    divide_by: DivideBy,
    /// A shorter window over which the condition must hold too.
    #[schema(required = false)]
    confirm_window_minutes: u32,
    /// What is wrong if it fires.
    #[schema(required = false)]
    description: String,
    /// Where to read what to do.
    #[schema(required = false)]
    runbook: String,
    /// Words about it; alerts with one `group` are told together.
    #[schema(required = false)]
    labels: BTreeMap<String, String>,
    /// Whether it is judged.
    enabled: bool,
    origin: Origin,
}

/// An alert rule as it is put.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "metric_path": "saga_metrics.sagas_failed", "operator": ">", "threshold": 5,
    "window_minutes": 10, "severity": "warning"
})))]
pub(in crate::http) struct AlertRuleBody {
    /// That of the path, if it is said at all.
    #[serde(default)]
    #[schema(max_length = 64)]
    name: String,
    /// What is measured: a dotted path of the metrics document.
    #[schema(min_length = 1, examples("saga_metrics.sagas_failed"))]
    metric_path: String,
    operator: AlertOperator,
    threshold: f64,
    /// Over the last so many minutes; a week at most.
    #[schema(minimum = 1, maximum = 10_080)]
    window_minutes: u32,
    severity: Severity,
    /// So long the condition must hold before the alert fires.
    #[serde(default)]
    #[schema(maximum = 604_800, default = 0)]
    for_seconds: u32,
    /// So long it must not hold before the alert resolves.
    #[serde(default)]
    #[schema(maximum = 604_800, default = 0)]
    keep_firing_for_seconds: u32,
    /// For so long after it resolved the alert does not fire again.
    #[serde(default)]
    #[schema(maximum = 10_080, default = 0)]
    cooldown_minutes: u32,
    /// Without, what is usual for the type of the metric.
    aggregation: Option<Aggregation>,
    /// Which share of the observations, if the aggregation is `quantile`.
    #[schema(exclusive_minimum = 0, exclusive_maximum = 1)]
    quantile: Option<f64>,
    #[serde(default)]
    on_no_data: OnNoData,
    divide_by: Option<DivideBy>,
    /// A shorter window over which the condition must hold too.
    #[schema(minimum = 1, maximum = 10_079)]
    confirm_window_minutes: Option<u32>,
    /// What is wrong if it fires.
    #[schema(min_length = 1, max_length = 1_024)]
    description: Option<String>,
    /// Where to read what to do.
    #[schema(min_length = 1, max_length = 1_024)]
    runbook: Option<String>,
    /// Words about it; at most 16.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Whether it is judged.
    #[serde(default)]
    #[schema(default = true)]
    enabled: bool,
    /// Taken and not heeded: what was put is `put`.
    #[serde(default)]
    origin: Origin,
}

/// What has become of an alert.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Turn {
    Fired,
    Resolved,
}

/// A move of an alert.
#[derive(ToSchema)]
pub(in crate::http) struct Transition {
    rule: String,
    severity: Severity,
    turn: Turn,
    /// The same for a firing and its end.
    episode: u64,
    at: Moment,
    /// The value that was judged, if there was one.
    #[schema(required)]
    value: Option<f64>,
    /// In words.
    summary: String,
}

/// What a rule would have done.
#[derive(ToSchema)]
pub(in crate::http) struct Backtest {
    rule: String,
    from: Moment,
    to: Moment,
    /// The time between two evaluations.
    interval_seconds: f64,
    /// How often it was judged.
    evaluations: u64,
    /// How often it would have fired.
    times_fired: u64,
    /// Whether it would fire at the end.
    fires_now: bool,
    /// For how long it would have fired altogether.
    firing_seconds: f64,
    /// Every firing and every end, in order.
    transitions: Vec<Transition>,
}
