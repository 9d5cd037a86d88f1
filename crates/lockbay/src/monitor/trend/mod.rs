//! Trends: does it get better or worse, since when, how sure is that, and how long will it last.
//!
//! [`judge`] is a pure function over points. It looks at a window, with the weekly season taken out
//! where the history before it shows one, and asks two questions: is there a drift (Mann-Kendall
//! and Theil-Sen, [`slope`]), and did the level change at one moment and stay ([`change`]). What
//! describes the window better decides. A change counts only if chance makes one like it in less
//! than one series of a hundred, and if it is large enough to matter. What is usual at this hour of
//! the week ([`season`]) is told beside it and alarms nobody.
//!
//! It knows no store and no metric; [`watch`] says what is looked at, and `ask` fetches it.

mod ask;
mod change;
mod limit;
mod noise;
mod sample;
mod season;
mod slope;
mod watch;

use serde::Serialize;

use crate::clock::Timestamp;

use self::change::Level;
use self::noise::Noise;
use self::sample::{Series, count, deviation};
use self::season::Season;
use self::slope::Line;

pub(crate) use self::ask::check_hours;
pub use self::ask::{DEFAULT_HOURS, MAX_HOURS, Named, Trends};
pub use self::limit::TimeToLimit;
pub use self::sample::{MAX_POINTS, Point};
pub use self::season::Baseline;

/// Fewer points than these tell nothing.
pub const MIN_POINTS: usize = 30;
/// A drift is one if chance is less probable than this.
pub const SIGNIFICANT: f64 = 0.001;
/// A change smaller than this part of the level before it does not matter.
const MATTERS: f64 = 0.05;
/// Nor does one smaller than this part of the noise.
const VISIBLE: f64 = 0.5;
/// How much of the window must be covered by points.
const COVERED: f64 = 0.5;

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goodness {
    /// Such as a duration.
    LowerIsBetter,
    /// Such as a throughput.
    HigherIsBetter,
    /// Such as how much is asked for: it moves, and that is neither good nor bad.
    Neither,
}

/// What becomes of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// It moves the good way.
    Improving,
    /// It does not move, or not by much, or neither way is good.
    Stable,
    /// It moves the bad way.
    Degrading,
    /// There is not enough to tell.
    InsufficientData,
}

/// Which way it moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Up.
    Rising,
    /// Neither.
    Level,
    /// Down.
    Falling,
}

/// What is asked of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Question {
    /// Points from here on are judged; those before it tell what is usual.
    pub from: Timestamp,
    /// The end of the window.
    pub to: Timestamp,
    /// Which way is good.
    pub goodness: Goodness,
    /// A value that must not be reached.
    pub limit: Option<f64>,
    /// A change smaller than this does not matter, in the unit of the values.
    pub floor: f64,
}

/// A moment at which the level changed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ChangePoint {
    /// The first moment of the new level.
    pub at: Timestamp,
    /// The level before.
    pub before: f64,
    /// The level since.
    pub after: f64,
    /// By how much it went up, or down below zero.
    pub size: f64,
}

/// What became of a series, with the numbers behind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trend {
    /// In one word.
    pub label: Label,
    /// Which way it moves, whether that is good or not.
    pub direction: Direction,
    /// Points in the window.
    pub observed: usize,
    /// Points that were judged, after neighbours were joined.
    pub n: usize,
    /// Where it stands at the end of the window.
    pub level: f64,
    /// By how much it changed over the window, if that is more than chance; else zero.
    pub change: f64,
    /// The median slope, per hour.
    pub slope_per_hour: f64,
    /// The interval in which that lies with 95 %.
    pub slope_low: f64,
    /// Its upper end.
    pub slope_high: f64,
    /// How probable a drift like this is by chance alone.
    pub p_value: f64,
    /// How much neighbours resemble each other, 0 to 1.
    pub persistence: f64,
    /// The deviation of single values from the trend.
    pub noise: f64,
    /// Whether a weekly season was taken out before.
    pub deseasonalized: bool,
    /// When the level changed, if that describes the window better than a drift.
    pub change_points: Vec<ChangePoint>,
    /// What is usual at this hour of the week; none with less than two weeks of history.
    pub baseline: Option<Baseline>,
    /// When the limit is reached, if there is one and a drift leads there.
    pub time_to_limit: Option<TimeToLimit>,
}

/// Judges points in the order of time.
pub fn judge(points: &[Point], question: &Question) -> Trend {
    let window = points.partition_point(|(at, _)| *at < question.from);
    let end = points.partition_point(|(at, _)| *at <= question.to);
    let (before, seen) = (&points[..window.min(end)], &points[window.min(end)..end]);
    let season = Season::of(before).or_else(|| Season::of(seen));
    let season = season.filter(|season| season.is_seasonal);
    let flat = season.as_ref().map(|season| season.removed_from(seen));
    let series = Series::of(flat.as_deref().unwrap_or(seen));
    let mut trend = Trend {
        baseline: baseline(before, seen),
        deseasonalized: season.is_some(),
        observed: seen.len(),
        n: series.len(),
        ..Trend::unknown()
    };
    let wanted = question.to.since(question.from).as_secs_f64() / 3_600.0 * COVERED;
    if series.len() < MIN_POINTS || series.span() < wanted {
        return trend;
    }
    describe(&series, question, &mut trend);
    trend
}

