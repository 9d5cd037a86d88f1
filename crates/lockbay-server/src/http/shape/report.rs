//! The report and the trends behind it.

use std::collections::BTreeMap;

use utoipa::ToSchema;

use super::Leader;
use super::Moment;
use super::alert::Severity;
use super::health::{HealthCheck, HealthStatus};

/// Which way is good.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Goodness {
    LowerIsBetter,
    HigherIsBetter,
    Neither,
}

/// What becomes of a series.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum TrendLabel {
    Improving,
    Stable,
    Degrading,
    InsufficientData,
}

/// Which way a series moves.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum TrendDirection {
    Rising,
    Level,
    Falling,
}

/// A moment at which the level changed.
#[derive(ToSchema)]
pub(in crate::http) struct ChangePoint {
    at: Moment,
    before: f64,
    after: f64,
    /// By how much it went up, or down below zero.
    size: f64,
}

/// What is usual now, and how far off the last hour is.
#[derive(ToSchema)]
pub(in crate::http) struct Baseline {
    /// The average of the last hour.
    value: f64,
    /// The usual value at this hour of the week.
    expected: f64,
    /// How much it usually varies, as a standard deviation.
    spread: f64,
    /// Weeks of history behind it.
    weeks: usize,
    /// By how many spreads the value lies above it.
    anomaly: f64,
    /// Whether that is far.
    unusual: bool,
}

/// When a limit is reached.
#[derive(ToSchema)]
pub(in crate::http) struct TimeToLimit {
    limit: f64,
    hours: f64,
    earliest_hours: f64,
    /// Null if the flattest slope does not lead to the limit.
    #[schema(required)]
    latest_hours: Option<f64>,
}

/// The trend of one series, with the numbers behind.
#[derive(ToSchema)]
pub(in crate::http) struct Trend {
    /// The path, or the name of a ratio.
    path: String,
    unit: String,
    goodness: Goodness,
    window_hours: u32,
    from: Moment,
    to: Moment,
    /// Why nothing is known, if it could not be fetched.
    #[schema(required = false)]
    problem: String,
    label: TrendLabel,
    direction: TrendDirection,
    /// Points in the window.
    observed: usize,
    /// Points that were judged, after neighbours were joined.
    n: usize,
    /// Where it stands at the end of the window.
    level: f64,
    /// By how much it changed over the window, if that is more than chance; else zero.
    change: f64,
    /// The median slope.
    slope_per_hour: f64,
    /// The interval in which that lies with 95 %.
    slope_low: f64,
    slope_high: f64,
    /// How probable a drift like this is by chance alone.
    p_value: f64,
    /// How much neighbours resemble each other, 0 to 1.
    persistence: f64,
    /// The deviation of single values from the trend.
    noise: f64,
    /// Whether a weekly season was taken out before.
    deseasonalized: bool,
    change_points: Vec<ChangePoint>,
    #[schema(required)]
    baseline: Option<Baseline>,
    #[schema(required)]
    time_to_limit: Option<TimeToLimit>,
}

/// Trends of the series that matter, or of the one that was asked for.
#[derive(ToSchema)]
pub(in crate::http) struct Trends {
    window_hours: u32,
    items: Vec<Trend>,
}

/// Who leads.
#[derive(ToSchema)]
pub(in crate::http) struct LeaderStatus {
    /// Whether this instance does.
    is_leader: bool,
    #[schema(required)]
    leader: Option<Leader>,
}

/// What this instance did since it was opened.
#[derive(ToSchema)]
pub(in crate::http) struct OwnWork {
    completed: f64,
    failed: f64,
    #[schema(required)]
    p95_ms: Option<f64>,
}

/// What was done of one kind of work, by all instances; null where history does not know.
#[derive(ToSchema)]
pub(in crate::http) struct Work {
    #[schema(required)]
    completed: Option<f64>,
    #[schema(required)]
    failed: Option<f64>,
    /// The part that ended well, 0 to 1.
    #[schema(required)]
    success_rate: Option<f64>,
    /// Over the last ten minutes.
    #[schema(required)]
    per_second: Option<f64>,
    /// At this hour of the week.
    #[schema(required)]
    usual_per_second: Option<f64>,
    #[schema(required)]
    p50_ms: Option<f64>,
    #[schema(required)]
    p95_ms: Option<f64>,
    #[schema(required)]
    p99_ms: Option<f64>,
    this_instance: OwnWork,
}

/// What was done in the window.
#[derive(ToSchema)]
pub(in crate::http) struct PerformanceSummary {
    window_hours: u32,
    job_processing: Work,
    saga_processing: Work,
    /// The part of what this instance's cleanup looked at that was cleaned, 0 to 1.
    #[schema(required)]
    cleanup_efficiency: Option<f64>,
}

/// What this instance uses.
#[derive(ToSchema)]
pub(in crate::http) struct SystemLoad {
    #[schema(required)]
    process_memory_bytes: Option<f64>,
    #[schema(required)]
    process_threads: Option<f64>,
    #[schema(required)]
    process_open_fds: Option<f64>,
    #[schema(required)]
    requests_in_flight: Option<f64>,
    max_in_flight: u32,
    running_sagas: f64,
    #[schema(required)]
    store_round_trip_ms: Option<f64>,
}

/// An alert that fires.
#[derive(ToSchema)]
pub(in crate::http) struct ActiveAlert {
    rule: String,
    severity: Severity,
    since: Moment,
    #[schema(required)]
    value: Option<f64>,
    summary: String,
}

/// What a person at night, or a program, should know of the service.
#[derive(ToSchema)]
pub(in crate::http) struct Report {
    timestamp: Moment,
    instance_id: String,
    #[schema(required)]
    instance_name: Option<String>,
    overall_status: HealthStatus,
    /// Seconds since this instance was opened.
    system_uptime: f64,
    leader_status: LeaderStatus,
    performance_summary: PerformanceSummary,
    system_load: SystemLoad,
    /// What is wrong.
    health_issues: Vec<String>,
    /// What breaks no promise now.
    warnings: Vec<String>,
    checks: Vec<HealthCheck>,
    /// How the important series move.
    trends: Vec<Trend>,
    /// What is usual at this hour of the week, by path.
    baselines: BTreeMap<String, Baseline>,
    active_alerts: Vec<ActiveAlert>,
    /// What to do, the most urgent first.
    next_steps: Vec<String>,
    /// What could not be found out, and why.
    notes: Vec<String>,
}
