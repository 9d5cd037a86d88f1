//! Alert rules: what is asked of a metric, checked once.
//!
//! Here stands what a rule means and which rules cannot be meant. It refuses to know how a rule is
//! stored, and when it is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Severity;
use crate::error::{Error, Result};
use crate::metrics::{self, Part, Series, Type};
use crate::name::check_name;

/// The longest window: a week.
pub const MAX_WINDOW_MINUTES: u32 = 10_080;
/// The longest time that a rule may ask to wait: a week. What waits longer is no alert.
pub const MAX_WAIT_SECONDS: u32 = 7 * 86_400;
/// The most rules that can be put, so that judging them all stays a matter of milliseconds.
pub const MAX_RULES: usize = 200;
/// The most labels of a rule, and the longest text of a label, a description or a runbook.
const MAX_LABELS: usize = 16;
const MAX_TEXT: usize = 1_024;

/// How a value is held against the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // each says itself
pub enum Operator {
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

impl Operator {
    /// Whether it holds.
    #[allow(clippy::float_cmp)] // what is asked for
    pub fn holds(self, value: f64, threshold: f64) -> bool {
        match self {
            Operator::Above => value > threshold,
            Operator::AtLeast => value >= threshold,
            Operator::Below => value < threshold,
            Operator::AtMost => value <= threshold,
            Operator::Equal => value == threshold,
            Operator::Unequal => value != threshold,
        }
    }

    /// As it is written.
    pub fn sign(self) -> &'static str {
        match self {
            Operator::Above => ">",
            Operator::AtLeast => ">=",
            Operator::Below => "<",
            Operator::AtMost => "<=",
            Operator::Equal => "==",
            Operator::Unequal => "!=",
        }
    }
}

/// What a window over a metric comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// How much a counter grew, or how many observations a histogram got. Counters' default.
    Increase,
    /// That per second.
    Rate,
    /// Of a gauge over time, of a histogram over its observations.
    Avg,
    /// The highest that a gauge was.
    Max,
    /// The lowest that a gauge was.
    Min,
    /// Where a gauge stands now. Gauges' default.
    Last,
    /// The value that a share of a histogram's observations stays below. Histograms' default.
    Quantile,
}

impl Aggregation {
    fn usual(series: &Series) -> Self {
        match (series.kind, series.part) {
            (Type::Counter, _) | (Type::Histogram, Part::Count) => Aggregation::Increase,
            (Type::Gauge, _) => Aggregation::Last,
            (Type::Histogram, Part::Whole | Part::Sum | Part::Quantile(_)) => Aggregation::Quantile,
        }
    }

    fn fits(self, kind: Type) -> bool {
        match self {
            Aggregation::Increase | Aggregation::Rate => kind != Type::Gauge,
            Aggregation::Avg => kind != Type::Counter,
            Aggregation::Max | Aggregation::Min | Aggregation::Last => kind == Type::Gauge,
            Aggregation::Quantile => kind == Type::Histogram,
        }
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Aggregation::Increase => "increase",
            Aggregation::Rate => "rate",
            Aggregation::Avg => "avg",
            Aggregation::Max => "max",
            Aggregation::Min => "min",
            Aggregation::Last => "last",
            Aggregation::Quantile => "quantile",
        }
    }
}

/// What becomes of an alert while nothing is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnNoData {
    /// Nothing begins and nothing ends: what fires goes on, what was pending begins anew.
    #[default]
    Ignore,
    /// As if the condition held.
    Fire,
    /// As if it did not hold.
    Resolve,
    /// Everything stays as it is, and no time is counted.
    Keep,
}

/// Whose rule it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It came with LockBay.
    BuiltIn,
    /// Somebody put it.
    #[default]
    Put,
}

/// What a value is divided by before it is held against the threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DivideBy {
    /// A metric of the same type, over the same window.
    pub metric_path: String,
    /// If it comes to less than this over the window, or to nothing, the condition does not hold:
    /// one failure of two is no rate of failures.
    #[serde(default)]
    pub minimum: f64,
}