/// Fills in what the points tell.
fn describe(series: &Series, question: &Question, trend: &mut Trend) {
    let scores = sample::normal_scores(&series.values);
    let noise = Noise::of(&scores);
    let levels = change::levels(series, &scores, &noise);
    let (line, noise) = slope::line(series, &noise);
    let around_line = around_line(series, &line);
    let stepped = levels.len() > 1 && is_stepped(series, &levels, around_line);
    let drifts = line.p < SIGNIFICANT;
    let (first, last) = (levels[0], levels[levels.len() - 1]);
    trend.noise =
        if stepped { change::left_around(series, &levels) } else { around_line.deviation };
    let (level, change) = match (stepped || !drifts, levels.len()) {
        (true, _) => (last.value, last.value - first.value),
        (false, _) => (line.start + line.slope * series.span(), line.slope * series.span()),
    };
    let matters = (first.value.abs() * MATTERS).max(trend.noise * VISIBLE).max(question.floor);
    let change = if change.abs() >= matters { change } else { 0.0 };
    trend.level = level;
    trend.change = change;
    trend.direction = direction(change);
    trend.label = label(trend.direction, question.goodness);
    trend.slope_per_hour = line.slope;
    (trend.slope_low, trend.slope_high) = (line.low, line.high);
    trend.p_value = line.p;
    trend.persistence = noise.persistence;
    if stepped || !drifts {
        trend.change_points = change_points(series, &levels);
    } else if let Some(limit) = question.limit
        && trend.label != Label::Stable
    {
        trend.time_to_limit = limit::time_to(limit, level, &line);
    }
}

/// What a straight line leaves.
#[derive(Clone, Copy)]
struct Rest {
    /// The mean of the absolute values.
    mean: f64,
    deviation: f64,
}

fn around_line(series: &Series, line: &Line) -> Rest {
    let rest: Vec<f64> = series
        .hours
        .iter()
        .zip(&series.values)
        .map(|(hour, value)| value - line.start - line.slope * hour)
        .collect();
    let mean = rest.iter().map(|rest| rest.abs()).sum::<f64>() / count(rest.len());
    Rest { mean, deviation: deviation(&rest, 0.0) }
}

/// Whether levels describe a series better than a line does: by what each leaves, with a price for
/// what each needs to be told (Schwarz 1978, for double exponential noise).
fn is_stepped(series: &Series, levels: &[Level], line: Rest) -> bool {
    let n = count(series.len());
    let rest = levels.iter().flat_map(|level| {
        series.values[level.begin..level.end].iter().map(|value| (value - level.value).abs())
    });
    let mean = rest.sum::<f64>() / n;
    let price = |mean: f64, told: f64| 2.0 * n * mean.max(f64::MIN_POSITIVE).ln() + told * n.ln();
    price(mean, 2.0 * count(levels.len()) - 1.0) < price(line.mean, 2.0)
}

fn change_points(series: &Series, levels: &[Level]) -> Vec<ChangePoint> {
    levels
        .windows(2)
        .map(|pair| ChangePoint {
            at: series.time(pair[1].begin),
            before: pair[0].value,
            after: pair[1].value,
            size: pair[1].value - pair[0].value,
        })
        .collect()
}

fn direction(change: f64) -> Direction {
    if change > 0.0 {
        Direction::Rising
    } else if change < 0.0 {
        Direction::Falling
    } else {
        Direction::Level
    }
}

fn label(direction: Direction, goodness: Goodness) -> Label {
    match (direction, goodness) {
        (Direction::Level, _) | (_, Goodness::Neither) => Label::Stable,
        (Direction::Rising, Goodness::HigherIsBetter)
        | (Direction::Falling, Goodness::LowerIsBetter) => Label::Improving,
        (Direction::Rising, Goodness::LowerIsBetter)
        | (Direction::Falling, Goodness::HigherIsBetter) => Label::Degrading,
    }
}

/// The last hour beside what was usual then in the weeks before the last day. What is usual is known
/// by the hour, and a piece of a minute wavers far more than an hour does.
fn baseline(before: &[Point], seen: &[Point]) -> Option<Baseline> {
    const HOUR: std::time::Duration = std::time::Duration::from_secs(3_600);
    let (last, _) = *seen.last()?;
    let all: Vec<Point> =
        before.iter().chain(seen).copied().filter(|(at, _)| *at + HOUR * 24 <= last).collect();
    let hour = &seen[seen.partition_point(|(at, _)| *at + HOUR <= last)..];
    let middle = last - last.since(hour[0].0) / 2;
    let value = hour.iter().map(|(_, value)| value).sum::<f64>() / count(hour.len());
    Some(Season::of(&all)?.compare((middle, value)))
}

impl Trend {
    /// Of too little.
    fn unknown() -> Trend {
        Trend {
            label: Label::InsufficientData,
            direction: Direction::Level,
            observed: 0,
            n: 0,
            level: 0.0,
            change: 0.0,
            slope_per_hour: 0.0,
            slope_low: 0.0,
            slope_high: 0.0,
            p_value: 1.0,
            persistence: 0.0,
            noise: 0.0,
            deseasonalized: false,
            change_points: Vec::new(),
            baseline: None,
            time_to_limit: None,
        }
    }
}

impl Label {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Label::Improving => "improving",
            Label::Stable => "stable",
            Label::Degrading => "degrading",
            Label::InsufficientData => "insufficient_data",
        }
    }
}
