//! Rules on how fast an error budget burns.
//!
//! An objective such as *99 % of sagas succeed over 30 days* leaves a budget of failures. The burn
//! rate is how many times faster than evenly it is used up. Each rule asks that over a long window,
//! so that a blip does not fire it, and over a short one, so that it resolves soon after the cause
//! is gone. Windows and factors are those of *The Site Reliability Workbook*, chapter 5, *Alerting
//! on SLOs*, its table of recommended parameters: 2 % of the budget in an hour, 5 % in six hours,
//! 10 % in three days.

use super::Severity;
use super::builtin::rule;
use super::rule::{DivideBy, Operator, Rule};

/// What is to succeed, and how often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Objective {
    /// The first part of the names of its rules.
    pub(super) name: &'static str,
    pub(super) part: &'static str,
    /// The counter of what failed, and of what was begun.
    pub(super) failed: &'static str,
    pub(super) begun: &'static str,
    /// The share that may fail.
    pub(super) budget: f64,
    /// If fewer were begun over the long window, nothing is concluded.
    pub(super) minimum: f64,
}

/// One failure in a hundred. Failures include those that the business wants, such as too little
/// money in a wallet, so that a stricter objective would page for what nobody can mend; whoever has
/// none of these puts stricter rules of the same names.
pub(super) const OBJECTIVES: [Objective; 2] = [
    Objective {
        name: "saga_success",
        part: "sagas",
        failed: "saga_metrics.sagas_failed",
        begun: "saga_metrics.sagas_started",
        budget: 0.01,
        minimum: 20.0,
    },
    Objective {
        name: "job_success",
        part: "jobs",
        failed: "job_idempotency_metrics.jobs_failed",
        begun: "job_idempotency_metrics.jobs_claimed",
        budget: 0.01,
        minimum: 20.0,
    },
];

/// How fast, the long and the short window in minutes, and how bad that is.
const SPEEDS: [(&str, f64, u32, u32, Severity); 3] = [
    ("fast", 14.4, 60, 5, Severity::Critical),
    ("medium", 6.0, 360, 30, Severity::Error),
    ("slow", 1.0, 3 * 1_440, 360, Severity::Warning),
];

/// The rules of an objective.
pub(super) fn rules(objective: &Objective) -> Vec<Rule> {
    let of = |&(speed, factor, long, short, severity): &(&str, f64, u32, u32, Severity)| {
        let name = format!("{}_burn_{speed}", objective.name);
        let description =
            format!("{} use up their error budget {factor} times too fast", objective.part);
        // As a person would write it, and not as 0.14400000000000002.
        let threshold = (factor * objective.budget * 1e6).round() / 1e6;
        let condition = (Operator::Above, threshold);
        let by = DivideBy { metric_path: objective.begun.into(), minimum: objective.minimum };
        Rule {
            divide_by: Some(by),
            confirm_window_minutes: Some(short),
            ..rule(
                &name,
                objective.failed,
                condition,
                long,
                (severity, objective.part),
                &description,
            )
        }
    };
    SPEEDS.iter().map(of).collect()
}