/// An alert rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// 1 to 64 bytes.
    #[serde(default)]
    pub name: String,
    /// What is measured: a dotted path of the metrics document.
    pub metric_path: String,
    /// How its value is held against the threshold.
    pub operator: Operator,
    /// Finite.
    pub threshold: f64,
    /// Over the last so many minutes; 1 to 10,080.
    pub window_minutes: u32,
    /// How bad it is.
    pub severity: Severity,
    /// So long the condition must hold, as it was judged, before the alert fires.
    #[serde(default)]
    pub for_seconds: u32,
    /// So long it must not hold, as it was judged, before the alert resolves.
    #[serde(default)]
    pub keep_firing_for_seconds: u32,
    /// For so long after it resolved the alert does not fire again. A condition that still holds
    /// when that is over fires then.
    #[serde(default)]
    pub cooldown_minutes: u32,
    /// What the window comes to; without, what is usual for the type of the metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<Aggregation>,
    /// Which share of the observations, between 0 and 1, if the aggregation is `quantile`; 0.95.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantile: Option<f64>,
    /// What becomes of the alert while nothing is measured.
    #[serde(default)]
    pub on_no_data: OnNoData,
    /// What the value is divided by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divide_by: Option<DivideBy>,
    /// A shorter window over which the condition must hold too, so that the alert ends soon after
    /// its cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_window_minutes: Option<u32>,
    /// What is wrong if it fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where to read what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// Words about it for whoever is told; those with one `group` are told together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it is judged.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Whose it is; whatever was put is `put`.
    #[serde(default)]
    pub origin: Origin,
}

fn yes() -> bool {
    true
}

impl Rule {
    /// A rule that fires as soon as the condition holds, and resolves as soon as it does not.
    pub fn new(
        name: impl Into<String>,
        metric_path: impl Into<String>,
        (operator, threshold): (Operator, f64),
        window_minutes: u32,
        severity: Severity,
    ) -> Self {
        Rule {
            name: name.into(),
            metric_path: metric_path.into(),
            operator,
            threshold,
            window_minutes,
            severity,
            for_seconds: 0,
            keep_firing_for_seconds: 0,
            cooldown_minutes: 0,
            aggregation: None,
            quantile: None,
            on_no_data: OnNoData::default(),
            divide_by: None,
            confirm_window_minutes: None,
            description: None,
            runbook: None,
            labels: BTreeMap::new(),
            enabled: true,
            origin: Origin::Put,
        }
    }

    /// Refuses what cannot be meant.
    ///
    /// # Errors
    /// `Invalid`, with the field and its value.
    pub fn check(&self) -> Result<()> {
        check_name("rule name", &self.name, 64)?;
        let series = series("metric_path", &self.metric_path)?;
        let aggregation = self.aggregation_of(&series);
        check_aggregation(aggregation, &series)?;
        self.check_quantile(aggregation)?;
        if !self.threshold.is_finite() {
            return Err(Error::invalid(format!(
                "threshold is a finite number, not {}",
                self.threshold
            )));
        }
        let window = self.window_minutes;
        if !(1..=MAX_WINDOW_MINUTES).contains(&window) {
            return Err(Error::invalid(format!(
                "window_minutes lies between 1 and {MAX_WINDOW_MINUTES}, not {window}"
            )));
        }
        if let Some(confirm) = self.confirm_window_minutes.filter(|c| *c == 0 || *c >= window) {
            return Err(Error::invalid(format!(
                "confirm_window_minutes is at least 1 and less than window_minutes, not {confirm}"
            )));
        }
        self.check_divisor(&series, aggregation)?;
        for (what, wait) in [
            ("for_seconds", self.for_seconds),
            ("keep_firing_for_seconds", self.keep_firing_for_seconds),
            ("cooldown_minutes", self.cooldown_minutes.saturating_mul(60)),
        ] {
            if wait > MAX_WAIT_SECONDS {
                return Err(Error::invalid(format!("{what} is a week at most, not {wait} s")));
            }
        }
        self.check_texts()
    }

    fn check_quantile(&self, aggregation: Aggregation) -> Result<()> {
        match self.quantile {
            None => Ok(()),
            Some(share) if aggregation != Aggregation::Quantile => Err(Error::invalid(format!(
                "quantile goes with the aggregation quantile, not with {}: {share}",
                aggregation.name()
            ))),
            Some(share) if share > 0.0 && share < 1.0 => Ok(()),
            Some(share) => Err(Error::invalid(format!(
                "quantile lies between 0 and 1, such as 0.95, not {share}"
            ))),
        }
    }

    fn check_divisor(&self, of: &Series, aggregation: Aggregation) -> Result<()> {
        let Some(by) = &self.divide_by else { return Ok(()) };
        let divisor = series("divide_by.metric_path", &by.metric_path)?;
        if divisor.kind != of.kind || aggregation == Aggregation::Quantile {
            return Err(Error::invalid(format!(
                "divide_by takes two counters, two gauges, or two numbers of observations; {} is \
                 not of the type of {}",
                by.metric_path, self.metric_path
            )));
        }
        if by.minimum.is_finite() && by.minimum >= 0.0 {
            return Ok(());
        }
        Err(Error::invalid(format!("divide_by.minimum is zero or more, not {}", by.minimum)))
    }

    fn check_texts(&self) -> Result<()> {
        if self.labels.len() > MAX_LABELS {
            let many = self.labels.len();
            return Err(Error::invalid(format!(
                "a rule has {MAX_LABELS} labels at most, not {many}"
            )));
        }
        for (name, value) in &self.labels {
            check_name("label", name, 64)?;
            check_name("label's value", value, MAX_TEXT)?;
        }
        for (what, text) in [("description", &self.description), ("runbook", &self.runbook)] {
            if let Some(text) = text {
                check_name(what, text, MAX_TEXT)?;
            }
        }
        Ok(())
    }

    /// What its window comes to.
    pub fn aggregation(&self) -> Option<Aggregation> {
        Some(self.aggregation_of(&metrics::find(&self.metric_path)?))
    }

    fn aggregation_of(&self, series: &Series) -> Aggregation {
        self.aggregation.unwrap_or_else(|| Aggregation::usual(series))
    }

    /// The share of observations that a quantile is about.
    pub(super) fn share(&self, series: &Series) -> f64 {
        let part = match series.part {
            Part::Quantile(share) => share,
            Part::Whole | Part::Count | Part::Sum => 0.95,
        };
        self.quantile.unwrap_or(part)
    }

    pub(super) fn window(&self) -> Duration {
        minutes(self.window_minutes)
    }

    pub(super) fn confirm_window(&self) -> Option<Duration> {
        self.confirm_window_minutes.map(minutes)
    }

    /// The paths that have to be read to judge it.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        let divisor = self.divide_by.as_ref().map(|by| by.metric_path.as_str());
        std::iter::once(self.metric_path.as_str()).chain(divisor)
    }

    /// What it is that is judged, so that a pending alert of another condition begins anew.
    pub(super) fn condition(&self) -> String {
        let by = self.divide_by.as_ref().map(|by| (&by.metric_path, by.minimum.to_bits()));
        format!(
            "{} {:?} {:?} {} {} {} {:?} {by:?}",
            self.metric_path,
            self.aggregation,
            self.quantile,
            self.operator.sign(),
            self.threshold,
            self.window_minutes,
            self.confirm_window_minutes,
        )
    }

    /// In words, what is the matter with this value.
    pub fn summary(&self, value: Option<f64>) -> String {
        let what = self.description.as_deref().unwrap_or(&self.metric_path);
        let Some(value) = value else { return format!("{what}: {}", self.unmeasured()) };
        let how = self.aggregation().map_or("value", Aggregation::name);
        let by = self.divide_by.as_ref().map(|by| format!(" / {}", by.metric_path));
        let (path, window, by) = (&self.metric_path, self.window_minutes, by.unwrap_or_default());
        let (sign, threshold) = (self.operator.sign(), self.threshold);
        let value = shown(value);
        format!(
            "{what}: {how} of {path}{by} over {window} min is {value}, alert if {sign} {threshold}"
        )
    }

    /// In words, why there is no value.
    fn unmeasured(&self) -> String {
        match &self.divide_by {
            Some(by) if by.minimum > 0.0 => format!(
                "nothing is measured, or less than {} of {} in {} min",
                by.minimum, by.metric_path, self.window_minutes,
            ),
            _ => "nothing is measured".into(),
        }
    }
}

/// A number for people: four digits behind the point, unless it is small or huge.
fn shown(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    if (1e-3..1e15).contains(&value.abs()) { format!("{value:.4}") } else { format!("{value:e}") }
}

fn minutes(minutes: u32) -> Duration {
    Duration::from_secs(u64::from(minutes) * 60)
}

fn series(what: &str, path: &str) -> Result<Series> {
    let found = metrics::find(path).ok_or_else(|| {
        let alike = metrics::alike(path);
        let near = if alike.is_empty() {
            "see GET /api/advanced-state/metrics".to_owned()
        } else {
            format!("alike are {}", alike.join(", "))
        };
        let mut path = path.to_owned();
        path.truncate(path.floor_char_boundary(128));
        Error::invalid(format!("{what} names no metric: {path:?}; {near}"))
    })?;
    if found.part == Part::Sum {
        let path = found.path;
        return Err(Error::invalid(format!(
            "{what}: the sum of a histogram is not judged; use {path} with aggregation avg"
        )));
    }
    Ok(found)
}

fn check_aggregation(aggregation: Aggregation, series: &Series) -> Result<()> {
    if aggregation.fits(series.kind) {
        return Ok(());
    }
    let (kind, fitting) = match series.kind {
        Type::Counter => ("a counter", "increase or rate, as its total never falls"),
        Type::Gauge => ("a gauge", "last, avg, max or min"),
        Type::Histogram => ("a histogram", "quantile, avg, increase or rate"),
    };
    let (path, name) = (series.path, aggregation.name());
    Err(Error::invalid(format!("{path} is {kind}: its aggregation is {fitting}, not {name}")))
}
